"""The training benchmarks run, at a tiny size, and their roads do the same update."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_training import ENVIRONMENT

BENCH = Path(__file__).resolve().parents[1] / "bench"


def run(script: str, *arguments: str) -> str:
    command = [sys.executable, str(BENCH / script), *arguments]
    finished = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=240, check=False)
    assert finished.returncode == 0, finished.stderr[-2000:]
    return finished.stdout


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
    import importlib.util

    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    spec = importlib.util.spec_from_file_location("gpu_training", BENCH / "gpu_training.py")
    gpu_training = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = gpu_training
    spec.loader.exec_module(gpu_training)
    with torch.device("meta"):
        model = LlamaForCausalLM(LlamaConfig(**gpu_training.GEOMETRIES["llama2-7b"]))
    assert sum(parameter.numel() for parameter in model.parameters()) == 6_738_423_808  # LLaMA-2-7B's and one more row
    assert 12_400 * gpu_training.flops_per_token(model) == pytest.approx(0.5 * 989e12, rel=0.01)
