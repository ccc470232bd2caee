"""Models: loaded, given a pad token or LoRA's matrices, saved; what identifies one; the card of a trained one."""

from __future__ import annotations

import hashlib
import html
import os
import re
import shutil
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qalign_core import hub, prompts, runs
from qalign_core.languages import CODES
from qalign_core.runs import Run

if TYPE_CHECKING:  # what is needed only here and there is imported there: a job starts in less time
    import pandas as pd
    import torch
    from peft import PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from qalign_core.params import Profile

LARGE_FILE = 64 * 2**20  # bytes; a larger file of a model is identified by its size and samples of its bytes
SAMPLE_EVERY, SAMPLE = 8 * 2**20, 64 * 2**10  # bytes; smaller than any weight matrix of such a model
TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "tokenizer_config.json")

# ------------------------------------------------------------------------------------------------- load, restore


def load_tokenizer(path: str, revision: str | None = None) -> PreTrainedTokenizerBase:
    """The fast tokenizer of a model folder or hub id; no code of the model's own is run. An OSError says why there is
    none."""
    from transformers import AutoTokenizer

    if os.path.isdir(path) and not any(Path(path, name).is_file() for name in TOKENIZER_FILES):
        absent = ", ".join(TOKENIZER_FILES)
        raise FileNotFoundError(f"{path}: no tokenizer beside the model (none of {absent}); save it into that folder")
    try:
        tokenizer = AutoTokenizer.from_pretrained(path, revision=revision, use_fast=True, trust_remote_code=False)
    except OSError as error:  # which does not always name the model
        raise hub.DownloadError(hub.unreadable_model(path, revision, error)) from None
    tokenizer.padding_side = "right"  # as the authors trained; generation pads on the left by itself
    return tokenizer


def load_model(
    path: str, revision: str | None = None, attention: str = "sdpa", dtype: torch.dtype | str = "float32"
) -> PreTrainedModel:
    """A causal language model, from safetensors only; in fp32 unless another `dtype` is asked for.

    Under ZeRO-3 (once `TrainingArguments` exist) every rank keeps only its part of the weights.
    """
    from transformers import AutoModelForCausalLM

    if os.path.isdir(path) and not any(Path(path).glob("model*.safetensors")):
        found = sorted(file.name for file in Path(path).glob("*.bin")) or "no weights"
        why = "pickles are refused since loading them can run code: save_pretrained(folder) writes safetensors"
        raise FileNotFoundError(f"{path}: no model*.safetensors (found {found}); {why}")
    how = {"dtype": dtype, "attn_implementation": attention, "use_safetensors": True, "trust_remote_code": False}
    return AutoModelForCausalLM.from_pretrained(path, revision=revision, **how)


def add_pad_token(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, pad_token: str = "<pad>") -> None:
    """Give the tokenizer a pad token if it has none, and the model an embedding row for every token.

    New rows are the mean of the old ones. Under ZeRO-3 they are gathered first; the authors assigned to an empty shard.

    Source: NJUNLP/QAlign finetune.py:44-66 (smart_tokenizer_and_embedding_resize).
    """
    import torch
    from deepspeed.runtime.zero import GatheredParameters
    from transformers.integrations import is_deepspeed_zero3_enabled

    if tokenizer.pad_token is None:
        tokenizer.add_special_tokens({"pad_token": pad_token})
    model.config.pad_token_id = tokenizer.pad_token_id
    partitioned = is_deepspeed_zero3_enabled()

    def weights() -> list[torch.nn.Parameter]:
        layers = (model.get_input_embeddings(), model.get_output_embeddings())
        return list({id(layer.weight): layer.weight for layer in layers if layer is not None}.values())  # tied: one

    old_rows = whole_shape(weights()[0])[0]
    if len(tokenizer) > old_rows:
        model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
        with GatheredParameters(weights(), modifier_rank=0, enabled=partitioned), torch.no_grad():
            for weight in weights():  # (rows, H)
                weight[old_rows:] = weight[:old_rows].float().mean(dim=0).to(weight.dtype)


def whole_shape(parameter: torch.nn.Parameter) -> torch.Size:
    """A parameter's shape, also where ZeRO-3 has left only a part of it."""
    return getattr(parameter, "ds_shape", parameter.shape)


def restore_master_weights(model: PreTrainedModel, path: str, revision: str | None = None) -> None:
    """Give DeepSpeed's fp32 master copy the weights of the model's files themselves; every rank calls this.

    Under bf16 DeepSpeed makes the master copy from weights already rounded to bf16, so that a stage would not start
    from the weights the stage before ended with. Frozen weights and LoRA's matrices have nothing to restore.
    """
    import torch
    from deepspeed.utils import safe_set_full_fp32_param, safe_set_local_fp32_param
    from huggingface_hub import snapshot_download
    from safetensors import safe_open

    named = [(n.removeprefix("base_model.model."), p) for n, p in model.named_parameters() if p.requires_grad]
    left, pattern = {name: p for name, p in named if ".lora_" not in name}, "model*.safetensors"
    folder = path if os.path.isdir(path) else snapshot_download(path, revision=revision, allow_patterns=[pattern])
    for file in sorted(Path(folder).glob(pattern)):
        with safe_open(file, framework="pt") as weights:
            for name in sorted(left.keys() & set(weights.keys())):
                parameter, value = left.pop(name), weights.get_tensor(name).float()
                if added := whole_shape(parameter)[0] - len(value):  # rows of `add_pad_token`
                    value = torch.cat([value, value.mean(dim=0, keepdim=True).expand(added, -1)])
                if hasattr(parameter, "ds_tensor"):  # ZeRO-3: each rank sets its part
                    # The last part is padded where the ranks do not divide the whole, which DeepSpeed's call for whole
                    # parameters overlooks.
                    size, rank = parameter.ds_tensor.numel(), torch.distributed.get_rank(parameter.ds_process_group)
                    part = value.flatten()[rank * size : (rank + 1) * size]
                    safe_set_local_fp32_param(parameter, torch.nn.functional.pad(part, (0, size - part.numel())))
                else:
                    safe_set_full_fp32_param(parameter, value)
    if left:
        absent = ", ".join(sorted(left)[:3])
        remedy = "load it with AutoModelForCausalLM, save it with save_pretrained into a folder, and name that folder"
        raise RuntimeError(f"{path}: its files have no weights named {absent}, which the model has: {remedy}")


def full_state_dict(model: PreTrainedModel, keep: bool) -> dict[str, torch.Tensor]:
    """Every parameter that was trained, whole, in fp32, on the CPU: DeepSpeed's master copy where the model is in bf16.

    Every rank must call this at the same time; one that does not `keep` the tensors returns an empty dict.
    """
    import torch
    from deepspeed.utils import safe_get_full_fp32_param

    state = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:  # LoRA's base: it is as it was in the files
            continue
        whole = safe_get_full_fp32_param(parameter)
        whole = parameter.detach() if whole is None else whole.detach()
        if keep:
            state[name] = whole.to(device="cpu", dtype=torch.float32, copy=True)
    return state


# ------------------------------------------------------------------------------------------------- LoRA, save


def add_adapters(model: PreTrainedModel, settings: Mapping[str, Any]) -> PeftModel:
    """Freeze a model and put small matrices to be trained beside the weights of its `target_modules`.

    The embeddings stay as they are, the row of an added pad token included, unless `embeddings` is true.

    Source: Hu et al., LoRA: Low-Rank Adaptation of Large Language Models (arXiv 2106.09685), section 4.1.
    """
    import torch
    from peft import LoraConfig, TaskType, get_peft_model

    head, wanted = model.get_output_embeddings(), list(settings["target_modules"])
    modules = model.named_modules()
    linear = {n.rpartition(".")[2] for n, m in modules if isinstance(m, torch.nn.Linear) and m is not head}
    if absent := sorted(set(wanted) - linear):
        named = f"{', '.join(absent)} {'is' if len(absent) == 1 else 'are'}"
        known = f"the model's linear layers, which are {', '.join(sorted(linear))}"
        raise ValueError(f"training.lora.target_modules: {named} not among {known}")
    rank, alpha, dropout = settings["rank"], settings["alpha"], settings["dropout"]
    config = LoraConfig(TaskType.CAUSAL_LM, r=rank, lora_alpha=alpha, lora_dropout=dropout, target_modules=wanted)
    adapted = get_peft_model(model, config)
    if settings["embeddings"]:
        for layer in (model.get_input_embeddings(), head):
            if layer is not None:
                layer.weight.requires_grad_(True)
    return adapted


def merged(
    adapted: PeftModel,
    trained: dict[str, torch.Tensor],
    tokenizer: PreTrainedTokenizerBase,
    path: str,
    revision: str | None = None,
) -> PreTrainedModel:
    """The plain model W + alpha/rank · B·A in fp32, with the W of the base's files and not what bf16 made of them.

    `adapted` is of `add_adapters`, `trained` of `full_state_dict`, and the tokenizer has the base's pad token.
    """
    from peft import get_peft_model
    from transformers.integrations.deepspeed import unset_hf_deepspeed_config

    unset_hf_deepspeed_config()  # this rank alone holds the whole model now
    base = load_model(path, revision)
    add_pad_token(base, tokenizer)
    whole = get_peft_model(base, adapted.peft_config[adapted.active_adapter])
    if stray := whole.load_state_dict(trained, strict=False).unexpected_keys:
        raise RuntimeError(f"nothing to merge {stray[0]} into: the base's files have no weight of that name")
    return whole.merge_and_unload()


def save_model(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    folder: Path,
    state: dict[str, torch.Tensor],
    template: str = "alpaca",
) -> Path:
    """Save a model folder that `AutoModelForCausalLM.from_pretrained` loads: whole, or not there at all.

    Greedy decoding with EOS (with template `chat`: the end of a turn) and pad is written into its generation config.
    `state` is of `full_state_dict`; empty for the model's own weights.
    """
    from transformers import GenerationConfig

    model.generation_config = GenerationConfig(
        do_sample=False,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=prompts.turn(tokenizer, template).end_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    part = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    model.save_pretrained(part, state_dict=state or None)
    # The weights are fp32 whatever the model computed in; `transformers` writes the latter, and would load them so.
    config = runs.read_json(part / "config.json")
    runs.write_json(part / "config.json", config | {"dtype": "float32"})
    tokenizer.save_pretrained(part)
    if folder.exists():
        shutil.rmtree(folder)
    part.rename(folder)
    return folder


# ------------------------------------------------------------------------------------------------- the base of a run


def pretrains(profile: Profile) -> bool:
    """Whether the run trains its own base model first."""
    return profile.model.base == "miniature" and profile.model.miniature.weights == "trained"


def hub_models(profile: Profile) -> list[tuple[str, str | None]]:
    """Models to be fetched or found in folders, with revisions: the base, if it is trained, and checkpoints."""
    found = [(e.checkpoint, e.revision) for e in profile.systems.values() if e.checkpoint is not None]
    if profile.lineages() and profile.model.base != "miniature":
        found.insert(0, (profile.model.base, profile.model.revision))
    return list(dict.fromkeys(found))


def starting_model(profile: Profile, run: Run, seed: int) -> dict[str, Any]:
    """The base model as a job names it, or the untrained one that it is trained from."""
    if profile.model.base != "miniature":
        return hub.pinned(profile.model.base, profile.model.revision)
    folder = run.stage(seed, []) / "untrained" if pretrains(profile) else run.model(seed, [])
    return {"path": run.relative(folder), "revision": None}


def write_base(profile: Profile, run: Run, seed: int) -> None:
    """Put the miniature's base model into the run folder, unless it is there."""
    folder = run.folder / starting_model(profile, run, seed)["path"]
    if profile.model.base != "miniature" or (folder / "config.json").is_file():
        return
    from qalign_core import miniature

    part = folder.with_name(f"{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    if profile.model.miniature.weights == "shipped":
        shutil.copytree(miniature.shipped_base(seed), part)
    else:
        miniature.create_base(part, seed=seed, config=profile.model.miniature.config() or None)
    part.rename(folder)


def base_tokenizer(profile: Profile, run: Run) -> PreTrainedTokenizerBase:
    """The tokenizer of the base model (of the first seed); a DownloadError when it cannot be read."""
    write_base(profile, run, profile.run.seeds[0])
    try:
        return load_tokenizer(*hub.located(starting_model(profile, run, profile.run.seeds[0]), run.folder))
    except OSError as error:
        raise hub.DownloadError(f"model.base: {error}") from None


def model_identity(model: dict[str, Any], root: Path) -> Any:
    """What identifies a model that was not trained here: a hub id and revision, or the content of a folder."""
    folder = Path(runs.resolve(model["path"], root))
    if not folder.is_dir():
        return model
    paths = sorted(p for p in folder.iterdir() if p.suffix in (".json", ".safetensors", ".model", ".jinja"))
    return {p.name: _sampled(p) if p.stat().st_size > LARGE_FILE else runs.sha256_file(p) for p in paths}


def _sampled(path: Path) -> str:
    size = path.stat().st_size
    digest = hashlib.sha256(str(size).encode())
    with path.open("rb") as stream:
        for offset in [*range(0, size - SAMPLE, SAMPLE_EVERY), size - SAMPLE]:
            stream.seek(offset)
            digest.update(stream.read(SAMPLE))
    return digest.hexdigest()


# ------------------------------------------------------------------------------------------------- the model card

CARD = Path(__file__).with_name("model_card.md")
# Licences of bases whose id says which it is, as the hub names them; of any other base the card leaves it blank.
LICENCES = {
    r"miniature": "apache-2.0",
    r"meta-llama/Llama-2-.*": "llama2",
    r"meta-llama/(Meta-)?Llama-3-.*": "llama3",
    r"meta-llama/(Meta-)?Llama-3\.1-.*": "llama3.1",
    r"meta-llama/Llama-3\.2-.*": "llama3.2",
    r"mistralai/Mistral-7B-(Instruct-)?v0\.[123]": "apache-2.0",
    r"Qwen/Qwen2\.5-(Math-)?(0\.5|1\.5|7|14|32)B(-Instruct)?": "apache-2.0",
}


def write_cards(profile: Profile, run: Run) -> list[Path]:
    """Write the card of every model that is finished, with the scores of the systems that end in it."""
    every = [(seed, lineage) for seed in profile.run.seeds for lineage in ([], *profile.lineages())]
    return [path for seed, lineage in every if (path := write_card(profile, run, seed, lineage))]


def write_card(profile: Profile, run: Run, seed: int, lineage: Sequence[str]) -> Path | None:
    """Write `README.md` into a finished model's folder; `done.json` does not list it, since scores come later.

    A card that cannot be written is a warning: the training it describes is finished all the same.
    """
    path = run.model(seed, lineage) / "README.md"
    if not (path.with_name("config.json").is_file() and (run.stage(seed, lineage) / "done.json").is_file()):
        return None
    try:
        text = card(profile, run, seed, lineage)
        if not (path.is_file() and path.read_text(encoding="utf-8") == text):
            runs.write_atomic(path, text)
    except (ArithmeticError, AttributeError, LookupError, OSError, TypeError, ValueError) as error:
        warnings.warn(f"{path}: this card could not be written ({error!r}); the model is whole", stacklevel=2)
        return None
    return path


def card(profile: Profile, run: Run, seed: int, lineage: Sequence[str]) -> str:
    """The text of a model's card: what it was made of and how, under which licences, and its scores once known."""
    import pandas as pd
    from huggingface_hub import ModelCard, ModelCardData

    stages, data, languages = {}, [], {"en"}
    for folder in (run.stage(seed, lineage[:length]) for length in range(len(lineage) + 1)):
        if not (folder / "done.json").is_file():  # a base that was not trained here
            continue
        job, done = runs.read_json(folder / "job.json"), runs.read_json(folder / "done.json")
        corpus, metrics, given = job["corpus"], done["metrics"], job["training_arguments"]
        batch = given["per_device_train_batch_size"] * given["gradient_accumulation_steps"] * metrics["world_size"]
        counts = {"examples": corpus["rows"], **{name: metrics[name] for name in ("updates", "target_tokens")}}
        stages[corpus["name"]] = {
            **{name: f"{count:,}" for name, count in counts.items()},
            **{name: f"{metrics[name]:.3f}" for name in ("train_loss", "final_loss")},
            **{name: job[name] for name in ("method", "seed", "max_length", "loss", "packing")},
            **(job.get("lora") or {}),
            **given,
            **{"effective batch size": batch, **done["versions"], "git commit": done.get("git_commit")},
        }
        for origin in data_origins(profile, corpus["name"]):
            data.append({"corpus": corpus["name"], "sha256, first 16": corpus["sha256"][:16], **origin})
        for path in (run.corpus(corpus["name"], seed), run.corpus(corpus["name"])):
            report = runs.read_json(path.with_suffix(".json"))["report"] if path.with_suffix(".json").is_file() else []
            languages |= {row["language"] for row in report}

    base, revision = hub.pinned(profile.model.base, profile.model.revision).values()
    licence = next((name for pattern, name in LICENCES.items() if re.fullmatch(pattern, base)), None)
    on_hub = bool(base != "miniature" and re.fullmatch(r"[\w.-]+/[\w.-]+", base) and not Path(base).exists())
    named = f"[{base}](https://huggingface.co/{base})" if on_hub else markdown_text(Path(base).name)
    named += f" at revision {markdown_text(revision)}" if revision else ""
    systems = [name for name, system in profile.systems.items() if system.lineage == list(lineage)]
    metadata = ModelCardData(
        language=[code for code in CODES if code in languages],
        license=licence,
        base_model=base if on_hub else None,
        datasets=sorted({row["hub id"] for row in data if row["hub id"]}) or None,
        library_name="transformers",
        pipeline_tag="text-generation",
        tags=["mathematical-reasoning", "multilingual", "qalign"],
    )
    terms = f"That of {named}, which is not known here, and those of the data above."
    if licence:
        terms = f"The base model is under `{licence}`, which binds what is trained from it; the data's are above."
    made = ModelCard.from_template(
        metadata,
        str(CARD),
        title=markdown_text(" / ".join(systems) or " → ".join(lineage) or "base"),
        profile=profile.run.profile,
        seed=seed,
        base=named,
        template=prompts.TEMPLATES[profile.model.template].about,
        data=_table(pd.DataFrame(data)),
        training=_table(pd.DataFrame(stages).fillna("").rename_axis("").reset_index()),
        scores=_scores(run, systems, seed),
        terms=terms,
        from_meta=(licence or "").startswith("llama"),
    )
    return str(made)


def data_origins(profile: Profile, corpus: str) -> list[dict[str, str]]:
    """The data sets a corpus is made of: `made of` (name and source), `hub id` (if it is from there), `licence`."""
    from qalign_core.corpora import data_sets_of
    from qalign_core.params import BASE_TEXT
    from qalign_core.sources import read_lock

    if corpus == BASE_TEXT:
        return [{"made of": "the miniature's text", "hub id": "", "licence": "Apache-2.0"}]
    lock, found = read_lock(), []
    for root in profile.data.roots(corpus):
        own_file = profile.data.choice(root).path is not None
        for name in [root] if own_file else data_sets_of(root, sft_data=profile.data.sft_data):
            source = "file" if own_file else profile.data.source(name)
            hub_id, licence = "", "your own file, licence not known here"
            if source == "miniature":
                licence = "Apache-2.0 (generated by the package)"
            elif source == "hub":
                hub_id, licence = lock.hub[name].repo_id, lock.hub[name].licence
            elif source == "repository":
                licence = lock.repository.data_sets[name].licence
            found.append({"made of": f"{name} ({source})", "hub id": hub_id, "licence": licence})
    return found


def _scores(run: Run, systems: Sequence[str], seed: int) -> str:
    """Every accuracy of the systems that end in this model, with its interval."""
    import pandas as pd

    paths = [run.results / name for name in ("intervals.csv", "ablation_intervals.csv")]
    there = [pd.read_csv(path, keep_default_na=False, na_values=[""]) for path in paths if path.is_file()]
    if not there:
        return "Not evaluated yet: notebook 04 writes them here."
    found = pd.concat(there).query("system in @systems and seed == @seed")
    if found.empty:
        return "No system of this run answers questions with this model: it is a stage on the way."
    columns = ["system", "benchmark", "measure", "estimate", "low", "high"]
    table = _table(found[columns].round(1).fillna(""))
    scorer = markdown_text(str(runs.read_json(run.results / "run.json")["scorer"]))
    return (
        f"{table}\n\nAccuracy in percent with its 95% interval, {scorer} scorer; one training run, so what another seed"
        " would change is not in the intervals. Gap: English minus the mean of the others."
    )


def _table(rows: pd.DataFrame) -> str:
    texts = rows.astype(str).map(markdown_text).rename(columns=markdown_text)
    return texts.to_markdown(index=False, disable_numparse=True)


def markdown_text(text: str) -> str:
    """Text that means itself in Markdown: no markup, link, image, formula or HTML."""
    return html.escape(re.sub(r"([\\`*_|\[\]#!$~@]|:(?=//)|(?<=www)\.)", r"\\\1", text), quote=False)
