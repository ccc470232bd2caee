"""Models of the hub: kept to the commit of their first download, fetched before ranks start, pickles converted."""

from __future__ import annotations

import errno
import os
import pickle
import re
import shutil
import tempfile
import zipfile
from collections.abc import Iterable
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import huggingface_hub
from filelock import FileLock
from huggingface_hub import errors

from qalign_core.runs import read_json, resolve, sha256_file, sync_tree, write_json

CACHE_DIR = "QALIGN_CACHE_DIR"  # environment
RECORD = "recorded.lock.json"  # in the cache: what the first download of data sets and models was
SAFETENSORS, PICKLES = "model*.safetensors", "pytorch_model*.bin"
SETTINGS = ["*.json", "*.model", "*.txt", "*.jinja"]  # configuration and tokenizer
RENAMED = {"WizardLM": "WizardLMTeam"}  # owners that are cited by two names
UNWRITABLE = (errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR)
# Or `transformers` asks a bot for a pull request on somebody else's repository that has no safetensors.
os.environ.setdefault("DISABLE_SAFETENSORS_CONVERSION", "true")
UNREADABLE = (
    *(errors.HfHubHTTPError, errors.EntryNotFoundError),
    *(errors.OfflineModeIsEnabled, errors.CachedRepoTreeNotFoundError),
)


class DownloadError(OSError):
    """A file could not be fetched, or is not the file that was expected; the message says why and what to do."""


def cache_dir() -> Path:
    """Where fetched and generated files are kept: QALIGN_CACHE_DIR, or `~/.cache/qalign`."""
    return Path(os.environ.get(CACHE_DIR) or Path.home() / ".cache" / "qalign").expanduser().absolute()


def is_offline() -> bool:
    """Whether `HF_HUB_OFFLINE` says that nothing shall be fetched."""
    return os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")


def at_hub() -> dict[str, Any]:
    """How huggingface_hub is asked; looked at now, not when the library was imported."""
    found = {"cache_dir": os.environ.get("HF_HUB_CACHE"), "endpoint": os.environ.get("HF_ENDPOINT")}
    return found | {"local_files_only": is_offline()}


def locked(path: Path) -> Any:
    """A lock between processes; its file stays behind, which is harmless. In a cache that cannot be written, none."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        if error.errno not in UNWRITABLE:
            raise
    return FileLock(path.with_name(path.name + ".lock")) if os.access(path.parent, os.W_OK) else nullcontext()


def recorded(cache: Path, key: str) -> dict[str, Any]:
    """What was recorded of a data set or model at its first download; nothing before."""
    return read_json(cache / RECORD).get(key, {}) if (cache / RECORD).is_file() else {}


def record(cache: Path, key: str, value: dict[str, Any]) -> None:
    """Record a data set or model; later downloads must match it."""
    with locked(cache / ".locks" / "record"):
        before = read_json(cache / RECORD) if (cache / RECORD).is_file() else {}
        write_json(cache / RECORD, before | {key: value})


# ------------------------------------------------------------------------------------------------- models


def is_id(name: str) -> bool:
    """Whether a model's name is one of the hub's, and no folder here."""
    return name.count("/") == 1 and not Path(name).is_dir()


def is_commit(revision: str | None) -> bool:
    """Whether a revision is a commit, which never changes, and not a branch."""
    return re.fullmatch(r"[0-9a-f]{40}", revision or "") is not None


def names(name: str) -> list[str]:
    """The names under which a model may be found."""
    owner, _, title = name.partition("/")
    return [name, *([f"{RENAMED[owner]}/{title}"] if owner in RENAMED else [])]


def pinned(name: str, revision: str | None) -> dict[str, Any]:
    """A model as a job names it (`path`, `revision`): the hub's at the commit it was first fetched at, once it was."""
    if not is_id(name) or is_commit(revision):
        return {"path": name, "revision": revision}
    known = recorded(cache_dir(), f"models/{name}").get(revision or "main")
    return known or {"path": name, "revision": revision}


def pin(name: str, revision: str | None) -> dict[str, Any]:
    """`pinned`, and if nothing is recorded of the model yet, the hub is asked for the commit it has now."""
    found, paths = pinned(name, revision), names(name)
    if not is_id(name) or is_commit(found["revision"]):
        return found
    for path in paths:
        try:
            file = huggingface_hub.hf_hub_download(path, "config.json", revision=revision, **at_hub())
        except UNREADABLE as error:
            if path != paths[-1] and isinstance(error, errors.RepositoryNotFoundError):
                continue
            raise DownloadError(unreadable_model(name, revision, error)) from None
        found = {"path": path, "revision": Path(file).parent.name}
        known = recorded(cache_dir(), f"models/{name}") | {revision or "main": found}
        try:
            record(cache_dir(), f"models/{name}", known)
        except OSError as error:
            said = f"{cache_dir()} cannot be written ({error.strerror}), where the commit of {name} is to be recorded"
            raise DownloadError(f"{said}: set QALIGN_CACHE_DIR to a folder of your own") from None
        break
    return found


def fetch(model: dict[str, Any], convert: bool) -> Path:
    """The folder with a hub model's files, fetched if need be; pickles are made safetensors if `convert`. A
    DownloadError for one that cannot be read, has no weights, or only pickles and not `convert`."""
    name, commit = model["path"], model["revision"]
    if not is_commit(commit):
        commit = pin(name, commit)["revision"]
        raise DownloadError(f"{name}: the hub could not be asked for its commit before, which is {commit}: run again")
    made, get = converted(name, commit), partial(huggingface_hub.snapshot_download, name, revision=commit, **at_hub())
    if made.is_dir():
        return made
    try:
        folder = Path(get(allow_patterns=[*SETTINGS, SAFETENSORS]))
        if any(folder.glob(SAFETENSORS)):
            return folder
        files = huggingface_hub.get_cached_repo_tree(name, revision=commit, cache_dir=at_hub()["cache_dir"])
        if lacks := weights_lacking(name, (file.path for file in files), convert):
            raise DownloadError(lacks)
        get(allow_patterns=[PICKLES])
    except UNREADABLE as error:
        raise DownloadError(unreadable_model(name, commit, error)) from None
    with locked(made.parent / f".{commit}"):
        if not made.is_dir():
            _convert(folder, made, name)
    return made


def weights_lacking(name: str, files: Iterable[str], convert: bool) -> str:
    """What to say of a model whose files hold no weights that may be loaded; blank if they do."""
    listed = [Path(file) for file in files]
    if any(file.match(SAFETENSORS) or (convert and file.match(PICKLES)) for file in listed):
        return ""
    if convert:
        return f"{name} has no weights: neither {SAFETENSORS} nor {PICKLES}"
    remedy = "model.convert: true makes safetensors of them without running any"
    return f"{name} has no {SAFETENSORS}, and pickles are not loaded, since they can run code; {remedy}"


def converted(name: str, commit: str | None) -> Path:
    """Where in the cache the safetensors lie that were made of a model's pickles."""
    return cache_dir() / "converted" / name.replace("/", "--") / str(commit)


def located(model: dict[str, Any], root: Path) -> tuple[str, str | None]:
    """Folder or hub id of a job's model, and revision; FileNotFoundError for a stage that was not trained."""
    path, revision = model["path"], model.get("revision")
    if (made := converted(path, revision)).is_dir():
        return str(made), None
    source = resolve(path, root)
    if not Path(source).is_dir() and revision is None and path.count("/") != 1:
        raise FileNotFoundError(f"model folder {root / path} does not exist; train that stage first")
    return source, revision


def is_local(name: str, revision: str | None) -> bool:
    """Whether a model is a folder here, or in the cache with its weights."""
    if (Path(name) / "config.json").is_file():
        return True
    if name.count("/") != 1:
        return False
    model, cache = pinned(name, revision), at_hub()["cache_dir"]
    found = huggingface_hub.try_to_load_from_cache(model["path"], "config.json", cache, revision=model["revision"])
    there = isinstance(found, str) and any(Path(found).parent.glob(SAFETENSORS))
    return there or converted(model["path"], model["revision"]).is_dir()


def _convert(source: Path, target: Path, name: str) -> None:
    """Make a folder of safetensors of one with pickles; no code of theirs is run, and one that has any is refused."""
    import torch

    state: dict[str, torch.Tensor] = {}
    for file in sorted(source.glob(PICKLES)):
        try:  # mapped, not read: the memory of one shard that is written is enough
            part = torch.load(file, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(file))
        except (pickle.UnpicklingError, EOFError, RuntimeError, ValueError) as error:
            said = " ".join(str(error).split())[:200]
            why = f"it holds more than weights, or is damaged: {said}"
            raise DownloadError(f"{name}: {file.name} is refused: {why}") from None
        if not isinstance(part, dict) or not all(isinstance(value, torch.Tensor) for value in part.values()):
            raise DownloadError(f"{name}: {file.name} is refused: it must hold tensors by their names, nothing else")
        state |= part
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".part-") as temporary:
        made = Path(temporary) / "model"
        made.mkdir()
        huggingface_hub.save_torch_state_dict(state, made)
        for pattern in SETTINGS:
            for file in source.glob(pattern):
                if not file.name.endswith(".index.json"):
                    shutil.copyfile(file, made / file.name)
        files = {"from": sorted(source.glob(PICKLES)), "to": sorted(made.glob(SAFETENSORS))}
        sums = {key: {path.name: sha256_file(path) for path in paths} for key, paths in files.items()}
        write_json(made / "converted.json", {"model": name, "commit": target.name, **sums})
        sync_tree(made)
        made.replace(target)


def unreadable_model(name: str, revision: str | None, error: BaseException, kind: str = "model") -> str:
    """Why a model (a folder or one of the hub's) or a data set could not be read, and what to do about it."""
    data, at = kind == "data set", f" --revision {revision}" if revision else ""
    get = f"hf download {name}{at}" + (" --repo-type dataset" if data else "")
    endpoint = os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")
    page, entry = f"{endpoint}/{'datasets/' if data else ''}{name}", "params/data.lock.yaml" if data else "the profile"
    causes: list[BaseException] = [error]
    while cause := causes[-1].__cause__ or causes[-1].__context__:
        causes.append(cause)

    def caused(kind: type[BaseException]) -> bool:
        return any(isinstance(cause, kind) for cause in causes)

    if Path(name).is_dir() or name.count("/") != 1:
        pass
    elif caused(errors.GatedRepoError):  # the more special errors first: they are kinds of later ones
        return f"{name} is gated: accept its terms at {page}, then log in (hf auth login) or set HF_TOKEN"
    elif caused(errors.RevisionNotFoundError):
        return f"{name} has no revision {revision}: correct it in {entry}; {page} lists them"
    elif caused(errors.RepositoryNotFoundError):
        return f"the hub has no {kind} {name}, nor is there such a folder; if it is private: hf auth login"
    elif is_offline():
        return f"{name} is not in the hub's cache, and HF_HUB_OFFLINE is set; where there is a network: {get}"
    elif caused(errors.LocalEntryNotFoundError) or caused(errors.CachedRepoTreeNotFoundError):
        return f"{name} is not in the hub's cache, and the hub cannot be reached; where it can: {get}"
    elif data and caused(errors.EntryNotFoundError):
        return f"{name} has no such file; compare its path with {entry}"
    return f"{name}: {' '.join(str(error).split())[:400]}"
