"""What notebooks show of questions, answers and data: text from models is never markup, menus lead to everything."""

from __future__ import annotations

import html
import re
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from bs4 import BeautifulSoup
from datasets import Dataset
from nbconvert import HTMLExporter
from nbformat.v4 import new_markdown_cell, new_notebook

from qalign_core import audit, runs
from qalign_core.runs import Run
from qalign_core.show import browse

SCRIPT = "<script>alert('x')</script>"
IMAGE = '"><img src=x onerror=alert(1)>'
HARMLESS = {"table", "thead", "tbody", "tr", "th", "td", "div", "span", "p", "strong"}
CODES = ("th", "de", "en")
# Question → system → languages in which it is right.
RIGHT = {
    0: {"QAlign": {"th", "de", "en"}, "MonoReason": {"en"}},
    1: {"QAlign": set(), "MonoReason": {"de", "en"}},
    2: {"QAlign": {"en"}, "MonoReason": {"en"}},
    3: {"QAlign": set(), "MonoReason": set()},
}
PAIRS = [("QAlign", "MonoReason"), ("QAlign", "Theirs")]


def harmless(text: str) -> bool:
    tags = BeautifulSoup(text, "html.parser").find_all(True)
    return all(tag.name in HARMLESS and "onerror" not in tag.attrs for tag in tags)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    found = Run(tmp_path)
    for code in CODES:
        rows = [{"index": i, "question": f"{code} question {i}? {SCRIPT}", "answer": "7"} for i in RIGHT]
        runs.write_json_lines(found.benchmark("mgsm", code), rows)
    return found


@pytest.fixture
def frame(run: Run) -> pd.DataFrame:
    """The answers of two systems to four questions in three languages; every one of them is markup."""
    keys = [(system, code, index) for system in ("MonoReason", "QAlign") for code in CODES for index in RIGHT]
    answers = pd.DataFrame(keys, columns=["system", "language", "index"]).assign(benchmark="mgsm", seed=1, gold=7.0)
    answers["correct_paper"] = [code in RIGHT[index][system] for system, code, index in keys]
    answers["answer_paper"] = answers["answer_fixed"] = 7.0
    answers.loc[(answers["language"] == "de") & (answers["index"] == 2), "answer_fixed"] = 8.0
    kinds = ["cut off" if index == 3 else "other" for _, _, index in keys]
    answers["error"] = pd.Series(kinds).where(~answers["correct_paper"], None)
    answers["response_language"] = "en"
    said = [f"{system} {code} {index} {IMAGE}" for system, code, index in keys]
    given = answers.assign(response=said)
    by_system = {name: rows[["benchmark", "language", "index", "response"]] for name, rows in given.groupby("system")}
    return browse.answers_frame(run, by_system, answers, CODES)


# ------------------------------------------------------------------------------------------------- answers


def test_every_answer_stands_beside_its_question(frame: pd.DataFrame) -> None:
    assert len(frame) == 2 * len(CODES) * len(RIGHT)
    row = frame.query("system == 'QAlign' and language == 'de' and index == 3").iloc[0]
    assert row["question"] == f"de question 3? {SCRIPT}"
    assert row["response"] == f"QAlign de 3 {IMAGE}"
    assert (row["right"], row["error"], row["gold"], row["differ"]) == (False, "cut off", 7.0, False)


def test_a_question_is_shown_in_every_language_with_every_systems_answer_as_text(frame: pd.DataFrame) -> None:
    page = browse.question_view(frame, "mgsm", 0)
    assert harmless(page)
    for code in CODES:
        assert f"{code} question 0?" in page
        assert f"QAlign {code} 0" in page
    assert page.count("✓ ") == 4
    assert page.count("✗ ") == 2
    assert "4 of 6 answers are right" in page
    assert page.count("✗ (cut off)") == 0
    assert browse.question_view(frame, "mgsm", 3).count("✗ (cut off)") == 6
    assert "No such question" in browse.question_view(frame, "mgsm", 9)


def test_questions_are_sorted_by_who_got_them_right(frame: pd.DataFrame) -> None:
    assert browse.patterns(frame, "mgsm", PAIRS) == {
        "QAlign ahead of MonoReason": [0],
        "MonoReason ahead of QAlign": [1],
        "right most often": [0, 1, 2],
        "right in English only": [2],
        "right nowhere": [3],
        "the scorers differ": [2],
    }


def test_menus_lead_to_questions(frame: pd.DataFrame, monkeypatch: pytest.MonkeyPatch) -> None:
    assert browse.questions(frame, PAIRS).data == browse.question_view(frame, "mgsm", 0)  # without a kernel
    monkeypatch.setattr(browse, "is_interactive", lambda: True)
    benchmark, which, question, _ = browse.questions(frame, PAIRS).children
    assert benchmark.value == "mgsm"
    assert which.options[0] == "QAlign ahead of MonoReason"
    assert question.options == (0,)
    which.value = "right nowhere"
    assert question.options == (3,)
    which.value = browse.ALL
    assert question.options == tuple(RIGHT)


# ------------------------------------------------------------------------------------------------- data


@pytest.fixture
def lines() -> list[dict[str, Any]]:
    def line(check: str, data_set: str, language: str, count: int) -> dict[str, Any]:
        rows = [(row, f"{check} in {data_set}, {language}, row {row} {SCRIPT}") for row in range(min(count, 50))]
        return {"check": check, "data_set": data_set, "language": language, "count": count, "total": 99,
                "example": rows[0][1] if rows else "", "rows": rows}  # fmt: skip

    return [
        line("untranslated", "mgsm", "th", 2),
        line("repeats itself", "mgsm", "th", 45),
        line("untranslated", "mgsm", "bn", 60),
        line("blank side", "mgsm", "sw", 0),
    ]


def test_menus_lead_to_suspicious_rows(lines: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    static = browse.suspicious(lines).data
    assert static.count("<tr>") == 3  # the heading and an example a check
    assert harmless(static)
    assert "<td" not in browse.suspicious(lines[-1:]).data
    monkeypatch.setattr(browse, "is_interactive", lambda: True)
    language, check, data_set, _ = browse.suspicious(lines).children
    assert language.options == ("bn", "th")  # in the tables' order, where something was found
    language.value = "th"
    assert check.options == ("untranslated", "repeats itself")
    assert data_set.options == ("mgsm",)


def test_the_audit_keeps_the_first_rows_it_found():
    questions = {
        "en": Dataset.from_dict({"question": [f"{n} apples?" for n in range(100, 180)], "answer": ["1"] * 80}),
        "de": Dataset.from_dict({"question": ["Wie viele?" + " Äpfel" * 300] * 80, "answer": ["1"] * 80}),
    }
    lines = audit.checked({}, {"mine": questions})
    (lost,) = [line for line in lines if line["check"] == "loses a number"]
    assert lost["count"] == 80
    assert [row for row, _ in lost["rows"]] == list(range(audit.ROWS_KEPT))
    assert all(len(text) == audit.ROW_CHARACTERS for _, text in lost["rows"])
    assert lost["example"][:-1] == lost["rows"][0][1][: audit.EXAMPLE_CHARACTERS - 1]


def test_a_script_in_a_plain_table_a_token_or_a_remark_is_shown_as_text() -> None:
    table = browse.text_table(pd.DataFrame({SCRIPT: [SCRIPT], "code": [IMAGE]}), language="code")
    for text in (table, browse.token_view([SCRIPT, IMAGE], [-100, 1])):
        assert harmless(text)
        assert "&lt;script&gt;" in text
    assert "<script" not in browse.remarks_note([SCRIPT]).data


def test_a_remark_is_text_and_neither_image_nor_link_nor_formula() -> None:
    text = "![x](http://evil/p.png) [y](http://evil) http://evil www.evil.org $x$ **b** `c`"
    said = browse.remarks_note([text]).data.partition("- ")[2]
    page = HTMLExporter().from_notebook_node(new_notebook(cells=[new_markdown_cell(said)]))[0].partition("<main")[2]
    page = page.partition(">")[2].partition("</main>")[0]
    assert not re.search(r"<(img|a|strong|em|code)\b", page)
    assert html.unescape(re.sub("<[^>]*>", "", page)).strip() == text
