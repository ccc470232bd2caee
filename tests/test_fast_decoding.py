"""What makes decoding fast leaves the answers as they are, whatever the architecture."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
import torch
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from qalign_core import decoding
from qalign_core.decoding import (
    PROCESSOR_TOKENS,
    GreedyDecoder,
    Sequence,
    choose_batch_tokens,
    free_memory,
)

VOCABULARY, CONTEXT, LIMIT = 48, 128, 24
SHAPE = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": CONTEXT,
    "initializer_range": 0.6,
    "eos_token_id": None,
    "pad_token_id": 0,
}


def llama() -> PreTrainedModel:
    return LlamaForCausalLM(LlamaConfig(**SHAPE))


def tied_llama() -> PreTrainedModel:
    return LlamaForCausalLM(LlamaConfig(**SHAPE, tie_word_embeddings=True))


def qwen() -> PreTrainedModel:
    return Qwen2ForCausalLM(Qwen2Config(**SHAPE))


def mistral() -> PreTrainedModel:
    return MistralForCausalLM(MistralConfig(**SHAPE, sliding_window=CONTEXT))


def gemma() -> PreTrainedModel:
    """Its attention caps scores, and every other layer has a window."""
    return Gemma2ForCausalLM(
        Gemma2Config(**SHAPE, head_dim=8, sliding_window=CONTEXT, query_pre_attn_scalar=8, attn_implementation="eager")
    )


def prompts(shared: int) -> list[list[int]]:
    """Twelve prompts, of which the first `shared` tokens are the same."""
    dice = random.Random(3)

    def tokens(count: int) -> list[int]:
        return [dice.randrange(2, VOCABULARY) for _ in range(count)]

    template = tokens(shared)
    return [template + tokens(dice.randrange(1, 40)) for _ in range(12)]


def alone(model: PreTrainedModel, prompt: list[int], limit: int = LIMIT, eos: int | None = None) -> list[int]:
    """What transformers itself says to one prompt."""
    config = GenerationConfig(do_sample=False, max_new_tokens=limit, eos_token_id=eos, pad_token_id=0)
    tokens = torch.tensor([prompt])
    output = model.generate(tokens, attention_mask=torch.ones_like(tokens), generation_config=config)
    return output[0, len(prompt) :].tolist()


@pytest.mark.parametrize("shared", [0, 20])
@pytest.mark.parametrize("make", [llama, tied_llama, qwen, mistral, gemma])
def test_the_answers_are_those_of_decoding_alone(make: Callable[[], PreTrainedModel], shared: int) -> None:
    torch.manual_seed(0)
    model = make().eval()
    asked = prompts(shared)
    expected = [alone(model, prompt) for prompt in asked]
    for batch_tokens in (200, 5000):
        decoder = GreedyDecoder(model, eos_token_id=-1, filler_token_id=0, batch_tokens=batch_tokens)
        sequences = [Sequence(str(number), prompt, LIMIT) for number, prompt in enumerate(asked)]
        for _ in decoder.decode(sequences):
            pass
        assert [sequence.output_ids for sequence in sequences] == expected


def test_what_prompts_share_is_read_once() -> None:
    torch.manual_seed(0)
    model, read = llama().eval(), []
    forward = model.forward

    def counted(input_ids: torch.Tensor, **arguments: object) -> object:
        read.append(input_ids.numel())
        return forward(input_ids, **arguments)

    model.forward = counted
    asked = [[5] * 30 + [6, 7], [5] * 30 + [8, 9]]
    decoder = GreedyDecoder(model, eos_token_id=-1, filler_token_id=0, batch_tokens=4000)
    list(decoder.decode([Sequence(str(number), prompt, 1) for number, prompt in enumerate(asked)]))
    assert read == [30, 4]
    list(decoder.decode([Sequence("0", asked[0], 1), Sequence("1", asked[0][:30], 1)]))
    assert read[2:] == [29, 6]  # one prompt begins the other: a token of each is left to be read


# ------------------------------------------------------------------------------------------------- batch size


@pytest.mark.parametrize(
    ("wanted", "free", "expected"),
    [
        ("auto", 10**12, PROCESSOR_TOKENS),
        ("auto", 512 * 1000, 1000),
        (700, 10**12, 700),
        (700, 512 * 100, 100),
        ("auto", 0, 1),
    ],
)
def test_a_batch_fits_into_free_memory(
    monkeypatch: pytest.MonkeyPatch, wanted: int | str, free: int, expected: int
) -> None:
    monkeypatch.setattr(decoding, "free_memory", lambda device, processes: free)
    model = llama()  # 256 bytes a token, of half of what is free
    found, remark = choose_batch_tokens(wanted, model, 2)
    assert found == expected
    assert (remark is not None) == (wanted != "auto" and expected < int(wanted))
    if remark:
        assert "batches of 100 tokens instead of 700" in remark


def test_memory_is_shared_by_the_processes_of_a_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    class Memory:
        available = 1000

    monkeypatch.setattr(decoding.psutil, "virtual_memory", Memory)
    assert free_memory(torch.device("cpu"), 4) == 250
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (123, 456))
    assert free_memory(torch.device("cuda", 1), 4) == 123
