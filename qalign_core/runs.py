"""Where things are under `runs/<profile>/`, files that make a run safe to kill at any instant, rows of data files."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil
import yaml

LIFELINE = "QALIGN_LIFELINE"


class BadRow(ValueError):  # noqa: N818 - it names a row, the word a reader looks for
    """A row or a file that cannot be used; the message says which, why and what to do."""


# ------------------------------------------------------------------------------------------------- files


def write_atomic(path: str | Path, content: str | bytes) -> Path:
    """Write a whole file or nothing: to a neighbour, flushed to disk, then renamed over `path`."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    neighbour = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with neighbour.open("wb") as stream:
            stream.write(content.encode("utf-8") if isinstance(content, str) else content)
            stream.flush()
            os.fsync(stream.fileno())
        neighbour.replace(path)
    finally:
        neighbour.unlink(missing_ok=True)
    _flush(path.parent)  # the new name too survives a power cut
    return path


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_tree(folder: str | Path) -> None:
    """Flush every file and folder below `folder` to disk: what is declared finished next survives a power cut."""
    for path in [*sorted(Path(folder).rglob("*"), reverse=True), Path(folder)]:  # a folder after what is in it
        _flush(path)


def write_json(path: str | Path, value: Any) -> Path:
    """Write `value` as readable JSON, atomically."""
    return write_atomic(path, json.dumps(value, ensure_ascii=False, indent=2, allow_nan=False) + "\n")


def read_json(path: str | Path) -> Any:
    """Read a JSON file; FileNotFoundError, or a BadRow that names the file and the line when it is not JSON."""
    return _parsed(read_text(Path(path)), path, "delete or repair the file")


def _parsed(text: str, path: str | Path, remedy: str, line: int = 1) -> Any:
    """The value of JSON text that begins at a line of a file; a BadRow says where it breaks."""
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        said = f"line {line + error.lineno - 1}: not JSON ({error.msg}, column {error.colno})"
        raise BadRow(f"{path}: {said}; {remedy}") from None
    except (ValueError, RecursionError):
        said = "not JSON that can be read: a number of thousands of digits, or lists nested thousands deep"
        raise BadRow(f"{path}: line {line}: {said}; {remedy}") from None


def read_object(path: str | Path) -> dict[str, Any]:
    """Read a JSON file that holds an object; else a BadRow."""
    found = read_json(path)
    if not isinstance(found, dict):
        raise BadRow(f'{path}: not a JSON object (such as {{"key": 1}}); delete or repair the file')
    return found


def write_json_lines(path: str | Path, rows: Iterable[dict]) -> Path:
    """Write one JSON object per line, atomically."""
    return write_atomic(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def append_json_line(path: Path, row: dict) -> None:
    """Add a line to a file of progress."""
    with path.open("a", encoding="utf-8") as stream:
        stream.write(json.dumps(row) + "\n")


def progress_lines(path: str | Path, last: int | None = None) -> list[dict[str, Any]]:
    """The objects on the whole lines of a file that is being written, or of its `last` bytes; damaged lines, and a file
    that is not there yet, are passed over: what is only shown must never end a job."""
    found = []
    with suppress(OSError), Path(path).open("rb") as stream:
        stream.seek(max(0, os.fstat(stream.fileno()).st_size - last) if last else 0)
        for line in stream.read().split(b"\n")[:-1]:
            with suppress(ValueError, RecursionError):
                found.append(json.loads(line))
    return [state for state in found if isinstance(state, dict)]


def mend_lines(path: str | Path) -> None:
    """Cut off a last line without its end, which a full disk leaves behind: what is appended next stays readable."""
    with suppress(FileNotFoundError), Path(path).open("r+b") as stream:
        stream.truncate(stream.read().rfind(b"\n") + 1)


def sha256_file(path: str | Path) -> str:
    """sha256 of a file's bytes, in hexadecimal."""
    with Path(path).open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def sha256_tree(folder: str | Path) -> dict[str, str]:
    """sha256 of every file below `folder`, by its path relative to it, in sorted order."""
    files = (path for path in sorted(Path(folder).rglob("*")) if path.is_file())
    return {path.relative_to(folder).as_posix(): sha256_file(path) for path in files}


def fingerprint(value: Any) -> str:
    """sha256 of `value` as canonical JSON: the same content has the same fingerprint, whatever the order of keys."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


# ------------------------------------------------------------------------------------------------- rows of data files
# Every error names the file, the line and what to do; nothing is skipped.


def require(path: Path, remedy: str = "") -> Path:
    """`path` if it is a file; else a FileNotFoundError with the path and the remedy."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not there" + (f"; {remedy}" if remedy else ""))
    return path


def read_text(path: Path) -> str:
    """The text of a UTF-8 file, line ends as in Python's text mode; a BadRow says in which line UTF-8 breaks."""
    data = require(path).read_bytes()
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        remedy = "save the file as UTF-8, for example: iconv -f <its encoding> -t UTF-8"
        raise BadRow(f"{path}: line {line}: not UTF-8 (byte 0x{data[error.start]:02x}); {remedy}") from None
    return text.replace("\r\n", "\n").replace("\r", "\n")


def read_lines(path: Path) -> list[str]:
    """The lines of a text file without their ends; blank ones are kept, so that parallel files stay aligned."""
    lines = read_text(path).split("\n")  # not splitlines, which also splits at U+2028 inside a question
    if lines[-1] == "":
        lines.pop()
    if not lines:
        raise BadRow(f"{path}: the file is empty; fetch it again")
    return lines


def check_text(text: str, where: str) -> None:
    """Refuse, by a BadRow, text that no file can hold: half of a surrogate pair, such as JSON's `"\\ud83d"` alone."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        half = text[error.start].encode("ascii", "backslashreplace").decode()
        raise BadRow(f"{where} holds {half}, half a character whose other half was cut off; repair it") from None


def read_json_lines(path: str | Path) -> list[dict[str, Any]]:
    """One JSON value a line; none in an empty file. FileNotFoundError, or BadRow for broken JSON, with the line."""
    path, remedy = Path(path), "the file needs one JSON object a line, so repair this line or fetch the file again"
    lines = read_lines(path) if path.stat().st_size else []
    return [_parsed(line, path, remedy, number) for number, line in enumerate(lines, start=1)]


def read_rows(path: Path, fields: Sequence[str] = ()) -> list[dict[str, Any]]:
    """The rows of a file that was not written here: JSON lines, one JSON array, or Parquet, whatever its name says.

    Each must be an object; with `fields` it must have text in every one, and an `id` of its own if it has one. FLORES's
    rows, of `text` in Parquet, come in the order of these.

    Raises:
        FileNotFoundError, BadRow: for an absent file, broken JSON, a missing or non-text field, an id used twice.
    """
    with require(path).open("rb") as stream:
        is_parquet = path.suffix == ".parquet" or stream.read(4) == b"PAR1"
    if is_parquet:
        import pyarrow
        import pyarrow.parquet

        try:
            rows = pyarrow.parquet.read_table(path).to_pylist()
        except pyarrow.ArrowInvalid as error:
            raise BadRow(f"{path}: not a Parquet file ({error}); fetch it again") from None
        found = _checked(((f"row {i}", row) for i, row in enumerate(rows)), path, fields)
        return sorted(found, key=lambda row: row["id"]) if "text" in fields and found and "id" in found[0] else found
    text = read_text(path)
    if not text.lstrip().startswith("["):
        lines = read_json_lines(path) or read_lines(path)  # which refuses an empty file
        return _checked(((f"line {i}", row) for i, row in enumerate(lines, start=1)), path, fields)
    values = _parsed(text, path, "the file needs to be one JSON array, so it may have been cut off: fetch it again")
    if not values:
        raise BadRow(f"{path}: the file has no rows; fetch it again")
    return _checked(((f"row {i}", row) for i, row in enumerate(values)), path, fields)


class UniqueKeys(yaml.SafeLoader):
    """PyYAML's safe loader, but a mapping may not hold a key twice; PyYAML lets the last one win, in silence."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        # Checked as written, so that a key may still override one that `<<` merges in.
        mapping, lines = super().compose_mapping_node(anchor), dict[tuple[str, str], int]()
        for key in (key for key, _ in mapping.value if isinstance(key, yaml.ScalarNode)):
            line, first = key.start_mark.line + 1, lines.get((key.tag, key.value))
            if first:
                there = f"the key {key.value!r} is already there on line {first}; keep one of the two"
                raise yaml.YAMLError(f"line {line}: {there}")
            lines[key.tag, key.value] = line
        return mapping


def read_yaml(path: Path) -> Any:
    """What a YAML file says; BadRow for a repeated key or a file that is no YAML, with its path and the line."""
    try:
        return UniqueKeys(path.read_text(encoding="utf-8")).get_single_data()
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: not UTF-8, or 2026-13-45
        raise BadRow(f"{path}: not a YAML file of settings: {error}") from None


def merged(base: Any, said: Any) -> Any:
    """`said` over `base`, key by key where both are mappings; null takes a key of the base out."""
    if not (isinstance(base, dict) and isinstance(said, dict)):
        return said
    kept = {key: value for key, value in base.items() if said.get(key, value) is not None}
    return kept | {key: merged(base.get(key), said[key]) for key in said if said[key] is not None or key not in base}


def missing_keys(base: dict[str, Any], said: dict[str, Any], at: str) -> Iterator[str]:
    """The keys of `base`, and of the mappings in both, that `said` does not have, such as `training.loss`."""
    for key, value in base.items():
        if key not in said:
            yield f"{at}.{key}"
        elif isinstance(value, dict) and isinstance(said[key], dict):
            yield from missing_keys(value, said[key], f"{at}.{key}")


def _checked(placed: Iterable[tuple[str, Any]], path: Path, fields: Sequence[str]) -> list[dict[str, Any]]:
    """The rows, each of which comes with its place in the file, such as `line 3`."""
    found, ids = [], dict[str, str]()  # id → the place that uses it
    for place, row in placed:
        where = f"{path}: {place}"
        if not isinstance(row, dict):
            raise BadRow(f"{where}: expected a JSON object, found {_kind(row)}")
        for field in fields:
            if field not in row:
                has = ", ".join(row) or "none"
                raise BadRow(f"{where}: field {field!r} is missing (its fields: {has}); add it or fetch the file again")
            if not isinstance(row[field], str):
                raise BadRow(f"{where}: field {field!r} is {_kind(row[field])}; it must be text, in double quotes")
            check_text(row[field], f"{where}: field {field!r}")
        if fields and "id" in row and (first := ids.setdefault(str(row["id"]), place)) != place:
            raise BadRow(f"{where}: id {str(row['id'])!r} was already used in {first}; give each row its own")
        found.append(row)
    return found


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "text", bool: "true/false", int: "a number", float: "a number"}
    return "null" if value is None else names[type(value)]


# ------------------------------------------------------------------------------------------------- the run folder


class Run:
    """The folder of one reproduction (`runs/<profile>`, or wherever `--run-dir` puts it); all its paths are here."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder).absolute()
        self.profile = self.folder / "profile.yaml"
        self.results, self.figures = self.folder / "results", self.folder / "figures"
        self.notebooks = self.folder / "notebooks"
        self.report = self.folder / "report"  # the executed notebooks as linked HTML pages

    def __repr__(self) -> str:
        return f"Run({str(self.folder)!r})"

    def source(self, seed: int) -> Path:
        """The data folder that a seed's corpora are made from; its parts are links."""
        return self.folder / "data" / "source" / f"seed-{seed}"

    def corpus(self, name: str, seed: int | None = None) -> Path:
        """A corpus as JSON lines; the miniature's are drawn anew for each seed, real ones are the same for all."""
        folder = self.folder / "data" / "corpora"
        return (folder if seed is None else folder / f"seed-{seed}") / f"{name}.jsonl"

    def benchmark(self, name: str, language: str) -> Path:
        return self.folder / "data" / "benchmarks" / name / f"{language}.jsonl"

    def prompts(self, task: str, language: str, template: str = "alpaca") -> Path:
        return self.folder / "data" / "prompts" / template / task / f"{language}.jsonl"

    def stage(self, seed: int, lineage: Sequence[str]) -> Path:
        """The folder of the stage that ends `lineage`; its job, log, checkpoints and model are there."""
        return self.folder.joinpath("models", f"seed-{seed}", "base", *lineage)

    def model(self, seed: int, lineage: Sequence[str]) -> Path:
        return self.stage(seed, lineage) / "model"

    def predictions(self, seed: int, lineage: Sequence[str]) -> Path:
        """The folder of what the model at the end of `lineage` answered."""
        return self.folder.joinpath("predictions", f"seed-{seed}", "base", *lineage)

    def checkpoint_predictions(self, system: str) -> Path:
        """The folder of what a published checkpoint answered."""
        readable = "".join(c if c.isalnum() or c in "-_.+" else "-" for c in system)[:48].strip("-.")
        # The checksum tells names apart that differ in punctuation or case only: `A 7B`, `A-7B`, `a-7b`.
        name = f"{readable}-{fingerprint(system)[:8]}".lstrip("-")
        return self.folder / "predictions" / "checkpoints" / name

    def relative(self, path: str | Path) -> str:
        """`path` relative to the run folder if it lies inside, so that the folder can be moved; else absolute."""
        path = Path(path).absolute()
        return path.relative_to(self.folder).as_posix() if path.is_relative_to(self.folder) else str(path)


def prepared(path: Path) -> Path:
    """`path`, a file of notebook 01's; FileNotFoundError where it has not been written yet."""
    return require(path, "run notebook 01 (data preparation) first")


def run_root(job_path: str | Path) -> Path:
    """The run folder a job lies in: the nearest folder above it that holds `profile.yaml`, else the job's own."""
    folder = Path(job_path).absolute().parent
    return next((place for place in (folder, *folder.parents) if (place / "profile.yaml").is_file()), folder)


def resolve(path: str, root: Path) -> str:
    """A job's `path` for libraries: a folder relative to the run root, an absolute one, or a hub id unchanged."""
    inside = root / path
    return str(inside) if inside.exists() else path


# ------------------------------------------------------------------------------------------------- done.json

PACKAGES = "torch transformers deepspeed accelerate peft datasets tokenizers numpy qalign-core"


def is_done(job_path: str | Path) -> bool:
    """Whether the job's `done.json` exists and bears the fingerprint of its `job.json`."""
    paths = Path(job_path), Path(job_path).with_name("done.json")
    if not all(path.is_file() for path in paths):
        return False
    wanted, found = (read_object(path).get("fingerprint") for path in paths)
    return wanted is not None and found == wanted


def missing_file(folder: Path) -> str | None:
    """The first file that the folder's `done.json` lists and that is not there any more."""
    done = folder / "done.json"
    files = read_object(done).get("files", {}) if done.is_file() else {}
    return next((name for name in files if not (folder / name).is_file()), None)


def write_done(folder: Path, fingerprint: str, metrics: dict[str, Any], **more: Any) -> Path:
    """Write a job's `done.json`, the last thing it does; what it speaks of must be on disk by then.

    `more` is `files` (name → sha256), `wall_seconds`, `peak_memory_bytes`.
    """
    origin = {"versions": versions(), "hardware": hardware(), "git_commit": git_commit()}
    return write_json(folder / "done.json", {"fingerprint": fingerprint, "metrics": metrics, **more, **origin})


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that decide results; a package that is not installed says so."""
    found = {"python": platform.python_version()}
    for package in PACKAGES.split():
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found


def hardware() -> dict[str, Any]:
    """Processor, cores, memory (bytes) and accelerators of this machine."""
    import torch

    return {
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "memory_bytes": psutil.virtual_memory().total,
        "accelerators": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
    }


def cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def has_native_bf16() -> bool:
    """Whether jobs on this machine compute bf16 natively: on a GPU, or a processor with AVX-512 BF16, AMX or ARM's."""
    import torch

    features = torch.cpu.get_capabilities().items()
    return torch.cuda.is_available() or any(there for name, there in features if "bf16" in name)


def smallest_gpu() -> int | None:
    """Bytes of this machine's smallest GPU, which stands for those of all machines; None without one."""
    import torch

    every = range(torch.cuda.device_count())
    return min((torch.cuda.get_device_properties(number).total_memory for number in every), default=None)


def git_commit() -> str | None:
    """Commit of the package's checkout (with `+changes` if code or profiles differ from it), or None outside of one."""
    ask = partial(subprocess.run, cwd=Path(__file__).parent, capture_output=True, text=True, timeout=10, check=True)
    try:
        commit = ask(["git", "rev-parse", "HEAD"]).stdout.strip()
        # Not the notebooks: in a fresh clone git status would read each through nbstripout.
        changes = ask(["git", "diff", "--name-only", "HEAD", "--", ".", "../params"]).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
    return commit + ("+changes" if changes else "")


# ------------------------------------------------------------------------------------------------- lifeline


def lifeline() -> str:
    """This process as a lifeline for its subprocesses: `<pid>:<create time>:<host>`, since pids are reused."""
    process = psutil.Process()
    return f"{process.pid}:{process.create_time()}:{platform.node()}"


def starter_lives() -> bool:
    """Whether the process that `QALIGN_LIFELINE` names is alive; True without the variable, or on another machine than
    the one it names (Slurm hands the environment on)."""
    pid, created, host = (os.environ.get(LIFELINE, "").split(":", 2) + ["", ""])[:3]
    if not pid or host not in ("", platform.node()):
        return True
    try:
        process = psutil.Process(int(pid))
        return abs(process.create_time() - float(created)) < 1.0 and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
