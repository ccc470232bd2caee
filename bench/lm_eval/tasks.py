"""What the task files here need: the prompts and gold answers of a run, and the paper's scorer.

    python bench/lm_eval/tasks.py SAMPLES FOLDER

rewrites the samples that the harness logged as predictions, `<benchmark>/<language>.jsonl`, which a profile can bring.
"""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path
from typing import Any

import datasets

from qalign_core.scorer import paper_number

RUN_FOLDER = "QALIGN_RUN_DIR"  # environment: the run whose prompts are asked
TOLERANCE = 1e-3  # two numbers are the same answer when they differ by less


def questions(benchmark: str, language: str, **_: Any) -> datasets.DatasetDict:
    """The prompts of a run with their gold answers: `index, question, prompt, answer`.

    Args:
        benchmark: `mgsm` or `msvamp`.
        language: code.
        _: whatever else the harness hands to a data set.

    Raises:
        FileNotFoundError: where the run folder is not named, or notebook 01 has not made its files.
    """
    if not os.environ.get(RUN_FOLDER):
        raise FileNotFoundError(f"{RUN_FOLDER} is not set: name the run folder whose prompts shall be asked")
    data = Path(os.environ[RUN_FOLDER]) / "data"
    asked = _rows(data / "prompts" / "alpaca" / benchmark / f"{language}.jsonl")
    gold = {row["index"]: row["answer"] for row in _rows(data / "benchmarks" / benchmark / f"{language}.jsonl")}
    rows = [{**row, "answer": gold[row["index"]]} for row in asked]
    return datasets.DatasetDict({"test": datasets.Dataset.from_list(rows)})


def _rows(path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not there; run notebook 01 (data preparation) first")
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def score(row: dict[str, Any], responses: list[str]) -> dict[str, float]:
    """Whether the last number of a response is the gold answer, read as the authors' evaluation does."""
    return {"accuracy": float(abs(paper_number(responses[0]) - paper_number(row["answer"])) < TOLERANCE)}


def collect(samples: Path, folder: Path) -> list[Path]:
    """Rewrite logged samples as predictions.

    Args:
        samples: holds the harness's `samples_qalign_<benchmark>_<language>_<time>.jsonl`, at any depth.
        folder: where `<benchmark>/<language>.jsonl` go.

    Returns:
        The files written. Of several runs of a task, the latest counts.

    Raises:
        FileNotFoundError: where there are no such samples.
    """
    found = sorted(samples.rglob("samples_qalign_*_*_*.jsonl"), key=lambda path: path.name)
    if not found:
        raise FileNotFoundError(f"{samples}: no samples_qalign_*.jsonl; run the harness with --log_samples")
    written = {}
    for path in found:
        benchmark, language = re.match(r"samples_qalign_([a-z]+)_([a-z]+)_", path.name).groups()
        rows = sorted(_rows(path), key=lambda row: row["doc"]["index"])
        lines = [
            {"index": row["doc"]["index"], "question": row["doc"]["question"], "response": row["resps"][0][0]}
            for row in rows
        ]
        target = folder / benchmark / f"{language}.jsonl"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf-8")
        written[target] = None
    return list(written)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(f"usage: python {sys.argv[0]} SAMPLES FOLDER")
    for file in collect(Path(sys.argv[1]), Path(sys.argv[2])):
        print(file)
