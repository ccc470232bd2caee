"""Every table and figure of a run, drawn from its saved results, without torch.

`python -m qalign_core.show.report RESULTS FIGURES` redraws everything.
"""

from __future__ import annotations

import base64
import io
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_pdf import FigureCanvasPdf
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from rich.console import Console

from qalign_core.comparisons import OURS, WITHOUT, primary_sentences, wilson
from qalign_core.languages import CODES
from qalign_core.results import SECONDARY, Results, published_cells, read_results
from qalign_core.runs import Run, write_atomic
from qalign_core.show import figures, paper_tables
from qalign_core.show.paper_tables import BENCHMARKS, named
from qalign_core.show.tables import CAPTIONS, Table, print_table, save_table

ACCURACY = ("table-2", "table-3", "table-accuracy")  # the last: of a benchmark that is not the paper's
CONSISTENCY = ("figure-3", "table-consistency")  # what chapter 5 draws
ABLATIONS = ("table-4", "table-study", "figure-ablation", "figure-study", "figure-representations")  # and chapter 6
MIXED = ("MultiReason", "QAlign", "QAlign + mixed")  # Figure 2
FOUR = ("MonoReason", *MIXED)  # Figure 3; of other systems, the first four
NEAR_ZERO = 5.0  # percent
FEW_GROUPS = 20  # clusters below which resampling them gives intervals that are too narrow
STAGE_1 = {  # what Table 4 and its picture call a system whose name does not say it
    WITHOUT: "none",
    OURS: "X→En questions",
    "X→En FLORES": "X→En generic sentences",
    "Shuffled pairs": "shuffled pairs",
    "Questions alone": "foreign questions alone",
}
_FORMATS: dict[str, tuple[Any, dict[str, None]]] = {  # without dates and versions
    "svg": (FigureCanvasSVG, {"Date": None}),
    "pdf": (FigureCanvasPdf, {"CreationDate": None}),
    "png": (FigureCanvasAgg, {"Software": None}),
}
ACROSS_SEEDS = "Shown: the mean over seeds, with the lowest and highest end of any seed's interval. "

# ------------------------------------------------------------------------------------- in plain words


def seeds_of(seeds: Iterable[int]) -> str:
    """Such as `seed 1`, or `seeds 1, 2, 3`; each once."""
    found = list(dict.fromkeys(map(int, seeds)))
    return f"seed{'s' * (len(found) > 1)} {', '.join(map(str, found))}"


def method_of(intervals: pd.DataFrame) -> str:
    """How intervals were made, in words."""
    single = intervals[~intervals["measure"].isin(["average", "non_english", "gap"])]
    wilson = single.loc[single["method"] == "Wilson", "benchmark"].unique()
    if not len(wilson):
        return "bootstrap over groups of near-duplicate questions"
    names = " and ".join(map(named, wilson))
    return f"Wilson for one language of {names}, otherwise bootstrap over clusters of questions"


def few_groups(intervals: pd.DataFrame) -> str:
    """A warning where a benchmark's questions form only a few groups; nothing otherwise."""
    groups = intervals.groupby("benchmark", sort=False)["clusters"].min()
    said = [f"{named(name)} {int(count)}" for name, count in groups.items() if 1 < count < FEW_GROUPS]
    words = f"The questions form only few groups ({', '.join(said)}): resampling so few gives intervals too narrow."
    return words if said else ""


def remarks(accuracy: pd.DataFrame, floor: pd.DataFrame | None = None, scorer: str = "paper") -> list[str]:
    """What a reader must be told before reading one scorer's rows of `accuracy.csv`; empty where there is nothing."""
    said: dict[str, list[str]] = {}  # what holds for several benchmarks is said once
    for benchmark, rows in accuracy[accuracy["scorer"] == scorer].groupby("benchmark", sort=False):
        means, found = rows.groupby(["system", "seed"], sort=False)["accuracy"].mean(), []
        if rows["accuracy"].max() < NEAR_ZERO:
            found.append(
                f"every accuracy is under {NEAR_ZERO:g}%. This run checks that every part works on this input; "
                "its numbers mean nothing, and no system can be said to be better than another."
            )
        elif means.max() < NEAR_ZERO:
            found.append(f"every average is under {NEAR_ZERO:g}%; differences between systems mean little.")
        level = float("nan") if floor is None else floor.loc[floor["benchmark"] == benchmark, "accuracy"].mean()
        below = means.index[means <= level]
        if len(below) == len(means):
            rule = "a rule that never reads a word does as well."
            found.append(f"on average no system is above the language-blind floor of {level:.1f}%: {rule}")
        elif len(below):
            listed = ", ".join(below.unique("system"))
            found.append(f"on average not above the language-blind floor of {level:.1f}%: {listed}.")
        if (few := int(rows["total"].min())) < 100:
            found.append(f"only {few} questions a language; single languages are mostly noise.")
        for text in found:
            said.setdefault(text, []).append(named(benchmark))
    return [f"{' and '.join(names)}: {text}" for text, names in said.items()]


def _caption(
    results: Results,
    benchmarks: Iterable[str],
    *,
    method: str = "",  # how intervals were made
    published_size: str | None = None,  # of the LLaMA-2 behind published numbers
    floor: bool = False,
    gap: bool = False,
    each: bool = False,  # every seed stands by itself, none are averaged
    extra: str = "",
) -> str:
    """The text below a table or figure of these benchmarks, followed by `extra`."""
    questions, seeds = {name: results.run["questions"][name] for name in benchmarks}, results.run["seeds"]
    averaged = len(seeds) > 1 and not each
    many = f"mean over {len(seeds)} seeds ({', '.join(map(str, seeds))})" if averaged else seeds_of(seeds)
    counts = [f"{n:,}" + f" ({named(name)})" * (len(questions) > 1) for name, n in questions.items()]
    low, high = wilson(round(min(questions.values()) / 2), min(questions.values()))
    said = f"Profile {results.run['profile']}, {many}, {' and '.join(counts)} questions a language, "
    said += f"{results.run['scorer']} scorer."
    near = f" Near 50% the 95% interval of one language, of one seed, is {high - low:.0f} points wide or more."
    said += f" 95% intervals: {method}." if method else near
    if gap and set(results.tables["accuracy"]["language"]) != {"en"}:
        said += " Gap: English minus the mean of the other languages, in points."
    if published_size:
        said += f" Grey rows: published numbers, LLaMA-2 {published_size}; {SECONDARY} marks secondary sources."
    if floor:
        said += " Floor: what a rule reaches that sees a question's digits and none of its words."
    return f"{said} {extra}".strip()


def _averaged(results: Results, rows: pd.DataFrame, extra: str = "", **words: Any) -> str:
    """The caption of what averages over seeds and shows the outermost ends of their intervals."""
    extra = (ACROSS_SEEDS if len(results.run["seeds"]) > 1 else "") + extra
    return _caption(results, dict.fromkeys(rows["benchmark"]), method=method_of(rows), extra=extra, **words)


# ------------------------------------------------------------------------------------- tables


def run_tables(results: Results) -> list[Table]:
    """The tables of a run that its results allow, in the order of the chapters."""
    return [*_accuracy_tables(results), *_response_tables(results), *_consistency_tables(results), *_ablations(results)]


def _accuracy_tables(results: Results) -> Iterator[Table]:
    """Tables 1 to 3, and what may be chance."""
    data, main, run = results.tables, results.main(), results.run
    intervals, floor = data["intervals"], data.get("floor")
    profile = f"Profile {run['profile']}, {run['scorer']} scorer. "
    if "corpora" in data:
        yield paper_tables.data_table(data["corpora"], caption=f"Profile {run['profile']}.")
    published = {name: entry["published"] for name, entry in results.systems.items() if entry.get("published")}
    for benchmark in dict.fromkeys(data["accuracy"]["benchmark"]):
        own = intervals[intervals["benchmark"] == benchmark]
        level = {} if floor is None else floor[floor["benchmark"] == benchmark].set_index("language")["accuracy"]
        words = _caption(results, [benchmark], published_size=run["base_size"], floor=len(level) > 0, gap=True)
        each = _caption(results, [benchmark], method=method_of(own), gap=True, each=True, extra=few_groups(own))
        yield paper_tables.accuracy_table(
            data["accuracy"], benchmark, caption=words, scorer=run["scorer"], systems=main, published_as=published,
            published_size=run["base_size"], floor=dict(level) or None, intervals=own, unfolded=each,
        )  # fmt: skip
    if "gap" in set(intervals["measure"]):
        words = _averaged(results, intervals, few_groups(intervals), gap=True)
        yield paper_tables.gap_table(intervals, caption=words, systems=main)
    training = "Question intervals leave out what training with another seed would change."
    if len(data["comparisons"]):
        method = "paired bootstrap over clusters of questions; p by flipping the signs of clusters, two-sided"
        extra = f"{training} {few_groups(intervals)}".strip()
        words = _caption(results, dict.fromkeys(intervals["benchmark"]), method=method, each=True, extra=extra)
        yield paper_tables.comparison_table(data["comparisons"], caption=words)
    if len(data["languages"]):
        tested = intervals["measure"].isin(CODES) & intervals["benchmark"].isin(data["languages"]["benchmark"])
        clustered = bool((intervals.loc[tested, "method"] != "Wilson").any())
        yield paper_tables.languages_table(data["languages"], clustered=clustered, caption=profile + training)
    if len(run["seeds"]) > 1:
        yield paper_tables.seeds_table(intervals, main, caption=profile + CAPTIONS["table-seeds"])


def _response_tables(results: Results) -> Iterator[Table]:
    """How responses end and in which language, wrong answers by kind, scores without broken questions."""
    data, scorer = results.tables, results.run["scorer"]
    words = f"Profile {results.run['profile']}, {seeds_of(results.run['seeds'])}"
    if "responses" in data:
        yield paper_tables.responses_table(data["responses"], data.get("identified"), caption=f"{words}.")
    if "errors" in data:
        yield paper_tables.errors_table(data["errors"], caption=f"{words}, {scorer} scorer.")
    if "cleaned" in data:
        yield paper_tables.cleaned_table(data["cleaned"], scorer=scorer, caption=f"{words}, {scorer} scorer.")


def _consistency_tables(results: Results) -> Iterator[Table]:
    """Figure 3 in numbers, one table per benchmark, and what agreement is made of."""
    data, main = results.tables, results.main()
    if "solved" not in data:
        return
    benchmarks = list(dict.fromkeys(data["accuracy"]["benchmark"]))
    for benchmark in benchmarks:
        extra = "No number: responses in which none is read, in all languages; they never agree."
        words = _caption(results, [benchmark], method="bootstrap over clusters of questions", each=True, extra=extra)
        yield paper_tables.consistency_table(
            data["agreement"], data["consistency"], benchmark, differences=data.get("agreement_differences"),
            caption=words, systems=main,
        )  # fmt: skip
    extra = "In brackets: chance, the questions permuted. Means over languages and seeds; same if both wrong: pooled."
    words = _caption(results, benchmarks, extra=extra)
    yield paper_tables.split_table(data["consistency"], caption=words, systems=main)


def _listed(results: Results, kinds: Sequence[str], labels: Mapping[str, str]) -> dict[str, str]:
    """The systems of chapter 6 by kind, the baseline and ours first: system → label; nothing where only these are."""
    rows = results.tables["ablation_rows"]
    chosen = rows.loc[rows["table"].isin(kinds), "system"]
    first = [name for name in (WITHOUT, OURS) if name in set(rows["system"])]
    return {name: labels.get(name, name) for name in dict.fromkeys([*first, *chosen])} if set(chosen) - {*first} else {}


def _stage_1(results: Results) -> dict[str, str]:
    """System → what its stage 1 reads, with the number of examples."""
    examples = results.tables["ablation_rows"].set_index("system")["examples"]
    labels = {name: STAGE_1.get(name, re.sub(r" \(\d+\)$", "", name)) for name in examples.index}
    return labels | {name: f"{labels[name]} ({number:,})" for name, number in examples.dropna().astype(int).items()}


def _ablations(results: Results) -> Iterator[Table]:
    """Table 4, and the profile's own studies in a table like it."""
    data, size = results.tables, results.run["base_size"]
    if "ablation_rows" not in data:
        return
    intervals, compared = data["ablation_intervals"], data["ablations"]
    examples = data["ablation_rows"].set_index("system")["examples"].dropna().astype(int).to_dict()
    benchmarks, known = dict.fromkeys(intervals["benchmark"]), dict[tuple[str, str], float]()
    for benchmark in (name for name in benchmarks if size and name in BENCHMARKS):
        cells = published_cells(benchmark, size).query("language == 'average'")
        known |= {(benchmark, c["system"]): c["value"] for c in cells.to_dict("records")}
    for kinds, labels, study in ((("ablation", "control"), _stage_1(results), False), (("study",), {}, True)):
        words = "To QAlign, to same size or control: paired differences in points. "
        words += "Examples: of stage 1." if study else "In brackets: examples of stage 1."
        if not (listed := _listed(results, kinds, labels)):
            continue
        each = _caption(results, benchmarks, method=method_of(intervals), each=True, extra=words)
        if known and not study:
            words += (
                f" Published: average over ten languages, LLaMA-2 {size}. The paper's other cells of this table are "
                "not known to us and stay blank."
            )
        yield paper_tables.ablation_table(
            intervals, compared, listed, caption=_averaged(results, intervals, words), unfolded=each,
            examples=examples, published={} if study else known, study=study,
        )  # fmt: skip


# ------------------------------------------------------------------------------------- figures


def run_figures(results: Results) -> dict[str, tuple]:
    """name → (figure, its data, caption) of every figure the results allow."""
    found = {}
    for name, (figure, data), words in _figures(results):
        found[name] = figure, data, f"{words} {CAPTIONS.get(name, '')}".strip()
    return found


def _figures(results: Results) -> Iterator[tuple[str, figures.Drawn, str]]:
    """Name, figure with its data, and how the caption begins."""
    data, main, run = results.tables, results.main(), results.run
    intervals, floor, profile = data["intervals"], data.get("floor"), f"Profile {run['profile']}"
    pair = [name for name in (WITHOUT, OURS) if name in main]
    yield "figure-1-framework", figures.framework(), ""
    if len(pair) == 2:
        yield "figure-headline", figures.headline(intervals, pair, floor), _averaged(results, intervals)
    if set(MIXED) <= set(main):
        drawn = figures.mixed_supervision(intervals, MIXED, floor)
        yield "figure-2-mixed-supervision", drawn, _averaged(results, intervals)
    if "solved" in data:
        systems = solving(results)
        left = ", ".join(name for name in main if name not in systems)
        drawn = figures.consistency(data["agreement"], data["consistency"], systems)
        words = _averaged(results, data["agreement"], f"Only in the table: {left}." if left else "")
        yield "figure-3-consistency", drawn, words
    if "ablation_rows" in data and OURS in set(data["ablations"].query("measure == 'non_english'")["b"]):
        words = _averaged(results, data["ablation_intervals"])
        if listed := _listed(results, ("ablation", "control"), _stage_1(results)):
            yield "figure-ablation", figures.ablations(data["ablations"], listed, OURS), words
        if listed := _listed(results, ("study",), {}):
            yield "figure-study-other", figures.ablations(data["ablations"], listed, OURS), words
    if "representations_points" in data:
        measures, points = data["representations"], data["representations_points"]
        counts = measures.groupby("set", sort=False)["questions"].min()
        many = [f"{n:,}" + f" ({named(name)})" * (len(counts) > 1) for name, n in counts.items()]
        said = f"{' and '.join(many)} questions a language"
        words = f"{profile}, {seeds_of([points['seed'].min()])}, {said}."
        yield "figure-representations-plane", figures.planes(points), words


def solving(results: Results) -> list[str]:
    """The systems of Figure 3: the paper's four that solve English questions at all; of others, the first four."""
    rows, main = results.tables["accuracy"], results.main()
    english = rows[(rows["language"] == "en") & (rows["scorer"] == results.run["scorer"])]
    solved = english.groupby("system")["accuracy"].mean()
    able = [name for name in main if solved[name] >= NEAR_ZERO] or main
    return [name for name in FOUR if name in able] or able[:4]


def save_figure(figure: Figure, folder: str | Path, name: str, data: pd.DataFrame, caption: str = "") -> list[Path]:
    """Write `<name>.svg`, `.png`, `.pdf`, `.csv` (the numbers shown) and `.txt` (the caption, if there is one).

    The same figure gives the same bytes: no dates, and identifiers that do not change.
    """
    contents: dict[str, str | bytes] = {}
    with figures.style():
        figure.set_dpi(200)
        if (engine := figure.get_layout_engine()) is not None:
            engine.execute(figure)
            figure.set_layout_engine("none")  # laid out once, not for each format again
        for suffix, (canvas, metadata) in _FORMATS.items():
            buffer = io.BytesIO()
            figure.set_dpi(200)  # the vector formats count in points, and leave it so
            getattr(canvas(figure), f"print_{suffix}")(buffer, metadata=metadata)  # savefig draws everything twice
            contents[suffix] = buffer.getvalue()
    contents["csv"] = data.to_csv(index=False, float_format="%.10g", lineterminator="\n")
    if caption:
        contents["txt"] = caption.rstrip() + "\n"
    return [write_atomic(Path(folder) / f"{name}.{suffix}", content) for suffix, content in contents.items()]


def redraw(results_folder: str | Path, figures_folder: str | Path, only: Sequence[str] = ("",)) -> list[Path]:
    """Write every table and figure whose name begins with one of `only`; the same results give the same bytes."""
    results = read_results(results_folder)
    chosen = [table for table in run_tables(results) if table.name.startswith(tuple(only))]
    paths = [path for table in chosen for path in save_table(table, figures_folder)]
    for name, (figure, data, caption) in run_figures(results).items():
        if name.startswith(tuple(only)):
            paths += save_figure(figure, figures_folder, name, data, caption)
    return paths


# ------------------------------------------------------------------------------------- the report's first page


def front(run: Run, results: Results, tables: Sequence[Table]) -> str:
    """What is on the index page above the list of chapters, as HTML; `tables` as from `run_tables`."""
    main, asked = results.main(), results.run["questions"]
    questions = ", ".join(f"{count:,} of {named(name)}" for name, count in asked.items())
    said = remarks(results.tables["accuracy"], results.tables.get("floor"), results.run["scorer"])
    parts = [
        f"<p>Profile <b>{escape(results.run['profile'])}</b>, {seeds_of(results.run['seeds'])}; questions a language: "
        f"{escape(questions)}; {len(main)} system{'s' * (len(main) != 1)} in the main tables. "
        'All tables and figures, with their data: <a href="../figures">figures</a>.</p>'
    ]
    if said:
        parts.append(f"<blockquote><ul>{''.join(f'<li>{escape(text)}</li>' for text in said)}</ul></blockquote>")
    parts += [_picture(run, name) for name in ("figure-1-framework", "figure-headline")]
    shown = [table for table in tables if table.name.startswith((*ACCURACY, "table-4"))]
    parts += [f'<div class="output_area">{table._repr_html_()}</div>' for table in shown]
    return "\n".join([*parts, _picture(run, "figure-ablation")])


def _picture(run: Run, name: str) -> str:
    """A figure of the run with its caption, inside the page; nothing where it was not drawn."""
    path = run.figures / f"{name}.png"
    if not path.is_file():
        return ""
    words = escape(path.with_suffix(".txt").read_text(encoding="utf-8").strip())
    image = f'<img alt="{escape(name)}" src="data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}"'
    return f'<figure>{image} width="720"><figcaption>{words}</figcaption></figure>'


# ------------------------------------------------------------------------------------- the command


def print_results(results: Results, tables: Sequence[Table], console: Console) -> None:
    """Print Tables 2 and 3, what must be known to read them, and what became of the claims."""
    for table in tables:
        if table.name.startswith(ACCURACY):
            console.print()
            print_table(table, console)
    console.print()
    for remark in remarks(results.tables["accuracy"], results.tables.get("floor"), results.run["scorer"]):
        console.print(remark, style="bold", markup=False)
    for sentence in primary_sentences(results.tables["primary"]) if "primary" in results.tables else ():
        console.print(sentence, markup=False)


def main(arguments: Sequence[str]) -> int:
    """Redraw, print Tables 2 and 3, and say what was not there."""
    if len(arguments) != 2:
        print("usage: python -m qalign_core.show.report RESULTS FIGURES", file=sys.stderr)
        return 2
    try:
        paths, results = redraw(*arguments), read_results(arguments[0])
    except (OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    console = Console(markup=False, highlight=False)
    print_results(results, run_tables(results), console)
    for name in results.absent:
        console.print(f"not drawn: what needs {name}, which is not in {arguments[0]}")
    console.print(f"{len(paths)} files in {arguments[1]}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
