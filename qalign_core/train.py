"""Train one stage: `deepspeed --module qalign_core.train job.json`.

Everything comes from the job and goes into its folder. A run that was killed goes on from its last complete checkpoint
when the same command is given again; on CPU it ends with the very weights of an uninterrupted one.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qalign_core import runs
from qalign_core.training.ranks import begin, leave_together, prepare_deepspeed

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase, TrainingArguments

ENCODING = 2  # raised when a tokenised corpus has other columns: an interrupted run then tokenises it again
LOCK_SECONDS = 10  # how long a killed run's last process may take to die


def main(argv: list[str] | None = None) -> None:
    """Run the job; see the module's description."""
    # --------------------------------------------------------------------------------------------- job
    job_path = job_from(argv)
    begin(job_path.parent)
    job, folder, root = read_job(job_path), job_path.parent, runs.run_root(job_path)
    is_main = int(os.environ.get("RANK", "0")) == 0
    if runs.is_done(job_path):
        print(f"{job_path} is already done: nothing to do", flush=True)
        return
    lock = lock_folder(folder) if is_main else None
    started = time.time()
    # Every length of a batch is another shape to oneDNN, which would keep compiled code for the last 1,024 of them.
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "64")
    prepare_deepspeed()

    from transformers import set_seed
    from transformers.integrations import is_deepspeed_zero3_enabled

    from qalign_core.supervision import Collator, attention_for, check_attention
    from qalign_core.trainer import Heartbeat, MasterWeights, StageTrainer, TensorBoard
    from qalign_core.training import checkpoints
    from qalign_core.training.lora import add_adapters
    from qalign_core.training.model_folder import (
        add_pad_token,
        full_state_dict,
        load_model,
        load_tokenizer,
        merged,
        save_model,
    )
    from qalign_core.training.trained_linear import speed_up_linear_layers

    # --------------------------------------------------------------------------------------------- seed, arguments
    arguments = training_arguments(job, folder)
    set_seed(job["seed"])
    with arguments.main_process_first(local=False, desc="looking for a checkpoint"):  # machines share the folder
        found = checkpoints.latest(folder / "checkpoints", job["fingerprint"], arguments.world_size)
    checkpoint, totals = (str(found[0]), found[1]["totals"]) if found else (None, {})
    if is_main:
        runs.mend_lines(folder / "progress.jsonl")
    heartbeat = Heartbeat(folder / "progress.jsonl", writes=is_main)
    heartbeat.rewind(int(checkpoint.rpartition("-")[2]) if checkpoint else 0)
    heartbeat.beat("loading")
    if is_main:
        print(f"resuming from {checkpoint}" if checkpoint else "starting from the initial model", flush=True)

    # --------------------------------------------------------------------------------------------- corpus, model
    attention = job.get("attention") or attention_for(job["packing"])
    check_attention(attention, job["packing"])
    path, revision = runs.resolve(job["model"]["path"], root), job["model"].get("revision")
    tokenizer = load_tokenizer(path, revision)
    model = load_model(path, revision, attention)
    add_pad_token(model, tokenizer, job.get("pad_token") or "<pad>")
    lora = job["lora"] if job.get("method") == "lora" else None
    if lora:
        model = add_adapters(model, lora)
    if not (arguments.bf16 or is_deepspeed_zero3_enabled()):
        speed_up_linear_layers(model)
    with arguments.main_process_first(local=False, desc="tokenising the corpus"):
        corpus = encoded_corpus(job, folder, root, tokenizer)

    # --------------------------------------------------------------------------------------------- train
    trainer = StageTrainer(
        fingerprint=job["fingerprint"],
        totals=totals,
        started=started,
        check_packing=job["packing"],
        model=model,
        args=arguments,
        train_dataset=corpus,
        data_collator=Collator(
            tokenizer.pad_token_id, job["packing"], job["loss"], micro_batch=job.get("paper_micro_batch", 2)
        ),
        callbacks=[MasterWeights(path, revision), heartbeat, TensorBoard(folder / "tensorboard", writes=is_main)],
    )
    heartbeat.trainer = trainer
    trainer.train(resume_from_checkpoint=checkpoint)

    # --------------------------------------------------------------------------------------------- save
    heartbeat.beat("saving", step=trainer.state.global_step, total_steps=trainer.state.max_steps)
    model, state = trainer.model, full_state_dict(trainer.model, keep=is_main)
    peak = peak_memory(trainer)
    if lock is not None:  # the main rank
        if lora:
            model, state = merged(model, state, path, revision)
        save_model(model, tokenizer, folder / "model", state, job.get("template") or "alpaca")
        write_done(job, folder, metrics(trainer, corpus, job), trainer.seconds(), peak)
        shutil.rmtree(folder / "checkpoints", ignore_errors=True)
        shutil.rmtree(encoded_folder(job, folder), ignore_errors=True)
        lock.release()


# ------------------------------------------------------------------------------------------------- job


def job_from(argv: list[str] | None) -> Path:
    """The job's path on the command line; DeepSpeed's launcher adds `--local_rank`, which the environment says too."""
    parser = argparse.ArgumentParser(prog="deepspeed --module qalign_core.train", description=main.__doc__)
    parser.add_argument("job", type=Path, help="path of job.json; everything is written into its folder")
    parser.add_argument("--local_rank", type=int, default=0, help="set by DeepSpeed's launcher")
    return parser.parse_args(argv).job.absolute()


def read_job(path: Path) -> dict[str, Any]:
    """Read a training job.

    Raises:
        ValueError: when keys are missing, naming them, or it is no training job.
    """
    job = runs.read_json(path)
    needed = {"kind", "fingerprint", "seed", "model", "corpus", "max_length", "loss", "packing"}
    needed |= {"training_arguments", "deepspeed"}
    if missing := sorted(needed - job.keys()):
        raise ValueError(f"{path}: keys are missing: {', '.join(missing)}")
    method = job.get("method", "full")
    if job["kind"] != "train" or job["loss"] not in ("paper", "token") or method not in ("full", "lora"):
        raise ValueError(
            f"{path}: kind must be train, loss paper or token, method full or lora; got kind={job['kind']!r}, "
            f"loss={job['loss']!r}, method={method!r}"
        )
    if method == "lora" and not job.get("lora"):
        raise ValueError(f"{path}: method lora needs the key lora: rank, alpha, dropout, target_modules, embeddings")
    return job


def lock_folder(folder: Path) -> Any:
    """Hold the job's folder until this process ends, however it ends.

    Raises:
        RuntimeError: when another process holds it.
    """
    from filelock import FileLock, Timeout

    lock = FileLock(folder / ".lock")
    try:
        return lock.acquire(timeout=LOCK_SECONDS).lock
    except Timeout:
        raise RuntimeError(f"{folder}: another process is training here; wait for it to end or stop it") from None


def training_arguments(job: dict[str, Any], folder: Path) -> TrainingArguments:
    """The job's `TrainingArguments`; their creation starts the ranks' communication and, under ZeRO-3, sharded loading.

    Raises:
        ValueError: for arguments that this module decides itself, or fewer than two checkpoints kept.
    """
    import torch
    from transformers import TrainingArguments

    ours = {
        "output_dir": str(folder / "checkpoints"),
        "seed": job["seed"],
        "data_seed": job["seed"],
        "deepspeed": json.loads(json.dumps(job["deepspeed"])),  # a copy: transformers fills in its "auto" values
        "use_cpu": not torch.cuda.is_available(),
        "remove_unused_columns": False,
        "logging_nan_inf_filter": False,
        "disable_tqdm": True,
    }
    given = {"report_to": "none", "save_total_limit": 2, "logging_steps": 10} | job["training_arguments"]
    if both := sorted(ours.keys() & given.keys()):
        raise ValueError(f"training_arguments: {', '.join(both)} cannot be given; the job or train.py decides them")
    given["report_to"] = other_trackers(given["report_to"])
    if given["save_total_limit"] < 2:
        raise ValueError("training_arguments: save_total_limit must be at least 2: one checkpoint is always whole")
    if given.get("bf16") and job["deepspeed"].get("zero_optimization", {}).get("stage", 0) == 0:
        raise ValueError("training_arguments: bf16 needs ZeRO stage 1, 2 or 3 (fp32 master weights and accumulation)")
    if not torch.cuda.is_available():
        given.pop("tf32", None)
    return TrainingArguments(**ours, **given)


def other_trackers(report_to: str | list[str]) -> list[str]:
    """The trackers that transformers shall report to, without TensorBoard, whose logs are written anyway."""
    names = [report_to] if isinstance(report_to, str) else report_to
    return [name for name in names if name != "tensorboard"] or ["none"]


# ------------------------------------------------------------------------------------------------- corpus


def encoded_folder(job: dict[str, Any], folder: Path) -> Path:
    """Where the tokenised corpus lies while the job runs."""
    return folder / f"encoded-{ENCODING}-{job['fingerprint'][:16]}"


def encoded_left_behind(folder: Path) -> list[Path]:
    """Tokenised corpora that killed runs left in a job's folder, and never the folder of a stage that was named so."""
    found = [path for path in folder.glob("encoded-*") if re.fullmatch(r"encoded-\d+-\w{1,16}", path.name)]
    return [path for path in found if not any(path.rglob("job.json"))]


def encoded_corpus(job: dict[str, Any], folder: Path, root: Path, tokenizer: PreTrainedTokenizerBase) -> Dataset:
    """The job's corpus, tokenised once, by the first process that asks; the others map its file into memory.

    Raises:
        FileNotFoundError: when the corpus is not there.
        ValueError: when it is not the file the job was made for.
    """
    from datasets import Dataset

    from qalign_core.supervision import encode_corpus

    target = encoded_folder(job, folder)
    if not target.is_dir():
        corpus = job["corpus"]
        path = Path(runs.resolve(corpus["path"], root))
        inside = Path(os.path.normpath(root / corpus["path"])).is_relative_to(os.path.normpath(root))
        if (root / "profile.yaml").is_file() and not inside:
            raise ValueError(
                f"{folder / 'job.json'}: its corpus {path} is not in the run folder {root}; delete the file"
            )
        if not path.is_file():
            raise FileNotFoundError(f"{path}: no such corpus; run notebook 01 to build it")
        if corpus.get("sha256") and runs.sha256_file(path) != corpus["sha256"]:
            raise ValueError(f"{path}: not the corpus this job was made for (sha256 differs); run notebook 01 again")
        rows = runs.read_json_lines(path)
        part = target.with_name(f".{target.name}.part")
        shutil.rmtree(part, ignore_errors=True)
        encode_corpus(rows, tokenizer, job["max_length"], template=job.get("template") or "alpaca").save_to_disk(part)
        runs.sync_tree(part)
        part.rename(target)
    return Dataset.load_from_disk(str(target))


# ------------------------------------------------------------------------------------------------- done


def peak_memory(trainer: Any) -> int:
    """Peak memory of the hungriest rank in bytes: of its GPU, or of its process on CPU."""
    import resource

    import torch

    if torch.cuda.is_available():
        peak = torch.cuda.max_memory_allocated()
    else:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    peaks = trainer.accelerator.gather(torch.tensor([peak], dtype=torch.float64, device=trainer.args.device))
    return int(peaks.max())


def metrics(trainer: Any, corpus: Dataset, job: dict[str, Any]) -> dict[str, Any]:
    """What is worth knowing about the stage; the whole loss curve is in `progress.jsonl`."""
    import numpy as np

    from qalign_core.training.model_folder import whole_shape

    lengths = np.asarray(corpus["tokens"])
    curve = [(entry["step"], entry["loss"]) for entry in trainer.state.log_history if "loss" in entry]
    steps = np.diff([0] + [step for step, _ in curve])
    return {
        "updates": trainer.state.global_step,
        "epochs": trainer.state.epoch,
        "train_loss": float(np.average([loss for _, loss in curve], weights=steps)),
        "final_loss": curve[-1][1],
        "tokens": trainer.totals["tokens"],
        "target_tokens": trainer.totals["target_tokens"],
        "rows": len(corpus),
        "rows_cut": int((lengths > job["max_length"]).sum()),
        "rows_joined": sum(corpus["joined"]),
        "rows_without_target": sum(max(labels) < 0 for labels in corpus["labels"]),
        "trained_parameters": sum(whole_shape(p).numel() for p in trainer.model.parameters() if p.requires_grad),
        "world_size": trainer.args.world_size,
    }


def write_done(job: dict[str, Any], folder: Path, metrics: dict[str, Any], wall: float, peak: int) -> None:
    """Write `done.json`, the last thing a stage does: what it speaks of is on disk then, not in memory."""
    runs.sync_tree(folder / "model")
    files = {f"model/{name}": digest for name, digest in runs.sha256_tree(folder / "model").items()}
    done = {
        "fingerprint": job["fingerprint"],
        "metrics": metrics,
        "files": files,
        "versions": runs.versions(),
        "hardware": runs.hardware(),
        "git_commit": runs.git_commit(),
        "wall_seconds": round(wall, 3),
        "peak_memory_bytes": peak,
    }
    runs.write_json(folder / "done.json", done)


def advice(error: Exception) -> str | None:
    """What to change after an error whose own message does not say it."""
    text = str(error)
    if "out of memory" in text or "can't allocate memory" in text:
        return (
            "Out of memory: halve per_device_train_batch_size and double gradient_accumulation_steps (same loss), "
            "set gradient_checkpointing to true, or use a higher ZeRO stage or offload in training.deepspeed."
        )
    if "No space left" in text or "PytorchStreamWriter" in text:
        return "The disk is full: free space and give the same command again; complete checkpoints are kept."
    return None


if __name__ == "__main__":
    try:
        main()
        leave_together()
    except (RuntimeError, OSError) as error:
        if note := advice(error):
            error.add_note(note)
        raise
