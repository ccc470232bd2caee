"""Tables that set the real thing beside the miniature: bases, solutions, recipe."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from qalign_core import audit, params, plan, prepare, runs
from qalign_core.params import PARAMS_FOLDER, Profile, read_yaml
from qalign_core.runs import Run


def profile_of(name: str, **changes: Any) -> Profile:
    sections = read_yaml(PARAMS_FOLDER / f"{name}.yaml")
    for key, value in changes.items():
        section, last = key.split("__")
        sections[section][last] = value
    return params.validate(sections)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """A run with a small stage-2 corpus for seed 1."""
    found = Run(tmp_path)
    row = {"instruction": "Tom has 3 red apples.", "output": "Tom has 3 apples.", "source_language": "en"}
    for name in ("metamathqa", "gsm8k"):
        runs.write_json_lines(found.corpus(name, 1), [row] * 4)
    return found


def test_the_base_stands_beside_llama2_with_the_problems_it_had_read(run: Run):
    table = audit.base_comparison(params.load("mini"), run)
    rows = {row[""]: row for row in table.to_dict("records")}
    assert rows["English"]["LLaMA-2"] == "89.7%"
    assert rows["problems of stage 2"]["miniature's base"] == "4"
    assert rows["parameters"]["miniature's base"].endswith("million")
    assert 1 < float(rows["parameters"]["miniature's base"].split()[0]) < 10
    assert re.search(r"all English, [0-9.]+ for each one of stage 2$", rows["solved problems read"]["miniature's base"])


def test_all_that_the_base_read_is_listed(run: Run):
    table = audit.base_text_table(params.load("mini"), run)
    assert {"solved", "question", "all"} <= set(table["kind"])


def test_a_base_trained_in_the_run_is_disclosed_from_its_own_text(run: Run):
    report = [
        {"language": "en", "kind": "solved", "documents": 8, "tokens": 60},
        {"language": "sw", "kind": "generic", "documents": 2, "tokens": 40},
    ]
    runs.write_json(run.corpus("base-text", 1).with_suffix(".json"), {"report": report})
    table = audit.base_comparison(params.load("mini-publish"), run)
    rows = {row[""]: row["miniature's base"] for row in table.to_dict("records")}
    assert (rows["English"], rows["tokens read"], rows["solved problems read"]) == (
        "60.0%",
        "100",
        "8, all English, 2.0 for each one of stage 2",
    )
    assert rows["bn, th, sw"] == "0.0, 0.0, 40.0%"


def test_other_bases_have_no_such_table(run: Run):
    assert audit.base_text_table(params.load("llama2-7b"), run) is None
    assert audit.base_comparison(params.load("smoke"), run) is None


# ------------------------------------------------------------------------------------------------- solutions


def test_without_real_data_the_measured_figures_stand_beside_the_miniature(run: Run, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("QALIGN_DATA_DIR", raising=False)
    table = audit.overlap_table(params.load("mini"), run)
    first, *others = table.to_dict("records")
    assert (first["content words (%)"], first["measured"]) == (48.3, "before, by the same function")
    assert {row[""] for row in others} == {"gsm8k", "metamathqa"}
    assert all(row["numbers (%)"] == 100 for row in others)


def test_with_real_data_it_is_measured_here(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "real" / "gsm8k" / "train.jsonl"
    path.parent.mkdir(parents=True)
    row = {"question": "Ann has 2 green pens.", "answer": "Ann has <<1+1=2>>2.\n#### 77"}
    path.write_text(json.dumps(row) + "\n", encoding="utf-8")
    monkeypatch.setenv("QALIGN_DATA_DIR", str(path.parents[1]))
    first = audit.overlap_table(params.load("mini"), run).to_dict("records")[0]
    assert first["measured"] == "here"
    assert first["content words (%)"] == 33.3


def test_the_figures_that_are_stated_are_gsm8ks(run: Run, data_dir: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("QALIGN_DATA_DIR", raising=False)
    stated = audit.overlap_table(params.load("mini"), run).iloc[0]
    monkeypatch.setenv("QALIGN_DATA_DIR", str(data_dir))
    measured = audit.overlap_table(params.load("mini"), run).iloc[0]
    for column, within in {"content words (%)": 0.5, "numbers (%)": 0.5, "length": 0.01}.items():
        assert measured[column] == pytest.approx(stated[column], abs=within)


# ------------------------------------------------------------------------------------------------- the recipe


def test_the_papers_profiles_have_nothing_to_declare():
    assert prepare.recipe_differences(params.load("llama2-7b")).empty


def test_every_constant_that_differs_is_listed_with_a_reason_and_its_stages():
    profile = params.load("mini")
    rows = {row["constant"]: row for row in prepare.recipe_differences(profile).to_dict("records")}
    ours = {corpus: profile.arguments(corpus) for corpus in profile.corpora()}
    for name, value in {"learning_rate": 2e-5, "weight_decay": 0.0, "adam_beta2": 0.999, "num_train_epochs": 3}.items():
        assert any(arguments[name] != value for arguments in ours.values()) == (name in rows)
    assert rows["learning_rate"]["paper"] == "2e-05"
    assert "gsm8kinstruct: 0.001" in rows["learning_rate"]["here"]
    assert "adam_beta1" not in rows
    assert all(row["why"] for row in rows.values())


def test_a_changed_constant_appears():
    profile = profile_of("llama2-7b", training__max_grad_norm=0.5)
    (row,) = prepare.recipe_differences(profile).to_dict("records")
    assert row == {"constant": "max_grad_norm", "paper": "1", "here": "0.5"}


def test_the_batch_counts_devices():
    profile = profile_of("llama2-7b", run__devices=4)
    (row,) = prepare.recipe_differences(profile).to_dict("records")
    assert (row["constant"], row["here"]) == ("effective batch size", "64")
    assert plan.effective_batch_size(profile, "metamathqa") == 64
