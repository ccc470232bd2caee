"""Do answers agree across languages? Consistency with English (Figure 3), and between any two languages."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd

from qalign_core.scorer import MODES, TOLERANCE
from qalign_core.scores.comparisons import matrices

_RUN = ["system", "seed", "benchmark"]


def _pairs_within_tolerance(left: np.ndarray, right: np.ndarray) -> int:
    """How many of all (left, right) pairs are the same number."""
    ordered = np.sort(right)
    above = np.searchsorted(ordered, left + TOLERANCE, side="left")
    return int((above - np.searchsorted(ordered, left - TOLERANCE, side="right")).sum())


def _share(count: float, total: float) -> float:
    return 100.0 * count / total if total else float("nan")


def _agrees(own: pd.DataFrame, english: pd.DataFrame, scorer: str) -> np.ndarray:
    """(Q,) whether the answers are the same number; a response without a number never agrees."""
    ours, theirs = own[f"answer_{scorer}"].to_numpy(), english[f"answer_{scorer}"].to_numpy()
    with np.errstate(invalid="ignore"):
        same = np.abs(ours - theirs) < TOLERANCE
    return same & own["has_number"].to_numpy() & english["has_number"].to_numpy()


def _consistency_row(own: pd.DataFrame, english: pd.DataFrame, scorer: str) -> dict[str, float]:
    """One row of `consistency`: `own` and `english` hold the same questions in the same order."""
    ours, theirs = own[f"answer_{scorer}"].to_numpy(), english[f"answer_{scorer}"].to_numpy()
    readable, english_readable = own["has_number"].to_numpy(), english["has_number"].to_numpy()
    right, english_right = own[f"correct_{scorer}"].to_numpy(), english[f"correct_{scorer}"].to_numpy()
    agree = _agrees(own, english, scorer)
    n, both_wrong = len(own), ~right & ~english_right
    wrong, english_wrong = ours[~right & readable], theirs[~english_right & english_readable]
    any_pair = _pairs_within_tolerance(ours[readable], theirs[english_readable])
    return {
        "agree": int(agree.sum()),
        "total": n,
        "consistency": _share(agree.sum(), n),
        "chance": _share(any_pair, n * n),
        "both_right": _share((right & english_right).sum(), n),
        "both_right_chance": _share(right.sum() * english_right.sum(), n * n),
        "right_given_english_right": _share((right & english_right).sum(), english_right.sum()),
        "right_given_english_right_chance": _share(right.sum(), n) if english_right.any() else float("nan"),
        "both_wrong": int(both_wrong.sum()),
        "same_given_both_wrong": _share((agree & both_wrong).sum(), both_wrong.sum()),
        "same_given_both_wrong_chance": _share(
            _pairs_within_tolerance(wrong, english_wrong), (~right).sum() * (~english_right).sum()
        ),
        "without_number": int((~readable).sum()),
        "english_without_number": int((~english_readable).sum()),
    }


def _check_scorer(scorer: str) -> None:
    if scorer not in MODES:
        raise ValueError(f"scorer must be one of {', '.join(MODES)}, not {scorer!r}")


def _beside_english(answers: pd.DataFrame, scorer: str) -> Iterator[tuple[dict, pd.DataFrame, pd.DataFrame]]:
    """Key, answers and the English answers to the same questions, for every run and language other than English."""
    _check_scorer(scorer)
    for (system, seed, benchmark), rows in answers.groupby(_RUN, sort=False):
        by_language = {code: part.sort_values("index") for code, part in rows.groupby("language", sort=False)}
        if "en" not in by_language:
            raise ValueError(f"{system} (seed {seed}), {benchmark}: no English answers to compare with")
        english = by_language.pop("en")
        for code, own in by_language.items():
            if not np.array_equal(own["index"], english["index"]):
                raise ValueError(f"{system} (seed {seed}), {benchmark}: {code} and English answer different questions")
            yield {"system": system, "seed": seed, "benchmark": benchmark, "language": code}, own, english


def agreement(answers: pd.DataFrame, scorer: str = "paper") -> pd.DataFrame:
    """`system, seed, benchmark, language, index, agrees`: whether an answer equals the English one."""
    parts = [
        pd.DataFrame({**key, "index": own["index"].to_numpy(), "agrees": _agrees(own, english, scorer)})
        for key, own, english in _beside_english(answers, scorer)
    ]
    return pd.concat(parts, ignore_index=True)


def consistency(answers: pd.DataFrame, scorer: str = "paper") -> pd.DataFrame:
    """Share of questions whose predicted answer equals the predicted answer to the same question in English.

    Two answers are equal when they differ by less than 1e-3; a response without a number never agrees. `consistency`,
    the splits and their chance floors are in percent. A floor is the expectation over all permutations of the questions
    of one side, in closed form: what is left of the agreement when answers keep their distribution but lose their
    question. Splits whose condition never occurs are not a number.

    Args:
        answers: rows of `scorer.score`.
        scorer: `"paper"` or `"fixed"`.

    Returns:
        One row a system, seed, benchmark and language other than English: `agree, total, consistency, chance,
        both_right, both_right_chance, right_given_english_right, right_given_english_right_chance, both_wrong,
        same_given_both_wrong, same_given_both_wrong_chance, without_number, english_without_number`.

    Raises:
        ValueError: for an unknown scorer, or where the English answers to the same questions are missing.

    Source: our reading of the paper's Figure 3; the authors released no code for it.
    """
    return pd.DataFrame(
        [
            key | {"scorer": scorer} | _consistency_row(own, english, scorer)
            for key, own, english in _beside_english(answers, scorer)
        ]
    )


# ---------------------------------------------------------------------------------------------------------------------
# All languages at once


def agreement_map(answers: pd.DataFrame, scorer: str = "paper") -> pd.DataFrame:
    """How often any two languages give the same answer to the same question.

    Args:
        answers: rows of `scorer.score`.
        scorer: `"paper"` or `"fixed"`.

    Returns:
        `system, seed, benchmark, language, other, agreement` (percent of all questions), every pair both ways round.

    Raises:
        ValueError: for an unknown scorer, or where a language answers other questions than the rest.
    """
    _check_scorer(scorer)
    readable, rows = matrices(answers, "has_number"), []
    for (system, seed, benchmark), matrix in matrices(answers, f"answer_{scorer}").items():
        numbers = matrix.where(readable[system, seed, benchmark] > 0).to_numpy()  # (Q, L), missing: no number
        with np.errstate(invalid="ignore"):
            same = np.abs(numbers[:, :, None] - numbers[:, None, :]) < TOLERANCE  # (Q, L, L)
        share = 100.0 * same.mean(axis=0)
        key = {"system": system, "seed": seed, "benchmark": benchmark}
        rows += [
            key | {"language": one, "other": two, "agreement": share[i, j]}
            for i, one in enumerate(matrix)
            for j, two in enumerate(matrix)
            if i != j
        ]
    return pd.DataFrame(rows)


def solved_languages(answers: pd.DataFrame, scorer: str = "paper") -> pd.DataFrame:
    """In how many of its languages each question is solved: questions a number of languages, from none to all.

    Args:
        answers: rows of `scorer.score`.
        scorer: `"paper"` or `"fixed"`.

    Returns:
        `system, seed, benchmark, languages, questions, percent`.

    Raises:
        ValueError: for an unknown scorer, or where a language answers other questions than the rest.
    """
    _check_scorer(scorer)
    tables = []
    for (system, seed, benchmark), matrix in matrices(answers, f"correct_{scorer}").items():
        counts = np.bincount(matrix.sum(axis=1).astype(int), minlength=matrix.shape[1] + 1)
        table = pd.DataFrame({"languages": range(len(counts)), "questions": counts})
        table["percent"] = 100.0 * counts / len(matrix)
        for position, (name, value) in enumerate({"system": system, "seed": seed, "benchmark": benchmark}.items()):
            table.insert(position, name, value)
        tables.append(table)
    return pd.concat(tables, ignore_index=True)
