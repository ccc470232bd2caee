"""The shape of the package: imports go one way, modules stay small, all of it stays thin.

`python tests/test_layout.py` (a part of `make check`) prints how large the package is, and fails beyond the budgets.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1] / "qalign_core"
# A module imports only modules that stand above it; a name alone stands for a folder's modules, too, which may import
# one another in the order in which they are named behind the colon. `prepare` and `evaluate` stand behind `results`,
# because they write tables of it; `scorer` before `params`, which knows every scorer.
ORDER = [
    *("languages", "prompts", "runs", "scorer", "miniature:world,language,text,floor,folder", "params", "hub"),
    *("benchmarks", "sources", "corpora", "audit", "models", "plan", "supervision", "kernels", "trainer"),
    *("train", "decoding", "generate", "represent", "responses", "comparisons", "results"),
    *("prepare", "evaluate", "launch", "cost"),
    *("show:tables,paper_tables,figures,report,browse,pages", "reproduce", "doctor"),
]
LINES, MODULES, LONGEST = 12_944, 40, 520  # on the way to 10,000 lines: lower them with every step


def modules() -> dict[str, Path]:
    """The package's modules by their names below it, empty `__init__`s left out."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        name = ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix("__init__").rstrip(".")
        if path.name != "__init__.py" or len(path.read_text(encoding="utf-8").splitlines()) >= 4:
            found[name] = path
    return found


def size() -> tuple[int, int]:
    """Lines and modules of the package."""
    found = modules().values()
    return sum(len(path.read_text(encoding="utf-8").splitlines()) for path in found), len(found)


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """Line and name of what a file imports from the package, wherever in the file."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and not node.level:
            inside = node.module == "qalign_core" or (PACKAGE.parent / f"{node.module}".replace(".", "/")).is_dir()
            names = [f"{node.module}.{alias.name}" if inside else f"{node.module}" for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = ["qalign_core.a relative import"]
        else:
            continue
        ours = dict.fromkeys(name.removeprefix("qalign_core.") for name in names if name.startswith("qalign_core."))
        yield from ((node.lineno, name) for name in ours)


def place(name: str) -> tuple[int, int] | None:
    """Where a module stands: its row of ORDER and its place in a folder; None if it stands nowhere."""
    top, _, part = name.partition(".")
    for row, entry in enumerate(ORDER):
        title, _, parts = entry.partition(":")
        if title == top:
            inside = parts.split(",") if parts else []
            return row, inside.index(part) if part in inside else len(inside)
    return None


def wrong_arrows() -> list[str]:
    """Every import of a module that does not stand above the one that imports it, with its file and line."""
    found = []
    for name, path in modules().items():
        if (here := place(name)) is None:
            found.append(f"{path}: {name or 'the package itself'} has no place in the order of tests/test_layout.py")
            continue
        for line, imported in imports(path):
            there = place(imported)
            same = name == imported or (name == imported.partition(".")[0] and path.name == "__init__.py")
            if there is None or not (there < here or same):
                found.append(f"{path}:{line}: {name} imports {imported}, which does not stand above it")
    return found


def beyond_budget() -> list[str]:
    """What is larger than it may be."""
    lines, number = size()
    found = [f"qalign_core has {lines:,} lines; at most {LINES:,}"] if lines > LINES else []
    found += [f"qalign_core has {number} modules; at most {MODULES}"] if number > MODULES else []
    for name, path in modules().items():
        length = len(path.read_text(encoding="utf-8").splitlines())
        found += [f"{name} has {length} lines; at most {LONGEST}"] if length > LONGEST else []
    return found


def test_a_module_imports_only_what_stands_above_it() -> None:
    assert wrong_arrows() == []


def test_the_package_stays_within_its_budgets() -> None:
    assert beyond_budget() == []


def test_imports_are_found_wherever_they_are(tmp_path: Path) -> None:
    (tmp_path / "module.py").write_text(
        "import json, qalign_core.runs\nfrom qalign_core import plan, train as t\n\n"
        "def f():\n    from qalign_core.launch import run_job, command\n"
    )
    assert [*imports(tmp_path / "module.py")] == [(1, "runs"), (2, "plan"), (2, "train"), (5, "launch")]
    assert place("runs") < place("plan") < place("launch") < place("show.tables") < place("show.pages")  # type: ignore[operator]
    assert place("helpers") is None


if __name__ == "__main__":
    print("qalign_core: {:,} lines in {} modules".format(*size()))
    if beyond := beyond_budget():
        sys.exit("\n".join(beyond))
