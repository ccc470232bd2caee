"""From a profile to its jobs: which stages and predictions there are, in order, and what each one's `job.json` says."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qalign_core import runs
from qalign_core.corpora import data_sets_of
from qalign_core.machines import machines
from qalign_core.params import PARAMS_FOLDER, Profile, ProfileError, System, dump
from qalign_core.runs import ReadOnlyError, Run
from qalign_core.schema import Corpus

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
RUN_FOLDER = "QALIGN_RUN_DIR"  # environment: the run folder of notebooks that `reproduce` executes
BASE_TEXT = "base-text"  # the corpus the miniature's base is pre-trained on
BASE_BLOCK = 128  # tokens of it in a sequence
LARGE_FILE = 64 * 2**20  # bytes; a larger file of a model is identified by its size and samples of its bytes
SAMPLE_EVERY, SAMPLE = 8 * 2**20, 64 * 2**10  # bytes; smaller than any weight matrix of such a model


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


# ------------------------------------------------------------------------------------------------- models


def base_model(profile: Profile, run: Run, seed: int) -> dict[str, Any]:
    """The base model as a job names it; the miniature's is put into the run folder first."""
    if profile.model.base != "miniature":
        return {"path": profile.model.base, "revision": profile.model.revision}
    weights = profile.model.miniature.weights
    if weights == "trained":
        return {"path": run.relative(run.model(seed, [])), "revision": None}
    return _miniature_folder(profile, run.model(seed, []), seed, shipped=weights == "shipped", run=run)


def _miniature_folder(profile: Profile, folder: Path, seed: int, shipped: bool, run: Run) -> dict[str, Any]:
    if not (folder / "config.json").is_file():
        run.may_write(folder)
        from qalign_core import miniature

        part = folder.with_name(f"{folder.name}.part")
        shutil.rmtree(part, ignore_errors=True)
        if shipped:
            shutil.copytree(miniature.SHIPPED_BASE, part)
        else:
            miniature.create_base(part, seed=seed, config=profile.model.miniature.config() or None)
        part.rename(folder)
    return {"path": run.relative(folder), "revision": None}


def base_tokenizer(profile: Profile, run: Run) -> Any:
    """The tokenizer of the base model (of the first seed)."""
    from qalign_core.model_folder import load_tokenizer

    seed = profile.run.seeds[0]
    if pretrains(profile):
        model = _miniature_folder(profile, run.stage(seed, []) / "untrained", seed, shipped=False, run=run)
    else:
        model = base_model(profile, run, seed)
    return load_tokenizer(runs.resolve(model["path"], run.folder), model["revision"])


def model_identity(model: dict[str, Any], root: Path) -> Any:
    """What identifies a model that was not trained here: a hub id and revision, or the content of a folder."""
    folder = Path(runs.resolve(model["path"], root))
    if not folder.is_dir():
        return model
    files = {}
    for path in sorted(p for p in folder.iterdir() if p.suffix in (".json", ".safetensors", ".model")):
        large = path.stat().st_size > LARGE_FILE
        files[path.name] = _sampled(path) if large else runs.sha256_file(path)
    return files


def _sampled(path: Path) -> str:
    size = path.stat().st_size
    digest = hashlib.sha256(str(size).encode())
    with path.open("rb") as stream:
        for offset in [*range(0, size - SAMPLE, SAMPLE_EVERY), size - SAMPLE]:
            stream.seek(offset)
            digest.update(stream.read(SAMPLE))
    return digest.hexdigest()


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
    return runs.read_json(path)


def corpus_seed(profile: Profile, name: str, seed: int) -> int | None:
    """The seed a corpus was drawn with, or None for one that is the same for every seed."""
    if name == BASE_TEXT:
        return seed
    needed = data_sets_of(name, sft_data=profile.data.sft_data)
    return seed if any(profile.data.sources.get(data_set) == "miniature" for data_set in needed) else None


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


def pretrains(profile: Profile) -> bool:
    """Whether the run trains its own base model first."""
    return profile.model.base == "miniature" and profile.model.miniature.weights == "trained"


def stages(profile: Profile) -> list[list[Corpus]]:
    """The lineages to be trained, in an order in which each finds its beginning done; `[]` is the base model itself."""
    return [*([[]] if pretrains(profile) else []), *profile.lineages()]


def stage_job(profile: Profile, run: Run, seed: int, lineage: Sequence[str]) -> Job:
    """The job that trains the last corpus of `lineage`, from the model of the stages before it.

    An empty lineage is the pre-training of the miniature's base.
    """
    *before, corpus = lineage or [BASE_TEXT]
    entry = corpus_entry(profile, run, corpus, seed)
    origin: Any
    if not lineage:
        model = _miniature_folder(profile, run.stage(seed, []) / "untrained", seed, shipped=False, run=run)
        origin = model_identity(model, run.folder)
    elif before or pretrains(profile):
        model = {"path": run.relative(run.model(seed, before)), "revision": None}
        origin = stage_job(profile, run, seed, before).content["fingerprint"]
    else:
        model = base_model(profile, run, seed)
        origin = model_identity(model, run.folder)
    training, arguments = profile.training, profile.training.arguments(corpus)
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
        "method": training.method,
        "pad_token": profile.model.pad_token,
        "training_arguments": arguments,
        "deepspeed": deepspeed_config(profile),
    }
    decides = {k: v for k, v in content.items() if k not in ("training_arguments", "deepspeed", "packing", "model")}
    decides["corpus"] = {"name": corpus, "sha256": content["corpus"]["sha256"]}
    decides["origin"] = origin
    decides["arguments"] = {k: v for k, v in arguments.items() if k not in HOW_ONLY}
    decides["precision"] = {k: v for k, v in content["deepspeed"].items() if k in ("bf16", "fp16", "data_types")}
    decides["sequences_per_update"] = sequences_per_update(profile, corpus)
    return Job({"fingerprint": runs.fingerprint(decides), **content}, run.stage(seed, lineage))


def sequences_per_update(profile: Profile, corpus: str) -> int:
    """Machines × devices × micro-batch × accumulation; 128 in the paper."""
    arguments = profile.training.arguments(corpus)
    devices = machines(profile) * profile.run.devices
    return devices * arguments["per_device_train_batch_size"] * arguments["gradient_accumulation_steps"]


# ------------------------------------------------------------------------------------------------- predictions


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


def prediction_job(profile: Profile, run: Run, system: str, seed: int) -> Job:
    """The job that asks a system every question of every benchmark."""
    return _generation(profile, run, *answering_model(profile, run, system, seed), "benchmarks", None)


def translation_job(profile: Profile, run: Run, seed: int, lineage: Sequence[str]) -> Job:
    """The job that has a stage-1 model translate a benchmark's questions into English, for BLEU and chrF.

    Raises:
        ProfileError: when the profile has no `evaluation.translation`.
    """
    test = profile.evaluation.translation
    if test is None:
        raise ProfileError("evaluation.translation is not set: say how many questions stage 1 shall translate")
    languages = [code for code in profile.data.languages if code != "en"]
    tasks = [_task(run, "translation", code, test.max_new_tokens, "alpaca") for code in languages]
    return _generation(profile, run, *_lineage_model(profile, run, seed, lineage), "translation", tasks)


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
    return (*_lineage_model(profile, run, seed, entry.lineage or [])[:3], entry)


def _lineage_model(
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
    entry: System | None,
    group: str,
    tasks: list[dict[str, Any]] | None,
) -> Job:
    if tasks is None:
        tasks = tasks_of(profile, run, entry.template if entry else "alpaca")
    content: dict[str, Any] = {
        "kind": "generate",
        "model": model,
        "model_fingerprint": runs.fingerprint(identity),
        "pad_token": profile.model.pad_token,
        "dtype": profile.evaluation.dtype,
        "batch_tokens": profile.evaluation.batch_tokens,
        "tasks": tasks,
    }
    decides = {k: content[k] for k in ("model_fingerprint", "dtype")}
    decides["tasks"] = [{k: v for k, v in task.items() if k != "path"} for task in tasks]
    return Job({"fingerprint": runs.fingerprint(decides), **content}, folder / group)


# ------------------------------------------------------------------------------------------------- overview


def overview(profile: Profile, run: Run) -> Iterator[tuple[str, bool, str]]:
    """Every stage and all predictions generated here, in order: its name, whether it is done, and if not, why."""
    for seed in profile.run.seeds:
        for lineage in stages(profile):
            title = f"stage      seed {seed}: {' → '.join(lineage) or 'base'}"
            yield _state(title, stage_job, profile, run, seed, lineage)
        for system, entry in profile.systems.items():
            if entry.predictions is None:
                yield _state(f"answers    seed {seed}: {system}", prediction_job, profile, run, system, seed)


def _state(name: str, make: Callable[..., Job], *arguments: Any) -> tuple[str, bool, str]:
    try:
        job = make(*arguments)
    except FileNotFoundError:
        return name, False, "its data is prepared by notebook 01"
    except ReadOnlyError:  # the base model is made when its first stage begins
        return name, False, "not begun"
    if job.done:
        return name, True, ""
    path = job.folder / "job.json"
    if not path.is_file():
        return name, False, "not begun"
    if runs.read_json(path)["fingerprint"] == job.content["fingerprint"]:
        return name, False, "begun: will be resumed"
    return name, False, "was finished with other settings" if runs.is_done(path) else "was begun with other settings"
