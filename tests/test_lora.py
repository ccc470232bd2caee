"""LoRA: the merged weights are base + scale · B·A, and training, a kill and QAlign's two stages give such weights."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from forked_training import STAND_STILL, Forks, forks, read_log, wait_for
from profiles import changed
from pydantic import ValidationError
from safetensors.torch import load_file
from tiny_training import losses, make_base, make_corpus, make_job
from transformers import AutoModelForCausalLM

from qalign_core import launch, params, plan, prepare, train
from qalign_core.models import (
    add_adapters,
    add_pad_token,
    full_state_dict,
    load_model,
    load_tokenizer,
    merged,
    save_model,
)
from qalign_core.params import LoraSection, ProfileError
from qalign_core.runs import is_done, read_json, read_json_lines, sha256_file, write_json
from qalign_core.trainer import MANIFEST

__all__ = ["forks"]  # a fixture
RANK = 4
SETTINGS = LoraSection(rank=RANK, alpha=8).model_dump()
LAYERS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def lora_job(folder: Path, base: Path, zero: int, settings: dict[str, Any] = SETTINGS, **changes: Any) -> Path:
    """A job of `tiny_training` that trains by LoRA."""
    path = make_job(folder, base, base.parent / "corpus.jsonl", zero, method="lora", learning_rate=2e-2, **changes)
    return write_json(path, read_json(path) | {"lora": settings})


def is_adapter(name: str) -> bool:
    return ".lora_" in name


def weights(job: Path) -> dict[str, torch.Tensor]:
    return load_file(job.parent / "model" / "model.safetensors")


# ------------------------------------------------------------------------------------------------- the matrices


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("lora")
    make_base(folder / "base")
    make_base(folder / "tied", tied=True)
    make_corpus(folder / "corpus.jsonl")
    return folder


def adapted(base: Path, **settings: Any) -> Any:
    """A model with adapters whose B is not zero, as after training."""
    model, tokenizer = load_model(str(base)), load_tokenizer(str(base))
    add_pad_token(model, tokenizer)
    torch.manual_seed(0)
    found = add_adapters(model, SETTINGS | settings)
    for name, parameter in found.named_parameters():
        if is_adapter(name):
            torch.nn.init.normal_(parameter, std=0.2)
    return found, tokenizer


@pytest.mark.parametrize("base", ["base", "tied"])
def test_the_merged_model_is_base_plus_scaled_matrices(folder: Path, tmp_path: Path, base: str) -> None:
    model, tokenizer = adapted(folder / base)
    ids = torch.arange(3, 23)[None]
    before = load_model(str(folder / base))(ids).logits
    with torch.no_grad():
        expected = model(ids).logits
    trained = full_state_dict(model, keep=True)
    assert {is_adapter(name) for name in trained} == {True}
    plain = merged(model, trained, tokenizer, str(folder / base))
    save_model(plain, tokenizer, tmp_path / "model", {})
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    torch.testing.assert_close(again(ids).logits, expected, rtol=0, atol=1e-5)
    assert (again(ids).logits[..., : before.shape[-1]] - before).abs().max() > 1e-2
    files = load_file(folder / base / "model.safetensors")
    a, b = (trained[f"base_model.model.model.layers.1.mlp.up_proj.lora_{x}.default.weight"] for x in "AB")
    key = "model.layers.1.mlp.up_proj.weight"
    state = load_file(tmp_path / "model" / "model.safetensors")
    torch.testing.assert_close(state[key], files[key] + 8 / RANK * b @ a, rtol=0, atol=1e-6)


def test_only_the_matrices_are_trained_unless_embeddings_are_asked_for(folder: Path) -> None:
    def trained(base: str, **settings: Any) -> set[str]:
        model, _ = adapted(folder / base, **settings)
        return {n for n, p in model.named_parameters() if p.requires_grad and not is_adapter(n)}

    assert trained("base") == set()
    assert trained("tied", embeddings=True) == {"base_model.model.model.embed_tokens.weight"}
    assert trained("base", embeddings=True) == {
        "base_model.model.model.embed_tokens.weight",
        "base_model.model.lm_head.weight",
    }
    model, _ = adapted(folder / "base", target_modules=["q_proj"])
    assert {n.split(".")[-4] for n, p in model.named_parameters() if p.requires_grad} == {"q_proj"}


def test_layers_that_the_model_has_not_are_refused(folder: Path) -> None:
    with pytest.raises(ValueError, match=r"query_key_value is not among .* down_proj, gate_proj, k_proj"):
        adapted(folder / "base", target_modules=["q_proj", "query_key_value"])
    with pytest.raises(ValueError, match="lm_head is not among"):
        adapted(folder / "base", target_modules=["lm_head"])


def test_a_matrix_without_a_weight_is_an_error(folder: Path) -> None:
    model, tokenizer = adapted(folder / "base")
    stray = {"base_model.model.x.lora_A.default.weight": torch.ones(1, 1)}
    with pytest.raises(RuntimeError, match=r"nothing to merge base_model\.model\.x\.lora_A"):
        merged(model, stray, tokenizer, str(folder / "base"))


# ------------------------------------------------------------------------------------------------- the profile


def profile_with(**training: Any) -> params.Profile:
    return changed("smoke", **{f"training__{key}": value for key, value in training.items()})


def test_lora_is_a_method_and_its_numbers_are_checked() -> None:
    assert profile_with(method="lora").training.lora is None  # the defaults of LoraSection
    assert profile_with(method="lora", lora={"rank": 8}).training.lora == LoraSection(rank=8)
    with pytest.raises(ProfileError, match="training.lora: describes method: lora, but method is full"):
        profile_with(lora={"rank": 8})
    with pytest.raises(ProfileError, match=r"training\.lora\.rnk: unknown key \(did you mean 'rank'\?\)"):
        profile_with(method="lora", lora={"rnk": 8})
    with pytest.raises(ValidationError):
        LoraSection(dropout=1.0)
    whole = {"method": "lora", "lora": {"embeddings": True}, "bf16": True}
    assert profile_with(**whole, deepspeed="deepspeed/zero2.json").training.lora
    with pytest.raises(ProfileError, match=r"lora\.embeddings: DeepSpeed cannot train them in bf16 under ZeRO stage 3"):
        profile_with(**whole, deepspeed="deepspeed/zero3.json")


def test_a_job_of_lora_without_its_numbers_is_refused(folder: Path, tmp_path: Path) -> None:
    path = lora_job(tmp_path / "job", folder / "base", 0, settings={})
    with pytest.raises(ValueError, match="method lora needs the key lora"):
        train.read_job(path)


# ------------------------------------------------------------------------------------------------- training


@pytest.fixture(scope="module")
def jobs(folder: Path, forks: Forks) -> dict[str, Path]:
    """Jobs that were run, one after the other in one process."""
    dropping = SETTINGS | {"dropout": 0.1}
    found = {
        "zero1": lora_job(folder / "zero1", folder / "base", 1),
        "zero3": lora_job(folder / "zero3", folder / "base", 3, activation_checkpointing=True),
        "bf16": lora_job(folder / "bf16", folder / "tied", 2, SETTINGS | {"embeddings": True}, bf16=True),
        "undisturbed": lora_job(folder / "undisturbed", folder / "base", 2, dropping, max_steps=60, save_steps=10),
    }
    forks.in_turn(found.values())
    return found


def test_training_lowers_the_loss_and_changes_the_chosen_layers_alone(jobs: dict[str, Path], folder: Path) -> None:
    curve = losses(jobs["zero1"])
    assert curve[-1] < curve[0] - 0.2
    before, after = load_file(folder / "base" / "model.safetensors"), weights(jobs["zero1"])
    assert after.keys() == before.keys()
    for name, weight in before.items():
        change = after[name][: len(weight)] - weight
        if any(layer in name for layer in LAYERS):
            assert 0 < torch.linalg.matrix_rank(change, rtol=1e-3) <= RANK, name
        else:
            assert not change.any(), name
    for name in ("model.embed_tokens.weight", "lm_head.weight"):  # the pad token's row: the mean, and not trained
        assert len(after[name]) == len(before[name]) + 1
        torch.testing.assert_close(after[name][-1], before[name].mean(dim=0), rtol=0, atol=1e-7)


def test_sharded_and_checkpointed_training_is_the_same(jobs: dict[str, Path]) -> None:
    assert losses(jobs["zero3"]) == pytest.approx(losses(jobs["zero1"]), abs=1e-4)
    for name, weight in weights(jobs["zero1"]).items():
        torch.testing.assert_close(weights(jobs["zero3"])[name], weight, rtol=0, atol=1e-4, msg=name)


def test_bf16_leaves_the_base_in_fp32_and_embeddings_are_trained_when_asked_for(
    jobs: dict[str, Path], folder: Path
) -> None:
    before, after = load_file(folder / "tied" / "model.safetensors"), weights(jobs["bf16"])
    norm = "model.layers.0.input_layernorm.weight"
    assert torch.equal(after[norm], before[norm])
    embedding = "model.embed_tokens.weight"
    assert (after[embedding][: len(before[embedding])] - before[embedding]).abs().max() > 1e-3
    assert losses(jobs["bf16"])[-1] < losses(jobs["bf16"])[0] - 0.2


def test_a_killed_run_ends_with_the_very_weights(jobs: dict[str, Path], folder: Path, forks: Forks) -> None:
    settings = SETTINGS | {"dropout": 0.1}  # random masks, which a resumed run must draw again
    path = lora_job(folder / "killed", folder / "base", 2, settings, max_steps=60, save_steps=10)
    process = forks.start(path, **{STAND_STILL: "100"})  # in update 25
    sealed = path.parent / "checkpoints" / "checkpoint-20"
    wait_for(lambda: (sealed / MANIFEST).is_file() or not process.is_alive(), why=lambda: read_log(path))
    assert process.is_alive(), "the run ended too early"
    os.killpg(process.pid, signal.SIGKILL)
    process.join(timeout=30)
    size = sum(file.stat().st_size for file in sealed.rglob("*") if file.is_file())
    assert not is_done(path)
    forks.finish(path)
    assert "resuming from" in path.with_name("log.txt").read_text(encoding="utf-8")
    files = [job.parent / "model" / "model.safetensors" for job in (path, jobs["undisturbed"])]
    assert sha256_file(files[0]) == sha256_file(files[1])
    assert losses(path) == losses(jobs["undisturbed"])
    adapters = sum(p.numel() for n, p in adapted(folder / "base")[0].named_parameters() if is_adapter(n))
    assert size < 20 * adapters + 200_000, "a checkpoint holds the matrices and their optimizer, not the frozen base"


# ------------------------------------------------------------------------------------------------- the whole road


def test_qaligns_two_stages_go_the_road_of_full_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QALIGN_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    profile = changed(
        "smoke",
        data__languages=["sw", "en"],
        systems={"QAlign": {"lineage": ["questions-x-en", "metamathqa"]}},
        training__method="lora",
        training__lora={"rank": RANK, "alpha": 8},
        training__deepspeed="deepspeed/zero3.json",
    )
    run = plan.open_run(profile, tmp_path / "run")
    prepare.write_corpora(profile, run)
    prepare.write_benchmarks(profile, run)
    first, second = (plan.stage_job(profile, run, 1, lineage) for lineage in profile.lineages())
    assert first.content["method"] == "lora"
    assert first.content["lora"] == LoraSection(rank=RANK, alpha=8).model_dump()
    assert second.content["model"]["path"].endswith("questions-x-en/model")
    for job in (first, second, plan.prediction_job(profile, run, "QAlign", 1)):
        launch.run_job(job, profile, run)
        assert job.done
    names = sorted(path.name for path in (second.folder / "model").iterdir())
    assert "model.safetensors" in names
    assert not any("adapter" in name for name in names)
    one, two = (load_file(job.folder / "model" / "model.safetensors") for job in (first, second))
    layer = "model.layers.0.self_attn.q_proj.weight"
    assert 0 < torch.linalg.matrix_rank(two[layer] - one[layer], rtol=1e-3) <= RANK
    answered = run.predictions(1, ["questions-x-en", "metamathqa"]) / "benchmarks" / "mgsm" / "sw.jsonl"
    assert len(read_json_lines(answered)) == 4


def test_the_numbers_of_lora_and_the_order_of_batches_are_part_of_the_fingerprint(tmp_path: Path) -> None:
    run = plan.open_run(profile_with(), tmp_path / "run")
    prints = set()
    write_json(run.corpus("questions-x-en", 1).with_suffix(".json"), {"sha256": "x", "rows": 8})
    for training in ({}, {"method": "lora"}, {"method": "lora", "lora": {"rank": 8}}):
        job = plan.stage_job(profile_with(**training), run, 1, ["questions-x-en"])
        assert ("lora" in job.content) == bool(training)
        prints.add(job.content["fingerprint"])
    grouped = plan.stage_job(profile_with(train_sampling_strategy="group_by_length"), run, 1, ["questions-x-en"])
    assert grouped.content["training_arguments"]["train_sampling_strategy"] == "group_by_length"
    assert len(prints | {grouped.content["fingerprint"]}) == 4
