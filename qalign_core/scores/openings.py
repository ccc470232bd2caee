"""The log of openings: when the questions of which test or development set were answered or scored, by which recipe.

A recipe that is chosen after many looks at a test set fits that test set. So every look leaves a line in
`results/openings.csv`; a line is added when answers are generated, and when answers that were not scored before are.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd

from qalign_core import launch, plan, runs
from qalign_core.params import Profile
from qalign_core.runs import Run
from qalign_core.scores import brought
from qalign_core.scores.results import write_csv
from qalign_core.shown.tables import Table, from_frame

COLUMNS = ["time", "action", "benchmark", "split", "system", "seed", "questions", "recipe", "answers"]
SHORT = 12  # characters of a fingerprint that are shown
ASKED = ("mgsm", "msvamp", "dev")  # sizes of the miniature that are about what is asked, not what is trained on


def jobs(profile: Profile, run: Run, system: str, seed: int) -> Iterator[plan.Job]:
    """The jobs that make a system's answers, in order (`plan.prediction_jobs`); new answers are logged after the last.

    Ask for one when those before it are done.
    """
    new = False
    for job in plan.prediction_jobs(profile, run, system, seed):
        new = not job.done
        yield job
    if new:
        record(profile, run, system, seed, "answered")


def ask(profile: Profile, run: Run, system: str, seed: int) -> None:
    """Generate a system's answers to every benchmark, and log it if they were not there.

    Raises:
        launch.JobError: as `launch.run_job`.
    """
    for job in jobs(profile, run, system, seed):
        launch.run_job(job, profile, run)


def record(profile: Profile, run: Run, system: str, seed: int, action: str) -> None:
    """Add a line a benchmark, unless the log has this action on these very answers already.

    Args:
        action: `answered` or `scored`.
    """
    log, answers = read(run), answers_print(profile, run, system, seed)
    seen = log[(log.action == action) & (log.answers == answers) & (log.system == system) & (log.seed == seed)]
    lines = [
        {
            "time": datetime.now(UTC).isoformat(timespec="seconds"),
            "action": action,
            "benchmark": benchmark,
            "split": profile.data.miniature.split if profile.data.source(benchmark) == "miniature" else "test",
            "system": system,
            "seed": seed,
            "questions": _questions(run, benchmark, profile.data.languages),
            "recipe": recipe_print(profile, system),
            "answers": answers,
        }
        for benchmark in profile.evaluation.benchmarks
        if benchmark not in set(seen.benchmark)
    ]
    if lines:
        new = pd.DataFrame(lines, columns=COLUMNS)
        write_csv(run.results, "openings", pd.concat([log, new]) if len(log) else new)


def read(run: Run | Path) -> pd.DataFrame:
    """The log of a run (or of a results folder), oldest first; empty where there is none."""
    path = (run.results if isinstance(run, Run) else run) / "openings.csv"
    if not path.is_file():
        return pd.DataFrame(columns=COLUMNS)
    return pd.read_csv(path, dtype={"recipe": str, "answers": str, "system": str}, keep_default_na=False)


def looks_table(run: Run | Path) -> Table:
    """How often each test or development set was opened, a line a set and system: by how many recipes, when."""
    log = read(run)
    scored = log[log.action == "scored"]
    columns = ["split", "benchmark", "system"]
    counted = scored.groupby(columns, sort=False).agg(
        seeds=("seed", "nunique"), recipes=("recipe", "nunique"), looks=("answers", "nunique"),
        first=("time", "min"), last=("time", "max"),
    )  # fmt: skip
    caption = (
        f"looks: different sets of answers that were scored; recipes: different ways in which the system was made. "
        f"All {len(log)} lines are in results/openings.csv; it is the log of this run folder alone."
    )
    return from_frame(counted.reset_index(), name="openings", title="Looks at the questions", caption=caption)


def recipe_print(profile: Profile, system: str) -> str:
    """A short fingerprint of what makes a system: model, data, lineage and training; not how and what it is asked."""
    entry = profile.systems[system]
    trained = [*(entry.lineage or []), *(entry.translator or [])]
    corpora = {name for corpus in trained for name in profile.data.ancestry(corpus)}
    data: dict[str, Any] = profile.data.model_dump(mode="json")
    data["corpora"] = {name: choice for name, choice in data["corpora"].items() if name in corpora}
    sizes = {name: size for name, size in data["miniature"]["sizes"].items() if name not in ASKED}
    data["miniature"] = {"style": data["miniature"]["style"], "sizes": sizes}
    recipe = {
        "model": profile.model.model_dump(mode="json"),
        "data": data,
        "training": profile.training.model_dump(mode="json"),
        "system": entry.model_dump(mode="json", exclude={"published", "table"}),
    }
    return runs.fingerprint(recipe)[:SHORT]


def answers_print(profile: Profile, run: Run, system: str, seed: int) -> str:
    """A short fingerprint of a system's answers: of the job that makes them, or of the files it brings."""
    if profile.systems[system].predictions is not None:
        return runs.fingerprint(brought.contents(profile)[system])[:SHORT]
    return plan.prediction_job(profile, run, system, seed).content["fingerprint"][:SHORT]


def _questions(run: Run, benchmark: str, languages: list[str]) -> int:
    return sum(len(runs.read_json_lines(run.benchmark(benchmark, code))) for code in languages)
