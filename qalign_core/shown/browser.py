"""The answers of a run to look through in JupyterLab: by question, or by pair of systems; a few of them elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from qalign_core.languages import LANGUAGES
from qalign_core.scores.answer_sheet import AnswerSheet, named
from qalign_core.scores.response_kinds import KINDS
from qalign_core.shown import pair_views
from qalign_core.shown.answer_views import question_block, questions_view, styled_block
from qalign_core.shown.live import Explorer

EVERY = "all questions"
ANY_ANSWER = "any"


class QuestionBrowser(Explorer):
    """Every question with all its answers; without a kernel, a few telling ones.

    Args:
        sheet: the answers of one seed.
        pairs: systems to be set against each other.
    """

    def __init__(self, sheet: AnswerSheet, pairs: Sequence[Sequence[str]] = ()) -> None:
        super().__init__()
        self.sheet, self.pairs = sheet, pairs
        self._patterns: dict[str, dict[str, list[int]]] = {}

    def __repr__(self) -> str:
        return f"QuestionBrowser of {len(self.sheet.systems)} systems: {', '.join(self.sheet.benchmarks())}"

    def static(self) -> str:
        return questions_view(self.sheet, self.pairs)

    def patterns(self, benchmark: str) -> dict[str, list[int]]:
        """The benchmark's questions by who got them right, gone through once."""
        if benchmark not in self._patterns:
            self._patterns[benchmark] = self.sheet.patterns(benchmark, self.pairs)
        return self._patterns[benchmark]

    def matching(self, benchmark: str, pattern: str = EVERY, kind: str = ANY_ANSWER) -> list[int]:
        """The questions of a benchmark that show a pattern and got a wrong answer of a kind."""
        indexes = self.sheet.indexes(benchmark) if pattern == EVERY else self.patterns(benchmark).get(pattern, [])
        return [i for i in indexes if kind == ANY_ANSWER or kind in self.sheet.kinds(benchmark, i)]

    def _make_controls(self) -> Any:
        from ipywidgets import HTML, Dropdown, HBox, Layout, VBox

        benchmarks = self.sheet.benchmarks()
        benchmark = Dropdown(options=[(named(name), name) for name in benchmarks], description="benchmark")
        pattern = Dropdown(options=[EVERY], description="show", layout=Layout(width="28em"))
        whole = {"description_width": "initial"}
        kind = Dropdown(options=[ANY_ANSWER, *KINDS], description="wrong answer", style=whole)
        question = Dropdown(options=[], description="question")
        shown = HTML()

        def show(_: Any = None) -> None:
            index = question.value
            block = question_block(self.sheet, benchmark.value, index) if index is not None else "No such question."
            shown.value = styled_block(block)

        def choose(_: Any = None) -> None:
            found = self.matching(benchmark.value, pattern.value, kind.value)
            question.options = [(f"{index} ({place} of {len(found)})", index) for place, index in enumerate(found, 1)]
            question.index = 0 if found else None  # after an empty list nothing would be chosen
            show()

        def offer(_: Any = None) -> None:
            pattern.options = [EVERY, *self.patterns(benchmark.value)]
            choose()

        benchmark.observe(offer, "value")
        pattern.observe(choose, "value")
        kind.observe(choose, "value")
        question.observe(show, "value")
        offer()
        wrap = Layout(flex_flow="row wrap")
        return VBox([HBox([benchmark, pattern, kind, question], layout=wrap), shown])


class PairBrowser(Explorer):
    """Any two systems on the same questions: wins, losses and ties by language, and the questions behind each number.

    Args:
        sheet: the answers of one seed.
        pairs: those to show without a kernel, where both were run; the first of them is the menus' first choice.
    """

    def __init__(self, sheet: AnswerSheet, pairs: Sequence[Sequence[str]] = ()) -> None:
        super().__init__()
        self.sheet = sheet
        known = [(a, b) for a, b in pairs if a in sheet.systems and b in sheet.systems]
        self.pairs = known or ([(sheet.systems[0], sheet.systems[1])] if len(sheet.systems) > 1 else [])

    def __repr__(self) -> str:
        return f"PairBrowser of {len(self.sheet.systems)} systems: {', '.join(self.sheet.benchmarks())}"

    def static(self) -> str:
        return pair_views.pairs_view(self.sheet, self.pairs)

    def _make_controls(self) -> Any:
        from ipywidgets import HTML, Dropdown, HBox, Layout, VBox

        if not self.pairs:
            return HTML(self.static())
        sheet, (a, b) = self.sheet, self.pairs[0]
        names = [(named(name), name) for name in sheet.benchmarks()]
        spoken = [(f"{LANGUAGES[code].native_name} ({code})", code) for code in sheet.languages]
        benchmark = Dropdown(options=names, description="benchmark")
        first = Dropdown(options=list(sheet.systems), value=a, description="first")
        second = Dropdown(options=list(sheet.systems), value=b, description="second")
        language = Dropdown(options=spoken, description="language")
        right = Dropdown(options=list(pair_views.OUTCOMES), description="right")
        question = Dropdown(options=[], description="question")
        counts, shown = HTML(), HTML()
        found: dict[str, dict[str, list[int]]] = {}

        def show(_: Any = None) -> None:
            index, chosen = question.value, (benchmark.value, language.value)
            block = pair_views.example(sheet, *chosen, index, first.value, second.value) if index is not None else ""
            shown.value = styled_block(block or "No such question.")

        def choose(_: Any = None) -> None:
            indexes = found[language.value][right.value]
            question.options = [(f"{index} ({n} of {len(indexes)})", index) for n, index in enumerate(indexes, 1)]
            question.index = 0 if indexes else None
            show()

        def compare(_: Any = None) -> None:
            found.update(pair_views.outcomes(sheet, benchmark.value, first.value, second.value))
            counts.value = styled_block(pair_views.counts_table(found, first.value, second.value))
            choose()

        for menu, change in ((benchmark, compare), (first, compare), (second, compare), (language, choose)):
            menu.observe(change, "value")
        right.observe(choose, "value")
        question.observe(show, "value")
        compare()
        wrap = Layout(flex_flow="row wrap")
        return VBox([HBox([benchmark, first, second], layout=wrap), counts,
                     HBox([language, right, question], layout=wrap), shown])  # fmt: skip
