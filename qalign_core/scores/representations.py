"""The representation analysis of a run: its job, and its results as small files.

The same questions in every language go into the base model, the baseline and the paper's method; `represent` is what
the job runs, `parallel_states` what it measures.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pandas as pd

from qalign_core import plan, runs
from qalign_core.benchmarks import benchmark_files, load_benchmark
from qalign_core.data.prepare import DATA_DIR
from qalign_core.launch import run_job
from qalign_core.params import Profile
from qalign_core.profiles.schema import DataSet
from qalign_core.runs import Run
from qalign_core.scores.results import OURS, WITHOUT, write_csv

BENCHMARK: DataSet = "mgsm"
REAL = "real-mgsm"  # the real questions, beside the miniature's own
QUESTIONS = 100  # at most, a language
BASE = "base"


def models(profile: Profile, run: Run, seed: int) -> list[dict[str, Any]]:
    """The models to look at: the base, and the systems without and with question alignment that are trained here."""
    trained = {n: e.lineage for n, e in profile.systems.items() if n in (WITHOUT, OURS) and e.lineage}
    wanted: dict[str, list[str]] = {BASE: [], **trained}
    found = []
    for name, lineage in wanted.items():
        model, identity = plan.lineage_model(profile, run, seed, lineage)[:2]
        found.append({"name": name, "model": model, "model_fingerprint": runs.fingerprint(identity)})
    return found


def question_sets(profile: Profile, run: Run) -> dict[str, dict[str, Path]]:
    """Names of the parallel questions there are → language → file: mGSM, or else the profile's first benchmark; and
    the real mGSM where the miniature stands for it and a folder holds it."""
    codes, asked = profile.data.languages, list(profile.evaluation.benchmarks)
    name = BENCHMARK if BENCHMARK in asked else asked[0]
    sets = {name: {code: run.benchmark(name, code) for code in codes}}
    folder = profile.data.folder or os.environ.get(DATA_DIR)
    if folder and profile.data.sources.get(BENCHMARK) == "miniature":
        there = [c for c in codes if any(Path(folder, file).is_file() for file in benchmark_files(BENCHMARK, c))]
        if "en" in there and len(there) > 1:
            sets[REAL] = {code: _real_questions(run, folder, code) for code in there}
    return sets


def _real_questions(run: Run, folder: str, code: str) -> Path:
    rows = load_benchmark(BENCHMARK, code, folder, limit=QUESTIONS)
    return runs.write_json_lines(run.benchmark(REAL, code), [{"index": i, **row} for i, row in enumerate(rows)])


def job(profile: Profile, run: Run, seed: int, name: str, files: dict[str, Path]) -> plan.Job:
    """The job that measures every model on one set of questions."""
    content: dict[str, Any] = {
        "kind": "represent",
        "models": models(profile, run, seed),
        "dtype": profile.evaluation.dtype,
        "limit": QUESTIONS,
        "tasks": [
            {"language": code, "path": run.relative(path), "sha256": runs.sha256_file(path)}
            for code, path in files.items()
        ],
    }
    decides = {"dtype": content["dtype"], "limit": QUESTIONS}
    decides["models"] = [{k: v for k, v in entry.items() if k != "model"} for entry in content["models"]]
    decides["tasks"] = [{k: v for k, v in task.items() if k != "path"} for task in content["tasks"]]
    folder = run.folder / "representations" / f"seed-{seed}" / name
    return plan.Job({"fingerprint": runs.fingerprint(decides), **content}, folder)


def measure(profile: Profile, run: Run) -> dict[str, pd.DataFrame]:
    """Run the analysis for every seed and set of questions, unless it is done, and save what its figures show.

    A measurement of other models is replaced: it takes seconds, and nothing depends on it. One process on one device
    does it.

    Returns:
        `representations` and `representations_points`, as saved in `results/`: the columns of
        `parallel_states.parallel_measures` and `.plane`, behind `set, seed, model`.
    """
    alone = profile.model_copy(update={"run": profile.run.model_copy(update={"devices": 1, "hostfile": None})})
    parts: dict[str, list[pd.DataFrame]] = {"measures": [], "points": []}
    for name, files in question_sets(profile, run).items():
        for seed in profile.run.seeds:
            wanted = job(profile, run, seed, name, files)
            if not wanted.done:
                (wanted.folder / "done.json").unlink(missing_ok=True)
            folder = run_job(wanted, alone, run)
            for stem, tables in parts.items():
                rows = pd.read_csv(folder / f"{stem}.csv")
                rows.insert(0, "seed", seed)
                rows.insert(0, "set", name)
                if stem != "points" or seed == profile.run.seeds[0]:  # the picture shows one seed
                    tables.append(rows)
    saved = {}
    for stem, name in (("measures", "representations"), ("points", "representations_points")):
        saved[name] = pd.concat(parts[stem], ignore_index=True) if parts[stem] else pd.DataFrame()
        if len(saved[name]):
            write_csv(run.results, name, saved[name])
    return saved
