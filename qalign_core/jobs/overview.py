"""What of a run is done and what is to do: every job, in order, for `--dry-run`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from qalign_core import runs
from qalign_core.params import Profile
from qalign_core.plan import (
    Job,
    NotTranslatedError,
    prediction_job,
    stage_job,
    stages,
    translation_job,
    translator_job,
)
from qalign_core.runs import DamagedFileError, ReadOnlyError, Run
from qalign_core.scores import corrected


def overview(profile: Profile, run: Run) -> Iterator[tuple[str, bool, str]]:
    """Every stage and all predictions generated here, in order: its name, whether it is done, and why not."""
    for seed in profile.run.seeds:
        for lineage in stages(profile):
            title = f"stage      seed {seed}: {' → '.join(lineage) or 'base'}"
            yield _state(title, stage_job, profile, run, seed, lineage)
        first = profile.first_stage()
        if first and profile.evaluation.translation:
            yield _state(f"translated seed {seed}: by {first}", translation_job, profile, run, seed, [first])
        for system, entry in profile.systems.items():
            if entry.translator is not None:
                yield _state(f"translated seed {seed}: {system}", translator_job, profile, run, system, seed)
            if entry.predictions is None:
                yield _state(f"answers    seed {seed}: {system}", prediction_job, profile, run, system, seed)
            if profile.evaluation.corrected and entry.table == "main" and corrected.can_be_asked(profile, system):
                yield from _again(profile, run, system, seed)


def _again(profile: Profile, run: Run, system: str, seed: int) -> Iterator[tuple[str, bool, str]]:
    """The job that asks a system the questions whose text was corrected; nothing where no text was."""
    try:
        if not corrected.corrected_questions(profile, run)["new_text"].any():
            return
    except FileNotFoundError:
        pass  # not prepared yet: the line says so
    name = f"answers    seed {seed}: {system}, corrected questions"
    yield _state(name, lambda: corrected.job(profile, run, system, seed))


def _state(name: str, make: Callable[..., Job | None], *arguments: Any) -> tuple[str, bool, str]:
    try:
        job = make(*arguments)
    except NotTranslatedError:
        return name, False, "its questions are not translated yet"
    except FileNotFoundError:
        return name, False, "its data is prepared by notebook 01"
    except ReadOnlyError:  # the base model is made when its first stage begins
        return name, False, "not begun"
    except DamagedFileError as error:
        return name, False, str(error)
    if job is None:
        return name, True, ""
    try:
        return name, *_progress(job)
    except DamagedFileError as error:
        return name, False, str(error)


def _progress(job: Job) -> tuple[bool, str]:
    """Whether a job is done; if not, why, and if so, what is no longer there."""
    path = job.folder / "job.json"
    if job.done:
        files = runs.read_object(path.with_name("done.json")).get("files")
        gone = next((n for n in (files if isinstance(files, dict) else ()) if not (job.folder / n).is_file()), None)
        return True, f"but {gone} is gone; delete its done.json too, to have it made again" if gone else ""
    if not path.is_file():
        return False, "not begun"
    if runs.read_object(path).get("fingerprint") == job.content["fingerprint"]:
        return False, "begun: will be resumed"
    return False, "was finished with other settings" if runs.is_done(path) else "was begun with other settings"
