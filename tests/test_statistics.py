"""Each method on simulated data with a known truth."""

import gc

import numpy as np
import pandas as pd
import pytest
from statsmodels.stats.contingency_tables import mcnemar

from qalign_core import statistics
from qalign_core.languages import CODES
from qalign_core.scores import comparisons

QUESTIONS, LANGUAGES, RUNS = 250, 10, 1500


def coverage(low, high, truth):
    return ((low <= truth) & (truth <= high)).mean()


def answers_of(rng, skill, runs=RUNS, questions=QUESTIONS):
    """Mean over languages of right answers: (questions, runs). A question is hard or easy in all ten languages."""
    chance = 1 / (1 + np.exp(-(skill + rng.normal(0, 1.5, (questions, runs)))))
    return rng.binomial(LANGUAGES, chance) / LANGUAGES


def expected(skill):
    nodes, weights = np.polynomial.hermite_e.hermegauss(60)
    return 100 * (weights / (1 + np.exp(-(skill + 1.5 * nodes)))).sum() / weights.sum()


# -------------------------------------------------------------------------------- intervals


def test_wilson_covers_the_truth():
    rng = np.random.default_rng(1)
    p = rng.uniform(0.05, 0.95, 20_000)
    low, high = statistics.wilson(rng.binomial(250, p), np.full(p.shape, 250))
    assert 0.94 <= coverage(low, high, 100 * p) <= 0.96


def test_wilson_at_the_ends_and_on_impossible_counts():
    low, high = statistics.wilson(np.array([0, 250]), np.array([250, 250]))
    assert low[0] == pytest.approx(0)
    assert high[1] == pytest.approx(100)
    assert high[0] == pytest.approx(100 - low[1])
    assert 1 < high[0] < 2
    with pytest.raises(ValueError, match="0 <= correct <= total"):
        statistics.wilson(5, 4)


def test_cluster_bootstrap_covers_the_average_over_languages():
    values = answers_of(np.random.default_rng(2), 0.4)
    _, low, high = statistics.bootstrap_columns(values, draws=1000)
    assert 0.93 <= coverage(low, high, expected(0.4)) <= 0.97


def test_treating_answers_as_independent_would_not_cover():
    values = answers_of(np.random.default_rng(2), 0.4)
    low, high = statistics.wilson(np.round(values.sum(axis=0) * LANGUAGES).astype(int), QUESTIONS * LANGUAGES)
    assert coverage(low, high, expected(0.4)) < 0.85


def test_near_duplicates_need_their_groups():
    rng = np.random.default_rng(3)
    sizes = rng.integers(1, 8, 250)
    groups = np.repeat(np.arange(250), sizes)
    chance = 1 / (1 + np.exp(-rng.normal(0.4, 1.5, (250, RUNS))))
    values = (rng.random((len(groups), RUNS)) < chance[groups]).astype(float)
    _, low, high = statistics.bootstrap_columns(values, groups, draws=1000)
    assert 0.93 <= coverage(low, high, expected(0.4)) <= 0.97
    _, low, high = statistics.bootstrap_columns(values, draws=1000)
    assert coverage(low, high, expected(0.4)) < 0.9


def test_bootstrap_takes_a_question_with_all_its_languages():
    matrix = (np.random.default_rng(4).random((60, 10)) < 0.5).astype(float)
    one = statistics.bootstrap_interval(matrix)
    assert one == statistics.bootstrap_interval(matrix.mean(axis=1))
    assert one.low < one.estimate < one.high
    assert one.estimate == pytest.approx(100 * matrix.mean())


@pytest.mark.parametrize(
    ("values", "groups", "message"),
    [
        ([1.0], None, "at least two clusters"),
        ([1.0, 0.0], ["a", "a"], "at least two clusters"),
        ([1.0, 0.0], ["a"], "1 group labels for 2 questions"),
        ([1.0, np.nan], None, "no value"),
        ([1.0, 0.0], ["a", None], "has no group"),
    ],
)
def test_bootstrap_refuses_what_it_cannot_resample(values, groups, message):
    with pytest.raises(ValueError, match=message):
        statistics.bootstrap_interval(np.array(values), groups)


# -------------------------------------------------------------------------------- paired differences


def paired(seed, skill_a, skill_b):
    """Two systems on the same questions: (questions, runs) each."""
    rng = np.random.default_rng(seed)
    difficulty = rng.normal(0, 1.5, (QUESTIONS, RUNS))
    both = (1 / (1 + np.exp(-(skill + difficulty))) for skill in (skill_a, skill_b))
    return tuple(rng.binomial(LANGUAGES, chance) / LANGUAGES for chance in both)


def test_paired_intervals_cover_the_difference_and_are_narrower_than_unpaired_ones():
    a, b = paired(5, 0.6, 0.2)
    _, low, high = statistics.bootstrap_columns(a - b, draws=1000)
    assert 0.93 <= coverage(low, high, expected(0.6) - expected(0.2)) <= 0.97
    _, low_a, high_a = statistics.bootstrap_columns(a, draws=200)
    unpaired = np.sqrt(2) * (high_a - low_a)
    assert (high - low).mean() < 0.6 * unpaired.mean()


def test_sign_flips_reject_a_true_null_five_times_in_a_hundred_and_a_difference_often():
    a, b = paired(6, 0.3, 0.3)
    p = statistics.sign_flip(a - b, draws=999)
    assert 0.03 <= (p < 0.05).mean() <= 0.07
    a, b = paired(7, 0.6, 0.3)
    assert (statistics.sign_flip(a - b, draws=999) < 0.05).mean() > 0.9


def test_sign_flips_respect_groups():
    rng = np.random.default_rng(8)
    groups = np.repeat(np.arange(100), 4)
    shared = rng.choice([-1.0, 0.0, 1.0], (100, RUNS))[groups]
    assert 0.03 <= (statistics.sign_flip(shared, groups, draws=999) < 0.05).mean() <= 0.07
    assert (statistics.sign_flip(shared, draws=999) < 0.05).mean() > 0.2


def test_paired_difference_of_equal_systems_is_nothing():
    a = (np.random.default_rng(9).random((50, 10)) < 0.5).astype(float)
    same = statistics.paired_difference(a, a)
    assert (same.estimate, same.low, same.high, same.p) == (0, 0, 0, 1)
    with pytest.raises(ValueError, match="shapes"):
        statistics.paired_difference(a, a[:40])


def test_noninferiority_bound_covers_on_one_side():
    a, b = paired(11, 0.3, 0.3)
    _, low, _ = statistics.bootstrap_columns(a - b, confidence=0.9)
    assert 0.93 <= (low <= 0).mean() <= 0.97
    assert statistics.noninferiority(a[:, 0], b[:, 0], 3.0).low == pytest.approx(low[0])
    verdict = statistics.noninferiority(a[:, 0], a[:, 0], 1.0)
    assert verdict.holds
    assert not statistics.noninferiority(np.zeros(50), np.ones(50), 5.0).holds
    with pytest.raises(ValueError, match="margin must be positive"):
        statistics.noninferiority(a, b, -1)


@pytest.fixture
def quick_collection():
    """statsmodels collects garbage in each correction: nothing that exists now needs to be looked at."""
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.mark.usefixtures("quick_collection")
def test_mcnemar_holm_keeps_the_family_wise_error():
    rng = np.random.default_rng(12)
    false_alarms = 0
    for _ in range(300):
        chance = rng.beta(1.5, 1.5, (QUESTIONS, 1))
        a, b = (rng.random((QUESTIONS, LANGUAGES)) < chance for _ in range(2))
        false_alarms += (statistics.mcnemar_holm(a, b, CODES)["p_holm"] < 0.05).any()
    assert false_alarms / 300 <= 0.07


def test_mcnemar_by_hand():
    a = np.array([[1, 1]] * 8 + [[0, 1]] * 2, dtype=bool)
    b = np.array([[0, 1]] * 8 + [[0, 1]] * 2, dtype=bool)
    table = statistics.mcnemar_holm(a, b, ["th", "en"])
    assert table["only_a"].tolist() == [8, 0]
    assert table["difference"].tolist() == [80.0, 0.0]
    assert table["p"].tolist() == pytest.approx([2 / 2**8, 1.0])
    assert table["p_holm"].tolist() == pytest.approx([4 / 2**8, 1.0])


def test_mcnemar_equals_statsmodels():
    rng = np.random.default_rng(14)
    a, b = rng.random((80, LANGUAGES)) < 0.6, rng.random((80, LANGUAGES)) < 0.4
    table = statistics.mcnemar_holm(a, b, CODES)
    for p, i, j in table[["p", "only_a", "only_b"]].itertuples(index=False):
        assert p == pytest.approx(mcnemar([[0, i], [j, 0]], exact=True).pvalue)


# -------------------------------------------------------------------------------- tables of answers


@pytest.fixture(scope="module")
def answers():
    rng = np.random.default_rng(13)
    rows = []
    for system, skill in (("MonoReason", 0.3), ("QAlign", 0.6)):
        for seed in (1, 2):
            for benchmark, questions in (("mgsm", 40), ("msvamp", 60)):
                for code in CODES:
                    right = rng.random(questions) < skill + (0.2 if code == "en" else 0)
                    rows.append(pd.DataFrame({"index": range(questions), "correct_paper": right}).assign(
                        system=system, seed=seed, benchmark=benchmark, language=code))  # fmt: skip
    return pd.concat(rows, ignore_index=True)


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
        expected = statistics.wilson(right * found["clusters"], found["clusters"])
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


def test_seeds_are_shown_as_a_range(answers):
    spread = comparisons.seed_range(comparisons.intervals(answers, draws=100))
    row = spread.set_index(["system", "benchmark", "measure"]).loc[("QAlign", "mgsm", "average")]
    assert row["seeds"] == 2
    assert row["low"] <= row["mean"] <= row["high"]


def test_unanswered_questions_and_missing_groups_are_refused(answers):
    with pytest.raises(ValueError, match="not every question is answered in en"):
        comparisons.intervals(answers.drop(answers.index[answers["language"] == "en"][3]))
    with pytest.raises(ValueError, match="question 0 has no group"):
        comparisons.intervals(answers, {"mgsm": pd.Series([1, 1], index=[1, 2])})
