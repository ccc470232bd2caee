"""Is this machine ready for a profile? `python -m qalign_core.doctor [PROFILE]` looks, and changes nothing.

It begins with the standard library alone: missing packages are a finding, not an error. The checks take some seconds;
if nothing stands in the way, a miniature's speed is measured then.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from qalign_core.params import Profile
    from qalign_core.runs import Run

OK, WARNING, PROBLEM = "ok", "warning", "problem"
SIGNS = {OK: "✓", WARNING: "!", PROBLEM: "✗"}
LIMIT_SECONDS = 30.0  # for the checks together
ASK_SECONDS = 3.0  # to wait for a server
PROBE_SECONDS = 25.0  # to wait for the driver or torch, which takes long from a cold disk
GIB = 2**30
NEEDED_PYTHON = (3, 11)
REQUIREMENTS = Path(__file__).resolve().parents[1] / "requirements.txt"
PROBE = """
import json, torch
gpus = []
for i in range(torch.cuda.device_count()):
    gpu, (free, total) = torch.cuda.get_device_properties(i), torch.cuda.mem_get_info(i)
    gpus.append({"name": gpu.name, "memory": total, "used": total - free, "capability": gpu.major + gpu.minor / 10})
nccl = torch.cuda.nccl.version() if torch.distributed.is_nccl_available() else ()
print(json.dumps({"cuda": torch.version.cuda, "gpus": gpus, "nccl": ".".join(map(str, nccl))}))
"""
SHARED_MEMORY = GIB  # bytes of /dev/shm that NCCL's ranks on one machine may want; containers often have 64 MiB
MINIATURE_DISK = GIB  # bytes a seed, more than a run of `mini` takes
MINIATURE_MEMORY = 1.6 * GIB  # bytes a rank; one of `mini` peaks at 1.0 to 1.5 GB
KERNEL_MEMORY = 1.5 * GIB  # bytes of a notebook's kernel
SMALL = 3e8  # parameters that a CPU can train if need be
LAUNCHERS = {"pdsh": "pdsh", "slurm": "srun", "openmpi": "mpirun"}


@dataclass(frozen=True)
class Finding:
    """What one check found: its state is `ok`, `warning` or `problem`; the latter two say what to do."""

    check: str
    state: str
    found: str
    remedy: str = ""


def main(arguments: list[str] | None = None) -> int:
    """Print what was found; the exit code is 1 if something was that must be mended first."""
    options, begun = parser().parse_args(arguments), time.monotonic()
    findings = [python(), packages()]
    if all(importlib.util.find_spec(name) for name in ("pydantic", "yaml", "datasets", "pandas", "filelock", "psutil")):
        findings += examine(options.profile, options.run_dir)
    else:
        findings.append(compilers(False))
        findings.append(Finding("profile", PROBLEM, "not looked at: packages are missing", "make setup, then again"))
    count = {state: sum(finding.state == state for finding in findings) for state in SIGNS}
    if not count[PROBLEM]:
        findings += duration(options.profile)
    show(options.profile, findings)
    counted = [f"{count[s]} {s}{'s' if count[s] > 1 else ''}" for s in (PROBLEM, WARNING) if count[s]]
    print(f"{', '.join(counted) or 'ready'} ({time.monotonic() - begun:.1f} s)")
    return 1 if count[PROBLEM] else 0


def parser() -> argparse.ArgumentParser:
    """The command line."""
    found = argparse.ArgumentParser(prog="python -m qalign_core.doctor", description=__doc__)
    found.add_argument("profile", nargs="?", default="mini", help="a name in params/ or a path of a YAML file")
    found.add_argument("--run-dir", metavar="DIR", help="another run folder than runs/PROFILE")
    return found


def examine(name: str, run_dir: str | None = None) -> list[Finding]:
    """What was found about a profile (its name or path) on this machine, in the order of the checks."""
    from qalign_core import params, plan
    from qalign_core.prepare import data_sets, hub_models

    try:
        profile = params.load(name)
        run, needed = plan.open_run(profile, run_dir, read_only=True), data_sets(profile)
    except params.ProfileError as error:
        return [Finding("profile", PROBLEM, str(error), "correct the profile")]
    checks: dict[str, Callable[[], Finding | Iterable[Finding]]] = {
        "files": partial(files, profile),
        "compiler": lambda: compilers(offloads(profile)),
        "machine": partial(machine, profile),
        "disk": partial(disk, profile, run),
        "GPU": partial(gpus, profile),
        "bf16": partial(bf16, profile),
    }
    own = {code for code, entry in profile.data.new_languages.items() if entry.folder}  # `files` looks for these
    for data, codes in needed.items():
        checks[f"data: {data}"] = partial(data_set, profile, data, [code for code in codes if code not in own])
    for hub_id, revision in hub_models(profile):
        checks[f"model: {hub_id}"] = partial(model, hub_id, revision)
    return run_checks(checks, LIMIT_SECONDS)


def run_checks(checks: dict[str, Callable[[], Finding | Iterable[Finding]]], seconds: float) -> list[Finding]:
    """Run checks side by side; one that is not done after `seconds`, or fails itself, is a finding of its own."""
    results: dict[str, list[Finding]] = {}

    def run(name: str, check: Callable[[], Finding | Iterable[Finding]]) -> None:
        try:
            found = check()
            results[name] = [found] if isinstance(found, Finding) else list(found)
        except Exception as error:  # whatever it is, the other findings are worth reading
            why = f"the check failed: {type(error).__name__}: {error}"
            results[name] = [Finding(name, WARNING, why[:300], "look at this by hand")]

    threads = [threading.Thread(target=run, args=check, daemon=True) for check in checks.items()]
    deadline = time.monotonic() + seconds
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    late = WARNING, f"no answer within {seconds:.0f} s", "try again; is the network or a disk slow?"
    return [finding for name in checks for finding in results.get(name, [Finding(name, *late)])]


def show(profile: str, findings: list[Finding]) -> None:
    """Print the findings, each with what to do about it."""
    print(f"profile {profile}")
    for finding in findings:
        print(f"{SIGNS[finding.state]} {finding.check}: {finding.found}")
        if finding.remedy:
            print(f"    → {finding.remedy}")


def duration(name: str) -> list[Finding]:
    """How long the chapters of a profile will take here, measured; nothing where that is not measured."""
    from qalign_core import params, speed

    try:
        return [Finding("time", OK, said)] if (said := " ".join(speed.sentences(params.load(name)))) else []
    except (OSError, ValueError) as error:
        return [Finding("time", WARNING, str(error)[:300], "look at this by hand")]


# ------------------------------------------------------------------------------------------------- Python


def python() -> Finding:
    """Whether this Python is new enough."""
    found = f"{sys.version.split()[0]} ({sys.executable})"
    if sys.version_info < NEEDED_PYTHON:
        wanted = ".".join(map(str, NEEDED_PYTHON))
        return Finding("Python", PROBLEM, found, f"{wanted} or newer is needed: make PYTHON=python{wanted} setup")
    return Finding("Python", OK, found)


def required(path: Path = REQUIREMENTS) -> dict[str, str]:
    """The packages of a requirements file with their exact versions."""
    lines = [line.partition("==") for line in path.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    return {name.strip(): version.strip() for name, _, version in lines if version}


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

    def some(names: list[str]) -> str:
        return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")

    if missing:
        return Finding("packages", PROBLEM, f"missing: {some(missing)}", "make setup")
    if other:
        return Finding("packages", WARNING, some(other), "make setup; other versions may give other results")
    return Finding("packages", OK, f"all {len(wanted)} of requirements.txt")


def compilers(needed: bool) -> Finding:
    """Whether C++ can be compiled, as DeepSpeed does for an offloaded optimizer; nothing else needs it."""
    absent = [] if shutil.which("g++") else ["g++"]
    absent += [] if (Path(sysconfig.get_paths()["include"]) / "Python.h").is_file() else ["Python.h"]
    if absent and needed:
        remedy = (
            "DeepSpeed compiles its offloaded optimizer: apt install g++ python3-dev, or what your system calls them"
        )
        return Finding("compiler", PROBLEM, f"no {', no '.join(absent)}", remedy)
    said = f"no {', no '.join(absent)} (only needed by deepspeed/zero3-offload.json)" if absent else "g++, Python.h"
    return Finding("compiler", OK, said)


# ------------------------------------------------------------------------------------------------- the machine


def memory() -> int:
    """Bytes of memory, or of the container's share of it if that is less."""
    found = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for path in map(Path, ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")):
        text = path.read_text(encoding="ascii").strip() if path.is_file() else "max"
        found += [int(text)] if text.isdigit() else []
    return min(found)


def machine(profile: Profile) -> Iterator[Finding]:
    """Cores, and memory against what the profile needs of it."""
    from qalign_core import plan
    from qalign_core.cost import base_sizes, training_memory

    here, geometry = memory(), base_sizes(profile)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    yield Finding("CPU cores", OK, str(cores))
    if geometry is None or not profile.lineages():
        needed = profile.run.devices * MINIATURE_MEMORY + KERNEL_MEMORY if plan.stages(profile) else KERNEL_MEMORY
        state, remedy = WARNING, "set run.devices: 1, or close other programs"
    elif offloads(profile):
        stage = plan.deepspeed_config(profile)["zero_optimization"]["stage"]
        needed = training_memory(profile, geometry, profile.run.devices, stage, True).host
        state, remedy = PROBLEM, "use a DeepSpeed configuration without offloading, or a machine with more memory"
    else:
        needed = 4.0 * geometry.parameters
        state, remedy = WARNING, "a stage's model is gathered here in fp32 when it ends: use a machine with more memory"
    found = f"{here / GIB:.0f} GiB; about {needed / GIB:.0f} are needed"
    yield Finding("memory", *((OK, found) if needed <= here else (state, found, remedy)))


def disk_needed(profile: Profile, run: Run) -> dict[str, tuple[Path, float]]:
    """Where a profile writes, and about how many bytes it will still write there."""
    from huggingface_hub import constants

    from qalign_core.cost import base_sizes
    from qalign_core.params import LoraSection
    from qalign_core.prepare import hub_models
    from qalign_core.sources import cache_dir, is_local

    geometry, training, kept = base_sizes(profile), profile.training, 0.0
    if geometry is None:
        kept = MINIATURE_DISK * len(profile.run.seeds)
    elif profile.lineages():
        trained = geometry.parameters
        if training.method == "lora":
            lora = training.lora or LoraSection()
            trained = geometry.adapters(lora.rank, lora.target_modules) + lora.embeddings * geometry.embeddings
        ahead = [1 for s in profile.run.seeds for stage in profile.lineages() if not run.model(s, stage).is_dir()]
        # A finished model is fp32; a checkpoint has 12 bytes of optimizer state and 2 of weight a trained parameter,
        # and one more of them than is kept is there while it is written.
        checkpoints = 14.0 * trained * (training.save_total_limit + 1) if ahead else 0.0
        kept = len(ahead) * 4.0 * geometry.parameters + checkpoints
    absent, fetched = [name for name, revision in hub_models(profile) if not is_local(name, revision)], 0.0
    for name in absent:
        known = geometry.parameters if geometry and name == profile.model.base else billions(name)
        fetched += 2.0 * known
    cached = 0.0 if set(profile.data.sources.values()) <= {"folder", "miniature"} else 1.0 * GIB
    hub = Path(os.environ.get("HF_HUB_CACHE") or constants.HF_HUB_CACHE)
    return {"run folder": (run.folder, kept), "data cache": (cache_dir(), cached), "hub cache": (hub, fetched)}


def billions(name: str) -> float:
    """Parameters, as far as a model's name tells: 7e9 for `…-7B`; 0 if it does not."""
    match = re.search(r"(\d+(?:\.\d+)?)b(?![a-z])", name, re.IGNORECASE)
    return float(match[1]) * 1e9 if match else 0.0


def disk(profile: Profile, run: Run) -> Iterator[Finding]:
    """Whether everything that will be written can be, and fits; places on one disk are taken together."""
    disks: dict[int, list[tuple[str, Path, float]]] = {}
    for name, (folder, needed) in disk_needed(profile, run).items():
        if name == "hub cache" and not needed:
            continue
        place = next(place for place in (folder, *folder.parents) if place.exists())  # which may be a file
        try:
            with tempfile.TemporaryFile(dir=place) as stream:  # leaves nothing
                stream.write(b"doctor")
            yield Finding(name, OK, f"{folder} can be written")
        except OSError as error:
            found, cache = f"{folder} cannot be written: {error.strerror or error}", name.endswith("cache")
            remedy = "no harm if it holds everything; else choose another: QALIGN_CACHE_DIR, HF_HOME"
            remedy = remedy if cache else "make it writable, or choose another: --run-dir DIR"
            yield Finding(name, WARNING if cache else PROBLEM, found, remedy)
        disks.setdefault(place.stat().st_dev, []).append((name, place, needed))
    for places in disks.values():
        free, needed = shutil.disk_usage(places[0][1]).free, sum(need for _, _, need in places)
        found = f"{free / GIB:,.0f} GiB free for {', '.join(p[0] for p in places)}; about {needed / GIB:,.0f} needed"
        remedy = "free some space, or put parts elsewhere: --run-dir, QALIGN_CACHE_DIR, HF_HOME"
        yield Finding("disk", *((OK, found) if needed <= free else (PROBLEM, found, remedy)))


# ------------------------------------------------------------------------------------------------- GPUs


def probe() -> dict[str, Any]:
    """What torch sees, in a process of its own: it honours CUDA_VISIBLE_DEVICES in all its forms, and knows WSL2.

    Raises:
        OSError: when torch, or the driver behind it, does not work.
    """
    try:
        answer = subprocess.run(
            [sys.executable, "-c", PROBE], capture_output=True, text=True, timeout=PROBE_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        raise TimeoutError(f"torch gave no answer within {PROBE_SECONDS:.0f} s") from None
    if answer.returncode:
        raise OSError((answer.stderr.strip().splitlines() or ["torch ended without a word"])[-1][:200])
    seen = json.loads(answer.stdout.splitlines()[-1])
    if not seen["gpus"] and os.environ.get("CUDA_VISIBLE_DEVICES") not in ("", "-1") and shutil.which("nvidia-smi"):
        driver = subprocess.run(["nvidia-smi"], capture_output=True, text=True, timeout=PROBE_SECONDS, check=False)
        if driver.returncode:
            raise OSError(f"nvidia-smi: {(driver.stdout + driver.stderr).strip()[:200]}")
        raise OSError(
            f"torch {metadata.version('torch')} (CUDA {seen['cuda'] or 'none'}) does not see this machine's GPUs"
        )
    return seen


def gpus(profile: Profile) -> Iterator[Finding]:
    """The GPUs torch sees against those the profile needs, and NCCL where it uses several."""
    from qalign_core import plan
    from qalign_core.cost import base_sizes, training_memory
    from qalign_core.launch import on_fewer
    from qalign_core.prepare import hub_models

    geometry, devices = base_sizes(profile), profile.run.devices
    wants = bool(hub_models(profile)) and (geometry is None or geometry.parameters > SMALL)
    try:
        seen = probe()
    except OSError as error:
        remedy = "nvidia-smi must work (load the driver, or reboot after its update), and torch fit the driver's CUDA: "
        yield Finding("GPU", PROBLEM, str(error), f"{remedy}https://pytorch.org")
        return
    found = seen["gpus"]
    if not found:
        remedy = "use a machine with them (README, On GPUs); PROFILE=mini needs none"
        needs = Finding("GPU", PROBLEM, f"none; the profile needs {devices}", remedy)
        yield needs if wants else Finding("GPU", OK, "none, and none is needed")
        return
    here = f"{len(found)} × {found[0]['name']}, {found[0]['memory'] / GIB:.0f} GiB, CUDA {seen['cuda']}"
    enough = Finding("GPU", OK, f"{here}; the profile uses {devices}")
    few = Finding("GPU", PROBLEM, f"{here}; the profile needs {devices}", on_fewer(profile, len(found)))
    yield enough if len(found) >= devices else few
    if wants and geometry is not None and profile.lineages():
        smallest, ranks = min(gpu["memory"] for gpu in found), min(devices, len(found)) * plan.machines(profile)
        stage = plan.deepspeed_config(profile).get("zero_optimization", {}).get("stage", 0)
        needed = training_memory(profile, geometry, ranks, stage, offloads(profile)).device
        said = f"training needs about {needed / GIB:.0f} of {smallest / GIB:.0f} GiB a GPU"
        remedy = "training.deepspeed: deepspeed/zero3-offload.json, or method: lora"
        yield Finding("GPU memory", *((OK, said) if needed <= 0.95 * smallest else (PROBLEM, said, remedy)))
    if busy := [gpu for gpu in found[:devices] if gpu["used"] > 0.1 * gpu["memory"]]:
        used = f"{busy[0]['used'] / GIB:.0f} of {busy[0]['memory'] / GIB:.0f} GiB in use"
        yield Finding("GPU memory", WARNING, used, "another program uses the GPU: nvidia-smi names it")
    old = min(gpu["capability"] for gpu in found) < 8
    if old and (profile.training.bf16 or profile.evaluation.dtype == "bfloat16"):
        slow = f"{found[0]['name']} computes no bf16"
        yield Finding("bf16", WARNING, slow, "a GPU of NVIDIA's Ampere generation or newer does")
    if devices > 1:  # which must speak with each other
        shared, version = Path("/dev/shm"), seen["nccl"]
        if not version:
            remedy = "install torch from https://pytorch.org with CUDA"
            yield Finding("NCCL", PROBLEM, "this torch has none", remedy)
        elif shared.is_dir() and shutil.disk_usage(shared).total < SHARED_MEMORY:
            small = f"{version}; /dev/shm has {shutil.disk_usage(shared).total / 2**20:.0f} MiB"
            yield Finding("NCCL", WARNING, small, "give the container more: docker run --shm-size=8g, or --ipc=host")
        else:
            yield Finding("NCCL", OK, version)


def bf16(profile: Profile) -> list[Finding]:
    """Whether the profile asks for bf16 where nothing computes it natively, which a run refuses."""
    from qalign_core import plan

    said = plan.slow_bf16(profile)
    return [Finding("bf16", PROBLEM, said, "correct the profile, or use a machine with a GPU")] if said else []


# ------------------------------------------------------------------------------------------------- data and models


def data_set(profile: Profile, name: str, codes: list[str]) -> Finding:
    """Where a data set is, or that it can be had: one file of it is asked for at its source."""
    from huggingface_hub import hf_hub_url

    from qalign_core import sources

    title, source, lock = f"data: {name}", str(profile.data.source(name)), sources.read_lock()
    if source == "miniature":
        return Finding(title, OK, "made here")
    if source == "folder":
        value = profile.data.folder or os.environ.get(sources.DATA_DIR)
        if not value:
            return Finding(title, PROBLEM, "no folder is named", f"set data.folder, or {sources.DATA_DIR}")
        folder, wanted = Path(value).expanduser(), sources.layout(name, codes)
        if lacks := [places for places in wanted if not any((folder / place).is_file() for place in places)]:
            found = f"{folder} lacks {' or '.join(lacks[0])}" + (f" and {len(lacks) - 1} more" if lacks[1:] else "")
            return Finding(title, PROBLEM, found, "put them there, or leave their languages out")
        return Finding(title, OK, f"in {folder}")
    if (known := lock.at(name, source)) is None:
        return Finding(title, PROBLEM, f"not at source {source}", f"correct data.sources.{name}")
    absent, total = sources.absent_files(name, source, codes)
    if not absent:
        return Finding(title, OK, f"all {total} files are in {lock.folder(source, sources.cache_dir())}")
    file, found = known.needed(codes)[absent[0]].path, f"{len(absent)} of {total} files to fetch ({source})"
    url = f"{os.environ.get(sources.REPOSITORY_URL, lock.repository.url).rstrip('/')}/{lock.repository.commit}/{file}"
    if source == "hub":
        url = hf_hub_url(
            known.repo_id, file, repo_type="dataset", revision=known.revision, endpoint=os.environ.get("HF_ENDPOINT")
        )
    why, remedy = refusal(url, known.repo_id, known.revision, "data set")
    return Finding(title, PROBLEM, f"{found}: {why}", remedy) if why else Finding(title, OK, f"{found}: reachable")


def model(name: str, revision: str | None) -> Finding:
    """Whether a model is here, or its repository lets us read it."""
    from huggingface_hub import hf_hub_url

    from qalign_core.sources import is_local

    title = f"model: {name}"
    if is_local(name, revision):
        return Finding(title, OK, "is here")
    if name.count("/") != 1:
        remedy = "correct model.base, or the system's checkpoint"
        return Finding(title, PROBLEM, "no such folder with a config.json", remedy)
    url = hf_hub_url(name, "config.json", revision=revision, endpoint=os.environ.get("HF_ENDPOINT"))
    why, remedy = refusal(url, name, revision)
    return Finding(title, PROBLEM, why, remedy) if why else Finding(title, OK, "to fetch: readable")


def refusal(url: str, name: str, revision: str | None, kind: str = "model") -> tuple[str, str]:
    """What stands in the way of fetching a file, whose headers are asked for, and what to do; blank if nothing does.

    `name` is its repository on the hub; blank for another host, which must not see the hub's token.
    """
    from huggingface_hub import errors, get_hf_file_metadata

    from qalign_core.sources import is_offline, unreadable_model

    if is_offline():
        return "not here, and HF_HUB_OFFLINE is set", "unset it and run once with a network"
    try:
        get_hf_file_metadata(url, token=None if name else False, timeout=ASK_SECONDS)
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError) as error:  # gated ones are of the first kind
        why, _, remedy = unreadable_model(name, revision, error, kind).partition(": ")
        return why, remedy
    except errors.HfHubHTTPError as error:
        answer = f"{url}: the server answered {error.response.status_code}"
        return answer, "compare with params/data.lock.yaml, or try again later"
    except Exception as error:  # of whichever HTTP client huggingface_hub uses
        reason = f"{url.split('/')[2]} cannot be reached ({type(error).__name__})"
        return reason, "check the network and its proxy, or use folders of your own"
    return "", ""


# ------------------------------------------------------------------------------------------------- the profile


def offloads(profile: Profile) -> bool:
    """Whether the optimizer is computed on the processor, which DeepSpeed compiles C++ for."""
    from qalign_core import plan

    try:
        config = plan.deepspeed_config(profile)
    except ValueError:  # `files` says so
        return False
    return bool(plan.stages(profile)) and "offload_optimizer" in config.get("zero_optimization", {})


def files(profile: Profile) -> Iterator[Finding]:
    """The files and folders of your own that a profile names, DeepSpeed's JSON and the host file."""
    from qalign_core import evaluate, plan

    try:
        said = [profile.training.deepspeed] if plan.stages(profile) and plan.deepspeed_config(profile) else []
        number, hosts = plan.machines(profile), plan.hostfile(profile)
    except ValueError as error:  # a ProfileError, or not JSON
        yield Finding("files", PROBLEM, str(error), "correct the profile")
        return
    said += [f"{hosts} ({number} machines)"] if hosts else []
    named = [(f"systems.{name}.predictions", entry.predictions) for name, entry in profile.systems.items()]
    asked, corpora, own = profile.evaluation.benchmarks, profile.data.corpora, profile.data.new_languages
    named += [(f"evaluation.benchmarks.{name}.folder", test.folder) for name, test in asked.items()]
    named += [(f"data.corpora.{name}.path", choice.path) for name, choice in corpora.items()]
    named += [(f"data.new_languages.{code}.folder", entry.folder) for code, entry in own.items()]
    for key, path in named:
        if path is not None and not Path(path).exists():
            yield Finding("files", PROBLEM, f"{key}: {path} is not there", "correct the path in the profile")
        said += [path] if path is not None and Path(path).exists() else []
    for title, there, why in evaluate.external_overview(profile):
        if not there:
            yield Finding("files", PROBLEM, f"{' '.join(title.split())}, but {why}", "put them there")
    yield Finding("files", OK, ", ".join(said) or "none are needed")
    if hosts:
        program = LAUNCHERS[profile.run.launcher or "pdsh"]
        missing = Finding("launcher", PROBLEM, f"no {program} here", "install it, or set run.launcher")
        yield Finding("launcher", OK, program) if shutil.which(program) else missing


if __name__ == "__main__":
    sys.exit(main())
