"""The figures of chapter 6: Table 4 as a picture, the studies, and what the layers make of parallel questions."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

from qalign_core.drawing import (
    BENCHMARK_NAMES,
    COLOURS,
    WIDTH,
    languages_axis,
    legend,
    look,
    mean_over_seeds,
    panels,
    percent_axis,
    style,
)
from qalign_core.languages import CODES

OTHERS = "mean of the other languages"
SETS = {"mgsm": "mGSM", "real-mgsm": "real mGSM"}
_LINES = {"base": ("#777777", "^", ":"), "MonoReason": ("#e69f00", "o", "--"), "QAlign": ("#0072b2", "s", "-")}
# Ten languages: marker and colour together, since no ten colours are told apart by everybody.
_SIGNS = dict(zip(CODES, zip("v^<>DsPXo*", (*COLOURS, "#332288", "#882255"), strict=True), strict=True))


def ablations(intervals: pd.DataFrame, rows: Mapping[str, str]) -> tuple[Figure, pd.DataFrame]:
    """Table 4 as a picture: the mean of the other languages (and English, hollow) a kind of stage 1, with intervals.

    Args:
        intervals: rows of `comparisons.intervals`.
        rows: system → its label, in order from above.
    """
    chosen = intervals[intervals["system"].isin(rows) & intervals["measure"].isin(["english", "non_english"])]
    data = mean_over_seeds(chosen, ["benchmark", "system", "measure"])
    benchmarks = list(dict.fromkeys(data["benchmark"]))
    places = {system: place for place, system in enumerate(rows)}
    with style():
        figure = Figure(figsize=(WIDTH, 0.9 + 0.27 * len(rows)))
        axes = list(figure.subplots(1, len(benchmarks), squeeze=False, sharey=True).ravel())
        for axis, benchmark in zip(axes, benchmarks, strict=True):
            for measure, label, face in (
                ("non_english", "nine other languages", "#0072b2"),
                ("english", "English", "w"),
            ):
                part = data[(data["benchmark"] == benchmark) & (data["measure"] == measure)]
                errors = np.clip([part["estimate"] - part["low"], part["high"] - part["estimate"]], 0, None)
                axis.errorbar(part["estimate"], part["system"].map(places), xerr=errors, linestyle="none", marker="o",
                              color="#0072b2", markerfacecolor=face, elinewidth=1, capsize=2, clip_on=False,
                              label=label)  # fmt: skip
            axis.set_yticks(range(len(rows)), list(rows.values()))
            axis.set_ylim(len(rows) - 0.5, -0.5)
            top = data.loc[data["benchmark"] == benchmark, "high"].max()
            axis.set_xlim(0, min(100, max(10, 1.05 * top)))
            axis.grid(True, axis="x")
            axis.grid(False, axis="y")
            axis.set_xlabel("accuracy (%)")
            axis.set_title(BENCHMARK_NAMES.get(benchmark, benchmark), loc="left")
        legend(figure, axes)
    return figure, data


def data_size(
    intervals: pd.DataFrame, shares: Mapping[str, float], measures: Sequence[str] = ("non_english", "english")
) -> tuple[Figure, pd.DataFrame]:
    """How much stage-1 data is needed: accuracy against the share of the pairs, with intervals.

    Args:
        intervals: rows of `comparisons.intervals`.
        shares: system → share of the pairs in its stage 1, from 0 to 1.
        measures: lines.
    """
    chosen = intervals[intervals["system"].isin(shares) & intervals["measure"].isin(measures)]
    data = mean_over_seeds(chosen, ["benchmark", "system", "measure"])
    data = data.assign(share=100 * data["system"].map(shares)).sort_values(["benchmark", "measure", "share"])
    benchmarks = list(dict.fromkeys(chosen["benchmark"]))
    names = {"non_english": OTHERS, "english": "English"}
    with style():
        figure, axes = panels(len(benchmarks), 2.6, across=True)
        for axis, benchmark in zip(axes, benchmarks, strict=True):
            for measure, (colour, marker, line) in zip(measures, list(_LINES.values())[:0:-1], strict=False):
                part = data[(data["benchmark"] == benchmark) & (data["measure"] == measure)]
                errors = np.clip([part["estimate"] - part["low"], part["high"] - part["estimate"]], 0, None)
                axis.errorbar(part["share"], part["estimate"], errors, color=colour, marker=marker, linestyle=line,
                              elinewidth=1, capsize=2, label=names.get(measure, measure))  # fmt: skip
            axis.set_xlabel("pairs in stage 1 (%)")
            axis.set_title(BENCHMARK_NAMES.get(benchmark, benchmark), loc="left")
            percent_axis(axis, data["high"].max(), "accuracy (%)" if axis is axes[0] else "")
        legend(figure, axes)
    return figure, data.reset_index(drop=True)


def left_out(intervals: pd.DataFrame, without: Mapping[str, str], beside: Sequence[str]) -> tuple[Figure, pd.DataFrame]:
    """Accuracy in a language whose pairs were left out of stage 1, beside systems that had all pairs, or none.

    Args:
        intervals: rows of `comparisons.intervals`.
        without: language → the system whose stage 1 lacks it.
        beside: the systems to compare with.
    """
    label = "without its pairs"
    parts = [
        intervals[(intervals["measure"] == code) & intervals["system"].isin([*beside, system])].assign(language=code)
        for code, system in without.items()
    ]
    chosen = pd.concat(parts)
    chosen = chosen.assign(system=chosen["system"].where(chosen["system"].isin(beside), label))
    data = mean_over_seeds(chosen, ["benchmark", "language", "system"])
    benchmarks, codes = list(dict.fromkeys(data["benchmark"])), [code for code in CODES if code in without]
    with style():
        figure, axes = panels(len(benchmarks), 2.2)
        for axis, benchmark in zip(axes, benchmarks, strict=True):
            for number, (system, looks) in enumerate(look([*beside, label]).items()):
                here = data[(data["benchmark"] == benchmark) & (data["system"] == system)]
                part = here.set_index("language").reindex(codes)
                errors = np.clip([part["estimate"] - part["low"], part["high"] - part["estimate"]], 0, None)
                axis.errorbar(np.arange(len(codes)) + 0.2 * (number - len(beside) / 2), part["estimate"], errors,
                              linestyle="none", marker=looks["marker"], color=looks["color"], capsize=2, elinewidth=1,
                              clip_on=False, label=system)  # fmt: skip
            languages_axis(axis, codes)
            percent_axis(axis, data["high"].max(), "accuracy (%)")
            axis.set_title(BENCHMARK_NAMES.get(benchmark, benchmark), loc="left")
        legend(figure, axes)
    return figure, data


# ---------------------------------------------------------------------------------------------------- representations


def layers(measures: pd.DataFrame) -> tuple[Figure, pd.DataFrame]:
    """Retrieval of the English question and cosine by layer: mean over the other languages, a line a model.

    Args:
        measures: rows of `parallel_states.parallel_measures` with `set`, `seed` and `model`.
    """
    keys = ["set", "model", "layer"]
    grouped = measures.groupby([*keys, "seed"], sort=False)[["retrieval", "cosine", "cosine_others"]].mean()
    data = grouped.groupby(keys, sort=False).mean().reset_index()
    spread = measures.groupby(keys, sort=False)["retrieval"].agg(lowest="min", highest="max").reset_index()
    data = data.merge(spread, on=keys).assign(chance=100.0 / measures["questions"].min())
    sets = list(dict.fromkeys(data["set"]))
    with style():
        figure = Figure(figsize=(WIDTH, 2.5 * len(sets)))
        axes = figure.subplots(len(sets), 2, squeeze=False)
        for (left, right), name in zip(axes, sets, strict=True):
            here = data[data["set"] == name]
            for model in dict.fromkeys(here["model"]):
                _layer_lines(left, right, here[here["model"] == model], model)
            left.axhline(here["chance"].iloc[0], color="#555555", linestyle=(0, (1, 1.5)), linewidth=1, label="chance")
            percent_axis(left, data["retrieval"].max(), "finds its English original (%)")
            left.set_title(f"{SETS.get(name, name)}: retrieval", loc="left")
            right.set_title(f"{SETS.get(name, name)}: cosine (hollow: other questions)", loc="left")
            right.set_ylabel("cosine with English")
            right.set_ylim(min(0, data["cosine_others"].min()), 1)
            for axis in (left, right):
                axis.set_xlabel("layer (0: embeddings)")
                axis.set_xticks(_ticks(here["layer"].max()))
        legend(figure, list(axes.ravel()), last=("chance",))
    return figure, data


def _layer_lines(left: Axes, right: Axes, part: pd.DataFrame, model: str) -> None:
    colour, marker, line = _LINES.get(model, ("#000000", "D", "-."))
    looks = {"color": colour, "linestyle": line, "markersize": 4}
    left.plot(part["layer"], part["retrieval"], marker=marker, label=model, **looks)
    right.plot(part["layer"], part["cosine"], marker=marker, label=model, **looks)
    right.plot(part["layer"], part["cosine_others"], marker=marker, markerfacecolor="white", alpha=0.75, linewidth=0.8,
               **looks)  # fmt: skip


def _ticks(last: int) -> list[int]:
    step = max(1, -(-(last + 1) // 9))
    return list(range(0, last + 1, step))


def planes(points: pd.DataFrame) -> tuple[Figure, pd.DataFrame]:
    """The questions of all languages on the first two principal components, a panel a model and set of questions.

    Args:
        points: rows of `parallel_states.plane` with `set`, `seed` and `model`; the first seed is drawn.
    """
    data = points[points["seed"] == points["seed"].min()].reset_index(drop=True)
    sets, models = list(dict.fromkeys(data["set"])), list(dict.fromkeys(data["model"]))
    with style():
        figure = Figure(figsize=(WIDTH, 2.55 * len(sets)))
        axes = figure.subplots(len(sets), len(models), squeeze=False)
        for (row, name), (column, model) in itertools.product(enumerate(sets), enumerate(models)):
            here = data[(data["set"] == name) & (data["model"] == model)]
            _plane(axes[row, column], here, f"{SETS.get(name, name)}: {model}")
        legend(figure, [axes[0, 0]])
    return figure, data


def _plane(axis: Axes, here: pd.DataFrame, title: str) -> None:
    axis.set_title(title, loc="left")
    axis.grid(False)
    axis.set(xticks=[], yticks=[])
    first = here.iloc[0]
    axis.set_xlabel(f"{first['x_share']:.0f}% of the variance", fontsize=7.5)
    axis.set_ylabel(f"{first['y_share']:.0f}%", fontsize=7.5)
    codes = [code for code in CODES if code in set(here["language"])]
    for code in codes:
        marker, colour = _SIGNS[code]
        part = here[here["language"] == code]
        axis.scatter(part["x"], part["y"], s=9, marker=marker, color=colour, alpha=0.45, linewidths=0)
        axis.scatter([], [], s=26, marker=marker, color=colour, linewidths=0, label=code)  # for the legend
    for code in codes:  # above all points
        middle = here.loc[here["language"] == code, ["x", "y"]].mean()
        halo = [withStroke(linewidth=2.4, foreground="white")]
        axis.text(middle["x"], middle["y"], code, fontsize=7.5, fontweight="bold", ha="center", va="center",
                  path_effects=halo)  # fmt: skip
