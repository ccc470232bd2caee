"""The card of a model: valid metadata, what it was made of, scores once there are some, and no harm to the record."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from huggingface_hub import ModelCard

from qalign_core import models, params, runs
from qalign_core.params import Profile
from qalign_core.runs import Run

STAGES = {"questions-x-en": "Pairs", "metamathqa": "Problems"}


def stage(run: Run, lineage: list[str], corpus: str = "") -> None:
    """A finished stage with a model of one file, trained on a corpus that is the lineage's last unless it is given."""
    folder, corpus = run.stage(1234, lineage), corpus or lineage[-1]
    arguments = {"num_train_epochs": 3.0, "learning_rate": 2e-5, "max_steps": -1, "bf16": True}
    arguments |= {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 8}
    job: dict[str, Any] = {"lineage": lineage, "seed": 1234, "max_length": 512, "loss": "paper", "packing": True}
    job |= {"corpus": {"name": corpus, "sha256": "ab" * 32, "rows": 66045}, "method": "full"}
    job |= {"training_arguments": arguments, "deepspeed": {"zero_optimization": {"stage": 3}}}
    metrics = {"updates": 1548, "target_tokens": 9876543, "train_loss": 0.71, "final_loss": 0.5, "world_size": 8}
    done = {"metrics": metrics, "versions": {"torch": "2.13.0"}, "git_commit": "0" * 40}
    runs.write_json(folder / "model" / "config.json", {})
    done["files"] = runs.sha256_tree(folder / "model")
    runs.write_json(folder / "job.json", job)
    runs.write_json(folder / "done.json", done)
    report = [{"corpus": corpus, "language": "sw", "outcome": "kept", "rows": 9}] if "-" in corpus else []
    runs.write_json(run.corpus(corpus).with_suffix(".json"), {"rows": 1, "sha256": "ab" * 32, "report": report})


@pytest.fixture
def run(tmp_path: Path) -> Run:
    found = Run(tmp_path / "run")
    for length in (1, 2):
        stage(found, list(STAGES)[:length])
    return found


@pytest.fixture
def profile() -> Profile:
    return params.load("llama2-7b")


def test_the_metadata_are_the_hubs(profile: Profile, run: Run):
    path = models.write_card(profile, run, 1234, list(STAGES))
    assert path == run.model(1234, list(STAGES)) / "README.md"
    data = ModelCard.load(path).data
    assert data.language == ["sw", "en"]
    assert data.base_model == "meta-llama/Llama-2-7b-hf"
    assert data.license == "llama2"
    assert data.datasets == ["meta-math/MetaMathQA"]
    assert data.library_name == "transformers"


def test_it_says_what_the_model_was_made_of(profile: Profile, run: Run):
    text = models.card(profile, run, 1234, list(STAGES))
    assert "# QAlign (profile llama2-7b, seed 1234)" in text
    for words in ("66,045", "1,548", "0.710", "abababababababab", "none stated", "MIT", "2.13.0", "2e-05", "128"):
        assert words in text, words
    assert "Not evaluated yet" in text
    assert "effective batch size" in text
    assert "Meta's community licence" in text
    assert str(run.folder) not in text


def test_a_base_that_was_trained_here_has_a_card(run: Run):
    stage(run, [], params.BASE_TEXT)
    report = [{"language": "de-en", "kind": "bitext", "documents": 3, "tokens": 90}, {"language": "sw", "documents": 2}]
    runs.write_json(run.corpus(params.BASE_TEXT).with_suffix(".json"), {"report": report})
    path = models.write_card(params.load("miniature-base"), run, 1234, [])
    assert path
    assert ModelCard.load(path).data.language == ["sw", "en"]


def test_scores_come_with_their_intervals(profile: Profile, run: Run):
    columns = ["system", "seed", "benchmark", "measure", "estimate", "low", "high"]
    rows = [("QAlign", 1234, "mgsm", "sw", 50.0, 43.8, 56.2), ("QAlign", 1234, "mgsm", "gap", 12.0, 8.0, 16.0)]
    rows += [("QAlign", 99, "mgsm", "sw", 1.0, 0.0, 2.0), ("MonoReason", 1234, "mgsm", "sw", 3.0, 1.0, 5.0)]
    run.results.mkdir(parents=True)
    pd.DataFrame(rows, columns=columns).assign(method="Wilson").to_csv(run.results / "intervals.csv", index=False)
    runs.write_json(run.results / "run.json", {"scorer": "paper"})
    before = {path: runs.sha256_file(path) for path in run.folder.rglob("done.json")}
    aligned, through = (run.model(1234, list(STAGES)[:n]) / "README.md" for n in (2, 1))
    assert sorted(models.write_cards(profile, run)) == sorted([aligned, through])
    text = aligned.read_text(encoding="utf-8")
    assert re.search(r"\| QAlign +\| mgsm +\| sw +\| 50\.0 +\| 43\.8 +\| 56\.2 +\|", text)
    assert re.search(r"\| gap +\| 12\.0 +\| 8\.0 +\| 16\.0 +\|", text)
    assert "MonoReason" not in text
    assert not re.search(r"\| 1\.0 +\| 0\.0 +\| 2\.0", text)  # another seed's
    assert "it is a stage on the way" in through.read_text(encoding="utf-8")
    assert before == {path: runs.sha256_file(path) for path in run.folder.rglob("done.json")}
    for path in before:  # and what it vouches for is as it was
        files = runs.read_json(path)["files"]
        assert {name: runs.sha256_file(path.parent / "model" / name) for name in files} == files


def test_a_model_that_is_not_there_has_no_card(profile: Profile, tmp_path: Path):
    assert models.write_cards(profile, Run(tmp_path)) == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("base", "licence"),
    [
        ("meta-llama/Llama-2-13b-hf", "llama2"),
        ("meta-llama/Meta-Llama-3-8B", "llama3"),
        ("meta-llama/Llama-3.2-1B", "llama3.2"),
        ("mistralai/Mistral-7B-v0.1", "apache-2.0"),
        ("Qwen/Qwen2.5-1.5B", "apache-2.0"),
        ("Qwen/Qwen2.5-3B", None),  # another licence than its siblings'
        ("someone/else", None),
        ("/home/me/a model", None),
    ],
)
def test_a_licence_that_is_not_known_stays_blank(
    profile: Profile, run: Run, tmp_path: Path, base: str, licence: str | None
):
    changed = profile.model_copy(update={"model": profile.model.model_copy(update={"base": base})})
    text = models.card(changed, run, 1234, ["questions-x-en"])
    data = yaml.safe_load(text.split("---\n")[1])
    assert data.get("license") == licence
    assert data.get("base_model") == (None if base.startswith("/") else base)
    assert ("which is not known here" in text) == (licence is None)


def test_names_of_systems_are_text_not_markdown(profile: Profile, run: Run):
    systems = {"A | <b>x</b> [y](z)": profile.systems["QAlign"]}
    text = models.card(profile.model_copy(update={"systems": systems}), run, 1234, list(STAGES))
    assert "# A \\| &lt;b&gt;x&lt;/b&gt; \\[y\\](z) (profile" in text


def test_what_the_record_and_the_profile_say_is_text_not_markdown(profile: Profile, run: Run):
    folder = run.stage(1234, ["questions-x-en"])
    done = runs.read_json(folder / "done.json")
    runs.write_json(folder / "done.json", done | {"versions": {"torch": "![v](http://evil/p.png)"}})
    model = profile.model.model_copy(update={"base": "[b](http://evil) <img src=x>", "revision": "`r` ![r](x)"})
    text = models.card(profile.model_copy(update={"model": model}), run, 1234, ["questions-x-en"])
    assert "<img" not in text.split("---\n")[2]
    assert not re.search(r"(?<!\\)\[[^\]]*\]\((?!https://arxiv)", text.split("---\n")[2].replace("\\]", ""))


@pytest.mark.parametrize("content", ["[]", "{}", "{", '{"metrics": {}}'])
def test_a_card_that_cannot_be_written_is_a_warning(profile: Profile, run: Run, content: str):
    (run.stage(1234, ["questions-x-en"]) / "done.json").write_text(content, encoding="utf-8")
    with pytest.warns(UserWarning, match=r"README\.md: this card could not be written .*; the model is whole"):
        assert models.write_card(profile, run, 1234, ["questions-x-en"]) is None
