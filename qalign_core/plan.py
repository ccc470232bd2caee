"""From a profile to its jobs: which stages and predictions there are, in order, and what each one's `job.json` says.

Planning reads the run folder and writes nothing; `open_run` is where a run begins.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from qalign_core import hub, prompts, runs
from qalign_core.corpora import corpus_seed
from qalign_core.models import add_adapters, hub_models, model_identity, pretrains, starting_model, write_base
from qalign_core.params import BASE_TEXT, PARAMS_FOLDER, Corpus, LoraSection, Profile, ProfileError, dump
from qalign_core.runs import Run

if TYPE_CHECKING:
    from transformers import PretrainedConfig

# What only decides how a stage is computed, not what comes out of it: left out of its fingerprint, so that a run may be
# continued on other devices. The effective batch size counts.
HOW_ONLY = {"per_device_train_batch_size", "gradient_accumulation_steps", "activation_checkpointing"}
HOW_ONLY |= {"save_steps", "save_total_limit", "logging_steps", "report_to"}
TO_ENGLISH = "to-english"  # where the prompts that ask for a benchmark's translation are, and what came of them
RUN_FOLDER = "QALIGN_RUN_DIR"  # environment: the run folder of notebooks that `reproduce` executes
BASE_BLOCK = 256  # tokens of the base's text in a sequence


class NotTranslatedError(FileNotFoundError):
    """A system's questions must be translated before they can be asked."""


@dataclass(frozen=True)
class Job:
    """One subprocess to run: the content of its `job.json` and its folder."""

    content: dict[str, Any]
    folder: Path

    @property
    def done(self) -> bool:
        """Whether it was finished with exactly this content."""
        path = self.folder / "job.json"
        return runs.is_done(path) and runs.read_json(path)["fingerprint"] == self.content["fingerprint"]


class AnsweringModel(NamedTuple):
    """A model as a job names it, what identifies it, and the folder of its predictions."""

    model: dict[str, Any]
    identity: Any
    folder: Path


# ------------------------------------------------------------------------------------------------- the run


def open_run(profile: Profile, folder: str | Path | None = None, *, read_only: bool = False) -> Run:
    """The run folder of a profile, with the effective profile and the miniature's base model in it: `folder`,
    QALIGN_RUN_DIR, or `runs/<profile>` below the repository.

    `read_only`: the run is only looked at: nothing is written or refused. Else a ProfileError for bf16 on a processor
    that only emulates it.
    """
    run = Run(folder or os.environ.get(RUN_FOLDER) or PARAMS_FOLDER.parent / "runs" / profile.run.profile)
    if read_only:
        return run
    if problem := slow_bf16(profile):
        raise ProfileError(problem)
    for name, revision in hub_models(profile):
        with suppress(hub.DownloadError):  # the job that needs the model says what is wrong
            hub.pin(name, revision)
    text = dump(profile)
    if not (run.profile.is_file() and run.profile.read_text(encoding="utf-8") == text):
        runs.write_atomic(run.profile, text)
    if profile.model.base == "miniature" and any(system.lineage is not None for system in profile.systems.values()):
        for seed in profile.run.seeds:
            write_base(profile, run, seed)
    return run


def slow_bf16(profile: Profile) -> str:
    """What to say of a profile that asks for bf16 where neither a GPU nor the processor computes it natively, or "".

    A profile may want it all the same (`run.slow_bf16`), or its jobs run on other machines.
    """
    trained = any(profile.arguments(lineage[-1] if lineage else BASE_TEXT)["bf16"] for lineage in stages(profile))
    answers = any(system.predictions is None for system in profile.systems.values())
    instead = ["training.bf16: false"] if trained else []
    instead += ["evaluation.dtype: float32"] if answers and profile.evaluation.dtype == "bfloat16" else []
    if not instead or profile.run.slow_bf16 or profile.run.hostfile or runs.has_native_bf16():
        return ""
    return (
        f"profile {profile.run.profile} asks for bf16, but there is no GPU here, and the processor only emulates bf16, "
        f"many times slower than fp32: write {' and '.join(instead)}; or, to run it all the same, run.slow_bf16: true"
    )


def hostfile(profile: Profile) -> Path | None:
    """`run.hostfile`, relative to the folder of the profiles; None for this machine alone."""
    if profile.run.hostfile is None:
        return None
    path = PARAMS_FOLDER / Path(profile.run.hostfile).expanduser()
    if not path.is_file():  # DeepSpeed itself would go on with this machine alone
        raise ProfileError(f"run.hostfile: no file {path}; it has a line such as `worker-1 slots=8` for each machine")
    return path


def machines(profile: Profile) -> int:
    """How many machines a job runs on; a ProfileError names one without `run.devices` slots."""
    path = hostfile(profile)
    if path is None:
        return 1
    lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    entries = [line for line in lines if line and not line.startswith("#")]
    for entry in entries or [""]:
        if not re.match(rf"\S+\s+slots={profile.run.devices}\b", entry):
            raise ProfileError(f"{path}: {entry!r} must be `<host> slots={profile.run.devices}`, as run.devices says")
    return len(entries)


# ------------------------------------------------------------------------------------------------- memory

GIB = 2**30
CONTEXT = 1.5 * GIB  # CUDA's context, communication and workspaces: an assumption
LIVE = 1e9  # parameters that ZeRO-3 has gathered at a time: DeepSpeed's default stage3_max_live_parameters
SHARE = 0.85  # of a card's memory that an estimate may fill
MICRO_BATCH = 2  # the paper's: its loss is a mean over so many examples, whatever a device batch holds
OFFLOADING = ["deepspeed/zero3.json", "deepspeed/zero3-offload.json"]  # what training.deepspeed: auto chooses from
# Configurations of the shipped profiles' bases: hidden, intermediate, layers, heads, key-value heads, vocabulary, tied.
# The hub's own are read where they are in its cache, but some of these are gated.
KNOWN = {
    "meta-llama/Llama-2-7b-hf": ("llama", 4096, 11008, 32, 32, 32, 32000, False),
    "meta-llama/Llama-2-13b-hf": ("llama", 5120, 13824, 40, 40, 40, 32000, False),
    "meta-llama/Meta-Llama-3-8B": ("llama", 4096, 14336, 32, 32, 8, 128256, False),
    "meta-llama/Llama-3.2-1B": ("llama", 2048, 8192, 16, 32, 8, 128256, True),
    "mistralai/Mistral-7B-v0.1": ("mistral", 4096, 14336, 32, 32, 8, 32000, False),
    "Qwen/Qwen2.5-1.5B": ("qwen2", 1536, 8960, 28, 12, 2, 151936, True),
}
FIELDS = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads")


class Sizes(NamedTuple):
    """Parameters of a base model: all, of its largest module, and (LoRA's included) the trained and the frozen ones."""

    config: PretrainedConfig
    parameters: int
    largest: int
    trained: int
    frozen: int


def base_sizes(profile: Profile) -> Sizes | None:
    """The sizes of a profile's base; None for the miniature, or where no configuration is at hand."""
    if profile.model.base == "miniature":
        return None
    lora = (profile.training.lora or LoraSection()).model_dump() if profile.training.method == "lora" else None
    return _sizes(*hub.pinned(profile.model.base, profile.model.revision).values(), json.dumps(lora))


@cache
def _sizes(base: str, revision: str | None, lora: str) -> Sizes | None:
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(base, revision=revision, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError):
        if base not in KNOWN:
            return None
        kind, *numbers, vocabulary, tied = KNOWN[base]
        fields: dict[str, Any] = dict(zip(FIELDS, numbers, strict=True))
        config = AutoConfig.for_model(kind, **fields, vocab_size=vocabulary, tie_word_embeddings=tied)
    try:
        return sizes_of(config, json.loads(lora))
    except ValueError as error:  # target_modules that the base does not have
        raise ProfileError(str(error)) from None


def sizes_of(config: PretrainedConfig, lora: dict[str, Any] | None = None) -> Sizes | None:
    """Sizes of a decoder, counted without weights; None where its kind has no such fields as LLaMA's."""
    import torch
    from transformers import AutoModelForCausalLM

    if any(getattr(config, field, None) is None for field in FIELDS):
        return None
    with torch.device("meta"), warnings.catch_warnings(action="ignore"):
        model = AutoModelForCausalLM.from_config(config)
        parameters = model.num_parameters()
        largest = max(sum(p.numel() for p in module.parameters(recurse=False)) for module in model.modules())
        adapted = add_adapters(model, lora) if lora else model
    trained = sum(p.numel() for p in adapted.parameters() if p.requires_grad)
    return Sizes(config, parameters, largest, trained, sum(p.numel() for p in adapted.parameters()) - trained)


def training_memory(
    profile: Profile, sizes: Sizes, devices: int, stage: int, offloaded: bool, batch: int, checkpointing: bool
) -> tuple[float, float]:
    """Peak memory of training with AdamW in bytes, on one GPU and on the host for all: DeepSpeed's estimate of the
    model's states, activations and `CONTEXT`. `offloaded`: weights, gradients and optimizer are on the host.
    """
    import torch

    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")  # or DeepSpeed warns that it finds no GPU
    from deepspeed.runtime.zero.stage3 import estimate_zero3_model_states_mem_needs as zero3
    from deepspeed.runtime.zero.stage_1_and_2 import estimate_zero2_model_states_mem_needs as zero2

    trained, frozen, host = sizes.trained, sizes.frozen, 0.0
    if stage == 3:
        host, states, _ = zero3(trained, sizes.largest, devices, cpu_offload=offloaded, cpu_offload_params=offloaded)
        states += 2 * min(trained + frozen, LIVE)
        host, states = host + offloaded * 2 * frozen, states + (not offloaded) * 2 * frozen / devices
    else:
        _, states = zero2(trained, devices if stage else 1, cpu_offload=False)
        states += 2 * frozen + (stage == 1) * 6 * trained * (1 - 1 / devices)  # ZeRO-1 does not partition gradients
    tokens = batch * profile.training.max_length
    return states + activations(sizes.config, tokens, checkpointing) + CONTEXT, host


def activations(config: PretrainedConfig, tokens: int, checkpointing: bool) -> float:
    """Bytes kept for the backward pass of a device batch of so many tokens, all of them targets."""
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    attention = 2 * (config.num_attention_heads + config.num_key_value_heads) * head_dim
    # Two norms keep their input in fp32 and its normalised form; bf16: the projections' inputs, query, key, value and
    # output of the attention, four widths of the feed-forward layer.
    layer = 8 * config.hidden_size + 2 * (4 * config.hidden_size + attention + 4 * config.intermediate_size)
    layers = config.num_hidden_layers * layer
    if checkpointing:  # every layer's input, and all of one layer at a time
        layers = config.num_hidden_layers * 2 * config.hidden_size + layer
    return float(tokens * (layers + 2 * config.vocab_size))  # logits in bf16, and their gradient in their place


class Fit(NamedTuple):
    """How a stage is computed on a machine; what comes out of it is the same."""

    batch: int  # examples of a device in a forward pass
    accumulation: int
    checkpointing: bool
    deepspeed: str
    sentence: str  # for people


def least(profile: Profile) -> tuple[int, bool]:
    """The device batch and checkpointing of a profile, with the smallest memory where they are `auto`."""
    batch, checkpointing = profile.training.per_device_train_batch_size, profile.training.activation_checkpointing
    return MICRO_BATCH if batch == "auto" else batch, checkpointing in (True, "auto")


def fit_here(profile: Profile, corpus: str) -> Fit:  # this machine's smallest GPU stands for those of all
    return fit(profile, corpus, runs.smallest_gpu(), machines(profile) * profile.run.devices)


def zero(config: str) -> tuple[int, bool]:
    """The ZeRO stage of a DeepSpeed configuration, and whether it offloads the optimizer."""
    found = runs.read_object(PARAMS_FOLDER / config).get("zero_optimization", {})
    return found.get("stage", 0), "offload_optimizer" in found


def fit(profile: Profile, corpus: str, card: float | None, devices: int) -> Fit:
    """What `auto` stands for in a stage: no offloading if that fits, then no checkpointing, then the largest batch.

    `devices` are the GPUs of all machines, `card` bytes of the smallest; without one, or where the base's sizes are not
    known, it is what needs least memory.
    """
    arguments, sizes = profile.arguments(corpus), base_sizes(profile) if card else None
    batch, checkpointing = arguments["per_device_train_batch_size"], arguments["activation_checkpointing"]
    # `auto` leaves the examples of an update as they are with the paper's micro-batches.
    examples = (MICRO_BATCH if batch == "auto" else batch) * arguments["gradient_accumulation_steps"]
    batches = [n for n in (16, 8, 4) if examples % n == 0] + [MICRO_BATCH] if batch == "auto" else [batch]
    checkpointings = [False, True] if checkpointing == "auto" else [checkpointing]
    configs = OFFLOADING if profile.training.deepspeed == "auto" else [profile.training.deepspeed]
    config, checkpoints, size, said = configs[0], checkpointings[-1], batches[-1], ""
    if sizes and card:
        for config, checkpoints, size in itertools.product(configs, checkpointings, batches):
            needed = training_memory(profile, sizes, devices, *zero(config), size, checkpoints)[0]
            if needed <= SHARE * card:
                break
        said = f", about {needed / GIB:.0f} of {card / GIB:.0f} GiB a GPU"
    said = f"{'' if checkpoints else 'no '}activation checkpointing, {config}{said}"
    return Fit(size, examples // size, checkpoints, config, f"device batch {size} × {examples // size}, {said}")


# ------------------------------------------------------------------------------------------------- stages


def deepspeed_config(profile: Profile, config: str | None = None) -> dict[str, Any]:
    """The DeepSpeed JSON of a profile, or `config`; a ProfileError when there is no such file."""
    path = PARAMS_FOLDER / (config or profile.training.deepspeed.replace("auto", OFFLOADING[0]))
    if not path.is_file():
        known = ", ".join(f"deepspeed/{p.name}" for p in sorted((PARAMS_FOLDER / "deepspeed").glob("*.json")))
        raise ProfileError(f"training.deepspeed: no file {path}; known: {known}")
    return runs.read_object(path)


def stages(profile: Profile, systems: Sequence[str] | None = None) -> list[list[Corpus]]:
    """The lineages to be trained, in an order in which each finds its beginning done; `[]` is the base model itself."""
    return [*([[]] if pretrains(profile) else []), *profile.lineages(systems)]


def effective_batch_size(profile: Profile, corpus: str) -> int:
    """Machines × devices × device batch × accumulation; 128 in the paper."""
    fits = fit(profile, corpus, None, 0)
    return machines(profile) * profile.run.devices * fits.batch * fits.accumulation


def stage_job(profile: Profile, run: Run, seed: int, lineage: Sequence[str]) -> Job:
    """The job that trains the last corpus of `lineage`, or for an empty one the miniature's base (pre-training)."""
    *before, corpus = lineage or [BASE_TEXT]
    path = run.corpus(corpus, corpus_seed(profile, corpus, seed))
    made = runs.read_json(runs.prepared(path.with_suffix(".json")))
    start = lineage_model(profile, run, seed, before if lineage else None)
    training, arguments = profile.training, profile.arguments(corpus)
    fits = fit_here(profile, corpus)
    arguments |= {"per_device_train_batch_size": fits.batch, "gradient_accumulation_steps": fits.accumulation}
    arguments["activation_checkpointing"] = fits.checkpointing
    text = corpus == BASE_TEXT  # pre-training: blocks of text, every token counts alike
    if training.train_sampling_strategy != "random" and not text:  # blocks of text are all of one length
        arguments["train_sampling_strategy"] = training.train_sampling_strategy
    content: dict[str, Any] = {
        "kind": "train",
        "lineage": list(lineage),
        "seed": seed,
        "model": start.model,
        "corpus": {"name": corpus, "path": run.relative(path), "sha256": made["sha256"], "rows": made["rows"]},
        "max_length": BASE_BLOCK if text else training.max_length,
        "loss": "token" if text else training.loss,
        "packing": training.packing and not text,
        "method": "full" if text else training.method,
        "pad_token": profile.model.pad_token,
        "training_arguments": arguments,
        "deepspeed": deepspeed_config(profile, fits.deepspeed),
        "fit": fits.sentence,
    }
    if profile.model.template != "alpaca" and not text:
        content["template"] = profile.model.template
    if content["method"] == "lora":
        content["lora"] = (training.lora or LoraSection()).model_dump()
    named_apart = ("training_arguments", "deepspeed", "packing", "model", "fit")
    decides = {k: v for k, v in content.items() if k not in named_apart}
    decides["corpus"] = {"name": corpus, "sha256": made["sha256"]}
    decides["origin"] = start.identity
    decides["arguments"] = {k: v for k, v in arguments.items() if k not in HOW_ONLY}
    decides["precision"] = {k: v for k, v in content["deepspeed"].items() if k in ("bf16", "fp16", "data_types")}
    decides["sequences_per_update"] = effective_batch_size(profile, corpus)  # the name is that of older runs
    return Job({"fingerprint": runs.fingerprint(decides), **content}, run.stage(seed, lineage))


# ------------------------------------------------------------------------------------------------- predictions


def lineage_model(profile: Profile, run: Run, seed: int, lineage: Sequence[str] | None) -> AnsweringModel:
    """The model at the end of a lineage: the base for an empty one, what a base is trained from for None."""
    if lineage or (lineage is not None and pretrains(profile)):
        model = {"path": run.relative(run.model(seed, lineage)), "revision": None}
        identity = stage_job(profile, run, seed, lineage).content["fingerprint"]
        return AnsweringModel(model, identity, run.predictions(seed, lineage))
    source = model = starting_model(profile, run, seed)  # source: of its identity
    place = run.folder / str(model["path"])
    if profile.model.base == "miniature" and not (place / "config.json").is_file():
        if profile.model.miniature.weights != "shipped":
            raise FileNotFoundError(f"{place}: the untrained model is not there; open the run first (plan.open_run)")
        from qalign_core.miniature import shipped_base

        source = {"path": str(shipped_base(seed))}  # `open_run` will copy it
    return AnsweringModel(model, model_identity(source, run.folder), run.predictions(seed, []))


def template_of(profile: Profile, system: str) -> str:
    """The prompt a system is asked with: a lineage's is the one it was trained on, a checkpoint's its own."""
    entry = profile.systems[system]
    as_trained = entry.lineage is not None and entry.template == "alpaca"
    return profile.model.template if as_trained else entry.template


def prediction_jobs(profile: Profile, run: Run, system: str, seed: int) -> Iterator[Job]:
    """The jobs that make a system's answers, in order. Ask for one when those before it are done: the prompts of a
    system with a translator are made from what was translated, and written here."""
    if profile.systems[system].translator is not None:
        yield translator_job(profile, run, system, seed)
        for path, content in _translated_prompts(profile, run, system, seed).values():
            if not path.is_file() or path.read_text(encoding="utf-8") != content:
                runs.write_atomic(path, content)
    yield prediction_job(profile, run, system, seed)


def prediction_job(profile: Profile, run: Run, system: str, seed: int) -> Job:
    """The job that asks a system every question of every benchmark; NotTranslatedError where a translator must put the
    questions into English first."""
    entry, template = profile.systems[system], template_of(profile, system)
    if entry.predictions is not None:
        raise ProfileError(f"systems.{system}: its predictions are external ({entry.predictions}), not generated here")
    if entry.checkpoint is not None:
        checkpoint = hub.pinned(entry.checkpoint, entry.revision)
        found = AnsweringModel(checkpoint, model_identity(checkpoint, run.folder), run.checkpoint_predictions(system))
    else:
        found = lineage_model(profile, run, seed, entry.lineage or [])
    tasks = [
        _task(run, name, code, settings.max_new_tokens, template)
        for name, settings in profile.evaluation.benchmarks.items()
        for code in profile.data.languages
    ]
    if entry.translator is not None:
        found = found._replace(folder=_translated_folder(profile, run, system, seed))
        made = _translated_prompts(profile, run, system, seed)
        for task in tasks:  # English questions are asked as they are
            if (task["name"], task["language"]) in made:
                path, content = made[task["name"], task["language"]]
                task |= {"path": run.relative(path), "sha256": hashlib.sha256(content.encode("utf-8")).hexdigest()}
    return _generation(profile, found, template, "benchmarks", tasks)


def translator_job(profile: Profile, run: Run, system: str, seed: int) -> Job:
    """The job in which a system's translator puts every benchmark question into English.

    Source: ours; translate-test is a common baseline, which the paper does not run.
    """
    found = lineage_model(profile, run, seed, profile.systems[system].translator or [])
    tasks = [
        _task(run, name, code, (profile.evaluation.translation or settings).max_new_tokens, TO_ENGLISH)
        for name, settings in profile.evaluation.benchmarks.items()
        for code in profile.data.languages
        if code != "en"
    ]
    return _generation(profile, found, profile.model.template, TO_ENGLISH, tasks)


def _translated_folder(profile: Profile, run: Run, system: str, seed: int) -> Path:
    entry = profile.systems[system]  # no corpus has a + in its name
    return run.predictions(seed, entry.lineage or []) / f"translated-by+{'+'.join(entry.translator or [])}"


def _translated_prompts(profile: Profile, run: Run, system: str, seed: int) -> dict[tuple[str, str], tuple[Path, str]]:
    """(benchmark, language) → path and content of the prompts that ask what the translator put into English."""
    template, job = template_of(profile, system), translator_job(profile, run, system, seed)
    if not job.done:
        raise NotTranslatedError(f"{job.folder}: the questions of {system} are not translated yet; run notebook 04")
    found = {}
    for task in job.content["tasks"]:
        place, lines = Path(task["name"], f"{task['language']}.jsonl"), []
        for row in runs.read_json_lines(job.folder / place):
            prompt = prompts.build(template, row["response"].strip(), "en")
            asked = {"index": row["index"], "question": row["question"], "prompt": prompt}
            lines.append(json.dumps(asked, ensure_ascii=False) + "\n")
        path = _translated_folder(profile, run, system, seed) / "prompts" / place
        found[task["name"], task["language"]] = (path, "".join(lines))
    return found


def translation_job(profile: Profile, run: Run, seed: int, lineage: Sequence[str], task: str = "translation") -> Job:
    """The job that has a stage-1 model translate a benchmark's questions into English, for BLEU and chrF; or another
    `task` whose prompts were prepared. A ProfileError without `evaluation.translation`."""
    settings = profile.evaluation.translation
    if settings is None:
        raise ProfileError("evaluation.translation is not set: say how many questions stage 1 shall translate")
    languages, template = [code for code in profile.data.languages if code != "en"], profile.model.template
    tasks = [_task(run, task, code, settings.max_new_tokens, template) for code in languages]
    return _generation(profile, lineage_model(profile, run, seed, lineage), template, task, tasks)


def _task(run: Run, name: str, language: str, max_new_tokens: int, template: str) -> dict[str, Any]:
    path = runs.prepared(run.prompts(name, language, template))
    file = {"path": run.relative(path), "sha256": runs.sha256_file(path)}
    return {"name": name, "language": language, **file, "max_new_tokens": max_new_tokens}


def _generation(profile: Profile, asked: AnsweringModel, template: str, group: str, tasks: list[dict[str, Any]]) -> Job:
    content: dict[str, Any] = {
        "kind": "generate",
        "model": asked.model,
        "model_fingerprint": runs.fingerprint(asked.identity),
        "pad_token": profile.model.pad_token,
        "dtype": profile.evaluation.dtype,
        "batch_tokens": profile.evaluation.batch_tokens,
        "tasks": tasks,
    }
    if prompts.TEMPLATES[template].is_chat:
        content["template"] = template
    decides = {k: content[k] for k in ("model_fingerprint", "dtype")}
    decides["tasks"] = [{k: v for k, v in task.items() if k != "path"} for task in tasks]
    return Job({"fingerprint": runs.fingerprint(decides), **content}, asked.folder / group)
