"""A job's progress as a small picture: a bar, and the losses so far as an SVG that is cheap to draw again and again."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path
from typing import Any

WIDTH, HEIGHT = 440, 110  # pixels of the picture
LEFT, BOTTOM = 40, 16  # of them, for the numbers
POINTS = 160  # drawn at most; more losses than that are averaged
COLOUR = "#0072b2"
LARGEST = 10**15  # of the numbers that a progress file says; others are damaged, and would not fit a line


class Losses:
    """The losses that a job's progress file holds; each call reads only what was written since the last.

    Args:
        path: the job's `progress.jsonl`, which may not be there yet.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._begin(0)

    def _begin(self, file: int) -> None:
        self.file, self.offset = file, 0
        self.found: dict[int, float] = {}
        self.total_steps = 0  # updates of the whole job, as the last line said

    def read(self) -> list[tuple[int, float]]:
        """(update, loss) of every line so far that has a loss, in order."""
        try:
            with self.path.open("rb") as stream:
                found = self.path.stat()
                if found.st_ino != self.file or found.st_size < self.offset:  # a resumed job writes it anew
                    self._begin(found.st_ino)
                stream.seek(self.offset)
                new = stream.read()
        except OSError:  # not there yet, or a file server that stumbles: what is drawn must never end a job
            new = b""
        whole = new[: new.rfind(b"\n") + 1]
        self.offset += len(whole)
        for state in _states(whole):
            self.found[int(state["step"])] = state["loss"]
            self.total_steps = int(number(state.get("total_steps")) or self.total_steps)
        return sorted(self.found.items())


def _states(lines: bytes) -> Iterator[dict[str, Any]]:
    """The lines of a progress file that have an update and a finite loss; damaged ones are passed over."""
    for line in lines.splitlines():
        state = parsed(line) if b'"loss"' in line else {}
        step = number(state.get("step"))
        if step is not None and step >= 0 and number(state.get("loss")) is not None:
            yield state


def parsed(line: bytes) -> dict[str, Any]:
    """What a line of a progress file says; nothing if it is damaged: what is drawn must never end a job."""
    try:
        state = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return state if isinstance(state, dict) else {}


def number(value: Any) -> float | None:
    """A number that can be drawn and written; None for anything else, NaN and infinities included."""
    there = isinstance(value, int | float) and not isinstance(value, bool)
    return value if there and -LARGEST < value < LARGEST else None


def thinned(losses: Sequence[tuple[int, float]], most: int = POINTS) -> list[tuple[float, float]]:
    """At most `most` points: means of neighbouring updates and of their losses."""
    size = -(-len(losses) // most) if losses else 1
    groups = [losses[start : start + size] for start in range(0, len(losses), size)]
    return [(sum(s for s, _ in group) / len(group), sum(x for _, x in group) / len(group)) for group in groups]


def svg(losses: Sequence[tuple[int, float]], total_steps: int) -> str:
    """The curve over all updates there will be, so that it grows to the right.

    Args:
        losses: (update, loss), in order; two at least.
        total_steps: updates of the whole job.
    """
    points = thinned(losses)
    low, high = min(loss for _, loss in points), max(loss for _, loss in points)
    span, end = (high - low) or 1.0, max(total_steps, losses[-1][0], 1)
    width, height = WIDTH - LEFT - 4, HEIGHT - BOTTOM - 8
    line = " ".join(
        f"{LEFT + width * step / end:.1f},{8 + height * (1 - (loss - low) / span):.1f}" for step, loss in points
    )
    axis = f"M{LEFT} 4V{8 + height}H{LEFT + width}"
    numbers = "".join(
        f'<text x="{x}" y="{y:.0f}" text-anchor="{anchor}">{text}</text>'
        for x, y, anchor, text in (
            (LEFT - 5, 13, "end", f"{high:.3g}"),
            (LEFT - 5, 8 + height, "end", f"{low:.3g}"),
            (LEFT, HEIGHT - 3, "start", "0"),
            (LEFT + width, HEIGHT - 3, "end", f"{end:,} updates"),
        )
    )
    said = f"loss over {losses[-1][0]:,} of {end:,} updates: {losses[0][1]:.3f} at first, {losses[-1][1]:.3f} at last"
    return (
        f'<svg role="img" aria-label="{said}" width="{WIDTH}" height="{HEIGHT}" viewBox="0 0 {WIDTH} {HEIGHT}" '
        f'style="display: block; max-width: 100%; font: 10px sans-serif; fill: currentColor"><title>{said}</title>'
        f'<path d="{axis}" fill="none" stroke="currentColor" stroke-opacity=".4"/><g opacity=".75">{numbers}</g>'
        f'<polyline points="{line}" fill="none" stroke="{COLOUR}" stroke-width="1.5" stroke-linejoin="round"/></svg>'
    )


def panel(
    title: str, text: str, share: float | None = None, losses: Sequence[tuple[int, float]] = (), total_steps: int = 0
) -> str:
    """A job's title, a line on its state, a bar, and its loss curve once there are two losses, as HTML.

    Args:
        title: of the job.
        text: where it is.
        share: done so far, from 0 to 1; without it there is no bar.
        losses: (update, loss), in order.
        total_steps: updates of the whole job.
    """
    bar = ""
    if share is not None:
        fill = f'<div style="width: {100 * share:.1f}%; height: 100%; background: {COLOUR}"></div>'
        track = f"max-width: {WIDTH}px; height: 6px; background: rgba(127, 127, 127, .3); margin: .3em 0"
        bar = f'<div style="{track}">{fill}</div>'
    curve = svg(losses, total_steps) if len(losses) > 1 else ""
    return (
        f'<div style="margin: .3em 0"><strong>{escape(title)}</strong><br>'
        f'<span style="font-variant-numeric: tabular-nums">{escape(text)}</span>{bar}{curve}</div>'
    )
