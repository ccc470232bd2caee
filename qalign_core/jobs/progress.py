"""How far a job is: the last line of its `progress.jsonl`, in words, and what a notebook shows of it in place."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Any

from qalign_core.shown.live import someone_is_there
from qalign_core.shown.loss_curve import Losses, number, panel, parsed

PHASE = re.compile(r"[a-z][a-z ]{0,39}")  # what a line may begin with


def latest(progress: Path, since: float = 0.0) -> dict[str, Any] | None:
    """The last whole line of a progress file that is not older than `since`, or None; damaged ones are passed over."""
    try:
        with progress.open("rb") as stream:
            stream.seek(max(0, progress.stat().st_size - 8192))
            lines = stream.read().split(b"\n")
    except OSError:  # not there yet, or a file server that stumbles
        return None
    for state in map(parsed, reversed(lines[:-1])):
        if (at := number(state.get("time"))) is not None:
            return state if at >= since else None
    return None


def share_done(state: dict[str, Any]) -> float | None:
    """How far a job is, from 0 to 1, if it says so."""
    done, total = number(state.get("step", state.get("done"))), number(state.get("total_steps", state.get("total")))
    return min(1.0, max(0.0, done / total)) if total and done is not None else None


def describe(state: dict[str, Any] | None) -> str:
    """One line of progress for people: phase, place, loss, speed and time left."""
    if not state:
        return "starting"
    phase = str(state.get("phase"))
    parts = [phase if PHASE.fullmatch(phase) else "running"]
    said = {key: found for key, value in state.items() if (found := number(value)) is not None}
    for done, total in (("step", "total_steps"), ("done", "total")):
        if done in said and said.get(total):
            parts.append(f"{said[done]:,}/{said[total]:,}")
    if "loss" in said:
        parts.append(f"loss {said['loss']:.3f}")
    if said.get("tokens_per_second"):
        parts.append(f"{said['tokens_per_second']:,.0f} tokens/s")
    if "seconds_left" in said:
        parts.append(f"{clock(said['seconds_left'])} left")
    return " · ".join(parts)


def clock(seconds: float) -> str:
    """Seconds as `42 s`, `3:05` or `2:03:05`."""
    seconds = round(seconds)
    hours, rest = divmod(seconds, 3600)
    if hours:
        return f"{hours}:{rest // 60:02d}:{rest % 60:02d}"
    return f"{rest // 60}:{rest % 60:02d}" if rest >= 60 else f"{rest} s"


class ProgressLine:
    """A job's progress in the notebook, drawn again in place: a line, and where someone looks on a bar and the losses.

    Args:
        title: of the job.
        every: seconds between two drawings, at least.
        progress: the job's `progress.jsonl`, for its losses.
    """

    def __init__(self, title: str, every: float = 2.0, progress: Path | None = None) -> None:
        self.title, self.every = title, every
        self.begun = time.monotonic()
        self.last = -every
        self.handle: Any = None
        self.losses = Losses(progress) if progress is not None and someone_is_there() else None

    def _draw(self, text: str, share: float | None = None) -> None:
        from IPython.display import display

        picture = None
        if self.losses is not None:
            losses = self.losses.read()
            picture = panel(self.title, text, share, losses, self.losses.total_steps)
        shown = _Shown(f"{self.title}: {text}", picture)
        if self.handle is None:
            self.handle = display(shown, display_id=True)
        else:
            self.handle.update(shown)

    def update(self, state: dict[str, Any] | None) -> None:
        if time.monotonic() - self.last > self.every:
            self.last = time.monotonic()
            self._draw(describe(state), share_done(state) if state else None)

    def finish(self, success: bool) -> None:
        text = f"{'done' if success else 'stopped'} after {clock(time.monotonic() - self.begun)}"
        if self.losses is not None and not success:
            text += "; run the cell again to go on from there"
        self._draw(text)


class _Shown:
    """Text that may be shown as HTML as well."""

    def __init__(self, text: str, html: str | None) -> None:
        self.text, self.html = text, html

    def __repr__(self) -> str:
        return self.text

    def _repr_html_(self) -> str | None:
        return self.html


def show_done(title: str, folder: Path) -> None:
    """Where someone looks on, say that a job was done before; in executed notebooks its cell stays as it is.

    Args:
        title: of the job.
        folder: with its `done.json`.
    """
    if not someone_is_there():
        return
    from IPython.display import display

    seconds = number(parsed((folder / "done.json").read_bytes()).get("wall_seconds"))
    text = "done before" + (f", in {clock(seconds)}" if seconds is not None else "")
    display(_Shown(f"{title}: {text}", panel(title, text)))
