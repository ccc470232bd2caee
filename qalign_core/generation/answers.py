"""Answers on disk while a job runs: one append-only file a rank, safe to kill at any instant."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from qalign_core import runs

# How long a rank waits for the end of an earlier process that still writes into its file.
PREDECESSOR_SECONDS = 30.0
HEARTBEAT_SECONDS = 1.0


def answer_key(model_fingerprint: str, prompt: str, max_new_tokens: int, dtype: str) -> str:
    """What an answer depends on, as one fingerprint. In greedy decoding, the batch is no part of it."""
    decoding = {"method": "greedy", "max_new_tokens": max_new_tokens, "dtype": dtype}
    return runs.fingerprint({"model": model_fingerprint, "prompt": prompt, "decoding": decoding})


class Answers:
    """The answers generated so far, by key: every rank appends to a file of its own and reads all of them.

    Args:
        folder: the job's `generated/`.
        rank: whose file this process appends to.
    """

    def __init__(self, folder: Path, rank: int):
        self.folder = folder
        self.rank = rank
        self.rows: dict[str, dict] = {}
        self.others_tokens = 0  # of the answers read from other ranks
        self._offsets: dict[Path, int] = {}  # bytes read of each file
        folder.mkdir(parents=True, exist_ok=True)

    def summary(self, rank: int) -> Path:
        """What a rank reports at its end."""
        return self.folder / f"rank-{rank}.json"

    @contextmanager
    def open(self) -> Iterator[None]:
        """Hold this rank's file to append to it; a last line that a kill left unfinished is cut off.

        Raises:
            RuntimeError: when another process goes on writing into it.
        """
        path = self.folder / f"rank-{self.rank}.jsonl"
        try:
            with FileLock(path.with_suffix(".lock"), timeout=PREDECESSOR_SECONDS):
                self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
                os.ftruncate(self._file, path.read_bytes().rfind(b"\n") + 1)
                self.summary(self.rank).unlink(missing_ok=True)
                try:
                    yield
                finally:
                    os.close(self._file)
        except Timeout:
            raise RuntimeError(
                f"{path}: another process is generating into this file; stop it, then start again"
            ) from None

    def is_open(self, rank: int) -> bool:
        """Whether a living process holds that rank's file; the system lets go of it when the process dies."""
        try:
            with FileLock(self.folder / f"rank-{rank}.lock", timeout=0):
                return False
        except Timeout:
            return True

    def append(self, rows: Iterable[dict]) -> None:
        """Write answers to disk; they are safe when this returns."""
        data = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
        while data:
            data = data[os.write(self._file, data) :]
        os.fsync(self._file)

    def refresh(self) -> None:
        """Read the whole lines that all ranks added since the last call.

        Raises:
            ValueError: for a line that is no answer, with the file and the byte where it starts.
        """
        for path in sorted(self.folder.glob("rank-*.jsonl")):
            offset = self._offsets.get(path, 0)
            with path.open("rb") as stream:
                stream.seek(offset)
                for line in stream:
                    if not line.endswith(b"\n"):
                        break
                    row = self._parse(line, path, offset)
                    offset += len(line)
                    self.rows[row["key"]] = row
                    if path.stem != f"rank-{self.rank}":
                        self.others_tokens += row["new_tokens"]
            self._offsets[path] = offset

    @staticmethod
    def _parse(line: bytes, path: Path, offset: int) -> dict:
        try:
            row = json.loads(line)
            if {"key", "response", "finish_reason", "new_tokens"} <= row.keys():
                return row
        except (ValueError, AttributeError):
            pass
        raise ValueError(f"{path}: byte {offset}: not an answer; delete that line to have it generated again")


class Heartbeat:
    """Lines of `progress.jsonl`, written by rank 0 at most every `HEARTBEAT_SECONDS`, and the rates they report.

    Args:
        path: the file.
        keys: of the answers to all questions of the job.
        answers: where all ranks' answers are read from.
        active: whether this rank writes.
    """

    def __init__(self, path: Path, keys: list[str], answers: Answers, active: bool):
        self.path, self.keys, self.answers, self.active = path, keys, answers, active
        self.phase, self.written = "", 0.0
        self.start()

    def start(self) -> None:
        """Rates are counted from here."""
        self.begun = time.monotonic()
        self.tokens = 0  # new tokens of this rank
        self.answered_before, self.tokens_before = self.answered(), self.answers.others_tokens

    def answered(self) -> int:
        """Questions whose answer is on disk."""
        return sum(key in self.answers.rows for key in self.keys)

    def rates(self) -> dict[str, float]:
        """What all ranks did since `start`: questions generated, seconds, questions/s, tokens/s."""
        generated, seconds = self.answered() - self.answered_before, max(time.monotonic() - self.begun, 1e-6)
        tokens = self.tokens + self.answers.others_tokens - self.tokens_before
        return {
            "generated": generated,
            "seconds": round(seconds, 3),
            "questions_per_second": round(generated / seconds, 3),
            "tokens_per_second": round(tokens / seconds, 1),
        }

    def beat(self, phase: str, tokens: int | None = None) -> None:
        """Write a line if it is time to.

        Args:
            phase: `"loading"`, `"generating"` or `"writing"`.
            tokens: new tokens of this rank since `start`.
        """
        self.tokens = self.tokens if tokens is None else tokens
        if not self.active or (phase == self.phase and time.monotonic() - self.written < HEARTBEAT_SECONDS):
            return
        self.answers.refresh()
        rates, done = self.rates(), self.answered()
        speed = rates["questions_per_second"]
        line = {
            "time": time.time(),
            "phase": phase,
            "done": done,
            "total": len(self.keys),
            "questions_per_second": speed,
            "tokens_per_second": rates["tokens_per_second"],
            "seconds_left": round((len(self.keys) - done) / speed, 1) if speed else None,
        }
        with self.path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(line) + "\n")
        self.phase, self.written = phase, time.monotonic()
