"""Entry point of the representation analysis: how alike several models represent the same questions in many languages.

    deepspeed --module qalign_core.represent job.json

Questions go into each model as they stand, without a prompt. A question's representation in a layer is the mean of
its tokens' hidden states: padding and the beginning-of-text token are left out.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedTokenizerBase

from qalign_core import hub, runs
from qalign_core.generate import Rank, checked_rows, main
from qalign_core.models import load_model, load_tokenizer
from qalign_core.train import peak_memory

PIVOT = "en"
BATCH = 16  # questions in a forward pass


def represent(job_path: Path) -> None:
    """Measure every model of a job and write `measures.csv`, `points.csv` and, last, `done.json`."""
    begun = time.monotonic()
    if runs.is_done(job_path):
        print(f"{job_path}: already done")
        return
    job, root, folder = runs.read_json(job_path), runs.run_root(job_path), job_path.parent

    def beat(phase: str) -> None:  # for the notebook that waits
        runs.append_json_line(folder / "progress.jsonl", {"time": time.time(), "phase": phase})

    texts = read_texts(job, root)
    measures, points = [], []
    for entry in job["models"]:
        name = entry["name"]
        beat(f"loading {name}")
        source, revision = hub.located(entry["model"], root)
        tokenizer = load_tokenizer(source, revision)
        with Rank().device():  # one model at a time, straight onto the device
            model = load_model(source, revision, dtype=getattr(torch, job["dtype"])).eval()
        states = {}  # language code → (layers + 1, Q, H); row 0 is the embeddings
        for code, questions in texts.items():
            beat(f"reading with {name} in {code}")
            states[code] = mean_states(model, tokenizer, questions)
        del model
        measures.append(parallel_measures(states).assign(model=name))
        layer = len(states[PIVOT]) // 2  # halfway up: a choice that looks at no result
        points.append(plane({code: s[layer] for code, s in states.items()}).assign(model=name, layer=layer))
    files = {}
    for name, rows in (("measures.csv", pd.concat(measures)), ("points.csv", pd.concat(points))):
        first = [column for column in ("model", "layer", "language") if column in rows]
        ordered = rows[[*first, *rows.columns.difference(first, sort=False)]]
        text = ordered.to_csv(index=False, float_format="%.5g", lineterminator="\n")
        files[name] = runs.sha256_file(runs.write_atomic(folder / name, text))
    runs.write_done(
        folder,
        job["fingerprint"],
        {"questions": len(texts[PIVOT])},
        files=files,
        wall_seconds=round(time.monotonic() - begun, 3),
        peak_memory_bytes=peak_memory(),
    )


def read_texts(job: dict[str, Any], root: Path) -> dict[str, list[str]]:
    """Language code → the questions of a job, the same ones in the same order in every language."""
    texts = {}
    for task in job["tasks"]:
        texts[task["language"]] = [row["question"] for row in checked_rows(task, root)[: job["limit"]]]
    if len({len(questions) for questions in texts.values()}) > 1:
        raise ValueError(f"not as many questions in every language: { {c: len(q) for c, q in texts.items()} }")
    return texts


@torch.inference_mode()
def mean_states(model: torch.nn.Module, tokenizer: PreTrainedTokenizerBase, questions: list[str]) -> np.ndarray:
    """(layers + 1, Q, H) hidden states in fp32, averaged over each question's own tokens.

    A question longer than the model's context is truncated; causal attention cannot see the padding on the right.
    """
    context = getattr(model.config, "max_position_embeddings", None)
    rows = [row[:context] for row in tokenizer(questions)["input_ids"]]
    for text, row in zip(questions, rows, strict=True):
        if all(token == tokenizer.bos_token_id for token in row):
            raise ValueError(f"the question {text!r} has no tokens of its own")
    states = np.empty(0)
    order = sorted(range(len(rows)), key=lambda position: (len(rows[position]), position))  # little is padded
    for positions in (order[start : start + BATCH] for start in range(0, len(order), BATCH)):
        chosen = [torch.tensor(rows[position]) for position in positions]
        input_ids = pad_sequence(chosen, batch_first=True, padding_value=tokenizer.eos_token_id)  # (B, T)
        real = pad_sequence([torch.ones_like(row) for row in chosen], batch_first=True)  # (B, T)
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


# ------------------------------------------------------------------------------------------------- measures


def parallel_measures(states: Mapping[str, np.ndarray]) -> pd.DataFrame:
    """How well each language's questions find their English originals, layer by layer.

    `states` is code → (L, Q, H): one mean hidden state per layer and question, the same questions in every language.

    Returns:
        `layer, language, retrieval, cosine, cosine_others, questions`. `retrieval`: percent of the questions whose most
        similar English question (by cosine) is their own translation; 100 / Q is chance. `cosine`: mean over pairs of
        translations; `cosine_others`: over pairs of different questions, which a language's texts share anyway.
    """
    count = states[PIVOT].shape[1]
    if count < 2:
        raise ValueError(f"retrieval needs at least two questions, not {count}")

    def unit(vectors: np.ndarray) -> np.ndarray:  # (L, Q, H) of length one; zeros stay zeros
        length = np.linalg.norm(vectors, axis=-1, keepdims=True)
        return vectors / np.where(length > 0, length, 1.0)

    english, rows = unit(states[PIVOT]), []
    for code in states:
        if code == PIVOT:
            continue
        for layer, (ours, theirs) in enumerate(zip(unit(states[code]), english, strict=True)):
            similarity = ours @ theirs.T  # (Q, Q)
            own = np.diagonal(similarity)
            others = (similarity.sum() - own.sum()) / (count * (count - 1))
            row = {"layer": layer, "language": code, "retrieval": 100.0 * (similarity.argmax(1) == range(count)).mean()}
            rows.append(row | {"cosine": own.mean(), "cosine_others": others, "questions": count})
    return pd.DataFrame(rows)


def plane(states: Mapping[str, np.ndarray]) -> pd.DataFrame:
    """The first two principal components of all languages' questions together; `states` is code → (Q, H) of one layer.

    Returns `language, index, x, y, x_share, y_share`: the shares are of the variance, in percent. Each axis points to
    where the largest coefficient is positive, so that the same states give the same picture.
    """
    every = np.concatenate(list(states.values())).astype(np.float64)  # (languages × Q, H)
    centred = every - every.mean(axis=0)
    _, lengths, directions = np.linalg.svd(centred, full_matrices=False)
    directions = directions[:2]
    largest = np.abs(directions).argmax(axis=1)
    directions = directions * np.sign(directions[range(len(directions)), largest])[:, None]
    points, share = centred @ directions.T, 100.0 * lengths[:2] ** 2 / max((lengths**2).sum(), 1e-12)
    labels = [(code, index) for code, part in states.items() for index in range(len(part))]
    table = pd.DataFrame(labels, columns=["language", "index"])
    return table.assign(x=points[:, 0], y=points[:, 1], x_share=share[0], y_share=share[1])


if __name__ == "__main__":
    main(represent, "qalign_core.represent")
