"""Equations in running text: the false ones are found, in every script, and right or unreadable ones are left alone."""

from __future__ import annotations

import json
import random
import re
import time
from pathlib import Path

import pytest

from qalign_core.scores.equations import false_equations

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
    "1.000 + 200 = 1.300",
    "3,5 + 1,5 = 6",
    "1 200 + 300 = 1 600",
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
    "1.500 + 500 = 2.000",
    "3,5 + 1,5 = 5",
    "1 200 + 300 = 1 500",
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


@pytest.mark.parametrize("text", FALSE)
def test_a_false_equation_is_found(text: str):
    assert false_equations(text)


@pytest.mark.parametrize("text", NOT_FALSE)
def test_what_holds_or_cannot_be_read_is_left_alone(text: str):
    assert false_equations(text) == []


def test_the_false_one_of_several_is_named():
    assert false_equations("3 + 4 = 7, then 7 * 2 = 15, and 15 - 1 = 14") == ["7 * 2 = 15"]


def test_a_response_that_loops_costs_little():
    begun = time.perf_counter()
    for text in (
        "3 + 4 = " * 2000,
        "= " * 5000,
        "(" * 5000 + "=",
        "12 apples and " * 1000 + "=",
        "1 2 3 4 " * 2000 + "= 5",
    ):
        false_equations(text)
    assert time.perf_counter() - begun < 5


def test_human_solutions_are_rarely_called_false_and_changed_ones_mostly(data_dir: Path):
    """GSM8K's solutions, of which a few really are false; then each with one result made larger."""
    lines = (data_dir / "gsm8k" / "test.jsonl").read_text(encoding="utf-8").splitlines()
    solutions = [re.sub(r"<<.*?>>", "", json.loads(line)["answer"]) for line in lines]
    assert sum(bool(false_equations(text)) for text in solutions) < 0.015 * len(solutions)
    rng, found, changed = random.Random(0), 0, 0
    for text in solutions:
        results = list(re.finditer(r"= ?\$?(\d+)(?![\d.,])", text))
        if results:
            one = rng.choice(results)
            wrong = text[: one.start(1)] + str(int(one[1]) + rng.randint(1, 9)) + text[one.end(1) :]
            found, changed = found + bool(false_equations(wrong)), changed + 1
    assert found > 0.8 * changed
