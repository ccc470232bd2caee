"""The base model that comes with the package: whole, small, loadable, and made by the recipe beside it."""

from __future__ import annotations

import importlib.util

import pandas as pd
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from qalign_core import params, runs
from qalign_core.launch import MANIFEST, MODEL_FILES
from qalign_core.miniature import SHIPPED_BASE
from qalign_core.models import load_model
from qalign_core.params import PARAMS_FOLDER

PROFILE = "miniature-base"
SIZE_LIMIT = 9 * 2**20  # bytes: with the bases of two other seeds still under 25 MB


def test_the_files_are_those_of_the_manifest_and_small() -> None:
    manifest = runs.read_json(SHIPPED_BASE / MANIFEST)
    assert manifest["files"] == {name: runs.sha256_file(SHIPPED_BASE / name) for name in MODEL_FILES}
    assert sum(path.stat().st_size for path in SHIPPED_BASE.iterdir()) < SIZE_LIMIT
    spec = importlib.util.spec_from_file_location("maker", PARAMS_FOLDER.parent / "tools" / "miniature_base.py")
    assert spec is not None
    assert spec.loader is not None
    maker = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(maker)
    assert (SHIPPED_BASE / "README.md").read_text(encoding="utf-8") == maker.card(manifest)


def test_the_manifest_is_of_the_shipped_recipe() -> None:
    recorded = runs.read_json(SHIPPED_BASE / MANIFEST)["profile"]
    assert params.validate(recorded) == params.load(PROFILE)


def test_it_is_stored_in_fp16_and_loads_as_any_model_does() -> None:
    model = AutoModelForCausalLM.from_pretrained(SHIPPED_BASE)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float16}
    model = load_model(str(SHIPPED_BASE))
    tokenizer = AutoTokenizer.from_pretrained(SHIPPED_BASE)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    asked = tokenizer("12+5=17. 30-8=22. 6*7=42. 9+4=", return_tensors="pt")
    answer = model.generate(**asked, max_new_tokens=1, do_sample=False)[0, -1]
    assert tokenizer.decode(answer).strip() == "13"


def test_what_it_read_was_mostly_english_and_solved_problems_only_english() -> None:
    report = pd.DataFrame(runs.read_json(SHIPPED_BASE / MANIFEST)["corpus"]["report"])
    tokens = report.groupby("language").tokens.sum()
    assert 0.5 < tokens["en"] / tokens.sum() < 0.75
    assert set(report[report.kind == "solved"].language) == {"en"}
    assert set(report[report.kind == "question"].language) == set(params.load(PROFILE).data.languages)
