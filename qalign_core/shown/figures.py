"""The paper's figures and ours, drawn from tables.

Every function takes a table and returns the figure and the numbers it shows; `drawing.save_figure` writes both. Figure
numbers follow the paper.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from qalign_core.languages import CODES, NON_ENGLISH
from qalign_core.scores.comparisons import mean_over_seeds
from qalign_core.shown.drawing import (
    BENCHMARK_NAMES,
    COLOURS,
    HALO,
    WIDTH,
    bars,
    languages_axis,
    legend,
    look,
    outline,
    panels,
    percent_axis,
    plain_logarithm,
    style,
)


def headline(
    intervals: pd.DataFrame,
    systems: Sequence[str] = ("MonoReason", "QAlign"),
    floor: pd.DataFrame | None = None,
) -> tuple[Figure, pd.DataFrame]:
    """Accuracy a language without and with question alignment, every seed with its interval, over the floor.

    Args:
        intervals: rows of `comparisons.intervals`.
        systems: the two to compare.
        floor: `benchmark, language, accuracy` of the language-blind floor, in percent.
    """
    rows = intervals[intervals["system"].isin(systems) & intervals["measure"].isin(CODES)]
    benchmarks = list(dict.fromkeys(rows["benchmark"]))
    with style():
        figure, axes = panels(len(benchmarks), 2.35)
        for axis, benchmark in zip(axes, benchmarks, strict=True):
            here = rows[rows["benchmark"] == benchmark]
            languages = [code for code in CODES if code in set(here["measure"])]
            for side, (system, looks) in enumerate(look(systems).items()):
                of_system = here[here["system"] == system]
                seeds = list(dict.fromkeys(of_system["seed"]))
                for number, seed in enumerate(seeds):
                    part = of_system[of_system["seed"] == seed].set_index("measure").loc[languages]
                    shift = 0.11 * (number - (len(seeds) - 1) / 2)
                    shift += (0.26 if len(seeds) == 1 else 0.42) * (side - (len(systems) - 1) / 2)
                    errors = np.clip([part["estimate"] - part["low"], part["high"] - part["estimate"]], 0, None)
                    axis.errorbar(np.arange(len(languages)) + shift, part["estimate"], errors, linestyle="none",
                                  marker=looks["marker"], color=looks["color"], capsize=2 if len(seeds) == 1 else 0,
                                  elinewidth=1, markersize=5 if len(seeds) == 1 else 3.5, zorder=3,
                                  clip_on=False, label=system if number == 0 else None)  # fmt: skip
            if floor is not None and (floor["benchmark"] == benchmark).any():
                level = floor[floor["benchmark"] == benchmark].set_index("language")["accuracy"].reindex(languages)
                edges = np.repeat(np.arange(len(languages) + 1) - 0.5, 2)[1:-1]
                axis.plot(
                    edges, np.repeat(level, 2), color="#555555", linestyle=(0, (4, 2)), linewidth=1, label="floor"
                )
            languages_axis(axis, languages)
            percent_axis(axis, rows[["estimate", "high"]].max(axis=None), "accuracy (%)")  # panels share the axis
            axis.set_title(BENCHMARK_NAMES.get(benchmark, benchmark), loc="left")
        legend(figure, axes)
    return figure, rows.reset_index(drop=True)


def mixed_supervision(
    intervals: pd.DataFrame, systems: Sequence[str] = ("MultiReason", "QAlign", "QAlign + mixed")
) -> tuple[Figure, pd.DataFrame]:
    """Figure 2: average accuracy with translated training data alone, with question alignment, and with both.

    Args:
        intervals: rows of `comparisons.intervals`.
        systems: bars, in order.
    """
    rows = intervals[intervals["system"].isin(systems) & (intervals["measure"] == "average")]
    data = mean_over_seeds(rows, ["benchmark", "system"])
    benchmarks = list(dict.fromkeys(data["benchmark"]))
    with style():
        figure = Figure(figsize=(0.62 * WIDTH, 2.7))
        axis = figure.subplots()
        width = 0.8 / len(systems)
        for number, (system, looks) in enumerate(look(systems).items()):
            part = data[data["system"] == system].set_index("benchmark").reindex(benchmarks)
            position = np.arange(len(benchmarks)) + width * (number - (len(systems) - 1) / 2)
            bars(axis, position, part, 0.92 * width, looks, system)
            for x, value, high in zip(position, part["estimate"], part["high"], strict=True):
                axis.annotate(f"{value:.1f}", (x, high), (0, 2), textcoords="offset points", ha="center", fontsize=8)
        axis.set_xticks(range(len(benchmarks)), [BENCHMARK_NAMES.get(name, name) for name in benchmarks])
        axis.tick_params(axis="x", length=0)
        percent_axis(axis, 1.06 * data["high"].max(), "average accuracy (%)")
        legend(figure, [axis])
    return figure, data


def consistency(
    intervals: pd.DataFrame, chance: pd.DataFrame | None = None, systems: Sequence[str] | None = None
) -> tuple[Figure, pd.DataFrame]:
    """Figure 3: share of questions answered as in English, a language and system, with intervals and chance floor.

    Args:
        intervals: `comparisons.intervals` of `consistency.agreement` (`column="agrees"`).
        chance: rows of `consistency.consistency`, whose column `chance` is drawn as a line across each bar.
        systems: bars and their order; more than seven are hard to read.
    """
    systems = list(dict.fromkeys(intervals["system"])) if systems is None else list(systems)
    rows = intervals[intervals["system"].isin(systems) & intervals["measure"].isin(NON_ENGLISH)]
    data = mean_over_seeds(rows, ["benchmark", "system", "measure"]).rename(columns={"measure": "language"})
    if chance is not None:
        floors = chance.groupby(["benchmark", "system", "language"], sort=False)["chance"].mean().reset_index()
        data = data.merge(floors, how="left")
    benchmarks = list(dict.fromkeys(data["benchmark"]))
    with style():
        figure, axes = panels(len(benchmarks), 2.5, share_y=False)
        for axis, benchmark in zip(axes, benchmarks, strict=True):
            here = data[data["benchmark"] == benchmark]
            languages = [code for code in CODES if code in set(here["language"])]
            width = 0.88 / len(systems)
            for number, (system, looks) in enumerate(look(systems).items()):
                part = here[here["system"] == system].set_index("language").reindex(languages)
                position = np.arange(len(languages)) + width * (number - (len(systems) - 1) / 2)
                bars(axis, position, part, 0.96 * width, looks, system)
                if chance is not None:
                    ends = position - 0.48 * width, position + 0.48 * width
                    label = "chance" if number == len(systems) - 1 else None
                    axis.hlines(part["chance"], *ends, color="#d7191c", linewidth=1.2, label=label,
                                path_effects=[HALO])  # fmt: skip
            languages_axis(axis, languages)
            percent_axis(axis, here[["estimate", "high"]].max(axis=None), "")
            axis.set_title(BENCHMARK_NAMES.get(benchmark, benchmark), loc="left")
        figure.supylabel("same answer as in English (%)", fontsize=9)
        legend(figure, axes)
    return figure, data


def agreement_map(
    agreement: pd.DataFrame, systems: Sequence[str] = ("MonoReason", "QAlign")
) -> tuple[Figure, pd.DataFrame]:
    """How often any two languages give the same answer: one map a benchmark and system, systems side by side.

    Args:
        agreement: rows of `consistency.agreement_map`; several seeds are averaged.
        systems: columns, in order.
    """
    rows = agreement[agreement["system"].isin(systems)]
    keys = ["benchmark", "system", "language", "other"]
    data = rows.groupby(keys, sort=False)["agreement"].mean().reset_index()
    benchmarks = list(dict.fromkeys(data["benchmark"]))
    top = 50 if data["agreement"].max() <= 50 else 100  # half the scale where nothing reaches the upper half
    with style():
        figure = Figure(figsize=(WIDTH, 3.1 * len(benchmarks)))
        axes = figure.subplots(len(benchmarks), len(systems), squeeze=False)
        for (row, benchmark), (column, system) in itertools.product(enumerate(benchmarks), enumerate(systems)):
            here = data[(data["benchmark"] == benchmark) & (data["system"] == system)]
            matrix = here.pivot(index="language", columns="other", values="agreement")
            codes = [code for code in CODES if code in matrix.index]
            axis = axes[row, column]
            sns.heatmap(matrix.loc[codes, codes], ax=axis, vmin=0, vmax=top, cmap="Blues", square=True, annot=True,
                        fmt=".0f", annot_kws={"fontsize": 6.8}, linewidths=0.5, cbar=False)  # fmt: skip
            for number in axis.texts:
                number.set_color("white" if float(number.get_text()) > 0.55 * top else "#222222")
            axis.set(xlabel="", ylabel="")
            axis.set_title(f"{BENCHMARK_NAMES.get(benchmark, benchmark)}, {system}", loc="left")
            axis.grid(False)
            axis.tick_params(length=0, rotation=0)
        bar = figure.colorbar(axes[0, 0].collections[0], ax=axes, shrink=0.6, aspect=30, pad=0.02)
        bar.set_label("same answer (% of questions)")
        bar.outline.set_visible(False)
    return figure, data


def solved_languages(solved: pd.DataFrame, systems: Sequence[str] | None = None) -> tuple[Figure, pd.DataFrame]:
    """In how many of the languages questions are solved: a row a system, a column a number of languages.

    Args:
        solved: rows of `consistency.solved_languages`; several seeds are averaged.
        systems: rows and their order.
    """
    systems = list(dict.fromkeys(solved["system"])) if systems is None else list(systems)
    rows = solved[solved["system"].isin(systems)]
    keys = ["benchmark", "system", "languages"]
    data = rows.groupby(keys, sort=False)[["questions", "percent"]].mean().reset_index()
    benchmarks = list(dict.fromkeys(data["benchmark"]))
    with style():
        figure, axes = panels(len(benchmarks), 0.95 + 0.27 * len(systems), across=True)
        for axis, benchmark in zip(axes, benchmarks, strict=True):
            table = data[data["benchmark"] == benchmark].pivot(index="system", columns="languages", values="percent")
            table = table.loc[systems]
            words = table.map(lambda value: f"{value:.0f}" if value > 0 else "")
            sns.heatmap(table, ax=axis, vmin=0, vmax=100, cmap="Blues", annot=words, fmt="", linewidths=0.5,
                        annot_kws={"fontsize": 6.8}, cbar=False)  # fmt: skip
            for number in axis.texts:
                number.set_color("white" if float(number.get_text() or 0) > 55 else "#222222")
            axis.set(xlabel="languages in which a question is solved", ylabel="")
            axis.set_title(f"{BENCHMARK_NAMES.get(benchmark, benchmark)} (% of questions)", loc="left")
            axis.grid(False)
            axis.tick_params(length=0, rotation=0)
            outline(axis)
    return figure, data


def training_curves(training: pd.DataFrame) -> tuple[Figure, pd.DataFrame]:
    """Training loss by update on a logarithmic axis, one panel a stage, one line a lineage and seed.

    Args:
        training: `lineage` (`"questions-x-en/metamathqa"`), `seed, step, loss`; its last corpus is the stage.
    """
    data = training[["lineage", "seed", "step", "loss"]].reset_index(drop=True)
    split = data["lineage"].str.rpartition("/")
    data = data.assign(stage=split[2], after=split[0].replace("", "base").str.replace("/", ", "))
    stages, starts = list(dict.fromkeys(data["stage"])), list(dict.fromkeys(data["after"]))
    columns = 2 if len(stages) == 4 else min(3, len(stages))
    with style():
        figure = Figure(figsize=(WIDTH, 2.1 * -(-len(stages) // columns)))
        axes = figure.subplots(-(-len(stages) // columns), columns, squeeze=False).ravel()
        for axis, stage in zip(axes, stages, strict=False):
            here = data[data["stage"] == stage]
            for (after, _), part in here.groupby(["after", "seed"], sort=False):
                number = starts.index(after)
                axis.plot(part["step"], part["loss"], color=COLOURS[number % len(COLOURS)], linewidth=1.1,
                          linestyle=("-", "--", "-.", ":")[number % 4], label=f"from {after}")  # fmt: skip
            axis.set_title(stage, loc="left")
            axis.set_xlabel("update")
            axis.set_xlim(left=0)
            if (here["loss"] > 0).all():  # the first losses of a new task are a hundred times the last
                axis.set_yscale("log")
                plain_logarithm(axis)
            sns.despine(ax=axis)
        for axis in axes[len(stages) :]:
            axis.remove()
        figure.supylabel("training loss", fontsize=9)
        legend(figure, axes[: len(stages)])
    return figure, data


def length_histogram(lengths: pd.DataFrame, limit: int = 512) -> tuple[Figure, pd.DataFrame]:
    """How long the examples of each corpus are, with the length at which sequences are cut.

    Args:
        lengths: `corpus, tokens, examples`: how many examples have (up to) so many tokens.
        limit: tokens.
    """
    corpora = list(dict.fromkeys(lengths["corpus"]))
    longest = max(lengths["tokens"].max(), 1.05 * limit)
    edges = np.linspace(0, longest, 65)
    binned = []
    with style():
        columns = 2 if len(corpora) == 4 else min(3, len(corpora))
        figure = Figure(figsize=(WIDTH, 1.75 * -(-len(corpora) // columns)))
        axes = figure.subplots(-(-len(corpora) // columns), columns, squeeze=False, sharex=True).ravel()
        for axis, corpus in zip(axes, corpora, strict=False):
            part = lengths[lengths["corpus"] == corpus]
            counts, _ = np.histogram(part["tokens"], edges, weights=part["examples"])
            share = 100.0 * counts / counts.sum()
            over = 100.0 * part.loc[part["tokens"] > limit, "examples"].sum() / part["examples"].sum()
            axis.stairs(share, edges, fill=True, color="#0072b2", alpha=0.75)
            axis.axvline(limit, color="#333333", linestyle=(0, (4, 2)), linewidth=1)
            axis.set_title(corpus, loc="left")
            axis.set_title(f"{over:.1f}% over {limit}", loc="right", fontsize=7.5)
            axis.tick_params(labelbottom=True)
            axis.set_ylim(0, 1.1 * share.max())
            sns.despine(ax=axis)
            binned.append(pd.DataFrame({"corpus": corpus, "tokens_from": edges[:-1], "tokens_to": edges[1:],
                                        "examples": counts, "percent": share}))  # fmt: skip
        for axis in axes[len(corpora) :]:
            axis.remove()
        figure.supxlabel("tokens", fontsize=9)
        figure.supylabel("examples (%)", fontsize=9)
    return figure, pd.concat(binned, ignore_index=True)
