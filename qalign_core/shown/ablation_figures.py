"""The figures of chapter 6: Table 4 as a picture, the studies, and what the layers make of parallel questions."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from qalign_core.languages import CODES, PAPER_CODES
from qalign_core.scores.comparisons import mean_over_seeds
from qalign_core.shown.ablation_tables import WITHOUT_PAIRS
from qalign_core.shown.drawing import (
    BENCHMARK_NAMES,
    COLOURS,
    HALO,
    WIDTH,
    languages_axis,
    legend,
    look,
    panels,
    percent_axis,
    style,
)

OTHERS = "mean of the other languages"
SETS = {**BENCHMARK_NAMES, "real-mgsm": "real mGSM"}
_LINES = {"base": ("#777777", "^", ":"), "MonoReason": ("#e69f00", "o", "--"), "QAlign": ("#0072b2", "s", "-")}
# Ten languages: marker and colour together, since no ten colours are told apart by everybody.
_SIGNS = dict(zip(PAPER_CODES, zip("v^<>DsPXo*", (*COLOURS, "#332288", "#882255"), strict=True), strict=True))
_OTHER_SIGN = ("p", "#444444")  # of a language that the profile describes
LABEL = np.array([0.13, 0.115])  # the oval a language's code needs on the plane, in shares of the panel


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
                ("non_english", OTHERS, "#0072b2"),
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
                              elinewidth=1, capsize=2, clip_on=False, zorder=3,
                              label=names.get(measure, measure))  # fmt: skip
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
    label = WITHOUT_PAIRS
    parts = [
        intervals[(intervals["measure"] == code) & intervals["system"].isin([*beside, system])].assign(language=code)
        for code, system in without.items()
    ]
    chosen = pd.concat(parts)
    chosen = chosen.assign(system=chosen["system"].where(chosen["system"].isin(beside), label))
    data = mean_over_seeds(chosen, ["benchmark", "language", "system"])
    benchmarks, codes = list(dict.fromkeys(data["benchmark"])), [code for code in CODES if code in without]
    with style():
        figure, axes = panels(len(benchmarks), 2.4, across=len(codes) < 5)
        for axis, benchmark in zip(axes, benchmarks, strict=True):
            for number, (system, looks) in enumerate(look([*beside, label]).items()):
                here = data[(data["benchmark"] == benchmark) & (data["system"] == system)]
                part = here.set_index("language").reindex(codes)
                errors = np.clip([part["estimate"] - part["low"], part["high"] - part["estimate"]], 0, None)
                axis.errorbar(np.arange(len(codes)) + 0.2 * (number - len(beside) / 2), part["estimate"], errors,
                              linestyle="none", marker=looks["marker"], color=looks["color"], capsize=2, elinewidth=1,
                              clip_on=False, zorder=3, label=system)  # fmt: skip
            languages_axis(axis, codes)
            percent_axis(axis, data["high"].max(), "accuracy (%)" if len(codes) >= 5 or axis is axes[0] else "")
            axis.set_title(BENCHMARK_NAMES.get(benchmark, benchmark), loc="left")
        legend(figure, axes)
    return figure, data


def answer_language(
    intervals: pd.DataFrame, responses: pd.DataFrame, systems: Sequence[str]
) -> tuple[Figure, pd.DataFrame]:
    """Accuracy in the other languages against how many answers are in the language of their question.

    Args:
        intervals: rows of `comparisons.intervals`.
        responses: rows of `response_kinds.rates`.
        systems: points and their order.
    """
    keys = ["benchmark", "system"]
    chosen = intervals[intervals["system"].isin(systems) & (intervals["measure"] == "non_english")]
    spoken = responses[responses["language"] != "en"].groupby(keys, sort=False)["own"].mean().rename("own_language")
    data = mean_over_seeds(chosen, keys).merge(spoken.reset_index(), on=keys)
    benchmarks = list(dict.fromkeys(data["benchmark"]))
    with style():
        figure, axes = panels(len(benchmarks), 2.6, across=True)
        for axis, benchmark in zip(axes, benchmarks, strict=True):
            here = data[data["benchmark"] == benchmark].set_index("system")
            for system, looks in look(systems).items():
                part = here.loc[[system]]
                errors = np.clip([part["estimate"] - part["low"], part["high"] - part["estimate"]], 0, None)
                axis.errorbar(part["own_language"], part["estimate"], errors, linestyle="none", color=looks["color"],
                              marker=looks["marker"], elinewidth=1, capsize=2, clip_on=False, zorder=3,
                              label=system)  # fmt: skip
            axis.set_xlim(0, 100)
            axis.set_xlabel("answers in the question's language (%)")
            axis.set_title(BENCHMARK_NAMES.get(benchmark, benchmark), loc="left")
            percent_axis(axis, data["high"].max(), "accuracy (%)" if axis is axes[0] else "")
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
    questions = measures.groupby("set")["questions"].min()
    data = data.merge(spread, on=keys).assign(chance=lambda rows: 100.0 / rows["set"].map(questions))
    data.insert(data.columns.get_loc("cosine_others") + 1, "closer", data["cosine"] - data["cosine_others"])
    sets = list(dict.fromkeys(data["set"]))
    with style():
        figure = Figure(figsize=(WIDTH, 2.3 * len(sets)))
        rows = figure.subplots(len(sets), 3, squeeze=False)
        for axes, name in zip(rows, sets, strict=True):
            _layer_panels(list(axes), data[data["set"] == name], SETS.get(name, name))
        legend(figure, list(rows.ravel()), last=("chance",))
    return figure, data


def _layer_panels(axes: list[Axes], here: pd.DataFrame, name: str) -> None:
    """One set of questions: retrieval, cosine with the original, and how much more than with other questions."""
    titles = f"{name}: originals found (%)", "cosine with the original", "its lead over other questions"
    for axis, column, title in zip(axes, ("retrieval", "cosine", "closer"), titles, strict=True):
        for model in dict.fromkeys(here["model"]):
            colour, marker, line = _LINES.get(model, ("#000000", "D", "-."))
            part = here[here["model"] == model]
            axis.plot(part["layer"], part[column], color=colour, marker=marker, linestyle=line, markersize=4,
                      clip_on=False, zorder=3, label=model)  # fmt: skip
        axis.set_title(title, loc="left", fontsize=8.5)
        axis.set_ylim(min(0, 1.1 * here[column].min()), None if column == "closer" else 1)
        axis.set_xlabel("layer (0: embeddings)")
        axis.set_xticks(_ticks(here["layer"].max()))
    chance = here["chance"].iloc[0]
    percent_axis(axes[0], max(chance, here["retrieval"].max()), "")
    axes[0].axhline(chance, color="#555555", linestyle=(0, (1, 1.5)), linewidth=1, label="chance")


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
        marker, colour = _SIGNS.get(code, _OTHER_SIGN)
        part = here[here["language"] == code]
        axis.scatter(part["x"], part["y"], s=8, marker=marker, color=colour, alpha=0.35, linewidths=0)
        axis.scatter([], [], s=26, marker=marker, color=colour, linewidths=0, label=code)  # for the legend
    means = here.groupby("language")[["x", "y"]].mean().loc[codes]
    for code, (x, y), place in zip(codes, means.to_numpy(), _label_places(axis, means), strict=True):
        marker, colour = _SIGNS.get(code, _OTHER_SIGN)
        axis.scatter(x, y, s=34, marker=marker, color=colour, edgecolors="white", linewidths=0.8, zorder=4)
        axis.annotate(code, (x, y), place, textcoords="axes fraction", fontsize=7.5, fontweight="bold", ha="center",
                      va="center", zorder=5, path_effects=[HALO],
                      arrowprops={"arrowstyle": "-", "color": "#444444", "linewidth": 0.6, "shrinkA": 0,
                                  "shrinkB": 2})  # fmt: skip


def _label_places(axis: Axes, means: pd.DataFrame) -> np.ndarray:
    """(languages, 2) where the labels of a panel stand, in shares of it: beside their means, and off one another."""
    corners = np.array([axis.get_xlim(), axis.get_ylim()]).T  # (2, 2): lowest and highest x and y
    points = (means.to_numpy() - corners[0]) / (corners[1] - corners[0])
    away = _apart(points, points)[0].sum(axis=1)  # (languages, 2): from the other means, the nearest above all
    places = points + 0.1 * away / np.maximum(np.linalg.norm(away, axis=1, keepdims=True), 1e-9)
    angle = np.linspace(0, 2 * np.pi, len(places), endpoint=False)
    nudge = 1e-4 * np.stack([np.cos(angle), np.sin(angle)], axis=1)  # two labels in one corner go different ways
    for step in range(400):  # push labels off one another and, less and less, off the means
        between, close = _apart(places, places)
        beside, covered = _apart(places, points)
        off = max(0.0, 0.5 - step / 400)
        push = (between * close[..., None]).sum(axis=1) + off * (beside * covered[..., None]).sum(axis=1)
        if not push.any():
            break
        places = np.clip(places + 0.02 * LABEL * push, 0.04, 0.96) + nudge
    return places


def _apart(ours: np.ndarray, theirs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(n, n, 2) the way from each of theirs to each of ours, longer the nearer they are; and (n, n) what is too near.

    A label and its own mean are never too near.
    """
    way = (ours[:, None] - theirs[None]) / LABEL  # in labels
    distance = np.maximum(np.linalg.norm(way, axis=2), 1e-6) + np.eye(len(ours))
    strength = 1 / (distance * np.maximum(distance, 0.1))
    return way * strength[..., None], (distance < 1) & ~np.eye(len(ours), dtype=bool)
