"""Run a job as a subprocess from a notebook: start, supervise, interrupt, success or a clear error."""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, suppress
from html import escape
from pathlib import Path
from typing import Any

import psutil
from filelock import FileLock, Timeout

from qalign_core import hub, runs, train
from qalign_core.models import write_card
from qalign_core.params import Profile, ProfileError
from qalign_core.plan import Job, hostfile
from qalign_core.runs import Run
from qalign_core.train import BEATS

MODULES = {kind: f"qalign_core.{kind}" for kind in ("train", "generate", "represent")}
CURRENT = "current.json"
LOCK = ".launch.lock"  # held by the notebook; a rank holds `.lock` of the same folder
POLL_SECONDS, DRAW_SECONDS = 0.25, 2.0
GRACE_SECONDS = 6.0  # between asking a job to stop and killing it; an interrupt is over within 10 s


class Interrupted(KeyboardInterrupt):
    """A job was stopped by its reader, whose notebook shows one sentence instead of a traceback."""

    def _render_traceback_(self) -> list[str]:  # what IPython shows
        return [str(self)]


class JobError(RuntimeError):
    """A job without exit code 0 and a matching `done.json`; the message ends with the last lines of its log."""


# ------------------------------------------------------------------------------------------------- the command


def command(jobs: Sequence[Path], module: str, profile: Profile) -> list[str]:
    """The DeepSpeed launcher's command line for jobs in turn, on this machine or on those of `run.hostfile`."""
    hosts, launcher, devices = hostfile(profile), profile.run.launcher, profile.run.devices
    paths = [str(path) for path in jobs]
    if hosts:
        program = ["--module", module, *paths]
        # OpenMPI counts by the host file's slots alone, and refuses --num_gpus.
        options = ["--hostfile", str(hosts), *(["--num_gpus", str(devices)] if launcher != "openmpi" else [])]
        options += ["--launcher", launcher] if launcher else []
        options += [f"--launcher_args={profile.run.launcher_args}"] if profile.run.launcher_args else []
        if launcher == "slurm":  # whose runner forgets `--module`: the program is python's own `-m`
            program = ["--force_multi", "--", "-m", module, *paths]
        return [sys.executable, "-m", "deepspeed.launcher.runner", *options, "--log_level", "warning", *program]
    # What `deepspeed --num_gpus N` starts on one machine. Its runner only adds the seconds of a second import.
    from accelerate.utils.other import get_free_port

    port = get_free_port()  # the launcher's default is fixed: two jobs at once would collide
    world = base64.urlsafe_b64encode(json.dumps({"localhost": list(range(devices))}).encode()).decode()
    options = [f"--world_info={world}", "--master_addr=127.0.0.1", f"--master_port={port}", "--log_level=warning"]
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible and gpu_count():  # DeepSpeed numbers the ranks' devices from 0: name the chosen ones behind it
        chosen = ",".join(visible.replace(" ", "").split(",")[:devices])
        program = ["env", f"CUDA_VISIBLE_DEVICES={chosen}", sys.executable, "-u", "-m", module, *paths]
        program = ["--no_python", "--no_local_rank", *program]
    else:
        program = ["--module", module, *paths]
    return [sys.executable, "-u", "-m", "deepspeed.launcher.launch", *options, *program]


def gpu_count() -> int:
    """The GPUs torch sees: it honours CUDA_VISIBLE_DEVICES as indices, UUIDs or MIG names, and finds those of WSL2."""
    import torch

    return torch.cuda.device_count()


def check_devices(profile: Profile) -> None:
    """Refuse a profile that wants more GPUs of this machine than it has; without any, its ranks are CPU processes."""
    count, wanted, visible = gpu_count(), profile.run.devices, os.environ.get("CUDA_VISIBLE_DEVICES")
    if profile.run.hostfile is None and 0 < count < wanted:
        seen = f"{count} can be seen here" + (f" (CUDA_VISIBLE_DEVICES={visible})" if visible else "")
        raise ProfileError(f"run.devices: {wanted} GPUs, but {seen}: {on_fewer(profile, count)}")


def on_fewer(profile: Profile, count: int) -> str:
    """What to set in a profile to train on `count` devices with the same effective batch size."""
    steps, rest = divmod(profile.training.gradient_accumulation_steps * profile.run.devices, count)
    same = f" and gradient_accumulation_steps: {steps}, for the same effective batch size"
    return f"set run.devices: {count}{same if profile.lineages() and not rest else ''}"


def environment(devices: int) -> dict[str, str]:
    """The subprocess's environment: the accelerator named, cores divided among ranks, and the kernel's lifeline."""
    found = dict(os.environ) | {runs.LIFELINE: runs.lifeline(), "PYTHONUNBUFFERED": "1"}
    found.setdefault("TOKENIZERS_PARALLELISM", "false")
    if not gpu_count():
        found["DS_ACCELERATOR"] = "cpu"
        found.setdefault("OMP_NUM_THREADS", str(max(1, runs.cores() // devices)))
    return found


# ------------------------------------------------------------------------------------------------- running


def run_job(job: Job, profile: Profile, run: Run) -> Path:
    """Run a job as `run_jobs` does, and return its folder."""
    run_jobs([job], profile, run)
    return job.folder


def run_jobs(jobs: Iterable[Job], profile: Profile, run: Run) -> None:
    """Run jobs of one kind in turn, each unless it is done: the same call starts, resumes, or returns at once.

    On processors they share one start of the ranks, which takes longer there than many a job of the miniature.

    Raises:
        JobError: when a job fails, is already being run, hangs, begins from a model that was deleted, or was finished,
            or well begun, with other settings; the jobs before it are done.
        DownloadError: when a model of the hub cannot be fetched, or has no weights that may be loaded.
        ProfileError: when it wants more GPUs than there are.
    """
    left, alone = list(jobs), bool(gpu_count() or profile.run.hostfile)
    while left:
        with ExitStack() as locks:
            ready: list[Job] = []
            try:
                for job in left[:1] if alone else left:
                    prepare(job, profile, run, locks)
                    ready.append(job)
            except (JobError, hub.DownloadError):
                if not ready:
                    raise
            left = left[len(ready) :]
            try:
                if begun := [job for job in ready if not job.done]:
                    _supervise(begun, profile, run)
            except KeyboardInterrupt:
                kept = "stopped; what is finished is kept. Run the cell again to go on from the last checkpoint."
                first = next((job for job in ready if not job.done), ready[-1])
                raise Interrupted(f"{run.relative(first.folder)}: {kept}") from None
            finally:
                for job in ready:
                    if job.done:
                        shutil.rmtree(job.folder / "checkpoints", ignore_errors=True)  # killed before its clean-up
                    if job.done and job.content["kind"] == "train":
                        write_card(profile, run, job.content["seed"], job.content["lineage"])


def prepare(job: Job, profile: Profile, run: Run, locks: ExitStack) -> None:
    """Lock a job and, unless it is done, write what its ranks need; see `run_jobs` for the errors."""
    job.folder.mkdir(parents=True, exist_ok=True)
    try:
        locks.enter_context(FileLock(job.folder / LOCK, timeout=0))
    except Timeout:
        remedy = "Wait for it, or stop it, and run the cell again."
        raise JobError(f"{job.folder}: another process is running this job. {remedy}") from None
    refuse_other_settings(job.content, job.folder, run)
    if not job.done:
        check_devices(profile)
        later = trained_first(job, run)
        fetch_models(job, profile, run)
        runs.write_json(job.folder / "job.json", job.content)
        if "corpus" in job.content and not later:
            train.tokenise(job.content, job.folder / "job.json")
    elif is_interactive():  # in executed notebooks the cell of a job that was done stays as it is
        seconds = runs.read_object(job.folder / "done.json")["wall_seconds"]
        draw(run.relative(job.folder), f"done before, in {clock(seconds)}")


def refuse_other_settings(job: dict[str, Any], folder: Path, run: Run) -> None:
    """Refuse to replace a finished job, or checkpoints, by one with other settings: nothing done is ever lost."""
    job_path, step = folder / "job.json", train.newest_step(folder / "checkpoints")
    try:
        done = runs.is_done(job_path)
        before = runs.read_object(job_path) if job_path.is_file() and (done or step) else job
    except runs.BadRow as error:
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


def trained_first(job: Job, run: Run) -> bool:
    """Whether the model a job begins from is still to be trained; a JobError if files of it were deleted since."""
    stage = run.folder.joinpath(str(job.content.get("model", {}).get("path", ""))).parent
    if not run.relative(stage).startswith("models/seed-") or stage.parent.name.startswith("seed-"):  # the base
        return False
    if gone := runs.missing_file(stage):
        raise JobError(f"{stage / gone} was deleted; delete {stage / 'done.json'} too, to have it trained again")
    return not (stage / "done.json").is_file()  # a folder without it may be half a model


def run_groups(groups: Iterable[Sequence[Job]], profile: Profile, run: Run) -> list[str]:
    """Run groups of jobs one after the other, and return why each job failed that did: the others go on. A JobError
    when all of them failed."""
    failures, number = list[str](), 0
    for group in groups:
        left, number = list(group), number + len(group)
        while left:
            try:
                run_jobs(left, profile, run)
                left = []
            except (JobError, hub.DownloadError) as error:
                place = next((place for place, job in enumerate(left) if not job.done), 0)
                failures.append(f"{run.relative(left[place].folder)}: {error}")
                print(failures[-1])
                left = left[place + 1 :]
    if failures and len(failures) == number:
        raise JobError("\n\n".join(failures))
    return failures


def fetch_models(job: Job, profile: Profile, run: Run) -> None:
    """Have the files of a job's models of the hub here before its ranks start, which would all ask for them."""
    for entry in job.content.get("models", [job.content]):
        path = str(entry.get("model", {}).get("path", ""))
        if hub.is_id(path) and not (run.folder / path).is_dir():
            draw(run.relative(job.folder), f"fetching {path}, unless it is here")
            hub.fetch(entry["model"], profile.model.convert)


def differences(before: dict, after: dict, prefix: str = "") -> Iterator[str]:
    """The settings in which two jobs differ, one per line."""
    for key in sorted((before.keys() | after.keys()) - {"fingerprint"}):
        old, new = before.get(key), after.get(key)
        if isinstance(old, dict) and isinstance(new, dict):
            yield from differences(old, new, f"{prefix}{key}.")
        elif old != new:
            yield f"{prefix}{key}: {json.dumps(old)[:120]} then, {json.dumps(new)[:120]} now"


def _supervise(jobs: Sequence[Job], profile: Profile, run: Run) -> None:
    """Start the ranks of jobs, which take them in turn, and follow each until it is done."""
    module, beats, logs = MODULES[jobs[0].content["kind"]], None, []
    if profile.run.hostfile:  # ranks on other machines cannot see whether this process lives
        beats = runs.write_atomic(jobs[0].folder / BEATS, runs.lifeline())
    for job in jobs:
        with (job.folder / "log.txt").open("ab") as stream:
            stream.write(f"==== {time.strftime('%Y-%m-%d %H:%M:%S')} {module} {job.folder / 'job.json'}\n".encode())
            logs.append((Path(stream.name), stream.tell()))
    with logs[0][0].open("ab") as stream:
        process = subprocess.Popen(
            command([job.folder / "job.json" for job in jobs], module, profile),
            cwd=runs.run_root(jobs[0].folder / "job.json"),
            env=environment(profile.run.devices),
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # a process group of its own, which can be ended as a whole
        )
    try:
        for job, (log, start) in zip(jobs, logs, strict=True):  # noqa: B007
            hung = _follow(job, process, profile, run, beats, last=job is jobs[-1])
            if hung or process.poll() is not None and not job.done:
                break
    finally:
        stop_group(process)
        if beats:
            beats.unlink(missing_ok=True)
        (run.folder / CURRENT).unlink(missing_ok=True)
    if hung:
        how = f"gave no sign of life for {profile.run.silence_seconds} s (run.silence_seconds) and was stopped: "
        how += "run the cell again to go on from its last checkpoint, or raise that number if it is only slow"
    elif process.returncode == 0 and job.done:
        return
    else:
        how = f"ended with exit code {process.returncode}" if process.returncode else "ended without its done.json"
    raise JobError(failure(job.folder, log, how, start))


def _follow(job: Job, process: subprocess.Popen, profile: Profile, run: Run, beats: Path | None, last: bool) -> bool:
    """Show a job's progress until it is done (the `last`: until its ranks have ended); whether it hung."""
    progress, log = job.folder / "progress.jsonl", job.folder / "log.txt"
    begun, hung, title, handle, drawn = time.time(), False, run.relative(job.folder), None, 0.0
    current = {"job": run.relative(job.folder / "job.json"), "since": begun, "pid": os.getpid()}
    runs.write_json(run.folder / CURRENT, current)
    seen, changed = None, time.monotonic()  # a clock that stands still while a laptop sleeps
    try:
        while process.poll() is None and not hung and (last or not job.done):
            if time.monotonic() - drawn > DRAW_SECONDS:
                drawn, state = time.monotonic(), latest(progress, since=begun)
                handle = draw(title, describe(state), share_done(state), progress, handle)
            if beats:
                with suppress(OSError):  # a file server that stumbles must not end the job
                    beats.touch()
            now = [(p.stat().st_mtime_ns, p.stat().st_size) for p in (progress, log) if p.exists()]
            if now != seen:
                seen, changed = now, time.monotonic()
            hung = time.monotonic() - changed > profile.run.silence_seconds
            time.sleep(POLL_SECONDS)
    finally:
        again = "; run the cell again to go on from there" if is_interactive() and not job.done else ""
        text = f"{'done' if job.done else 'stopped'} after {clock(time.time() - begun)}{again}"
        draw(title, text, None, progress, handle)
    return hung


def stop_group(process: subprocess.Popen) -> None:
    """End everything a job started: ask its process group to stop, then kill what is left."""
    try:
        _signal_group(process, signal.SIGTERM, GRACE_SECONDS)
    finally:  # also when a second interrupt ends the waiting
        _signal_group(process, signal.SIGKILL, 5.0)
        process.wait()


def _signal_group(process: subprocess.Popen, number: signal.Signals, seconds: float) -> None:
    with suppress(ProcessLookupError, PermissionError):  # macOS refuses to signal a group of dead processes
        os.killpg(process.pid, number)
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and _group_is_alive(process):
            time.sleep(0.05)


def _group_is_alive(process: subprocess.Popen) -> bool:
    """Whether any process of the job's group is left; dead ones that nobody has reaped do not count."""
    process.poll()
    for member in psutil.process_iter():
        with suppress(ProcessLookupError, PermissionError, psutil.Error):
            if os.getpgid(member.pid) == process.pid and member.status() != psutil.STATUS_ZOMBIE:
                return True
    return False


# ------------------------------------------------------------------------------------------------- failures

FULL_DISK = "The disk is full, or a quota is: free some space and run again; whole checkpoints and models are kept."
# Symptoms in a log (regular expressions), and what a person can do about each; the first that is found counts.
ADVICE = {
    r"no space left on device|quota exceeded|file too large|PytorchStreamWriter failed|inline_container.*unexpected": (
        FULL_DISK
    ),
    r"out of memory|(?:can.?t|cannot) allocate memory|not enough memory|MemoryError|bad_alloc|return code = -9\b": (
        "Out of memory (a process that the system kills says nothing else): lower per_device_train_batch_size and "
        "raise gradient_accumulation_steps, set activation_checkpointing: true, choose a DeepSpeed configuration with "
        "a higher ZeRO stage or offload; for generation, lower evaluation.batch_tokens."
    ),
    "FloatingPointError": (
        "The loss became NaN or infinite: lower learning_rate, raise warmup_steps, or train in float32. Other settings "
        "begin the stage anew, so delete its checkpoints."
    ),
    "is gone: stopping": (
        "What had started the ranks was killed (by the system, for its memory?): run again to go on from the last "
        "checkpoint."
    ),
}
# A Python error's last line, as it is or as torch prefixes it; what other ranks say once one has gone comes second.
SAID = re.compile(r"^(?:\[rank\d+\]: )?((?:[A-Za-z_]\w*\.)*[A-Z]\w*(?:Error|Exception|BadRow): .+)$", re.MULTILINE)
CONNECTION = re.compile(r"gloo|nccl|connection (?:closed|reset)|socket|store->get|broken pipe", re.IGNORECASE)


def failure(folder: Path, log: Path, how: str, start: int = 0, lines: int = 30) -> str:
    """What to tell a person about a failed job: `how` it ended, its error, advice, and the last lines of its log since
    the byte `start`, where this start of the job begins."""
    text = log.read_bytes()[start:].decode("utf-8", errors="replace")
    errors = SAID.findall(text)
    error = next((line for line in errors if not CONNECTION.search(line)), errors[0] if errors else "")
    advice = next((what for symptom, what in ADVICE.items() if re.search(symptom, text, re.IGNORECASE)), "")
    if shutil.disk_usage(folder).free < 2**20:  # no space to speak of, not even for a log that says so
        advice = FULL_DISK
    said = [f"{folder.name} {how} ({folder}).", error[:1000], advice, f"The last {lines} lines of {log}:"]
    return "\n".join([*filter(None, said), *text.splitlines()[-lines:]])


# ------------------------------------------------------------------------------------------------- progress


def latest(progress: Path, since: float = 0.0) -> dict[str, Any] | None:
    """The last whole line of a progress file that is not older than `since`, or None."""
    states = [state for state in runs.progress_lines(progress, 8192) if "time" in state]
    return states[-1] if states and states[-1]["time"] >= since else None


def share_done(state: dict[str, Any] | None) -> float | None:
    """How far a job is, from 0 to 1, if it says so."""
    said = state or {}
    done, total = said.get("step", said.get("done")), said.get("total_steps", said.get("total"))
    return min(1.0, done / total) if total and done is not None else None


def describe(state: dict[str, Any] | None) -> str:
    """One line of progress for people: phase, place, loss, speed and time left."""
    if not state:
        return "starting"
    parts = [state.get("phase", "running")]
    for done, total in (("step", "total_steps"), ("done", "total")):
        parts += [f"{state[done]:,}/{state[total]:,}"] if done in state and state.get(total) else []
    parts += [f"loss {state['loss']:.3f}"] if "loss" in state else []
    parts += [f"{state['tokens_per_second']:,.0f} tokens/s"] if state.get("tokens_per_second") else []
    parts += [f"{clock(state['seconds_left'])} left"] if state.get("seconds_left") is not None else []
    return " · ".join(parts)


def clock(seconds: float) -> str:
    """Seconds as `42 s`, `3:05` or `2:03:05`."""
    minutes, rest = divmod(round(seconds), 60)
    if minutes >= 60:
        return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"
    return f"{minutes}:{rest:02d}" if minutes else f"{rest} s"


def is_interactive() -> bool:
    """Whether the running cell was started from a browser or an editor: their requests let a cell ask its reader for
    input; those of papermill, nbconvert and nbclient do not."""
    from IPython import get_ipython

    kernel = getattr(get_ipython(), "kernel", None)  # None: a plain Python or a terminal
    request = (kernel.get_parent("shell") if kernel is not None else None) or {}
    return bool(request.get("content", {}).get("allow_stdin"))


def draw(title: str, text: str, share: float | None = None, progress: Path | None = None, handle: Any = None) -> Any:
    """Show a job's progress in the notebook, in place of what was shown under `handle`, and return the handle to do so
    again; to someone who looks on, with a bar and the loss curve of `progress`; in a plain Python, as a line."""
    from IPython import get_ipython
    from IPython.display import display

    if get_ipython() is None:
        print(f"{title}: {text}")
        return None
    shown = {"text/plain": f"{title}: {text}"}
    if is_interactive():
        shown["text/html"] = panel(title, text, share, read_losses(progress) if progress else ())
    if handle is None:
        return display(shown, display_id=True, raw=True)
    handle.update(shown, raw=True)
    return handle


def read_losses(progress: Path) -> list[tuple[float, float]]:
    """(update, loss) of every whole line that has both; a line that repeats an update of a resumed job replaces it."""
    states = runs.progress_lines(progress)
    return sorted({state["step"]: state["loss"] for state in states if "step" in state and "loss" in state}.items())


def panel(title: str, text: str, share: float | None = None, losses: Sequence[tuple[float, float]] = ()) -> str:
    """A job's title, a line on its state, a bar and its curve of (update, loss) so far, as HTML; both grow to the right
    with the share that is done, from 0 to 1."""
    shown = f"<strong>{escape(title)}</strong><br>{escape(text)}"
    if share is not None:
        shown += f'<br><progress value="{share:.3f}" style="width: 440px; max-width: 100%"></progress>'
    if len(losses) > 1:
        drawn = [loss for _, loss in losses[:: -(-len(losses) // 160)]]  # at most 160 points
        across, down = 440 * (share or 1.0) / len(drawn), 90 / ((max(drawn) - min(drawn)) or 1.0)
        points = " ".join(f"{across * i:.1f},{5 + down * (max(drawn) - loss):.1f}" for i, loss in enumerate(drawn))
        said = f"loss {losses[0][1]:.3f} at first, {losses[-1][1]:.3f} after {losses[-1][0]:,.0f} updates"
        line = f'<polyline points="{points}" fill="none" stroke="#0072b2" stroke-width="1.5"/>'
        shown += f'<br><svg role="img" aria-label="{said}" viewBox="0 0 440 100" width="440">{line}</svg><br>{said}'
    return f"<div>{shown}</div>"
