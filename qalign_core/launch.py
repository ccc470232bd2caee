"""Run a job as a subprocess from a notebook: start, supervise, interrupt, success or a clear error."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from qalign_core import runs
from qalign_core.jobs.failures import failure
from qalign_core.jobs.machines import hostfile
from qalign_core.jobs.progress import ProgressLine, latest, show_done
from qalign_core.params import Profile
from qalign_core.plan import Job
from qalign_core.runs import Run
from qalign_core.train import encoded_left_behind
from qalign_core.training import checkpoints
from qalign_core.training.model_card import write_card
from qalign_core.training.ranks import BEATS

MODULES = {
    "train": "qalign_core.train",
    "generate": "qalign_core.generate",
    "represent": "qalign_core.represent",
}
CURRENT = "current.json"
LOCK = ".launch.lock"  # held by the notebook; a rank holds `.lock` of the same folder
POLL_SECONDS = 0.25
GRACE_SECONDS = 6.0  # between asking a job to stop and killing it; an interrupt is over within 10 s


class JobError(RuntimeError):
    """A job without exit code 0 and a matching `done.json`; the message ends with the last lines of its log."""


# ------------------------------------------------------------------------------------------------- the command


def command(job_path: Path, module: str, profile: Profile) -> list[str]:
    """The DeepSpeed launcher's command line for a job, on this machine or on those of `run.hostfile`."""
    program = ["--module", module, str(job_path)]
    host_file = hostfile(profile)
    if host_file:
        hosts = ["--hostfile", str(host_file)]
        if profile.run.launcher != "openmpi":  # which counts by the host file's slots alone, and refuses this option
            hosts += ["--num_gpus", str(profile.run.devices)]
        if profile.run.launcher:
            hosts += ["--launcher", profile.run.launcher]
        if extra := launcher_arguments(profile, host_file):
            hosts += [f"--launcher_args={extra}"]
        if profile.run.launcher == "slurm":  # whose runner forgets `--module`: the program is python's own `-m`
            program = ["--force_multi", "--", "-m", module, str(job_path)]
    else:  # the launcher's default port is fixed: two jobs at once would collide
        hosts = [*local_devices(profile.run.devices), "--master_addr", "127.0.0.1", "--master_port", str(free_port())]
    return [sys.executable, "-m", "deepspeed.launcher.runner", *hosts, "--log_level", "warning", *program]


def launcher_arguments(profile: Profile, host_file: Path) -> str:
    """`run.launcher_args`, and for OpenMPI where rank 0 is: it starts ranks in the host file's order and tells none."""
    given = profile.run.launcher_args or ""
    if profile.run.launcher != "openmpi":
        return given
    lines = [line.split() for line in host_file.read_text(encoding="utf-8").splitlines()]
    first = next((words[0] for words in lines if words and not words[0].startswith("#")), "localhost")
    return f"-x MASTER_ADDR={first} -x MASTER_PORT={free_port()} {given}".rstrip()


def free_port() -> int:
    """A port that nothing uses on this machine now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def local_devices(count: int) -> list[str]:
    """The launcher's option for `count` devices of this machine: of those in CUDA_VISIBLE_DEVICES, if it is set."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "").replace(" ", "").split(",")
    if has_gpu() and len(visible) >= count and all(device.isdigit() for device in visible):
        return ["--include", f"localhost:{','.join(visible[:count])}"]  # with --num_gpus it would be ignored
    return ["--num_gpus", str(count)]


def environment(devices: int) -> dict[str, str]:
    """The subprocess's environment: the accelerator named, cores shared out, and the kernel's lifeline."""
    found = dict(os.environ)
    found[runs.LIFELINE] = runs.lifeline()
    found.setdefault("TOKENIZERS_PARALLELISM", "false")
    found["PYTHONUNBUFFERED"] = "1"
    if not has_gpu():
        found["DS_ACCELERATOR"] = "cpu"
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        found.setdefault("OMP_NUM_THREADS", str(max(1, cores // devices)))
    return found


def has_gpu() -> bool:
    """Whether CUDA devices are visible, asked of the driver and not of torch, which a notebook need not import."""
    if os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1"):
        return False
    return any(Path("/dev").glob("nvidia[0-9]*"))


# ------------------------------------------------------------------------------------------------- running


def run_job(job: Job, profile: Profile, run: Run, show: bool = True) -> Path:
    """Run a job unless it is done: the same call starts, resumes, or returns at once.

    Args:
        job: of `plan.stage_job`, `plan.prediction_job` or `plan.translation_job`.
        profile: for devices and the launcher.
        run: the run folder, whose `current.json` says what is running.
        show: whether to draw a progress line in the notebook.

    Returns:
        The job's folder, with a `done.json` that bears the job's fingerprint.

    Raises:
        JobError: when the job fails, is already being run, hangs, begins from a model that was deleted, or was
            finished, or well begun, with other settings.
    """
    job.folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(job.folder / LOCK, timeout=0):
            job_path = job.folder / "job.json"
            refuse_other_settings(job.content, job.folder, run)
            if not job.done:
                refuse_absent_model(job, run)
                runs.write_json(job_path, job.content)
                _supervise(job_path, MODULES[job.content["kind"]], profile, run, show)
            elif show:
                show_done(run.relative(job.folder), job.folder)
            for left in (job.folder / "checkpoints", *encoded_left_behind(job.folder)):  # killed before its clean-up
                shutil.rmtree(left, ignore_errors=True)
            if job.content["kind"] == "train":
                write_card(profile, run, job.content["seed"], job.content["lineage"])
    except Timeout:
        raise JobError(
            f"{job.folder}: another process is running this job. Wait for it, or stop it, and run the cell again."
        ) from None
    return job.folder


def refuse_other_settings(job: dict[str, Any], folder: Path, run: Run) -> None:
    """Refuse to replace a finished job, or checkpoints of one, by one with other settings: nothing done is ever lost.

    Raises:
        JobError: naming the settings that differ and the ways out.
    """
    job_path = folder / "job.json"
    step = checkpoints.newest_step(folder / "checkpoints")
    try:
        done = runs.is_done(job_path)
        if not job_path.is_file() or not (done or step):
            return
        before = runs.read_object(job_path)
    except runs.DamagedFileError as error:
        raise JobError(str(error)) from None
    if before.get("fingerprint") == job["fingerprint"]:
        return
    changes = "\n".join(f"  {line}" for line in differences(before, job)) or "  (an earlier stage or its data differs)"
    state = "was finished" if done else f"has been trained for {step:,} updates"
    raise JobError(
        f"{run.relative(folder)} {state} with other settings than the profile has now:\n{changes}\n"
        f"Nothing was changed. Either undo the change, or choose another run folder (--run-dir), "
        f"or delete {folder} (and what was trained from it) to have it made anew."
    )


def refuse_absent_model(job: Job, run: Run) -> None:
    """Refuse to begin from a stage whose model somebody has deleted: it would be looked for on the Hub.

    Raises:
        JobError: saying what to delete to have it trained again.
    """
    path = str(job.content.get("model", {}).get("path", ""))
    stage = (run.folder / path).parent
    if path.startswith("models/seed-") and (stage / "done.json").is_file() and not (run.folder / path).is_dir():
        raise JobError(f"{run.folder / path} was deleted; delete {stage / 'done.json'} too, to have it trained again")


def differences(before: dict, after: dict, prefix: str = "") -> Iterator[str]:
    """The settings in which two jobs differ, a line each."""
    for key in sorted(before.keys() | after.keys()):
        old, new = before.get(key), after.get(key)
        if old == new or key == "fingerprint":
            continue
        if isinstance(old, dict) and isinstance(new, dict):
            yield from differences(old, new, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}: {json.dumps(old)[:120]} then, {json.dumps(new)[:120]} now"


def _supervise(job_path: Path, module: str, profile: Profile, run: Run, show: bool) -> None:
    folder, log, progress = job_path.parent, job_path.with_name("log.txt"), job_path.with_name("progress.jsonl")
    begun, limit = time.time(), profile.run.silence_seconds
    line = ProgressLine(run.relative(folder), progress=progress) if show else None
    silence, hung, beats = Silence(progress, log), False, None
    if profile.run.hostfile:  # ranks on other machines cannot see whether this process lives
        beats = runs.write_atomic(folder / BEATS, runs.lifeline())
    runs.write_json(run.folder / CURRENT, {"job": run.relative(job_path), "since": begun, "pid": os.getpid()})
    process, start = _start(job_path, module, profile, log)
    try:
        while process.poll() is None and not hung:
            if line:
                line.update(latest(progress, since=begun))
            hung = silence.seconds() > limit
            beat(beats)
            time.sleep(POLL_SECONDS)
    finally:
        stop_group(process)
        if beats:
            beats.unlink(missing_ok=True)
        (run.folder / CURRENT).unlink(missing_ok=True)
        if line:
            line.finish(runs.is_done(job_path))
    code, how = process.returncode, ""
    if hung:
        how = f"gave no sign of life for {limit} s (run.silence_seconds) and was stopped: run the cell again to go on "
        how += "from its last checkpoint, or raise that number if it is only slow"
    elif code != 0 or not runs.is_done(job_path):
        how = f"ended with exit code {code}" if code else "ended without its done.json"
    if how:
        raise JobError(failure(folder, log, how, start))


def _start(job_path: Path, module: str, profile: Profile, log: Path) -> tuple[subprocess.Popen, int]:
    """Start a job in a process group of its own; the process, and the byte of the log where it begins."""
    with log.open("ab") as stream:
        stream.write(f"==== {time.strftime('%Y-%m-%d %H:%M:%S')} {module} {job_path}\n".encode())
        stream.flush()
        start = stream.tell()
        process = subprocess.Popen(
            command(job_path, module, profile),
            cwd=runs.run_root(job_path),
            env=environment(profile.run.devices),
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    return process, start


def beat(path: Path | None) -> None:
    """Touch the file that ranks on other machines watch."""
    if path:
        with suppress(OSError):  # a file server that stumbles must not end the job
            path.touch()


class Silence:
    """How long some files have not changed, by a clock that stands still while a laptop sleeps."""

    def __init__(self, *paths: Path) -> None:
        self.paths, self.since = paths, time.monotonic()
        self.seen: list[tuple[int, int]] | None = None  # time of change and size of each

    def seconds(self) -> float:
        """Seconds since one of the files was last seen to change."""
        found = [(p.stat().st_mtime_ns, p.stat().st_size) for p in self.paths if p.exists()]
        if found != self.seen:
            self.seen, self.since = found, time.monotonic()
        return time.monotonic() - self.since


def stop_group(process: subprocess.Popen) -> None:
    """End everything a job started: ask its process group to stop, then kill what is left."""
    try:
        _signal_group(process, signal.SIGTERM, GRACE_SECONDS)
    finally:  # also when a second interrupt ends the waiting
        _signal_group(process, signal.SIGKILL, 5.0)
        process.wait()


def _signal_group(process: subprocess.Popen, number: signal.Signals, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    try:
        os.killpg(process.pid, number)
    except (ProcessLookupError, PermissionError):  # macOS refuses to signal a group of dead processes
        return
    while time.monotonic() < deadline and group_is_alive(process):
        time.sleep(0.05)


def group_is_alive(process: subprocess.Popen) -> bool:
    """Whether any process of the job's group is left; dead ones that nobody has reaped do not count."""
    import psutil

    process.poll()
    for member in psutil.process_iter():
        try:
            if os.getpgid(member.pid) == process.pid and member.status() != psutil.STATUS_ZOMBIE:
                return True
        except (ProcessLookupError, PermissionError, psutil.Error):
            continue
    return False
