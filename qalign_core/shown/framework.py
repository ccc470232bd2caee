"""Figure 1: the two stages and what they are for, with one question of the miniature running through them."""

from __future__ import annotations

import textwrap

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

from qalign_core.languages import LANGUAGES
from qalign_core.miniature.folder import benchmark_problems
from qalign_core.miniature.language import question, solution
from qalign_core.shown.drawing import WIDTH, style

LANGUAGE = "ru"  # matplotlib's own font has no Thai, Bengali, Chinese or Japanese letters
EXAMPLE = 1  # of the miniature's mGSM: short, with two steps
CAPTION = (
    "Stage 1 teaches the model to say in English what a foreign question asks, stage 2 to solve English questions; "
    "together they let it solve foreign ones. Dashed: text that is not English. One question of the miniature runs "
    "through all rows, in Russian, with its reference solution, which is not a model's answer; "
    "training uses other questions than the benchmarks."
)
_HEIGHT = 4.5  # inches
_TEXT, _BOX, _MODEL = 2.45, 0.98, 1.1  # inches: width and height of a text's box, width of a model's
_FILLS = {True: "#fdf1d8", False: "#e3eff8"}  # foreign or English; a dashed edge tells them apart in grey


def steps(language: str = LANGUAGE, example: int = EXAMPLE) -> pd.DataFrame:
    """The figure's three rows as text: `step, objective, source, input, makes, target, output`.

    Args:
        language: code of the foreign question.
        example: which question of the miniature's in-domain benchmark.
    """
    problem = benchmark_problems("mgsm", example + 1)[example]
    foreign, english, solved = question(problem, language), question(problem, "en"), solution(problem, "en")
    rows = [
        ("Stage 1: question alignment", "learns to translate questions", language, foreign, "question", "en", english),
        ("Stage 2: response alignment", "learns to reason, in English only", "en", english, "solution", "en", solved),
        (
            "Then: a question in any language",
            "nothing more is trained",
            language,
            foreign,
            "solution",
            "en",
            solved,
        ),
    ]
    return pd.DataFrame(rows, columns=["step", "objective", "source", "input", "makes", "target", "output"])


def framework() -> tuple[Figure, pd.DataFrame]:
    """Figure 1: the two-stage framework, and the text in it."""
    data = steps()
    with style():
        figure = Figure(figsize=(WIDTH, _HEIGHT))
        axis = figure.subplots()
        axis.set(xlim=(0, WIDTH), ylim=(0, _HEIGHT))
        axis.axis("off")
        pitch, middle = _HEIGHT / 3, WIDTH / 2
        centres = [_HEIGHT - pitch * (row + 0.57) for row in range(3)]
        for centre, row in zip(centres, data.itertuples(index=False), strict=True):
            head = centre + _BOX / 2 + 0.13
            axis.text(0.05, head, row.step, fontsize=9.5, fontweight="bold", va="center")
            axis.text(WIDTH - 0.05, head, row.objective, fontsize=8.5, color="#444444", ha="right", va="center")
            _passage(axis, 0.05, centre, row.input, row.source, "question")
            _passage(axis, WIDTH - 0.05 - _TEXT, centre, row.output, row.target, row.makes)
            _model(axis, centre)
            _arrow(axis, (0.05 + _TEXT, centre), (middle - _MODEL / 2, centre))
            _arrow(axis, (middle + _MODEL / 2, centre), (WIDTH - 0.05 - _TEXT, centre))
        for above, below in zip(centres, centres[1:], strict=False):
            _arrow(axis, (middle, above - 0.3), (middle, below + 0.3), dashed=True)
            axis.text(middle + 0.08, (above + below) / 2, "weights", fontsize=7.5, color="#444444", va="center")
    return figure, data


def _passage(axis: Axes, left: float, centre: float, text: str, code: str, kind: str) -> None:
    """A box with running text and, in its corner, what it is."""
    foreign = code != "en"
    axis.add_patch(
        FancyBboxPatch(
            (left + 0.04, centre - _BOX / 2 + 0.04), _TEXT - 0.08, _BOX - 0.08, boxstyle="round,pad=0.04",
            facecolor=_FILLS[foreign], edgecolor="#333333", linewidth=0.9, linestyle="--" if foreign else "-",
        )
    )  # fmt: skip
    axis.text(left + 0.08, centre + _BOX / 2 - 0.1, f"{LANGUAGES[code].name} {kind}", fontsize=7, color="#555555",
              va="center", style="italic")  # fmt: skip
    axis.text(left + 0.08, centre - 0.07, textwrap.fill(text, 40), fontsize=7.2, va="center", linespacing=1.25)


def _model(axis: Axes, centre: float) -> None:
    axis.add_patch(
        FancyBboxPatch(
            (WIDTH / 2 - _MODEL / 2 + 0.06, centre - 0.24), _MODEL - 0.12, 0.48, boxstyle="round,pad=0.06",
            facecolor="#0b3c5d", edgecolor="none",
        )
    )  # fmt: skip
    axis.text(WIDTH / 2, centre, "language\nmodel", color="white", fontsize=8.5, ha="center", va="center")


def _arrow(axis: Axes, start: tuple[float, float], end: tuple[float, float], *, dashed: bool = False) -> None:
    axis.add_patch(
        FancyArrowPatch(
            start, end, arrowstyle="-|>", mutation_scale=9, shrinkA=1, shrinkB=1, color="#333333", linewidth=1,
            linestyle=(0, (3, 2)) if dashed else "-",
        )
    )  # fmt: skip
