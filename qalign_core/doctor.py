"""Is this machine ready for a profile? `python -m qalign_core.doctor [PROFILE]` looks, and changes nothing.

It begins with the standard library alone: missing packages are a finding, not an error. The checks take some seconds;
if nothing stands in the way, a miniature's speed is measured then.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from qalign_core.params import Profile
    from qalign_core.runs import Run

OK, WARNING, PROBLEM = "ok", "warning", "problem"
SIGNS = {OK: "✓", WARNING: "!", PROBLEM: "✗"}
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


class Finding(NamedTuple):
    """What one check found: its state is `ok`, `warning` or `problem`; the latter two say what to do."""

    check: str
    state: str
    found: str
    remedy: str = ""


Check = Callable[[], Finding | Iterable[Finding]]


def verdict(check: str, good: bool, found: str, remedy: str, otherwise: str = PROBLEM) -> Finding:
    """A finding that is `ok` if it is good, and else comes with a remedy."""
    return Finding(check, OK, found) if good else Finding(check, otherwise, found, remedy)


def main(arguments: list[str] | None = None) -> int:
    """Print what was found; the exit code is 1 if something was that must be mended first."""
    options, begun = parser().parse_args(arguments), time.monotonic()
    findings = [python(), packages()]
    needed = ("pydantic", "yaml", "datasets", "transformers", "pandas", "filelock", "psutil")
    if all(map(importlib.util.find_spec, needed)):
        findings += examine(options.profile, options.run_dir)
    else:
        findings.append(Finding("profile", PROBLEM, "not looked at: packages are missing", "make setup, then again"))
    count = {state: sum(finding.state == state for finding in findings) for state in SIGNS}
    if not count[PROBLEM]:
        from qalign_core import cost, params

        said = " ".join(cost.sentences(params.load(options.profile)))
        findings += [Finding("time", OK, said)] if said else []
    print(f"profile {options.profile}")
    for finding in findings:
        print(f"{SIGNS[finding.state]} {finding.check}: {finding.found}")
        if finding.remedy:
            print(f"    → {finding.remedy}")
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
    from transformers import AutoConfig  # noqa: F401  # the checks use it, and threads must not import it at once

    from qalign_core import cost, params, plan
    from qalign_core.models import hub_models
    from qalign_core.prepare import data_sets

    try:
        profile = params.load(name)
        run, needed = plan.open_run(profile, run_dir, read_only=True), data_sets(profile)
    except params.ProfileError as error:
        return [Finding("profile", PROBLEM, str(error), "correct the profile")]
    checks: dict[str, Check] = {check.__name__: partial(check, profile) for check in (files, compiler, machine, gpus)}
    checks["disk"] = partial(disk, profile, run)
    own = {code for code, entry in profile.data.new_languages.items() if entry.folder}  # `files` looks for these
    for data, codes in needed.items():
        checks[f"data: {data}"] = partial(data_set, profile, data, [code for code in codes if code not in own])
    for hub_id, revision in hub_models(profile):
        checks[f"model: {hub_id}"] = partial(model, hub_id, revision, profile.model.convert)
    with ThreadPoolExecutor(len(checks)) as pool:  # most of them wait, none for long
        findings = [finding for found in pool.map(run_check, checks.items()) for finding in found]
    return findings + ([Finding("estimate", OK, said)] if (said := cost.asking(profile)) else [])


def run_check(named: tuple[str, Check]) -> list[Finding]:
    """What a check found; one that fails itself is a finding, for the others are worth reading."""
    name, check = named
    try:
        found = check()
        return [found] if isinstance(found, Finding) else list(found)
    except Exception as error:
        return [Finding(name, WARNING, f"the check failed: {error!r}"[:300], "look at this by hand")]


# ------------------------------------------------------------------------------------------------- Python


def python() -> Finding:
    """Whether this Python is new enough."""
    wanted = ".".join(map(str, NEEDED_PYTHON))
    remedy = f"{wanted} or newer is needed: make PYTHON=python{wanted} setup"
    return verdict("Python", sys.version_info >= NEEDED_PYTHON, f"{sys.version.split()[0]} ({sys.executable})", remedy)


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
            if installed.split("+")[0] != version:  # torch says +cpu or +cu130, of the same version
                other.append(f"{name} {installed} (pinned: {version})")
        except metadata.PackageNotFoundError:
            missing.append(name)
    named = missing or other
    some = ", ".join(named[:4]) + (f" and {len(named) - 4} more" if len(named) > 4 else "")
    if missing:
        return Finding("packages", PROBLEM, f"missing: {some}", "make setup")
    found = some or f"all {len(wanted)} of requirements.txt"
    return verdict("packages", not other, found, "make setup; other versions may give other results", WARNING)


def compiler(profile: Profile) -> Finding:
    """Whether C++ can be compiled, as DeepSpeed does for an offloaded optimizer; nothing else needs it."""
    absent = [] if shutil.which("g++") else ["g++"]
    absent += [] if (Path(sysconfig.get_paths()["include"]) / "Python.h").is_file() else ["Python.h"]
    said = f"no {', no '.join(absent)} (only needed by deepspeed/zero3-offload.json)" if absent else "g++, Python.h"
    remedy = "DeepSpeed compiles its offloaded optimizer: apt install g++ python3-dev, or what your system calls them"
    return verdict("compiler", not absent or not offloads(profile), said, remedy)


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
    from qalign_core import plan, runs

    here, sizes = memory(), plan.base_sizes(profile)
    yield Finding("CPU cores", OK, str(runs.cores()))
    if sizes is None or not profile.lineages():
        needed = profile.run.devices * MINIATURE_MEMORY + KERNEL_MEMORY if plan.stages(profile) else KERNEL_MEMORY
        state, remedy = WARNING, "set run.devices: 1, or close other programs"
    elif offloads(profile):
        needed = plan.training_memory(profile, sizes, profile.run.devices, 3, True, *plan.least(profile))[1]
        state, remedy = PROBLEM, "use a DeepSpeed configuration without offloading, or a machine with more memory"
    else:
        needed = 4.0 * sizes.parameters
        state, remedy = WARNING, "a stage's model is gathered here in fp32 when it ends: use a machine with more memory"
    found = f"{here / GIB:.0f} GiB; about {needed / GIB:.0f} are needed"
    yield verdict("memory", needed <= here, found, remedy, state)
    if said := plan.slow_bf16(profile):  # which a run refuses
        yield Finding("bf16", PROBLEM, said, "correct the profile, or use a machine with a GPU")


def disk_needed(profile: Profile, run: Run) -> dict[str, tuple[Path, float]]:
    """Where a profile writes, and about how many bytes it will still write there."""
    from huggingface_hub import constants

    from qalign_core import cost
    from qalign_core.hub import cache_dir, is_local
    from qalign_core.models import hub_models
    from qalign_core.plan import base_sizes

    sizes, needed = base_sizes(profile), 1.0 * MINIATURE_DISK * len(profile.run.seeds)
    if sizes:
        ahead = sum(not run.model(s, stage).is_dir() for s in profile.run.seeds for stage in profile.lineages())
        # A finished model is fp32; a checkpoint has 12 bytes of optimizer state and 2 of weight a trained parameter,
        # and one more of them than is kept is there while it is written.
        checkpoints = 14.0 * sizes.trained * (profile.training.save_total_limit + 1)
        needed = ahead * 4 * sizes.parameters + (checkpoints if ahead else 0)
    places = {"run folder": (run.folder, needed), "data cache": (cache_dir(), 1.0 * GIB if sizes else 0.0)}
    if absent := [model for model in hub_models(profile) if not is_local(*model)]:
        # Pickles may be in 32 bits, and are kept beside what is made of them.
        fetched = sum(map(cost.published_size, absent)) * (4 if profile.model.convert else 1)
        places["hub cache"] = (Path(os.environ.get("HF_HUB_CACHE") or constants.HF_HUB_CACHE), fetched)
    return places


def disk(profile: Profile, run: Run) -> Iterator[Finding]:
    """Whether everything that will be written can be, and fits; places on one disk are taken together."""
    disks: dict[int, list[tuple[str, Path, float]]] = {}
    for name, (folder, needed) in disk_needed(profile, run).items():
        place = next(place for place in (folder, *folder.parents) if place.exists())  # which may be a file
        good, cache = place.is_dir() and os.access(place, os.W_OK | os.X_OK), name.endswith("cache")
        remedy = "no harm if it holds everything; else choose another: QALIGN_CACHE_DIR, HF_HOME"
        remedy = remedy if cache else "make it writable, or choose another: --run-dir DIR"
        found = f"{folder} can{'' if good else 'not'} be written"
        yield verdict(name, good, found, remedy, WARNING if cache else PROBLEM)
        disks.setdefault(place.stat().st_dev, []).append((name, place, needed))
    for places in disks.values():
        free, needed = shutil.disk_usage(places[0][1]).free, sum(need for _, _, need in places)
        found = f"{free / GIB:,.0f} GiB free for {', '.join(p[0] for p in places)}; about {needed / GIB:,.0f} needed"
        remedy = "free some space, or put parts elsewhere: --run-dir, QALIGN_CACHE_DIR, HF_HOME"
        yield verdict("disk", needed <= free, found, remedy)


# ------------------------------------------------------------------------------------------------- GPUs


def probe() -> dict[str, Any]:
    """What torch sees, in a process of its own: it honours CUDA_VISIBLE_DEVICES in all its forms, and knows WSL2.

    Raises OSError or subprocess.TimeoutExpired when torch, or the driver behind it, does not work.
    """
    ask = partial(subprocess.run, capture_output=True, text=True, timeout=PROBE_SECONDS, check=False)
    answer = ask([sys.executable, "-c", PROBE])
    if answer.returncode:
        raise OSError((answer.stderr.strip().splitlines() or ["torch ended without a word"])[-1][:200])
    seen = json.loads(answer.stdout.splitlines()[-1])
    if not seen["gpus"] and os.environ.get("CUDA_VISIBLE_DEVICES") not in ("", "-1") and shutil.which("nvidia-smi"):
        driver, built = ask(["nvidia-smi"]), f"torch {metadata.version('torch')} (CUDA {seen['cuda'] or 'none'})"
        said = f"nvidia-smi: {(driver.stdout + driver.stderr).strip()[:200]}"
        raise OSError(said if driver.returncode else f"{built} does not see this machine's GPUs")
    return seen


def gpus(profile: Profile) -> Iterator[Finding]:
    """The GPUs torch sees against those the profile needs, and NCCL where it uses several."""
    from qalign_core import cost, launch, plan
    from qalign_core.models import hub_models

    sizes, devices = plan.base_sizes(profile), profile.run.devices
    wants = bool(hub_models(profile)) and (sizes is None or sizes.parameters > SMALL)
    try:
        seen = probe()
    except (OSError, subprocess.TimeoutExpired) as error:
        remedy = "nvidia-smi must work (load the driver, or reboot after its update), and torch fit the driver's CUDA: "
        yield Finding("GPU", PROBLEM, str(error), f"{remedy}https://pytorch.org")
        return
    if not (found := seen["gpus"]):
        said = f"none; the profile needs {devices}" if wants else "none, and none is needed"
        yield verdict("GPU", not wants, said, "use a machine with them (docs/gpus.md); PROFILE=mini needs none")
        return
    enough = len(found) >= devices
    here = f"{len(found)} × {found[0]['name']}, {found[0]['memory'] / GIB:.0f} GiB, CUDA {seen['cuda']}"
    here += f"; the profile {'uses' if enough else 'needs'} {devices}"
    yield verdict("GPU", enough, here, launch.on_fewer(profile, len(found)))
    if wants and sizes is not None and profile.lineages():
        smallest, ranks = min(gpu["memory"] for gpu in found), min(devices, len(found)) * plan.machines(profile)
        fits = plan.fit(profile, profile.corpora()[0], smallest, ranks)
        layout = (*plan.zero(fits.deepspeed), fits.batch, fits.checkpointing)
        needed = plan.training_memory(profile, sizes, ranks, *layout)[0]
        said = f"training: {fits.sentence}"
        remedy = "training.deepspeed: deepspeed/zero3-offload.json, or method: lora"
        yield verdict("GPU memory", needed <= 0.95 * smallest, said, remedy)
    weights = max([2.0 * sizes.parameters if sizes else 0.0, *map(cost.published_size, hub_models(profile))])
    if wants and weights > 0.8 * min(gpu["memory"] for gpu in found):
        said = f"a model's weights take {weights / GIB:.0f} GiB of each GPU when it answers"
        yield Finding("answering", PROBLEM, said, "leave out the larger models, or use GPUs with more memory")
    if busy := [gpu for gpu in found[:devices] if gpu["used"] > 0.1 * gpu["memory"]]:
        used = f"{busy[0]['used'] / GIB:.0f} of {busy[0]['memory'] / GIB:.0f} GiB in use"
        yield Finding("GPU memory", WARNING, used, "another program uses the GPU: nvidia-smi names it")
    wants_bf16 = profile.training.bf16 or profile.evaluation.dtype == "bfloat16"
    if wants_bf16 and min(gpu["capability"] for gpu in found) < 8:
        remedy = "a GPU of NVIDIA's Ampere generation or newer does"
        yield Finding("bf16", WARNING, f"{found[0]['name']} computes no bf16", remedy)
    if devices > 1 and not seen["nccl"]:  # by which several GPUs speak with each other
        yield Finding("NCCL", PROBLEM, "this torch has none", "install torch from https://pytorch.org with CUDA")
    elif devices > 1:
        shared = shutil.disk_usage("/dev/shm").total if Path("/dev/shm").is_dir() else SHARED_MEMORY
        said = f"{seen['nccl']}; /dev/shm has {shared / 2**20:.0f} MiB"
        remedy = "give the container more: docker run --shm-size=8g, or --ipc=host"
        yield verdict("NCCL", shared >= SHARED_MEMORY, said, remedy, WARNING)


# ------------------------------------------------------------------------------------------------- data and models


def data_set(profile: Profile, name: str, codes: list[str]) -> Finding:
    """Where a data set is, or that it can be had: one file of it is asked for at its source."""
    from huggingface_hub import hf_hub_url

    from qalign_core import hub, prepare, sources

    title, source, lock = f"data: {name}", str(profile.data.source(name)), sources.read_lock()
    if source == "miniature":
        return Finding(title, OK, "made here")
    if source == "folder":
        try:
            folder = prepare.data_folder(profile)
        except ValueError:
            return Finding(title, PROBLEM, "no folder is named", f"set data.folder, or {sources.DATA_DIR}")
        lacks = [places for places in sources.layout(name, codes) if not any((folder / p).is_file() for p in places)]
        more = f" and {len(lacks) - 1} more" if lacks[1:] else ""
        found = f"{folder} lacks {' or '.join(lacks[0])}{more}" if lacks else f"in {folder}"
        return verdict(title, not lacks, found, "put them there, or leave their languages out")
    if (known := lock.at(name, source)) is None:
        return Finding(title, PROBLEM, f"not at source {source}", f"correct data.sources.{name}")
    absent, total = sources.absent_files(name, source, codes)
    if not absent:
        return Finding(title, OK, f"all {total} files are in {lock.folder(source, hub.cache_dir())}")
    file, found = known.needed(codes)[absent[0]].path, f"{len(absent)} of {total} files to fetch ({source})"
    url = f"{os.environ.get(sources.REPOSITORY_URL, lock.repository.url).rstrip('/')}/{lock.repository.commit}/{file}"
    if source == "hub":
        options = {"repo_type": "dataset", "revision": known.revision, "endpoint": os.environ.get("HF_ENDPOINT")}
        url = hf_hub_url(known.repo_id, file, **options)
    why, remedy = refusal(url, known.repo_id, known.revision, "data set")
    return verdict(title, not why, f"{found}: {why or 'reachable'}", remedy)


def model(name: str, revision: str | None, convert: bool) -> Finding:
    """Whether a model is here, or its repository lets us read it and has weights that may be loaded."""
    from huggingface_hub import HfApi, hf_hub_url

    from qalign_core import hub

    title = f"model: {name}"
    if hub.is_local(name, revision):
        return Finding(title, OK, "is here")
    if name.count("/") != 1:
        return Finding(title, PROBLEM, "no such folder with a config.json", "correct model.base, or the checkpoint")
    endpoint = os.environ.get("HF_ENDPOINT")
    for path in hub.names(name):
        why, remedy = refusal(hf_hub_url(path, "config.json", revision=revision, endpoint=endpoint), path, revision)
        if not why:
            files = HfApi(endpoint).model_info(path, revision=revision, timeout=ASK_SECONDS).siblings or []
            why = hub.weights_lacking(path, (file.rfilename for file in files), convert)
            remedy = "name another revision, or a folder" if convert else "set model.convert, or name another revision"
            break
    return verdict(title, not why, why or "to fetch: readable, with weights", remedy)


def refusal(url: str, name: str, revision: str | None, kind: str = "model") -> tuple[str, str]:
    """What stands in the way of fetching a file, whose headers are asked for, and what to do; blank if nothing does.

    `name` is its repository on the hub; blank for another host, which must not see the hub's token.
    """
    from huggingface_hub import errors, get_hf_file_metadata

    from qalign_core.hub import is_offline, unreadable_model

    if is_offline():
        return "not here, and HF_HUB_OFFLINE is set", "unset it and run once with a network"
    try:
        get_hf_file_metadata(url, token=None if name else False, timeout=ASK_SECONDS)
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError) as error:  # gated ones are of the first kind
        why, _, remedy = unreadable_model(name, revision, error, kind).partition(": ")
        return why, remedy
    except errors.HfHubHTTPError as error:
        why = f"{url}: the server answered {error.response.status_code}"
        return why, "compare with params/data.lock.yaml, or try again later"
    except Exception as error:  # of whichever HTTP client huggingface_hub uses
        why = f"{url.split('/')[2]} cannot be reached ({type(error).__name__})"
        return why, "check the network and its proxy, or use folders of your own"
    return "", ""


# ------------------------------------------------------------------------------------------------- the profile


def offloads(profile: Profile) -> bool:
    """Whether the optimizer is computed on the processor, which DeepSpeed compiles C++ for."""
    from qalign_core import plan

    try:
        plan.deepspeed_config(profile)
    except ValueError:  # `files` says so
        return False
    corpora = profile.corpora()
    return bool(corpora) and plan.zero(plan.fit_here(profile, corpora[0]).deepspeed)[1]


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
    data = profile.data
    named = {f"systems.{name}.predictions": entry.predictions for name, entry in profile.systems.items()}
    named |= {f"evaluation.benchmarks.{name}.folder": t.folder for name, t in profile.evaluation.benchmarks.items()}
    named |= {f"data.corpora.{name}.path": choice.path for name, choice in data.corpora.items()}
    named |= {f"data.new_languages.{code}.folder": entry.folder for code, entry in data.new_languages.items()}
    for key, path in named.items():
        if path is not None and not Path(path).exists():
            yield Finding("files", PROBLEM, f"{key}: {path} is not there", "correct the path in the profile")
        elif path is not None:
            said.append(path)
    for title, there, why in evaluate.external_overview(profile):
        if not there:
            yield Finding("files", PROBLEM, f"{' '.join(title.split())}, but {why}", "put them there")
    yield Finding("files", OK, ", ".join(said) or "none are needed")
    if hosts:
        program = LAUNCHERS[profile.run.launcher or "pdsh"]
        here = shutil.which(program) is not None
        yield verdict("launcher", here, program if here else f"no {program} here", "install it, or set run.launcher")


if __name__ == "__main__":
    sys.exit(main())
