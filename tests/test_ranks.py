"""Ranks: numbered by Slurm or OpenMPI where those started them, and none outlives what started it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from forked_training import Forks, forks, read_log, wait_for
from tiny_training import ENVIRONMENT, make_base, make_corpus, make_job

from qalign_core import runs, train
from qalign_core.prompts import alpaca

__all__ = ["forks"]  # a fixture

# What `srun -n 6` tells rank 5 of three nodes, and what `mpirun -n 4` tells rank 3 of two hosts.
SLURM = {
    "SLURM_JOB_ID": "4711",
    "SLURM_STEP_ID": "2",
    "SLURM_PROCID": "5",
    "SLURM_LOCALID": "0",
    "SLURM_NODEID": "2",
    "SLURM_STEP_NUM_TASKS": "6",
    "SLURM_STEP_NUM_NODES": "3",
    "SLURM_STEP_TASKS_PER_NODE": "3,2,1",
    "SLURM_STEP_NODELIST": "gpu[07,09-10]",
}
OPENMPI = {
    "OMPI_COMM_WORLD_RANK": "3",
    "OMPI_COMM_WORLD_SIZE": "4",
    "OMPI_COMM_WORLD_LOCAL_RANK": "1",
    "OMPI_COMM_WORLD_LOCAL_SIZE": "2",
}


# ------------------------------------------------------------------------------------------------- numbers


def test_slurm_numbers_a_rank() -> None:
    assert train.scheduler_rank(SLURM) == {
        "RANK": "5",
        "WORLD_SIZE": "6",
        "LOCAL_RANK": "0",
        "LOCAL_SIZE": "1",
        "MASTER_ADDR": "gpu07",
        "MASTER_PORT": str(20000 + (4711 * 31 + 2) % 10000),
    }
    one_node = {"SLURM_STEP_NUM_NODES": "1", "SLURM_NODEID": "0", "SLURM_STEP_TASKS_PER_NODE": "6"}
    assert train.scheduler_rank(SLURM | one_node)["MASTER_ADDR"] == "127.0.0.1"


def test_a_batch_script_itself_is_no_rank() -> None:
    batch = {"SLURM_JOB_ID": "4711", "SLURM_PROCID": "0", "SLURM_NTASKS": "8", "SLURM_LOCALID": "0"}
    assert train.scheduler_rank(batch) == {}
    assert train.scheduler_rank(SLURM | {"SLURM_STEP_NUM_TASKS": "1"}) == {}
    assert train.scheduler_rank({}) == {}


def test_openmpi_numbers_a_rank_and_must_be_told_where_rank_0_is() -> None:
    told = {"MASTER_ADDR": "worker-1", "MASTER_PORT": "1234"}
    numbers = {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "LOCAL_SIZE": "2"}
    assert train.scheduler_rank(OPENMPI | told) == numbers | told
    with pytest.raises(RuntimeError, match="mpirun -x MASTER_ADDR=<host>"):
        train.scheduler_rank(OPENMPI)
    alone = train.scheduler_rank(OPENMPI | {"OMPI_COMM_WORLD_LOCAL_SIZE": "4"})
    assert (alone["MASTER_ADDR"], alone["MASTER_PORT"]) == ("127.0.0.1", "29500")


@pytest.mark.parametrize(
    ("hosts", "first"),
    [("node1", "node1"), ("node1,node2", "node1"), ("n[03-05,9],login", "n03"), ("rack[1-2]n[4,6]x,y", "rack1n4x")],
)
def test_the_first_host_of_slurms_list(hosts: str, first: str) -> None:
    assert train.first_host(hosts) == first


def test_tasks_per_node_are_counted() -> None:
    node = {"SLURM_STEP_TASKS_PER_NODE": "2(x3),1"}
    sizes = [train.scheduler_rank(SLURM | node | {"SLURM_NODEID": str(index)})["LOCAL_SIZE"] for index in range(4)]
    assert sizes == ["2", "2", "2", "1"]


def test_deepspeeds_own_numbers_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train, "watch", lambda *_: None)
    for name, value in (SLURM | {"RANK": "1", "WORLD_SIZE": "2"}).items():
        monkeypatch.setenv(name, value)
    before = dict(os.environ)
    train.begin(tmp_path)
    assert dict(os.environ) == before


# ------------------------------------------------------------------------------------------------- two processes


def slurm(rank: int) -> dict[str, str]:
    step = {"SLURM_STEP_NUM_NODES": "1", "SLURM_STEP_TASKS_PER_NODE": "2", "SLURM_JOB_ID": str(os.getpid())}
    step |= {"SLURM_STEP_NODELIST": "localhost", "SLURM_STEP_NUM_TASKS": "2", "SLURM_NODEID": "0"}
    return SLURM | step | {"SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank)}


def openmpi(rank: int) -> dict[str, str]:
    world = {
        "OMPI_COMM_WORLD_SIZE": "2",
        "OMPI_COMM_WORLD_LOCAL_SIZE": "2",
        "MASTER_PORT": str(24000 + os.getpid() % 999),
    }
    return world | {"OMPI_COMM_WORLD_RANK": str(rank), "OMPI_COMM_WORLD_LOCAL_RANK": str(rank)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ranks")
    make_base(folder / "base")
    make_corpus(folder / "corpus.jsonl")
    return folder


@pytest.mark.parametrize("scheduler", [slurm, openmpi])
def test_two_processes_of_a_scheduler_train_as_two_ranks(folder: Path, forks: Forks, scheduler) -> None:
    job = make_job(folder / scheduler.__name__, folder / "base", folder / "corpus.jsonl", 2, max_steps=2)
    forks.join([forks.start(job, **scheduler(rank)) for rank in range(2)], job)
    assert runs.read_json(job.with_name("done.json"))["metrics"]["world_size"] == 2
    assert read_log(job).count("starting from the initial model") == 1


def test_two_processes_of_a_scheduler_generate_as_two_ranks(folder: Path) -> None:
    home = folder / "answers"
    rows = [{"index": i, "question": f"{i} plus 1", "prompt": alpaca(f"{i} plus 1")} for i in range(4)]
    prompts = runs.write_json_lines(home / "prompts.jsonl", rows)
    task = {"name": "sums", "language": "en", "path": str(prompts), "sha256": runs.sha256_file(prompts)}
    content = {"fingerprint": "f", "model": {"path": str(folder / "base")}, "model_fingerprint": "m"}
    content |= {"kind": "generate", "dtype": "float32", "batch_tokens": 4096, "tasks": [task | {"max_new_tokens": 3}]}
    job = runs.write_json(home / "job.json", content)
    command = [sys.executable, "-m", "qalign_core.generate", str(job)]
    started = [subprocess.Popen(command, env=ENVIRONMENT | slurm(rank)) for rank in range(2)]
    assert [process.wait(timeout=600) for process in started] == [0, 0]
    assert runs.read_json(home / "done.json")["metrics"]["ranks"] == 2
    assert len(runs.read_json_lines(home / "sums" / "en.jsonl")) == 4


# ------------------------------------------------------------------------------------------------- beats

WATCHED = """
import sys
from pathlib import Path
from qalign_core import train
print("watching", flush=True)
train.watch(Path(sys.argv[1]), None, interval=0.05, limit=float(sys.argv[2]))
"""


@pytest.fixture
def rank(tmp_path: Path):
    """Start a rank that lives on the beats of a file."""
    started = []

    def start(limit: float = 60.0) -> subprocess.Popen:
        command = [sys.executable, "-c", WATCHED, str(tmp_path / train.BEATS), str(limit)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        started.append(process)
        assert process.stdout.readline().strip() == "watching"
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def beat_until(path: Path, process: subprocess.Popen, beats: int) -> None:
    for _ in range(beats):
        path.touch()
        time.sleep(0.1)
        assert process.poll() is None


def test_a_rank_lives_as_long_as_its_supervisor_beats(tmp_path: Path, rank) -> None:
    path = runs.write_atomic(tmp_path / train.BEATS, "supervisor 1")
    process = rank(limit=2.0)
    beat_until(path, process, 30)  # longer than the limit
    assert process.wait(timeout=60) == 3
    assert "whoever supervised this rank from another machine is gone: stopping" in process.stderr.read()


@pytest.mark.parametrize("change", ["removed", "taken over"])
def test_a_rank_does_not_outlive_a_stop_or_another_supervisor(tmp_path: Path, rank, change: str) -> None:
    path = runs.write_atomic(tmp_path / train.BEATS, "supervisor 1")
    process = rank()
    beat_until(path, process, 5)
    if change == "removed":
        path.unlink()
        assert process.wait(timeout=20) == 3
    else:
        runs.write_atomic(path, "supervisor 2")
        wait_for(lambda: path.touch() or process.poll() is not None, 20)
        assert process.returncode == 3


def test_a_file_left_by_a_killed_supervisor_ends_nothing(tmp_path: Path, rank) -> None:
    path = runs.write_atomic(tmp_path / train.BEATS, "supervisor 1")
    process = rank(limit=0.2)
    time.sleep(1.0)
    runs.write_atomic(path, "supervisor 2")
    time.sleep(1.0)
    assert process.poll() is None
