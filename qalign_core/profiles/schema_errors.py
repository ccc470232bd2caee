"""What is wrong with a profile, for people: the key, what is allowed there, and the nearest known word."""

from __future__ import annotations

import difflib
import reprlib
import typing
from typing import Any

from pydantic import BaseModel, ValidationError


def nearest(word: str, known: typing.Iterable[str]) -> str:
    """`; did you mean 'x'?` for the closest known word, or nothing."""
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f" (did you mean {close[0]!r}?)" if close else ""


class _Shortened(reprlib.Repr):
    """Values as Python writes them, cut where they are long: aliases make a small file say something huge."""

    def __init__(self) -> None:
        super().__init__()
        self.maxlevel, self.maxstring, self.maxother = 3, 200, 200
        self.maxlist = self.maxdict = self.maxtuple = self.maxset = 12

    def repr_dict(self, x: dict[Any, Any], level: int) -> str:
        if level <= 0:
            return "{...}"
        shown = [f"{self.repr1(k, level - 1)}: {self.repr1(v, level - 1)}" for k, v in list(x.items())[: self.maxdict]]
        return "{" + ", ".join([*shown, "..."] if len(x) > self.maxdict else shown) + "}"


def readable(value: Any) -> str:
    """A value as text that any terminal can print."""
    return str(value).encode("utf-8", "backslashreplace").decode()


def _inner(annotation: Any) -> Any:
    """An annotation without `Annotated[…]` and `… | None` around it."""
    while not isinstance(annotation, type) and typing.get_origin(annotation) not in (dict, list):
        choices = [a for a in typing.get_args(annotation) if a is not type(None)]
        if not choices:
            return annotation
        annotation = choices[0]
    return annotation


def _allowed_keys(schema: type[BaseModel], location: tuple[Any, ...]) -> list[str]:
    """The keys a section at `location` may have, following sections, dictionaries and lists of sections."""
    current: Any = schema
    for key in location:
        if isinstance(current, type) and issubclass(current, BaseModel):
            current = _inner(current.model_fields[key].annotation)
        else:
            current = _inner(typing.get_args(current)[-1])
    return list(current.model_fields)


def _nearest_literal(problem: typing.Mapping[str, Any]) -> str:
    expected = problem.get("ctx", {}).get("expected", "").replace(" or ", ", ")
    return nearest(str(problem["input"]), [word.strip("'") for word in expected.split(", ")])


def describe(error: ValidationError, schema: type[BaseModel]) -> str:
    """A validation error for people: a line for each key, with what is allowed and the nearest known key."""
    lines, shown = [], _Shortened()
    for problem in error.errors(include_url=False):
        location = tuple(problem["loc"])
        key = ".".join(str(part) for part in location if part != "[key]")
        if problem["type"] == "extra_forbidden":
            known = _allowed_keys(schema, location[:-1])
            hint = nearest(str(location[-1]), known)
            lines.append(f"  {key}: unknown key{hint}; allowed here: {', '.join(known)}")
        elif problem["type"] == "missing":
            lines.append(f"  {key}: is missing")
        elif location == ():  # about several sections: the message names them
            lines.append(f"  {problem['msg'].removeprefix('Value error, ')}")
        elif "[key]" in location and problem["type"] == "string_type":
            lines.append(f"  {key}: a name must be text, so put it in quotes; got {shown.repr(problem['input'])}")
        elif "[key]" in location and problem["type"] == "literal_error":
            allowed = problem.get("ctx", {}).get("expected", "")
            lines.append(f"  {key}: unknown name{_nearest_literal(problem)}; allowed: {allowed}")
        else:
            message = problem["msg"].removeprefix("Value error, ").replace("Input should be", "must be")
            hint = _nearest_literal(problem) if problem["type"] == "literal_error" else ""
            if problem["type"].startswith(("float", "int")) and isinstance(problem["input"], str):
                hint = " (YAML reads 2e-5 as text: write 2.0e-5)"
            lines.append(f"  {key}: {message}; got {shown.repr(problem['input'])}{hint}")
    return readable("\n".join(lines))
