"""Real tokens a second of our training step against a plain re-implementation of the authors' loop, on this CPU.

    python bench/training.py [--rounds 5] [--width 512 --layers 8 --vocabulary 32000] [--threads 2]

Both do the same update: 16 sequences of GSM8K's lengths, the paper's loss, clipping and AdamW. The authors' loop pads
micro-batches of 2 to the longer one and computes every logit; ours packs, takes any number of those micro-batches at
once, and computes logits only where there are labels. Rounds are interleaved; medians of the ratios are printed, of
wall time and of processor time (which other work on the machine disturbs less).
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import time
from collections.abc import Callable

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from qalign_core.supervision import IGNORED, Collator, weighted_loss

SEQUENCES = 16  # in one update


def examples(number: int, vocabulary: int) -> list[dict[str, list[int]]]:
    """Random tokens with the lengths of GSM8K under LLaMA's tokenizer: prompt about 110, response about 125 tokens."""
    dice = random.Random(0)
    made = []
    for _ in range(number):
        prompt = max(60, min(300, round(dice.lognormvariate(4.65, 0.30))))
        response = max(20, min(400, round(dice.lognormvariate(4.72, 0.48))))
        ids = [dice.randrange(3, vocabulary) for _ in range(min(512, prompt + response))]
        made.append({"input_ids": ids, "labels": [IGNORED] * prompt + ids[prompt:]})
    return made


def authors_update(model: LlamaForCausalLM, rows: list[dict]) -> None:
    """Pad to the longest, micro-batch 2, full logits. Source: NJUNLP/QAlign finetune.py:134-160 and its script."""
    collate = Collator(0, packing=False)
    for start in range(0, SEQUENCES, 2):
        batch = collate(rows[start : start + 2])
        layout = {name: batch[name] for name in ("input_ids", "attention_mask")}
        logits = model(**layout, use_cache=False).logits[:, :-1]  # (2, T - 1, V)
        loss = torch.nn.functional.cross_entropy(
            logits.flatten(0, 1), batch["labels"][:, 1:].flatten(), ignore_index=IGNORED
        )
        (loss / (SEQUENCES / 2)).backward()


def our_update(model: LlamaForCausalLM, rows: list[dict], device_batch: int, packing: bool) -> None:
    """The loss and layout of `qalign_core.train`, without DeepSpeed (which costs both the same)."""
    collate = Collator(0, packing=packing)
    for start in range(0, SEQUENCES, device_batch):
        batch = collate(rows[start : start + device_batch])
        (weighted_loss(model, batch) / (SEQUENCES / 2)).backward()


def seconds(step: Callable[[], None]) -> tuple[float, float]:
    """Wall and processor seconds of one call."""
    wall, processor = time.perf_counter(), time.process_time()
    step()
    return time.perf_counter() - wall, time.process_time() - processor


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("rounds", 5), ("width", 512), ("layers", 8), ("vocabulary", 32000), ("threads", 2)):
        parser.add_argument(f"--{name}", type=int, default=default)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=given.vocabulary,
        hidden_size=given.width,
        intermediate_size=given.width * 8 // 3,
        num_hidden_layers=given.layers,
        num_attention_heads=given.width // 64,
    )
    model = LlamaForCausalLM(config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5)
    variants: dict[str, Callable[[list[dict]], None]] = {"authors": lambda rows: authors_update(model, rows)}
    for packing in (False, True):
        for device_batch in (2, 4, 8):
            name = f"{'packed' if packing else 'padded'}, {device_batch} at once"
            variants[name] = lambda rows, b=device_batch, p=packing: our_update(model, rows, b, p)
    corpus = examples(SEQUENCES * (given.rounds + 1), given.vocabulary)
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in variants}
    for turn in range(given.rounds + 1):  # the first warms up
        rows = corpus[SEQUENCES * turn : SEQUENCES * (turn + 1)]
        tokens = sum(len(row["input_ids"]) for row in rows)
        for name, update in variants.items():

            def step(update: Callable = update, rows: list[dict] = rows) -> None:
                update(rows)
                torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                optimizer.zero_grad()

            wall, processor = seconds(step)
            if turn:
                times[name].append((wall / tokens, processor / tokens))
    parameters = sum(p.numel() for p in model.parameters())
    print(
        f"{parameters / 1e6:.1f} M parameters, {given.threads} threads of {os.cpu_count()} cores, {given.rounds} rounds"
    )
    print(f"{'':22}{'tokens/s':>10}{'x wall':>9}{'x processor':>13}")
    for name, measured in times.items():
        ratios = [
            statistics.median(base[kind] / own[kind] for base, own in zip(times["authors"], measured, strict=True))
            for kind in (0, 1)
        ]
        rate = 1 / statistics.median(wall for wall, _ in measured)
        print(f"{name:22}{rate:10.0f}{ratios[0]:9.2f}{ratios[1]:13.2f}")


if __name__ == "__main__":
    main()
