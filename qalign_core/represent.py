"""Entry point of the representation analysis: what the layers of several models make of parallel questions.

    deepspeed --module qalign_core.represent job.json

Questions go into each model as they stand, without a prompt. A question's representation in a layer is the mean of
its tokens' hidden states: padding and the beginning-of-text token are left out.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from transformers import PreTrainedTokenizerBase
from transformers.utils import logging

from qalign_core import runs
from qalign_core.generate import peak_memory
from qalign_core.generation.questions import Rank, load_tokenizer, model_source
from qalign_core.scores.parallel_states import middle, parallel_measures, plane
from qalign_core.training.model_folder import load_model

BATCH = 16  # questions in a forward pass


def represent(job_path: Path) -> None:
    """Measure every model of a job and write `measures.csv`, `points.csv` and, last, `done.json`.

    Raises:
        FileNotFoundError: for an absent model, tokenizer or file of questions.
        ValueError: for a file of questions that changed since the job was written.
    """
    begun = time.monotonic()
    if runs.is_done(job_path):
        print(f"{job_path}: already done")
        return
    job, root, folder = runs.read_json(job_path), runs.run_root(job_path), job_path.parent
    texts = read_texts(job, root)
    measures, points = [], []
    for entry in job["models"]:
        heartbeat(folder, f"loading {entry['name']}")
        states = model_states(job, entry, texts, root, folder)  # code → (layers + 1, Q, H)
        measures.append(parallel_measures(states).assign(model=entry["name"]))
        layer = middle(states["en"])
        points.append(plane({code: s[layer] for code, s in states.items()}).assign(model=entry["name"], layer=layer))
    files = {
        f"{name}.csv": runs.sha256_file(write_rows(folder / f"{name}.csv", pd.concat(parts)))
        for name, parts in (("measures", measures), ("points", points))
    }
    done = {"fingerprint": job["fingerprint"], "metrics": {"questions": len(texts["en"])}, "files": files}
    done |= {"versions": runs.versions(), "hardware": runs.hardware(), "git_commit": runs.git_commit()}
    done |= {"wall_seconds": round(time.monotonic() - begun, 3), "peak_memory_bytes": peak_memory()}
    runs.write_json(folder / "done.json", done)


def read_texts(job: dict[str, Any], root: Path) -> dict[str, list[str]]:
    """Language code → the questions of a job, the same ones in the same order in every language."""
    texts = {}
    for task in job["tasks"]:
        path = Path(runs.resolve(task["path"], root))
        if runs.sha256_file(path) != task["sha256"]:
            raise ValueError(f"{path}: not the file the job was written for (sha256 differs); write the job again")
        texts[task["language"]] = [row["question"] for row in runs.read_json_lines(path)][: job["limit"]]
    if len({len(questions) for questions in texts.values()}) > 1:
        raise ValueError(f"not as many questions in every language: { {c: len(q) for c, q in texts.items()} }")
    return texts


def model_states(
    job: dict[str, Any], entry: dict[str, Any], texts: dict[str, list[str]], root: Path, folder: Path
) -> dict[str, np.ndarray]:
    """Language code → (layers + 1, Q, H) mean hidden states of one model; row 0 is the embeddings."""
    source, revision = model_source(entry, root)
    tokenizer = load_tokenizer(source, revision)
    device = Rank().device()
    model = load_model(source, revision, dtype=getattr(torch, job["dtype"])).to(device).eval()
    states = {}
    for code, questions in texts.items():
        heartbeat(folder, f"reading with {entry['name']} in {code}")
        states[code] = mean_states(model, tokenizer, questions)
    del model
    if device.type == "cuda":
        torch.cuda.empty_cache()
    return states


@torch.inference_mode()
def mean_states(model: torch.nn.Module, tokenizer: PreTrainedTokenizerBase, questions: list[str]) -> np.ndarray:
    """(layers + 1, Q, H) hidden states in fp32, averaged over each question's own tokens.

    A question longer than the model's context is cut.

    Args:
        model: a causal language model; its output layer is not run.
        tokenizer: any; padding is on the right here, where causal attention cannot see it.
        questions: texts.
    """
    context = getattr(model.config, "max_position_embeddings", None)
    rows = [row[:context] for row in tokenizer(questions)["input_ids"]]
    for text, row in zip(questions, rows, strict=True):
        if all(token == tokenizer.bos_token_id for token in row):
            raise ValueError(f"the question {text!r} has no tokens of its own")
    filler = tokenizer.eos_token_id
    states = np.empty(0)
    for positions in batches([len(row) for row in rows]):
        chosen = [rows[position] for position in positions]
        length = max(map(len, chosen))
        input_ids = torch.tensor([row + [filler] * (length - len(row)) for row in chosen])  # (B, T)
        real = torch.tensor([[1] * len(row) + [0] * (length - len(row)) for row in chosen])  # (B, T)
        own = (real.bool() & (input_ids != tokenizer.bos_token_id)).unsqueeze(-1).to(model.device)  # (B, T, 1)
        output = model.base_model(
            input_ids=input_ids.to(model.device),
            attention_mask=real.to(model.device),
            output_hidden_states=True,
            use_cache=False,
        )
        means = [(hidden.float() * own).sum(1) / own.sum(1) for hidden in output.hidden_states]  # of (B, T, H): (B, H)
        if not states.size:
            states = np.empty((len(means), len(rows), means[0].shape[-1]), dtype=np.float32)  # (layers + 1, Q, H)
        states[:, positions] = torch.stack(means).cpu().numpy()
    return states


def batches(lengths: list[int]) -> Iterator[list[int]]:
    """Positions of questions of similar length, so that little is padded."""
    order = sorted(range(len(lengths)), key=lambda position: (lengths[position], position))
    for start in range(0, len(order), BATCH):
        yield order[start : start + BATCH]


def heartbeat(folder: Path, phase: str) -> None:
    """A sign of life for the notebook that waits."""
    with (folder / "progress.jsonl").open("a", encoding="utf-8") as stream:
        stream.write(f'{{"time": {time.time()}, "phase": "{phase}"}}\n')


def write_rows(path: Path, rows: pd.DataFrame) -> Path:
    """Write a table as CSV, names first."""
    first = [name for name in ("model", "layer", "language") if name in rows]
    ordered = rows[[*first, *(name for name in rows if name not in first)]]
    return runs.write_atomic(path, ordered.to_csv(index=False, float_format="%.5g", lineterminator="\n"))


def main() -> None:
    """Read the command line: one job, and the rank argument that DeepSpeed's launcher adds."""
    parser = argparse.ArgumentParser(description="Measure how alike models represent parallel questions.")
    parser.add_argument("job", type=Path, help="path of job.json")
    parser.add_argument("--local_rank", type=int, help="given by the launcher, which also sets LOCAL_RANK")
    arguments = parser.parse_args()
    runs.start_lifeline()
    logging.disable_progress_bar()
    try:
        represent(arguments.job.absolute())
    except (FileNotFoundError, ValueError) as error:
        sys.exit(f"{type(error).__name__}: {error}")


if __name__ == "__main__":
    main()
