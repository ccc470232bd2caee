"""Every table and figure of a run, drawn from its saved results; and what a reader must be told in plain words.

`python -m qalign_core.report RESULTS FIGURES` redraws everything, without torch.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console

from qalign_core import drawing, figures, framework, statistics
from qalign_core.consistency_tables import consistency_table, split_table
from qalign_core.paper_tables import (
    BENCHMARKS,
    SECONDARY,
    ablation_table,
    accuracy_table,
    comparison_table,
    data_table,
    gap_table,
)
from qalign_core.published import published
from qalign_core.response_tables import cleaned_table, errors_table, responses_table
from qalign_core.results import OURS, Results, read_results, write_results
from qalign_core.tables import Table, print_table, save_table, side_by_side, styled

__all__ = [
    "ablation_table",
    "accuracy_table",
    "caption",
    "comparison_table",
    "consistency_table",
    "data_table",
    "gap_table",
    "print_table",
    "published",
    "redraw",
    "remarks",
    "run_tables",
    "save_table",
    "side_by_side",
    "split_table",
    "styled",
    "write_results",
]

NEAR_ZERO = 5.0  # percent
CONSISTENCY = ("figure-3", "figure-agreement", "figure-solved", "table-consistency")  # what chapter 5 draws


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
        extra: one more sentence.
    """
    many = f"mean over {len(seeds)} seeds ({', '.join(map(str, seeds))})" if len(seeds) > 1 else f"seed {seeds[0]}"
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
        else f"Near 50% the 95% interval of one language is {high - low:.0f} points wide.",
    ]
    if gap:
        parts.append("Gap: English minus the mean of the other languages, in points.")
    if published_size:
        parts.append(f"Grey rows: published numbers, LLaMA-2 {published_size}; {SECONDARY} marks secondary sources.")
    if floor:
        parts.append("Floor: what a rule reaches that sees a question's digits and none of its words.")
    return " ".join([*parts, extra]).strip()


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
                    f"{name}: no system is above the language-blind floor of {level:.1f}%: a rule that "
                    "never reads a word does as well."
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


# -------------------------------------------------------------------------------- redrawing


def _caption(results: Results, benchmarks: Sequence[str], **words: Any) -> str:
    questions = {name: results.run["questions"][name] for name in benchmarks}
    return caption(results.run["profile"], results.run["seeds"], questions, scorer=results.run["scorer"], **words)


def _method(intervals: pd.DataFrame) -> str:
    """Such as `Wilson for one language, cluster bootstrap for means`."""
    single = intervals[~intervals["measure"].isin(["average", "non_english", "gap"])]
    wilson = single.loc[single["method"] == "Wilson", "benchmark"].unique()
    if not len(wilson):
        return "bootstrap over groups of near-duplicate questions"
    names = " and ".join(BENCHMARKS[name][1] for name in wilson)
    return f"Wilson for one language of {names}, otherwise bootstrap over clusters of questions"


def run_tables(results: Results) -> list[Table]:
    """The tables of a run: Table 1 if its data is there, Tables 2 and 3, the gap, comparisons, Table 4."""
    data, size, mode = results.tables, results.run["base_size"], results.run["scorer"]
    names = {name: entry["published"] for name, entry in results.systems.items() if entry.get("published")}
    floor = data.get("floor")
    made = [data_table(data["corpora"], caption=f"Profile {results.run['profile']}.")] if "corpora" in data else []
    benchmarks = list(dict.fromkeys(data["accuracy"]["benchmark"]))
    for benchmark in benchmarks:
        level = None if floor is None else floor[floor["benchmark"] == benchmark].set_index("language")["accuracy"]
        level = None if level is None or level.empty else level.to_dict()
        words = _caption(results, [benchmark], published_size=size, floor=level is not None, gap=True)
        made.append(
            accuracy_table(
                data["accuracy"],
                benchmark,
                caption=words,
                scorer=mode,
                systems=results.main(),
                published_as=names,
                published_size=size,
                floor=level,
            )
        )
    intervals = data["intervals"]
    words = _caption(results, benchmarks, method=_method(intervals), gap=True)
    made.append(gap_table(intervals, caption=words, systems=results.main()))
    if len(data["comparisons"]):
        words = _caption(
            results,
            benchmarks,
            method="paired bootstrap over clusters of questions; p by flipping the signs of clusters, two-sided",
            extra="Question intervals leave out what training with another seed would change.",
        )
        made.append(comparison_table(data["comparisons"], caption=words))
    made += _response_tables(results)
    if _has_consistency(results):
        made += _consistency_tables(results, benchmarks)
    if "ablations" in data:
        rows = {"MonoReason": "none", OURS: "X→En questions (ours)"}
        rows |= {name: name for name, entry in results.systems.items() if entry.get("table") == "ablation"}
        rows = {name: label for name, label in rows.items() if name in results.systems}
        words = _caption(results, benchmarks, method=_method(intervals), extra="To ours: paired difference in points.")
        made.append(ablation_table(intervals, data["ablations"], rows, caption=words))
    return made


def _response_tables(results: Results) -> list[Table]:
    """How responses end and in which language, wrong answers by kind, and scores without broken questions."""
    data, seeds = results.tables, results.run["seeds"]
    words = f"Profile {results.run['profile']}, seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}."
    made = [responses_table(data["responses"], caption=words)] if "responses" in data else []
    if "errors" in data:
        made.append(errors_table(data["errors"], caption=words))
    if "cleaned" in data:
        scorer = results.run["scorer"]
        made.append(cleaned_table(data["cleaned"], scorer=scorer, caption=f"{words[:-1]}, {scorer} scorer."))
    return made


def _consistency_tables(results: Results, benchmarks: Sequence[str]) -> list[Table]:
    """Figure 3 in numbers, a table a benchmark, and what agreement is made of."""
    data, made = results.tables, []
    for benchmark in benchmarks:
        extra = "No number: responses without one, in all languages; they never agree."
        words = _caption(results, [benchmark], method="bootstrap over clusters of questions", extra=extra)
        made.append(
            consistency_table(
                data["agreement"],
                data["consistency"],
                benchmark,
                differences=data.get("agreement_differences"),
                caption=words,
                systems=results.main(),
            )
        )
    extra = "In brackets: chance, the questions permuted. Means over languages and seeds; same if both wrong: pooled."
    made.append(
        split_table(data["consistency"], caption=_caption(results, benchmarks, extra=extra), systems=results.main())
    )
    return made


def _figures(results: Results) -> dict[str, tuple]:
    """name → (figure, its data, caption) of every figure the results allow."""
    data, main = results.tables, results.main()
    benchmarks = list(dict.fromkeys(data["accuracy"]["benchmark"]))
    words = _caption(results, benchmarks, method=_method(data["intervals"]))
    if len(results.run["seeds"]) > 1:
        words += " Bars: mean over seeds, with the lowest and highest end of any seed's interval."
    floor = data.get("floor")
    made: dict[str, tuple] = {"figure-1-framework": (*framework.framework(), framework.CAPTION)}
    pair = [name for name in ("MonoReason", "QAlign") if name in main]
    if len(pair) == 2:
        sentence = " Dashed: the language-blind floor." if floor is not None else ""
        made["figure-headline"] = (*figures.headline(data["intervals"], pair, floor), words + sentence)
    mixed = [name for name in ("MultiReason", "QAlign", "QAlign + mixed") if name in main]
    if len(mixed) == 3:
        made["figure-2-mixed-supervision"] = (*figures.mixed_supervision(data["intervals"], mixed), words)
    if _has_consistency(results):
        made |= _consistency_figures(results, benchmarks, pair)
    profile = f"Profile {results.run['profile']}."
    if "training" in data:
        made["figure-training"] = (*figures.training_curves(data["training"]), f"{profile} Loss of each update.")
    if "lengths" in data:
        lengths = figures.length_histogram(data["lengths"])
        made["figure-lengths"] = (*lengths, f"{profile} Prompt, target and markers; dashed: cut at 512 tokens.")
    return made


def _has_consistency(results: Results) -> bool:
    return {"agreement", "consistency", "agreement_map", "solved"} <= results.tables.keys()


def _consistency_figures(results: Results, benchmarks: Sequence[str], pair: Sequence[str]) -> dict[str, tuple]:
    """Figure 3, the map of languages (if both systems of the pair were run), and questions by languages solved."""
    data, main = results.tables, results.main()
    sentence = " Red: the same answers with the questions permuted. A response without a number never agrees."
    made = {
        "figure-3-consistency": (
            *figures.consistency(data["agreement"], data["consistency"], main),
            _caption(results, benchmarks, method=_method(data["agreement"])) + sentence,
        ),
        "figure-solved-languages": (
            *figures.solved_languages(data["solved"], main),
            _caption(results, benchmarks) + " Questions by the number of languages in which they are solved.",
        ),
    }
    if len(pair) == 2:
        sentence = " Each cell: questions answered alike in two languages. A response without a number never agrees."
        made["figure-agreement-map"] = (
            *figures.agreement_map(data["agreement_map"], pair), _caption(results, benchmarks) + sentence
        )  # fmt: skip
    return made


def redraw(results_folder: str | Path, figures_folder: str | Path, only: Sequence[str] = ("",)) -> list[Path]:
    """Write every table and figure of a results folder; the same results give the same bytes.

    Args:
        results_folder: `runs/<profile>/results`.
        figures_folder: where to write.
        only: write those whose names begin with one of these.

    Returns:
        The files written.

    Raises:
        FileNotFoundError: where the evaluation's results are missing.
    """
    results = read_results(results_folder)
    tables = [table for table in run_tables(results) if table.name.startswith(tuple(only))]
    paths = [path for table in tables for path in save_table(table, figures_folder)]
    for name, (figure, shown, words) in _figures(results).items():
        if name.startswith(tuple(only)):
            paths += drawing.save_figure(figure, figures_folder, name, shown, words)
    return paths


def main(arguments: Sequence[str]) -> int:
    """`python -m qalign_core.report RESULTS FIGURES`: redraw, print Tables 2 and 3, and say what was not there."""
    if len(arguments) != 2:
        print("usage: python -m qalign_core.report RESULTS FIGURES", file=sys.stderr)
        return 2
    try:
        results = read_results(arguments[0])
        paths = redraw(*arguments)
    except (OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    console = Console()
    for table in run_tables(results):
        if table.name.startswith(("table-2", "table-3")):
            print_table(table, console)
            console.print()
    for remark in remarks(results.tables["accuracy"], results.tables.get("floor"), results.run["scorer"]):
        console.print(remark, style="bold", markup=False, highlight=False)
    for name in results.absent:
        console.print(f"not drawn: what needs {name}, which is not in {arguments[0]}", markup=False, highlight=False)
    console.print(f"{len(paths)} files in {arguments[1]}", markup=False, highlight=False)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
