"""Scores without the questions that translation broke: mSVAMP's text was translated by machine, and never mended."""

from __future__ import annotations

import pandas as pd

from qalign_core import runs
from qalign_core.data import audit
from qalign_core.params import Profile
from qalign_core.runs import Run
from qalign_core.scorer import MODES

MACHINE_TRANSLATED = "msvamp"
# Of the audit's checks, those after which nobody could answer.
BROKEN = ("untranslated", "has no number left", "repeats itself")


def broken_questions(profile: Profile, run: Run) -> pd.DataFrame:
    """The questions of mSVAMP that the audit finds broken beside their English originals.

    Returns:
        `benchmark, language, index, check`, a row a question (its first check); empty where there are none.
    """
    rows = []
    if MACHINE_TRANSLATED in profile.evaluation.benchmarks:
        english = runs.read_json_lines(run.benchmark(MACHINE_TRANSLATED, "en"))
        originals = [row["question"] for row in english]
        for code in (code for code in profile.data.languages if code != "en"):
            asked = runs.read_json_lines(run.benchmark(MACHINE_TRANSLATED, code))
            found = audit.translation_defects([row["question"] for row in asked], originals)
            # Where only numbers up to 20 are gone, a translator has written them as words: the question is whole.
            as_words = set(found["has no number left"]) - set(found["loses a number"])
            rows += [
                (MACHINE_TRANSLATED, code, asked[n]["index"], check)
                for check in BROKEN
                for n in found[check]
                if n not in as_words or check != "has no number left"
            ]
    table = pd.DataFrame(rows, columns=["benchmark", "language", "index", "check"])
    return table.drop_duplicates(["benchmark", "language", "index"]).sort_values(
        ["language", "index"], ignore_index=True
    )


def cleaned_accuracy(answers: pd.DataFrame, broken: pd.DataFrame) -> pd.DataFrame:
    """Accuracy with and without the broken questions, of the benchmarks that have some.

    Each language leaves out its own broken questions only.

    Args:
        answers: rows of `scorer.score`.
        broken: rows of `broken_questions`.

    Returns:
        `system, seed, benchmark, language, scorer, total, removed, accuracy, cleaned` (percent).
    """
    chosen = answers[answers["benchmark"].isin(broken["benchmark"])]
    key = ["benchmark", "language", "index"]
    removed = pd.MultiIndex.from_frame(chosen[key]).isin(pd.MultiIndex.from_frame(broken[key]))
    grouped = ["system", "seed", "benchmark", "language"]
    parts = []
    for mode in MODES:
        rows = chosen[grouped].assign(right=100.0 * chosen[f"correct_{mode}"], removed=removed)
        rows["kept"] = rows["right"].where(~rows["removed"])
        part = rows.groupby(grouped, sort=False).agg(
            total=("right", "size"), removed=("removed", "sum"), accuracy=("right", "mean"), cleaned=("kept", "mean")
        )
        parts.append(part.reset_index().assign(scorer=mode))
    return pd.concat(parts, ignore_index=True)[[*grouped, "scorer", "total", "removed", "accuracy", "cleaned"]]
