"""What `doctor` finds out about this machine alone. The standard library is enough: packages may be what is missing."""

from __future__ import annotations

import csv
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

OK, WARNING, PROBLEM = "ok", "warning", "problem"
GIB = 2**30
NEEDED_PYTHON = (3, 11)
ROOT = Path(__file__).resolve().parents[2]
REQUIREMENTS = ROOT / "requirements.txt"
FIGURE_FONT = "DejaVuSans.ttf"  # comes with matplotlib; the figures need no other
# The languages whose letters are on few machines, as fontconfig calls them, and a Debian package that has them.
PAGE_FONTS = {
    "bn": "fonts-noto-core",
    "th": "fonts-noto-core",
    "ja": "fonts-noto-cjk",
    "zh-cn": "fonts-noto-cjk",
    "ru": "fonts-dejavu-core",
}
PROBE = """
import json, torch
nccl = torch.cuda.nccl.version() if torch.distributed.is_nccl_available() else ()
found = {"available": torch.cuda.is_available(), "devices": torch.cuda.device_count()}
print(json.dumps({**found, "nccl": ".".join(map(str, nccl))}))
"""
PROBE_SECONDS = 7.0
SHARED_MEMORY = GIB  # bytes of /dev/shm that NCCL's ranks on one machine may want; containers often have 64 MiB


@dataclass(frozen=True)
class Finding:
    """What one check found: its state is `ok`, `warning` or `problem`; the latter two say what to do."""

    check: str
    state: str
    found: str
    remedy: str = ""


@dataclass(frozen=True)
class Gpu:
    """A GPU as its driver describes it; memory in bytes, the capability as a number such as 8.0."""

    name: str
    memory: int
    used: int
    driver: str
    capability: float


# ------------------------------------------------------------------------------------------------- Python


def python() -> Finding:
    """Whether this Python is new enough."""
    found = f"{sys.version.split()[0]} ({sys.executable})"
    if sys.version_info < NEEDED_PYTHON:
        wanted = ".".join(map(str, NEEDED_PYTHON))
        return Finding("Python", PROBLEM, found, f"{wanted} or newer is needed: make PYTHON=python{wanted} setup")
    return Finding("Python", OK, found)


def required(path: Path = REQUIREMENTS) -> dict[str, str]:
    """The packages of a requirements file with their exact versions.

    Raises:
        ValueError: for a line that is not `name==version`.
    """
    found = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip() or line.startswith("#"):
            continue
        name, equal, version = line.partition("==")
        if not equal:
            raise ValueError(f"{path}: line {number}: expected name==version, found {line!r}")
        found[name.strip()] = version.strip()
    return found


def packages(path: Path = REQUIREMENTS) -> Finding:
    """Whether the packages of `requirements.txt` are here, in just these versions."""
    if not path.is_file():
        return Finding("packages", WARNING, f"{path} is not there", "use a checkout of the whole repository")
    wanted, missing, other = required(path), [], []
    for name, version in wanted.items():
        try:
            installed = metadata.version(name)
        except metadata.PackageNotFoundError:
            missing.append(name)
            continue
        if installed.split("+")[0] != version:  # torch says +cpu or +cu130, of the same version
            other.append(f"{name} {installed} (pinned: {version})")
    if missing:
        return Finding("packages", PROBLEM, f"missing: {_some(missing)}", "make setup")
    if other:
        return Finding("packages", WARNING, _some(other), "make setup; other versions may give other results")
    return Finding("packages", OK, f"all {len(wanted)} of requirements.txt")


def _some(names: list[str], most: int = 4) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def compilers(needed: bool) -> Finding:
    """Whether C++ can be compiled, as DeepSpeed does for an offloaded optimizer.

    Args:
        needed: whether the profile offloads; else a missing compiler does no harm.
    """
    here = [name for name in ("gcc", "g++", "make") if shutil.which(name)]
    absent = [name for name in ("g++",) if name not in here]
    if not (Path(sysconfig.get_paths()["include"]) / "Python.h").is_file():
        absent.append("Python.h")
    found = f"{', '.join(here) or 'none'}{''.join(f'; no {name}' for name in absent)}"
    remedy = "apt install g++ python3-dev, or what your system calls them"
    if absent and needed:
        return Finding("compiler", PROBLEM, found, f"DeepSpeed compiles its offloaded optimizer: {remedy}")
    why = "only needed by deepspeed/zero3-offload.json" if absent else ""
    return Finding("compiler", OK, f"{found}{f' ({why})' if why else ''}")


# ------------------------------------------------------------------------------------------------- the machine


def memory() -> int:
    """Bytes of memory, or of the container's share of it if that is less."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limits = [
        _number(Path(path)) for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
    ]
    return min([total, *(limit for limit in limits if limit)])


def cores() -> int:
    """Cores this process may use, or the container's share of them if that is less."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text(encoding="ascii").split()
    except (OSError, ValueError):
        return allowed
    return min(allowed, max(1, int(quota) // int(period))) if quota.isdigit() else allowed


def _number(path: Path) -> int | None:
    """The number in a small file; None if there is none (no such file, or `max`)."""
    try:
        text = path.read_text(encoding="ascii").strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None


def writable(name: str, folder: Path, otherwise: str = PROBLEM) -> Finding:
    """Whether something can be written into a folder, which need not exist yet; what is tried leaves nothing.

    Args:
        name: of the check.
        folder: the place.
        otherwise: the state of a folder that only can be read: a cache that holds everything may be so.
    """
    import tempfile

    place = nearest_folder(folder)
    try:
        with tempfile.TemporaryFile(dir=place) as stream:
            stream.write(b"doctor")
    except OSError as error:
        remedy = "make it writable, or choose another: --run-dir DIR"
        if otherwise == WARNING:
            remedy = "no harm if it holds everything; else choose another: QALIGN_CACHE_DIR, HF_HOME"
        return Finding(name, otherwise, f"{folder} cannot be written: {error.strerror or error}", remedy)
    return Finding(name, OK, f"{folder} can be written")


def nearest_folder(path: Path) -> Path:
    """The folder itself, or the nearest above it that exists (which may turn out to be a file)."""
    return next(place for place in (path, *path.parents) if place.exists())


def fonts() -> list[Finding]:
    """Whether the letters are there that figures (matplotlib's own font) and pages (the browser's) need."""
    spec = importlib.util.find_spec("matplotlib")
    own = spec and spec.origin and Path(spec.origin).parent / "mpl-data" / "fonts" / "ttf" / FIGURE_FONT
    if own and own.is_file():
        findings = [Finding("fonts of figures", OK, "DejaVu Sans, which comes with matplotlib")]
    else:
        findings = [Finding("fonts of figures", WARNING, f"matplotlib's {FIGURE_FONT} is not there", "make setup")]
    if not shutil.which("fc-list"):
        return [*findings, Finding("fonts of pages", OK, "not looked at: fc-list is not here; the browser decides")]
    listed = subprocess.run(["fc-list", "--format", "%{lang}|"], capture_output=True, text=True, timeout=5, check=False)
    known = set(re.split(r"[|,\s]+", listed.stdout.lower()))
    lacking = [code for code in PAGE_FONTS if code not in known]
    if lacking:
        wanted = " ".join(dict.fromkeys(PAGE_FONTS[code] for code in lacking))
        remedy = f"apt install {wanted}; only where you read the pages"
        findings.append(Finding("fonts of pages", WARNING, f"no letters for {', '.join(lacking)}", remedy))
    else:
        findings.append(Finding("fonts of pages", OK, f"letters for {', '.join(PAGE_FONTS)}"))
    return findings


# ------------------------------------------------------------------------------------------------- GPUs


def gpus() -> list[Gpu]:
    """The GPUs NVIDIA's driver tells of, those that CUDA_VISIBLE_DEVICES hides left out; empty without a driver.

    Raises:
        OSError: when there are GPUs but the driver does not answer.
    """
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if not shutil.which("nvidia-smi") or visible in ("", "-1"):
        return []
    fields = "index,name,memory.total,memory.used,driver_version,compute_cap"
    command = ["nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader,nounits"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=PROBE_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        raise OSError(f"nvidia-smi gave no answer within {PROBE_SECONDS:.0f} s") from None
    if answer.returncode:
        raise OSError(f"nvidia-smi: {(answer.stdout + answer.stderr).strip()[:200]}")
    found = {}
    for index, name, total, used, driver, capability in csv.reader(answer.stdout.splitlines(), skipinitialspace=True):
        found[index] = Gpu(name, _mebibytes(total), _mebibytes(used), driver, float(capability))
    chosen = visible.replace(" ", "").split(",") if visible else []
    return (
        [found[i] for i in chosen if i in found] if all(i.isdigit() for i in chosen) and chosen else [*found.values()]
    )


def _mebibytes(text: str) -> int:
    return int(text) * 2**20 if text.isdigit() else 0  # some devices say [N/A]


def torch_build() -> str | None:
    """The CUDA version the installed torch was built for, None for a build without; read from its files."""
    spec = importlib.util.find_spec("torch")
    for folder in (spec.submodule_search_locations if spec else None) or []:
        text = (Path(folder) / "version.py").read_text(encoding="utf-8")
        if match := re.search(r"^cuda\b[^=]*=\s*'([\d.]+)'", text, re.MULTILINE):
            return match[1]
    return None


def torch_sees(found: list[Gpu], devices: int) -> list[Finding]:
    """Whether torch can use the GPUs, and speak NCCL where there are several; torch is only imported for this.

    Args:
        found: at least one.
        devices: how many the profile uses.
    """
    build, driver = torch_build(), found[0].driver
    if build is None:
        remedy = "install the same version of torch from https://pytorch.org with CUDA"
        return [Finding("torch", PROBLEM, "a build without CUDA", remedy)]
    command = [sys.executable, "-c", PROBE]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=PROBE_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        slow = f"no answer within {PROBE_SECONDS:.0f} s"
        return [Finding("torch", WARNING, slow, "ask it: python -c 'import torch; print(torch.cuda.is_available())'")]
    if answer.returncode:
        return [Finding("torch", PROBLEM, answer.stderr.strip().splitlines()[-1][:200], "make setup")]
    seen = json.loads(answer.stdout)
    if not seen["available"]:
        remedy = f"update the driver, or install torch {metadata.version('torch').split('+')[0]} for an older CUDA"
        return [Finding("torch", PROBLEM, f"CUDA {build} does not work with driver {driver}", remedy)]
    findings = [Finding("torch", OK, f"CUDA {build}, driver {driver}, {seen['devices']} GPUs")]
    if devices > 1:
        findings.append(_nccl(seen["nccl"]))
    return findings


def _nccl(version: str) -> Finding:
    """Whether several GPUs of this machine can speak with each other."""
    if not version:
        return Finding("NCCL", PROBLEM, "this torch has none", "install torch from https://pytorch.org with CUDA")
    shared = Path("/dev/shm")
    if shared.is_dir() and shutil.disk_usage(shared).total < SHARED_MEMORY:
        small = f"{version}; /dev/shm has {shutil.disk_usage(shared).total / 2**20:.0f} MiB"
        return Finding("NCCL", WARNING, small, "give the container more: docker run --shm-size=8g, or --ipc=host")
    return Finding("NCCL", OK, version)
