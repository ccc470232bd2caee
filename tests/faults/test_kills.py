"""A run that dies at its worst moments and is started again ends with the very weights of one that never died."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import nbformat
import psutil
import pytest
from forked_training import MOMENTS, STAND_STILL, Forks, forks, read_log, wait_for
from tiny_training import ENVIRONMENT, losses, make_base, make_corpus, make_job, progress

from qalign_core import launch, params
from qalign_core.plan import Job
from qalign_core.runs import Run, is_done, read_json, sha256_file
from qalign_core.trainer import MANIFEST, latest

__all__ = ["forks"]  # a fixture
UPDATES = 200
TESTS = str(Path(__file__).resolve().parents[1])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("kills")
    make_base(folder / "base")
    make_corpus(folder / "corpus.jsonl")
    return folder


def job(folder: Path, name: str, zero: int = 1, **changes) -> Path:
    """200 updates of 4 sequences with a checkpoint every 20."""
    recipe = {"max_steps": UPDATES, "save_steps": 20, "gradient_accumulation_steps": 2} | changes
    return make_job(folder / name, folder / "base", folder / "corpus.jsonl", zero, **recipe)


def weights(path: Path) -> str:
    return sha256_file(path.parent / "model" / "model.safetensors")


@pytest.fixture(scope="module")
def undisturbed(folder: Path, forks: Forks) -> Path:
    path = job(folder, "undisturbed")
    forks.finish(path)
    return path


def test_the_moments_of_grief_lose_nothing_and_the_weights_are_bitwise_equal(
    folder: Path, undisturbed: Path, forks: Forks
) -> None:
    path = job(folder, "killed")
    home = path.parent
    for moment in MOMENTS:
        before, said = whole_checkpoints(home), len(read_log(path))
        code = forks.until_it_ends(path, moment)
        assert code == (1 if moment in ADVICE else -signal.SIGKILL), f"{moment}:\n{read_log(path)[-2000:]}"
        assert is_done(path) == (moment == "before_the_clean_up")
        assert (home / "model").exists() == (moment in ("before_done", "before_the_clean_up")), moment
        assert max(whole_checkpoints(home), default=0) >= max(before, default=0), moment
        if moment in ADVICE:
            message = launch.failure(home, home / "log.txt", "ended with exit code 1", start=said)
            assert ADVICE[moment] in message.splitlines()[2], message
    assert weights(path) == weights(undisturbed)
    said = read_log(path)
    assert "checkpoint-60 is not used: it was never finished" in said
    assert said.count("starting from the initial model") == 1
    assert [row["step"] for row in progress(path)] == list(range(1, UPDATES + 1))
    assert losses(path) == losses(undisturbed)
    done, other = (read_json(p.with_name("done.json")) for p in (path, undisturbed))
    assert done["metrics"] == other["metrics"]
    assert done["files"]["model/model.safetensors"] == weights(path)

    assert list(home.glob("checkpoints/*"))  # it died before its clean-up, which the next start does
    launch.run_job(Job(read_json(path), home), params.load("smoke"), Run(folder))
    assert sorted(entry.name for entry in home.iterdir() if not entry.name.startswith(".")) == [
        *("data", "done.json", "job.json", "log.txt", "model", "progress.jsonl", "tensorboard")  # data: tokenised
    ]


ADVICE = {"full_disk": "The disk is full", "no_memory": "Out of memory"}


def whole_checkpoints(home: Path) -> list[int]:
    """The updates of the checkpoints that bear a manifest, in order."""
    return sorted(int(file.parent.name.rpartition("-")[2]) for file in home.glob(f"checkpoints/*/{MANIFEST}"))


@pytest.mark.slow
def test_killed_at_twenty_random_instants_the_weights_are_bitwise_equal(
    folder: Path, undisturbed: Path, forks: Forks
) -> None:
    dice, kills, runs = random.Random(20), 0, 0
    seconds = read_json(undisturbed.with_name("done.json"))["wall_seconds"]
    while kills < 20:
        runs += 1
        path = job(folder, f"random-{runs}")
        while not is_done(path):
            process = forks.start(path)
            process.join(timeout=dice.uniform(0, seconds) if kills < 20 else 280)
            if process.exitcode is None:
                assert kills < 20, "the last start did not end"
                os.killpg(process.pid, signal.SIGKILL)
                kills += 1
            process.join(timeout=30)
            assert process.exitcode in (0, -signal.SIGKILL), read_log(path)[-3000:]
        assert weights(path) == weights(undisturbed)
        assert losses(path) == losses(undisturbed)


@pytest.fixture(scope="module")
def two_undisturbed(folder: Path, forks: Forks) -> Path:
    path = job(folder, "two-undisturbed", zero=2, max_steps=60, gradient_accumulation_steps=1)
    forks.finish(path, ranks=2)
    return path


def test_two_ranks_leave_a_checkpoint_that_one_rank_refuses(folder: Path, two_undisturbed: Path, forks: Forks) -> None:
    """With batches by length, whose order a resumed run must find again in the middle of an epoch."""
    recipe = {"max_steps": 60, "gradient_accumulation_steps": 1, "train_sampling_strategy": "group_by_length"}
    path, grouped = (job(folder, name, zero=2, **recipe) for name in ("another-world", "grouped-undisturbed"))
    forks.finish(grouped, ranks=2)
    assert weights(grouped) != weights(two_undisturbed)
    port = str(30000 + os.getpid() % 2000)
    world = {"WORLD_SIZE": "2", "LOCAL_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    ranks = [forks.start(path, **world, RANK=str(rank), LOCAL_RANK=str(rank), STAND_STILL="45") for rank in range(2)]
    wait_for((path.parent / "checkpoints" / "checkpoint-40" / MANIFEST).is_file, why=lambda: read_log(path))
    for rank in ranks:
        rank.kill()
        rank.join(timeout=30)
    kept, said = whole_checkpoints(path.parent), len(read_log(path))
    assert forks.until_it_ends(path) == 1
    message = launch.failure(path.parent, path.with_name("log.txt"), "ended with exit code 1", start=said)
    assert (
        "was written by 2 ranks and this run has 1: run on 2 again (run.devices, run.hostfile)"
        in (message.splitlines()[1])
    )
    assert whole_checkpoints(path.parent) == kept

    newest = path.parent / "checkpoints" / f"checkpoint-{kept[-1]}"
    for part in ("rng_state_1.pth", f"global_step{kept[-1]}/zero_pp_rank_1_mp_rank_00_optim_states.pt"):
        assert part in read_json(newest / MANIFEST)["files"], "a checkpoint has every rank's part"
    (newest / "rng_state_1.pth").unlink()
    found = latest(newest.parent, path.parent.name, 2)
    assert found is not None
    assert found[0].name == f"checkpoint-{kept[0]}"
    forks.finish(path, ranks=2)
    assert weights(path) == weights(grouped)
    assert losses(path) == losses(grouped)


def test_killing_one_process_of_two_ranks_ends_them_all_and_loses_nothing(
    folder: Path, two_undisturbed: Path, forks: Forks
) -> None:
    path = job(folder, "two-killed", zero=2, max_steps=60, gradient_accumulation_steps=1)
    for victim, checkpoint in (("a rank", "checkpoint-20"), ("the launcher", "checkpoint-40")):
        process = launched(path, **{STAND_STILL: "25"})
        reached = path.parent / "checkpoints" / checkpoint / MANIFEST
        wait_for(lambda process=process, reached=reached: reached.is_file() or process.poll() is not None)
        launcher = psutil.Process(process.pid)
        ranks = launcher.children()
        assert len(ranks) == 2
        (ranks[1] if victim == "a rank" else launcher).kill()
        process.wait(timeout=100)
        _, alive = psutil.wait_procs(ranks, timeout=60)
        assert alive == [], "a rank went on alone"
        assert not is_done(path)
    forks.finish(path, ranks=2)
    assert read_log(path).count("resuming from") == 2
    assert weights(path) == weights(two_undisturbed)


# ------------------------------------------------------------------------------------------------- notebooks

NOTEBOOK = """
from qalign_core import launch, params, plan, runs

launch.command = lambda jobs, module, profile: ["{python}", "-m", "forked_training", *map(str, jobs)]
this_run = plan.open_run(params.load("smoke"))
job = plan.Job(runs.read_json("{job}"), this_run.folder / "killed-in-notebooks")
launch.run_job(job, params.load("smoke"), this_run)
"""
REPRODUCE = """
import sys
from pathlib import Path
from rich.console import Console
from qalign_core import params, reproduce, runs

run = runs.Run(sys.argv[1])
problem = reproduce.execute(Path(sys.argv[2]), run.notebooks / "01.ipynb", params.load("smoke"), run, Console())
sys.exit(problem)
"""


def test_killed_in_a_notebook_or_with_papermill_itself_nothing_is_lost(folder: Path, undisturbed: Path) -> None:
    path = job(folder, "killed-in-notebooks")
    notebook = nbformat.v4.new_notebook(metadata={"language_info": {"name": "python"}})
    source = NOTEBOOK.format(python=sys.executable, job=path)
    sections = "\n".join(f"{section} = None" for section in params.SECTIONS)
    notebook.cells = [nbformat.v4.new_code_cell(sections, metadata={"tags": ["parameters"]})]
    notebook.cells.append(nbformat.v4.new_code_cell(source))
    nbformat.write(notebook, folder / "notebook.ipynb")
    line = [sys.executable, "-c", REPRODUCE, str(folder), str(folder / "notebook.ipynb")]
    said = folder / "said.txt"
    with_tests = ENVIRONMENT | {"PYTHONPATH": TESTS + os.pathsep + ENVIRONMENT["PYTHONPATH"]}

    def started(checkpoint: str, times: int, still: int) -> tuple[psutil.Popen, psutil.Process, list[psutil.Process]]:
        """The process that runs papermill, the kernel and every process below, once training goes on from behind a
        whole checkpoint, having begun so many times."""
        environment = with_tests | {STAND_STILL: str(still)}
        papermill = psutil.Popen(line, stdout=said.open("w"), stderr=subprocess.STDOUT, env=environment)
        reached = path.parent / "checkpoints" / checkpoint / MANIFEST
        wait_for(
            lambda: (reached.is_file() and beginnings() == times) or papermill.poll() is not None, why=said.read_text
        )
        assert papermill.poll() is None, said.read_text()
        kernel = psutil.Process(read_json(folder / launch.CURRENT)["pid"])
        assert kernel.ppid() == papermill.pid
        return papermill, kernel, papermill.children(recursive=True)

    def beginnings() -> int:
        return read_log(path).count("starting from the initial model") + read_log(path).count("resuming from")

    moments = (("kernel", 20, 50), ("papermill", 60, 90), ("Ctrl-C", 80, 50))  # it stands still in update 25, 65 and 85
    for times, (victim, update, still) in enumerate(moments, start=1):
        papermill, kernel, family = started(f"checkpoint-{update}", times, still)
        assert len(family) >= 2  # the kernel, and the rank
        if victim == "Ctrl-C":
            papermill.send_signal(signal.SIGINT)
        else:
            (kernel if victim == "kernel" else papermill).kill()
        _, alive = psutil.wait_procs(family, timeout=60)
        assert alive == [], f"left alive by a killed {victim}"
        papermill.wait(timeout=100)
        if victim == "kernel":
            assert "The notebook's kernel died" in said.read_text()
        assert not is_done(path)
    subprocess.run(line, check=True, timeout=280, env=with_tests)
    assert read_log(path).count("resuming from") == 3
    assert weights(path) == weights(undisturbed)


def launched(path: Path, **changes: str) -> psutil.Popen:
    """Two ranks below DeepSpeed's launcher, as a notebook starts them."""
    profile = params.load("smoke")
    log = path.with_name("log.txt").open("ab")
    line = launch.command([path], "forked_training", profile)
    environment = launch.environment(2) | {"DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"} | changes
    environment["PYTHONPATH"] = os.pathsep.join([TESTS, ENVIRONMENT["PYTHONPATH"]])
    environment.pop("QALIGN_LIFELINE")
    return psutil.Popen(line, env=environment, stdout=log, stderr=log, start_new_session=True)
