"""What a profile costs: memory of a GPU and hours of training, estimated; the miniature's time, measured here."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import pandas as pd
from rich.console import Console

from qalign_core import launch, miniature, plan, runs
from qalign_core.languages import NON_ENGLISH
from qalign_core.models import hub_models
from qalign_core.params import Profile
from qalign_core.plan import GIB, Fit, Sizes, base_sizes, training_memory
from qalign_core.runs import Run

UTILISATION = 0.4  # share of the peak that training reaches: an assumption
LAYOUTS = {"ZeRO-1": (1, False), "ZeRO-2": (2, False), "ZeRO-3": (3, False), "ZeRO-3, offloaded": (3, True)}


class Machine(NamedTuple):
    """GPUs, the memory of each (GiB) and its peak in bf16 with fp32 sums (FLOP/s, dense)."""

    name: str
    devices: int
    memory: int
    peak: float


# Source: NVIDIA's data sheets of A100 (312 TFLOP/s) and GeForce RTX 4090 (165 TFLOP/s).
MACHINES = (
    Machine("8 × A100 80 GB", 8, 80, 312e12),
    Machine("1 × A100 80 GB", 1, 80, 312e12),
    Machine("1 × RTX 4090 24 GB", 1, 24, 165e12),
)
# Examples per language of the known corpora, and tokens per example (template included, truncated at 512): guesses for
# LLaMA-2's tokenizer; once notebook 01 has counted them with the base's own, that count is used.
PAIRS = {"bn": 6525, "th": 7466, "sw": 7469, "ja": 7466, "zh": 7363, "de": 7464, "fr": 7464, "ru": 7360, "es": 7468}
CORPORA: dict[str, tuple[dict[str, int], int]] = {
    **{f"questions-{direction}": (PAIRS, 270) for direction in ("x-en", "en-x")},
    **{f"responses-{direction}": (PAIRS, 380) for direction in ("x-en", "en-x")},
    "flores-x-en": (dict.fromkeys(NON_ENGLISH, 997), 170),
    "gsm8k": ({"en": 7476}, 240),
    "gsm8kinstruct": (dict.fromkeys([*NON_ENGLISH, "en"], 7356), 340),
    "metamathqa": ({"en": 395_000}, 280),
}
QUESTIONS = {"mgsm": 250, "msvamp": 1000}
ANSWER, ANSWERED = 150, 350  # tokens of an answer, and tokens/s of a GPU that answers with a model of 7B: guesses
# ------------------------------------------------------------------------------------------------- estimated


def fit(profile: Profile, machine: Machine) -> Fit:
    """What `auto` stands for on a machine."""
    return plan.fit(profile, profile.corpora()[-1], machine.memory * GIB, machine.devices)


def hours(profile: Profile, sizes: Sizes, tokens: float, machine: Machine) -> float:
    """Hours to train on so many tokens: 6 operations per parameter and token, at `UTILISATION` of the peak.

    LoRA needs no gradients of frozen weights (4 instead of 6); activation checkpointing computes the forward pass
    twice (2 more). Offloading makes it slower by what is not estimated here.
    """
    operations = (6 if profile.training.method == "full" else 4) + 2 * fit(profile, machine).checkpointing
    return operations * sizes.parameters * tokens / (UTILISATION * machine.peak * machine.devices) / 3600


def examples_of(profile: Profile, corpus: str) -> dict[str, int] | None:
    """Examples per language, as far as the profile alone tells: None for a file of one's own."""
    choice, sizes, found = profile.data.choice(corpus), profile.data.miniature.sizes, Counter[str]()
    if choice.path is not None:
        return None
    if choice.of is None:
        rows, chosen = CORPORA[corpus][0], choice.languages or profile.data.languages
        if set(profile.data.sources.values()) == {"miniature"}:
            name = corpus.partition("-")[0]
            made = (miniature.DEFAULT_SIZES | sizes)["gsm8kinstruct" if name == "responses" else name]
            rows = dict.fromkeys(rows, made)
        found.update({code: n for code, n in rows.items() if code in chosen or list(rows) == ["en"]})
    for part in choice.of or []:
        if (inner := examples_of(profile, part)) is None:
            return None
        kept = [code for code in inner if code in (choice.languages or inner) and code not in (choice.without or [])]
        found.update({code: inner[code] for code in kept})
    return {code: min(round(n * (choice.share or 1)), choice.limit or n) for code, n in found.items()}


def examples_seen(profile: Profile, corpus: str, examples: int) -> float:
    """Examples that training on a corpus of `examples` goes through, all epochs together."""
    arguments = profile.arguments(corpus)
    if arguments["max_steps"] > 0:
        return float(arguments["max_steps"] * plan.effective_batch_size(profile, corpus))
    return float(examples * arguments["num_train_epochs"])


def stage_tokens(profile: Profile, corpus: str, counted: Mapping[str, tuple[int, int]] | None = None) -> float | None:
    """Tokens that training on a corpus goes through; None if nothing is known of the corpus.

    `counted` has the (examples, tokens) of a corpus as notebook 01 counted them.
    """
    if counted and corpus in counted:
        examples, tokens = counted[corpus]
        return examples_seen(profile, corpus, examples) * min(tokens / examples, profile.training.max_length)
    if (rows := examples_of(profile, corpus)) is None:
        return None
    return examples_seen(profile, corpus, sum(rows.values())) * CORPORA[profile.data.roots(corpus)[0]][1]


def estimates(profile: Profile, run: Run | None = None) -> pd.DataFrame | None:
    """One column per machine of `MACHINES`: GiB of a GPU by ZeRO stage, then hours by training stage.

    Tokens are those that notebook 01 counted, if it did in `run`. None for the miniature, for bases of an unknown kind,
    or where nothing is trained.
    """
    sizes, rows = base_sizes(profile), dict[str, list[str]]()
    if sizes is None or not profile.lineages():
        return None
    for name, (stage, offloaded) in LAYOUTS.items():
        rows[name] = []
        for machine in MACHINES:
            device, host = training_memory(profile, sizes, machine.devices, stage, offloaded, *plan.least(profile))
            ram = f" + {host / GIB:.0f} of RAM" if offloaded else ""
            fits = "" if device <= 0.95 * machine.memory * GIB else " ✗"
            rows[name].append(f"{device / GIB:.0f} GiB{ram}{fits}")
    counted = {}
    if run and (path := run.results / "corpora.csv").is_file():
        table = pd.read_csv(path).dropna(subset=["tokens"]).query("rows > 0")
        counted = {row.corpus: (row.rows, row.tokens) for row in table.itertuples()}
    stages = Counter(lineage[-1] for lineage in profile.lineages())
    tokens = {corpus: stage_tokens(profile, corpus, counted) for corpus in stages}

    def spent(total: float) -> list[str]:
        return [f"{hours(profile, sizes, total, machine):.1f} h" for machine in MACHINES]

    for corpus, number in stages.items():
        known, several = tokens[corpus], f" ({number} of them)" if number > 1 else ""
        rows[f"stage {corpus}{several}"] = ["? (run notebook 01)"] * len(MACHINES) if known is None else spent(known)
    if "QAlign" in profile.systems:
        rows["QAlign"] = spent(sum(tokens[corpus] or 0.0 for corpus in profile.systems["QAlign"].lineage or []))
    every, seeds = sum((tokens[corpus] or 0.0) * number for corpus, number in stages.items()), len(profile.run.seeds)
    rows["all stages" + (f", {seeds} seeds" if seeds > 1 else "")] = spent(every * seeds)
    return pd.DataFrame(rows, index=[machine.name for machine in MACHINES]).T


def show(profile: Profile, run: Run, console: Console) -> None:
    """Print the estimates of a profile, if there are any."""
    if said := asking(profile):
        console.print(f"\n{said}", soft_wrap=True, highlight=False)
    table = estimates(profile, run)
    if table is None:
        return
    own = {plan.zero(fit(profile, MACHINES[0]).deepspeed): " (this profile)"}
    marked = {name: name + own.get(layout, "") for name, layout in LAYOUTS.items()}
    console.print(table.rename(index=marked).to_string(), soft_wrap=True, highlight=False)
    for machine in MACHINES:
        console.print(f"auto on {machine.name}: {fit(profile, machine).sentence}", soft_wrap=True, highlight=False)
    said = f"Estimates: {UTILISATION:.0%} of the GPUs' peak, {profile.training.max_length} tokens an example at worst; "
    said += "GiB with the smallest device batch; ✗: does not fit. Offloading is slower. Generation is not counted."
    console.print(said, soft_wrap=True, highlight=False)


def published_size(model: tuple[str, str | None]) -> float:
    """Bytes of a model's weights in 16 bits, as its name tells (`…-7B`); 0 where it does not."""
    match = re.search(r"(\d+(?:\.\d+)?)b(?![a-z])", model[0], re.IGNORECASE)
    return 2e9 * (6.74 if match[1] == "7" else float(match[1])) if match else 0.0  # LLaMA-2's 7B are 6.74


def asking(profile: Profile) -> str:
    """What it takes to ask published checkpoints, where nothing is trained; else blank."""
    sizes = [published_size(model) for model in hub_models(profile)]
    if profile.lineages() or not any(sizes):
        return ""
    questions = sum(test.limit or QUESTIONS.get(name, 1000) for name, test in profile.evaluation.benchmarks.items())
    answers = questions * len(profile.data.languages) * len(sizes)
    hours = answers * ANSWER / ANSWERED / profile.run.devices / 3600
    said = f"{2 * sum(sizes) / 1e9:.0f} GB to fetch (in 32 bits; half of it in 16), {max(sizes) / 1e9:.1f} GB of GPU"
    said += f" memory for weights and 6 or more for a batch; {answers:,} answers: about {hours:.1f} hours"
    return f"{said}, if a GPU writes {ANSWERED} tokens/s and an answer has {ANSWER} (guesses)"


# ------------------------------------------------------------------------------------------------- measured

# Tokens of an example of the miniature's corpora, and of its output alone.
LENGTHS = {
    **{"questions-x-en": (73, 33), "questions-en-x": (73, 31), "flores-x-en": (25, 8), "gsm8k": (84, 49)},
    **{"responses-x-en": (105, 49), "responses-en-x": (105, 47), "gsm8kinstruct": (82, 48), "metamathqa": (91, 58)},
}
# In start-ups (importing torch, transformers and DeepSpeed): a launcher and its ranks; a job's loading and saving; a
# notebook's kernel and tables; what chapter 1 makes besides.
START, JOB, NOTEBOOK, PREPARATION = 2.5, 0.5, 2.5, 3.0


class Speed(NamedTuple):
    """What all ranks do together in tokens/s, and one start-up in seconds."""

    training: float
    generation: float
    startup: float


def measure(profile: Profile) -> Speed:
    """Time a start-up, then train and generate for some seconds as one of the profile's ranks, with random weights."""
    begun, devices = time.monotonic(), profile.run.devices
    line = [sys.executable, "-c", "import deepspeed, torch, transformers"]
    subprocess.run(line, env=launch.environment(devices), check=True, capture_output=True)
    startup = time.monotonic() - begun
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from qalign_core import decoding

    config = AutoConfig.from_pretrained(miniature.SHIPPED_BASE, **profile.model.miniature.config())
    config.num_key_value_heads = config.num_attention_heads
    config.head_dim = config.hidden_size // config.num_attention_heads
    device, ranks = "cuda" if torch.cuda.is_available() else "cpu", min(devices, launch.gpu_count() or runs.cores())
    dtype = torch.bfloat16 if profile.training.bf16 else torch.float32  # the base is stored in fp16
    model = AutoModelForCausalLM.from_config(config, dtype=dtype).to(device)
    optimizer = torch.optim.AdamW(model.parameters())
    shape = (plan.least(profile)[0], max(tokens for tokens, _ in LENGTHS.values()))
    ids = torch.randint(3, config.vocab_size - 1, shape, device=device)  # (B, T)
    limit = decoding.PROCESSOR_TOKENS
    decoder = decoding.GreedyDecoder(model, eos_token_id=-1, filler_token_id=0, batch_tokens=limit)

    def train() -> int:
        model(input_ids=ids, labels=ids, use_cache=False).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return ids.numel()

    def generate() -> int:
        model.eval()
        asked = [decoding.Sequence(str(i), ids[0, : shape[1] // 2].tolist(), 50) for i in range(200)]
        return sum(len(each.output_ids) for ended in decoder.decode(asked) for each in ended)

    def rate(step: Callable[[], int], seconds: float) -> float:
        step()  # the first one allocates and compiles
        tokens, begun = 0, time.monotonic()
        while not tokens or time.monotonic() - begun < seconds:
            tokens += step()
        return ranks * tokens / (time.monotonic() - begun)

    threads = torch.get_num_threads()
    torch.set_num_threads(max(1, runs.cores() // devices))  # as each rank has
    try:
        return Speed(rate(train, 2.0), rate(generate, 1.0), startup)
    finally:
        torch.set_num_threads(threads)


def chapter(profile: Profile, lineage: list[str]) -> str:
    """The number of the chapter that trains a lineage's last stage."""
    main = profile.lineages(profile.in_chapter(ablations=False))
    return "02" if lineage in ([], [profile.first_stage()]) else "03" if lineage in main else "06"


def chapters(profile: Profile, speed: Speed) -> dict[str, float]:
    """Seconds that each chapter takes from nothing, by its number."""
    jobs, seconds = Counter[str](), defaultdict[str, float](float)
    main = profile.in_chapter(ablations=False)
    for lineage in filter(None, plan.stages(profile)):
        number, corpus = chapter(profile, lineage), lineage[-1]
        examples = examples_seen(profile, corpus, sum((examples_of(profile, corpus) or {}).values()))
        seconds[number] += examples * LENGTHS[profile.data.roots(corpus)[0]][0] / speed.training
        jobs[number] += 1
    for name, system in profile.systems.items():
        number, times = "04" if name in main else "06", 2 if system.translator else 1
        if system.predictions is not None:
            continue
        output = LENGTHS[profile.data.roots((system.lineage or ["metamathqa"])[-1])[0]][1]
        for test in profile.evaluation.benchmarks.values():
            answers = (test.limit or 1000) * len(profile.data.languages) * times
            seconds[number] += answers * min(output, test.max_new_tokens) / speed.generation
        jobs[number] += times
    seeds, numbers = len(profile.run.seeds), sorted({"01", "04", "05", *jobs})
    other = {number: NOTEBOOK + PREPARATION * (number == "01") for number in numbers}
    translated = any(profile.systems[name].translator for name in main)
    # Jobs that follow each other share a start.
    starts = {"02": 2, "03": 1, "04": seeds * (1 + translated), "06": 1 + seeds}
    for number in jobs:
        other[number] += START * starts[number] + seeds * JOB * jobs[number]
    return {number: seeds * seconds[number] + other[number] * speed.startup for number in numbers}


def sentences(profile: Profile, numbers: Sequence[str] | None = None) -> Iterator[str]:
    """How long all chapters, or some, take here from nothing; nothing where model or data are not the miniature's."""
    known = set(LENGTHS) >= {root for corpus in profile.corpora() for root in profile.data.roots(corpus)}
    if {profile.model.base, *profile.data.sources.values()} != {"miniature"} or not (profile.corpora() and known):
        return
    speed = measure(profile)
    times = {n: seconds for n, seconds in chapters(profile, speed).items() if numbers is None or n in numbers}
    each = ", ".join(f"{number} {launch.clock(seconds)}" for number, seconds in times.items())
    yield f"Measured here: {speed.training:,.0f} tokens/s in training, {speed.generation:,.0f} in generation."
    yield f"From nothing about {launch.clock(sum(times.values()))} on this machine, if it is idle: {each}."
