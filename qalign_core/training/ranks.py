"""A rank's beginning and end: numbered by whatever started it, tied to its starters' lives, leaving with the others."""

from __future__ import annotations

import os
import re
import socket
import threading
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path

from qalign_core import runs

BEATS = ".beats"  # in a job's folder: touched by whoever supervises ranks on several machines
BEAT_SECONDS = 2.0  # between two touches, and between two looks at it
BEATS_MISSED_SECONDS = 120.0  # a file server may show an old time for a minute
OPENMPI_PORT = 29500  # for ranks that `mpirun` was told no MASTER_PORT for


def begin(folder: Path) -> None:
    """What every rank does first: find its number, and watch those that started it, so that no rank goes on alone.

    Args:
        folder: of the job.

    Raises:
        RuntimeError: when OpenMPI started ranks on several machines and nothing says where rank 0 is.
    """
    adopt_scheduler()
    if runs.start_lifeline() is None:
        end_with_beats(folder / BEATS)
    end_with_launcher()


# ------------------------------------------------------------------------------------------------- its number


def adopt_scheduler() -> None:
    """Set RANK, WORLD_SIZE and the like as Slurm or OpenMPI count, where DeepSpeed's own launcher did not.

    Its runners for `srun` and `mpirun` start the ranks, but tell them neither their number nor where rank 0 is. A
    variable that is already set stays as it is.

    Raises:
        RuntimeError: when OpenMPI started ranks on several machines and nothing says where rank 0 is.
    """
    if "RANK" in os.environ:
        return
    for name, value in (openmpi_rank(os.environ) or slurm_rank(os.environ)).items():
        os.environ.setdefault(name, value)


def openmpi_rank(environment: Mapping[str, str]) -> dict[str, str]:
    """A rank's variables from those of `mpirun`; empty when that did not start this process, or only this one.

    Raises:
        RuntimeError: see `adopt_scheduler`.
    """
    world = environment.get("OMPI_COMM_WORLD_SIZE", "1")
    if world == "1":
        return {}
    here = environment.get("OMPI_COMM_WORLD_LOCAL_SIZE", "1")
    address = environment.get("MASTER_ADDR", "127.0.0.1" if here == world else "")
    if not address:
        raise RuntimeError(
            f"mpirun started {world} ranks on several machines, and none knows where rank 0 is: give its host with "
            "`mpirun -x MASTER_ADDR=<host>`; with run.hostfile and run.launcher: openmpi this is done for you"
        )
    return {
        "RANK": environment["OMPI_COMM_WORLD_RANK"],
        "WORLD_SIZE": world,
        "LOCAL_RANK": environment["OMPI_COMM_WORLD_LOCAL_RANK"],
        "LOCAL_SIZE": here,
        "MASTER_ADDR": address,
        "MASTER_PORT": environment.get("MASTER_PORT", str(OPENMPI_PORT)),
    }


def slurm_rank(environment: Mapping[str, str]) -> dict[str, str]:
    """A rank's variables from those of `srun`; empty when that did not start this process, or only this one.

    A batch script itself has SLURM_PROCID and SLURM_NTASKS too; only what `srun` starts has SLURM_STEP_NUM_TASKS.
    """
    world = environment.get("SLURM_STEP_NUM_TASKS", "1")
    if world == "1" or "SLURM_PROCID" not in environment:
        return {}
    alone = environment.get("SLURM_STEP_NUM_NODES", "1") == "1"
    number = int(environment.get("SLURM_JOB_ID", "0")) * 31 + int(environment.get("SLURM_STEP_ID", "0"))
    tasks = tasks_per_node(environment.get("SLURM_STEP_TASKS_PER_NODE", world))
    return {
        "RANK": environment["SLURM_PROCID"],
        "WORLD_SIZE": world,
        "LOCAL_RANK": environment["SLURM_LOCALID"],
        "LOCAL_SIZE": str(tasks[int(environment.get("SLURM_NODEID", "0"))]),
        "MASTER_ADDR": "127.0.0.1" if alone else first_host(environment["SLURM_STEP_NODELIST"]),
        "MASTER_PORT": str(20000 + number % 10000),  # the same for all ranks of the step, another for other steps
    }


def first_host(hosts: str) -> str:
    """The first host of Slurm's list: `node03` of `node[03-05,9],login`."""
    first = re.match(r"(?:\[[^\]]*\]|[^,\[])*", hosts)
    return re.sub(r"\[(\w+)[^\]]*\]", r"\1", first.group() if first else hosts)


def tasks_per_node(tasks: str) -> list[int]:
    """Slurm's count of tasks for each node: `2(x3),1` is 2, 2, 2, 1."""
    found = []
    for count, times in re.findall(r"(\d+)(?:\(x(\d+)\))?", tasks):
        found += [int(count)] * int(times or 1)
    return found


# ------------------------------------------------------------------------------------------------- whom it depends on


def end_with_launcher(interval: float = 0.5) -> threading.Thread | None:
    """End this process within about `interval` seconds of its launcher's death, so that no rank goes on alone.

    Returns:
        The watching thread; None when no launcher started this process.
    """
    if "RANK" not in os.environ:
        return None
    launcher = os.getppid()

    def watch() -> None:
        while os.getppid() == launcher:
            time.sleep(interval)
        stop(f"the launcher of this rank (pid {launcher})")

    return _start(watch, "launcher")


def end_with_beats(
    path: Path, interval: float = BEAT_SECONDS, limit: float = BEATS_MISSED_SECONDS
) -> threading.Thread | None:
    """End this process when the touching of `path` ends: the lifeline of ranks on other machines than the notebook's.

    Their environment names no process that could be watched from there, but the run folder is shared. The file names
    its supervisor, so that ranks of a killed one do not live on the touches of the next. One that a killed supervisor
    left behind is never touched, so it does not end a rank that was started by hand.

    Args:
        path: `BEATS` in the job's folder.
        interval: seconds between two looks.
        limit: seconds without a touch after which the supervisor counts as dead; it removes the file when it stops.

    Returns:
        The watching thread; None when there is no such file.
    """
    if not path.is_file():
        return None

    def watch() -> None:
        seen, since, supervised = touched(path), time.monotonic(), False
        while True:
            time.sleep(interval)
            now, patience = touched(path), limit
            if now is None:
                patience = 3 * interval
            elif seen and now[0] != seen[0]:
                patience = 0.0 if supervised else limit
            elif now != seen:
                seen, since, supervised = now, time.monotonic(), True
            if supervised and time.monotonic() - since > patience:
                stop("whoever supervised this rank from another machine")

    return _start(watch, "beats")


def touched(path: Path) -> tuple[str, int] | None:
    """What a file says, and when it was last touched in its server's nanoseconds (opening it asks the server anew)."""
    try:
        with path.open(encoding="utf-8") as stream:
            return stream.read(), os.fstat(stream.fileno()).st_mtime_ns
    except OSError:
        return None


def stop(who: str) -> None:
    """End this process at once, saying who is gone."""
    os.write(2, f"{who} is gone: stopping\n".encode())
    os._exit(3)


def _start(watch: Callable[[], None], name: str) -> threading.Thread:
    thread = threading.Thread(target=watch, name=name, daemon=True)
    thread.start()
    return thread


# ------------------------------------------------------------------------------------------------- DeepSpeed


def prepare_deepspeed() -> None:
    """Choose the CPU where there is no GPU, and keep DeepSpeed from compiling or warning of what is not used here.

    Without a launcher (`python -m qalign_core.train job.json`) this process is the only rank.
    """
    import torch

    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    if "RANK" not in os.environ:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        alone = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "LOCAL_SIZE": "1"}
        os.environ |= alone | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    # DeepSpeed uses names of torch.distributed that this torch calls deprecated, in every update under ZeRO-3.
    warnings.filterwarnings("ignore", category=FutureWarning, module="torch.distributed")
    import datasets
    import deepspeed
    import transformers

    datasets.disable_progress_bars()
    transformers.utils.logging.disable_progress_bar()
    # Shared-memory all-reduce for inference: a minute of C++ at the first start, never called in training.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False


def leave_together() -> None:
    """Wait for every rank, then close their communication: a rank that just ended could take a saving one down."""
    import torch.distributed as distributed

    if distributed.is_initialized():
        distributed.barrier()
        distributed.destroy_process_group()
