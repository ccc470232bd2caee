"""Rows of a source → questions with gold answers: mGSM (250 a language) and mSVAMP (1,000 a language)."""

from __future__ import annotations

import re
from pathlib import Path

from datasets import Dataset

from qalign_core.languages import language as language_of
from qalign_core.rows import BadRow, read_json_lines, read_tsv

NUMBER = re.compile(r"[-+]?\d[\d.,]*")  # a gold answer, such as 1,000 or 8.0
BENCHMARKS = ("mgsm", "msvamp")


def benchmark_files(name: str, language: str) -> tuple[str, ...]:
    """Paths, relative to a data folder, that may hold a benchmark's questions in a language; the first is preferred.

    Raises:
        ValueError: for an unknown benchmark or language, naming the known ones.
    """
    plain = language_of(language).name
    if name == "mgsm":
        return f"mgsm/mgsm_{language}.tsv", f"mgsm/mgsm_{plain}.json"
    if name == "msvamp":
        return (f"msvamp/test_{plain}.json",)
    raise ValueError(f"unknown benchmark {name!r}; known benchmarks: {', '.join(BENCHMARKS)}")


def load_benchmark(name: str, language: str, data_dir: str | Path, *, limit: int | None = None) -> Dataset:
    """The questions of a benchmark in one language, exactly as they stand in the file.

    Args:
        name: `mgsm` or `msvamp`.
        language: code, such as `"sw"`.
        data_dir: a folder of data (`mgsm/mgsm_sw.tsv` or `mgsm/mgsm_Swahili.json`; `msvamp/test_Swahili.json`).
        limit: keep the first so many questions.

    Returns:
        columns `question` and `answer`, both text; row i is the same problem in every language.

    Raises:
        ValueError: for an unknown name, a broken row, or a gold answer that is not a number.
        FileNotFoundError: if the data folder has no file of this language.

    Source: NJUNLP/QAlign evaluate/scripts/mgsm_test.py and svamp_test.py (which reads `m_query`, unstripped).
    """
    candidates = benchmark_files(name, language)
    path = next((Path(data_dir, c) for c in candidates if Path(data_dir, c).is_file()), None)
    if path is None:
        raise FileNotFoundError(
            f"no {name} questions in {language_of(language).name}: {data_dir} holds no {' or '.join(candidates)}; "
            f"fetch {name} (notebook 01, or data.sources.{name} in the profile), or leave {language!r} out of "
            f"data.languages"
        )
    if path.suffix == ".tsv":
        questions = read_tsv(path)
    else:
        asked = "query" if name == "mgsm" else "m_query"
        questions = [(row[asked], row["response"]) for row in read_json_lines(path, (asked, "response"))]
    for number, (_, answer) in enumerate(questions, start=1):
        if not any(character.isdigit() for character in answer):
            raise BadRow(f"{path}: line {number}: the gold answer {answer!r} holds no number; every question needs one")
        if not NUMBER.fullmatch(answer.strip()):
            raise BadRow(
                f"{path}: line {number}: the gold answer {answer[:80]!r} must be a number and nothing else; are the "
                f"columns swapped, or is there one too many?"
            )
    kept = questions[:limit]
    return Dataset.from_dict({"question": [q for q, _ in kept], "answer": [a for _, a in kept]})
