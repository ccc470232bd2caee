"""The error analysis: questions sorted by who got them right, and views of them that filter without a script."""

from __future__ import annotations

import re

import pandas as pd
import pytest

from qalign_core.scores.answer_sheet import ENGLISH_ONLY, MOST, NOWHERE, SCORERS, Answer, AnswerSheet
from qalign_core.shown import answer_views, browser
from qalign_core.shown.browser import QuestionBrowser

CODES = ("th", "de", "en")
# Question → system → languages in which it is right.
RIGHT = {
    0: {"QAlign": {"th", "de", "en"}, "MonoReason": {"en"}},
    1: {"QAlign": set(), "MonoReason": {"de", "en"}},
    2: {"QAlign": {"en"}, "MonoReason": {"en"}},
    3: {"QAlign": set(), "MonoReason": set()},
}
PAIRS = [("QAlign", "MonoReason")]


@pytest.fixture
def sheet() -> AnswerSheet:
    keys = [("mgsm", code, index) for code in CODES for index in RIGHT]
    answers = {
        system: {
            (name, code, index): Answer(f"{system} {code} {index}", right := code in RIGHT[index][system],
                                        None if right else "cut off" if index == 3 else "other", "en")
            for name, code, index in keys
        }
        for system in ("MonoReason", "QAlign")
    }  # fmt: skip
    questions = {key: f"{key[1]} question {key[2]}?" for key in keys}
    return AnswerSheet(
        ("MonoReason", "QAlign"), CODES, questions, dict.fromkeys(keys, 7.0), answers, frozenset({("mgsm", "de", 2)})
    )


def test_questions_are_sorted_by_who_got_them_right(sheet: AnswerSheet):
    assert sheet.patterns("mgsm", PAIRS) == {
        "QAlign ahead of MonoReason": [0],
        "MonoReason ahead of QAlign": [1],
        MOST: [0, 1, 2],
        ENGLISH_ONLY: [2],
        NOWHERE: [3],
        SCORERS: [2],
    }
    assert "QAlign ahead of MonoReason" not in sheet.patterns("mgsm", [("QAlign", "Theirs")])
    assert sheet.kinds("mgsm", 3) == {"cut off"}
    assert sheet.kinds("mgsm", 0) == {"other"}


def test_every_filter_has_a_rule_that_hides_what_it_does_not_ask_for(sheet: AnswerSheet):
    page = answer_views.questions_view(sheet, PAIRS, name="here")
    buttons = re.findall(r'<input type="radio" name="here-(\w+)" value="([^"]*)"', page)
    assert {group for group, _ in buttons} == {"questions", "language", "answers"}
    for group, value in buttons:
        rule = f'#here:has(input[name="here-{group}"][value="{value}"]:checked)'
        assert (rule in page) == bool(value)
    assert page.count(" checked>") == 3  # everything is shown at first
    details = re.findall(r'<details data-patterns="([^"]*)"', page)
    assert len(details) == len(set(details)) == 4
    assert page.count('data-language="th"') == 4 + 1  # a section a question, and the rule


def test_a_question_stands_in_every_language_beside_every_answer(sheet: AnswerSheet):
    block = answer_views.question_block(sheet, "mgsm", 0)
    for code in CODES:
        assert f"{code} question 0?" in block
        assert f"QAlign {code} 0" in block
    assert block.count('class="card right"') == 4
    assert block.count('class="card wrong"') == 2
    assert block.count("✓") == 8  # the grid and the cards


def test_the_browser_finds_questions_by_pattern_and_kind_of_error(sheet: AnswerSheet):
    found = QuestionBrowser(sheet, PAIRS)
    assert found.matching("mgsm") == [0, 1, 2, 3]
    assert found.matching("mgsm", "QAlign ahead of MonoReason") == [0]
    assert found.matching("mgsm", kind="cut off") == [3]
    assert found.matching("mgsm", "no such pattern") == []


def test_its_menus_lead_to_questions(sheet: AnswerSheet):
    menus, shown = QuestionBrowser(sheet, PAIRS).controls().children
    _, pattern, kind, question = menus.children
    assert "en question 0?" in shown.value
    pattern.value = NOWHERE
    assert [index for _, index in question.options] == [3]
    assert "en question 3?" in shown.value
    kind.value = "number missing"
    assert question.options == ()
    assert shown.value.endswith("No such question.</div>")
    pattern.value, kind.value = browser.EVERY, browser.ANY_ANSWER
    question.value = 1
    assert "th question 1?" in shown.value


def test_its_static_view_is_that_of_a_few_questions(sheet: AnswerSheet):
    assert QuestionBrowser(sheet, PAIRS).static() == answer_views.questions_view(sheet, PAIRS)


def test_disagreements_show_what_was_read_and_where():
    row = {"system": "A", "seed": 1, "benchmark": "mgsm", "language": "de", "index": 3, "gold": 3.5}
    row |= {"answer_paper": 35.0, "answer_fixed": 3.5, "correct_paper": False, "correct_fixed": True}
    harmless = row | {"language": "ru", "answer_fixed": 0.35, "correct_fixed": False}
    rows = pd.DataFrame([harmless, row, row | {"seed": 2}])
    text = "Erst rechnet sie lange, und dann ist die Antwort 3,5"
    given = pd.DataFrame([{"benchmark": "mgsm", "language": "de", "index": 3, "response": text}])
    table = answer_views.disagreements(rows, {"A": given}, seed=1)
    assert table.text["language"].tolist() == ["de", "ru"]  # what changes the score comes first
    assert table.text["the response ends"].tolist() == ["…" + text[-28:], ""]
    assert "3 answers of all systems and seeds, 2 of them right for one scorer" in table.caption
    assert len(answer_views.disagreements(rows, limit=1).text) == 1
    assert "same number from every answer" in answer_views.disagreements(rows.head(0)).data
