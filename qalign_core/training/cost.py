"""What a profile will cost before it is run: memory of a GPU by ZeRO stage, and hours of training. Estimates.

`python -m qalign_core.training.cost` prints README's table.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pandas as pd
from rich.console import Console
from rich.table import Table

from qalign_core import plan
from qalign_core.languages import NON_ENGLISH
from qalign_core.params import Profile, load
from qalign_core.runs import Run
from qalign_core.training.geometry import Geometry, base_geometry
from qalign_core.training.lora import LoraSection

GIB = 2**30


@dataclass(frozen=True)
class Machine:
    """A common machine: GPUs, the memory of each (GiB) and its peak in bf16 with fp32 sums (FLOP/s, dense).

    Source: NVIDIA's data sheets of A100 (312 TFLOP/s) and GeForce RTX 4090 (165 TFLOP/s).
    """

    name: str
    devices: int
    memory: int
    peak: float


MACHINES = (
    Machine("8 × A100 80 GB", 8, 80, 312e12),
    Machine("1 × A100 80 GB", 1, 80, 312e12),
    Machine("1 × RTX 4090 24 GB", 1, 24, 165e12),
)
LIVE, BUCKET = 1e9, 2e8  # parameters: DeepSpeed's default stage3_max_live_parameters; buckets of params/deepspeed
CONTEXT = 1.5 * GIB  # CUDA's context, communication and workspaces: an assumption
UTILISATION = 0.4  # share of the peak that training reaches: an assumption
LAYOUTS = {"ZeRO-1": (1, False), "ZeRO-2": (2, False), "ZeRO-3": (3, False), "ZeRO-3, offloaded": (3, True)}
# Examples a language and tokens an example (template included, cut at 512) of the known corpora. The tokens are round
# guesses for LLaMA-2's tokenizer; notebook 01 counts them with the base's own, and that count is used once it is there.
PAIRS = {"bn": 6525, "th": 7466, "sw": 7469, "ja": 7466, "zh": 7363, "de": 7464, "fr": 7464, "ru": 7360, "es": 7468}
CORPORA: dict[str, tuple[dict[str, int], int]] = {
    "questions-x-en": (PAIRS, 270),
    "questions-en-x": (PAIRS, 270),
    "responses-x-en": (PAIRS, 380),
    "responses-en-x": (PAIRS, 380),
    "flores-x-en": (dict.fromkeys(NON_ENGLISH, 997), 170),
    "gsm8k": ({"en": 7476}, 240),
    "gsm8kinstruct": (dict.fromkeys([*NON_ENGLISH, "en"], 7356), 340),
    "metamathqa": ({"en": 395_000}, 280),
}


# ------------------------------------------------------------------------------------------------- memory


@dataclass(frozen=True)
class Memory:
    """Bytes on one GPU, by what they are for, and on the host, for all its GPUs.

    `working` is what a pass or a step needs besides: activations and buffers, or what AdamW computes in between.
    """

    weights: float
    gradients: float
    optimizer: float
    working: float
    host: float

    @property
    def device(self) -> float:
        """Bytes on one GPU, all together."""
        return self.weights + self.gradients + self.optimizer + self.working

    def fits(self, machine: Machine) -> bool:
        """Whether a GPU of the machine holds it, with a twentieth left for fragmentation."""
        return self.device <= 0.95 * machine.memory * GIB


def training_memory(profile: Profile, geometry: Geometry, devices: int, stage: int, offloaded: bool) -> Memory:
    """Peak memory of training with AdamW in bf16 over fp32 master weights, gradients summed in fp32.

    A trained parameter has 2 bytes of weight, 4 of gradient and 12 of optimizer state (master weight, two moments).
    Stage 1 shares out the optimizer alone and holds gradients in bf16 besides, stage 2 the gradients too, stage 3 also
    the weights, of which it gathers what it computes with. A weight that LoRA leaves frozen has its 2 bytes only.
    Counted on tensors that were alive in training with each stage.

    Args:
        profile: its micro-batch, max_length, activation checkpointing, method.
        geometry: of its base.
        devices: GPUs that share.
        stage: of ZeRO.
        offloaded: weights, gradients and optimizer on the host (`deepspeed/zero3-offload.json`).
    """
    training, every = profile.training, geometry.parameters
    trained = every
    if training.method == "lora":
        lora = training.lora or LoraSection()
        adapters = geometry.adapters(lora.rank, lora.target_modules)
        trained, every = adapters + (geometry.embeddings if lora.embeddings else 0), every + adapters
    weights = 2.0 * every / (devices if stage == 3 else 1)
    gradients = 4.0 * trained / (devices if stage >= 2 else 1) + (2.0 * trained if stage == 1 else 0.0)
    optimizer = 12.0 * trained / devices
    gathered = 2.0 * min(every, LIVE) if stage == 3 else 0.0
    bucket = 2.0 * min(trained, BUCKET)
    step = 4.0 * trained / devices if stage < 3 else 8.0 * min(trained / devices, LIVE)  # 3 goes part by part
    host = (weights + gradients + optimizer) * devices if offloaded else 0.0
    if offloaded:
        weights = gradients = optimizer = step = 0.0
    working = CONTEXT + max(_activations(profile, geometry) + gathered + bucket, step)
    return Memory(weights, gradients, optimizer, working, host)


def _activations(profile: Profile, geometry: Geometry) -> float:
    """Bytes of a micro-batch in which every example has `max_length` tokens, all of them targets."""
    training = profile.training
    tokens = training.per_device_train_batch_size * training.max_length
    layer = geometry.layer_activations(2)
    if training.gradient_checkpointing:  # every layer's input, and all of one layer at a time
        layers = geometry.layers * 2 * geometry.hidden + layer
    else:
        layers = geometry.layers * layer
    logits = 2 * geometry.vocabulary  # in bf16, and their gradient in their place (`cross_entropy`)
    return float(tokens * (layers + logits))


# ------------------------------------------------------------------------------------------------- hours


def hours(profile: Profile, geometry: Geometry, tokens: float, machine: Machine) -> float:
    """Hours to train on so many tokens: 6 operations a parameter and token, at `UTILISATION` of the peak.

    LoRA needs no gradients of frozen weights (4 instead of 6); activation checkpointing computes the forward pass
    twice (2 more). Offloading makes it slower by what is not estimated here.
    """
    operations = (6 if profile.training.method == "full" else 4) + (2 if profile.training.gradient_checkpointing else 0)
    return operations * geometry.parameters * tokens / (UTILISATION * machine.peak * machine.devices) / 3600


def stage_tokens(profile: Profile, corpus: str, counted: dict[str, tuple[int, int]] | None = None) -> float | None:
    """Tokens that training on a corpus goes through, all epochs together; None if nothing is known of the corpus.

    Args:
        profile: for its corpora, epochs and `max_steps`.
        corpus: a known or derived one.
        counted: corpus → (examples, tokens) as notebook 01 counted them.
    """
    arguments = profile.arguments(corpus)
    if counted and corpus in counted:
        examples, tokens = counted[corpus]
        mean = min(tokens / examples, profile.training.max_length)
    else:
        rows, root = _examples(profile, corpus), profile.data.roots(corpus)[0]
        if rows is None:
            return None
        examples, mean = sum(rows.values()), CORPORA[root][1]
    if arguments["max_steps"] > 0:
        return float(arguments["max_steps"] * plan.sequences_per_update(profile, corpus) * mean)
    return float(examples * mean * arguments["num_train_epochs"])


def _examples(profile: Profile, corpus: str) -> dict[str, int] | None:
    """Examples a language, as far as the profile alone tells: not of a file of one's own."""
    choice = profile.data.choice(corpus)
    if choice.path is not None:
        return None
    if choice.of is None:
        chosen = choice.languages or profile.data.languages
        found = {c: n for c, n in CORPORA[corpus][0].items() if c in chosen or list(CORPORA[corpus][0]) == ["en"]}
    else:
        found = {}
        for part in choice.of:
            rows = _examples(profile, part)
            if rows is None:
                return None
            for code, number in rows.items():
                found[code] = found.get(code, 0) + number
        left_out = set(choice.without or []) | (set(found) - set(choice.languages or found))
        found = {code: round(n * (choice.share or 1)) for code, n in found.items() if code not in left_out}
    return {code: min(number, choice.limit or number) for code, number in found.items()}


# ------------------------------------------------------------------------------------------------- shown


def counted_tokens(run: Run) -> dict[str, tuple[int, int]]:
    """Corpus → (examples, tokens) as notebook 01 counted them in this run; empty before it ran."""
    path = run.results / "corpora.csv"
    if not path.is_file():
        return {}
    table = pd.read_csv(path).dropna(subset=["tokens"])
    return {row["corpus"]: (int(row["rows"]), int(row["tokens"])) for row in table.to_dict("records") if row["rows"]}


def memory_cell(memory: Memory, machine: Machine, outside: str = "~~") -> str:
    """GiB of one GPU, struck out where it does not fit."""
    text = f"{memory.device / GIB:.0f}"
    return text if memory.fits(machine) else f"{outside}{text}{outside}"


def estimates(profile: Profile, run: Run) -> Iterator[tuple[str, list[str]]]:
    """Lines of a table, a column a machine of `MACHINES`: GiB of a GPU by ZeRO stage, then hours by stage of training.

    Nothing for the miniature, for bases of an unknown kind, or where nothing is trained.
    """
    geometry = base_geometry(profile)
    if geometry is None or not profile.lineages():
        return
    config: dict[str, Any] = plan.deepspeed_config(profile)["zero_optimization"]
    own = (config["stage"], "offload_optimizer" in config)
    for name, (stage, offloaded) in LAYOUTS.items():
        cells = []
        for machine in MACHINES:
            memory = training_memory(profile, geometry, machine.devices, stage, offloaded)
            host = f" + {memory.host / GIB:.0f} of RAM" if offloaded else ""
            cells.append(f"{memory_cell(memory, machine, '')} GiB{host}{'' if memory.fits(machine) else ' ✗'}")
        yield f"{name}{' (this profile)' if (stage, offloaded) == own else ''}", cells
    stages = Counter(lineage[-1] for lineage in profile.lineages())
    needed = {corpus: stage_tokens(profile, corpus, counted_tokens(run)) for corpus in stages}
    for corpus, tokens in needed.items():
        unknown = ["? (run notebook 01)"] * len(MACHINES)
        cells = unknown if tokens is None else [f"{hours(profile, geometry, tokens, m):.1f} h" for m in MACHINES]
        yield f"stage {corpus}{f' ({stages[corpus]} of them)' if stages[corpus] > 1 else ''}", cells
    every = sum((tokens or 0.0) * stages[corpus] for corpus, tokens in needed.items()) * len(profile.run.seeds)
    title = "all stages" + (f", {len(profile.run.seeds)} seeds" if len(profile.run.seeds) > 1 else "")
    yield title, [f"{hours(profile, geometry, every, machine):.1f} h" for machine in MACHINES]


def show(profile: Profile, run: Run, console: Console) -> None:
    """Print the estimates of a profile, if there are any."""
    if not (lines := list(estimates(profile, run))):
        return
    table = Table("a GPU's memory, hours", *(machine.name for machine in MACHINES), box=None)
    for name, cells in lines:
        table.add_row(name, *cells)
    console.print(table)
    console.print(
        f"Estimates: {UTILISATION:.0%} of the GPUs' peak, examples of {profile.training.max_length} tokens at worst; "
        "✗: does not fit. Offloading is slower than these hours. Generation is not counted.",
        soft_wrap=True,
    )


def readme_table(profiles: tuple[str, ...] = ("llama2-7b", "llama2-13b", "llama3-8b", "mistral-7b", "one-gpu")) -> str:
    """README's table, in Markdown: a line a profile and machine; what does not fit is struck out."""
    head = ["profile", "machine", *LAYOUTS, "QAlign, hours", "whole profile, hours"]
    lines = ["| " + " | ".join(head) + " |", "|---|---|" + "---:|" * (len(head) - 2)]
    for name in profiles:
        profile = load(name)
        geometry = base_geometry(profile)
        assert geometry is not None  # the test of this table sees to it
        for machine in MACHINES:
            cells = [f"`{name}`" if machine is MACHINES[0] else "", machine.name]
            for stage, offloaded in LAYOUTS.values():
                cells.append(
                    memory_cell(training_memory(profile, geometry, machine.devices, stage, offloaded), machine)
                )
            for stages in (profile.systems["QAlign"].lineage or [], [lineage[-1] for lineage in profile.lineages()]):
                tokens = sum(stage_tokens(profile, corpus) or 0.0 for corpus in stages)
                needed = hours(profile, geometry, tokens, machine)
                cells.append(f"{needed:.1f}" if needed < 10 else f"{needed:,.0f}")
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(readme_table())
