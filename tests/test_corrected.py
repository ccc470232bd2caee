"""Scores on a corrected benchmark: new golds are scored again, new texts asked again, nothing is left out unsaid."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest

from qalign_core import params, plan, runs, scorer
from qalign_core.data.rows import BadRow
from qalign_core.jobs import overview
from qalign_core.params import Profile
from qalign_core.runs import Run
from qalign_core.scores import brought, corrected
from qalign_core.scores.predictions import read_benchmark, read_predictions
from qalign_core.shown import response_tables

QUESTIONS = {"de": ["Anna hat 3 Äpfel.", "Ben hat 5 Birnen.", "Cem?"], "en": ["Ann has 3.", "Ben has 5.", "Cem has 9."]}
GOLDS = ["3", "5", "9"]
# The German gold of row 1 was wrong, and its row 2 asked nothing. English stays as it is.
CORRECTED = [("Anna hat 3 Äpfel.", "3"), ("Ben hat 5 Birnen.", "1,000"), ("Cem hat 9 Nüsse.", "9")]
ANSWERS = {"de": ["3", "1000", "4"], "en": ["3", "5", "9"]}


@pytest.fixture
def run(tmp_path: Path) -> Run:
    found = Run(tmp_path / "run")
    for code, texts in QUESTIONS.items():
        rows = [{"index": i, "question": text, "answer": GOLDS[i]} for i, text in enumerate(texts)]
        runs.write_json_lines(found.benchmark("mgsm", code), rows)
        made = [{"index": i, "question": text, "response": ANSWERS[code][i]} for i, text in enumerate(texts)]
        runs.write_json_lines(tmp_path / "made" / "benchmarks" / "mgsm" / f"{code}.jsonl", made)
    write(tmp_path, CORRECTED)
    return found


def write(tmp_path: Path, rows: list[tuple[str, str]]) -> None:
    (tmp_path / "better" / "mgsm").mkdir(parents=True, exist_ok=True)
    text = "".join(f"{question}\t{gold}\n" for question, gold in rows)
    (tmp_path / "better" / "mgsm" / "mgsm_de.tsv").write_text(text, encoding="utf-8")


def profile_of(tmp_path: Path, system: dict[str, Any], **test: Any) -> Profile:
    return params.validate(
        {
            "run": {"profile": "mended", "seeds": [0]},
            "model": {"base": "miniature"},
            "data": {"languages": ["de", "en"], "sources": {"mgsm": "folder"}},
            "systems": {"A": system},
            "training": {},
            "evaluation": {
                "benchmarks": {"mgsm": {"max_new_tokens": 9, **test}},
                "corrected": {"mgsm": str(tmp_path / "better")},
            },
        }
    )


def theirs(tmp_path: Path) -> dict[str, Any]:
    return {"predictions": str(tmp_path / "made" / "benchmarks"), "fields": {"finish_reason": None}}


def answers_of(profile: Profile, run: Run) -> pd.DataFrame:
    gold = read_benchmark(run.folder / "data" / "benchmarks", "mgsm", profile.data.languages)
    return scorer.score(brought.read_answers(profile, run, "A", 0), gold, system="A", seed=0)


def test_what_differs_is_found_by_row(run: Run, tmp_path: Path):
    table = corrected.corrected_questions(profile_of(tmp_path, theirs(tmp_path)), run)
    german = table[table["language"] == "de"]
    assert german["new_text"].tolist() == [False, False, True]
    assert german["new_gold"].tolist() == [False, True, False]
    assert not table.loc[table["language"] == "en", ["new_text", "new_gold"]].any(axis=None)


def test_brought_answers_are_scored_with_new_golds_and_without_questions_of_a_new_text(run: Run, tmp_path: Path):
    profile = profile_of(tmp_path, theirs(tmp_path))
    assert corrected.job(profile, run, "A", 0) is None
    table = corrected.corrected_accuracy(profile, run, answers_of(profile, run))
    paper = table[table["scorer"] == "paper"].set_index("language")
    assert paper.loc["de", ["total", "removed", "new_golds", "new_texts"]].tolist() == [2, 1, 1, 1]
    assert paper.loc["de", ["accuracy", "corrected"]].tolist() == pytest.approx([100 / 3, 100.0])
    assert paper.loc["en", ["total", "removed", "accuracy", "corrected"]].tolist() == [3, 0, 100.0, 100.0]
    shown = response_tables.corrected_table(table)
    assert shown.text.loc[0, ["Avg.", "Avg., corrected", "left out"]].tolist() == ["66.7", "100.0", "1"]
    assert "1 gold answers (de 1) and 1 questions (de 1) differ" in shown.caption


def test_our_systems_are_asked_the_new_texts_and_nothing_else(run: Run, tmp_path: Path, monkeypatch):
    profile = profile_of(tmp_path, {"checkpoint": "a/b", "template": "metamath"})
    folder = tmp_path / "made" / "benchmarks"
    content = {"fingerprint": "x", "model_fingerprint": "m", "dtype": "float32", "tasks": []}
    monkeypatch.setattr(plan, "prediction_job", lambda *_: SimpleNamespace(content=content, folder=folder))
    monkeypatch.setattr(brought, "read_answers", lambda *_: read_predictions(folder, fields={"finish_reason": None}))
    job = corrected.job(profile, run, "A", 0)
    assert job is not None
    assert job.folder == tmp_path / "made" / "corrected"
    (task,) = job.content["tasks"]
    assert (task["name"], task["language"], task["max_new_tokens"]) == ("mgsm", "de", 9)
    (asked,) = runs.read_json_lines(run.folder / task["path"])
    assert asked["index"] == 2
    assert "Cem hat 9 Nüsse." in asked["prompt"]
    assert asked["prompt"].endswith("Let's think step by step.")
    assert corrected.job(profile, run, "A", 0).content == job.content
    write(tmp_path, [*CORRECTED[:2], ("Cem hat neun Nüsse.", "9")])
    assert corrected.job(profile, run, "A", 0).content["fingerprint"] != job.content["fingerprint"]
    write(tmp_path, CORRECTED)
    answer = {"index": 2, "question": "Cem hat 9 Nüsse.", "response": "9", "finish_reason": "stop"}
    runs.write_json_lines(job.folder / "mgsm" / "de.jsonl", [answer])
    table = corrected.corrected_accuracy(profile, run, answers_of(profile, run))
    german = table[table["scorer"] == "paper"].set_index("language").loc["de"]
    assert german[["total", "removed"]].tolist() == [3, 0]
    assert german[["accuracy", "corrected"]].tolist() == pytest.approx([100 / 3, 100.0])


def test_a_change_of_the_files_is_a_change_of_the_notebook(run: Run, tmp_path: Path):
    profile = profile_of(tmp_path, theirs(tmp_path))
    before = brought.contents(profile)
    write(tmp_path, [*CORRECTED[:2], ("Cem hat 8 Nüsse.", "8")])
    assert brought.contents(profile) != before


def test_files_that_do_not_fit_are_named(run: Run, tmp_path: Path):
    profile = profile_of(tmp_path, theirs(tmp_path))
    write(tmp_path, CORRECTED[:2])
    with pytest.raises(BadRow, match=r"mgsm_de\.tsv: 2 questions, but mgsm has 3 in this run"):
        corrected.corrected_questions(profile, run)
    write(tmp_path, [*CORRECTED, ("Eine Frage mehr.", "1")])
    with pytest.raises(BadRow, match=r"mgsm_de\.tsv: 4 questions, but mgsm has 3"):
        corrected.corrected_questions(profile, run)
    limited = profile_of(tmp_path, theirs(tmp_path), limit=3)  # a part of the benchmark takes a part of the file
    assert len(corrected.corrected_questions(limited, run)) == 6
    (tmp_path / "better" / "mgsm" / "mgsm_de.tsv").unlink()
    with pytest.raises(FileNotFoundError, match=r"evaluation\.corrected\.mgsm: .*better holds no file of mgsm"):
        corrected.corrected_questions(profile, run)


def test_the_overview_lists_what_is_asked_again(run: Run, tmp_path: Path, monkeypatch):
    profile = profile_of(tmp_path, {"checkpoint": "a/b"})
    content = {"fingerprint": "x", "model_fingerprint": "m", "dtype": "float32", "tasks": []}
    job = plan.Job(content, tmp_path / "made" / "benchmarks")
    for file in ("job.json", "done.json"):
        runs.write_json(job.folder / file, content)
    for module in (plan, overview):
        monkeypatch.setattr(module, "prediction_job", lambda *_: job)
    name, looked_at = "answers    seed 0: A, corrected questions", Run(run.folder, read_only=True)
    before = runs.sha256_tree(run.folder)
    assert (name, False, "not begun") in list(overview.overview(profile, looked_at))
    assert runs.sha256_tree(run.folder) == before
    again = corrected.job(profile, run, "A", 0)
    for file in ("job.json", "done.json"):
        runs.write_json(again.folder / file, again.content)
    assert (name, True, "") in list(overview.overview(profile, looked_at))
    write(tmp_path, list(zip(QUESTIONS["de"], GOLDS, strict=True)))
    assert name not in {line[0] for line in overview.overview(profile, looked_at)}
