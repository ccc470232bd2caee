"""Attention by document and the weighted cross-entropy, against separate sequences and PyTorch's own."""

from __future__ import annotations

import pytest
import torch
from test_supervision import examples, plain_loss, tiny_model
from transformers import LlamaForCausalLM

from qalign_core import kernels
from qalign_core.kernels import (
    BY_DOCUMENT,
    check_separation,
    weighted_loss,
    weighted_nll,
)
from qalign_core.supervision import IGNORED, Collator

# ------------------------------------------------------------------------------------------------- attention


def packed_logits(model: LlamaForCausalLM, batch: dict, **changes) -> torch.Tensor:
    """(T, V) of a packed batch."""
    layout = {name: batch[name] for name in ("input_ids", "position_ids", "document_lengths")}
    with torch.no_grad():
        return model(**({**layout, "use_cache": False} | changes)).logits[0]


@pytest.fixture(scope="module")
def model() -> LlamaForCausalLM:
    """Two query heads a key head, in double precision: in single, the order of sums alone moves logits by 1e-6."""
    return tiny_model(attn_implementation=BY_DOCUMENT).double().eval()


@pytest.mark.parametrize("attention", [BY_DOCUMENT, "sdpa"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_packed_gradients_equal_those_of_separate_sequences(attention: str, checkpointing: bool) -> None:
    rows = examples(7)
    separate = tiny_model().double()
    for row in rows[:5]:  # the last two have no targets
        logits = separate(input_ids=torch.tensor([row["input_ids"]])).logits[0, :-1]
        labels = torch.tensor(row["labels"])[1:]
        torch.nn.functional.cross_entropy(logits, labels, ignore_index=IGNORED, reduction="sum").backward()
    packed = tiny_model(attn_implementation=attention).double().train()
    if checkpointing:
        packed.activation_checkpointing_enable()
    weighted_loss(packed, Collator(0, loss="token")(rows)).backward()
    for (name, ours), expected in zip(packed.named_parameters(), separate.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, expected.grad, rtol=1e-6, atol=1e-9, msg=name)


def test_neither_a_cache_nor_missing_positions_make_it_leak(model: LlamaForCausalLM) -> None:
    batch = Collator(0)(examples(5))
    expected = packed_logits(model, batch)
    torch.testing.assert_close(packed_logits(model, batch, use_cache=True), expected, rtol=0, atol=0)
    first, second = batch["document_lengths"][:2]
    changed = batch["input_ids"].clone()
    changed[:, :first] = 3
    # Without positions the second example is rotated as if the first stood before it, and still does not see it.
    plain, other = (
        packed_logits(model, batch, input_ids=ids, position_ids=None) for ids in (batch["input_ids"], changed)
    )
    torch.testing.assert_close(other[first : first + second], plain[first : first + second], rtol=0, atol=0)
    check_separation(model)


def test_a_mask_with_packed_examples_is_refused(model: LlamaForCausalLM) -> None:
    batch = Collator(0)(examples(5))
    for mask in (torch.ones_like(batch["input_ids"]), torch.ones(1, 1, *[batch["input_ids"].shape[1]] * 2)):
        with pytest.raises(ValueError, match="no attention mask"):
            packed_logits(model, batch, attention_mask=mask)
        with pytest.raises(ValueError, match="packed batch has no attention_mask"):
            weighted_loss(tiny_model(), batch | {"attention_mask": mask})


@pytest.mark.parametrize(
    "change",
    [{"document_lengths": None}, {"document_lengths": [3]}, {"input_ids": torch.ones(2, 8, dtype=torch.long)}],
    ids=["no lengths", "other lengths", "two rows"],
)
def test_rows_that_are_not_packed_are_refused(model: LlamaForCausalLM, change: dict) -> None:
    batch = {"input_ids": torch.ones(1, 8, dtype=torch.long), "position_ids": None, "document_lengths": [5, 3]}
    with pytest.raises(ValueError, match=r"document_lengths that sum to its 8 tokens; got . rows and"):
        packed_logits(model, batch | change)


def test_a_window_shorter_than_a_document_is_refused() -> None:
    from transformers import MistralConfig, MistralForCausalLM

    torch.manual_seed(0)
    shape = {"vocab_size": 60, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "attn_implementation": BY_DOCUMENT}
    batch = Collator(0)(examples(5))
    longest = max(batch["document_lengths"])
    mistral = MistralForCausalLM(MistralConfig(**shape, **heads, sliding_window=longest))
    assert packed_logits(mistral, batch).isfinite().all()
    mistral = MistralForCausalLM(MistralConfig(**shape, **heads, sliding_window=longest - 1))
    with pytest.raises(ValueError, match=f"attends to {longest - 1} tokens and a document has {longest}"):
        packed_logits(mistral, batch)


def test_a_saved_model_does_not_ask_for_it(tmp_path) -> None:
    tiny_model(attn_implementation=BY_DOCUMENT).save_pretrained(tmp_path)
    assert BY_DOCUMENT not in (tmp_path / "config.json").read_text(encoding="utf-8")


# ------------------------------------------------------------------------------------------------- loss


def example(dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Logits (37, 50) with some very large ones, targets, and weights of which some are 0."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(37, 50, generator=generator) * 5
    logits[3] += 500
    weights = torch.rand(37, generator=generator, dtype=torch.float64)
    weights[::5] = 0
    return logits.to(dtype), torch.randint(0, 50, (37,), generator=generator), weights


def plain(logits: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return (torch.nn.functional.cross_entropy(logits, targets, reduction="none") * weights).sum()


@pytest.mark.parametrize("chunk", [1, 150, 10**6])
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-6), (torch.bfloat16, 4e-3)]
)
def test_value_and_gradient(monkeypatch: pytest.MonkeyPatch, chunk: int, dtype: torch.dtype, tolerance: float) -> None:
    monkeypatch.setattr(kernels, "CHUNK", {"cpu": chunk})
    logits, targets, weights = example(dtype)
    leaf = logits.clone().requires_grad_()
    expected = plain(leaf, targets, weights) / 4
    expected.backward()
    ours = logits.clone().requires_grad_()
    loss = weighted_nll(ours * 1, targets, weights) / 4  # `* 1`: logits are never a leaf
    loss.backward()
    assert loss.dtype == torch.float64
    torch.testing.assert_close(loss, expected, rtol=1e-6, atol=0)
    torch.testing.assert_close(ours.grad, leaf.grad, rtol=tolerance, atol=tolerance)


def test_the_logits_memory_is_used_again_and_only_once() -> None:
    logits, targets, weights = example(torch.float32)
    leaf = logits.requires_grad_()
    product = leaf * 1
    loss = weighted_nll(product, targets, weights)
    loss.backward(retain_graph=True)
    torch.testing.assert_close(product.detach(), leaf.grad, rtol=0, atol=0)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_without_targets_it_is_zero_and_has_a_gradient() -> None:
    leaf = torch.empty(0, 50, requires_grad=True)
    loss = weighted_nll(leaf * 1, torch.empty(0, dtype=torch.long), torch.empty(0, dtype=torch.float64))
    loss.backward()
    assert loss.item() == 0
    assert leaf.grad.shape == (0, 50)


@pytest.mark.parametrize("loss", ["paper", "token"])
def test_bf16_changes_loss_and_gradients_by_its_own_error_alone(loss: str) -> None:
    rows = examples(16)
    reference, model = tiny_model(), tiny_model(attn_implementation=BY_DOCUMENT)
    expected = plain_loss(reference, rows, loss)
    expected.backward()
    batch = Collator(0, loss=loss)(rows)
    value = weighted_loss(model.bfloat16(), batch) / batch["items"].item()
    value.backward()
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(expected.item(), rel=1e-3)
    for (name, ours), theirs in zip(model.named_parameters(), reference.parameters(), strict=True):
        assert (ours.grad.float() - theirs.grad).norm() < 0.05 * theirs.grad.norm(), name
