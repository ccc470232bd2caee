"""What a reader must be told in plain words: the text below a table or figure, and warnings before the numbers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import pandas as pd

from qalign_core import statistics
from qalign_core.scores.published import SECONDARY
from qalign_core.shown.paper_tables import BENCHMARKS

NEAR_ZERO = 5.0  # percent
ACROSS_SEEDS = "Shown: the mean over seeds, with the lowest and highest end of any seed's interval."


def caption(
    profile: str,
    seeds: Sequence[int],
    questions: int | Mapping[str, int],
    *,
    scorer: str = "paper",
    method: str | None = None,
    published_size: str | None = None,
    floor: bool = False,
    gap: bool = False,
    each: bool = False,
    extra: str = "",
) -> str:
    """The text below a table or figure.

    Args:
        profile: name of the profile.
        seeds: of the runs behind it.
        questions: a language, or benchmark → questions a language.
        scorer: which scorer's numbers these are.
        method: how the intervals were made.
        published_size: size of LLaMA-2 behind the published numbers, if there are any.
        floor: whether a language-blind floor is shown.
        gap: whether the gap is.
        each: whether every seed is shown by itself; else several are averaged.
        extra: one more sentence.
    """
    averaged = len(seeds) > 1 and not each
    many = f"mean over {len(seeds)} seeds ({', '.join(map(str, seeds))})" if averaged else seeds_of(seeds)
    counts = questions if isinstance(questions, Mapping) else {"": questions}
    number = " and ".join(
        f"{n:,}" + (f" ({BENCHMARKS[name][1]})" if len(counts) > 1 else "") for name, n in counts.items()
    )
    fewest = min(counts.values())
    low, high = statistics.wilson(round(fewest / 2), fewest)
    parts = [
        f"Profile {profile}, {many}, {number} questions a language, {scorer} scorer.",
        f"95% intervals: {method}."
        if method
        else f"Near 50% the 95% interval of one language, of one seed, is {high - low:.0f} points wide or more.",
    ]
    if gap:
        parts.append("Gap: English minus the mean of the other languages, in points.")
    if published_size:
        parts.append(f"Grey rows: published numbers, LLaMA-2 {published_size}; {SECONDARY} marks secondary sources.")
    if floor:
        parts.append("Floor: what a rule reaches that sees a question's digits and none of its words.")
    return " ".join([*parts, extra]).strip()


def seeds_of(seeds: Iterable[int]) -> str:
    """Such as `seed 1`, or `seeds 1, 2, 3`; each once."""
    named = list(dict.fromkeys(map(int, seeds)))
    return f"seed{'s' if len(named) > 1 else ''} {', '.join(map(str, named))}"


def remarks(accuracy: pd.DataFrame, floor: pd.DataFrame | None = None, scorer: str = "paper") -> list[str]:
    """What a reader must be told in plain words before reading the numbers; empty when there is nothing to warn of.

    Args:
        accuracy: rows of `scorer.accuracy`.
        floor: `benchmark, language, accuracy` of the language-blind floor.
        scorer: whose numbers are read.
    """
    said = []
    for benchmark, rows in accuracy[accuracy["scorer"] == scorer].groupby("benchmark", sort=False):
        name = BENCHMARKS.get(benchmark, ("", benchmark))[1]
        means = rows.groupby(["system", "seed"], sort=False)["accuracy"].mean()
        if rows["accuracy"].max() < NEAR_ZERO:
            said.append(
                f"{name}: every accuracy is under {NEAR_ZERO:g}%. This run checks that every part works on this input; "
                "its numbers mean nothing, and no system can be said to be better than another."
            )
        elif means.max() < NEAR_ZERO:
            said.append(f"{name}: every average is under {NEAR_ZERO:g}%; differences between systems mean little.")
        if floor is not None and (floor["benchmark"] == benchmark).any():
            level = floor.loc[floor["benchmark"] == benchmark, "accuracy"].mean()
            below = [system for system, seed in means.index if means[system, seed] <= level]
            if len(below) == len(means):
                said.append(
                    f"{name}: on average no system is above the language-blind floor of {level:.1f}%: a rule "
                    "that never reads a word does as well."
                )
            elif below:
                said.append(
                    f"{name}: {', '.join(dict.fromkeys(below))}: on average not above the language-blind floor "
                    f"of {level:.1f}%."
                )
        few = int(rows["total"].min())
        if few < 100:
            said.append(f"{name}: only {few} questions a language; single languages are mostly noise.")
    return said


def method_of(intervals: pd.DataFrame) -> str:
    """Such as `Wilson for one language, cluster bootstrap for means`."""
    single = intervals[~intervals["measure"].isin(["average", "non_english", "gap"])]
    wilson = single.loc[single["method"] == "Wilson", "benchmark"].unique()
    if not len(wilson):
        return "bootstrap over groups of near-duplicate questions"
    names = " and ".join(BENCHMARKS[name][1] for name in wilson)
    return f"Wilson for one language of {names}, otherwise bootstrap over clusters of questions"


FEW_GROUPS = 20  # clusters below which resampling them gives intervals that are too narrow


def few_groups(intervals: pd.DataFrame) -> str:
    """A warning where a benchmark's questions form only a few groups; nothing otherwise.

    Args:
        intervals: rows of `comparisons.intervals`.
    """
    if "clusters" not in intervals:
        return ""
    groups = intervals.groupby("benchmark", sort=False)["clusters"].min()
    said = [f"{BENCHMARKS[name][1]} {int(count)}" for name, count in groups.items() if 1 < count < FEW_GROUPS]
    if not said:
        return ""
    return f"The questions form only few groups ({', '.join(said)}): resampling so few gives intervals too narrow."
