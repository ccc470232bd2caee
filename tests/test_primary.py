"""The primary outcome: what is claimed beforehand, and when it holds."""

from __future__ import annotations

import nbformat
import numpy as np
import pandas as pd
import pytest

from qalign_core.params import PARAMS_FOLDER
from qalign_core.scores import primary


def answers(system: str, right: float, *, seed: int = 1, benchmark: str = "mgsm", questions: int = 200, english=0.9):
    """Scored answers of one system: a share of each language's questions right, the first ones."""
    rows = []
    for code, share in (("sw", right), ("th", right), ("en", english)):
        for index in range(questions):
            rows.append(
                {
                    "system": system,
                    "seed": seed,
                    "benchmark": benchmark,
                    "language": code,
                    "index": index,
                    "correct_paper": (index * 7919 % questions) < share * questions,
                }
            )
    return pd.DataFrame(rows)


def both(aligned: float, baseline: float, **about) -> pd.DataFrame:
    return pd.concat([answers("QAlign", aligned, **about), answers("MonoReason", baseline, **about)])


def test_a_clear_difference_is_shown_and_is_that_of_the_other_languages():
    found = primary.outcomes(both(0.5, 0.2)).set_index("outcome")
    assert found.loc["primary", "estimate"] == pytest.approx(30.0)
    assert found.loc["primary", "low"] > 0
    assert found.loc["primary", "verdict"] == primary.SHOWN


def test_no_difference_is_not_shown():
    found = primary.outcomes(both(0.3, 0.3)).set_index("outcome")
    assert found.loc["primary", "verdict"] == primary.NOT_SHOWN


def test_english_needs_a_thousand_questions():
    few = primary.outcomes(both(0.5, 0.2)).set_index("outcome").loc["english"]
    assert (few.verdict, few.questions) == (primary.OPEN, 200)
    many = primary.outcomes(pd.concat([both(0.5, 0.2), both(0.5, 0.2, benchmark="msvamp", questions=1000)]))
    line = many.set_index("outcome").loc["english"]
    assert (line.verdict, line.benchmark, line.questions) == (primary.SHOWN, "msvamp", 1000)
    assert np.isnan(line.high)


def test_english_that_lost_five_points_is_not_kept():
    wide = {"benchmark": "msvamp", "questions": 1000}
    lost = pd.concat([answers("QAlign", 0.5, english=0.85, **wide), answers("MonoReason", 0.2, english=0.9, **wide)])
    found = primary.outcomes(lost).set_index("outcome").loc["english"]
    assert found.estimate == pytest.approx(-5.0)
    assert found.verdict == primary.NOT_SHOWN


def test_near_duplicates_widen_the_interval():
    groups = {"mgsm": pd.Series(np.arange(200) // 20, index=range(200))}
    alone = primary.outcomes(both(0.5, 0.4)).set_index("outcome").loc["primary"]
    grouped = primary.outcomes(both(0.5, 0.4), groups).set_index("outcome").loc["primary"]
    assert alone.estimate == grouped.estimate
    assert (alone.low, alone.high) != (grouped.low, grouped.high)


def test_without_one_of_the_systems_nothing_is_claimed():
    found = primary.outcomes(answers("QAlign", 0.5))
    assert found.empty
    assert primary.sentences(found) == []


def test_one_seed_is_told_to_be_one_and_three_are_judged_together():
    one = primary.sentences(primary.outcomes(both(0.5, 0.2)))
    assert "seed 1 +30.0 points (95% interval" in one[0]
    assert one[0].endswith("above 0 in 1 of 1 seed (the claim is about 3).")
    assert one[1].endswith("not decidable here (200 questions; 1,000 are needed).")
    lost = primary.sentences(primary.outcomes(both(0.2, 0.5)))
    assert "seed 1 −30.0 points" in lost[0]
    assert "(one-sided 95% bound " in lost[1]
    three = [both(right, 0.2, seed=seed) for seed, right in ((1, 0.5), (2, 0.5), (3, 0.2))]
    assert primary.sentences(primary.outcomes(pd.concat(three)))[0].endswith("above 0 in 2 of 3 seeds: not shown.")
    three[2] = both(0.5, 0.2, seed=3)
    assert primary.sentences(primary.outcomes(pd.concat(three)))[0].endswith("above 0 in 3 of 3 seeds: shown.")


def test_the_statement_says_the_numbers_the_code_uses():
    assert f"{primary.MARGIN:g} points" in primary.STATEMENT
    assert f"{primary.QUESTIONS:,} questions" in primary.STATEMENT
    assert f"each of {primary.SEEDS} seeds" in primary.STATEMENT


def test_the_claim_stands_in_chapter_4_before_anything_is_asked():
    cells = nbformat.read(PARAMS_FOLDER.parent / "notebooks" / "04_evaluation.ipynb", as_version=4).cells
    claims = [place for place, cell in enumerate(cells) if primary.STATEMENT in cell.source]
    asks = [place for place, cell in enumerate(cells) if "answering_jobs" in cell.source]
    assert [cells[place].cell_type for place in claims] == ["markdown"]
    assert claims[0] < asks[0]
