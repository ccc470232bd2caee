"""The schema of a profile: what `params/<profile>.yaml` may say. Unknown keys and impossible values are refused."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field, ValidationError, field_serializer, field_validator, model_validator

from qalign_core.profiles import unique_keys
from qalign_core.profiles.data_section import DataSection, unknown_corpus
from qalign_core.profiles.evaluation_section import EvaluationSection
from qalign_core.profiles.schema import (
    Batch,
    Corpus,
    Devices,
    Positive,
    Rate,
    Section,
    SystemName,
    Tokens,
    Updates,
)
from qalign_core.profiles.schema_errors import describe, nearest, readable
from qalign_core.profiles.studies import Studies, expanded
from qalign_core.profiles.system_section import System
from qalign_core.training.lora import LoraSection

PARAMS_FOLDER = Path(__file__).resolve().parent.parent / "params"
BASE_TEXT = "base-text"  # the corpus the miniature's base is pre-trained on
# What `transformers` can report to (its INTEGRATION_TO_CALLBACK, which takes seconds to import).
TRACKERS = (
    *("azure_ml", "clearml", "codecarbon", "comet_ml", "dagshub", "dvclive", "flyte"),
    *("kubeflow", "mlflow", "neptune", "swanlab", "tensorboard", "trackio", "wandb"),
)
SECTIONS = ("run", "model", "data", "systems", "training", "evaluation", "studies")


class ProfileError(ValueError):
    """A profile that cannot be run; the message names the profile, the key and what is allowed."""


# ------------------------------------------------------------------------------------------------- run


class RunSection(Section):
    """Who runs, where, and how often."""

    profile: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=100)]
    seeds: Annotated[list[Annotated[int, Field(ge=0, lt=2**32)]], Field(min_length=1)] = [1234]
    devices: Devices = 1
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
    """The base model every lineage starts from, and how it is asked: by the paper's Alpaca prompt, or as a chat (ours)
    by the template its tokenizer comes with.
    """

    base: str
    revision: str | None = None
    template: Literal["alpaca", "chat"] = "alpaca"
    pad_token: str = "<pad>"
    miniature: MiniatureModel = MiniatureModel()

    @field_validator("base", "revision")
    @classmethod
    def _one_line(cls, name: str | None) -> str | None:
        if name is not None and (not name.isprintable() or not name or name != name.strip()):
            raise ValueError("must be one line of printable characters, without blanks around it")
        return name


# ------------------------------------------------------------------------------------------------- training


class Arguments(Section):
    """The part of `transformers.TrainingArguments` a profile may set, under the same names."""

    num_train_epochs: Annotated[float, Field(gt=0, le=1000)] = 3.0
    max_steps: Updates = -1
    per_device_train_batch_size: Batch = 2
    gradient_accumulation_steps: Batch = 8
    learning_rate: Rate = 2e-5
    lr_scheduler_type: Literal["cosine", "cosine_with_min_lr", "linear", "constant", "constant_with_warmup"] = "cosine"
    lr_scheduler_kwargs: dict[str, float] | None = None
    warmup_steps: Annotated[float, Field(ge=0)] = 0.03
    optim: Literal["adamw_torch", "adamw_torch_fused"] = "adamw_torch"
    weight_decay: Annotated[float, Field(ge=0, le=10)] = 0.0
    adam_beta1: Annotated[float, Field(ge=0, lt=1)] = 0.9
    adam_beta2: Annotated[float, Field(ge=0, lt=1)] = 0.999
    adam_epsilon: Rate = 1e-8
    max_grad_norm: Annotated[float, Field(ge=0)] = 1.0
    bf16: bool = False
    tf32: bool | None = None
    gradient_checkpointing: bool = False
    save_steps: Positive = 500
    save_total_limit: Annotated[int, Field(ge=2)] = 2  # one is always whole
    logging_steps: Positive = 10
    report_to: str | list[str] = "none"  # other trackers; TensorBoard's logs are always written

    @field_validator("report_to")
    @classmethod
    def _trackers_are_known(cls, report_to: str | list[str]) -> str | list[str]:
        names = [] if report_to == "none" else [report_to] if isinstance(report_to, str) else report_to
        for name in names:
            if name not in TRACKERS:
                known = ", ".join(TRACKERS)
                raise ValueError(f"no tracker {name!r}{nearest(name, TRACKERS)}; none (alone), or some of: {known}")
        return report_to


class TrainingSection(Arguments):
    """How every stage is trained; `stages` holds what differs in one of them."""

    max_length: Annotated[Tokens, Field(ge=64)] = 512  # the prompt's template alone is about 50
    loss: Literal["paper", "token"] = "paper"
    packing: bool = True
    method: Literal["full", "lora"] = "full"
    lora: LoraSection | None = None
    deepspeed: str = "deepspeed/zero3.json"
    stages: dict[Corpus, Arguments] = {}

    @model_validator(mode="after")
    def _lora_is_the_method(self) -> TrainingSection:
        if self.lora is not None and self.method != "lora":
            raise ValueError(f"lora describes method: lora, but method is {self.method}: change it or leave lora out")
        return self

    @field_serializer("stages")
    def _only_what_differs(self, stages: dict[str, Arguments]) -> dict[str, dict[str, Any]]:
        return {corpus: differing.model_dump(exclude_unset=True) for corpus, differing in stages.items()}

    def arguments(self, corpus: str) -> dict[str, Any]:
        """The training arguments of the stage on `corpus`, its own differences applied."""
        common = self.model_dump(include=set(Arguments.model_fields))
        return {**common, **self.model_dump(include={"stages"})["stages"].get(corpus, {})}


# ------------------------------------------------------------------------------------------------- the whole


class Profile(Section):
    """Everything one reproduction needs."""

    run: RunSection
    model: ModelSection
    data: DataSection
    systems: Annotated[dict[SystemName, System], Field(min_length=1)]
    training: TrainingSection
    evaluation: EvaluationSection
    studies: Studies = Studies()

    @model_validator(mode="after")
    def _seeds_are_the_runs(self) -> Profile:
        for name, system in self.systems.items():
            if not set(system.seeds(self.run)) <= set(self.run.seeds):
                raise ValueError(f"systems.{name}.seed: {system.seed} is not among run.seeds {self.run.seeds}")
            if system.against is not None and system.against not in self.systems:
                raise ValueError(
                    f"systems.{name}.against: no system {system.against!r}{nearest(system.against, list(self.systems))}"
                )
        return self

    @model_validator(mode="after")
    def _pairs_are_of_systems(self) -> Profile:
        for pair in self.evaluation.pairs or []:
            for name in pair:
                if name not in self.systems:
                    hint = nearest(name, list(self.systems))
                    raise ValueError(f"evaluation.pairs: {pair}: no system is named {name!r}{hint}")
            if pair[0] == pair[1]:
                raise ValueError(f"evaluation.pairs: {pair} compares a system with itself")
        return self

    @model_validator(mode="after")
    def _corpora_are_known(self) -> Profile:
        named = [(f"training.stages.{name}", name) for name in self.training.stages if name != BASE_TEXT]
        for title, system in self.systems.items():
            for key, lineage in (("lineage", system.lineage), ("translator", system.translator)):
                named += [(f"systems.{title}.{key}.{i}", name) for i, name in enumerate(lineage or [])]
        wrong = [
            f"{key}: {unknown_corpus(name, self.data.corpora)}" for key, name in named if not self.data.knows(name)
        ]
        if wrong:
            raise ValueError("\n  ".join(wrong))
        return self

    def in_chapter(self, *, ablations: bool) -> list[str]:
        """The systems of chapters 3 to 5 (`table: main`), or those of chapter 6: ablations, controls and studies."""
        return [name for name, system in self.systems.items() if (system.table != "main") == ablations]

    def lineages(self, systems: Iterable[str] | None = None) -> list[list[Corpus]]:
        """Every lineage that must be trained (for some systems, or for all), prefixes first, each once."""
        found: list[list[Corpus]] = []
        for system in self.systems.values() if systems is None else [self.systems[name] for name in systems]:
            for lineage in (system.lineage or [], system.translator or []):
                for length in range(1, len(lineage) + 1):
                    prefix = lineage[:length]
                    if prefix not in found:
                        found.append(prefix)
        return sorted(found, key=len)

    def first_stage(self) -> Corpus | None:
        """What chapter 2 trains and looks at: the question pairs, or whatever the first system with stages begins with;
        None where every system has one stage at most."""
        if "questions-x-en" in self.corpora():
            return "questions-x-en"
        return next((s.lineage[0] for s in self.systems.values() if s.lineage and len(s.lineage) > 1), None)

    def corpora(self) -> list[Corpus]:
        """Every corpus some lineage passes through, each once."""
        return list(dict.fromkeys(corpus for lineage in self.lineages() for corpus in lineage))

    def arguments(self, corpus: str) -> dict[str, Any]:
        """The training arguments of the stage on `corpus`; a derived one is trained as what it is derived from, unless
        `training.stages` names it."""
        named = (name for name in self.data.ancestry(corpus) if name in self.training.stages)
        return self.training.arguments(next(named, corpus))


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
    called = readable(name) if name and isinstance(name, str | int) else origin
    try:
        profile = Profile.model_validate(sections)
        return Profile.model_validate(expanded(profile) or profile)
    except ValidationError as error:
        raise ProfileError(f"profile {called} is not valid:\n{describe(error, Profile)}") from None
    except ValueError as error:
        raise ProfileError(f"profile {called} is not valid:\n  {error}") from None


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
    """The profile a notebook was given by papermill; opened by hand, with nothing injected, the one that QALIGN_PROFILE
    names (`make lab PROFILE=...` sets it), else `mini`.

    Raises:
        ProfileError: when only some sections were injected, one of them is not valid, or there is no such profile.
    """
    given = {name: value for name, value in sections.items() if value is not None}
    return validate(given) if given else load(os.environ.get("QALIGN_PROFILE") or "mini")


def dump(profile: Profile) -> str:
    """The effective profile as YAML: every key, defaults included."""
    return yaml.safe_dump(profile.model_dump(mode="json"), allow_unicode=True, sort_keys=False, width=120)
