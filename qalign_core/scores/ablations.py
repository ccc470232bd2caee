"""Chapter 6: the systems that vary one thing about QAlign, from their answers to saved results.

Ablations, controls and studies are systems like any other; only their results lie in files of their own, so that
chapter 4 need not wait for them:

| file | rows |
|---|---|
| `ablation_rows.csv` | a system: `table`, its place in a study, and the examples and target tokens of its stage 1 |
| `ablation_intervals.csv` | `comparisons.intervals` of these systems, of MonoReason and of QAlign |
| `ablations.csv` | `comparisons.compare` of each with QAlign, and with its control of the same size (`against`) |
| `ablation_responses.csv` | `response_kinds.rates`: among them, how many responses are in the question's language |
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from qalign_core import evaluate, plan, runs
from qalign_core.params import Profile
from qalign_core.profiles import studies
from qalign_core.runs import Run
from qalign_core.scores import comparisons, response_kinds
from qalign_core.scores.results import ABLATIONS, OURS, WITHOUT, Results, read_results, write_csv
from qalign_core.training import model_card


def systems(profile: Profile) -> list[str]:
    """What chapter 6 compares: the baseline and the paper's method if they are there, then its own systems."""
    return [*(name for name in (WITHOUT, OURS) if name in profile.systems), *profile.in_chapter(ablations=True)]


def pairs(profile: Profile) -> list[tuple[str, str]]:
    """The declared differences: every system with QAlign, and with the one it names as `against`.

    A system whose stage 1 lacks a language is compared with the baseline, too, whose stage 1 lacks all of them.
    """
    named = systems(profile)
    ours = [(name, OURS) for name in named if name != OURS and OURS in named]
    controlled = [(name, profile.systems[name].against) for name in profile.in_chapter(ablations=True)]
    lacking = [variant.system for variant in studies.variants(profile) if variant.study == "left_out"]
    controlled += [(name, WITHOUT) for name in lacking if WITHOUT in named]
    return [*ours, *((name, other) for name, other in controlled if other not in (None, OURS))]


def rows(profile: Profile, run: Run) -> pd.DataFrame:
    """What each system's stage 1 was trained on, and its place in a study.

    Returns:
        `system, table, study, at, stage_1, examples, target_tokens`; blank where a system has no stage of its own.
    """
    placed = {variant.system: (variant.study, variant.at) for variant in studies.variants(profile)}
    seed, found = profile.run.seeds[0], []
    for name in systems(profile):
        entry = profile.systems[name]
        study, at = placed.get(name, (None, None))
        row: dict[str, Any] = {"system": name, "table": entry.table, "study": study, "at": at}
        if entry.lineage and len(entry.lineage) > 1:
            job = plan.stage_job(profile, run, seed, entry.lineage[:1])
            metrics = runs.read_json(job.folder / "done.json")["metrics"]
            row |= {"stage_1": entry.lineage[0], "examples": metrics["rows"], "target_tokens": metrics["target_tokens"]}
        found.append(row)
    columns = ["system", "table", "study", "at", "stage_1", "examples", "target_tokens"]
    return pd.DataFrame(found, columns=columns).astype({"examples": "Int64", "target_tokens": "Int64"})


def save(profile: Profile, run: Run) -> Results:
    """Score the answers of chapter 6's systems and save what its tables and figures are drawn from.

    Raises:
        FileNotFoundError, ValueError: for answers that are missing or belong to other questions, naming file and row.
    """
    for name in ABLATIONS:  # made of earlier answers
        (run.results / f"{name}.csv").unlink(missing_ok=True)
    if profile.in_chapter(ablations=True):
        answers, groups = evaluate.score_run(profile, run, systems(profile)), evaluate.near_duplicates(profile, run)
        write(run.results, answers, rows(profile, run), pairs(profile), groups, profile.evaluation.scorer)
        model_card.write_cards(profile, run)
    return read_results(run.results)


def write(
    folder: str | Path,
    answers: pd.DataFrame,
    described: pd.DataFrame,
    declared: Sequence[tuple[str, str]],
    groups: Mapping[str, pd.Series] | None = None,
    mode: str = "paper",
) -> None:
    """Compute and save the files of this chapter.

    Args:
        folder: `runs/<profile>/results`.
        answers: rows of `scorer.score` of every system in `described`.
        described: as `rows` returns it.
        declared: as `pairs` returns them.
        groups: benchmark → near-duplicate group of each question.
        mode: the scorer whose numbers are compared.
    """
    column = f"correct_{mode}"
    made = {
        "ablation_rows": described,
        "ablation_intervals": comparisons.intervals(answers, groups, column=column),
        "ablations": _compared(answers, described, declared, groups, column),
        "ablation_responses": response_kinds.rates(answers),
    }
    for name, table in made.items():
        write_csv(folder, name, table)


def _compared(
    answers: pd.DataFrame,
    described: pd.DataFrame,
    declared: Sequence[tuple[str, str]],
    groups: Mapping[str, pd.Series] | None,
    column: str,
) -> pd.DataFrame:
    """The declared differences in the averages, and of a system that lacks a language in that language."""
    lacks = described[described["study"] == "left_out"].set_index("system")["at"].to_dict()
    measures = [*comparisons.MEASURES, *dict.fromkeys(lacks.values())]
    rows = comparisons.compare(answers, declared, groups, column=column, measures=measures)
    own = rows["measure"] == rows["a"].map(lacks)
    return rows[rows["measure"].isin(comparisons.MEASURES) | own].reset_index(drop=True)
