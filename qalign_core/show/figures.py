"""The paper's figures and ours, drawn from saved results; readable in grey and by the colour-blind.

Every function takes rows of the results files (`intervals.csv`, `agreement.csv`, ...) and systems in their order,
averages seeds, and returns the figure and the numbers it shows. Figure numbers follow the paper.
"""

from __future__ import annotations

import functools
import itertools
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.style
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator

from qalign_core.comparisons import mean_over_seeds
from qalign_core.languages import CODES, LANGUAGES, NON_ENGLISH, PAPER_CODES
from qalign_core.miniature.folder import benchmark_problems
from qalign_core.miniature.language import question, solution
from qalign_core.show.paper_tables import named
from qalign_core.show.tables import CAPTIONS

Drawn = tuple[Figure, pd.DataFrame]

STYLE = Path(__file__).with_name("figures.mplstyle")
WIDTH = 6.8  # inches, the width of a text column
HALO = withStroke(linewidth=1.9, foreground="white")  # what lies on a dark bar stays visible
FLOOR = "language-blind floor"
BLUE, GREY, RED = "#0072b2", "#555555", "#d7191c"
# Colour, marker and hatch of the paper's systems, the same in every figure, then those that others get in turn.
_LOOKS = {
    "SFT": ("#c4c4c4", "o", ""),
    "MonoReason": ("#e69f00", "o", "///"),
    "Translate-test": ("#cc79a7", "X", "oo"),
    "MultiReason": ("#56b4e9", "^", "..."),
    "QAlign": (BLUE, "s", "xx"),
    "QAlign + mixed": ("#004d40", "D", "\\\\\\"),
}
_SPARE = tuple(zip(("#000000", "#009e73", "#d55e00", "#999999"), "vP*<", ("--", "++", "||", "**"), strict=True))

FRAMEWORK = CAPTIONS["figure-1-framework"]


style = functools.partial(mpl.style.context, STYLE)  # the style of all figures, for `with` or as a decorator


def look(systems: Sequence[str]) -> dict[str, dict[str, str]]:
    """Colour, marker and hatch of each system."""
    spare = itertools.cycle(_SPARE)
    found = {system: _LOOKS.get(system) or next(spare) for system in systems}
    return {system: dict(zip(("color", "marker", "hatch"), values, strict=True)) for system, values in found.items()}


def colours(systems: Iterable[str]) -> dict[str, str]:
    """Colour of each system, as seaborn's scales take them."""
    return {system: looks["color"] for system, looks in look(list(dict.fromkeys(systems))).items()}


def _panels(rows: int, columns: int, height: float, **layout: Any) -> tuple[Figure, np.ndarray]:
    """A figure of a text column's width with a panel per row and column: (rows, columns) axes."""
    figure = Figure(figsize=(WIDTH, height))
    return figure, figure.subplots(rows, columns, squeeze=False, **layout)


def _legend(figure: Figure, axes: Iterable[Axes]) -> None:
    """One legend above all panels, outside the data: systems, then lines of reference."""
    found = {label: handle for axis in axes for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)}
    legend_above(figure, {label: found[label] for label in sorted(found, key=lambda label: label in (FLOOR, "chance"))})


def legend_above(figure: Figure, entries: Mapping[str, Any]) -> None:
    """A legend of labels and their handles above the figure, on as many rows as its letters need."""
    room = 120 * figure.get_figwidth() / FontProperties(size=mpl.rcParams["legend.fontsize"]).get_size_in_points()
    letters = sum(len(label) + 5 for label in entries)  # a mark takes up to five
    rows = max(1, -(-len(entries) // 6), -int(-letters // room))  # of at most six, and of the same length
    columns = max(1, -(-len(entries) // rows))
    figure.legend(entries.values(), entries.keys(), loc="outside upper center", ncols=columns,
                  columnspacing=1.2, handlelength=1.6, handletextpad=0.6)  # fmt: skip


def _percent(axis: Axes, top: float, label: str = "") -> None:
    """A y axis from 0 to what is shown, with whole numbers."""
    axis.set_ylim(0, min(103, max(10, 1.08 * top)))
    axis.set_ylabel(label)
    axis.yaxis.set_major_locator(MaxNLocator("auto", steps=[1, 2, 5, 10], integer=True))


def _ticks(axis: Axes, labels: Sequence[str]) -> None:
    axis.set_xticks(range(len(labels)), labels)
    axis.tick_params(axis="x", length=0)
    axis.set_xlim(-0.6, len(labels) - 0.4)


def _errors(rows: pd.DataFrame) -> np.ndarray:
    """(2, n) how far the ends of intervals are from their estimates."""
    return np.clip([rows["estimate"] - rows["low"], rows["high"] - rows["estimate"]], 0, None)


def _bars(
    axis: Axes, rows: pd.DataFrame, by: str, groups: Iterable[str], systems: Sequence[str], space: float, fill: float
) -> Iterator[tuple[pd.DataFrame, np.ndarray, float]]:
    """Draw a bar with its interval per group and system; yield each system's rows, its bars' middles and width."""
    width = space / len(systems)
    for number, (system, looks) in enumerate(look(systems).items()):
        part = rows[rows["system"] == system].set_index(by).reindex(groups)
        middles = np.arange(len(part)) + width * (number - (len(systems) - 1) / 2)
        axis.bar(middles, part["estimate"], fill * width, color=looks["color"], edgecolor="white", linewidth=0.4,
                 label=system, hatch=looks["hatch"])  # fmt: skip
        axis.errorbar(middles, part["estimate"], _errors(part), fmt="none", ecolor="#222222", elinewidth=0.9,
                      capsize=1.8, path_effects=[HALO])  # fmt: skip
        yield part, middles, fill * width


# ------------------------------------------------------------------------------------- Figure 1

FOLLOWED = ("ru", 1)  # matplotlib's own font has no Thai, Bengali, Chinese or Japanese letters; a short question
_BOX, _MODEL = (2.45, 1.06), (1.1, 0.6)  # inches: width and height of a text's box and of a model's


@style()
def framework() -> Drawn:
    """Figure 1: the two-stage framework with one question of the miniature in it."""
    language, index = FOLLOWED
    problem = benchmark_problems("mgsm", index + 1)[index]
    foreign, english = question(problem, language), question(problem, "en")
    solved = solution(problem, "en", "restating")
    rows = [
        ("Stage 1: question alignment", "learns to translate questions", language, foreign, "question", "en", english),
        ("Stage 2: response alignment", "learns to reason, in English only", "en", english, "solution", "en", solved),
        ("Then: a question in any language", "nothing more is trained", language, foreign, "solution", "en", solved),
    ]
    data = pd.DataFrame(rows, columns=["step", "objective", "source", "input", "makes", "target", "output"])
    height, middle = 4.5, WIDTH / 2
    figure = Figure(figsize=(WIDTH, height))
    axis = figure.add_subplot(xlim=(0, WIDTH), ylim=(0, height))
    axis.axis("off")
    for number, row in enumerate(data.itertuples(index=False)):
        y = height * (1 - (number + 0.57) / 3)
        axis.text(0.05, y + 0.62, row.step, fontsize=9.5, fontweight="bold", va="center")
        axis.text(WIDTH - 0.05, y + 0.62, row.objective, fontsize=8.5, color="#444444", ha="right", va="center")
        for left, text, code, kind in ((0.05, row.input, row.source, "question"),
                                       (WIDTH - 0.05 - _BOX[0], row.output, row.target, row.makes)):  # fmt: skip
            _box(axis, left, y, _BOX, "#e3eff8" if code == "en" else "#fdf1d8", "-" if code == "en" else "--")
            axis.text(left + 0.08, y + 0.39, f"{LANGUAGES[code].name} {kind}", fontsize=7, color=GREY, va="center",
                      style="italic")  # fmt: skip
            axis.text(left + 0.08, y - 0.07, textwrap.fill(text, 40), fontsize=7.2, va="center", linespacing=1.25)
        _box(axis, middle - _MODEL[0] / 2, y, _MODEL, "#0b3c5d", "-")
        axis.text(middle, y, "language\nmodel", color="white", fontsize=8.5, ha="center", va="center")
        _arrow(axis, (0.05 + _BOX[0], y), (middle - _MODEL[0] / 2, y))
        _arrow(axis, (middle + _MODEL[0] / 2, y), (WIDTH - 0.05 - _BOX[0], y))
        if number < 2:
            _arrow(axis, (middle, y - 0.3), (middle, y - height / 3 + 0.3), (0, (3, 2)))
            axis.text(middle + 0.08, y - height / 6, "weights", fontsize=7.5, color="#444444", va="center")
    return figure, data


def _box(axis: Axes, left: float, centre: float, size: tuple[float, float], colour: str, line: str) -> None:
    axis.add_patch(FancyBboxPatch((left + 0.04, centre - size[1] / 2 + 0.04), size[0] - 0.08, size[1] - 0.08,
                                  boxstyle="round,pad=0.04", facecolor=colour, edgecolor="#333333", linewidth=0.9,
                                  linestyle=line))  # fmt: skip


def _arrow(axis: Axes, start: tuple[float, float], end: tuple[float, float], line: Any = "-") -> None:
    axis.add_patch(FancyArrowPatch(start, end, arrowstyle="-|>", mutation_scale=9, shrinkA=1, shrinkB=1,
                                   color="#333333", linewidth=1, linestyle=line))  # fmt: skip


# ------------------------------------------------------------------------------------- accuracy


@style()
def headline(intervals: pd.DataFrame, systems: Sequence[str], floor: pd.DataFrame | None) -> Drawn:
    """Accuracy per language before and after question alignment, over the floor; English beside it on its own scale."""
    rows = intervals[intervals["system"].isin(systems) & intervals["measure"].isin([*CODES, "non_english"])]
    data = mean_over_seeds(rows, ["benchmark", "system", "measure"])
    benchmarks = data.groupby("benchmark", sort=False)
    figure, axes = _panels(len(benchmarks), 2, 2.3 * len(benchmarks), width_ratios=[10, 1.5])
    for pair, (benchmark, here) in zip(axes, benchmarks, strict=True):
        level = None if floor is None else floor[floor["benchmark"] == benchmark].set_index("language")["accuracy"]
        others = [code for code in NON_ENGLISH if code in set(here["measure"])]
        for axis, measures in zip(pair, ([*others, "non_english"], ["en"]), strict=True):
            x, ends = np.arange(len(measures)), []
            for number, (system, looks) in enumerate(look(systems).items()):
                part = here[here["system"] == system].set_index("measure").reindex(measures)
                ends.append((x + 0.16 * (2 * number - 1), part["estimate"]))
                axis.errorbar(*ends[-1], _errors(part), linestyle="none", marker=looks["marker"], elinewidth=1.1,
                              color=looks["color"], zorder=3, clip_on=False, label=system)  # fmt: skip
            axis.plot(*zip(*ends, strict=True), color="#999999", linewidth=0.9, zorder=2)
            top = here.loc[here["measure"].isin(measures), ["estimate", "high"]].max(axis=None)
            if level is not None and len(level):
                height = level.reindex(others if axis is pair[0] else ["en"]).mean()
                axis.axhline(height, color=GREY, linestyle=(0, (4, 2)), linewidth=1, label=FLOOR)
                top = max(top, height)
            _percent(axis, top, "accuracy (%)" if axis is pair[0] else "")
            _ticks(axis, ["mean" if measure == "non_english" else measure for measure in measures])
        pair[0].axvline(len(others) - 0.5, color="#bbbbbb", linewidth=0.8)
        pair[0].set_title(named(benchmark))
        pair[1].set(title="English", xticks=[])
    _legend(figure, axes.ravel())
    return figure, data


@style()
def mixed_supervision(intervals: pd.DataFrame, systems: Sequence[str], floor: pd.DataFrame | None) -> Drawn:
    """Figure 2: average accuracy with translated training data alone, with question alignment, and with both."""
    rows = intervals[intervals["system"].isin(systems) & (intervals["measure"] == "average")]
    data = mean_over_seeds(rows, ["benchmark", "system"])
    benchmarks = list(dict.fromkeys(data["benchmark"]))
    ticks: dict[float, str] = {}
    top = data[["estimate", "high"]].max(axis=None)
    figure = Figure(figsize=(0.75 * WIDTH, 2.8))
    axis = figure.subplots()
    for part, middles, _ in _bars(axis, data, "benchmark", benchmarks, systems, 0.8, 0.92):
        ticks |= {x: f"{value:.1f}" for x, value in zip(middles, part["estimate"], strict=True)}
    for place, benchmark in enumerate(benchmarks):
        axis.annotate(named(benchmark), (place, 0), (0, -19), xycoords=("data", "axes fraction"),
                      textcoords="offset points", ha="center", va="top", fontsize=9)  # fmt: skip
        if floor is not None and (floor["benchmark"] == benchmark).any():
            level = floor[floor["benchmark"] == benchmark]["accuracy"].mean()
            axis.hlines(level, place - 0.45, place + 0.45, color=GREY, linestyle=(0, (4, 2)), linewidth=1.2,
                        label=FLOOR, path_effects=[HALO])  # fmt: skip
            top = max(top, level)
    axis.set_xticks(list(ticks), list(ticks.values()))  # below the axis, numbers are clear of every interval
    axis.tick_params(axis="x", length=0)
    _percent(axis, top, "average accuracy (%)")
    _legend(figure, [axis])
    return figure, data


@style()
def ablations(compared: pd.DataFrame, rows: Mapping[str, str], ours: str) -> Drawn:
    """Table 4 as a picture: how much the other languages lose or win against the paper's stage 1, with intervals."""
    chosen = compared[(compared["b"] == ours) & compared["a"].isin(rows) & (compared["measure"] == "non_english")]
    chosen = chosen.rename(columns={"difference": "estimate", "a": "system"})
    data = mean_over_seeds(chosen, ["benchmark", "system"])
    listed = [system for system in rows if system in set(data["system"])]
    benchmarks = data.groupby("benchmark", sort=False)
    figure, axes = _panels(1, len(benchmarks), 1.0 + 0.27 * len(listed), sharey=True)
    for axis, (benchmark, here) in zip(axes.ravel(), benchmarks, strict=True):
        part = here.set_index("system").reindex(listed)
        axis.axvline(0, color=GREY, linestyle=(0, (4, 2)), linewidth=1, label=ours)
        axis.errorbar(part["estimate"], range(len(listed)), xerr=_errors(part), linestyle="none", marker="o",
                      color=BLUE, elinewidth=1.1, label="mean of the other languages")  # fmt: skip
        axis.set_yticks(range(len(listed)), [rows[system] for system in listed])
        axis.set_ylim(len(listed) - 0.5, -0.5)
        axis.grid(axis="x")
        axis.grid(visible=False, axis="y")
        axis.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        axis.set_xlabel(f"points against {ours}")
        axis.set_title(named(benchmark))
    _legend(figure, axes.ravel())
    return figure, data


# ------------------------------------------------------------------------------------- agreement


@style()
def consistency(intervals: pd.DataFrame, chance: pd.DataFrame, systems: Sequence[str]) -> Drawn:
    """Figure 3: share of questions answered as in English per language and system, with intervals and chance floor."""
    rows = intervals[intervals["system"].isin(systems) & intervals["measure"].isin(NON_ENGLISH)]
    data = mean_over_seeds(rows, ["benchmark", "system", "measure"]).rename(columns={"measure": "language"})
    floors = chance.groupby(["benchmark", "system", "language"], sort=False)["chance"].mean().reset_index()
    data = data.merge(floors, how="left")
    benchmarks = data.groupby("benchmark", sort=False)
    figure, axes = _panels(len(benchmarks), 1, 2.4 * len(benchmarks))
    for axis, (benchmark, here) in zip(axes.ravel(), benchmarks, strict=True):
        languages = [code for code in CODES if code in set(here["language"])]
        for part, middles, width in _bars(axis, here, "language", languages, systems, 0.84, 0.96):
            axis.hlines(part["chance"], middles - width / 2, middles + width / 2, color=RED, linewidth=1.2,
                        path_effects=[HALO])  # fmt: skip
        axis.plot([], [], color=RED, linewidth=1.2, label="chance")
        _ticks(axis, languages)
        _percent(axis, here[["estimate", "high"]].max(axis=None))
        axis.set_title(named(benchmark))
    figure.supylabel("same answer as in English (%)", fontsize=9)
    _legend(figure, axes.ravel())
    return figure, data


# ------------------------------------------------------------------------------------- representations

# Ten languages: marker and colour together, since no ten colours are told apart by everybody.
COLOURS = ("#e69f00", BLUE, "#56b4e9", "#000000", "#009e73", "#cc79a7", "#d55e00", "#999999", "#332288", "#882255")
_SIGNS = dict(zip(PAPER_CODES, zip("v^<>DsPXo*", COLOURS, strict=True), strict=True))


@style()
def planes(points: pd.DataFrame) -> Drawn:
    """The questions of all languages on the first two principal components: one panel per model and set, one seed."""
    data = points[points["seed"] == points["seed"].min()].reset_index(drop=True)
    sets, models = list(dict.fromkeys(data["set"])), list(dict.fromkeys(data["model"]))
    figure, axes = _panels(len(sets), len(models), 2.65 * len(sets))
    for axis, (name, model) in zip(axes.ravel(), itertools.product(sets, models), strict=True):
        here = data[(data["set"] == name) & (data["model"] == model)]
        axis.set_title(f"{named(name)}: {model}")
        axis.grid(False)
        axis.set(xticks=[], yticks=[])
        axis.set_xlabel(f"{here['x_share'].iloc[0]:.0f}% of the variance", fontsize=7.5)
        axis.set_ylabel(f"{here['y_share'].iloc[0]:.0f}%", fontsize=7.5)
        _plane(axis, here)
    _legend(figure, [axes[0, 0]])
    return figure, data


def _plane(axis: Axes, here: pd.DataFrame) -> None:
    """Questions as small signs, languages' means as large ones with their codes beside them."""
    codes = [code for code in CODES if code in set(here["language"])]
    means = here.groupby("language")[["x", "y"]].mean().loc[codes]
    for code in codes:
        marker, colour = _SIGNS.get(code, ("p", "#444444"))
        part = here[here["language"] == code]
        axis.scatter(part["x"], part["y"], s=8, marker=marker, color=colour, alpha=0.35, linewidths=0)
        axis.scatter(*means.loc[code], s=34, marker=marker, color=colour, edgecolors="white", linewidths=0.8, zorder=4,
                     label=code)  # fmt: skip
    for code, place in zip(codes, _label_places(axis, means.to_numpy()), strict=True):
        line = {"arrowstyle": "-", "color": "#444444", "linewidth": 0.6, "shrinkA": 0, "shrinkB": 2}
        axis.annotate(code, tuple(means.loc[code]), tuple(place), textcoords="axes fraction", fontsize=7.5, zorder=5,
                      fontweight="bold", ha="center", va="center", path_effects=[HALO], arrowprops=line,
                      in_layout=False)  # fmt: skip


def _label_places(axis: Axes, means: np.ndarray) -> np.ndarray:
    """(languages, 2) where labels stand, in shares of the panel: near their means, and off one another."""
    corners = np.array([axis.get_xlim(), axis.get_ylim()]).T  # (2, 2): lowest and highest x and y
    points = (means - corners[0]) / (corners[1] - corners[0])
    angles = np.linspace(0, 2 * np.pi, len(points), endpoint=False)
    places = points + 0.01 * np.stack([np.cos(angles), np.sin(angles)], axis=1)  # two in one place go different ways
    for _ in range(300):
        gaps = places[:, None] - np.concatenate([places, points])[None]  # (languages, 2 · languages, 2)
        distance = np.maximum(np.linalg.norm(gaps, axis=2), 1e-9)
        push = np.clip(0.15 / distance - 1, 0, 5) * (distance > 1e-8)
        places += 0.05 * (gaps * push[..., None]).sum(axis=1)
        places += 0.5 * (np.clip(places, 0.06, 0.94) - places)  # the walls give way, so that none meet in a corner
    return np.clip(places, 0.04, 0.96)
