"""Tokens a second, share of the GPU's peak and memory of a 7B training step on one GPU: padded and packed.

    python bench/gpu_training.py [--model llama2-7b] [--updates 4] [--device-batches 2 8 16] [--peak 989]

LLaMA-2-7B's geometry with random weights, sequences of MetaMathQA's lengths, the paper's loss in bf16. `padded` is the
authors' micro-batch: two sequences, padded to the longer one, every logit; `packed` is ours, at several numbers of
sequences at once. Each with and without activation checkpointing. AdamW keeps its two moments in bf16 here, so that
weights, gradients and moments of 7B (54 GB) fit one GPU; in the profiles they are fp32 and sharded over the GPUs. A
combination that does not fit says so and the next one goes on.

Model FLOPs utilisation counts 6 operations a parameter and real token (the input embedding, which multiplies nothing,
left out), and neither attention nor what checkpointing computes twice.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from dataclasses import dataclass
from typing import Any

import torch
import transformers
from transformers import LlamaConfig, LlamaForCausalLM

from qalign_core.kernels import BY_DOCUMENT, check_separation, weighted_loss
from qalign_core.supervision import IGNORED, Collator

GEOMETRIES = {
    "llama2-7b": {
        "vocab_size": 32001,
        "hidden_size": 4096,
        "intermediate_size": 11008,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
    },
    "tiny": {
        "vocab_size": 199,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
    },
}


@dataclass(frozen=True)
class Setting:
    """How a row of the table trains."""

    packing: bool
    device_batch: int
    checkpointing: bool

    @property
    def name(self) -> str:
        kind = "packed" if self.packing else "padded, all logits"
        return f"{kind}, {self.device_batch} at once{', checkpointing' if self.checkpointing else ''}"


def examples(number: int, vocabulary: int) -> list[dict[str, list[int]]]:
    """Random tokens with about MetaMathQA's lengths under LLaMA's tokenizer, template included: prompt 115, response
    190 tokens (means), cut at 512."""
    dice = random.Random(0)
    made = []
    for _ in range(number):
        prompt = max(60, min(400, round(dice.lognormvariate(4.70, 0.32))))
        response = max(30, min(450, round(dice.lognormvariate(5.10, 0.52))))
        ids = [dice.randrange(3, vocabulary) for _ in range(min(512, prompt + response))]
        made.append({"input_ids": ids, "labels": [IGNORED] * prompt + ids[prompt:]})
    return made


def padded_loss(model: LlamaForCausalLM, batch: dict[str, Any]) -> torch.Tensor:
    """The authors' micro-batch: padded, all logits."""
    logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False).logits
    return torch.nn.functional.cross_entropy(
        logits[:, :-1].flatten(0, 1).float(), batch["labels"][:, 1:].flatten(), ignore_index=IGNORED
    )


def make_model(geometry: str, device: torch.device) -> LlamaForCausalLM:
    """Random weights in bf16, made on the device itself."""
    torch.manual_seed(0)
    with device:
        model = LlamaForCausalLM(LlamaConfig(**GEOMETRIES[geometry])).to(torch.bfloat16)
    return model.train()


def move(batch: dict[str, Any], device: torch.device) -> dict[str, Any]:
    """The batch's tensors on the device; the documents' lengths stay plain numbers."""
    return {name: value.to(device) if torch.is_tensor(value) else value for name, value in batch.items()}


def measure(
    model: LlamaForCausalLM, setting: Setting, sequences: int, updates: int, device: torch.device
) -> dict[str, float]:
    """Real tokens a second, their number in an update, and peak memory in bytes, over `updates` updates after one.

    Raises:
        torch.OutOfMemoryError: when it does not fit.
    """
    model.set_attn_implementation(BY_DOCUMENT if setting.packing else "sdpa")
    if setting.checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    else:
        model.gradient_checkpointing_disable()
    if setting.packing:
        check_separation(model, device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6, fused=True)
    collate = Collator(0, packing=setting.packing)
    corpus = examples(sequences * (updates + 1), model.config.vocab_size)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    rates = []
    for turn in range(updates + 1):  # the first warms up
        rows = corpus[sequences * turn : sequences * (turn + 1)]
        tokens = sum(len(row["input_ids"]) for row in rows)
        begun = now(device)
        for start in range(0, sequences, setting.device_batch):
            batch = move(collate(rows[start : start + setting.device_batch]), device)
            loss = weighted_loss(model, batch) if setting.packing else padded_loss(model, batch)
            (loss / (sequences / 2)).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if turn:
            rates.append(tokens / (now(device) - begun))
    peak = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else 0
    return {"tokens_per_second": statistics.median(rates), "tokens": tokens, "peak_bytes": peak}


def now(device: torch.device) -> float:
    """Seconds, once the device has done all it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def flops_per_token(model: LlamaForCausalLM) -> int:
    """Forward and backward, in floating-point operations a token; see the module's description."""
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return 6 * (parameters - model.get_input_embeddings().weight.numel())


def table_row(setting: Setting, measured: dict[str, float], flops: int, peak_tflops: float) -> str:
    """One line of the table."""
    rate = measured["tokens_per_second"]
    share = 100 * rate * flops / (peak_tflops * 1e12)
    return f"{setting.name:42}{rate:12,.0f}{share:9.1f}{measured['peak_bytes'] / 2**30:11.1f}"


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=sorted(GEOMETRIES), default="llama2-7b")
    parser.add_argument("--updates", type=int, default=4)
    parser.add_argument("--sequences", type=int, default=32, help="in one update")
    parser.add_argument("--device-batches", type=int, nargs="+", default=[2, 8, 16], help="of the packed rows")
    parser.add_argument("--peak", type=float, default=989.0, help="TFLOP/s of the GPU in bf16: 989 for H100 and H200")
    given = parser.parse_args(argv)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU (no memory is measured)"
    print(f"{name}; torch {torch.__version__}, transformers {transformers.__version__}; {given.model}")
    model = make_model(given.model, device)
    flops = flops_per_token(model)
    print(f"{flops / 1e9:.2f} GFLOP a token; {given.sequences} sequences an update, median of {given.updates} updates")
    print(f"{'':42}{'tokens/s':>12}{'MFU %':>9}{'peak GiB':>11}")
    for checkpointing in (False, True):
        for setting in [Setting(False, 2, checkpointing)] + [
            Setting(True, size, checkpointing) for size in given.device_batches
        ]:
            try:
                row = table_row(
                    setting, measure(model, setting, given.sequences, given.updates, device), flops, given.peak
                )
            except torch.OutOfMemoryError:
                row = f"{setting.name:42}{'does not fit':>12}"
                model.zero_grad()
                torch.cuda.empty_cache()
            print(row, flush=True)


if __name__ == "__main__":
    main()
