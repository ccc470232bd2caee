"""A run killed with SIGKILL at its worst moments and started again ends with the very weights of one never killed."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from tiny_training import ENVIRONMENT, losses, make_base, make_corpus, make_job, progress

from qalign_core.checkpoints import MANIFEST
from qalign_core.runs import is_done, read_json, sha256_file

UPDATES = 200


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("kills")
    make_base(folder / "base")
    make_corpus(folder / "corpus.jsonl")
    return folder


def job(folder: Path, name: str, zero: int, **changes) -> Path:
    """200 updates of 4 sequences with a checkpoint every 20; all of them share one fingerprint-independent recipe."""
    recipe = {"max_steps": UPDATES, "save_steps": 20, "gradient_accumulation_steps": 2} | changes
    return make_job(folder / name, folder / "base", folder / "corpus.jsonl", zero, **recipe)


def start(job_path: Path, ranks: int = 1) -> subprocess.Popen:
    """Start the job as the launcher of a notebook does, in a process group of its own."""
    command = [sys.executable, "-m"]
    if ranks > 1:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = str(probe.getsockname()[1])
        command += ["deepspeed.launcher.runner", "--num_gpus", str(ranks), "--master_port", port, "--module"]
    log = job_path.with_name("log.txt").open("ab")
    command += ["qalign_core.train", str(job_path)]
    return subprocess.Popen(command, env=ENVIRONMENT, stdout=log, stderr=log, start_new_session=True)


def log(job_path: Path) -> str:
    return job_path.with_name("log.txt").read_text(encoding="utf-8", errors="replace")


def wait_for(condition: Callable[[], bool], process: subprocess.Popen, job_path: Path, seconds: float = 90) -> None:
    """Wait for a moment in the life of a run; it may not end before."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, f"the run ended before the moment came:\n{log(job_path)[-2000:]}"
        assert time.monotonic() < deadline, f"the moment never came:\n{log(job_path)[-2000:]}"
        time.sleep(0.001)


def finish(job_path: Path, ranks: int = 1) -> None:
    process = start(job_path, ranks)
    assert process.wait(timeout=150) == 0, log(job_path)[-3000:]
    assert is_done(job_path)


def kill_group(process: subprocess.Popen) -> None:
    os.killpg(process.pid, signal.SIGKILL)
    process.wait(timeout=30)


def same_weights(one: Path, other: Path) -> bool:
    return sha256_file(one.parent / "model" / "model.safetensors") == sha256_file(
        other.parent / "model" / "model.safetensors"
    )


@pytest.fixture(scope="module")
def undisturbed(folder: Path) -> Path:
    path = job(folder, "undisturbed", zero=1)
    finish(path)
    return path


def test_killed_at_every_bad_moment_the_weights_are_bitwise_equal(folder: Path, undisturbed: Path) -> None:
    path = job(folder, "killed", zero=1)
    home, saved = path.parent, path.parent / "checkpoints"
    moments = {
        "mid-step": lambda: len(progress_lines(path)) > 50,
        "during a checkpoint write": lambda: (
            any(saved.glob("checkpoint-[0-9]*"))
            and not all((checkpoint / MANIFEST).is_file() for checkpoint in saved.glob("checkpoint-[0-9]*"))
        ),
        "during the final save": lambda: (home / ".model.part").exists(),
    }
    for moment in moments.values():
        process = start(path)
        wait_for(moment, process, path)
        kill_group(process)
        assert not is_done(path)
        assert not (home / "model").exists()
    finish(path)
    assert same_weights(path, undisturbed)
    said = log(path)
    assert said.count("resuming from") == 3
    assert "is not used: it was never finished" in said
    assert [row["step"] for row in progress(path)] == list(range(1, UPDATES + 1))
    assert losses(path) == losses(undisturbed)
    counters = [read_json(p.with_name("done.json"))["metrics"] for p in (path, undisturbed)]
    assert counters[0] == counters[1]


def progress_lines(path: Path) -> list[str]:
    file = path.with_name("progress.jsonl")
    return file.read_text(encoding="utf-8").splitlines() if file.is_file() else []


def launcher_of(process: subprocess.Popen) -> psutil.Process:
    """DeepSpeed's process that starts the ranks (below the `deepspeed` command itself)."""
    return next(p for p in psutil.Process(process.pid).children() if "deepspeed.launcher.launch" in p.cmdline())


def test_killing_one_process_of_two_ranks_ends_them_all_and_loses_nothing(folder: Path) -> None:
    recipe = {"max_steps": 60, "gradient_accumulation_steps": 1}
    path = job(folder, "two-killed", zero=2, **recipe)
    for victim, checkpoint in (("a rank", "checkpoint-20"), ("the launcher", "checkpoint-40")):
        process = start(path, ranks=2)
        wait_for(lambda name=checkpoint: (path.parent / "checkpoints" / name / MANIFEST).is_file(), process, path)
        launcher = launcher_of(process)
        ranks = launcher.children()
        assert len(ranks) == 2
        (ranks[1] if victim == "a rank" else launcher).kill()
        process.wait(timeout=60)
        _, alive = psutil.wait_procs(ranks, timeout=15)
        assert alive == [], "a rank went on alone"
        assert not is_done(path)
    finish(path, ranks=2)
    assert log(path).count("resuming from") == 2
    undisturbed = job(folder, "two-undisturbed", zero=2, **recipe)
    finish(undisturbed, ranks=2)
    assert same_weights(path, undisturbed)
