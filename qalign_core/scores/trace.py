"""Where every number comes from: cell of a table → predictions → the job that made them → the stages of its model."""

from __future__ import annotations

from typing import Any

import pandas as pd

from qalign_core import runs
from qalign_core.params import Profile
from qalign_core.runs import Run
from qalign_core.scores import brought

AS_GENERATED, CHANGED, ELSEWHERE = "as generated", "changed since", "made elsewhere"
COLUMNS = (
    "system",
    "seed",
    "benchmark",
    "language",
    "lineage",
    "model",
    "model_done",
    "model_fingerprint",
    "predictions",
    "sha256",
    "state",
    "predictions_done",
    "predictions_fingerprint",
    "commit",
)


def trace(profile: Profile, run: Run, answers: pd.DataFrame) -> pd.DataFrame:
    """One row for every system, seed, benchmark and language, that is for every cell of Tables 2 and 3.

    Args:
        profile: says what each system is made of.
        run: holds models and predictions.
        answers: rows of `scorer.score`: the systems and seeds to trace.

    Returns:
        `COLUMNS`: paths are relative to the run folder if they lie in it. `lineage` is `base → corpus → …`; `model` is
        what answered; `model_done` and `predictions_done` are the `done.json` of its last stage and of the generation
        (missing where this run did not train or generate); `commit` is the package's when the answers were generated;
        `state` compares the file with the checksum that `done.json` has of it.

    Raises:
        FileNotFoundError: for predictions that are not there.
    """
    rows = []
    for system, seed in answers[["system", "seed"]].drop_duplicates().itertuples(index=False):
        origin = _origin(profile, run, system, int(seed))
        folder, done = brought.answers_folder(profile, run, system, int(seed)), origin.pop("done")
        for benchmark in profile.evaluation.benchmarks:
            for code in profile.data.languages:
                path = folder / benchmark / f"{code}.jsonl"
                sha256 = runs.sha256_file(path)
                known = done.get("files", {}).get(f"{benchmark}/{code}.jsonl")
                state = ELSEWHERE if known is None else AS_GENERATED if known == sha256 else CHANGED
                key = {"system": system, "seed": int(seed), "benchmark": benchmark, "language": code}
                found = {"predictions": run.relative(path), "sha256": sha256, "state": state}
                rows.append(key | origin | found)
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _origin(profile: Profile, run: Run, system: str, seed: int) -> dict[str, Any]:
    """What all answers of a system and seed have in common, and the `done.json` of their generation as `done`."""
    entry = profile.systems[system]
    if entry.predictions is not None:
        return {"lineage": "predictions made elsewhere", "model": None, "done": {}}
    path = brought.answers_folder(profile, run, system, seed) / "done.json"
    done = runs.read_json(path)
    found: dict[str, Any] = {
        "model": runs.read_json(path.with_name("job.json"))["model"]["path"],
        "predictions_done": run.relative(path),
        "predictions_fingerprint": done["fingerprint"],
        "commit": done.get("git_commit"),
        "done": done,
    }
    if entry.checkpoint is not None:
        return found | {"lineage": f"checkpoint {entry.checkpoint}"}
    stage = run.stage(seed, entry.lineage or []) / "done.json"
    if stage.is_file():
        found |= {"model_done": run.relative(stage), "model_fingerprint": runs.read_json(stage)["fingerprint"]}
    steps = ["base", *(entry.lineage or [])]
    if entry.translator:
        steps = [f"questions translated by {' → '.join(['base', *entry.translator])}, answered by", *steps]
        return found | {"lineage": f"{steps[0]} {' → '.join(steps[1:])}"}
    return found | {"lineage": " → ".join(steps)}
