"""From raw responses to scored answers and accuracy.

Scoring reads text files only; it needs neither a model nor a GPU. Every prediction is scored by every entry of
`SCORERS`: `paper` is what the authors' evaluation does, quirk for quirk; `fixed` reads the same last number as a
person would (see `extract_number`). A further scorer is one more entry.
"""

from __future__ import annotations

import re
import unicodedata
import warnings
from collections.abc import Callable, Collection, Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
from py3langid.langid import MODEL_FILE, LanguageIdentifier

from qalign_core.languages import CODES, LANGUAGES, PAPER_CODES, Language, language
from qalign_core.runs import BadRow, check_text, read_json_lines, read_rows

# ------------------------------------------------------------------------------------------------- the last number

_THIN = "\u00a0\u2009\u202f"  # no-break, thin and narrow no-break space
# In reversed text: from the last digit back over everything that may belong to a number.
_LAST_RUN = re.compile(r"\d[\d.,{}\\! " + _THIN + "]*")
_COMMA_BETWEEN_DIGITS = re.compile(r"(\d),(\d)")
_PAPER_NUMBER = re.compile(r"\d+(?:\.\d+)?")
_REFERENCE_AT_END = re.compile(r"(?<=[\d.!?%)。！？।])\s*(?:\[\d{1,3}\])+[\s.。]*$")
_LATEX_THOUSANDS = re.compile(r"(?<=\d)(?:\{,\}|,\\!|\\,)(?=\d{3})")
_LATEX_FRACTION = re.compile(r"\\[dt]?frac\s*(?:\{(\d+)\}\s*\{(\d+)\}|(\d)(\d))")
# `3/4` and `1 3/4`; not what is calculated (`12/3=4`), nor dates.
_FRACTION = re.compile(r"(?<![\d/.,])(?:(\d+) +)?(\d+) ?/ ?(\d+)(?!\s*[/=]|[.,]?\d)")
_THOUSANDS_MARK = re.compile(r"(?<=\d)['’ʼ`´٬](?=\d{3}(?!\d))")  # Swiss 40'000, Arabic ٤٠٬٠٠٠
_WIDE_MARK = re.compile(r"(?<=[０-９])[，．](?=[０-９])|٫")  # １，２３４．５ and ١٢٫٥
# ½ and its like, as `1/2`.
_SMALL_FRACTIONS = {c: " " + unicodedata.normalize("NFKC", chr(c)) for c in (0xBC, 0xBD, 0xBE, *range(0x2150, 0x215F))}
_CHINESE_UNITS = {"": 1.0, "百": 1e2, "千": 1e3, "万": 1e4, "萬": 1e4, "億": 1e8, "亿": 1e8}
_CHINESE_PART = re.compile(r"(\d[\d,]*(?:\.\d+)?)([百千]?) ?([万萬億亿]?)")
_UNITS = r"(?:[百千](?![克米瓦卡分])[万萬億亿]?| ?[万萬億亿])"
# `12.5万`, `1億2000万`, `4万5000`, `2千万`; 千克 and 千米 are units of weight and length, 百分 a percentage.
_CHINESE = re.compile(rf"(?<![\d,.])(?:\d[\d,]{{0,15}}(?:\.\d+)?{_UNITS})+(?:\d+)?")
_ANSWER = r"(?<!to )\banswer|\bantwort|\bréponse|\brespuesta|\bответ(?:ом)?|\bjibu|উত্তর(?:টি|টা)?|答案|答え|答|正解"
_ANSWER += "|คำตอบ(?:สุดท้าย|ที่ถูกต้อง)?"
_IS = r"(?:is|would be|ist|lautet|est|es|ni|это|равен|является|составляет)\b|হলো|হল|হচ্ছে|คือ|是|为|為|等于|は|[—–=]"
# "The answer is", "La réponse finale est": a few words may stand before a verb.
_VERB = rf"(?:(?:\s+[^\W\d_]{{1,20}}){{1,3}}?\s+(?=\w)|\s*\**\s*)(?:{_IS})\s*[:：]?"
_MARK = re.compile(rf"####|\\boxed\s*\{{|(?:{_ANSWER})(?:{_VERB}|\s*\**\s*[:：])", re.IGNORECASE)
_CALCULATION = re.compile(r"[^\w\n=]*\d[\d\s.,+\-−–*×·÷/()$€£¥%]*=")  # what stands before a result: `3*4=`
# A minus sign that negates: not behind a digit, a Latin or Cyrillic letter or a closing bracket (there it subtracts).
_NEGATIVE = re.compile(r"(?:^|[^\dA-Za-z\u00c0-\u024f\u0370-\u04ff)\]}%\s]|(?:^|[^\d\s])\s+)[-−－﹣–‐](?:\\?[$€£¥₹])?$")
_PLAIN = r"(?P<point_plain>\d+(?:\.\d+)?|(?<![\w.])\.\d+)"
_DECIMAL_COMMA = r"(?P<comma_plain>(?<!\d,)\d+,\d+(?!,?\d))"
_DECIMAL_COMMA_LANGUAGES = ("de", "fr", "ru", "es")  # of the paper's; another language says so itself


def _grouped(separators: str, decimal: str) -> str:
    """Regular expression of `12|345|678`: equal separators, groups of exactly three, at least one of them."""
    lead = r"(?<!\d)(?![0০๐０])\d{1,3}"
    alternatives = [rf"{lead}(?:[{s}]\d{{3}})+(?!\d|[{s}]\d)" for s in separators]
    return f"(?:{'|'.join(alternatives)})(?:[{decimal}]\\d+)?"


@cache
def _number_pattern(code: str | None, decimal_comma: bool) -> re.Pattern[str]:
    """All ways to write a number under the conventions of a language; `None` is an unknown language."""
    comma, point = "", _grouped("," + _THIN, ".")
    if decimal_comma or code in _DECIMAL_COMMA_LANGUAGES:
        spaces = _THIN + (" " if code in _DECIMAL_COMMA_LANGUAGES else "")  # in these it groups thousands, too
        comma, point = _grouped("." + spaces, ","), _grouped(",", ".")
    elif code is None:
        points = r"(?<!\d)\d{1,3}(?:\.\d{3})+,\d+|(?<!\d)\d{1,3}(?:\.\d{3}){2,}(?!\d)"
        comma = f"{_grouped(_THIN + ' ', ',')}|{points}"
        point = _grouped("," + _THIN + " ", ".")
    indian = r"(?P<point_indian>(?<!\d)\d{1,2}(?:,\d{2})+,\d{3}(?!\d)(?:\.\d+)?)"  # lakh and crore: 1,00,000
    groups = [f"(?P<comma_grouped>{comma})"] if comma else []
    plain = [_DECIMAL_COMMA, _PLAIN] if comma else [_PLAIN]
    return re.compile("|".join([indian, *groups, f"(?P<point_grouped>{point})", *plain]))


def _last_run(text: str) -> tuple[int, int] | None:
    """Start and end of the last stretch of digits and separators: whatever the last number is, it lies inside."""
    match = _LAST_RUN.search(text[::-1])
    return (len(text) - match.end(), len(text) - match.start()) if match else None


def paper_number(text: str, code: str | None = None) -> float:
    """`extract_number(text, "paper")`; the language does not matter."""
    run = _last_run(text)
    if run is None:
        return 0.0
    joined = _COMMA_BETWEEN_DIGITS.sub(r"\1\2", text[run[0] : run[1]])
    return float(_PAPER_NUMBER.findall(joined)[-1])


def fixed_number(text: str, code: str | None) -> float:
    """`extract_number(text, "fixed", code)`, for a known code."""
    if text.rstrip(" \n.。").endswith("]"):
        text = _REFERENCE_AT_END.sub("", text)
    text, pattern = _plainly_written(text), _pattern_of(code)
    marked = _marked_number(text, pattern)
    run = None if marked else _last_run(text)
    if marked:
        match = marked
    elif run:
        *_, match = pattern.finditer(text, *run)
    else:
        return 0.0
    return _value(match)


def numbers(text: str, code: str | None) -> list[tuple[float, str]]:
    """Every number of a text, each read as `fixed` reads the last one, with the 20 characters behind it."""
    text = _plainly_written(text)
    return [(_value(match), text[match.end() : match.end() + 20]) for match in _pattern_of(code).finditer(text)]


def gold_number(text: str, code: str | None) -> float | None:
    """The number that a gold answer is, as `fixed` reads it; None for more than one number, none, or words beside it.

    Of a solution with `####` it is what stands behind the last one; `$` and other currencies, `%` and `\\boxed{…}` may
    stand around it.
    """
    text = re.sub(r"\\boxed\s*\{([^{}]*)\}|\\[()\[\]]", r"\1", _plainly_written(text.rpartition("####")[2]))
    found = list(_pattern_of(code).finditer(text))
    around = text[: found[0].start()] + text[found[0].end() :] if len(found) == 1 else "more than one, or none"
    return _value(found[0]) if re.fullmatch(r"[\s\\$€£¥₹฿৳%.。+\-−–]*", around) else None


def _pattern_of(code: str | None) -> re.Pattern[str]:
    return _number_pattern(code, code in LANGUAGES and LANGUAGES[code].decimal_comma)


def plain_numbers(text: str, code: str | None) -> str:
    """The text with every number as plain digits, a point before decimals, whatever its marks and script; fractions
    stay."""
    return _pattern_of(code).sub(_digits, _plainly_written(text, fractions=False))


def _digits(match: re.Match[str]) -> str:
    comma = (match.lastgroup or "").startswith("comma")
    kept = re.sub(r"[^\d,]" if comma else r"[^\d.]", "", match[0]).replace(",", ".")
    return re.sub(r"\d", lambda digit: str(int(digit[0])), kept).lstrip("0") or "0"


def _value(match: re.Match[str]) -> float:
    """The value of a match of `_number_pattern`, with the sign in front of it."""
    value = float(_digits(match))
    return -value if _NEGATIVE.search(match.string[max(0, match.start() - 8) : match.start()]) else value


def _plainly_written(text: str, *, fractions: bool = True) -> str:
    """The text with LaTeX's numbers, fractions, 万 and the marks of other scripts as plain digits."""

    def fraction(match: re.Match[str]) -> str:
        whole, above, below = (int(part or 0) for part in match.groups())
        if not below:
            return match[0]
        mixed = whole and above < below  # `1 3/4` is one number, `5 12/3` are two
        lead = "" if mixed or match[1] is None else f"{match[1]} "
        return f"{lead}{(whole if mixed else 0) + above / below:.6f}"  # six decimals are never read as thousands

    def chinese(match: re.Match[str]) -> str:
        value = section = 0.0
        for number, small, large in _CHINESE_PART.findall(match[0]):
            section += float(number.replace(",", "")) * _CHINESE_UNITS[small]
            if large:  # `1千2百万`: it multiplies all since the last one
                value, section = value + section * _CHINESE_UNITS[large], 0.0
        value += section
        return f"{value:.0f}" if value.is_integer() else f"{value:.6f}"

    if "\\" in text or "{," in text:
        text = _LATEX_FRACTION.sub(r" \1\3/\2\4", _LATEX_THOUSANDS.sub(",", text))
    text = _WIDE_MARK.sub(lambda mark: "," if mark[0] == "，" else ".", text.translate(_SMALL_FRACTIONS))
    text = _THOUSANDS_MARK.sub("", text.replace("\u2044", "/"))
    text = _CHINESE.sub(chinese, text)
    return _FRACTION.sub(fraction, text) if fractions else text


def _marked_number(text: str, pattern: re.Pattern[str]) -> re.Match[str] | None:
    """The last number marked as the answer, on the line behind its mark: what follows it does not count."""
    for mark in reversed(list(_MARK.finditer(text))[-20:]):  # few and short: responses may loop
        line = text[mark.end() : mark.end() + 500].lstrip().partition("\n")[0]
        while calculation := _CALCULATION.match(line):
            line = line[calculation.end() :]
        numbers = list(pattern.finditer(line))
        if numbers:
            directly = re.fullmatch(r"[^\w\n]*", line[: numbers[0].start()])
            return numbers[0 if directly else -1]
    return None


# name → (text, language it is written in) → the number that is the answer. All of them are always stored.
SCORERS: dict[str, Callable[[str, str | None], float]] = {"paper": paper_number, "fixed": fixed_number}
if TYPE_CHECKING:  # a profile's `evaluation.scorer`
    ScorerName = str
else:
    ScorerName = Literal[tuple(SCORERS)]
TOLERANCE = 1e-3  # two numbers are the same answer when they differ by less


def extract_number(text: str, mode: str = "paper", language: str | None = None) -> float:
    """The last number of a response; 0.0 where it has none.

    `paper`: every comma between two digits is deleted (one pass from the left), then the last `digits[.digits]` is the
    number. Signs do not count, Unicode digits do: `3,5` is 35, `1 234` is 234, `-5` is 5, `18. [1]` is 1, `1,2,3` is 3.

    `fixed`: the last number as it is meant.

    * A minus sign in front of a number (or of its currency sign) counts, unless it subtracts: `10-5` ends in 5.
    * In German, French, Russian and Spanish a comma is the decimal mark and a point in front of exactly three digits
      groups thousands; a comma in front of exactly three digits groups as well (in the real German and French question
      pairs all 27 such commas do). In other languages a comma groups (in Bengali also as `1,00,000`) and a point is
      decimal; commas that do neither separate a list.
    * No-break and thin spaces group thousands everywhere (so do LaTeX's `{,}`, `,\\!` and `\\,`); an ordinary space in
      German, French, Russian and Spanish. References at the end do not count: `18. [1]` is 18.
    * Without a language, what is unambiguous is read in either way: `3,5` is 3.5, `1.234.567` and `1 234` are whole.
    * A marked answer counts before any other number: what stands on the line behind the last `####`, `\\boxed{`,
      "Answer:" or "The (final) answer is" (in the ten languages). Of a calculation there it is the result.
    * Simple fractions (`3/4`, `1 3/4`, `½`, `\\frac{3}{4}`) and 百, 千, 万, 億 are evaluated. Apostrophes (`40'000`),
      Arabic and full-width marks (`１，２３４`) and Indian groups (`2,35,000`) group everywhere.

    Powers and number words are not evaluated in either mode.

    Args:
        language: code of the language the text is written in; `paper` ignores it.

    Raises:
        ValueError: for an unknown mode or language.

    Source: `paper` is microsoft/MathOctopus's evaluation as used by NJUNLP/QAlign at a65ee63.
    """
    if mode not in SCORERS:
        raise ValueError(f"mode must be {' or '.join(map(repr, SCORERS))}, not {mode!r}")
    if language is not None and language not in LANGUAGES:
        raise ValueError(f"unknown language code {language!r}; known codes: {', '.join(CODES)}, or None")
    return SCORERS[mode](text, language)


# ------------------------------------------------------------------------------------------------- language

UNDETERMINED = "und"  # the ISO 639 code for "cannot tell": a response of numbers and names only
_READ_CHARACTERS = 400  # the beginning of a response decides; a loop at its end must not


@cache
def _identifier(codes: tuple[str, ...]) -> LanguageIdentifier:
    """py3langid restricted to those of these languages that it knows."""
    identifier = LanguageIdentifier.from_pickled_model(MODEL_FILE)
    identifier.set_languages([code for code in codes if code in identifier.nb_classes])
    return identifier


def _written_in(entry: Language, text: str, expected: str | None) -> bool:
    """Whether a text is in a language that py3langid does not know: by its script, or in Latin letters by its words."""
    names = [unicodedata.name(character, "") for character in text if character.isalpha()]
    script = {"HAN": "CJK"}.get(entry.script.upper(), entry.script.upper())  # as Unicode names the letters
    if 2 * sum(name.startswith(f"{script} ") for name in names) <= len(names):
        return False
    if script == "LATIN":
        words = re.findall(r"[^\W\d_]+", unicodedata.normalize("NFC", text).lower())
        return 4 * sum(word in entry.words for word in words) >= max(len(words), 1)
    shared = {"CJK", "HIRAGANA", "KATAKANA", *(LANGUAGES[code].script.upper() for code in PAPER_CODES)}
    return script not in shared or entry.code == expected


def response_language(text: str, expected: str | None = None) -> str:
    """The language `text` is written in, by py3langid: a known code, or `"und"` where nothing tells.

    Only the paper's languages and those that the profile describes are considered. A described language that py3langid
    does not know is told by its script (where that is a paper language's, too, only if it was `expected`, the language
    asked for), or within Latin script by the `words` it was given.
    """
    text = text[:_READ_CHARACTERS]
    if not any(character.isalpha() for character in text):
        return UNDETERMINED
    identifier = _identifier(tuple(LANGUAGES))
    for code in LANGUAGES.keys() - set(identifier.nb_classes):
        if _written_in(LANGUAGES[code], text, expected):
            return code
    features = identifier.instance2fv(text)
    return identifier.nb_classes[identifier.nb_classprobs(features).argmax()] if features.any() else UNDETERMINED


# ------------------------------------------------------------------------------------------------- reading

PREDICTION_FIELDS = ("index", "question", "response", "finish_reason")


def pick(row: dict[str, Any], path: str, where: str) -> Any:
    """A field of a row, also one inside others: `doc.question`, `resps.0.0`; BadRow if it is not there."""
    value: Any = row
    for part in [path] if path in row else path.split("."):
        if isinstance(value, dict) and part in value:
            value = value[part]
        elif isinstance(value, list) and part.isdecimal() and int(part) < len(value):
            value = value[int(part)]
        else:
            has = ", ".join(sorted(row))
            raise BadRow(f"{where}: no field {path!r}; the line has {has}. Name it in `fields`, such as doc.question")
    return value


def prediction_file(folder: str | Path, benchmark: str, code: str, files: str | None = None) -> Path:
    """Where a folder has its predictions: `<benchmark>/<language>.jsonl`, or what the pattern `files` finds there.

    The pattern may hold `{benchmark}`, `{language}` (the code), `{name}` (in English) and `*` for anything; ValueError
    where it finds several files.
    """
    place = files or "{benchmark}/{language}.jsonl"
    for name, value in {"benchmark": benchmark, "language": code, "name": language(code).name}.items():
        place = place.replace(f"{{{name}}}", value)
    found = sorted(Path(folder).glob(place))
    if len(found) > 1:
        raise ValueError(f"{folder}: {place} finds {len(found)} files: {', '.join(path.name for path in found)}")
    return found[0] if found else Path(folder, place)


def read_benchmark(folder: str | Path, benchmark: str, languages: Iterable[str]) -> pd.DataFrame:
    """Questions and gold answers of a run's `data/benchmarks` folder: `benchmark, language, index, question, gold`."""
    records = [
        (benchmark, code, row["index"], row["question"], row["answer"])
        for code in languages
        for row in read_json_lines(prediction_file(folder, benchmark, code))
    ]
    return pd.DataFrame(records, columns=["benchmark", "language", "index", "question", "gold"])


def read_predictions(
    folder: str | Path,
    benchmarks: Iterable[str],
    languages: Iterable[str],
    *,
    fields: Mapping[str, str | None] | None = None,
    files: str | None = None,
    only: str | None = None,
    samples: str | None = None,
) -> pd.DataFrame:
    """Predictions of one model, a file for each benchmark and language.

    Args:
        folder: the folder of a generation job, or responses made elsewhere.
        fields: where the files have our fields, as `pick` reads it, such as `{"response": "resps.0"}`. `None` for a
            field that they lack: rows are then numbered in file order (`index`), questions are not compared
            (`question`), and how a response ended stays unknown (`finish_reason`).
        files: their names, as `prediction_file` reads it.
        only: of lm-evaluation-harness's logs, which have a row for each filter of an answer: the `filter` to read.
        samples: which of several responses to a question counts (a list, or rows of one index): the `first`, or the
            first with the number, as `fixed` reads it, that the `majority` has.

    Returns:
        `benchmark, language, index, question, response, finish_reason, file`. A response that is null is empty.

    Raises:
        FileNotFoundError: for a missing folder or files, naming them.
        ValueError: for a broken line, a missing field or a response that is not text, naming file and line.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is not a folder: no predictions there")
    names: dict[str, str | None] = {**{name: name for name in PREDICTION_FIELDS}, **(fields or {})}
    codes = list(languages)
    paths = {(name, code): prediction_file(folder, name, code, files) for name in benchmarks for code in codes}
    if missing := [str(path) for path in paths.values() if not path.is_file()]:
        raise FileNotFoundError(f"missing: {', '.join(missing)}")
    records: list[dict[str, Any]] = []
    for (benchmark, code), path in paths.items():
        found: dict[int, list[dict[str, Any]]] = {}  # index → its responses
        for position, row in enumerate(_filtered(path, only)):
            where = f"{path}, row {position + 1}"
            values = {ours: None if theirs is None else pick(row, theirs, where) for ours, theirs in names.items()}
            given = position if names["index"] is None else values["index"]
            if isinstance(given, bool) or not str(given).isdecimal():
                raise BadRow(f"{where}: the index is {given!r}; it must be the question's number, from 0")
            index = int(str(given))
            if names["question"] is not None and not isinstance(values["question"], str):
                raise BadRow(f"{where}: the question is {type(values['question']).__name__}, not text")
            given = values["response"]
            for text in (given or [None]) if isinstance(given, list) else [given]:
                if text is not None and not isinstance(text, str):
                    raise BadRow(f"{where}: the response is {type(text).__name__}, not text")
                check_text(text or "", f"{where}: the response")
                key = {"benchmark": benchmark, "language": code, "file": str(path), "index": index}
                found.setdefault(index, []).append({**values, **key, "response": text or ""})
        records += [_sample(rows, code, samples) for rows in found.values()]
    return pd.DataFrame(records, columns=["benchmark", "language", *PREDICTION_FIELDS, "file"])


def _filtered(path: Path, only: str | None) -> list[dict[str, Any]]:
    """The rows of a file; of lm-evaluation-harness's those of one filter."""
    rows = read_rows(path)
    there = list(dict.fromkeys(str(row["filter"]) for row in rows if "filter" in row))
    if (only is None and len(there) > 1) or (only is not None and only not in there):
        raise BadRow(f"{path}: has rows of the filters {', '.join(there) or 'none'}: choose one, `filter: <name>`")
    return [row for row in rows if only is None or row.get("filter") == only]


def _sample(rows: list[dict[str, Any]], code: str, samples: str | None) -> dict[str, Any]:
    """The response that counts."""
    if rows[1:] and samples is None:
        remedy = "of several responses to a question say which counts: `samples: first` or `samples: majority`"
        raise BadRow(f"{rows[0]['file']}: index {rows[0]['index']} occurs more than once; {remedy}")
    if samples == "majority":
        numbered = [row for row in rows if _last_run(row["response"])] or rows
        values = [fixed_number(row["response"], code) for row in numbered]
        return numbered[values.index(max(values, key=values.count))]
    return rows[0]


def fitted(predictions: pd.DataFrame, gold: pd.DataFrame, cut: Collection[str]) -> pd.DataFrame:
    """Predictions made elsewhere, numbered as the questions are: where a file counts from 1, which is said, it is taken
    to count from 0; of the benchmarks in `cut`, which a profile asks in part, what answers the other part is left out.
    """
    parts = []
    for (benchmark, code), rows in predictions.groupby(["benchmark", "language"], sort=False):
        asked = set(gold[(gold["benchmark"] == benchmark) & (gold["language"] == code)]["index"])
        if len(rows) > max(asked) and set(rows["index"]) == set(range(1, len(rows) + 1)):
            warnings.warn(f"{rows['file'].iloc[0]}: its index counts from 1; it is taken to begin at 0", stacklevel=2)
            rows = rows.assign(index=rows["index"] - 1)
        parts.append(rows[rows["index"].isin(asked)] if benchmark in cut else rows)
    return pd.concat(parts, ignore_index=True)


# ------------------------------------------------------------------------------------------------- scoring

_KEY = ["benchmark", "language", "index"]


def _some(index: set[int]) -> str:
    """`3 (index 4, 5, 9)`, shortened after five."""
    listed = ", ".join(map(str, sorted(index)[:5])) + (", ..." if len(index) > 5 else "")
    return f"{len(index)} (index {listed})" if index else "none"


def _check_pairing(predictions: pd.DataFrame, gold: pd.DataFrame) -> None:
    """Every gold question has exactly one prediction and the other way round, and the question texts are equal."""
    golds = {
        key: dict(zip(rows["index"].tolist(), rows["question"], strict=True))
        for key, rows in gold.groupby(["benchmark", "language"], sort=False)
    }
    for key, rows in predictions.groupby(["benchmark", "language"], sort=False):
        expected, where, index = golds.pop(key), rows["file"].iloc[0], rows["index"].tolist()
        asked = dict(zip(index, rows["question"], strict=True))
        if asked.keys() != expected.keys():
            missing, extra = expected.keys() - asked.keys(), asked.keys() - expected.keys()
            raise BadRow(
                f"{where}: the benchmark has {len(expected)} questions; predictions missing: {_some(missing)}, "
                f"too many: {_some(extra)}. Generate what is missing, or score against the benchmark they were made for"
            )
        if other := [n for n, text in asked.items() if isinstance(text, str) and text != expected[n]]:
            first = other[0]
            raise BadRow(
                f"{where}: the question of row {first} is not the benchmark's ({len(other)} differ): these predictions "
                f"are of another run. Prediction: {asked[first][:80]!r}; benchmark: {expected[first][:80]!r}"
            )
    if golds:
        raise ValueError(f"no predictions for {', '.join(f'{code} of {benchmark}' for benchmark, code in golds)}")


def score(predictions: pd.DataFrame, gold: pd.DataFrame, *, system: str, seed: int) -> pd.DataFrame:
    """Score every prediction (of `read_predictions`) by every scorer; `gold` is of `read_benchmark`.

    Returns:
        One row per question: `system, seed, benchmark, language, index, gold, gold_fixed, answer_paper, answer_fixed,
        correct_paper, correct_fixed, has_number, empty, finish_reason, response_language`. The numbers of a response
        are read by the conventions of the language it is written in, which is not always the question's.

    Raises:
        ValueError: for a missing or extra index, or a question that is not the benchmark's, naming file and row.
    """
    _check_pairing(predictions, gold)
    # Gold answers are numbers with English marks, whatever a further scorer looks for in a response.
    fixed = [fixed_number(text, "en") for text in gold["gold"]]
    golds = gold.assign(gold=gold["gold"].map(paper_number), gold_fixed=fixed).drop(columns="question")
    rows = predictions.drop(columns="question").merge(golds, on=_KEY, how="left", sort=False)
    texts = list(zip(rows["response"], rows["language"], strict=True))
    written = {text: response_language(*text) for text in dict.fromkeys(texts)}
    rows = rows.assign(system=system, seed=seed, response_language=[written[text] for text in texts])
    # A response of numbers alone is read as one in the question's language.
    read_as = rows["language"].where(rows["response_language"] == UNDETERMINED, rows["response_language"])
    for mode, number in SCORERS.items():
        rows[f"answer_{mode}"] = [number(text, code) for (text, _), code in zip(texts, read_as, strict=True)]
        with np.errstate(invalid="ignore"):  # a number of more than 308 digits is infinite
            expected = rows["gold" if mode == "paper" else "gold_fixed"]
            rows[f"correct_{mode}"] = (rows[f"answer_{mode}"] - expected).abs() < TOLERANCE
    rows["has_number"] = [_last_run(text) is not None for text, _ in texts]
    rows["empty"] = [not text.strip() for text, _ in texts]
    columns = ["gold", "gold_fixed", *(f"{what}_{mode}" for what in ("answer", "correct") for mode in SCORERS)]
    return rows[["system", "seed", *_KEY, *columns, "has_number", "empty", "finish_reason", "response_language"]]


def accuracy(answers: pd.DataFrame) -> pd.DataFrame:
    """Accuracy (percent) of every system, seed, benchmark and language by every scorer, in the order of `answers`.

    Returns:
        Exactly the columns `system, seed, benchmark, language, scorer, correct, total, accuracy`.
    """
    key = ["system", "seed", "benchmark", "language"]
    grouped, parts = answers.groupby(key, sort=False), []
    for mode in SCORERS:
        counts = grouped[f"correct_{mode}"].agg(correct="sum", total="size").reset_index()
        parts.append(counts.assign(scorer=mode, accuracy=100.0 * counts["correct"] / counts["total"]))
    table = pd.concat(parts).sort_index(kind="stable").reset_index(drop=True)
    return table[[*key, "scorer", "correct", "total", "accuracy"]]


def differences(answers: pd.DataFrame) -> pd.DataFrame:
    """The rows whose answer or correctness depends on the scorer."""
    numbers, right = (answers[[f"{what}_{mode}" for mode in SCORERS]] for what in ("answer", "correct"))
    same = (numbers.sub(numbers.iloc[:, 0], axis=0).abs() < TOLERANCE).all(axis=1) & (right.nunique(axis=1) == 1)
    return answers[~same].reset_index(drop=True)
