"""Table 4 and the studies as tables: what stage 1 is made of, and what that does to English and the other languages."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from qalign_core.scores.comparisons import mean_over_seeds
from qalign_core.shown.paper_tables import BENCHMARKS, HEADINGS
from qalign_core.shown.tables import Table

WITHOUT_PAIRS = "without its pairs"
_MEASURES = ("english", "non_english", "average")
STUDIES = {
    "data_size": "How much stage-1 data",
    "answer_language": "Answering in the question's language",
    "left_out": "One language left out of stage 1",
}


def ablation_table(
    intervals: pd.DataFrame,
    compared: pd.DataFrame,
    rows: Mapping[str, str],
    *,
    caption: str = "",
    unfolded: str = "",
    ours: str = "QAlign",
    examples: Mapping[str, int] | None = None,
    published: Mapping[tuple[str, str], float] | None = None,
    name: str = "table-4-ablation",
    title: str = "Table 4. What stage 1 is made of (%)",
    heading: str = "Stage 1",
    control: str = "to same size",
) -> Table:
    """Averages of English and the other languages a system, with the paired differences to ours and to its control.

    Args:
        intervals: rows of `comparisons.intervals`.
        compared: rows of `comparisons.compare` for the pairs (variant, ours) and (variant, its control of equal size).
        rows: system → how the table names it, in order, such as `{"MonoReason": "none", ...}`.
        caption: from `captions.caption(...)`.
        unfolded: caption of the table of every seed by itself, which several seeds have below their means.
        ours: the system of the first difference; every other one a system is compared with is its control.
        examples: system → examples of its stage 1.
        published: (benchmark, system) → the published average over all languages, in percent.
        name: stem of the files.
        title: heading of the table.
        heading: of the first column.
        control: of the column with the differences to a system's control.

    Raises:
        ValueError: for a system without results.
    """
    lacking = [system for system in rows if system not in set(intervals["system"])]
    if lacking:
        raise ValueError(f"{title.partition('.')[0]}: no results of {lacking[0]!r}; evaluate it first")
    chosen = intervals[intervals["system"].isin(rows)]
    words: dict[str, Any] = {
        "ours": ours,
        "examples": examples,
        "published": published,
        "heading": heading,
        "control": control,
    }
    data, text = _rows(chosen, compared, rows, **words)
    if chosen["seed"].nunique() == 1:
        return Table(name, title, caption, data, text)
    every = f"{title.removesuffix(' (%)')}: every seed (%)"
    each = Table(f"{name}-seeds", every, unfolded, data, text)
    means = mean_over_seeds(chosen, ["system", "benchmark", "measure"]).assign(seed=None)
    differences = compared.rename(columns={"difference": "estimate"})
    differences = mean_over_seeds(differences, ["a", "b", "benchmark", "measure"])
    differences = differences.rename(columns={"estimate": "difference"}).assign(seed=None, p=float("nan"))
    data, text = _rows(means, differences, rows, **words)
    data = data.dropna(axis=1, how="all")  # means have no seed and no p
    return Table(name, title, caption, data, text, details=(each,))


def _rows(
    chosen: pd.DataFrame,
    compared: pd.DataFrame,
    rows: Mapping[str, str],
    *,
    ours: str,
    examples: Mapping[str, int] | None,
    published: Mapping[tuple[str, str], float] | None,
    heading: str,
    control: str,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Numbers and text, a row a benchmark, system and seed; a mean over seeds has the seed None."""
    controlled = bool(((compared["b"] != ours) & compared["a"].isin(rows)).any())
    data, text = [], []
    for benchmark in dict.fromkeys(chosen["benchmark"]):
        for system, label in rows.items():
            found = chosen[(chosen["system"] == system) & (chosen["benchmark"] == benchmark)]
            for seed, part in found.groupby("seed", sort=False, dropna=False):
                key = {"system": system, "benchmark": benchmark, "seed": seed}
                row = {heading.lower(): label, **key}
                cells = {heading: label, "benchmark": BENCHMARKS.get(benchmark, ("", benchmark))[1], "seed": str(seed)}
                if examples is not None:
                    row["examples"] = examples.get(system)
                    cells["examples"] = "" if pd.isna(row["examples"]) else f"{row['examples']:,}"
                for measure, values in part.set_index("measure").loc[list(_MEASURES)].iterrows():
                    value, low, high = values[["estimate", "low", "high"]]
                    row |= {measure: value, f"{measure}_low": low, f"{measure}_high": high}
                    cells[HEADINGS[str(measure)]] = _bounded(value, low, high)
                row, cells = _differences(compared, key, ours, control if controlled else "", row, cells)
                if published:
                    row["published_average"] = published.get((benchmark, system))
                    cells["published Avg."] = "" if pd.isna(row["published_average"]) else f"{row['published_average']}"
                data.append(row)
                text.append(cells)
    shown = pd.DataFrame(text).fillna("")
    shown = shown if shown["seed"].nunique() > 1 else shown.drop(columns="seed")  # the caption names a single seed
    return pd.DataFrame(data), shown


def _differences(
    compared: pd.DataFrame, key: Mapping[str, object], ours: str, control: str, row: dict, cells: dict
) -> tuple[dict, dict]:
    """A row with its differences in the other languages' mean: to ours and, if there are controls, to its own."""
    here = compared[(compared["a"] == key["system"]) & (compared["measure"] == "non_english")]
    of_seed = here["seed"].isna() if pd.isna(key["seed"]) else here["seed"] == key["seed"]
    here = here[(here["benchmark"] == key["benchmark"]) & of_seed]
    cells["non-en, to ours"] = ""
    if control:
        cells[control] = ""
    for found in here.to_dict("records"):
        value, low, high = (found[name] for name in ("difference", "low", "high"))
        column, prefix = ("non-en, to ours", "to_ours") if found["b"] == ours else (control, "to_control")
        row |= {prefix: value, f"{prefix}_low": low, f"{prefix}_high": high, f"{prefix}_p": found["p"]}
        cells[column] = _bounded(value, low, high, "+")
    return row, cells


def _bounded(value: float, low: float, high: float, sign: str = "") -> str:
    """Such as `44.0 [38.1, 50.2]`; the value alone where nothing could be resampled."""
    return f"{value:{sign}.1f}" if low != low else f"{value:{sign}.1f} [{low:{sign}.1f}, {high:{sign}.1f}]"


def answer_language_table(
    intervals: pd.DataFrame, responses: pd.DataFrame, rows: Mapping[str, str], *, caption: str = ""
) -> Table:
    """Accuracy against language consistency: how many responses are in the language of the question.

    Args:
        intervals: rows of `comparisons.intervals`.
        responses: rows of `response_kinds.rates`.
        rows: system → how the table names it, in order.
        caption: from `captions.caption(...)`.
    """
    data = []
    others = responses[responses["language"] != "en"]
    for benchmark in dict.fromkeys(intervals["benchmark"]):
        for system, label in rows.items():
            here = intervals[(intervals["system"] == system) & (intervals["benchmark"] == benchmark)]
            spoken = others[(others["system"] == system) & (others["benchmark"] == benchmark)]
            means = here.groupby("measure")["estimate"].mean()
            row = {"system": label, "benchmark": benchmark, "english": means["english"]}
            row |= {"non_english": means["non_english"], "own_language": spoken["own"].mean()}
            data.append(row | {"in_english": spoken["english"].mean()})
    table = pd.DataFrame(data)
    text = table.assign(benchmark=[BENCHMARKS.get(name, ("", name))[1] for name in table["benchmark"]])
    numbers = ["english", "non_english", "own_language", "in_english"]
    text[numbers] = text[numbers].map("{:.1f}".format)
    text = text.set_axis(
        ["System", "benchmark", "en", "non-en", "answers in its language", "answers in English"], axis=1
    )
    title = "Accuracy against language consistency (%)"
    return Table("table-study-answer-language", title, caption, table, text)


def left_out_table(
    intervals: pd.DataFrame,
    compared: pd.DataFrame,
    without: Mapping[str, str],
    beside: Sequence[str],
    *,
    caption: str = "",
) -> Table:
    """Accuracy in each language that was left out of stage 1, beside systems that had all pairs, or none.

    Args:
        intervals: rows of `comparisons.intervals`.
        compared: rows of `comparisons.compare` of the systems that lack a language, in that language.
        without: language → the system whose stage 1 lacks it.
        beside: the systems to compare with.
        caption: from `captions.caption(...)`.
    """
    key = ["system", "benchmark", "seed", "measure"]
    found = intervals.set_index(key)[["estimate", "low", "high"]]
    differences = compared.set_index(["a", "b", "benchmark", "seed", "measure"])[["difference", "low", "high"]]
    chosen = intervals[intervals["system"].isin(without.values())]
    data, text = [], []
    for (benchmark, seed), code in itertools.product(
        chosen[["benchmark", "seed"]].drop_duplicates().itertuples(index=False), without
    ):
        row = {"language": code, "benchmark": benchmark, "seed": seed}
        cells = {"Language": code, "benchmark": BENCHMARKS.get(benchmark, ("", benchmark))[1], "seed": str(seed)}
        for heading, system in (*((name, name) for name in beside), (WITHOUT_PAIRS, without[code])):
            values = found.loc[(system, benchmark, seed, code)]
            row |= {heading: values["estimate"], f"{heading}_low": values["low"], f"{heading}_high": values["high"]}
            cells[heading] = _bounded(*values)
        for other in beside:
            pair = (without[code], other, benchmark, seed, code)
            values = differences.loc[pair].to_list() if pair in differences.index else [float("nan")] * 3
            row |= dict(zip((f"to_{other}", f"to_{other}_low", f"to_{other}_high"), values, strict=True))
            value, low, high = values
            cells[f"to {other}"] = "" if value != value else _bounded(value, low, high, "+")  # blank: not compared
        data.append(row)
        text.append(cells)
    shown = pd.DataFrame(text)
    shown = shown if shown["seed"].nunique() > 1 else shown.drop(columns="seed")  # the caption names a single seed
    title = "Accuracy in a language left out of stage 1 (%)"
    return Table("table-study-left-out", title, caption, pd.DataFrame(data), shown)
