"""The card of a trained model: `README.md` in its folder, in the hub's format.

It is written beside the model and not by its training, so `done.json`, which vouches for the files of the training,
does not list it: scores are added to it when the model's answers are scored.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from qalign_core import runs
from qalign_core.corpora import data_sets_of
from qalign_core.data.data_lock import read_lock
from qalign_core.languages import CODES
from qalign_core.params import BASE_TEXT, Profile
from qalign_core.runs import Run
from qalign_core.scores.saved_tables import read_table
from qalign_core.shown.paper_tables import BENCHMARKS, HEADINGS, with_interval
from qalign_core.shown.tables import markdown_text as _plain

CARD = "README.md"
HUB_ID = r"[\w.-]+/[\w.-]+"
FOREIGN = "your own file, licence not known here"
# Licences of bases whose id says which it is, as the hub names them; of any other base the card leaves it blank.
LICENCES: tuple[tuple[str, str], ...] = (
    (r"miniature", "apache-2.0"),
    (r"meta-llama/Llama-2-.*", "llama2"),
    (r"meta-llama/(Meta-)?Llama-3-.*", "llama3"),
    (r"meta-llama/(Meta-)?Llama-3\.1-.*", "llama3.1"),
    (r"meta-llama/Llama-3\.2-.*", "llama3.2"),
    (r"mistralai/Mistral-7B-(Instruct-)?v0\.[123]", "apache-2.0"),
    (r"Qwen/Qwen2\.5-(Math-)?(0\.5|1\.5|7|14|32)B(-Instruct)?", "apache-2.0"),
)
SETTINGS = (
    *("num_train_epochs", "max_steps", "learning_rate", "lr_scheduler_type", "warmup_steps", "optim", "weight_decay"),
    *("adam_beta1", "adam_beta2", "adam_epsilon", "max_grad_norm", "bf16"),
)


def licence_of(base: str) -> str | None:
    """The licence of a base model as the hub names it, or None where its id does not tell."""
    return next((name for pattern, name in LICENCES if re.fullmatch(pattern, base)), None)


def write_cards(profile: Profile, run: Run) -> list[Path]:
    """Write the card of every model that is finished, with the scores of the systems that end in it."""
    every = [(seed, lineage) for seed in profile.run.seeds for lineage in ([], *profile.lineages())]
    return [path for path in (write_card(profile, run, *which) for which in every) if path is not None]


def write_card(profile: Profile, run: Run, seed: int, lineage: Sequence[str]) -> Path | None:
    """Write the card of one model, if it is there and its training is finished.

    A card that cannot be written is a warning: the training it describes is finished all the same.

    Args:
        profile: the checked profile.
        run: holds the model, the stages before it and, once there are any, the results.
        seed: of the model.
        lineage: the corpora it was trained on, in order.
    """
    path = run.model(seed, lineage) / CARD
    if not (path.with_name("config.json").is_file() and (run.stage(seed, lineage) / "done.json").is_file()):
        return None
    try:
        text = card(profile, run, seed, lineage)
        if not (path.is_file() and path.read_text(encoding="utf-8") == text):
            runs.write_atomic(path, text)
    except (ArithmeticError, AttributeError, LookupError, OSError, TypeError, ValueError) as error:
        said = f"{type(error).__name__}: {error}"
        warnings.warn(f"{path}: this card could not be written ({said}); the model is whole", stacklevel=2)
        return None
    return path


def card(profile: Profile, run: Run, seed: int, lineage: Sequence[str]) -> str:
    """The text of a card; see `write_card`."""
    stages = list(_stages(run, seed, lineage))
    origins = {name: data_origins(profile, name) for name in lineage}
    metadata = {key: value for key, value in _metadata(profile, run, seed, lineage, origins).items() if value}
    names = [name for name, system in profile.systems.items() if system.lineage == list(lineage)]
    parts = [
        f"---\n{yaml.safe_dump(metadata, allow_unicode=True, sort_keys=False)}---",
        f"# {_plain(' / '.join(names) or ' → '.join(lineage) or 'base')} (profile {profile.run.profile}, seed {seed})",
        "Made with `qalign_core`, a reproduction of *Question Translation Training for Better Multilingual Reasoning* "
        f"([arXiv 2401.07817](https://arxiv.org/abs/2401.07817)), from {_base(profile)}. " + _prompted(profile),
        "## Lineage\n\n" + _table(pd.DataFrame([_stage_row(stage) for stage in stages])),
        "## Data and its licences\n\n" + _data(profile, stages, origins),
        "## Hyper-parameters\n\n" + _settings(stages),
        "## Scores\n\n" + _scores(run, names, seed),
        "## Licence\n\n" + _licence(profile),
        "## Versions\n\n" + _versions(stages[-1][1]),
    ]
    return "\n\n".join(parts) + "\n"


# ------------------------------------------------------------------------------------------------- what is known


Stage = tuple[dict[str, Any], dict[str, Any]]  # a job and its done.json


def _stages(run: Run, seed: int, lineage: Sequence[str]) -> Iterator[Stage]:
    """Every stage on the way to a model; the miniature's base first, where it was trained in this run."""
    for length in range(len(lineage) + 1):
        folder = run.stage(seed, lineage[:length])
        if (folder / "done.json").is_file():
            yield runs.read_json(folder / "job.json"), runs.read_json(folder / "done.json")


def data_origins(profile: Profile, corpus: str) -> list[dict[str, str | None]]:
    """Where a corpus comes from: for each data set its source, its id on the hub (if it is from there), its licence."""
    lock, found = read_lock(), []
    for root in profile.data.roots(corpus):
        if profile.data.choice(root).path is not None:
            found.append({"data": root, "source": "file", "id": None, "licence": FOREIGN})
            continue
        for name in data_sets_of(root, sft_data=profile.data.sft_data):
            source = profile.data.sources[name]
            origin: dict[str, str | None] = {"data": name, "source": source, "id": None, "licence": FOREIGN}
            if source == "miniature":
                origin["licence"] = "Apache-2.0 (generated by the package)"
            elif source == "hub":
                origin |= {"id": lock.hub[name].repo_id, "licence": lock.hub[name].licence}
            elif source == "repository":
                origin["licence"] = lock.repository.data_sets[name].licence
            found.append(origin)
    return found


def _metadata(
    profile: Profile, run: Run, seed: int, lineage: Sequence[str], origins: dict[str, list[dict[str, str | None]]]
) -> dict[str, Any]:
    base, spoken = profile.model.base, {"en"}
    for corpus in lineage:
        for path in (run.corpus(corpus, seed), run.corpus(corpus)):
            manifest = path.with_suffix(".json")
            if manifest.is_file():
                report = runs.read_json(manifest)["report"]
                spoken |= {row["language"] for row in report if row["outcome"] == "kept" and row["rows"]}
    ids = [origin["id"] for of_corpus in origins.values() for origin in of_corpus if origin["id"]]
    on_hub = base != "miniature" and re.fullmatch(HUB_ID, base) and not Path(base).exists()
    return {
        "language": [code for code in CODES if code in spoken],
        "license": licence_of(base),
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "base_model": base if on_hub else None,
        "datasets": sorted(set(ids)),
        "tags": ["mathematical-reasoning", "multilingual", "qalign"],
    }


# ------------------------------------------------------------------------------------------------- what is written


def _base(profile: Profile) -> str:
    base, revision = profile.model.base, profile.model.revision
    if base == "miniature":
        return "the miniature's base model"
    if Path(base).is_dir():
        return f"a model in a folder named {_plain(Path(base).name)}"
    named = f"[{base}](https://huggingface.co/{base})" if re.fullmatch(HUB_ID, base) else _plain(base)
    return named + (f" at revision {_plain(revision)}" if revision else "")


def _prompted(profile: Profile) -> str:
    if profile.model.template == "chat":
        return "It is asked with its tokenizer's chat template, which is ours: the paper uses the Alpaca prompt."
    return "It is asked with the Alpaca prompt without input, the response directly behind its last colon."


def _stage_row(stage: Stage) -> dict[str, Any]:
    job, done = stage
    metrics = done["metrics"]
    return {
        "trained on": _plain(job["corpus"]["name"]),
        "examples": f"{job['corpus']['rows']:,}",
        "updates": f"{metrics['updates']:,}",
        "target tokens": f"{metrics['target_tokens']:,}",
        "mean loss": f"{metrics['train_loss']:.3f}",
        "final loss": f"{metrics['final_loss']:.3f}",
        "method": _plain(job["method"]),
    }


def _data(profile: Profile, stages: Sequence[Stage], origins: dict[str, list[dict[str, str | None]]]) -> str:
    rows = []
    for job, _ in stages:
        name, sha256 = job["corpus"]["name"], f"`{_plain(job['corpus']['sha256'][:16])}`"
        if name == BASE_TEXT:
            rows.append({"corpus": name, "sha256": sha256, "made of": "the miniature's text", "licence": "Apache-2.0"})
        for origin in origins.get(name, []):
            made_of = f"{origin['data']} ({origin['source']}{': ' + origin['id'] if origin['id'] else ''})"
            row = {"corpus": _plain(name), "sha256": sha256, "made of": _plain(made_of)}
            rows.append(row | {"licence": _plain(str(origin["licence"]))})
    return _table(pd.DataFrame(rows)) + "\n\nsha256: of the corpus's file, its first 16 digits."


def _settings(stages: Sequence[Stage]) -> str:
    rows: dict[str, dict[str, str]] = {}
    for job, done in stages:
        given = job["training_arguments"]
        chosen = {key: given.get(key) for key in SETTINGS}
        chosen = {key: value for key, value in chosen.items() if (key, value) != ("max_steps", -1)}
        chosen |= {key: job[key] for key in ("seed", "max_length", "loss", "packing")} | (job.get("lora") or {})
        batch = given["per_device_train_batch_size"] * given["gradient_accumulation_steps"]
        chosen["sequences an update"] = batch * done["metrics"]["world_size"]
        for key, value in chosen.items():
            row = rows.setdefault(key if key.isidentifier() else _plain(key), {})
            row[_plain(job["corpus"]["name"])] = _plain(str(value))
    table = pd.DataFrame(rows).T.fillna("").rename_axis("setting").reset_index()
    stage = stages[-1][0]["deepspeed"].get("zero_optimization", {}).get("stage", 0)
    return (
        _table(table) + f"\n\nNames as of `transformers.TrainingArguments`. DeepSpeed, ZeRO stage {_plain(str(stage))}."
    )


def _scores(run: Run, names: Sequence[str], seed: int) -> str:
    """Every accuracy of the systems that end in this model, with its interval."""
    files = [run.results / name for name in ("intervals.csv", "ablation_intervals.csv")]
    there = [read_table(path) for path in files if path.is_file()]
    if not there:
        return "Not evaluated yet: notebook 04 writes them here."
    found = pd.concat(there).query("system in @names and seed == @seed")
    found = found.drop_duplicates(["system", "benchmark", "measure"])
    if found.empty:
        return "No system of this run answers questions with this model: it is a stage on the way."
    columns: dict[str, dict[str, str]] = {}
    for (name, benchmark), rows in found.groupby(["system", "benchmark"], sort=False):
        title = BENCHMARKS[str(benchmark)][1] + (f", {_plain(str(name))}" if found["system"].nunique() > 1 else "")
        cells = zip(rows["measure"], rows["estimate"], rows["low"], rows["high"], strict=True)
        columns[title] = {HEADINGS.get(measure, _plain(measure)): with_interval(*bounds) for measure, *bounds in cells}
    table = pd.DataFrame(columns).fillna("").rename_axis("language").reset_index()
    scorer = _plain(str(runs.read_json(run.results / "run.json")["scorer"]))
    words = f"Accuracy in percent with its 95% interval, {scorer} scorer; one training run, so what another seed would"
    return f"{_table(table)}\n\n{words} change is not in the intervals. Gap: English minus the mean of the others."


def _licence(profile: Profile) -> str:
    name = licence_of(profile.model.base)
    if name is None:
        return f"That of {_base(profile)}, which is not known here, and those of the data above."
    said = f"The base model is under `{name}`, and what is trained from it is bound to that; the data's are above."
    if name.startswith("llama"):
        said += (
            " Meta's community licence asks who passes the model on to enclose a copy of it and its notice, and to keep"
            " to the acceptable use policy; from LLaMA 3 on, also to say *Built with Llama* and to begin the model's"
            " name with Llama."
        )
    return said


def _versions(done: dict[str, Any]) -> str:
    said = _plain(", ".join(f"{name} {version}" for name, version in done["versions"].items()))
    return said + (f"; commit {_plain(done['git_commit'])}" if done.get("git_commit") else "") + "."


def _table(rows: pd.DataFrame) -> str:
    return rows.astype(str).to_markdown(index=False, disable_numparse=True)
