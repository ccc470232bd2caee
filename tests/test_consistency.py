import numpy as np
import pandas as pd
import pytest

from qalign_core import results
from qalign_core.languages import CODES
from qalign_core.show import figures
from qalign_core.show.paper_tables import consistency_table, split_table


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
