"""The paper's tables and ours as `tables.Table`: what stands in them, in which order, and which number is best.

Table numbers follow the paper.
"""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from qalign_core.scores.comparisons import mean_over_seeds
from qalign_core.shown.tables import Table, from_frame


class _Benchmarks(dict[str, tuple[str, str]]):
    """Number of the paper's table and printed name of each benchmark; somebody's own has its name and no number."""

    def __missing__(self, name: str) -> tuple[str, str]:
        return "", name


BENCHMARKS = _Benchmarks({"mgsm": ("Table 2", "mGSM"), "msvamp": ("Table 3", "mSVAMP")})  # numbers follow the paper
HEADINGS = {"system": "System", "average": "Avg.", "non_english": "non-en", "english": "en", "gap": "gap"}


def data_table(corpora: pd.DataFrame, *, caption: str = "") -> Table:
    """Table 1: one row a data set, such as `data set, languages, examples, tokens`; counts with thousands marks."""
    return from_frame(corpora.convert_dtypes(), name="table-1-data", title="Table 1. Data sets", caption=caption)


def gap_table(intervals: pd.DataFrame, *, caption: str = "", systems: Sequence[str] | None = None) -> Table:
    """The headline: English, the mean of the other languages, and the gap between them, each with its interval.

    Args:
        intervals: rows of `comparisons.intervals`; several seeds are averaged (`mean_over_seeds`).
        caption: from `caption(...)`.
        systems: rows and their order.
    """
    rows = intervals if systems is None else intervals[intervals["system"].isin(systems)]
    keys = ["system", "benchmark"]
    means = mean_over_seeds(rows, [*keys, "measure"])
    data = means.pivot(index=keys, columns="measure", values=["estimate", "low", "high"])
    order = [(system, name) for name in rows["benchmark"].unique() for system in rows["system"].unique()]
    data = data.loc[[key for key in order if key in data.index]]
    text = pd.DataFrame(data.index.to_frame(index=False))
    text["benchmark"] = [BENCHMARKS.get(name, ("", name))[1] for name in text["benchmark"]]
    for measure in ("english", "non_english", "gap"):
        cells = zip(data["estimate", measure], data["low", measure], data["high", measure], strict=True)
        text[HEADINGS[measure]] = [with_interval(*cell) for cell in cells]
    wanted = [(kind, measure) for measure in ("english", "non_english", "gap") for kind in ("estimate", "low", "high")]
    flat = data[wanted].set_axis([f"{measure}_{kind}" for kind, measure in wanted], axis=1).reset_index()
    title = "English and the other languages (%)"
    return Table("table-gap", title, caption, flat, text.rename(columns=HEADINGS).astype(str))


def with_interval(value: float, low: float, high: float) -> str:
    """Such as `44.0 [38.1, 50.2]`; the value alone where nothing could be resampled."""
    return f"{value:.1f}" if low != low else f"{value:.1f} [{low:.1f}, {high:.1f}]"
