"""The notebooks as files: they declare a profile's sections, carry no outputs, and read like chapters."""

from __future__ import annotations

import ast

import nbformat
import pytest

from qalign_core.params import SECTIONS
from qalign_core.reproduce import NOTEBOOKS_FOLDER

NOTEBOOKS = sorted(NOTEBOOKS_FOLDER.glob("[0-9]*.ipynb"))


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def notebook(request: pytest.FixtureRequest) -> nbformat.NotebookNode:
    return nbformat.read(request.param, as_version=4)


def test_there_are_notebooks() -> None:
    assert [path.name[:2] for path in NOTEBOOKS][:4] == ["01", "02", "03", "04"]


def test_parameters_cell_declares_exactly_the_sections(notebook: nbformat.NotebookNode) -> None:
    tagged = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
    assert len(tagged) == 1
    assigned = ast.parse(tagged[0].source).body
    assert all(isinstance(line, ast.Assign) and ast.literal_eval(line.value) is None for line in assigned)
    assert tuple(line.targets[0].id for line in assigned) == SECTIONS


def test_committed_without_outputs(notebook: nbformat.NotebookNode) -> None:
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert not any(cell.outputs or cell.execution_count is not None for cell in code)


def test_every_code_cell_is_short_and_introduced_by_prose(notebook: nbformat.NotebookNode) -> None:
    previous = None
    for cell in notebook.cells:
        if cell.cell_type == "code":
            assert len(cell.source.splitlines()) <= 20, cell.source
            introduced = previous.cell_type == "markdown" or "parameters" in previous.metadata.get("tags", [])
            assert introduced, f"a code cell without prose before it:\n{cell.source}"
        previous = cell
    assert notebook.cells[0].source.startswith("# ")


def test_validates_its_parameters_before_anything_else(notebook: nbformat.NotebookNode) -> None:
    code = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    assert "params.from_notebook(" in code[1]
