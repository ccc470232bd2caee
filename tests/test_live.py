"""What someone who sits before a notebook sees, and that papermill and nbconvert make nothing that needs a kernel."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest
from jupyter_client.manager import KernelManager
from jupyter_server.services.contents.largefilemanager import LargeFileManager
from jupyterlab.commands import get_app_dir
from nbclient import NotebookClient
from traitlets.config import PyFileConfigLoader

from qalign_core import launch, params, plan, reproduce, runs
from qalign_core.params import PARAMS_FOLDER, ProfileError
from qalign_core.reproduce import NOTEBOOKS_FOLDER
from qalign_core.runs import Run

WIDGET = "application/vnd.jupyter.widget-view+json"


# ------------------------------------------------------------------------------------------------- who is there

CELL = """
from qalign_core.show import browse
print("someone" if browse.is_interactive() else "nobody")
line = {"language": "th", "check": "c", "data_set": "mgsm", "count": 1, "example": "x", "rows": [(0, "x")]}
browse.suspicious([line])
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


def test_an_interrupted_job_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def interrupt(*_) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(launch, "_supervise", interrupt)
    job = plan.Job({"kind": "generate", "fingerprint": "f"}, tmp_path / "job")
    monkeypatch.setattr(launch, "trained_first", lambda *_: False)
    with pytest.raises(launch.Interrupted) as stopped:
        launch.run_job(job, params.load("smoke"), Run(tmp_path))
    said = "job: stopped; what is finished is kept. Run the cell again to go on from the last checkpoint."
    assert stopped.value._render_traceback_() == [said]  # all that IPython shows


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


def make(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = ["make", *arguments]
    return subprocess.run(command, cwd=NOTEBOOKS_FOLDER.parent, capture_output=True, text=True, check=False)


def test_make_lab_starts_on_loopback_at_a_page_that_is_there():
    root = NOTEBOOKS_FOLDER.parent
    made = make("-n", "lab", "VENV=v", "PROFILE=params/smoke.yaml").stdout
    assert f'QALIGN_PROFILE="{root / "params" / "smoke.yaml"}"' in made  # a path: kernels start in another folder
    assert "--ServerApp.ip=127.0.0.1" in made
    assert "token" not in made  # JupyterLab makes one itself, and asks for it
    settings = Path(re.search(r'app_settings_dir="([^"]*)"', made)[1])
    assert (settings / "overrides.json").is_file()
    assert f'JUPYTER_CONFIG_PATH="{settings}"' in made  # its hook, see below
    assert 'tree/runs/START.md"' in made
    assert 'qalign_core.reproduce "params/smoke.yaml" --start-page' in made
    assert f'--ServerApp.root_dir="{root}"' in made


@pytest.mark.parametrize(("given", "said"), [("", "--allow-root"), ("--no-browser", "--allow-root --no-browser")])
def test_make_lab_as_root_says_what_to_pass(given: str, said: str, tmp_path: Path):
    (tmp_path / ".ready").touch()
    lab = ["-s", "--no-print-directory", "lab"]  # as under a make that says which folder it enters
    lab += [f"VENV={tmp_path}", "BIN=/none", "USER_ID=0"]
    done = make(*lab, f"LAB={given}")
    assert done.returncode == 2
    assert done.stdout == f'JupyterLab does not run as root unless it is told to: make lab LAB="{said}"\n'
    assert "JupyterLab does not" not in make(*lab, f"LAB={said}").stdout


@pytest.mark.parametrize("target", ["doctor", "reproduce", "dry-run", "lab", "figures"])
def test_make_takes_a_profile_whose_path_has_a_blank(target: str, tmp_path: Path):
    profile = tmp_path / "my prof.yaml"
    profile.write_bytes((PARAMS_FOLDER / "smoke.yaml").read_bytes())
    made = make("-n", target, "VENV=v", f"PROFILE={profile}").stdout
    assert made.count("my prof.yaml") == made.count(f'"{profile}"') == 1 + (target == "lab")


def test_the_settings_are_ones_that_jupyterlab_knows():
    overrides = json.loads((PARAMS_FOLDER / "jupyterlab" / "overrides.json").read_text(encoding="utf-8"))
    for plugin, settings in overrides.items():
        schema = Path(get_app_dir(), "schemas", *plugin.split(":")).with_suffix(".json")
        assert settings.keys() <= json.loads(schema.read_text(encoding="utf-8"))["properties"].keys(), plugin


def test_a_notebook_saved_by_hand_is_modified_only_if_its_cells_are(tmp_path: Path):
    """Saved as JupyterLab does, with the repository's filter and the hook that `make lab` configures."""
    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    (tmp_path / "notebooks").mkdir()
    for name in ".gitattributes", ".gitignore":
        (tmp_path / name).write_bytes((NOTEBOOKS_FOLDER.parent / name).read_bytes())
    clean = f'"{Path(sys.executable).parent / "nbstripout"}" --keep-id'
    git = ["git", "-C", str(tmp_path)]
    subprocess.run([*git, "config", "filter.nbstripout.clean", clean], check=True)
    config = PyFileConfigLoader("jupyter_server_config.py", str(PARAMS_FOLDER / "jupyterlab")).load_config()
    files = LargeFileManager(root_dir=str(tmp_path), config=config)

    def save(source: str, said: str, name: str = "notebooks/a.ipynb") -> str:
        cell = nbformat.v4.new_code_cell(source, id="c", outputs=[nbformat.v4.new_output("stream", text=said)])
        notebook = nbformat.v4.new_notebook(cells=[cell])
        files.save({"type": "notebook", "content": notebook}, name)
        return subprocess.run([*git, "status", "--short"], capture_output=True, text=True, check=True).stdout

    save("1", "")
    subprocess.run([*git, "add", "."], check=True)
    subprocess.run([*git, "-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "a"], check=True)
    assert save("1", "an output") == ""
    assert save("2", "an output") == " M notebooks/a.ipynb\n"  # not staged either
    assert save("1", "another") == ""
    assert save("1", "new", "notebooks/b.ipynb") == "?? notebooks/b.ipynb\n"


def test_the_first_page_says_how_far_it_is_and_leads_to_every_chapter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(reproduce, "PARAMS_FOLDER", tmp_path / "params")
    run = Run(tmp_path / "runs" / "smoke")
    runs.write_atomic(run.report / "index.html", "")
    page = reproduce.write_start_page(params.load("smoke"), run)
    text = page.read_text(encoding="utf-8")
    assert "Profile **smoke**: 0 of 6 chapters are done (none). Their pages: [report](smoke/report/index.html)." in text
    links = re.findall(r"\]\(([^)#]+)", text)
    chapters = [f"../notebooks/{path.name}" for path in sorted(NOTEBOOKS_FOLDER.glob("[0-9]*"))]
    assert [link for link in links if link.endswith(".ipynb")] == chapters
    assert all((NOTEBOOKS_FOLDER / link).exists() for link in links if not link.startswith("smoke"))
