"""Entry point of generation: answer every question of a job greedily, one rank per device.

    deepspeed --module qalign_core.generate job.json [job.json ...]

An answer is appended to `generated/rank-<n>.jsonl` beside the job as soon as it ends, under a key made of the model's
fingerprint, the prompt and the decoding settings. So a killed run goes on from there with any number of ranks, and a
stale answer is never used. Ranks share nothing but this folder: each decodes its share, and rank 0 waits until every
key is there and then writes `<task>/<language>.jsonl` and, last, `done.json`.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from filelock import FileLock, Timeout
from transformers import AutoConfig, PreTrainedTokenizerBase
from transformers.utils import logging

from qalign_core import hub, prompts, runs
from qalign_core.decoding import GreedyDecoder, Sequence, choose_batch_tokens
from qalign_core.models import load_model, load_tokenizer
from qalign_core.train import jobs_from, peak_memory

GRACE_SECONDS = 60.0  # rank 0 waits so long for answers when no other rank is alive, and for ranks that have answered
PREDECESSOR_SECONDS = 30.0  # a rank waits so long for the end of an earlier process that still writes into its file
HEARTBEAT_SECONDS = 1.0


def generate(job_path: Path) -> None:
    """Answer the questions of a job and write its predictions; what is already answered is kept."""
    begun = time.monotonic()
    if runs.is_done(job_path):
        print(f"{job_path}: already done")
        return
    job, root, rank = runs.read_json(job_path), runs.run_root(job_path), Rank()

    # ---- what to ask
    source, revision = hub.located(job["model"], root)
    tokenizer = load_tokenizer(source, revision)
    config = AutoConfig.from_pretrained(source, revision=revision, trust_remote_code=False)
    questions = read_questions(job, root, tokenizer, config)
    answers = Answers(job_path.parent, rank.rank, [question.sequence.key for question in questions])

    with answers.open():
        # ---- this rank's share
        notes: list[str] = []
        mine = share([question.sequence for question in questions], rank.rank, rank.world_size)
        mine = [sequence for sequence in mine if sequence.key not in answers.rows]
        if mine:
            answers.beat("loading")
            decoder = load_decoder(job, source, revision, tokenizer, rank, notes)
            answers.start_clock()
            for finished in decoder.decode(mine):
                if finished:  # the sequences that ended in this step
                    answers.append(finished, tokenizer)
                answers.beat("generating")
        runs.write_json(answers.summary(rank.rank), {"peak_memory_bytes": peak_memory(), "notes": notes})

        # ---- everyone's answers, in the original order
        if rank.rank == 0:
            wait_for_ranks(answers, rank.world_size)
            rates = answers.rates()
            answers.beat("writing")
            files = write_predictions(job_path.parent, job, questions, answers)
            rows = [answers.rows[key] for key in answers.keys]
            summaries = [runs.read_json(path) for n in range(rank.world_size) if (path := answers.summary(n)).is_file()]
            metrics = {
                "questions": len(rows),
                "new_tokens": sum(row["new_tokens"] for row in rows),
                "finish_reasons": dict(sorted(Counter(row["finish_reason"] for row in rows).items())),
                "ranks": rank.world_size,
                **rates,
            }
            runs.write_done(  # last: after it the job is not run again
                job_path.parent,
                job["fingerprint"],
                metrics,
                model=job["model"],
                notes=[note for summary in summaries for note in summary["notes"]],
                files=files,
                wall_seconds=round(time.monotonic() - begun, 3),
                peak_memory_bytes=max(summary["peak_memory_bytes"] for summary in summaries),
            )


def load_decoder(
    job: dict, source: str, revision: str | None, tokenizer: PreTrainedTokenizerBase, rank: Rank, notes: list[str]
) -> GreedyDecoder:
    """The job's model on this rank's device, ready to decode; `notes` gets what had to be decided on the way.

    The tokenizer's EOS is the only stop, or the end of a turn where the prompts are a chat template's. Padding is never
    attended to, so a tokenizer without pad token, or with one the model has no embedding for, pads with EOS.
    """
    with rank.device():  # weights go onto it piece by piece: the machine's memory need not hold one model per rank
        model = load_model(source, revision, dtype=getattr(torch, job["dtype"])).eval()
    eos, pad = prompts.turn(tokenizer, job.get("template", "alpaca")).end_id, tokenizer.pad_token_id
    rows = model.get_input_embeddings().num_embeddings
    if eos is None:
        raise ValueError(f"{source}: the tokenizer has no EOS token, so no answer could end; set eos_token and save it")
    if eos >= rows:
        raise ValueError(f"{source}: EOS is token {eos}, but the model has only {rows} embeddings: not its tokenizer")

    def note(sentence: str) -> None:
        notes.append(sentence)
        print(sentence, flush=True)

    batch_tokens, remark = choose_batch_tokens(job["batch_tokens"], model, rank.local_size)
    if remark:
        note(remark)
    filler = pad if pad is not None and pad < rows else eos
    return GreedyDecoder(model, eos_token_id=eos, filler_token_id=filler, batch_tokens=batch_tokens, note=note)


def wait_for_ranks(answers: Answers, world_size: int) -> None:
    """Return when every answer is on disk and the other ranks have ended; RuntimeError if they died without."""
    quiet_since = time.monotonic()
    while True:
        alive = any(answers.is_open(other) for other in range(1, world_size))
        answers.refresh()
        missing = set(answers.keys) - answers.rows.keys()
        if not missing and not alive:
            return
        if missing and alive:
            quiet_since = time.monotonic()
        elif time.monotonic() - quiet_since > GRACE_SECONDS:
            if not missing:
                return
            why = f"one of the {world_size} ranks died. Its reason is further up in the log; start again to go on"
            lacks = f"{len(missing)} of {len(answers.keys)} answers are missing and no other rank is alive"
            raise RuntimeError(f"{lacks}: {why}")
        answers.beat("generating")
        time.sleep(0.1)


def write_predictions(folder: Path, job: dict, questions: list[Question], answers: Answers) -> dict[str, str]:
    """Write one file per task and language, in index order; return the sha256 of each by its path in `folder`."""
    files = {}
    for task in job["tasks"]:
        name = f"{task['name']}/{task['language']}.jsonl"
        rows = []
        for question in sorted((q for q in questions if q.file == name), key=lambda q: q.row["index"]):
            answer = answers.rows[question.sequence.key]
            rows.append({**question.row, "response": answer["response"], "finish_reason": answer["finish_reason"]})
        files[name] = runs.sha256_file(runs.write_json_lines(folder / name, rows))
    return files


# ------------------------------------------------------------------------------------------------- the job


class Rank:
    """This process among its siblings, as DeepSpeed's launcher numbers them."""

    def __init__(self) -> None:
        self.rank, self.local_rank = (int(os.environ.get(name, 0)) for name in ("RANK", "LOCAL_RANK"))
        self.world_size = int(os.environ.get("WORLD_SIZE", 1))
        self.local_size = int(os.environ.get("LOCAL_SIZE", self.world_size))

    def device(self) -> torch.device:
        """This rank's accelerator; else the processor, an equal share of its cores unless OMP_NUM_THREADS is set."""
        if torch.cuda.is_available():
            torch.cuda.set_device(self.local_rank)
            return torch.device("cuda", self.local_rank)
        if not os.environ.get("OMP_NUM_THREADS"):
            torch.set_num_threads(max(1, runs.cores() // self.local_size))
        return torch.device("cpu")


class Question(NamedTuple):
    """One question of one task: the file its prediction goes into, the fields known of that, and what is decoded."""

    file: str
    row: dict[str, Any]  # index, question, prompt
    sequence: Sequence


def checked_rows(task: dict, root: Path) -> list[dict[str, Any]]:
    """The rows of a task's file, which must be the one that its job was written for."""
    path = root / task["path"]
    if runs.sha256_file(runs.require(path, "run notebook 01 again")) != task["sha256"]:
        raise ValueError(f"{path}: not the file the job was written for (sha256 differs); write the job again")
    return runs.read_json_lines(path)


def read_questions(job: dict, root: Path, tokenizer: PreTrainedTokenizerBase, config: Any) -> list[Question]:
    """Read and tokenise the prompts of all tasks; an error names task, language and index of a prompt that leaves no
    room for its answer in the model's context."""
    template = job.get("template", "alpaca")
    chats = prompts.TEMPLATES[template].is_chat
    limits = (getattr(config, "max_position_embeddings", None), getattr(config, "sliding_window", None))
    context = min((limit for limit in limits if limit), default=None)  # inside a sliding window attention is full
    questions = []
    for task in job["tasks"]:
        name, language, limit = task["name"], task["language"], task["max_new_tokens"]
        rows = [{key: row[key] for key in ("index", "question", "prompt")} for row in checked_rows(task, root)]
        if chats:  # only the tokenizer can apply this template; it writes BOS itself
            rows = [{**row, "prompt": prompts.render(tokenizer, row["prompt"], template)} for row in rows]
        tokens = tokenizer([row["prompt"] for row in rows], add_special_tokens=not chats)["input_ids"]
        for row, input_ids in zip(rows, tokens, strict=True):
            where = f"{name}, language {language}, index {row['index']}"
            if context is not None and len(input_ids) + limit > context:
                why = f"with {limit} new tokens it does not fit into the model's context of {context}"
                said = f"{where}: the prompt has {len(input_ids)} tokens; {why}. Shorten it or lower max_new_tokens"
                raise ValueError(said)
            if not input_ids or max(input_ids) >= config.vocab_size:
                raise ValueError(f"{where}: the prompt is empty, or the tokenizer has tokens the model does not know")
            # The batch is no part of the key: another machine has room for another one.
            decoding = {"method": "greedy", "max_new_tokens": limit, "dtype": job["dtype"]}
            key = runs.fingerprint({"model": job["model_fingerprint"], "prompt": row["prompt"], "decoding": decoding})
            questions.append(Question(f"{name}/{language}.jsonl", row, Sequence(key, input_ids, limit)))
    return questions


def share(sequences: list[Sequence], rank: int, world_size: int) -> list[Sequence]:
    """The sequences of one rank, one per key: dealt out by length, to and fro, so that every rank has equal work."""
    unique = {sequence.key: sequence for sequence in sequences}
    dealt = sorted(unique.values(), key=lambda sequence: (-len(sequence.input_ids), sequence.key))
    mine = []
    for start in range(0, len(dealt), world_size):
        row = dealt[start : start + world_size]
        place = rank if (start // world_size) % 2 == 0 else world_size - 1 - rank
        mine += row[place : place + 1]
    return mine


# ------------------------------------------------------------------------------------------------- answers on disk


class Answers:
    """The answers generated so far: every rank appends to a file of its own and reads all of them; rank 0 reports."""

    def __init__(self, folder: Path, rank: int, keys: list[str]):  # the job's folder; keys of all its questions
        self.folder, self.rank, self.keys = folder / "generated", rank, keys
        self.progress = folder / "progress.jsonl"
        self.rows: dict[str, dict[str, Any]] = {}  # by key; some may be of questions that are not asked any more
        self._offsets: dict[Path, int] = {}  # bytes read of each file
        self._phase, self._written = "", 0.0  # of the last line of progress

    def summary(self, rank: int) -> Path:
        """What a rank reports at its end."""
        return self.folder / f"rank-{rank}.json"

    @contextmanager
    def open(self) -> Iterator[None]:
        """Hold this rank's file to append to it; a last line that a kill left unfinished is cut off."""
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / f"rank-{self.rank}.jsonl"
        try:
            with FileLock(path.with_suffix(".lock"), timeout=PREDECESSOR_SECONDS):
                runs.mend_lines(path)
                self.summary(self.rank).unlink(missing_ok=True)
                self.refresh()
                self.start_clock()
                with path.open("ab") as self._file:
                    yield
        except Timeout:
            why = "another process is generating into this file; stop it, then start again"
            raise RuntimeError(f"{path}: {why}") from None

    def is_open(self, rank: int) -> bool:
        """Whether a living process holds that rank's file; the system lets go of it when the process dies."""
        try:
            with FileLock(self.folder / f"rank-{rank}.lock", timeout=0):
                return False
        except Timeout:
            return True

    def append(self, finished: list[Sequence], tokenizer: PreTrainedTokenizerBase) -> None:
        """Write answers to disk; they are safe when this returns."""
        data = b""
        for sequence in finished:
            response = tokenizer.decode(sequence.output_ids, skip_special_tokens=True)
            row = {"key": sequence.key, "response": response, "finish_reason": sequence.finish_reason}
            data += json.dumps({**row, "new_tokens": len(sequence.output_ids)}, ensure_ascii=False).encode() + b"\n"
        self._file.write(data)
        self._file.flush()
        os.fsync(self._file.fileno())

    def refresh(self) -> None:
        """Read the whole lines that all ranks added since the last call; a ValueError names one that is no answer."""
        for path in sorted(self.folder.glob("rank-*.jsonl")):
            offset = self._offsets.get(path, 0)
            with path.open("rb") as stream:
                stream.seek(offset)
                for line in stream:
                    if not line.endswith(b"\n"):
                        break  # it is being written
                    try:
                        row = json.loads(line)
                        self.rows[row["key"]] = {n: row[n] for n in ("response", "finish_reason", "new_tokens")}
                    except (ValueError, TypeError, KeyError):
                        said = f"{path}: byte {offset}: not an answer; delete that line to have it generated again"
                        raise ValueError(said) from None
                    offset += len(line)
            self._offsets[path] = offset

    def start_clock(self) -> None:
        """Rates are counted from here."""
        self._begun, self._before = time.monotonic(), self.answered()

    def answered(self) -> tuple[int, int]:
        """Questions whose answer is on disk, and tokens of these answers."""
        found = [self.rows[key]["new_tokens"] for key in self.keys if key in self.rows]
        return len(found), sum(found)

    def rates(self) -> dict[str, float]:
        """What all ranks did since `start_clock`."""
        seconds = max(time.monotonic() - self._begun, 1e-6)
        generated, tokens = (now - before for now, before in zip(self.answered(), self._before, strict=True))
        rates = {"questions_per_second": round(generated / seconds, 3), "tokens_per_second": round(tokens / seconds, 1)}
        return {"generated": generated, "seconds": round(seconds, 3), **rates}

    def beat(self, phase: str) -> None:
        """Write a line of progress if it is time to; `phase` is `loading`, `generating` or `writing`."""
        if self.rank or (phase == self._phase and time.monotonic() - self._written < HEARTBEAT_SECONDS):
            return
        self.refresh()
        done, total, rates = self.answered()[0], len(self.keys), self.rates()
        rates = {key: rate for key, rate in rates.items() if key.endswith("per_second")}
        speed = rates["questions_per_second"]
        left = round((total - done) / speed, 1) if speed else None
        line = {"time": time.time(), "phase": phase, "done": done, "total": total, **rates, "seconds_left": left}
        runs.append_json_line(self.progress, line)
        self._phase, self._written = phase, time.monotonic()


def main(run: Callable[[Path], None] = generate, module: str = "qalign_core.generate") -> None:
    """Run the jobs that a module's command line names."""
    logging.disable_progress_bar()
    try:
        for job_path in jobs_from(None, module):
            run(job_path)
    except (OSError, ValueError) as error:
        sys.exit(f"{type(error).__name__}: {error}")


if __name__ == "__main__":
    main()
