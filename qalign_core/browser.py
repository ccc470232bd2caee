"""All questions of a run to look through in JupyterLab, filtered by who got them right; a few of them elsewhere."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from qalign_core.answer_sheet import AnswerSheet, named
from qalign_core.answer_views import question_block, questions_view, styled_block
from qalign_core.plan import RUN_FOLDER
from qalign_core.response_kinds import KINDS

EVERY = "all questions"
ANY_ANSWER = "any"


class QuestionBrowser:
    """Every question with all its answers: controls of ipywidgets where there is a kernel, a static view where not.

    Args:
        sheet: the answers of one seed.
        pairs: systems to be set against each other.
    """

    def __init__(self, sheet: AnswerSheet, pairs: Sequence[Sequence[str]] = ()) -> None:
        self.sheet, self.pairs = sheet, pairs
        self._controls: Any = None

    def matching(self, benchmark: str, pattern: str = EVERY, kind: str = ANY_ANSWER) -> list[int]:
        """The questions of a benchmark that show a pattern and got a wrong answer of a kind."""
        patterns = self.sheet.patterns(benchmark, self.pairs)
        indexes = self.sheet.indexes(benchmark) if pattern == EVERY else patterns.get(pattern, [])
        return [i for i in indexes if kind == ANY_ANSWER or kind in self.sheet.kinds(benchmark, i)]

    def controls(self) -> Any:
        """The widgets, made once."""
        if self._controls is None:
            self._controls = self._make_controls()
        return self._controls

    def _make_controls(self) -> Any:
        from ipywidgets import HTML, Dropdown, HBox, Layout, VBox

        benchmarks = self.sheet.benchmarks()
        benchmark = Dropdown(options=[(named(name), name) for name in benchmarks], description="benchmark")
        pattern = Dropdown(options=[EVERY], description="show", layout=Layout(width="28em"))
        kind = Dropdown(options=[ANY_ANSWER, *KINDS], description="wrong answer")
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
            pattern.options = [EVERY, *self.sheet.patterns(benchmark.value, self.pairs)]
            choose()

        benchmark.observe(offer, "value")
        pattern.observe(choose, "value")
        kind.observe(choose, "value")
        question.observe(show, "value")
        offer()
        wrap = Layout(flex_flow="row wrap")
        return VBox([HBox([benchmark, pattern, kind, question], layout=wrap), shown])

    def _repr_mimebundle_(self, **_: Any) -> dict[str, Any]:
        static = {"text/html": questions_view(self.sheet, self.pairs), "text/plain": repr(self)}
        if RUN_FOLDER in os.environ:  # executed by `reproduce`: the page that comes of it has no kernel
            return static
        return {**static, **self.controls()._repr_mimebundle_(), "text/html": static["text/html"]}

    def __repr__(self) -> str:
        return f"QuestionBrowser of {len(self.sheet.systems)} systems: {', '.join(self.sheet.benchmarks())}"
