"""Attention over packed examples, each by itself: no mask, no work between examples, and no way for one to see another.

Importing this module makes `BY_DOCUMENT` known to `transformers` as an attention implementation. With it the model is
told the lengths of the packed examples (`document_lengths`) instead of guessing them from `position_ids`: whether the
cache is on or a mask is given cannot matter, since queries only ever meet the keys of their own example.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface

BY_DOCUMENT = "sdpa_by_document"


def attention_by_document(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    document_lengths: Sequence[int] | None = None,
    **arguments: Any,
) -> tuple[torch.Tensor, None]:
    """Causal attention within each document of one packed row; on every device PyTorch's own fused kernel.

    Args:
        module: the attention layer.
        query, key, value: (1, heads, T, head size).
        attention_mask: must be None.
        document_lengths: tokens of each packed document, in order; they sum to T.
        **arguments: of `transformers`' sdpa attention.

    Returns:
        (1, T, heads, head size), and no attention weights.

    Raises:
        ValueError: without lengths, with lengths that are not the row's, with a mask, or where the model's window is
            shorter than a document.
    """
    if attention_mask is not None:
        refuse_mask(attention_mask)
    tokens = key.shape[2]
    if document_lengths is None or sum(document_lengths) != tokens or query.shape[:3:2] != (1, tokens):
        raise ValueError(
            f"attention by document needs one packed row and document_lengths that sum to its {tokens} tokens; got "
            f"{query.shape[0]} rows and {None if document_lengths is None else sum(document_lengths)}: collate with "
            "Collator(packing=True), or load the model with attention sdpa"
        )
    window = arguments.get("sliding_window")
    if window is not None and max(document_lengths) > window:
        raise ValueError(
            f"this model attends to {window} tokens and a document has {max(document_lengths)}: "
            "set training.packing to false, or training.max_length no higher than the window"
        )
    parts = [states.split(list(document_lengths), dim=2) for states in (query, key, value)]
    outputs = [sdpa_attention_forward(module, q, k, v, None, **arguments)[0] for q, k, v in zip(*parts, strict=True)]
    return torch.cat(outputs, dim=1), None


def refuse_mask(attention_mask: torch.Tensor | None = None, **_: Any) -> None:
    """No mask is made; one that is given is refused.

    Raises:
        ValueError: for a mask.
    """
    if attention_mask is not None:
        raise ValueError("packed examples take no attention mask: what separates them is document_lengths")


AttentionInterface.register(BY_DOCUMENT, attention_by_document)
AttentionMaskInterface.register(BY_DOCUMENT, refuse_mask)
