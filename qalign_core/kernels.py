"""Attention by document and the weighted cross-entropy: what a training step computes differently from `transformers`.

Importing this module makes `BY_DOCUMENT` known to `transformers` as an attention implementation.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface

from qalign_core.supervision import IGNORED

BY_DOCUMENT = "sdpa_by_document"
CHUNK = {"cpu": 2**20, "cuda": 2**25}  # logits handled at a time: fits a processor's cache, keeps a GPU busy

# ------------------------------------------------------------------------------------------------- attention


def attention_by_document(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    document_lengths: Sequence[int] | None = None,
    **arguments: Any,
) -> tuple[torch.Tensor, None]:
    """Causal attention within each document of one packed row, by PyTorch's own fused kernel.

    The lengths are given, not guessed from `position_ids`, so no cache and no mask lets examples see each other.

    Args:
        query, key, value: (1, heads, T, head size).
        document_lengths: tokens of each packed document, in order; they sum to T.

    Returns:
        (1, T, heads, head size), and no attention weights.
    """
    refuse_mask(attention_mask)
    tokens = key.shape[2]
    if document_lengths is None or sum(document_lengths) != tokens or query.shape[:3:2] != (1, tokens):
        got = f"got {query.shape[0]} rows and {None if document_lengths is None else sum(document_lengths)}"
        needs = f"attention by document needs one packed row and document_lengths that sum to its {tokens} tokens"
        raise ValueError(f"{needs}; {got}: collate with Collator(packing=True), or load the model with attention sdpa")
    window = arguments.get("sliding_window")
    if window is not None and max(document_lengths) > window:
        remedy = "set training.packing to false, or training.max_length no higher than the window"
        raise ValueError(f"this model attends to {window} tokens and a document has {max(document_lengths)}: {remedy}")
    parts = [states.split(list(document_lengths), dim=2) for states in (query, key, value)]
    outputs = [sdpa_attention_forward(module, q, k, v, None, **arguments)[0] for q, k, v in zip(*parts, strict=True)]
    return torch.cat(outputs, dim=1), None  # (1, T, heads, head size)


def refuse_mask(attention_mask: torch.Tensor | None = None, **_: Any) -> None:
    """Make no mask, and refuse a given one."""
    if attention_mask is not None:
        raise ValueError("packed examples take no attention mask: what separates them is document_lengths")


AttentionInterface.register(BY_DOCUMENT, attention_by_document)
AttentionMaskInterface.register(BY_DOCUMENT, refuse_mask)


@torch.no_grad()
def check_separation(model: torch.nn.Module, device: torch.device | str = "cpu") -> None:
    """Check on the model itself that changing one packed example does not move the logits of the next."""
    length = 8
    layout = {"position_ids": torch.arange(length, device=device).repeat(2)[None], "document_lengths": [length] * 2}
    before = torch.arange(2 * length, device=device)[None]  # (1, 16)
    after = before.clone()
    after[:, :length] += length
    was_training = model.training
    model.eval()
    logits = [model(input_ids=ids, use_cache=False, **layout).logits for ids in (before, after)]
    model.train(was_training)
    if not torch.equal(logits[0][:, length:], logits[1][:, length:]):
        remedy = "set training.packing to false, or use the versions of requirements.txt"
        raise RuntimeError(f"packed examples see each other in this model with this version of transformers: {remedy}")


# ------------------------------------------------------------------------------------------------- loss


class _WeightedNll(torch.autograd.Function):
    """Turns the logits into their gradient in place, a few rows at a time; see `weighted_nll`."""

    @staticmethod
    def forward(ctx: Any, logits: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        rows = max(1, CHUNK.get(logits.device.type, 2**20) // logits.shape[1])
        total = weights.new_zeros(())
        for part, target, weight in zip(
            logits.split(rows), targets[:, None].split(rows), weights[:, None].split(rows), strict=True
        ):  # (n, V), (n, 1), (n, 1)
            scores = part.to(torch.promote_types(part.dtype, torch.float32))  # below fp32 a copy, else `part` itself
            chosen, highest = scores.gather(1, target), scores.amax(dim=1, keepdim=True)
            scores.sub_(highest).exp_()
            normalizer = scores.sum(dim=1, keepdim=True)  # (n, 1)
            total += ((normalizer.log() + highest - chosen) * weight).sum()
            weight = weight.to(scores.dtype)
            scores.mul_(weight / normalizer).scatter_add_(1, target, -weight)  # weight · (softmax − one-hot)
            if scores.dtype != part.dtype:
                part.copy_(scores)
        ctx.save_for_backward(logits.detach())
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        (gradient,) = ctx.saved_tensors
        return gradient.mul_(gradients[0].to(gradient.dtype)), None, None  # a second backward is refused by autograd


def weighted_nll(logits: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Σ weight · −log softmax(logits)[target], computed in fp32 or better.

    Afterwards the logits hold their own gradient: the largest tensor of a training step, targets × vocabulary, is there
    once instead of four times (logits, an fp32 copy, log-probabilities, gradient).

    Args:
        logits: (N, V), of any floating type; nothing else may need them.
        targets: (N,), each in 0..V−1; where the weight is 0, any.
        weights: (N,), in fp32 or better.

    Returns:
        A scalar of the weights' type. It can be differentiated once.
    """
    return _WeightedNll.apply(logits, targets, weights)


def weighted_loss(model: torch.nn.Module, batch: dict[str, Any]) -> torch.Tensor:
    """Σ weight · negative log-likelihood over the targets of what `Collator` returned, in fp32 or better.

    It is still to be divided by the `items` of the whole update. Logits are computed only where needed: the model's
    forward must take `logits_to_keep`.
    """
    layout = {name: batch[name] for name in ("position_ids", "document_lengths", "attention_mask") if name in batch}
    if "attention_mask" in layout and len(layout) > 1:
        raise ValueError("a packed batch has no attention_mask: with one, examples would see each other; leave it out")
    columns = batch["logits_to_keep"]  # (C,)
    # The cache must be off: with it, sdpa would not look for sequence boundaries in position_ids.
    logits = model(input_ids=batch["input_ids"], use_cache=False, logits_to_keep=columns, **layout).logits  # (B, C, V)
    targets = batch["labels"][:, columns + 1].flatten()  # (B·C,)
    counts = batch["target_counts"][:, columns + 1].flatten().to(torch.promote_types(logits.dtype, torch.float32))
    weights = torch.where(targets == IGNORED, 0.0, 1 / counts)  # (B·C,)
    return weighted_nll(logits.flatten(0, 1), targets.clamp(min=0), weights)
