"""How far a job is: the last line of its `progress.jsonl`, in words and as a line that is rewritten in place."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any


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
