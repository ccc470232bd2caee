"""YAML that says everything once: PyYAML lets the last of two equal keys win, in silence."""

from __future__ import annotations

from typing import Any

import yaml


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
