"""Get a data set: from the hub, the authors' repository, a folder of the user's, or the miniature; and verify it.

Whatever the source, the outcome is a data folder of one layout, which `corpora` and `benchmarks` read:

    mgsm/mgsm_{code}.tsv | mgsm/mgsm_{Language}.json      question<TAB>answer, no header | JSON lines query, response
    msvamp/test_{Language}.json                           JSON lines m_query, response
    gsm8k/train.jsonl, gsm8k/test.jsonl                   JSON lines question, answer
    gsm8kinstruct/{code}/train.txt                        JSON lines question, answer (the authors' files)
    gsm8kinstruct/MGSM8KInstruct_Parallel.json            JSON lines prompt, chosen (MathOctopus's file)
    gsm8kinstruct_question/{x}-en/train.{x}, train.en     one question a line, parallel by line
    metamathqa/MetaMathQA-395K.json                       one JSON array of query, response
    flores/dev/{code}.txt                                 one sentence a line, parallel by line
"""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pandas as pd
from filelock import FileLock

from qalign_core.data import data_folder
from qalign_core.data.data_folder import FOLDERS, layout
from qalign_core.data.data_lock import Lock, LockedDataSet, LockedFile, LockedHubDataSet, difference, read_lock
from qalign_core.data.downloads import DownloadError, fetch, fetch_from_hub, lay_out
from qalign_core.data.rows import count_rows
from qalign_core.languages import CODES, language
from qalign_core.runs import fingerprint, read_json, sha256_file, sha256_tree, write_json

REPOSITORY_URL = "QALIGN_REPOSITORY_URL"
SOURCES = ("hub", "repository", "folder", "miniature")


# ------------------------------------------------------------------------------------------------- public


def locate(
    data_set: str,
    source: str,
    *,
    cache_dir: str | Path,
    folder: str | Path | None = None,
    languages: Sequence[str] | None = None,
    world: Mapping[str, Any] | None = None,
    lock: Lock | None = None,
    progress: bool = True,
) -> Path:
    """A local data folder, in the layout above, that holds `data_set`; fetched and verified if need be.

    A second call finds what the first one made, without a network. Two processes may call it at once: one fetches,
    the other waits.

    Args:
        data_set: one of `FOLDERS`.
        source: `hub`, `repository` (the authors'), `folder` (the user's) or `miniature`.
        cache_dir: where fetched and generated data folders are kept.
        folder: the user's data folder, for source `folder`. Its files must exist; one that differs from the
            published file of its name is warned of, not refused, because people bring their own data.
        languages: codes to fetch or ask for; None: all ten.
        world: what the miniature is made with: `write_world`'s arguments `seed`, `sizes`, `style`.
        lock: what the files must be; None: `params/data.lock.yaml`.
        progress: show bars.

    Raises:
        ValueError: for an unknown data set, source or language, or a data set its source does not have.
        FileNotFoundError: for files absent from `folder`.
        DownloadError: if a file cannot be fetched or is not the expected one.
    """
    if data_set not in FOLDERS:
        raise ValueError(f"unknown data set {data_set!r}; known data sets: {', '.join(FOLDERS)}")
    codes = [language(code).code for code in (CODES if languages is None else languages)]
    cache = Path(cache_dir).absolute()
    lock = lock or read_lock()
    if source == "folder":
        return _from_folder(data_set, folder, codes, lock)
    if source == "miniature":
        with _writing(cache, "the miniature's world"):
            return _from_miniature(cache, dict(world or {}))
    if source not in SOURCES:
        raise ValueError(f"unknown source {source!r} of {data_set}; known sources: {', '.join(SOURCES)}")
    available = lock.hub if source == "hub" else lock.repository.data_sets
    if data_set not in available:
        raise ValueError(
            f"{data_set} is not at source {source!r}, which has {', '.join(available)}; "
            f"set data.sources.{data_set} to {' or '.join(repr(s) for s in _sources_of(data_set, lock))}"
        )
    with _locked(cache / ".locks" / f"{source}-{data_set}"), _writing(cache, data_set):
        if source == "hub":
            return _from_hub(cache, lock.hub[data_set], codes, lock, progress)
        return _from_repository(cache, lock.repository.data_sets[data_set], codes, lock, progress)


def gather(
    sources: Mapping[str, str],
    destination: str | Path,
    *,
    cache_dir: str | Path,
    folder: str | Path | None = None,
    languages: Sequence[str] | None = None,
    world: Mapping[str, Any] | None = None,
    lock: Lock | None = None,
    progress: bool = True,
    own: Mapping[str, str] | None = None,
) -> Path:
    """One data folder made of several data sets, each from its own source: links to what `locate` returns.

    Args:
        sources: data set → source, as `data.sources` of a profile.
        destination: the folder to make; what it already holds of these data sets is replaced if it is a link.
        own: code → the folder that holds this language's files, in the layout above, whatever the source.

    Raises:
        FileExistsError: if `destination` holds a real folder where a link should go.
        ValueError, FileNotFoundError, DownloadError: as `locate`, whose other arguments these are.
    """
    destination = Path(destination).absolute()
    destination.mkdir(parents=True, exist_ok=True)
    wanted = list(CODES if languages is None else languages)
    added = {code: place for code, place in (own or {}).items() if code in wanted}
    for data_set, source in sources.items():
        found = locate(
            data_set,
            source,
            cache_dir=cache_dir,
            folder=folder,
            languages=[code for code in wanted if code not in added],
            world=world,
            lock=lock,
            progress=progress,
        )
        with _locked(destination / f".{FOLDERS[data_set]}"):
            if added:
                data_folder.join(found, added, data_set, destination)
            else:
                data_folder.link(found / FOLDERS[data_set], destination / FOLDERS[data_set])
    return destination


def verify(data_set: str, folder: str | Path, *, lock: Lock | None = None) -> pd.DataFrame:
    """Every file of a data set in a data folder, beside what the lock says of a file of that name.

    Returns:
        one line a file: `data_set, file, bytes, rows, sha256, status`; the status names the source whose file this
        is, or how it differs, or says that the lock does not know it.
    """
    folder, lock, found = Path(folder), lock or read_lock(), []
    known = {"repository": lock.repository.data_sets.get(data_set), "hub": lock.hub.get(data_set)}
    for path in sorted(p for p in (folder / FOLDERS[data_set]).rglob("*") if p.is_file()):
        place = path.relative_to(folder).as_posix()
        found.append(
            {
                "data_set": data_set,
                "file": place,
                "bytes": path.stat().st_size,
                "rows": count_rows(path),
                "sha256": sha256_file(path),
                "status": _status(path, {s: d.files.get(place) for s, d in known.items() if d}),
            }
        )
    return pd.DataFrame(found, columns=["data_set", "file", "bytes", "rows", "sha256", "status"])


# ------------------------------------------------------------------------------------------------- the four sources


def _from_folder(data_set: str, folder: str | Path | None, codes: Sequence[str], lock: Lock) -> Path:
    if folder is None:
        raise ValueError(f"source 'folder' of {data_set} needs to know which: set data.folder in the profile")
    folder = Path(folder).absolute()
    if not folder.is_dir():
        raise FileNotFoundError(f"data folder {folder} does not exist; correct data.folder in the profile")
    absent = [places for places in layout(data_set, codes) if not any((folder / p).is_file() for p in places)]
    if absent:
        shown = "".join(f"\n  {' or '.join(places)}" for places in absent)
        others = [s for s in _sources_of(data_set, lock) if s != "folder"]
        raise FileNotFoundError(
            f"data folder {folder} lacks {len(absent)} of {data_set}'s files:{shown}\nPut them there, leave their "
            f"languages out of data.languages, or set data.sources.{data_set} to {' or '.join(map(repr, others))}"
        )
    places = {p for alternatives in layout(data_set, codes) for p in alternatives if (folder / p).is_file()}
    published = lock.repository.data_sets.get(data_set) or lock.hub[data_set]
    differing = {p: difference(folder / p, published.files[p]) for p in sorted(places & set(published.files))}
    differing = {p: why for p, why in differing.items() if why}
    if differing:
        first, why = next(iter(differing.items()))
        warnings.warn(
            f"{len(differing)} of {data_set}'s files in {folder} are not the published ones, such as {first}: {why}. "
            f"They are used as they are; sources.verify lists them",
            stacklevel=3,
        )
    return folder


def _from_repository(cache: Path, data_set: LockedDataSet, codes: Sequence[str], lock: Lock, progress: bool) -> Path:
    base = os.environ.get(REPOSITORY_URL, lock.repository.url).rstrip("/")
    root = cache / f"repository-{lock.repository.commit[:12]}"
    for place, expected in data_set.needed(codes).items():
        path = root / place
        if not path.is_file() or difference(path, expected) is not None:
            fetch(f"{base}/{lock.repository.commit}/{expected.path}", path, expected, progress=progress)
    return root


def _from_hub(cache: Path, data_set: LockedHubDataSet, codes: Sequence[str], lock: Lock, progress: bool) -> Path:
    """Fetch through the hub's own cache; what the lock does not know is recorded on first use and binding later."""
    root = cache / "hub"
    record = cache / "recorded.lock.json"
    known = read_json(record).get(data_set.repo_id, {}) if record.is_file() else {}
    if data_set.revision and known.get("revision") != data_set.revision:
        known = {}
    revision = data_set.revision or known.get("revision")
    files = dict(known.get("files", {}))
    for place, expected in data_set.needed(codes).items():
        path, before = root / place, files.get(place, {})
        if expected.sha256 and before.get("sha256") != expected.sha256:
            before = {}
        if path.is_file() and before and sha256_file(path) == before["laid_out_sha256"]:
            continue
        if expected.sha256 is None and before:
            expected = expected.model_copy(update={"sha256": before["sha256"]})
        cached, revision = fetch_from_hub(data_set.repo_id, revision, expected)
        _check_rows(cached, expected)
        lay_out(cached, path)
        files[place] = {"sha256": sha256_file(cached), "laid_out_sha256": sha256_file(path)}
        with _locked(cache / ".locks" / "record"):
            everything = read_json(record) if record.is_file() else {}
            write_json(record, everything | {data_set.repo_id: {"revision": revision, "files": files}})
    return root


def _from_miniature(cache: Path, arguments: dict[str, Any]) -> Path:
    """Generate the miniature world once; anew if its arguments, its generator or a file of it changed."""
    import qalign_core.miniature as miniature

    generator = {
        p: d for p, d in sha256_tree(Path(miniature.__file__).parent).items() if Path(p).suffix in (".py", ".yaml")
    }
    identity = fingerprint({"arguments": arguments, "generator": generator})
    root = cache / "miniature" / identity[:16]
    manifest = root / "generated.json"
    with _locked(cache / ".locks" / f"miniature-{identity[:16]}"):
        if manifest.is_file():
            stated = read_json(manifest)["files"]
            if {p: d for p, d in sha256_tree(root).items() if p != manifest.name} == stated:
                return root
        root.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{identity[:16]}-", dir=root.parent) as temporary:
            made = Path(temporary) / "world"
            miniature.write_world(made, **arguments)
            write_json(made / manifest.name, {"arguments": arguments, "files": sha256_tree(made)})
            shutil.rmtree(root, ignore_errors=True)
            made.replace(root)
    return root


# ------------------------------------------------------------------------------------------------- small parts


def _locked(path: Path) -> AbstractContextManager[Any]:
    """A lock between processes; its file stays behind, which is harmless. In a cache that cannot be written, none."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        if error.errno not in (errno.EROFS, errno.EACCES, errno.EPERM):
            raise
    if not os.access(path.parent, os.W_OK):
        return nullcontext()
    return FileLock(path.with_name(path.name + ".lock"))


@contextmanager
def _writing(cache: Path, data_set: str) -> Iterator[None]:
    """Say of a cache that cannot be written what it lacks and what to do."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.EROFS, errno.EACCES, errno.EPERM):
            raise
        raise DownloadError(
            f"the cache {cache} cannot be written ({error.strerror}) and lacks a part of {data_set}: let whoever may "
            "write there run notebook 01 once, or set QALIGN_CACHE_DIR to a folder of your own"
        ) from None


def _sources_of(data_set: str, lock: Lock) -> list[str]:
    held = {"hub": data_set in lock.hub, "repository": data_set in lock.repository.data_sets}
    return [source for source in SOURCES if held.get(source, True)]


def _check_rows(path: Path, expected: LockedFile) -> None:
    """Refuse a file with another number of rows than the lock says, and delete it: it is not what it claims to be."""
    if expected.rows is not None and (rows := count_rows(path)) != expected.rows:
        raise DownloadError(
            f"{path}: {rows:,} rows, but params/data.lock.yaml says {expected.rows:,}: the source changed, or the file "
            f"is cut off; delete it and run again"
        )


def _status(path: Path, candidates: Mapping[str, LockedFile | None]) -> str:
    """Which published file this is, by its checksum; else how it differs."""
    stated = {source: file for source, file in candidates.items() if file is not None}
    checked = {s: f for s, f in stated.items() if f.sha256 or f.git_blob}
    for source, file in checked.items():
        if difference(path, file) is None:
            return f"the published file ({source})"
    if checked:
        return "differs from the published file: " + str(difference(path, next(iter(checked.values()))))
    rows = {file.rows for file in stated.values() if file.rows is not None}
    if not rows:
        return "not in the lock"
    return "no checksum known, " + ("rows as published" if count_rows(path) in rows else f"published rows: {rows}")
