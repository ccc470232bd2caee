"""Scored answers of invented systems, as the scorer leaves them."""

from __future__ import annotations

import itertools
from collections.abc import Iterable

import numpy as np
import pandas as pd

from qalign_core.languages import CODES


def answers_of(
    skill: dict[str, float],
    *,
    seeds: Iterable[int] = (1,),
    benchmarks: Iterable[str] = ("mgsm", "msvamp"),
    languages: Iterable[str] = CODES,
    questions: int = 40,
) -> pd.DataFrame:
    """Every system's answers: a share of them right, of English 0.3 more; every fifth response has no number."""
    keys = itertools.product(skill, seeds, benchmarks, languages, range(questions))
    answers = pd.DataFrame(keys, columns=["system", "seed", "benchmark", "language", "index"])
    rng = np.random.default_rng(5)
    right = rng.random(len(answers)) < answers["system"].map(skill) + 0.3 * (answers["language"] == "en")
    number = np.where(right, 7.0, rng.integers(20, 25, len(answers)))
    answers = answers.assign(answer_paper=number, answer_fixed=number, correct_paper=right, correct_fixed=right)
    answers = answers.assign(gold=7.0, gold_fixed=7.0, has_number=answers["index"] % 5 > 0, empty=False)
    return answers.assign(finish_reason="stop", response_language=answers["language"])
