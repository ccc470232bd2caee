"""From a profile to its jobs: which stages and predictions there are, in order, and what each one's `job.json` says."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qalign_core import prompts, runs
from qalign_core.data.derived import is_drawn
from qalign_core.jobs.machines import machines
from qalign_core.params import BASE_TEXT, PARAMS_FOLDER, Profile, ProfileError, System, dump
from qalign_core.profiles.schema import Corpus
from qalign_core.runs import Run
from qalign_core.training.base_models import base_model, miniature_folder, model_identity, pretrains
from qalign_core.training.lora import LoraSection

# What only decides how a stage is computed, not what comes out of it: left out of its fingerprint, so that a run
# may be continued on other devices. The batch itself counts, as sequences an update.
HOW_ONLY = frozenset(
    {
        "per_device_train_batch_size",
        "gradient_accumulation_steps",
        "gradient_checkpointing",
        "save_steps",
        "save_total_limit",
        "logging_steps",
        "report_to",
    }
)
TO_ENGLISH = "to-english"  # where the prompts that ask for a benchmark's translation are, and what came of them
RUN_FOLDER = "QALIGN_RUN_DIR"  # environment: the run folder of notebooks that `reproduce` executes
BASE_BLOCK = 256  # tokens of it in a sequence


class NotTranslatedError(FileNotFoundError):
    """A system's questions must be translated before they can be asked."""


def open_run(profile: Profile, folder: str | Path | None = None, *, read_only: bool = False) -> Run:
    """The run folder of a profile, with the effective profile saved in it.

    Args:
        profile: the checked profile.
        folder: another place than QALIGN_RUN_DIR, or `runs/<profile>` below the repository.
        read_only: the run is only looked at: nothing is written, neither now nor when its jobs are planned.
    """
    place = folder or os.environ.get(RUN_FOLDER) or PARAMS_FOLDER.parent / "runs" / profile.run.profile
    run, text = Run(place, read_only=read_only), dump(profile)
    if not (read_only or (run.profile.is_file() and run.profile.read_text(encoding="utf-8") == text)):
        runs.write_atomic(run.profile, text)
    return run


# ------------------------------------------------------------------------------------------------- stages


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


def deepspeed_config(profile: Profile) -> dict[str, Any]:
    """The profile's DeepSpeed JSON.

    Raises:
        ProfileError: when there is no such file.
    """
    path = Path(profile.training.deepspeed)
    path = path if path.is_absolute() else PARAMS_FOLDER / path
    if not path.is_file():
        known = ", ".join(f"deepspeed/{p.name}" for p in sorted((PARAMS_FOLDER / "deepspeed").glob("*.json")))
        raise ProfileError(f"training.deepspeed: no file {path}; known: {known}")
    return runs.read_object(path)


def corpus_seed(profile: Profile, name: str, seed: int) -> int | None:
    """The seed a corpus was drawn with, or None for one that is the same for every seed."""
    return seed if name == BASE_TEXT or is_drawn(profile.data, name) else None


def corpus_entry(profile: Profile, run: Run, name: str, seed: int) -> dict[str, Any]:
    """What a job says of its corpus.

    Raises:
        FileNotFoundError: when notebook 01 has not made it yet.
    """
    path = run.corpus(name, corpus_seed(profile, name, seed))
    manifest = path.with_suffix(".json")
    if not manifest.is_file():
        raise FileNotFoundError(f"{manifest}: corpus {name!r} is not there; run notebook 01 (data preparation) first")
    made = runs.read_json(manifest)
    return {"name": name, "path": run.relative(path), "sha256": made["sha256"], "rows": made["rows"]}


def stages(profile: Profile, systems: Sequence[str] | None = None) -> list[list[Corpus]]:
    """The lineages to be trained, in an order in which each finds its beginning done; `[]` is the base model itself."""
    return [*([[]] if pretrains(profile) else []), *profile.lineages(systems)]


def stage_job(profile: Profile, run: Run, seed: int, lineage: Sequence[str]) -> Job:
    """The job that trains the last corpus of `lineage`, from the model of the stages before it.

    An empty lineage is the pre-training of the miniature's base.
    """
    *before, corpus = lineage or [BASE_TEXT]
    entry = corpus_entry(profile, run, corpus, seed)
    origin: Any
    if not lineage:
        model = miniature_folder(profile, run.stage(seed, []) / "untrained", seed, shipped=False, run=run)
        origin = model_identity(model, run.folder)
    elif before or pretrains(profile):
        model = {"path": run.relative(run.model(seed, before)), "revision": None}
        origin = stage_job(profile, run, seed, before).content["fingerprint"]
    else:
        model = base_model(profile, run, seed)
        origin = model_identity(model, run.folder)
    training, arguments = profile.training, profile.arguments(corpus)
    text = corpus == BASE_TEXT  # pre-training: blocks of text, every token counts alike
    content: dict[str, Any] = {
        "kind": "train",
        "lineage": list(lineage),
        "seed": seed,
        "model": model,
        "corpus": entry,
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
    decides["corpus"] = {"name": corpus, "sha256": content["corpus"]["sha256"]}
    decides["origin"] = origin
    decides["arguments"] = {k: v for k, v in arguments.items() if k not in HOW_ONLY}
    decides["precision"] = {k: v for k, v in content["deepspeed"].items() if k in ("bf16", "fp16", "data_types")}
    decides["sequences_per_update"] = sequences_per_update(profile, corpus)
    return Job({"fingerprint": runs.fingerprint(decides), **content}, run.stage(seed, lineage))


def sequences_per_update(profile: Profile, corpus: str) -> int:
    """Machines × devices × micro-batch × accumulation; 128 in the paper."""
    arguments = profile.arguments(corpus)
    devices = machines(profile) * profile.run.devices
    return devices * arguments["per_device_train_batch_size"] * arguments["gradient_accumulation_steps"]


# ------------------------------------------------------------------------------------------------- predictions


def template_of(profile: Profile, system: str) -> str:
    """The prompt a system is asked with: a lineage's is the one it was trained on, a checkpoint's its own."""
    entry = profile.systems[system]
    as_trained = entry.lineage is not None and entry.template == "alpaca"
    return profile.model.template if as_trained else entry.template


def tasks_of(profile: Profile, run: Run, template: str = "alpaca") -> list[dict[str, Any]]:
    """The benchmarks a system is asked, a task a benchmark and language."""
    return [
        _task(run, name, code, test.max_new_tokens, template)
        for name, test in profile.evaluation.benchmarks.items()
        for code in profile.data.languages
    ]


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


def prediction_jobs(profile: Profile, run: Run, system: str, seed: int) -> Iterator[Job]:
    """The jobs that make a system's answers, in order. Ask for one when those before it are done: the prompts of a
    system with a translator are made from what was translated."""
    if profile.systems[system].translator is not None:
        yield translator_job(profile, run, system, seed)
    yield prediction_job(profile, run, system, seed)


def prediction_job(profile: Profile, run: Run, system: str, seed: int) -> Job:
    """The job that asks a system every question of every benchmark.

    Raises:
        NotTranslatedError: when a translator must translate the questions first.
    """
    model, identity, folder, entry = answering_model(profile, run, system, seed)
    tasks = None
    if entry is not None and entry.translator is not None:
        folder = folder / f"translated-by+{'+'.join(entry.translator)}"  # no corpus has a + in its name
        tasks = _translated_tasks(profile, run, system, seed, folder)
    return _generation(profile, run, model, identity, folder, template_of(profile, system), "benchmarks", tasks)


def translator_job(profile: Profile, run: Run, system: str, seed: int) -> Job:
    """The job in which a system's translator puts every benchmark question into English.

    Source: ours; translate-test is a common baseline, which the paper does not run.
    """
    model, identity, folder, _ = lineage_model(profile, run, seed, profile.systems[system].translator or [])
    test = profile.evaluation.translation
    tasks = [
        _task(run, name, code, (test or asked).max_new_tokens, TO_ENGLISH)
        for name, asked in profile.evaluation.benchmarks.items()
        for code in profile.data.languages
        if code != "en"
    ]
    return _generation(profile, run, model, identity, folder, profile.model.template, TO_ENGLISH, tasks)


def _translated_tasks(profile: Profile, run: Run, system: str, seed: int, folder: Path) -> list[dict[str, Any]]:
    """The tasks of a system with a translator: its prompts ask the translations; English questions are as they are."""
    job, template = translator_job(profile, run, system, seed), template_of(profile, system)
    if not job.done:
        raise NotTranslatedError(f"{job.folder}: the questions of {system} are not translated yet; run notebook 04")
    tasks = []
    for task in tasks_of(profile, run, template):
        if task["language"] != "en":
            place = f"{task['name']}/{task['language']}.jsonl"
            rows = [
                {**row, "prompt": prompts.build(template, row["response"].strip(), "en")}
                for row in runs.read_json_lines(job.folder / place)
            ]
            asked = [{key: row[key] for key in ("index", "question", "prompt")} for row in rows]
            path = folder / "prompts" / place
            if not (path.is_file() and runs.read_json_lines(path) == asked):
                run.may_write(path)
                runs.write_json_lines(path, asked)
            task = {**task, "path": run.relative(path), "sha256": runs.sha256_file(path)}
        tasks.append(task)
    return tasks


def translation_job(profile: Profile, run: Run, seed: int, lineage: Sequence[str], task: str = "translation") -> Job:
    """The job that has a stage-1 model translate a benchmark's questions into English, for BLEU and chrF; or another
    `task` whose prompts were prepared.

    Raises:
        ProfileError: when the profile has no `evaluation.translation`.
    """
    test = profile.evaluation.translation
    if test is None:
        raise ProfileError("evaluation.translation is not set: say how many questions stage 1 shall translate")
    languages = [code for code in profile.data.languages if code != "en"]
    template = profile.model.template
    tasks = [_task(run, task, code, test.max_new_tokens, template) for code in languages]
    return _generation(profile, run, *lineage_model(profile, run, seed, lineage)[:3], template, task, tasks)


def answering_model(
    profile: Profile, run: Run, system: str, seed: int
) -> tuple[dict[str, Any], Any, Path, System | None]:
    """A system's model, what identifies it, the folder of its predictions, and its entry in the profile."""
    entry = profile.systems[system]
    if entry.predictions is not None:
        raise ProfileError(f"systems.{system}: its predictions are brought ({entry.predictions}), not generated here")
    if entry.checkpoint is not None:
        model = {"path": entry.checkpoint, "revision": entry.revision}
        return model, model_identity(model, run.folder), run.checkpoint_predictions(system), entry
    return (*lineage_model(profile, run, seed, entry.lineage or [])[:3], entry)


def lineage_model(
    profile: Profile, run: Run, seed: int, lineage: Sequence[str]
) -> tuple[dict[str, Any], Any, Path, System | None]:
    if not lineage and not pretrains(profile):
        model = base_model(profile, run, seed)
        return model, model_identity(model, run.folder), run.predictions(seed, []), None
    model = {"path": run.relative(run.model(seed, lineage)), "revision": None}
    return model, stage_job(profile, run, seed, lineage).content["fingerprint"], run.predictions(seed, lineage), None


def _generation(
    profile: Profile,
    run: Run,
    model: dict[str, Any],
    identity: Any,
    folder: Path,
    template: str,
    group: str,
    tasks: list[dict[str, Any]] | None,
) -> Job:
    if tasks is None:
        tasks = tasks_of(profile, run, template)
    content: dict[str, Any] = {
        "kind": "generate",
        "model": model,
        "model_fingerprint": runs.fingerprint(identity),
        "pad_token": profile.model.pad_token,
        "dtype": profile.evaluation.dtype,
        "batch_tokens": profile.evaluation.batch_tokens,
        "tasks": tasks,
    }
    if template == "chat":
        content["template"] = template
    decides = {k: content[k] for k in ("model_fingerprint", "dtype")}
    decides["tasks"] = [{k: v for k, v in task.items() if k != "path"} for task in tasks]
    return Job({"fingerprint": runs.fingerprint(decides), **content}, folder / group)
