"""What every file of every data set must be: the schema of `params/data.lock.yaml`, and the checks against it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from qalign_core.runs import sha256_file

LOCK_FILE = Path(__file__).resolve().parents[2] / "params" / "data.lock.yaml"


def inside(path: str) -> str:
    """A relative path that cannot leave the folder it is joined to.

    Raises:
        ValueError: for an absolute path, `..`, a backslash or a drive.
    """
    parts = path.split("/")
    if not path or "\\" in path or ":" in path or any(part in ("", ".", "..") for part in parts):
        raise ValueError(f"{path!r} must be a plain relative path such as 'mgsm/mgsm_sw.tsv', without '..'")
    return path


class Strict(BaseModel):
    """A part of the lock file: no unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class LockedFile(Strict):
    """What is known of one file before it is fetched.

    Attributes:
        path: its place at the source.
        language: code of the language that needs it; None if every language does.
        bytes, rows, git_blob, sha256: size, number of rows, git's id of the content, and sha256; None if not known.
    """

    path: str
    language: str | None = None
    bytes: int | None = Field(default=None, ge=0)
    rows: int | None = Field(default=None, ge=0)
    git_blob: str | None = Field(default=None, pattern=r"^[0-9a-f]{40}$")
    sha256: str | None = Field(default=None, pattern=r"^[0-9a-f]{64}$")

    @field_validator("path")
    @classmethod
    def _stays_inside(cls, path: str) -> str:
        return inside(path)


class LockedDataSet(Strict):
    """The files of one data set at one source, by their place in the layout."""

    licence: str
    files: dict[str, LockedFile]

    @field_validator("files")
    @classmethod
    def _stay_inside(cls, files: dict[str, LockedFile]) -> dict[str, LockedFile]:
        for place in files:
            inside(place)
        return files

    def needed(self, languages: Sequence[str]) -> dict[str, LockedFile]:
        """The files that these languages need."""
        return {place: file for place, file in self.files.items() if file.language in (None, *languages)}


class LockedHubDataSet(LockedDataSet):
    """A data set of the hub; without a revision, the one of the first download is recorded and kept to."""

    repo_id: str
    revision: str | None = None


class LockedRepository(Strict):
    """The authors' repository at one commit."""

    url: str
    commit: str
    data_sets: dict[str, LockedDataSet]


class Lock(Strict):
    """What `params/data.lock.yaml` says of every data set."""

    repository: LockedRepository
    hub: dict[str, LockedHubDataSet]


def read_lock(path: str | Path = LOCK_FILE) -> Lock:
    """Read a lock file.

    Raises:
        ValueError: for an unknown key, a malformed checksum or a path that leaves its folder, with the place.
    """
    with Path(path).open(encoding="utf-8") as stream:
        content = yaml.safe_load(stream)
    try:
        return Lock.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise ValueError(f"{path}: {place}: {first['msg']}") from None


def git_blob(path: Path) -> str:
    """Git's id of a file's content, in hexadecimal."""
    digest = hashlib.sha1(b"blob %d\0" % path.stat().st_size, usedforsecurity=False)
    with path.open("rb") as stream:
        for piece in iter(lambda: stream.read(1 << 20), b""):
            digest.update(piece)
    return digest.hexdigest()


def difference(path: Path, expected: LockedFile) -> str | None:
    """How a file's content differs from what the lock says of it; None if it does not (or the lock says nothing)."""
    if expected.bytes is not None and path.stat().st_size != expected.bytes:
        return f"it has {path.stat().st_size:,} bytes, the lock says {expected.bytes:,}"
    for name, value, measure in (("sha256", expected.sha256, sha256_file), ("git blob", expected.git_blob, git_blob)):
        if value is not None and (found := measure(path)) != value:
            return f"its {name} is {found}, the lock says {value}"
    return None
