"""The log of openings: every look at a test set leaves one line, and says by which recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from qalign_core import launch, params, plan, runs
from qalign_core.params import PARAMS_FOLDER, Profile
from qalign_core.runs import Run
from qalign_core.scores import openings


def profile_of(**changes: Any) -> Profile:
    sections = yaml.safe_load((PARAMS_FOLDER / "smoke.yaml").read_text(encoding="utf-8"))
    sections["data"]["languages"] = ["sw", "en"]
    for key, value in changes.items():
        *way, last = key.split("__")
        place = sections
        for name in way:
            place = place.setdefault(name, {})
        place[last] = value
    return params.validate(sections)


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """A run whose answers have the fingerprint of the profile's benchmarks, as if jobs were planned."""
    found = Run(tmp_path)
    for name in ("mgsm", "msvamp"):
        for code in ("sw", "en"):
            runs.write_json_lines(found.benchmark(name, code), [{"index": i} for i in range(3)])
    monkeypatch.setattr(openings, "answers_print", lambda profile, run, system, seed: f"{system}-{seed}")
    return found


def test_a_look_is_logged_once_for_the_same_answers(run: Run, monkeypatch: pytest.MonkeyPatch):
    profile = profile_of()
    for _ in range(2):
        openings.record(profile, run, "QAlign", 1, "scored")
    log = openings.read(run)
    assert list(log.columns) == openings.COLUMNS
    assert list(log.benchmark) == ["mgsm", "msvamp"]
    assert set(log.questions) == {6}
    assert set(log.split) == {"test"}
    monkeypatch.setattr(openings, "answers_print", lambda *_: "others")
    openings.record(profile, run, "QAlign", 1, "scored")
    openings.record(profile, run, "QAlign", 1, "answered")
    assert list(openings.read(run).action) == ["scored"] * 4 + ["answered"] * 2


def test_the_development_questions_are_told_apart(run: Run):
    openings.record(profile_of(data__miniature__split="development"), run, "QAlign", 1, "scored")
    assert set(openings.read(run).split) == {"development"}


def test_the_recipe_is_what_makes_a_system_and_nothing_else():
    before = openings.recipe_print(profile_of(), "QAlign")
    same = [
        {"run__devices": 1},
        {"evaluation__batch_tokens": 99},
        {"data__miniature__split": "development"},
        {"data__miniature__sizes__mgsm": 7},
        {"data__corpora": {"half": {"of": "questions-x-en", "share": 0.5}}},
        {"systems__Other": {"lineage": []}},
    ]
    other = [
        {"training__learning_rate": 0.5},
        {"data__miniature__sizes__questions": 7},
        {"data__corpora": {"questions-x-en": {"limit": 3}}},
        {"systems__QAlign__lineage": ["questions-x-en"]},
        {"model__pad_token": "[PAD]"},
    ]
    assert {openings.recipe_print(profile_of(**change), "QAlign") for change in same} == {before}
    found = {openings.recipe_print(profile_of(**change), "QAlign") for change in other}
    assert len(found) == len(other)
    assert before not in found


def test_asking_logs_only_what_was_not_answered_before(run: Run, monkeypatch: pytest.MonkeyPatch):
    job = plan.Job({"fingerprint": "x"}, run.folder / "job")
    monkeypatch.setattr(plan, "prediction_jobs", lambda *_: iter([job]))

    def finish(job: plan.Job, *_: Any) -> None:
        runs.write_json(job.folder / "job.json", job.content)
        runs.write_json(job.folder / "done.json", job.content)

    monkeypatch.setattr(launch, "run_job", finish)
    openings.ask(profile_of(), run, "QAlign", 1)
    assert list(openings.read(run).action) == ["answered", "answered"]
    monkeypatch.setattr(openings, "answers_print", lambda *_: "not looked at")
    openings.ask(profile_of(), run, "QAlign", 1)
    assert len(openings.read(run)) == 2


def test_looks_are_counted_by_set_and_system(run: Run, monkeypatch: pytest.MonkeyPatch):
    openings.record(profile_of(), run, "QAlign", 1, "answered")
    openings.record(profile_of(), run, "QAlign", 1, "scored")
    monkeypatch.setattr(openings, "answers_print", lambda *_: "others")
    openings.record(profile_of(training__learning_rate=0.5), run, "QAlign", 1, "scored")
    lines = openings.looks_table(run).data.set_index("benchmark")
    assert list(lines.index) == ["mgsm", "msvamp"]
    assert lines.loc["mgsm", ["split", "system", "seeds", "recipes", "looks"]].tolist() == ["test", "QAlign", 1, 2, 2]


def test_an_empty_log_is_an_empty_table(tmp_path: Path):
    assert openings.looks_table(tmp_path).data.empty
