"""How alike models represent parallel questions: the measures, the mean over real tokens only, and the job."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from tiny_training import make_base
from transformers import AutoModelForCausalLM

from qalign_core import represent, runs
from qalign_core.models import load_tokenizer

QUESTIONS = ["7 plus 8", "1 plus 2 plus 3 plus 4 plus 5", "9", "6 plus 6 plus 6", "3 plus 0"]


# ------------------------------------------------------------------------------------------------- measures


def states_of(shift: float, languages: int = 2) -> dict[str, np.ndarray]:
    """(3 layers, 20 questions, 8) a language: English states and the same ones moved by noise of a length `shift`."""
    rng = np.random.default_rng(0)
    english = rng.normal(size=(3, 20, 8))
    codes = ["sw", "de", "fr"][:languages]
    return {**{code: english + shift * rng.normal(size=english.shape) for code in codes}, "en": english}


def test_the_same_states_find_each_other_and_unrelated_ones_do_not():
    alike = represent.parallel_measures(states_of(0.0))
    assert set(alike["language"]) == {"sw", "de"}
    assert sorted(set(alike["layer"])) == [0, 1, 2]
    assert (alike["retrieval"] == 100).all()
    assert np.allclose(alike["cosine"], 1)
    unrelated = represent.parallel_measures(states_of(100.0))
    assert unrelated["retrieval"].mean() < 25
    assert abs(unrelated["cosine"] - unrelated["cosine_others"]).max() < 0.35


def test_retrieval_counts_questions_whose_nearest_english_one_is_their_own():
    english = np.eye(4)[None]  # (1 layer, 4 questions, 4)
    foreign = english[:, [0, 1, 3, 2]]  # two find their own, two find each other's
    row = represent.parallel_measures({"sw": foreign, "en": english}).iloc[0]
    assert row["retrieval"] == 50
    assert row["cosine"] == pytest.approx(0.5)
    assert row["cosine_others"] == pytest.approx(2 / 12)
    assert row["questions"] == 4


def test_what_cannot_be_measured_is_refused():
    states = {"en": np.ones((1, 1, 2)), "sw": np.ones((1, 1, 2))}
    with pytest.raises(ValueError, match="at least two"):
        represent.parallel_measures(states)


def test_the_plane_holds_the_largest_variance_and_is_the_same_every_time():
    rng = np.random.default_rng(1)
    layer = {code: rng.normal(size=(30, 6)) * [9, 4, 1, 1, 1, 1] + np.eye(6)[0] for code in ("sw", "en")}
    points = represent.plane(layer)
    assert points.equals(represent.plane({code: part.copy() for code, part in layer.items()}))
    assert points["x_share"][0] > points["y_share"][0] > 5
    every = np.concatenate(list(layer.values()))[:, 0]
    assert abs(np.corrcoef(points["x"], every)[0, 1]) > 0.95
    assert points["x"].mean() == pytest.approx(0, abs=1e-9)
    assert list(points["language"].unique()) == ["sw", "en"]


# ------------------------------------------------------------------------------------------------- real tokens only


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_base(tmp_path_factory.mktemp("base"))


def test_a_mean_leaves_out_padding_and_the_beginning_of_text(base: Path):
    model, tokenizer = AutoModelForCausalLM.from_pretrained(base).eval(), load_tokenizer(str(base))
    states = represent.mean_states(model, tokenizer, QUESTIONS)  # together: all but the longest are padded
    assert states.shape == (3, len(QUESTIONS), 32)
    for position, question in enumerate(QUESTIONS):
        input_ids = torch.tensor([tokenizer(question)["input_ids"]])
        assert input_ids[0, 0] == tokenizer.bos_token_id
        with torch.no_grad():
            hidden = model(input_ids, output_hidden_states=True).hidden_states
        wanted = torch.stack([layer[0, 1:].mean(0) for layer in hidden]).numpy()
        np.testing.assert_allclose(states[:, position], wanted, atol=1e-5)


def test_a_question_is_cut_at_the_models_context_and_an_empty_one_is_refused(base: Path):
    model, tokenizer = AutoModelForCausalLM.from_pretrained(base).eval(), load_tokenizer(str(base))
    model.config.max_position_embeddings = 8
    long = represent.mean_states(model, tokenizer, ["1 plus 2 plus 3 plus 4 plus 5 plus 6", "1"])
    assert np.isfinite(long).all()
    with pytest.raises(ValueError, match="no tokens of its own"):
        represent.mean_states(model, tokenizer, ["1", ""])


# ------------------------------------------------------------------------------------------------- the job


@pytest.fixture
def job(base: Path, tmp_path: Path) -> Path:
    tasks = []
    for code, shown in (("sw", "jumla {}"), ("en", "{}")):
        rows = [{"index": i, "question": shown.format(text)} for i, text in enumerate(QUESTIONS)]
        path = runs.write_json_lines(tmp_path / f"{code}.jsonl", rows)
        tasks.append({"language": code, "path": str(path), "sha256": runs.sha256_file(path)})
    models = [{"name": name, "model": {"path": str(base), "revision": None}} for name in ("base", "QAlign")]
    content = {"kind": "represent", "fingerprint": "f", "models": models, "dtype": "float32", "limit": 4}
    return runs.write_json(tmp_path / "job" / "job.json", {**content, "tasks": tasks})


def test_a_job_leaves_its_measures_and_is_not_done_twice(job: Path, capsys: pytest.CaptureFixture[str]):
    represent.represent(job)
    assert runs.is_done(job)
    measures, points = (pd.read_csv(job.with_name(f"{name}.csv")) for name in ("measures", "points"))
    assert list(measures["model"].unique()) == ["base", "QAlign"]
    assert set(measures["questions"]) == {4}
    assert len(points) == 2 * 2 * 4
    assert set(points["layer"]) == {1}
    done = json.loads(job.with_name("done.json").read_text())
    assert done["files"]["measures.csv"] == runs.sha256_file(job.with_name("measures.csv"))
    represent.represent(job)
    assert "already done" in capsys.readouterr().out


def test_changed_questions_are_refused(job: Path):
    content = runs.read_json(job)
    Path(content["tasks"][0]["path"]).write_text('{"index": 0, "question": "1"}\n')
    with pytest.raises(ValueError, match="sha256 differs"):
        represent.represent(job)
