"""The questions of a generation job: its `job.json` checked, its prompts read, tokenised and dealt out to ranks."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from qalign_core import runs
from qalign_core.data.downloads import unreadable_model
from qalign_core.generation import chat
from qalign_core.generation.answers import answer_key
from qalign_core.training import model_folder

DTYPES = ("float32", "bfloat16", "float16")
JOB_KEYS = ("fingerprint", "model", "model_fingerprint", "dtype", "batch_tokens", "tasks")
TASK_KEYS = ("name", "language", "path", "sha256", "max_new_tokens")
TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "tokenizer_config.json")


@dataclass(frozen=True)
class Question:
    """One question of one task, tokenised; `key` names its answer."""

    task: str
    language: str
    index: int
    question: str
    prompt: str
    max_new_tokens: int
    input_ids: list[int]
    key: str


@dataclass(frozen=True)
class Rank:
    """This process among its siblings, as DeepSpeed's launcher numbers them."""

    rank: int = field(default_factory=lambda: int(os.environ.get("RANK", 0)))
    world_size: int = field(default_factory=lambda: int(os.environ.get("WORLD_SIZE", 1)))
    local_rank: int = field(default_factory=lambda: int(os.environ.get("LOCAL_RANK", 0)))
    local_size: int = field(default_factory=lambda: int(os.environ.get("LOCAL_SIZE", os.environ.get("WORLD_SIZE", 1))))

    def device(self) -> torch.device:
        """This rank's accelerator; else the processor, an equal share of its cores unless OMP_NUM_THREADS is set."""
        if torch.cuda.is_available():
            torch.cuda.set_device(self.local_rank)
            return torch.device("cuda", self.local_rank)
        if not os.environ.get("OMP_NUM_THREADS"):
            cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
            torch.set_num_threads(max(1, cores // self.local_size))
        return torch.device("cpu")


# ------------------------------------------------------------------------------------------------- the job


def read_job(path: Path) -> dict[str, Any]:
    """Read and check `job.json`.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: for a missing key, an unknown dtype or an impossible number.
    """
    job = runs.read_json(path)
    if missing := [key for key in JOB_KEYS if key not in job]:
        raise ValueError(f"{path}: missing {', '.join(missing)}; a generation job has {', '.join(JOB_KEYS)}")
    if job["dtype"] not in DTYPES:
        raise ValueError(f"{path}: dtype {job['dtype']!r} is not one of {', '.join(DTYPES)}")
    tokens = job["batch_tokens"]
    if tokens != "auto" and (not isinstance(tokens, int) or tokens < 1):
        raise ValueError(f"{path}: batch_tokens must be a positive number of tokens or 'auto', not {tokens!r}")
    if not job["tasks"]:
        raise ValueError(f"{path}: no tasks; name at least one")
    for number, task in enumerate(job["tasks"]):
        if missing := [key for key in TASK_KEYS if key not in task]:
            raise ValueError(f"{path}: tasks[{number}]: missing {', '.join(missing)}")
        if not isinstance(task["max_new_tokens"], int) or task["max_new_tokens"] < 1:
            raise ValueError(f"{path}: tasks[{number}]: max_new_tokens must be at least 1")
    names = Counter((task["name"], task["language"]) for task in job["tasks"])
    if twice := [f"{name}/{language}" for (name, language), count in names.items() if count > 1]:
        raise ValueError(f"{path}: named twice among the tasks: {', '.join(twice)}")
    return job


def model_source(job: dict, root: Path) -> tuple[str, str | None]:
    """Folder or hub id, and revision."""
    path, revision = job["model"]["path"], job["model"].get("revision")
    source = runs.resolve(path, root)
    if not Path(source).is_dir() and revision is None and path.count("/") != 1:
        raise FileNotFoundError(f"model folder {root / path} does not exist; train that stage first")
    return source, revision


def load_tokenizer(source: str, revision: str | None) -> PreTrainedTokenizerBase:
    """Load a model's tokenizer, which must name an EOS token.

    Raises:
        FileNotFoundError: if the folder holds none, or there is no such folder or repository.
        ValueError: if it has no EOS token.
    """
    folder = Path(source)
    if folder.is_dir() and not any((folder / name).is_file() for name in TOKENIZER_FILES):
        raise FileNotFoundError(
            f"{folder}: no tokenizer beside the model (none of {', '.join(TOKENIZER_FILES)}); save it into that folder"
        )
    try:
        tokenizer = model_folder.load_tokenizer(source, revision)
    except OSError as error:  # which does not always name the model
        at = f" (revision {revision})" if revision else ""
        raise FileNotFoundError(
            f"checkpoint {source}{at} cannot be read: {unreadable_model(source, revision, error)}. Is its name right, "
            "is it a folder here or a repository of the hub, and may you read it (hf auth login)?"
        ) from None
    if tokenizer.eos_token_id is None:
        raise ValueError(f"{source}: the tokenizer has no EOS token, so no answer could end; set eos_token and save it")
    return tokenizer


def read_questions(job: dict, root: Path, tokenizer: PreTrainedTokenizerBase, config: Any) -> list[Question]:
    """Read and tokenise the prompts of all tasks.

    Raises:
        FileNotFoundError: for an absent prompt file.
        ValueError: for a file with another checksum, a row without its fields, an index given twice, or a prompt that
            leaves no room for its answer in the model's context; with task, language and index.
    """
    questions, chats = [], job.get("template") == chat.TEMPLATE
    limits = (getattr(config, "max_position_embeddings", None), getattr(config, "sliding_window", None))
    context = min((limit for limit in limits if limit), default=None)  # inside a sliding window attention is full
    for task in job["tasks"]:
        path = Path(runs.resolve(task["path"], root))
        if not path.is_file():
            raise FileNotFoundError(f"prompts of {task['name']}/{task['language']}: {root / path} does not exist")
        if runs.sha256_file(path) != task["sha256"]:
            raise ValueError(f"{path}: not the file the job was written for (sha256 differs); write the job again")
        rows = runs.read_json_lines(path)
        _check_rows(rows, path)
        if chats:  # the model's own template, which brings its own BOS
            rows = [{**row, "prompt": chat.prompt(tokenizer, row["prompt"])} for row in rows]
        tokens = tokenizer([row["prompt"] for row in rows], add_special_tokens=not chats)["input_ids"]
        for row, input_ids in zip(rows, tokens, strict=True):
            where = f"{task['name']}, language {task['language']}, index {row['index']}"
            if context is not None and len(input_ids) + task["max_new_tokens"] > context:
                raise ValueError(
                    f"{where}: the prompt has {len(input_ids)} tokens; with {task['max_new_tokens']} new tokens it "
                    f"does not fit into the model's context of {context}. Shorten it or lower max_new_tokens"
                )
            if not input_ids or max(input_ids) >= config.vocab_size:
                raise ValueError(f"{where}: the prompt is empty, or the tokenizer has tokens the model does not know")
            questions.append(
                Question(
                    task=task["name"],
                    language=task["language"],
                    index=row["index"],
                    question=row["question"],
                    prompt=row["prompt"],
                    max_new_tokens=task["max_new_tokens"],
                    input_ids=input_ids,
                    key=answer_key(job["model_fingerprint"], row["prompt"], task["max_new_tokens"], job["dtype"]),
                )
            )
    return questions


def _check_rows(rows: list[dict], path: Path) -> None:
    if not rows:
        raise ValueError(f"{path}: holds no prompts")
    seen = set()
    for number, row in enumerate(rows, start=1):
        if missing := {"index", "question", "prompt"} - set(row):
            raise ValueError(f"{path}: line {number}: missing {', '.join(sorted(missing))}")
        if row["index"] in seen:
            raise ValueError(f"{path}: line {number}: index {row['index']} occurs twice")
        seen.add(row["index"])


def share(questions: list[Question], rank: int, world_size: int) -> list[Question]:
    """The questions of one rank, one a key: dealt out by length, to and fro, so that every rank has equal work."""
    unique = {question.key: question for question in questions}
    dealt = sorted(unique.values(), key=lambda question: (-len(question.input_ids), question.key))
    mine = []
    for start in range(0, len(dealt), world_size):
        row = dealt[start : start + world_size]
        place = rank if (start // world_size) % 2 == 0 else world_size - 1 - rank
        mine += row[place : place + 1]
    return mine
