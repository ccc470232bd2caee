"""What `doctor` finds out about a profile on this machine: files, memory, disk and GPUs; `source_checks` does data."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path

from qalign_core import plan
from qalign_core.checks import machine_checks
from qalign_core.checks.machine_checks import OK, PROBLEM, WARNING, Finding, Gpu, nearest_folder
from qalign_core.checks.source_checks import data_set, hub_model, is_local, made_here, models, sources
from qalign_core.data.prepare import cache_dir, data_sets
from qalign_core.jobs.machines import hostfile, machines
from qalign_core.params import Profile
from qalign_core.runs import Run
from qalign_core.scores import brought
from qalign_core.training.cost import GIB, training_memory
from qalign_core.training.geometry import Geometry, base_geometry
from qalign_core.training.lora import LoraSection

MINIATURE_DISK = GIB  # bytes a seed, more than a run of `mini` takes
MINIATURE_MEMORY = 1.6 * GIB  # bytes a rank; one of `mini` peaks at 1.0 to 1.5 GB
KERNEL_MEMORY = 1.5 * GIB  # bytes of a notebook's kernel
SMALL = 3e8  # parameters that a CPU can train if need be
LAUNCHERS = {"pdsh": "pdsh", "slurm": "srun", "openmpi": "mpirun"}

Check = Callable[[], Iterable[Finding]]


def checks(profile: Profile, run: Run) -> dict[str, Check]:
    """Every check of a profile, by name; they may run side by side.

    Raises:
        ProfileError: when the profile needs a data set and names no source for it.
    """
    found: dict[str, Check] = {
        "files": partial(files, profile),
        "compiler": partial(compilers, profile),
        "machine": partial(machine, profile),
        "disk": partial(disk, profile, run),
        "GPU": partial(gpus, profile),
        "data": partial(made_here, profile),
    }
    brought = [code for code, entry in profile.data.new_languages.items() if entry.folder]  # `files` looks for these
    for name, codes in data_sets(profile).items():
        if sources(profile)[name] != "miniature":
            fetched = [code for code in codes if code not in brought]
            found[f"data: {name}"] = partial(data_set, profile, name, fetched)
    for model, revision in models(profile):
        found[f"model: {model}"] = partial(hub_model, model, revision)
    return found


# ------------------------------------------------------------------------------------------------- files and tools


def files(profile: Profile) -> Iterator[Finding]:
    """The files and folders of your own that a profile names, DeepSpeed's JSON and the host file."""
    try:
        known = plan.deepspeed_config(profile) if plan.stages(profile) else None
        number, hosts = machines(profile), hostfile(profile)
    except ValueError as error:  # a ProfileError, or not JSON
        yield Finding("files", PROBLEM, str(error), "correct the profile")
        return
    said = [profile.training.deepspeed] if known else []
    said += [f"{hosts} ({number} machines)"] if hosts else []
    asked = profile.evaluation.benchmarks
    named = [(f"systems.{name}.predictions", entry.predictions) for name, entry in profile.systems.items()]
    named += [(f"evaluation.corrected.{name}", folder) for name, folder in profile.evaluation.corrected.items()]
    named += [(f"evaluation.benchmarks.{name}.folder", test.folder) for name, test in asked.items()]
    named += [(f"data.corpora.{name}.path", choice.path) for name, choice in profile.data.corpora.items()]
    named += [(f"data.new_languages.{code}.folder", own.folder) for code, own in profile.data.new_languages.items()]
    for key, path in named:
        if path is not None and not Path(path).exists():
            yield Finding("files", PROBLEM, f"{key}: {path} is not there", "correct the path in the profile")
        said += [path] if path is not None and Path(path).exists() else []
    for title, there, why in brought.overview(profile):
        if not there:
            yield Finding("files", PROBLEM, f"{' '.join(title.split())}, but {why}", "put them there")
    yield Finding("files", OK, ", ".join(said) or "none are needed")
    if hosts:
        program = LAUNCHERS[profile.run.launcher or "pdsh"]
        there = shutil.which(program) is not None
        remedy = "" if there else "install it, or set run.launcher"
        yield Finding("launcher", OK if there else PROBLEM, program if there else f"no {program} here", remedy)


def offloads(profile: Profile) -> bool:
    """Whether the optimizer is computed on the processor, which DeepSpeed compiles C++ for."""
    try:
        config = plan.deepspeed_config(profile)
    except ValueError:  # `files` says so
        return False
    return bool(plan.stages(profile)) and "offload_optimizer" in config.get("zero_optimization", {})


def compilers(profile: Profile) -> Iterator[Finding]:
    """Whether C++ can be compiled, if it must be."""
    yield machine_checks.compilers(offloads(profile))


# ------------------------------------------------------------------------------------------------- memory and disk


def machine(profile: Profile) -> Iterator[Finding]:
    """Cores, and memory against what the profile needs of it."""
    cores, memory, geometry = machine_checks.cores(), machine_checks.memory(), base_geometry(profile)
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
    found = f"{memory / GIB:.0f} GiB; about {needed / GIB:.0f} are needed"
    yield Finding("memory", *((OK, found) if needed <= memory else (state, found, remedy)))


def stage_disk(profile: Profile, geometry: Geometry) -> tuple[float, float]:
    """Bytes of a finished stage's model (fp32), and of its checkpoints while it is trained.

    A trained parameter takes 12 bytes of optimizer state in a checkpoint and 2 of weight; one checkpoint more than
    `save_total_limit` is there while it is written.
    """
    trained = geometry.parameters
    if profile.training.method == "lora":
        lora = profile.training.lora or LoraSection()
        trained = geometry.adapters(lora.rank, lora.target_modules) + (geometry.embeddings if lora.embeddings else 0)
    return 4.0 * geometry.parameters, 14.0 * trained * (profile.training.save_total_limit + 1)


def disk_needed(profile: Profile, run: Run) -> dict[str, tuple[Path, float]]:
    """Where a profile writes, and about how many bytes it will still write there."""
    geometry, kept = base_geometry(profile), 0.0
    if geometry is None:
        kept = MINIATURE_DISK * len(profile.run.seeds)
    elif profile.lineages():
        model, checkpoints = stage_disk(profile, geometry)
        ahead = [1 for s in profile.run.seeds for stage in profile.lineages() if not run.model(s, stage).is_dir()]
        kept = len(ahead) * model + (checkpoints if ahead else 0.0)
    from huggingface_hub import constants

    absent = [name for name, revision in models(profile) if not is_local(name, revision)]
    fetched = sum(
        2.0 * (base.parameters if (base := _geometry_of(name, profile)) else _billions(name)) for name in absent
    )
    cached = 0.0 if set(sources(profile).values()) <= {"folder", "miniature"} else 1.0 * GIB
    hub = Path(os.environ.get("HF_HUB_CACHE") or constants.HF_HUB_CACHE)
    return {"run folder": (run.folder, kept), "data cache": (cache_dir(), cached), "hub cache": (hub, fetched)}


def _geometry_of(name: str, profile: Profile) -> Geometry | None:
    return base_geometry(profile) if name == profile.model.base else None


def _billions(name: str) -> float:
    """Parameters, as far as a model's name tells: 7e9 for `…-7B`; 0 if it does not."""
    match = re.search(r"(\d+(?:\.\d+)?)b(?![a-z])", name, re.IGNORECASE)
    return float(match[1]) * 1e9 if match else 0.0


def disk(profile: Profile, run: Run) -> Iterator[Finding]:
    """Whether everything that will be written can be, and fits; places on one disk are taken together."""
    disks: dict[int, list[tuple[str, Path, float]]] = {}
    for name, (folder, needed) in disk_needed(profile, run).items():
        if name == "hub cache" and not needed:
            continue
        yield machine_checks.writable(name, folder, WARNING if name.endswith("cache") else PROBLEM)
        disks.setdefault(nearest_folder(folder).stat().st_dev, []).append((name, folder, needed))
    for places in disks.values():
        free, needed = shutil.disk_usage(nearest_folder(places[0][1])).free, sum(need for _, _, need in places)
        names = ", ".join(name for name, _, _ in places)
        found = f"{free / GIB:,.0f} GiB free for {names}; about {needed / GIB:,.0f} needed"
        remedy = "free some space, or put parts elsewhere: --run-dir, QALIGN_CACHE_DIR, HF_HOME"
        yield Finding("disk", *((OK, found) if needed <= free else (PROBLEM, found, remedy)))


# ------------------------------------------------------------------------------------------------- GPUs


def gpus(profile: Profile) -> Iterator[Finding]:
    """The GPUs here against those the profile needs; torch and NCCL where there are some."""
    geometry = base_geometry(profile)
    wants = bool(models(profile)) and (geometry is None or geometry.parameters > SMALL)
    devices = profile.run.devices
    try:
        found = machine_checks.gpus()
    except OSError as error:
        yield Finding("GPU", PROBLEM, str(error), "nvidia-smi must work: load the driver, or reboot after its update")
        return
    if not found:
        if wants:
            remedy = "use a machine with them (README, On GPUs); PROFILE=mini needs none"
            yield Finding("GPU", PROBLEM, f"none; the profile needs {devices}", remedy)
        else:
            yield Finding("GPU", OK, "none, and none is needed")
        return
    yield _enough(profile, found, devices)
    if wants and geometry is not None and profile.lineages():
        yield _fits(profile, geometry, found)
    busy = [gpu for gpu in found[:devices] if gpu.used > 0.1 * gpu.memory]
    if busy:
        used = f"{busy[0].used / GIB:.0f} of {busy[0].memory / GIB:.0f} GiB in use"
        yield Finding("GPU memory", WARNING, used, "another program uses the GPU: nvidia-smi names it")
    if (profile.training.bf16 or profile.evaluation.dtype == "bfloat16") and min(g.capability for g in found) < 8:
        slow = f"{found[0].name} computes no bf16"
        yield Finding("bf16", WARNING, slow, "a GPU of NVIDIA's Ampere generation or newer does")
    yield from machine_checks.torch_sees(found, devices)


def _enough(profile: Profile, found: list[Gpu], devices: int) -> Finding:
    here = f"{len(found)} × {found[0].name}, {found[0].memory / GIB:.0f} GiB"
    if len(found) >= devices:
        return Finding("GPU", OK, f"{here}; the profile uses {devices}")
    training = profile.training
    steps = training.gradient_accumulation_steps * devices / len(found)
    remedy = f"set run.devices: {len(found)}"
    if profile.lineages() and steps == int(steps):
        remedy += f" and gradient_accumulation_steps: {int(steps)}, for the same sequences an update"
    return Finding("GPU", PROBLEM, f"{here}; the profile needs {devices}", remedy)


def _fits(profile: Profile, geometry: Geometry, found: list[Gpu]) -> Finding:
    """The estimate of `cost`, on the GPUs that are here."""
    config = plan.deepspeed_config(profile).get("zero_optimization", {})
    devices = min(profile.run.devices, len(found)) * machines(profile)
    needed = training_memory(profile, geometry, devices, config.get("stage", 0), offloads(profile)).device
    smallest = min(gpu.memory for gpu in found)
    said = f"training needs about {needed / GIB:.0f} of {smallest / GIB:.0f} GiB a GPU"
    if needed <= 0.95 * smallest:
        return Finding("GPU memory", OK, said)
    return Finding("GPU memory", PROBLEM, said, "training.deepspeed: deepspeed/zero3-offload.json, or method: lora")
