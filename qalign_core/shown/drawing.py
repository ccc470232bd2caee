"""How every figure looks and is written: one style, readable in grey and by the colour-blind, the same bytes each time.

Nothing here needs a display.
"""

from __future__ import annotations

import io
import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

from qalign_core.runs import write_atomic

WIDTH = 6.8  # inches, the width of a text column
BENCHMARK_NAMES = {"mgsm": "mGSM", "msvamp": "mSVAMP"}
# Okabe and Ito's colours, ordered so that neighbours differ in lightness too.
COLOURS = ("#e69f00", "#0072b2", "#56b4e9", "#000000", "#009e73", "#cc79a7", "#d55e00", "#999999")
_OWN_LOOKS = {
    "SFT": ("#c4c4c4", "o", ""),
    "MonoReason": ("#e69f00", "o", "///"),
    "Translate-test": ("#cc79a7", "X", "oo"),
    "MultiReason": ("#56b4e9", "^", "..."),
    "QAlign": ("#0072b2", "s", "xx"),
    "QAlign + mixed": ("#004d40", "D", "\\\\\\"),
}
HALO = withStroke(linewidth=1.9, foreground="white")  # what lies on a dark bar stays visible
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
    "text.parse_math": False,  # a dollar in the name of a system is a dollar
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
    colours = itertools.cycle(colour for colour in COLOURS if colour not in taken)
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


def panels(count: int, height: float, *, across: bool = False, share_y: bool = True) -> tuple[Figure, list[Axes]]:
    """A figure of the text's width with panels below or, `across`, beside one another."""
    figure = Figure(figsize=(WIDTH, height if across else height * count))
    rows, columns = (1, count) if across else (count, 1)
    axes = figure.subplots(rows, columns, squeeze=False, sharey=share_y)
    return figure, list(axes.ravel())


def legend(figure: Figure, axes: Sequence[Axes], last: Sequence[str] = ("floor", "chance")) -> None:
    """One legend above all panels, outside the data: systems in order, then lines of reference."""
    entries: dict[str, Any] = {}
    for axis in axes:
        entries |= {label: handle for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)}
    labels = sorted(entries, key=lambda label: label in last)
    columns = -(-len(labels) // -(-len(labels) // 6))  # at most six, in rows of the same length
    figure.legend([entries[label] for label in labels], labels, loc="outside upper center", ncols=columns,
                  columnspacing=1.2, handlelength=1.6, handletextpad=0.6)  # fmt: skip


def percent_axis(axis: Axes, top: float, label: str) -> None:
    axis.set_ylim(0, min(103, max(10, 1.08 * top)))
    axis.set_ylabel(label)
    axis.yaxis.set_major_locator(MaxNLocator("auto", steps=[1, 2, 5, 10], integer=True))
    sns.despine(ax=axis)


def languages_axis(axis: Axes, languages: Sequence[str]) -> None:
    axis.set_xticks(range(len(languages)), languages)
    axis.tick_params(axis="x", length=0)
    axis.set_xlim(-0.6, len(languages) - 0.4)


def plain_logarithm(axis: Axes) -> None:
    """Write the numbers of a logarithmic y axis as they are said: 0.05, 0.1, 1."""
    axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5), numticks=12))
    axis.yaxis.set_major_formatter("{x:g}")
    axis.yaxis.set_minor_locator(NullLocator())


def outline(axis: Axes) -> None:
    """A thin frame around a map, whose palest cells are as white as the page."""
    for spine in axis.spines.values():
        spine.set(visible=True, color="#999999", linewidth=0.6)


def bars(axis: Axes, position: np.ndarray, rows: pd.DataFrame, width: float, looks: dict, label: str) -> None:
    """Bars with 95% intervals."""
    errors = np.clip([rows["estimate"] - rows["low"], rows["high"] - rows["estimate"]], 0, None)
    axis.bar(position, rows["estimate"], width, color=looks["color"], edgecolor="white", linewidth=0.4, label=label,
             hatch=looks["hatch"])  # fmt: skip
    narrow = WIDTH * width / len(rows) < 0.15  # inches
    axis.errorbar(position, rows["estimate"], errors, fmt="none", ecolor="#222222", elinewidth=0.8 if narrow else 0.9,
                  capsize=0 if narrow else 1.8, path_effects=[HALO])  # fmt: skip
