"""What is compared with what: intervals and paired tests over scored answers, the primary claim, and consistency."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from qalign_core import statistics
from qalign_core.languages import CODES
from qalign_core.scorer import TOLERANCE

MEASURES = ("average", "non_english", "english", "gap")
OURS = "QAlign"
WITHOUT = "MonoReason"  # the system without question alignment
# The differences the paper claims. Only these are tested; everything else is shown without a p.
DECLARED_PAIRS = ((OURS, WITHOUT), (OURS, "MultiReason"), ("QAlign + mixed", OURS))
Groups = Mapping[str, pd.Series] | None  # benchmark → near-duplicate group of each question, indexed by question
_RUN = ["system", "seed", "benchmark"]


def matrices(answers: pd.DataFrame, column: str) -> dict[tuple, pd.DataFrame]:
    """(system, seed, benchmark) → questions × languages, in the tables' order of languages.

    Raises:
        ValueError: where a language of a run answers other questions than the rest.
    """
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
    others = matrix[[code for code in matrix if code != "en"]]
    if others.shape[1]:
        means["non_english"] = others.mean(axis=1)
    if "en" in matrix:
        means["english"] = matrix["en"]
    if len(means) == 3:
        means["gap"] = matrix["en"] - means["non_english"]
    return matrix.assign(**means)


def _labels(groups: Groups, benchmark: str, index: pd.Index) -> np.ndarray:
    """(Q,) cluster labels of a benchmark's questions; where it has no groups, each question is its own cluster."""
    if not groups or benchmark not in groups:
        return np.arange(len(index))
    labels = pd.Series(groups[benchmark])
    missing = index.difference(labels.index)
    if len(missing):
        raise ValueError(f"groups of {benchmark}: question {missing[0]} has no group ({len(missing)} have none)")
    return labels.loc[index].to_numpy()


def _bootstrap(
    values: pd.DataFrame, labels: np.ndarray, draws: int, confidence: float = 0.95
) -> tuple[np.ndarray, ...]:
    """Estimates and the ends of their intervals (percent); without ends where all questions are one cluster."""
    if len(set(labels)) < 2:
        nothing = np.full(values.shape[1], np.nan)
        return 100.0 * values.mean().to_numpy(), nothing, nothing
    return statistics.bootstrap_columns(values.to_numpy(), labels, draws=draws, confidence=confidence)


def intervals(
    answers: pd.DataFrame, groups: Groups = None, *, column: str = "correct_paper", draws: int = statistics.DRAWS
) -> pd.DataFrame:
    """95% intervals of every system, seed and benchmark: each language, the averages and the gap.

    Args:
        answers: rows of `scorer.score`, or of `agreement` with `column="agrees"`.
        groups: near-duplicate groups.
        column: what is averaged.
        draws: bootstrap samples.

    Returns:
        `system, seed, benchmark, measure, estimate, low, high, method, questions, clusters`. `measure` is a language
        code or one of `MEASURES`; `method` is `Wilson` for one language of a benchmark without groups and `cluster
        bootstrap` otherwise. Where all answers are wrong, or all right, samples of them would be alike: the interval
        is Wilson's over clusters (`Wilson, by cluster`). Where all questions are variations of one, nothing can be
        resampled: `low` and `high` are missing, and `method` says so.
    """
    tables = []
    for (system, seed, benchmark), matrix in matrices(answers, column).items():
        labels = _labels(groups, benchmark, matrix.index)
        clusters = len(set(labels))
        values = _with_means(matrix)
        estimate, low, high = _bootstrap(values, labels, draws)
        table = pd.DataFrame({"system": system, "seed": seed, "benchmark": benchmark, "measure": values.columns})
        table = table.assign(estimate=estimate, low=low, high=high)
        table["method"] = "cluster bootstrap" if np.isfinite(low).all() else "none: a single group of questions"
        if not groups or benchmark not in groups:
            single = table["measure"].isin([*matrix.columns, "english"])
            right = values[table.loc[single, "measure"]].sum().to_numpy()
            table.loc[single, "low"], table.loc[single, "high"] = statistics.wilson(right, len(matrix))
            table.loc[single, "method"] = "Wilson"
        table["questions"], table["clusters"] = len(matrix), clusters
        for value, right in ((0.0, 0), (100.0, clusters)):
            alike = (table["estimate"] == value) & (table["low"] == table["high"]) & (table["measure"] != "gap")
            table.loc[alike, "low"], table.loc[alike, "high"] = statistics.wilson(right, clusters)
            table.loc[alike, "method"] = "Wilson, by cluster"
        tables.append(table)
    return pd.concat(tables, ignore_index=True)


class _Pair(NamedTuple):
    """Two systems that were run with the same seed, questions × languages each."""

    key: dict[str, Any]  # a, b, seed, benchmark
    ours: pd.DataFrame
    theirs: pd.DataFrame


def _pairs(answers: pd.DataFrame, column: str, pairs: Sequence[Sequence[str]]) -> Iterator[_Pair]:
    found = matrices(answers, column)
    for a, b in pairs:
        for (system, seed, benchmark), ours in found.items():
            theirs = found.get((b, seed, benchmark))
            if system != a or theirs is None:
                continue
            if not (ours.index.equals(theirs.index) and ours.columns.equals(theirs.columns)):
                raise ValueError(f"{a} and {b} (seed {seed}) answer different questions of {benchmark}")
            yield _Pair({"a": a, "b": b, "seed": seed, "benchmark": benchmark}, ours, theirs)


def compare(
    answers: pd.DataFrame,
    pairs: Sequence[Sequence[str]] = DECLARED_PAIRS,
    groups: Groups = None,
    *,
    column: str = "correct_paper",
    measures: Sequence[str] = MEASURES,
    confidence: float = 0.95,
    draws: int = statistics.DRAWS,
) -> pd.DataFrame:
    """Paired differences `a - b` of declared pairs, seed by seed, with interval and p.

    Pairs of which a system was not run are left out. Besides `MEASURES`, `measures` may name languages.

    Returns:
        `a, b, seed, benchmark, measure, difference, low, high, p, questions, clusters`; points, 95% percentile interval
        by cluster bootstrap, two-sided p by flipping the signs of clusters (not corrected for the number of measures).
    """
    columns = ["a", "b", "seed", "benchmark", "measure", "difference", "low", "high", "p", "questions", "clusters"]
    tables = []
    for key, ours, theirs in _pairs(answers, column, pairs):
        labels = _labels(groups, key["benchmark"], ours.index)
        values = _with_means(ours - theirs)
        values = values[[name for name in measures if name in values]]
        if values.empty:
            continue
        difference, low, high = _bootstrap(values, labels, draws, confidence)
        p = statistics.sign_flip(values.to_numpy(), labels, draws=draws) if np.isfinite(low).all() else np.nan
        table = pd.DataFrame({**key, "measure": values.columns, "difference": difference, "low": low, "high": high})
        tables.append(table.assign(p=p, questions=len(ours), clusters=len(set(labels))))
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=columns)


def compare_languages(
    answers: pd.DataFrame, pairs: Sequence[Sequence[str]] = DECLARED_PAIRS, *, column: str = "correct_paper"
) -> pd.DataFrame:
    """Exact McNemar tests of declared pairs in every language of mGSM, per seed, Holm-corrected over the languages.

    mSVAMP is left out: the test needs independent questions, and its near duplicates are not.

    Returns:
        `a, b, seed, benchmark, language, difference, only_a, only_b, p, p_holm`.
    """
    columns = ["a", "b", "seed", "benchmark", "language", "difference", "only_a", "only_b", "p", "p_holm"]
    tables = []
    for key, ours, theirs in _pairs(answers[answers["benchmark"] == "mgsm"], column, pairs):
        table = statistics.mcnemar_holm(ours.to_numpy(), theirs.to_numpy(), list(ours.columns))
        tables.append(table.assign(**key)[columns])
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

STATEMENT = f"""
**Written down before any answer is looked at.** The primary outcome is the accuracy of {OURS} minus that of
{WITHOUT}, averaged over the languages other than English, in domain (mGSM): its 95% paired interval (bootstrap over
questions) lies above 0 in each of {SEEDS} seeds, with base, corpora and order drawn anew.

English is kept if it is not worse by {MARGIN:g} points or more: the lower end of a one-sided 95% interval of the same
difference in English lies above −{MARGIN:g}, on at least {QUESTIONS:,} questions. With fewer, this is not decidable.

Everything else in this chapter is descriptive: it says what came out, and decides nothing.
""".strip()


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
    primary, english = (found[found["outcome"] == name] for name in ("primary", "english"))
    if len(primary):
        each = "; ".join(
            f"seed {row.seed} {row.estimate:+.1f} points (95% interval {row.low:.1f} to {row.high:.1f})"
            for row in primary.itertuples()
        )
        above = int((primary["verdict"] == SHOWN).sum())
        said.append(
            f"Primary outcome, {OURS} − {WITHOUT}, mean of the languages other than English on mGSM: "
            f"{_minus(each)}; above 0 in {above} of {len(primary)} {'seed' if len(primary) == 1 else 'seeds'}"
            + (f" (the claim is about {SEEDS})." if len(primary) < SEEDS else f": {_joint(primary['verdict'])}.")
        )
    if len(english):
        each = "; ".join(
            f"seed {row.seed} {row.estimate:+.1f} points (one-sided 95% bound {row.low:.1f})"
            for row in english.itertuples()
        )
        asked, verdict = int(english["questions"].min()), _joint(english["verdict"])
        why = f" ({asked:,} questions; {QUESTIONS:,} are needed)" if verdict == OPEN else ""
        said.append(f"English kept (margin {MARGIN:g} points): {_minus(each)}: {verdict}{why}.")
    return said


def _minus(text: str) -> str:
    return re.sub(r"-(?=\d)", "−", text)


def _joint(verdicts: pd.Series) -> str:
    """Shown only if it is in every seed."""
    return next((verdict for verdict in (OPEN, NOT_SHOWN) if verdict in set(verdicts)), SHOWN)


# ------------------------------------------------------------------------------------------------- consistency


def _numbers(answers: pd.DataFrame, scorer: str) -> dict[tuple, pd.DataFrame]:
    """`matrices` of the answers; a response without a number is missing, and so agrees with nothing."""
    readable = matrices(answers, "has_number")
    return {key: matrix.where(readable[key] > 0) for key, matrix in matrices(answers, f"answer_{scorer}").items()}


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
    not a number.

    Returns:
        One row per system, seed, benchmark and language other than English: `scorer, agree, total, consistency, chance,
        both_right, both_right_chance, right_given_english_right, right_given_english_right_chance, both_wrong,
        same_given_both_wrong, same_given_both_wrong_chance, without_number, english_without_number`.

    Source: our reading of the paper's Figure 3; the authors released no code for it.
    """
    rows, correct = [], matrices(answers, f"correct_{scorer}")

    def percent(part: int, whole: int) -> float:
        return 100.0 * part / whole if whole else float("nan")

    for key, numbers in _numbers(answers, scorer).items():
        theirs, english_right = numbers["en"].to_numpy(), correct[key]["en"].to_numpy() > 0  # (Q,)
        n = len(numbers)
        for code in (code for code in numbers if code != "en"):
            ours, right = numbers[code].to_numpy(), correct[key][code].to_numpy() > 0  # (Q,)
            agree, both_right, both_wrong = _same(ours, theirs), right & english_right, ~right & ~english_right
            wrong_pairs = _equal_pairs(ours[~right], theirs[~english_right])
            rows.append(
                dict(zip(_RUN, key, strict=True))
                | {
                    "language": code,
                    "scorer": scorer,
                    "agree": int(agree.sum()),
                    "total": n,
                    "consistency": percent(agree.sum(), n),
                    "chance": percent(_equal_pairs(ours, theirs), n * n),
                    "both_right": percent(both_right.sum(), n),
                    "both_right_chance": percent(right.sum() * english_right.sum(), n * n),
                    "right_given_english_right": percent(both_right.sum(), english_right.sum()),
                    "right_given_english_right_chance": percent(right.sum(), n * english_right.any()),
                    "both_wrong": int(both_wrong.sum()),
                    "same_given_both_wrong": percent((agree & both_wrong).sum(), both_wrong.sum()),
                    "same_given_both_wrong_chance": percent(wrong_pairs, (~right).sum() * (~english_right).sum()),
                    "without_number": int(np.isnan(ours).sum()),
                    "english_without_number": int(np.isnan(theirs).sum()),
                }
            )
    return pd.DataFrame(rows)


def agreement_map(answers: pd.DataFrame, scorer: str = "paper") -> pd.DataFrame:
    """How often any two languages give the same answer to the same question.

    Returns:
        `system, seed, benchmark, language, other, agreement` (percent of all questions), every pair both ways round.
    """
    rows = []
    for key, matrix in _numbers(answers, scorer).items():
        numbers, codes = matrix.to_numpy(), list(matrix)  # (Q, L)
        share = 100.0 * _same(numbers[:, :, None], numbers[:, None, :]).mean(axis=0)  # (L, L)
        rows += [(*key, codes[i], codes[j], share[i, j]) for i, j in np.ndindex(share.shape) if i != j]
    return pd.DataFrame(rows, columns=[*_RUN, "language", "other", "agreement"])


def solved_languages(answers: pd.DataFrame, scorer: str = "paper") -> pd.DataFrame:
    """How many questions are solved in none, one, two, … of the languages: `system, seed, benchmark, languages,
    questions, percent`.
    """
    tables = []
    for key, matrix in matrices(answers, f"correct_{scorer}").items():
        counts = np.bincount(matrix.sum(axis=1).astype(int), minlength=matrix.shape[1] + 1)
        table = pd.DataFrame(dict(zip(_RUN, key, strict=True)) | {"languages": range(len(counts)), "questions": counts})
        tables.append(table.assign(percent=100.0 * counts / len(matrix)))
    return pd.concat(tables, ignore_index=True)
