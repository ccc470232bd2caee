"""A model folder: loaded, given a pad token, and saved again as a plain `transformers` folder with safetensors."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from qalign_core import runs
from qalign_core.generation import chat
from qalign_core.training.lora import is_adapter, merged_state, plain_name

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def load_tokenizer(path: str, revision: str | None = None) -> PreTrainedTokenizerBase:
    """The fast tokenizer of a model folder or hub id; no code of the model's own is run."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(path, revision=revision, use_fast=True, trust_remote_code=False)
    tokenizer.padding_side = "right"  # as the authors trained; generation pads on the left by itself
    return tokenizer


def load_model(
    path: str, revision: str | None = None, attention: str = "sdpa", dtype: torch.dtype = torch.float32
) -> PreTrainedModel:
    """A causal language model, from safetensors only; in fp32 unless another `dtype` is asked for.

    Under ZeRO-3 (once `TrainingArguments` exist) every rank keeps only its part of the weights.

    Raises:
        FileNotFoundError: when the folder has no safetensors, such as one of pickles.
    """
    from transformers import AutoModelForCausalLM

    if os.path.isdir(path) and not any(Path(path).glob("model*.safetensors")):
        found = sorted(file.name for file in Path(path).glob("*.bin")) or "no weights"
        raise FileNotFoundError(
            f"{path}: no model*.safetensors (found {found}); pickles are refused since loading them can run code: "
            "save the model with save_pretrained(folder), which writes safetensors"
        )
    return AutoModelForCausalLM.from_pretrained(
        path,
        revision=revision,
        dtype=dtype,
        use_safetensors=True,
        trust_remote_code=False,
        attn_implementation=attention,
    )


def add_pad_token(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, pad_token: str = "<pad>") -> int:
    """Give the tokenizer a pad token if it has none, and the model an embedding row for every token.

    New rows are the mean of the old ones, in the input and (tied or not) the output embeddings. Under ZeRO-3 the rows
    are gathered first; the authors' assignment there touched an empty shard.

    Returns:
        The number of rows added.

    Source: NJUNLP/QAlign finetune.py:44-66 (smart_tokenizer_and_embedding_resize).
    """
    from deepspeed.runtime.zero import GatheredParameters
    from transformers.integrations import is_deepspeed_zero3_enabled

    if tokenizer.pad_token is None:
        tokenizer.add_special_tokens({"pad_token": pad_token})
    model.config.pad_token_id = tokenizer.pad_token_id
    partitioned = is_deepspeed_zero3_enabled()

    def weights() -> list[torch.nn.Parameter]:
        layers = (model.get_input_embeddings(), model.get_output_embeddings())
        return list({id(layer.weight): layer.weight for layer in layers if layer is not None}.values())  # tied: one

    with GatheredParameters(weights(), modifier_rank=None, enabled=partitioned):
        old_rows = weights()[0].shape[0]
    added = max(0, len(tokenizer) - old_rows)
    if added:
        model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
        with GatheredParameters(weights(), modifier_rank=0, enabled=partitioned), torch.no_grad():
            for weight in weights():  # (old_rows + added, H)
                weight[old_rows:] = weight[:old_rows].float().mean(dim=0).to(weight.dtype)
    return added


def restore_master_weights(model: PreTrainedModel, path: str, revision: str | None = None) -> None:
    """Give DeepSpeed's fp32 master copy the weights of the file themselves.

    Under bf16 DeepSpeed makes the master copy from weights already rounded to bf16, so that a stage would not start
    from the weights the stage before ended with. Every rank calls this, once the engine exists.

    Args:
        model: the model inside the engine, loaded from `path` and perhaps given rows by `add_pad_token`. Frozen
            weights and LoRA's matrices have nothing to restore.
        path: model folder or hub id.
        revision: of the hub id.

    Raises:
        RuntimeError: when a parameter has no weights in the files.
    """
    from deepspeed.utils import safe_set_full_fp32_param

    trained = {plain_name(n): p for n, p in model.named_parameters() if p.requires_grad and not is_adapter(n)}
    for name, value in file_weights(path, revision, {name: whole_shape(p) for name, p in trained.items()}):
        safe_set_full_fp32_param(trained[name], value)


def whole_shape(parameter: torch.nn.Parameter) -> torch.Size:
    """A parameter's shape, also where ZeRO-3 has left only a part of it."""
    return getattr(parameter, "ds_shape", parameter.shape)


def file_weights(
    path: str, revision: str | None, shapes: Mapping[str, torch.Size]
) -> Iterator[tuple[str, torch.Tensor]]:
    """The weights in a model's files, in fp32, one after the other; rows that the files lack are the others' mean.

    Args:
        path: model folder or hub id.
        revision: of the hub id.
        shapes: the parameters that are wanted, and the shapes they have in the model.

    Raises:
        RuntimeError: when a parameter has no weights in the files.
    """
    from safetensors import safe_open

    missing = set(shapes)
    for file in weight_files(path, revision):
        with safe_open(file, framework="pt") as weights:
            for name in sorted(missing & set(weights.keys())):
                value = weights.get_tensor(name).float()
                if value.shape != shapes[name]:  # rows added by add_pad_token
                    mean = value.mean(dim=0, keepdim=True)
                    value = torch.cat([value, mean.expand(shapes[name][0] - value.shape[0], -1)])
                missing.remove(name)
                yield name, value
    if missing:
        raise RuntimeError(
            f"{path}: its files have no weights named {', '.join(sorted(missing)[:3])}, which the model has: load it "
            "with AutoModelForCausalLM, save it with save_pretrained into a folder, and name that folder"
        )


def weight_files(path: str, revision: str | None = None) -> list[Path]:
    """The safetensors files of a model folder or hub id (in the cache already, once the model was loaded)."""
    from huggingface_hub import snapshot_download

    pattern = "model*.safetensors"
    folder = path if os.path.isdir(path) else snapshot_download(path, revision=revision, allow_patterns=[pattern])
    return sorted(Path(folder).glob(pattern))


def full_state_dict(model: PreTrainedModel, keep: bool) -> dict[str, torch.Tensor]:
    """Every parameter that was trained, whole, in fp32, on the CPU: DeepSpeed's master copy where the model is in bf16.

    Args:
        model: a model inside (or outside) a DeepSpeed engine. Every rank must call this at the same time.
        keep: whether this rank wants the tensors; the others return an empty dict.
    """
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


def merged(
    adapted: PeftModel, trained: dict[str, torch.Tensor], path: str, revision: str | None = None
) -> tuple[PreTrainedModel, dict[str, torch.Tensor]]:
    """The model that LoRA's matrices were put into, and its weights with them added, in fp32.

    Args:
        adapted: of `lora.add_adapters`, trained.
        trained: of `full_state_dict`.
        path: model folder or hub id the base was loaded from.
        revision: of the hub id.
    """
    base = adapted.get_base_model()
    shapes = {plain_name(n): whole_shape(p) for n, p in base.named_parameters() if not is_adapter(n)}
    config = adapted.peft_config[adapted.active_adapter]
    return base, merged_state(file_weights(path, revision, shapes), trained, config.lora_alpha / config.r)


def save_model(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    folder: Path,
    state: dict[str, torch.Tensor],
    template: str = "alpaca",
) -> Path:
    """Save a model folder that `AutoModelForCausalLM.from_pretrained` loads: whole, or not there at all.

    Greedy decoding with EOS and pad is written into its generation config.

    Args:
        model: gives the class and the config.
        tokenizer: saved beside the weights.
        folder: replaced if it exists.
        state: the weights, from `full_state_dict`.
        template: of the prompts it was trained on; with `chat`, the end of a turn is the EOS of its generation.
    """
    from transformers import GenerationConfig

    model.generation_config = GenerationConfig(
        do_sample=False,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=chat.turn(tokenizer).end_id if template == chat.TEMPLATE else tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    part = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    model.save_pretrained(part, state_dict=state)
    # The weights are fp32 whatever the model computed in; `transformers` writes the latter, and would load them so.
    config = runs.read_json(part / "config.json")
    runs.write_json(part / "config.json", config | {"dtype": "float32"})
    tokenizer.save_pretrained(part)
    if folder.exists():
        shutil.rmtree(folder)
    part.rename(folder)
    return folder
