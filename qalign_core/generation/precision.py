"""How many answers change when the same model computes in another precision.

Rounding moves every probability a little, and where two tokens are nearly as likely, greedy decoding takes the other
one. In fp32 no answer depends on its batch or on the number of devices; in bf16 some do, for the same reason.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from qalign_core import launch, plan, runs
from qalign_core.params import Profile
from qalign_core.runs import Run
from qalign_core.scores.last_number import paper_number

OTHER = {"float32": "bfloat16", "bfloat16": "float32"}
COLUMNS = ("benchmark", "language", "asked", "other_text", "other_number")


def other_precision_job(answered: plan.Job, run: Run, per_language: int) -> plan.Job:
    """The job that asks a part of another job's questions again, in the other precision.

    Args:
        answered: a job of `plan.prediction_job` that is done.
        run: its run folder.
        per_language: questions a benchmark and language, spread evenly over the file.
    """
    content = dict(answered.content)
    content["dtype"] = OTHER[content["dtype"]]
    folder = answered.folder.with_name(f"{answered.folder.name}-{content['dtype']}")
    tasks = []
    for task in content["tasks"]:
        rows = runs.read_json_lines(Path(runs.resolve(task["path"], run.folder)))
        rows = rows[:: max(1, len(rows) // per_language)][:per_language]
        path = runs.write_json_lines(folder / "asked" / task["name"] / f"{task['language']}.jsonl", rows)
        tasks.append({**task, "path": run.relative(path), "sha256": runs.sha256_file(path)})
    decides = {"of": answered.content["fingerprint"], "dtype": content["dtype"], "tasks": [t["sha256"] for t in tasks]}
    return plan.Job({**content, "tasks": tasks, "fingerprint": runs.fingerprint(decides)}, folder)


def count_changes(answered: Path, again: Path) -> pd.DataFrame:
    """Compare two folders of predictions of one model.

    Args:
        answered: holds `<benchmark>/<language>.jsonl`.
        again: the same, perhaps with fewer questions.

    Returns:
        A row a benchmark and language: how many were asked again, how many answers have another text, and how many
        end in another number (`COLUMNS`).

    Raises:
        FileNotFoundError: when `answered` lacks a file of `again`.
        ValueError: when the two were asked different questions, with file and index.
    """
    rows = []
    for task in runs.read_json(again / "job.json")["tasks"]:
        name = Path(task["name"]) / f"{task['language']}.jsonl"
        before = {row["index"]: row for row in runs.read_json_lines(answered / name)}
        after = runs.read_json_lines(again / name)
        for row in after:
            if row["index"] not in before or before[row["index"]]["prompt"] != row["prompt"]:
                raise ValueError(f"{answered / name}: index {row['index']} is another question than in {again / name}")
        pairs = [(before[row["index"]]["response"], row["response"]) for row in after]
        texts = sum(first != second for first, second in pairs)
        numbers = sum(paper_number(first) != paper_number(second) for first, second in pairs)
        rows.append((task["name"], task["language"], len(pairs), texts, numbers))
    return pd.DataFrame(rows, columns=list(COLUMNS))


def ask_again(
    profile: Profile, run: Run, system: str, seed: int, per_language: int = 10, show: bool = True
) -> pd.DataFrame:
    """Ask a system a part of its questions in the other precision (generating it unless that is done), and compare.

    Args:
        profile: the checked profile.
        run: where the system's answers are.
        system: whose answers; not one that brings its predictions.
        seed: of the run.
        per_language: questions a benchmark and language.
        show: whether to draw a progress line in the notebook.

    Returns:
        See `count_changes`.

    Raises:
        FileNotFoundError: when the system was not asked yet.
    """
    answered = plan.prediction_job(profile, run, system, seed)
    if not answered.done:
        raise FileNotFoundError(f"{answered.folder}: {system} has not answered yet; run notebook 04 (evaluation) first")
    again = other_precision_job(answered, run, per_language)
    launch.run_job(again, profile, run, show)
    return count_changes(answered.folder, again.folder)


def sentence(changes: pd.DataFrame, system: str, dtype: str) -> str:
    """What came out, in one sentence.

    Args:
        changes: from `count_changes`.
        system: its name.
        dtype: what the tables' answers were computed in.
    """
    asked, texts, numbers = (int(changes[name].sum()) for name in ("asked", "other_text", "other_number"))
    return (
        f"Of {asked} questions that {system} was asked in {dtype} and again in {OTHER[dtype]}, {texts} have an answer "
        f"with another text, {numbers} of them with another last number."
    )
