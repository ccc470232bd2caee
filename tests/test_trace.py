"""Tables of provenance: every number is followed back step by step."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest

from qalign_core import evaluate, params, plan, runs
from qalign_core.params import BenchmarkSettings as Asked
from qalign_core.params import EvaluationSection
from qalign_core.runs import Run
from qalign_core.show import tables


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """A run in which QAlign's last stage was trained and its answers generated, as the jobs leave it."""
    found = Run(tmp_path)
    lineage = ["questions-x-en", "metamathqa"]
    runs.write_json(found.stage(1, lineage) / "done.json", {"fingerprint": "f" * 64})
    folder = found.predictions(1, lineage) / "benchmarks"
    for code in ("sw", "en"):
        runs.write_json_lines(folder / "mgsm" / f"{code}.jsonl", [{"index": 0, "response": f"{code} 7"}])
    files = {f"mgsm/{code}.jsonl": runs.sha256_file(folder / "mgsm" / f"{code}.jsonl") for code in ("sw", "en")}
    runs.write_json(
        folder / "done.json", {"fingerprint": "a" * 64, "files": files, "git_commit": "c" * 40 + "+changes"}
    )
    runs.write_json(folder / "job.json", {"model": {"path": "models/seed-1/base/questions-x-en/metamathqa/model"}})
    return found


@pytest.fixture
def profile(monkeypatch: pytest.MonkeyPatch, run: Run, tmp_path: Path) -> params.Profile:
    folder = run.predictions(1, ["questions-x-en", "metamathqa"]) / "benchmarks"
    monkeypatch.setattr(plan, "prediction_job", lambda *_: SimpleNamespace(folder=folder))
    for code in ("sw", "en"):
        runs.write_json_lines(tmp_path / "theirs" / "mgsm" / f"{code}.jsonl", [{"index": 0, "response": "8"}])
    base = params.load("mini")
    ours, theirs = base.systems["QAlign"], params.System(predictions=str(tmp_path / "theirs"))
    return base.model_copy(
        update={
            "systems": {"QAlign": ours, "Theirs": theirs},
            "data": base.data.model_copy(update={"languages": ["sw", "en"]}),
            "evaluation": EvaluationSection(benchmarks={"mgsm": Asked(max_new_tokens=9)}),
        }
    )


ANSWERS = pd.DataFrame({"system": ["QAlign", "QAlign", "Theirs"], "seed": [1, 1, 1]})


def test_answers_that_were_edited_are_told_apart(profile: params.Profile, run: Run):
    path = run.folder / evaluate.trace(profile, run, ANSWERS)["predictions"].iloc[0]
    runs.write_json_lines(path, [{"index": 0, "response": "better"}])
    rows = evaluate.trace(profile, run, ANSWERS)
    assert rows["state"].tolist() == [evaluate.CHANGED, evaluate.AS_GENERATED, evaluate.ELSEWHERE, evaluate.ELSEWHERE]
    table = tables.trace_table(rows)
    assert table.text.loc[0, "files"] == "1 changed since, 1 as generated"
    assert table.text.loc[0, ["trained", "answered", "commit"]].tolist() == ["f" * 8, "a" * 8, "c" * 8 + "+"]
    assert table.text.loc[1, ["trained", "answered", "commit"]].tolist() == ["", "", ""]


def test_one_number_is_followed_back_step_by_step(profile: params.Profile, run: Run):
    key = {"system": "QAlign", "seed": 1, "benchmark": "mgsm", "language": "sw"}
    accuracy = pd.DataFrame([{**key, "scorer": "paper", "correct": 1, "total": 4, "accuracy": 25.0}])
    results = {"accuracy": accuracy, "trace": evaluate.trace(profile, run, ANSWERS)}
    steps = tables.cell_table(results, "QAlign", "mgsm", "sw", "paper").text["seed 1"].tolist()
    assert steps[0] == "25.0% (1 of 4 right)"
    assert "seed-1/base/questions-x-en/metamathqa/done.json (ffffffff)" in steps[3]
    assert "mgsm/sw.jsonl (sha256" in steps[4]
    with pytest.raises(ValueError, match="no cell 'QAlign', 'mgsm', 'de'"):
        tables.cell_table(results, "QAlign", "mgsm", "de", "paper")
