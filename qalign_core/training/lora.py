"""LoRA: small matrices trained beside frozen weights, and added to them in fp32 when the stage ends.

A stage trained so leaves the same plain model folder as full training does: the next stage and the evaluation take the
same road, and a second stage gets new matrices beside the merged weights.

Source: Hu et al., LoRA: Low-Rank Adaptation of Large Language Models (arXiv 2106.09685), section 4.1.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from qalign_core.profiles.schema import Positive, Section

if TYPE_CHECKING:
    import torch
    from peft import PeftModel
    from transformers import PreTrainedModel

ADAPTER = "default"  # peft's name of the only adapter


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


def add_adapters(model: PreTrainedModel, settings: dict[str, Any]) -> PeftModel:
    """Freeze a model and put matrices to be trained beside the weights of its `target_modules`.

    The embeddings stay as they are, the row of an added pad token included, unless `embeddings` is true.

    Args:
        model: with its embeddings already resized.
        settings: the fields of `LoraSection`.

    Raises:
        ValueError: when one of `target_modules` is no linear layer of the model; the model's own are named.
    """
    import torch
    from peft import LoraConfig, TaskType, get_peft_model

    chosen = LoraSection(**settings)
    head = model.get_output_embeddings()
    linear = {
        n.rpartition(".")[2] for n, m in model.named_modules() if isinstance(m, torch.nn.Linear) and m is not head
    }
    if absent := sorted(set(chosen.target_modules) - linear):
        raise ValueError(
            f"training.lora.target_modules: {', '.join(absent)} {'is' if len(absent) == 1 else 'are'} not among the "
            f"model's linear layers, which are {', '.join(sorted(linear))}"
        )
    config = LoraConfig(
        task_type=TaskType.CAUSAL_LM,
        r=chosen.rank,
        lora_alpha=chosen.alpha,
        lora_dropout=chosen.dropout,
        target_modules=list(chosen.target_modules),
        bias="none",
    )
    adapted = get_peft_model(model, config)
    if chosen.embeddings:
        for layer in (model.get_input_embeddings(), head):
            if layer is not None:
                layer.weight.requires_grad_(True)
    return adapted


def plain_name(name: str) -> str:
    """A parameter's name in the model without adapters, such as `model.layers.0.self_attn.q_proj.weight`."""
    return name.removeprefix("base_model.model.").replace(".base_layer.", ".")


def is_adapter(name: str) -> bool:
    """Whether a parameter is one of the added matrices."""
    return f".{ADAPTER}." in name and ".lora_" in name


def merged_state(
    weights: Iterable[tuple[str, torch.Tensor]], trained: dict[str, torch.Tensor], scale: float
) -> dict[str, torch.Tensor]:
    """The whole model's weights in fp32: W + scale · B·A, the base's own W and not what bf16 made of it.

    Args:
        weights: names and fp32 weights of the base, with the rows that `add_pad_token` added.
        trained: what was trained, in fp32, under its names in the adapted model (`full_state_dict`).
        scale: alpha / rank.

    Raises:
        RuntimeError: when a trained matrix belongs to none of the weights.
    """
    import torch

    left = {plain_name(name): value for name, value in trained.items()}
    state = {}
    for name, weight in weights:
        if name in left:  # trained whole: an embedding
            state[name] = left.pop(name)
            continue
        layer = name.removesuffix(".weight")
        a, b = (left.pop(f"{layer}.lora_{letter}.{ADAPTER}.weight", None) for letter in "AB")
        with torch.no_grad():  # (O, I) + (O, rank) @ (rank, I)
            state[name] = weight if a is None or b is None else weight + scale * (b @ a)
    if left:
        raise RuntimeError(f"nothing to merge {sorted(left)[0]} into: the base's files have no weight of that name")
    return state
