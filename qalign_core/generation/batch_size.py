"""How many tokens of keys and values one batch may hold: as many as a device's free memory has room for."""

from __future__ import annotations

import psutil
import torch
from transformers import DynamicCache, PreTrainedModel

# Of the free memory: what the cache may fill. The rest is for activations, and for the buffers' spare columns.
CACHE_SHARE = 0.5
# On a processor a step has a fixed cost, which hardly matters any more with some two hundred short questions at once.
PROCESSOR_TOKENS = 32768


def cache_bytes_per_token(model: PreTrainedModel) -> int:
    """Bytes that the keys and values of one token take, measured on two tokens."""
    cache = DynamicCache()
    with torch.inference_mode():
        model(torch.zeros((1, 2), dtype=torch.long, device=model.device), past_key_values=cache, logits_to_keep=1)
    return sum(states.nbytes for layer in cache.layers for states in (layer.keys, layer.values)) // 2


def free_memory(device: torch.device, processes: int) -> int:
    """Bytes free for this process: on its accelerator, or its share of the machine's memory.

    Args:
        device: a CUDA device, which this process has to itself, or the CPU.
        processes: how many share the machine's memory.
    """
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return psutil.virtual_memory().available // processes


def choose_batch_tokens(wanted: int | str, model: PreTrainedModel, processes: int) -> tuple[int, str | None]:
    """The most tokens a batch may hold.

    Args:
        wanted: the profile's upper limit, or `"auto"`.
        model: on its device.
        processes: of this job on this machine.

    Returns:
        The number, and a sentence when memory made it smaller than the profile's.
    """
    room = int(free_memory(model.device, processes) * CACHE_SHARE) // cache_bytes_per_token(model)
    room = max(room, 1)  # a single sequence is always tried
    if wanted == "auto":
        return (min(room, PROCESSOR_TOKENS) if model.device.type == "cpu" else room), None
    limit = int(wanted)
    if limit <= room:
        return limit, None
    return room, f"batches of {room} tokens instead of {limit}: the keys and values of more do not fit into free memory"
