"""Beyond accuracy: rates of responses, wrong answers by kind, false equations, and scores without broken questions."""

from __future__ import annotations

import json
import random
import re
import time
from pathlib import Path

import pandas as pd
import pytest
from profiles import changed

from qalign_core import responses, runs, scorer
from qalign_core.responses import false_equations
from qalign_core.runs import Run

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


@pytest.fixture(scope="module")
def answers() -> pd.DataFrame:
    rows = pd.DataFrame(CASES, columns=["language", "response", "finish_reason", "gold", "kind"])
    rows = rows.assign(benchmark="mgsm", index=range(len(rows)), question="?", file="f")
    gold = rows[["benchmark", "language", "index", "question", "gold"]]
    given = rows.drop(columns=["gold", "kind"])
    scored = scorer.score(given, gold, system="Ours", seed=1)
    return responses.with_error_kinds(scored, given, "paper")


@pytest.mark.parametrize("number", range(len(CASES)))
def test_the_kind_of_a_wrong_answer(answers: pd.DataFrame, number: int):
    kind = answers.set_index("index").loc[number, "error"]
    assert (None if pd.isna(kind) else kind) == CASES[number][-1]


def test_the_scorer_of_the_profile_decides_what_is_wrong():
    about = {"benchmark": "mgsm", "language": "de", "index": 0, "question": "?"}
    given = pd.DataFrame([{**about, "response": "Die Antwort ist 3,5", "finish_reason": "stop", "file": "f"}])
    scored = scorer.score(given, pd.DataFrame([{**about, "gold": "3.5"}]), system="Ours", seed=1)
    for mode, kind in (("paper", "other"), ("fixed", None)):
        assert responses.with_error_kinds(scored, given, mode)["error"].tolist() == [kind]


def test_errors_are_counted_by_kind_and_add_up(answers: pd.DataFrame):
    errors = responses.errors(answers)
    assert len(errors) == answers["language"].nunique() * len(responses.KINDS)
    by_kind = errors.groupby("kind")["answers"].sum()
    expected = pd.Series([case[-1] for case in CASES]).value_counts()
    assert by_kind.to_dict() == expected.to_dict()
    assert errors.query("language == 'en'")["wrong"].tolist() == [1] * len(responses.KINDS)


def test_rates_are_in_percent_and_the_language_columns_leave_out_english(answers: pd.DataFrame):
    rates = responses.rates(answers).set_index("language")
    assert rates.loc["en", ["responses", "cut", "empty", "without_number"]].tolist() == [2, 0.0, 50.0, 50.0]
    assert rates.loc["de", ["cut", "own", "other"]].tolist() == [50.0, 50.0, 50.0]
    assert rates.loc["sw", ["english", "own"]].tolist() == [100.0, 0.0]
    assert rates.loc["en", "english"] == 0.0
    shares = rates[["english", "own", "other", "undetermined"]].sum(axis=1)
    assert shares.tolist() == pytest.approx([100.0] * len(rates))


def test_the_identifier_is_measured_on_the_questions_whose_language_is_known():
    asked = [("de", "Anna hat drei Äpfel und kauft noch zwei."), ("de", "Anna has three apples and she buys two."),
             ("th", "แอนนามีแอปเปิลสามผล")]  # fmt: skip
    gold = pd.DataFrame(asked, columns=["language", "question"]).assign(benchmark="mgsm")
    found = responses.identified(gold)
    assert found.to_numpy().tolist() == [["mgsm", "de", 2, 1], ["mgsm", "th", 1, 1]]


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
    profiles = {
        name: changed("mini", data__languages=["de", "en"], evaluation__benchmarks={name: {"max_new_tokens": 9}})
        for name in ("mgsm", "msvamp")
    }
    for code, texts in (("de", GERMAN), ("en", ENGLISH)):
        rows = [{"index": i, "question": text, "answer": "1"} for i, text in enumerate(texts)]
        runs.write_json_lines(run.benchmark("msvamp", code), rows)
    broken = responses.broken_questions(profiles["msvamp"], run)
    assert broken[["language", "index", "check"]].to_numpy().tolist() == [
        ["de", 0, "has no number left"],
        ["de", 1, "untranslated"],
        ["de", 3, "repeats itself"],
    ]
    assert responses.broken_questions(profiles["mgsm"], run).empty
    rows = pd.DataFrame(
        [("Ours", 1, "msvamp", code, i, code == "en" or i == 2, True) for code in ("de", "en") for i in range(4)],
        columns=["system", "seed", "benchmark", "language", "index", "correct_paper", "correct_fixed"],
    )
    table = responses.cleaned_accuracy(rows, broken)
    paper = table[table["scorer"] == "paper"].set_index("language")
    assert paper.loc["de", ["total", "removed", "accuracy", "cleaned"]].tolist() == [4, 3, 25.0, 100.0]
    assert paper.loc["en", ["total", "removed", "accuracy", "cleaned"]].tolist() == [4, 0, 100.0, 100.0]


# ------------------------------------------------------------------------------------------------- equations

FALSE = [
    "3 + 4 = 8",
    "So 3 + 4 = 8.",
    "তাই ৩০ - ৭ = ২২টি",
    "๓ + ๔ = ๘",
    "5ผล + 3ผล = 9ผล",
    "共3+4=8个。",
    "5个 + 3个 = 9个",
    "４＋３＝８",
    "Она купила 3 + 4 = 8 яблок",
    "Alikuwa na mayai 3 + 4 = 8",
    "5 apples + 3 apples = 9 apples",
    "$5 * 3 = $16",
    "5 × 3 = 16",
    "5 x 3 = 16",
    "20 cans x 3 = 50",
    r"5 \times 3 = 16",
    r"\frac{6}{2} = 4",
    "<<48/2=25>>25",
    "10 / 4 = 2.4",
    "1,000 + 200 = 1,300",
    "1,00,000 + 1 = 1,00,002",
    "(2 + 3) * 4 = 24",
    "2 + 3 = 5 * 4 = 21",
    "50% * 20 = 12",
    "12 - 5 - 3 = 5",
]
NOT_FALSE = [
    "3 + 4 = 7",
    "There is no equation, only 3 and 4.",
    "10/3 = 3.33",
    "2/3 = 0.67",
    "2/3 = 0.66",
    "100 / 6 = 16",
    "26,000/80% = 32,500",
    "50/200*100 = 25%",
    "50/200 = 25%",
    "20% * 50 = 10",
    "60 / 3/4 = 80",
    "2 + 3 = 5 * 4 = 20",
    "48/2 = <<48/2=24>>24",
    "1. 3 + 4 = 7",
    "She has 5. 3 + 4 = 7",
    "3000 + 4000 = 7 thousand",
    "3万 + 2万 = 5万",
    "x + 3 + 4 = 10",
    "2x + 3 = 7",
    "2^3 + 1 = 9",
    "10:30 + 2 = 12:30",
    "half of 10 + 3 = 8",
    "15% of 20 + 3 = 6",
    "2 1/2 + 1 = 3.5",
    "3 + 4 = 7 dollars * 2",
    "2 + 2 = 4x",
    "5 / 0 = 3",
    "3 = 4",
    "((((",
    "1+" * 5000 + "1=3",
    "9" * 400 + "+1=2",
    "",
]


GERMAN_FALSE = ["1.000 + 200 = 1.300", "3,5 + 1,5 = 6", "1 200 + 300 = 1 600"]
GERMAN_NOT_FALSE = ["1.500 + 500 = 2.000", "3,5 + 1,5 = 5", "1 200 + 300 = 1 500"]


@pytest.mark.parametrize(("text", "code"), [(text, "en") for text in FALSE] + [(text, "de") for text in GERMAN_FALSE])
def test_a_false_equation_is_found(text: str, code: str):
    assert len(false_equations(f"2 + 2 = 4. {text}", code)) == 1


@pytest.mark.parametrize(
    ("text", "code"), [(text, "en") for text in NOT_FALSE] + [(text, "de") for text in GERMAN_NOT_FALSE]
)
def test_what_holds_or_cannot_be_read_is_left_alone(text: str, code: str):
    assert false_equations(text, code) == []


def test_a_response_that_loops_costs_little():
    begun = time.process_time()
    for text in (
        "3 + 4 = " * 2000,
        "= " * 5000,
        "(" * 5000 + "=",
        "12 apples and " * 1000 + "=",
        "1 2 3 4 " * 2000 + "= 5",
    ):
        false_equations(text, "en")
    assert time.process_time() - begun < 5  # seconds of one core


def test_human_solutions_are_rarely_called_false_and_changed_ones_mostly(data_dir: Path):
    """GSM8K's solutions, of which a few really are false; then each with one result made larger."""
    lines = (data_dir / "gsm8k" / "test.jsonl").read_text(encoding="utf-8").splitlines()
    solutions = [re.sub(r"<<.*?>>", "", json.loads(line)["answer"]) for line in lines]
    assert sum(bool(false_equations(text, "en")) for text in solutions) < 0.015 * len(solutions)
    rng, found, changed = random.Random(0), 0, 0
    for text in solutions:
        results = list(re.finditer(r"= ?\$?(\d+)(?![\d.,])", text))
        if results:
            one = rng.choice(results)
            wrong = text[: one.start(1)] + str(int(one[1]) + rng.randint(1, 9)) + text[one.end(1) :]
            found, changed = found + bool(false_equations(wrong, "en")), changed + 1
    assert found > 0.8 * changed
