"""Every answer of one seed beside its question, to be looked up and sorted by who got it right."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from qalign_core import runs
from qalign_core.runs import Run
from qalign_core.shown.paper_tables import BENCHMARKS

ENGLISH_ONLY, MOST, NOWHERE, SCORERS = (
    "right in English only",
    "right most often",
    "right nowhere",
    "the two scorers differ",
)
Key = tuple[str, str, int]  # benchmark, language, index of the question


@dataclass(frozen=True)
class Answer:
    """One response and what became of it; `error` is the kind of a wrong answer (`response_kinds.KINDS`)."""

    response: str
    right: bool
    error: str | None
    language: str  # that the response is written in


@dataclass(frozen=True)
class AnswerSheet:
    """Questions in all their languages, and what every system answered.

    Attributes:
        systems: in the tables' order.
        languages: codes, in the tables' order.
        questions: text by (benchmark, language, index).
        golds: the right number, likewise.
        answers: system → the same keys → its answer.
        scorers_differ: keys of answers from which the two scorers read different numbers, of any system.
    """

    systems: tuple[str, ...]
    languages: tuple[str, ...]
    questions: Mapping[Key, str]
    golds: Mapping[Key, float]
    answers: Mapping[str, Mapping[Key, Answer]]
    scorers_differ: frozenset[Key]

    def benchmarks(self) -> list[str]:
        return list(dict.fromkeys(benchmark for benchmark, _, _ in self.questions))

    def indexes(self, benchmark: str) -> list[int]:
        return sorted({index for name, _, index in self.questions if name == benchmark})

    def right(self, benchmark: str, index: int) -> pd.DataFrame:
        """Who got a question right: systems × languages."""
        rows = {
            system: [self.answers[system][benchmark, code, index].right for code in self.languages]
            for system in self.systems
        }
        return pd.DataFrame.from_dict(rows, orient="index", columns=list(self.languages))

    def kinds(self, benchmark: str, index: int) -> set[str]:
        """The kinds of wrong answers a question got."""
        found = (self.answers[s][benchmark, code, index].error for s in self.systems for code in self.languages)
        return {kind for kind in found if kind}

    def patterns(self, benchmark: str, pairs: Sequence[Sequence[str]] = ()) -> dict[str, list[int]]:
        """Questions by who got them right, the most telling first; a pattern without a question is left out.

        Args:
            benchmark: whose questions.
            pairs: (a, b): systems to be set against each other.
        """
        grids = {index: self.right(benchmark, index) for index in self.indexes(benchmark)}
        found: dict[str, dict[int, float]] = {}
        for a, b in [*pairs, *(pair[::-1] for pair in pairs)]:
            if a in self.systems and b in self.systems:
                ahead = {i: int(grid.loc[a].sum()) - int(grid.loc[b].sum()) for i, grid in grids.items()}
                found[f"{a} ahead of {b}"] = {i: n for i, n in ahead.items() if n > 0}
        totals = {index: int(grid.to_numpy().sum()) for index, grid in grids.items()}
        english = {i: int(grid["en"].sum()) if "en" in grid else 0 for i, grid in grids.items()}
        found[MOST] = {index: total for index, total in totals.items() if total}
        found[ENGLISH_ONLY] = {i: total for i, total in totals.items() if total and total == english[i]}
        found[NOWHERE] = {index: 0 for index, total in totals.items() if not total}
        differ = [index for name, _, index in self.scorers_differ if name == benchmark]
        found[SCORERS] = {index: differ.count(index) for index in sorted(set(differ))}
        return {name: sorted(at, key=lambda i: (-at[i], i)) for name, at in found.items() if at}


def named(benchmark: str) -> str:
    """A benchmark as the tables call it."""
    return BENCHMARKS.get(benchmark, ("", benchmark))[1]


def answer_sheet(
    run: Run, given: Mapping[str, pd.DataFrame], answers: pd.DataFrame, languages: Sequence[str], mode: str = "paper"
) -> AnswerSheet:
    """Gather the answers of one seed.

    Args:
        run: for the questions.
        given: system → its predictions (`brought.read_answers`).
        answers: rows of `evaluate.score_run`, of one seed.
        languages: codes, in the tables' order.
        mode: the scorer that says what is right.
    """
    questions, found = {}, {}
    for benchmark in dict.fromkeys(answers["benchmark"]):
        for code in languages:
            for row in runs.read_json_lines(run.benchmark(benchmark, code)):
                questions[benchmark, code, row["index"]] = row["question"]
    golds = dict(zip(_keys(answers), answers["gold"], strict=True))
    for system, predictions in given.items():
        responses = dict(zip(_keys(predictions), predictions["response"], strict=True))
        mine = answers[answers["system"] == system]
        columns = (mine[f"correct_{mode}"], mine["error"], mine["response_language"])
        found[system] = {
            key: Answer(responses[key], bool(right), kind if isinstance(kind, str) else None, written)
            for key, right, kind, written in zip(_keys(mine), *columns, strict=True)
        }
    other = (answers["answer_paper"] - answers["answer_fixed"]).abs() >= 1e-3
    return AnswerSheet(tuple(given), tuple(languages), questions, golds, found, frozenset(_keys(answers[other])))


def _keys(rows: pd.DataFrame) -> list[Key]:
    return list(zip(rows["benchmark"], rows["language"], rows["index"], strict=True))
