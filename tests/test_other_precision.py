"""Asking a part again in the other precision, and counting the answers that change."""

from __future__ import annotations

from pathlib import Path

import pytest

from qalign_core import generate, params, plan, prompts, responses, runs
from qalign_core.runs import Run

SHIPPED_BASE = params.PARAMS_FOLDER.parent / "qalign_core" / "miniature" / "base" / "seed-1"


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
    changes = responses.changed_answers(before, after)
    assert changes.values.tolist() == [["mgsm", "bn", 2, 2, 1], ["mgsm", "en", 2, 0, 0]]
    after = predict(tmp_path / "c", {"en": {0: "3", 7: "4"}})
    with pytest.raises(ValueError, match=r"en\.jsonl: index 7 is another question than in"):
        responses.changed_answers(before, after)


def answered(run: Run) -> plan.Job:
    """The shipped base model was asked five questions in two languages."""
    tasks = []
    for language in ("de", "en"):
        rows = [{"index": i, "question": f"What is {i + 2} times {i + 3}?"} for i in range(5)]
        rows = [{**row, "prompt": prompts.build("alpaca", row["question"], language)} for row in rows]
        path = runs.write_json_lines(run.prompts("mgsm", language), rows)
        task = {"name": "mgsm", "language": language, "path": run.relative(path), "sha256": runs.sha256_file(path)}
        tasks.append({**task, "max_new_tokens": 8})
    model = {"path": str(SHIPPED_BASE), "revision": None}
    content = {"fingerprint": "f", "kind": "generate", "model": model, "model_fingerprint": "m", "dtype": "float32"}
    return answer(plan.Job({**content, "batch_tokens": "auto", "tasks": tasks}, run.predictions(1, []) / "benchmarks"))


def answer(job: plan.Job) -> plan.Job:
    runs.write_json(job.folder / "job.json", job.content)
    generate.generate(job.folder / "job.json")
    return job


def test_a_part_is_asked_again_in_the_other_precision_if_it_fits(tmp_path: Path, monkeypatch) -> None:
    run = Run(tmp_path / "run")
    runs.write_atomic(run.profile, "")
    asked = answered(run)
    again = responses.other_precision_job(asked, run, per_language=2)
    assert again.folder == asked.folder.with_name("benchmarks-bfloat16")
    assert again.content["dtype"] == "bfloat16"
    assert again.content["fingerprint"] != asked.content["fingerprint"]
    monkeypatch.setattr(runs, "has_native_bf16", lambda: False)
    assert "only emulates it" in (responses.does_not_fit(again, run, devices=1) or "")
    monkeypatch.setattr(runs, "has_native_bf16", lambda: True)
    assert responses.does_not_fit(again, run, devices=1) is None
    changes = responses.changed_answers(asked.folder, answer(again).folder)
    assert changes["asked"].tolist() == [2, 2]
    assert [row["index"] for row in runs.read_json_lines(again.folder / "mgsm" / "de.jsonl")] == [0, 2]
    monkeypatch.setattr(runs, "smallest_gpu", lambda: 1 << 20)
    said = responses.does_not_fit(again, run, devices=1)
    assert said
    assert said.startswith("its weights take 0.0 GiB in bfloat16, and each of 1 device(s) has")
