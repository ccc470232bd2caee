"""The speed benchmarks run, at a tiny size, and both sides do the same: updates of one loss, the same answers."""

from __future__ import annotations

import importlib
import re
import statistics
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from tiny_training import ENVIRONMENT
from transformers import LlamaConfig, LlamaForCausalLM

BENCH = Path(__file__).resolve().parents[1] / "bench"


def run(script: str, *arguments: str) -> str:
    command = [sys.executable, str(BENCH / script), *arguments]
    finished = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=240, check=False)
    assert finished.returncode == 0, finished.stderr[-2000:]
    return finished.stdout


def load(name: str) -> ModuleType:
    """A benchmark as a module; the folder is no package."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(BENCH)
        return importlib.import_module(name)


# ------------------------------------------------------------------------------------------------- training


@pytest.mark.parametrize("ranks", ["1", pytest.param("2", marks=pytest.mark.slow)])
def test_every_road_has_the_same_loss(ranks: str) -> None:
    size = ["--width", "64", "--layers", "1", "--vocabulary", "200", "--rounds", "1", "--threads", "1"]
    said = run("training.py", *size, "--ranks", ranks, "--precision", "fp32")
    losses = re.findall(r"^(?:authors|ours).*\s(\d\.\d{4})$", said, flags=re.MULTILINE)
    assert len(losses) == 5
    assert max(map(float, losses)) - min(map(float, losses)) < 2e-4


def test_the_gpu_benchmark_runs_on_a_cpu() -> None:
    said = run("gpu_training.py", "--model", "tiny", "--sequences", "4", "--updates", "1", "--device-batches", "2", "4")
    rows = re.findall(r"^(p\w+ed.*?)\s+([\d,]+)\s+[\d.]+\s+0\.0$", said, flags=re.MULTILINE)
    assert [name for name, _ in rows][:3] == ["padded, all logits, 2 at once", "packed, 2 at once", "packed, 4 at once"]
    assert len(rows) == 6
    assert all(int(rate.replace(",", "")) > 0 for _, rate in rows)
    assert re.search(r"torch \d.*transformers \d", said)


def test_the_7b_geometry_is_the_papers_and_its_goal_half_the_peak() -> None:
    gpu_training = load("gpu_training")
    with torch.device("meta"):
        model = LlamaForCausalLM(LlamaConfig(**gpu_training.GEOMETRIES["llama2-7b"]))
    assert sum(parameter.numel() for parameter in model.parameters()) == 6_738_423_808  # LLaMA-2-7B's and one more row
    assert 12_400 * gpu_training.flops_per_token(model) == pytest.approx(0.5 * 989e12, rel=0.01)


# ------------------------------------------------------------------------------------------------- generation


@pytest.fixture(scope="module")
def bench() -> ModuleType:
    return load("gpu_generation")


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
