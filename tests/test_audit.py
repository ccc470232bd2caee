"""The data audit, and tables that set the real thing beside the miniature: bases, solutions, recipe."""

from __future__ import annotations

import json
import random
from dataclasses import replace

import pytest
from datasets import Dataset

from qalign_core.audit import (
    checked,
    counted,
    lost,
    near_duplicate_groups,
    overlap,
    split,
    token_lengths,
    tokens,
    translation_defects,
)
from qalign_core.benchmarks import load_benchmark
from qalign_core.corpora import COLUMNS, build_corpus
from qalign_core.languages import CODES, LANGUAGES
from qalign_core.prompts import translation_instruction

# "Translated" rows that equal the English, as counted in the authors' files.
UNTRANSLATED = {"fr": 377, "es": 64, "de": 53, "zh": 29, "sw": 11, "ja": 0, "bn": 0, "ru": 0, "th": 0}


def corpus(*rows):
    """Examples from (instruction, output, source language, target language)."""
    return Dataset.from_dict(
        dict(zip(COLUMNS, zip(*((str(i), *row) for i, row in enumerate(rows)), strict=True), strict=True))
    )


def benchmark(*rows):
    return Dataset.from_dict({"question": [q for q, _ in rows], "answer": [a for _, a in rows]})


def table(corpora, benchmarks, **options):
    return counted(checked(corpora, benchmarks, **options))


def counts(table, data_set, language):
    found = table[(table.data_set == data_set) & (table.language == language) & (table["count"] > 0)]
    return dict(zip(found.check, found["count"], strict=True))


# ------------------------------------------------------------------------------------------------- real data


@pytest.fixture(scope="module")
def pairs(data_dir):
    present = [code for code in UNTRANSLATED if (data_dir / "gsm8kinstruct_question" / f"{code}-en").is_dir()]
    return split(build_corpus("questions-x-en", data_dir, present).dataset)[0]


def test_untranslated_rows_of_the_real_pairs(pairs):
    found = {code: sum(f.strip() == e.strip() for f, e in zip(*sides, strict=True)) for code, sides in pairs.items()}
    assert found == {code: UNTRANSLATED[code] for code in pairs}
    defects = translation_defects(*pairs["sw"])
    assert len(defects["untranslated"]) == UNTRANSLATED["sw"]
    assert len(defects["repeats itself"]) == 1
    assert 0 < len(defects["loses a number"]) < 40


def test_real_mgsm_questions_are_250_groups_and_not_in_gsm8k(data_dir):
    questions = load_benchmark("mgsm", "en", data_dir)["question"][:]
    assert len(set(near_duplicate_groups(questions))) == 250
    training = build_corpus("gsm8k", data_dir).dataset["instruction"][:]
    assert overlap(questions, training).empty


def test_real_msvamp_falls_into_few_groups_with_the_same_golds(data_dir):
    by_language = {code: load_benchmark("msvamp", code, data_dir) for code in CODES}
    groups = near_duplicate_groups(by_language["en"]["question"][:])
    assert len(set(groups)) <= len(groups) / 2
    found = table({}, {"msvamp": by_language})
    differing = found[found.check == "gold answer differs from English"]
    assert len(differing) == 9
    assert differing["count"].sum() == 0


# ------------------------------------------------------------------------------------------------- numbers


@pytest.mark.parametrize(
    ("english", "translation", "code"),
    [
        ("$1,200 and 0.5", "1.200 $ et 0,5", "fr"),
        ("$1,200 and 0.5", "1,200 $ et 0.5", "fr"),  # English marks kept
        ("1,234,567.5", "1.234.567,5", "de"),
        ("10,000", "10 000", "ru"),
        ("$.25 an ounce", "0,25 $", "es"),
        ("16 eggs", "১৬টি ডিম", "bn"),
        ("16 eggs", "ไข่ ๑๖ ฟอง", "th"),
        ("2 million", "2ล้านบาท", "th"),
        ("16 eggs", "卵16個", "ja"),
        ("16 eggs", "１６個", "ja"),
        ("$32 million", "3200万ドル", "ja"),
        ("$120 million", "1億2000万ドル", "ja"),
        ("2 million", "2000000", "sw"),
        ("50K", "50000", "sw"),
        ("3 of 1,2,3", "3 von 1, 2, 3", "de"),
        ("18.00", "18", "zh"),
        ("20 - 5", "20 -5", "sw"),
    ],
)
def test_numbers_survive_other_ways_of_writing_them(english, translation, code):
    assert lost(english, translation, code) == []


def test_lost_numbers_are_found():
    assert lost("30 and 4 and 30 and 2.5", "nichts", "de") == [30, 4, 2.5]
    assert lost("a $40k deposit on $280k", "28万ドルに40万ドル", "ja") == [40]


def test_translation_defects():
    english = ["He has 30 cats", "He has 30 cats", "He has 3 cats and 40 dogs", "Two", "He has 30", "so 5"]
    foreign = [
        "He has 30 cats ",
        "Er hat dreißig",
        "Er hat drei und 40",
        "zwei",
        "hat 30 er er er er er",
        "na na na na 5",
    ]
    assert translation_defects(foreign, english) == {
        "untranslated": [0],
        "loses a number": [1],
        "loses a small number (may be a word)": [2],
        "has no number left": [1],
        "repeats itself": [],
    }
    assert translation_defects(["alisema kwamba " * 3], ["he said"])["repeats itself"] == [0]
    with pytest.raises(ValueError, match="argument 2 is longer"):
        translation_defects(["one"], ["one", "two"])


# ------------------------------------------------------------------------------------------------- near-duplicates


def test_tokens_of_every_script():
    assert tokens("Bob's 3 cats, 1,000!") == ["bob", "s", "0", "cats", "0", "0"]
    assert tokens("ৰ ১৬টি ডিম।") == ["ৰ", "0", "ডিম"]
    assert tokens("猫3只。") == ["猫", "0", "只"]
    assert tokens("แมว") == ["แ", "ม", "ว"]
    assert tokens("Straße 5", numbers=True) == ["strasse", "5"]


def test_groups_ignore_numbers_and_are_numbered_by_appearance():
    questions = [
        "julia played tag with 18 kids on monday . how many did she play with ?",
        "a train travels 270 miles in 3 hours",
        "julia played tag with 9 kids on tuesday . how many did she play with ?",
        "a train travels 5 miles in 12 hours",
        "nothing alike",
    ]
    assert near_duplicate_groups(questions) == [0, 1, 0, 1, 2]
    assert near_duplicate_groups(questions, threshold=1.0) == [0, 1, 2, 1, 3]
    assert near_duplicate_groups([]) == []
    assert near_duplicate_groups(["", "", "x"]) == [0, 0, 1]


def test_groups_are_chains_across_blocks():
    rng = random.Random(0)
    words = [" ".join(f"w{rng.randrange(5000)}" for _ in range(12)) for _ in range(700)]
    groups = near_duplicate_groups([*words, *reversed(words)])
    assert groups[700:] == groups[:700][::-1]
    assert len(set(groups)) == 700


def test_overlap_tells_exact_from_near():
    tests = ["Tom has 3 red apples and eats one of them.", "Anna drives to the sea with her dog.", "Not there at all."]
    training = [
        "tom has 4 red apples and eats one of them",
        "Tom has 3 red apples, and eats one of them!",
        "Anna drives to the sea with her old dog.",
    ]
    found = overlap(tests, training, threshold=0.5)
    assert found.drop(columns="similarity").to_dict("records") == [
        {"test": 0, "training": 1, "kind": "exact"},
        {"test": 1, "training": 2, "kind": "near"},
    ]
    assert overlap(tests, training[:1]).kind.to_list() == ["other numbers"]
    assert overlap(tests, []).empty


# ------------------------------------------------------------------------------------------------- the whole table


def test_audit_counts_by_language_with_an_example():
    english = ["A farm has 30 cows in the barn today", "A farm has 30 cows in the barn today"]
    french = ["Une ferme a vaches dans la grange", "A farm has 30 cows in the barn today"]
    rows = [(translation_instruction(f, "fr"), e, "fr", "en") for f, e in zip(french, english, strict=True)]
    problems = corpus(("A farm has 30 cows in the barn today", "30", "en", "en"), ("What?", " ", "en", "en"))
    tests = {
        "en": benchmark((english[0], "1000"), ("A farm has 31 cows in the barn today", "31")),
        "fr": benchmark((english[0], "1000.0"), ("Une ferme a 31 vaches", "32")),
    }
    found = table({"questions-x-en": corpus(*rows), "gsm8k": problems}, {"mgsm": tests})
    assert counts(found, "questions-x-en", "fr") == {"untranslated": 1, "loses a number": 1, "has no number left": 1}
    assert counts(found, "gsm8k", "en") == {"blank side": 1}
    assert counts(found, "mgsm", "fr") == {"untranslated": 1, "gold answer differs from English": 1}
    assert counts(found, "mgsm", "en") == {"nearly repeats an earlier row": 1}
    assert counts(found, "mgsm in gsm8k", "en") == {"in training data: exact": 1, "in training data: other numbers": 1}
    assert counts(found, "mgsm in questions-x-en", "fr") == {"in training data: exact": 1}
    lost_number = found[(found.check == "loses a number") & (found.data_set == "questions-x-en")].iloc[0]
    assert lost_number.total == 2
    assert lost_number.example == f"{french[0]} ⟶ {english[0]}"


def test_only_what_asks_for_a_translation_is_one(monkeypatch):
    monkeypatch.setitem(LANGUAGES, "acf", replace(LANGUAGES["fr"], code="acf", reference_name="St. Lucian. Creole"))
    mixed = corpus(
        ("Mbuzi 3 wako wapi", "They are 3", "sw", "en"),  # a question of one's own, answered in English
        (translation_instruction("3 chat. Wi", "acf"), "3 cats. Yes", "acf", "en"),
        (translation_instruction("3 cats", "en", "sw", names="plain"), "Paka 3", "en", "sw"),
    )
    assert split(mixed)[0] == {"acf": (["3 chat. Wi"], ["3 cats. Yes"]), "sw": (["Paka 3"], ["3 cats"])}
    found = table({"own": mixed}, {"mgsm": {"sw": benchmark(("Mbuzi 3 wako wapi", "3"))}})
    assert found[found.check == "blank side"].total.tolist() == [1, 1]  # of the corpus, of the benchmark
    assert counts(found, "mgsm in own", "sw") == {"in training data: exact": 1}


def test_audit_refuses_benchmarks_that_are_not_parallel():
    with pytest.raises(ValueError, match="mgsm: 1 questions in 'fr' but 2 in English"):
        table({}, {"mgsm": {"en": benchmark(("a", "1"), ("b", "2")), "fr": benchmark(("a", "1"))}})


# ------------------------------------------------------------------------------------------------- tokens


@pytest.fixture(scope="module")
def tokenizer(reference_dir):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(reference_dir / "golden" / "tokenizer")


@pytest.fixture(scope="module")
def golden(reference_dir):
    with (reference_dir / "golden" / "encode.jsonl").open(encoding="utf-8") as stream:
        return [json.loads(line) for line in stream]


def test_token_lengths_are_the_authors_before_cutting(tokenizer, golden):
    rows = [(row["instruction"], row["output"], "en", "en") for row in golden]
    lengths = token_lengths(corpus(*rows), tokenizer)
    assert [min(n, 512) for n in lengths.tokens] == [len(row["input_ids"]) for row in golden]
    masked = [sum(label == -100 for label in row["labels"]) for row in golden]
    assert [min(n, 512) for n in lengths.prompt_tokens] == masked


def test_rows_over_the_limit_are_counted(tokenizer):
    rows = corpus(("word " * 600, "short", "en", "en"), ("short", "word " * 600, "en", "en"), ("a", "b", "en", "en"))
    found = table({"gsm8k": rows}, {}, tokenizer=tokenizer)
    assert counts(found, "gsm8k", "en") == {"longer than 512 tokens": 2, "prompt of 512 tokens or more": 1}
