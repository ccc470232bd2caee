"""The machines a job runs on: this one, or those of a host file."""

from __future__ import annotations

import re
from pathlib import Path

from qalign_core.params import PARAMS_FOLDER, Profile, ProfileError


def hostfile(profile: Profile) -> Path | None:
    """`run.hostfile`, relative to the folder of the profiles; None for this machine alone.

    Raises:
        ProfileError: when there is no such file; DeepSpeed itself would go on with this machine alone.
    """
    if profile.run.hostfile is None:
        return None
    path = PARAMS_FOLDER / Path(profile.run.hostfile).expanduser()
    if not path.is_file():
        raise ProfileError(f"run.hostfile: no file {path}; it has a line such as `worker-1 slots=8` for each machine")
    return path


def machines(profile: Profile) -> int:
    """How many machines a job runs on.

    Raises:
        ProfileError: for a machine that has not `run.devices` slots.
    """
    path = hostfile(profile)
    if path is None:
        return 1
    lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    entries = [line for line in lines if line and not line.startswith("#")]
    for entry in entries or [""]:
        if not re.match(rf"\S+\s+slots={profile.run.devices}\b", entry):
            raise ProfileError(f"{path}: {entry!r} must be `<host> slots={profile.run.devices}`, as run.devices says")
    return len(entries)
