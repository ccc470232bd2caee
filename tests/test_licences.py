"""The list of the packages' licences is that of `requirements.txt`, and none is unknown."""

from __future__ import annotations

import email.message
import re
from pathlib import Path

import pytest

from qalign_core.checks import licences, machine_checks
from qalign_core.params import PARAMS_FOLDER

LIST = PARAMS_FOLDER.parent / "THIRD_PARTY.md"


def test_the_list_is_that_of_requirements():
    rows = re.findall(r"^\| ([\w.-]+) \| (\d[\w.]*) \| ", LIST.read_text(encoding="utf-8"), re.MULTILINE)
    assert dict(rows) == machine_checks.required(), "run `make licences`"
    assert len(rows) == len(dict(rows))


def test_the_list_says_what_the_packages_say():
    if machine_checks.packages().state != machine_checks.OK:
        pytest.skip("other versions are installed than requirements.txt pins")
    assert LIST.read_text(encoding="utf-8") == licences.table(), "run `make licences`"


@pytest.mark.parametrize(
    ("words", "expression"),
    [
        ("Apache Software License", "Apache-2.0"),
        ("MIT", "MIT"),
        ("(MIT OR Apache-2.0) AND MPL-2.0", "(MIT OR Apache-2.0) AND MPL-2.0"),
        ("GPL-3.0-only", None),
        ("MIT AND GPL-2.0-or-later", None),
        ("Permission is hereby granted", None),
        ("()", None),
        ("", None),
    ],
)
def test_words_that_are_known_to_mean_a_licence(words: str, expression: str | None):
    assert licences.identifier(words) == expression


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("no-such-package-here==1", "no-such-package-here: 1 is required, but it is not installed here"),
        ("pytest==0.0.1", f"pytest: 0.0.1 is required, but it is {pytest.__version__} here"),
    ],
)
def test_only_what_is_installed_is_listed(tmp_path: Path, line: str, said: str):
    (tmp_path / "requirements.txt").write_text(line)
    with pytest.raises(ValueError, match=said):
        licences.table(tmp_path / "requirements.txt")


def test_a_licence_that_nobody_looked_at_is_refused(monkeypatch):
    said = {"License-Expression": "GPL-3.0-only", "License": "MIT"}
    found = email.message.Message()
    for key, words in said.items():
        found[key] = words
    monkeypatch.setattr(licences.metadata, "metadata", lambda _: found)
    with pytest.raises(ValueError, match="'GPL-3.0-only / MIT / MIT'; add it to"):
        licences.licence("theirs")
