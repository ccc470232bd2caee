"""The notebooks as files: they declare a profile's sections, carry no outputs, and show their science in cells."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import nbformat
import pytest

from qalign_core.params import PARAMS_FOLDER, SECTIONS, load
from qalign_core.reproduce import NOTEBOOKS_FOLDER

NOTEBOOKS = sorted(NOTEBOOKS_FOLDER.glob("[0-9]*.ipynb"))
TEMPLATE = NOTEBOOKS_FOLDER / "template.ipynb"  # of a chapter of one's own


@pytest.fixture(params=[*NOTEBOOKS, TEMPLATE], ids=lambda path: path.stem)
def notebook(request: pytest.FixtureRequest) -> nbformat.NotebookNode:
    return nbformat.read(request.param, as_version=4)


def code(notebook: nbformat.NotebookNode) -> list[str]:
    return [cell.source for cell in notebook.cells if cell.cell_type == "code"]


def all_code() -> str:
    return "\n".join(source for path in NOTEBOOKS for source in code(nbformat.read(path, as_version=4)))


def test_the_six_chapters_are_there() -> None:
    assert [path.name[:2] for path in NOTEBOOKS][:6] == ["01", "02", "03", "04", "05", "06"]


def test_parameters_cell_declares_exactly_the_sections(notebook: nbformat.NotebookNode) -> None:
    tagged = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
    assert len(tagged) == 1
    assigned = ast.parse(tagged[0].source).body
    assert all(isinstance(line, ast.Assign) and ast.literal_eval(line.value) is None for line in assigned)
    assert tuple(line.targets[0].id for line in assigned) == SECTIONS


def test_all_chapters_open_alike_and_validate_before_anything_else() -> None:
    openings = {tuple(code(nbformat.read(path, as_version=4))[:2]) for path in (*NOTEBOOKS, TEMPLATE)}
    assert len(openings) == 1
    assert "params.from_notebook(" in openings.pop()[1]


def test_no_cell_overwrites_a_section(notebook: nbformat.NotebookNode) -> None:
    """Otherwise the opening cell could not be run a second time."""
    for source in code(notebook)[1:]:
        names = {node.id for node in ast.walk(ast.parse(source)) if getattr(node, "ctx", None).__class__ is ast.Store
                 and isinstance(node, ast.Name)}  # fmt: skip
        assert not names & set(SECTIONS), source


def test_committed_without_outputs(notebook: nbformat.NotebookNode) -> None:
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert not any(cell.outputs or cell.execution_count is not None for cell in cells)


def test_every_code_cell_is_short_and_introduced_by_prose(notebook: nbformat.NotebookNode) -> None:
    previous = None
    for cell in notebook.cells:
        if cell.cell_type == "code":
            assert len(cell.source.splitlines()) <= 20, cell.source
            introduced = previous.cell_type == "markdown" or "parameters" in previous.metadata.get("tags", [])
            assert introduced, f"a code cell without prose before it:\n{cell.source}"
        previous = cell
    assert notebook.cells[0].source.startswith("# ")


def test_chapters_show_their_science() -> None:
    """What a reader sees and can change in a cell, not behind a call; each is checked there against the package."""
    shown = all_code()
    for piece in (
        '"### Instruction:\\n{instruction}\\n\\n### Response:"',  # the template
        "[-100] * masked",  # the labels
        "cross_entropy(",  # the loss
        "deepspeed --num_gpus {profile.run.devices} --module",  # the command
        'r"\\d+(?:\\.\\d+)?"',  # the scorer
        "np.quantile(",  # an interval
        'sub(wide["en"], axis=0)',  # agreement with English
    ):
        assert piece in shown, piece
    assert shown.count("assert ") >= 5
    assert shown.count("so.Plot(") >= 7
    assert "sns.heatmap(" in shown


@pytest.mark.parametrize("path", NOTEBOOKS[1:], ids=lambda path: path.stem)
def test_run_alone_before_the_first_says_so(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("QALIGN_RUN_DIR", str(tmp_path / "run"))
    profile = load(PARAMS_FOLDER / "smoke.yaml").model_dump(mode="json", exclude_unset=True)
    names: dict[str, Any] = {section: profile.get(section) for section in SECTIONS}
    chapter = "\n".join(code(nbformat.read(path, as_version=4))[1:])
    with pytest.raises(FileNotFoundError, match=r"run notebook 0[14] \("):
        exec(chapter, names)
