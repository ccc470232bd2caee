"""The last number of a response, read in two ways: as the authors' evaluation does, and as a person would."""

from __future__ import annotations

import re
from functools import cache

from qalign_core.languages import CODES, LANGUAGES

_THIN = "\u00a0\u2009\u202f"  # no-break, thin and narrow no-break space
# In reversed text: from the last digit back over everything that may belong to a number.
_LAST_RUN = re.compile(r"\d[\d.,{}\\! " + _THIN + "]*")
_COMMA_BETWEEN_DIGITS = re.compile(r"(\d),(\d)")
_PAPER_NUMBER = re.compile(r"\d+(?:\.\d+)?")
_REFERENCE_AT_END = re.compile(r"(?<=[\d.!?%)。！？।])\s*(?:\[\d{1,3}\])+[\s.。]*$")
_LATEX_THOUSANDS = re.compile(r"(?<=\d)(?:\{,\}|,\\!|\\,)(?=\d{3})")
# A minus sign that negates: not behind a digit, a Latin or Cyrillic letter or a closing bracket (there it subtracts).
_NEGATIVE = re.compile(r"(?:^|[^\dA-Za-z\u00c0-\u024f\u0370-\u04ff)\]}%\s]|(?:^|[^\d\s])\s+)[-−－﹣–‐](?:\\?[$€£¥₹])?$")

_PLAIN = r"(?P<point_plain>\d+(?:\.\d+)?|(?<![\w.])\.\d+)"
_DECIMAL_COMMA = r"(?P<comma_plain>(?<!\d,)\d+,\d+(?!,?\d))"
_DECIMAL_COMMA_LANGUAGES = ("de", "fr", "ru", "es")  # of the paper's; another language says so itself
_SPACE_LANGUAGES = ("fr", "ru", "es")  # an ordinary space groups thousands


def _grouped(separators: str, decimal: str = "") -> str:
    """Regular expression of `12|345|678`: equal separators, groups of exactly three, at least one of them."""
    lead = r"(?<!\d)(?![0০๐０])\d{1,3}"
    alternatives = [rf"{lead}(?:[{s}]\d{{3}})+(?!\d|[{s}]\d)" for s in separators]
    return f"(?:{'|'.join(alternatives)})" + (rf"(?:[{decimal}]\d+)?" if decimal else "")


@cache
def _number_pattern(code: str | None, decimal_comma: bool = False) -> re.Pattern[str]:
    """All ways to write a number under the conventions of a language; `None` is an unknown language."""
    thin = _THIN
    if decimal_comma or code in _DECIMAL_COMMA_LANGUAGES:
        separators = "." + thin + (" " if code in _SPACE_LANGUAGES else "")
        parts = [
            f"(?P<comma_grouped>{_grouped(separators, ',')})",
            f"(?P<point_grouped>{_grouped(',', '.')})",
            _DECIMAL_COMMA,
            _PLAIN,
        ]
    elif code is None:
        parts = [
            f"(?P<comma_grouped>{_grouped(thin + ' ', ',')}|(?<!\\d)\\d{{1,3}}(?:\\.\\d{{3}})+,\\d+|"
            f"(?<!\\d)\\d{{1,3}}(?:\\.\\d{{3}}){{2,}}(?!\\d))",
            f"(?P<point_grouped>{_grouped(',' + thin + ' ', '.')})",
            _DECIMAL_COMMA,
            _PLAIN,
        ]
    else:
        parts = [f"(?P<point_grouped>{_grouped(',' + thin, '.')})", _PLAIN]
        if code == "bn":  # lakh and crore: 1,00,000
            parts.insert(0, r"(?P<point_indian>(?<!\d)\d{1,2}(?:,\d{2})+,\d{3}(?!\d)(?:\.\d+)?)")
    return re.compile("|".join(parts))


_NOT_A_DIGIT_OR_POINT = re.compile(r"[^\d.]")
_NOT_A_DIGIT_OR_COMMA = re.compile(r"[^\d,]")


def has_number(text: str) -> bool:
    """Whether `text` has a digit at all; without one both readings are 0.0."""
    return _LAST_RUN.search(text) is not None


def _last_run(text: str) -> tuple[int, int] | None:
    """Start and end of the last stretch of digits and separators: whatever the last number is, it lies inside."""
    match = _LAST_RUN.search(text[::-1])
    return (len(text) - match.end(), len(text) - match.start()) if match else None


def paper_number(text: str) -> float:
    """`extract_number(text, "paper")`."""
    run = _last_run(text)
    if run is None:
        return 0.0
    joined = _COMMA_BETWEEN_DIGITS.sub(r"\1\2", text[run[0] : run[1]])
    return float(_PAPER_NUMBER.findall(joined)[-1])


def fixed_number(text: str, code: str | None) -> float:
    """`extract_number(text, "fixed", code)`, for a code that is known to be good."""
    if text.rstrip(" \n.。").endswith("]"):
        text = _REFERENCE_AT_END.sub("", text)
    if "\\" in text or "{," in text:
        text = _LATEX_THOUSANDS.sub(",", text)
    run = _last_run(text)
    if run is None:
        return 0.0
    pattern = _number_pattern(code, code in LANGUAGES and LANGUAGES[code].decimal_comma)
    for match in pattern.finditer(text, *run):  # noqa: B007 - the last match is wanted
        pass
    if (match.lastgroup or "").startswith("comma"):
        value = float(_NOT_A_DIGIT_OR_COMMA.sub("", match[0]).replace(",", "."))
    else:
        value = float(_NOT_A_DIGIT_OR_POINT.sub("", match[0]))
    start = match.start()
    return -value if _NEGATIVE.search(text[max(0, start - 8) : start]) else value


def extract_number(text: str, mode: str = "paper", language: str | None = None) -> float:
    """The last number of a response; 0.0 where it has none.

    `paper`: every comma between two digits is deleted (one pass from the left), then the last `digits[.digits]` is the
    number. Signs do not count, Unicode digits do: `3,5` is 35, `1 234` is 234, `-5` is 5, `18. [1]` is 1, `1,2,3` is 3.

    `fixed`: the last number as it is meant.

    * A minus sign in front of a number (or of its currency sign) counts, unless it subtracts: `-5` and `= -$5` are -5,
      `10-5`, `10 - 5` and `x-5` end in 5.
    * In German, French, Russian and Spanish a comma is the decimal mark and a point in front of exactly three digits
      groups thousands. A comma in front of exactly three digits groups as well (`80,000`): in the real German and
      French question pairs all 27 such commas do. In other languages a comma groups (in Bengali also as `1,00,000`)
      and a point is decimal; commas that do neither separate a list.
    * No-break and thin spaces group thousands everywhere; an ordinary space in French, Russian and Spanish.
      LaTeX's `1{,}234`, `1,\\!234` and `1\\,234` are 1234. `.5` is 0.5.
    * References at the end do not count: `18. [1]` is 18; `The answer is [18]` stays 18.
    * Without a language, what is unambiguous is read in either way (`3,5` is 3.5, `1.234.567` and `1 234` are whole
      numbers); `1.234` keeps its point.

    Fractions, powers, number words and units such as 万 are not evaluated in either mode.

    Args:
        text: a response or a gold answer.
        mode: `"paper"` or `"fixed"`.
        language: code of the language the text is written in; only `fixed` looks at it.

    Raises:
        ValueError: for an unknown mode or language.

    Source: `paper` is microsoft/MathOctopus's evaluation as used by NJUNLP/QAlign at a65ee63.
    """
    if mode == "paper":
        return paper_number(text)
    if mode != "fixed":
        raise ValueError(f"mode must be 'paper' or 'fixed', not {mode!r}")
    if language is not None and language not in LANGUAGES:
        raise ValueError(f"unknown language code {language!r}; known codes: {', '.join(CODES)}, or None")
    return fixed_number(text, language)
