"""The base models that come with the package: whole, small, loadable, and made by the recipe beside them."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

import pandas as pd
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from qalign_core import params, runs
from qalign_core.miniature import SHIPPED_BASE, shipped_base
from qalign_core.models import load_model
from qalign_core.params import PARAMS_FOLDER

PROFILE = params.load("miniature-base")
SIZE_LIMIT = 25 * 2**20  # bytes, of all of them


@pytest.fixture(scope="module")
def maker() -> ModuleType:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(PARAMS_FOLDER.parent / "tools")
        return importlib.import_module("miniature_base")


@pytest.fixture(params=PROFILE.run.seeds)
def base(request: pytest.FixtureRequest) -> Path:
    return SHIPPED_BASE.with_name(f"seed-{request.param}")


def test_the_files_are_those_of_the_manifest(base: Path, maker: ModuleType) -> None:
    manifest = runs.read_json(base / maker.MANIFEST)
    assert base.name == f"seed-{manifest['seed']}"
    assert manifest["files"] == {name: runs.sha256_file(base / name) for name in maker.MODEL_FILES}
    assert (base / "README.md").read_text(encoding="utf-8") == maker.card(manifest)


def test_they_are_small() -> None:
    assert sum(path.stat().st_size for path in SHIPPED_BASE.parent.glob("*/*")) < SIZE_LIMIT


def test_the_seeds_take_turns() -> None:
    assert [shipped_base(seed).name for seed in (1, 2, 3, 4, 1234)] == [f"seed-{n}" for n in (1, 2, 3, 1, 1)]


def test_the_manifest_is_of_the_shipped_recipe(base: Path, maker: ModuleType) -> None:
    recorded = runs.read_json(base / maker.MANIFEST)["profile"]
    recorded["run"]["seeds"] = PROFILE.run.seeds  # whichever were made by that call
    assert params.validate(recorded) == PROFILE


def test_it_is_stored_in_fp16_and_loads_as_any_model_does(base: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(base)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float16}
    model = load_model(str(base))
    tokenizer = AutoTokenizer.from_pretrained(base)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    asked = tokenizer("12+5=17. 30-8=22. 6*7=42. 9+4=", return_tensors="pt")
    answer = model.generate(**asked, max_new_tokens=1, do_sample=False)[0, -1]
    assert tokenizer.decode(answer).strip() == "13"


def test_what_it_read_was_mostly_english_and_solved_problems_only_english(base: Path, maker: ModuleType) -> None:
    report = pd.DataFrame(runs.read_json(base / maker.MANIFEST)["corpus"]["report"])
    tokens = report.groupby("language").tokens.sum()
    assert 0.5 < tokens["en"] / tokens.sum() < 0.75
    assert set(report[report.kind == "solved"].language) == {"en"}
    assert set(report[report.kind == "question"].language) == set(PROFILE.data.languages)
