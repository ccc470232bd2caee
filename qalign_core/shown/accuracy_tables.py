"""Tables 2 and 3 and Figure 2 in numbers: systems by languages, each number with its interval and where it is from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from qalign_core.languages import CODES, LANGUAGES
from qalign_core.scores.published import SECONDARY, SIZES, SOURCES, published_cells
from qalign_core.shown.paper_tables import BENCHMARKS, HEADINGS, with_interval
from qalign_core.shown.tables import Table, best_cells

_MEANS = ("average", "non_english", "gap")


def _with_means(wide: pd.DataFrame) -> pd.DataFrame:
    """Languages and the unweighted means over them; a row that lacks a language has no mean."""
    others = [code for code in wide if code != "en"]
    means = {
        "average": wide.mean(axis=1, skipna=False),
        "non_english": wide[others].mean(axis=1, skipna=False),
        "gap": wide["en"] - wide[others].mean(axis=1, skipna=False),
    }
    return wide.assign(**means)


def _per_system(rows: pd.DataFrame, benchmark: str, systems: Sequence[str] | None) -> pd.DataFrame:
    """Systems × languages and means, averaged over seeds.

    Raises:
        ValueError: where a system has no accuracy, or lacks a language that another one has.
    """
    wide = rows.groupby(["system", "language"], sort=False)["accuracy"].mean().unstack("language")
    wide = wide[[code for code in CODES if code in wide]]
    wide = wide.loc[list(dict.fromkeys(rows["system"]))] if systems is None else wide.reindex(systems)
    lacking = wide[wide.isna().any(axis=1)]
    if not len(wide) or len(lacking):
        what = lacking.index[0] if len(lacking) else "any system"
        raise ValueError(f"no accuracy of {what} on {benchmark} in every language; evaluate it first")
    if "en" not in wide:
        raise ValueError(f"no accuracy on {benchmark} in English ('en'), which means and gap need; evaluate it first")
    return _with_means(wide)


def _name_and_size(name: str, default: str) -> tuple[str, str]:
    """`"QAlign 13B"` → `("QAlign", "13B")`; without a size, the default one."""
    head, _, tail = name.rpartition(" ")
    return (head, tail) if tail in SIZES else (name, default)


@dataclass(frozen=True)
class _Row:
    """One row of the table: as numbers, as printed, and what stands behind each cell."""

    data: dict[str, Any]
    text: dict[str, str]
    hints: dict[str, str]
    muted: bool = False


def _published_row(benchmark: str, system: str, called: str, size: str, columns: Sequence[str]) -> _Row | None:
    """A system's published numbers, each with where it was read; None where there are none."""
    name, of_size = _name_and_size(called, size)
    cells = published_cells(benchmark, of_size)
    cells = cells[(cells["system"] == name) & cells["language"].isin(columns)]
    if cells.empty:
        return None
    data, shown, hints = {}, {}, {}
    for cell in cells.itertuples():
        data[cell.language] = cell.value
        shown[cell.language] = f"{cell.value:.1f}{'' if cell.tier == 'primary' else SECONDARY}"
        hints[cell.language] = f"LLaMA-2 {of_size}, {SOURCES[cell.source]} ({cell.tier} source)"
    listed = "; ".join(sorted({f"{cell.source} ({cell.tier})" for cell in cells.itertuples()}))
    data = {"system": system, "kind": "published", **data, "source": listed}
    return _Row(data, {"system": f"published {of_size}", **shown}, hints, muted=True)


def _floor_row(floor: Mapping[str, float], columns: Sequence[str]) -> _Row:
    codes = [code for code in columns if code in CODES]
    values = _with_means(pd.DataFrame([[floor.get(code) for code in codes]], columns=codes, dtype=float)).iloc[0]
    text = {column: "" if value != value else f"{value:.1f}" for column, value in values.items()}
    return _Row({"system": "floor", "kind": "floor", **values}, {"system": "floor", **text}, {}, muted=True)


def _sources_said(rows: Sequence[_Row]) -> str:
    """Where the published numbers of a table were read, in words."""
    keys = [key for row in rows for key in row.data.get("source", "").split("; ") if key]
    read = {key.partition(" ")[0]: "secondary" in key for key in keys}
    ordered = sorted(read.items(), key=lambda item: item[1])  # the authors' own first
    said = [f"{SECONDARY + ' ' if secondary else ''}{SOURCES[key]}" for key, secondary in ordered]
    return f" Published numbers are from: {'; '.join(said)}." if said else ""


def _own_hints(rows: pd.DataFrame, intervals: pd.DataFrame, system: str, columns: Sequence[str]) -> dict[str, str]:
    """What stands behind each number of ours: how many right, interval, and with several seeds every seed's value."""
    mine = intervals[intervals["system"] == system]
    counts = rows[rows["system"] == system].set_index(["seed", "language"])
    hints = {}
    for column in columns:
        lines, values = [], []
        for cell in mine[mine["measure"] == column].itertuples():
            values.append(cell.estimate)
            right = ""
            if (cell.seed, column) in counts.index:
                right = "{correct} of {total} right, ".format(**counts.loc[(cell.seed, column)])
            bounds = "no interval" if cell.low != cell.low else f"95% interval {cell.low:.1f} to {cell.high:.1f}"
            lines.append(f"seed {cell.seed}: {cell.estimate:.1f} ({right}{bounds}, {cell.method})")
        if len(lines) > 1:
            lines.append(f"range over {len(lines)} seeds: {min(values):.1f} to {max(values):.1f}")
        hints[column] = "\n".join(lines)
    return hints


def _stem(benchmark: str) -> str:
    """What the files of a benchmark's table are called: by the paper's number, where there is one."""
    number = BENCHMARKS[benchmark][0].rpartition(" ")[2]
    return f"table-{number or 'accuracy'}-{benchmark}"


def intervals_table(intervals: pd.DataFrame, benchmark: str, systems: Sequence[str], *, caption: str = "") -> Table:
    """Every number of Table 2 or 3 with its 95% interval: a row a language or mean and seed, a column a system.

    Args:
        intervals: rows of `comparisons.intervals`.
        benchmark: `"mgsm"` or `"msvamp"`.
        systems: columns and their order.
        caption: text below.
    """
    number, name = BENCHMARKS[benchmark]
    rows = intervals[(intervals["benchmark"] == benchmark) & intervals["system"].isin(systems)]
    cells = [with_interval(*bounds) for bounds in rows[["estimate", "low", "high"]].to_numpy()]
    wide = rows.assign(cell=cells).pivot(index=["measure", "seed"], columns="system", values="cell")
    measures = [m for m in (*CODES, *_MEANS) if m in wide.index.get_level_values("measure")]
    wide = wide.loc[measures, [system for system in systems if system in wide]].fillna("").reset_index()
    names = {code: f"{LANGUAGES[code].name} ({code})" for code in CODES} | {m: HEADINGS[m] for m in _MEANS}
    wide["measure"] = wide["measure"].map(names)
    wide["seed"] = wide["seed"].astype(str)
    if wide["seed"].nunique() == 1:
        wide = wide.drop(columns="seed")
    return Table(
        name=f"{_stem(benchmark)}-intervals",
        title=f"{number or name} with 95% intervals. Accuracy on {name} (%)",
        caption=caption,
        data=rows.reset_index(drop=True),
        text=wide.rename(columns={"measure": "Language"}).rename_axis(columns=None),
    )


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
    unfolded: str = "",
    named: tuple[str, str] | None = None,
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
        intervals: rows of `comparisons.intervals`, shown on demand: as each number's hint and in a table to unfold.
        unfolded: caption of the table of intervals.
        named: (stem of the files, title) of a variant of the table.

    Raises:
        ValueError: for a system without an accuracy in every language.
    """
    number, name = BENCHMARKS[benchmark]
    rows = accuracy[(accuracy["benchmark"] == benchmark) & (accuracy["scorer"] == scorer)]
    ours = _per_system(rows, benchmark, systems)
    published_size = published_size if benchmark in BENCHMARKS else None  # nothing is published of somebody's own
    bounds = None if intervals is None else intervals[intervals["benchmark"] == benchmark]
    columns, made = list(ours.columns), []
    for system, values in ours.iterrows():
        hints = {} if bounds is None else _own_hints(rows, bounds, system, columns)
        text = {column: f"{value:.1f}" for column, value in values.items()}
        made.append(_Row({"system": system, "kind": "ours", **values}, {"system": system, **text}, hints))
        called = (published_as or {}).get(system, system)
        beside = _published_row(benchmark, system, called, published_size, columns) if published_size else None
        made += [beside] if beside else []
    made += [_floor_row(floor, columns)] if floor is not None else []
    frame = pd.DataFrame([row.data for row in made], columns=["system", "kind", *columns, "source"])
    stem, title = named or (_stem(benchmark), f"{number}. Accuracy on {name} (%)".removeprefix(". "))
    return Table(
        name=stem,
        title=title,
        caption=caption + _sources_said(made),
        data=frame if published_size else frame.drop(columns="source"),
        text=_printed([row.text for row in made], ["system", *columns]),
        bold=_bold(frame, [c for c in columns if c != "gap"]),
        muted=frozenset(number for number, row in enumerate(made) if row.muted),
        hints=_printed([row.hints for row in made], ["system", *columns]) if any(row.hints for row in made) else None,
        details=() if bounds is None else (intervals_table(bounds, benchmark, list(ours.index), caption=unfolded),),
    )


def _printed(rows: list[dict[str, Any]], columns: list[str]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=columns, dtype=object).fillna("").rename(columns=HEADINGS)


def _bold(frame: pd.DataFrame, columns: Sequence[str]) -> frozenset[tuple[int, str]]:
    own = [row for row in frame.index if frame.loc[row, "kind"] == "ours"]
    return frozenset((row, HEADINGS.get(column, column)) for row, column in best_cells(frame[list(columns)], own))


def mixed_table(intervals: pd.DataFrame, systems: Sequence[str], *, caption: str = "") -> Table:
    """Figure 2 in numbers: averages with and without mixed supervision, the best of each benchmark in bold.

    Args:
        intervals: rows of `comparisons.intervals`; several seeds are averaged, with their intervals' outermost ends.
        systems: rows and their order.
        caption: from `caption(...)`.
    """
    data, text = [], []
    benchmarks = list(dict.fromkeys(intervals["benchmark"]))
    for system in systems:
        row, cells = {"system": system}, {"System": system}
        for benchmark in benchmarks:
            for measure in ("average", "non_english"):
                found = intervals[(intervals["system"] == system) & (intervals["benchmark"] == benchmark)]
                found = found[found["measure"] == measure]
                column, mean = f"{BENCHMARKS[benchmark][1]} {HEADINGS[measure]}", found["estimate"].mean()
                row[column] = mean
                low, high = found["low"].min(), found["high"].max()
                cells[column] = with_interval(mean, low, high)
        data.append(row)
        text.append(cells)
    frame = pd.DataFrame(data)
    bold = best_cells(frame.drop(columns="system"), list(frame.index))
    title = "Figure 2 in numbers. Mixed supervision (%)"
    return Table("table-figure-2-mixed", title, caption, frame, pd.DataFrame(text), bold)
