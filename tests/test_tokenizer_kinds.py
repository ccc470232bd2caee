"""Tokenizers of LLaMA-3's, Mistral's and Qwen's kinds, made here, and small models of theirs, through every part.

LLaMA-3 has neither pad nor unknown token and puts BOS before every text; Qwen has no BOS, and its pad token is its EOS;
Mistral's is SentencePiece's. Both others cut text by an expression that may join a colon with the word behind it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from test_supervision import sentencepiece_folder
from tiny_training import byte_level, losses, make_corpus, make_job, run_jobs
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, MistralConfig, Qwen2Config

from qalign_core import generate
from qalign_core.decoding import GreedyDecoder, Sequence
from qalign_core.kernels import check_separation, weighted_loss
from qalign_core.models import add_pad_token, full_state_dict, load_model, load_tokenizer, save_model
from qalign_core.params import LoraSection
from qalign_core.prompts import alpaca
from qalign_core.runs import read_json, write_json
from qalign_core.supervision import IGNORED, Collator, encode, encode_corpus

SIZES = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
SIZES |= {"num_key_value_heads": 2}
ROPE = {"rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
ROPE |= {"original_max_position_embeddings": 64}


@dataclass(frozen=True)
class Kind:
    """A folder with a base of one kind, and what its tokenizer is like."""

    folder: Path
    bos: bool
    pad: bool
    rows: int  # of the embedding


@pytest.fixture(scope="module")
def kinds(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Kind]:
    root = tmp_path_factory.mktemp("kinds")
    make_corpus(root / "corpus.jsonl", rows=24)
    for name in ("llama3", "qwen", "mistral"):
        (root / name).mkdir()
    texts, end = [alpaca("7 plus 8"), "### Response:Anna", "Anna has 15"] * 9, "<|endoftext|>"
    rows = {"llama3": byte_level(root / "llama3", texts, "<|begin_of_text|>", "<|end_of_text|>")}
    rows["qwen"] = byte_level(root / "qwen", texts, None, end, pad_token=end) + 40  # as Qwen's: spare
    rows["mistral"] = len(AutoTokenizer.from_pretrained(sentencepiece_folder(root / "mistral")))
    configs: dict[str, Any] = {
        "llama3": LlamaConfig(**SIZES, vocab_size=rows["llama3"], rope_parameters=ROPE),
        "qwen": Qwen2Config(**SIZES, vocab_size=rows["qwen"], tie_word_embeddings=True),
        "mistral": MistralConfig(**SIZES, vocab_size=rows["mistral"], sliding_window=4096),
    }
    torch.manual_seed(0)
    for name, config in configs.items():
        AutoModelForCausalLM.from_config(config).save_pretrained(root / name)
    return {
        name: Kind(root / name, bos=name != "qwen", pad=name == "qwen", rows=rows[name])
        for name in ("llama3", "qwen", "mistral")
    }


@pytest.fixture(params=["llama3", "qwen", "mistral"])
def kind(request: pytest.FixtureRequest, kinds: dict[str, Kind]) -> Kind:
    return kinds[request.param]


# ------------------------------------------------------------------------------------------------- tokens


def test_an_example_is_bos_if_there_is_one_prompt_target_and_eos(kind: Kind):
    tokenizer = load_tokenizer(str(kind.folder))
    assert (tokenizer.bos_token is not None, tokenizer.pad_token is not None) == (kind.bos, kind.pad)
    encoded = encode("7 plus 8", " 15 it is", tokenizer)
    ids, labels = encoded["input_ids"], encoded["labels"]
    start = [tokenizer.bos_token_id] if kind.bos else []
    assert ids[: len(start)] == start
    assert ids.count(tokenizer.eos_token_id) == 1
    assert labels[-1] == ids[-1] == tokenizer.eos_token_id  # a target, also where it is the pad token, too
    targets = [label for label in labels if label != IGNORED]
    assert tokenizer.decode(targets, skip_special_tokens=True).strip() == "15 it is"
    prompt = tokenizer(alpaca("7 plus 8"))["input_ids"]
    assert ids[: len(prompt)] == prompt
    assert labels == [IGNORED] * len(prompt) + ids[len(prompt) :]


def test_a_pad_token_is_added_only_where_there_is_none(kind: Kind):
    model, tokenizer = load_model(str(kind.folder)), load_tokenizer(str(kind.folder))
    add_pad_token(model, tokenizer)
    assert tokenizer.pad_token == ("<|endoftext|>" if kind.pad else "<pad>")
    assert model.get_input_embeddings().num_embeddings == kind.rows + (0 if kind.pad else 1)
    assert model.config.pad_token_id == tokenizer.pad_token_id < model.config.vocab_size
    if kind.folder.name == "llama3":
        assert tokenizer.unk_token is None


def test_padding_is_no_target_even_where_it_is_eos_and_packing_gives_the_same_loss(kind: Kind):
    model, tokenizer = load_model(str(kind.folder)), load_tokenizer(str(kind.folder))
    add_pad_token(model, tokenizer)
    rows = [encode("7 plus 8", " 15 it is", tokenizer), encode("1", " 1", tokenizer)]
    padded, packed = (Collator(tokenizer.pad_token_id, packing)(rows) for packing in (False, True))
    ends = (padded["labels"] == tokenizer.eos_token_id).sum(dim=1).tolist()
    assert ends == [1, 1]
    assert (padded["labels"][padded["attention_mask"] == 0] == IGNORED).all()
    assert packed["target_tokens"] == padded["target_tokens"]
    check_separation(model)
    torch.testing.assert_close(weighted_loss(model, packed), weighted_loss(model, padded), rtol=0, atol=1e-5)


def test_a_token_that_joins_prompt_and_output_is_counted(kinds: dict[str, Kind]):
    rows = [{"instruction": "1", "output": text} for text in ("Anna has 15", " Anna has 15", "15", "\n15")]
    for name in ("llama3", "qwen"):  # ":Anna" is one token of theirs: the model learns nothing of "Anna" here
        tokenizer = load_tokenizer(str(kinds[name].folder))
        corpus = encode_corpus(rows, tokenizer)
        assert corpus["joined"][:] == [True, False, False, True]  # ":\n" is one, too
        learnt = [label for label in corpus["labels"][0] if label != IGNORED]
        assert "Anna" not in tokenizer.decode(learnt)
    tokenizer = load_tokenizer(str(kinds["mistral"].folder))
    assert encode_corpus(rows, tokenizer)["joined"][1:3] == [False, False]


# ------------------------------------------------------------------------------------------------- models


def test_a_saved_folder_gives_the_same_tokens_and_answers(kind: Kind, tmp_path: Path):
    model, tokenizer = load_model(str(kind.folder)), load_tokenizer(str(kind.folder))
    prompt = alpaca("7 plus 8")
    before = tokenizer(prompt)["input_ids"]
    add_pad_token(model, tokenizer)
    save_model(model, tokenizer, tmp_path / "model", full_state_dict(model, keep=True))
    again = generate.load_tokenizer(str(tmp_path / "model"), None)
    assert again(prompt)["input_ids"] == before
    assert (again.eos_token_id, again.pad_token_id) == (tokenizer.eos_token_id, tokenizer.pad_token_id)
    settings = read_json(tmp_path / "model" / "generation_config.json")
    assert settings["eos_token_id"] == tokenizer.eos_token_id
    assert settings.get("bos_token_id") == tokenizer.bos_token_id

    loaded = load_model(str(tmp_path / "model")).eval()
    texts = [prompt, alpaca("1 plus 2 plus 3"), alpaca("9")]
    ids = [again(text)["input_ids"] for text in texts]
    alone = [
        loaded.generate(torch.tensor([row]), max_new_tokens=12, do_sample=False)[0, len(row) :].tolist() for row in ids
    ]
    filler = again.pad_token_id
    decoder = GreedyDecoder(loaded, eos_token_id=again.eos_token_id, filler_token_id=filler, batch_tokens=4000)
    sequences = [Sequence(str(number), row, 12) for number, row in enumerate(ids)]
    found = {sequence.key: sequence.output_ids for ended in decoder.decode(sequences) for sequence in ended}
    ended = [row[: row.index(again.eos_token_id)] if again.eos_token_id in row else row for row in alone]
    assert [found[str(number)] for number in range(3)] == ended


def test_a_stage_trains_and_leaves_a_model_of_its_kind(kinds: dict[str, Kind], tmp_path: Path):
    jobs = {}
    for name, kind in kinds.items():
        method = "full" if name == "mistral" else "lora"
        corpus = kind.folder.parent / "corpus.jsonl"
        recipe = {"max_steps": 12, "learning_rate": 1e-2, "max_length": 512}
        jobs[name] = make_job(tmp_path / name, kind.folder, corpus, 2, method=method, **recipe)
        write_json(jobs[name], read_json(jobs[name]) | {"lora": LoraSection(rank=4).model_dump()})
    run_jobs(jobs.values())
    for name, job in jobs.items():
        assert not job.with_name("error.txt").exists(), job.with_name("error.txt").read_text()
        assert sum(losses(job)[-3:]) < sum(losses(job)[:3])
        metrics = read_json(job.with_name("done.json"))["metrics"]
        assert metrics["rows_joined"] == 0
        model = AutoModelForCausalLM.from_pretrained(job.parent / "model")
        assert type(model).__name__.lower().startswith({"llama3": "llama", "qwen": "qwen2"}.get(name, name))
        whole = sum(parameter.numel() for parameter in model.parameters())
        assert (metrics["trained_parameters"] == whole) == (name == "mistral")
