"""A tiny model, tokenizer and corpus made on the spot, and jobs that train on them, for tests of training."""

from __future__ import annotations

import json
import os
import random
import socket
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

ROOT = Path(__file__).resolve().parents[1]
PARAMS = ROOT / "params" / "deepspeed"
ENVIRONMENT = os.environ | {"DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
ENVIRONMENT |= {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}


def make_corpus(path: Path, rows: int = 96) -> Path:
    """Sums in words of varied length; the fifth row's prompt is too long to leave a target."""
    dice = random.Random(7)
    with path.open("w", encoding="utf-8") as stream:
        for index in range(rows):
            numbers = [dice.randint(0, 9) for _ in range(dice.randint(2, 6) if index != 4 else 300)]
            row = {
                "id": str(index),
                "instruction": " plus ".join(map(str, numbers)),
                "output": f" {sum(numbers)} it is",
            }
            stream.write(json.dumps(row) + "\n")
    return path


# How GPT-4's and then LLaMA-3's and Qwen's tokenizers cut a text: one character that is no letter may lead a word.
CUTS = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


def byte_level(folder: Path, texts: list[str], bos: str | None, eos: str, *others: str, **settings: str) -> int:
    """A byte-level tokenizer of LLaMA-3's and Qwen's kind: special tokens behind the others; returns its length."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(CUTS), "isolated"), pre_tokenizers.ByteLevel(False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=420, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_special_tokens([token for token in (bos, eos, *others) if token])
    if bos:
        place = (bos, tokenizer.token_to_id(bos))
        tokenizer.post_processor = processors.TemplateProcessing(single=f"{bos} $A", special_tokens=[place])
        settings["bos_token"] = bos
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=eos, **settings).save_pretrained(folder)
    return tokenizer.get_vocab_size()


def make_base(folder: Path, tied: bool = False) -> Path:
    """A LLaMA of 2 layers and width 32 with a byte-level tokenizer that has BOS and EOS but no pad token."""
    from qalign_core.prompts import alpaca

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<unk>", "<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([alpaca("7 plus 8"), " 15 it is"], trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    names = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names).save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=tied,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def make_job(
    folder: Path, base: Path, corpus: Path, zero: int | str = 0, sha256: str | None = None, **changes: Any
) -> Path:
    """Write `folder/job.json`; `changes` go to the job, or to its training arguments where they are such.

    Defaults: 20 updates of 8 sequences in micro-batches of 2, the authors' recipe scaled down.
    """
    arguments = {"max_steps": 20, "per_device_train_batch_size": 2, "gradient_accumulation_steps": 4}
    arguments |= {"learning_rate": 2e-3, "lr_scheduler_type": "cosine", "warmup_steps": 0.1, "weight_decay": 0.01}
    arguments |= {"max_grad_norm": 1.0, "logging_steps": 1, "save_steps": 1000}
    job = {"kind": "train", "fingerprint": folder.name, "lineage": ["sums"], "seed": 5, "max_length": 128}
    job |= {"model": {"path": str(base), "revision": None}, "loss": "paper", "packing": True, "method": "full"}
    job |= {"corpus": {"name": "sums", "path": str(corpus), "sha256": sha256, "rows": 96}, "pad_token": "<pad>"}
    job |= {key: value for key, value in changes.items() if key in job}
    job["training_arguments"] = arguments | {key: value for key, value in changes.items() if key not in job}
    job["deepspeed"] = json.loads((PARAMS / f"zero{zero}.json").read_text(encoding="utf-8"))
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "job.json").write_text(json.dumps(job), encoding="utf-8")
    return folder / "job.json"


def progress(job: Path) -> list[dict[str, Any]]:
    """The lines of the job's progress.jsonl that carry a loss."""
    with job.with_name("progress.jsonl").open(encoding="utf-8") as stream:
        return [row for row in map(json.loads, stream) if "loss" in row]


def losses(job: Path) -> list[float]:
    """The job's loss curve, one value an update."""
    return [row["loss"] for row in progress(job)]


def run_jobs(jobs: Iterable[Path], ranks: int = 1) -> None:
    """Run jobs one after the other, in one process per rank; several ranks are started by DeepSpeed's launcher."""
    command = [sys.executable]
    if ranks > 1:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = str(probe.getsockname()[1])
        command += ["-m", "deepspeed.launcher.runner", "--num_gpus", str(ranks), "--master_port", port]
    command += [__file__, *map(str, jobs)]
    finished = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=600, check=False)
    assert finished.returncode == 0, finished.stdout[-3000:] + finished.stderr[-3000:]


def main(jobs: list[str]) -> None:
    """Run several jobs one after the other in this process; what an error says goes to `error.txt` beside the job."""
    from accelerate.state import AcceleratorState

    from qalign_core import train

    for job in jobs:
        try:
            train.main([job])
        except Exception as error:
            Path(job).with_name("error.txt").write_text(f"{type(error).__name__}: {error}", encoding="utf-8")
        AcceleratorState._reset_state(True)
    train.leave_together()


if __name__ == "__main__":
    main([argument for argument in sys.argv[1:] if not argument.startswith("--local_rank")])
