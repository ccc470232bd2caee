"""How long a profile's chapters take on this machine, from a measurement of a few seconds.

As many processes as the profile has ranks train its model, with random weights, and generate; the rest is counting
tokens. Start-up is counted in multiples of what Python needs here to import torch, transformers and DeepSpeed.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from qalign_core import launch, miniature, plan
from qalign_core.params import Profile

SAMPLE = 40  # rows of each of the miniature's data sets that are made to learn their lengths
TRAIN_SECONDS, GENERATE_SECONDS, GENERATED_ROWS = 2.0, 1.0, 64
# In start-ups: a job's launcher, ranks and saving; a notebook's kernel and tables; what chapter 1 makes besides.
JOB, NOTEBOOK, PREPARATION = 3.0, 2.5, 3.0


class Speed(NamedTuple):
    """What all ranks do together in tokens/s, and one start-up in seconds."""

    training: float
    generation: float
    startup: float


class Length(NamedTuple):
    """Mean tokens of a corpus's examples, and of their outputs alone."""

    tokens: float
    output: float


def lengths(profile: Profile) -> dict[str, Length]:
    """The lengths of the miniature's corpora, from a few rows of each."""
    from transformers import AutoTokenizer

    from qalign_core.corpora import load_corpus
    from qalign_core.prompts import alpaca

    tokenizer, found = AutoTokenizer.from_pretrained(miniature.SHIPPED_BASE), {}
    with TemporaryDirectory(prefix="qalign-") as folder:
        miniature.write_world(folder, sizes=dict.fromkeys(miniature.DEFAULT_SIZES, SAMPLE))
        for name in {profile.data.roots(corpus)[0] for corpus in profile.corpora()}:
            rows = load_corpus(name, folder, list(profile.data.languages)).shuffle(seed=0)[:SAMPLE]
            prompts, outputs = map(tokenizer, ([alpaca(text) for text in rows["instruction"]], rows["output"]))
            prompt, output = (sum(map(len, part.input_ids)) / len(rows["output"]) for part in (prompts, outputs))
            found[name] = Length(prompt + output, output)
    return found


def rows(profile: Profile, corpus: str) -> int:
    """Examples of a corpus of the miniature, by the sizes its profile gives."""
    choice, sizes = profile.data.choice(corpus), miniature.DEFAULT_SIZES | profile.data.miniature.sizes
    languages = len(choice.languages or profile.data.languages)
    if choice.of is not None:
        found = round(sum(rows(profile, part) for part in choice.of) * (choice.share or 1))
        return min(found, (choice.limit or found) * (languages - 1))
    if corpus in ("gsm8k", "metamathqa"):
        return min(sizes[corpus], choice.limit or sizes[corpus])
    kind = {"responses": "gsm8kinstruct"}.get(corpus.partition("-")[0], corpus.partition("-")[0])
    return min(sizes[kind], choice.limit or sizes[kind]) * (languages - (corpus != "gsm8kinstruct"))


# ------------------------------------------------------------------------------------------------- measured


def measure(profile: Profile, tokens: float) -> Speed:
    """Let as many processes as the profile has ranks train and generate side by side, on examples of so many tokens.

    Raises:
        OSError: when a process fails, with the last line it said.
    """
    training, devices = profile.training, profile.run.devices
    task = {"sizes": profile.model.miniature.config(), "tokens": round(tokens), "bf16": training.bf16}
    task["batch"] = training.per_device_train_batch_size
    line, environment = [sys.executable, "-m", "qalign_core.speed", json.dumps(task)], launch.environment(devices)
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "env": environment}
    found = []
    for rank in [subprocess.Popen(line, **pipes) for _ in range(devices)]:  # all are started before one is waited for
        said, error = rank.communicate()
        if rank.returncode:
            raise OSError(f"the measurement failed: {(error.strip().splitlines() or ['without a word'])[-1]}")
        found.append(Speed(*json.loads(said.splitlines()[-1])))
    return Speed(sum(f.training for f in found), sum(f.generation for f in found), max(f.startup for f in found))


def measure_rank(task: dict[str, Any]) -> Speed:
    """One rank's part of `measure`, in a process of its own."""
    begun = time.monotonic()
    import deepspeed  # noqa: F401  (a part of every start-up)
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    startup = time.monotonic() - begun
    config = AutoConfig.from_pretrained(miniature.SHIPPED_BASE, **task["sizes"])
    config.num_key_value_heads = config.num_attention_heads
    config.head_dim = config.hidden_size // config.num_attention_heads
    device, dtype = "cuda" if torch.cuda.is_available() else "cpu", torch.bfloat16 if task["bf16"] else torch.float32
    model = AutoModelForCausalLM.from_config(config).to(device, dtype)
    optimizer = torch.optim.AdamW(model.parameters())
    ids = torch.randint(3, config.vocab_size - 1, (task["batch"], task["tokens"]), device=device)  # (B, T)
    asked = ids[:1, : max(8, task["tokens"] // 2)].repeat(GENERATED_ROWS, 1)  # (N, P)

    def train() -> int:
        model(input_ids=ids, labels=ids, use_cache=False).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return ids.numel()

    def generate() -> int:
        model.generate(asked, do_sample=False, max_new_tokens=24, min_new_tokens=24, pad_token_id=0)
        return 24 * GENERATED_ROWS

    def rate(step: Callable[[], int], seconds: float) -> float:
        step()  # the first one allocates and compiles
        tokens, begun = 0, time.monotonic()
        while not tokens or time.monotonic() - begun < seconds:
            tokens += step()
        return tokens / (time.monotonic() - begun)

    return Speed(rate(train, TRAIN_SECONDS), rate(generate, GENERATE_SECONDS), startup)


# ------------------------------------------------------------------------------------------------- counted


def chapters(profile: Profile, speed: Speed, found: dict[str, Length]) -> dict[str, float]:
    """Seconds that each chapter takes from nothing, by its number, at `speed` and with examples as long as `found`."""
    jobs, seconds = Counter[str](), defaultdict[str, float](float)
    main = profile.in_chapter(ablations=False)
    for lineage in filter(None, plan.stages(profile)):
        chapter = "02" if lineage == [profile.first_stage()] else "03" if lineage in profile.lineages(main) else "06"
        arguments = profile.arguments(lineage[-1])
        examples = rows(profile, lineage[-1]) * arguments["num_train_epochs"]
        if arguments["max_steps"] > 0:
            batch = profile.run.devices * arguments["per_device_train_batch_size"]
            examples = arguments["max_steps"] * batch * arguments["gradient_accumulation_steps"]
        seconds[chapter] += examples * found[profile.data.roots(lineage[-1])[0]].tokens / speed.training
        jobs[chapter] += 1
    for name, system in profile.systems.items():
        chapter, times = "04" if name in main else "06", 2 if system.translator else 1
        solved = found.get(profile.data.roots((system.lineage or ["metamathqa"])[-1])[0])
        for test in profile.evaluation.benchmarks.values() if system.predictions is None else ():
            answers = (test.limit or 1000) * len(profile.data.languages) * times
            seconds[chapter] += answers * min(solved.output if solved else 160, test.max_new_tokens) / speed.generation
        jobs[chapter] += times * (system.predictions is None)
    seeds, numbers = len(profile.run.seeds), sorted({"01", "04", "05", *jobs})
    other = {number: NOTEBOOK + PREPARATION * (number == "01") for number in numbers}
    return {n: seeds * seconds[n] + (seeds * JOB * jobs[n] + other[n]) * speed.startup for n in numbers}


def sentences(profile: Profile, numbers: Sequence[str] | None = None) -> Iterator[str]:
    """How long all chapters, or some, take here from nothing; nothing where model or data are not the miniature's."""
    made_here = set(profile.data.sources.values()) == {"miniature"} and not any(
        choice.path for choice in profile.data.corpora.values()
    )
    if profile.model.base != "miniature" or not made_here or not profile.corpora():
        return
    found = lengths(profile)
    speed = measure(profile, max(length.tokens for length in found.values()))
    times = {n: seconds for n, seconds in chapters(profile, speed, found).items() if numbers is None or n in numbers}
    each = ", ".join(f"{number} {launch.clock(seconds)}" for number, seconds in times.items())
    yield f"Measured here: {speed.training:,.0f} tokens/s in training, {speed.generation:,.0f} in generation."
    yield f"From nothing about {launch.clock(sum(times.values()))} on this machine, if it is idle: {each}."


if __name__ == "__main__":
    print(json.dumps(measure_rank(json.loads(sys.argv[1]))))
