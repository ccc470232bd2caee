"""Every table and figure of a run, drawn from its saved results; and what a reader must be told in plain words.

`python -m qalign_core.report RESULTS FIGURES` redraws everything, without torch.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console

from qalign_core.languages import CODES
from qalign_core.scores.published import published
from qalign_core.scores.results import Results, read_results, write_results
from qalign_core.shown import ablation_report, drawing, figures, framework
from qalign_core.shown.ablation_tables import ablation_table
from qalign_core.shown.accuracy_tables import accuracy_table, mixed_table
from qalign_core.shown.captions import ACROSS_SEEDS, NEAR_ZERO, caption, few_groups, method_of, remarks, seeds_of
from qalign_core.shown.comparison_tables import comparison_table, languages_table, seeds_table
from qalign_core.shown.consistency_tables import consistency_table, split_table
from qalign_core.shown.paper_tables import BENCHMARKS, data_table, gap_table
from qalign_core.shown.response_tables import cleaned_table, corrected_table, errors_table, responses_table
from qalign_core.shown.tables import Table, print_table, save_table, styled
from qalign_core.shown.trace_tables import trace_table

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
    "split_table",
    "styled",
    "write_results",
]

ACCURACY = ("table-2", "table-3", "table-accuracy")  # the last: of a benchmark that is not the paper's
MIXED = ("MultiReason", "QAlign", "QAlign + mixed")  # Figure 2
PAPER_LIMIT = 512  # tokens, of results that do not say at which length their run cut
CONSISTENCY = ("figure-3", "figure-agreement", "figure-solved", "table-consistency")  # what chapter 5 draws


# -------------------------------------------------------------------------------- redrawing


def _caption(results: Results, benchmarks: Sequence[str], **words: Any) -> str:
    questions = {name: results.run["questions"][name] for name in benchmarks}
    return caption(results.run["profile"], results.run["seeds"], questions, scorer=results.run["scorer"], **words)


def run_tables(results: Results) -> list[Table]:
    """The tables of a run: Table 1 if its data is there, Tables 2 and 3, what is chance, responses, Table 4."""
    data = results.tables
    made = [data_table(data["corpora"], caption=f"Profile {results.run['profile']}.")] if "corpora" in data else []
    benchmarks = list(dict.fromkeys(data["accuracy"]["benchmark"]))
    made += [_accuracy_table(results, benchmark) for benchmark in benchmarks]
    intervals = data["intervals"]
    words = _words(results, benchmarks, intervals, gap=True, extra=few_groups(intervals))
    made.append(gap_table(intervals, caption=words, systems=results.main()))
    made += _chance_tables(results, benchmarks)
    mixed = [name for name in MIXED if name in results.main()]
    if len(mixed) == len(MIXED):
        words = _words(results, benchmarks, intervals)
        made.append(mixed_table(intervals, mixed, caption=words))
    made += _response_tables(results)
    if _has_consistency(results):
        made += _consistency_tables(results, benchmarks)
    made += ablation_report.tables(results)
    return made


def _accuracy_table(results: Results, benchmark: str) -> Table:
    """Table 2 or 3."""
    data, size, floor = results.tables, results.run["base_size"], results.tables.get("floor")
    level = None if floor is None else floor[floor["benchmark"] == benchmark].set_index("language")["accuracy"]
    level = None if level is None or level.empty else level.to_dict()
    own = data["intervals"][data["intervals"]["benchmark"] == benchmark]
    return accuracy_table(
        data["accuracy"],
        benchmark,
        caption=_caption(results, [benchmark], published_size=size, floor=level is not None, gap=True),
        scorer=results.run["scorer"],
        systems=results.main(),
        published_as={n: entry["published"] for n, entry in results.systems.items() if entry.get("published")},
        published_size=size,
        floor=level,
        intervals=own,
        unfolded=_caption(results, [benchmark], method=method_of(own), gap=True, each=True, extra=few_groups(own)),
    )


def _chance_tables(results: Results, benchmarks: Sequence[str]) -> list[Table]:
    """What may be chance: declared differences, the same language by language, and what another seed changes."""
    data, made = results.tables, []
    extra = "Question intervals leave out what training with another seed would change."
    if len(data["comparisons"]):
        method = "paired bootstrap over clusters of questions; p by flipping the signs of clusters, two-sided"
        warned = f"{extra} {few_groups(data['intervals'])}".strip()
        words = _caption(results, benchmarks, method=method, each=True, extra=warned)
        made.append(comparison_table(data["comparisons"], caption=words))
    if len(data["languages"]):
        tested = list(dict.fromkeys(data["languages"]["benchmark"]))
        single = data["intervals"]["measure"].isin(CODES) & data["intervals"]["benchmark"].isin(tested)
        clustered = (data["intervals"].loc[single, "method"] != "Wilson").any()
        words = f"Profile {results.run['profile']}, {results.run['scorer']} scorer. {extra}"
        made.append(languages_table(data["languages"], clustered=bool(clustered), caption=words))
    if len(results.run["seeds"]) > 1:
        words = (
            f"Profile {results.run['profile']}, {results.run['scorer']} scorer. Every seed draws corpora and order "
            "again, and a base model where the profile trains one; the range is no interval. Gap: English minus the "
            "mean of the other languages, in points."
        )
        made.append(seeds_table(data["intervals"], results.main(), caption=words))
    return made


def _response_tables(results: Results) -> list[Table]:
    """How responses end and in which language, wrong answers by kind, scores on mended benchmarks, and the trace."""
    data, seeds = results.tables, results.run["seeds"]
    words = f"Profile {results.run['profile']}, seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}."
    made = []
    if "responses" in data:
        made.append(responses_table(data["responses"], data.get("identified"), caption=words))
    if "errors" in data:
        made.append(errors_table(data["errors"], caption=words))
    scored = f"{words[:-1]}, {results.run['scorer']} scorer."
    for name, averages, title in (
        ("cleaned", cleaned_table, "{} without broken questions. Accuracy on {} (%)"),
        ("corrected", corrected_table, "{} on corrected questions and golds. Accuracy on {} (%)"),
    ):
        if name in data:
            again = [
                accuracy_table(
                    data[name].assign(accuracy=data[name][name]),
                    benchmark,
                    caption=scored,
                    scorer=results.run["scorer"],
                    systems=results.main(),
                    published_size=None,
                    named=(
                        f"table-{name}-{benchmark}",
                        title.format(BENCHMARKS[benchmark][0] or benchmark, BENCHMARKS[benchmark][1]),
                    ),
                )
                for benchmark in dict.fromkeys(data[name]["benchmark"])
            ]
            table = averages(data[name], scorer=results.run["scorer"], caption=scored)
            made.append(replace(table, details=tuple(again)))
    return made + ([trace_table(data["trace"], caption=words)] if "trace" in data else [])


def _consistency_tables(results: Results, benchmarks: Sequence[str]) -> list[Table]:
    """Figure 3 in numbers, a table a benchmark, and what agreement is made of."""
    data, made = results.tables, []
    for benchmark in benchmarks:
        extra = "No number: responses without one, in all languages; they never agree."
        method = "bootstrap over clusters of questions"
        words = _caption(results, [benchmark], method=method, each=True, extra=extra)
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
    words, floor = _words(results, benchmarks, data["intervals"]), data.get("floor")
    made: dict[str, tuple] = {"figure-1-framework": (*framework.framework(), framework.CAPTION)}
    pair = [name for name in ("MonoReason", "QAlign") if name in main]
    if len(pair) == 2:
        sentence = " One sign a seed." if len(results.run["seeds"]) > 1 else ""
        sentence += " Dashed: the language-blind floor." if floor is not None else ""
        said = _caption(results, benchmarks, method=method_of(data["intervals"]), each=True) + sentence
        made["figure-headline"] = (*figures.headline(data["intervals"], pair, floor), said)
    mixed = [name for name in MIXED if name in main]
    if len(mixed) == len(MIXED):
        made["figure-2-mixed-supervision"] = (*figures.mixed_supervision(data["intervals"], mixed), words)
    if _has_consistency(results):
        made |= _consistency_figures(results, benchmarks, pair)
    made |= ablation_report.pictures(results)
    return made | _data_figures(results)


def _data_figures(results: Results) -> dict[str, tuple]:
    """Training's losses and the lengths of the examples, where they were saved."""
    data, made = results.tables, {}
    profile = f"Profile {results.run['profile']}"
    if "training" in data and len(data["training"]):
        said = f"{profile}, {seeds_of(data['training']['seed'])}. Each point: the mean loss since the one before."
        made["figure-training"] = (*figures.training_curves(data["training"]), said)
    if "lengths" in data and len(data["lengths"]):
        many = data["lengths"].groupby("corpus", sort=False)["examples"].sum()
        counted = f"{many.min():,} to {many.max():,}" if len(set(many)) > 1 else f"{many.iloc[0]:,}"
        limit = int(data["lengths"]["limit"].iloc[0]) if "limit" in data["lengths"] else PAPER_LIMIT
        said = (
            f"{profile}, {seeds_of(results.run['seeds'][:1])}, {counted} examples a corpus. Prompt, target and "
            f"markers; dashed: cut at {limit:,} tokens."
        )
        made["figure-lengths"] = (*figures.length_histogram(data["lengths"], limit), said)
    return made


def _words(results: Results, benchmarks: Sequence[str], intervals: pd.DataFrame, extra: str = "", **words: Any) -> str:
    """The caption of what averages over seeds and shows the outermost ends of their intervals."""
    several = ACROSS_SEEDS if len(results.run["seeds"]) > 1 else ""
    return _caption(results, benchmarks, method=method_of(intervals), extra=f"{several} {extra}".strip(), **words)


def _has_consistency(results: Results) -> bool:
    return {"agreement", "consistency", "agreement_map", "solved"} <= results.tables.keys()


def _consistency_figures(results: Results, benchmarks: Sequence[str], pair: Sequence[str]) -> dict[str, tuple]:
    """Figure 3, the map of languages (if both systems of the pair were run), and questions by languages solved."""
    data, main = results.tables, results.main()
    drawn = _solving(results)
    left = [name for name in main if name not in drawn]
    sentence = " Red: the same answers with the questions permuted. A response without a number never agrees."
    if left:
        sentence += (
            f" Only in the table: {', '.join(left)}, right on under {NEAR_ZERO:g}% of the English questions; what they "
            "agree on is wrong."
        )
    made = {
        "figure-3-consistency": (
            *figures.consistency(data["agreement"], data["consistency"], drawn),
            _words(results, benchmarks, data["agreement"]) + sentence + " Each benchmark has its own scale.",
        ),
        "figure-solved-languages": (
            *figures.solved_languages(data["solved"], main),
            _caption(results, benchmarks) + " An empty cell: no question.",
        ),
    }
    if len(pair) == 2:
        sentence = " Each cell: questions answered alike in two languages. A response without a number never agrees."
        made["figure-agreement-map"] = (
            *figures.agreement_map(data["agreement_map"], pair), _caption(results, benchmarks) + sentence
        )  # fmt: skip
    return made


def _solving(results: Results) -> list[str]:
    """The main systems that solve English questions at all; every one of them where none does."""
    rows, main = results.tables["accuracy"], results.main()
    english = rows[(rows["language"] == "en") & (rows["scorer"] == results.run["scorer"])]
    solved = english.groupby("system")["accuracy"].mean()
    return [name for name in main if solved[name] >= NEAR_ZERO] or main


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
        if table.name.startswith(ACCURACY):
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
