"""What notebooks show of questions and responses: text from models and data never becomes markup."""

from __future__ import annotations

import dataclasses
import html
import re
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
import pytest
from nbconvert import HTMLExporter
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from qalign_core import runs
from qalign_core.runs import Run
from qalign_core.scores.answer_sheet import AnswerSheet, answer_sheet
from qalign_core.scores.predictions import read_predictions
from qalign_core.scores.response_kinds import KINDS, RATES
from qalign_core.shown import answer_views, pages, response_tables, views

SCRIPT = "<script>alert('x')</script>"
IMAGE = '"><img src=x onerror=alert(1)>'
HARMLESS = {"table", "thead", "tbody", "tr", "th", "td"}


class Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}


def markup(text: str) -> Tags:
    parser = Tags()
    parser.feed(text)
    return parser


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """A run whose question and response are markup."""
    found = Run(tmp_path)
    for code in ("bn", "en"):
        runs.write_json_lines(
            found.benchmark("mgsm", code), [{"index": 0, "question": SCRIPT + IMAGE, "answer": IMAGE}]
        )
        row = {"index": 0, "question": SCRIPT + IMAGE, "response": IMAGE + SCRIPT, "finish_reason": "stop"}
        runs.write_json_lines(tmp_path / "made" / "mgsm" / f"{code}.jsonl", [row])
    return found


@pytest.fixture
def sheet(run: Run) -> AnswerSheet:
    """The answers of a system whose name is markup, right in English."""
    answers = pd.DataFrame(
        [(SCRIPT, "mgsm", code, 0, 7.0, 7.0, 7.0, code == "en", None if code == "en" else "other", "und")
         for code in ("bn", "en")],
        columns=["system", "benchmark", "language", "index", "gold", "answer_paper", "answer_fixed", "correct_paper",
                 "error", "response_language"],
    )  # fmt: skip
    return answer_sheet(run, {SCRIPT: read_predictions(run.folder / "made")}, answers, ["bn", "en"])


@pytest.fixture
def shown(sheet: AnswerSheet) -> str:
    return answer_views.questions_view(sheet, [(SCRIPT, SCRIPT)])


def test_a_script_in_a_question_or_response_is_shown_as_text(shown: str):
    found = markup(shown)
    assert {"script", "img"}.isdisjoint(found.tags)
    assert "onerror" not in found.attributes
    # A question and a response in two languages, the system's name in the grid and on two cards, and the summary.
    assert shown.count("&lt;script&gt;") == 8
    assert shown.count("✓") == 2  # in the grid and on its card


def test_a_script_in_a_plain_table_or_sample_is_shown_as_text(run: Run):
    table = views.text_table(pd.DataFrame({SCRIPT: [SCRIPT], "code": [IMAGE]}), language="code")
    for text in (table, views.samples_view(run, "mgsm", ["bn", "en"]), views.token_view([SCRIPT, IMAGE], [-100, 1])):
        found = markup(text)
        assert found.tags <= HARMLESS | {"div", "span"}
        assert "onerror" not in found.attributes
        assert "&lt;script&gt;" in text


def test_a_wrong_answer_of_each_kind_is_shown_as_text(sheet: AnswerSheet):
    text = answer_views.errors_view(sheet)
    assert markup(text).tags == HARMLESS | {"div"}
    assert text.count("<tr>") == 2  # the heading and one kind
    assert text.count("&lt;script&gt;") == 3
    none = dataclasses.replace(sheet, systems=())
    assert "<td" not in answer_views.errors_view(none)


def test_a_script_in_the_name_of_a_system_or_a_remark_is_shown_as_text():
    rates = pd.DataFrame([{"system": SCRIPT, "benchmark": IMAGE, "language": "bn", **dict.fromkeys(RATES, 1.0)}])
    errors = pd.DataFrame([{"system": SCRIPT, "benchmark": IMAGE, "kind": kind, "answers": 1} for kind in KINDS])
    for table in (response_tables.responses_table(rates), response_tables.errors_table(errors)):
        assert "<script" not in table._repr_html_()
        assert "<img" not in table._repr_html_()
    assert "<script" not in views.remarks([SCRIPT]).data


def test_a_remark_or_caption_is_text_and_neither_image_nor_link_nor_formula(run: Run):
    text = "![x](http://evil/p.png) [y](http://evil) http://evil www.evil.org $x$ **b** `c`"
    runs.write_atomic(run.figures / "figure.png", b"")
    runs.write_atomic(run.figures / "figure.txt", text)
    for said in (views.remarks([text]).data.partition("- ")[2], views.picture(run, "figure").data):
        page = HTMLExporter().from_notebook_node(new_notebook(cells=[new_markdown_cell(said)]))[0].partition("<main")[2]
        page = page.partition(">")[2].partition("</main>")[0]
        assert not re.search(r"<(img|a|strong|em|code)\b", page)
        assert html.unescape(re.sub("<[^>]*>", "", page)).strip() == text


def test_a_page_holds_no_script_and_keeps_the_text(shown: str):
    outputs = [
        new_output("display_data", data={"text/html": shown}),
        new_output("display_data", data={"text/html": f"{SCRIPT}<p>raw</p>"}),  # not escaped where it was made
        new_output("stream", name="stdout", text=SCRIPT + IMAGE),
    ]
    page = pages.page(new_notebook(cells=[new_code_cell("answers", outputs=outputs)]))
    assert "<script" not in page
    assert "<p>raw</p>" in page
    assert page.count("&lt;script&gt;alert") == 9
    found = markup(page)
    assert "onerror" not in found.attributes
    assert "default-src 'none'" in page
