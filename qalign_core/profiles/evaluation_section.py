"""The section `evaluation` of a profile: which benchmarks are asked, how answers are generated, and what is tested."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from qalign_core.profiles.data_section import RESERVED
from qalign_core.profiles.schema import BENCHMARKS, AbsoluteFolder, Benchmark, Positive, Section, SystemName, Tokens
from qalign_core.profiles.schema_errors import nearest


class Test(Section):
    """How one benchmark is asked; `folder` holds the files of one that is not the paper's."""

    max_new_tokens: Tokens
    limit: Positive | None = None
    folder: AbsoluteFolder | None = None


Pair = Annotated[list[SystemName], Field(min_length=2, max_length=2)]


class EvaluationSection(Section):
    """What is generated and how it is scored."""

    benchmarks: Annotated[dict[Benchmark, Test], Field(min_length=1)]
    translation: Test | None = None
    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    batch_tokens: Positive | Literal["auto"] = "auto"
    scorer: Literal["paper", "fixed"] = "paper"
    pairs: list[Pair] | None = None  # differences to test; without it, the paper's three
    corrected: dict[Benchmark, AbsoluteFolder] = {}  # folders of data with a benchmark's corrected questions or golds

    @field_validator("benchmarks")
    @classmethod
    def _own_ones_have_folders(cls, benchmarks: dict[str, Test]) -> dict[str, Test]:
        for name, test in benchmarks.items():
            if name in (*RESERVED, "split") or name.endswith("-intervals"):  # tables are named so
                raise ValueError(f"{name}: this name is taken; choose another for the benchmark")
            if name not in BENCHMARKS and test.folder is None:
                raise ValueError(
                    f"{name}: unknown benchmark{nearest(name, BENCHMARKS)}; known: {', '.join(BENCHMARKS)}; one of "
                    "your own needs `folder`, which holds a file a language: <language>.jsonl with question and answer"
                )
            if name in BENCHMARKS and test.folder is not None:
                raise ValueError(
                    f"{name}: folder is for benchmarks of your own; data.sources.{name} says where this is"
                )
        return benchmarks

    @model_validator(mode="after")
    def _corrected_is_asked(self) -> EvaluationSection:
        for name in self.corrected:
            if name not in self.benchmarks:
                hint = nearest(name, list(self.benchmarks))
                raise ValueError(f"corrected.{name}: the benchmark is not among evaluation.benchmarks{hint}")
        return self
