"""Linear layers packed for oneDNN: the same fp32 products on a CPU, about twice as fast where MKL avoids AVX-512.

PyTorch gives fp32 products to MKL, which takes a slower path on processors that are not Intel's. oneDNN, which comes
with PyTorch too, takes the widest instructions there are, and with weights packed once it need not reorder them.
"""

from __future__ import annotations

import torch
from torch import nn

# Rows the packing is made for; any number may come, and all of them run at full speed in this layout.
EXPECTED_ROWS = 1024


class PackedLinear(nn.Module):
    """`nn.Linear` for inference in fp32 on a CPU.

    Args:
        linear: the layer; its weight (out, in) is copied, its bias (out) shared.
    """

    def __init__(self, linear: nn.Linear):
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        weight = linear.weight.detach()
        self.packed = torch.ops.mkldnn._reorder_linear_weight(weight, EXPECTED_ROWS)
        self.bias = None if linear.bias is None else linear.bias.detach()

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """(..., in) -> (..., out)."""
        return torch.ops.mkldnn._linear_pointwise(inputs, self.packed, self.bias, "none", [], "")


def is_supported() -> bool:
    """Whether this build of PyTorch has the two operators, on a processor where they are the faster ones."""
    if not torch.backends.mkldnn.is_available() or torch.backends.cpu.get_cpu_capability() != "AVX512":
        return False
    return all(hasattr(torch.ops.mkldnn, name) for name in ("_reorder_linear_weight", "_linear_pointwise"))


def pack_linear_layers(model: nn.Module) -> int:
    """Replace every plain `nn.Linear` of a model in fp32 on a CPU; return how many (0 where it would not help).

    The model can only infer afterwards: its packed weights are no parameters. Subclasses of `nn.Linear` stay.
    """
    if not is_supported():
        return 0
    found = [
        (parent, name, child)
        for parent in model.modules()
        for name, child in parent.named_children()
        if type(child) is nn.Linear and child.weight.device.type == "cpu" and child.weight.dtype == torch.float32
    ]
    for parent, name, child in found:
        setattr(parent, name, PackedLinear(child))
    return len(found)
