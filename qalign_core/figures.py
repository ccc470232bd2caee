"""The paper's figures and ours, drawn from tables; one style, readable in grey and by the colour-blind.

Every function takes a table and returns the figure and the numbers it shows; `save_figure` writes both. Figure numbers
follow the paper. Nothing here needs a display.
"""

from __future__ import annotations

import io
import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

from qalign_core.languages import CODES, NON_ENGLISH
from qalign_core.runs import write_atomic

WIDTH = 6.8  # inches, the width of a text column
BENCHMARK_NAMES = {"mgsm": "mGSM", "msvamp": "mSVAMP"}
# Okabe and Ito's colours, ordered so that neighbours differ in lightness too.
_COLOURS = ("#e69f00", "#0072b2", "#56b4e9", "#000000", "#009e73", "#cc79a7", "#d55e00", "#999999")
_OWN_LOOKS = {
    "SFT": ("#c4c4c4", "o", ""),
    "MonoReason": ("#e69f00", "o", "///"),
    "MultiReason": ("#56b4e9", "^", "..."),
    "QAlign": ("#0072b2", "s", "xx"),
    "QAlign + mixed": ("#004d40", "D", "\\\\\\"),
}
_MARKERS = ("v", "P", "X", "*", "<", ">")
_HATCHES = ("--", "++", "oo", "||", "**", "")
_STYLE = {
    "font.family": "DejaVu Sans",  # comes with matplotlib: the same letters everywhere
    "font.size": 9,
    "axes.titlesize": 9.5,
    "axes.labelsize": 9,
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
    "legend.fontsize": 8.5,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.8,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.6,
    "hatch.linewidth": 0.6,
    "lines.linewidth": 1.4,
    "lines.markersize": 5,
    "figure.dpi": 110,
    "figure.constrained_layout.use": True,
    "svg.hashsalt": "qalign-core",
    "pdf.fonttype": 42,
}
_METADATA = {"svg": {"Date": None}, "pdf": {"CreationDate": None}, "png": {"Software": None}}


@contextmanager
def style() -> Iterator[None]:
    """The style shared by all figures."""
    with sns.axes_style("ticks"), mpl.rc_context(_STYLE):
        yield


def look(systems: Sequence[str]) -> dict[str, dict[str, str]]:
    """Colour, marker and hatch of each system; the paper's systems look the same in every figure."""
    taken = {colour for colour, _, _ in _OWN_LOOKS.values()}
    colours = itertools.cycle(colour for colour in _COLOURS if colour not in taken)
    spare = zip(colours, itertools.cycle(_MARKERS), itertools.cycle(_HATCHES), strict=False)
    looks = {system: _OWN_LOOKS[system] if system in _OWN_LOOKS else next(spare) for system in systems}
    return {name: dict(zip(("color", "marker", "hatch"), values, strict=True)) for name, values in looks.items()}


def save_figure(figure: Figure, folder: str | Path, name: str, data: pd.DataFrame, caption: str = "") -> list[Path]:
    """Write `<name>.svg`, `.png`, `.pdf`, `.csv` (the numbers shown) and `.txt` (the caption, if there is one).

    The same figure gives the same bytes: no dates, and identifiers that do not change.
    """
    folder, paths = Path(folder), []
    with style():
        for suffix, metadata in _METADATA.items():
            buffer = io.BytesIO()
            figure.savefig(buffer, format=suffix, metadata=metadata, dpi=200, bbox_inches="tight", pad_inches=0.05)
            paths.append(write_atomic(folder / f"{name}.{suffix}", buffer.getvalue()))
    paths.append(
        write_atomic(folder / f"{name}.csv", data.to_csv(index=False, float_format="%.10g", lineterminator="\n"))
    )
    if caption:
        paths.append(write_atomic(folder / f"{name}.txt", caption.rstrip() + "\n"))
    return paths


def _panels(count: int, height: float, *, across: bool = False, share_y: bool = True) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(WIDTH, height if across else height * count))
    rows, columns = (1, count) if across else (count, 1)
    axes = figure.subplots(rows, columns, squeeze=False, sharey=share_y)
    return figure, list(axes.ravel())


def _legend(figure: Figure, axes: Sequence[Axes], last: Sequence[str] = ("floor", "chance")) -> None:
    """One legend above all panels, outside the data: systems in order, then lines of reference."""
    entries = {}
    for axis in axes:
        entries |= {label: handle for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)}
    labels = sorted(entries, key=lambda label: label in last)
    figure.legend([entries[label] for label in labels], labels, loc="outside upper center", ncols=min(len(labels), 6),
                  columnspacing=1.2, handlelength=1.6, handletextpad=0.6)  # fmt: skip


def _percent_axis(axis: Axes, top: float, label: str) -> None:
    axis.set_ylim(0, min(103, max(10, 1.08 * top)))
    axis.set_ylabel(label)
    sns.despine(ax=axis)


def _languages_axis(axis: Axes, languages: Sequence[str]) -> None:
    axis.set_xticks(range(len(languages)), languages)
    axis.tick_params(axis="x", length=0)
    axis.set_xlim(-0.6, len(languages) - 0.4)


def _bars(axis: Axes, position: np.ndarray, rows: pd.DataFrame, width: float, looks: dict, label: str) -> None:
    """Bars with 95% intervals."""
    errors = np.clip([rows["estimate"] - rows["low"], rows["high"] - rows["estimate"]], 0, None)
    axis.bar(position, rows["estimate"], width, color=looks["color"], edgecolor="white", linewidth=0.4, label=label,
             hatch=looks["hatch"])  # fmt: skip
    halo = [withStroke(linewidth=2.2, foreground="white")]  # the interval stays visible on a dark bar
    axis.errorbar(position, rows["estimate"], errors, fmt="none", ecolor="#222222", elinewidth=0.9, capsize=1.8,
                  path_effects=halo)  # fmt: skip


def _mean_over_seeds(rows: pd.DataFrame, keys: Sequence[str]) -> pd.DataFrame:
    """Estimates averaged over seeds. The ends become the smallest and largest end of any seed's interval."""
    grouped = rows.groupby(list(keys), sort=False)
    return grouped.agg(
        estimate=("estimate", "mean"), low=("low", "min"), high=("high", "max"), seeds=("seed", "nunique")
    ).reset_index()


# -------------------------------------------------------------------------------- figures


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
        figure, axes = _panels(len(benchmarks), 2.35)
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
                                  elinewidth=1, markersize=5 if len(seeds) == 1 else 3.5,
                                  label=system if number == 0 else None)  # fmt: skip
            if floor is not None and (floor["benchmark"] == benchmark).any():
                level = floor[floor["benchmark"] == benchmark].set_index("language")["accuracy"].reindex(languages)
                edges = np.repeat(np.arange(len(languages) + 1) - 0.5, 2)[1:-1]
                axis.plot(
                    edges, np.repeat(level, 2), color="#555555", linestyle=(0, (4, 2)), linewidth=1, label="floor"
                )
            _languages_axis(axis, languages)
            _percent_axis(axis, here["high"].max(), "accuracy (%)")
            axis.set_title(BENCHMARK_NAMES.get(benchmark, benchmark), loc="left")
        _legend(figure, axes)
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
    data = _mean_over_seeds(rows, ["benchmark", "system"])
    benchmarks = list(dict.fromkeys(data["benchmark"]))
    with style():
        figure = Figure(figsize=(0.62 * WIDTH, 2.7))
        axis = figure.subplots()
        width = 0.8 / len(systems)
        for number, (system, looks) in enumerate(look(systems).items()):
            part = data[data["system"] == system].set_index("benchmark").reindex(benchmarks)
            position = np.arange(len(benchmarks)) + width * (number - (len(systems) - 1) / 2)
            _bars(axis, position, part, 0.92 * width, looks, system)
            for x, value, high in zip(position, part["estimate"], part["high"], strict=True):
                axis.annotate(f"{value:.1f}", (x, high), (0, 2), textcoords="offset points", ha="center", fontsize=8)
        axis.set_xticks(range(len(benchmarks)), [BENCHMARK_NAMES.get(name, name) for name in benchmarks])
        axis.tick_params(axis="x", length=0)
        _percent_axis(axis, 1.06 * data["high"].max(), "average accuracy (%)")
        _legend(figure, [axis])
    return figure, data


def consistency(
    intervals: pd.DataFrame, chance: pd.DataFrame | None = None, systems: Sequence[str] | None = None
) -> tuple[Figure, pd.DataFrame]:
    """Figure 3: share of questions answered as in English, a language and system, with intervals and chance floor.

    Args:
        intervals: `comparisons.intervals` of `scorer.agreement` (`column="agrees"`).
        chance: rows of `scorer.consistency`, whose column `chance` is drawn as a line across each bar.
        systems: bars and their order.
    """
    systems = list(dict.fromkeys(intervals["system"])) if systems is None else list(systems)
    rows = intervals[intervals["system"].isin(systems) & intervals["measure"].isin(NON_ENGLISH)]
    data = _mean_over_seeds(rows, ["benchmark", "system", "measure"]).rename(columns={"measure": "language"})
    if chance is not None:
        floors = chance.groupby(["benchmark", "system", "language"], sort=False)["chance"].mean().reset_index()
        data = data.merge(floors, how="left")
    benchmarks = list(dict.fromkeys(data["benchmark"]))
    with style():
        figure, axes = _panels(len(benchmarks), 2.2)
        for axis, benchmark in zip(axes, benchmarks, strict=True):
            here = data[data["benchmark"] == benchmark]
            languages = [code for code in CODES if code in set(here["language"])]
            width = 0.84 / len(systems)
            for number, (system, looks) in enumerate(look(systems).items()):
                part = here[here["system"] == system].set_index("language").reindex(languages)
                position = np.arange(len(languages)) + width * (number - (len(systems) - 1) / 2)
                _bars(axis, position, part, 0.94 * width, looks, system)
                if chance is not None:
                    ends = position - 0.47 * width, position + 0.47 * width
                    label = "chance" if number == len(systems) - 1 else None
                    axis.hlines(part["chance"], *ends, color="#d7191c", linewidth=1.2, label=label)
            _languages_axis(axis, languages)
            _percent_axis(axis, here["high"].max(), "")
            axis.set_title(BENCHMARK_NAMES.get(benchmark, benchmark), loc="left")
        figure.supylabel("same answer as in English (%)", fontsize=9)
        _legend(figure, axes)
    return figure, data


def training_curves(training: pd.DataFrame) -> tuple[Figure, pd.DataFrame]:
    """Training loss by update, one panel a stage, one line a lineage and seed.

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
                axis.plot(part["step"], part["loss"], color=_COLOURS[number % len(_COLOURS)], linewidth=1.1,
                          linestyle=("-", "--", "-.", ":")[number % 4], label=f"from {after}")  # fmt: skip
            axis.set_title(stage, loc="left")
            axis.set_xlabel("update")
            axis.set_ylim(bottom=0)
            sns.despine(ax=axis)
        for axis in axes[len(stages) :]:
            axis.remove()
        figure.supylabel("training loss", fontsize=9)
        _legend(figure, axes[: len(stages)])
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
