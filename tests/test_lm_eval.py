"""The task files for lm-evaluation-harness; and where the harness is installed, that it gives our responses."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from types import ModuleType

import pytest
import yaml

from qalign_core import prompts, runs
from qalign_core.languages import CODES
from qalign_core.runs import Run
from qalign_core.scorer import read_predictions

FOLDER = Path(__file__).resolve().parent.parent / "bench" / "lm_eval"
SHIPPED_BASE = FOLDER.parent.parent / "qalign_core" / "miniature" / "base" / "seed-1"
MAX_NEW_TOKENS = {"mgsm": 600, "msvamp": 300}
ASKED = ("bn", "en")
STORIES = {
    "en": "Ann has {} apples. She buys {} apples. How many apples does Ann have?",
    "bn": "অ্যানের কাছে {}টি আপেল আছে। সে {}টি আপেল কেনে। অ্যানের কাছে কয়টি আপেল আছে?",
}


def task_file(path: Path) -> dict:
    """A task file with what it includes."""
    content = yaml.safe_load(path.read_text(encoding="utf-8").replace("!function ", ""))  # names of functions
    included = content.pop("include", None)
    return {**(task_file(FOLDER / included) if included else {}), **content}


@pytest.fixture
def tasks(monkeypatch) -> ModuleType:
    monkeypatch.syspath_prepend(FOLDER)
    return importlib.import_module("tasks")


@pytest.fixture
def run(tmp_path: Path, monkeypatch) -> Run:
    """A run folder with prompts and gold answers as notebook 01 writes them, named in the environment."""
    found = Run(tmp_path / "run")
    for benchmark in MAX_NEW_TOKENS:
        for code in ASKED:
            rows = [{"index": i, "question": STORIES[code].format(i + 2, 3 * i + 1)} for i in range(4)]
            asked = [{**row, "prompt": prompts.build("alpaca", row["question"], code)} for row in rows]
            runs.write_json_lines(found.prompts(benchmark, code), asked)
            gold = [{**row, "answer": str(4 * row["index"] + 3)} for row in rows]
            runs.write_json_lines(found.benchmark(benchmark, code), gold)
    monkeypatch.setenv("QALIGN_RUN_DIR", str(found.folder))
    return found


def test_there_is_a_task_for_every_benchmark_and_language():
    files = {path.name: task_file(path) for path in FOLDER.glob("*.yaml")}
    assert sorted(files) == sorted(f"{name}_{code}.yaml" for name in MAX_NEW_TOKENS for code in CODES)
    for benchmark, limit in MAX_NEW_TOKENS.items():
        for code in CODES:
            task = files[f"{benchmark}_{code}.yaml"]
            assert task["task"] == f"qalign_{benchmark}_{code}"
            assert task["tag"] == f"qalign_{benchmark}"
            assert task["dataset_kwargs"] == {"benchmark": benchmark, "language": code}
            assert task["generation_kwargs"] == {"do_sample": False, "until": [], "max_gen_toks": limit}
            assert (task["num_fewshot"], task["doc_to_text"], task["target_delimiter"]) == (0, "prompt", "")


def test_questions_are_the_runs_own_prompts_with_gold(tasks: ModuleType, run: Run):
    rows = tasks.questions("mgsm", "bn", version=1)["test"]
    assert rows["prompt"][:] == [row["prompt"] for row in runs.read_json_lines(run.prompts("mgsm", "bn"))]
    assert rows["answer"][:] == ["3", "7", "11", "15"]
    assert tasks.score(rows[1], ["So the answer is: 7"]) == {"accuracy": 1.0}
    assert tasks.score(rows[1], ["7, or rather 8"]) == {"accuracy": 0.0}


def test_a_missing_run_or_file_is_named(tasks: ModuleType, run: Run, monkeypatch):
    with pytest.raises(FileNotFoundError, match=r"sw\.jsonl is not there; run notebook 01"):
        tasks.questions("mgsm", "sw")
    monkeypatch.delenv("QALIGN_RUN_DIR")
    with pytest.raises(FileNotFoundError, match="QALIGN_RUN_DIR is not set"):
        tasks.questions("mgsm", "bn")


def test_logged_samples_become_predictions(tasks: ModuleType, run: Run, tmp_path: Path):
    with pytest.raises(FileNotFoundError, match="--log_samples"):
        tasks.collect(tmp_path / "samples", tmp_path / "made")
    folder = tmp_path / "samples" / "model"
    folder.mkdir(parents=True)
    for time, said in (("2026-01-01T00-00-00", "old"), ("2026-01-02T00-00-00", "new")):
        lines = [{"doc": {"index": i, "question": f"q{i}"}, "resps": [[f"{said} {i}"]]} for i in (1, 0)]
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (folder / f"samples_qalign_mgsm_en_{time}.jsonl").write_text(text, encoding="utf-8")
    (written,) = tasks.collect(tmp_path / "samples", tmp_path / "made")
    assert written == tmp_path / "made" / "mgsm" / "en.jsonl"
    predictions = read_predictions(tmp_path / "made", ["mgsm"], ["en"], fields={"finish_reason": None})
    assert predictions["response"].tolist() == ["new 0", "new 1"]


def test_the_harness_gives_our_responses(run: Run, tasks: ModuleType, monkeypatch):
    """The shipped base model, whose answers end by themselves or at the limit, asked by both in fp32."""
    lm_eval = pytest.importorskip("lm_eval")
    from lm_eval.tasks import TaskManager

    from qalign_core import generate

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    limit, model = 60, str(SHIPPED_BASE)
    job = run.folder / "predictions" / "job.json"
    entries = []
    for benchmark in MAX_NEW_TOKENS:
        for code in ASKED:
            path = run.prompts(benchmark, code)
            entry = {"name": benchmark, "language": code, "path": str(path), "sha256": runs.sha256_file(path)}
            entries.append({**entry, "max_new_tokens": limit})
    content = {"kind": "generate", "fingerprint": "f", "model": {"path": model, "revision": None}, "tasks": entries}
    runs.write_json(job, {**content, "model_fingerprint": "m", "dtype": "float32", "batch_tokens": 4096})
    generate.generate(job)
    ours = {
        (benchmark, code): runs.read_json_lines(job.parent / benchmark / f"{code}.jsonl")
        for benchmark in MAX_NEW_TOKENS
        for code in ASKED
    }
    found = lm_eval.simple_evaluate(
        model="hf",
        model_args={"pretrained": model, "dtype": "float32"},
        tasks=[f"qalign_{benchmark}_{code}" for benchmark, code in ours],
        task_manager=TaskManager(include_path=str(FOLDER)),
        device="cpu",
        batch_size=3,
        gen_kwargs=f"max_gen_toks={limit}",
        log_samples=True,
    )
    for (benchmark, code), rows in ours.items():
        samples = sorted(found["samples"][f"qalign_{benchmark}_{code}"], key=lambda sample: sample["doc"]["index"])
        assert [sample["resps"][0][0] for sample in samples] == [row["response"] for row in rows]
        gold = runs.read_json_lines(run.benchmark(benchmark, code))
        right = [tasks.score(row, [said["response"]])["accuracy"] for row, said in zip(gold, rows, strict=True)]
        assert found["results"][f"qalign_{benchmark}_{code}"]["accuracy,none"] == sum(right) / len(right)
