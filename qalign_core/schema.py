"""What a profile is made of: strict sections, and the names that data sets, corpora and benchmarks have."""

from __future__ import annotations

import unicodedata
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from qalign_core.languages import CODES

DataSet = Literal["mgsm", "msvamp", "gsm8k", "gsm8kinstruct", "questions", "metamathqa", "flores"]
Size = Literal[DataSet, "dev"]  # of the miniature; dev: questions of a benchmark on which choices may be made
Source = Literal["hub", "repository", "folder", "miniature"]
Corpus = Literal[
    "questions-x-en",
    "questions-en-x",
    "responses-x-en",
    "responses-en-x",
    "flores-x-en",
    "gsm8k",
    "gsm8kinstruct",
    "metamathqa",
]
StageName = Literal[Corpus, "base-text"]  # what the miniature's base is pre-trained on
Benchmark = Literal["mgsm", "msvamp"]
PredictionField = Literal["index", "question", "response", "finish_reason"]
Positive = Annotated[int, Field(gt=0)]


def _known_languages(languages: list[str]) -> list[str]:
    """The codes in the order of the tables; unknown or repeated ones are refused."""
    for code in languages:
        if code not in CODES:
            raise ValueError(f"unknown language code {code!r}; known codes: {', '.join(CODES)}")
    if len(set(languages)) != len(languages):
        raise ValueError("a language is named twice")
    return [code for code in CODES if code in languages]


Languages = Annotated[list[str], Field(min_length=1), AfterValidator(_known_languages)]


def _one_line(name: str) -> str:
    if not name.strip() or any(unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp") for character in name):
        raise ValueError("a system's name must be one line of text that can be printed")
    return name


SystemName = Annotated[str, AfterValidator(_one_line)]


class Section(BaseModel):
    """A part of a profile: no unknown keys, no silent conversion of text to numbers."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)
