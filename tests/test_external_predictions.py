"""A profile with external predictions on the road: what is planned, what is said, and when a notebook runs again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nbformat
import pytest

from qalign_core import doctor, params, plan, prepare, reproduce, runs
from qalign_core.params import Profile, ProfileError
from qalign_core.runs import Run

QUESTIONS = {"bn": "রহিমের ৩টি আপেল আছে।", "de": "Anna hat 3 Äpfel.", "en": "Ann has 3 apples."}


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
    for code in QUESTIONS:
        runs.write_json_lines(tmp_path / "made" / "mgsm" / f"{code}.jsonl", [{"output": "The answer is 3"}])
    return tmp_path / "made"


def theirs(folder: Path, **more: Any) -> dict[str, Any]:
    fields = {"response": "output", "index": None, "question": None, "finish_reason": None}
    return {"predictions": str(folder), "fields": fields, **more}


def test_dry_run_says_that_predictions_are_external_and_what_is_missing(folder: Path, capsys, tmp_path: Path):
    profile = profile_of(theirs(folder))
    assert {path.name[:2] for path in reproduce.notebooks_of(profile)}.isdisjoint({"02", "03"})
    assert prepare.data_sets(profile) == {"mgsm": list(QUESTIONS)}
    assert list(reproduce.overview(profile, Run(tmp_path / "run"))) == []
    with pytest.raises(ProfileError, match=r"systems\.Theirs: its predictions are"):
        plan.prediction_job(profile, Run(tmp_path / "run"), "Theirs", 0)
    (folder / "mgsm" / "de.jsonl").unlink()
    written = tmp_path / "theirs.yaml"
    written.write_text(params.dump(profile), encoding="utf-8")
    assert reproduce.main([str(written), "--dry-run", "--run-dir", str(tmp_path / "other")]) == 0
    assert "to do  answers    Theirs: external predictions" in capsys.readouterr().out.replace("\n", " ")
    assert reproduce.main([str(written), "--run-dir", str(tmp_path / "other")]) == 2
    assert "1 of 3 files are missing" in capsys.readouterr().out.replace("\n", "")
    assert "1 of 3 files are missing" in " ".join(finding.found for finding in doctor.files(profile))


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
