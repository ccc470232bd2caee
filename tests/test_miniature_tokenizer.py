"""The miniature's tokenizer and untrained base model."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from itertools import islice
from pathlib import Path

import pytest

from qalign_core import miniature
from qalign_core.languages import CODES
from qalign_core.miniature.language import question, solution
from qalign_core.miniature.world import World
from qalign_core.prompts import alpaca, translation_instruction


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    return miniature.create_base(tmp_path_factory.mktemp("base"), seed=1, config=sizes)


@pytest.fixture(scope="module")
def tokenizer(folder):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder)


@pytest.fixture(scope="module")
def texts():
    problems = World("tokens").distinct(40) + World("tokens", "test", held_out=True).distinct(40)
    made = [f"{question(p, code)}\n{solution(p, code)}" for p in problems for code in CODES]
    return made + [row["text"] for row in islice(miniature.base_text(5), 400)]


def test_text_of_all_languages_survives(tokenizer, texts):
    odd = ["  two  spaces ", "emoji 🙂 ẞ\ttab", "1234567 007 3.5 -4", "한국어", ""]
    for text in texts + odd:
        ids = tokenizer(text).input_ids
        assert tokenizer.decode(ids, skip_special_tokens=True) == text
        assert tokenizer.unk_token_id not in ids


def test_no_character_of_the_world_needs_byte_fallback(tokenizer, texts):
    for text in texts:
        assert not any(token.startswith("<0x") for token in tokenizer.tokenize(text)), text


def test_bos_is_added_and_eos_is_not(tokenizer):
    ids = tokenizer("Tom has 17 apples.").input_ids
    assert ids[0] == tokenizer.bos_token_id == 1
    assert ids[-1] != tokenizer.eos_token_id == 2
    assert tokenizer("a</s>").input_ids[-1] == tokenizer.eos_token_id
    assert tokenizer.pad_token is None


def test_numbers_below_a_hundred_are_one_token_wherever_they_stand(tokenizer):
    for number in range(100):
        (token,) = tokenizer(str(number), add_special_tokens=False).input_ids
        for text in (
            f"has {number} apples",
            f"有{number}个",
            f"3+{number}=",
            f"({number})",
            f"\n{number}",
            f"est : {number}",
        ):
            assert token in tokenizer(text).input_ids, text
    assert tokenizer.tokenize("100 1234 50007") == ["1", "00", " ", "12", "34", " ", "5", "00", "07"]


def test_the_target_leaves_the_prompt_as_it_is(tokenizer, texts):
    problem = World("prefix").distinct(1)[0]
    for code in CODES:
        prompt = alpaca(translation_instruction(question(problem, code), code))
        ids = tokenizer(prompt).input_ids
        for target in ("Tom has", "17", " 17", "\nAnna", "？", ":", "टम", *texts[:100]):
            assert tokenizer(prompt + target).input_ids[: len(ids)] == ids


def test_vocabulary_is_small(tokenizer):
    assert 5000 <= len(tokenizer) <= 6100
    assert [tokenizer.unk_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id] == [0, 1, 2]


def test_training_the_tokenizer_again_gives_the_shipped_one():
    program = "from miniature_tokenizer import train_tokenizer; print(train_tokenizer().to_str())"
    tools = Path(__file__).resolve().parents[1] / "tools"
    environment = {**os.environ, "PYTHONHASHSEED": "1", "PYTHONPATH": str(tools)}
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, env=environment)
    assert run.stdout.strip() == miniature.shipped_tokenizer().to_str()


def test_most_words_and_the_fixed_text_of_prompts_are_one_token(tokenizer):
    problems = World("words").distinct(200)
    for code in ("sw", "de", "fr", "ru", "es", "en"):
        words = [word for problem in problems for word in re.findall(r"[^\W\d]+", question(problem, code))]
        split = [
            word for word in words if len(tokenizer.tokenize(f" {word}")) > 1 and len(tokenizer.tokenize(word)) > 1
        ]
        # 13% in Russian, whose cases of a name are words of their own; at most 10% elsewhere.
        assert len(split) < 0.15 * len(words), (code, sorted(set(split))[:20])
    prompt = tokenizer(alpaca(translation_instruction("Tom", "de"))).input_ids
    assert len(prompt) <= 12


def test_the_base_model_is_a_plain_transformers_folder(folder, tokenizer, tmp_path):
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder)
    assert (folder / "model.safetensors").is_file()
    assert model.config.vocab_size == len(tokenizer)
    assert model.get_input_embeddings().weight is not model.get_output_embeddings().weight  # untied, as in LLaMA-2
    assert model.generation_config.eos_token_id == 2
    assert model.config.max_position_embeddings >= 512
    for layer in model.model.layers:
        assert not layer.self_attn.o_proj.weight.any()
        assert not layer.mlp.down_proj.weight.any()
    assert model.get_input_embeddings().weight.std().item() == pytest.approx(0.06, rel=0.05)
    state = torch.random.get_rng_state()
    config = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    again = miniature.create_base(tmp_path / "again", seed=1, config=config)
    other = miniature.create_base(tmp_path / "other", seed=2, config=config)
    assert torch.equal(torch.random.get_rng_state(), state)
    weights = [(path / "model.safetensors").read_bytes() for path in (folder, again, other)]
    assert weights[0] == weights[1] != weights[2]
