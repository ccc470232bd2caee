"""What happens to an update: gradients over ranks and accumulation, schedule, optimizer, clipping, precision."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from test_supervision import examples, gradients, plain_loss, tiny_model
from tiny_training import ENVIRONMENT
from torch.nn.utils import clip_grad_norm_
from transformers import Trainer, TrainingArguments, get_scheduler

from qalign_core.supervision import Collator
from qalign_core.trainer import StageTrainer
from qalign_core.training.packed_attention import BY_DOCUMENT

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


# ------------------------------------------------------------------------------------------------- precision


ACCUMULATION = """
import json, sys
import torch
from qalign_core.training.ranks import prepare_deepspeed
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
