"""One question followed through the run: what was asked, what stage 1 made of it, what was answered."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

from qalign_core import params, plan, runs
from qalign_core.data import prepare
from qalign_core.params import PARAMS_FOLDER, Profile
from qalign_core.runs import Run
from qalign_core.scores import brought
from qalign_core.shown import journey

QUESTIONS = {"sw": "Ana ana matufaha <3>?", "en": "Ann has <3> apples?"}


def profile_of(**systems: Any) -> Profile:
    sections = yaml.safe_load((PARAMS_FOLDER / "smoke.yaml").read_text(encoding="utf-8"))
    sections["data"]["languages"] = list(QUESTIONS)
    sections["systems"] = systems or {
        "MonoReason": {"lineage": ["metamathqa"]},
        "QAlign": {"lineage": ["questions-x-en", "metamathqa"]},
        "SFT": {"lineage": ["metamathqa"]},
    }
    return params.validate(sections)


def finish(job: plan.Job) -> None:
    runs.write_json(job.folder / "job.json", job.content)
    runs.write_json(job.folder / "done.json", job.content)


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """A run whose base and stage 1 have translated two questions, and whose answers are scored."""
    found = Run(tmp_path)
    said = {"translation": ["Ann has <3>?", "Second?"], "followed": ["matufaha matufaha"]}
    for code, question in QUESTIONS.items():
        runs.write_json_lines(
            found.benchmark("mgsm", code), [{"index": i, "question": f"{question}{i}"} for i in (0, 1)]
        )
    jobs = {task: plan.Job({"fingerprint": task}, found.folder / task) for task in said}
    for task, responses in said.items():
        rows = [{"index": i, "response": response} for i, response in enumerate(responses)]
        runs.write_json_lines(jobs[task].folder / task / "sw.jsonl", rows)
        finish(jobs[task])
    monkeypatch.setattr(plan, "translation_job", lambda *_, task="translation": jobs[task])
    monkeypatch.setattr(brought, "answers_folder", lambda profile, run, system, seed: run.folder / system)
    scored = []
    for system in ("MonoReason", "QAlign", "SFT"):
        for code in QUESTIONS:
            rows = [{"index": i, "response": f"{system} says <b>{i}</b>"} for i in (0, 1)]
            runs.write_json_lines(found.folder / system / "mgsm" / f"{code}.jsonl", rows)
            line = {"system": system, "seed": 1, "benchmark": "mgsm", "language": code}
            scored += [{**line, "index": i, "correct_paper": system == "QAlign"} for i in (0, 1)]
    found.results.mkdir()
    pd.DataFrame(scored).to_parquet(found.results / "answers.parquet")
    return found


def test_before_any_answer_the_base_stands_beside_stage_1(run: Run):
    page = journey.follow(profile_of(), run, 1)
    assert "before: the base says" in page
    assert "matufaha matufaha" in page
    assert "after: stage 1 says" in page
    assert "Ann has &lt;3&gt;?" in page
    assert "answers" not in page


def test_afterwards_the_answers_are_marked_and_the_others_only_counted(run: Run):
    page = journey.follow(profile_of(), run, 1, systems=journey.COMPARED)
    assert "before: the base says" not in page
    assert page.count("QAlign says &lt;b&gt;0&lt;/b&gt;") == 2  # in both languages, escaped
    assert "SFT says" not in page
    assert page.count("✓") == 2
    assert page.count("✗") == 4  # MonoReason and, among the others, SFT


def test_another_question_is_followed_without_the_base(run: Run):
    page = journey.follow(profile_of(), run, 1, index=1)
    assert "Second?" in page
    assert "the base says" not in page
    with pytest.raises(ValueError, match="no question 7; it has 2, numbered from 0"):
        journey.follow(profile_of(), run, 1, index=7)


def test_a_language_names_itself(run: Run):
    page = journey.follow(profile_of(), run, 1)
    assert "Kiswahili" in page
    assert page.count("<tr>") == 3


def test_what_is_not_there_is_said(run: Run):
    (run.folder / "translation" / "done.json").unlink()
    assert "run notebook 02 first" in journey.follow(profile_of(), run, 1)
    alone = profile_of(MonoReason={"lineage": ["metamathqa"]})
    assert "trains no stage 1" in journey.follow(alone, run, 1)


def test_the_base_is_asked_to_translate_as_stage_1_is():
    (asked,) = prepare._to_english(profile_of(), [{"index": 0, "question": "?", "answer": "1"}], "sw")
    assert asked["index"] == 0
    assert "Translate the following sentences from Swahili (macrolanguage) to English. ?" in asked["prompt"]
