"""The section `systems` of a profile: the rows of the tables, each with where its answers come from."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Literal

from pydantic import field_validator, model_validator

from qalign_core.profiles.schema import Corpus, PredictionField, Section, SystemName

if TYPE_CHECKING:
    from qalign_core.params import RunSection


class System(Section):
    """A row of the paper's tables: a lineage of corpora, a published checkpoint, or predictions made elsewhere.

    `checkpoint` is a hub id or a folder. `predictions` is a folder of `<benchmark>/<language>.jsonl`, absolute or
    relative to the current folder; `fields` says how its files name what we call index, question, response and
    finish_reason (null: they do not have it), and `seed` of which of the run's seeds they are (without it, they stand
    beside every seed). With a `translator`, the lineage of another model, questions that are not English are first
    translated by it, and the system answers the translations (translate-test). A system of another table than `main`
    is compared with QAlign and, if it says so, `against` one more: its control of the same size.
    `template` is the prompt of a checkpoint; a lineage is asked as it was trained (`model.template`).
    """

    lineage: list[Corpus] | None = None
    translator: list[Corpus] | None = None
    checkpoint: str | None = None
    revision: str | None = None
    template: Literal["alpaca", "mathoctopus", "metamath", "chat"] = "alpaca"
    predictions: str | None = None
    fields: dict[PredictionField, str | None] | None = None
    seed: int | None = None
    published: str | None = None
    table: Literal["main", "ablation", "control", "study"] = "main"
    against: SystemName | None = None

    @field_validator("predictions")
    @classmethod
    def _absolute(cls, folder: str | None) -> str | None:
        # The notebooks run in a folder of their own: what is relative to here must be made absolute here.
        return None if folder is None else os.path.abspath(os.path.expanduser(folder))

    @model_validator(mode="after")
    def _one_origin(self) -> System:
        if sum(origin is not None for origin in (self.lineage, self.checkpoint, self.predictions)) != 1:
            raise ValueError(
                "give either a lineage (a list of corpora), a checkpoint (a hub id or folder) "
                "or predictions (a folder of responses made elsewhere)"
            )
        if self.lineage is not None and len(set(self.lineage)) != len(self.lineage):
            raise ValueError(f"the lineage {self.lineage} names a corpus twice")
        if self.predictions is None and (self.fields is not None or self.seed is not None):
            raise ValueError("fields and seed describe predictions made elsewhere: they need predictions: <folder>")
        if self.translator is not None and (self.lineage is None or not self.translator):
            raise ValueError(
                "a translator is the lineage of a model that translates, such as [questions-x-en], for a system that "
                "has a lineage itself"
            )
        return self

    def seeds(self, run: RunSection) -> list[int]:
        """The seeds of a run beside which this system stands."""
        return run.seeds if self.seed is None else [self.seed]
