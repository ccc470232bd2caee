"""From a profile to its jobs: which stages and predictions there are, in order, and what each one's `job.json` says.

Planning reads the run folder and writes nothing; `open_run` is where a run begins.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from qalign_core import hub, prompts, runs
from qalign_core.corpora import corpus_seed
from qalign_core.models import hub_models, model_identity, pretrains, starting_model, write_base
from qalign_core.params import BASE_TEXT, PARAMS_FOLDER, Corpus, LoraSection, Profile, ProfileError, dump, nearest
from qalign_core.runs import Run

# What only decides how a stage is computed, not what comes out of it: left out of its fingerprint, so that a run may be
# continued on other devices. The effective batch size counts.
HOW_ONLY = {"per_device_train_batch_size", "gradient_accumulation_steps", "gradient_checkpointing"}
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
    """The run folder of a profile, with the effective profile and the miniature's base model in it.

    Args:
        profile: the checked profile.
        folder: another place than QALIGN_RUN_DIR, or `runs/<profile>` below the repository.
        read_only: the run is only looked at: nothing is written or refused.

    Raises:
        ProfileError: for bf16 on a processor that only emulates it.
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


def with_systems(profile: Profile, names: str) -> Profile:
    """The profile with only some of its systems, named with commas between them; ProfileError for an unknown one."""
    wanted = [names] if names in profile.systems else [name.strip() for name in names.split(",")]
    for name in wanted:
        if name not in profile.systems:
            raise ProfileError(f"no system is named {name!r}{nearest(name, profile.systems)}; there are: "
                               f"{', '.join(profile.systems)}")  # fmt: skip
    kept = {name: s.model_copy(update={} if s.against in wanted else {"against": None})
            for name, s in profile.systems.items() if name in wanted}  # fmt: skip
    pairs = [pair for pair in profile.evaluation.pairs or [] if set(pair) <= set(wanted)]
    evaluation = profile.evaluation.model_copy(update={"pairs": pairs or None})
    return profile.model_copy(update={"systems": kept, "evaluation": evaluation})


def slow_bf16(profile: Profile) -> str:
    """What to say of a profile that asks for bf16 where neither a GPU nor the processor computes it natively, or "".

    A profile may want it all the same (`run.slow_bf16`), or its jobs run on other machines.
    """
    trained = any(profile.arguments(lineage[-1] if lineage else BASE_TEXT)["bf16"] for lineage in stages(profile))
    answers = any(system.predictions is None for system in profile.systems.values())
    instead = ["training.bf16: false"] if trained else []
    instead += ["evaluation.dtype: float32"] if answers and profile.evaluation.dtype == "bfloat16" else []
    if not instead or profile.run.slow_bf16 or profile.run.hostfile or has_native_bf16():
        return ""
    return (
        f"profile {profile.run.profile} asks for bf16, but there is no GPU here, and the processor only emulates bf16, "
        f"many times slower than fp32: write {' and '.join(instead)}; or, to run it all the same, run.slow_bf16: true"
    )


def has_native_bf16() -> bool:
    """Whether jobs on this machine compute bf16 natively: on a GPU, or a processor with AVX-512 BF16, AMX or ARM's."""
    import torch

    features = torch.cpu.get_capabilities().items()
    return torch.cuda.is_available() or any(there for name, there in features if "bf16" in name)


def hostfile(profile: Profile) -> Path | None:
    """`run.hostfile`, relative to the folder of the profiles; None for this machine alone.

    Raises:
        ProfileError: when there is no such file; DeepSpeed itself would go on with this machine alone.
    """
    if profile.run.hostfile is None:
        return None
    path = PARAMS_FOLDER / Path(profile.run.hostfile).expanduser()
    if not path.is_file():
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


# ------------------------------------------------------------------------------------------------- stages


def deepspeed_config(profile: Profile) -> dict[str, Any]:
    """The profile's DeepSpeed JSON; a ProfileError when there is no such file."""
    path = PARAMS_FOLDER / profile.training.deepspeed
    if not path.is_file():
        known = ", ".join(f"deepspeed/{p.name}" for p in sorted((PARAMS_FOLDER / "deepspeed").glob("*.json")))
        raise ProfileError(f"training.deepspeed: no file {path}; known: {known}")
    return runs.read_object(path)


def stages(profile: Profile, systems: Sequence[str] | None = None) -> list[list[Corpus]]:
    """The lineages to be trained, in an order in which each finds its beginning done; `[]` is the base model itself."""
    return [*([[]] if pretrains(profile) else []), *profile.lineages(systems)]


def effective_batch_size(profile: Profile, corpus: str) -> int:
    """Machines × devices × micro-batch × accumulation; 128 in the paper."""
    arguments = profile.arguments(corpus)
    devices = machines(profile) * profile.run.devices
    return devices * arguments["per_device_train_batch_size"] * arguments["gradient_accumulation_steps"]


def stage_job(profile: Profile, run: Run, seed: int, lineage: Sequence[str]) -> Job:
    """The job that trains the last corpus of `lineage`, or for an empty one the miniature's base (pre-training).

    Raises:
        FileNotFoundError: when notebook 01 has not made the corpus yet.
    """
    *before, corpus = lineage or [BASE_TEXT]
    path = run.corpus(corpus, corpus_seed(profile, corpus, seed))
    if not path.with_suffix(".json").is_file():
        missing = f"corpus {corpus!r} is not there; run notebook 01 (data preparation) first"
        raise FileNotFoundError(f"{path.with_suffix('.json')}: {missing}")
    made = runs.read_json(path.with_suffix(".json"))
    start = lineage_model(profile, run, seed, before) if lineage else _base_model(profile, run, seed)
    training, arguments = profile.training, profile.arguments(corpus)
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
        "deepspeed": deepspeed_config(profile),
    }
    if profile.model.template != "alpaca" and not text:
        content["template"] = profile.model.template
    if content["method"] == "lora":
        content["lora"] = (training.lora or LoraSection()).model_dump()
    decides = {k: v for k, v in content.items() if k not in ("training_arguments", "deepspeed", "packing", "model")}
    decides["corpus"] = {"name": corpus, "sha256": made["sha256"]}
    decides["origin"] = start.identity
    decides["arguments"] = {k: v for k, v in arguments.items() if k not in HOW_ONLY}
    decides["precision"] = {k: v for k, v in content["deepspeed"].items() if k in ("bf16", "fp16", "data_types")}
    decides["sequences_per_update"] = effective_batch_size(profile, corpus)  # the name is that of older runs
    return Job({"fingerprint": runs.fingerprint(decides), **content}, run.stage(seed, lineage))


def _base_model(profile: Profile, run: Run, seed: int) -> AnsweringModel:
    """The model every lineage starts from, or the untrained one that it is trained from."""
    source = model = starting_model(profile, run, seed)  # source: of its identity
    if profile.model.base == "miniature" and not (run.folder / model["path"] / "config.json").is_file():
        if profile.model.miniature.weights != "shipped":
            place = run.folder / model["path"]
            raise FileNotFoundError(f"{place}: the untrained model is not there; open the run first (plan.open_run)")
        from qalign_core.miniature import SHIPPED_BASE

        source = {"path": str(SHIPPED_BASE), "revision": None}  # `open_run` will copy it
    return AnsweringModel(model, model_identity(source, run.folder), run.predictions(seed, []))


# ------------------------------------------------------------------------------------------------- predictions


def lineage_model(profile: Profile, run: Run, seed: int, lineage: Sequence[str]) -> AnsweringModel:
    """The model at the end of a lineage, which may be the base model itself."""
    if not lineage and not pretrains(profile):
        return _base_model(profile, run, seed)
    model = {"path": run.relative(run.model(seed, lineage)), "revision": None}
    identity = stage_job(profile, run, seed, lineage).content["fingerprint"]
    return AnsweringModel(model, identity, run.predictions(seed, lineage))


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
    """The job that asks a system every question of every benchmark.

    Raises:
        NotTranslatedError: when a translator must translate the questions first.
    """
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
    path = run.prompts(name, language, template)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: these prompts are not there; run notebook 01 (data preparation) first")
    return {
        "name": name,
        "language": language,
        "path": run.relative(path),
        "sha256": runs.sha256_file(path),
        "max_new_tokens": max_new_tokens,
    }


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
