"""Tables beyond accuracy: how responses end, their language, wrong answers by kind, scores without broken rows."""

from __future__ import annotations

from typing import Any

import pandas as pd

from qalign_core.scores.response_kinds import KINDS, RATES
from qalign_core.shown.paper_tables import BENCHMARKS
from qalign_core.shown.tables import Table, from_frame

_HEADINGS = {
    "system": "System",
    "cut": "cut off",
    "without_number": "no number",
    "english": "in English",
    "own": "in the question's",
    "other": "in another",
    "undetermined": "cannot tell",
}
_OF_LANGUAGE = ("english", "own", "other", "undetermined")


def _named(benchmark: str) -> str:
    return BENCHMARKS.get(benchmark, ("", benchmark))[1]


def responses_table(rates: pd.DataFrame, identified: pd.DataFrame | None = None, *, caption: str = "") -> Table:
    """How responses end and which language they are in: a row a system and benchmark, in percent.

    Args:
        rates: rows of `response_kinds.rates`; languages and seeds are averaged.
        identified: rows of `response_kinds.identified`, to say how far the language columns can be trusted.
        caption: from `report.caption`.
    """
    rows = []
    for (system, benchmark), part in rates.groupby(["system", "benchmark"], sort=False):
        elsewhere = part[part["language"] != "en"]
        values = {name: (elsewhere if name in _OF_LANGUAGE else part)[name].mean() for name in RATES}
        rows.append({"system": system, "benchmark": _named(benchmark), **values})
    words = (
        "Cut off: at the token limit; blank where it is not known how responses ended. The language columns are of the "
        "questions that are not in English; cannot tell: numbers and names only."
    )
    if identified is not None and len(identified):
        share = 100.0 * identified["right"].sum() / identified["questions"].sum()
        worst = (identified["right"] / identified["questions"]).groupby(identified["language"]).mean()
        words += (
            f" The language is found by script and function words, which are right for {share:.1f}% of this run's own "
            f"{identified['questions'].sum():,} questions"
        )
        words += f" (lowest: {worst.idxmin()}, {100 * worst.min():.1f}%)." if worst.min() < 1 else "."
    frame = pd.DataFrame(rows).rename(columns=_HEADINGS)
    return from_frame(frame, name="table-responses", title="Responses (%)", caption=f"{caption} {words}".strip())


def errors_table(errors: pd.DataFrame, *, caption: str = "") -> Table:
    """Wrong answers by kind: how many answers of a system are wrong, and the kinds in percent of them.

    Args:
        errors: rows of `response_kinds.errors`; languages and seeds are added up.
        caption: from `report.caption`.
    """
    rows = []
    for (system, benchmark), part in errors.groupby(["system", "benchmark"], sort=False):
        counts = part.groupby("kind")["answers"].sum()
        wrong = int(counts.sum())
        shares = {kind: 100.0 * counts[kind] / wrong if wrong else float("nan") for kind in KINDS}
        rows.append({"System": system, "benchmark": _named(benchmark), "wrong": wrong, **shares})
    words = (
        "Wrong answers and their kinds (percent of them), the first that fits from left to right. Wrong language: "
        "neither the question's nor English. Arithmetic slip: an equation in the response is false."
    )
    title = "Wrong answers by kind"
    return from_frame(pd.DataFrame(rows), name="table-errors", title=title, caption=f"{caption} {words}".strip())


def cleaned_table(cleaned: pd.DataFrame, *, scorer: str = "paper", caption: str = "") -> Table:
    """Averages as in the paper beside the same without the questions that translation broke.

    Args:
        cleaned: rows of `cleaned.cleaned_accuracy`.
        scorer: whose numbers are shown.
        caption: from `report.caption`.
    """
    removed = cleaned.drop_duplicates(["benchmark", "language"]).query("removed > 0")
    listed = ", ".join(f"{code} {count}" for code, count in zip(removed["language"], removed["removed"], strict=True))
    words = (
        "Cleaned: without the questions whose translation is the English text itself, has lost every number or repeats "
        f"itself ({listed}); each language leaves out its own."
    )
    frame = pd.DataFrame(_beside(cleaned[cleaned["scorer"] == scorer], "cleaned"))
    title = "Averages without broken questions (%)"
    return from_frame(frame, name="table-cleaned", title=title, caption=f"{caption} {words}".strip())


def corrected_table(corrected: pd.DataFrame, *, scorer: str = "paper", caption: str = "") -> Table:
    """Averages as in the paper beside the same on corrected questions and golds.

    Args:
        corrected: rows of `corrected.corrected_accuracy`.
        scorer: whose numbers are shown.
        caption: from `report.caption`.
    """
    once = corrected.drop_duplicates(["benchmark", "language"])
    listed = []
    for column, what in (("new_golds", "gold answers"), ("new_texts", "questions")):
        found = once[once[column] > 0]
        by_language = ", ".join(f"{code} {n}" for code, n in zip(found["language"], found[column], strict=True))
        listed.append(f"{int(once[column].sum())} {what}" + (f" ({by_language})" if by_language else ""))
    chosen = corrected[corrected["scorer"] == scorer]
    rows = _beside(chosen, "corrected")
    left_out = chosen.groupby(["system", "benchmark"], sort=False)["removed"].sum()
    for row, count in zip(rows, left_out, strict=True):
        row["left out"] = int(count)
    words = (
        f"Corrected: {' and '.join(listed)} differ from the benchmark. Questions with a new text were asked again; "
        "those of systems that cannot be asked here are left out of their row."
    )
    title = "Averages on the corrected benchmark (%)"
    return from_frame(pd.DataFrame(rows), name="table-corrected", title=title, caption=f"{caption} {words}".strip())


def _beside(chosen: pd.DataFrame, column: str) -> list[dict[str, Any]]:
    """Averages over languages of the paper's accuracy and of `column`, a row a system and benchmark."""
    rows = []
    for (system, benchmark), part in chosen.groupby(["system", "benchmark"], sort=False):
        by_language = part.groupby("language", sort=False)[["accuracy", column]].mean()  # over seeds
        average, others = by_language.mean(), by_language.drop(index="en", errors="ignore").mean()
        row = {"System": system, "benchmark": _named(benchmark)}
        row |= {"Avg.": average["accuracy"], f"Avg., {column}": average[column]}
        rows.append(row | {"non-en": others["accuracy"], f"non-en, {column}": others[column]})
    return rows
