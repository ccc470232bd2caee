"""Training end to end on a tiny model: the curve, the losses, every ZeRO stage, two ranks, and what is refused."""

from __future__ import annotations

import json
import math
import os
import shutil
import sys
from pathlib import Path

import pytest
import torch
from forked_training import Forks, forks
from safetensors.torch import load_file
from test_supervision import plain_loss
from tiny_training import ENVIRONMENT, losses, make_base, make_corpus, make_job, progress, run_jobs
from transformers import AutoModelForCausalLM, AutoTokenizer

from qalign_core import runs, supervision, train
from qalign_core.models import add_pad_token, load_model, load_tokenizer
from qalign_core.runs import is_done, read_json, read_json_lines, sha256_file
from qalign_core.supervision import encode, encode_corpus

__all__ = ["forks"]  # a fixture
# The curve as it was when this was written: 20 updates, loss `paper`, fp32, CPU, 1 rank.
GOLDEN = [
    *(5.81593, 5.84111, 5.72131, 5.59975, 5.55184, 5.45229, 5.33110, 5.26463, 5.20056, 5.11864),
    *(5.06010, 5.00028, 4.95079, 4.91999, 4.87453, 4.86710, 4.83508, 4.82532, 4.83159, 4.81851),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("training")
    make_base(folder / "base")
    make_base(folder / "tied", tied=True)
    make_corpus(folder / "corpus.jsonl")
    return folder


@pytest.fixture(scope="module")
def jobs(folder: Path, forks: Forks) -> dict[str, Path]:
    """Every job of this module, run: those of one rank in one process, those of more each in ranks of its own."""
    base, corpus = folder / "base", folder / "corpus.jsonl"

    def job(name: str, zero: int = 0, model: Path = base, **changes) -> Path:
        return make_job(folder / name, model, corpus, zero, **changes)

    still = {"learning_rate": 0.0, "max_steps": 2, "bf16": True}
    one = {f"zero{stage}": job(f"zero{stage}", stage) for stage in range(4)}
    one["padded"] = job("padded", packing=False)
    one["device-batch-8"] = job("device-batch-8", per_device_train_batch_size=8, gradient_accumulation_steps=1)
    one["token"] = job("token", loss="token")
    one["bf16"] = job("bf16", 2, bf16=True)
    one["grouped"] = job("grouped", packing=False, max_steps=2, train_sampling_strategy="group_by_length")
    one["still-tied"] = job("still-tied", 1, folder / "tied", **still)
    one["wrong-corpus"] = make_job(folder / "wrong-corpus", base, corpus, sha256="0" * 64)
    one["diverging"] = job("diverging", learning_rate=1e30)
    two = {f"zero{stage}-by-2": job(f"zero{stage}-by-2", stage, gradient_accumulation_steps=2) for stage in (0, 2, 3)}
    two["token-by-2"] = job("token-by-2", 1, loss="token", gradient_accumulation_steps=2)
    two["still-by-2"] = job("still-by-2", 3, **still)
    three = {"still-by-3": job("still-by-3", 3, **still)}  # no weight divides by 3
    forks.in_turn(one.values())
    for path in (*two.values(), *three.values()):
        forks.finish(path, ranks=3 if path in three.values() else 2)
    return one | two | three


# ------------------------------------------------------------------------------------------------- the curve


@pytest.mark.parametrize(
    "name",
    ["zero1", "zero2", "zero3", "padded", "device-batch-8", "zero0-by-2", "zero2-by-2", "zero3-by-2"],
)
def test_the_curve_is_the_same_however_it_is_computed(jobs: dict[str, Path], name: str) -> None:
    assert losses(jobs[name]) == pytest.approx(losses(jobs["zero0"]), abs=1e-4)
    reference, ours = (load_file(jobs[n].parent / "model" / "model.safetensors") for n in ("zero0", name))
    for key, weight in reference.items():
        torch.testing.assert_close(ours[key], weight, rtol=0, atol=1e-4, msg=key)


def test_the_token_loss_is_the_same_on_two_ranks_and_another_loss(jobs: dict[str, Path]) -> None:
    assert losses(jobs["token-by-2"]) == pytest.approx(losses(jobs["token"]), abs=1e-4)
    assert max(abs(a - b) for a, b in zip(losses(jobs["token"]), losses(jobs["zero0"]), strict=True)) > 1e-3


def test_the_golden_curve(jobs: dict[str, Path]) -> None:
    assert losses(jobs["zero0"]) == pytest.approx(GOLDEN, abs=1e-4)


def test_bf16_follows_the_curve_within_its_own_error(jobs: dict[str, Path]) -> None:
    assert losses(jobs["bf16"]) == pytest.approx(losses(jobs["zero2"]), abs=4e-3)  # bf16 itself has steps of 0.03 at 5
    norms = [[row["grad_norm"] for row in progress(jobs[name])] for name in ("bf16", "zero2")]
    assert norms[0] == pytest.approx(norms[1], rel=0.02)


@pytest.mark.slow  # a minute or more of C++
@pytest.mark.skipif(shutil.which("g++") is None, reason="DeepSpeed compiles the optimizer of an offloaded stage")
def test_an_offloaded_stage_is_the_same(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights, gradients and AdamW's moments in the host's memory, the last computed by DeepSpeed's own code."""
    extensions = os.environ.get("TORCH_EXTENSIONS_DIR") or str(tmp_path / "extensions")
    monkeypatch.setitem(ENVIRONMENT, "TORCH_EXTENSIONS_DIR", extensions)
    # Not the defaults of either AdamW: what a profile sets must reach the other one.
    recipe = {"gradient_accumulation_steps": 2, "adam_beta1": 0.8, "adam_beta2": 0.95, "adam_epsilon": 1e-4}
    still = {"learning_rate": 0.0, "max_steps": 2, "bf16": True}
    changes = {"here": (3, recipe), "offloaded": ("3-offload", recipe), "still": ("3-offload", still)}
    made = {
        name: make_job(tmp_path / name, folder / "base", folder / "corpus.jsonl", zero, **of_one)
        for name, (zero, of_one) in changes.items()
    }
    run_jobs(made.values(), ranks=2)
    assert list(Path(extensions).rglob("cpu_adam.so"))
    assert losses(made["offloaded"]) == pytest.approx(losses(made["here"]), abs=1e-4)
    here, offloaded, after = (load_file(job.parent / "model" / "model.safetensors") for job in made.values())
    for key, weight in here.items():
        torch.testing.assert_close(offloaded[key], weight, rtol=0, atol=1e-4, msg=key)
    for key, weight in load_file(folder / "base" / "model.safetensors").items():  # in fp32, also where bf16 computes
        torch.testing.assert_close(after[key][: len(weight)], weight, rtol=0, atol=0, msg=key)


def test_what_compiles_an_offloaded_optimizer_is_found_beside_python(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"PATH": str(tmp_path), "RANK": "0", "DS_ACCELERATOR": "cpu"}.items():
        monkeypatch.setenv(name, value)
    assert shutil.which("ninja") is None
    train.prepare_deepspeed()
    assert shutil.which("ninja") == str(Path(sys.executable).with_name("ninja"))


def test_grouping_by_length_is_another_order_of_the_same_examples(jobs: dict[str, Path]) -> None:
    assert losses(jobs["grouped"])[0] == pytest.approx(losses(jobs["padded"])[0], abs=0.2)
    assert losses(jobs["grouped"]) != losses(jobs["padded"])[:2]


def plain_training(job: dict, corpus: Path) -> tuple[list[float], dict[str, torch.Tensor]]:
    """The same run, written down from the authors' recipe: no packing, no Trainer, no DeepSpeed, no torch.optim."""
    arguments = job["training_arguments"]
    tokenizer, model = load_tokenizer(job["model"]["path"]), load_model(job["model"]["path"])
    add_pad_token(model, tokenizer)
    rows = [encode(r["instruction"], r["output"], tokenizer, job["max_length"]) for r in read_json_lines(corpus)]
    order = [
        index
        for epoch in range(2)
        for index in torch.randperm(len(rows), generator=torch.Generator().manual_seed(job["seed"] + epoch)).tolist()
    ]
    steps, warmup = arguments["max_steps"], math.ceil(arguments["max_steps"] * arguments["warmup_steps"])
    moments = {name: (torch.zeros_like(p), torch.zeros_like(p)) for name, p in model.named_parameters()}
    curve = []
    for step in range(steps):
        update = [rows[index] for index in order[8 * step : 8 * step + 8]]
        loss = plain_loss(model, update, "paper")
        model.zero_grad()
        loss.backward()
        curve.append(loss.item())
        norm = math.sqrt(sum(p.grad.double().pow(2).sum().item() for p in model.parameters()))
        rate = arguments["learning_rate"] * (
            step / warmup if step < warmup else 0.5 * (1 + math.cos(math.pi * (step - warmup) / (steps - warmup)))
        )
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                gradient = parameter.grad * min(1.0, arguments["max_grad_norm"] / (norm + 1e-6))
                decay = 0.0 if "norm" in name else arguments["weight_decay"]
                first, second = moments[name]
                first.mul_(0.9).add_(gradient, alpha=0.1)
                second.mul_(0.999).add_(gradient.square(), alpha=0.001)
                parameter.mul_(1 - rate * decay)
                denominator = (second / (1 - 0.999 ** (step + 1))).sqrt() + 1e-8
                parameter.sub_(rate * (first / (1 - 0.9 ** (step + 1))) / denominator)
    return curve, dict(model.named_parameters())


def test_a_run_equals_a_plain_loop(jobs: dict[str, Path], folder: Path) -> None:
    curve, weights = plain_training(read_json(jobs["zero0"]), folder / "corpus.jsonl")
    assert losses(jobs["zero0"]) == pytest.approx(curve, abs=1e-4)
    ours = load_file(jobs["zero0"].parent / "model" / "model.safetensors")
    for name, weight in weights.items():
        torch.testing.assert_close(ours[name], weight.detach(), rtol=0, atol=2e-4, msg=name)


# ------------------------------------------------------------------------------------------------- what is left behind


@pytest.mark.parametrize("name", ["zero0", "zero3-by-2"])
def test_the_result_is_a_plain_model_folder(jobs: dict[str, Path], name: str) -> None:
    model_folder = jobs[name].parent / "model"
    assert sorted(path.name for path in model_folder.iterdir()) == [
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    model, tokenizer = AutoModelForCausalLM.from_pretrained(model_folder), AutoTokenizer.from_pretrained(model_folder)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert model.generation_config.eos_token_id == tokenizer.eos_token_id == 2
    assert model.generation_config.pad_token_id == tokenizer.pad_token_id == len(tokenizer) - 1
    assert model.config.vocab_size == len(tokenizer)
    assert tokenizer.padding_side == "right"


def test_done_says_what_was_done(jobs: dict[str, Path]) -> None:
    job = jobs["zero3-by-2"]
    done = read_json(job.with_name("done.json"))
    assert is_done(job)
    assert done["files"] == {name: sha256_file(job.parent / name) for name in done["files"]}
    last = max(file.stat().st_mtime_ns for file in job.parent.glob("model/*"))
    assert job.with_name("done.json").stat().st_mtime_ns > last
    assert done["metrics"]["updates"] == 20
    assert done["metrics"]["rows_cut"] == 1
    assert done["metrics"]["rows_without_target"] == 1
    assert done["metrics"]["world_size"] == 2
    assert done["metrics"]["tokens"] == read_json(jobs["zero0"].with_name("done.json"))["metrics"]["tokens"]
    assert done["metrics"]["final_loss"] == losses(job)[-1]
    assert set(done["files"]) == {f"model/{path.name}" for path in (job.parent / "model").iterdir()}
    assert done["peak_memory_bytes"] > 50e6
    assert sorted(path.name for path in job.parent.iterdir() if path.name != ".lock") == [
        "data",
        "done.json",
        "job.json",
        "log.txt",
        "model",
        "progress.jsonl",
        "tensorboard",
    ]


def test_tensorboard_holds_the_loss_curve_and_is_written_by_one_rank(jobs: dict[str, Path]) -> None:
    job = jobs["zero3-by-2"]
    (file,) = (job.parent / "tensorboard").iterdir()
    assert tensorboard_losses(file) == pytest.approx(losses(job))


def tensorboard_losses(file: Path) -> list[float]:
    """`train/loss` of a TensorBoard file: records of length, checksum, bytes, checksum."""
    from tensorboardX.proto.event_pb2 import Event

    data, found = file.read_bytes(), []
    while data:
        size = int.from_bytes(data[:8], "little")
        values = Event.FromString(data[12 : 12 + size]).summary.value
        found += [value.simple_value for value in values if value.tag == "train/loss"]
        data = data[16 + size :]
    return found


@pytest.mark.parametrize(("name", "base"), [("still-tied", "tied"), ("still-by-2", "base"), ("still-by-3", "base")])
def test_weights_are_handed_over_in_fp32_and_a_new_row_is_the_mean(
    jobs: dict[str, Path], folder: Path, name: str, base: str
) -> None:
    before = load_file(folder / base / "model.safetensors")
    after = load_file(jobs[name].parent / "model" / "model.safetensors")
    assert before.keys() == after.keys()
    for key, weight in before.items():
        torch.testing.assert_close(after[key][: len(weight)], weight, rtol=0, atol=0, msg=key)
        if "embed_tokens" in key or "lm_head" in key:
            assert len(after[key]) == len(weight) + 1
            torch.testing.assert_close(after[key][-1], weight.mean(dim=0), rtol=0, atol=1e-7, msg=key)


# ------------------------------------------------------------------------------------------------- what is refused


def test_a_diverging_loss_says_what_to_change(jobs: dict[str, Path]) -> None:
    message = jobs["diverging"].with_name("error.txt").read_text(encoding="utf-8")
    assert message.startswith("FloatingPointError: the loss became nan at update")
    assert "lower learning_rate" in message
    assert not jobs["diverging"].with_name("done.json").exists()


def test_another_corpus_than_the_jobs_is_refused(jobs: dict[str, Path]) -> None:
    message = jobs["wrong-corpus"].with_name("error.txt").read_text(encoding="utf-8")
    assert "corpus.jsonl: not the corpus this job was made for" in message


def test_a_job_that_is_done_is_not_run_again(jobs: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    before = jobs["zero0"].with_name("done.json").stat().st_mtime_ns
    train.main([str(jobs["zero0"])])
    assert "already done" in capsys.readouterr().out
    assert jobs["zero0"].with_name("done.json").stat().st_mtime_ns == before


def test_a_second_run_in_the_same_folder_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train, "LOCK_SECONDS", 0.1)
    lock = train.lock_folder(tmp_path)
    with pytest.raises(RuntimeError, match="another process is training here"):
        train.lock_folder(tmp_path)
    lock.release()
    train.lock_folder(tmp_path).release()


def test_a_bad_job_is_refused(tmp_path: Path) -> None:
    path = make_job(tmp_path / "bad", tmp_path / "base", tmp_path / "corpus.jsonl", loss="mean")
    with pytest.raises(ValueError, match="loss paper or token"):
        train.read_job(path)
    job = json.loads(path.read_text(encoding="utf-8"))
    del job["corpus"], job["seed"]
    path.write_text(json.dumps(job), encoding="utf-8")
    with pytest.raises(ValueError, match="keys are missing: corpus, seed"):
        train.read_job(path)
    with pytest.raises(ValueError, match="bf16 needs ZeRO stage 1, 2 or 3"):
        train.training_arguments({**job, "seed": 1, "training_arguments": {"bf16": True}}, tmp_path)


@pytest.mark.parametrize("path", ["/etc/passwd", "../corpus.jsonl", "data/../../corpus.jsonl"])
def test_a_corpus_outside_of_its_run_is_not_opened(tmp_path: Path, path: str) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "profile.yaml").write_text("")
    (tmp_path / "corpus.jsonl").write_text("{}")
    job = {"fingerprint": "0" * 64, "corpus": {"name": "x", "path": path, "rows": 1}}
    with pytest.raises(ValueError, match=r"job\.json: its corpus .* is not in the run folder .*; delete the file"):
        train.encoded_corpus(job, run / "job" / "job.json", None)


def test_tensorboard_is_no_second_tracker(tmp_path: Path) -> None:
    job = {"seed": 1, "deepspeed": None, "training_arguments": {"report_to": ["wandb", "tensorboard"]}}
    assert train.training_arguments(job, tmp_path).report_to == ["wandb"]
    job["training_arguments"] = {"report_to": "tensorboard"}
    assert train.training_arguments(job, tmp_path).report_to in ([], ["none"])


def test_pickled_weights_are_refused(tmp_path: Path, folder: Path) -> None:
    (tmp_path / "config.json").write_bytes((folder / "base" / "config.json").read_bytes())
    torch.save(load_file(folder / "base" / "model.safetensors"), tmp_path / "pytorch_model.bin")
    with pytest.raises(FileNotFoundError, match=r"pytorch_model.bin.*pickles are refused"):
        load_model(str(tmp_path))


def test_a_corpus_is_tokenised_once_for_all_stages_of_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = tmp_path / "run"
    runs.write_atomic(run / "profile.yaml", "")
    make_base(run / "base")
    corpus = make_corpus(run / "data.jsonl", rows=12)
    jobs = [make_job(run / name, run / "base", corpus) for name in ("first", "second", "shorter")]
    saved = load_tokenizer(str(run / "base"))  # of the stage that the second begins from: with a pad token
    saved.add_special_tokens({"pad_token": "<pad>"})
    saved.save_pretrained(run / "stage-1")
    changes = [{}, {"model": {"path": str(run / "stage-1")}}, {"max_length": 64}]
    counted = []
    monkeypatch.setattr(supervision, "encode_corpus", lambda *a, **k: counted.append(a) or encode_corpus(*a, **k))
    for job, change in zip(jobs, changes, strict=True):
        train.tokenise(runs.read_json(job) | {"corpus": {"name": "sums", "path": "data.jsonl"}} | change, job)
    assert [max_length for _, _, max_length in counted] == [128, 64]
    assert len([path for path in (run / "data" / "encoded").iterdir() if path.is_dir()]) == 2
