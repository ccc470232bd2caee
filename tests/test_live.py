"""What someone who sits before a notebook sees, and that papermill and nbconvert make nothing that needs a kernel."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pandas as pd
import pytest
from datasets import Dataset
from jupyter_client.manager import KernelManager
from jupyterlab.commands import get_app_dir
from nbclient import NotebookClient

from qalign_core import params
from qalign_core.data import audit
from qalign_core.params import PARAMS_FOLDER, ProfileError
from qalign_core.reproduce import NOTEBOOKS_FOLDER
from qalign_core.scores.answer_sheet import Answer, AnswerSheet
from qalign_core.scores.comparisons import compare_languages
from qalign_core.shown import browser, live, pair_views
from qalign_core.shown.suspicious import EVERY, SHOWN, SuspiciousRows

WIDGET = "application/vnd.jupyter.widget-view+json"
SCRIPT = "<script>alert('x')</script>"
CODES = ("de", "en")
# Question → system → languages in which it is right.
RIGHT = {
    0: {"A": {"de", "en"}, "B": {"en"}, SCRIPT: set()},
    1: {"A": {"de"}, "B": set(), SCRIPT: {"de"}},
    2: {"A": set(), "B": {"de", "en"}, SCRIPT: set()},
    3: {"A": set(), "B": set(), SCRIPT: set()},
}


@pytest.fixture
def sheet() -> AnswerSheet:
    keys = [("mgsm", code, index) for code in CODES for index in RIGHT]
    answers = {
        system: {
            (name, code, index): Answer(f"{system} says {code} {index}", code in RIGHT[index][system], None, "und")
            for name, code, index in keys
        }
        for system in ("A", "B", SCRIPT)
    }
    questions = {key: f"{key[1]} question {key[2]}? {SCRIPT}" for key in keys}
    return AnswerSheet(tuple(answers), CODES, questions, dict.fromkeys(keys, 7.0), answers, frozenset())


@pytest.fixture
def lines() -> list[dict]:
    def line(check: str, data_set: str, language: str, count: int) -> dict:
        rows = [(row, f"{check} in {data_set}, {language}, row {row} {SCRIPT}") for row in range(min(count, 50))]
        example = rows[0][1] if rows else ""
        return {"check": check, "data_set": data_set, "language": language, "count": count, "total": 99,
                "example": example, "rows": rows}  # fmt: skip

    return [
        line("untranslated", "mgsm", "th", 2),
        line("untranslated", "msvamp", "th", 1),
        line("repeats itself", "mgsm", "th", 45),
        line("untranslated", "mgsm", "bn", 60),
        line("blank side", "mgsm", "sw", 0),
    ]


# ------------------------------------------------------------------------------------------------- two systems


def test_wins_losses_and_ties_are_counted_by_language(sheet: AnswerSheet):
    found = pair_views.outcomes(sheet, "mgsm", "A", "B")
    assert list(found) == ["de", "en"]
    assert list(found["de"].values()) == [[0, 1], [2], [], [3]]
    assert list(found["en"].values()) == [[], [2], [0], [1, 3]]
    table = pair_views.counts_table(found, "A", "B")
    assert "+25.0" in table  # two against one of four questions
    assert "−25.0" in table


def test_the_counts_are_those_of_the_exact_test(sheet: AnswerSheet):
    rows = [
        {"system": system, "seed": 1, "benchmark": name, "language": code, "index": index, "correct_paper": given.right}
        for system, answers in sheet.answers.items()
        for (name, code, index), given in answers.items()
    ]
    tested = compare_languages(pd.DataFrame(rows), [("A", "B")]).set_index("language")
    for code, at in pair_views.outcomes(sheet, "mgsm", "A", "B").items():
        assert len(at[pair_views.ONLY_A]) == tested.only_a[code]
        assert len(at[pair_views.ONLY_B]) == tested.only_b[code]


def test_menus_set_any_two_systems_against_each_other(sheet: AnswerSheet):
    above, counts, below, shown = browser.PairBrowser(sheet, [("A", "missing"), ("B", "A")]).controls().children
    _, first, second = above.children
    language, right, question = below.children
    assert (first.value, second.value) == ("B", "A")  # the declared pair that was run
    assert "only B" in counts.value
    assert [index for _, index in question.options] == [2]
    assert "de question 2?" in shown.value
    first.value, second.value = "A", "B"
    assert [index for _, index in question.options] == [0, 1]
    question.value = 1
    assert "de question 1?" in shown.value
    assert "A says de 1" in shown.value
    language.value, right.value = "en", pair_views.BOTH
    assert [index for _, index in question.options] == [0]
    assert "en question 0?" in shown.value
    right.value = pair_views.ONLY_A
    assert question.options == ()
    assert "No such question." in shown.value
    second.value = SCRIPT
    assert "<script" not in counts.value + shown.value
    assert "only &lt;script&gt;" in counts.value


def test_pairs_that_were_not_run_are_left_out_of_the_static_view(sheet: AnswerSheet):
    static = browser.PairBrowser(sheet, [("A", "missing"), ("A", "B"), (SCRIPT, "A")]).static()
    assert static.count("<table") == 2
    assert "<details open><summary><strong>A</strong> and <strong>B</strong>" in static
    assert "missing" not in static
    assert "<script" not in static
    undeclared = browser.PairBrowser(sheet).static()
    assert "<strong>A</strong> and <strong>B</strong>" in undeclared
    alone = AnswerSheet(("A",), CODES, sheet.questions, sheet.golds, sheet.answers, frozenset())
    assert "No two systems" in browser.PairBrowser(alone).static()
    assert "No two systems" in browser.PairBrowser(alone).controls().value


# ------------------------------------------------------------------------------------------------- suspicious rows


def test_menus_lead_to_the_rows_of_a_language_and_check(lines: list[dict]):
    menus, shown = SuspiciousRows(lines).controls().children
    language, check = menus.children
    assert [code for _, code in language.options] == ["bn", "th"]  # in the tables' order, where something was found
    assert [name for _, name in check.options] == [EVERY, "untranslated"]
    assert f"{SHOWN} of 60 rows" in shown.value
    language.value = "th"
    assert [name for _, name in check.options] == [EVERY, "untranslated", "repeats itself"]
    assert f"{SHOWN} of 48 rows" in shown.value
    check.value = "untranslated"
    assert "3 rows" in shown.value
    assert "untranslated in msvamp, th, row 0" in shown.value
    assert "repeats itself" not in shown.value
    language.value = "bn"
    assert check.value == "untranslated"  # what both languages have stays chosen
    assert "<script" not in shown.value


def test_each_check_and_data_set_shows_its_first_rows_first(lines: list[dict]):
    rows = SuspiciousRows(lines).rows("th")
    assert rows.data_set.tolist()[:5] == ["mgsm", "msvamp", "mgsm", "mgsm", "mgsm"]
    assert rows.row.tolist()[:5] == [0, 0, 0, 1, 1]
    assert len(rows) == 48


def test_the_audit_keeps_the_first_rows_it_found():
    questions = {
        "en": Dataset.from_dict({"question": [f"{n} apples?" for n in range(100, 180)], "answer": ["1"] * 80}),
        "de": Dataset.from_dict({"question": ["Wie viele?" + " Äpfel" * 300] * 80, "answer": ["1"] * 80}),
    }
    lines = audit.checked({}, {"mine": questions})
    assert audit.counted(lines).equals(audit.audit({}, {"mine": questions}))
    (lost,) = [line for line in lines if line["check"] == "loses a number"]
    assert lost["count"] == 80
    assert [row for row, _ in lost["rows"]] == list(range(audit.ROWS_KEPT))
    assert all(len(text) == audit.ROW_CHARACTERS for _, text in lost["rows"])
    assert lost["example"][:-1] == lost["rows"][0][1][: audit.EXAMPLE_CHARACTERS - 1]


def test_nothing_suspicious_is_said(lines: list[dict]):
    clean = SuspiciousRows(lines[-1:])
    assert clean.controls().value == "The audit found nothing."
    assert "<td" not in clean.static()
    assert SuspiciousRows(lines).static().count("<tr>") == 3  # the heading and an example a check


# ------------------------------------------------------------------------------------------------- who is there


def explorers(sheet: AnswerSheet, lines: list[dict]) -> list[live.Explorer]:
    return [browser.QuestionBrowser(sheet), browser.PairBrowser(sheet), SuspiciousRows(lines)]


def test_without_someone_there_nothing_is_a_widget(sheet: AnswerSheet, lines: list[dict]):
    for explorer in explorers(sheet, lines):
        shown = explorer._repr_mimebundle_()
        assert set(shown) == {"text/html", "text/plain"}
        assert shown["text/html"] == explorer.static()
        assert explorer._controls is None  # no widget was made either


def test_with_someone_there_menus_carry_the_static_view(
    sheet: AnswerSheet, lines: list[dict], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(live, "someone_is_there", lambda: True)
    for explorer in explorers(sheet, lines):
        shown = explorer._repr_mimebundle_()
        assert WIDGET in shown
        assert shown["text/html"] == explorer.static()


CELL = """
from qalign_core.shown import live
from qalign_core.params import PARAMS_FOLDER, ProfileError
from qalign_core.reproduce import NOTEBOOKS_FOLDER
from qalign_core.shown.suspicious import SuspiciousRows
print("someone" if live.someone_is_there() else "nobody")
SuspiciousRows([])
"""


@pytest.fixture(scope="module")
def kernel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KernelManager]:
    """A kernel that speaks through files, not ports."""
    manager = KernelManager(transport="ipc", ip=str(tmp_path_factory.mktemp("kernel") / "k"))
    manager.start_kernel()
    yield manager
    manager.shutdown_kernel(now=True)


def test_what_nbclient_runs_has_nothing_that_needs_a_kernel(kernel: KernelManager):
    """Papermill and nbconvert run notebooks by nbclient."""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(CELL)])
    NotebookClient(notebook, km=kernel, timeout=60).execute()
    said, shown = notebook.cells[0].outputs
    assert said.text == "nobody\n"
    assert set(shown.data) == {"text/html", "text/plain"}


def test_a_cell_that_a_browser_runs_has_menus(kernel: KernelManager):
    messages: list[dict] = []
    client = kernel.client()
    client.start_channels()
    try:
        client.execute_interactive(CELL, allow_stdin=True, timeout=60, output_hook=messages.append)
    finally:
        client.stop_channels()
    contents = [message["content"] for message in messages]
    assert "someone\n" in [content.get("text") for content in contents]
    (shown,) = [content["data"] for content in contents if "execution_count" in content and "data" in content]
    assert WIDGET in shown
    assert {"text/html", "text/plain"} <= set(shown)


# ------------------------------------------------------------------------------------------------- make lab


def test_a_notebook_opened_by_hand_uses_the_profile_that_jupyterlab_was_started_with(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("QALIGN_PROFILE", "smoke")
    assert params.from_notebook() == params.load("smoke")
    monkeypatch.setenv("QALIGN_PROFILE", str(PARAMS_FOLDER / "smoke.yaml"))
    assert params.from_notebook(run=None) == params.load("smoke")
    monkeypatch.setenv("QALIGN_PROFILE", "smoky")
    with pytest.raises(ProfileError, match="did you mean 'smoke'"):
        params.from_notebook()
    monkeypatch.setenv("QALIGN_PROFILE", "")
    assert params.from_notebook() == params.load("mini")


def test_make_lab_starts_on_loopback_at_a_page_that_is_there():
    root = NOTEBOOKS_FOLDER.parent
    made = subprocess.run(
        ["make", "-n", "lab", "VENV=v", "PROFILE=params/smoke.yaml"],
        cwd=root,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert f'QALIGN_PROFILE="{root / "params" / "smoke.yaml"}"' in made  # a path: kernels start in another folder
    assert "--ServerApp.ip=127.0.0.1" in made
    assert "token" not in made  # JupyterLab makes one itself, and asks for it
    settings = Path(re.search(r'app_settings_dir="([^"]*)"', made)[1])
    assert (settings / "overrides.json").is_file()
    assert (root / re.search(r'default_url="/lab/workspaces/\w+/tree/([^"]*)"', made)[1]).is_file()
    assert f'--ServerApp.root_dir="{root}"' in made


@pytest.mark.parametrize("target", ["doctor", "reproduce", "dry-run", "lab", "figures"])
def test_make_takes_a_profile_whose_path_has_a_blank(target: str, tmp_path: Path):
    profile = tmp_path / "my prof.yaml"
    profile.write_bytes((PARAMS_FOLDER / "smoke.yaml").read_bytes())
    command = ["make", "-n", target, "VENV=v", f"PROFILE={profile}"]
    made = subprocess.run(command, cwd=NOTEBOOKS_FOLDER.parent, capture_output=True, text=True, check=True).stdout
    assert made.count("my prof.yaml") == made.count(f'"{profile}"') == 1


def test_the_settings_are_ones_that_jupyterlab_knows():
    overrides = json.loads((PARAMS_FOLDER / "jupyterlab" / "overrides.json").read_text(encoding="utf-8"))
    for plugin, settings in overrides.items():
        schema = Path(get_app_dir(), "schemas", *plugin.split(":")).with_suffix(".json")
        assert settings.keys() <= json.loads(schema.read_text(encoding="utf-8"))["properties"].keys(), plugin


def test_the_first_page_leads_to_every_chapter():
    page = (NOTEBOOKS_FOLDER / "START.md").read_text(encoding="utf-8")
    links = re.findall(r"\]\(([^)#]+)", page)
    assert [link for link in links if link.endswith(".ipynb")] == [
        p.name for p in sorted(NOTEBOOKS_FOLDER.glob("[0-9]*"))
    ]
    assert all((NOTEBOOKS_FOLDER / link).exists() for link in links)
