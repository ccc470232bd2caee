"""The `transformers` Trainer with the paper's loss, sealed checkpoints and a heartbeat, and no other change."""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from transformers import Trainer, TrainerCallback
from transformers.trainer_pt_utils import LengthGroupedSampler

from qalign_core.kernels import check_separation, weighted_loss
from qalign_core.models import restore_master_weights
from qalign_core.runs import append_json_line, progress_lines, read_json, sync_tree, write_json, write_json_lines

MANIFEST = "complete.json"
VISIBLE_SECONDS = 120.0  # how long a file server may take to show what another machine has written

# ------------------------------------------------------------------------------------------------- checkpoints


def seal(folder: str | Path, fingerprint: str, world_size: int, totals: dict[str, float]) -> None:
    """Declare a checkpoint complete: its manifest, written last, lists every file with its size in bytes.

    `totals` are counters to go on from (tokens, seconds, …).
    """
    folder, deadline = Path(folder), time.monotonic() + VISIBLE_SECONDS
    while absent := missing(contents(folder), world_size):
        if time.monotonic() > deadline:
            why = "every machine must write into the same run folder. Put it on a disk that all share (--run-dir)"
            raise FileNotFoundError(f"{folder}: {', '.join(absent)} did not appear: {why}")
        time.sleep(0.2)
    sync_tree(folder)
    manifest = {"fingerprint": fingerprint, "world_size": world_size, "totals": totals, "files": contents(folder)}
    write_json(folder / MANIFEST, manifest)


def contents(folder: Path) -> dict[str, int]:
    """The size in bytes of every file below `folder` but its manifest, by its path relative to it."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != MANIFEST)
    return {file.relative_to(folder).as_posix(): file.stat().st_size for file in files}


def missing(files: Iterable[str], world_size: int) -> list[str]:
    """The parts that a checkpoint of `world_size` ranks lacks: trainer state, weights, optimizer, random states.

    DeepSpeed keeps the optimizer beside the weights in ZeRO 0, and a shard for each rank in the other stages.
    """
    names = [name.rpartition("/")[2] for name in files]

    def ranks(pattern: str) -> set[int]:
        return {int(found.group(1)) for found in map(re.compile(pattern).fullmatch, names) if found}

    random_states = {0} if world_size == 1 and "rng_state.pth" in names else ranks(r"rng_state_(\d+)\.pth")
    shards = ranks(r".*zero_pp_rank_(\d+)_mp_rank_\d+_optim_states\.pt")
    absent = [name for name in ("trainer_state.json", "latest") if name not in names]
    if not any(name.endswith("model_states.pt") for name in names):
        absent.append("the model's weights")
    absent += [f"the random state of rank {rank}" for rank in range(world_size) if rank not in random_states]
    absent += [f"the optimizer's shard of rank {rank}" for rank in range(world_size) if shards and rank not in shards]
    return absent


def damage(folder: str | Path) -> str | None:
    """What is wrong with a checkpoint, in words; None when it is complete and lies in the run's own folder."""
    folder = Path(folder)
    if folder.is_symlink() or any(path.is_symlink() for path in folder.rglob("*")):
        return "it leads out of the run's own folder (a link): its files are pickles, which can run code"
    if not (folder / MANIFEST).is_file():
        return "it was never finished"
    try:
        manifest = read_json(folder / MANIFEST)
    except ValueError as error:
        return str(error)
    found = contents(folder)
    for name, size in manifest["files"].items():
        if name not in found:
            return f"{name} is missing"
        if found[name] != size:
            return f"{name} has {found[name]} bytes instead of {size}"
    if absent := missing(found, manifest["world_size"]):
        return f"{', '.join(absent)} is missing"
    tag, step = (folder / "latest").read_text(encoding="utf-8").strip(), folder.name.rpartition("-")[2]
    return None if tag == f"global_step{step}" else f"its file `latest` names {tag!r} instead of global_step{step}"


def latest(folder: str | Path, fingerprint: str, world_size: int) -> tuple[Path, dict[str, Any]] | None:
    """The newest checkpoint to resume from, with its manifest; damaged ones are removed, saying why. A ValueError when
    the newest complete one is of another job or number of ranks."""
    folder = Path(folder)
    if folder.is_symlink():
        raise ValueError(f"{folder} is a link: checkpoints are read from the run's own folder only; remove the link")
    found = folder.glob("checkpoint-[0-9]*")
    for checkpoint in sorted(found, key=lambda path: int(path.name.rpartition("-")[2]), reverse=True):
        if reason := damage(checkpoint):
            print(f"{checkpoint.name} is not used: {reason}", flush=True)
            if checkpoint.is_symlink():
                checkpoint.unlink()
            else:
                shutil.rmtree(checkpoint)
            continue
        manifest = read_json(checkpoint / MANIFEST)
        if manifest["fingerprint"] != fingerprint:
            remedy = f"undo what was changed to go on from it, or delete {folder} to begin this stage anew"
            raise ValueError(f"{checkpoint} belongs to a job with other parameters, data or initial model: {remedy}")
        if manifest["world_size"] != world_size:
            before = manifest["world_size"]
            remedy = f"run on {before} again (run.devices, run.hostfile), or delete {folder} to begin this stage anew"
            raise ValueError(f"{checkpoint} was written by {before} ranks and this run has {world_size}: {remedy}")
        return checkpoint, manifest
    return None


# ------------------------------------------------------------------------------------------------- the Trainer


class StageTrainer(Trainer):
    """Trains one stage.

    Order of examples: epoch e (from 0) goes through `torch.randperm(rows)` of a generator seeded with `data_seed` + e;
    device batch k of the epoch goes to rank k mod world size (accelerate: SeedableRandomSampler, BatchSamplerShard).
    So one rank with accumulation 4 and two with 2 see the same examples in every update; only where an epoch's device
    batches do not divide by the ranks, its first ones are seen again at its end, as in the authors' sampler.

    Updates: the last update of an epoch takes the batches that remain. The authors' transformers 4.29 floored the
    number of updates per epoch and carried the accumulation over: with an effective batch size of 128, 1,722 updates
    against 1,725 here for GSM8KInstruct and 174 against 177 for SFT; stage 1 (1,548) and MetaMathQA (9,258) agree.

    Args:
        fingerprint: of the job, written into every checkpoint.
        totals: counters of an earlier, interrupted run to go on from (`tokens`, `target_tokens`, `seconds`).
        started: when this process began (Unix seconds).
        check_packing: check before the first batch that packed examples do not see each other.
    """

    # `weighted_loss` / items is already the loss of the whole update's share, so nothing divides it again.
    loss_is_scaled_for_ga = True

    def __init__(
        self, fingerprint: str, totals: dict[str, float], started: float, check_packing: bool, **arguments: Any
    ) -> None:
        super().__init__(**arguments)
        self.fingerprint = fingerprint
        self.totals = {"tokens": 0, "target_tokens": 0, "seconds": 0.0} | totals
        self.started = started
        self.check_packing = check_packing

    def seconds(self) -> float:
        """Time spent on this stage so far, earlier runs of it included."""
        return self.totals["seconds"] + time.time() - self.started

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        sampler = super()._get_train_sampler(train_dataset)
        if isinstance(sampler, LengthGroupedSampler):  # train_sampling_strategy: group_by_length
            return SeededLengthGroupedSampler(self, sampler)
        return sampler

    def get_batch_samples(
        self, epoch_iterator: Iterator, num_batches: int, device: torch.device
    ) -> tuple[list[dict[str, torch.Tensor]], torch.Tensor]:
        """The device batches of one update on this rank, and the `items` of the update on all ranks."""
        if self.state.global_step >= self.state.max_steps:  # killed after its last update: it would do one more
            return [], torch.ones(1)
        batches = list(islice(epoch_iterator, num_batches))
        names = ("items", "tokens", "target_tokens")
        counts = torch.stack([sum((batch[name] for batch in batches), torch.zeros(1)) for name in names]).double()
        counts = self.accelerator.reduce(counts.to(device), reduction="sum")  # (3, 1)
        self.totals["tokens"] += int(counts[1])
        self.totals["target_tokens"] += int(counts[2])
        return batches, counts[0].clamp(min=1)

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, torch.Tensor],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """This device batch's part of the update's loss, times the world size since DeepSpeed averages over ranks."""
        if self.check_packing:
            check_separation(model, inputs["input_ids"].device)
            self.check_packing = False
        assert num_items_in_batch is not None  # `get_batch_samples` has counted them
        loss = weighted_loss(model, inputs) * self.accelerator.num_processes / num_items_in_batch.squeeze()
        if not torch.isfinite(loss):
            remedy = f"lower learning_rate (now {self.args.learning_rate}) or lengthen warmup_steps in the profile"
            said = f"the loss became {loss.item()} at update {self.state.global_step + 1}: {remedy}"
            raise FloatingPointError(f"{said}, and look at the corpus")
        return loss.float()

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Nothing inside a checkpoint: DeepSpeed's own files hold the weights. Stages end in `models.save_model`."""
        os.makedirs(output_dir or self.args.output_dir, exist_ok=True)

    def _save_checkpoint(self, model: torch.nn.Module, trial: Any) -> None:
        super()._save_checkpoint(model, trial)
        self.accelerator.wait_for_everyone()  # every rank's shard and random state is on disk
        if self.is_world_process_zero():
            folder = Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}"
            seal(folder, self.fingerprint, self.args.world_size, self.totals | {"seconds": self.seconds()})
        self.accelerator.wait_for_everyone()


class SeededLengthGroupedSampler(LengthGroupedSampler):
    """`transformers`' grouping by length, in an order that epoch and `data_seed` fix, so that runs can resume."""

    def __init__(self, trainer: Trainer, sampler: LengthGroupedSampler) -> None:
        super().__init__(sampler.batch_size, lengths=list(sampler.lengths))  # a column is slow to look into
        self.trainer = trainer

    def __iter__(self) -> Iterator[int]:
        epoch = int(self.trainer.state.epoch or 0)
        self.generator = torch.Generator().manual_seed(self.trainer.args.data_seed + epoch)
        return super().__iter__()


class MasterWeights(TrainerCallback):
    """Under bf16, starts a stage from the initial model's fp32 weights, not from their bf16 rounding."""

    def __init__(self, path: str, revision: str | None) -> None:
        self.path = path
        self.revision = revision

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        if args.bf16 and state.global_step == 0:
            restore_master_weights(model, self.path, self.revision)


class Heartbeat(TrainerCallback):
    """Writes `progress.jsonl`: a line with the loss at every logging step, and one without at least every `interval` s.

    Every rank carries the callback, one `writes`.
    """

    def __init__(self, path: Path, writes: bool, interval: float = 10.0) -> None:
        self.path = path
        self.writes = writes
        self.interval = interval
        self.trainer: StageTrainer  # given before the training begins
        self.last_line = 0.0
        self.start: tuple[float, int, float] = (0.0, 0, 0)  # time, update and tokens where this process began to train

    def rewind(self, step: int) -> None:
        """Forget what an interrupted run wrote after update `step`, from where this one goes on."""
        if self.writes:
            rows = progress_lines(self.path) if step else []
            write_json_lines(self.path, [row for row in rows if row.get("step", 0) <= step])

    def beat(self, phase: str, **values: Any) -> None:
        """Append one line now."""
        self.last_line = time.time()
        if self.writes:
            append_json_line(self.path, {"time": round(self.last_line, 3), "phase": phase, **values})

    def _pace(self, state: Any) -> dict[str, Any]:
        tokens = self.trainer.totals["tokens"]
        start, first_step, first_tokens = self.start
        seconds, steps = max(time.time() - start, 1e-9), state.global_step - first_step
        left = round(seconds / steps * (state.max_steps - state.global_step), 1) if steps else None
        pace = {"step": state.global_step, "total_steps": state.max_steps, "tokens": tokens}
        return pace | {"tokens_per_second": round((tokens - first_tokens) / seconds, 1), "seconds_left": left}

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.start = (time.time(), state.global_step, self.trainer.totals["tokens"])
        self.beat("training", **self._pace(state))

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **_: Any) -> None:
        if logs and "loss" in logs:
            values = {name: logs[name] for name in ("loss", "learning_rate", "grad_norm") if name in logs}
            self.beat("training", **self._pace(state), **values)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        control.should_log |= state.global_step >= state.max_steps  # the curve's last point
        self.on_substep_end(args, state, control)

    def on_substep_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if time.time() - self.last_line > self.interval:
            self.beat("training", **self._pace(state))
