"""Predictions made elsewhere: how a profile names them, and that they are scored and tabled like ours."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nbformat
import pytest

from qalign_core import evaluate, params, plan, report, reproduce, runs
from qalign_core.checks import profile_checks
from qalign_core.data import prepare
from qalign_core.data.rows import BadRow
from qalign_core.jobs import overview
from qalign_core.params import Profile, ProfileError
from qalign_core.runs import Run
from qalign_core.scores import answer_sheet, brought
from qalign_core.shown import answer_views

QUESTIONS = {
    "bn": ["রহিমের ৩টি আপেল আছে।", "করিমের ৫টি আম আছে।"],
    "de": ["Anna hat 3 Äpfel.", "Ben hat 5 Birnen."],
    "en": ["Ann has 3 apples.", "Ben has 5 pears."],
}
ANSWERS = ["3", "5"]
RESPONSES = {
    "bn": ["Ann has 3 apples. The answer is 3", "তার কাছে ৫টি আছে"],
    "de": ["Die Antwort ist 3", "Sie hat 2 + 2 = 5, also ist die Antwort 6"],
    "en": ["The answer is 3", ""],
}


def profile_of(system: dict[str, Any], **run: Any) -> Profile:
    return params.validate(
        {
            "run": {"profile": "theirs", "seeds": [0], **run},
            "model": {"base": "miniature"},
            "data": {"languages": list(QUESTIONS), "sources": {"mgsm": "folder"}},
            "systems": {"Theirs": system},
            "training": {},
            "evaluation": {"benchmarks": {"mgsm": {"max_new_tokens": 600}}},
        }
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Responses as another program writes them: a field `output`, in the order of the questions, nothing else."""
    for code, responses in RESPONSES.items():
        runs.write_json_lines(tmp_path / "made" / "mgsm" / f"{code}.jsonl", [{"output": text} for text in responses])
    return tmp_path / "made"


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """A run folder as notebook 01 leaves it."""
    found = Run(tmp_path / "run")
    for code, asked in QUESTIONS.items():
        rows = [{"index": i, "question": asked[i], "answer": ANSWERS[i]} for i in range(2)]
        runs.write_json_lines(found.benchmark("mgsm", code), rows)
    return found


def theirs(folder: Path, **more: Any) -> dict[str, Any]:
    fields = {"response": "output", "index": None, "question": None, "finish_reason": None}
    return {"predictions": str(folder), "fields": fields, **more}


# ------------------------------------------------------------------------------------------------- the profile


@pytest.mark.parametrize(
    ("system", "message"),
    [
        ({"predictions": "x", "lineage": []}, "give either a lineage .* or predictions"),
        ({"predictions": "x", "checkpoint": "a/b"}, "give either a lineage .* or predictions"),
        ({"lineage": [], "fields": {"response": "output"}}, "fields and seed describe predictions"),
        ({"checkpoint": "a/b", "seed": 0}, "fields and seed describe predictions"),
        ({"predictions": "x", "fields": {"respons": "output"}}, r"respons: unknown name \(did you mean 'response'\?\)"),
        ({"predictions": "x", "seed": 7}, r"systems\.Theirs\.seed: 7 is not among run\.seeds \[0\]"),
    ],
)
def test_a_wrong_origin_is_refused(system: dict[str, Any], message: str):
    with pytest.raises(ProfileError, match=message):
        profile_of(system)


def test_a_relative_folder_is_relative_to_here_and_stays_so_wherever_the_notebooks_run(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    profile = profile_of({"predictions": "made"})
    monkeypatch.chdir(tmp_path.parent)
    again = params.validate(profile.model_dump(mode="json"))
    assert again == profile
    assert brought.answers_folder(again, Run(tmp_path), "Theirs", 0) == tmp_path / "made"


def test_nothing_is_trained_or_generated_for_it(folder: Path, run: Run):
    profile = profile_of(theirs(folder))
    assert brought.generated(profile) == []
    assert {path.name[:2] for path in reproduce.notebooks_of(profile)}.isdisjoint({"02", "03"})
    assert prepare.data_sets(profile) == {"mgsm": list(QUESTIONS)}
    assert list(overview.overview(profile, run)) == []
    with pytest.raises(ProfileError, match=r"systems\.Theirs: its predictions are brought"):
        plan.prediction_job(profile, run, "Theirs", 0)
    ours = profile.model_copy(update={"systems": {**profile.systems, "Ours": params.System(lineage=["metamathqa"])}})
    assert brought.generated(ours) == ["Ours"]


def test_dry_run_says_that_it_is_brought_and_what_is_missing(folder: Path, capsys, tmp_path: Path):
    profile = profile_of(theirs(folder))
    assert list(brought.overview(profile)) == [
        (f"answers    Theirs: brought from {folder}, nothing is generated", True, "")
    ]
    (folder / "mgsm" / "de.jsonl").unlink()
    ((_, done, why),) = brought.overview(profile)
    assert not done
    assert why == f"1 of 3 files are missing, first {folder / 'mgsm' / 'de.jsonl'}"
    written = tmp_path / "theirs.yaml"
    written.write_text(params.dump(profile), encoding="utf-8")
    assert reproduce.main([str(written), "--dry-run", "--run-dir", str(tmp_path / "other")]) == 0
    assert "to do  answers    Theirs: brought from" in capsys.readouterr().out.replace("\n", " ")
    assert reproduce.main([str(written), "--run-dir", str(tmp_path / "other")]) == 2
    assert "answers Theirs: brought from" in (said := capsys.readouterr().out.replace("\n", ""))
    assert "1 of 3 files are missing" in said
    assert "1 of 3 files are missing" in " ".join(finding.found for finding in profile_checks.files(profile))


def test_a_notebook_is_executed_again_when_the_predictions_change(folder: Path):
    profile, notebook = profile_of(theirs(folder)), reproduce.NOTEBOOKS_FOLDER / "04_evaluation.ipynb"
    before = reproduce.notebook_identity(notebook, profile)
    assert reproduce.notebook_identity(notebook, profile) == before
    runs.write_json_lines(folder / "mgsm" / "en.jsonl", [{"output": "7"}, {"output": "8"}])
    assert reproduce.notebook_identity(notebook, profile) != before


def test_outputs_saved_into_a_notebook_are_no_change(folder: Path, tmp_path: Path):
    profile, notebook = profile_of(theirs(folder)), nbformat.read(reproduce.NOTEBOOKS_FOLDER / "04_evaluation.ipynb", 4)
    identities = []
    for change in ("none", "output", "source"):
        cell = next(cell for cell in notebook.cells if cell.cell_type == "code")
        if change == "output":
            cell.outputs, cell.execution_count = [nbformat.v4.new_output("stream", text="saved by hand")], 7
        elif change == "source":
            cell.source += "\npass"
        nbformat.write(notebook, tmp_path / "notebook.ipynb")
        identities.append(reproduce.notebook_identity(tmp_path / "notebook.ipynb", profile))
    assert identities[0] == identities[1] != identities[2]


# ------------------------------------------------------------------------------------------------- scoring


def test_it_is_scored_tabled_and_shown_like_ours(folder: Path, run: Run):
    profile = profile_of(theirs(folder, published="QAlign 7B"))
    answers = evaluate.score_run(profile, run)
    right = answers.groupby("language")["correct_paper"].apply(list).to_dict()
    assert right == {"bn": [True, True], "de": [True, False], "en": [True, False]}
    wrong = answers[~answers["correct_paper"]].set_index("language")["error"]
    assert wrong.to_dict() == {"de": "arithmetic slip", "en": "number missing"}
    results = evaluate.save_results(profile, run, answers)
    tables = {table.name: table for table in report.run_tables(results)}
    shown = tables["table-2-mgsm"].text
    assert shown["System"].tolist() == ["Theirs", "published 7B"]
    assert shown.loc[0, ["bn", "de", "en"]].tolist() == ["100.0", "50.0", "50.0"]
    responses = tables["table-responses"].text.iloc[0]
    assert responses["cut off"] == ""  # not known
    assert responses["in English"] == "25.0"  # one of the four that were not asked in English
    assert "table-cleaned" not in tables
    predictions = brought.read_answers(profile, run, "Theirs", 0)
    sheet = answer_sheet.answer_sheet(run, {"Theirs": predictions}, answers, list(QUESTIONS))
    page = answer_views.question_block(sheet, "mgsm", 1)
    assert "✗ Theirs · arithmetic slip" in page
    assert "Sie hat 2 + 2 = 5" in page
    assert "made elsewhere" in tables["table-trace"].text.loc[0, "files"]
    files = report.redraw(run.results, run.figures)
    assert {"table-responses.md", "table-errors.csv"} <= {path.name for path in files}


def test_the_profile_declares_which_systems_are_compared(folder: Path, run: Run):
    sections = profile_of(theirs(folder)).model_dump(mode="json")
    sections["systems"]["Others"] = theirs(folder)
    for pairs, compared in (([["Theirs", "Others"]], {("Theirs", "Others")}), (None, set())):
        sections["evaluation"]["pairs"] = pairs
        profile = params.validate(sections)
        results = evaluate.save_results(profile, run, evaluate.score_run(profile, run))
        for name in ("comparisons", "languages"):
            rows = results.tables[name]
            assert set(zip(rows["a"], rows["b"], strict=True)) == compared
        named = {table.name for table in report.run_tables(results)}
        assert ({"table-comparisons", "table-languages"} <= named) == bool(compared)


def test_it_stands_beside_every_seed_or_beside_its_own(folder: Path, run: Run):
    every = evaluate.score_run(profile_of(theirs(folder), seeds=[0, 1]), run)
    assert sorted(set(every["seed"])) == [0, 1]
    own = evaluate.score_run(profile_of(theirs(folder, seed=1), seeds=[0, 1]), run)
    assert set(own["seed"]) == {1}


@pytest.mark.parametrize(
    ("file", "content", "error", "message"),
    [
        (None, None, FileNotFoundError, "is not a folder: no predictions there"),
        ("de.jsonl", None, FileNotFoundError, r"missing: .*mgsm/de\.jsonl"),
        ("de.jsonl", ["a 3"], ValueError, r"de\.jsonl: the benchmark has 2 questions; predictions missing: 1"),
        ("de.jsonl", ["a 3", "b 4", "c 5"], ValueError, r"de\.jsonl: .*too many: 1 \(index 2\)"),
        ("de.jsonl", ["a 3", None], ValueError, r"de\.jsonl, line 2: the response is NoneType, not text"),
    ],
)
def test_what_is_missing_is_named(
    folder: Path, run: Run, file: str | None, content: list[Any] | None, error: type[Exception], message: str
):
    if file is None:
        folder.rename(folder.with_name("elsewhere"))
    elif content is None:
        (folder / "mgsm" / file).unlink()
    else:
        runs.write_json_lines(folder / "mgsm" / file, [{"output": text} for text in content])
    with pytest.raises(error, match=message):
        evaluate.score_run(profile_of(theirs(folder)), run)


def test_another_field_or_another_question_is_named(folder: Path, run: Run):
    with pytest.raises(ValueError, match=r"line 1: no field 'index'; the line has output"):
        evaluate.score_run(profile_of({"predictions": str(folder)}), run)
    rows = [{"n": i, "asked": QUESTIONS["de"][0], "output": "3"} for i in range(2)]
    for code in QUESTIONS:
        own = [{**row, "asked": QUESTIONS[code][row["n"]]} for row in rows]
        lines = "".join(json.dumps(row) + "\n" for row in (rows if code == "de" else own))
        (folder / "mgsm" / f"{code}.jsonl").write_text(lines, encoding="utf-8")
    fields = {"index": "n", "question": "asked", "response": "output", "finish_reason": None}
    with pytest.raises(ValueError, match=r"de\.jsonl: the question of row 1 is not the benchmark's"):
        evaluate.score_run(profile_of({"predictions": str(folder), "fields": fields}), run)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"index": "x"}, r"en\.jsonl, line 1: the index is 'x'"),
        ({"index": None}, r"en\.jsonl, line 1: the index is None"),
        ({"index": 0.5}, r"en\.jsonl, line 1: the index is 0\.5"),
        ({"index": True}, r"en\.jsonl, line 1: the index is True"),
        ({"question": None}, r"en\.jsonl, line 1: the question is NoneType, not text"),
        ({"output": None}, r"en\.jsonl, line 1: the response is NoneType, not text"),
        ({"output": "5 \ud83d"}, r"line 1: the response holds .ud83d, half a character"),
    ],
)
def test_a_row_that_cannot_be_scored_is_named(folder: Path, run: Run, change: dict[str, Any], message: str):
    for code, asked in QUESTIONS.items():
        rows = [{"index": i, "question": asked[i], "output": "5"} for i in range(2)]
        if code == "en":
            rows[0] |= change
        path = folder / "mgsm" / f"{code}.jsonl"
        path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8-sig")  # a mark is no error
    profile = profile_of({"predictions": str(folder), "fields": {"response": "output", "finish_reason": None}})
    with pytest.raises(BadRow, match=message):
        evaluate.score_run(profile, run)


def test_a_file_in_another_encoding_is_named(folder: Path, run: Run):
    (folder / "mgsm" / "de.jsonl").write_bytes(b'{"output": "\xe9"}\n')
    with pytest.raises(BadRow, match=r"de\.jsonl: line 1: not UTF-8"):
        evaluate.score_run(profile_of(theirs(folder)), run)
