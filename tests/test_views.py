"""What notebooks show of questions and responses: text from models and data never becomes markup."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
import pytest
from nbformat.v4 import new_code_cell, new_notebook, new_output

from qalign_core import pages, response_tables, runs, views
from qalign_core.predictions import read_predictions
from qalign_core.response_kinds import KINDS, RATES
from qalign_core.runs import Run

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


@pytest.fixture(params=["folder", "rows"])
def shown(run: Run, request: pytest.FixtureRequest) -> str:
    """`answers_view` of a folder of predictions and of predictions already read."""
    made = run.folder / "made"
    answers = pd.DataFrame(
        [(SCRIPT, "mgsm", code, 0, code == "en") for code in ("bn", "en")],
        columns=["system", "benchmark", "language", "index", "correct_paper"],
    )
    given = made if request.param == "folder" else read_predictions(made)
    return views.answers_view(run, {SCRIPT: given}, answers, "mgsm", ["bn", "en"])


def test_a_script_in_a_question_or_response_is_shown_as_text(shown: str):
    found = markup(shown)
    assert found.tags == HARMLESS
    assert "onerror" not in found.attributes
    assert shown.count("&lt;script&gt;") == 5  # a question and a response in two languages, and the system's name
    assert shown.count("✓") == shown.count("✗") == 1


def test_a_script_in_a_plain_table_or_sample_is_shown_as_text(run: Run):
    table = views.text_table(pd.DataFrame({SCRIPT: [SCRIPT], "code": [IMAGE]}), language="code")
    for text in (table, views.samples_view(run, "mgsm", ["bn", "en"]), views.token_view([SCRIPT, IMAGE], [-100, 1])):
        found = markup(text)
        assert found.tags <= HARMLESS | {"div", "span"}
        assert "onerror" not in found.attributes
        assert "&lt;script&gt;" in text


def test_a_wrong_answer_of_each_kind_is_shown_as_text(run: Run):
    answers = pd.DataFrame(
        [
            (SCRIPT, "mgsm", code, 0, 7.0, kind)
            for code, kind in (("bn", "other"), ("en", "cut off"), ("en", "cut off"))
        ],
        columns=["system", "benchmark", "language", "index", "gold", "error"],
    )
    text = views.errors_view(run, {SCRIPT: run.folder / "made"}, answers)
    assert markup(text).tags == HARMLESS
    assert text.count("<tr>") == 3  # the heading and two kinds
    assert text.count("&lt;script&gt;") == 6
    assert "<td" not in views.errors_view(run, {}, answers.assign(error=None))


def test_a_script_in_the_name_of_a_system_or_a_remark_is_shown_as_text():
    rates = pd.DataFrame([{"system": SCRIPT, "benchmark": IMAGE, "language": "bn", **dict.fromkeys(RATES, 1.0)}])
    errors = pd.DataFrame([{"system": SCRIPT, "benchmark": IMAGE, "kind": kind, "answers": 1} for kind in KINDS])
    for table in (response_tables.responses_table(rates), response_tables.errors_table(errors)):
        assert "<script" not in table._repr_html_()
        assert "<img" not in table._repr_html_()
    assert "<script" not in views.remarks([SCRIPT]).data


def test_a_page_holds_no_script_and_keeps_the_text(shown: str):
    outputs = [
        new_output("display_data", data={"text/html": shown}),
        new_output("display_data", data={"text/html": f"{SCRIPT}<p>raw</p>"}),  # not escaped where it was made
        new_output("stream", name="stdout", text=SCRIPT + IMAGE),
    ]
    page = pages.page(new_notebook(cells=[new_code_cell("answers", outputs=outputs)]))
    assert "<script" not in page
    assert "<p>raw</p>" in page
    assert page.count("&lt;script&gt;alert") == 6
    found = markup(page)
    assert "onerror" not in found.attributes
    assert "default-src 'none'" in page
