"""Counting the answers that change in another precision."""

from __future__ import annotations

from pathlib import Path

import pytest

from qalign_core import generate, launch, params, plan, precision, prompts, runs
from qalign_core.runs import Run

SHIPPED_BASE = params.PARAMS_FOLDER.parent / "qalign_core" / "miniature" / "base"


def predict(folder: Path, responses: dict[str, dict[int, str]]) -> Path:
    """Predictions of mGSM: response by index by language."""
    for language, rows in responses.items():
        lines = [{"index": index, "prompt": f"p{index}", "response": text} for index, text in rows.items()]
        runs.write_json_lines(folder / "mgsm" / f"{language}.jsonl", lines)
    tasks = [{"name": "mgsm", "language": language} for language in responses]
    runs.write_json(folder / "job.json", {"tasks": tasks})
    return folder


def test_changed_texts_and_numbers_are_counted(tmp_path: Path) -> None:
    before = predict(tmp_path / "a", {"bn": {0: "is 3", 1: "is 4", 2: "is 5"}, "en": {0: "3", 1: "4", 2: "5"}})
    after = predict(tmp_path / "b", {"bn": {0: "gives 3", 2: "is 6"}, "en": {0: "3", 2: "5"}})
    changes = precision.count_changes(before, after)
    assert changes.values.tolist() == [["mgsm", "bn", 2, 2, 1], ["mgsm", "en", 2, 0, 0]]
    assert precision.sentence(changes, "QAlign", "bfloat16") == (
        "Of 4 questions that QAlign was asked in bfloat16 and again in float32, 2 have an answer with another text, "
        "1 of them with another last number."
    )
    after = predict(tmp_path / "c", {"en": {0: "3", 7: "4"}})
    with pytest.raises(ValueError, match=r"en\.jsonl: index 7 is another question than in"):
        precision.count_changes(before, after)


@pytest.fixture
def answered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Run, plan.Job]:
    """A run in which the shipped base model was asked five questions in two languages; jobs run in this process."""
    run = Run(tmp_path / "run")
    runs.write_atomic(run.profile, "")
    tasks = []
    for language in ("de", "en"):
        rows = [{"index": i, "question": f"What is {i + 2} times {i + 3}?"} for i in range(5)]
        rows = [{**row, "prompt": prompts.build("alpaca", row["question"], language)} for row in rows]
        path = runs.write_json_lines(run.prompts("mgsm", language), rows)
        task = {"name": "mgsm", "language": language, "path": run.relative(path), "sha256": runs.sha256_file(path)}
        tasks.append({**task, "max_new_tokens": 8})
    content = {
        "kind": "generate",
        "model": {"path": str(SHIPPED_BASE), "revision": None},
        "model_fingerprint": "m",
        "dtype": "float32",
        "batch_tokens": "auto",
        "tasks": tasks,
    }
    job = plan.Job({"fingerprint": "f", **content}, run.predictions(1, []) / "benchmarks")

    def run_here(job: plan.Job, *_: object) -> Path:
        runs.write_json(job.folder / "job.json", job.content)
        generate.generate(job.folder / "job.json")
        return job.folder

    monkeypatch.setattr(plan, "prediction_job", lambda *_: job)
    monkeypatch.setattr(launch, "run_job", run_here)
    return run, job


def test_a_part_is_asked_again_in_the_other_precision(answered: tuple[Run, plan.Job]) -> None:
    run, job = answered
    profile = params.load("smoke")
    with pytest.raises(FileNotFoundError, match="Base has not answered yet"):
        precision.ask_again(profile, run, "Base", 1)
    launch.run_job(job, profile, run)
    changes = precision.ask_again(profile, run, "Base", 1, per_language=2)
    assert changes["asked"].tolist() == [2, 2]
    again = job.folder.with_name("benchmarks-bfloat16")
    content = runs.read_json(again / "job.json")
    assert content["dtype"] == "bfloat16"
    assert content["fingerprint"] != job.content["fingerprint"]
    assert [row["index"] for row in runs.read_json_lines(again / "mgsm" / "de.jsonl")] == [0, 2]
    before = {row["index"]: row["response"] for row in runs.read_json_lines(job.folder / "mgsm" / "de.jsonl")}
    changed = sum(before[row["index"]] != row["response"] for row in runs.read_json_lines(again / "mgsm" / "de.jsonl"))
    assert changes["other_text"][0] == changed


def test_a_model_that_does_not_fit_in_the_other_precision_is_skipped_with_a_note(
    answered: tuple[Run, plan.Job], monkeypatch: pytest.MonkeyPatch
) -> None:
    run, job = answered
    profile = params.load("smoke")
    launch.run_job(job, profile, run)
    monkeypatch.setattr(precision, "device_memory", lambda devices: 1 << 20)
    changes = precision.ask_again(profile, run, "Base", 1, per_language=2)
    assert changes.empty
    said = precision.sentence(changes, "Base", "float32")
    assert said.startswith("Base was not asked again in bfloat16: its weights take 0.0 GiB in bfloat16, and each of")
