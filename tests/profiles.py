"""Shipped profiles with some of their keys set otherwise."""

from __future__ import annotations

from typing import Any

from qalign_core import params
from qalign_core.params import PARAMS_FOLDER, Profile


def with_changes(sections: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """The sections themselves, changed: `data__miniature__split: value` sets data.miniature.split."""
    for path, value in changes.items():
        *way, last = path.split("__")
        place = sections
        for key in way:
            place = place.setdefault(key, {})
        place[last] = value
    return sections


def sections_of(name: str, **changes: Any) -> dict[str, Any]:
    """The sections of a shipped profile."""
    return with_changes(params.read_sections(PARAMS_FOLDER / f"{name}.yaml"), changes)


def changed(name: str, **changes: Any) -> Profile:
    return params.validate(sections_of(name, **changes))
