"""The miniature's problems: right answers, minimal pairs, no leakage, and numbers that say little by themselves."""

from __future__ import annotations

import json
import re
from itertools import islice

import pytest

from qalign_core import miniature
from qalign_core.languages import CODES
from qalign_core.miniature.floor import expressions, numbers_of
from qalign_core.miniature.folder import benchmark_problems, training_problems
from qalign_core.miniature.language import STYLES, language_data, question, solution
from qalign_core.miniature.text import LANGUAGE_SHARES
from qalign_core.miniature.world import HELD_OUT_ITEMS, LARGEST, SCHEMAS, World, solvable, split_of


def evaluate(tree, numbers):
    """The value of a problem's tree, computed without the code under test."""
    if isinstance(tree, int):
        return numbers[tree]
    operator, left, right = tree
    a, b = evaluate(left, numbers), evaluate(right, numbers)
    return {"+": a + b, "-": a - b, "*": a * b, "/": a / b}[operator]


@pytest.fixture(scope="module")
def training():
    return training_problems(1, "metamathqa", 3000)


@pytest.fixture(scope="module")
def tests():
    return benchmark_problems("mgsm", 250) + benchmark_problems("msvamp", 1000)


def test_answers_are_those_of_the_tree_and_small(training, tests):
    for problem in training + tests:
        assert evaluate(problem.tree, problem.numbers) == problem.answer
        assert all(1 <= c.result <= LARGEST for c in problem.calculations)


@pytest.mark.parametrize("style", STYLES)
def test_every_equation_holds_and_the_answer_comes_last(tests, style):
    for index, problem in enumerate(tests):
        worked = solution(problem, "en" if style == "restating" else CODES[index % 10], style)
        equations = re.findall(r"(\d+)([-+*/])(\d+)=(\d+)", worked)
        assert len(equations) == sum(bool(c.operator) for c in problem.calculations)
        for left, operator, right, result in equations:
            assert evaluate((operator, 0, 1), (int(left), int(right))) == int(result)
        assert int(re.findall(r"[0-9]+", worked)[-1]) == problem.answer


def test_stories_are_possible():
    spend = next(s for s in SCHEMAS if s.line.startswith("price | money a; price b; buys c | q_pay"))
    assert all(spend not in schemas for schemas in solvable((20, 7, 5), False).values())
    assert any(spend in schemas for schemas in solvable((40, 7, 5), False).values())


def test_every_schema_occurs(training, tests):
    assert {p.schema.line for p in training + tests} == {schema.line for schema in SCHEMAS}


def test_problems_take_one_to_four_steps(training):
    steps = [sum(bool(c.operator) for c in p.calculations) for p in training]
    assert set(steps) == {1, 2, 3, 4}
    assert steps.count(1) < 0.4 * len(steps)


def test_singulars_occur(training):
    assert {1, 21, 31} <= {number for problem in training for number in problem.numbers}


def test_a_third_of_the_questions_is_in_minimal_pairs(training):
    members = 0
    for one, other in zip(training, training[1:], strict=False):
        if (one.numbers, one.people, one.item, one.spelled) != (other.numbers, other.people, other.item, other.spelled):
            continue
        if one.answer != other.answer and len(one.keys) == len(other.keys):
            parts = [(a[0], a[1].swapped) for a in one.parts], [(b[0], b[1].swapped) for b in other.parts]
            if sum(a != b for a, b in zip(*parts, strict=True)) == 1:
                members += 2
    assert 0.25 < members / len(training) < 0.4


def test_some_questions_hold_a_number_that_is_not_needed(training):
    assert 0.1 < sum(p.schema.distracts for p in training) / len(training) < 0.3


def test_no_test_question_shares_its_numbers_with_other_text(tests):
    development = benchmark_problems("mgsm", 100, development=True) + benchmark_problems(
        "msvamp", 100, development=True
    )
    seen = {p.numbers for p in development}
    for seed in (1, 2):
        for name, count in (("metamathqa", 1500), ("gsm8k", 300), ("gsm8kinstruct", 300), ("questions/sw", 300)):
            seen |= {p.numbers for p in training_problems(seed, name, count)}
    seen |= {p.numbers for p in World("base/1").distinct(2000)}
    assert not seen & {p.numbers for p in tests}
    assert {split_of(p.numbers) for p in tests} == {"test"}
    assert {split_of(p.numbers) for p in development} == {"development"}


def test_base_text_shares_no_numbers_with_the_tests(tests):
    tested = {p.numbers for p in tests}
    words = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]
    for row in islice(miniature.base_text(3), 3000):
        if row["language"] == "en" and row["kind"] in ("question", "solved"):
            for line in row["text"].split("\n"):
                line = re.sub(rf"\b({'|'.join(words)})\b", lambda word: str(1 + words.index(word[1])), line)
                assert numbers_of(line) not in tested or len(numbers_of(line)) < 2


def test_problems_of_a_set_differ(training, tests):
    assert len({p.signature for p in training}) == len(training)
    assert len({p.signature for p in tests[:250]}) == 250
    assert len({p.signature for p in tests[250:]}) == 1000


def test_out_of_domain_questions_are_out_of_domain(training):
    told = {question(p, "en") for p in training}
    wordings = set()
    for problem in benchmark_problems("msvamp", 1000):
        assert question(problem, "en") not in told
        wordings |= {wording for _, _, wording in problem.parts}
        assert problem.item in HELD_OUT_ITEMS
    assert wordings == {2}
    assert "travel" not in {p.family for p in training}


def test_base_text_never_solves_or_aligns_a_foreign_question():
    rows = list(islice(miniature.base_text(1), 2500))
    endings = "|".join(solution_ending(code) for code in CODES)
    for row in rows:
        if row["kind"] in ("solved", "arithmetic"):
            assert row["language"] == "en"
            continue
        assert "=" not in row["text"], row
        if row["kind"] == "bitext":  # sentences of different problems, each with its translation
            lines = row["text"].split("\n")
            assert len(lines) % 2 == 0, row
            assert len(lines) <= 8, row
        if row["kind"] == "mixed":  # every sentence once, in one of the two languages
            assert len(set(row["language"].split("-"))) == 2, row
        if row["kind"] == "question":
            assert row["language"] in CODES
        if row["language"] != "en":
            assert not re.search(endings, row["text"]), row
    english = sum(len(row["text"]) for row in rows if row["language"] == "en") / sum(len(r["text"]) for r in rows)
    assert 0.5 < english < 0.75
    alone = {row["language"] for row in rows if row["kind"] not in ("bitext", "mixed")}
    assert alone == set(LANGUAGE_SHARES)
    assert {f"{code}-en" for code in CODES if code != "en"} <= {row["language"] for row in rows}


def test_bitext_never_holds_a_whole_problem():
    aligned = [row["text"].split("\n")[::2] for row in islice(miniature.base_text(2), 4000) if row["kind"] == "bitext"]
    asking = [sum(line.rstrip().endswith(("?", "？", "؟")) for line in lines) for lines in aligned]
    assert sum(asking) > 50  # single questions are translated, too: never behind the facts they are about
    for lines in aligned:
        numbers = [numbers_of(line) for line in lines]
        assert all(len(found) <= 1 for found in numbers), lines


def solution_ending(code: str) -> str:
    """What every solution of a language ends with, before the number."""
    return re.escape(language_data(code).solutions["answer"].removesuffix("{x}"))


def test_numbers_alone_do_not_solve_the_benchmarks(training, tests):
    train_rows = [{"question": question(p, "en"), "answer": solution(p, "en")} for p in training]
    for part in (tests[:250], tests[250:]):
        rows = [{"question": question(p, "en"), "answer": str(p.answer)} for p in part]
        assert miniature.language_blind_floor(train_rows, rows) <= 25


def test_the_floor_finds_a_rule_where_there_is_one():
    rows = [{"query": f"{a} and {b}", "response": f"so {a}+{b}={a + b}"} for a in range(1, 30) for b in range(1, 9)]
    asked = [{"question": "40, 13", "answer": "53.0"}, {"question": "৫ 60", "answer": 65}]
    assert miniature.language_blind_floor(rows, asked) == 100
    assert expressions((7, 3))["(n0-n1)"] == 4


def overlap_of(style, problems):
    return miniature.solution_overlap(
        [question(p, "en") for p in problems], [solution(p, "en", style) for p in problems]
    )


def test_styles_repeat_none_some_and_all_of_a_question(training):
    equations, calibrated, restating = (overlap_of(style, training) for style in STYLES)
    assert equations["content_words"] < 0.02
    assert calibrated["content_words"] == pytest.approx(0.48, abs=0.03)
    assert calibrated["numbers"] == pytest.approx(0.95, abs=0.03)
    assert calibrated["length_ratio"] == pytest.approx(1.2, abs=0.06)
    assert restating["content_words"] == pytest.approx(0.89, abs=0.03)
    assert restating["length_ratio"] == pytest.approx(1.67, abs=0.06)


def test_restating_solutions_are_english(training):
    with pytest.raises(ValueError, match="English only, not in 'sw'"):
        solution(training[0], "sw", "restating")
    told = solution(training[0], "en", "restating")
    assert told.startswith("We want to know: ")


def test_restating_solutions_drop_places_and_times_and_nothing_else(training):
    facts = [line for p in training for line in solution(p, "en", "restating").split(". ")]
    assert not any(" in his bag" in fact or fact.startswith(("At home, ", "At the market, ")) for fact in facts)
    assert any(" from a friend" in fact for fact in facts)
    assert any("A friend gives" in fact for fact in facts)


def test_the_calibrated_style_repeats_as_much_as_gsm8k_does(training, data_dir):
    lines = (data_dir / "gsm8k" / "train.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    real = miniature.solution_overlap([row["question"] for row in rows], [row["answer"] for row in rows])
    assert overlap_of("calibrated", training) == pytest.approx(real, abs=0.04)


def test_overlap_counts_words_numbers_and_length():
    found = miniature.solution_overlap(["Tom has 1,200 red apples"], ["Tom: <<5>> 1200 of the apples of him"])
    assert found == {"content_words": 2 / 3, "numbers": 1.0, "length_ratio": 7 / 5}
