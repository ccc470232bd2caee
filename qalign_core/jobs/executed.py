"""Which notebooks of a run were executed, from what, and whether what they made is still there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from qalign_core import runs
from qalign_core.params import Profile
from qalign_core.runs import Run
from qalign_core.scores import brought

STATE = "state.json"  # which notebooks of a run were executed, from what
RESULTS = ("done.json", "accuracy.csv", "agreement.csv")  # what must still be there for a notebook to count as executed


def notebook_identity(path: Path, profile: Profile) -> str:
    """What an executed notebook depends on: its cells, the profile, predictions made elsewhere, the package's code.

    Outputs do not count: JupyterLab saves them into the notebook that was read by hand.
    """
    cells = [[cell["cell_type"], "".join(cell["source"])] for cell in runs.read_json(path)["cells"]]
    package = runs.sha256_tree(Path(__file__).parents[1])
    code = {name: digest for name, digest in package.items() if name.endswith(".py")}
    return runs.fingerprint([cells, profile.model_dump(mode="json"), code, brought.contents(profile)])


def is_executed(run: Run, output: Path, identity: str) -> bool:
    """Whether a notebook was executed from just this, and what it made is still there."""
    return not why_to_do(run, output, identity)


def why_to_do(run: Run, output: Path, identity: str) -> str:
    """Why a notebook has to be executed, in words; nothing if it need not."""
    entry = _entries(run).get(output.name) if output.is_file() else None
    if not entry:
        return "not executed yet"
    if entry["identity"] != identity:
        return "it, the profile, the package's code or a file the profile names has changed"
    absent = next((name for name in entry["files"] if not (run.folder / name).is_file()), None)
    return f"{absent} is gone" if absent else ""


def remember(run: Run, output: Path, identity: str) -> None:
    """Record that a notebook was executed, with the result files that were there when it ended."""
    entries = _entries(run)
    made = [p for p in sorted(run.folder.rglob("*")) if p.is_file() and p.name in RESULTS]
    entries[output.name] = {"identity": identity, "files": [run.relative(p) for p in made]}
    runs.write_json(run.notebooks / STATE, entries)


def _entries(run: Run) -> dict[str, Any]:
    """What is recorded of a run's notebooks; nothing if that is damaged: they are executed again, jobs are not."""
    try:
        entries = runs.read_json(run.notebooks / STATE)
    except (FileNotFoundError, ValueError):
        return {}
    found = entries.items() if isinstance(entries, dict) else ()
    return {name: entry for name, entry in found if _is_whole(entry)}


def _is_whole(entry: Any) -> bool:
    """Whether an entry says what `remember` writes."""
    files = entry.get("files") if isinstance(entry, dict) else None
    return isinstance(files, list) and all(isinstance(name, str) for name in files) and "identity" in entry
