"""How long a profile's chapters take on this machine, from a measurement of a few seconds.

Each of the profile's ranks trains the profile's model with random weights for two seconds and generates for one; the
rest is counting tokens. Start-up is counted in multiples of how long Python takes here to import torch and DeepSpeed.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from qalign_core import launch, miniature, plan
from qalign_core.launch import clock
from qalign_core.params import Profile
from qalign_core.training.cost import CORPORA, stage_tokens

SMALL = 3e8  # parameters; a larger model is not measured by one process
SAMPLE = 40  # rows of each of the miniature's corpora that are made to learn their lengths
TRAIN_SECONDS, GENERATE_SECONDS = 2.0, 1.0
GENERATED_ROWS = 64  # answered at once while measuring
# In start-ups (imports of torch, transformers and DeepSpeed): a job's launcher, ranks and saving; a notebook's kernel
# and tables; what chapter 1 makes. Measured with profile smoke, whose jobs train and generate next to nothing.
JOB, NOTEBOOK, PREPARATION = 3.0, 2.5, 3.0


@dataclass(frozen=True)
class Speed:
    """What all ranks do together, in tokens per second, and a start-up in seconds."""

    training: float
    generation: float
    startup: float


def lengths(profile: Profile) -> dict[str, tuple[float, float]]:
    """Corpus that others are made from → mean tokens of its examples, and of their outputs alone."""
    if profile.data.source("questions") != "miniature" and profile.data.source("metamathqa") != "miniature":
        return {name: (tokens, tokens / 2) for name, (_, tokens) in CORPORA.items()}
    from transformers import AutoTokenizer

    from qalign_core.corpora import load_corpus
    from qalign_core.prompts import alpaca

    tokenizer = AutoTokenizer.from_pretrained(miniature.SHIPPED_BASE)
    roots = {profile.data.roots(corpus)[0] for corpus in profile.corpora()}
    found = {}
    with TemporaryDirectory(prefix="qalign-") as folder:
        miniature.write_world(folder, sizes=dict.fromkeys(miniature.DEFAULT_SIZES, SAMPLE))
        for name in roots & set(CORPORA):
            rows = load_corpus(name, folder, list(profile.data.languages))
            rows = rows.select(range(0, len(rows), max(1, len(rows) // 100)))
            outputs = [len(tokenizer(text).input_ids) for text in rows["output"]]
            prompts = [len(tokenizer(alpaca(text)).input_ids) for text in rows["instruction"]]
            found[name] = ((sum(prompts) + sum(outputs)) / len(rows), sum(outputs) / len(rows))
    return found


def rows(profile: Profile, corpus: str) -> int:
    """Examples of a corpus of the miniature."""
    choice, sizes = profile.data.choice(corpus), miniature.DEFAULT_SIZES | profile.data.miniature.sizes
    if choice.of is not None:
        number = sum(rows(profile, part) for part in choice.of)
        return round(number * (choice.share or 1)) if choice.limit is None else min(number, choice.limit * 9)
    languages = len(choice.languages or profile.data.languages)
    kind, pairs = corpus.partition("-")[0], languages - 1
    if corpus in ("gsm8k", "metamathqa"):
        return sizes[corpus]
    if kind == "gsm8kinstruct":
        return sizes[kind] * languages
    return min(sizes["gsm8kinstruct" if kind == "responses" else kind], choice.limit or 10**9) * pairs


# ------------------------------------------------------------------------------------------------- measured


def is_measurable(profile: Profile) -> bool:
    """Whether the profile's model is small enough for a process of this machine to be trained at once."""
    return profile.model.base == "miniature" and bool(profile.lineages())


def measure(profile: Profile, tokens: float) -> Speed:
    """Let as many processes as the profile has ranks train and generate side by side.

    Args:
        profile: its model, precision, batch and devices.
        tokens: of an example.

    Raises:
        OSError: when a process fails, with the last line it said.
    """
    task = {
        "sizes": profile.model.miniature.config(),
        "batch": profile.training.per_device_train_batch_size,
        "tokens": round(tokens),
        "bf16": profile.training.bf16,
    }
    devices = profile.run.devices
    line = [sys.executable, "-m", "qalign_core.speed", json.dumps(task)]
    pipe, text = subprocess.PIPE, launch.environment(devices)
    ranks = [subprocess.Popen(line, stdout=pipe, stderr=pipe, text=True, env=text) for _ in range(devices)]
    found = []
    for rank in ranks:
        said, error = rank.communicate()
        if rank.returncode:
            raise OSError(f"the measurement failed: {(error.strip().splitlines() or ['without a word'])[-1]}")
        found.append(json.loads(said.splitlines()[-1]))
    together = {key: sum(rank[key] for rank in found) for key in ("training", "generation")}
    return Speed(startup=max(rank["startup"] for rank in found), **together)


def measure_rank(task: dict[str, Any]) -> dict[str, float]:
    """One rank's part of `measure`, in a process of its own."""
    begun = time.monotonic()
    import deepspeed  # noqa: F401  (its import is part of every start-up)
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    startup = time.monotonic() - begun + 0.5  # Python itself
    device = "cuda" if torch.cuda.is_available() else "cpu"
    config = AutoConfig.from_pretrained(miniature.SHIPPED_BASE, **task["sizes"])
    config.head_dim = config.hidden_size // config.num_attention_heads
    model = AutoModelForCausalLM.from_config(config).to(device, torch.bfloat16 if task["bf16"] else torch.float32)
    optimizer = torch.optim.AdamW(model.parameters())
    ids = torch.randint(3, config.vocab_size - 1, (task["batch"], task["tokens"]), device=device)  # (B, T)

    def train() -> int:
        model(input_ids=ids, labels=ids, use_cache=False).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return ids.numel()

    asked = ids[:1, : max(8, task["tokens"] // 2)].repeat(GENERATED_ROWS, 1)  # (N, P)

    def generate() -> int:
        model.generate(asked, do_sample=False, max_new_tokens=24, min_new_tokens=24, pad_token_id=0)
        return 24 * GENERATED_ROWS

    def rate(step: Any, seconds: float) -> float:
        step()  # the first one allocates and compiles
        tokens, begun = 0, time.monotonic()
        while (passed := time.monotonic() - begun) < seconds or not tokens:
            tokens += int(step())
        return tokens / passed

    training = rate(train, TRAIN_SECONDS)
    return {"startup": startup, "training": training, "generation": rate(generate, GENERATE_SECONDS)}


# ------------------------------------------------------------------------------------------------- counted


def chapters(profile: Profile, speed: Speed, found: dict[str, tuple[float, float]]) -> dict[str, float]:
    """Seconds that each chapter will take from nothing, by its number.

    Args:
        profile: its stages, systems and benchmarks.
        speed: of this machine.
        found: what `lengths` says.
    """
    jobs, seconds, first = Counter[str](), Counter[str](), profile.first_stage()
    main = [profile.systems[name] for name in profile.in_chapter(ablations=False)]
    early = [[first]], [s.lineage[:i] for s in main for i in range(1, len(s.lineage or []) + 1) if s.lineage]
    for lineage in plan.stages(profile):
        if not lineage:
            continue
        chapter = "02" if lineage in early[0] else "03" if lineage in early[1] else "06"
        root = profile.data.roots(lineage[-1])[0]
        number = rows(profile, lineage[-1])
        tokens = stage_tokens(profile, lineage[-1], {lineage[-1]: (number, round(number * found[root][0]))})
        jobs[chapter] += 1
        seconds[chapter] += (tokens or 0.0) / speed.training
    for name, system in profile.systems.items():
        if system.predictions is not None:
            continue
        root = profile.data.roots((system.lineage or ["metamathqa"])[-1])[0]
        for test in profile.evaluation.benchmarks.values():
            chapter = "04" if system.table == "main" else "06"
            answers = (test.limit or 250) * len(profile.data.languages) * (2 if system.translator else 1)
            mean = min(test.max_new_tokens, found.get(root, (0, test.max_new_tokens))[1])
            seconds[chapter] += answers * mean / speed.generation
        jobs["04" if system.table == "main" else "06"] += 2 if system.translator else 1
        _ = name
    seeds = len(profile.run.seeds)
    extra = {"01": PREPARATION}
    numbers = ["01", *sorted({"02", "03", "06"} & set(jobs)), "04", "05"]
    return {
        number: seeds * (seconds[number] + JOB * jobs[number] * speed.startup)
        + (NOTEBOOK + extra.get(number, 0.0)) * speed.startup
        for number in sorted(numbers)
    }


def sentences(profile: Profile, numbers: Iterable[str]) -> Iterator[str]:
    """What to print of the time the chosen chapters will take here, from nothing; nothing where it is not measured."""
    if not is_measurable(profile):
        return
    found = lengths(profile)
    speed = measure(profile, max(tokens for tokens, _ in found.values()))
    times = {number: seconds for number, seconds in chapters(profile, speed, found).items() if number in numbers}
    each = ", ".join(f"{number} {clock(seconds)}" for number, seconds in times.items())
    yield f"Measured here: {speed.training:,.0f} tokens/s in training, {speed.generation:,.0f} in generation."
    yield f"From nothing that is about {clock(sum(times.values()))}, if the machine has nothing else to do: {each}."


if __name__ == "__main__":
    print(json.dumps(measure_rank(json.loads(sys.argv[1]))))
