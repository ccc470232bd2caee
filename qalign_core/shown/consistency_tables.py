"""Figure 3 in numbers: agreement with English, and what it is made of."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from qalign_core.languages import CODES
from qalign_core.shown.paper_tables import BENCHMARKS
from qalign_core.shown.tables import Table

# What agreement is split into: column of `consistency.consistency`, the column of its chance floor, heading.
SPLITS = (
    ("consistency", "chance", "same answer"),
    ("both_right", "both_right_chance", "both right"),
    ("right_given_english_right", "right_given_english_right_chance", "right, if English is"),
    ("same_given_both_wrong", "same_given_both_wrong_chance", "same, if both wrong"),
)


def consistency_table(
    agreement: pd.DataFrame,
    counts: pd.DataFrame,
    benchmark: str,
    *,
    differences: pd.DataFrame | None = None,
    caption: str = "",
    systems: Sequence[str] | None = None,
) -> Table:
    """Agreement with English a language, its mean, and the paired difference to the system without alignment.

    Args:
        agreement: `comparisons.intervals` of `consistency.agreement`; one row of the table a system and seed.
        counts: rows of `consistency.consistency`, for the responses without a number and (in the CSV file) chance.
        benchmark: `"mgsm"` or `"msvamp"`.
        differences: `comparisons.compare` of systems with the one without question alignment.
        caption: from `report.caption(...)`.
        systems: rows and their order.
    """
    agreement, counts = (rows[rows["benchmark"] == benchmark] for rows in (agreement, counts))
    systems = list(dict.fromkeys(agreement["system"])) if systems is None else list(systems)
    keys = ["system", "seed"]
    wide = agreement.pivot(index=keys, columns="measure", values=["estimate", "low", "high"]).loc[systems]
    codes = [code for code in CODES if code in wide["estimate"]]
    data = wide["estimate"][codes].assign(**{kind: wide[kind, "non_english"] for kind in ("estimate", "low", "high")})
    data = data.rename(columns={"estimate": "mean"})
    by_run = counts.groupby(keys)
    data["chance"] = by_run["chance"].mean()
    text = data[codes].map("{:.1f}".format)
    text["Mean"] = [_bounded(*cell) for cell in data[["mean", "low", "high"]].to_numpy()]
    if differences is not None:
        chosen = (differences["benchmark"] == benchmark) & (differences["measure"] == "non_english")
        found = differences[chosen].set_index(["a", "seed"])
        for name in ("difference", "low", "high"):
            data[f"to_{name}"] = found[name].reindex(data.index)
        cells = data[["to_difference", "to_low", "to_high"]].to_numpy()
        text[f"to {differences['b'].iloc[0]}"] = [_bounded(value, low, high, "+") for value, low, high in cells]
    data["without_number"] = by_run["without_number"].sum() + by_run["english_without_number"].first()
    text["no number"] = data["without_number"].map("{:,}".format)
    index = data.index.to_frame(index=False).set_axis(["System", "seed"], axis=1).astype(str)
    index = index if index["seed"].nunique() > 1 else index[["System"]]  # the caption names a single seed
    return Table(
        name=f"table-consistency-{benchmark}",
        title=f"Same answer as in English on {BENCHMARKS[benchmark][1]} (%)",
        caption=caption,
        data=data.reset_index(),
        text=index.join(text.reset_index(drop=True)),
    )


def _bounded(value: float, low: float, high: float, sign: str = "") -> str:
    """Such as `44.0 [38.1, 50.2]`; without an interval where nothing could be resampled, blank without a value."""
    if value != value:
        return ""
    return f"{value:{sign}.1f}" if low != low else f"{value:{sign}.1f} [{low:{sign}.1f}, {high:{sign}.1f}]"


def split_table(counts: pd.DataFrame, *, caption: str = "", systems: Sequence[str] | None = None) -> Table:
    """What agreement with English is made of, each part with its chance floor: means over languages and seeds.

    Args:
        counts: rows of `consistency.consistency`. Shares among the questions both got wrong are pooled over languages,
            because in some there may be none.
        caption: from `report.caption(...)`.
        systems: rows and their order.
    """
    systems = list(dict.fromkeys(counts["system"])) if systems is None else list(systems)
    data, text = [], []
    for benchmark in dict.fromkeys(counts["benchmark"]):
        for system in systems:
            found = counts[(counts["benchmark"] == benchmark) & (counts["system"] == system)]
            row = {"system": system, "benchmark": benchmark}
            cells = {"System": system, "benchmark": BENCHMARKS[benchmark][1]}
            for name, floor, heading in SPLITS:
                weights = found["both_wrong"] if name == "same_given_both_wrong" else None
                value, chance = (_mean(found[column], weights) for column in (name, floor))
                row |= {name: value, floor: chance}
                cells[heading] = "" if value != value else f"{value:.1f} ({chance:.1f})"
            row["both_wrong"] = int(found["both_wrong"].sum())
            cells["n both wrong"] = f"{row['both_wrong']:,}"
            data.append(row)
            text.append(cells)
    title = "What agreement with English is made of (%)"
    return Table("table-consistency-split", title, caption, pd.DataFrame(data), pd.DataFrame(text))


def _mean(values: pd.Series, weights: pd.Series | None) -> float:
    """The mean of what is a number, weighted if weights are given; not a number where nothing is."""
    there = values.notna()
    weights = there.astype(float) if weights is None else weights.where(there, 0)
    return float((values.fillna(0) * weights).sum() / weights.sum()) if weights.sum() else float("nan")
