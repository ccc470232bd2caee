"""Arithmetic in running text: the equations a response writes down, and those of them that are false."""

from __future__ import annotations

import ast
import math
import operator
import re
from collections.abc import Iterator

from qalign_core.data.numerals import readings

_SIGNS = str.maketrans("×·∙⋅÷−－＋＝（）％／＊", "****/--+=()%/*")
_LATEX = (
    (re.compile(r"\\[dt]?frac\{([^{}]*)\}\{([^{}]*)\}"), r"((\1)/(\2))"),
    (re.compile(r"\\(?:times|cdot)\b"), "*"),
    (re.compile(r"\\div\b"), "/"),
    (re.compile(r"\{,\}|\\,|\\!"), ","),
    (re.compile(r"\\(?=[$%])|\\[()\[\]]|\\left|\\right"), " "),
)
_CURRENCY = re.compile(r"[$€£¥₹฿৳](?=\s*[-\d(.])|(?<=\d)\s*[$€£¥₹฿৳]")
_TIMES = re.compile(r"(?<=[\d)])\s*[xX]\s*(?=[\d(])|(?<=\S)\s+[xX]\s+(?=[\d(])")
_GROUPING_SPACE = re.compile(r"(?<![\d.,])(\d{1,3})((?:[ \u00a0\u2009\u202f]\d{3})+)(?![\d])")
_WORD = r"[^\s\d+\-*/=()<>\[\]{}%.,;:!?|\\^_√\"'。、，；：！？।]+"
# Up to three words between a number and an operator: its unit, such as `cans`, `km/h`, `minutes per egg`.
_UNIT = re.compile(rf"(?<=\d)(%?)[ \t]*((?:/[ \t]?)?{_WORD}(?:[ \t/]{_WORD}){{0,2}})(?=[ \t]*[+\-*/=)])")
_BREAK = re.compile(r"[\n\r;!?。，、；：！？।|<>]|[.,:](?=\s|$)")
_RUN = re.compile(r"[-+(]*[\d.][\d.,+\-*/()%=\s]*=[\d.,+\-*/()%=\s]*[\d)%]")
# What makes a number part of something else when it stands right before or behind it, such as 10:30, x2 or 2^3.
_PART_BEFORE = re.compile(
    r"[A-Za-z\u00c0-\u024f\u0400-\u04ff\d:^_√.,]$|[+\-*/^=(]\s*[^\s\d]{0,20}\s*$"
    r"|(?:[\d%]|half|third|quarter|percent|Hälfte|Drittel|moitié|mitad|tercio|половин\w)\s*(?:of|von|de|от)?\s*$"
)
_PART_BEHIND = re.compile(r"[:^_]\d|[A-Za-z](?![A-Za-z])|\s*[+\-*/(]\s*\S|\s*[^\W\d_]+\s*[+\-*/]\s*[\w(]")
_PERCENT = re.compile(r"([\d.,]+)\s*%")
_FRACTION = re.compile(r"/\s*(\d+)/(\d+)")  # 60 / 3/4 is meant as 60 / (3/4)
_NUMBER = re.compile(r"\d[\d.,]*|\.\d+")
_POINT = re.compile(r"(?:\d+|\d{1,3}(?:,\d{3})+|\d{1,2}(?:,\d{2})+,\d{3})?(?:\.\d+)?")
_COMMA = re.compile(r"(?:\d+|\d{1,3}(?:\.\d{3})+)(?:,\d+)?")
_OPERATORS = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv}
_LONGEST = 200  # characters of an equation; longer ones are loops


def false_equations(text: str) -> list[str]:
    """The equations of a text that do not hold, as they were read.

    Only what computes on its left and can be read with certainty is judged: `+ - * /`, brackets, percents, numbers in
    any script and with any marks, units. A side may be rounded or cut off behind its last decimal; a quotient may also
    be a whole number. In `2 + 3 = 5 * 4 = 20`, which takes up a result and goes on, each step counts by itself. An
    equation is false only if it is so by every way of reading its numbers: `1.500` may be 1500 or 1.5. Equations with
    unknowns are left out.
    """
    return [equation for equation in _equations(text) if _is_false(equation)]


def _equations(text: str) -> Iterator[str]:
    """Stretches of digits, operators and at least one `=`, units taken out."""
    if "=" not in text and "＝" not in text:
        return
    text = text.translate(_SIGNS)
    for pattern, plain in _LATEX:
        text = pattern.sub(plain, text)
    text = _TIMES.sub("*", _CURRENCY.sub(" ", text))
    for part in _BREAK.split(text):
        part = _UNIT.sub(_without_unit, _GROUPING_SPACE.sub(_joined, part))
        for match in _RUN.finditer(part):
            before, behind = part[: match.start()], part[match.end() :]
            if len(match[0]) <= _LONGEST and not _PART_BEFORE.search(before):
                equation = match[0].strip()
                yield equation.rpartition("=")[0] if _goes_on(behind) else equation


def _joined(match: re.Match[str]) -> str:
    return re.sub(r"\s", "", match[0])


def _without_unit(match: re.Match[str]) -> str:
    """A number's unit taken away, unless it is an unknown (one Latin letter) or a multiplier (million, 万)."""
    unit = match[2]
    unknown = any(len(word) == 1 and word.isascii() for word in unit.split())
    return match[0] if unknown or _multiplies(unit) else match[1] + " "


def _multiplies(word: str) -> bool:
    return readings(f"1 {word}") != readings("1")


def _goes_on(behind: str) -> bool:
    """Whether the last side of an equation is not all of it: a time, a power, an unknown, a word that multiplies."""
    word = re.match(rf"\s*({_WORD})", behind)
    return bool(_PART_BEHIND.match(behind)) or (word is not None and _multiplies(word[1]))


# ------------------------------------------------------------------------------------------------- judging


def _is_false(equation: str) -> bool:
    forms = [equation.replace("%", ""), _PERCENT.sub(r"(\1/100)", equation)] if "%" in equation else [equation]
    forms += [_FRACTION.sub(r"/(\1/\2)", form) for form in forms if _FRACTION.search(form)]
    verdicts = [_differs([_read(side, mark) for side in form.split("=")]) for mark in (".", ",") for form in forms]
    known = [verdict for verdict in verdicts if verdict is not None]
    return bool(known) and all(known)


def _read(side: str, decimal: str) -> tuple[ast.expr, int] | None:
    """A side as an expression, and the decimals of its last number; None if it is none by this convention."""
    pattern = _POINT if decimal == "." else _COMMA
    decimals = 0
    plain, end = [], 0
    for match in _NUMBER.finditer(side):
        if not pattern.fullmatch(match[0]):
            return None
        whole, _, fraction = match[0].partition(decimal)
        whole = re.sub(r"\D", "", whole)
        decimals = len(fraction)
        plain += [side[end : match.start()], str(int(whole or "0")) + (f".{_ascii(fraction)}" if fraction else "")]
        end = match.end()
    text = "".join([*plain, side[end:]]).strip()
    surplus = text.count("(") - text.count(")")
    text = text[surplus:] if surplus > 0 and text.startswith("(" * surplus) else text[: surplus or None]
    try:
        return ast.parse(text.strip(), mode="eval").body, decimals
    except (SyntaxError, RecursionError, MemoryError):
        return None


def _ascii(digits: str) -> str:
    return "".join(str(int(digit)) for digit in digits)


def _differs(sides: list[tuple[ast.expr, int] | None]) -> bool | None:
    """Whether two neighbouring sides differ; None if no two can be compared."""
    compared = []
    for left, right in zip(sides, sides[1:], strict=False):
        if left is None or right is None or not isinstance(left[0], ast.BinOp):
            continue
        a, b = _value(left[0]), _value(right[0])
        if a is not None and b is not None and math.isfinite(a) and math.isfinite(b):
            values = [b, _value(_first(right[0]))]
            quotient = isinstance(left[0].op, ast.Div)
            compared.append(not any(v is not None and _equal(a, left[1], v, right[1], quotient) for v in values))
    return any(compared) if compared else None


def _first(node: ast.expr) -> ast.expr:
    while isinstance(node, ast.BinOp):
        node = node.left
    return node


def _value(node: ast.expr) -> float | None:
    """What an expression of numbers and the four operations comes to; None for any other, and for a division by 0."""
    if isinstance(node, ast.Constant) and isinstance(node.value, int | float):
        return float(node.value)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.UAdd):
        inner = _value(node.operand)
        return None if inner is None else -inner if isinstance(node.op, ast.USub) else inner
    if isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
        left, right = _value(node.left), _value(node.right)
        if left is None or right is None or (isinstance(node.op, ast.Div) and right == 0):
            return None
        return _OPERATORS[type(node.op)](left, right)
    return None


def _equal(a: float, decimals_a: int, b: float, decimals_b: int, quotient: bool) -> bool:
    """Whether two values are the same up to the last decimal that is written; of a quotient, up to a whole number."""
    if math.isclose(a, b, rel_tol=1e-9, abs_tol=1e-9):
        return True
    decimals = max(decimals_a, decimals_b)
    if (decimals == 0 and not (quotient and abs(a) >= 1)) or max(abs(a), abs(b)) > 1e15:
        return False
    step = 10.0**-decimals
    cut = math.isclose(math.trunc(a / step + 1e-9), math.trunc(b / step + 1e-9))
    return cut or abs(a - b) <= step / 2 + 1e-9
