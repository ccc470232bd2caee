"""Attention of one new token a row, on a CPU: two matrix products, about twice as fast there as the fused kernel.

PyTorch's fused attention works on blocks of queries; with a single query a row, most of its time goes into setting up
the block. Everything but that one case is left to it.
"""

from __future__ import annotations

import torch
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

NAME = "qalign_rows"
# Extras of some models' attention that the products below leave out.
EXTRAS = ("softcap", "position_bias", "cache", "s_aux")


def attend(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    **extras: object,
) -> tuple[torch.Tensor, None]:
    """Attention as `transformers` calls it.

    Args:
        module: the attention layer.
        query: (N, H, Q, D).
        key: (N, H or fewer, W, D).
        value: (N, H or fewer, W, E).
        attention_mask: true where a query may look, (N, 1, Q, W).
        scaling: of the scores; 1 / sqrt(D) without it.
        extras: whatever else the fused kernel's wrapper takes.

    Returns:
        (N, Q, H, E), and None for the weights.
    """
    rows, heads, queries, size = query.shape
    plain = attention_mask is not None and attention_mask.dtype == torch.bool and attention_mask.shape[1] == 1
    if queries > 1 or not plain or any(extras.get(name) is not None for name in EXTRAS):
        return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **extras)
    assert attention_mask is not None  # it is plain
    query = query.reshape(rows, key.shape[1], -1, size) * (size**-0.5 if scaling is None else scaling)  # (N, K, G, D)
    scores = torch.matmul(query, key.transpose(2, 3))  # (N, K, G, W)
    weights = scores.masked_fill_(~attention_mask, -torch.inf).softmax(dim=-1)
    return torch.matmul(weights, value).reshape(rows, 1, heads, value.shape[-1]), None


def use_row_attention(model: PreTrainedModel) -> bool:
    """Let a model in fp32 on a CPU attend this way, if it would use PyTorch's fused attention; say whether it does."""
    if model.device.type != "cpu" or model.dtype != torch.float32 or model.config._attn_implementation != "sdpa":
        return False
    AttentionInterface.register(NAME, attend)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    model.set_attn_implementation(NAME)
    return model.config._attn_implementation == NAME
