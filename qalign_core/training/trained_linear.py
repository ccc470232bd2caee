"""Linear layers whose training runs in oneDNN: the same fp32 products on a CPU where MKL takes a slower path.

The counterpart of `packed_linear`, which is for inference: here weights stay parameters and gradients flow.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from qalign_core.training.packed_linear import is_supported

SMALLEST = 2**14  # weights in a layer; below, the call costs more than it saves


def _product(inputs: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """(..., in), (out, in) -> (..., out)."""
    return torch.ops.mkldnn._linear_pointwise(inputs, weight, bias, "none", [], "")


class _Linear(torch.autograd.Function):
    """inputs · weightᵀ + bias and its three gradients."""

    @staticmethod
    def forward(ctx: Any, inputs: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        ctx.save_for_backward(inputs, weight)
        return _product(inputs, weight, bias)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        inputs, weight = ctx.saved_tensors
        needs_inputs, needs_weight, needs_bias = ctx.needs_input_grad
        rows = gradients[0].flatten(0, -2)  # (N, out)
        return (
            _product(gradients[0], weight.t()) if needs_inputs else None,
            _product(rows.t(), inputs.flatten(0, -2).t()) if needs_weight else None,
            rows.sum(dim=0) if needs_bias else None,
        )


class TrainedLinear(nn.Linear):
    """`nn.Linear` with the same parameters and names; only who multiplies differs."""

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """(..., in) -> (..., out)."""
        if inputs.dtype != torch.float32 or self.weight.dtype != torch.float32 or torch.is_autocast_enabled("cpu"):
            return super().forward(inputs)
        return _Linear.apply(inputs, self.weight, self.bias)


def speed_up_linear_layers(model: nn.Module) -> int:
    """Let every plain `nn.Linear` of a model in fp32 on a CPU train in oneDNN, in place.

    Returns:
        How many layers; 0 where it would not help. Subclasses of `nn.Linear` and layers under `SMALLEST` stay.
    """
    if not is_supported():
        return 0
    found = [
        layer
        for layer in model.modules()
        if type(layer) is nn.Linear
        and layer.weight.device.type == "cpu"
        and layer.weight.dtype == torch.float32
        and layer.weight.numel() >= SMALLEST
    ]
    for layer in found:
        layer.__class__ = TrainedLinear
    return len(found)
