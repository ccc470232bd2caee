"""Do answers agree across languages? Consistency with English (Figure 3), and between any two languages."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd

from qalign_core.comparisons import matrices
from qalign_core.scorer import TOLERANCE

_RUN = ["system", "seed", "benchmark"]


def _beside_english(answers: pd.DataFrame) -> Iterator[tuple[dict, pd.DataFrame, pd.DataFrame]]:
    """Key, answers and the English answers to the same questions, for every run and language other than English."""
    for (system, seed, benchmark), rows in answers.groupby(_RUN, sort=False):
        by_language = {code: part.sort_values("index") for code, part in rows.groupby("language", sort=False)}
        if "en" not in by_language:
            raise ValueError(f"{system} (seed {seed}), {benchmark}: no English answers to compare with")
        english = by_language.pop("en")
        for code, own in by_language.items():
            if not np.array_equal(own["index"], english["index"]):
                raise ValueError(f"{system} (seed {seed}), {benchmark}: {code} and English answer different questions")
            yield {"system": system, "seed": seed, "benchmark": benchmark, "language": code}, own, english


def _numbers(rows: pd.DataFrame, scorer: str) -> np.ndarray:
    """(Q,) answers; a response without a number is not a number, and so equals nothing."""
    return rows[f"answer_{scorer}"].where(rows["has_number"].astype(bool)).to_numpy(float)


def _same(ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore"):
        return np.abs(ours - theirs) < TOLERANCE


def agreement(answers: pd.DataFrame, scorer: str = "paper") -> pd.DataFrame:
    """`system, seed, benchmark, language, index, agrees`: whether an answer equals the English one."""
    parts = [
        pd.DataFrame(
            {
                **key,
                "index": own["index"].to_numpy(),
                "agrees": _same(_numbers(own, scorer), _numbers(english, scorer)),
            }
        )
        for key, own, english in _beside_english(answers)
    ]
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()


def consistency(answers: pd.DataFrame, scorer: str = "paper") -> pd.DataFrame:
    """Share of questions whose predicted answer equals the predicted answer to the same question in English.

    A response without a number never agrees. `consistency`, the splits and their chance floors are in percent. A floor
    is the expectation over all permutations of the questions of one side, in closed form: what is left of the
    agreement when answers keep their distribution but lose their question. Splits whose condition never occurs are
    not a number.

    Args:
        answers: rows of `scorer.score`.
        scorer: `"paper"` or `"fixed"`.

    Returns:
        One row per system, seed, benchmark and language other than English: `agree, total, consistency, chance,
        both_right, both_right_chance, right_given_english_right, right_given_english_right_chance, both_wrong,
        same_given_both_wrong, same_given_both_wrong_chance, without_number, english_without_number`.

    Raises:
        ValueError: where the English answers to the same questions are missing.

    Source: our reading of the paper's Figure 3; the authors released no code for it.
    """
    rows = []
    for key, own, english in _beside_english(answers):
        ours, theirs = _numbers(own, scorer), _numbers(english, scorer)  # (Q,)
        right, english_right = (side[f"correct_{scorer}"].to_numpy(bool) for side in (own, english))
        agree, both_right, both_wrong = _same(ours, theirs), right & english_right, ~right & ~english_right
        n = len(own)
        shares = {
            "consistency": (agree.sum(), n),
            "chance": (_equal_pairs(ours, theirs), n * n),
            "both_right": (both_right.sum(), n),
            "both_right_chance": (right.sum() * english_right.sum(), n * n),
            "right_given_english_right": (both_right.sum(), english_right.sum()),
            "right_given_english_right_chance": (right.sum(), n if english_right.any() else 0),
            "same_given_both_wrong": ((agree & both_wrong).sum(), both_wrong.sum()),
            "same_given_both_wrong_chance": (
                _equal_pairs(ours[~right], theirs[~english_right]),
                (~right).sum() * (~english_right).sum(),
            ),
        }
        row = {name: 100.0 * part / whole if whole else float("nan") for name, (part, whole) in shares.items()}
        row |= {"agree": int(agree.sum()), "total": n, "both_wrong": int(both_wrong.sum())}
        row |= {"without_number": int(np.isnan(ours).sum()), "english_without_number": int(np.isnan(theirs).sum())}
        rows.append(key | {"scorer": scorer} | row)
    return pd.DataFrame(rows, columns=CONSISTENCY_COLUMNS)


CONSISTENCY_COLUMNS = [
    *("system", "seed", "benchmark", "language", "scorer", "agree", "total", "consistency", "chance"),
    *("both_right", "both_right_chance", "right_given_english_right", "right_given_english_right_chance"),
    *("both_wrong", "same_given_both_wrong", "same_given_both_wrong_chance"),
    *("without_number", "english_without_number"),
]


def _equal_pairs(left: np.ndarray, right: np.ndarray) -> int:
    """How many of all (left, right) pairs are the same number."""
    left, ordered = left[~np.isnan(left)], np.sort(right[~np.isnan(right)])
    above = np.searchsorted(ordered, left + TOLERANCE, side="left")
    return int((above - np.searchsorted(ordered, left - TOLERANCE, side="right")).sum())


def agreement_map(answers: pd.DataFrame, scorer: str = "paper") -> pd.DataFrame:
    """How often any two languages give the same answer to the same question.

    Returns:
        `system, seed, benchmark, language, other, agreement` (percent of all questions), every pair both ways round.

    Raises:
        ValueError: where a language answers other questions than the rest.
    """
    readable, rows = matrices(answers, "has_number"), []
    for key, matrix in matrices(answers, f"answer_{scorer}").items():
        numbers = matrix.where(readable[key] > 0).to_numpy()  # (Q, L), missing: no number
        share = 100.0 * _same(numbers[:, :, None], numbers[:, None, :]).mean(axis=0)  # (L, L)
        rows += [
            (*key, one, other, share[i, j])
            for i, one in enumerate(matrix)
            for j, other in enumerate(matrix)
            if i != j
        ]
    return pd.DataFrame(rows, columns=[*_RUN, "language", "other", "agreement"])


def solved_languages(answers: pd.DataFrame, scorer: str = "paper") -> pd.DataFrame:
    """How many questions are solved in none, one, two, … of the languages.

    Returns:
        `system, seed, benchmark, languages, questions, percent`.

    Raises:
        ValueError: where a language answers other questions than the rest.
    """
    tables = []
    for key, matrix in matrices(answers, f"correct_{scorer}").items():
        counts = np.bincount(matrix.sum(axis=1).astype(int), minlength=matrix.shape[1] + 1)
        table = pd.DataFrame(dict(zip(_RUN, key, strict=True)) | {"languages": range(len(counts)), "questions": counts})
        tables.append(table.assign(percent=100.0 * counts / len(matrix)))
    return pd.concat(tables, ignore_index=True)
