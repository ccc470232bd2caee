"""Packed examples attend to themselves only: the same outputs and gradients as alone, and no way to leak."""

from __future__ import annotations

import pytest
import torch
from test_supervision import examples, tiny_model
from transformers import LlamaForCausalLM

from qalign_core.supervision import (
    IGNORED,
    SEPARATING_ATTENTION,
    Collator,
    attention_for,
    check_attention,
    check_separation,
    weighted_loss,
)
from qalign_core.training.packed_attention import BY_DOCUMENT


def packed_logits(model: LlamaForCausalLM, batch: dict, **changes) -> torch.Tensor:
    """(T, V) of a packed batch."""
    layout = {name: batch[name] for name in ("input_ids", "position_ids", "document_lengths")}
    with torch.no_grad():
        return model(**({**layout, "use_cache": False} | changes)).logits[0]


@pytest.fixture(scope="module")
def model() -> LlamaForCausalLM:
    """Two query heads a key head, in double precision: in single, the order of sums alone moves logits by 1e-6."""
    return tiny_model(attn_implementation=BY_DOCUMENT).double().eval()


def test_packing_uses_it_and_padding_does_not() -> None:
    assert attention_for(packing=True) == BY_DOCUMENT == SEPARATING_ATTENTION[0]
    assert attention_for(packing=False) == "sdpa"
    check_attention(BY_DOCUMENT, packing=True)


@pytest.mark.parametrize("attention", SEPARATING_ATTENTION)
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
