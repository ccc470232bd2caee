"""Rows of a source → questions with gold answers: mGSM (250 per language), mSVAMP (1,000), or one of the user's own."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset

from qalign_core.languages import CODES
from qalign_core.languages import language as language_of
from qalign_core.params import BENCHMARKS
from qalign_core.runs import BadRow, read_lines, read_rows
from qalign_core.scorer import gold_number, pick

NUMBER = re.compile(r"[-+]?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?")  # a gold answer of the paper's, such as 1,000 or 8.0
LONGEST = 20  # characters of a gold answer: a float cannot tell numbers of more digits apart
KINDS = ("jsonl", "json", "parquet", "tsv")  # of a file of one's own
FIELDS = {"mgsm": ("query", "response"), "msvamp": ("m_query", "response")}  # question and answer in JSON files


def benchmark_files(name: str, language: str) -> tuple[str, ...]:
    """Paths, relative to a data folder, that may hold a benchmark's questions in a language; the first is preferred."""
    plain = language_of(language).name
    if name == "mgsm":
        return f"mgsm/mgsm_{language}.tsv", f"mgsm/mgsm_{plain}.json"
    if name == "msvamp":
        return (f"msvamp/test_{plain}.json",)
    return tuple(f"{language}.{kind}" for kind in KINDS)


def load_benchmark(
    name: str,
    language: str,
    data_dir: str | Path,
    *,
    fields: Mapping[Any, str] | None = None,
    drop: Collection[int] = (),
) -> Dataset:
    """The questions of a benchmark in one language, exactly as they stand in the file.

    Args:
        name: `mgsm`, `msvamp`, or one of the user's own.
        language: code, such as `"sw"`.
        data_dir: a data folder as `sources` describes; for a benchmark of one's own, the folder of `<language>.jsonl`
            (or `.json`, `.parquet`; question, answer) or `<language>.tsv`.
        fields: of a benchmark of one's own, where its `question` and `answer` are, as `scorer.pick` reads it; without
            it the answer is `answer_number`, where there is one.
        drop: rows (from 0) that are left out.

    Returns:
        columns `question` and `answer`, both text; row i is the same problem in every language. Gold answers of one's
        own are read by the marks of `language` and written plainly: in German `70.000` is 70000.

    Raises:
        ValueError: for a broken row, blank questions or gold answers that are not numbers (all are listed), a row to be
            dropped that is not there, or two files of a language.
        FileNotFoundError: if there is no such folder, or no file of this language in it.

    Source: NJUNLP/QAlign evaluate/scripts/mgsm_test.py and svamp_test.py (which reads `m_query`, unstripped).
    """
    folder, candidates, paper = Path(data_dir), benchmark_files(name, language), name in BENCHMARKS
    if not folder.is_dir():
        key = f"data.sources.{name}" if paper else f"evaluation.benchmarks.{name}.folder"
        raise FileNotFoundError(f"no such folder: {data_dir}, in which {name} is looked for; see {key} in the profile")
    there = [candidate for candidate in candidates if (folder / candidate).is_file()]
    if not paper and len(there) > 1:
        raise ValueError(f"{data_dir}: both {' and '.join(there)} are there; keep the one that is meant")
    if not paper and not there and not any(path.suffix[1:] in KINDS for path in folder.iterdir()):
        raise ValueError(
            f"unknown benchmark {name!r}; known benchmarks: {', '.join(BENCHMARKS)}; one of your own is a folder with "
            f"one file per language, <language>.jsonl of question and answer, but {data_dir} holds none"
        )
    if not there:
        remedy = f"fetch {name} (notebook 01, or data.sources.{name} in the profile)" if paper else "put it there"
        lacks = f"no {name} questions in {language_of(language).name}: {data_dir} holds no {' or '.join(candidates)}"
        raise FileNotFoundError(f"{lacks}; {remedy}, or leave {language!r} out of data.languages")
    path = folder / there[0]
    if path.suffix == ".tsv":  # unquoted, no header; a question may hold a tab, an answer may not
        split = [line.rpartition("\t") for line in read_lines(path)]
        if bad := next((number for number, (_, tab, _) in enumerate(split, start=1) if not tab), None):
            form = "each line is question<TAB>answer, so repair this line (a question must not contain a line break)"
            raise BadRow(f"{path}: line {bad}: no tab; {form}")
        rows = [(question, answer) for question, _, answer in split]
    elif paper:
        rows = [(row[FIELDS[name][0]], row[FIELDS[name][1]]) for row in read_rows(path, FIELDS[name])]
    else:
        rows = [_own(row, fields or {}, f"{path}: line {i}") for i, row in enumerate(read_rows(path), start=1)]
    if beyond := [row for row in drop if row >= len(rows)]:
        raise ValueError(f"evaluation.benchmarks.{name}.drop: {path} has no rows {beyond}, only 0 to {len(rows) - 1}")
    kept = {row: pair for row, pair in enumerate(rows) if row not in drop}
    golds = {row: _gold(answer, None if paper else language) for row, (_, answer) in kept.items()}
    if refused := [row for row, (question, _) in kept.items() if golds[row] is None or not question.strip()]:
        _refuse(f"{path}: line {refused[0] + 1}", name, kept[refused[0]], refused, language)
    return Dataset.from_dict({"question": [question for question, _ in kept.values()], "answer": list(golds.values())})


def _own(row: dict[str, Any], fields: Mapping[Any, str], where: str) -> tuple[str, Any]:
    """Question and answer of a row of one's own; the answer may be a number or text."""
    answer = "answer" if row.get("answer_number") is None else "answer_number"
    question = pick(row, fields.get("question", "question"), where)
    gold = pick(row, fields.get("answer", answer), where)
    if not isinstance(question, str):
        raise BadRow(f"{where}: the question is {type(question).__name__}, not text")
    return question, gold


def _gold(answer: Any, language: str | None) -> str | None:
    """A gold answer as it is stored: the paper's (no language) as it is, one's own plainly; None for what is none."""
    if language is None:
        return answer if NUMBER.fullmatch(answer.strip()) and len(answer.strip()) <= LONGEST else None
    is_number = isinstance(answer, int | float) and not isinstance(answer, bool)
    value = float(answer) if is_number else gold_number(str(answer), language)
    text = np.format_float_positional(value, trim="-") if value is not None and np.isfinite(value) else ""
    return text if 0 < len(text) <= LONGEST else None


def _refuse(where: str, name: str, first: tuple[str, Any], rows: Sequence[int], language: str) -> None:
    """BadRow for rows (from 0) that cannot be asked: the first in full, the others by number."""
    others = f" {len(rows)} such rows in all: {', '.join(map(str, rows[:50]))} (from 0)." if rows[1:] else ""
    way = f"Mend them, or leave them out of every language: evaluation.benchmarks.{name}.drop: {list(rows[:50])}"
    if not first[0].strip():
        raise BadRow(f"{where}: the question is blank.{others} {way}")
    marks = "commas only between thousands (1,000 or 3.5)"
    marks = marks if name in BENCHMARKS else f"with the marks of {language_of(language).name}, no words beside it"
    raise BadRow(
        f"{where}: the gold answer {str(first[1])[:80]!r} must be a number and nothing else, of at most {LONGEST} "
        f"characters, {marks}; are the columns swapped, or is there one too many?{others} {way}"
    )


def corrected(rows: list[dict[str, Any]], name: str, language: str, folder: str | Path) -> list[dict[str, Any]]:
    """Rows `index, question, answer` of a benchmark with the corrections of `<language>.jsonl` (or `.json`,
    `.parquet`): rows of `index` (from 0), question and answer; what is absent or null stays as it is.
    """
    found = {row["index"]: dict(row) for row in rows}
    if not any(Path(folder, f"{code}.{kind}").is_file() for code in CODES for kind in KINDS[:3]):
        fields = "index, question, answer"
        raise FileNotFoundError(f"{folder}: no <language>.jsonl of corrections, which {name} needs: {fields}")
    for path in (Path(folder, f"{language}.{kind}") for kind in KINDS[:3]):
        for number, change in enumerate(read_rows(path) if path.is_file() else [], start=1):
            where, change = f"{path}: line {number}", {key: value for key, value in change.items() if value is not None}
            index = pick(change, "index", where)
            if index not in found:
                raise BadRow(f"{where}: {name} corrects rows 0 to {len(rows) - 1}, and there is no row {index!r}")
            if not {"question", "answer", "answer_number"} & change.keys():
                raise BadRow(f"{where}: neither question nor answer is corrected; the line has {', '.join(change)}")
            old = found[index]
            question, answer = _own({"question": old["question"], "answer": old["answer"], **change}, {}, where)
            gold = _gold(answer, language) if {"answer", "answer_number"} & change.keys() else answer
            if gold is None or not question.strip():
                _refuse(where, name, (question, answer), [index], language)
            found[index] |= {"question": question, "answer": gold}
    return list(found.values())
