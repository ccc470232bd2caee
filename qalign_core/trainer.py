"""The `transformers` Trainer with the paper's loss, trustworthy checkpoints and a heartbeat, and no other change."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from transformers import Trainer, TrainerCallback

from qalign_core.runs import read_json_lines, write_json_lines
from qalign_core.supervision import check_separation, weighted_loss
from qalign_core.training import checkpoints
from qalign_core.training.model_folder import restore_master_weights


class StageTrainer(Trainer):
    """Trains one stage.

    Order of examples: epoch e (from 0) goes through `torch.randperm(rows)` of a generator seeded with `data_seed` + e;
    device batch k of the epoch goes to rank k mod world size (accelerate: SeedableRandomSampler, BatchSamplerShard).
    So one rank with accumulation 4 and two with 2 see the same examples in every update; only where an epoch's device
    batches do not divide by the ranks, its first ones are seen again at its end, as in the authors' sampler.

    Updates: the last update of an epoch takes the batches that remain. The authors' transformers 4.29 floored the
    number of updates an epoch and carried the accumulation over: on 128 sequences an update, 1,722 updates against
    1,725 here for GSM8KInstruct and 174 against 177 for SFT; stage 1 (1,548) and MetaMathQA (9,258) agree.

    Args:
        fingerprint: of the job, written into every checkpoint.
        totals: counters of an earlier, interrupted run to go on from (`tokens`, `target_tokens`, `seconds`).
        started: when this process began (Unix seconds).
        check_packing: prove before the first batch that packed examples do not see each other.
        **arguments: as for `transformers.Trainer`.
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

    def get_batch_samples(
        self, epoch_iterator: Iterator, num_batches: int, device: torch.device
    ) -> tuple[list[dict[str, torch.Tensor]], torch.Tensor]:
        """The device batches of one update on this rank, and the `items` of the update on all ranks.

        None are left for a run that was killed after its last update: it would else do one more.
        """
        if self.state.global_step >= self.state.max_steps:
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
        """This device batch's part of the update's loss, times the world size since DeepSpeed averages over ranks.

        Raises:
            FloatingPointError: when it is not finite.
        """
        if self.check_packing:
            check_separation(model, inputs["input_ids"].device)
            self.check_packing = False
        assert num_items_in_batch is not None  # `get_batch_samples` has counted them
        loss = weighted_loss(model, inputs) * self.accelerator.num_processes / num_items_in_batch.squeeze()
        if not torch.isfinite(loss):
            raise FloatingPointError(
                f"the loss became {loss.item()} at update {self.state.global_step + 1}: lower learning_rate "
                f"(now {self.args.learning_rate}) or lengthen warmup_steps in the profile, and look at the corpus"
            )
        return loss.float()

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Inside a checkpoint: nothing, since DeepSpeed's own files hold the weights. Stages end in `save_model` of
        `qalign_core.training.model_folder`."""
        os.makedirs(output_dir or self.args.output_dir, exist_ok=True)

    def _save_checkpoint(self, model: torch.nn.Module, trial: Any) -> None:
        super()._save_checkpoint(model, trial)
        self.accelerator.wait_for_everyone()  # every rank's shard and random state is on disk
        if self.is_world_process_zero():
            folder = Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}"
            totals = self.totals | {"seconds": self.seconds()}
            checkpoints.seal(folder, self.fingerprint, self.args.world_size, totals)
        self.accelerator.wait_for_everyone()


class MasterWeights(TrainerCallback):
    """Under bf16, starts a stage from the initial model's fp32 weights, not from their bf16 rounding.

    Args:
        path: model folder or hub id the model was loaded from.
        revision: of the hub id.
    """

    def __init__(self, path: str, revision: str | None) -> None:
        self.path = path
        self.revision = revision

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        if args.bf16 and state.global_step == 0:
            restore_master_weights(model, self.path, self.revision)


class TensorBoard(TrainerCallback):
    """Writes TensorBoard's logs: loss, learning rate and gradient norm at every logging step.

    A run that goes on from a checkpoint takes back what was logged after it. The writer has no thread of its own, whose
    death on a full disk would leave the training waiting for it.

    Args:
        folder: `tensorboard/` of the job.
        writes: whether this rank is the one that writes.
    """

    def __init__(self, folder: Path, writes: bool) -> None:
        self.folder = folder
        self.writes = writes
        self.writer: Any = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if not self.writes:
            return
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto.event_pb2 import Event, SessionLog

        self.folder.mkdir(exist_ok=True)
        self.writer = EventsWriter(str(self.folder / "events"), f".{os.getpid()}")
        start = SessionLog(status=SessionLog.START)  # what earlier files hold of this update and later ones is void
        self.writer.write_event(Event(wall_time=time.time(), step=state.global_step + 1, session_log=start))

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **_: Any) -> None:
        if self.writer is None or not logs or "loss" not in logs:
            return
        from tensorboardX.proto.event_pb2 import Event
        from tensorboardX.summary import scalar

        for name, value in logs.items():
            summary = scalar(f"train/{name}", value)
            self.writer.write_event(Event(wall_time=time.time(), step=state.global_step, summary=summary))
        self.writer.flush()

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if self.writer is not None:
            self.writer.close()


class Heartbeat(TrainerCallback):
    """Writes `progress.jsonl`: a line with the loss at every logging step, and one without at least every `interval`.

    Args:
        path: the file.
        writes: whether this rank is the one that writes; every rank carries the callback.
        interval: seconds.
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
        rows = read_json_lines(self.path) if self.writes and step and self.path.is_file() else []
        if self.writes:
            write_json_lines(self.path, [row for row in rows if row.get("step", 0) <= step])

    def beat(self, phase: str, **values: Any) -> None:
        """Append one line now."""
        self.last_line = time.time()
        if self.writes:
            with self.path.open("a", encoding="utf-8") as stream:
                stream.write(json.dumps({"time": round(self.last_line, 3), "phase": phase, **values}) + "\n")

    def _pace(self, state: Any) -> dict[str, Any]:
        tokens = self.trainer.totals["tokens"]
        start, first_step, first_tokens = self.start
        seconds = max(time.time() - start, 1e-9)
        steps = state.global_step - first_step
        left = seconds / steps * (state.max_steps - state.global_step) if steps else None
        return {
            "step": state.global_step,
            "total_steps": state.max_steps,
            "tokens": tokens,
            "tokens_per_second": round((tokens - first_tokens) / seconds, 1),
            "seconds_left": None if left is None else round(left, 1),
        }

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
