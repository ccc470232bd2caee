"""Read what scoring needs: benchmark questions with gold answers, and predictions, ours or brought from elsewhere."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from qalign_core.data.rows import BadRow, check_text, loads, read_lines
from qalign_core.languages import CODES

GOLD_FIELDS = ("index", "question", "answer")
PREDICTION_FIELDS = ("index", "question", "response", "finish_reason")


def _json_lines(path: Path) -> list[dict]:
    """The objects of a JSON-lines file.

    Raises:
        ValueError: naming the file and the line that is not a JSON object.
    """
    rows = []
    for number, line in enumerate(read_lines(path), start=1):
        try:
            row = loads(line)
        except json.JSONDecodeError as error:
            raise BadRow(
                f"{path}, line {number}: not JSON ({error.msg}); if the file was cut off, generate it again"
            ) from None
        if not isinstance(row, dict):
            raise BadRow(f"{path}, line {number}: expected a JSON object, found {type(row).__name__}")
        rows.append(row)
    return rows


def _field(row: dict, name: str, path: Path, number: int) -> Any:
    try:
        return row[name]
    except KeyError:
        raise BadRow(
            f"{path}, line {number}: no field {name!r}; the line has {', '.join(sorted(row))}. "
            "Name the fields with fields={'response': '...'}"
        ) from None


def _whole(index: Any, path: Path, number: int) -> int:
    if isinstance(index, bool) or not str(index).isdecimal():
        raise BadRow(f"{path}, line {number}: the index is {index!r}; it must be the question's number, from 0")
    return int(index)


def _language_files(folder: Path, benchmark: str, languages: Iterable[str] | None) -> list[tuple[str, Path]]:
    """(language, path) of a benchmark's files, in the tables' order of languages."""
    wanted = [code for code in CODES if (folder / benchmark / f"{code}.jsonl").is_file()]
    if languages is not None:
        wanted = list(languages)
    paths = [(code, folder / benchmark / f"{code}.jsonl") for code in wanted]
    missing = [str(path) for _, path in paths if not path.is_file()]
    if missing:
        raise FileNotFoundError(f"missing: {', '.join(missing)}")
    if not paths:
        expected = folder / benchmark / "<language>.jsonl"
        raise FileNotFoundError(f"no file {expected} with a language of {', '.join(CODES)}")
    return paths


def read_benchmark(folder: str | Path, benchmark: str, languages: Iterable[str] | None = None) -> pd.DataFrame:
    """Questions and gold answers of a run's `data/benchmarks` folder.

    Args:
        folder: holds `<benchmark>/<language>.jsonl` with rows `index, question, answer`.
        benchmark: `"mgsm"` or `"msvamp"`.
        languages: codes that must be there; without it, all that are.

    Returns:
        Columns `benchmark, language, index, question, gold, file`; `gold` is text.

    Raises:
        FileNotFoundError: for a missing file, naming it.
        ValueError: for a broken line, a missing field or a row without a gold answer, naming file and row.
    """
    records = []
    for code, path in _language_files(Path(folder), benchmark, languages):
        for number, row in enumerate(_json_lines(path), start=1):
            index, question, answer = (_field(row, name, path, number) for name in GOLD_FIELDS)
            gold = "" if answer is None else str(answer).strip()
            if not gold:
                raise BadRow(f"{path}, line {number} (index {index}): the gold answer is missing")
            records.append((benchmark, code, int(index), question, gold, str(path)))
    return pd.DataFrame(records, columns=["benchmark", "language", "index", "question", "gold", "file"])


def read_predictions(
    folder: str | Path,
    benchmarks: Iterable[str] | None = None,
    languages: Iterable[str] | None = None,
    fields: Mapping[str, str | None] | None = None,
) -> pd.DataFrame:
    """Predictions of one model: `<folder>/<benchmark>/<language>.jsonl`.

    Args:
        folder: the folder of a generation job, or responses made elsewhere in the same layout.
        benchmarks: names that must be there; without it, every subfolder with such files.
        languages: codes that must be there; without it, all that are.
        fields: names of the fields in the files where they differ from ours, such as `{"response": "output"}`. `None`
            for a field that the files do not have: rows are then numbered in file order (`index`), questions are not
            compared (`question`), and how a response ended stays unknown (`finish_reason`).

    Returns:
        Columns `benchmark, language, index, question, response, finish_reason, file`.

    Raises:
        FileNotFoundError: for a missing folder or file, naming it.
        ValueError: for a broken line, a missing field or a response that is not text, naming file and line.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is not a folder: no predictions there")
    names = {name: name for name in PREDICTION_FIELDS} | dict(fields or {})
    unknown = set(names) - set(PREDICTION_FIELDS)
    if unknown:
        raise BadRow(f"unknown fields {sorted(unknown)}; known: {', '.join(PREDICTION_FIELDS)}")
    if names["response"] is None:
        raise BadRow("fields: 'response' cannot be None; without responses there is nothing to score")
    if benchmarks is None:
        benchmarks = sorted({path.parent.name for path in folder.glob("*/*.jsonl") if path.stem in CODES})
        if not benchmarks:
            raise FileNotFoundError(f"{folder} has no <benchmark>/<language>.jsonl")
    records = []
    for benchmark in benchmarks:
        for code, path in _language_files(folder, benchmark, languages):
            for number, row in enumerate(_json_lines(path), start=1):
                wanted = (names[name] for name in PREDICTION_FIELDS)
                values: list[Any] = [None if name is None else _field(row, name, path, number) for name in wanted]
                index, question, response, finish_reason = values
                if not isinstance(response, str):
                    raise BadRow(f"{path}, line {number}: the response is {type(response).__name__}, not text")
                check_text(response, f"{path}, line {number}: the response")
                if names["question"] is not None and not isinstance(question, str):
                    raise BadRow(f"{path}, line {number}: the question is {type(question).__name__}, not text")
                index = number - 1 if names["index"] is None else _whole(index, path, number)
                records.append((benchmark, code, index, question, response, finish_reason, str(path)))
    return pd.DataFrame(records, columns=["benchmark", "language", *PREDICTION_FIELDS, "file"])
