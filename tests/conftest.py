"""Fixtures every test may use: the real data and the golden outputs, where they are given."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


def _folder_from_environment(variable: str) -> Path:
    value = os.environ.get(variable)
    if not value:
        pytest.skip(f"{variable} is not set: this test reads files that are not part of the repository")
    folder = Path(value)
    if not folder.is_dir():
        pytest.fail(f"{variable}={value} is not a folder")
    return folder


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of real data, laid out as README.md describes (`QALIGN_DATA_DIR`)."""
    return _folder_from_environment("QALIGN_DATA_DIR")


@pytest.fixture(scope="session")
def reference_dir() -> Path:
    """The folder of published numbers and golden outputs (`QALIGN_REFERENCE_DIR`)."""
    return _folder_from_environment("QALIGN_REFERENCE_DIR")
