"""From responses to scored answers: the number, the language, both scorers, and what is refused."""

import json
import random
import time

import pandas as pd
import pytest

from qalign_core import scorer
from qalign_core.languages import CODES
from qalign_core.runs import read_json_lines, write_json_lines
from qalign_core.scorer import extract_number, read_benchmark, read_predictions, response_language

RESPONSES = {"en": "The answer is: 12", "de": "Die Antwort ist: 3,5", "bn": "উত্তর হল: 12"}
GOLD = {"en": "12", "de": "3.5", "bn": "12"}


@pytest.fixture
def run(tmp_path):
    """Folders of a benchmark with three languages and two questions, and of predictions that fit it."""
    for code in GOLD:
        gold = [{"index": i, "question": f"{code} question {i}?", "answer": GOLD[code]} for i in range(2)]
        answered = [{**row, "prompt": "...", "response": RESPONSES[code], "finish_reason": "stop"} for row in gold]
        write_json_lines(tmp_path / "benchmarks" / "mgsm" / f"{code}.jsonl", gold)
        write_json_lines(tmp_path / "predictions" / "mgsm" / f"{code}.jsonl", answered)
    return tmp_path


def scored(run):
    gold = read_benchmark(run / "benchmarks", "mgsm", GOLD)
    return scorer.score(read_predictions(run / "predictions", ["mgsm"], sorted(GOLD)), gold, system="QAlign", seed=1)


# -------------------------------------------------------------------------------- the last number


def test_paper_mode_equals_the_authors_function_on_every_golden_response(reference_dir):
    rows = [json.loads(line) for line in (reference_dir / "golden" / "scorer.jsonl").open(encoding="utf-8")]
    assert len(rows) > 1500
    wrong = [row for row in rows if extract_number(row["text"], "paper") != row["number"]]
    assert wrong == []


@pytest.mark.parametrize(
    ("text", "number"),
    [("3,5", 35), ("1 234", 234), ("-5", 5), ("18. [1]", 1), ("1,2,3", 3), ("1,234.50", 1234.5), ("١٢", 12), ("²", 0)],
)
def test_known_consequences_of_the_paper_scorer(text, number):
    assert extract_number(text) == number


@pytest.mark.parametrize(
    ("text", "language", "number"),
    [
        # signs
        ("-5", None, -5),
        ("−7", "en", -7),
        ("= -$5", "en", -5),
        (r"cost -\$18", "en", -18),
        ("答えは-5", "ja", -5),
        ("10-5", "en", 5),
        ("10 - 5", "en", 5),
        ("10 -5", "en", 5),
        ("x-5", "en", 5),
        ("3–5", "en", 5),
        # decimal commas and points that group
        ("3,5", "de", 3.5),
        ("3,5", None, 3.5),
        ("0,125", "fr", 0.125),
        ("1.234", "de", 1234),
        ("1.234", "en", 1.234),
        ("1.234,50", "es", 1234.5),
        ("1,234.50", "de", 1234.5),
        ("80,000", "fr", 80000),
        ("3.5", "de", 3.5),
        ("0.125", "ru", 0.125),
        ("1.234.567", None, 1234567),
        ("1,234", None, 1234),
        # lists
        ("1,2,3", "de", 3),
        ("1,2,3", None, 3),
        ("12 apples, 3", "en", 3),
        # spaces that group
        ("1\u202f234", "en", 1234),
        ("1\u00a0234,5", "fr", 1234.5),
        ("1 234", "fr", 1234),
        ("1 234", None, 1234),
        ("1 234", "en", 234),
        ("12 345 678,9 руб.", "ru", 12345678.9),
        ("20 15", "fr", 15),
        # Indian groups, Bengali digits, LaTeX, references
        ("1,00,000", "bn", 100000),
        ("৪,৫০০", "bn", 4500),
        ("-৪.৫", "bn", -4.5),
        ("1{,}234", "en", 1234),
        (r"\$10,\!000", "en", 10000),
        (".5", "en", 0.5),
        ("...5", "en", 5),
        ("18. [1]", None, 18),
        ("2,500 [3][4].", "en", 2500),
        ("The answer is [18]", "en", 18),
        ("2,35,000 rupees", "en", 235000),
        # marks of thousands and decimals in other scripts
        ("40'000 Franken", "de", 40000),
        ("1’234’567.5", "en", 1234567.5),
        ("40 000 €", "de", 40000),
        ("٤٠٬٠٠٠", None, 40000),
        ("١٢٫٥", None, 12.5),
        # Chinese and Japanese units; kilograms and kilometres begin with the character of a thousand
        ("4万ドル", "ja", 40000),
        ("12.5万", "zh", 125000),
        ("1億2000万円", "ja", 120000000),
        ("4万5000円", "ja", 45000),
        ("5千克", "zh", 5),
        ("2千万円", "ja", 20000000),
        ("1千2百万", "zh", 12000000),
        ("1,200 万ドル", "ja", 12000000),
        ("5百分点", "zh", 5),
        # full-width marks group between full-width digits; elsewhere the comma is one of the sentence
        ("１，２３４．５円", "ja", 1234.5),
        ("先卖5，200元", "zh", 200),
        ("12ʼ500", "de", 12500),
        # fractions, not calculations and dates
        (r"\frac{1}{4}", "en", 0.25),
        ("3/4", "en", 0.75),
        ("1 3/4", "de", 1.75),
        ("9/8", "de", 1.125),
        ("12/3=4", "en", 4),
        ("1/0", "en", 0),
        (r"2\frac12", "en", 2.5),
        ("3½ cups", "en", 3.5),
        ("1⁄4", "en", 0.25),
        (r"\boxed{\frac{7}{2}}, of 9", "en", 3.5),
        ("3/4/2024", "en", 2024),
        # a marked answer: what comes behind it does not count
        ("= $75.\n#### 75\nShe pays $75 for 30 days.", "en", 75),
        (r"It is \boxed{18}. (9 eggs at $2.)", "en", 18),
        ("**Answer: 18 dollars** (from 9 eggs)", "en", 18),
        ("#### 18\n\nQuestion: A rope is cut into 2 pieces.", "en", 18),
        ("The answer is 3 * 4 = 12 dollars, of 20", "en", 12),
        ("The answer is that she earns 5 and 18.", "en", 18),
        ("First the answer is 7.\nNo: the answer is 9 (of 10).", "en", 9),
        ("Die Antwort ist 1.234,5 (von 2)", "de", 1234.5),
        ("La réponse est 5 sur 6", "fr", 5),
        ("La respuesta es 5 de 6", "es", 5),
        ("Ответ: -5 из 6", "ru", -5),
        ("Jibu ni 5 kati ya 6", "sw", 5),
        ("উত্তর হল ৫ (৬)", "bn", 5),
        ("คำตอบคือ 5 จาก 6", "th", 5),
        ("答案是5（共6个）", "zh", 5),
        ("答えは5です（6個中）", "ja", 5),
        ("18 eggs. The answer is", "en", 18),
        # with a few words before the verb
        ("The answer to the question is 18 (from 9)", "en", 18),
        ("So the answer would be 18, in 7 days", "en", 18),
        ("Final answer = 42 of 50", "en", 42),
        ("Die endgültige Antwort lautet: 1.500 Euro (2 Jahre)", "de", 1500),
        ("La réponse finale est 1 234 (sur 5)", "fr", 1234),
        ("La respuesta final es 1.500 euros en 2 años", "es", 1500),
        ("Правильный ответ равен 18, за 7 дней", "ru", 18),
        ("Ответом является 18 из 20", "ru", 18),
        ("Jibu la mwisho ni 18 kwa siku 7", "sw", 18),
        ("উত্তরটি হল ১৮ (৭ দিনে)", "bn", 18),
        ("คำตอบสุดท้ายคือ 18 จาก 20", "th", 18),
        ("因此答案等于18，共7天", "zh", 18),
        ("正解は18です（7日間）", "ja", 18),
        ("To answer this is easy: 5 + 3 = 8 and 8 + 2 = 10", "en", 10),
        ("", None, 0),
        ("none", "en", 0),
    ],
)
def test_fixed_mode_reads_the_number_as_it_is_meant(text, language, number):
    assert extract_number(text, "fixed", language) == number


def test_unknown_modes_and_languages_are_refused():
    with pytest.raises(ValueError, match="'paper' or 'fixed'"):
        extract_number("1", "fancy")
    with pytest.raises(ValueError, match="unknown language code 'xx'"):
        extract_number("1", "fixed", "xx")


@pytest.mark.parametrize(
    "loop", ["1.", "1,", "1 234 ", "1,000,", "-", "{,}1", "0.1.1,", "4万", "3/4 ", "answer is ", "####"]
)
def test_a_looping_response_is_read_in_a_moment(loop):
    started = time.process_time()
    for language in (None, "de", "en", "bn"):
        extract_number(loop * 5000, "fixed", language)
    extract_number(loop * 5000)
    assert time.process_time() - started < 1


# -------------------------------------------------------------------------------- scores


def test_both_scorers_are_always_computed_and_the_rows_they_differ_in_are_listed(run):
    answers = scored(run)
    by_language = answers.drop_duplicates("language").set_index("language")
    assert by_language.loc["de", ["answer_paper", "answer_fixed"]].tolist() == [35, 3.5]
    assert by_language["correct_paper"].to_dict() == {"bn": True, "de": False, "en": True}
    assert by_language["correct_fixed"].all()
    assert by_language["response_language"].to_dict() == {"bn": "bn", "de": "de", "en": "en"}
    assert scorer.differences(answers)["language"].tolist() == ["de", "de"]


def test_the_language_of_the_response_decides_how_its_numbers_are_read(run):
    write_json_lines(
        run / "predictions" / "mgsm" / "de.jsonl",
        [{"index": i, "question": f"de question {i}?", "response": r, "finish_reason": "stop"}
         for i, r in enumerate(["He has 1.250 dollars left", "Das sind 1.250 Dollar"])],
    )  # fmt: skip
    answers = scored(run)
    assert answers.loc[answers["language"] == "de", "answer_fixed"].tolist() == [1.25, 1250]


def test_accuracy_has_exactly_the_agreed_columns(run):
    table = scorer.accuracy(scored(run))
    assert list(table) == ["system", "seed", "benchmark", "language", "scorer", "correct", "total", "accuracy"]
    assert table["language"].tolist() == ["bn", "bn", "de", "de", "en", "en"]
    paper = table[table["scorer"] == "paper"].set_index("language")
    assert paper["accuracy"].to_dict() == {"bn": 100.0, "de": 0.0, "en": 100.0}
    assert paper["total"].tolist() == [2, 2, 2]


def test_empty_responses_and_responses_without_a_number_are_counted_not_right(run):
    rows = [{"index": 0, "question": "en question 0?", "response": " ", "finish_reason": "length"},
            {"index": 1, "question": "en question 1?", "response": "twelve", "finish_reason": "stop"}]  # fmt: skip
    write_json_lines(run / "predictions" / "mgsm" / "en.jsonl", rows)
    english = scored(run).query("language == 'en'")
    assert english["empty"].tolist() == [True, False]
    assert english["has_number"].tolist() == [False, False]
    assert not english["correct_paper"].any()
    assert english["finish_reason"].tolist() == ["length", "stop"]


def test_12_500_predictions_are_scored_by_both_in_seconds():
    rng = random.Random(1)
    words = "so he has left with then we add the total of all apples = + × 12 3.5 1,250 48 7 day week each"
    responses = [" ".join(rng.choices(words.split(" "), k=70)) + f"\nThe answer is: {i % 97}" for i in range(2500)]
    keys = [(code, index) for code in CODES for index in range(250)]
    gold = pd.DataFrame(keys, columns=["language", "index"]).assign(benchmark="mgsm", question="q", gold="5")
    one = gold.drop(columns="gold").assign(response=responses, finish_reason="stop", file="f")
    started = time.process_time()
    for seed in range(5):  # of 50 systems and seeds
        assert len(scorer.score(one, gold, system="A", seed=seed)) == 2500
    assert time.process_time() - started < 8  # seconds of one core; about 2 on an idle machine


def test_a_scorer_is_one_more_entry(run, monkeypatch):
    monkeypatch.setitem(scorer.SCORERS, "length", lambda text, code: float(len(text)))
    answers = scored(run)
    assert (answers["answer_length"] > 0).all()
    assert set(scorer.accuracy(answers)["scorer"]) == {"paper", "fixed", "length"}


def test_a_scorer_that_finds_nothing_is_wrong_and_not_right_about_a_gold_answer_that_it_cannot_read(monkeypatch):
    def declared(text: str, code: str | None) -> float:
        return scorer.paper_number(text.rpartition("The answer is")[2]) if "The answer is" in text else 0.0

    monkeypatch.setitem(scorer.SCORERS, "declared", declared)
    asked = pd.DataFrame({"benchmark": "mgsm", "language": "en", "index": [0, 1], "question": "q"})
    said = asked.assign(response=["9+9. The answer is: 18", "9+9 is 18"], finish_reason="stop", file="f")
    answers = scorer.score(said, asked.assign(gold="18"), system="A", seed=1)
    assert answers["correct_declared"].tolist() == [True, False]
    assert answers["correct_paper"].tolist() == [True, True]


# -------------------------------------------------------------------------------- bad input


def test_missing_and_extra_predictions_are_refused(run):
    path = run / "predictions" / "mgsm" / "de.jsonl"
    rows = read_json_lines(path)
    for given, said in (
        (rows[:1], r"de\.jsonl: .*2 questions; predictions missing: 1 \(index 1\), too many: none"),
        ([*rows, {**rows[0], "index": 7}], r"de\.jsonl: .*too many: 1 \(index 7\)"),
        ([*rows, rows[0]], r"de\.jsonl: index 0 occurs more than once"),
    ):
        write_json_lines(path, given)
        with pytest.raises(ValueError, match=said):
            scored(run)
    path.unlink()
    with pytest.raises(FileNotFoundError, match=r"missing: .*mgsm/de\.jsonl"):
        scored(run)


def test_predictions_of_another_run_are_refused(run):
    path = run / "predictions" / "mgsm" / "de.jsonl"
    rows = read_json_lines(path)
    rows[1]["question"] = "another question?"
    write_json_lines(path, rows)
    with pytest.raises(ValueError, match=r"de\.jsonl: the question of row 1 is not the benchmark's .*another run"):
        scored(run)


def test_broken_prediction_files_are_named_with_their_line(run):
    path = run / "predictions" / "mgsm" / "de.jsonl"
    path.write_text(path.read_text(encoding="utf-8")[:-20], encoding="utf-8")
    with pytest.raises(ValueError, match=r"de\.jsonl: line 2: not JSON"):
        scored(run)
    write_json_lines(path, [{"index": 0, "question": "q", "output": "1"}])
    with pytest.raises(ValueError, match=r"row 1: no field 'response'; the line has index, output, question"):
        scored(run)
    with pytest.raises(FileNotFoundError, match=r"mgsm/th\.jsonl"):
        read_predictions(run / "predictions", ["mgsm"], ["th"])


# -------------------------------------------------------------------------------- other tools' logs

LM_EVAL = {"doc": {"question": "2 + 3?"}, "resps": [["It is 5"]]}  # a row of lm-evaluation-harness's sample logs
OURS = {"index": "doc_id", "question": "doc.question", "response": "resps.0.0", "finish_reason": None}


def read_log(folder, rows, **how):
    write_json_lines(folder / "samples_mgsm_en_2026-01-31.jsonl", rows)
    files = "samples_{benchmark}_{language}_*.jsonl"
    return read_predictions(folder, ["mgsm"], ["en"], **{"fields": OURS, "files": files} | how)


def test_sample_logs_are_read_by_one_filter(tmp_path):
    rows = [{**LM_EVAL, "doc_id": i, "filter": name} for i in range(2) for name in ("strict", "flexible")]
    found = read_log(tmp_path, rows, only="flexible")
    assert found[["index", "question", "response"]].to_numpy().tolist() == [
        [0, "2 + 3?", "It is 5"],
        [1, "2 + 3?", "It is 5"],
    ]
    for only in (None, "loose"):
        with pytest.raises(ValueError, match=r"rows of the filters strict, flexible: choose one, `filter: <name>`"):
            read_log(tmp_path, rows, only=only)
    assert len(read_log(tmp_path, [*rows, {**LM_EVAL, "doc_id": 2}], only="strict")) == 2
    with pytest.raises(ValueError, match=r"row 1: no field 'resps\.1\.0'; the line has doc, doc_id, filter, resps"):
        read_log(tmp_path, rows, only="strict", fields={**OURS, "response": "resps.1.0"})
    (tmp_path / "samples_mgsm_en_2026-02-01.jsonl").touch()
    with pytest.raises(ValueError, match=r"samples_mgsm_en_\*\.jsonl finds 2 files: samples_mgsm_en_2026-01-31"):
        read_log(tmp_path, rows, only="strict")


@pytest.mark.parametrize("form", ["list", "rows"])
def test_of_several_samples_the_first_or_the_majority_counts(tmp_path, form):
    said = ["It is 4", "no idea", "5 of them", "I say 5.0"]
    fields = {"question": None, "finish_reason": None}
    rows = [{"index": 0, "response": said}] if form == "list" else [{"index": 0, "response": text} for text in said]
    for samples, chosen in (("first", "It is 4"), ("majority", "5 of them")):
        assert read_log(tmp_path, rows, fields=fields, samples=samples).response.tolist() == [chosen]
    with pytest.raises(ValueError, match="index 0 occurs more than once; .* `samples: first` or `samples: majority`"):
        read_log(tmp_path, rows, fields=fields)


def test_a_null_response_is_empty_and_any_json_is_read(tmp_path):
    rows = [{"output": None}, {"output": "5"}, {"output": []}]
    fields = {"index": None, "question": None, "response": "output", "finish_reason": None}
    for text in (json.dumps(rows, indent=1), "".join(json.dumps(row) + "\n" for row in rows)):
        (tmp_path / "test_English.json").write_text(text)
        found = read_predictions(tmp_path, ["mgsm"], ["en"], fields=fields, files="test_{name}.json")
        assert found.response.tolist() == ["", "5", ""]


def test_files_that_count_from_1_and_whole_files_fit_a_part_of_the_questions(tmp_path):
    fields = {"question": None, "finish_reason": None}
    found = read_log(tmp_path, [{"index": i, "response": str(i)} for i in range(1, 5)], fields=fields)
    gold = pd.DataFrame({"benchmark": "mgsm", "language": "en", "index": [0, 1, 3]})
    with pytest.warns(UserWarning, match=r"01-31\.jsonl: its index counts from 1; it is taken to begin at 0"):
        kept = scorer.fitted(found, gold, {"mgsm"})
    assert dict(zip(kept["index"], kept["response"], strict=True)) == {0: "1", 1: "2", 3: "4"}
    with pytest.warns(UserWarning, match="counts from 1"):
        assert len(scorer.fitted(found, gold, set())) == 4  # which the scorer refuses: the profile asks all
    with pytest.warns(UserWarning, match="counts from 1"):
        kept = scorer.fitted(found, gold[gold["index"] > 0], {"mgsm"})  # the first question is dropped
    assert dict(zip(kept["index"], kept["response"], strict=True)) == {1: "2", 3: "4"}


def test_parquet_rows_keep_their_order_whatever_their_ids(tmp_path):
    fields = {"index": None, "question": None, "finish_reason": None}
    pd.DataFrame({"id": ["10", "9", None], "response": ["1", "2", "3"]}).to_parquet(tmp_path / "en.parquet")
    found = read_predictions(tmp_path, ["mgsm"], ["en"], fields=fields, files="{language}.parquet")
    assert found.response.tolist() == ["1", "2", "3"]


# -------------------------------------------------------------------------------- language of a response


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("Tom hat 3 Äpfel und kauft 4 dazu.", "de"),
        ("Tom has 3 apples and he buys 4 more.", "en"),
        ("Tom a 3 pommes et il en achète 4.", "fr"),
        ("Tom tiene 3 manzanas y compra 4 más.", "es"),
        ("Tom ana matufaha 3 na ananunua 4 zaidi.", "sw"),
        ("У Тома 3 яблока.", "ru"),
        ("トムはりんごを3個持っています。", "ja"),
        ("汤姆有3个苹果。", "zh"),
        ("ทอมมีแอปเปิล 3 ลูก", "th"),
        ("টমের 3টি আপেল আছে।", "bn"),
        ("3 + 4 = 7", "und"),
        ("", "und"),
    ],
)
def test_response_language(text, code):
    assert response_language(text) == code


def test_the_expected_language_is_no_evidence():
    assert response_language("The answer is 7", "th") == "en"
    assert response_language("7", "th") == "und"


def test_response_language_on_real_questions_and_solutions(data_dir):
    right = total = 0
    for code in CODES:
        lines = (data_dir / "mgsm" / f"mgsm_{code}.tsv").read_text(encoding="utf-8").splitlines()
        found = [response_language(line.rsplit("\t", 1)[0]) for line in lines if line]
        right, total = right + found.count(code), total + len(found)
    assert total == 2500
    assert right == 2500
    solutions = [json.loads(line)["answer"] for line in (data_dir / "gsm8k" / "train.jsonl").open(encoding="utf-8")]
    assert [response_language(text) for text in solutions].count("en") / len(solutions) >= 0.99
