"""Rows of a source → questions with gold answers: mGSM (250 per language), mSVAMP (1,000), or one of the user's own."""

from __future__ import annotations

import re
from pathlib import Path

from datasets import Dataset

from qalign_core.languages import language as language_of
from qalign_core.params import BENCHMARKS
from qalign_core.runs import BadRow, read_lines, read_rows

NUMBER = re.compile(r"[-+]?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?")  # a gold answer, such as 1,000 or 8.0
LONGEST = 20  # characters of a gold answer: a float cannot tell numbers of more digits apart


def benchmark_files(name: str, language: str) -> tuple[str, ...]:
    """Paths, relative to a data folder, that may hold a benchmark's questions in a language; the first is preferred."""
    plain = language_of(language).name
    if name == "mgsm":
        return f"mgsm/mgsm_{language}.tsv", f"mgsm/mgsm_{plain}.json"
    if name == "msvamp":
        return (f"msvamp/test_{plain}.json",)
    return f"{language}.jsonl", f"{language}.tsv"


def load_benchmark(name: str, language: str, data_dir: str | Path, *, limit: int | None = None) -> Dataset:
    """The questions of a benchmark in one language, exactly as they stand in the file.

    Args:
        name: `mgsm`, `msvamp`, or one of the user's own.
        language: code, such as `"sw"`.
        data_dir: a data folder as `sources` describes; for a benchmark of one's own, the folder of `<language>.jsonl`
            (question, answer) or `<language>.tsv`.
        limit: keep the first so many questions.

    Returns:
        columns `question` and `answer`, both text; row i is the same problem in every language.

    Raises:
        ValueError: for a broken row, a blank question, a gold answer that is not a number, or two files of a language.
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
    if not paper and not there and not any(folder.glob("*.[jt]s*")):
        raise ValueError(
            f"unknown benchmark {name!r}; known benchmarks: {', '.join(BENCHMARKS)}; one of your own is a folder with "
            f"one file per language, <language>.jsonl of question and answer, but {data_dir} holds none"
        )
    if not there:
        remedy = f"fetch {name} (notebook 01, or data.sources.{name} in the profile)" if paper else "put it there"
        raise FileNotFoundError(
            f"no {name} questions in {language_of(language).name}: {data_dir} holds no {' or '.join(candidates)}; "
            f"{remedy}, or leave {language!r} out of data.languages"
        )
    path = folder / there[0]
    if path.suffix == ".tsv":  # unquoted, no header; a question may hold a tab, an answer may not
        rows = [line.rpartition("\t") for line in read_lines(path)]
        if bad := next((number for number, (_, tab, _) in enumerate(rows, start=1) if not tab), None):
            raise BadRow(
                f"{path}: line {bad}: no tab; each line is question<TAB>answer, so repair this line "
                f"(a question must not contain a line break)"
            )
        questions = [(question, answer) for question, _, answer in rows]
    else:
        fields = {"mgsm": ("query", "response"), "msvamp": ("m_query", "response")}.get(name, ("question", "answer"))
        questions = [(row[fields[0]], row[fields[1]]) for row in read_rows(path, fields)]
    for number, (question, answer) in enumerate(questions, start=1):
        where = f"{path}: line {number}"
        if not question.strip():
            raise BadRow(f"{where}: the question is blank; leave the row out of every language's file")
        if not any(character.isdigit() for character in answer):
            raise BadRow(f"{where}: the gold answer {answer!r} holds no number; every question needs one")
        if not NUMBER.fullmatch(answer.strip()) or len(answer.strip()) > LONGEST:
            raise BadRow(
                f"{where}: the gold answer {answer[:80]!r} must be a number and nothing else, of at most {LONGEST} "
                "characters: digits, a point before decimals, commas only between thousands (1,000 or 3.5); are the "
                "columns swapped, or is there one too many?"
            )
    kept = questions[:limit]
    return Dataset.from_dict({"question": [q for q, _ in kept], "answer": [a for _, a in kept]})
