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

import os
import shutil
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import huggingface_hub
import yaml
from huggingface_hub.utils import http_backoff
from huggingface_hub.utils.sha import git_hash
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from qalign_core import hub, runs
from qalign_core.benchmarks import benchmark_files
from qalign_core.hub import DownloadError, cache_dir, is_offline, locked, unreadable_model
from qalign_core.languages import CODES, language

LOCK_FILE = Path(__file__).resolve().parent.parent / "params" / "data.lock.yaml"
REPOSITORY_URL, DATA_DIR = "QALIGN_REPOSITORY_URL", "QALIGN_DATA_DIR"  # environment
SOURCES = ("hub", "repository", "folder", "miniature")
MATHOCTOPUS_FILE = "gsm8kinstruct/MGSM8KInstruct_Parallel.json"


def layout(data_set: str, languages: Sequence[str]) -> list[tuple[str, ...]]:
    """The files a data set consists of in these languages; each as the places where it may be."""
    if data_set in ("mgsm", "msvamp"):
        return [benchmark_files(data_set, code) for code in languages]
    if data_set == "gsm8kinstruct":
        return [(f"gsm8kinstruct/{code}/train.txt", MATHOCTOPUS_FILE) for code in languages]
    if data_set == "questions":
        foreign = [code for code in languages if code != "en"]
        return [(f"gsm8kinstruct_question/{x}-en/train.{side}",) for x in foreign for side in (x, "en")]
    if data_set == "flores":
        kinds = ("{0}.txt", "{1}.parquet", "{1}.jsonl")
        return [tuple("flores/dev/" + k.format(c, language(c).flores) for k in kinds) for c in languages]
    return [("gsm8k/train.jsonl",)] if data_set == "gsm8k" else [("metamathqa/MetaMathQA-395K.json",)]


# ------------------------------------------------------------------------------------------------- the lock


class Strict(BaseModel):
    """A part of the lock file: no unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class LockedFile(Strict):
    """What is known of a file before it is fetched; None: not known."""

    path: str  # at the source
    moved: str | None = None  # where the hub has it since it is Parquet there, of a file that was none
    language: str | None = None  # None: every language needs it
    bytes: int | None = Field(default=None, ge=0)
    rows: int | None = Field(default=None, ge=0)
    git_blob: str | None = Field(default=None, pattern=r"^[0-9a-f]{40}$")
    sha256: str | None = Field(default=None, pattern=r"^[0-9a-f]{64}$")


class LockedDataSet(Strict):
    """The files of one data set at one source, by their place in the layout."""

    licence: str
    files: dict[str, LockedFile]
    repo_id: str = ""  # of the hub
    revision: str | None = None  # of the hub; None: that of the first download is recorded and kept to

    def needed(self, languages: Sequence[str]) -> dict[str, LockedFile]:
        """The files that these languages need."""
        return {place: file for place, file in self.files.items() if file.language in (None, *languages)}


class LockedRepository(Strict):
    """The authors' repository at one commit."""

    url: str
    commit: str
    data_sets: dict[str, LockedDataSet]


class Lock(Strict):
    """What `params/data.lock.yaml` says of every data set."""

    repository: LockedRepository
    hub: dict[str, LockedDataSet]

    def sources_of(self, data_set: str) -> list[str]:
        """The sources that have a data set."""
        return [s for s in SOURCES if s in ("folder", "miniature") or self.at(data_set, s) is not None]

    def at(self, data_set: str, source: str) -> LockedDataSet | None:
        """A data set of the hub or the repository; None if that has none of the name, or for another source."""
        return {"hub": self.hub, "repository": self.repository.data_sets}.get(source, {}).get(data_set)

    def folder(self, source: str, cache: Path) -> Path:
        """Where in the cache the hub's or the repository's files are, in the layout."""
        return cache / ("hub" if source == "hub" else f"repository-{self.repository.commit[:12]}")


def read_lock(path: str | Path = LOCK_FILE) -> Lock:
    """Read a lock file; a ValueError for an unknown key or a malformed checksum."""
    try:
        return Lock.model_validate(yaml.safe_load(Path(path).read_text(encoding="utf-8")))
    except ValidationError as error:
        first = error.errors()[0]
        raise ValueError(f"{path}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None


def git_blob(path: Path) -> str:
    return git_hash(path.read_bytes())


def difference(path: Path, expected: LockedFile) -> str | None:
    """How a file's content differs from what the lock says of it; None if it does not (or the lock says nothing)."""
    if expected.bytes is not None and path.stat().st_size != expected.bytes:
        return f"it has {path.stat().st_size:,} bytes, the lock says {expected.bytes:,}"
    for name, measure in (("sha256", runs.sha256_file), ("git_blob", git_blob)):
        value = getattr(expected, name)
        if value is not None and (found := measure(path)) != value:
            return f"its {name} is {found}, the lock says {value}"
    return None


# ------------------------------------------------------------------------------------------------- getting it


def locate(
    data_set: str,
    source: str,
    *,
    cache_dir: str | Path,
    folder: str | Path | None = None,
    languages: Sequence[str] | None = None,
    world: Mapping[str, Any] | None = None,
    lock: Lock | None = None,
) -> Path:
    """A local data folder, in the layout above, that holds `data_set`; fetched and verified if need be.

    A second call finds what the first one made, without a network. Of two processes one fetches, the other waits.

    Args:
        source: one of `SOURCES`.
        cache_dir: where fetched and generated data folders are kept.
        folder: the user's, for source `folder`. A file that differs from the published one of its name is warned of,
            not refused, because people bring their own data.
        languages: codes to fetch or ask for; None: all ten.
        world: arguments of the miniature's `write_world`.
        lock: what the files must be; None: `params/data.lock.yaml`.

    Raises:
        ValueError: for a data set its source does not have.
        FileNotFoundError: for files absent from `folder`.
        DownloadError: if a file cannot be fetched or is not the expected one.
    """
    codes = list(CODES if languages is None else languages)
    cache, lock = Path(cache_dir).absolute(), lock or read_lock()
    if source == "folder":
        assert folder is not None  # the caller's duty: `prepare.data_folder`
        return _from_folder(data_set, Path(folder).absolute(), codes, lock)
    known = lock.at(data_set, source)
    if source != "miniature" and known is None:
        available = lock.hub if source == "hub" else lock.repository.data_sets
        remedy = f"set data.sources.{data_set} to {' or '.join(map(repr, lock.sources_of(data_set)))}"
        raise ValueError(f"{data_set} is not at source {source!r}, which has {', '.join(available)}; {remedy}")
    try:
        if known is None:
            return _from_miniature(cache, dict(world or {}))
        with locked(cache / ".locks" / f"{source}-{data_set}"):
            if source != "hub":
                return _from_repository(lock.folder(source, cache), known, codes, lock.repository)
            try:
                return _from_hub(cache, known, codes)
            except DownloadError as error:
                copy, way = lock.at(data_set, "repository"), f"data.sources.{data_set}: repository"
                if copy is None:
                    raise
                if is_offline():
                    raise DownloadError(f"{error}; with a network, `{way}` gets the authors' own copy") from None
                warnings.warn(f"{error}. The authors' own copy is taken instead, as `{way}` says", stacklevel=2)
                return _from_repository(lock.folder("repository", cache), copy, codes, lock.repository)
    except OSError as error:
        if error.errno not in hub.UNWRITABLE:
            raise
        remedy = "let whoever may write there run notebook 01 once, or set QALIGN_CACHE_DIR to a folder of your own"
        lacks = f"the cache {cache} cannot be written ({error.strerror}) and lacks a part of {data_set}"
        raise DownloadError(f"{lacks}: {remedy}") from None


def _from_folder(data_set: str, folder: Path, codes: Sequence[str], lock: Lock) -> Path:
    if not folder.is_dir():
        raise FileNotFoundError(f"data folder {folder} does not exist; correct data.folder in the profile")
    wanted = layout(data_set, codes)
    absent = [places for places in wanted if not any((folder / p).is_file() for p in places)]
    if absent:
        shown = "".join(f"\n  {' or '.join(places)}" for places in absent)
        others = [repr(source) for source in lock.sources_of(data_set) if source != "folder"]
        remedy = f"leave their languages out of data.languages, or set data.sources.{data_set} to {' or '.join(others)}"
        lacks = f"data folder {folder} lacks {len(absent)} of {data_set}'s files:{shown}"
        raise FileNotFoundError(f"{lacks}\nPut them there, {remedy}")
    published = (lock.at(data_set, "repository") or lock.hub[data_set]).files
    there = sorted(p for p in {p for places in wanted for p in places} & set(published) if (folder / p).is_file())
    differing = [(p, why) for p in there if (why := difference(folder / p, published[p]))]
    if differing:
        shown = "".join(f"\n  {place}: {why}" for place, why in differing)
        warnings.warn(
            f"{len(differing)} of {data_set}'s files in {folder} are not the published ones, yet used:{shown}",
            stacklevel=3,
        )
    return folder


def _from_miniature(cache: Path, arguments: dict[str, Any]) -> Path:
    """Generate the miniature world once; anew if its arguments, its generator or a file of it changed."""
    import qalign_core.miniature as miniature

    generator = runs.sha256_tree(Path(miniature.__file__).parent)
    generator = {path: digest for path, digest in generator.items() if path.endswith((".py", ".yaml"))}
    identity = runs.fingerprint({"arguments": arguments, "generator": generator})[:16]
    root = cache / "miniature" / identity
    manifest = root / "manifest.json"
    with locked(cache / ".locks" / f"miniature-{identity}"):
        there = {p: digest for p, digest in runs.sha256_tree(root).items() if p != manifest.name}
        if manifest.is_file() and there == runs.read_json(manifest)["files"]:
            return root
        root.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{identity}-", dir=root.parent) as temporary:
            made = Path(temporary) / "world"
            miniature.write_world(made, **arguments)
            shutil.rmtree(root, ignore_errors=True)
            made.replace(root)  # whole or not at all
    return root


# ------------------------------------------------------------------------------------------------- downloads


def _from_repository(root: Path, known: LockedDataSet, codes: Sequence[str], repository: LockedRepository) -> Path:
    """Fetch files over HTTPS into the cache; those that are there and right are left alone."""
    base = os.environ.get(REPOSITORY_URL, repository.url).rstrip("/")
    for place, expected in known.needed(codes).items():
        if not (root / place).is_file() or difference(root / place, expected) is not None:
            fetch(f"{base}/{repository.commit}/{expected.path}", root / place, expected)
    return root


def fetch(url: str, destination: Path, expected: LockedFile) -> None:
    """Download a file of a few megabytes, verify it, and only then give it its name; a cut download is tried again."""
    try:
        answer = http_backoff("GET", url, follow_redirects=True, timeout=60)
        status = answer.status_code
    except Exception as error:  # of whichever HTTP client huggingface_hub uses
        remedy = "Check the network and run again, or fetch the file elsewhere and use source 'folder'"
        raise DownloadError(f"{url}: the connection failed ({error}). {remedy}") from None
    if status != 200:
        why = "no such file (404)" if status == 404 else f"the server answered {status}, so run again later"
        raise DownloadError(f"{url}: {why}; compare its address with params/data.lock.yaml")
    part = runs.write_atomic(destination.with_name(destination.name + ".part"), answer.content)
    if wrong := difference(part, expected):
        part.unlink()
        why = "The source changed, or something on the way altered it. Compare with params/data.lock.yaml"
        raise DownloadError(f"{url}: not the expected file: {wrong}. {why}")
    part.replace(destination)


def _from_hub(cache: Path, known: LockedDataSet, codes: Sequence[str]) -> Path:
    """Fetch through the hub's own cache; what the lock does not know is recorded on first use and binding later."""
    root, recorded = cache / "hub", hub.recorded(cache, known.repo_id)
    if known.revision and recorded.get("revision") != known.revision:
        recorded = {}
    revision, files = known.revision or recorded.get("revision"), dict(recorded.get("files", {}))
    for place, expected in known.needed(codes).items():
        path, before = root / place, files.get(place, {})
        if expected.sha256 and before.get("sha256") != expected.sha256:
            before = {}
        if path.is_file() and before and runs.sha256_file(path) == before["laid_out_sha256"]:
            continue
        if before:
            expected = expected.model_copy(update={"sha256": before["sha256"]})
        cached = _hub_file(known.repo_id, revision, expected)
        revision = cached.parts[cached.parts.index("snapshots") + 1]  # the commit
        _lay_out(cached, path)
        files[place] = {"sha256": runs.sha256_file(cached), "laid_out_sha256": runs.sha256_file(path)}
        hub.record(cache, known.repo_id, {"revision": revision, "files": files})
    return root


def _hub_file(repo_id: str, revision: str | None, expected: LockedFile, anew: bool = False) -> Path:
    """A file of a hub data set in the hub's own cache, downloaded if need be; once more if it is not the right one."""
    try:
        found = huggingface_hub.hf_hub_download(
            repo_id, expected.path, repo_type="dataset", revision=revision, force_download=anew, **hub.at_hub()
        )
    except hub.UNREADABLE as error:
        if expected.moved:
            return _hub_file(repo_id, revision, expected.model_copy(update={"path": expected.moved, "moved": None}))
        why = unreadable_model(repo_id, revision, error, kind="data set")
        raise DownloadError(f"{expected.path}: {why}") from None
    path = Path(found).absolute()
    wrong = difference(path, expected)
    if wrong is None and expected.rows:
        read = runs.read_rows if path.suffix in (".json", ".jsonl", ".parquet") else runs.read_lines
        if (rows := len(read(path))) != expected.rows:
            wrong = f"it has {rows:,} rows, the lock says {expected.rows:,}"
    if wrong and not (anew or is_offline()):
        return _hub_file(repo_id, revision, expected, anew=True)
    if wrong:
        why = f"The cached file {path} is damaged, or the data set changed"
        compare = "compare with params/data.lock.yaml and recorded.lock.json"
        raise DownloadError(f"{repo_id}: {expected.path}: not the expected file: {wrong}. {why}; {compare}")
    return path


def _lay_out(cached: Path, destination: Path) -> None:
    """Put a cached file into its place in a data folder: linked or copied, Parquet made into the layout's text file."""
    destination.parent.mkdir(parents=True, exist_ok=True)
    if cached.suffix == ".parquet" and destination.suffix == ".jsonl":
        rows = [{k: row[k] for k in ("question", "answer")} for row in runs.read_rows(cached, ("question", "answer"))]
        runs.write_json_lines(destination, rows)
    elif cached.suffix == ".parquet" and destination.suffix == ".tsv":  # mGSM's; `answer` is for its examples only
        rows = runs.read_rows(cached, ("question",))
        runs.write_atomic(destination, "".join(f"{row['question']}\t{row['answer_number']}\n" for row in rows))
    elif cached.suffix == ".parquet":
        runs.write_atomic(destination, "".join(row["text"] + "\n" for row in runs.read_rows(cached, ("text",))))
    else:
        part = destination.with_name(f"{destination.name}.{os.getpid()}.part")
        try:
            os.link(cached.resolve(), part)
        except OSError:  # another disk
            shutil.copyfile(cached, part)
        part.replace(destination)


# ------------------------------------------------------------------------------------------------- without a network


def absent_files(data_set: str, source: str, languages: Sequence[str]) -> tuple[list[str], int]:
    """The files of a data set that are in no cache and would have to be fetched, and how many it has in all."""
    lock = read_lock()
    known = lock.at(data_set, source)
    if known is None:  # of a folder, or made here
        return [], 0
    root, hub_cache = lock.folder(source, cache_dir()), os.environ.get("HF_HUB_CACHE")

    def is_here(place: str, file: LockedFile) -> bool:
        if (root / place).is_file() or not known.repo_id:
            return (root / place).is_file()
        cached = huggingface_hub.try_to_load_from_cache(
            known.repo_id, file.path, hub_cache, revision=known.revision, repo_type="dataset"
        )
        return isinstance(cached, str) and Path(cached).is_file()

    needed = known.needed(languages)
    return [place for place, file in needed.items() if not is_here(place, file)], len(needed)
