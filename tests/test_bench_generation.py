"""The speed benchmarks of generation measure what they say: both sides give the same answers, of the lengths drawn."""

from __future__ import annotations

import importlib.util
import statistics
from pathlib import Path
from types import ModuleType

import pytest
import torch

FOLDER = Path(__file__).resolve().parent.parent / "bench"


@pytest.fixture(scope="module")
def bench() -> ModuleType:
    spec = importlib.util.spec_from_file_location("qalign_bench_gpu_generation", FOLDER / "gpu_generation.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_lengths_are_drawn_as_stated(bench: ModuleType) -> None:
    asked = bench.draw(2000)
    prompts, answers = [len(prompt) for prompt, _ in asked], [length for _, length in asked]
    assert statistics.median(prompts) == pytest.approx(200, rel=0.05)
    assert statistics.median(answers) == pytest.approx(130, rel=0.06)
    assert (min(prompts) >= 60, max(prompts) <= 800, min(answers) >= 10, max(answers)) == (True, True, True, 600)
    assert 0.02 < sum(length == 600 for length in answers) / 2000 < 0.05
    assert len({tuple(prompt[:40]) for prompt, _ in asked}) == 1
    assert asked[:5] == bench.draw(5)


def test_both_sides_give_the_same_answers_of_these_lengths(bench: ModuleType) -> None:
    model = bench.make_model("tiny", torch.float32, torch.device("cpu"))
    asked = bench.draw(12, shrink=20)
    authors = bench.authors_loop(model, asked, batch_size=5)
    assert [len(answer) for answer in authors] == [length for _, length in asked]
    assert bench.package(model, asked, batch_tokens=100, notes=[]) == authors
    found = bench.measure(model, asked, pairs=1, batch_size=5, batch_tokens=100)
    assert found["different_answers"] == 0
    assert found["median"]["ratio"] > 0
