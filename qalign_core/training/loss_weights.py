"""How the loss `paper` differs from `token`: what a target token weighs in each, and where the two gradients point.

`token` weighs every target token of an update alike. `paper` takes the mean over each micro-batch of two first, so that
a token weighs the more the shorter its own response and its neighbour's are.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch

from qalign_core.supervision import IGNORED, Collator, weighted_loss

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def count_targets(labels: Sequence[Sequence[int]]) -> np.ndarray:
    """Target tokens of each example: (examples,)."""
    return np.array([sum(label != IGNORED for label in row) for row in labels])


def shares_by_length(targets: Sequence[int], micro_batch: int = 2, seed: int = 0, groups: int = 5) -> pd.DataFrame:
    """What share of either loss the short and the long responses have.

    Args:
        targets: target tokens of each example; those without any are left out.
        micro_batch: examples that `paper` averages over first.
        seed: of the random order in which examples meet, as in an epoch.
        groups: of equally many examples, by length.

    Returns:
        A row a group: `target tokens` (from–to), `examples`, `token` and `paper` (percent of the loss's weight), and
        `one token`: what one of its tokens weighs in `paper`, where 1 is its weight in `token`.

    Raises:
        ValueError: for fewer examples than groups.
    """
    counts = np.asarray(targets)
    counts = np.random.default_rng(seed).permutation(counts[counts > 0])
    counts = counts[: len(counts) // micro_batch * micro_batch]
    if len(counts) < groups:
        raise ValueError(f"{len(counts)} examples with targets are too few for {groups} groups; give more")
    sums = counts.reshape(-1, micro_batch).sum(axis=1).repeat(micro_batch)  # (examples,), of its micro-batch
    table = pd.DataFrame({"targets": counts, "token": counts / counts.sum()})
    table["paper"] = counts / sums / (len(counts) / micro_batch)
    table["group"] = pd.qcut(table.targets.rank(method="first"), groups, labels=False)
    grouped = table.groupby("group")
    shortest, longest = grouped.targets.min(), grouped.targets.max()
    shares = grouped[["token", "paper"]].sum()
    columns = {"target tokens": [f"{low}–{high}" for low, high in zip(shortest, longest, strict=True)]}
    result = pd.DataFrame(columns | {"examples": grouped.size().to_numpy()})
    result[["token", "paper"]] = 100 * shares.to_numpy()
    result["one token"] = result["paper"] / result["token"]
    return result


def gradient_cosines(
    model: PreTrainedModel, examples: list[dict[str, Any]], sequences: int = 16
) -> list[dict[str, float]]:
    """The two losses and the cosine between their gradients, update after update, on a model that does not learn.

    Args:
        model: a causal language model loaded with attention sdpa.
        examples: each `input_ids` and `labels`; every `sequences` of them are an update.
        sequences: in an update.

    Returns:
        For each update `paper` and `token` (loss), `cosine`, and `length ratio` (paper's gradient by token's).
    """
    rows = []
    for start in range(0, len(examples) - sequences + 1, sequences):
        update = examples[start : start + sequences]
        losses, gradients = {}, {}
        for loss in ("paper", "token"):
            model.zero_grad()
            batch = Collator(0, packing=False, loss=loss)(update)
            value = weighted_loss(model, batch) / batch["items"].item()
            value.backward()
            losses[loss] = value.item()
            gradients[loss] = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
        model.zero_grad()
        cosine = torch.nn.functional.cosine_similarity(gradients["paper"], gradients["token"], dim=0).item()
        ratio = (gradients["paper"].norm() / gradients["token"].norm()).item()
        rows.append(losses | {"cosine": cosine, "length ratio": ratio})
    return rows
