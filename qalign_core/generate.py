"""Entry point of generation: answer every question of a job greedily, one rank a device.

    deepspeed --module qalign_core.generate job.json

Every answer is appended to `generated/rank-<n>.jsonl` beside the job as soon as it ends, under a key made of the
model's fingerprint, the prompt and the decoding settings. A run that was killed goes on from there, with any number of
ranks, and an answer under another key is never used. Ranks share nothing but this folder: each decodes its share, and
rank 0 waits until every key is there and then writes `<task>/<language>.jsonl` and, last, `done.json`.
"""

from __future__ import annotations

import argparse
import resource
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, PreTrainedTokenizerBase
from transformers.utils import logging

from qalign_core import runs
from qalign_core.generation import chat
from qalign_core.generation.answers import Answers, Heartbeat
from qalign_core.generation.batch_size import choose_batch_tokens
from qalign_core.generation.decoding import GreedyDecoder, Sequence
from qalign_core.generation.questions import (
    Question,
    Rank,
    load_tokenizer,
    model_source,
    read_job,
    read_questions,
    share,
)
from qalign_core.training import ranks
from qalign_core.training.model_folder import load_model
from qalign_core.training.packed_linear import pack_linear_layers

# How long rank 0 waits for answers when no other rank is alive, and for ranks to end when all answers are there.
GRACE_SECONDS = 60.0


def generate(job_path: Path) -> None:
    """Answer the questions of a job and write its predictions; what is already answered is kept.

    Raises:
        FileNotFoundError: for an absent job, prompt file, model or tokenizer.
        ValueError: for a job, prompt file, tokenizer or model that cannot be used; see `generation.questions`.
        RuntimeError: when another process works on the same job, or another rank died.
    """
    begun = time.monotonic()
    if is_complete(job_path):
        print(f"{job_path}: already done")
        return
    job, root, rank = read_job(job_path), runs.run_root(job_path), Rank()
    folder = job_path.parent

    # ---- what to ask
    source, revision = model_source(job, root)
    tokenizer = load_tokenizer(source, revision)
    config = AutoConfig.from_pretrained(source, revision=revision, trust_remote_code=False)
    questions = read_questions(job, root, tokenizer, config)
    answers = Answers(folder / "generated", rank.rank)

    with answers.open():
        answers.refresh()
        heartbeat = Heartbeat(folder / "progress.jsonl", [q.key for q in questions], answers, active=rank.rank == 0)

        # ---- this rank's share
        notes: list[str] = []
        mine = [q for q in share(questions, rank.rank, rank.world_size) if q.key not in answers.rows]
        if mine:
            heartbeat.beat("loading")
            decoder = load_decoder(job, source, revision, tokenizer, rank, notes)
            heartbeat.start()
            for rows in decode(decoder, tokenizer, mine):
                if rows:
                    answers.append(rows)
                heartbeat.beat("generating", decoder.new_tokens)
        runs.write_json(answers.summary(rank.rank), {"peak_memory_bytes": peak_memory(), "notes": notes})

        # ---- everyone's answers, in the original order
        if rank.rank == 0:
            wait_for_ranks(answers, {q.key for q in questions}, rank, heartbeat)
            rates = heartbeat.rates()
            heartbeat.beat("writing")
            files = write_predictions(folder, job, questions, answers)
            metrics = measure(questions, answers, rank) | rates
            write_done(job_path, job, answers, rank, metrics, files, time.monotonic() - begun)


def load_decoder(
    job: dict[str, Any],
    source: str,
    revision: str | None,
    tokenizer: PreTrainedTokenizerBase,
    rank: Rank,
    notes: list[str],
) -> GreedyDecoder:
    """The job's model on this rank's device, ready to decode.

    The tokenizer's EOS is the only stop, or the end of a turn where the prompts are a chat template's. Padding is never
    attended to, so a tokenizer without pad token, or with one the model has no embedding for, pads with EOS: the
    answers are the same.

    Raises:
        ValueError: when the model has no embedding for EOS.
    """
    model = load_model(source, revision, dtype=getattr(torch, job["dtype"]))
    eos, pad, rows = tokenizer.eos_token_id, tokenizer.pad_token_id, model.get_input_embeddings().num_embeddings
    if job.get("template") == chat.TEMPLATE:
        eos = chat.turn(tokenizer).end_id
    if eos >= rows:
        raise ValueError(f"{source}: EOS is token {eos}, but the model has only {rows} embeddings: not its tokenizer")

    def note(sentence: str) -> None:
        notes.append(sentence)
        print(sentence, flush=True)

    model = model.to(rank.device()).eval()
    pack_linear_layers(model)  # in fp32 on a CPU; nothing elsewhere
    batch_tokens, remark = choose_batch_tokens(job["batch_tokens"], model, rank.local_size)
    if remark:
        note(remark)
    return GreedyDecoder(
        model,
        eos_token_id=eos,
        filler_token_id=pad if pad is not None and pad < rows else eos,
        batch_tokens=batch_tokens,
        note=note,
    )


def decode(
    decoder: GreedyDecoder, tokenizer: PreTrainedTokenizerBase, questions: list[Question]
) -> Iterator[list[dict[str, Any]]]:
    """Decode questions; yield after every step the answers that ended in it."""
    for finished in decoder.decode([Sequence(q.key, q.input_ids, q.max_new_tokens) for q in questions]):
        yield [
            {
                "key": sequence.key,
                "response": tokenizer.decode(sequence.output_ids, skip_special_tokens=True),
                "finish_reason": sequence.finish_reason,
                "new_tokens": len(sequence.output_ids),
            }
            for sequence in finished
        ]


def wait_for_ranks(answers: Answers, wanted: set[str], rank: Rank, heartbeat: Heartbeat) -> None:
    """Return when every answer is on disk and the other ranks have ended.

    Raises:
        RuntimeError: when answers are missing and no other rank is alive to give them.
    """
    quiet_since = time.monotonic()
    while True:
        alive = any(answers.is_open(other) for other in range(1, rank.world_size))
        answers.refresh()
        missing = wanted - answers.rows.keys()
        if not missing and not alive:
            return
        if missing and alive:
            quiet_since = time.monotonic()
        elif time.monotonic() - quiet_since > GRACE_SECONDS:
            if not missing:
                return
            raise RuntimeError(
                f"{len(missing)} of {len(wanted)} answers are missing and no other rank is alive: one of the "
                f"{rank.world_size} ranks died. Its reason is further up in the log; start again to go on"
            )
        heartbeat.beat("generating")
        time.sleep(0.1)


def write_predictions(folder: Path, job: dict[str, Any], questions: list[Question], answers: Answers) -> dict[str, str]:
    """Write one file a task and language, in index order; return the sha256 of each by its path in `folder`."""
    files = {}
    for task in job["tasks"]:
        name = f"{task['name']}/{task['language']}.jsonl"
        mine = [q for q in questions if (q.task, q.language) == (task["name"], task["language"])]
        rows = [
            {
                "index": q.index,
                "question": q.question,
                "prompt": q.prompt,
                "response": answers.rows[q.key]["response"],
                "finish_reason": answers.rows[q.key]["finish_reason"],
            }
            for q in sorted(mine, key=lambda q: q.index)
        ]
        files[name] = runs.sha256_file(runs.write_json_lines(folder / name, rows))
    return files


def measure(questions: list[Question], answers: Answers, rank: Rank) -> dict[str, Any]:
    """What the answers of the whole job amount to, whenever they were generated."""
    rows = [answers.rows[question.key] for question in questions]
    return {
        "questions": len(questions),
        "new_tokens": sum(row["new_tokens"] for row in rows),
        "finish_reasons": dict(sorted(Counter(row["finish_reason"] for row in rows).items())),
        "ranks": rank.world_size,
    }


def write_done(
    job_path: Path,
    job: dict[str, Any],
    answers: Answers,
    rank: Rank,
    metrics: dict[str, Any],
    files: dict[str, str],
    wall_seconds: float,
) -> None:
    """Write `done.json`, after which the job is not run again."""
    paths = [answers.summary(number) for number in range(rank.world_size)]
    summaries = [runs.read_json(path) for path in paths if path.is_file()]
    done = {
        "fingerprint": job["fingerprint"],
        "metrics": metrics,
        "notes": [note for summary in summaries for note in summary["notes"]],
        "files": files,
        "versions": runs.versions(),
        "hardware": runs.hardware(),
        "git_commit": runs.git_commit(),
        "wall_seconds": round(wall_seconds, 3),
        "peak_memory_bytes": max(summary["peak_memory_bytes"] for summary in summaries),
    }
    runs.write_json(job_path.with_name("done.json"), done)


def is_complete(job_path: Path) -> bool:
    """Whether the job is done and every file of it is as it was written."""
    if not runs.is_done(job_path):
        return False
    files = runs.read_json(job_path.with_name("done.json"))["files"]
    paths = {job_path.parent / name: sha256 for name, sha256 in files.items()}
    return all(path.is_file() and runs.sha256_file(path) == sha256 for path, sha256 in paths.items())


def peak_memory() -> int:
    """Most memory this rank has used so far, in bytes: of its accelerator if it has one, else of the process."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def main() -> None:
    """Read the command line: one job, and the rank argument that DeepSpeed's launcher adds."""
    parser = argparse.ArgumentParser(description="Answer the questions of a generation job greedily.")
    parser.add_argument("job", type=Path, help="path of job.json")
    parser.add_argument("--local_rank", type=int, help="given by the launcher, which also sets LOCAL_RANK")
    arguments = parser.parse_args()
    ranks.begin(arguments.job.absolute().parent)
    logging.disable_progress_bar()
    try:
        generate(arguments.job.absolute())
    except (FileNotFoundError, ValueError) as error:
        sys.exit(f"{type(error).__name__}: {error}")


if __name__ == "__main__":
    main()
