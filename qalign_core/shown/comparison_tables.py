"""Tables that say what is chance: declared differences, language by language, and what another seed changes."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from qalign_core.languages import CODES
from qalign_core.shown.paper_tables import BENCHMARKS, HEADINGS
from qalign_core.shown.tables import Table

LEVEL = 0.05
_PAIR = ["a", "b", "benchmark", "seed"]


def p_text(p: float) -> str:
    """Such as `0.012` or `< 0.001`; blank for a p that could not be computed."""
    return "" if p != p else "< 0.001" if p < 0.001 else f"{p:.3f}"


def _named(benchmark: str) -> str:
    return BENCHMARKS.get(benchmark, ("", benchmark))[1]


def _said_once(text: pd.DataFrame, columns: Sequence[str]) -> pd.DataFrame:
    """A long table without what the row above says already, column by column from the left."""
    same = pd.Series(True, index=text.index)
    shown = text.copy()
    for column in columns:
        same &= text[column] == text[column].shift()
        shown[column] = text[column].where(~same, "")
    return shown


def comparison_table(compared: pd.DataFrame, *, caption: str = "") -> Table:
    """Declared differences with 95% intervals and p, one row a pair, benchmark, seed and measure.

    Args:
        compared: rows of `comparisons.compare`.
        caption: from `caption(...)`.
    """
    text = pd.DataFrame(
        {
            "Difference": compared["a"] + " − " + compared["b"],
            "benchmark": [_named(name) for name in compared["benchmark"]],
            "seed": compared["seed"].astype(str),
            "measure": compared["measure"].replace(HEADINGS),
            "points": [f"{value:+.1f}" for value in compared["difference"]],
            "95% interval": [
                "" if a != a else f"[{a:+.1f}, {b:+.1f}]"
                for a, b in zip(compared["low"], compared["high"], strict=True)
            ],
            "p": [p_text(p) for p in compared["p"]],
        }
    ).astype(str)
    title = "Differences between systems (points)"
    shown = _said_once(text, ["Difference", "benchmark", "seed"])
    return Table("table-comparisons", title, caption, compared.reset_index(drop=True), shown.reset_index(drop=True))


def languages_table(compared: pd.DataFrame, *, clustered: bool = False, caption: str = "") -> Table:
    """Declared differences language by language: points, in bold where the exact McNemar test still finds them after
    Holm's correction over the languages.

    Args:
        compared: rows of `comparisons.compare_languages`; one row of the table a pair, benchmark and seed.
        clustered: whether the questions come in groups of near duplicates, which the test takes for independent ones.
        caption: from `caption(...)`.
    """
    codes = [code for code in CODES if code in set(compared["language"])]
    text: list[dict[str, str]] = []
    hints: list[dict[str, str]] = []
    bold: set[tuple[int, str]] = set()
    for (a, b, benchmark, seed), rows in compared.groupby(_PAIR, sort=False):
        cells, said = {"Difference": f"{a} − {b}", "benchmark": _named(benchmark), "seed": str(seed)}, {}
        for row in rows.itertuples():
            cells[row.language] = f"{row.difference:+.1f}"
            said[row.language] = (
                f"{row.only_a} questions only {a} has right, {row.only_b} only {b}; "
                f"exact McNemar p {p_text(row.p)}, with Holm's correction {p_text(row.p_holm)}"
            )
            if row.p_holm < LEVEL:
                bold.add((len(text), row.language))
        text.append(cells)
        hints.append(said)
    words = (
        f"Bold: p under {LEVEL:g} by the exact McNemar test, with Holm's correction over the {len(codes)} languages "
        f"({len(bold)} of {len(compared)} differences); every p is in the CSV file and behind its number."
    )
    if clustered:
        words += (
            " This run's questions come in groups of near duplicates, but the test takes each for an independent one: "
            "its p are too small."
        )
    columns = ["Difference", "benchmark", "seed", *codes]
    return Table(
        name="table-languages",
        title="Differences language by language (points)",
        caption=f"{caption} {words}".strip(),
        data=compared.reset_index(drop=True),
        text=pd.DataFrame(text, columns=columns, dtype=object).fillna(""),
        bold=frozenset(bold),
        hints=pd.DataFrame(hints, columns=columns, dtype=object).fillna(""),
    )


def seeds_table(intervals: pd.DataFrame, systems: Sequence[str], *, caption: str = "") -> Table:
    """What training again changes: every seed's averages, their mean and range. Seeds are never pooled as questions.

    Args:
        intervals: rows of `comparisons.intervals`.
        systems: rows and their order.
        caption: from `caption(...)`.
    """
    seeds = sorted(intervals["seed"].unique())
    rows = []
    for system in systems:
        for benchmark in dict.fromkeys(intervals["benchmark"]):
            for measure in ("average", "non_english", "english", "gap"):
                chosen = (intervals["system"] == system) & (intervals["benchmark"] == benchmark)
                found = intervals[chosen & (intervals["measure"] == measure)].set_index("seed")["estimate"]
                if found.empty:
                    continue
                row = {"system": system, "benchmark": benchmark, "measure": measure}
                row |= {f"seed {seed}": found.get(seed, float("nan")) for seed in seeds}
                rows.append(row | {"mean": found.mean(), "low": found.min(), "high": found.max()})
    data = pd.DataFrame(rows)
    points = [f"seed {seed}" for seed in seeds]
    text = pd.DataFrame({"System": data["system"], "benchmark": data["benchmark"].map(_named)})
    text["measure"] = data["measure"].replace(HEADINGS)
    for column in (*points, "mean"):
        text[column] = ["" if value != value else f"{value:.1f}" for value in data[column]]
    text["range"] = [f"{low:.1f} to {high:.1f}" for low, high in zip(data["low"], data["high"], strict=True)]
    title = f"What training again changes: {len(seeds)} seeds (%)"
    return Table("table-seeds", title, caption, data, _said_once(text.astype(str), ["System", "benchmark"]))
