"""What is compared with what: intervals and paired tests over scored answers, the primary claim, and consistency.

The unit of sampling is the question. All languages share the same questions, and mSVAMP's come in groups of near
duplicates, so means over languages are resampled by question or by group (a *cluster*), never by answer. Every interval
is about the questions of one run; it leaves out what training with another seed would change. Numbers are percent and
percentage points.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import binom
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import proportion_confint

from qalign_core.languages import CODES
from qalign_core.scorer import TOLERANCE

MEASURES = ("average", "non_english", "english", "gap")
OURS = "QAlign"
WITHOUT = "MonoReason"  # the system without question alignment
# The differences the paper claims. Only these are tested; everything else is shown without a p.
DECLARED_PAIRS = ((OURS, WITHOUT), (OURS, "MultiReason"), ("QAlign + mixed", OURS))
Groups = Mapping[str, pd.Series] | None  # benchmark → near-duplicate group of each question, indexed by question
DRAWS = 10_000
SEED = 2024  # of the resampling, so that an interval is the same on every run
_CELLS = 4_000_000  # random numbers held at a time, about 32 MB
_RUN = ["system", "seed", "benchmark"]

# ------------------------------------------------------------------------------------------------- statistics


def wilson(correct: np.ndarray | int, total: np.ndarray | int) -> tuple[np.ndarray, np.ndarray]:
    """Lower and upper end of the 95% Wilson score interval of a proportion, in percent, element by element."""
    low, high = proportion_confint(np.asarray(correct), np.asarray(total), alpha=1 - 0.95, method="wilson")
    return 100.0 * np.asarray(low), 100.0 * np.asarray(high)


def _cluster_sums(values: np.ndarray, labels: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """Sums over each cluster and its number of questions: (Q, K) → (G, K) and (G,)."""
    codes = np.arange(len(values)) if labels is None else pd.factorize(labels)[0]  # (Q,)
    sums = np.zeros((codes.max() + 1, values.shape[1]))
    np.add.at(sums, codes, values)
    return sums, np.bincount(codes).astype(float)


def _chunks(clusters: int, draws: int) -> list[int]:
    """Draws per step, so that at most `_CELLS` numbers are held at a time."""
    size = max(1, _CELLS // clusters)
    return [min(size, draws - start) for start in range(0, draws, size)]


def bootstrap(
    values: np.ndarray, labels: np.ndarray | None = None, *, confidence: float = 0.95, draws: int = DRAWS
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Percentile intervals of the means of many columns over the same questions, resampled together by cluster.

    Args:
        values: (Q, K): 0/1 for wrong/right, or any score per question.
        labels: (Q,) near-duplicate group of each question; without it each is its own cluster.

    Returns:
        Estimates, lower and upper ends: three arrays (K,); no ends where all questions are one cluster.
    """
    sums, counts = _cluster_sums(values, labels)
    clusters, estimate = len(counts), 100.0 * values.mean(axis=0)
    if clusters < 2:
        return estimate, np.full_like(estimate, np.nan), np.full_like(estimate, np.nan)
    rng, means = np.random.default_rng(SEED), []
    for size in _chunks(clusters, draws):
        drawn = rng.integers(clusters, size=(size, clusters))  # (draws, G)
        drawn += clusters * np.arange(size)[:, None]
        times = np.bincount(drawn.ravel(), minlength=size * clusters).reshape(size, clusters).astype(float)
        means.append((times @ sums) / (times @ counts)[:, None])  # (draws, K)
    low, high = np.quantile(np.concatenate(means), [(1 - confidence) / 2, (1 + confidence) / 2], axis=0)
    return estimate, 100.0 * low, 100.0 * high


def sign_flip(values: np.ndarray, labels: np.ndarray | None = None, *, draws: int = DRAWS) -> np.ndarray:
    """Two-sided permutation p (K,) of each column's mean being zero, flipping the sign of whole clusters.

    `values` (Q, K) are paired differences of two systems per question; the smallest p is 1 / (draws + 1).
    """
    sums, _ = _cluster_sums(values, labels)
    total, rng, extreme = sums.sum(axis=0), np.random.default_rng(SEED), np.zeros(sums.shape[1])
    for size in _chunks(len(sums), draws):
        heads = rng.integers(2, size=(size, len(sums)), dtype=np.int8).astype(float)  # (draws, G)
        extreme += (np.abs(2 * (heads @ sums) - total) >= np.abs(total) - 1e-9).sum(axis=0)
    return (extreme + 1) / (draws + 1)


def mcnemar_holm(a: np.ndarray, b: np.ndarray, languages: Sequence[str]) -> pd.DataFrame:
    """Exact McNemar test of two systems in each language, with Holm's correction over the languages; `a` and `b` are
    (Q, L), right or wrong. `difference` is in points, `only_a` how many questions only `a` has right.
    """
    a, b = np.asarray(a, dtype=bool), np.asarray(b, dtype=bool)
    only_a, only_b = (a & ~b).sum(axis=0), (b & ~a).sum(axis=0)
    # The exact test is a fair coin's: how surprising is it that so few of the discordant questions went one way?
    p = np.minimum(2 * binom.cdf(np.minimum(only_a, only_b), only_a + only_b, 0.5), 1.0)
    table = pd.DataFrame({"language": list(languages), "difference": 100.0 * (only_a - only_b) / len(a)})
    return table.assign(only_a=only_a, only_b=only_b, p=p, p_holm=multipletests(p, method="holm")[1])


# ------------------------------------------------------------------------------------------------- comparisons


def matrices(answers: pd.DataFrame, column: str) -> dict[tuple, pd.DataFrame]:
    """(system, seed, benchmark) → questions × languages, in the tables' order of languages; a ValueError where one
    answers other questions than the rest."""
    found = {}
    for key, rows in answers.groupby(_RUN, sort=False):
        matrix = rows.pivot(index="index", columns="language", values=column).astype(float)
        matrix = matrix[[code for code in CODES if code in matrix]]
        if matrix.isna().any(axis=None):
            code = matrix.columns[matrix.isna().any()][0]
            raise ValueError(f"{key[0]} (seed {key[1]}), {key[2]}: not every question is answered in {code}")
        found[key] = matrix
    return found


def _with_means(matrix: pd.DataFrame) -> pd.DataFrame:
    """Languages and the means over them, one value per question; means over other languages only if there are some."""
    means = {"average": matrix.mean(axis=1)}
    others = matrix.drop(columns="en", errors="ignore")
    if others.shape[1]:
        means["non_english"] = others.mean(axis=1)
    if "en" in matrix:
        means["english"] = matrix["en"]
    if len(means) == 3:
        means["gap"] = matrix["en"] - means["non_english"]
    return matrix.assign(**means)


def _labels(groups: Groups, benchmark: str, index: pd.Index) -> np.ndarray:
    """(Q,) cluster labels of a benchmark's questions; where it has no groups, each question is its own cluster."""
    return groups[benchmark].loc[index].to_numpy() if groups and benchmark in groups else np.arange(len(index))


def intervals(
    answers: pd.DataFrame, groups: Groups = None, *, column: str = "correct_paper", draws: int = DRAWS
) -> pd.DataFrame:
    """95% intervals of every system, seed and benchmark: each language, the averages and the gap.

    Args:
        answers: rows of `scorer.score`, or of `agreement` with `column="agrees"`.

    Returns:
        `system, seed, benchmark, measure, estimate, low, high, method, questions, clusters`. `measure` is a language
        code or one of `MEASURES`; `method` is `Wilson` for one language of a benchmark without groups and `cluster
        bootstrap` otherwise. Where all answers are wrong, or all right, samples of them would be alike: the interval
        is Wilson's over clusters (`Wilson, by cluster`). Where all questions are variations of one, nothing can be
        resampled: `low` and `high` are missing, and `method` says so.
    """
    tables = []
    for key, matrix in matrices(answers, column).items():
        benchmark, values = key[2], _with_means(matrix)
        labels = _labels(groups, benchmark, matrix.index)
        clusters = len(set(labels))
        estimate, low, high = bootstrap(values.to_numpy(), labels, draws=draws)
        table = pd.DataFrame(dict(zip(_RUN, key, strict=True)) | {"measure": values.columns})
        table = table.assign(estimate=estimate, low=low, high=high)
        table["method"] = "cluster bootstrap" if clusters > 1 else "none: a single group of questions"
        if not groups or benchmark not in groups:
            single = table["measure"].isin([*matrix.columns, "english"])
            right = values[table.loc[single, "measure"]].sum().to_numpy()
            table.loc[single, "low"], table.loc[single, "high"] = wilson(right, len(matrix))
            table.loc[single, "method"] = "Wilson"
        table["questions"], table["clusters"] = len(matrix), clusters
        for value, right in ((0.0, 0), (100.0, clusters)):
            alike = (table["estimate"] == value) & (table["low"] == table["high"]) & (table["measure"] != "gap")
            table.loc[alike, "low"], table.loc[alike, "high"] = wilson(right, clusters)
            table.loc[alike, "method"] = "Wilson, by cluster"
        tables.append(table)
    return pd.concat(tables, ignore_index=True)


def _pairs(
    answers: pd.DataFrame, column: str, pairs: Sequence[Sequence[str]]
) -> Iterator[tuple[dict[str, Any], pd.DataFrame, pd.DataFrame]]:
    """`a, b, seed, benchmark` of two systems run with the same seed, and questions × languages of each."""
    found = matrices(answers, column)
    for a, b in pairs:
        for (system, seed, benchmark), ours in found.items():
            if system == a and (b, seed, benchmark) in found:
                yield {"a": a, "b": b, "seed": seed, "benchmark": benchmark}, ours, found[b, seed, benchmark]


def compare(
    answers: pd.DataFrame,
    pairs: Sequence[Sequence[str]] = DECLARED_PAIRS,
    groups: Groups = None,
    *,
    column: str = "correct_paper",
    measures: Sequence[str] = MEASURES,
    confidence: float = 0.95,
    draws: int = DRAWS,
) -> pd.DataFrame:
    """Paired differences `a - b` of declared pairs, seed by seed, with interval and p.

    Pairs of which a system was not run are left out. Besides `MEASURES`, `measures` may name languages. Differences are
    in points, with a percentile interval by cluster bootstrap and a two-sided p by flipping the signs of clusters (not
    corrected for the number of measures).
    """
    columns = ["a", "b", "seed", "benchmark", "measure", "difference", "low", "high", "p", "questions", "clusters"]
    tables = []
    for key, ours, theirs in _pairs(answers, column, pairs):
        labels = _labels(groups, key["benchmark"], ours.index)
        values = _with_means(ours - theirs)
        values = values[[name for name in measures if name in values]]
        if values.empty:
            continue
        difference, low, high = bootstrap(values.to_numpy(), labels, draws=draws, confidence=confidence)
        p = sign_flip(values.to_numpy(), labels, draws=draws) if len(set(labels)) > 1 else np.nan
        table = pd.DataFrame({**key, "measure": values.columns, "difference": difference, "low": low, "high": high})
        tables.append(table.assign(p=p, questions=len(ours), clusters=len(set(labels))))
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=columns)


def compare_languages(
    answers: pd.DataFrame, pairs: Sequence[Sequence[str]] = DECLARED_PAIRS, *, column: str = "correct_paper"
) -> pd.DataFrame:
    """Exact McNemar tests of declared pairs in every language of mGSM, per seed, Holm-corrected over the languages.

    mSVAMP is left out: the test needs independent questions, and its near duplicates are not.
    """
    columns = ["a", "b", "seed", "benchmark", "language", "difference", "only_a", "only_b", "p", "p_holm"]
    tables = [
        mcnemar_holm(ours.to_numpy(), theirs.to_numpy(), list(ours.columns)).assign(**key)[columns]
        for key, ours, theirs in _pairs(answers[answers["benchmark"] == "mgsm"], column, pairs)
    ]
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=columns)


def mean_over_seeds(rows: pd.DataFrame, keys: Sequence[str]) -> pd.DataFrame:
    """Estimates averaged over seeds; the ends are the smallest and largest end of any seed's interval."""
    grouped = rows.groupby(list(keys), sort=False)
    return grouped.agg(
        estimate=("estimate", "mean"), low=("low", "min"), high=("high", "max"), seeds=("seed", "nunique")
    ).reset_index()


# ------------------------------------------------------------------------------------------------- the primary claim

IN_DOMAIN = "mgsm"
MARGIN = 3.0  # points that English may lose and still count as kept
QUESTIONS = 1000  # English questions without which that is not decided: fewer leave more than the margin to chance
SEEDS = 3
SHOWN, NOT_SHOWN, OPEN = "shown", "not shown", "not decidable here"


def primary_outcomes(answers: pd.DataFrame, groups: Groups = None, *, column: str = "correct_paper") -> pd.DataFrame:
    """The primary outcome and the check of English, one row per seed.

    Returns:
        `outcome` (`primary` or `english`), `seed, benchmark, estimate, low, high` (points; of English the one-sided
        lower end, and no upper one), `questions, verdict`. No row where one of the two systems was not run.

    Source: ours; the paper reports accuracies of one seed.
    """
    both = answers[answers["system"].isin([OURS, WITHOUT])].sort_values("seed", kind="stable")
    claimed, english = both[both["benchmark"] == IN_DOMAIN], both[both["language"] == "en"]
    main = compare(claimed, [(OURS, WITHOUT)], groups, column=column, measures=["non_english"])
    main["verdict"] = np.where(main["low"].astype(float) > 0, SHOWN, NOT_SHOWN)
    asked = english.groupby("benchmark", sort=False)["index"].nunique()
    most = english[english["benchmark"] == asked.idxmax()] if len(asked) else english
    # The lower end of a one-sided 95% interval is that of a two-sided 90% one.
    kept = compare(most, [(OURS, WITHOUT)], groups, column=column, measures=["english"], confidence=2 * 0.95 - 1)
    kept = kept[kept["low"].notna()].assign(high=np.nan)
    within = np.where(kept["low"].astype(float) > -MARGIN, SHOWN, NOT_SHOWN)
    kept["verdict"] = np.where(kept["questions"].astype(float) < QUESTIONS, OPEN, within)
    parts = [part for part in (main.assign(outcome="primary"), kept.assign(outcome="english")) if len(part)]
    columns = ["outcome", "seed", "benchmark", "estimate", "low", "high", "questions", "verdict"]
    if not parts:
        return pd.DataFrame(columns=columns)
    return pd.concat(parts, ignore_index=True).rename(columns={"difference": "estimate"})[columns]


def primary_sentences(found: pd.DataFrame) -> list[str]:
    """What came of the claim: a sentence for the primary outcome and one for English; none where not measured."""
    said = []
    for outcome, rows in found.groupby("outcome", sort=False):
        verdicts = set(rows["verdict"])  # shown only if it is in every seed
        verdict = next((each for each in (OPEN, NOT_SHOWN) if each in verdicts), SHOWN)
        ends = ("95% interval {0.low:.1f} to {0.high:.1f}", "one-sided 95% bound {0.low:.1f}")[outcome == "english"]
        form = f"seed {{0.seed}} {{0.estimate:+.1f}} points ({ends})"
        each = re.sub(r"-(?=\d)", "−", "; ".join(form.format(row) for row in rows.itertuples()))
        if outcome == "primary":
            above = int((rows["verdict"] == SHOWN).sum())
            enough = f" (the claim is about {SEEDS})" if len(rows) < SEEDS else f": {verdict}"
            said.append(
                f"Primary outcome, {OURS} − {WITHOUT}, mean of the languages other than English on mGSM: {each}; "
                f"above 0 in {above} of {len(rows)} {'seed' if len(rows) == 1 else 'seeds'}{enough}."
            )
        else:
            why = f" ({int(rows['questions'].min()):,} questions; {QUESTIONS:,} are needed)" if verdict == OPEN else ""
            said.append(f"English kept (margin {MARGIN:g} points): {each}: {verdict}{why}.")
    return said


# ------------------------------------------------------------------------------------------------- consistency


def _numbers(answers: pd.DataFrame, scorer: str) -> dict[tuple, pd.DataFrame]:
    """`matrices` of the answers; a response in which there is no number, or in which the scorer finds none (NaN), is
    missing, and so agrees with nothing."""
    numbers = answers[f"answer_{scorer}"]
    rows = answers.assign(number=numbers.fillna(0.0), found=answers["has_number"] & numbers.notna())
    found = matrices(rows, "found")
    return {key: matrix.where(found[key] > 0) for key, matrix in matrices(rows, "number").items()}


def _same(ours: Any, theirs: Any) -> Any:
    with np.errstate(invalid="ignore"):
        return np.abs(ours - theirs) < TOLERANCE


def _equal_pairs(left: np.ndarray, right: np.ndarray) -> int:
    """How many of all (left, right) pairs are the same number."""
    left, ordered = left[~np.isnan(left)], np.sort(right[~np.isnan(right)])
    above = np.searchsorted(ordered, left + TOLERANCE, side="left")
    return int((above - np.searchsorted(ordered, left - TOLERANCE, side="right")).sum())


def agreement(answers: pd.DataFrame, scorer: str = "paper") -> pd.DataFrame:
    """`system, seed, benchmark, language, index, agrees`: whether an answer equals the English one."""
    parts = []
    for key, numbers in _numbers(answers, scorer).items():
        others = numbers.drop(columns="en")
        agrees = _same(others, numbers[["en"]].to_numpy()).melt(ignore_index=False, value_name="agrees").reset_index()
        parts.append(agrees.assign(**dict(zip(_RUN, key, strict=True))))
    return pd.concat(parts, ignore_index=True)


def consistency(answers: pd.DataFrame, scorer: str = "paper") -> pd.DataFrame:
    """Share of questions whose predicted answer equals the predicted answer to the same question in English.

    A response without a number never agrees. `consistency`, the splits and their chance floors are in percent. A floor
    is the expectation over all permutations of the questions of one side, in closed form: what is left of the
    agreement when answers keep their distribution but lose their question. Splits whose condition never occurs are
    not a number. One row per system, seed, benchmark and language other than English.

    Source: our reading of the paper's Figure 3; the authors released no code for it.
    """
    rows, correct = [], matrices(answers, f"correct_{scorer}")

    def percent(part: int, whole: int) -> float:
        return 100.0 * part / whole if whole else float("nan")

    for key, numbers in _numbers(answers, scorer).items():
        theirs, english_right = numbers["en"].to_numpy(), correct[key]["en"].to_numpy() > 0  # (Q,)
        n = len(numbers)
        for code in numbers.columns.drop("en"):
            ours, right = numbers[code].to_numpy(), correct[key][code].to_numpy() > 0  # (Q,)
            agree, both_right, both_wrong = _same(ours, theirs), right & english_right, ~right & ~english_right
            wrong_pairs = _equal_pairs(ours[~right], theirs[~english_right])
            row: dict[str, Any] = {**dict(zip(_RUN, key, strict=True)), "language": code, "scorer": scorer}
            row |= {"agree": int(agree.sum()), "total": n, "consistency": percent(agree.sum(), n)}
            row["chance"] = percent(_equal_pairs(ours, theirs), n * n)
            row["both_right"] = percent(both_right.sum(), n)
            row["both_right_chance"] = percent(right.sum() * english_right.sum(), n * n)
            row["right_given_english_right"] = percent(both_right.sum(), english_right.sum())
            row["right_given_english_right_chance"] = percent(right.sum(), n * english_right.any())
            row["both_wrong"] = int(both_wrong.sum())
            row["same_given_both_wrong"] = percent((agree & both_wrong).sum(), both_wrong.sum())
            row["same_given_both_wrong_chance"] = percent(wrong_pairs, (~right).sum() * (~english_right).sum())
            row |= {"without_number": np.isnan(ours).sum(), "english_without_number": np.isnan(theirs).sum()}
            rows.append(row)
    return pd.DataFrame(rows)


def agreement_map(answers: pd.DataFrame, scorer: str = "paper") -> pd.DataFrame:
    """How often any two languages give the same answer to the same question (percent), every pair both ways round."""
    rows = []
    for key, matrix in _numbers(answers, scorer).items():
        numbers, codes = matrix.to_numpy(), list(matrix)  # (Q, L)
        share = 100.0 * _same(numbers[:, :, None], numbers[:, None, :]).mean(axis=0)  # (L, L)
        rows += [(*key, codes[i], codes[j], share[i, j]) for i, j in np.ndindex(share.shape) if i != j]
    return pd.DataFrame(rows, columns=[*_RUN, "language", "other", "agreement"])


def solved_languages(answers: pd.DataFrame, scorer: str = "paper") -> pd.DataFrame:
    """How many questions are solved in none, one, two, … of the languages, and their share in percent."""
    tables = []
    for key, matrix in matrices(answers, f"correct_{scorer}").items():
        counts = np.bincount(matrix.sum(axis=1).astype(int), minlength=matrix.shape[1] + 1)
        table = pd.DataFrame(dict(zip(_RUN, key, strict=True)) | {"languages": range(len(counts)), "questions": counts})
        tables.append(table.assign(percent=100.0 * counts / len(matrix)))
    return pd.concat(tables, ignore_index=True)
