"""Intervals and tests over tables of scored answers: every system, seed, benchmark and language at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from qalign_core import statistics
from qalign_core.languages import CODES

MEASURES = ("average", "non_english", "english", "gap")
# The differences the paper claims. Only these are tested; everything else is shown without a p.
DECLARED_PAIRS = (("QAlign", "MonoReason"), ("QAlign", "MultiReason"), ("QAlign + mixed", "QAlign"))


def matrices(answers: pd.DataFrame, column: str) -> dict[tuple, pd.DataFrame]:
    """(system, seed, benchmark) → questions × languages, in the tables' order of languages.

    Raises:
        ValueError: where a language of a run answers other questions than the rest.
    """
    found = {}
    for key, rows in answers.groupby(["system", "seed", "benchmark"], sort=False):
        matrix = rows.pivot(index="index", columns="language", values=column).astype(float)
        matrix = matrix[[code for code in CODES if code in matrix]]
        if matrix.isna().any(axis=None):
            code = matrix.columns[matrix.isna().any()][0]
            raise ValueError(f"{key[0]} (seed {key[1]}), {key[2]}: not every question is answered in {code}")
        found[key] = matrix
    return found


def _measures(matrix: pd.DataFrame) -> pd.DataFrame:
    """Languages and the means over them, each as one value a question (they are all linear in the answers)."""
    others = matrix[[code for code in matrix if code != "en"]]
    extra = {"average": matrix.mean(axis=1), "non_english": others.mean(axis=1)}
    if "en" in matrix:
        extra |= {"english": matrix["en"], "gap": matrix["en"] - extra["non_english"]}
    return matrix.assign(**extra)


def _labels(groups: Mapping[str, pd.Series] | None, benchmark: str, index: pd.Index) -> np.ndarray | None:
    """Cluster labels of a benchmark's questions, or `None` where each is its own cluster."""
    if not groups or benchmark not in groups:
        return None
    labels = pd.Series(groups[benchmark])
    missing = index.difference(labels.index)
    if len(missing):
        raise ValueError(f"groups of {benchmark}: question {missing[0]} has no group ({len(missing)} have none)")
    return labels.loc[index].to_numpy()


def _bootstrap(values: pd.DataFrame, labels: np.ndarray | None, draws: int) -> tuple[np.ndarray, ...]:
    """Estimates and the ends of their intervals (percent); without ends where all questions are one group."""
    clusters = len(values) if labels is None else len(set(labels))
    if clusters < 2:
        nothing = np.full(values.shape[1], np.nan)
        return 100.0 * values.mean().to_numpy(), nothing, nothing
    return statistics.bootstrap_columns(values.to_numpy(), labels, draws=draws)


def intervals(
    answers: pd.DataFrame,
    groups: Mapping[str, pd.Series] | None = None,
    *,
    column: str = "correct_paper",
    draws: int = statistics.DRAWS,
) -> pd.DataFrame:
    """95% intervals of every system, seed and benchmark: each language, the averages and the gap.

    Args:
        answers: rows of `scorer.score`, or of `consistency.agreement` with `column="agrees"`.
        groups: benchmark → near-duplicate group of each question (a series indexed by question).
        column: what is averaged.
        draws: bootstrap samples.

    Returns:
        `system, seed, benchmark, measure, estimate, low, high, method, questions, clusters`. `measure` is a language
        code or one of `average, non_english, english, gap`; `method` is `Wilson` for one language of a benchmark
        without groups and `cluster bootstrap` otherwise. Where all answers are wrong, or all right, samples of them
        would be alike: the interval is Wilson's with a cluster for a question (`Wilson, by cluster`). Where all
        questions are variations of one, nothing can be resampled: `low` and `high` are missing, and `method` says so.
    """
    tables = []
    for (system, seed, benchmark), matrix in matrices(answers, column).items():
        labels = _labels(groups, benchmark, matrix.index)
        values = _measures(matrix)
        estimate, low, high = _bootstrap(values, labels, draws)
        table = pd.DataFrame({"measure": values.columns, "estimate": estimate, "low": low, "high": high})
        table["method"] = "cluster bootstrap" if np.isfinite(low).all() else "none: a single group of questions"
        if labels is None:
            single = table["measure"].isin([*matrix.columns, "english"])
            right = values[table.loc[single, "measure"]].sum().to_numpy()
            table.loc[single, "low"], table.loc[single, "high"] = statistics.wilson(right, len(matrix))
            table.loc[single, "method"] = "Wilson"
        table["questions"] = len(matrix)
        table["clusters"] = clusters = len(matrix) if labels is None else len(set(labels))
        for value, right in ((0.0, 0), (100.0, clusters)):
            alike = (table["estimate"] == value) & (table["low"] == table["high"]) & (table["measure"] != "gap")
            table.loc[alike, "low"], table.loc[alike, "high"] = statistics.wilson(right, clusters)
            table.loc[alike, "method"] = "Wilson, by cluster"
        tables.append(table.assign(system=system, seed=seed, benchmark=benchmark))
    first = ["system", "seed", "benchmark", "measure"]
    return pd.concat(tables, ignore_index=True).pipe(lambda t: t[[*first, *(c for c in t if c not in first)]])


def _declared(matrices: dict, pairs: Sequence[Sequence[str]]):
    """(a, b, seed, benchmark, matrix of a, matrix of b) of each declared pair that was run with the same seed."""
    for a, b in pairs:
        for (system, seed, benchmark), ours in matrices.items():
            theirs = matrices.get((b, seed, benchmark))
            if system != a or theirs is None:
                continue
            if not (ours.index.equals(theirs.index) and ours.columns.equals(theirs.columns)):
                raise ValueError(f"{a} and {b} (seed {seed}) answer different questions of {benchmark}")
            yield a, b, seed, benchmark, ours, theirs


def compare(
    answers: pd.DataFrame,
    pairs: Sequence[Sequence[str]] = DECLARED_PAIRS,
    groups: Mapping[str, pd.Series] | None = None,
    *,
    column: str = "correct_paper",
    measures: Sequence[str] = MEASURES,
    draws: int = statistics.DRAWS,
) -> pd.DataFrame:
    """Paired differences `a - b` of declared pairs, seed by seed: averages and gap, with interval and p.

    Pairs of which a system was not run are left out. Besides `MEASURES`, `measures` may name languages.

    Returns:
        `a, b, seed, benchmark, measure, difference, low, high, p, questions, clusters`; points, 95% percentile interval
        by cluster bootstrap, two-sided p by flipping the signs of clusters (not corrected for the number of measures).
    """
    tables = []
    for a, b, seed, benchmark, ours, theirs in _declared(matrices(answers, column), pairs):
        labels = _labels(groups, benchmark, ours.index)
        values = _measures(ours - theirs)
        values = values[[name for name in measures if name in values]]
        difference, low, high = _bootstrap(values, labels, draws)
        table = pd.DataFrame({"a": a, "b": b, "seed": seed, "benchmark": benchmark, "measure": values.columns})
        table = table.assign(difference=difference, low=low, high=high)
        single = not np.isfinite(low).all()
        table["p"] = np.nan if single else statistics.sign_flip(values.to_numpy(), labels, draws=draws)
        table["questions"] = len(ours)
        table["clusters"] = len(ours) if labels is None else len(set(labels))
        tables.append(table)
    columns = ["a", "b", "seed", "benchmark", "measure", "difference", "low", "high", "p", "questions", "clusters"]
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=columns)


def compare_languages(
    answers: pd.DataFrame,
    pairs: Sequence[Sequence[str]] = DECLARED_PAIRS,
    *,
    benchmarks: Sequence[str] = ("mgsm",),
    column: str = "correct_paper",
) -> pd.DataFrame:
    """Exact McNemar tests of declared pairs in every language, per seed, Holm-corrected over the languages.

    Args:
        answers: rows of `scorer.score`.
        pairs: (a, b); pairs of which a system was not run are left out.
        benchmarks: those whose questions are independent; mSVAMP's near duplicates are not.
        column: what is compared.

    Returns:
        `a, b, seed, benchmark, language, difference, only_a, only_b, p, p_holm`.
    """
    tables = []
    chosen = answers[answers["benchmark"].isin(benchmarks)]
    for a, b, seed, benchmark, ours, theirs in _declared(matrices(chosen, column), pairs):
        table = statistics.mcnemar_holm(ours.to_numpy(), theirs.to_numpy(), list(ours.columns))
        key = {"a": a, "b": b, "seed": seed, "benchmark": benchmark}
        tables.append(pd.DataFrame([key] * len(table)).join(table))
    columns = ["a", "b", "seed", "benchmark", "language", "difference", "only_a", "only_b", "p", "p_holm"]
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=columns)


def seed_range(table: pd.DataFrame, value: str = "estimate") -> pd.DataFrame:
    """Mean, smallest and largest value over seeds and how many there are; every other key column is kept apart.

    The range shows what training again changes. It is no interval: seeds are never pooled as if they were questions.
    """
    keys = [name for name in ("system", "a", "b", "benchmark", "measure", "language", "scorer") if name in table]
    return table.groupby(keys, sort=False)[value].agg(mean="mean", low="min", high="max", seeds="size").reset_index()


def mean_over_seeds(rows: pd.DataFrame, keys: Sequence[str]) -> pd.DataFrame:
    """Estimates averaged over seeds. The ends become the smallest and largest end of any seed's interval."""
    grouped = rows.groupby(list(keys), sort=False)
    return grouped.agg(
        estimate=("estimate", "mean"), low=("low", "min"), high=("high", "max"), seeds=("seed", "nunique")
    ).reset_index()
