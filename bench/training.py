"""Real tokens a second of our training step against a plain re-implementation of the authors' loop, on this CPU.

    python bench/training.py [--ranks 1 2] [--precision fp32 bf16] [--rounds 3] [--width 512 --layers 8 ...]

All do the same update: 16 sequences of GSM8K's lengths in random order, the paper's loss, clipping and AdamW, in the
same precision. The authors' loop pads micro-batches of 2 to the longer one and computes every logit. Ours computes
logits only where there are labels, turns them into their gradient in place, and packs any number of those micro-batches
into one row without a mask. One rank has two threads; of two each has one, and gradients are averaged over them. Rounds
are interleaved and medians printed: of wall time, and of processor time, which other work on the machine disturbs less.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import tempfile
import time
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as distributed
import transformers
from transformers import LlamaConfig, LlamaForCausalLM

from qalign_core.kernels import BY_DOCUMENT, weighted_loss
from qalign_core.supervision import IGNORED, Collator

SEQUENCES = 16  # in one update, on all ranks


@dataclass(frozen=True)
class Road:
    """One way to compute an update: the authors' (`device_batch` 2, all logits) or ours."""

    name: str
    device_batch: int = 2
    packing: bool = False
    ours: bool = True


ROADS = (
    Road("authors' loop", ours=False),
    Road("ours, padded"),
    Road("ours, packed", packing=True),
    Road("ours, packed, 4 at once", 4, packing=True),
    Road("ours, packed, 8 at once", 8, packing=True),
)


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


class Bench:
    """The model and the optimizer that every road updates; with a learning rate of 0, so that all see the same weights.

    Args:
        given: the command line.
        precision: `fp32`, or `bf16` (autocast over fp32 weights, as the authors' Trainer ran).
        ranks: processes that share an update.
    """

    def __init__(self, given: argparse.Namespace, precision: str, ranks: int) -> None:
        torch.manual_seed(0)
        config = LlamaConfig(
            vocab_size=given.vocabulary,
            hidden_size=given.width,
            intermediate_size=given.width * 8 // 3,
            num_hidden_layers=given.layers,
            num_attention_heads=max(1, given.width // 64),
        )
        self.precision, self.ranks = precision, ranks
        self.model = LlamaForCausalLM(config).train()
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=0.0)

    def take(self, road: Road) -> None:
        """Set the model up for a road."""
        self.road, self.collate = road, Collator(0, packing=road.packing)
        self.model.set_attn_implementation(BY_DOCUMENT if road.packing else "sdpa")

    def autocast(self) -> AbstractContextManager:
        return torch.autocast("cpu", torch.bfloat16) if self.precision == "bf16" else nullcontext()

    def authors_loss(self, batch: dict[str, Any]) -> torch.Tensor:
        """Padded, full logits. Source: NJUNLP/QAlign finetune.py:134-160 and its script."""
        layout = {name: batch[name] for name in ("input_ids", "attention_mask")}
        logits = self.model(**layout, use_cache=False).logits[:, :-1]  # (2, T - 1, V)
        return torch.nn.functional.cross_entropy(
            logits.flatten(0, 1), batch["labels"][:, 1:].flatten(), ignore_index=IGNORED
        )

    def update(self, rows: list[dict[str, list[int]]]) -> float:
        """One update over this rank's rows; its loss."""
        total = 0.0
        for start in range(0, len(rows), self.road.device_batch):
            batch = self.collate(rows[start : start + self.road.device_batch])
            with self.autocast():
                loss = weighted_loss(self.model, batch) if self.road.ours else self.authors_loss(batch)
            loss = loss / (len(rows) / 2)
            loss.backward()
            total += loss.item()
        if self.ranks > 1:
            for parameter in self.model.parameters():
                distributed.all_reduce(parameter.grad, op=distributed.ReduceOp.SUM)
                parameter.grad /= self.ranks
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return total


def measure(given: argparse.Namespace, precision: str, rank: int, ranks: int) -> dict[str, list[list[float]]]:
    """Of every road and round but the first: loss, wall and processor seconds of this rank, real tokens of it."""
    corpus = examples(SEQUENCES * (given.rounds + 1), given.vocabulary)
    roads = [road for road in ROADS if not given.roads or road.name in given.roads]
    bench, share = Bench(given, precision, ranks), SEQUENCES // ranks
    measured: dict[str, list[list[float]]] = {road.name: [] for road in roads}
    for turn in range(given.rounds + 1):  # the first warms up
        start = SEQUENCES * turn + share * rank
        rows = corpus[start : start + share]
        for road in roads:
            bench.take(road)
            if ranks > 1:
                distributed.barrier()
            wall, processor = time.perf_counter(), time.process_time()
            loss = bench.update(rows)
            spent = [time.perf_counter() - wall, time.process_time() - processor]
            if turn:
                measured[road.name].append([loss, *spent, sum(len(row["input_ids"]) for row in rows)])
    return measured


def worker(rank: int, ranks: int, given: argparse.Namespace, precision: str, folder: str) -> None:
    """One rank: measure, and leave the numbers in a file."""
    torch.set_num_threads(max(1, given.threads // ranks))
    if ranks > 1:
        distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=ranks)
    measured = measure(given, precision, rank, ranks)
    Path(folder, f"{rank}.json").write_text(json.dumps(measured), encoding="utf-8")
    if ranks > 1:
        distributed.destroy_process_group()


def rows_of(parts: list[dict[str, list[list[float]]]]) -> list[tuple[str, float, float, float, float]]:
    """Every road's name, tokens/s, ratio of wall and of processor time to the first road's, and last loss.

    Wall is the slowest rank's, processor time the sum over ranks.
    """
    combined = {
        name: [
            (
                statistics.mean(rank[0] for rank in turn),
                max(rank[1] for rank in turn),
                sum(rank[2] for rank in turn),
                sum(rank[3] for rank in turn),
            )
            for turn in zip(*(part[name] for part in parts), strict=True)
        ]
        for name in parts[0]
    }
    base = next(iter(combined.values()))
    table = []
    for name, turns in combined.items():
        wall, processor = (
            statistics.median(theirs[kind] / own[kind] for theirs, own in zip(base, turns, strict=True))
            for kind in (1, 2)
        )
        rate = statistics.median(turn[3] / turn[1] for turn in turns)
        table.append((name, rate, wall, processor, turns[-1][0]))
    return table


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("rounds", 3), ("width", 512), ("layers", 8), ("vocabulary", 32000), ("threads", 2)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--precision", nargs="+", choices=["fp32", "bf16"], default=["fp32", "bf16"])
    parser.add_argument("--roads", nargs="*", default=[], help="some of the roads, by name (default: all)")
    given = parser.parse_args(argv)
    print(
        f"width {given.width}, {given.layers} layers, vocabulary {given.vocabulary}; {os.cpu_count()} cores, "
        f"{given.rounds} rounds; torch {torch.__version__}, transformers {transformers.__version__}"
    )
    for precision in given.precision:
        for ranks in given.ranks:
            with tempfile.TemporaryDirectory() as folder:
                torch.multiprocessing.spawn(worker, (ranks, given, precision, folder), nprocs=ranks)
                parts = [json.loads(Path(folder, f"{rank}.json").read_text(encoding="utf-8")) for rank in range(ranks)]
            print(f"\n{precision}, {ranks} rank(s) of {max(1, given.threads // ranks)} thread(s)")
            print(f"{'':30}{'tokens/s':>10}{'x wall':>9}{'x processor':>13}{'loss':>9}")
            for name, rate, wall, processor, loss in rows_of(parts):
                print(f"{name:30}{rate:10.0f}{wall:9.2f}{processor:13.2f}{loss:9.4f}")


if __name__ == "__main__":
    main()
