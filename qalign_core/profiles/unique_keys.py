"""YAML that says everything once: PyYAML lets the last of two equal keys win, in silence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from yaml.constructor import ConstructorError


class RepeatedKeyError(yaml.YAMLError):
    """A key that one mapping holds twice; the message names it and both lines."""


class UniqueKeys(yaml.SafeLoader):
    """The safe loader, refusing a mapping that holds a key twice.

    Raises:
        RepeatedKeyError: with the key, its line and the line on which it stood first.
    """

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        """Checked as written, so that a key may still override one that `<<` merges in."""
        mapping = super().compose_mapping_node(anchor)
        lines: dict[tuple[str, str], int] = {}
        for key, _ in mapping.value:
            if not isinstance(key, yaml.ScalarNode):
                continue
            line, same = key.start_mark.line + 1, (key.tag, key.value)
            if same in lines:
                raise RepeatedKeyError(
                    f"line {line}: the key {key.value!r} is already there on line {lines[same]}; keep one of the two"
                )
            lines[same] = line
        return mapping

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        """A value; one that only looks like a number or a date (`2026-13-45`) is an error of YAML, with its line."""
        try:
            return super().construct_object(node, deep)
        except ValueError as error:
            raise ConstructorError(None, None, str(error), node.start_mark) from None


def read(path: Path) -> Any:
    """What a YAML file says.

    Raises:
        ValueError: for a repeated key or a file that is no YAML, with its path.
    """
    try:
        return UniqueKeys(path.read_text(encoding="utf-8")).get_single_data()
    except RepeatedKeyError as error:
        raise ValueError(f"{path}: {error}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not a YAML file: {error}") from None
    except RecursionError:
        raise ValueError(f"{path}: nested too deeply for a YAML file of settings") from None
