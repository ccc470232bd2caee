"""What a profile is made of: strict sections, and the names that data sets, corpora and benchmarks have."""

from __future__ import annotations

import os
import unicodedata
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from qalign_core.languages import CODES

DataSet = Literal["mgsm", "msvamp", "gsm8k", "gsm8kinstruct", "questions", "metamathqa", "flores"]
Size = Literal[DataSet, "dev"]  # of the miniature; dev: questions of a benchmark on which choices may be made
Source = Literal["hub", "repository", "folder", "miniature"]
KnownCorpus = Literal[
    "questions-x-en",
    "questions-en-x",
    "responses-x-en",
    "responses-en-x",
    "flores-x-en",
    "gsm8k",
    "gsm8kinstruct",
    "metamathqa",
]
Style = Literal["calibrated", "equations", "restating"]  # of the miniature's solutions
BENCHMARKS = ("mgsm", "msvamp")  # the paper's
# One of these, or one that the profile describes; its name becomes that of a folder and of files.
BENCHMARK_NAME = r"^[a-z0-9]+(-[a-z0-9]+)*$"
LONGEST_NAME = 40  # characters
Benchmark = Annotated[str, Field(pattern=BENCHMARK_NAME, max_length=LONGEST_NAME)]
PredictionField = Literal["index", "question", "response", "finish_reason"]
Positive = Annotated[int, Field(gt=0, le=10**9)]
Devices = Annotated[int, Field(gt=0, le=1024)]  # of one machine
Batch = Annotated[int, Field(gt=0, le=2**16)]  # sequences, or micro-batches
Tokens = Annotated[int, Field(gt=0, le=2**20)]  # of one sequence
Rate = Annotated[float, Field(gt=0, le=10)]


def _updates(number: int) -> int:
    if number != -1 and not 0 < number <= 10**9:
        raise ValueError("must be a number of updates from 1 to 1000000000, or -1 for whole epochs")
    return number


Updates = Annotated[int, AfterValidator(_updates)]


# A corpus's name becomes that of a folder: a known one, or one that the profile describes in `data.corpora`.
Corpus = Annotated[str, Field(pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$", max_length=60)]


def _known_languages(languages: list[str]) -> list[str]:
    """The codes in the order of the tables; unknown or repeated ones are refused."""
    for code in languages:
        if code not in CODES:
            raise ValueError(
                f"unknown language code {code!r}; known codes: {', '.join(CODES)}; others are described in "
                "data.new_languages"
            )
    if len(set(languages)) != len(languages):
        raise ValueError("a language is named twice")
    return [code for code in CODES if code in languages]


Languages = Annotated[list[str], Field(min_length=1), AfterValidator(_known_languages)]


def _one_line(name: str) -> str:
    if not name.strip() or any(unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp") for character in name):
        raise ValueError("a system's name must be one line of text that can be printed")
    if name.lstrip().startswith("_"):
        raise ValueError("a system's name must not begin with _: figures leave such names out of their legends")
    return name


SystemName = Annotated[str, AfterValidator(_one_line)]


def _absolute(folder: str) -> str:
    # The notebooks run in a folder of their own: what is relative to here must be made absolute here.
    return os.path.abspath(os.path.expanduser(folder))


AbsoluteFolder = Annotated[str, Field(min_length=1), AfterValidator(_absolute)]


class Section(BaseModel):
    """A part of a profile: no unknown keys, no silent conversion of text to numbers."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)
