"""The primary outcome: what is claimed before the test questions are looked at, and what came out.

Everything else that is measured is descriptive.

Source: ours; the paper reports accuracies of one seed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from qalign_core import statistics
from qalign_core.scores import comparisons

ALIGNED, BASELINE = "QAlign", "MonoReason"
IN_DOMAIN = "mgsm"
MARGIN = 3.0  # points that English may lose and still count as kept
QUESTIONS = 1000  # English questions without which that is not decided: fewer leave more than the margin to chance
SEEDS = 3
SHOWN, NOT_SHOWN, OPEN = "shown", "not shown", "not decidable here"
COLUMNS = ["outcome", "seed", "benchmark", "estimate", "low", "high", "questions", "verdict"]

STATEMENT = f"""
**Written down before any answer is looked at.** The primary outcome is the accuracy of {ALIGNED} minus that of
{BASELINE}, averaged over the languages other than English, in domain (mGSM): its 95% paired interval (bootstrap over
questions) lies above 0 in each of {SEEDS} seeds, with base, corpora and order drawn anew.

English is kept if it is not worse by {MARGIN:g} points or more: the lower end of a one-sided 95% interval of the same
difference in English lies above −{MARGIN:g}, on at least {QUESTIONS:,} questions. With fewer, this is not decidable.

Everything else in this chapter is descriptive: it says what came out, and decides nothing.
""".strip()


def outcomes(
    answers: pd.DataFrame, groups: Mapping[str, pd.Series] | None = None, *, column: str = "correct_paper"
) -> pd.DataFrame:
    """The primary outcome and the check of English, a line a seed.

    Args:
        answers: rows of `scorer.score`.
        groups: benchmark → near-duplicate group of each question.
        column: the scorer that counts.

    Returns:
        `outcome` (`primary` or `english`), `seed, benchmark, estimate, low, high` (points; of English the one-sided
        lower end, and no upper one), `questions, verdict`. No line where one of the two systems was not run.
    """
    both = answers[answers.system.isin([ALIGNED, BASELINE])]
    lines = [
        {
            **{key: row[key] for key in ("seed", "benchmark", "low", "high", "questions")},
            "outcome": "primary",
            "estimate": row["difference"],
            "verdict": SHOWN if row["low"] > 0 else NOT_SHOWN,
        }
        for row in comparisons.compare(
            both[both.benchmark == IN_DOMAIN], [(ALIGNED, BASELINE)], groups, column=column, measures=("non_english",)
        ).to_dict("records")
    ]
    return pd.DataFrame([*lines, *_english(both[both.language == "en"], groups, column)], columns=COLUMNS)


def _english(answers: pd.DataFrame, groups: Mapping[str, pd.Series] | None, column: str) -> list[dict]:
    """Non-inferiority of English on the benchmark with the most questions, a line a seed."""
    asked = answers.groupby("benchmark", sort=False)["index"].nunique()
    if asked.empty:
        return []
    benchmark, lines = str(asked.idxmax()), []
    for seed, rows in answers[answers.benchmark == benchmark].groupby("seed"):
        wide = rows.pivot(index="index", columns="system", values=column).astype(float).dropna()
        if not {ALIGNED, BASELINE} <= set(wide):
            continue
        labels = None if not groups or benchmark not in groups else groups[benchmark].loc[wide.index].to_numpy()
        if len(wide) < 2 or (labels is not None and len(set(labels)) < 2):
            continue
        found = statistics.noninferiority(wide[ALIGNED].to_numpy(), wide[BASELINE].to_numpy(), MARGIN, labels)
        verdict = OPEN if len(wide) < QUESTIONS else SHOWN if found.holds else NOT_SHOWN
        line = {"outcome": "english", "seed": seed, "benchmark": benchmark, "estimate": found.estimate}
        lines.append(line | {"low": found.low, "high": np.nan, "questions": len(wide), "verdict": verdict})
    return lines


def sentences(found: pd.DataFrame) -> list[str]:
    """What came of it, in a sentence for the primary outcome and one for English; none where it was not measured."""
    said = []
    primary, english = (found[found.outcome == name] for name in ("primary", "english"))
    if len(primary):
        each = _each(primary, lambda row: f"{row.estimate:+.1f} points (95% interval {row.low:.1f} to {row.high:.1f})")
        above = int((primary.verdict == SHOWN).sum())
        said.append(
            f"Primary outcome, {ALIGNED} − {BASELINE}, mean of the languages other than English on mGSM: {each}; above "
            f"0 in {above} of {len(primary)} {'seed' if len(primary) == 1 else 'seeds'}"
            + (f" (the claim is about {SEEDS})." if len(primary) < SEEDS else f": {_joint(primary.verdict)}.")
        )
    if len(english):
        each = _each(english, lambda row: f"{row.estimate:+.1f} points (one-sided 95% bound {row.low:.1f})")
        asked = int(english.questions.min())
        verdict = _joint(english.verdict)
        why = f" ({asked:,} questions; {QUESTIONS:,} are needed)" if verdict == OPEN else ""
        said.append(f"English kept (margin {MARGIN:g} points): {each}: {verdict}{why}.")
    return said


def _each(rows: pd.DataFrame, say) -> str:
    said = "; ".join(f"seed {row.seed} {say(row)}" for row in rows.itertuples())
    return re.sub(r"-(?=\d)", "−", said)


def _joint(verdicts: Sequence[str]) -> str:
    """Shown only if it is in every seed."""
    return next((verdict for verdict in (OPEN, NOT_SHOWN) if verdict in list(verdicts)), SHOWN)
