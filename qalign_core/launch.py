"""Run a job as a subprocess from a notebook: start, progress, log, interrupt, success or a clear error."""

from __future__ import annotations

import json
import os
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
from qalign_core.params import Profile
from qalign_core.plan import Job
from qalign_core.runs import Run

MODULES = {"train": "qalign_core.train", "generate": "qalign_core.generate"}
CURRENT = "current.json"
POLL_SECONDS = 0.25
GRACE_SECONDS = 6.0  # between asking a job to stop and killing it; an interrupt is over within 10 s


class JobError(RuntimeError):
    """A job without exit code 0 and a matching `done.json`; the message ends with the last lines of its log."""


# ------------------------------------------------------------------------------------------------- the command


def command(job_path: Path, module: str, profile: Profile) -> list[str]:
    """The DeepSpeed launcher's command line for a job, on this machine or on those of `run.hostfile`."""
    options = ["--module", module, str(job_path)]
    if profile.run.hostfile:
        hosts = ["--hostfile", profile.run.hostfile, "--num_gpus", str(profile.run.devices)]
        if profile.run.launcher:
            hosts += ["--launcher", profile.run.launcher]
        if profile.run.launcher_args:
            hosts += ["--launcher_args", profile.run.launcher_args]
    else:
        with socket.socket() as probe:  # the launcher's default port is fixed: two jobs at once would collide
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        hosts = ["--num_gpus", str(profile.run.devices), "--master_addr", "127.0.0.1", "--master_port", str(port)]
    return [sys.executable, "-m", "deepspeed.launcher.runner", *hosts, "--log_level", "warning", *options]


def environment(devices: int) -> dict[str, str]:
    """The subprocess's environment: the accelerator named, cores shared out, and the kernel's lifeline."""
    found = dict(os.environ)
    found[runs.LIFELINE] = runs.lifeline()
    found.setdefault("TOKENIZERS_PARALLELISM", "false")
    found["PYTHONUNBUFFERED"] = "1"
    if not has_gpu():
        found["DS_ACCELERATOR"] = "cpu"
        found.setdefault("OMP_NUM_THREADS", str(max(1, len(os.sched_getaffinity(0)) // devices)))
    return found


def has_gpu() -> bool:
    """Whether CUDA devices are visible, asked of the driver and not of torch, which a notebook need not import."""
    if os.environ.get("CUDA_VISIBLE_DEVICES") == "":
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
        with FileLock(job.folder / ".lock", timeout=0):
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
    line = ProgressLine(run.relative(folder)) if show else None
    try:
        while process.poll() is None:
            state = latest(progress, since=begun)
            if line:
                line.update(state)
            _check_heartbeat(folder, progress, log, begun, profile.run.silence_seconds)
            time.sleep(POLL_SECONDS)
    finally:
        stop_group(process)
        (run.folder / CURRENT).unlink(missing_ok=True)
        if line:
            line.finish(runs.is_done(job_path))
    if process.returncode != 0 or not runs.is_done(job_path):
        raise JobError(failure(folder, log, process.returncode, start))


def _check_heartbeat(folder: Path, progress: Path, log: Path, begun: float, limit: int) -> None:
    signs = [p.stat().st_mtime for p in (progress, log) if p.exists()]
    silent = time.time() - max([begun, *signs])
    if silent > limit:
        raise JobError(
            f"{folder}: no sign of life for {silent:.0f} s (run.silence_seconds is {limit}); the job was stopped. "
            f"What is finished is kept: run the cell again to resume, and see {log}."
        )


def stop_group(process: subprocess.Popen) -> None:
    """End everything a job started: ask its process group to stop, then kill what is left."""
    for signal_number, seconds in ((signal.SIGTERM, GRACE_SECONDS), (signal.SIGKILL, 5.0)):
        try:
            os.killpg(process.pid, signal_number)
        except ProcessLookupError:
            break
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and group_is_alive(process):
            time.sleep(0.05)
    process.wait()


def group_is_alive(process: subprocess.Popen) -> bool:
    """Whether any process of the job's group is left; the launcher itself is reaped on the way."""
    process.poll()
    try:
        os.killpg(process.pid, 0)
    except ProcessLookupError:
        return False
    return True


# Symptoms in a log's last lines, and what a person can do about each.
ADVICE: tuple[tuple[str, str], ...] = (
    ("No space left on device", "The disk is full: free some space and run again; finished work is kept."),
    ("out of memory", "Out of memory: lower per_device_train_batch_size (and raise gradient_accumulation_steps), "
     "set gradient_checkpointing: true, or choose a DeepSpeed configuration with a higher ZeRO stage or offload."),
    ("loss is not finite", "The loss became NaN or infinite: lower learning_rate, or train in float32."),
    ("is gone: stopping", "The notebook kernel ended; run the cell again to resume."),
)  # fmt: skip


def failure(folder: Path, log: Path, code: int, start: int = 0, lines: int = 30) -> str:
    """What to tell a person about a failed job: exit code, advice, and the log's last lines."""
    with log.open("rb") as stream:
        stream.seek(start)
        text = stream.read().decode("utf-8", errors="replace")
    advice = next((f"{a}\n" for symptom, a in ADVICE if symptom.lower() in text.lower()), "")
    tail = "\n".join(text.splitlines()[-lines:])
    how = "ended without its done.json" if code == 0 else f"ended with exit code {code}"
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
        self.begun = self.last = time.monotonic()
        self.handle: Any = None

    def _draw(self, text: str) -> None:
        from IPython.display import TextDisplayObject, display

        class Line(TextDisplayObject):
            def __repr__(self) -> str:
                return self.data

        shown = Line(f"{self.title}: {text}")
        if self.handle is None:
            self.handle = display(shown, display_id=True)
        elif self.handle is not None:
            self.handle.update(shown)

    def update(self, state: dict[str, Any] | None) -> None:
        if self.handle is None or time.monotonic() - self.last > self.every:
            self.last = time.monotonic()
            self._draw(describe(state))

    def finish(self, success: bool) -> None:
        self._draw(f"{'done' if success else 'stopped'} after {clock(time.monotonic() - self.begun)}")
