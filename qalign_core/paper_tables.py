"""The paper's tables and ours as `tables.Table`: what stands in them, in which order, and which number is best.

Table numbers follow the paper.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd

from qalign_core.languages import CODES
from qalign_core.published import published_cells
from qalign_core.tables import Table, best_cells, from_frame

BENCHMARKS = {"mgsm": ("Table 2", "mGSM"), "msvamp": ("Table 3", "mSVAMP")}  # numbers follow the paper
SIZES = ("7B", "13B")  # of LLaMA-2, of which the paper has numbers
SECONDARY = "†"
HEADINGS = {"system": "System", "average": "Avg.", "non_english": "non-en", "english": "en", "gap": "gap"}


def _with_means(wide: pd.DataFrame) -> pd.DataFrame:
    """Languages and the unweighted means over them; a row that lacks a language has no mean."""
    others = [code for code in wide if code != "en"]
    means = {
        "average": wide.mean(axis=1, skipna=False),
        "non_english": wide[others].mean(axis=1, skipna=False),
        "gap": wide["en"] - wide[others].mean(axis=1, skipna=False),
    }
    return wide.assign(**means)


def _per_system(accuracy: pd.DataFrame, benchmark: str, scorer: str, systems: Sequence[str] | None) -> pd.DataFrame:
    """Systems × languages and means, averaged over seeds.

    Raises:
        ValueError: where a system has no accuracy, or lacks a language that another one has.
    """
    rows = accuracy[(accuracy["benchmark"] == benchmark) & (accuracy["scorer"] == scorer)]
    wide = rows.groupby(["system", "language"], sort=False)["accuracy"].mean().unstack("language")
    wide = wide[[code for code in CODES if code in wide]]
    wide = wide.loc[list(dict.fromkeys(rows["system"]))] if systems is None else wide.reindex(systems)
    lacking = wide[wide.isna().any(axis=1)]
    if not len(wide) or len(lacking):
        what = lacking.index[0] if len(lacking) else "any system"
        raise ValueError(f"no accuracy of {what} on {benchmark} ({scorer} scorer) in every language; evaluate it first")
    return _with_means(wide)


def _interval_text(intervals: pd.DataFrame | None, system: str, measure: str) -> str:
    """` [44.0, 56.2]` of a system with one seed; nothing for several, whose intervals are not one interval."""
    if intervals is None:
        return ""
    found = intervals[(intervals["system"] == system) & (intervals["measure"] == measure)]
    return f" [{found['low'].iloc[0]:.1f}, {found['high'].iloc[0]:.1f}]" if len(found) == 1 else ""


def _name_and_size(name: str, default: str | None) -> tuple[str, str | None]:
    """`"QAlign 13B"` → `("QAlign", "13B")`; without a size, the default one."""
    head, _, tail = name.rpartition(" ")
    return (head, tail) if tail in SIZES else (name, default)


def accuracy_table(
    accuracy: pd.DataFrame,
    benchmark: str,
    *,
    caption: str = "",
    scorer: str = "paper",
    systems: Sequence[str] | None = None,
    published_as: Mapping[str, str] | None = None,
    published_size: str | None = "7B",
    floor: Mapping[str, float] | None = None,
    intervals: pd.DataFrame | None = None,
) -> Table:
    """Table 2 (mGSM) or Table 3 (mSVAMP): systems × languages with means and gap, the best of ours in bold.

    Args:
        accuracy: rows of `scorer.accuracy`; several seeds are averaged.
        benchmark: `"mgsm"` or `"msvamp"`.
        caption: from `caption(...)`.
        scorer: whose numbers are shown.
        systems: rows and their order; all by default, as they come.
        published_as: our system → its name in `params/published.csv`, where the two differ, with a size behind it
            (`"QAlign 13B"`) where that is not `published_size`.
        published_size: `"7B"`, `"13B"`, or `None` for a table without published numbers.
        floor: language code → accuracy (percent) of the language-blind rule, as the last row.
        intervals: rows of `comparisons.intervals`, printed behind each number.

    Raises:
        ValueError: for a system without an accuracy in every language.
    """
    number, name = BENCHMARKS[benchmark]
    ours = _per_system(accuracy, benchmark, scorer, systems)
    printed = {size: published_cells(benchmark, size) for size in SIZES} if published_size else {}
    intervals = intervals[intervals["benchmark"] == benchmark] if intervals is not None else None
    data, text, muted = [], [], set()
    for system, values in ours.iterrows():
        data.append({"system": system, "kind": "ours", **values})
        cells = {c: f"{v:.1f}" + _interval_text(intervals, system, c) for c, v in values.items()}
        text.append({"system": system, **cells})
        published_name, size = _name_and_size((published_as or {}).get(system, system), published_size)
        cells = printed[size][printed[size]["system"] == published_name] if printed and size else pd.DataFrame()
        cells = cells[cells["language"].isin(values.index)] if len(cells) else cells
        if len(cells):
            muted.add(len(data))
            data.append(
                {"system": system, "kind": "published", **dict(zip(cells["language"], cells["value"], strict=True))}
            )
            marks = cells["tier"].map({"primary": "", "secondary": SECONDARY})
            shown = [f"{value:.1f}{mark}" for value, mark in zip(cells["value"], marks, strict=True)]
            text.append({"system": f"published {size}", **dict(zip(cells["language"], shown, strict=True))})
    if floor is not None:
        muted.add(len(data))
        values = _with_means(pd.DataFrame([{code: floor[code] for code in ours if code in CODES}])).iloc[0]
        data.append({"system": "floor", "kind": "floor", **values})
        text.append({"system": "floor", **{column: f"{value:.1f}" for column, value in values.items()}})
    columns = list(ours.columns)
    frame = pd.DataFrame(data, columns=["system", "kind", *columns])
    own = [row for row in frame.index if frame.loc[row, "kind"] == "ours"]
    bold = best_cells(frame[[c for c in columns if c != "gap"]], own)
    return Table(
        name=f"table-{number.split()[-1]}-{benchmark}",
        title=f"{number}. Accuracy on {name} (%)",
        caption=caption,
        data=frame,
        text=pd.DataFrame(text, columns=["system", *columns]).fillna("").rename(columns=HEADINGS),
        bold=frozenset((row, HEADINGS.get(column, column)) for row, column in bold),
        muted=frozenset(muted),
    )


def data_table(corpora: pd.DataFrame, *, caption: str = "") -> Table:
    """Table 1: one row a data set, such as `data set, languages, examples, tokens`; counts with thousands marks."""
    return from_frame(corpora, name="table-1-data", title="Table 1. Data sets", caption=caption)


def gap_table(intervals: pd.DataFrame, *, caption: str = "", systems: Sequence[str] | None = None) -> Table:
    """The headline: English, the mean of the other languages, and the gap between them, each with its interval.

    Args:
        intervals: rows of `comparisons.intervals`; one row of the table a system, benchmark and seed.
        caption: from `caption(...)`.
        systems: rows and their order.
    """
    rows = intervals if systems is None else intervals[intervals["system"].isin(systems)]
    keys = ["system", "benchmark", "seed"]
    data = rows.pivot(index=keys, columns="measure", values=["estimate", "low", "high"])
    data = data.loc[list(dict.fromkeys(rows[keys].itertuples(index=False, name=None)))]
    text = pd.DataFrame(data.index.to_frame(index=False))
    text["benchmark"] = [BENCHMARKS.get(name, ("", name))[1] for name in text["benchmark"]]
    for measure in ("english", "non_english", "gap"):
        cells = zip(data["estimate", measure], data["low", measure], data["high", measure], strict=True)
        text[HEADINGS[measure]] = [_with_interval(*cell) for cell in cells]
    wanted = [(kind, measure) for measure in ("english", "non_english", "gap") for kind in ("estimate", "low", "high")]
    flat = data[wanted].set_axis([f"{measure}_{kind}" for kind, measure in wanted], axis=1).reset_index()
    title = "English and the other languages (%)"
    return Table("table-gap", title, caption, flat, text.rename(columns=HEADINGS).astype(str))


def _with_interval(value: float, low: float, high: float) -> str:
    """Such as `44.0 [38.1, 50.2]`; the value alone where nothing could be resampled."""
    return f"{value:.1f}" if low != low else f"{value:.1f} [{low:.1f}, {high:.1f}]"


def comparison_table(compared: pd.DataFrame, *, caption: str = "") -> Table:
    """Declared differences with 95% intervals and p, one row a pair, benchmark, seed and measure.

    Args:
        compared: rows of `comparisons.compare`.
        caption: from `caption(...)`.
    """
    text = pd.DataFrame(
        {
            "Difference": compared["a"] + " − " + compared["b"],
            "benchmark": [BENCHMARKS.get(name, ("", name))[1] for name in compared["benchmark"]],
            "seed": compared["seed"].astype(str),
            "measure": compared["measure"].replace(HEADINGS),
            "points": [f"{value:+.1f}" for value in compared["difference"]],
            "95% interval": [
                "" if a != a else f"[{a:+.1f}, {b:+.1f}]"
                for a, b in zip(compared["low"], compared["high"], strict=True)
            ],
            "p": ["" if p != p else "< 0.001" if p < 0.001 else f"{p:.3f}" for p in compared["p"]],
        }
    )
    title = "Differences between systems (points)"
    return Table("table-comparisons", title, caption, compared.reset_index(drop=True), text.astype(str))


def ablation_table(
    intervals: pd.DataFrame, compared: pd.DataFrame, rows: Mapping[str, str], *, caption: str = ""
) -> Table:
    """Table 4: what stage 1 is made of, with English and non-English averages and the paired difference to ours.

    Args:
        intervals: rows of `comparisons.intervals`.
        compared: rows of `comparisons.compare` for the pairs (variant, ours).
        rows: system → how the table names its stage 1, in order, such as `{"MonoReason": "none", ...}`.
        caption: from `caption(...)`.

    Raises:
        ValueError: for a system without results.
    """
    data, text = [], []
    for system, label in rows.items():
        found = intervals[intervals["system"] == system]
        if found.empty:
            raise ValueError(f"Table 4: no results of {system!r}; evaluate it first")
        for (benchmark, seed), part in found.groupby(["benchmark", "seed"], sort=False):
            of_measure = part.set_index("measure")
            name = BENCHMARKS.get(benchmark, ("", benchmark))[1]
            row = {"stage 1": label, "system": system, "benchmark": benchmark, "seed": seed}
            cells = {"Stage 1": label, "benchmark": name, "seed": str(seed)}
            for measure in ("english", "non_english", "average"):
                value, low, high = of_measure.loc[measure, ["estimate", "low", "high"]]
                row |= {measure: value, f"{measure}_low": low, f"{measure}_high": high}
                cells[HEADINGS[measure]] = f"{value:.1f} [{low:.1f}, {high:.1f}]"
            match = compared[(compared["a"] == system) & (compared["benchmark"] == benchmark)]
            match = match[(match["seed"] == seed) & (match["measure"] == "non_english")]
            for value, low, high, p in match[["difference", "low", "high", "p"]].itertuples(index=False):
                row |= {"to_ours": value, "to_ours_low": low, "to_ours_high": high, "to_ours_p": p}
                cells["non-en, to ours"] = f"{value:+.1f} [{low:+.1f}, {high:+.1f}]"
            data.append(row)
            text.append(cells)
    shown = pd.DataFrame(text).fillna("")
    return Table("table-4-ablation", "Table 4. What stage 1 is made of (%)", caption, pd.DataFrame(data), shown)
