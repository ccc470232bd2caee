"""Tables beyond accuracy: how responses end, their language, wrong answers by kind, scores without broken rows."""

from __future__ import annotations

import pandas as pd

from qalign_core.paper_tables import BENCHMARKS
from qalign_core.response_kinds import KINDS, RATES
from qalign_core.tables import Table, from_frame

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


def responses_table(rates: pd.DataFrame, *, caption: str = "") -> Table:
    """How responses end and which language they are in: a row a system and benchmark, in percent.

    Args:
        rates: rows of `response_kinds.rates`; languages and seeds are averaged.
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
    chosen, rows = cleaned[cleaned["scorer"] == scorer], []
    for (system, benchmark), part in chosen.groupby(["system", "benchmark"], sort=False):
        by_language = part.groupby("language", sort=False)[["accuracy", "cleaned"]].mean()  # over seeds
        average, others = by_language.mean(), by_language.drop(index="en", errors="ignore").mean()
        row = {"System": system, "benchmark": _named(benchmark)}
        row |= {"Avg.": average["accuracy"], "Avg., cleaned": average["cleaned"]}
        rows.append(row | {"non-en": others["accuracy"], "non-en, cleaned": others["cleaned"]})
    removed = cleaned.drop_duplicates(["benchmark", "language"]).query("removed > 0")
    listed = ", ".join(f"{code} {count}" for code, count in zip(removed["language"], removed["removed"], strict=True))
    words = (
        "Cleaned: without the questions whose translation is the English text itself, has lost every number or repeats "
        f"itself ({listed}); each language leaves out its own."
    )
    title = "Averages without broken questions (%)"
    return from_frame(pd.DataFrame(rows), name="table-cleaned", title=title, caption=f"{caption} {words}".strip())
