"""Checkpoints that can be trusted: complete, of this very job, and written by as many ranks as read them."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

from qalign_core.runs import read_json, write_json

MANIFEST = "complete.json"


def seal(folder: str | Path, fingerprint: str, world_size: int, totals: dict[str, float]) -> None:
    """Declare a checkpoint complete: its manifest, written last, lists every file with its size in bytes.

    Args:
        folder: `checkpoints/checkpoint-<step>`.
        fingerprint: of the job.
        world_size: number of ranks that wrote it.
        totals: counters to go on from (tokens, seconds, …).
    """
    folder = Path(folder)
    files = {}
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        with file.open("rb") as stream:
            os.fsync(stream.fileno())
        files[file.relative_to(folder).as_posix()] = file.stat().st_size
    manifest = {"fingerprint": fingerprint, "world_size": world_size, "totals": totals, "files": files}
    write_json(folder / MANIFEST, manifest)


def damage(folder: str | Path) -> str | None:
    """What is wrong with a checkpoint, in words; None when it is complete."""
    folder = Path(folder)
    if not (folder / MANIFEST).is_file():
        return "it was never finished"
    try:
        manifest = read_json(folder / MANIFEST)
    except ValueError as error:
        return str(error)
    for name, size in manifest["files"].items():
        file = folder / name
        if not file.is_file():
            return f"{name} is missing"
        if file.stat().st_size != size:
            return f"{name} has {file.stat().st_size} bytes instead of {size}"
    return None


def latest(folder: str | Path, fingerprint: str, world_size: int) -> tuple[Path, dict[str, Any]] | None:
    """The newest checkpoint to resume from, with its manifest; unusable ones are removed, saying why.

    Args:
        folder: the `checkpoints` folder of a job.
        fingerprint: of the job; checkpoints of another one are of no use.
        world_size: number of ranks now.

    Raises:
        ValueError: when the newest complete one was written by another number of ranks; nothing is removed then.
    """
    for checkpoint in sorted(Path(folder).glob("checkpoint-[0-9]*"), key=_step, reverse=True):
        reason = damage(checkpoint)
        if reason is None:
            manifest = read_json(checkpoint / MANIFEST)
            if manifest["fingerprint"] != fingerprint:
                reason = "it belongs to a job with other parameters, data or initial model"
            elif manifest["world_size"] != world_size:
                raise ValueError(
                    f"{checkpoint} was written by {manifest['world_size']} ranks and this run has {world_size}: run on "
                    f"{manifest['world_size']} again, or delete {folder} to begin this stage anew"
                )
            else:
                return checkpoint, manifest
        print(f"{checkpoint.name} is not used: {reason}", flush=True)
        shutil.rmtree(checkpoint)
    return None


def _step(checkpoint: Path) -> int:
    return int(checkpoint.name.rpartition("-")[2])
