"""The numbers written in a text of any of the ten languages, for comparing a translation with its original."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

_THOUSANDS = r"\d{1,3}(?:[ \u00a0\u2009\u202f'’]\d{3})+(?!\d)"
_LITERAL = re.compile(rf"({_THOUSANDS}|\d+(?:[.,٫٬]\d+)*|(?<!\d)\.\d+)\s*-?\s*([^\W\d_]*)")
_GROUPED = re.compile(r"\d{1,3}(?:([.,])\d{3})(?:\1\d{3})*")

# Words and signs behind a number that multiply it; Chinese and Japanese glue them to the next word.
_MULTIPLIERS = {
    **dict.fromkeys(("hundred", "百"), 1e2),
    **dict.fromkeys(("thousand", "k", "mil", "mille", "tausend", "тысяч", "тысячи", "тыс", "elfu"), 1e3),
    **dict.fromkeys(("หมื่น", "万", "萬"), 1e4),
    **dict.fromkeys(("แสน", "লক্ষ", "লাখ"), 1e5),
    **dict.fromkeys(
        ("million", "millions", "millionen", "millón", "millones", "миллион", "миллионов", "миллиона"), 1e6
    ),
    **dict.fromkeys(("ล้าน", "milioni", "মিলিয়ন"), 1e6),
    **dict.fromkeys(("billion", "billions", "milliarden", "milliards", "миллиардов", "bilioni"), 1e9),
    **dict.fromkeys(("亿", "億"), 1e8),
    **dict.fromkeys(("千",), 1e3),
    **dict.fromkeys(("百万",), 1e6),
}


# Chinese and Japanese write 120 million as 1億2000万.
_MYRIADS = re.compile(r"(\d+)[億亿](\d+)[万萬]")


class _Digits(dict):
    """Decimal digits of every script → ASCII digits, for `str.translate`."""

    def __missing__(self, code: int) -> int:
        character = chr(code)
        plain = ord("0") + unicodedata.decimal(character) if unicodedata.category(character) == "Nd" else code
        self[code] = plain
        return plain


_DIGITS = _Digits()


def readings(text: str) -> list[frozenset[float]]:
    """Every number in a text, each as the values it may stand for.

    `1,200` may be 1200 or 1.2 according to the language, `32 million` 32 or 32,000,000; both are kept, because a
    translation is judged by whether it can be read as its original.
    """
    found, text = [], text.translate(_DIGITS)
    for high, low in _MYRIADS.findall(text):
        found.append(frozenset({int(high) * 1e8 + int(low) * 1e4}))
    for literal, behind in _LITERAL.findall(text):
        for values in _values(literal):
            multiplier = _multiplier(behind.lower()) if behind else None
            found.append(frozenset(values if multiplier is None else values | {v * multiplier for v in values}))
    return found


def _multiplier(behind: str) -> float | None:
    """What the word behind a number multiplies it by; in scripts that glue words together, what it begins with."""
    if behind in _MULTIPLIERS or behind.isascii():
        return _MULTIPLIERS.get(behind)
    starts = (behind[:length] for length in range(min(len(behind), 6), 0, -1))
    return next((_MULTIPLIERS[start] for start in starts if start in _MULTIPLIERS and not start.isascii()), None)


def _values(literal: str) -> list[set[float]]:
    """Readings of one literal; several literals if it can only be a list, such as `1,2,3`."""
    literal = re.sub(r"[ \u00a0\u2009\u202f'’]", "", literal).replace("٫", ".").replace("٬", ",")
    separators = [character for character in literal if character in ".,"]
    if len(separators) < 2:
        values = {float(literal.replace(",", "."))}
        if _GROUPED.fullmatch(literal):
            values.add(float(literal.replace(",", "").replace(".", "")))
        return [values]
    last = separators[-1]
    if len(set(separators)) == 1:
        if _GROUPED.fullmatch(literal):
            return [{float(literal.replace(last, ""))}]
    elif last not in separators[:-1]:
        whole, _, decimals = literal.rpartition(last)
        return [{float(re.sub(r"[.,]", "", whole) + "." + decimals)}]
    return [{float(part)} for part in re.split(r"[.,]", literal) if part]


def lost(original: str, translation: str) -> list[float]:
    """The numbers of an original that its translation shows in no reading, in order, each once."""
    shown: set[float] = set().union(*readings(translation))
    missing = [min(values) for values in readings(original) if not values & shown]
    return list(dict.fromkeys(missing))


def small(numbers: Iterable[float], largest: int = 20) -> list[float]:
    """Those that a translator would often write as a word: whole numbers up to `largest`."""
    return [number for number in numbers if number <= largest and number == int(number)]
