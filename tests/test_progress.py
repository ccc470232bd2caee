"""A job's progress: the last whole line, in words, and as a line that is rewritten in place."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path

import pytest

from qalign_core import progress


def test_the_latest_state_is_the_last_whole_line(tmp_path: Path):
    path = tmp_path / "progress.jsonl"
    assert progress.latest(path) is None
    path.write_text('{"time": 1, "step": 1}\n{"time": 2, "step": 2}\n{"time": 3, "st')
    assert progress.latest(path) == {"time": 2, "step": 2}
    assert progress.latest(path, since=5) is None  # of an earlier start
    path.write_text("".join(json.dumps({"time": i, "phase": "x" * 100}) + "\n" for i in range(1000)))
    assert progress.latest(path)["time"] == 999
    path.write_text("not json\n")
    assert progress.latest(path) is None


def test_progress_reads_as_a_line():
    state = {"phase": "training", "step": 1200, "total_steps": 9258, "loss": 0.51234, "tokens_per_second": 12345.6}
    assert progress.describe({**state, "seconds_left": 3725}) == (
        "training · 1,200/9,258 · loss 0.512 · 12,346 tokens/s · 1:02:05 left"
    )
    assert progress.describe({"phase": "generating", "done": 3, "total": 10}) == "generating · 3/10"
    assert progress.describe({"phase": "loading"}) == "loading"
    assert progress.describe(None) == "starting"


def test_progress_has_a_share():
    assert progress.share_done({"step": 1, "total_steps": 4}) == 0.25
    assert progress.share_done({"done": 5, "total": 4}) == 1.0
    assert progress.share_done({"phase": "loading"}) is None
    assert progress.share_done({"step": 0, "total_steps": 4}) == 0.0


@pytest.mark.parametrize(("seconds", "text"), [(0.4, "0 s"), (59.4, "59 s"), (185, "3:05"), (7385.2, "2:03:05")])
def test_a_clock_reads_as_people_write(seconds: float, text: str):
    assert progress.clock(seconds) == text


def test_a_progress_line_does_not_flood_its_cell(capsys):
    line = progress.ProgressLine("stage 1", every=0.2)
    begun = time.monotonic()
    while time.monotonic() - begun < 0.5:
        line.update({"phase": "training"})
    line.finish(success=True)
    shown = capsys.readouterr().out.splitlines()  # outside a notebook a display is a printed line
    assert 3 <= len(shown) <= 4
    assert shown[0] == "stage 1: training"
    assert re.fullmatch(r"stage 1: done after \d s", shown[-1])
