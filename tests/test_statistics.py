"""Each method on simulated data with a known truth."""

import gc

import numpy as np
import pytest
from statsmodels.stats.contingency_tables import mcnemar

from qalign_core import comparisons
from qalign_core.languages import CODES

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
    low, high = comparisons.wilson(rng.binomial(250, p), np.full(p.shape, 250))
    assert 0.94 <= coverage(low, high, 100 * p) <= 0.96


def test_cluster_bootstrap_covers_the_average_over_languages():
    values = answers_of(np.random.default_rng(2), 0.4)
    _, low, high = comparisons.bootstrap(values, draws=1000)
    assert 0.93 <= coverage(low, high, expected(0.4)) <= 0.97


def test_near_duplicates_need_their_groups():
    rng = np.random.default_rng(3)
    sizes = rng.integers(1, 8, 250)
    groups = np.repeat(np.arange(250), sizes)
    chance = 1 / (1 + np.exp(-rng.normal(0.4, 1.5, (250, RUNS))))
    values = (rng.random((len(groups), RUNS)) < chance[groups]).astype(float)
    _, low, high = comparisons.bootstrap(values, groups, draws=1000)
    assert 0.93 <= coverage(low, high, expected(0.4)) <= 0.97
    _, low, high = comparisons.bootstrap(values, draws=1000)
    assert coverage(low, high, expected(0.4)) < 0.9


def test_a_single_cluster_has_no_interval():
    estimate, low, high = comparisons.bootstrap(np.array([[1.0], [0.0]]), np.array(["a", "a"]))
    assert estimate.tolist() == [50.0]
    assert np.isnan([low, high]).all()


# -------------------------------------------------------------------------------- paired differences


def paired(seed, skill_a, skill_b):
    """Two systems on the same questions: (questions, runs) each."""
    rng = np.random.default_rng(seed)
    difficulty = rng.normal(0, 1.5, (QUESTIONS, RUNS))
    both = (1 / (1 + np.exp(-(skill + difficulty))) for skill in (skill_a, skill_b))
    return tuple(rng.binomial(LANGUAGES, chance) / LANGUAGES for chance in both)


def test_paired_intervals_cover_the_difference_and_are_narrower_than_unpaired_ones():
    a, b = paired(5, 0.6, 0.2)
    _, low, high = comparisons.bootstrap(a - b, draws=1000)
    assert 0.93 <= coverage(low, high, expected(0.6) - expected(0.2)) <= 0.97
    _, low_a, high_a = comparisons.bootstrap(a, draws=200)
    unpaired = np.sqrt(2) * (high_a - low_a)
    assert (high - low).mean() < 0.6 * unpaired.mean()


def test_sign_flips_reject_a_true_null_five_times_in_a_hundred_and_a_difference_often():
    a, b = paired(6, 0.3, 0.3)
    p = comparisons.sign_flip(a - b, draws=999)
    assert 0.03 <= (p < 0.05).mean() <= 0.07
    a, b = paired(7, 0.6, 0.3)
    assert (comparisons.sign_flip(a - b, draws=999) < 0.05).mean() > 0.9


def test_sign_flips_respect_groups():
    rng = np.random.default_rng(8)
    groups = np.repeat(np.arange(100), 4)
    shared = rng.choice([-1.0, 0.0, 1.0], (100, RUNS))[groups]
    assert 0.03 <= (comparisons.sign_flip(shared, groups, draws=999) < 0.05).mean() <= 0.07
    assert (comparisons.sign_flip(shared, draws=999) < 0.05).mean() > 0.2


def test_equal_systems_differ_by_nothing():
    same = np.zeros((50, 1))
    assert [float(end[0]) for end in comparisons.bootstrap(same)] == [0, 0, 0]
    assert comparisons.sign_flip(same)[0] == 1


def test_the_lower_end_of_a_90_percent_interval_covers_on_one_side():
    a, b = paired(11, 0.3, 0.3)
    _, low, _ = comparisons.bootstrap(a - b, confidence=0.9)
    assert 0.93 <= (low <= 0).mean() <= 0.97


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
        false_alarms += (comparisons.mcnemar_holm(a, b, CODES)["p_holm"] < 0.05).any()
    assert false_alarms / 300 <= 0.07


def test_mcnemar_by_hand():
    a = np.array([[1, 1]] * 8 + [[0, 1]] * 2, dtype=bool)
    b = np.array([[0, 1]] * 8 + [[0, 1]] * 2, dtype=bool)
    table = comparisons.mcnemar_holm(a, b, ["th", "en"])
    assert table["only_a"].tolist() == [8, 0]
    assert table["difference"].tolist() == [80.0, 0.0]
    assert table["p"].tolist() == pytest.approx([2 / 2**8, 1.0])
    assert table["p_holm"].tolist() == pytest.approx([4 / 2**8, 1.0])


def test_mcnemar_equals_statsmodels():
    rng = np.random.default_rng(14)
    a, b = rng.random((80, LANGUAGES)) < 0.6, rng.random((80, LANGUAGES)) < 0.4
    table = comparisons.mcnemar_holm(a, b, CODES)
    for p, i, j in table[["p", "only_a", "only_b"]].itertuples(index=False):
        assert p == pytest.approx(mcnemar([[0, i], [j, 0]], exact=True).pvalue)
