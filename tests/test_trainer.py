"""What happens to an update (gradients, schedule, optimizer, precision), and which checkpoint a run goes on from."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from test_supervision import examples, gradients, plain_loss, tiny_model
from tiny_training import ENVIRONMENT
from torch.nn.utils import clip_grad_norm_
from transformers import Trainer, TrainingArguments, get_scheduler
from transformers.trainer_pt_utils import LengthGroupedSampler

from qalign_core import trainer
from qalign_core.kernels import BY_DOCUMENT
from qalign_core.supervision import Collator
from qalign_core.train import newest_step
from qalign_core.trainer import StageTrainer

PARAMS = Path(__file__).resolve().parents[1] / "params"


def rank_of(world: int) -> SimpleNamespace:
    """What `StageTrainer.compute_loss` asks of a trainer that is one of `world` ranks."""
    return SimpleNamespace(
        check_packing=False,
        accelerator=SimpleNamespace(num_processes=world),
        state=SimpleNamespace(global_step=0),
        args=SimpleNamespace(learning_rate=0.0),
    )


@pytest.mark.parametrize("loss", ["paper", "token"])
@pytest.mark.parametrize("packing", [True, False], ids=["packed", "padded"])
@pytest.mark.parametrize(("world", "device_batch"), [(1, 2), (1, 8), (2, 2), (2, 8), (4, 4)])
def test_gradients_equal_a_padded_reference_on_any_ranks(
    loss: str, packing: bool, world: int, device_batch: int
) -> None:
    """Each rank accumulates its device batches' gradients; the ranks' are averaged, as DeepSpeed does."""
    rows = examples(16)
    reference = tiny_model()
    expected = gradients(reference, plain_loss(reference, rows, loss))
    model = tiny_model(attn_implementation=BY_DOCUMENT if packing else "sdpa")
    collate = Collator(0, packing=packing, loss=loss)
    batches = [collate(rows[start : start + device_batch]) for start in range(0, 16, device_batch)]
    items = sum(batch["items"] for batch in batches)
    for batch in batches:  # whichever rank has it
        part = StageTrainer.compute_loss(rank_of(world), model, batch, num_items_in_batch=items)
        (part / world).backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name], rtol=1e-5, atol=1e-6, msg=name)


# ------------------------------------------------------------------------------------------------- the authors' recipe


@pytest.mark.parametrize("total", [177, 1548, 1725, 9258])
def test_warm_up_and_cosine_are_those_of_the_recipe(tmp_path: Path, total: int) -> None:
    """3% of the updates, rounded up, linearly from 0; then half a cosine to 0 (transformers 4.29: get_cosine_...)."""
    arguments = TrainingArguments(
        output_dir=str(tmp_path), learning_rate=2e-5, lr_scheduler_type="cosine", warmup_steps=0.03, use_cpu=True
    )
    warmup = arguments.get_warmup_steps(total)
    assert warmup == math.ceil(0.03 * total)
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], lr=arguments.learning_rate)
    scheduler = get_scheduler(arguments.lr_scheduler_type, optimizer, warmup, total)
    for step in range(total + 1):
        if step < warmup:
            expected = 2e-5 * step / warmup
        else:
            expected = 2e-5 * (1 + math.cos(math.pi * (step - warmup) / (total - warmup))) / 2
        assert scheduler.get_last_lr()[0] == pytest.approx(expected, rel=1e-9, abs=1e-18), step
        optimizer.step()
        scheduler.step()


@pytest.mark.parametrize("optimizer", ["adamw_torch", "adamw_torch_fused"])
@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_adamw_with_clipping_equals_the_closed_form(tmp_path: Path, optimizer: str, weight_decay: float) -> None:
    """With the same gradient g at every step the bias-corrected moments are g and g², so a step is known beforehand."""
    arguments = TrainingArguments(
        output_dir=str(tmp_path), optim=optimizer, learning_rate=0.01, weight_decay=weight_decay, use_cpu=True
    )
    assert (arguments.adam_beta1, arguments.adam_beta2, arguments.adam_epsilon) == (0.9, 0.999, 1e-8)
    assert arguments.max_grad_norm == 1.0
    model = torch.nn.Linear(3, 1)
    made = Trainer(model=model, args=arguments).create_optimizer()
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    raw = {"weight": torch.tensor([[3.0, 0.0, -4.0]]), "bias": torch.tensor([12.0])}  # norm 13
    for _ in range(5):
        for name, parameter in model.named_parameters():
            parameter.grad = raw[name].clone()
        assert clip_grad_norm_(model.parameters(), arguments.max_grad_norm).item() == pytest.approx(13.0)
        made.step()
    for name, parameter in model.named_parameters():
        clipped = raw[name] / (13 + 1e-6)
        decay = weight_decay if name == "weight" else 0.0  # biases and norms do not decay
        expected = before[name]
        for _ in range(5):
            expected = expected * (1 - 0.01 * decay) - 0.01 * clipped / (clipped.abs() + 1e-8)
        torch.testing.assert_close(parameter.detach(), expected, rtol=1e-5, atol=1e-6, msg=name)


def test_grouping_by_length_is_the_same_whenever_an_epoch_is_entered() -> None:
    stage = SimpleNamespace(state=SimpleNamespace(epoch=0.0), args=SimpleNamespace(data_seed=1))
    sampler = trainer.SeededLengthGroupedSampler(stage, LengthGroupedSampler(4, lengths=list(range(800))))
    first = list(sampler)
    stage.state.epoch = 0.7  # resumed
    assert list(sampler) == first
    stage.state.epoch = 1.0
    assert list(sampler) != first
    assert sorted(first) == list(range(800))
    assert max(max(first[start : start + 4]) - min(first[start : start + 4]) for start in range(4, 200, 4)) < 100


# ------------------------------------------------------------------------------------------------- precision


ACCUMULATION = """
import json, sys
import torch
from qalign_core.train import prepare_deepspeed
prepare_deepspeed()
import deepspeed
from deepspeed.utils import safe_get_full_grad

sums = []
for path in sys.argv[1:]:
    config = json.loads(open(path).read())
    config |= {"train_micro_batch_size_per_gpu": 1, "gradient_accumulation_steps": 4, "gradient_clipping": 0.0}
    config["bf16"]["enabled"] = True
    config["zero_optimization"].pop("overlap_comm", None)
    for key in ("prefetch_bucket_size", "param_persistence_threshold"):
        config["zero_optimization"].pop("stage3_" + key, None)
    torch.manual_seed(0)
    layer = torch.nn.Linear(8, 1, bias=False)
    optimizer = torch.optim.AdamW(layer.parameters())
    engine, *_ = deepspeed.initialize(model=layer, optimizer=optimizer, config=config)
    for step, size in enumerate((1.0, 2.0**-9, 2.0**-9, 2.0**-8)):  # added one by one in bf16 they stay 1
        loss = engine(torch.full((1, 8), size, dtype=torch.bfloat16, device=engine.device)).sum()
        engine.backward(loss)
        if step < 3:
            engine.step()
    sums.append(safe_get_full_grad(engine.module.weight).flatten()[0].item())
print(json.dumps(sums))
"""


def test_gradients_accumulate_in_fp32_under_bf16() -> None:
    """In every ZeRO stage, with the configurations that are shipped; the sum is one that bf16 can hold, since ranks may
    exchange it in bf16 (as under the authors' FSDP)."""
    paths = [PARAMS / "deepspeed" / f"zero{stage}.json" for stage in (1, 2, 3)]
    command = [sys.executable, "-c", ACCUMULATION, *map(str, paths)]
    finished = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=120, check=False)
    assert finished.returncode == 0, finished.stderr[-2000:]
    assert json.loads(finished.stdout.splitlines()[-1]) == [(1 + 2**-7) / 4] * 3


@pytest.mark.parametrize("path", sorted((PARAMS / "deepspeed").glob("*.json")), ids=lambda path: path.stem)
def test_every_shipped_configuration_asks_for_it(path: Path) -> None:
    assert json.loads(path.read_text(encoding="utf-8"))["data_types"]["grad_accum_dtype"] == "fp32"


# ------------------------------------------------------------------------------------------------- checkpoints


def parts(step: int, world_size: int) -> list[str]:
    """The files of a checkpoint of ZeRO 2, as Trainer and DeepSpeed name them."""
    shards = [f"global_step{step}/zero_pp_rank_{rank}_mp_rank_00_optim_states.pt" for rank in range(world_size)]
    random = [f"rng_state_{rank}.pth" for rank in range(world_size)] if world_size > 1 else ["rng_state.pth"]
    return ["trainer_state.json", "latest", f"global_step{step}/mp_rank_00_model_states.pt", *shards, *random]


def written(folder: Path, step: int, world_size: int = 1) -> Path:
    path = folder / f"checkpoint-{step}"
    for name in parts(step, world_size):
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(b"x" * 100)
    (path / "latest").write_text(f"global_step{step}")
    return path


def checkpoint(folder: Path, step: int, fingerprint: str = "job", world_size: int = 1) -> Path:
    path = written(folder, step, world_size)
    trainer.seal(path, fingerprint, world_size, {"tokens": step})
    return path


def test_a_damaged_last_checkpoint_falls_back_to_the_one_before(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for step in (20, 120, 100, 80, 60, 40):
        checkpoint(tmp_path, step)
    (tmp_path / "checkpoint-120" / "complete.json").write_text("{")
    (tmp_path / "checkpoint-100" / "complete.json").unlink()
    (tmp_path / "checkpoint-80" / "global_step80" / "mp_rank_00_model_states.pt").write_bytes(b"x" * 50)
    (tmp_path / "checkpoint-60" / "rng_state.pth").unlink()
    assert newest_step(tmp_path) == 120
    found, manifest = trainer.latest(tmp_path, "job", 1)
    assert found.name == "checkpoint-40"
    assert manifest["totals"] == {"tokens": 40}
    said = capsys.readouterr().out
    assert "checkpoint-120 is not used: " in said
    assert "complete.json: line 1: not JSON" in said
    assert "checkpoint-100 is not used: it was never finished" in said
    assert "checkpoint-80 is not used: global_step80/mp_rank_00_model_states.pt has 50 bytes instead of 100" in said
    assert "checkpoint-60 is not used: rng_state.pth is missing" in said
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-20", "checkpoint-40"]


@pytest.mark.parametrize("world_size", [1, 2])
def test_a_checkpoint_without_every_part_is_never_declared_complete(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, world_size: int
) -> None:
    monkeypatch.setattr(trainer, "VISIBLE_SECONDS", 0.1)
    for number, name in enumerate(parts(20, world_size)):
        if world_size == 1 and "optim" in name:
            continue  # ZeRO 0 has no such file
        folder = written(tmp_path / str(number), 20, world_size)
        (folder / name).unlink()
        with pytest.raises(FileNotFoundError, match="did not appear: every machine must write into the same run"):
            trainer.seal(folder, "job", world_size, {})
        assert trainer.damage(folder) == "it was never finished"


def test_the_manifest_waits_for_what_a_file_server_shows_late(tmp_path: Path) -> None:
    folder = written(tmp_path, 20, world_size=2)
    late = folder / "rng_state_1.pth"
    late.unlink()
    threading.Timer(0.3, late.write_bytes, [b"x" * 100]).start()
    trainer.seal(folder, "job", 2, {})
    assert trainer.damage(folder) is None


def test_the_parts_of_every_zero_stage_are_known() -> None:
    common = ["trainer_state.json", "latest", "rng_state_0.pth", "rng_state_1.pth"]
    zero0 = [*common, "global_step20/mp_rank_00_model_states.pt"]
    bf16 = [f"global_step20/bf16_zero_pp_rank_{rank}_mp_rank_00_optim_states.pt" for rank in range(2)]
    zero3 = [f"global_step20/zero_pp_rank_{rank}_mp_rank_00_model_states.pt" for rank in range(2)]
    assert trainer.missing(zero0, 2) == []
    assert trainer.missing([*zero0, *bf16], 2) == []
    assert trainer.missing([*common, *zero3, *bf16], 2) == []
    assert trainer.missing([*common, *zero3, bf16[0]], 2) == ["the optimizer's shard of rank 1"]
    assert trainer.missing(["latest", "rng_state_1.pth"], 2) == [
        "trainer_state.json",
        "the model's weights",
        "the random state of rank 0",
    ]


def test_checkpoints_of_another_job_or_world_size_are_refused_and_kept(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path, 20, world_size=2)
    with pytest.raises(ValueError, match=r"written by 2 ranks and this run has 1: run on 2 again \(run.devices"):
        trainer.latest(tmp_path, "job", 1)
    with pytest.raises(ValueError, match="a job with other parameters, data or initial model: undo what was changed"):
        trainer.latest(tmp_path, "another", 2)
    assert trainer.damage(folder) is None


def test_checkpoints_are_read_from_the_runs_own_folder_only(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """DeepSpeed's files are pickles: nothing in a run may lead to some that were written elsewhere."""
    elsewhere, mine = tmp_path / "elsewhere", tmp_path / "mine"
    checkpoint(elsewhere, 60)
    mine.mkdir()
    (mine / "checkpoint-60").symlink_to(elsewhere / "checkpoint-60")
    states = checkpoint(mine, 40) / "global_step40" / "mp_rank_00_model_states.pt"
    states.unlink()
    states.symlink_to(elsewhere / "checkpoint-60" / "global_step60" / "mp_rank_00_model_states.pt")
    (checkpoint(mine, 20) / "latest").write_text("../../elsewhr")  # as long as global_step20: the sizes agree
    assert trainer.latest(mine, "job", 1) is None
    said = capsys.readouterr().out
    assert said.count("it leads out of the run's own folder (a link)") == 2
    assert "its file `latest` names '../../elsewhr' instead of global_step20" in said
    assert trainer.damage(elsewhere / "checkpoint-60") is None
    (tmp_path / "linked").symlink_to(elsewhere)
    with pytest.raises(ValueError, match="is a link: checkpoints are read from the run's own folder only"):
        trainer.latest(tmp_path / "linked", "job", 1)
