"""Rows of a source → questions with gold answers: mGSM (250 a language), mSVAMP (1,000), or somebody's own."""

from __future__ import annotations

import re
from pathlib import Path

from datasets import Dataset

from qalign_core.data.rows import BadRow, read_json_lines, read_tsv
from qalign_core.languages import language as language_of
from qalign_core.profiles.schema import BENCHMARKS

NUMBER = re.compile(r"[-+]?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?")  # a gold answer, such as 1,000 or 8.0
LONGEST = 20  # characters of a gold answer: numbers of more digits cannot be told apart


def benchmark_files(name: str, language: str) -> tuple[str, ...]:
    """Paths, relative to a data folder, that may hold a benchmark's questions in a language; the first is preferred.

    A benchmark of one's own, of any name, is a folder of `<language>.jsonl` (JSON lines `question, answer`) or
    `<language>.tsv` (question, tab, answer).

    Raises:
        ValueError: for an unknown language, naming the known ones.
    """
    plain = language_of(language).name
    if name == "mgsm":
        return f"mgsm/mgsm_{language}.tsv", f"mgsm/mgsm_{plain}.json"
    if name == "msvamp":
        return (f"msvamp/test_{plain}.json",)
    return f"{language}.jsonl", f"{language}.tsv"


def load_benchmark(name: str, language: str, data_dir: str | Path, *, limit: int | None = None) -> Dataset:
    """The questions of a benchmark in one language, exactly as they stand in the file.

    Args:
        name: `mgsm`, `msvamp`, or another one's.
        language: code, such as `"sw"`.
        data_dir: a folder of data (`mgsm/mgsm_sw.tsv` or `mgsm/mgsm_Swahili.json`; `msvamp/test_Swahili.json`); of a
            benchmark of one's own, the folder that holds its files.
        limit: keep the first so many questions.

    Returns:
        columns `question` and `answer`, both text; row i is the same problem in every language.

    Raises:
        ValueError: for an unknown language, two files of it, a broken row, a blank question, or a gold answer that is
            not a number.
        FileNotFoundError: if there is no such folder, or no file of this language in it.

    Source: NJUNLP/QAlign evaluate/scripts/mgsm_test.py and svamp_test.py (which reads `m_query`, unstripped).
    """
    candidates = benchmark_files(name, language)
    if not Path(data_dir).is_dir():
        key = f"data.sources.{name}" if name in BENCHMARKS else f"evaluation.benchmarks.{name}.folder"
        raise FileNotFoundError(f"no such folder: {data_dir}, in which {name} is looked for; see {key} in the profile")
    both = [c for c in candidates if Path(data_dir, c).is_file()]
    if name not in BENCHMARKS and len(both) > 1:
        raise ValueError(f"{data_dir}: both {' and '.join(both)} are there; keep the one that is meant")
    path = next((Path(data_dir, c) for c in candidates if Path(data_dir, c).is_file()), None)
    if path is None and name not in BENCHMARKS and not any(Path(data_dir).glob("*.[jt]s*")):
        raise ValueError(
            f"unknown benchmark {name!r}; known benchmarks: {', '.join(BENCHMARKS)}; one of your own is a folder with "
            f"a file a language, <language>.jsonl of question and answer, but {data_dir} holds none"
        )
    if path is None:
        remedy = f"fetch {name} (notebook 01, or data.sources.{name} in the profile)"
        raise FileNotFoundError(
            f"no {name} questions in {language_of(language).name}: {data_dir} holds no {' or '.join(candidates)}; "
            f"{remedy if name in BENCHMARKS else 'put it there'}, or leave {language!r} out of data.languages"
        )
    if path.suffix == ".tsv":
        questions = read_tsv(path)
    else:
        fields = {"mgsm": ("query", "response"), "msvamp": ("m_query", "response")}.get(name, ("question", "answer"))
        questions = [(row[fields[0]], row[fields[1]]) for row in read_json_lines(path, fields)]
    for number, (question, answer) in enumerate(questions, start=1):
        _check(f"{path}: line {number}", question, answer)
    kept = questions[:limit]
    return Dataset.from_dict({"question": [q for q, _ in kept], "answer": [a for _, a in kept]})


def _check(where: str, question: str, answer: str) -> None:
    """Refuse a blank question, and a gold answer that scorers would not read alike.

    Raises:
        BadRow: with what is allowed.
    """
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
