"""Rows of a data file, checked where they enter: text lines, JSON lines, a JSON array, Parquet.

Every error names the file, the line and what to do; nothing is skipped.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any


class BadRow(ValueError):  # noqa: N818 - it names a row, the word a reader looks for
    """A row or a file that cannot be used; the message says which, why and what to do."""


def require(path: Path, remedy: str = "") -> Path:
    """`path` if it is a file.

    Raises:
        FileNotFoundError: with the path and the remedy.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist" + (f"; {remedy}" if remedy else ""))
    return path


def read_text(path: Path) -> str:
    """The text of a UTF-8 file, line ends as in Python's text mode.

    Raises:
        FileNotFoundError, BadRow: for an absent file or another encoding, with the line where UTF-8 breaks.
    """
    data = require(path).read_bytes()
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise BadRow(
            f"{path}: line {line}: not UTF-8 (byte 0x{data[error.start]:02x}); save the file as UTF-8, "
            f"for example: iconv -f <its encoding> -t UTF-8"
        ) from None
    return text.replace("\r\n", "\n").replace("\r", "\n")


def read_lines(path: Path) -> list[str]:
    """The lines of a text file without their ends; blank ones are kept, so that parallel files stay aligned."""
    lines = read_text(path).split("\n")  # not splitlines, which also splits at U+2028 inside a question
    if lines[-1] == "":
        lines.pop()
    if not lines:
        raise BadRow(f"{path}: the file is empty; fetch it again")
    return lines


def loads(text: str) -> Any:
    """A JSON text's value; what JSON allows and Python cannot hold is a `json.JSONDecodeError`, too."""
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        raise
    except (ValueError, RecursionError):
        too_much = "a number of thousands of digits, or lists nested thousands deep"
        raise json.JSONDecodeError(too_much, text, 0) from None


def check_text(text: str, where: str) -> None:
    """Refuse text that no file can hold.

    Raises:
        BadRow: for half of a surrogate pair, such as JSON's `"\\ud83d"` alone.
    """
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        half = text[error.start].encode("ascii", "backslashreplace").decode()
        raise BadRow(f"{where} holds {half}, half a character whose other half was cut off; repair it") from None


def read_json_lines(path: Path, fields: Sequence[str]) -> list[dict[str, Any]]:
    """One JSON object a line, each with text in every one of `fields`.

    Raises:
        FileNotFoundError, BadRow: for an absent file, broken JSON, a missing or non-text field, an id used twice.
    """
    found = []
    for number, line in enumerate(read_lines(path), start=1):
        try:
            found.append((f"line {number}", loads(line)))
        except json.JSONDecodeError as error:
            raise BadRow(
                f"{path}: line {number}: not JSON ({error.msg}, column {error.colno}); "
                f"the file needs one JSON object a line, so repair this line or fetch the file again"
            ) from None
    return _checked(found, path, fields)


def read_json_array(path: Path, fields: Sequence[str]) -> list[dict[str, Any]]:
    """A file that is one JSON array of objects, each with text in every one of `fields`; else as `read_json_lines`."""
    try:
        values = loads(read_text(path))
    except json.JSONDecodeError as error:
        raise BadRow(
            f"{path}: line {error.lineno}: not JSON ({error.msg}, column {error.colno}); "
            f"the file needs to be one JSON array, so it may have been cut off: fetch it again"
        ) from None
    if not isinstance(values, list) or not values:
        raise BadRow(f"{path}: expected a JSON array of rows, found {_kind(values)}; fetch the file again")
    return _checked(((f"row {i}", row) for i, row in enumerate(values)), path, fields)


def read_parquet(path: Path, fields: Sequence[str]) -> list[dict[str, Any]]:
    """The rows of a Parquet file with at least the text columns `fields`; in the order of its `id`s, if it has any."""
    import pyarrow
    import pyarrow.parquet

    try:
        rows = pyarrow.parquet.read_table(require(path)).to_pylist()
    except pyarrow.ArrowInvalid as error:
        raise BadRow(f"{path}: not a Parquet file ({error}); fetch it again") from None
    found = _checked(((f"row {i}", row) for i, row in enumerate(rows)), path, fields)
    return sorted(found, key=lambda row: row["id"]) if found and "id" in found[0] else found


def _checked(placed: Iterable[tuple[str, Any]], path: Path, fields: Sequence[str]) -> list[dict[str, Any]]:
    """The rows, each of which comes with its place in the file, such as `line 3`."""
    found: list[dict[str, Any]] = []
    ids: dict[str, str] = {}  # id → the place that uses it
    for place, row in placed:
        where = f"{path}: {place}"
        if not isinstance(row, dict):
            raise BadRow(f"{where}: expected a JSON object, found {_kind(row)}")
        for field in fields:
            if field not in row:
                has = ", ".join(map(str, row)) or "none"
                raise BadRow(f"{where}: field {field!r} is missing (its fields: {has}); add it or fetch the file again")
            if not isinstance(row[field], str):
                raise BadRow(f"{where}: field {field!r} is {_kind(row[field])}; it must be text, in double quotes")
            check_text(row[field], f"{where}: field {field!r}")
        if "id" in row and ids.setdefault(str(row["id"]), place) != place:
            key = str(row["id"])
            raise BadRow(f"{where}: id {key!r} was already used in {ids[key]}; give each row its own")
        found.append(row)
    return found


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "text", bool: "true/false", int: "a number", float: "a number"}
    return "null" if value is None else names[type(value)]
