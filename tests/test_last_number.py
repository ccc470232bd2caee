import json
import time

import pytest

from qalign_core.scores.last_number import extract_number


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


@pytest.mark.parametrize("loop", ["1.", "1,", "1 234 ", "1,000,", "-", "{,}1", "0.1.1,"])
def test_a_looping_response_is_read_in_a_moment(loop):
    started = time.perf_counter()
    for language in (None, "de", "en", "bn"):
        extract_number(loop * 5000, "fixed", language)
    extract_number(loop * 5000)
    assert time.perf_counter() - started < 1
