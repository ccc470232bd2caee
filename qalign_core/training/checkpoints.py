"""Checkpoints that can be trusted: complete, of this very job, and written by as many ranks as read them."""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from qalign_core.runs import read_json, sync_tree, write_json

MANIFEST = "complete.json"
VISIBLE_SECONDS = 120.0  # how long a file server may take to show what another machine has written


# ------------------------------------------------------------------------------------------------- writing


def seal(folder: str | Path, fingerprint: str, world_size: int, totals: dict[str, float]) -> None:
    """Declare a checkpoint complete: its manifest, written last, lists every file with its size in bytes.

    Args:
        folder: `checkpoints/checkpoint-<step>`.
        fingerprint: of the job.
        world_size: number of ranks that wrote it.
        totals: counters to go on from (tokens, seconds, …).

    Raises:
        FileNotFoundError: when the part of a rank is not there, as when machines do not share the run folder.
    """
    folder = Path(folder)
    deadline = time.monotonic() + VISIBLE_SECONDS
    while absent := missing(contents(folder), world_size):
        if time.monotonic() > deadline:
            raise FileNotFoundError(
                f"{folder}: {', '.join(absent)} did not appear: every machine must write into the same run folder. "
                "Put it on a disk that all of them share (--run-dir)"
            )
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


# ------------------------------------------------------------------------------------------------- reading


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
    tag = (folder / "latest").read_text(encoding="utf-8").strip()
    if tag != f"global_step{_step(folder)}":
        return f"its file `latest` names {tag!r} instead of global_step{_step(folder)}"
    return None


def latest(folder: str | Path, fingerprint: str, world_size: int) -> tuple[Path, dict[str, Any]] | None:
    """The newest checkpoint to resume from, with its manifest; damaged ones are removed, saying why.

    Args:
        folder: the `checkpoints` folder of a job.
        fingerprint: of the job.
        world_size: number of ranks now.

    Raises:
        ValueError: when the newest complete one is of another job or number of ranks; nothing is removed then.
    """
    folder = Path(folder)
    if folder.is_symlink():
        raise ValueError(f"{folder} is a link: checkpoints are read from the run's own folder only; remove the link")
    for checkpoint in _newest_first(folder):
        reason = damage(checkpoint)
        if reason is None:
            manifest = read_json(checkpoint / MANIFEST)
            if manifest["fingerprint"] != fingerprint:
                raise ValueError(
                    f"{checkpoint} belongs to a job with other parameters, data or initial model: undo what was "
                    f"changed to go on from it, or delete {folder} to begin this stage anew"
                )
            if manifest["world_size"] != world_size:
                raise ValueError(
                    f"{checkpoint} was written by {manifest['world_size']} ranks and this run has {world_size}: run on "
                    f"{manifest['world_size']} again (run.devices, run.hostfile), or delete {folder} to begin this "
                    "stage anew"
                )
            return checkpoint, manifest
        print(f"{checkpoint.name} is not used: {reason}", flush=True)
        if checkpoint.is_symlink():
            checkpoint.unlink()
        else:
            shutil.rmtree(checkpoint)
    return None


def newest_step(folder: str | Path) -> int:
    """The update of the newest complete checkpoint in `folder`, 0 without any; nothing is removed."""
    return next((_step(found) for found in _newest_first(Path(folder)) if damage(found) is None), 0)


def _newest_first(folder: Path) -> list[Path]:
    return sorted(folder.glob("checkpoint-[0-9]*"), key=_step, reverse=True)


def _step(checkpoint: Path) -> int:
    return int(checkpoint.name.rpartition("-")[2])
