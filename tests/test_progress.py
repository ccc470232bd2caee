"""A job's progress: the last whole line, in words, and as a line that is rewritten in place."""

from __future__ import annotations

import json
import re
import time
from html.parser import HTMLParser
from pathlib import Path

import pytest

from qalign_core.jobs import progress
from qalign_core.shown import loss_curve


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


DAMAGED = [
    *('{"loss": 1.0}', '["loss"]', '"loss"', "5", '{"time": "x", "loss": 1}', '{"step": null, "loss": 1}'),
    *('{"step": "1", "loss": 1}', '{"step": [1], "loss": 1}', '{"step": -1, "loss": 1}', '{"step": true, "loss": 1}'),
    *('{"step": 5, "loss": "1"}', '{"step": 5, "loss": NaN}', '{"step": 5, "loss": -Infinity}'),
    '{"step": 5, "loss": ' + "9" * 400 + "}",
    '{"step": ' + "9" * 400 + ', "loss": 1}',
    '{"step": 5, "loss": ' + "9" * 5000 + "}",
    '{"step": 5, "loss": ' + "[" * 4000,
]


@pytest.mark.parametrize("line", DAMAGED)
def test_damaged_lines_are_passed_over(tmp_path: Path, line: str):
    path = tmp_path / "progress.jsonl"
    path.write_text(f'{{"time": 1, "step": 1, "loss": 2.0}}\n{line}\n{{"time": 2, "step": 2, "loss": 1.0}}\n{line}\n')
    losses = loss_curve.Losses(path)
    assert losses.read() == [(1, 2.0), (2, 1.0)]
    assert "nan" not in loss_curve.svg(losses.read(), losses.total_steps)
    assert progress.latest(path) == {"time": 2, "step": 2, "loss": 1.0}


@pytest.mark.parametrize(
    ("state", "text", "share"),
    [
        ({"time": 1}, "running", None),
        ({"phase": "[/red]<script>"}, "running", None),
        ({"phase": "training", "step": "a", "total_steps": [], "loss": "x"}, "training", None),
        ({"phase": "training", "step": -5, "total_steps": 5}, "training · -5/5", 0.0),
        ({"phase": "training", "seconds_left": float("inf"), "loss": 10**400}, "training", None),
    ],
)
def test_a_damaged_state_is_described_as_far_as_it_goes(state: dict, text: str, share: float | None):
    assert progress.describe(state) == text
    assert progress.share_done(state) == share


def test_a_damaged_total_leaves_the_curve_its_end(tmp_path: Path):
    path = tmp_path / "progress.jsonl"
    written(path, range(1, 4))
    with path.open("a") as stream:
        stream.writelines(
            f'{{"step": 4, "loss": 1, "total_steps": {total}}}\n' for total in ('"9"', "[]", "null", "NaN")
        )
    losses = loss_curve.Losses(path)
    assert losses.read()[-1] == (4, 1)
    assert losses.total_steps == 100


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


# ------------------------------------------------------------------------------------------------- curves


def written(path: Path, steps: range, total: int = 100) -> None:
    rows = [{"time": 1, "phase": "training", "step": s, "total_steps": total, "loss": 10 / s} for s in steps]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_losses_are_read_as_they_are_written(tmp_path: Path):
    path = tmp_path / "progress.jsonl"
    losses = loss_curve.Losses(path)
    assert losses.read() == []
    written(path, range(1, 4))
    assert losses.read() == [(1, 10.0), (2, 5.0), (3, 10 / 3)]
    with path.open("a") as stream:
        stream.write('{"time": 2, "phase": "training", "step": 4, "total_steps": 100}\n')  # a heartbeat
        stream.write('{"step": 4, "total_steps": 100, "loss": NaN}\n{"step": 4, "loss": torn\n{"step": 4, "lo')
    assert len(losses.read()) == 3
    with path.open("a") as stream:
        stream.write('ss": 2.5}\n')
    assert losses.read()[-1] == (4, 2.5)
    assert losses.total_steps == 100


def test_a_resumed_job_that_went_back_is_read_anew(tmp_path: Path):
    path = tmp_path / "progress.jsonl"
    losses = loss_curve.Losses(path)
    written(path, range(1, 50))
    assert losses.read()[-1][0] == 49
    new = tmp_path / "new"
    written(new, range(1, 60), total=200)  # longer than before, so only its being another file tells
    new.replace(path)
    assert [step for step, _ in losses.read()] == list(range(1, 60))
    assert losses.total_steps == 200
    written(path, range(1, 10))  # the same file, shorter
    assert [step for step, _ in losses.read()] == list(range(1, 10))


def test_a_curve_is_thinned_by_means():
    losses = [(step, float(step % 2)) for step in range(1, 1001)]
    thin = loss_curve.thinned(losses, most=100)
    assert len(thin) == 100
    assert {loss for _, loss in thin} == {0.5}
    assert thin[0][0] == 5.5
    assert loss_curve.thinned([]) == []
    assert loss_curve.thinned([(3, 0.5)]) == [(3.0, 0.5)]


class Lines(HTMLParser):
    """The points of a picture's line."""

    points: tuple[tuple[float, float], ...] = ()

    def handle_starttag(self, tag, attrs):
        if tag == "polyline":
            self.points = tuple(tuple(map(float, pair.split(","))) for pair in dict(attrs)["points"].split())


def test_the_curve_falls_from_left_to_right_within_its_picture():
    picture = loss_curve.svg([(1, 10.0), (25, 4.0), (50, 1.0)], total_steps=100)
    parser = Lines()
    parser.feed(picture)
    (x1, y1), (x2, y2), (x3, y3) = parser.points
    assert loss_curve.LEFT <= x1 < x2 < x3 <= loss_curve.LEFT + 0.51 * (loss_curve.WIDTH - loss_curve.LEFT)
    assert 0 < y1 < y2 < y3 <= loss_curve.HEIGHT - loss_curve.BOTTOM  # downwards is less
    assert "100 updates" in picture
    level = loss_curve.svg([(1, 2.0), (2, 2.0)], total_steps=0)  # neither a slope nor a known end
    assert "nan" not in level
    assert "2 updates" in level


def test_a_panel_escapes_and_shows_what_there_is():
    shown = loss_curve.panel("<b>", "<i>", share=0.25)
    assert "&lt;b&gt;" in shown
    assert "&lt;i&gt;" in shown
    assert "width: 25.0%" in shown
    assert "<svg" not in shown
    assert "width" not in loss_curve.panel("a", "b", losses=[(1, 1.0)])


class Display:
    """Stands for IPython's: what was shown, in the place of what."""

    def __init__(self) -> None:
        self.shown: list = []

    def __call__(self, thing, display_id: bool = False) -> Display:
        self.shown.append(thing)
        return self

    update = __call__


@pytest.mark.parametrize("there", [True, False])
def test_the_curve_is_drawn_only_where_someone_looks_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, there: bool):
    display = Display()
    monkeypatch.setattr("IPython.display.display", display)
    monkeypatch.setattr(progress, "someone_is_there", lambda: there)
    written(tmp_path / "progress.jsonl", range(1, 30))
    line = progress.ProgressLine("stage 1", every=0.0, progress=tmp_path / "progress.jsonl")
    line.update({"phase": "training", "step": 29, "total_steps": 100})
    line.finish(success=False)
    first, last = display.shown
    assert repr(first) == "stage 1: training · 29/100"
    assert bool(first._repr_html_()) == bool(last._repr_html_()) == there
    assert repr(last).endswith("run the cell again to go on from there") == there
    if there:
        assert "<svg" in first._repr_html_()
        assert "29.0%" in first._repr_html_()


def test_a_stage_that_was_done_before_is_named_only_where_someone_looks_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    display = Display()
    monkeypatch.setattr("IPython.display.display", display)
    (tmp_path / "done.json").write_text('{"wall_seconds": 185.0}')
    progress.show_done("stage 1", tmp_path)
    assert display.shown == []
    monkeypatch.setattr(progress, "someone_is_there", lambda: True)
    progress.show_done("stage 1", tmp_path)
    assert repr(display.shown[0]) == "stage 1: done before, in 3:05"
