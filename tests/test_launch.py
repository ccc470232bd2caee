"""Running a job as a subprocess: success, failure, interrupt, hang and kernel death, with real processes.

The jobs here run a small program instead of training. Those that use the `deepspeed` fixture go through DeepSpeed's own
launcher; the others start the program directly, which is faster and the same to the supervising side.
"""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
from forked_training import wait_for

from qalign_core import launch, params, runs
from qalign_core.launch import JobError, run_job
from qalign_core.params import Profile, ProfileError
from qalign_core.plan import Job
from qalign_core.runs import Run

# The program of every job here: it notes its process number and does what the job's `code` says.
PROGRAM = """
import json, os, signal, subprocess, sys, time
from pathlib import Path
from qalign_core import runs
from qalign_core.train import jobs_from

rank = int(os.environ.get("RANK", "0"))

def done():
    runs.write_json(folder / "done.json", {"fingerprint": job["fingerprint"]})

def spawn():  # a process of the program's own, such as a data loader's
    deaf = "import signal, time; signal.signal(15, signal.SIG_IGN); time.sleep(60)"
    child = subprocess.Popen([sys.executable, "-c", deaf])
    (folder / f"child-{rank}.pid").write_text(str(child.pid))

for job_path in jobs_from(None, "program"):
    folder, job = job_path.parent, runs.read_json(job_path)
    exec(job["before"])
    runs.write_atomic(folder / f"rank-{rank}.pid", str(os.getpid()))
    exec(job["code"])
"""

# A notebook kernel's part: it supervises a job and is itself killed or interrupted by the test.
SUPERVISOR = """
import json, sys
from qalign_core import launch, params, plan, runs

folder, direct, devices, content = sys.argv[1], sys.argv[2] == "direct", int(sys.argv[3]), json.loads(sys.argv[4])
launch.MODULES["stub"] = "program"
if direct:
    launch.command = lambda jobs, module, profile: [sys.executable, "-u", "-m", module, *map(str, jobs)]
profile = params.load("smoke")
profile = profile.model_copy(update={"run": profile.run.model_copy(update={"devices": devices})})
run = runs.Run(folder)
launch.run_job(plan.Job(content, run.folder / "job"), profile, run)
"""


@pytest.fixture(autouse=True)
def program(tmp_path: Path, monkeypatch) -> None:
    """`python -m program` is the program above, and a job's kind `stub` runs it."""
    folder = tmp_path / "modules"
    folder.mkdir()
    (folder / "program.py").write_text(PROGRAM)
    monkeypatch.setenv("PYTHONPATH", str(folder))
    monkeypatch.setitem(launch.MODULES, "stub", "program")


@pytest.fixture
def direct(monkeypatch) -> None:
    """Start the program without DeepSpeed's launcher."""
    monkeypatch.setattr(
        launch, "command", lambda jobs, module, _: [sys.executable, "-u", "-m", module, *map(str, jobs)]
    )


@pytest.fixture
def run(tmp_path: Path) -> Run:
    found = Run(tmp_path / "run")
    runs.write_atomic(found.profile, "")
    return found


def stub_profile(**changes: Any) -> Profile:
    profile = params.load("smoke")
    return profile.model_copy(update={"run": profile.run.model_copy(update={"devices": 1, **changes})})


def stub_job(run: Run, code: str, before: str = "", **settings: Any) -> Job:
    content = {"kind": "stub", "before": before, "code": code, **settings}
    return Job({"fingerprint": runs.fingerprint(content), **content}, run.folder / "job")


def error_of(run: Run, code: str, **changes: Any) -> str:
    with pytest.raises(JobError) as error:
        run_job(stub_job(run, code), stub_profile(**changes), run)
    assert not (run.folder / launch.CURRENT).exists()
    return str(error.value)


def finished(run: Run, code: str = "done()", before: str = "", **changes: Any) -> Job:
    """A job that was run to its good end."""
    job = stub_job(run, code, before)
    run_job(job, stub_profile(**changes), run)
    assert job.done
    return job


def refusal_of(run: Run, job: Job, said: str) -> str:
    """What a job that must not start says; it leaves the folder as it is."""
    before = runs.sha256_tree(job.folder)
    with pytest.raises(JobError, match=said) as error:
        run_job(job, stub_profile(), run)
    assert runs.sha256_tree(job.folder) == before
    return str(error.value)


def process_group(number: int) -> list[int]:
    """The living processes of a group."""
    found = []
    for process in psutil.process_iter():
        try:
            if os.getpgid(process.pid) == number and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process.pid)
        except (ProcessLookupError, psutil.Error):
            continue
    return found


# ------------------------------------------------------------------------------------------------- several jobs in turn


def jobs_in_turn(run: Run, *codes: str) -> list[Job]:
    jobs = [stub_job(run, code, number=number) for number, code in enumerate(codes)]
    return [Job(job.content, run.folder / f"job-{number}") for number, job in enumerate(jobs)]


def test_jobs_of_processors_share_a_process_and_done_ones_are_left_alone(run: Run, direct: None):
    jobs = jobs_in_turn(run, "print('one'); done()", "done()", "done()")
    launch.run_jobs(jobs[1:2], stub_profile(), run)
    launch.run_jobs(jobs, stub_profile(), run)
    assert all(job.done for job in jobs)
    first, before, last = [(job.folder / "rank-0.pid").read_text() for job in jobs]
    assert first == last != before
    assert not (run.folder / launch.CURRENT).exists()


def test_the_gpus_of_a_job_are_free_when_the_next_one_starts(run: Run, direct: None, monkeypatch: pytest.MonkeyPatch):
    jobs = jobs_in_turn(run, "done()", "done()")
    monkeypatch.setattr(launch, "gpu_count", lambda: 1)
    launch.run_jobs(jobs, stub_profile(), run)
    first, second = [(job.folder / "rank-0.pid").read_text() for job in jobs]
    assert first != second


def test_a_failing_job_of_several_is_the_one_named_and_may_be_passed_over(run: Run, direct: None):
    jobs = jobs_in_turn(run, "done()", "raise ValueError('no such thing')", "done()")
    with pytest.raises(JobError, match=r"job-1 ended with exit code 1(?s:.)*no such thing"):
        launch.run_jobs(jobs, stub_profile(), run)
    assert [job.done for job in jobs] == [True, False, False]
    failures = launch.run_groups([jobs], stub_profile(), run)
    assert len(failures) == 1
    assert failures[0].startswith("job-1: job-1 ended")
    assert [job.done for job in jobs] == [True, False, True]
    with pytest.raises(JobError, match="no such thing"):  # where all of them failed
        launch.run_groups([jobs[1:2]], stub_profile(), run)


def test_jobs_before_one_that_cannot_be_prepared_run_first(run: Run, direct: None):
    jobs = jobs_in_turn(run, "done()", "done()")
    launch.run_jobs(jobs[1:], stub_profile(), run)
    changed = Job(jobs[1].content | {"fingerprint": "other"}, jobs[1].folder)
    with pytest.raises(JobError, match="job-1 was finished with other settings"):
        launch.run_jobs([jobs[0], changed], stub_profile(), run)
    assert jobs[0].done


# ------------------------------------------------------------------------------------------------- DeepSpeed's launcher


def test_two_ranks_run_under_deepspeed_and_a_finished_job_is_not_run_again(run: Run):
    code = """
from qalign_core.train import lock_folder
lock = lock_folder(folder) if rank == 0 else None  # as training does: the supervisor's own lock is another
print("rank", rank, "of", os.environ["WORLD_SIZE"], "threads", os.environ["OMP_NUM_THREADS"], os.getcwd(), flush=True)
if rank == 0:
    while not (folder / "rank-1.pid").exists():
        time.sleep(0.05)
    done()
"""
    job = stub_job(run, code)
    assert run_job(job, stub_profile(devices=2), run) == job.folder
    assert job.done
    log = (job.folder / "log.txt").read_text()
    threads = max(1, len(os.sched_getaffinity(0)) // 2)
    for rank in range(2):
        assert f"rank {rank} of 2 threads {threads} {run.folder}" in log
    assert not (run.folder / launch.CURRENT).exists()

    begun = time.monotonic()
    run_job(job, stub_profile(devices=2), run)
    assert time.monotonic() - begun < 1
    assert (job.folder / "log.txt").read_text() == log


def test_a_killed_rank_takes_the_others_along_and_is_reported(run: Run):
    code = """
print("".join(f"line {i}\\n" for i in range(100)), flush=True)
if rank == 1:
    os.kill(os.getpid(), signal.SIGKILL)
time.sleep(60)
"""
    begun = time.monotonic()
    message = error_of(run, code, devices=2)
    assert time.monotonic() - begun < 45
    assert re.search(r"job ended with exit code [1-9]\d*", message)
    assert "Out of memory (a process that the system kills says nothing else)" in message
    head, tail = message.split("log.txt:\n")
    assert head.endswith("The last 30 lines of " + str(run.folder / "job") + "/")
    assert len(tail.splitlines()) == 30
    assert "line 99" in tail
    assert "line 50\n" not in tail
    for rank in range(2):
        assert not psutil.pid_exists(int((run.folder / "job" / f"rank-{rank}.pid").read_text()))


def test_a_process_that_hangs_is_killed_with_all_it_started(run: Run, direct, monkeypatch):
    monkeypatch.setattr(launch, "GRACE_SECONDS", 1.0)
    code = "spawn(); (folder / 'group').write_text(str(os.getpgid(0))); os.kill(os.getpid(), signal.SIGSTOP)"
    message = error_of(run, code, silence_seconds=5)  # a stopped process does not hear that it shall end
    assert "gave no sign of life for 5 s" in message
    assert process_group(int((run.folder / "job" / "group").read_text())) == []


@pytest.fixture
def supervise(run: Run, tmp_path: Path) -> Iterator[Any]:
    """Start a supervising process and wait until every rank of its job is at work."""
    started = []

    def start(job: Job, how: str, devices: int = 1) -> tuple[subprocess.Popen, int]:
        content = json.dumps(job.content)
        arguments = [sys.executable, "-c", SUPERVISOR, str(run.folder), how, str(devices), content]
        with (tmp_path / "supervisor.txt").open("w") as output:
            process = subprocess.Popen(arguments, stdout=output, stderr=output)
        started.append(process)
        pids = [job.folder / f"rank-{rank}.pid" for rank in range(devices)]
        wait_for(lambda: all(path.exists() for path in pids) or process.poll() is not None)
        assert process.poll() is None, (tmp_path / "supervisor.txt").read_text()
        group = os.getpgid(int(pids[0].read_text()))
        assert group != os.getpgid(process.pid)  # a group of its own
        return process, group

    yield start
    for process in started:
        process.kill()
        process.wait()


def test_an_interrupt_stops_the_whole_group_within_ten_seconds(run: Run, tmp_path: Path, supervise):
    stubborn = "spawn()\nif rank == 1: signal.signal(signal.SIGTERM, signal.SIG_IGN)"
    job = stub_job(run, "time.sleep(60)", before=stubborn)
    process, group = supervise(job, "deepspeed", devices=2)
    assert len(process_group(group)) == 5  # the launcher, two ranks, a child of each
    assert runs.read_json(run.folder / launch.CURRENT)["job"] == "job/job.json"
    begun = time.monotonic()
    process.send_signal(signal.SIGINT)
    process.wait(timeout=20)
    assert time.monotonic() - begun < 10
    assert process_group(group) == []
    assert "Interrupted: job: stopped; what is finished is kept." in (tmp_path / "supervisor.txt").read_text()
    assert not (run.folder / launch.CURRENT).exists()
    assert not job.done


def test_a_killed_kernel_takes_its_ranks_along(run: Run, supervise):
    process, group = supervise(stub_job(run, "time.sleep(60)"), "deepspeed", devices=2)
    begun = time.monotonic()
    process.kill()
    ranks = [int((run.folder / "job" / f"rank-{rank}.pid").read_text()) for rank in range(2)]
    wait_for(lambda: not set(ranks) & set(process_group(group)), 6)
    wait_for(lambda: not process_group(group), 12 - (time.monotonic() - begun))
    assert "is gone: stopping" in (run.folder / "job" / "log.txt").read_text()


# ------------------------------------------------------------------------------------------------- interrupts


def test_interrupting_a_real_kernel_stops_the_whole_group_within_ten_seconds(run: Run):
    from jupyter_client.manager import start_new_kernel

    job = stub_job(run, "time.sleep(100)", before="signal.signal(signal.SIGTERM, signal.SIG_IGN); spawn()")
    arguments = ["-", str(run.folder), "direct", "1", json.dumps(job.content)]
    manager, client = start_new_kernel(startup_timeout=200)
    try:
        asked = client.execute(f"import sys\nsys.argv = {arguments!r}\n{SUPERVISOR}")
        pid = job.folder / "rank-0.pid"
        wait_for(pid.exists, 200)
        group = os.getpgid(int(pid.read_text()))
        begun = time.monotonic()
        manager.interrupt_kernel()  # as the stop button of JupyterLab does
        reply = client.get_shell_msg(timeout=60)
        while reply["parent_header"]["msg_id"] != asked:  # a slow kernel was asked more than once whether it is ready
            reply = client.get_shell_msg(timeout=60)
        assert time.monotonic() - begun < 10
        assert reply["content"]["ename"] == "Interrupted"
        said = "job: stopped; what is finished is kept. Run the cell again to go on from the last checkpoint."
        assert reply["content"]["traceback"] == [said]
        assert process_group(group) == []
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)


def test_a_second_interrupt_stops_a_stubborn_job_at_once(run: Run, supervise):
    job = stub_job(run, "time.sleep(60)", before="signal.signal(signal.SIGTERM, signal.SIG_IGN)")
    process, group = supervise(job, "direct")
    process.send_signal(signal.SIGINT)
    time.sleep(0.7)
    assert process_group(group)  # it was asked, and does not listen
    process.send_signal(signal.SIGINT)
    process.wait(timeout=5)
    assert process_group(group) == []


def test_an_interrupted_job_can_be_run_again(run: Run, supervise):
    job = stub_job(run, "time.sleep(60) if not (folder / 'go').exists() else done()")
    process, _ = supervise(job, "direct")
    process.send_signal(signal.SIGINT)
    process.wait(timeout=10)
    (job.folder / "go").touch()
    command = [sys.executable, "-c", SUPERVISOR, str(run.folder), "direct", "1", json.dumps(job.content)]
    subprocess.run(command, timeout=30, check=True)
    assert job.done
    assert (job.folder / "log.txt").read_text().count("==== ") == 2


def test_processes_left_behind_by_a_successful_job_are_ended(run: Run, direct, monkeypatch):
    monkeypatch.setattr(launch, "GRACE_SECONDS", 0.2)
    job = finished(run, before="spawn()")
    child = int((job.folder / "child-0.pid").read_text())
    assert not psutil.pid_exists(child) or psutil.Process(child).status() == psutil.STATUS_ZOMBIE


# ------------------------------------------------------------------------------------------------- failures


@pytest.mark.usefixtures("direct")
class TestFailure:
    @pytest.mark.parametrize(
        ("code", "how"),
        [
            ("print('almost')", "without its done.json"),
            ("runs.write_json(folder / 'done.json', {'fingerprint': 'another'})", "without its done.json"),
            ("done(); sys.exit(5)", "with exit code 5"),
        ],
    )
    def test_success_is_exit_code_0_and_a_done_json_of_this_job(self, run: Run, code: str, how: str):
        assert f"job ended {how}" in error_of(run, code)

    def test_it_shows_the_end_of_this_start_only(self, run: Run):
        error_of(run, "print('first start'); sys.exit(1)")
        message = error_of(run, r"sys.stdout.buffer.write(b'\xff second start\n'); sys.stdout.flush(); sys.exit(1)")
        assert "second start" in message
        assert message.splitlines()[1].startswith("The last 30 lines of ")  # no advice on what it does not know
        assert "first start" not in message
        assert b"first start" in (run.folder / "job" / "log.txt").read_bytes()

    @pytest.mark.parametrize(
        ("code", "advice"),
        [
            ("open('/dev/full', 'w').write('x' * 10**6)", "The disk is full, or a quota is: free"),
            (
                "import resource; resource.setrlimit(resource.RLIMIT_AS, (2**30, 2**30)); bytearray(2**40)",
                "Out of memory",
            ),
            ("raise RuntimeError('CUDA out of memory. Tried to allocate 2 GiB')", "Out of memory"),
            ("raise OSError(122, 'Disk quota exceeded')", "The disk is full, or a quota is"),
            ("os.write(2, b'the launcher of this rank (pid 1) is gone: stopping'); sys.exit(3)", "was killed"),
            ("raise FloatingPointError('the loss became nan at update 3')", "NaN or infinite: lower learning_rate"),
        ],
    )
    def test_it_says_what_to_do(self, run: Run, code: str, advice: str):
        assert advice in error_of(run, code)

    def test_what_went_wrong_comes_first_and_not_what_other_ranks_say_of_it(self, run: Run):
        code = """
print("[rank1]: RuntimeError: [gloo/transport/tcp/pair.cc:547] Connection closed by peer [127.0.0.1]:1")
print("Traceback (most recent call last):\\n  File 'x', line 1")
print("[rank0]: torch.distributed.SomeError: the corpus is not there")
sys.exit(1)
"""
        lines = error_of(run, code).splitlines()
        assert lines[1] == "torch.distributed.SomeError: the corpus is not there"

    def test_a_full_disk_is_named_even_where_the_log_could_not_be_written(self, run: Run, monkeypatch):
        monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
        assert error_of(run, "sys.exit(1)").splitlines()[1].startswith("The disk is full, or a quota is: free some")

    def test_a_silent_job_is_stopped(self, run: Run):
        begun = time.monotonic()
        message = error_of(run, "print('last words', flush=True); time.sleep(60)", silence_seconds=2)
        assert time.monotonic() - begun < 15
        assert "gave no sign of life for 2 s (run.silence_seconds)" in message
        assert "run the cell again to go on from its last checkpoint, or raise that number" in message
        assert message.endswith("last words")

    def test_a_job_with_a_heartbeat_is_not_stopped(self, run: Run):
        code = """
for _ in range(14):
    time.sleep(0.25)
    with (folder / "progress.jsonl").open("a") as stream:
        stream.write("{}\\n")
    os.utime(folder / "progress.jsonl", (1, 1))  # a file server whose clock is wrong, or a laptop that slept
done()
"""
        finished(run, code, silence_seconds=3)


# ------------------------------------------------------------------------------------------------- one folder, one job


def test_a_second_run_in_the_same_folder_is_refused(run: Run, direct):
    job = stub_job(run, "while not (folder / 'go').exists(): time.sleep(0.05)\ndone()")
    first = threading.Thread(target=run_job, args=(job, stub_profile(), run))
    first.start()
    wait_for((job.folder / "rank-0.pid").exists)
    with pytest.raises(JobError, match="another process is running this job. Wait for it, or stop it"):
        run_job(job, stub_profile(), run)
    (job.folder / "go").touch()
    first.join(20)
    assert job.done


def test_other_settings_over_a_finished_job_are_named_and_nothing_is_changed(run: Run, direct):
    job = stub_job(run, "done()", training_arguments={"learning_rate": 1e-5, "seed": 1}, loss="paper")
    run_job(job, stub_profile(), run)
    (job.folder / "model").mkdir()
    (job.folder / "model" / "weights").write_text("finished")
    other = stub_job(run, "done()", training_arguments={"learning_rate": 2e-5, "seed": 1}, loss="token")
    message = refusal_of(run, other, "job was finished with other settings than the profile has now")
    assert '  loss: "paper" then, "token" now\n' in message
    assert "  training_arguments.learning_rate: 1e-05 then, 2e-05 now\n" in message
    assert "seed" not in message
    assert "--run-dir" in message
    refusal_of(run, Job({**job.content, "fingerprint": "other"}, job.folder), "an earlier stage or its data differs")


def test_other_settings_over_checkpoints_are_named_and_nothing_is_changed(run: Run, direct, monkeypatch):
    error_of(run, "sys.exit(1)")
    monkeypatch.setattr(launch.train, "newest_step", lambda folder: 40)
    said = "job has been trained for 40 updates with other settings than the profile has"
    refusal_of(run, stub_job(run, "done()"), said)


@pytest.mark.parametrize("content", ["[]", "{"])
def test_a_damaged_record_of_a_job_is_named_and_nothing_is_changed(run: Run, direct, content: str):
    job = finished(run)
    (job.folder / "done.json").write_text(content)
    refusal_of(run, job, r"done\.json: .*delete or repair")


def test_a_model_that_was_deleted_is_not_looked_for_on_the_hub(run: Run, direct):
    stage = run.stage(1, ["metamathqa"])
    runs.write_json(stage / "done.json", {"files": {"model/config.json": "", "model/model.safetensors": ""}})
    job = stub_job(run, "done()", model={"path": run.relative(stage / "model")})
    runs.write_json(stage / "model" / "config.json", {})
    gone = r"metamathqa/model/model\.safetensors was deleted; delete .*metamathqa/done\.json too"
    with pytest.raises(JobError, match=gone):
        run_job(job, stub_profile(), run)
    (stage / "model" / "model.safetensors").touch()
    run_job(job, stub_profile(), run)
    assert job.done


def test_a_model_that_was_half_written_is_still_to_be_trained(run: Run):
    half = run.stage(1, ["metamathqa"]) / "model"
    runs.write_json(half / "config.json", {})
    assert launch.trained_first(stub_job(run, "done()", model={"path": run.relative(half)}), run)
    base = run.stage(1, []) / "model"  # comes without a done.json
    assert not launch.trained_first(stub_job(run, "done()", model={"path": run.relative(base)}), run)


def test_other_settings_over_a_job_that_was_only_begun_are_taken(run: Run, direct):
    error_of(run, "sys.exit(1)")
    finished(run)


# ------------------------------------------------------------------------------------------------- the command

TOOLS = ("ssh", "pdsh", "mpirun", "srun", "ompi_info", "sinfo")
RUNNER = """
import json, sys
from deepspeed.launcher.runner import main

for arguments in json.load(sys.stdin):
    main(arguments)
"""


@pytest.fixture(scope="module")
def started(tmp_path_factory) -> dict[str, list[str]]:
    """What DeepSpeed's own runner starts on two machines, by each launcher: its tools are programs that take notes."""
    folder = tmp_path_factory.mktemp("machines")
    for tool in TOOLS:
        note = f"#!{sys.executable}\nimport json, sys\nprint('10.0.0.1')\n"
        note += f"open({str(folder / 'calls.jsonl')!r}, 'a').write(json.dumps(sys.argv) + '\\n')\n"
        (folder / tool).write_text(note)
        (folder / tool).chmod(0o755)
    hosts = folder / "hosts.txt"
    hosts.write_text("worker-1 slots=2\nworker-2 slots=2\n")
    starts = []
    for launcher in ("pdsh", "openmpi", "slurm"):
        extra = "--partition gpu" if launcher == "slurm" else None
        profile = stub_profile(devices=2, hostfile=str(hosts), launcher=launcher, launcher_args=extra)
        line = launch.command([Path("/shared/run/job.json")], "qalign_core.train", profile)
        assert line[:3] == [sys.executable, "-m", "deepspeed.launcher.runner"]
        starts.append(line[3:])
    environment = {**os.environ, "PATH": f"{folder}:{os.environ['PATH']}", "DS_ACCELERATOR": "cpu"}
    subprocess.run(
        [sys.executable, "-c", RUNNER], input=json.dumps(starts), env=environment, cwd=folder, text=True, check=True
    )
    calls = [json.loads(line) for line in (folder / "calls.jsonl").read_text().splitlines()]
    return {Path(call[0]).name: call[1:] for call in calls}


def ranks_of(command: list[str]) -> dict[str, list[int]]:
    """What DeepSpeed's launcher is told to start."""
    encoded = next(word.removeprefix("--world_info=") for word in command if word.startswith("--world_info="))
    return json.loads(base64.urlsafe_b64decode(encoded))


def test_pdsh_starts_the_launcher_of_every_machine(started: dict[str, list[str]]):
    words = started["pdsh"]
    assert words[words.index("-w") + 1] == "worker-1,worker-2"
    assert ranks_of(words) == {"worker-1": [0, 1], "worker-2": [0, 1]}
    assert words[words.index("--module") :][-2:] == ["qalign_core.train", "/shared/run/job.json"]
    assert "--master_addr=10.0.0.1" in words


@pytest.mark.parametrize(
    ("tool", "options"),
    [
        ("mpirun", {"-n": "4", "-hostfile": "hosts.txt"}),
        ("srun", {"-n": "4", "--partition": "gpu", "--gpus-per-node": "2"}),
    ],
)
def test_openmpi_and_slurm_start_a_rank_a_device(started: dict[str, list[str]], tool: str, options: dict[str, str]):
    words = started[tool]
    assert {option: Path(words[words.index(option) + 1]).name for option in options} == options
    assert words[-5:] == [sys.executable, "-u", "-m", "qalign_core.train", "/shared/run/job.json"]


def test_ranks_on_several_machines_are_given_beats_until_the_end(run: Run, tmp_path: Path, direct):
    hosts = tmp_path / "hosts.txt"
    hosts.write_text("worker-1 slots=1\n")
    code = """
beats = folder / ".beats"
before = beats.stat().st_mtime_ns
assert beats.read_text() == os.environ["QALIGN_LIFELINE"]
time.sleep(1)
assert beats.stat().st_mtime_ns > before
done()
"""
    job = finished(run, code, hostfile=str(hosts))
    assert not (job.folder / ".beats").exists()


def test_on_this_machine_every_start_has_a_free_port_of_its_own():
    lines = [launch.command([Path("job.json")], "qalign_core.train", stub_profile(devices=3)) for _ in range(4)]
    for line in lines:
        assert ranks_of(line) == {"localhost": [0, 1, 2]}
        assert line[-3:] == ["--module", "qalign_core.train", "job.json"]
    assert len({word for line in lines for word in line if word.startswith("--master_port=")}) > 1


@pytest.mark.parametrize("visible", ["4,5, 6", "GPU-8932f937,GPU-4a5b,GPU-1", "MIG-c6d4f1ef,MIG-77d4,MIG-2"])
def test_ranks_get_just_the_chosen_gpus(run: Run, monkeypatch, visible: str):
    monkeypatch.setattr(launch, "gpu_count", lambda: 3)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    line = launch.command([Path("job.json")], "program", stub_profile(devices=2))
    chosen = ",".join(visible.replace(" ", "").split(",")[:2])
    command = ["env", f"CUDA_VISIBLE_DEVICES={chosen}", sys.executable, "-u", "-m", "program", "job.json"]
    assert ranks_of(line) == {"localhost": [0, 1]}
    assert line[-9:] == ["--no_python", "--no_local_rank", *command]


def test_the_launcher_passes_the_chosen_gpus_on(run: Run, monkeypatch):
    monkeypatch.setattr(launch, "gpu_count", lambda: 2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-8932f937,GPU-4a5b")
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")  # DeepSpeed's own part of it needs no GPU
    code = """
print("rank", rank, os.environ["LOCAL_RANK"], os.environ["CUDA_VISIBLE_DEVICES"], flush=True)
while rank == 0 and not (folder / "rank-1.pid").exists():
    time.sleep(0.05)
done()
"""
    log = (finished(run, code, devices=2).folder / "log.txt").read_text()
    assert all(f"rank {rank} {rank} GPU-8932f937,GPU-4a5b" in log for rank in range(2)), log


def test_more_gpus_than_can_be_seen_are_refused_before_anything_runs(run: Run, monkeypatch):
    monkeypatch.setattr(launch, "gpu_count", lambda: 2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5")
    said = r"run\.devices: 8 GPUs, but 2 can be seen here \(CUDA_VISIBLE_DEVICES=4,5\): set run\.devices: 2 and "
    said += r"gradient_accumulation_steps: 4, for the same effective batch size"
    with pytest.raises(ProfileError, match=said):
        run_job(stub_job(run, "done()"), stub_profile(devices=8), run)
    assert not (run.folder / "job" / "job.json").exists()
    launch.check_devices(stub_profile(devices=2))
    monkeypatch.setattr(launch, "gpu_count", lambda: 0)  # ranks on the CPU are processes
    launch.check_devices(stub_profile(devices=8))


@pytest.mark.parametrize("hidden", ["", "-1"])
def test_hidden_gpus_are_not_there(monkeypatch, hidden: str):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
    for name in ("DS_ACCELERATOR", "OMP_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    assert launch.gpu_count() == 0
    environment = launch.environment(devices=1000)
    assert (environment["DS_ACCELERATOR"], environment["OMP_NUM_THREADS"]) == ("cpu", "1")
    assert environment[runs.LIFELINE].startswith(f"{os.getpid()}:")
    assert "DS_ACCELERATOR" not in os.environ
    monkeypatch.setenv("OMP_NUM_THREADS", "7")  # chosen by hand
    assert launch.environment(devices=1000)["OMP_NUM_THREADS"] == "7"


# ------------------------------------------------------------------------------------------------- progress


def test_the_latest_state_is_the_last_whole_line(tmp_path: Path):
    path = tmp_path / "progress.jsonl"
    assert launch.latest(path) is None
    path.write_text('{"time": 1, "step": 1}\n{"time": 2, "step": 2}\n{"time": 3, "st')
    assert launch.latest(path) == {"time": 2, "step": 2}
    assert launch.latest(path, since=5) is None  # of an earlier start
    path.write_text("".join(json.dumps({"time": i, "phase": "x" * 100}) + "\n" for i in range(1000)))
    assert launch.latest(path)["time"] == 999
    line = '"loss"\n{"loss": 1.0}\n{"step": 4, "lo\n' + "[" * 4000  # damaged lines are passed over
    path.write_text(f'{{"time": 1, "step": 1, "loss": 2.0}}\n{line}\n{{"time": 2, "step": 2, "loss": 1.0}}\n{line}\n')
    assert launch.read_losses(path) == [(1, 2.0), (2, 1.0)]
    assert launch.latest(path) == {"time": 2, "step": 2, "loss": 1.0}


def test_progress_reads_as_a_line():
    state = {"phase": "training", "step": 1200, "total_steps": 9258, "loss": 0.51234, "tokens_per_second": 12345.6}
    line = "training · 1,200/9,258 · loss 0.512 · 12,346 tokens/s · 1:02:05 left"
    assert launch.describe({**state, "seconds_left": 3725}) == line
    assert launch.describe({"phase": "generating", "done": 3, "total": 10}) == "generating · 3/10"
    assert launch.describe({"phase": "loading"}) == "loading"
    assert launch.describe(None) == "starting"


def test_progress_has_a_share():
    assert launch.share_done({"step": 1, "total_steps": 4}) == 0.25
    assert launch.share_done({"done": 5, "total": 4}) == 1.0
    assert launch.share_done(None) is None
    assert launch.share_done({"phase": "loading"}) is None
    assert launch.share_done({"step": 0, "total_steps": 4}) == 0.0


@pytest.mark.parametrize(("seconds", "text"), [(0.4, "0 s"), (59.4, "59 s"), (185, "3:05"), (7385.2, "2:03:05")])
def test_a_clock_reads_as_people_write(seconds: float, text: str):
    assert launch.clock(seconds) == text


def test_the_curve_falls_from_left_to_right_within_its_picture():
    shown = launch.panel("<b>", "<i>", 0.5, [(step, 100.0 / step) for step in range(1, 1001)])
    assert "&lt;b&gt;" in shown
    assert "&lt;i&gt;" in shown
    assert 'value="0.500"' in shown
    points = [tuple(map(float, pair.split(","))) for pair in re.findall(r'points="([^"]+)"', shown)[0].split()]
    assert 100 < len(points) <= 160
    assert points == sorted(points)  # to the right, and downwards
    assert all(0 <= x <= 220 and 0 <= y <= 100 for x, y in points)
    assert "nan" not in launch.panel("a", "b", None, [(1, 2.0), (2, 2.0)])
    assert "<svg" not in launch.panel("a", "b", 0.25)


class Display:
    """Stands for IPython's: what was shown, in the place of what."""

    def __init__(self) -> None:
        self.shown: list = []

    def __call__(self, thing, display_id: bool = False, raw: bool = False) -> Display:
        self.shown.append(thing)
        return self

    update = __call__


def test_a_plain_python_gets_a_line_now_and_then(run: Run, direct, monkeypatch, capsys):
    monkeypatch.setattr(launch, "DRAW_SECONDS", 0.6)
    run_job(stub_job(run, "time.sleep(1.5); done()"), stub_profile(), run)
    shown = capsys.readouterr().out.splitlines()
    assert 2 <= len(shown) <= 12
    assert shown[0] == "job: starting"
    assert re.fullmatch(r"job: done after \d+ s", shown[-1])


@pytest.mark.parametrize("there", [True, False])
def test_bar_and_curve_are_drawn_only_where_someone_looks_on(run: Run, direct, monkeypatch, there: bool):
    display = Display()
    monkeypatch.setattr("IPython.display.display", display)
    monkeypatch.setattr("IPython.get_ipython", lambda: object())
    monkeypatch.setattr(launch, "is_interactive", lambda: there)
    code = """
rows = [{"time": time.time() + 9, "phase": "training", "step": s, "total_steps": 9, "loss": 1 / s} for s in range(1, 5)]
runs.write_json_lines(folder / "progress.jsonl", rows)
time.sleep(3)
sys.exit(1)
"""
    with pytest.raises(JobError):
        run_job(stub_job(run, code), stub_profile(), run)
    *_, last, end = display.shown
    assert last["text/plain"] == "job: training · 4/9 · loss 0.250"
    assert ("text/html" in last) == ("text/html" in end) == there
    assert end["text/plain"].endswith("run the cell again to go on from there") == there
    if there:
        assert "<svg" in last["text/html"]

    job = stub_job(run, "runs.write_json(folder / 'done.json', job | {'wall_seconds': 185.0})")
    for _ in range(2):
        run_job(job, stub_profile(), run)
    assert (display.shown[-1]["text/plain"] == "job: done before, in 3:05") == there
