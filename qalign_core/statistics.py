"""Intervals and tests for accuracies: what a difference of three points on 250 questions is worth.

The unit of sampling is the question. All languages share the same questions, and mSVAMP's come in groups of near
duplicates, so means over languages are resampled by question or by group (a *cluster*), never by answer. Every
interval is about the questions of one run; it leaves out what training with another seed would change. Numbers are
percent and percentage points.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy.stats import binom
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import proportion_confint

DRAWS = 10_000
SEED = 2024  # of the resampling, so that an interval is the same on every run
_CELLS = 4_000_000  # random numbers held at a time, about 32 MB

Labels = Sequence | np.ndarray  # (Q,), the cluster of each question


def wilson(correct: np.ndarray | int, total: np.ndarray | int) -> tuple[np.ndarray, np.ndarray]:
    """Lower and upper end of the 95% Wilson score interval of a proportion, in percent, element by element.

    Raises:
        ValueError: where `total` is not positive or `correct` is not between 0 and `total`.
    """
    correct, total = np.asarray(correct), np.asarray(total)
    if (total <= 0).any() or (correct < 0).any() or (correct > total).any():
        raise ValueError("wilson: needs 0 <= correct <= total and total > 0")
    low, high = proportion_confint(correct, total, alpha=1 - 0.95, method="wilson")
    return 100.0 * np.asarray(low), 100.0 * np.asarray(high)


def _cluster_sums(values: np.ndarray, groups: Labels | None) -> tuple[np.ndarray, np.ndarray]:
    """Sums over each cluster and its number of questions: (Q, K) → (G, K) and (G,)."""
    if np.isnan(values).any():
        raise ValueError("bootstrap: a question has no value in some column")
    if groups is None:
        sums, counts = values, np.ones(len(values))
    else:
        if len(groups) != len(values):
            raise ValueError(f"bootstrap: {len(groups)} group labels for {len(values)} questions")
        codes, _ = pd.factorize(np.asarray(groups))
        if (codes < 0).any():
            raise ValueError("bootstrap: a question has no group")
        sums = np.zeros((codes.max() + 1, values.shape[1]))
        np.add.at(sums, codes, values)
        counts = np.bincount(codes).astype(float)
    if len(counts) < 2:
        raise ValueError("bootstrap: needs at least two clusters of questions")
    return sums, counts


def _chunks(clusters: int, draws: int) -> list[int]:
    """Draws per step, so that at most `_CELLS` numbers are held at a time."""
    size = max(1, _CELLS // clusters)
    return [min(size, draws - start) for start in range(0, draws, size)]


def bootstrap_columns(
    values: np.ndarray, groups: Labels | None = None, *, confidence: float = 0.95, draws: int = DRAWS
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Percentile intervals of the means of many columns over the same questions, resampled together.

    Args:
        values: (Q, K): 0/1 for wrong/right, or any score per question.
        groups: (Q,) labels of near-duplicate groups; without it each question is its own cluster.
        confidence: two-sided.
        draws: samples of clusters with replacement, the same for every column.

    Returns:
        Estimates, lower and upper ends: three arrays (K,).

    Raises:
        ValueError: for fewer than two clusters, missing values, or labels that do not fit.
    """
    values = np.asarray(values, dtype=float)  # (Q, K)
    sums, counts = _cluster_sums(values, groups)
    rng = np.random.default_rng(SEED)
    clusters, means = len(counts), []
    for size in _chunks(clusters, draws):
        drawn = rng.integers(clusters, size=(size, clusters))  # (draws, G)
        drawn += clusters * np.arange(size)[:, None]
        times = np.bincount(drawn.ravel(), minlength=size * clusters).reshape(size, clusters).astype(float)
        means.append((times @ sums) / (times @ counts)[:, None])  # (draws, K)
    low, high = np.quantile(np.concatenate(means), [(1 - confidence) / 2, (1 + confidence) / 2], axis=0)
    return 100.0 * values.mean(axis=0), 100.0 * low, 100.0 * high


def sign_flip(values: np.ndarray, groups: Labels | None = None, *, draws: int = DRAWS) -> np.ndarray:
    """Two-sided permutation p of each column's mean being zero, flipping the sign of whole clusters.

    Args:
        values: (Q, K): paired differences of two systems per question.
        groups: (Q,) labels of clusters.
        draws: permutations; the smallest p is 1 / (draws + 1).

    Returns:
        (K,).
    """
    sums, _ = _cluster_sums(np.asarray(values, dtype=float), groups)
    total = sums.sum(axis=0)
    rng = np.random.default_rng(SEED)
    extreme = np.zeros(sums.shape[1])
    for size in _chunks(len(sums), draws):
        heads = rng.integers(2, size=(size, len(sums)), dtype=np.int8).astype(float)  # (draws, G)
        extreme += (np.abs(2 * (heads @ sums) - total) >= np.abs(total) - 1e-9).sum(axis=0)
    return (extreme + 1) / (draws + 1)


def mcnemar_holm(a: np.ndarray, b: np.ndarray, languages: Sequence[str]) -> pd.DataFrame:
    """Exact McNemar test of two systems in each language, with Holm's correction over the languages.

    Args:
        a: (Q, L) right or wrong.
        b: (Q, L), the same questions.
        languages: L codes.

    Returns:
        `language, difference, only_a, only_b, p, p_holm`: points, questions only one of the two has right, and p.
    """
    a, b = np.asarray(a, dtype=bool), np.asarray(b, dtype=bool)
    only_a, only_b = (a & ~b).sum(axis=0), (b & ~a).sum(axis=0)
    # The exact test is a fair coin's: how surprising is it that so few of the discordant questions went one way?
    p = np.minimum(2 * binom.cdf(np.minimum(only_a, only_b), only_a + only_b, 0.5), 1.0)
    return pd.DataFrame(
        {
            "language": list(languages),
            "difference": 100.0 * (only_a - only_b) / len(a),
            "only_a": only_a,
            "only_b": only_b,
            "p": p,
            "p_holm": multipletests(p, method="holm")[1],
        }
    )
