"""`training.lora` of a profile; it moves into `params`."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from qalign_core.profiles.schema import Positive, Section


class LoraSection(Section):
    """`training.lora`: the size of the matrices and where they stand.

    The output of a layer with weight W (O, I) becomes (W + alpha/rank · B·A)·x, with A (rank, I) drawn at random and
    B (O, rank) zero at the start. `embeddings: true` trains the input and output embeddings whole besides.
    """

    rank: Positive = 64
    alpha: Positive = 128
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    target_modules: Annotated[list[str], Field(min_length=1)] = [
        *("q_proj", "k_proj", "v_proj", "o_proj"),
        *("gate_proj", "up_proj", "down_proj"),
    ]
    embeddings: bool = False
