"""The schema of a profile: what `params/<profile>.yaml` may say. Unknown keys and impossible values are refused."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field, ValidationError, field_serializer, field_validator, model_validator

from qalign_core import unique_keys
from qalign_core.languages import CODES
from qalign_core.schema import (
    Benchmark,
    Corpus,
    DataSet,
    Languages,
    Positive,
    PredictionField,
    Section,
    Size,
    Source,
    StageName,
    SystemName,
)
from qalign_core.schema_errors import describe, nearest, readable

PARAMS_FOLDER = Path(__file__).resolve().parent.parent / "params"
SECTIONS = ("run", "model", "data", "systems", "training", "evaluation")


class ProfileError(ValueError):
    """A profile that cannot be run; the message names the profile, the key and what is allowed."""


# ------------------------------------------------------------------------------------------------- run


class RunSection(Section):
    """Who runs, where, and how often."""

    profile: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=100)]
    seeds: Annotated[list[Annotated[int, Field(ge=0, lt=2**32)]], Field(min_length=1)] = [1234]
    devices: Positive = 1
    hostfile: str | None = None
    launcher: Literal["pdsh", "openmpi", "slurm"] | None = None
    launcher_args: str | None = None
    silence_seconds: Positive = 1800

    @field_validator("seeds")
    @classmethod
    def _seeds_differ(cls, seeds: list[int]) -> list[int]:
        if len(set(seeds)) != len(seeds):
            raise ValueError(f"the seeds {seeds} must differ from one another")
        return seeds

    @field_validator("profile")
    @classmethod
    def _no_dots(cls, profile: str) -> str:
        if ".." in profile:
            raise ValueError("'..' may not occur in a profile's name")
        return profile


# ------------------------------------------------------------------------------------------------- model


class MiniatureModel(Section):
    """The small LLaMA of the miniature; sizes as in `transformers.LlamaConfig`.

    `shipped` weights come with the package, `random` ones are untrained, `trained` ones are pre-trained in the run on
    `base_tokens` tokens of the miniature's text, as `training.stages.base-text` says.
    """

    weights: Literal["shipped", "random", "trained"] = "shipped"
    base_tokens: Positive | None = None
    hidden_size: Positive | None = None
    intermediate_size: Positive | None = None
    num_hidden_layers: Positive | None = None
    num_attention_heads: Positive | None = None
    max_position_embeddings: Positive | None = None

    @model_validator(mode="after")
    def _sizes_belong_to_new_weights(self) -> MiniatureModel:
        if self.weights == "shipped" and self.config():
            raise ValueError("sizes cannot be chosen with weights: shipped, which have their own")
        if (self.weights == "trained") != (self.base_tokens is not None):
            raise ValueError("weights: trained and base_tokens belong together: say how much text to train on")
        if self.hidden_size and self.num_attention_heads and self.hidden_size % (2 * self.num_attention_heads):
            raise ValueError("hidden_size must be a multiple of twice num_attention_heads")
        return self

    def config(self) -> dict[str, int]:
        """The sizes that were given."""
        chosen = self.model_dump(exclude={"weights", "base_tokens"})
        return {name: value for name, value in chosen.items() if value is not None}


class ModelSection(Section):
    """The base model every lineage starts from."""

    base: str
    revision: str | None = None
    pad_token: str = "<pad>"
    miniature: MiniatureModel = MiniatureModel()


# ------------------------------------------------------------------------------------------------- data


class MiniatureData(Section):
    """Sizes of the generated world: questions of a benchmark, pairs or questions a language, problems."""

    style: Literal["calibrated", "equations", "restating"] = "calibrated"
    sizes: dict[Size, Positive] = {}


class CorpusChoice(Section):
    """A part of a corpus: at most so many examples a language (the first ones), or only some languages."""

    limit: Positive | None = None
    languages: Languages | None = None


class DataSection(Section):
    """Which data, from where, and the authors' quirks as named switches."""

    languages: Languages = list(CODES)
    sources: dict[DataSet, Source]
    folder: str | None = None
    corpora: dict[Corpus, CorpusChoice] = {}
    miniature: MiniatureData = MiniatureData()
    language_names: Literal["paper", "plain"] = "paper"
    gsm8kinstruct_language: Literal["paper", "fixed"] = "paper"
    sft_data: Literal["paper", "gsm8k"] = "paper"

    @field_validator("languages")
    @classmethod
    def _english_is_among_them(cls, languages: list[str]) -> list[str]:
        if "en" not in languages:
            raise ValueError("'en' must be among the languages: every corpus and comparison is relative to English")
        return languages


# ------------------------------------------------------------------------------------------------- systems


class System(Section):
    """A row of the paper's tables: a lineage of corpora, a published checkpoint, or predictions made elsewhere.

    `checkpoint` is a hub id or a folder. `predictions` is a folder of `<benchmark>/<language>.jsonl`, absolute or
    relative to the current folder; `fields` says how its files name what we call index, question, response and
    finish_reason (null: they do not have it), and `seed` of which of the run's seeds they are (without it, they stand
    beside every seed).
    """

    lineage: list[Corpus] | None = None
    checkpoint: str | None = None
    revision: str | None = None
    template: Literal["alpaca", "mathoctopus", "metamath"] = "alpaca"
    predictions: str | None = None
    fields: dict[PredictionField, str | None] | None = None
    seed: int | None = None
    published: str | None = None
    table: Literal["main", "ablation"] = "main"

    @field_validator("predictions")
    @classmethod
    def _absolute(cls, folder: str | None) -> str | None:
        # The notebooks run in a folder of their own: what is relative to here must be made absolute here.
        return None if folder is None else os.path.abspath(os.path.expanduser(folder))

    @model_validator(mode="after")
    def _one_origin(self) -> System:
        if sum(origin is not None for origin in (self.lineage, self.checkpoint, self.predictions)) != 1:
            raise ValueError(
                "give either a lineage (a list of corpora), a checkpoint (a hub id or folder) "
                "or predictions (a folder of responses made elsewhere)"
            )
        if self.lineage is not None and len(set(self.lineage)) != len(self.lineage):
            raise ValueError(f"the lineage {self.lineage} names a corpus twice")
        if self.predictions is None and (self.fields is not None or self.seed is not None):
            raise ValueError("fields and seed describe predictions made elsewhere: they need predictions: <folder>")
        return self

    def seeds(self, run: RunSection) -> list[int]:
        """The seeds of a run beside which this system stands."""
        return run.seeds if self.seed is None else [self.seed]


# ------------------------------------------------------------------------------------------------- training


class Arguments(Section):
    """The part of `transformers.TrainingArguments` a profile may set, under the same names."""

    num_train_epochs: Annotated[float, Field(gt=0)] = 3.0
    max_steps: int = -1
    per_device_train_batch_size: Positive = 2
    gradient_accumulation_steps: Positive = 8
    learning_rate: Annotated[float, Field(gt=0)] = 2e-5
    lr_scheduler_type: Literal["cosine", "cosine_with_min_lr", "linear", "constant", "constant_with_warmup"] = "cosine"
    lr_scheduler_kwargs: dict[str, float] | None = None
    warmup_steps: Annotated[float, Field(ge=0)] = 0.03
    optim: Literal["adamw_torch", "adamw_torch_fused"] = "adamw_torch"
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    adam_beta1: Annotated[float, Field(ge=0, lt=1)] = 0.9
    adam_beta2: Annotated[float, Field(ge=0, lt=1)] = 0.999
    adam_epsilon: Annotated[float, Field(gt=0)] = 1e-8
    max_grad_norm: Annotated[float, Field(ge=0)] = 1.0
    bf16: bool = False
    tf32: bool | None = None
    gradient_checkpointing: bool = False
    save_steps: Positive = 500
    save_total_limit: Annotated[int, Field(ge=2)] = 2  # one is always whole
    logging_steps: Positive = 10
    report_to: str = "none"


class TrainingSection(Arguments):
    """How every stage is trained; `stages` holds what differs in one of them."""

    max_length: Positive = 512
    loss: Literal["paper", "token"] = "paper"
    packing: bool = True
    method: Literal["full"] = "full"
    deepspeed: str = "deepspeed/zero3.json"
    stages: dict[StageName, Arguments] = {}

    @field_serializer("stages")
    def _only_what_differs(self, stages: dict[str, Arguments]) -> dict[str, dict[str, Any]]:
        return {corpus: differing.model_dump(exclude_unset=True) for corpus, differing in stages.items()}

    def arguments(self, corpus: str) -> dict[str, Any]:
        """The training arguments of the stage on `corpus`, its own differences applied."""
        common = self.model_dump(include=set(Arguments.model_fields))
        return {**common, **self.model_dump(include={"stages"})["stages"].get(corpus, {})}


# ------------------------------------------------------------------------------------------------- evaluation


class Test(Section):
    """How one benchmark is asked."""

    max_new_tokens: Positive
    limit: Positive | None = None


class EvaluationSection(Section):
    """What is generated and how it is scored."""

    benchmarks: Annotated[dict[Benchmark, Test], Field(min_length=1)]
    translation: Test | None = None
    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    batch_tokens: Positive = 16384
    scorer: Literal["paper", "fixed"] = "paper"


# ------------------------------------------------------------------------------------------------- the whole


class Profile(Section):
    """Everything one reproduction needs."""

    run: RunSection
    model: ModelSection
    data: DataSection
    systems: Annotated[dict[SystemName, System], Field(min_length=1)]
    training: TrainingSection
    evaluation: EvaluationSection

    @model_validator(mode="after")
    def _seeds_are_the_runs(self) -> Profile:
        for name, system in self.systems.items():
            if not set(system.seeds(self.run)) <= set(self.run.seeds):
                raise ValueError(f"systems.{name}.seed: {system.seed} is not among run.seeds {self.run.seeds}")
        return self

    def lineages(self) -> list[list[Corpus]]:
        """Every lineage that must be trained, prefixes first, each once."""
        found: list[list[Corpus]] = []
        for system in self.systems.values():
            lineage = system.lineage or []
            for length in range(1, len(lineage) + 1):
                prefix = lineage[:length]
                if prefix not in found:
                    found.append(prefix)
        return sorted(found, key=len)

    def corpora(self) -> list[Corpus]:
        """Every corpus some lineage passes through, each once."""
        return list(dict.fromkeys(corpus for lineage in self.lineages() for corpus in lineage))


def validate(sections: dict[str, Any], origin: str = "profile") -> Profile:
    """Check the sections of a profile.

    Args:
        sections: `run`, `model`, … as a notebook's parameters cell declares them.
        origin: what to call the profile in an error (a file's path).

    Raises:
        ProfileError: one readable list of everything that is wrong.
    """
    if not isinstance(sections, dict):
        raise ProfileError(f"{origin}: a profile is a YAML file of sections ({', '.join(SECTIONS)})")
    name = sections["run"].get("profile") if isinstance(sections.get("run"), dict) else None
    try:
        return Profile.model_validate(sections)
    except ValidationError as error:
        called = readable(name) if name and isinstance(name, str | int) else origin
        raise ProfileError(f"profile {called} is not valid:\n{describe(error, Profile)}") from None


def load(profile: str | Path) -> Profile:
    """Read and check a profile, by name (`mini`) or by path.

    Raises:
        ProfileError: when there is no such profile (the known ones are named), it repeats a key, or it is not valid.
    """
    path = Path(profile)
    if not path.suffix:
        path = PARAMS_FOLDER / f"{profile}.yaml"
    if not path.is_file():
        known = sorted(p.stem for p in PARAMS_FOLDER.glob("*.yaml") if not p.stem.endswith(".lock"))
        raise ProfileError(f"no profile {profile!s}{nearest(str(profile), known)}; known: {', '.join(known)}")
    try:
        sections = unique_keys.read(path)
    except ValueError as error:
        raise ProfileError(str(error)) from None
    return validate(sections, str(path))


def from_notebook(**sections: Any) -> Profile:
    """The profile a notebook was given by papermill, or `mini` when it was opened by hand and nothing was injected.

    Raises:
        ProfileError: when only some sections were injected, or one of them is not valid.
    """
    given = {name: value for name, value in sections.items() if value is not None}
    return validate(given) if given else load("mini")


def dump(profile: Profile) -> str:
    """The effective profile as YAML: every key, defaults included."""
    return yaml.safe_dump(profile.model_dump(mode="json"), allow_unicode=True, sort_keys=False, width=120)
