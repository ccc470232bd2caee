"""A model folder: loaded, given a pad token, and saved again as a plain `transformers` folder with safetensors."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from qalign_core import runs

if TYPE_CHECKING:
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
        model: the model inside the engine, loaded from `path` and perhaps given rows by `add_pad_token`.
        path: model folder or hub id.
        revision: of the hub id.

    Raises:
        RuntimeError: when a parameter has no weights in the files.
    """
    from deepspeed.utils import safe_set_full_fp32_param
    from safetensors import safe_open

    parameters = dict(model.named_parameters())
    for file in weight_files(path, revision):
        with safe_open(file, framework="pt") as weights:
            for name in parameters.keys() & set(weights.keys()):
                parameter, value = parameters.pop(name), weights.get_tensor(name).float()
                shape = getattr(parameter, "ds_shape", parameter.shape)
                if value.shape != shape:  # rows added by add_pad_token
                    mean = value.mean(dim=0, keepdim=True)
                    value = torch.cat([value, mean.expand(shape[0] - value.shape[0], -1)])
                safe_set_full_fp32_param(parameter, value)
    if parameters:
        raise RuntimeError(f"{path}: no weights in fp32 for {', '.join(sorted(parameters)[:3])}; train without bf16")


def weight_files(path: str, revision: str | None = None) -> list[Path]:
    """The safetensors files of a model folder or hub id (in the cache already, once the model was loaded)."""
    from huggingface_hub import snapshot_download

    pattern = "model*.safetensors"
    folder = path if os.path.isdir(path) else snapshot_download(path, revision=revision, allow_patterns=[pattern])
    return sorted(Path(folder).glob(pattern))


def full_state_dict(model: PreTrainedModel, keep: bool) -> dict[str, torch.Tensor]:
    """Every parameter whole, in fp32, on the CPU: DeepSpeed's master copy where the model itself is in bf16.

    Args:
        model: a model inside (or outside) a DeepSpeed engine. Every rank must call this at the same time.
        keep: whether this rank wants the tensors; the others return an empty dict.
    """
    from deepspeed.utils import safe_get_full_fp32_param

    state = {}
    for name, parameter in model.named_parameters():
        whole = safe_get_full_fp32_param(parameter)
        whole = parameter.detach() if whole is None else whole.detach()
        if keep:
            state[name] = whole.to(device="cpu", dtype=torch.float32, copy=True)
    return state


def save_model(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path, state: dict[str, torch.Tensor]
) -> Path:
    """Save a model folder that `AutoModelForCausalLM.from_pretrained` loads: whole, or not there at all.

    Greedy decoding with EOS and pad is written into its generation config.

    Args:
        model: gives the class and the config.
        tokenizer: saved beside the weights.
        folder: replaced if it exists.
        state: the weights, from `full_state_dict`.
    """
    from transformers import GenerationConfig

    model.generation_config = GenerationConfig(
        do_sample=False,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
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
