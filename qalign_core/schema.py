"""What a profile is made of: strict sections, and the names that data sets, corpora and benchmarks have."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

DataSet = Literal["mgsm", "msvamp", "gsm8k", "gsm8kinstruct", "questions", "metamathqa", "flores"]
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


class Section(BaseModel):
    """A part of a profile: no unknown keys, no silent conversion of text to numbers."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)
