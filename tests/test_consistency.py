import numpy as np
import pandas as pd
import pytest

from qalign_core.languages import CODES, NON_ENGLISH
from qalign_core.scores import comparisons, consistency, results
from qalign_core.shown import figures
from qalign_core.shown.consistency_tables import consistency_table, split_table


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
    row = consistency.consistency(answers).iloc[0]
    assert (row["agree"], row["total"], row["consistency"]) == (2, 4, 50.0)
    assert row["both_right"] == 25.0
    assert row["right_given_english_right"] == 50.0
    assert (row["both_wrong"], row["same_given_both_wrong"]) == (2, 50.0)
    assert row["chance"] == pytest.approx(100 * 2 / 16)  # 1-1 and 9-9, of all 16 pairs
    assert row["both_right_chance"] == pytest.approx(100 * (1 / 4) * (2 / 4))


def test_a_response_without_a_number_never_agrees():
    answers = table_of({"th": [0, 5], "en": [0, 5]}, gold=[1, 5], has_number={"th": [False, True], "en": [False, True]})
    row = consistency.consistency(answers).iloc[0]
    assert (row["agree"], row["without_number"], row["english_without_number"]) == (1, 1, 1)
    assert consistency.agreement(answers)["agrees"].tolist() == [False, True]


def test_the_chance_floor_is_the_mean_over_permutations():
    rng = np.random.default_rng(0)
    gold = rng.integers(0, 4, 40)
    answers = table_of({"th": rng.integers(0, 4, 40), "en": rng.integers(0, 4, 40)}, gold)
    row = consistency.consistency(answers).iloc[0]
    english = answers[answers["language"] == "en"]
    own = answers[answers["language"] == "th"]
    agree = np.array([(own["answer_paper"].to_numpy() == rng.permutation(english["answer_paper"])).mean()
                      for _ in range(4000)])  # fmt: skip
    assert row["chance"] == pytest.approx(100 * agree.mean(), abs=0.5)


def test_consistency_needs_english():
    with pytest.raises(ValueError, match="no English answers"):
        consistency.consistency(table_of({"th": [1]}, [1]))


# -------------------------------------------------------------------------------- all languages at once


def test_the_map_compares_any_two_languages_and_is_symmetric():
    answers = table_of({"th": [1, 9, 8, 7], "de": [1, 9, 5, 0], "en": [1, 9, 5, 4]}, gold=[1, 2, 3, 4])
    share = consistency.agreement_map(answers).set_index(["language", "other"])["agreement"].to_dict()
    assert share == {
        ("th", "de"): 50.0, ("th", "en"): 50.0, ("de", "th"): 50.0,
        ("de", "en"): 75.0, ("en", "th"): 50.0, ("en", "de"): 75.0,
    }  # fmt: skip


def test_the_map_agrees_with_agreement_with_english_and_ignores_responses_without_a_number():
    silent = {"th": [False, True, True], "en": [False, True, True]}
    answers = table_of({"th": [0, 5, 2], "en": [0, 5, 3]}, gold=[1, 5, 2], has_number=silent)
    share = consistency.agreement_map(answers).set_index(["language", "other"])["agreement"]
    assert share["th", "en"] == pytest.approx(consistency.consistency(answers)["consistency"].iloc[0])
    assert share["th", "en"] == pytest.approx(100 / 3)
    with pytest.raises(ValueError, match="scorer must be one of paper, fixed, not 'loose'"):
        consistency.agreement_map(answers, "loose")


def test_questions_are_counted_by_the_languages_that_solve_them():
    # question: 0 solved in all three, 1 in none, 2 in English and German, 3 in English
    answers = table_of({"th": [1, 9, 8, 7], "de": [1, 9, 3, 0], "en": [1, 8, 3, 4]}, gold=[1, 2, 3, 4])
    table = consistency.solved_languages(answers)
    assert list(table) == ["system", "seed", "benchmark", "languages", "questions", "percent"]
    assert table["languages"].tolist() == [0, 1, 2, 3]
    assert table["questions"].tolist() == [1, 1, 1, 1]
    assert table["percent"].tolist() == [25.0] * 4


def test_a_question_that_a_language_lacks_is_an_error():
    answers = table_of({"th": [1, 9], "en": [1, 9]}, gold=[1, 2]).iloc[:-1]
    with pytest.raises(ValueError, match=r"A \(seed 1\), mgsm: not every question is answered in en"):
        consistency.agreement_map(answers)


# -------------------------------------------------------------------------------- saved, shown and drawn


SKILL = {"MonoReason": 0.3, "QAlign": 0.6, "Other": 0.4}
SYSTEMS = {name: {"lineage": ["metamathqa"]} for name in SKILL}


@pytest.fixture(scope="module")
def answers():
    """Thirty questions in ten languages by three systems on both benchmarks; every fifth response has no number."""
    rng, parts = np.random.default_rng(3), []
    for benchmark in ("mgsm", "msvamp"):
        for system, skill in SKILL.items():
            gold = np.arange(30) + 1
            numbers = {code: np.where(rng.random(30) < skill, gold, 90 + rng.integers(0, 3, 30)) for code in CODES}
            part = table_of(numbers, np.tile(gold, 1), {code: np.arange(30) % 5 > 0 for code in CODES})
            parts.append(part.assign(system=system, benchmark=benchmark))
    return pd.concat(parts, ignore_index=True)


@pytest.fixture(scope="module")
def saved(answers, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "results"
    results.write_results(folder, answers, profile="test", systems=SYSTEMS)
    return results.write_consistency(folder, {"mgsm": pd.Series(np.arange(30) // 2)}), folder


def test_every_system_is_compared_with_the_one_without_alignment(saved, answers):
    tables = saved[0].tables
    found = tables["agreement_differences"]
    assert set(zip(found["a"], found["b"], strict=True)) == {("QAlign", "MonoReason"), ("Other", "MonoReason")}
    assert set(found["measure"]) == {*NON_ENGLISH, "non_english"}
    agrees = consistency.agreement(answers).groupby(["system", "benchmark"])["agrees"].mean() * 100
    row = found.query("a == 'QAlign' and benchmark == 'mgsm' and measure == 'non_english'").iloc[0]
    assert row["difference"] == pytest.approx(agrees["QAlign", "mgsm"] - agrees["MonoReason", "mgsm"])
    assert row["low"] < row["difference"] < row["high"]
    assert (row["clusters"], row["questions"]) == (15, 30)


def test_evaluating_again_keeps_what_was_made_of_the_same_answers_and_removes_the_rest(answers, tmp_path):
    with pytest.raises(FileNotFoundError, match="run notebook 04"):
        results.write_consistency(tmp_path)
    groups = {"mgsm": pd.Series(np.arange(30) // 2)}
    results.write_results(tmp_path, answers, profile="test", systems=SYSTEMS, groups=groups)
    results.write_consistency(tmp_path, groups)
    made = (tmp_path / "agreement_map.csv").read_bytes()
    results.write_results(tmp_path, answers, profile="test", systems=SYSTEMS, groups=groups)
    assert (tmp_path / "agreement_map.csv").read_bytes() == made
    one = (answers["system"] == "Other") & (answers["index"] == 0)
    for changed, mode, near in (
        (answers.assign(answer_fixed=answers["answer_fixed"].where(~one, -1.0)), "paper", groups),  # another answer
        (answers, "fixed", groups),
        (answers, "paper", {"mgsm": pd.Series(np.arange(30) // 3)}),  # other near-duplicates
    ):
        results.write_consistency(tmp_path, groups)
        again = results.write_results(tmp_path, changed, profile="test", systems=SYSTEMS, mode=mode, groups=near)
        assert {f"{name}.csv" for name in results.CONSISTENCY} <= set(again.absent)
        results.write_results(tmp_path, answers, profile="test", systems=SYSTEMS, groups=groups)
    (tmp_path / "answers.parquet").unlink()
    with pytest.raises(FileNotFoundError, match=r"answers\.parquet; run notebook 04"):
        results.write_consistency(tmp_path)


def test_the_table_shows_agreement_its_difference_and_the_responses_without_a_number(saved):
    tables = saved[0].tables
    table = consistency_table(
        tables["agreement"], tables["consistency"], "mgsm", differences=tables["agreement_differences"]
    )
    assert table.text["System"].tolist() == list(SKILL)
    assert table.text["no number"].tolist() == ["60"] * 3  # six of thirty questions in ten languages
    assert table.text.loc[0, "to MonoReason"] == ""
    assert table.text.loc[1, "to MonoReason"].startswith("+")
    assert table.text["Mean"].str.count(r"\[").tolist() == [1, 1, 1]
    means = tables["consistency"].query("benchmark == 'mgsm'").groupby("system")["consistency"].mean()
    assert table.data.set_index("system")["mean"].to_dict() == pytest.approx(means.to_dict())


def test_splits_are_shown_with_their_floor_and_pooled_where_a_language_has_none():
    counts = {"system": "A", "seed": 1, "benchmark": "mgsm", "consistency": [50.0, 70.0], "chance": [10.0, 20.0]}
    counts |= {"both_right": [40.0, 60.0], "both_right_chance": [20.0, 30.0]}
    counts |= {"right_given_english_right": [50.0, 70.0], "right_given_english_right_chance": [40.0, 50.0]}
    counts |= {"both_wrong": [0, 4], "same_given_both_wrong": [np.nan, 25.0]}
    counts |= {"same_given_both_wrong_chance": [np.nan, 5.0]}
    row = split_table(pd.DataFrame(counts)).text.iloc[0]
    assert row.tolist() == ["A", "mGSM", "60.0 (15.0)", "50.0 (25.0)", "60.0 (45.0)", "25.0 (5.0)", "4"]
    nothing = pd.DataFrame(counts).assign(both_wrong=0, same_given_both_wrong=np.nan)
    assert split_table(nothing).text.loc[0, "same, if both wrong"] == ""


def test_the_figures_show_the_numbers_beside_them(saved):
    tables = saved[0].tables
    figure, shown = figures.agreement_map(tables["agreement_map"])
    maps = [axis for axis in figure.axes if axis.get_title(loc="left")]
    assert [axis.get_title(loc="left") for axis in maps][:2] == ["mGSM, MonoReason", "mGSM, QAlign"]
    assert len(shown) == 2 * 2 * 90
    first = shown[(shown["benchmark"] == "mgsm") & (shown["system"] == "MonoReason")]
    assert sorted(text.get_text() for text in maps[0].texts) == sorted(f"{v:.0f}" for v in first["agreement"])
    figure, shown = figures.solved_languages(tables["solved"], ["QAlign"])
    written = [text.get_text() for text in figure.axes[0].texts]
    assert written == [f"{v:.0f}" if v else "" for v in shown.query("benchmark == 'mgsm'")["percent"]]
    assert shown.groupby("benchmark")["questions"].sum().tolist() == [30.0, 30.0]


def test_agreement_intervals_are_resampled_by_group(saved):
    table = saved[0].tables["agreement"].query("measure == 'non_english'").set_index("benchmark")
    assert set(table.loc["mgsm", "clusters"]) == {15}
    assert set(table.loc["msvamp", "clusters"]) == {30}
    assert set(table["method"]) == {"cluster bootstrap"}
    assert "non_english" in comparisons.MEASURES
