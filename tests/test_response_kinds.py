"""Beyond accuracy: rates of responses, wrong answers by kind, and scores without broken questions."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from qalign_core import params, runs, scorer
from qalign_core.profiles.evaluation_section import EvaluationSection
from qalign_core.profiles.evaluation_section import Test as Asked
from qalign_core.runs import Run
from qalign_core.scores import cleaned, response_kinds
from qalign_core.shown import response_tables

# question's language, response, how it ended, gold → kind of the wrong answer (None: it is right)
CASES = [
    ("en", "The answer is 12.", "stop", "12", None),
    ("en", "", "stop", "12", "number missing"),
    ("th", "คำตอบคือไม่รู้", "stop", "12", "number missing"),
    ("bn", "Some apples, some apples, some apples", "length", "12", "number missing"),
    ("de", "Die Antwort ist 7, 7, 7, 7", "length", "12", "cut off"),
    ("ja", "答えは7です。りんごは7つです。", "stop", "12", "other"),
    ("ja", "Сегодня у него есть 7 яблок, и это ответ на вопрос.", "stop", "12", "wrong language"),
    ("de", "La respuesta es que ella tiene 3 manzanas y el total es 7", "stop", "12", "wrong language"),
    ("bn", "তার কাছে ৩০ - ৭ = ২২টি টিকিট আছে। উত্তর ২২", "stop", "23", "arithmetic slip"),
    ("th", "เขามีส้ม 3 + 4 = 8 ผล คำตอบคือ 8", "stop", "7", "arithmetic slip"),
    ("zh", "他一共有3+4=8个苹果。答案是8", "stop", "7", "arithmetic slip"),
    ("ru", "У него осталось 3,5 + 1,5 = 6 кг. Ответ: 6", "stop", "5", "arithmetic slip"),
    ("sw", "She has 5 apples + 3 apples = 9 apples. The answer is 9", "stop", "8", "arithmetic slip"),
    ("es", "Tiene 3 + 4 = 7 manzanas. La respuesta es 7", "stop", "12", "other"),
    ("fr", "7", "stop", "12", "other"),
]


def profile(benchmark: str = "mgsm") -> params.Profile:
    return params.load("mini").model_copy(
        update={"evaluation": EvaluationSection(benchmarks={benchmark: Asked(max_new_tokens=9)})}
    )


@pytest.fixture(scope="module")
def answers() -> pd.DataFrame:
    rows = pd.DataFrame(CASES, columns=["language", "response", "finish_reason", "gold", "kind"])
    rows = rows.assign(benchmark="mgsm", index=range(len(rows)), question="?")
    gold = rows[["benchmark", "language", "index", "question", "gold"]]
    given = rows.drop(columns=["gold", "kind"])
    scored = scorer.score(given, gold, system="Ours", seed=1)
    return response_kinds.with_error_kinds(scored, given, profile())


@pytest.mark.parametrize("number", range(len(CASES)))
def test_the_kind_of_a_wrong_answer(answers: pd.DataFrame, number: int):
    kind = answers.set_index("index").loc[number, "error"]
    assert (None if pd.isna(kind) else kind) == CASES[number][-1]


def test_the_scorer_of_the_profile_decides_what_is_wrong():
    given = pd.DataFrame(
        [("mgsm", "de", 0, "Die Antwort ist 3,5", "stop")],
        columns=["benchmark", "language", "index", "response", "finish_reason"],
    )
    gold = pd.DataFrame([("mgsm", "de", 0, "?", "3.5")], columns=["benchmark", "language", "index", "question", "gold"])
    scored = scorer.score(given, gold, system="Ours", seed=1)
    for mode, kind in (("paper", "other"), ("fixed", None)):
        chosen = profile()
        chosen = chosen.model_copy(update={"evaluation": chosen.evaluation.model_copy(update={"scorer": mode})})
        assert response_kinds.with_error_kinds(scored, given, chosen)["error"].tolist() == [kind]


def test_errors_are_counted_by_kind_and_add_up(answers: pd.DataFrame):
    errors = response_kinds.errors(answers)
    assert len(errors) == answers["language"].nunique() * len(response_kinds.KINDS)
    by_kind = errors.groupby("kind")["answers"].sum()
    expected = pd.Series([case[-1] for case in CASES]).value_counts()
    assert by_kind.to_dict() == expected.to_dict()
    assert errors.query("language == 'en'")["wrong"].tolist() == [1] * len(response_kinds.KINDS)
    table = response_tables.errors_table(errors)
    assert table.data["wrong"].tolist() == [len(CASES) - 1]
    assert table.data[list(response_kinds.KINDS)].sum(axis=1).tolist() == pytest.approx([100.0])


def test_a_system_without_a_wrong_answer_has_no_shares(answers: pd.DataFrame):
    table = response_tables.errors_table(response_kinds.errors(answers[answers["error"].isna()]))
    assert table.text.loc[0, "wrong"] == "0"
    assert table.text.loc[0, "other"] == ""


def test_rates_are_in_percent_and_the_language_columns_leave_out_english(answers: pd.DataFrame):
    rates = response_kinds.rates(answers).set_index("language")
    assert rates.loc["en", ["responses", "cut", "empty", "without_number"]].tolist() == [2, 0.0, 50.0, 50.0]
    assert rates.loc["de", ["cut", "own", "other"]].tolist() == [50.0, 50.0, 50.0]
    assert rates.loc["sw", ["english", "own"]].tolist() == [100.0, 0.0]
    assert rates.loc["en", "english"] == 0.0
    shares = rates[["english", "own", "other", "undetermined"]].sum(axis=1)
    assert shares.tolist() == pytest.approx([100.0] * len(rates))
    table = response_tables.responses_table(rates.reset_index())
    assert table.name == "table-responses"
    others = rates.drop(index="en")
    assert table.data.loc[0, "in English"] == pytest.approx(others["english"].mean())
    assert table.data.loc[0, "cut off"] == pytest.approx(rates["cut"].mean())


def test_the_identifier_is_measured_on_the_questions_whose_language_is_known(answers: pd.DataFrame):
    asked = [("de", "Anna hat drei Äpfel und kauft noch zwei."), ("de", "Anna has three apples and she buys two."),
             ("th", "แอนนามีแอปเปิลสามผล")]  # fmt: skip
    gold = pd.DataFrame(asked, columns=["language", "question"]).assign(benchmark="mgsm")
    found = response_kinds.identified(gold)
    assert found.to_numpy().tolist() == [["mgsm", "de", 2, 1], ["mgsm", "th", 1, 1]]
    words = response_tables.responses_table(response_kinds.rates(answers), found).caption
    assert "right for 66.7% of this run's own 3 questions (lowest: de, 50.0%)" in words
    assert "own 1 questions." in response_tables.responses_table(response_kinds.rates(answers), found.tail(1)).caption


# ------------------------------------------------------------------------------------------------- cleaned scores

ENGLISH = [
    "ann has 25 apples and 30 pears .",
    "ben has 40 eggs .",
    "a man has 2 dogs .",
    "eve buys 50 pens and 60 cups .",
]
GERMAN = [
    "anna hat äpfel und birnen.",  # lost every number
    "ben has 40 eggs .",  # not translated
    "ein mann hat zwei hunde.",  # a number as a word: whole
    "eva kauft 50 stifte und 60 " + "tassen und " * 9,  # repeats itself
]


def test_averages_without_the_questions_that_translation_broke(tmp_path: Path):
    run = Run(tmp_path)
    base = profile("msvamp")
    chosen = base.model_copy(update={"data": base.data.model_copy(update={"languages": ["de", "en"]})})
    for code, texts in (("de", GERMAN), ("en", ENGLISH)):
        rows = [{"index": i, "question": text, "answer": "1"} for i, text in enumerate(texts)]
        runs.write_json_lines(run.benchmark("msvamp", code), rows)
    broken = cleaned.broken_questions(chosen, run)
    assert broken[["language", "index", "check"]].to_numpy().tolist() == [
        ["de", 0, "has no number left"],
        ["de", 1, "untranslated"],
        ["de", 3, "repeats itself"],
    ]
    rows = pd.DataFrame(
        [("Ours", 1, "msvamp", code, i, code == "en" or i == 2, True) for code in ("de", "en") for i in range(4)],
        columns=["system", "seed", "benchmark", "language", "index", "correct_paper", "correct_fixed"],
    )
    table = cleaned.cleaned_accuracy(rows, broken)
    paper = table[table["scorer"] == "paper"].set_index("language")
    assert paper.loc["de", ["total", "removed", "accuracy", "cleaned"]].tolist() == [4, 3, 25.0, 100.0]
    assert paper.loc["en", ["total", "removed", "accuracy", "cleaned"]].tolist() == [4, 0, 100.0, 100.0]
    shown = response_tables.cleaned_table(table)
    assert shown.name == "table-cleaned"
    assert shown.text.iloc[0].tolist() == ["Ours", "mSVAMP", "62.5", "100.0", "25.0", "100.0"]
    assert "(de 3)" in shown.caption


def test_no_question_of_mgsm_is_left_out(tmp_path: Path):
    assert cleaned.broken_questions(profile("mgsm"), Run(tmp_path)).empty
