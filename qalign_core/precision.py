"""How many answers change when the same model computes in another precision.

Rounding moves every probability a little, and where two tokens are nearly as likely, greedy decoding takes the other
one. In fp32 no answer depends on its batch or on the number of devices; in bf16 some do, for the same reason.
"""

from __future__ import annotations

import math
from pathlib import Path

import pandas as pd
import psutil
from safetensors import safe_open

from qalign_core import launch, plan, runs
from qalign_core.params import Profile
from qalign_core.runs import Run
from qalign_core.scorer import paper_number

OTHER = {"float32": "bfloat16", "bfloat16": "float32"}
BYTES = {"float32": 4, "bfloat16": 2}  # of a weight
WEIGHTS_SHARE = 0.8  # of a device's memory: the rest is for keys, values and activations
COLUMNS = ("benchmark", "language", "asked", "other_text", "other_number")


def ask_again(
    profile: Profile, run: Run, system: str, seed: int, per_language: int = 10, show: bool = True
) -> pd.DataFrame:
    """Ask a system a part of its questions in the other precision (generating it unless that is done), and compare.

    Args:
        profile, run, seed: what was run.
        system: whose answers; not one whose predictions were made elsewhere.
        per_language: questions per benchmark and language, spread evenly over the file.
        show: whether to draw a progress line in the notebook.

    Returns:
        `COLUMNS`, one row per benchmark and language: how many were asked again, how many answers have another text,
        and how many end in another number. No rows where the model does not fit into memory in the other precision;
        `attrs["skipped"]` then says so.

    Raises:
        FileNotFoundError: when the system was not asked yet.
    """
    answered = plan.prediction_job(profile, run, system, seed)
    if not answered.done:
        raise FileNotFoundError(f"{answered.folder}: {system} has not answered yet; run notebook 04 (evaluation) first")
    again = other_precision_job(answered, run, per_language)
    if not again.done and (skipped := does_not_fit(again, run, profile.run.devices)):
        changes = pd.DataFrame(columns=list(COLUMNS))
        changes.attrs["skipped"] = skipped
        return changes
    launch.run_job(again, profile, run, show)
    return count_changes(answered.folder, again.folder)


def other_precision_job(answered: plan.Job, run: Run, per_language: int) -> plan.Job:
    """The job that asks a part of another job's questions again; writes the prompts of this part."""
    content = {**answered.content, "dtype": OTHER[answered.content["dtype"]]}
    folder = answered.folder.with_name(f"{answered.folder.name}-{content['dtype']}")
    tasks = []
    for task in content["tasks"]:
        rows = runs.read_json_lines(Path(runs.resolve(task["path"], run.folder)))
        rows = rows[:: max(1, len(rows) // per_language)][:per_language]
        path = runs.write_json_lines(folder / "asked" / task["name"] / f"{task['language']}.jsonl", rows)
        tasks.append({**task, "path": run.relative(path), "sha256": runs.sha256_file(path)})
    decides = {"of": answered.content["fingerprint"], "dtype": content["dtype"], "tasks": [t["sha256"] for t in tasks]}
    return plan.Job({**content, "tasks": tasks, "fingerprint": runs.fingerprint(decides)}, folder)


def does_not_fit(job: plan.Job, run: Run, devices: int) -> str | None:
    """Why a job's model cannot be loaded on every device of this machine, or None."""
    from huggingface_hub import snapshot_download

    source, revision = runs.resolve(job.content["model"]["path"], run.folder), job.content["model"]["revision"]
    if not Path(source).is_dir():  # in the hub's cache, since it has answered
        source = snapshot_download(source, revision=revision, allow_patterns=["model*.safetensors"])
    weights = 0
    for file in Path(source).glob("model*.safetensors"):
        with safe_open(file, framework="pt") as tensors:  # reads the header alone
            weights += sum(math.prod(tensors.get_slice(name).get_shape()) for name in tensors.keys())  # noqa: SIM118
    needed, there = weights * BYTES[job.content["dtype"]] / 2**30, device_memory(devices) / 2**30  # GiB
    if needed <= WEIGHTS_SHARE * there:
        return None
    dtype = job.content["dtype"]
    return f"its weights take {needed:.1f} GiB in {dtype}, and each of {devices} device(s) has {there:.1f} GiB"


def device_memory(devices: int) -> int:
    """Bytes that one rank may use: its GPU's memory, or its share of what is free on this machine."""
    import torch

    if torch.cuda.is_available():
        return min(torch.cuda.get_device_properties(number).total_memory for number in range(devices))
    return psutil.virtual_memory().available // devices


def count_changes(answered: Path, again: Path) -> pd.DataFrame:
    """Compare two folders of predictions of one model, the second perhaps with fewer questions: see `ask_again`."""
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


def sentence(changes: pd.DataFrame, system: str, dtype: str) -> str:
    """What came out of `ask_again`, in one sentence; `dtype` is what the tables' answers were computed in."""
    if reason := changes.attrs.get("skipped"):
        return f"{system} was not asked again in {OTHER[dtype]}: {reason}."
    asked, texts, numbers = (int(changes[name].sum()) for name in ("asked", "other_text", "other_number"))
    return (
        f"Of {asked} questions that {system} was asked in {dtype} and again in {OTHER[dtype]}, {texts} have an answer "
        f"with another text, {numbers} of them with another last number."
    )
