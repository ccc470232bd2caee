"""Training runs as forks of one process that has imported everything: a start takes a second instead of seven.

A run can be told to come to grief at one exact moment (see `MOMENTS`), or to stand still (`STAND_STILL`) so that a test
kills it before it ends, on however fast a machine. Everything else is what `python -m qalign_core.train job.json` does;
`python -m forked_training job.json` does it without a fork.
"""

from __future__ import annotations

import multiprocessing
import os
import resource
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import tiny_training
from tiny_training import ENVIRONMENT

from qalign_core.runs import is_done

STAND_STILL = "STAND_STILL"  # in the environment: the number of the micro-batch, since the start, that never begins
PRELOAD = ["datasets", "deepspeed", "transformers.trainer", "qalign_core.trainer", "qalign_core.supervision"]
PRELOAD += ["transformers.models.llama.modeling_llama", "tensorboardX", "tiny_training"]


# ------------------------------------------------------------------------------------------------- moments of grief


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def at_call(owner: Any, name: str, grief: Callable[..., Any], number: int = 1, path: str = "") -> None:
    """Let `grief` happen, once, before the `number`-th call of `owner.name` for a file or folder with `path` in it."""
    original, calls = getattr(owner, name), [0]

    def replacement(*arguments: Any, **named: Any) -> Any:
        given = [str(value) for value in (*arguments, *named.values()) if isinstance(value, str | os.PathLike)]
        meant = not path or any(path in value for value in given)
        calls[0] += meant
        if meant and calls[0] == number:
            grief(*arguments, **named)
        return original(*arguments, **named)

    setattr(owner, name, replacement)


def half(path: Any) -> None:
    """Write the beginning of a file, and die."""
    Path(path).write_bytes(bytes(5000))
    kill()


def stand_still() -> None:
    """Wait for death before the micro-batch that the environment names, if it names one."""
    if number := os.environ.get(STAND_STILL):
        from qalign_core.trainer import StageTrainer

        at_call(StageTrainer, "compute_loss", lambda *_, **__: time.sleep(600), number=int(number))


def mid_step() -> None:
    from qalign_core.trainer import StageTrainer

    at_call(StageTrainer, "compute_loss", lambda *_, **__: kill(), number=100)  # update 50, its second micro-batch


def half_a_file() -> None:
    import torch

    at_call(torch, "save", lambda value, path, *_, **__: half(path), path="optim_states")


def before_the_manifest() -> None:
    from qalign_core import trainer

    at_call(trainer, "seal", lambda *_, **__: kill(), number=2)


def while_an_old_checkpoint_is_removed() -> None:
    def grief(folder: Any, *_: Any, **__: Any) -> None:
        next(path for path in Path(folder).rglob("*.pt") if "optim" in path.name).unlink()
        kill()

    at_call(shutil, "rmtree", grief, path="checkpoint-")


def full_disk() -> None:
    """The system refuses to make any file longer than 100,000 bytes, as a quota does."""
    from qalign_core.trainer import StageTrainer

    def grief(*_: Any, **__: Any) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))

    at_call(StageTrainer, "_save_checkpoint", grief, number=2)


def no_memory() -> None:
    """The allocator itself refuses."""
    import torch

    from qalign_core.trainer import StageTrainer

    at_call(StageTrainer, "compute_loss", lambda *_, **__: torch.empty(2**52, dtype=torch.uint8), number=50)


def during_the_final_save() -> None:
    from transformers import modeling_utils

    at_call(modeling_utils, "safe_save_file", lambda state, path, *_, **__: half(path))


def before_done() -> None:
    from qalign_core import runs

    at_call(runs, "write_done", lambda *_, **__: kill())


def before_the_clean_up() -> None:
    at_call(shutil, "rmtree", lambda *_, **__: kill(), path="/checkpoints")


MOMENTS = {
    moment.__name__: moment
    for moment in (
        mid_step,
        half_a_file,
        before_the_manifest,
        while_an_old_checkpoint_is_removed,
        full_disk,
        no_memory,
        during_the_final_save,
        before_done,
        before_the_clean_up,
    )
}


# ------------------------------------------------------------------------------------------------- runs


def run(job: str, environment: dict[str, str], moment: str | None) -> None:
    """The whole of a run, in a process group of its own, its output in `log.txt` beside the job."""
    os.setsid()
    log = os.open(Path(job).with_name("log.txt"), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.environ |= environment
    try:
        from qalign_core import train

        if moment:
            MOMENTS[moment]()
        stand_still()
        train.main([job])
        train.leave_together()
    except BaseException:
        traceback.print_exc()
        sys.stdout.flush()
        os._exit(1)


class Forks:
    """Starts runs; made by the fixture `forks`."""

    def __init__(self) -> None:
        self.context = multiprocessing.get_context("forkserver")
        self.started: list[Any] = []

    def start(self, job: Path, moment: str | None = None, **environment: str) -> Any:
        """Start a run, as one of several ranks if the environment says so."""
        process = self.context.Process(target=run, args=(str(job), environment, moment))
        process.start()
        self.started.append(process)
        return process

    def until_it_ends(self, job: Path, moment: str | None = None) -> int:
        """Run until the end, good or bad; the exit code."""
        process = self.start(job, moment)
        process.join(timeout=280)
        assert process.exitcode is not None, f"still running:\n{read_log(job)[-2000:]}"
        return process.exitcode

    def finish(self, job: Path, ranks: int = 1) -> None:
        """Run to a good end; several ranks are numbered here, as a launcher would."""
        port = str(20000 + os.getpid() % 10000)
        world = {"WORLD_SIZE": str(ranks), "LOCAL_SIZE": str(ranks), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        numbered = [world | {"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(ranks)]
        self.join([self.start(job, **(environment if ranks > 1 else {})) for environment in numbered], job)

    def in_turn(self, jobs: Iterable[Path]) -> None:
        """Run jobs one after the other in one process; what an error says goes to `error.txt` beside the job."""
        process = self.context.Process(target=tiny_training.main, args=([str(job) for job in jobs],))
        process.start()
        self.started.append(process)
        process.join(timeout=600)
        assert process.exitcode == 0

    def join(self, processes: list[Any], job: Path) -> None:
        """Wait for the good end of a job's ranks."""
        for process in processes:
            process.join(timeout=280)
        assert [process.exitcode for process in processes] == [0] * len(processes), read_log(job)[-3000:]
        assert is_done(job)


def read_log(job: Path) -> str:
    path = job.with_name("log.txt")
    return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""


@contextmanager
def patched_environment() -> Iterator[None]:
    """The environment in which the forks' common ancestor starts: it finds the tests' own modules, and no GPU."""
    before = dict(os.environ)
    os.environ |= ENVIRONMENT
    os.environ["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parent), ENVIRONMENT["PYTHONPATH"]])
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


@pytest.fixture(scope="module")
def forks() -> Iterator[Forks]:
    """Runs as forks; what is left of them is killed in the end."""
    with patched_environment():
        found = Forks()
        found.context.set_forkserver_preload(PRELOAD)
        yield found
    for process in found.started:
        process.kill()
        process.join()


def wait_for(condition: Callable[[], Any], seconds: float = 280.0, why: Callable[[], str] = str) -> Any:
    """Wait until something is so; what it was is returned."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := condition():
            return found
        time.sleep(0.02)
    pytest.fail(f"did not happen within {seconds} s\n{why()[-3000:]}")


if __name__ == "__main__":
    from qalign_core import train

    stand_still()
    train.main()
    train.leave_together()
