"""Tables of scored answers: intervals and tests, the primary claim, and agreement across languages."""

from __future__ import annotations

import nbformat
import numpy as np
import pandas as pd
import pytest
import scored_answers

from qalign_core import comparisons
from qalign_core.languages import CODES
from qalign_core.params import PARAMS_FOLDER


@pytest.fixture(scope="module")
def answers():
    return scored_answers.answers_of({"MonoReason": 0.3, "QAlign": 0.6}, seeds=(1, 2), questions=60)


def test_intervals_name_their_method_and_agree_with_plain_means(answers):
    groups = {"msvamp": pd.Series(np.arange(60) // 3)}
    table = comparisons.intervals(answers, groups, draws=500)
    row = table[(table["system"] == "QAlign") & (table["seed"] == 1)].set_index(["benchmark", "measure"])
    mine = answers[(answers["system"] == "QAlign") & (answers["seed"] == 1) & (answers["benchmark"] == "mgsm")]
    by_language = 100 * mine.groupby("language")["correct_paper"].mean()
    assert row.loc[("mgsm", "th"), "estimate"] == pytest.approx(by_language["th"])
    assert row.loc[("mgsm", "average"), "estimate"] == pytest.approx(by_language.mean())
    gap = by_language["en"] - by_language.drop("en").mean()
    assert row.loc[("mgsm", "gap"), "estimate"] == pytest.approx(gap)
    assert row.loc[("mgsm", "th"), "method"] == "Wilson"
    assert row.loc[("mgsm", "average"), "method"] == "cluster bootstrap"
    assert row.loc[("msvamp", "th"), "method"] == "cluster bootstrap"
    assert row.loc[("msvamp", "th"), ["questions", "clusters"]].tolist() == [60, 20]
    assert ((table["low"] <= table["estimate"]) & (table["estimate"] <= table["high"])).all()


def test_answers_that_are_all_alike_have_an_interval_nevertheless(answers):
    groups = {"msvamp": pd.Series(np.arange(60) // 3)}
    for right, row in ((False, ("msvamp", "th")), (True, ("msvamp", "average")), (False, ("mgsm", "non_english"))):
        table = comparisons.intervals(answers.assign(correct_paper=right), groups, draws=200)
        found = table.set_index(["benchmark", "measure"]).loc[row].iloc[0]
        expected = comparisons.wilson(right * found["clusters"], found["clusters"])
        assert (found["low"], found["high"]) == tuple(map(float, expected))
        assert found["low"] <= 100 * right <= found["high"] > found["low"]
        assert found["method"] == "Wilson, by cluster"


def test_only_declared_pairs_are_compared_seed_by_seed(answers):
    table = comparisons.compare(answers, draws=500)
    assert set(zip(table["a"], table["b"], strict=True)) == {("QAlign", "MonoReason")}
    assert set(table["seed"]) == {1, 2}
    average = table[table["measure"] == "average"]
    assert (average["difference"] > 10).all()
    assert (average["p"] < 0.01).all()
    by_language = comparisons.compare_languages(answers)
    assert set(by_language["benchmark"]) == {"mgsm"}
    assert len(by_language) == 2 * len(CODES)


def test_english_alone_has_no_means_over_other_languages(answers):
    english = answers[answers["language"] == "en"]
    assert comparisons.intervals(english, draws=100)["measure"].unique().tolist() == ["en", "average", "english"]
    assert set(comparisons.compare(english, draws=100)["measure"]) == {"average", "english"}
    assert set(comparisons.primary_outcomes(english)["outcome"]) == {"english"}
    assert comparisons.compare_languages(english)["language"].unique().tolist() == ["en"]


def test_unanswered_questions_are_refused(answers):
    with pytest.raises(ValueError, match=r"(QAlign|MonoReason) \(seed 1\), mgsm: not every question is answered in en"):
        comparisons.intervals(answers.drop(answers.index[answers["language"] == "en"][3]))


# -------------------------------------------------------------------------------- the primary claim


def answers_of(system: str, right: float, *, seed: int = 1, benchmark: str = "mgsm", questions: int = 200, english=0.9):
    """Scored answers of one system: a share of each language's questions right, the first ones."""
    index = np.arange(questions)
    parts = [
        pd.DataFrame({"language": code, "index": index, "correct_paper": index * 7919 % questions < share * questions})
        for code, share in (("sw", right), ("th", right), ("en", english))
    ]
    return pd.concat(parts, ignore_index=True).assign(system=system, seed=seed, benchmark=benchmark)


def both(aligned: float, baseline: float, **about) -> pd.DataFrame:
    return pd.concat([answers_of("QAlign", aligned, **about), answers_of("MonoReason", baseline, **about)])


@pytest.mark.parametrize(("aligned", "verdict"), [(0.5, comparisons.SHOWN), (0.2, comparisons.NOT_SHOWN)])
def test_the_claim_is_about_the_other_languages(aligned: float, verdict: str):
    found = comparisons.primary_outcomes(both(aligned, 0.2)).set_index("outcome").loc["primary"]
    assert found["estimate"] == pytest.approx(100 * (aligned - 0.2))
    assert (found["low"] > 0) == (verdict == comparisons.SHOWN)
    assert found["verdict"] == verdict


def test_english_needs_a_thousand_questions():
    few = comparisons.primary_outcomes(both(0.5, 0.2)).set_index("outcome").loc["english"]
    assert (few.verdict, few.questions) == (comparisons.OPEN, 200)
    many = comparisons.primary_outcomes(pd.concat([both(0.5, 0.2), both(0.5, 0.2, benchmark="msvamp", questions=1000)]))
    line = many.set_index("outcome").loc["english"]
    assert (line.verdict, line.benchmark, line.questions) == (comparisons.SHOWN, "msvamp", 1000)
    assert np.isnan(line.high)


def test_english_that_lost_five_points_is_not_kept():
    wide = {"benchmark": "msvamp", "questions": 1000}
    lost = pd.concat(
        [answers_of("QAlign", 0.5, english=0.85, **wide), answers_of("MonoReason", 0.2, english=0.9, **wide)]
    )
    found = comparisons.primary_outcomes(lost).set_index("outcome").loc["english"]
    assert found.estimate == pytest.approx(-5.0)
    assert found.verdict == comparisons.NOT_SHOWN


def test_near_duplicates_widen_the_interval():
    groups = {"mgsm": pd.Series(np.arange(200) // 20, index=range(200))}
    alone = comparisons.primary_outcomes(both(0.5, 0.4)).set_index("outcome").loc["primary"]
    grouped = comparisons.primary_outcomes(both(0.5, 0.4), groups).set_index("outcome").loc["primary"]
    assert alone.estimate == grouped.estimate
    assert (alone.low, alone.high) != (grouped.low, grouped.high)


def test_without_one_of_the_systems_nothing_is_claimed():
    found = comparisons.primary_outcomes(answers_of("QAlign", 0.5))
    assert found.empty
    assert comparisons.primary_sentences(found) == []


def test_one_seed_is_told_to_be_one_and_three_are_judged_together():
    one = comparisons.primary_sentences(comparisons.primary_outcomes(both(0.5, 0.2)))
    assert "seed 1 +30.0 points (95% interval" in one[0]
    assert one[0].endswith("above 0 in 1 of 1 seed (the claim is about 3).")
    assert one[1].endswith("not decidable here (200 questions; 1,000 are needed).")
    lost = comparisons.primary_sentences(comparisons.primary_outcomes(both(0.2, 0.5)))
    assert "seed 1 −30.0 points" in lost[0]
    assert "(one-sided 95% bound " in lost[1]
    for last, said in ((0.2, "above 0 in 2 of 3 seeds: not shown."), (0.5, "above 0 in 3 of 3 seeds: shown.")):
        three = pd.concat([both(right, 0.2, seed=seed) for seed, right in ((1, 0.5), (2, 0.5), (3, last))])
        assert comparisons.primary_sentences(comparisons.primary_outcomes(three))[0].endswith(said)


def test_the_claim_stands_in_chapter_4_before_anything_is_asked():
    cells = nbformat.read(PARAMS_FOLDER.parent / "notebooks" / "04_evaluation.ipynb", as_version=4).cells
    claims = [place for place, cell in enumerate(cells) if "Written down before any answer" in cell.source]
    asks = [place for place, cell in enumerate(cells) if "answering_jobs" in cell.source]
    assert [cells[place].cell_type for place in claims] == ["markdown"]
    assert claims[0] < asks[0]
    margin, said = comparisons.MARGIN, " ".join(cells[claims[0]].source.split())
    assert f"The primary outcome is the accuracy of {comparisons.OURS} minus that of {comparisons.WITHOUT}" in said
    assert f"lies above 0 in each of {comparisons.SEEDS} seeds" in said
    assert f"not worse by {margin:g} points or more" in said
    assert f"lies above −{margin:g}, on at least {comparisons.QUESTIONS:,} questions" in said


# -------------------------------------------------------------------------------- agreement across languages


def table_of(answers, gold, has_number=None):
    """Answers of one run: language → list of numbers."""
    parts = []
    for code, numbers in answers.items():
        part = pd.DataFrame({"index": range(len(numbers)), "answer_paper": [float(n) for n in numbers]})
        part = part.assign(
            system="A", seed=1, benchmark="mgsm", language=code, gold=gold, answer_fixed=part.answer_paper
        )
        part["correct_paper"] = part["correct_fixed"] = (part["answer_paper"] - part["gold"]).abs() < 1e-3
        parts.append(part.assign(has_number=(has_number or {}).get(code, True)))
    return pd.concat(parts, ignore_index=True)


def test_consistency_and_its_splits_by_hand():
    # question:            0 both right, 1 same wrong, 2 different wrong, 3 only English right
    answers = table_of({"th": [1, 9, 8, 7], "en": [1, 9, 5, 4]}, gold=[1, 2, 3, 4])
    row = comparisons.consistency(answers).iloc[0]
    assert (row["agree"], row["total"], row["consistency"]) == (2, 4, 50.0)
    assert row["both_right"] == 25.0
    assert row["right_given_english_right"] == 50.0
    assert (row["both_wrong"], row["same_given_both_wrong"]) == (2, 50.0)
    assert row["chance"] == pytest.approx(100 * 2 / 16)  # 1-1 and 9-9, of all 16 pairs
    assert row["both_right_chance"] == pytest.approx(100 * (1 / 4) * (2 / 4))


def test_a_response_without_a_number_never_agrees():
    answers = table_of({"th": [0, 5], "en": [0, 5]}, gold=[1, 5], has_number={"th": [False, True], "en": [False, True]})
    row = comparisons.consistency(answers).iloc[0]
    assert (row["agree"], row["without_number"], row["english_without_number"]) == (1, 1, 1)
    assert comparisons.agreement(answers)["agrees"].tolist() == [False, True]


def test_responses_in_which_a_scorer_finds_nothing_do_not_agree():
    answers = table_of({"th": [np.nan, 1], "en": [np.nan, 1]}, [1, 1])
    assert comparisons.agreement(answers)["agrees"].tolist() == [False, True]
    assert comparisons.consistency(answers).iloc[0]["consistency"] == 50


def test_the_chance_floor_is_the_mean_over_permutations():
    rng = np.random.default_rng(0)
    gold = rng.integers(0, 4, 40)
    answers = table_of({"th": rng.integers(0, 4, 40), "en": rng.integers(0, 4, 40)}, gold)
    row = comparisons.consistency(answers).iloc[0]
    theirs, ours = (answers.loc[answers["language"] == code, "answer_paper"].to_numpy() for code in ("en", "th"))
    agree = np.mean([(ours == rng.permutation(theirs)).mean() for _ in range(4000)])
    assert row["chance"] == pytest.approx(100 * agree, abs=0.5)


# -------------------------------------------------------------------------------- all languages at once


def test_the_map_compares_any_two_languages_and_is_symmetric():
    answers = table_of({"th": [1, 9, 8, 7], "de": [1, 9, 5, 0], "en": [1, 9, 5, 4]}, gold=[1, 2, 3, 4])
    share = comparisons.agreement_map(answers).set_index(["language", "other"])["agreement"].to_dict()
    assert share == {
        ("th", "de"): 50.0, ("th", "en"): 50.0, ("de", "th"): 50.0,
        ("de", "en"): 75.0, ("en", "th"): 50.0, ("en", "de"): 75.0,
    }  # fmt: skip


def test_the_map_agrees_with_agreement_with_english_and_ignores_responses_without_a_number():
    silent = {"th": [False, True, True], "en": [False, True, True]}
    answers = table_of({"th": [0, 5, 2], "en": [0, 5, 3]}, gold=[1, 5, 2], has_number=silent)
    share = comparisons.agreement_map(answers).set_index(["language", "other"])["agreement"]
    assert share["th", "en"] == pytest.approx(comparisons.consistency(answers)["consistency"].iloc[0])
    assert share["th", "en"] == pytest.approx(100 / 3)


def test_questions_are_counted_by_the_languages_that_solve_them():
    # question: 0 solved in all three, 1 in none, 2 in English and German, 3 in English
    answers = table_of({"th": [1, 9, 8, 7], "de": [1, 9, 3, 0], "en": [1, 8, 3, 4]}, gold=[1, 2, 3, 4])
    table = comparisons.solved_languages(answers)
    assert list(table) == ["system", "seed", "benchmark", "languages", "questions", "percent"]
    assert table["languages"].tolist() == [0, 1, 2, 3]
    assert table["questions"].tolist() == [1, 1, 1, 1]
    assert table["percent"].tolist() == [25.0] * 4
