"""Generation: the same texts as one-at-a-time greedy decoding, whatever the batch, the ranks, and the kills."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from test_fast_decoding import CONTEXT, VOCABULARY, alone, llama
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from qalign_core import decoding, generate, runs
from qalign_core.decoding import GreedyDecoder, Sequence
from qalign_core.generate import Answers

MAX_NEW_TOKENS = 40
PAD, BOS = 0, 1


@pytest.fixture(scope="module")
def prompts() -> list[list[int]]:
    generator = random.Random(0)
    return [[BOS] + [generator.randrange(2, VOCABULARY) for _ in range(generator.randrange(3, 60))] for _ in range(40)]


@pytest.fixture(scope="module")
def model() -> PreTrainedModel:
    torch.manual_seed(0)
    return llama().eval()


@pytest.fixture(scope="module")
def reference(model, prompts) -> tuple[int, list[tuple[list[int], str]]]:
    """EOS, chosen so that answers end at many different times, and every answer decoded alone."""
    free = [alone(model, prompt, MAX_NEW_TOKENS) for prompt in prompts]
    ends = {
        token: {tokens.index(token) if token in tokens else MAX_NEW_TOKENS for tokens in free}
        for token in range(2, VOCABULARY)
    }
    eos = max(ends, key=lambda token: len(ends[token]))
    assert len(ends[eos]) >= 8, "the answers of the test's model should end at many different times"
    expected = []
    for prompt in prompts:
        output = alone(model, prompt, MAX_NEW_TOKENS, eos)
        expected.append((output[:-1], "stop") if output[-1] == eos else (output, "length"))
    assert {reason for _, reason in expected} == {"stop", "length"}
    return eos, expected


def decode_all(model, prompts, eos, batch_tokens, max_new_tokens=MAX_NEW_TOKENS, notes=None):
    note = notes.append if notes is not None else print
    decoder = GreedyDecoder(model, eos_token_id=eos, filler_token_id=eos, batch_tokens=batch_tokens, note=note)
    sequences = [Sequence(str(i), list(prompt), max_new_tokens) for i, prompt in enumerate(prompts)]
    finished = {s.key: (s.output_ids, s.finish_reason) for ended in decoder.decode(sequences) for s in ended}
    return [finished[str(i)] for i in range(len(prompts))]


# ------------------------------------------------------------------------------------------------- decoding


@pytest.mark.parametrize("batch_tokens", [1, 150, 700, 2500, 100_000])
def test_every_batch_gives_the_answers_of_decoding_alone(model, prompts, reference, batch_tokens):
    eos, expected = reference
    assert decode_all(model, prompts, eos, batch_tokens) == expected


def test_one_new_token(model, prompts, reference):
    eos, expected = reference
    got = decode_all(model, prompts, eos, 1000, max_new_tokens=1)
    assert got == [(tokens[:1], "length" if tokens else "stop") for tokens, _ in expected]


@pytest.mark.parametrize("prompt_pass_fails", [True, False])
def test_out_of_memory_halves_the_batch(model, prompts, reference, monkeypatch, prompt_pass_fails):
    eos, expected = reference
    forward, sizes = model.forward, []

    def small_memory(input_ids, **arguments):
        if (input_ids.shape[1] > 1) == prompt_pass_fails:
            sizes.append(len(input_ids))
            if len(input_ids) > 5:
                raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(input_ids, **arguments)

    monkeypatch.setattr(model, "forward", small_memory)
    notes: list[str] = []
    assert decode_all(model, prompts, eos, 4000, notes=notes) == expected
    assert notes
    assert all("halved" in note for note in notes)
    failures = sum(size > 5 for size in sizes)
    assert failures == len(notes) < len(sizes) / 2


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("shapes do not match")])
def test_out_of_memory_with_one_sequence_and_other_errors_are_raised(model, prompts, reference, monkeypatch, error):
    def failing(input_ids, **arguments):
        raise error

    monkeypatch.setattr(model, "forward", failing)
    with pytest.raises(type(error), match=str(error)):
        decode_all(model, prompts, reference[0], 4000, notes=[])


# ------------------------------------------------------------------------------------------------- jobs


def tokenizer_for(eos: int | None, pad: bool = True) -> PreTrainedTokenizerFast:
    words = {f"w{i}": i for i in range(VOCABULARY)}
    names = {PAD: "<pad>", BOS: "<s>"} | ({eos: "</s>"} if eos is not None else {})
    words = {names.get(i, word): i for word, i in words.items()}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="w2"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    special = {"bos_token": "<s>"} | ({"eos_token": "</s>"} if eos is not None else {})
    special |= {"pad_token": "<pad>"} if pad else {}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)


@pytest.fixture(scope="module")
def model_dir(model, reference, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    model.save_pretrained(folder)
    tokenizer_for(reference[0]).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def texts(prompts, reference) -> list[str]:
    names = {BOS: "<s>", reference[0]: "</s>"}
    return [" ".join(names.get(i, f"w{i}") for i in prompt) for prompt in prompts]


@pytest.fixture(scope="module")
def responses(reference) -> list[tuple[str, str]]:
    tokenizer = tokenizer_for(reference[0])
    return [(tokenizer.decode(ids, skip_special_tokens=True), reason) for ids, reason in reference[1]]


def write_job(root: Path, model_dir: Path, texts: list[str], **changes) -> Path:
    """A job of two tasks in two languages that together ask all `texts`; indices run against the order of rows."""
    (root / "profile.yaml").touch()
    tasks = []
    for number, (name, language) in enumerate([("mgsm", "bn"), ("mgsm", "en"), ("msvamp", "bn"), ("msvamp", "en")]):
        part = texts[number * 10 : number * 10 + 10]
        rows = [{"index": i, "question": f"q{number}-{i}", "prompt": part[i]} for i in reversed(range(len(part)))]
        path = root / "data" / "prompts" / name / f"{language}.jsonl"
        runs.write_json_lines(path, rows)
        tasks.append(
            {
                "name": name,
                "language": language,
                "path": path.relative_to(root).as_posix(),
                "sha256": runs.sha256_file(path),
                "max_new_tokens": MAX_NEW_TOKENS,
            }
        )
    job = {
        "kind": "generate",
        "model": {"path": str(model_dir), "revision": None},
        "model_fingerprint": "m1",
        "dtype": "float32",
        "batch_tokens": 700,
        "tasks": tasks,
    } | changes
    path = root / "predictions" / "job.json"
    runs.write_json(path, {"fingerprint": runs.fingerprint(job), **job})
    return path


def read_responses(job: Path) -> list[tuple[str, str]]:
    found = []
    for task in runs.read_json(job)["tasks"]:
        rows = runs.read_json_lines(job.parent / task["name"] / f"{task['language']}.jsonl")
        assert [row["index"] for row in rows] == list(range(len(rows)))
        found += [(row["response"], row["finish_reason"]) for row in rows]
    return found


def metrics_of(job: Path) -> dict:
    return runs.read_json(job.with_name("done.json"))["metrics"]


def generated_keys(job: Path) -> list[str]:
    files = sorted((job.parent / "generated").glob("rank-*.jsonl"))
    return [row["key"] for file in files for row in runs.read_json_lines(file)]


@pytest.fixture
def job(tmp_path, model_dir, texts) -> Path:
    return write_job(tmp_path, model_dir, texts)


def test_a_job_answers_every_question_in_order(job, responses):
    generate.generate(job)
    assert read_responses(job) == responses
    first = runs.read_json_lines(job.parent / "mgsm" / "bn.jsonl")[0]
    assert list(first) == ["index", "question", "prompt", "response", "finish_reason"]
    assert (first["index"], first["question"]) == (0, "q0-0")

    done = runs.read_json(job.with_name("done.json"))
    assert runs.is_done(job)
    assert set(done["files"]) == {"mgsm/bn.jsonl", "mgsm/en.jsonl", "msvamp/bn.jsonl", "msvamp/en.jsonl"}
    assert all(runs.sha256_file(job.parent / name) == sha256 for name, sha256 in done["files"].items())
    assert done["metrics"]["questions"] == done["metrics"]["generated"] == 40
    assert done["metrics"]["questions_per_second"] > 0
    assert done["metrics"]["tokens_per_second"] > 0
    assert done["peak_memory_bytes"] > 0
    assert {"versions", "hardware", "git_commit", "wall_seconds"} <= set(done)

    beats = runs.read_json_lines(job.with_name("progress.jsonl"))
    assert [beat["phase"] for beat in beats][0] == "loading"
    assert beats[-1]["phase"] == "writing"
    assert (beats[-1]["done"], beats[-1]["total"]) == (40, 40)
    assert {"time", "questions_per_second", "tokens_per_second", "seconds_left"} <= set(beats[-1])
    for line in job.with_name("progress.jsonl").read_text().splitlines():
        json.loads(line, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))


def test_a_finished_job_is_not_run_again(job, monkeypatch, capsys):
    generate.generate(job)
    monkeypatch.setattr(generate, "load_decoder", None)
    generate.generate(job)
    assert "already done" in capsys.readouterr().out
    predictions = job.parent / "mgsm" / "bn.jsonl"
    before = predictions.read_bytes()
    predictions.unlink()
    job.with_name("done.json").unlink()
    generate.generate(job)  # written again from the answers, without the model
    assert predictions.read_bytes() == before


def test_a_batch_that_does_not_fit_is_made_smaller_with_a_note(job, responses, monkeypatch):
    monkeypatch.setattr(decoding, "free_memory", lambda device, processes: 256 * 2 * 150)  # half of it: 150 tokens
    generate.generate(job)
    assert read_responses(job) == responses
    (note,) = runs.read_json(job.with_name("done.json"))["notes"]
    assert note.startswith("batches of 150 tokens instead of 700")


@pytest.fixture
def no_tokenizer(tmp_path, model_dir) -> Path:
    """The model's folder without its tokenizer."""
    return shutil.copytree(model_dir, tmp_path / "model", ignore=shutil.ignore_patterns("tokenizer*"))


def test_a_tokenizer_without_pad_token_gives_the_same_answers(tmp_path, no_tokenizer, texts, reference, responses):
    folder = no_tokenizer
    tokenizer_for(reference[0], pad=False).save_pretrained(folder)
    job = write_job(tmp_path, folder, texts)
    generate.generate(job)
    found = [
        (" ".join(word for word in text.split() if word != "<pad>"), reason) for text, reason in read_responses(job)
    ]
    assert found == responses  # "<pad>" is an ordinary word of that tokenizer


# ------------------------------------------------------------------------------------------------- kills


def test_what_was_answered_before_a_kill_is_kept(job, responses, monkeypatch):
    append, calls = Answers.append, []

    def killed(self, finished, tokenizer):
        calls.append(finished)
        if len(calls) == 6:
            self._file.write(b'{"key": "cut o')
            raise KeyboardInterrupt
        append(self, finished, tokenizer)

    monkeypatch.setattr(Answers, "append", killed)
    with pytest.raises(KeyboardInterrupt):
        generate.generate(job)
    assert not job.with_name("done.json").exists()
    monkeypatch.setattr(Answers, "append", append)
    kept = (job.parent / "generated" / "rank-0.jsonl").read_bytes()
    kept = kept[: kept.rfind(b"\n") + 1]
    assert kept

    generate.generate(job)
    assert (job.parent / "generated" / "rank-0.jsonl").read_bytes().startswith(kept)
    keys = generated_keys(job)
    assert len(keys) == len(set(keys)) == 40
    assert read_responses(job) == responses
    assert metrics_of(job)["generated"] == 40 - kept.count(b"\n")


def test_sigkill_then_start_again(tmp_path, model_dir, texts, responses):
    job = write_job(tmp_path, model_dir, texts, batch_tokens=1)
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    process = subprocess.Popen([sys.executable, "-m", "qalign_core.generate", str(job)], env=environment)
    partial = job.parent / "generated" / "rank-0.jsonl"
    while process.poll() is None and not (partial.exists() and partial.stat().st_size):
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    kept = partial.read_bytes().count(b"\n")
    assert 0 < kept < 40
    generate.generate(job)
    keys = generated_keys(job)
    assert len(keys) == len(set(keys)) == 40
    assert read_responses(job) == responses


def test_a_stale_answer_is_never_used(tmp_path, model_dir, texts, job):
    generate.generate(job)
    first = set(generated_keys(job))

    changed = [*texts[:-1], texts[-1] + " w5"]
    job = write_job(tmp_path, model_dir, changed)
    generate.generate(job)  # one prompt differs: one new answer
    assert len(set(generated_keys(job)) - first) == metrics_of(job)["generated"] == 1

    limited = [task | {"max_new_tokens": 5} for task in runs.read_json(write_job(tmp_path, model_dir, texts))["tasks"]]
    for changes in ({"model_fingerprint": "m2"}, {"tasks": limited}, {"tasks": limited, "dtype": "bfloat16"}):
        job = write_job(tmp_path, model_dir, texts, **changes)
        generate.generate(job)  # other weights, another limit, another precision: nothing is kept
        assert metrics_of(job)["generated"] == 40


def test_a_damaged_answer_is_an_error(job):
    generate.generate(job)
    job.with_name("done.json").unlink()
    file = job.parent / "generated" / "rank-0.jsonl"
    file.write_bytes(file.read_bytes().replace(b'"key"', b'"kez"', 1))
    with pytest.raises(ValueError, match=r"rank-0\.jsonl: byte 0: not an answer"):
        generate.generate(job)


def test_two_processes_do_not_share_a_job(job, monkeypatch):
    monkeypatch.setattr(generate, "PREDECESSOR_SECONDS", 0.1)
    with (
        Answers(job.parent, 0, []).open(),
        pytest.raises(RuntimeError, match="another process is generating"),
    ):
        generate.generate(job)


# ------------------------------------------------------------------------------------------------- ranks


def as_rank(monkeypatch, rank: int, world_size: int) -> None:
    monkeypatch.setenv("RANK", str(rank))
    monkeypatch.setenv("WORLD_SIZE", str(world_size))


def test_ranks_one_after_the_other(job, responses, monkeypatch):
    for rank in (2, 1, 0):
        as_rank(monkeypatch, rank, 3)
        generate.generate(job)
    assert read_responses(job) == responses
    assert len(generated_keys(job)) == 40
    assert metrics_of(job)["ranks"] == 3


def test_a_line_that_another_rank_left_unfinished_is_asked_again(job, responses, monkeypatch):
    as_rank(monkeypatch, 1, 2)
    generate.generate(job)
    theirs = job.parent / "generated" / "rank-1.jsonl"
    theirs.write_bytes(theirs.read_bytes()[:-9])
    as_rank(monkeypatch, 0, 1)
    generate.generate(job)
    assert read_responses(job) == responses
    assert metrics_of(job)["generated"] == 21


def test_rank_0_does_not_wait_for_the_dead(job, monkeypatch):
    monkeypatch.setattr(generate, "GRACE_SECONDS", 0.3)
    as_rank(monkeypatch, 0, 2)
    with pytest.raises(RuntimeError, match="20 of 40 answers are missing .* one of the 2 ranks died"):
        generate.generate(job)
    assert not job.with_name("done.json").exists()


@pytest.mark.parametrize("world_size", [1, 2, 3, 8])
def test_shares_are_complete_disjoint_and_balanced(world_size):
    asked = [Sequence(f"k{i}", list(range(i % 37 + 1)), 9) for i in range(101)]
    assert len(generate.share(asked[:1] * 4, 0, 1)) == 1  # asked more than once
    shares = [generate.share(asked, rank, world_size) for rank in range(world_size)]
    keys = [sequence.key for part in shares for sequence in part]
    assert sorted(keys) == sorted(sequence.key for sequence in asked)
    work = [sum(len(sequence.input_ids) for sequence in part) for part in shares]
    assert max(work) - min(work) <= 2 * 37


def test_threads_on_the_cpu(monkeypatch):
    if torch.cuda.is_available():
        pytest.skip("every rank has an accelerator here")
    seen = []
    monkeypatch.setattr(torch, "set_num_threads", seen.append)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    as_rank(monkeypatch, 0, 2)
    monkeypatch.delenv("LOCAL_SIZE", raising=False)
    assert generate.Rank().device() == torch.device("cpu")
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    generate.Rank().device()
    assert seen == [4]


# ------------------------------------------------------------------------------------------------- bad input


def change(job: Path, **changes) -> Path:
    runs.write_json(job, runs.read_json(job) | changes)
    return job


def test_a_prompt_longer_than_the_context(tmp_path, model_dir, texts):
    texts = list(texts)
    texts[13] = " ".join(["w5"] * (CONTEXT - MAX_NEW_TOKENS + 1))
    job = write_job(tmp_path, model_dir, texts)
    with pytest.raises(ValueError, match="mgsm, language en, index 3: the prompt has 89 tokens; with 40 new tokens"):
        generate.generate(job)
    texts[13] = " ".join(["w5"] * (CONTEXT - MAX_NEW_TOKENS))
    generate.generate(write_job(tmp_path, model_dir, texts))


def test_a_model_without_tokenizer_or_one_without_eos(tmp_path, no_tokenizer, texts):
    with pytest.raises(FileNotFoundError, match="no tokenizer beside the model"):
        generate.generate(write_job(tmp_path, no_tokenizer, texts))
    tokenizer_for(None).save_pretrained(no_tokenizer)
    with pytest.raises(ValueError, match="no EOS token"):
        generate.generate(write_job(tmp_path, no_tokenizer, texts))


def test_a_model_without_safetensors(tmp_path, model, model_dir, texts):
    folder = tmp_path / "model"
    shutil.copytree(model_dir, folder)
    (folder / "model.safetensors").unlink()
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    with pytest.raises((OSError, ValueError), match="safetensors"):
        generate.generate(write_job(tmp_path, folder, texts))


def test_a_stage_that_was_not_trained(job):
    with pytest.raises(FileNotFoundError, match="does not exist; train that stage first"):
        generate.generate(change(job, model={"path": "models/seed-1/base/model", "revision": None}))


def test_prompts_of_another_job(tmp_path, job):
    prompts = tmp_path / "data" / "prompts" / "mgsm" / "bn.jsonl"
    prompts.write_bytes(prompts.read_bytes() + b"\n")
    with pytest.raises(ValueError, match=r"bn\.jsonl: not the file the job was written for"):
        generate.generate(job)
    prompts.unlink()
    with pytest.raises(FileNotFoundError, match="bn.jsonl is not there"):
        generate.generate(job)


def test_an_empty_prompt(tmp_path, job):
    rows = [{"index": 7, "question": "q", "prompt": ""}]
    path = runs.write_json_lines(tmp_path / "data" / "prompts" / "mgsm" / "bn.jsonl", rows)
    tasks = runs.read_json(job)["tasks"]
    tasks[0]["sha256"] = runs.sha256_file(path)
    with pytest.raises(ValueError, match="mgsm, language bn, index 7: the prompt is empty"):
        generate.generate(change(job, tasks=tasks))


def test_an_error_ends_the_process_with_one_clear_line(job, monkeypatch):
    path = change(job, model={"path": "no/such/model", "revision": None})
    monkeypatch.setattr(sys, "argv", ["generate", "--local_rank=0", str(path)])
    with pytest.raises(SystemExit, match="FileNotFoundError: model folder .* does not exist"):
        generate.main()
