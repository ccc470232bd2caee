"""What to tell a person about a job that failed: how it ended, what it said, what to change, the end of its log."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

FULL_DISK = "The disk is full, or a quota is: free some space and run again; whole checkpoints and models are kept."
FULL_BYTES = 2**20  # less than this is no space to speak of, not even for a log that says so
# Symptoms in a log (regular expressions), and what a person can do about each; the first that is found counts.
ADVICE: tuple[tuple[str, str], ...] = (
    (r"no space left on device|quota exceeded|file too large|PytorchStreamWriter failed|inline_container.*unexpected",
     FULL_DISK),
    (r"out of memory|can.?t allocate memory|cannot allocate memory|not enough memory|MemoryError|bad_alloc|"
     r"return code = -9\b",
     "Out of memory (a process that the system kills says nothing else): lower per_device_train_batch_size and raise "
     "gradient_accumulation_steps, set gradient_checkpointing: true, choose a DeepSpeed configuration with a higher "
     "ZeRO stage or offload; for generation, lower evaluation.batch_tokens."),
    (r"FloatingPointError",
     "The loss became NaN or infinite: lower learning_rate, raise warmup_steps, or train in float32. Other settings "
     "begin the stage anew, so delete its checkpoints."),
    (r"is gone: stopping",
     "What had started the ranks was killed (by the system, for its memory?): run again to go on from the last "
     "checkpoint."),
)  # fmt: skip
# A Python error's last line, as it is or as torch prefixes it; what other ranks say once one has gone comes second.
SAID = re.compile(r"^(?:\[rank\d+\]: )?((?:[A-Za-z_]\w*\.)*[A-Z]\w*(?:Error|Exception|BadRow): .+)$", re.MULTILINE)
CONNECTION = re.compile(r"gloo|nccl|connection (?:closed|reset)|socket|store->get|broken pipe", re.IGNORECASE)


def failure(folder: Path, log: Path, how: str, start: int = 0, lines: int = 30) -> str:
    """What to tell a person about a failed job: how it ended, its error, advice, and its log's last lines.

    Args:
        folder: of the job.
        log: its log.
        how: in words, such as `ended with exit code 1`.
        start: byte of the log where this start of the job begins.
        lines: how many of the last ones are shown.
    """
    with log.open("rb") as stream:
        stream.seek(start)
        text = stream.read().decode("utf-8", errors="replace")
    errors = SAID.findall(text)
    error = next((line for line in errors if not CONNECTION.search(line)), errors[0] if errors else "")
    advice = next((f"{what}\n" for symptom, what in ADVICE if re.search(symptom, text, re.IGNORECASE)), "")
    if shutil.disk_usage(folder).free < FULL_BYTES:
        advice = f"{FULL_DISK}\n"
    tail = "\n".join(text.splitlines()[-lines:])
    head = f"{folder.name} {how} ({folder}).\n" + (f"{error[:1000]}\n" if error else "")
    return f"{head}{advice}The last {lines} lines of {log}:\n{tail}"
