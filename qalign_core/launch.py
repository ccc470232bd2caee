"""Run a job as a subprocess from a notebook: start, progress, log, interrupt, success or a clear error."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from qalign_core import runs
from qalign_core.machines import hostfile
from qalign_core.params import Profile
from qalign_core.plan import Job
from qalign_core.runs import Run

MODULES = {"train": "qalign_core.train", "generate": "qalign_core.generate"}
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
        if profile.run.launcher_args:
            hosts += ["--launcher_args", profile.run.launcher_args]
        if profile.run.launcher == "slurm":  # whose runner forgets `--module`: the program is python's own `-m`
            program = ["--force_multi", "--", "-m", module, str(job_path)]
    else:
        with socket.socket() as probe:  # the launcher's default port is fixed: two jobs at once would collide
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        hosts = [*local_devices(profile.run.devices), "--master_addr", "127.0.0.1", "--master_port", str(port)]
    return [sys.executable, "-m", "deepspeed.launcher.runner", *hosts, "--log_level", "warning", *program]


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
        JobError: when the job fails, is already being run, hangs, or was finished with other settings.
    """
    job.folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(job.folder / LOCK, timeout=0):
            job_path = job.folder / "job.json"
            refuse_other_settings(job.content, job.folder, run)
            if not job.done:
                runs.write_json(job_path, job.content)
                _supervise(job_path, MODULES[job.content["kind"]], profile, run, show)
    except Timeout:
        raise JobError(
            f"{job.folder}: another process is running this job. Wait for it, or stop it, and run the cell again."
        ) from None
    return job.folder


def refuse_other_settings(job: dict[str, Any], folder: Path, run: Run) -> None:
    """Refuse to replace a finished job by one with other settings: nothing finished is ever lost.

    Raises:
        JobError: naming the settings that differ and the two ways out.
    """
    if not runs.is_done(folder / "job.json"):
        return
    before = runs.read_json(folder / "job.json")
    if before["fingerprint"] == job["fingerprint"]:
        return
    changes = "\n".join(f"  {line}" for line in differences(before, job)) or "  (an earlier stage or its data differs)"
    raise JobError(
        f"{run.relative(folder)} was finished with other settings than the profile has now:\n{changes}\n"
        f"Nothing was changed. Either undo the change, or choose another run folder (--run-dir), "
        f"or delete {folder} (and what was trained from it) to have it made anew."
    )


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
    folder = job_path.parent
    log = folder / "log.txt"
    progress = folder / "progress.jsonl"
    begun = time.time()
    line = ProgressLine(run.relative(folder)) if show else None
    silence = Silence(progress, log)
    runs.write_json(run.folder / CURRENT, {"job": run.relative(job_path), "since": begun, "pid": os.getpid()})
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
    hung = False
    try:
        while process.poll() is None and not hung:
            if line:
                line.update(latest(progress, since=begun))
            hung = silence.seconds() > profile.run.silence_seconds
            time.sleep(POLL_SECONDS)
    finally:
        stop_group(process)
        (run.folder / CURRENT).unlink(missing_ok=True)
        if line:
            line.finish(runs.is_done(job_path))
    if hung:
        limit = profile.run.silence_seconds
        how = f"gave no sign of life for {limit} s (run.silence_seconds) and was stopped: run the cell again to resume"
        raise JobError(failure(folder, log, how, start))
    if process.returncode != 0 or not runs.is_done(job_path):
        code = process.returncode
        how = f"ended with exit code {code}" if code else "ended without its done.json"
        raise JobError(failure(folder, log, how, start))


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


# Symptoms in a log (regular expressions), and what a person can do about each.
ADVICE: tuple[tuple[str, str], ...] = (
    (r"no space left on device|disk quota exceeded|PytorchStreamWriter failed",
     "The disk is full: free some space and run again; finished work is kept."),
    (r"out of memory|can't allocate memory|not enough memory|MemoryError|return code = -9\b",
     "Out of memory (a process that the system kills says nothing else): lower per_device_train_batch_size and raise "
     "gradient_accumulation_steps, set gradient_checkpointing: true, choose a DeepSpeed configuration with a higher "
     "ZeRO stage or offload; for generation, lower evaluation.batch_tokens."),
    (r"FloatingPointError", "The loss became NaN or infinite: lower learning_rate, or train in float32."),
    (r"is gone: stopping", "The notebook kernel ended; run the cell again to resume."),
)  # fmt: skip


def failure(folder: Path, log: Path, how: str, start: int = 0, lines: int = 30) -> str:
    """What to tell a person about a failed job: how it ended, advice, and the last lines of its log from `start`."""
    with log.open("rb") as stream:
        stream.seek(start)
        text = stream.read().decode("utf-8", errors="replace")
    advice = next((f"{what}\n" for symptom, what in ADVICE if re.search(symptom, text, re.IGNORECASE)), "")
    tail = "\n".join(text.splitlines()[-lines:])
    return f"{folder.name} {how} ({folder}).\n{advice}The last {lines} lines of {log}:\n{tail}"


# ------------------------------------------------------------------------------------------------- progress


def latest(progress: Path, since: float = 0.0) -> dict[str, Any] | None:
    """The last whole line of a progress file that is not older than `since`, or None."""
    try:
        with progress.open("rb") as stream:
            stream.seek(max(0, progress.stat().st_size - 8192))
            lines = stream.read().split(b"\n")
    except FileNotFoundError:
        return None
    for line in reversed(lines[:-1]):
        try:
            state = json.loads(line)
        except ValueError:
            continue
        return state if state.get("time", 0) >= since else None
    return None


def share_done(state: dict[str, Any]) -> float | None:
    """How far a job is, from 0 to 1, if it says so."""
    done, total = state.get("step", state.get("done")), state.get("total_steps", state.get("total"))
    return min(1.0, done / total) if total and done is not None else None


def describe(state: dict[str, Any] | None) -> str:
    """One line of progress for people: phase, place, loss, speed and time left."""
    if not state:
        return "starting"
    parts = [state["phase"]]
    for done, total in (("step", "total_steps"), ("done", "total")):
        if state.get(done) is not None and state.get(total):
            parts.append(f"{state[done]:,}/{state[total]:,}")
    if state.get("loss") is not None:
        parts.append(f"loss {state['loss']:.3f}")
    if state.get("tokens_per_second"):
        parts.append(f"{state['tokens_per_second']:,.0f} tokens/s")
    if state.get("seconds_left") is not None:
        parts.append(f"{clock(state['seconds_left'])} left")
    return " · ".join(parts)


def clock(seconds: float) -> str:
    """Seconds as `42 s`, `3:05` or `2:03:05`."""
    seconds = round(seconds)
    hours, rest = divmod(seconds, 3600)
    if hours:
        return f"{hours}:{rest // 60:02d}:{rest % 60:02d}"
    return f"{rest // 60}:{rest % 60:02d}" if rest >= 60 else f"{rest} s"


class ProgressLine:
    """A line in the notebook that is rewritten in place, at most every two seconds."""

    def __init__(self, title: str, every: float = 2.0) -> None:
        self.title, self.every = title, every
        self.begun = time.monotonic()
        self.last = -every
        self.handle: Any = None

    def _draw(self, text: str) -> None:
        from IPython.display import TextDisplayObject, display

        class Line(TextDisplayObject):
            def __repr__(self) -> str:
                return self.data

        shown = Line(f"{self.title}: {text}")
        if self.handle is None:
            self.handle = display(shown, display_id=True)
        else:
            self.handle.update(shown)

    def update(self, state: dict[str, Any] | None) -> None:
        if time.monotonic() - self.last > self.every:
            self.last = time.monotonic()
            self._draw(describe(state))

    def finish(self, success: bool) -> None:
        self._draw(f"{'done' if success else 'stopped'} after {clock(time.monotonic() - self.begun)}")
