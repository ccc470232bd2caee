"""Whose answers are scored: those that a job of this run generates, or a folder of responses made elsewhere."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from qalign_core import plan, runs
from qalign_core.benchmarks import benchmark_files
from qalign_core.params import Profile
from qalign_core.runs import Run
from qalign_core.scores.predictions import read_predictions


def generated(profile: Profile, *, ablations: bool = False) -> list[str]:
    """The systems of chapter 4, or those of chapter 6, whose answers are generated here; the others bring theirs."""
    return [n for n in profile.in_chapter(ablations=ablations) if profile.systems[n].predictions is None]


def answers_folder(profile: Profile, run: Run, system: str, seed: int) -> Path:
    """Where a system's answers are, whoever made them."""
    brought = profile.systems[system].predictions
    return Path(brought) if brought is not None else plan.prediction_job(profile, run, system, seed).folder


def read_answers(profile: Profile, run: Run, system: str, seed: int) -> pd.DataFrame:
    """A system's answers to every benchmark in every language of the profile.

    Returns:
        Rows of `predictions.read_predictions`.

    Raises:
        FileNotFoundError, ValueError: for a missing folder, file or field, naming it and the line.
    """
    folder = answers_folder(profile, run, system, seed)
    benchmarks, languages = list(profile.evaluation.benchmarks), profile.data.languages
    fields = {str(ours): theirs for ours, theirs in (profile.systems[system].fields or {}).items()}
    return read_predictions(folder, benchmarks, languages, fields)


def contents(profile: Profile) -> dict[str, dict[str, str]]:
    """What tells text from outside from other text: system or corrected benchmark → file → sha256, of files there."""
    corrected = {
        f"evaluation.corrected.{name}": {
            str(path): runs.sha256_file(path)
            for code in profile.data.languages
            for path in (Path(folder, place) for place in benchmark_files(name, code))
            if path.is_file()
        }
        for name, folder in profile.evaluation.corrected.items()
    }
    own = {
        f"evaluation.benchmarks.{name}": {
            str(path): runs.sha256_file(path)
            for code in profile.data.languages
            for path in (Path(test.folder, place) for place in benchmark_files(name, code))
            if path.is_file()
        }
        for name, test in profile.evaluation.benchmarks.items()
        if test.folder is not None
    }
    corpora = {
        f"data.corpora.{name}": {str(path): runs.sha256_file(path)}
        for name, choice in profile.data.corpora.items()
        if choice.path is not None and (path := Path(choice.path)).is_file()
    }
    return (
        corrected
        | own
        | corpora
        | {
            system: {
                str(path): runs.sha256_file(path) for path in _files(profile, Path(entry.predictions)) if path.is_file()
            }
            for system, entry in profile.systems.items()
            if entry.predictions is not None
        }
    )


def _files(profile: Profile, folder: Path) -> list[Path]:
    codes = profile.data.languages
    return [folder / name / f"{code}.jsonl" for name in profile.evaluation.benchmarks for code in codes]


def overview(profile: Profile) -> Iterator[tuple[str, bool, str]]:
    """Every system that brings its answers: what to call it, whether all its files are there, and if not, why not.

    Nothing is generated for any of them.
    """
    for system, entry in profile.systems.items():
        if entry.predictions is None:
            continue
        folder = Path(entry.predictions)
        wanted = _files(profile, folder)
        missing = [path for path in wanted if not path.is_file()]
        why = f"{len(missing)} of {len(wanted)} files are missing, first {missing[0]}" if missing else ""
        yield f"answers    {system}: brought from {folder}, nothing is generated", not missing, why
