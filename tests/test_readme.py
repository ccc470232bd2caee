"""README, docs/ and their neighbours say nothing that is not so: links, commands, keys, modules, quoted messages."""

from __future__ import annotations

import ast
import importlib.util
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, get_args

import nbformat
import pandas as pd
import pytest
import yaml
from pydantic import BaseModel

from qalign_core import cost, doctor, params, reproduce, runs
from qalign_core.params import PARAMS_FOLDER, SECTIONS, Profile
from qalign_core.results import EVALUATION, OPTIONAL
from qalign_core.show import report

ROOT = PARAMS_FOLDER.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
PAGES = sorted(
    path
    for place in ("*", "docs/*", "bench/**/*", "notebooks/*", "qalign_core/**/*")
    for path in ROOT.glob(f"{place}.md")
)
GUIDES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
GUIDE = "\n\n".join(page.read_text(encoding="utf-8") for page in GUIDES)
THEIR_OWN = {"two-machines", "my/profile.yaml", "...", "notebooks/07_something.ipynb"}  # what the reader writes


def prose(page: Path) -> str:
    """A page's Markdown, or that of a notebook's cells."""
    if page.suffix != ".ipynb":
        return page.read_text(encoding="utf-8")
    cells = nbformat.read(page, as_version=4).cells
    return "\n\n".join(cell.source for cell in cells if cell.cell_type == "markdown")


def blocks(text: str, *kinds: str) -> list[str]:
    """The contents of the fenced code blocks of these kinds."""
    found = re.findall(r"^```(\w*)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    return [content for kind, content in found if kind in kinds]


def spans(text: str) -> list[str]:
    """Inline code outside of fenced blocks."""
    return re.findall(r"(?<!`)`([^`\n]+)`(?!`)", re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE))


# ------------------------------------------------------------------------------------------------- links


def links(text: str) -> list[str]:
    """The targets of Markdown's and HTML's links and images; code is no prose, unless it is a link's text."""
    text = re.sub(r"^```.*?^```$|`[^`\n]+`(?!\])", "", text, flags=re.DOTALL | re.MULTILINE)
    return [a or b for a, b in re.findall(r"\]\(([^)\s]+)[^)]*\)|(?:href|src)=\"([^\"]+)\"", text)]


@cache
def anchors(page: Path) -> set[str]:
    """The names GitHub gives a page's headings."""
    titles = re.findall(r"^#+ (.+)$", re.sub(r"^```.*?^```$", "", prose(page), flags=re.DOTALL | re.MULTILINE), re.M)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", [*PAGES, *NOTEBOOKS], ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page: Path) -> None:
    dead = []
    for target in links(prose(page)):
        if re.match(r"[a-z]+:", target):
            if not re.fullmatch(r"https://[\w.-]+\.[a-z]{2,}(/\S*)?", target):
                dead.append(f"{target}: not a plain https address")
            continue
        path, _, anchor = target.partition("#")
        there = page.parent / path if path else page
        if not there.exists():
            dead.append(f"{target}: no such file")
        elif anchor and anchor not in anchors(there):
            dead.append(f"{target}: {there.name} has {sorted(anchors(there))}")
    assert not dead, "\n".join(dead)


def test_what_is_checked_is_found() -> None:
    assert {"README.md", "CONTRIBUTING.md", "CHANGELOG.md", "THIRD_PARTY.md"} <= {page.name for page in PAGES}
    assert links('[a](b.md#c) ![d](e.png) `[x](y)` <img src="f.svg"> [`g`](h.py)') == [
        "b.md#c",
        "e.png",
        "f.svg",
        "h.py",
    ]
    assert "what-you-get" in anchors(ROOT / "README.md")
    assert {"gpus", "troubleshooting", "data", "results", "performance", "numbers", "extending"} <= {
        p.stem for p in GUIDES
    }
    assert len(links(README)) > 20
    assert {"make reproduce", "make dry-run PROFILE=llama2-7b", "hf auth login", "make doctor"} <= set(commands())
    assert any(command.startswith("papermill notebooks/04") for command in commands())
    assert any(command.startswith("deepspeed --module") for command in commands())
    assert len(blocks(GUIDE, "yaml")) >= 8
    assert len(snippets()) >= 5
    assert len(quoted()) >= 12
    assert not any(re.search("gave a sign of life", text) for text in messages())


def test_paths_in_code_exist() -> None:
    known = ("qalign_core/", "params/", "notebooks/", "bench/", "tests/", "figures/", "docs/")
    written = [span for span in spans(GUIDE) if span.startswith(known) and re.fullmatch(r"[\w./-]+", span)]
    assert len(written) > 3
    assert [path for path in written if not (ROOT / path).exists() and path not in THEIR_OWN] == []


# ------------------------------------------------------------------------------------------------- commands


def commands() -> list[str]:
    """Every command that the guides show, in blocks and in the text, without its remark."""
    lines = [line for block in blocks(GUIDE, "", "sh", "bash") for line in block.splitlines()]
    starts = ("make ", "hf ", "python ", "papermill ", "deepspeed ", "pip ")
    found = [line for line in [*lines, *spans(GUIDE)] if line.startswith(starts)]
    return sorted({" ".join(re.sub(r"\s+#.*", "", line).split()) for line in found})


def check_make(words: list[str], folder: Path) -> None:
    """Make knows the target, and what it would run of this package takes its arguments."""
    planned = subprocess.run(["make", "-n", *words], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert planned.returncode == 0, planned.stderr
    for module, rest in re.findall(r"-m (qalign_core[\w.]*)(.*)", planned.stdout.replace("\\\n", " ")):
        check_python(["-m", module, *shlex.split(rest)], folder)


def check_python(words: list[str], folder: Path) -> None:
    """A module of this package that can be run, with options it has; reproductions are planned in an empty folder."""
    _, module, *arguments = words
    assert importlib.util.find_spec(module), f"no module {module}"
    if module == "qalign_core.reproduce":
        given = reproduce.parser().parse_args(arguments)
        if given.profile in THEIR_OWN:
            return
        reproduce.select(params.load(given.profile), given.only, given.start)
        if not given.dry_run:  # those say the same of the same profiles
            assert reproduce.main([*arguments, "--dry-run", "--run-dir", str(folder)]) == 0
            assert list(folder.iterdir()) == []
    elif module == "qalign_core.doctor":
        params.load(doctor.parser().parse_args(arguments).profile)
    elif module == "qalign_core.show.report":
        assert callable(report.main)
        assert len(arguments) == 2


def check_papermill(words: list[str], folder: Path) -> None:
    from papermill.cli import papermill

    given = papermill.make_context("papermill", list(words)).params
    assert (ROOT / given["notebook_path"]).is_file() or given["notebook_path"] in THEIR_OWN
    for file in given["parameters_file"]:
        params.load(ROOT / file)


def check_hub(words: list[str], folder: Path) -> None:
    command = [Path(sys.executable).with_name("hf"), *words, "--help"]
    assert subprocess.run(command, capture_output=True, timeout=60, check=False).returncode == 0


def check_deepspeed(words: list[str], folder: Path) -> None:
    from deepspeed.launcher.runner import parse_args

    given = parse_args(list(words))
    assert given.module
    assert importlib.util.find_spec(given.user_script)


CHECKS = {
    "make": check_make,
    "python": check_python,
    "papermill": check_papermill,
    "hf": check_hub,
    "deepspeed": check_deepspeed,
}


@pytest.fixture(scope="module", autouse=True)
def measured_once() -> Iterator[None]:
    """The speed that commands show is measured, but once for all that would measure the same."""
    measure, found = cost.measure, {}

    def known(profile: Profile) -> cost.Speed:
        key = repr((profile.model, profile.run.devices, profile.training))
        if key not in found:
            found[key] = measure(profile)
        return found[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cost, "measure", known)
        yield


@pytest.mark.parametrize("command", commands())
def test_commands_can_be_given(command: str, tmp_path: Path) -> None:
    program, *words = shlex.split(command)
    assert program in CHECKS, f"say in {Path(__file__).name} how `{program}` is checked"
    CHECKS[program](words, tmp_path)


def test_make_help_and_a_dry_run_really_run(tmp_path: Path) -> None:
    """The commands that are cheap, as they are written, with an environment that is already there."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python").symlink_to(sys.executable)
    for ready in (".ready", ".ready-dev"):
        (tmp_path / ready).touch()
    given = [f"VENV={tmp_path}", f"BIN={Path(sys.executable).parent}"]
    environment = {**os.environ, "QALIGN_RUN_DIR": str(tmp_path / "run"), "CUDA_VISIBLE_DEVICES": ""}
    planned = ["dry-run", "PROFILE=llama2-7b", "ONLY=04 05"]  # the miniature's speed would be measured
    for words, expected in ((["help"], "make reproduce"), (planned, "04_evaluation")):
        done = subprocess.run(["make", *given, *words], cwd=ROOT, env=environment, capture_output=True, text=True,
                              timeout=300, check=False)  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        assert expected in done.stdout
    assert not (tmp_path / "run").exists()


def test_help_names_every_target_and_profile() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    phony = re.search(r"^\.PHONY:((?:.*\\\n)*.*)$", makefile, re.MULTILINE)
    assert phony
    described = set(re.findall(r"^([a-z-]+):.*## ", makefile, re.MULTILINE))
    assert set(phony[1].replace("\\", " ").split()) == described


def test_shell_scripts_parse() -> None:
    for script in blocks(GUIDE, "bash"):
        subprocess.run(["bash", "-n"], input=script, text=True, check=True, timeout=10)


# ------------------------------------------------------------------------------------------------- profiles


def snippets() -> list[str]:
    """Parts of a profile, in blocks and in the text: YAML whose keys are a profile's sections."""
    inline = [span for span in spans(GUIDE) if re.match(rf"({'|'.join(SECTIONS)}): *\{{", span)]
    found = (*blocks(GUIDE, "yaml"), *inline)  # without what extending.md registers first
    return [text for text in found if "template: plain" not in text and "scorer: declared" not in text]


@pytest.mark.parametrize("snippet", snippets())
def test_parts_of_profiles_are_valid(snippet: str, tmp_path: Path) -> None:
    said = yaml.safe_load(snippet)
    assert set(said) <= {"extends", *SECTIONS}
    if "extends" in said:
        (tmp_path / "own.yaml").write_text(snippet, encoding="utf-8")
        assert params.load(tmp_path / "own.yaml").run.profile == said["run"]["profile"]
        return
    base = yaml.safe_load((PARAMS_FOLDER / "llama2-7b.yaml").read_text(encoding="utf-8"))
    if "pairs" in said.get("evaluation", {}):
        base["systems"]["Theirs"] = {"predictions": "theirs"}
    if said.get("model", {}).get("base") == "miniature":
        base["data"]["sources"] = dict.fromkeys(base["data"]["sources"], "miniature")
    params.validate(runs.merged(base, said))


@pytest.mark.parametrize(
    "key",
    sorted(
        {s for s in spans(GUIDE) if re.fullmatch(rf"({'|'.join(SECTIONS)})(\.\w+)+(?<!\.csv)(?<!\.json)(: \w+)?", s)}
    ),
)
def test_keys_of_profiles_are_known(key: str) -> None:
    model: Any = Profile
    for name in key.partition(":")[0].split("."):
        inside = [model, *get_args(model)]
        model = next((part for part in inside if isinstance(part, type) and issubclass(part, BaseModel)), None)
        if model is None:  # a dictionary with names of the reader's own
            return
        assert name in model.model_fields, f"{key}: no key {name!r}; there are {', '.join(model.model_fields)}"
        model = model.model_fields[name].annotation


def test_every_profile_is_named() -> None:
    shipped = {path.stem for path in PARAMS_FOLDER.glob("*.yaml")} - {"data.lock", "miniature-base", "mini-publish"}
    assert sorted(name for name in shipped if f"params/{name}.yaml" not in README) == []


def test_every_module_has_its_place() -> None:
    (tree,) = [block for block in blocks(README, "") if "qalign_core/   the package" in block]
    modules = {path.stem for path in (ROOT / "qalign_core").glob("*.py")} - {"__init__"}
    assert sorted(modules - set(re.findall(r"\w+", tree))) == [], "name them in README, The folders"
    packages = {path.parent.name for path in (ROOT / "qalign_core").glob("*/__init__.py")}
    assert packages == set(re.findall(r"^  (\w+)/", tree, re.MULTILINE))


def test_readme_is_short() -> None:
    assert len(README.splitlines()) <= 250


# ------------------------------------------------------------------------------------------------- messages


@cache
def messages() -> tuple[str, ...]:
    """Every text in the package's code, `…` standing for what is filled in; and the Makefile."""
    found = [(ROOT / "Makefile").read_text(encoding="utf-8")]
    for path in sorted((ROOT / "qalign_core").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                parts = [str(part.value) if isinstance(part, ast.Constant) else "…" for part in node.values]
                found.append("".join(parts))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
    return tuple(found)


def quoted() -> list[str]:
    """The messages of the table of troubles."""
    page = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
    return re.findall(r"^\| `([^`]+)` \| ", page, re.MULTILINE)


@pytest.mark.parametrize("message", quoted())
def test_messages_are_what_the_code_says(message: str) -> None:
    pattern = re.compile(".*".join(re.escape(part) for part in message.split("…")))
    assert any(pattern.search(text) for text in messages()), f"nothing in qalign_core says {message!r}"


# ------------------------------------------------------------------------------------------------- results


def test_columns_of_results_are_those_of_the_files() -> None:
    page = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    told = dict(re.findall(r"^\| `(\w+)\.csv`(?: \(\d\))? \| `([\w, ]+)`", page, re.MULTILINE))
    files = {path.stem: pd.read_csv(path, nrows=0).columns for path in (PUBLISHED / "results").glob("*.csv")}
    for name, columns in told.items():
        assert set(columns.split(", ")) <= {*files.get(name, columns.split(", "))}, name
    assert all(f"`{name}.csv`" in page for name in {*files, *OPTIONAL, *EVALUATION})


def test_published_averages_are_linked_to_where_they_were_read() -> None:
    page = (ROOT / "docs" / "numbers.md").read_text(encoding="utf-8")
    rows = pd.read_csv(PARAMS_FOLDER / "published.csv", dtype=str, keep_default_na=False)
    rows = rows[(rows["language"] == "Avg") & (rows["metric"] == "accuracy_pct") & (rows["system"] != "")]
    rows = rows[rows["base_size"].isin(["7B", "13B"])]
    assert len(rows) > 50
    for row in rows.itertuples():
        line = f"#L{row.line}" if row.line.isdigit() else ""
        cell = f"[{row.value}]({row.url}{line})" if row.url else row.value
        (told,) = [t for t in page.splitlines() if t.startswith(f"| {row.system} {row.base_size} | {row.benchmark} |")]
        assert cell in told, (cell, told)
    tolerance = params.load("qalign-7b").evaluation.tolerance
    assert (
        f"Within {tolerance['mgsm']} points of the published average on mGSM, and within {tolerance['msvamp']}" in page
    )
    assert f"within ±{tolerance['mgsm']} points" in README


PUBLISHED = ROOT / "figures" / "mini"
ROWS = {  # how README's table of Table 4 calls the systems
    "X→En questions (10,800)": "QAlign",
    "X→En questions (1,350)": "X→En questions (150)",
    "X→En responses (1,350)": "X→En responses",
    "En→X responses (1,350)": "En→X responses",
    "X→En generic sentences (1,350)": "X→En FLORES",
    "En→X questions (10,800)": "En→X questions",
    "none": "MonoReason",
    "shuffled pairs (10,800)": "Shuffled pairs",
    "foreign questions alone (11,618)": "Questions alone",
}


def shown_rows() -> dict[str, list[str]]:
    """The rows of README's tables: first cell → the others."""
    lines = [re.split(r"\s*\|\s*", line.strip())[1:-1] for line in README.splitlines() if line.startswith("| ")]
    return {cells[0]: cells[1:] for cells in lines}


def signed(values: pd.Series, prefix: str) -> str:
    value, low, high = (f"{values[f'{prefix}{end}']:+.1f}".replace("-", "−") for end in ("", "_low", "_high"))
    return f"{value} [{low}, {high}]"


def test_accuracies_are_those_of_the_results() -> None:
    rows = shown_rows()
    accuracy = pd.read_csv(PUBLISHED / "results" / "accuracy.csv").query("scorer == 'paper'")
    floor = pd.read_csv(PUBLISHED / "results" / "floor.csv").assign(system="floor")
    table = pd.concat([accuracy, floor])
    titles = rows["mean of nine languages / English (%)"]
    assert {"floor", "MonoReason", "QAlign"} < set(titles)
    for benchmark, name in (("mgsm", "mGSM"), ("msvamp", "mSVAMP")):
        here = table[table["benchmark"] == benchmark]
        for system, said in zip(titles, rows[name], strict=True):
            mine = here[here["system"] == system]
            english, others = (
                mine.loc[chosen, "accuracy"].mean() for chosen in (mine.language == "en", mine.language != "en")
            )
            assert said == f"{others:.{0 if system == 'floor' else 1}f} / {english:.0f}", (name, system)


def test_table_4_is_that_of_the_results() -> None:
    rows = shown_rows()
    table = pd.read_csv(PUBLISHED / "table-4-ablation.csv").query("benchmark == 'mgsm'").set_index("system")
    assert set(ROWS.values()) == set(table.index)
    for said, system in ROWS.items():
        values = table.loc[system]
        kind = "to_control" if pd.notna(values["to_control"]) else "to_ours"
        beside = signed(values, kind) if system not in ("QAlign", "MonoReason", "X→En questions (150)") else ""
        assert rows[said] == [f"{values['non_english']:.1f}", beside], said


def test_what_came_of_the_claim_is_said_as_it_came() -> None:
    found = pd.read_csv(PUBLISHED / "results" / "primary.csv")
    claim, english = (found[found["outcome"] == name] for name in ("primary", "english"))
    assert (claim["verdict"] == "shown").all()
    assert len(claim) == len(english) == 3
    assert "it holds in all three seeds" in README
    for row in claim.itertuples():
        assert f"{row.estimate:.1f} points (95% interval {row.low:.1f} to {row.high:.1f})" in README
    assert "**Not shown**: that English is kept" in README
    assert not (english["verdict"] == "shown").any()
    for row in english.itertuples():
        assert f"{abs(row.estimate):.1f} points lower" in README
