"""What chapter 6 shows: Table 4, its controls, the studies that were run, and the analysis of representations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from qalign_core.profiles.schema import BENCHMARKS
from qalign_core.scores.published import published_cells
from qalign_core.scores.results import OURS, WITHOUT, Results
from qalign_core.shown import ablation_figures as figures
from qalign_core.shown.ablation_tables import STUDIES, ablation_table, answer_language_table, left_out_table
from qalign_core.shown.captions import ACROSS_SEEDS, caption, method_of, seeds_of
from qalign_core.shown.tables import Table

NAMES = ("table-4", "table-study", "figure-ablation", "figure-study", "figure-representations")  # what chapter 6 draws
LABELS = {WITHOUT: "none", OURS: "X→En questions (ours)"}
_UNKNOWN = "The paper's other cells of this table are not known to us and stay blank."


def _words(results: Results, **words: Any) -> str:
    data = results.tables["ablation_intervals"]
    questions = {name: results.run["questions"][name] for name in dict.fromkeys(data["benchmark"])}
    words = {"method": method_of(data), **words}
    return caption(results.run["profile"], results.run["seeds"], questions, scorer=results.run["scorer"], **words)


def _of_tables(results: Results, kinds: Sequence[str]) -> dict[str, str]:
    """Table 4's rows: system → label, the baseline and ours first."""
    rows = results.tables["ablation_rows"]
    chosen = rows.loc[rows["table"].isin(kinds), "system"]
    there = [name for name in (WITHOUT, OURS) if name in set(rows["system"])]
    return {name: LABELS.get(name, name) for name in [*there, *chosen]}


def _of_study(results: Results, study: str) -> dict[str, str]:
    """The systems of a study by their place in it: system → `at`."""
    rows = results.tables["ablation_rows"]
    found = rows[rows["study"] == study]
    return dict(zip(found["system"], found["at"].astype(str), strict=True))


def tables(results: Results) -> list[Table]:
    """Table 4, and a table of every study there is."""
    if not {"ablations", "ablation_intervals", "ablation_rows"} <= results.tables.keys():
        return []
    data, rows = results.tables, results.tables["ablation_rows"]
    examples = rows.set_index("system")["examples"].dropna().astype(int).to_dict()
    made = []
    listed = _of_tables(results, ("ablation", "control"))
    if set(listed) - {WITHOUT, OURS}:
        size = results.run["base_size"]
        known = _published(results, list(listed)) if size else {}
        extra = "To ours, to same size: paired differences in points, each with its interval. "
        each = _words(results, extra=extra, each=True)
        extra += f"Published: average over ten languages, LLaMA-2 {size}. {_UNKNOWN}" if known else ""
        made.append(
            ablation_table(
                data["ablation_intervals"],
                data["ablations"],
                listed,
                caption=_pictured(results, extra),
                unfolded=each,
                examples=examples,
                published=known,
            )
        )
    for study in _studies(results):
        made.append(_study_table(results, study, examples))
    spoken = _of_study(results, "answer_language")
    if spoken and "ablation_responses" in data:
        listed = {OURS: OURS, **{name: name for name in spoken}}
        words = _words(results, extra=f"Languages: of the responses to questions that are not English. {_follow_up()}")
        made.append(
            answer_language_table(data["ablation_intervals"], data["ablation_responses"], listed, caption=words)
        )
    if without := _lacking(results):
        words = _words(results, extra="Differences: paired, in points, in the language itself.", each=True)
        made.append(
            left_out_table(data["ablation_intervals"], data["ablations"], without, _beside(results), caption=words)
        )
    return made


def _lacking(results: Results) -> dict[str, str]:
    """Language → the system whose stage 1 lacks it."""
    return {code: name for name, code in _of_study(results, "left_out").items()}


def _beside(results: Results) -> list[str]:
    """The systems that had no pairs, and all of them."""
    return [name for name in (WITHOUT, OURS) if name in set(results.tables["ablation_rows"]["system"])]


def _studies(results: Results) -> list[str]:
    """The studies that were run, and `other` for systems of `table: study` that the profile lists itself."""
    rows = results.tables["ablation_rows"]
    rows = rows[rows["table"] == "study"]
    return list(dict.fromkeys(rows["study"].fillna("other")))


def _study_table(results: Results, study: str, examples: dict[str, int]) -> Table:
    rows = results.tables["ablation_rows"]
    members = rows.loc[(rows["table"] == "study") & (rows["study"].fillna("other") == study), "system"]
    listed = {name: name for name in [*_beside(results), *members]}
    if study == "data_size":  # from no pairs to all
        listed[OURS] = listed.pop(OURS)
    name = f"table-study-{study.replace('_', '-')}" + ("-accuracy" if study in ("answer_language", "left_out") else "")
    return ablation_table(
        results.tables["ablation_intervals"],
        results.tables["ablations"],
        listed,
        caption=_pictured(results, "To ours: paired difference in points. Examples: of stage 1."),
        unfolded=_words(results, extra="To ours: paired difference in points. Examples: of stage 1.", each=True),
        examples=examples,
        name=name,
        title=f"{STUDIES.get(study, 'Other studies')} (%)",
        heading="System",
        control=f"to {WITHOUT}" if study == "left_out" else "to its control",
    )


def _published(results: Results, systems: Sequence[str]) -> dict[tuple[str, str], float]:
    """(benchmark, system) → the published average over the languages; only what a source prints."""
    found: dict[tuple[str, str], float] = {}
    for benchmark in dict.fromkeys(results.tables["ablation_intervals"]["benchmark"]):
        if benchmark not in BENCHMARKS:  # nothing is published of somebody's own
            continue
        cells = published_cells(benchmark, results.run["base_size"])
        cells = cells[(cells["language"] == "average") & cells["system"].isin(systems)]
        found |= {(benchmark, row["system"]): row["value"] for row in cells.to_dict("records")}
    return found


def _follow_up() -> str:
    """What the follow-up paper reports of the same trade, in a sentence; from `params/published.csv`."""
    from qalign_core.scores.published import PUBLISHED

    rows = pd.read_csv(PUBLISHED, keep_default_na=False)
    rows = rows[(rows["source"] == "notes_2405_01345") & (rows["language"] == "Avg") & (rows["benchmark"] == "mGSM")]
    values = rows.set_index(["published_name", "metric"])["value"].astype(float)
    said = []
    for name in ("QAlign", "QAlign + En-X translation data"):
        accuracy = values[name, "accuracy_pct"]
        spoken = values[name, "question_response_language_consistency_pct"]
        said.append(f"{name} {accuracy:g} with {spoken:g}% of the answers in the question's language")
    return (
        f"Published for LLaMA-2 7B on mGSM, all ten languages (arXiv 2405.01345, a transcription): {'; '.join(said)}."
    )


def _pictured(results: Results, extra: str = "") -> str:
    """The caption of what averages over seeds and shows the outermost ends of their intervals."""
    several = f"{ACROSS_SEEDS} " if len(results.run["seeds"]) > 1 else ""
    return _words(results, extra=several + extra).rstrip()


def pictures(results: Results) -> dict[str, tuple]:
    """name → (figure, its data, caption) of every figure of chapter 6 that the results allow."""
    data, made = results.tables, {}
    if {"ablation_intervals", "ablation_rows"} <= data.keys():
        intervals = data["ablation_intervals"]
        listed = _of_tables(results, ("ablation", "control"))
        if set(listed) - {WITHOUT, OURS}:
            made["figure-ablation"] = (*figures.ablations(intervals, listed), _pictured(results))
        made |= _study_pictures(results, intervals)
    if {"representations", "representations_points"} <= data.keys():
        measures, points = data["representations"], data["representations_points"]
        profile = f"Profile {results.run['profile']}"
        counts = measures.groupby("set", sort=False)["questions"].min()
        named = [
            f"{n:,}" + (f" ({figures.SETS.get(name, name)})" if len(counts) > 1 else "") for name, n in counts.items()
        ]
        many = f"{' and '.join(named)} questions a language"
        made["figure-representations-layers"] = (
            *figures.layers(measures),
            f"{profile}, {seeds_of(measures['seed'])}, {many}, mean of the other languages; a question's "
            "representation is the mean hidden state of its own tokens. Found: the most similar English question is "
            "its own original. Lead: cosine with the original minus the mean cosine with the other English questions, "
            "which takes out what all texts share.",
        )
        made["figure-representations-plane"] = (
            *figures.planes(points),
            f"{profile}, {seeds_of([points['seed'].min()])}, {many}, the middle layer, first two principal components "
            "of each model by itself: axes of different panels cannot be compared. Small: a question; large, with its "
            "language's code: the language's mean.",
        )
    return made


def _study_pictures(results: Results, intervals: pd.DataFrame) -> dict[str, tuple]:
    made: dict[str, tuple] = {}
    sizes = _of_study(results, "data_size")
    if sizes:
        shares = {WITHOUT: 0.0, OURS: 1.0} | {name: float(at) for name, at in sizes.items()}
        made["figure-study-data-size"] = (*figures.data_size(intervals, shares), _pictured(results))
    spoken = _of_study(results, "answer_language")
    if spoken and "ablation_responses" in results.tables:
        shown = figures.answer_language(intervals, results.tables["ablation_responses"], [*_beside(results), *spoken])
        extra = "Accuracy and answers: of the questions that are not English, mean of their languages."
        made["figure-study-answer-language"] = (*shown, _pictured(results, extra))
    if without := _lacking(results):
        shown = figures.left_out(intervals, without, _beside(results))
        made["figure-study-left-out"] = (*shown, _pictured(results))
    return made
