"""The weighted negative log-likelihood, without the three copies of all logits that autograd would keep."""

from __future__ import annotations

from typing import Any

import torch

# Logits handled at a time: what stays in a processor's cache; a GPU needs more to be busy.
CHUNK = {"cpu": 2**20, "cuda": 2**25}


class _WeightedNll(torch.autograd.Function):
    """Turns the logits into their gradient on the spot, a few rows at a time; see `weighted_nll`."""

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
            normalizer = scores.sum(dim=1, keepdim=True)
            total += ((normalizer.log() + highest - chosen) * weight).sum()
            weight = weight.to(scores.dtype)
            scores.mul_(weight / normalizer).scatter_add_(1, target, -weight)
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

    The logits are used up: afterwards they hold their own gradient. So the largest tensor of a training step, targets
    × vocabulary, is there once, where the usual cross-entropy keeps it, an fp32 copy, the log-probabilities and the
    gradient.

    Args:
        logits: (N, V), of any floating type; nothing else may need them.
        targets: (N,), each in 0..V−1; where the weight is 0, any.
        weights: (N,).

    Returns:
        A scalar of the weights' type. It can be differentiated once.
    """
    return _WeightedNll.apply(logits, targets, weights)
