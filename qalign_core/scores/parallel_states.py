"""How alike a model represents the same questions in several languages: retrieval, cosine, and a plane to draw."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

PIVOT = "en"


def unit(states: np.ndarray) -> np.ndarray:
    """Vectors of length one along the last axis; a vector of zeros stays one."""
    length = np.linalg.norm(states, axis=-1, keepdims=True)
    return states / np.where(length > 0, length, 1.0)


def parallel_measures(states: Mapping[str, np.ndarray]) -> pd.DataFrame:
    """How well each language's questions find their English originals, layer by layer.

    Args:
        states: language code → (L, Q, H): a mean hidden state a layer and question, the same questions in the same
            order in every language; `en` among them.

    Returns:
        `layer, language, retrieval, cosine, cosine_others, questions`. `retrieval`: percent of the questions whose most
        similar English question (by cosine) is their own translation; 100 / Q is chance. `cosine`: mean over pairs of
        translations; `cosine_others`: mean over pairs of different questions, which shows how much of the cosine
        every text of a language shares.

    Raises:
        ValueError: without English, or with fewer than two questions.
    """
    if PIVOT not in states:
        raise ValueError("no English questions to compare with")
    english, rows = unit(states[PIVOT]), []
    count = english.shape[1]
    if count < 2:
        raise ValueError(f"retrieval needs at least two questions, not {count}")
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


def middle(states: np.ndarray) -> int:
    """The layer that is drawn: halfway up, a choice that looks at no result."""
    return len(states) // 2


def plane(states: Mapping[str, np.ndarray]) -> pd.DataFrame:
    """The first two principal components of all languages' questions together.

    Args:
        states: language code → (Q, H) of one layer.

    Returns:
        `language, index, x, y, x_share, y_share`: the shares are of the variance, in percent. Each axis points to where
        the largest coefficient is positive, so that the same states give the same picture.
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
