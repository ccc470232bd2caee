"""Fetch one file and be sure of it: over HTTPS with resume, or from the Hugging Face hub at a pinned revision."""

from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path

import requests
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from tqdm.auto import tqdm

from qalign_core.data.data_lock import LockedFile, difference
from qalign_core.data.rows import read_parquet
from qalign_core.runs import write_atomic

ATTEMPTS = 4
PAUSE_SECONDS = 1.0  # doubled after every failed attempt
TIMEOUT_SECONDS = (10.0, 30.0)  # to connect; between two pieces of the answer
PIECE_BYTES = 1 << 16


class DownloadError(OSError):
    """A file could not be fetched, or is not the file that was expected; the message says why and what to do."""


# ------------------------------------------------------------------------------------------------- HTTPS


def fetch(url: str, destination: Path, expected: LockedFile, *, progress: bool = True) -> None:
    """Download a file, verify it, and only then give it its name; a cut download is taken up where it stopped.

    What has arrived waits in `<destination>.part`. A whole file that does not match is deleted and fetched once more
    from its first byte, in case what had arrived earlier was damaged.

    Raises:
        DownloadError: if the host cannot be reached, has no such file, or has another file of that name.
    """
    destination.parent.mkdir(parents=True, exist_ok=True)
    part = destination.with_name(destination.name + ".part")
    pause, problem, refused = PAUSE_SECONDS, "", 0
    for attempt in range(ATTEMPTS):
        if attempt:
            time.sleep(pause)
            pause *= 2
        try:
            _receive(url, part, expected, progress)
        except requests.RequestException as error:
            problem = f"the connection failed ({error})"
            continue
        wrong = difference(part, expected)
        if wrong is None:
            part.replace(destination)
            return
        problem, refused = wrong, refused + 1
        part.unlink()
        if refused == 2:
            raise DownloadError(
                f"{url}: not the expected file: {problem}. The source changed, or something between it and this "
                f"machine altered it; nothing was kept. Compare with params/data.lock.yaml"
            )
    raise DownloadError(
        f"{url}: {problem}, after {ATTEMPTS} attempts. What arrived is kept in {part} and will be resumed; check the "
        f"network and run again, or fetch the file elsewhere and use source 'folder'"
    )


def _receive(url: str, part: Path, expected: LockedFile, progress: bool) -> None:
    """Append to `part` what is missing of the file at `url`."""
    have = part.stat().st_size if part.exists() else 0
    if expected.bytes is not None and have == expected.bytes:
        return
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
    with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT_SECONDS) as answer:
        if answer.status_code == requests.codes.requested_range_not_satisfiable:
            return  # nothing is missing, or what is there is too long: its checksum tells
        if answer.status_code == requests.codes.not_found:
            raise DownloadError(f"{url}: no such file (404); compare its address with params/data.lock.yaml")
        if answer.status_code in (requests.codes.unauthorized, requests.codes.forbidden):
            raise DownloadError(f"{url}: access refused ({answer.status_code}); a proxy may ask for a login")
        answer.raise_for_status()
        resumed = answer.status_code == requests.codes.partial_content and answer.headers.get(
            "Content-Range", ""
        ).startswith(f"bytes {have}-")
        if answer.status_code == requests.codes.partial_content and not resumed:
            part.unlink(missing_ok=True)
            raise requests.ConnectionError(f"asked for bytes from {have}, was sent others")
        missing = int(answer.headers["Content-Length"]) if "Content-Length" in answer.headers else None
        start = have if resumed else 0
        with (
            part.open("ab" if resumed else "wb") as stream,
            tqdm(
                desc=url.rsplit("/", 1)[-1],
                initial=start,
                total=None if missing is None else start + missing,
                unit="B",
                unit_scale=True,
                disable=not progress,
                leave=False,
            ) as bar,
        ):
            for piece in answer.iter_content(PIECE_BYTES):
                stream.write(piece)
                bar.update(len(piece))
            stream.flush()
            os.fsync(stream.fileno())


# ------------------------------------------------------------------------------------------------- hub


def is_offline() -> bool:
    """Whether `HF_HUB_OFFLINE` says that nothing shall be fetched."""
    return os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")


def unreadable_model(name: str, revision: str | None, error: BaseException) -> str:
    """Why a model, a folder or one of the hub's, could not be read, and what to do about it."""
    reasons: list[type] = []
    cause: BaseException | None = error
    while cause is not None:
        reasons.append(type(cause))
        cause = cause.__cause__ or cause.__context__
    get = f"hf download {name}" + (f" --revision {revision}" if revision else "")
    page = f"{os.environ.get('HF_ENDPOINT', 'https://huggingface.co').rstrip('/')}/{name}"
    if Path(name).is_dir() or name.count("/") != 1:
        return f"{name}: {' '.join(str(error).split())[:400]}"
    if GatedRepoError in reasons:
        return f"{name} is gated: accept its terms at {page}, then log in (hf auth login) or set HF_TOKEN"
    if RevisionNotFoundError in reasons:
        return f"{name} has no revision {revision}: correct it in the profile; {page} lists them"
    if RepositoryNotFoundError in reasons:
        return f"the hub has no model {name}, nor is there such a folder; if it is private: hf auth login"
    if is_offline():
        return f"{name} is not in the hub's cache, and HF_HUB_OFFLINE is set; where there is a network: {get}"
    if LocalEntryNotFoundError in reasons:
        return f"{name} is not in the hub's cache, and the hub cannot be reached; where it can: {get}"
    return f"{name}: {' '.join(str(error).split())[:400]}"


def fetch_from_hub(repo_id: str, revision: str | None, expected: LockedFile) -> tuple[Path, str]:
    """Download a file of a hub data set into the hub's own cache, or find it there.

    `HF_ENDPOINT`, `HF_HUB_CACHE` and `HF_HUB_OFFLINE` are looked at on every call.

    Args:
        revision: a commit, or None for the newest one.

    Returns:
        the file in the cache, and the commit it belongs to.

    Raises:
        DownloadError: if it cannot be had, or is not the expected file even when fetched anew.
    """
    offline = is_offline()
    path = _ask_hub(repo_id, revision, expected.path, offline)
    wrong = difference(path, expected)
    if wrong is not None and not offline:
        path = _ask_hub(repo_id, revision, expected.path, offline, force=True)
        wrong = difference(path, expected)
    if wrong is not None:
        raise DownloadError(
            f"{repo_id}: {expected.path}: not the expected file: {wrong}. The cached file {path} is damaged, or the "
            f"data set changed; compare with params/data.lock.yaml and recorded.lock.json"
        )
    return path, path.parts[path.parts.index("snapshots") + 1]


def _ask_hub(repo_id: str, revision: str | None, path: str, offline: bool, force: bool = False) -> Path:
    address = f"{repo_id} (revision {revision or 'main'}), file {path}"
    try:
        return Path(
            hf_hub_download(
                repo_id,
                path,
                repo_type="dataset",
                revision=revision,
                cache_dir=os.environ.get("HF_HUB_CACHE"),
                endpoint=os.environ.get("HF_ENDPOINT"),
                local_files_only=offline,
                force_download=force,
            )
        ).absolute()
    except GatedRepoError:
        raise DownloadError(
            f"{repo_id} is gated: accept its terms at https://huggingface.co/datasets/{repo_id}, then log in "
            f"(`hf auth login`) or set HF_TOKEN, and run again"
        ) from None
    except (LocalEntryNotFoundError, OfflineModeIsEnabled) as error:
        reason = "HF_HUB_OFFLINE is set" if offline else f"the hub cannot be reached ({error.__cause__ or error})"
        raise DownloadError(
            f"{address}: not in the cache, and {reason}; run once with a network, or fetch the file elsewhere and use "
            f"source 'folder'"
        ) from None
    except RevisionNotFoundError:
        raise DownloadError(f"{address}: the hub has no such revision; compare with params/data.lock.yaml") from None
    except RepositoryNotFoundError:
        raise DownloadError(
            f"{address}: the hub has no such data set, or it is private and HF_TOKEN is missing or wrong"
        ) from None
    except EntryNotFoundError:
        raise DownloadError(
            f"{address}: the data set has no such file; compare its path with params/data.lock.yaml"
        ) from None
    except HfHubHTTPError as error:
        raise DownloadError(f"{address}: the hub answered {error}; run again later") from None


def lay_out(cached: Path, destination: Path) -> None:
    """Put a cached file into its place in a data folder: linked or copied, Parquet made into the layout's text file."""
    destination.parent.mkdir(parents=True, exist_ok=True)
    if cached.suffix == ".parquet" and destination.suffix == ".jsonl":
        found = read_parquet(cached, ("question", "answer"))
        kept = [{"question": row["question"], "answer": row["answer"]} for row in found]
        write_atomic(destination, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in kept))
        return
    if cached.suffix == ".parquet":
        write_atomic(destination, "".join(row["text"] + "\n" for row in read_parquet(cached, ("text",))))
        return
    part = destination.with_name(f"{destination.name}.{os.getpid()}.part")
    try:
        os.link(cached.resolve(), part)
    except OSError:
        shutil.copyfile(cached, part)
    part.replace(destination)
