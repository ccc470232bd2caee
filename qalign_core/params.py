"""The schema of a profile: what `params/<profile>.yaml` may say. Unknown keys and impossible values are refused."""

from __future__ import annotations

import datetime
import graphlib
import os
import reprlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import pydantic
import yaml
from pydantic import AfterValidator, BeforeValidator, Field
from pydantic_core import PydanticCustomError

from qalign_core import prompts, runs
from qalign_core.languages import PAPER_CODES, add_new, in_table_order, nearest, one_line
from qalign_core.runs import read_yaml
from qalign_core.scorer import ScorerName

PARAMS_FOLDER = Path(__file__).resolve().parent.parent / "params"
SECTIONS = ("run", "model", "data", "systems", "training", "evaluation")
BASE_TEXT = "base-text"  # the corpus the miniature's base is pre-trained on
BENCHMARKS = ("mgsm", "msvamp")  # the paper's
KNOWN_CORPORA = (  # the paper's
    *("questions-x-en", "questions-en-x", "responses-x-en", "responses-en-x", "flores-x-en"),
    *("gsm8k", "gsm8kinstruct", "metamathqa"),
)
RESERVED = (  # names that a run's folders or tables use themselves, or that mean something else in a profile
    *("base", BASE_TEXT, "model", "untrained", "checkpoints", "benchmarks", "translation", "to-english", "followed"),
    *("corrected", "tensorboard"),
)
LINEAR_LAYERS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


class ProfileError(ValueError):
    """A profile that cannot be run; the message names the profile, the key and what is allowed."""


DataSet = Literal["mgsm", "msvamp", "gsm8k", "gsm8kinstruct", "questions", "metamathqa", "flores"]
Style = Literal["calibrated", "equations", "restating"]  # of the miniature's solutions
BENCHMARK_NAME, LONGEST_NAME = r"^[a-z0-9]+(-[a-z0-9]+)*$", 40  # becomes the name of a folder and of files
Benchmark = Annotated[str, Field(pattern=BENCHMARK_NAME, max_length=LONGEST_NAME)]
Corpus = Annotated[str, Field(pattern=BENCHMARK_NAME, max_length=60)]
Line = Annotated[str, AfterValidator(one_line)]
LanguageName = Annotated[str, Field(max_length=60), AfterValidator(lambda name: one_line(name, "/\\{}"))]
# Notebooks run in a folder of their own: a path is made absolute where the profile is read.
AbsolutePath = Annotated[str, Field(min_length=1), AfterValidator(lambda p: os.path.abspath(os.path.expanduser(p)))]
Languages = Annotated[list[str], Field(min_length=1), AfterValidator(in_table_order)]
Parts = Annotated[list[Corpus], Field(min_length=1), BeforeValidator(lambda of: [of] if isinstance(of, str) else of)]
Positive = Annotated[int, Field(gt=0, le=10**9)]
Batch = Annotated[int, Field(gt=0, le=2**16)]  # examples, or micro-batches
Tokens = Annotated[int, Field(gt=0, le=2**20)]  # of one sequence
Rate = Annotated[float, Field(gt=0, le=10)]
BelowOne = Annotated[float, Field(ge=0, lt=1)]


class Section(pydantic.BaseModel):
    """A part of a profile: no unknown keys, no silent conversion of text to numbers."""

    model_config = pydantic.ConfigDict(frozen=True, strict=True, allow_inf_nan=False)

    @pydantic.model_validator(mode="before")
    @classmethod
    def _keys_are_known(cls, given: Any) -> Any:
        known, said = cls.model_fields, []
        for key in (str(key) for key in given if key not in known) if isinstance(given, dict) else ():
            said.append(f"{key}: unknown key{nearest(key, known)}; allowed here: {', '.join(known)}")
        if said:
            raise PydanticCustomError("unknown_keys", "{said}", {"said": "\n".join(said)})
        return given


class RunSection(Section):
    """Who runs, where, and how often."""

    profile: Annotated[str, Field(pattern=r"^[A-Za-z0-9](\.?[A-Za-z0-9_-])*$", max_length=100)]
    seeds: Annotated[list[Annotated[int, Field(ge=0, lt=2**32)]], Field(min_length=1)] = [1234]
    devices: Annotated[int, Field(gt=0, le=1024)] = 1  # of each machine
    hostfile: str | None = None
    launcher: Literal["pdsh", "openmpi", "slurm"] | None = None
    launcher_args: str | None = None
    silence_seconds: Positive = 1800
    slow_bf16: bool = False  # whether bf16 is wanted on a processor that only emulates it, too


class MiniatureModel(Section):
    """The small LLaMA of the miniature; sizes as in `transformers.LlamaConfig`."""

    weights: Literal["shipped", "random", "trained"] = "shipped"  # trained: in the run, as stages.base-text says
    base_tokens: Positive | None = None  # of the miniature's text, for trained weights
    hidden_size: Positive | None = None
    intermediate_size: Positive | None = None
    num_hidden_layers: Positive | None = None
    num_attention_heads: Positive | None = None
    max_position_embeddings: Positive | None = None

    def config(self) -> dict[str, int]:
        """The sizes that were given."""
        return self.model_dump(exclude={"weights", "base_tokens"}, exclude_none=True)


class ModelSection(Section):
    """The base model every lineage starts from, and how it is asked."""

    base: Line
    revision: Line | None = None
    convert: bool = False  # whether a base or checkpoint that has only pickles is made safetensors of, safely
    template: prompts.TrainedTemplateName = "alpaca"  # chat (ours): the template its tokenizer comes with
    pad_token: str = "<pad>"
    miniature: MiniatureModel = MiniatureModel()


class MiniatureData(Section):
    style: Style = "restating"
    split: Literal["test", "development"] = "test"  # what the benchmarks ask; choices are made on the development split
    sizes: dict[Literal[DataSet, "dev"], Positive] = {}  # questions, or pairs per language, or problems


class CorpusChoice(Section):
    """A part of a corpus or, under a name of its own, a corpus derived from others or a file of one's own (ours)."""

    of: Parts | None = None  # one corpus or a list
    path: AbsolutePath | None = None
    ignore_fields: list[str] | None = None  # of that file: prompt or dialogue fields that shall not be read
    limit: Positive | None = None  # at most so many examples per language, the first ones
    share: Annotated[float, Field(gt=0, le=1)] | None = None  # a random part of each language's examples
    languages: Languages | None = None
    without: Languages | None = None
    pairs: Literal["shuffled", "source-only"] | None = None  # two controls: another's translation, the question itself
    style: Style | None = None


class NewLanguage(Section):
    """A language that the paper does not have."""

    name: LanguageName  # English; in stage 1's prompt and in mSVAMP's file names
    reference_name: LanguageName | None = None
    native_name: LanguageName | None = None
    script: str = "Latin"  # what Unicode calls its letters: Hangul, Telugu, Arabic
    flores: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]+$", max_length=40)] | None = None  # code of its FLORES files
    decimal_comma: bool = False  # whether 3,5 is three and a half
    words: str = ""  # common ones, in Latin letters, if py3langid does not know the code
    folder: AbsolutePath | None = None  # its files, such as mgsm/mgsm_ko.tsv, where they are not in data.folder


class DataSection(Section):
    """Which data, from where, and the authors' quirks as named switches."""

    new_languages: dict[str, NewLanguage] = {}  # comes first: what follows names their codes
    languages: Languages = list(PAPER_CODES)
    sources: dict[DataSet, Literal["hub", "repository", "folder", "miniature"]]
    folder: str | None = None
    corpora: dict[Corpus, CorpusChoice] = {}
    miniature: MiniatureData = MiniatureData()
    language_names: Literal["paper", "plain"] = "paper"
    gsm8kinstruct_language: Literal["paper", "fixed"] = "paper"
    sft_data: Literal["paper", "gsm8k"] = "paper"

    @pydantic.field_validator("new_languages")
    @classmethod
    def _become_known(cls, new: dict[str, NewLanguage]) -> dict[str, NewLanguage]:
        add_new({code: entry.model_dump(exclude={"folder"}) for code, entry in new.items()})
        return new

    def unknown(self, name: str) -> str:
        """What to say of a corpus that is not known; nothing if it is."""
        known = list(dict.fromkeys([*KNOWN_CORPORA, *self.corpora]))
        said = f"{nearest(name, known)}; known: {', '.join(known)}; a new one is described in data.corpora"
        return "" if name in known else f"unknown corpus {name!r}{said}"

    def source(self, name: str) -> str | None:
        """Where a data set comes from; None for one without a source, such as a benchmark of one's own."""
        return next((source for known, source in self.sources.items() if known == name), None)

    def choice(self, name: str) -> CorpusChoice:
        """What the profile says of a corpus; nothing chosen for one it does not mention."""
        return self.corpora.get(name, CorpusChoice())

    def ancestry(self, name: str) -> Iterator[str]:
        """The corpus itself and whatever it is derived from, nearest first."""
        yield name
        for part in self.choice(name).of or []:
            yield from self.ancestry(part)

    def roots(self, name: str) -> list[str]:
        """The known corpora and files a corpus is made of in the end, each once."""
        return [n for n in dict.fromkeys(self.ancestry(name)) if self.choice(n).of is None]


class System(Section):
    """A row of the paper's tables: a lineage of corpora, a published checkpoint, or external predictions."""

    lineage: list[Corpus] | None = None
    translator: list[Corpus] | None = None  # lineage of a model that first translates what is not English
    checkpoint: str | None = None  # a hub id or a folder
    revision: str | None = None
    template: prompts.TemplateName = "alpaca"  # of a checkpoint; else model.template
    predictions: AbsolutePath | None = None  # a folder of <benchmark>/<language>.jsonl
    fields: dict[Literal["index", "question", "response", "finish_reason"], str | None] | None = None  # as named there
    files: Annotated[str, Field(pattern=r"^[^/]")] | None = None  # the pattern of their names
    filter: str | None = None  # of lm-evaluation-harness's logs: whose rows are read
    samples: Literal["first", "majority"] | None = None  # which of several responses to a question counts
    seed: int | None = None  # which of the run's seeds the predictions belong to; null: to each
    published: str | None = None
    table: Literal["main", "ablation", "control", "study"] = "main"
    against: str | None = None  # compared with this one, too: its control of the same size

    def seeds(self, run: RunSection) -> list[int]:
        """The seeds of a run that this system has answers of."""
        return run.seeds if self.seed is None else [self.seed]


class Arguments(Section):
    """The part of `transformers.TrainingArguments` a profile may set, under the same names."""

    num_train_epochs: Annotated[float, Field(gt=0, le=1000)] = 3.0
    max_steps: Annotated[int, Field(ge=-1, le=10**9)] = -1
    per_device_train_batch_size: Batch | Literal["auto"] = 2  # auto: as many as fit, the effective batch size kept
    gradient_accumulation_steps: Batch = 8
    learning_rate: Rate = 2e-5
    lr_scheduler_type: Literal["cosine", "cosine_with_min_lr", "linear", "constant", "constant_with_warmup"] = "cosine"
    lr_scheduler_kwargs: dict[str, float] | None = None
    warmup_steps: Annotated[float, Field(ge=0)] = 0.03
    optim: Literal["adamw_torch", "adamw_torch_fused"] = "adamw_torch"
    weight_decay: Annotated[float, Field(ge=0, le=10)] = 0.0
    adam_beta1: BelowOne = 0.9
    adam_beta2: BelowOne = 0.999
    adam_epsilon: Rate = 1e-8
    max_grad_norm: Annotated[float, Field(ge=0)] = 1.0
    bf16: bool = False
    tf32: bool | None = None
    activation_checkpointing: bool | Literal["auto"] = False  # auto: only if nothing fits without
    save_steps: Positive = 500
    save_total_limit: Annotated[int, Field(ge=2)] = 2  # one is always whole
    logging_steps: Positive = 10
    report_to: str | list[str] = "none"  # other trackers; TensorBoard's logs are always written


class LoraSection(Section):  # a layer with weight W (O, I) computes (W + alpha/rank · B·A)·x, A (rank, I), B (O, rank)
    rank: Positive = 64
    alpha: Positive = 128
    dropout: BelowOne = 0.0
    target_modules: Annotated[list[str], Field(min_length=1)] = list(LINEAR_LAYERS)
    embeddings: bool = False  # whether the embeddings are trained, whole


class TrainingSection(Arguments):
    """How every stage is trained; `stages` holds what differs in one of them."""

    max_length: Annotated[Tokens, Field(ge=64)] = 512  # the prompt's template alone is about 50
    loss: Literal["paper", "token"] = "paper"
    packing: bool = True
    train_sampling_strategy: Literal["random", "group_by_length"] = "random"  # by length (ours): less padding
    method: Literal["full", "lora"] = "full"
    lora: LoraSection | None = None
    deepspeed: str = "deepspeed/zero3.json"  # auto: that, or zero3-offload.json where only it fits
    stages: dict[Corpus, Arguments] = {}

    @pydantic.field_serializer("stages")
    def _only_what_differs(self, stages: dict[str, Arguments]) -> dict[str, dict[str, Any]]:
        return {corpus: differing.model_dump(exclude_unset=True) for corpus, differing in stages.items()}


class BenchmarkSettings(Section):
    max_new_tokens: Tokens
    limit: Positive | None = None  # questions per language
    folder: AbsolutePath | None = None  # the files of one that is not the paper's
    fields: dict[Literal["question", "answer"], str] | None = None  # as named there, such as doc.question
    corrects: Benchmark | None = None  # the benchmark that the folder's rows (index, question, answer) correct
    drop: list[Annotated[int, Field(ge=0)]] = []  # rows, from 0, that are left out in every language


class EvaluationSection(Section):
    """What is generated and how it is scored."""

    benchmarks: Annotated[dict[Benchmark, BenchmarkSettings], Field(min_length=1)]
    translation: BenchmarkSettings | None = None
    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    batch_tokens: Positive | Literal["auto"] = "auto"
    scorer: ScorerName = "paper"  # what Tables 2 and 3 show; accuracy.csv has every scorer's
    pairs: list[Annotated[list[str], Field(min_length=2, max_length=2)]] | None = None  # to test; null: the paper's
    tolerance: dict[Benchmark, Annotated[float, Field(gt=0, le=100)]] = {}  # points to a published average, said before


class Profile(Section):
    """Everything one reproduction needs."""

    run: RunSection
    model: ModelSection
    data: DataSection
    systems: Annotated[dict[Line, System], Field(min_length=1)]
    training: TrainingSection
    evaluation: EvaluationSection

    @pydantic.model_validator(mode="after")
    def _fits_together(self) -> Profile:
        if problems := list(_data_problems(self.data)) or list(_problems(self)):
            raise ValueError("\n  ".join(problems))
        return self

    def in_chapter(self, *, ablations: bool) -> list[str]:
        """The systems of chapters 3 to 5 (`table: main`), or those of chapter 6: ablations, controls and studies."""
        return [name for name, system in self.systems.items() if (system.table != "main") == ablations]

    def lineages(self, systems: Iterable[str] | None = None) -> list[list[Corpus]]:
        """Every lineage that must be trained (for some systems, or for all), prefixes first, each once."""
        chosen = [self.systems[name] for name in (self.systems if systems is None else systems)]
        whole = [lineage for system in chosen for lineage in (system.lineage or [], system.translator or [])]
        prefixes = dict.fromkeys(tuple(lineage[: end + 1]) for lineage in whole for end in range(len(lineage)))
        return sorted(map(list, prefixes), key=len)

    def first_stage(self) -> Corpus | None:
        """What chapter 2 trains: the question pairs, or what the first system with two stages begins with, if any."""
        if "questions-x-en" in self.corpora():
            return "questions-x-en"
        return next((s.lineage[0] for s in self.systems.values() if s.lineage and len(s.lineage) > 1), None)

    def corpora(self) -> list[Corpus]:
        """Every corpus some lineage passes through, each once."""
        return list(dict.fromkeys(corpus for lineage in self.lineages() for corpus in lineage))

    def arguments(self, corpus: str) -> dict[str, Any]:
        """The training arguments of a stage: as `training.stages` says of the corpus or of what it is derived from."""
        named = next((name for name in self.data.ancestry(corpus) if name in self.training.stages), corpus)
        own = self.training.model_dump(include={"stages"})["stages"].get(named, {})
        return {**self.training.model_dump(include=set(Arguments.model_fields)), **own}


def _data_problems(data: DataSection) -> Iterator[str]:  # what is wrong though each value by itself is right
    if "en" not in data.languages:
        yield "data.languages: 'en' must be among the languages: every corpus and comparison is relative to English"
    foreign = {name: f"{name}: {source}" for name, source in data.sources.items() if source != "miniature"}
    if data.miniature.split == "development" and (real := sorted(foreign.keys() & set(BENCHMARKS))):
        yield f"data.miniature.split: development needs {real[0]} from the miniature, not {foreign[real[0]]}"
    for name, choice in data.corpora.items():
        key, known, parts = f"data.corpora.{name}", name in KNOWN_CORPORA, choice.of or []
        differs = ", ".join(sorted(choice.model_dump(exclude_none=True).keys() - {"limit", "languages"}))
        if name in RESERVED or name.startswith("benchmarks-"):
            yield f"{key}: this name is taken: a run has a folder of it; choose another for the corpus"
        elif known and differs:
            own = f"give the derived corpus a name of its own: <name>: {{of: {name}, …}}"
            yield f"{key}: of a known corpus only limit and languages can be set, not {differs}; {own}"
        elif not known and choice.of is None and choice.path is None:
            needs = "a new one needs `of` (corpora it is made of) or `path` (a file of your own)"
            yield f"{key}: unknown corpus{nearest(name, KNOWN_CORPORA)}; {needs}"
        if parts and choice.path:
            yield f"{key}: give either of (other corpora) or path (a file of your own), not both"
        if choice.languages and choice.without:
            yield f"{key}: give either languages or without, not both"
        if choice.path and (choice.pairs or choice.style):
            yield f"{key}: pairs and style are for corpora derived from known ones, not for a file of your own"
        if choice.style and (real := sorted(foreign.keys() & {"gsm8k", "gsm8kinstruct", "metamathqa"})):
            yield f"{key}.style: only the miniature can be written in styles, not {foreign[real[0]]}"
        yield from (f"{key}.of: {data.unknown(part)}" for part in parts if data.unknown(part))
    try:
        graphlib.TopologicalSorter({name: choice.of or [] for name, choice in data.corpora.items()}).prepare()
    except graphlib.CycleError as error:
        yield f"data.corpora.{error.args[1][0]} is derived from itself: {' of '.join(reversed(error.args[1]))}"
    chosen = {f"corpora.{name}": [*(c.languages or []), *(c.without or [])] for name, c in data.corpora.items()}
    for key, codes in {"languages": data.languages, **chosen}.items():
        for code in set(codes) - {*PAPER_CODES, *data.new_languages}:  # known from another profile of this process
            yield f"data.{key}: {code!r} is none of the paper's languages and not described in data.new_languages"


def _problems(profile: Profile) -> Iterator[str]:
    run, miniature, training, evaluation = profile.run, profile.model.miniature, profile.training, profile.evaluation
    if len(set(run.seeds)) != len(run.seeds):
        yield f"run.seeds: the seeds {run.seeds} must differ from one another"
    if miniature.weights == "shipped" and miniature.config():
        yield "model.miniature: sizes cannot be chosen with weights: shipped, which have their own"
    if (miniature.weights == "trained") != (miniature.base_tokens is not None):
        yield "model.miniature: weights: trained and base_tokens belong together: say how much text to train on"
    if training.lora is not None and training.method != "lora":
        yield f"training.lora: describes method: lora, but method is {training.method}: change it or leave lora out"
    config = PARAMS_FOLDER / training.deepspeed
    if training.lora and training.lora.embeddings and config.is_file():
        in_bf16 = any(stage.bf16 for stage in (training, *training.stages.values()))
        if in_bf16 and runs.read_object(config).get("zero_optimization", {}).get("stage") == 3:
            remedy = "take deepspeed/zero2.json or bf16: false, or leave the embeddings as they are"
            yield f"training.lora.embeddings: DeepSpeed cannot train them in bf16 under ZeRO stage 3: {remedy}"
    for name, settings in evaluation.benchmarks.items():
        key, known = f"evaluation.benchmarks.{name}", f"known: {', '.join(BENCHMARKS)}"
        if name in (*RESERVED, "split") or name.endswith("-intervals"):  # tables are named so
            yield f"{key}: this name is taken; choose another for the benchmark"
        elif name not in BENCHMARKS and settings.folder is None:
            own = "one of your own needs `folder`, with a file <language>.jsonl of question and answer per language"
            yield f"{key}: unknown benchmark{nearest(name, BENCHMARKS)}; {known}; {own}"
        elif settings.folder is None and (settings.fields or settings.corrects):
            yield f"{key}: fields and corrects describe the files of a `folder` of your own"
        elif settings.corrects and settings.corrects not in set(evaluation.benchmarks) - {name}:
            yield f"{key}.corrects: name another of evaluation.benchmarks, which is asked beside it"
        elif name in BENCHMARKS and settings.folder is not None:
            yield f"{key}: {name}: folder is for benchmarks of your own; data.sources.{name} says where this is"
    pairs = evaluation.pairs or []
    systems = [(f"evaluation.pairs: {pair}", name) for pair in pairs for name in pair]
    corpora = [(f"training.stages.{name}", name) for name in training.stages if name != BASE_TEXT]
    for name, system in profile.systems.items():
        key, lineage = f"systems.{name}", system.lineage
        if sum(origin is not None for origin in (lineage, system.checkpoint, system.predictions)) != 1:
            others = "a checkpoint (a hub id or folder) or predictions (a folder of responses made elsewhere)"
            yield f"{key}: give either a lineage (a list of corpora), {others}"
        log = system.model_dump(include={"fields", "seed", "files", "filter", "samples"}, exclude_none=True)
        if system.predictions is None and log:
            yield f"{key}: {', '.join(log)}: for predictions made elsewhere, which need predictions: <folder>"
        if profile.data.languages[1:] and not any(part in (system.files or part) for part in ("{language}", "{name}")):
            yield f"{key}.files: {system.files}: a pattern for several languages needs {{language}} or {{name}}"
        if not set(system.seeds(run)) <= set(run.seeds):
            yield f"{key}.seed: {system.seed} is not among run.seeds {run.seeds}"
        if system.translator is not None and not (system.translator and lineage is not None):
            needed = "such as [questions-x-en], for a system that has a lineage itself"
            yield f"{key}.translator: a translator is the lineage of a model that translates, {needed}"
        systems += [(f"{key}.against", system.against)] if system.against is not None else []
        corpora += [(f"{key}.lineage.{i}", corpus) for i, corpus in enumerate(lineage or [])]
        corpora += [(f"{key}.translator.{i}", corpus) for i, corpus in enumerate(system.translator or [])]
    for key, name in systems:
        if name not in profile.systems:
            yield f"{key}: no system is named {name!r}{nearest(name, profile.systems)}"
    yield from (f"{key}: {profile.data.unknown(corpus)}" for key, corpus in corpora if profile.data.unknown(corpus))


def _describe(problem: Any) -> str:
    """One of pydantic's errors for people: the key, what is allowed, and the nearest known key."""
    location, kind, given, is_name = problem["loc"], problem["type"], problem["input"], "[key]" in problem["loc"]
    key = ".".join(str(part) for part in location if part != "[key]")
    message = problem["msg"].removeprefix("Value error, ").replace("Input should be", "must be")
    short = reprlib.Repr()  # with aliases a small file says something huge
    short.maxlevel, short.maxstring, short.maxother = 3, 200, 200
    shown = short.repr(given)
    if kind == "missing":
        return f"{key}: is missing"
    if not location:  # about several sections: the message names the keys
        return message
    if kind == "unknown_keys":
        return "\n  ".join(f"{key}.{line}".lstrip(".") for line in message.splitlines())
    if kind == "literal_error":
        expected = problem["ctx"]["expected"]
        meant = nearest(str(given), expected.replace("'", "").replace(" or ", ", ").split(", "))
        said = f"unknown name{meant}; allowed: {expected}" if is_name else f"{message}; got {shown}{meant}"
        return f"{key}: {said}"
    hint = ""
    if kind == "string_type" and isinstance(given, bool | int | float | datetime.date):
        hint = " (put it in quotes: YAML takes no, 1_000 and 2026-01-31 for something else than text)"
    elif kind.startswith(("float", "int")) and isinstance(given, str):
        hint = " (YAML reads 2e-5 as text: write 2.0e-5)"
    return f"{key}: {'a name ' if is_name else ''}{message}; got {shown}{hint}"


def validate(sections: dict[str, Any], origin: str = "") -> Profile:
    """Check the sections of a profile from a notebook or a file, `origin`; ProfileError lists all that is wrong."""
    if not isinstance(sections, dict):
        raise ProfileError(f"{origin or 'profile'}: a profile is a YAML file of sections ({', '.join(SECTIONS)})")
    run = sections.get("run")
    name = str(run["profile"]) if isinstance(run, dict) and isinstance(run.get("profile"), str | int) else ""
    try:
        return Profile.model_validate(sections)
    except pydantic.ValidationError as error:
        called = f"{name} ({origin})" if name and origin else name or origin
        wrong = "".join(f"\n  {_describe(problem)}" for problem in error.errors(include_url=False))
        message = f"profile {called} is not valid:{wrong}"
    raise ProfileError(message.encode("utf-8", "backslashreplace").decode())  # any terminal can print it


def load(profile: str | Path) -> Profile:
    """Read and check a profile, by name (`mini`) or by path; ProfileError if it is not there or not valid."""
    path = profile_file(profile)
    return validate(read_sections(path), str(path))


def profile_file(profile: str | Path, beside: Path = Path()) -> Path:
    """The file of a profile: of a name in params/, or of a path; ProfileError if it is not there."""
    path = beside / profile if Path(profile).suffix else PARAMS_FOLDER / f"{profile}.yaml"
    if not path.is_file():
        known = sorted(p.stem for p in PARAMS_FOLDER.glob("*.yaml") if not p.stem.endswith(".lock"))
        raise ProfileError(f"no profile {profile!s}{nearest(str(profile), known)}; known: {', '.join(known)}")
    return path


def read_sections(path: Path, *above: Path) -> Any:
    """What a profile's file says, over the profile that it `extends`: mappings are merged, null takes an entry out."""
    if (place := path.resolve()) in above:
        raise ProfileError(f"{path}: extends: a profile cannot extend itself: name another, or leave the line out")
    try:
        said = read_yaml(path)
    except runs.BadRow as error:
        raise ProfileError(str(error)) from None
    if not isinstance(said, dict) or "extends" not in said:
        return said
    base = read_sections(profile_file(str(said.pop("extends")), path.parent), *above, place)
    return runs.merged(base, said)


def from_notebook(run=None, model=None, data=None, systems=None, training=None, evaluation=None) -> Profile:
    """The profile papermill gave a notebook; opened by hand, QALIGN_PROFILE's (`make lab PROFILE=…`), else `mini`.

    A section that lacks keys (papermill's `-y`) is put over the one of the profile `run.profile` names; this is said.
    """
    given = {name: value for name, value in locals().items() if value is not None}
    added = list[str]()
    path = PARAMS_FOLDER / f"{run.get('profile') if isinstance(run, dict) else None}.yaml"
    for name, known in read_sections(path).items() if path.is_file() else ():
        own = given.get(name)  # of `systems` one may want a few
        if own is None or (isinstance(own, dict) and name != "systems" and known.keys() - own.keys()):
            added += runs.missing_keys(known, own, name) if own else [name]
            given[name] = runs.merged(known, own or {})
    if added:
        print(f"not given, so as in {path}: {', '.join(added)}")
    return validate(given) if given else load(os.environ.get("QALIGN_PROFILE") or "mini")


def dump(profile: Profile) -> str:
    """The effective profile as YAML: every key, defaults included."""
    return yaml.safe_dump(profile.model_dump(mode="json"), allow_unicode=True, sort_keys=False, width=120)
