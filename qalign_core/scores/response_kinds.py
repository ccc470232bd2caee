"""Beyond accuracy: how responses end, which language they are in, and of which kind the wrong ones are."""

from __future__ import annotations

from typing import Any

import pandas as pd

from qalign_core.params import Profile
from qalign_core.scores.equations import false_equations
from qalign_core.scores.identify import UNDETERMINED, response_language

NUMBER_MISSING, CUT_OFF, WRONG_LANGUAGE, SLIP, OTHER = KINDS = (
    "number missing",
    "cut off",
    "wrong language",
    "arithmetic slip",
    "other",
)
RATES = ("cut", "empty", "without_number", "english", "own", "other", "undetermined")
_KEY = ["system", "seed", "benchmark", "language"]


def rates(answers: pd.DataFrame) -> pd.DataFrame:
    """How many responses were cut off, are empty, hold no number, and which language they are in.

    Args:
        answers: rows of `scorer.score`.

    Returns:
        `system, seed, benchmark, language, responses` and in percent `cut` (at the token limit; missing where it is not
        known how responses ended), `empty`, `without_number`, and the language of the response: `english`, `own` (the
        question's), `other`, `undetermined`. Responses in English to an English question are `own` and not `english`.
    """
    written, asked = answers["response_language"], answers["language"]
    is_own, is_english = written == asked, (written == "en") & (asked != "en")
    undetermined = written == UNDETERMINED
    known = answers["finish_reason"].notna()
    flags = {
        "cut": (answers["finish_reason"] == "length").astype(float).where(known),
        "empty": answers["empty"],
        "without_number": ~answers["has_number"].astype(bool),
        "english": is_english,
        "own": is_own,
        "other": ~(is_own | is_english | undetermined),
        "undetermined": undetermined,
    }
    grouped = answers[_KEY].assign(**flags).groupby(_KEY, sort=False)
    shares = 100.0 * grouped[list(RATES)].mean().astype(float)
    return grouped.size().rename("responses").to_frame().join(shares).reset_index()


def identified(gold: pd.DataFrame) -> pd.DataFrame:
    """How often the language identifier is right on text whose language is known: the benchmarks' own questions.

    Args:
        gold: rows of `predictions.read_benchmark`.

    Returns:
        `benchmark, language, questions, right`.
    """
    right = [response_language(text) == code for text, code in zip(gold["question"], gold["language"], strict=True)]
    grouped = gold.assign(right=right).groupby(["benchmark", "language"], sort=False)["right"]
    return grouped.agg(questions="size", right="sum").reset_index()


def error_kind(row: Any, response: str) -> str:
    """Why an answer is wrong, as far as its text tells; the first kind of `KINDS` that fits.

    `number missing`: no digit at all. `cut off`: at the token limit. `wrong language`: neither the question's language
    nor English, in which these systems have learnt to solve. `arithmetic slip`: an equation of the response is false
    (`equations.false_equations`). `other` is most of all the wrong calculation, carried out correctly.

    Args:
        row: a wrong answer, with the columns of `scorer.score` as attributes.
        response: its text.
    """
    if not row.has_number:
        return NUMBER_MISSING
    if row.finish_reason == "length":
        return CUT_OFF
    if row.response_language not in (row.language, "en", UNDETERMINED):
        return WRONG_LANGUAGE
    return SLIP if false_equations(response) else OTHER


def with_error_kinds(answers: pd.DataFrame, predictions: pd.DataFrame, profile: Profile) -> pd.DataFrame:
    """Scored answers with a column `error`: the kind of a wrong answer, and nothing for a right one.

    Args:
        answers: rows of `scorer.score` of one system and seed.
        predictions: the rows they were scored from.
        profile: says which scorer decides what is wrong.
    """
    key = ["benchmark", "language", "index"]
    texts = predictions.set_index(key)["response"].loc[answers.set_index(key).index]
    right = answers[f"correct_{profile.evaluation.scorer}"]
    rows = zip(answers.itertuples(), right, texts, strict=True)
    return answers.assign(error=[None if correct else error_kind(row, text) for row, correct, text in rows])


def errors(answers: pd.DataFrame) -> pd.DataFrame:
    """Wrong answers by kind.

    Args:
        answers: rows of `with_error_kinds`.

    Returns:
        `system, seed, benchmark, language, kind, answers, wrong`: every kind, also where it has none; `wrong` is how
        many answers of that system, seed, benchmark and language are wrong.
    """
    counts = answers.groupby([*_KEY], sort=False)["error"].value_counts().unstack(fill_value=0)
    every = answers[_KEY].drop_duplicates().set_index(_KEY).index
    counts = counts.reindex(index=every, columns=list(KINDS), fill_value=0).fillna(0).astype(int)
    long = counts.rename_axis(columns="kind").stack().rename("answers").reset_index()
    return long.assign(wrong=long.groupby(_KEY, sort=False)["answers"].transform("sum"))
