"""Tokens, masks, packing and the loss's weights, against the authors' own output and a plain reference."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from qalign_core.kernels import check_separation, weighted_loss
from qalign_core.prompts import alpaca
from qalign_core.supervision import (
    IGNORED,
    Collator,
    check_tokenizer,
    encode,
    encode_corpus,
    encode_texts,
)

# ------------------------------------------------------------------------------------------------- tokens and labels


def test_encode_equals_the_authors_on_every_golden_example(reference_dir: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(reference_dir / "golden" / "tokenizer")
    rows = [json.loads(line) for line in (reference_dir / "golden" / "encode.jsonl").open(encoding="utf-8")]
    assert len(rows) == 57
    for row in rows:
        assert alpaca(row["instruction"]) == row["prompt"]
        encoded = encode(row["instruction"], row["output"], tokenizer)
        assert encoded["input_ids"] == row["input_ids"], row["instruction"]
        assert encoded["labels"] == row["labels"], row["instruction"]


def test_a_corpus_is_encoded_as_its_rows_are(reference_dir: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(reference_dir / "golden" / "tokenizer")
    rows = [json.loads(line) for line in (reference_dir / "golden" / "encode.jsonl").open(encoding="utf-8")]
    corpus = encode_corpus(rows, tokenizer, chunk=10)
    assert corpus["input_ids"][:] == [row["input_ids"] for row in rows]
    assert corpus["labels"][:] == [row["labels"] for row in rows]
    assert [min(tokens, 512) for tokens in corpus["tokens"]] == [len(row["input_ids"]) for row in rows]
    assert max(corpus["tokens"]) > 512, "the golden examples include cut ones"


def sentencepiece_folder(folder: Path) -> Path:
    """A byte-fallback SentencePiece model of LLaMA's kind, trained here, as a tokenizer folder."""
    import sentencepiece

    text = folder / "text.txt"
    lines = ["How many apples does Anna have?", "Anna has 12 apples and buys 7 more.", "Wie viele Äpfel hat sie?"]
    text.write_text("\n".join(lines * 20) + "\n", encoding="utf-8")
    sentencepiece.SentencePieceTrainer.train(
        input=str(text), model_prefix=str(folder / "tokenizer"), vocab_size=340, model_type="bpe", byte_fallback=True,
        split_digits=True, normalization_rule_name="identity", remove_extra_whitespaces=False, minloglevel=2,
        unk_id=0, bos_id=1, eos_id=2, pad_id=-1,
    )  # fmt: skip
    names = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "add_bos_token": True}
    config = names | {"tokenizer_class": "LlamaTokenizer", "add_eos_token": False, "legacy": True}
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


def test_ids_equal_sentencepieces_own_with_byte_fallback(tmp_path: Path) -> None:
    import sentencepiece

    folder = sentencepiece_folder(tmp_path)
    reference = sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    for question in ("Anna has 12 apples.", "แอนนามีแอปเปิล 3 ลูก", "トムは  りんごを3個", "ਸੱਤ\n\nنص", "🍎 = 7"):
        answer = f" {question}!"
        prompt_ids = [1, *reference.encode(alpaca(question))]
        whole_ids = [1, *reference.encode(alpaca(question) + answer), 2]
        encoded = encode(question, answer, tokenizer)
        assert encoded["input_ids"] == whole_ids
        assert encoded["labels"] == [IGNORED] * len(prompt_ids) + whole_ids[len(prompt_ids) :]
        assert any(reference.is_byte(token) for token in whole_ids) or question.isascii()


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory):
    return AutoTokenizer.from_pretrained(sentencepiece_folder(tmp_path_factory.mktemp("tokenizer")))


def test_a_prompt_as_long_as_the_limit_leaves_no_target(tokenizer) -> None:
    length = len(tokenizer(alpaca("apples " * 30))["input_ids"])
    assert set(encode("apples " * 30, "12", tokenizer, max_length=length)["labels"]) == {IGNORED}
    one_left = encode("apples " * 30, "12", tokenizer, max_length=length + 1)
    assert [label != IGNORED for label in one_left["labels"]] == [False] * length + [True]


def test_texts_are_cut_into_blocks_with_bos_and_eos(tokenizer) -> None:
    one, two = (tokenizer(f"{text}</s>")["input_ids"] for text in ("Anna has 12 apples.", "Tom has 7."))
    assert (one[0], one[-1]) == (1, 2)
    columns = encode_texts(["Anna has 12 apples.", "Tom has 7."], tokenizer, max_length=4)
    stream = one + two
    assert columns["input_ids"] == [stream[i : i + 4] for i in range(0, len(stream) // 4 * 4, 4)]
    assert columns["labels"] == columns["input_ids"]
    assert encode_texts(["Tom has 7."], tokenizer)["input_ids"] == [two]  # shorter than one block


def test_a_corpus_without_rows_and_bad_tokenizers_are_refused(tokenizer) -> None:
    with pytest.raises(ValueError, match="no rows"):
        encode_corpus([], tokenizer)
    without_eos = AutoTokenizer.from_pretrained(tokenizer.name_or_path)
    without_eos.eos_token = None
    with pytest.raises(ValueError, match="no EOS"):
        check_tokenizer(without_eos)


# ------------------------------------------------------------------------------------------------- batches and weights


def tiny_model(**changes) -> LlamaForCausalLM:
    torch.manual_seed(0)
    shape = {"vocab_size": 60, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "initializer_range": 0.2}
    return LlamaForCausalLM(LlamaConfig(**(shape | heads | {"attn_implementation": "sdpa"} | changes)))


def examples(number: int, seed: int = 0) -> list[dict[str, list[int]]]:
    """Random examples of 3 to 14 tokens with 2 to 12 targets; the last two have no target at all."""
    generator = torch.Generator().manual_seed(seed)
    made = []
    for index in range(number):
        length = int(torch.randint(3, 15, (1,), generator=generator))
        ids = torch.randint(3, 60, (length,), generator=generator).tolist()
        masked = int(torch.randint(1, length - 1, (1,), generator=generator)) if index < number - 2 else length
        made.append({"input_ids": ids, "labels": [IGNORED] * masked + ids[masked:]})
    return made


def plain_nll(model: torch.nn.Module, example: dict[str, list[int]]) -> torch.Tensor:
    """Negative log-likelihood of each target of one example, alone, with all its logits: (targets,)."""
    ids, labels = torch.tensor([example["input_ids"]]), torch.tensor(example["labels"])
    logits = model(input_ids=ids).logits[0, :-1]  # (T - 1, V)
    return torch.nn.functional.cross_entropy(logits, labels[1:], reduction="none")[labels[1:] != IGNORED]


def plain_loss(model: torch.nn.Module, rows: list[dict[str, list[int]]], loss: str) -> torch.Tensor:
    """The loss of an update over `rows`, written down from its definition."""
    nll = [plain_nll(model, row) for row in rows]
    if loss == "token":
        return torch.cat(nll).mean()
    pairs = [torch.cat(nll[start : start + 2]) for start in range(0, len(nll), 2)]
    return torch.stack([pair.mean() if len(pair) else pair.sum() for pair in pairs]).mean()


def gradients(model: torch.nn.Module, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    model.zero_grad()
    loss.backward()
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters()}


def test_a_leak_is_refused() -> None:
    class Leaking(torch.nn.Module):
        """Forgets the layout, as a model does that knows nothing of packing."""

        def __init__(self) -> None:
            super().__init__()
            self.model = tiny_model()

        def forward(self, input_ids: torch.Tensor, use_cache: bool, **layout):
            return self.model(input_ids=input_ids, use_cache=use_cache)

    with pytest.raises(RuntimeError, match="packing to false"):
        check_separation(Leaking())


def test_logits_are_computed_only_where_there_are_labels() -> None:
    model, rows = tiny_model(), examples(6)
    batch = Collator(0)(rows)
    seen = []
    model.lm_head.register_forward_hook(lambda module, inputs, output: seen.append(output.shape[1]))
    weighted_loss(model, batch)
    assert seen == [sum(label != IGNORED for row in rows for label in row["labels"])]
    assert seen[0] == int(batch["target_tokens"])


def test_a_batch_without_targets_counts_as_zero_gradient() -> None:
    model, rows = tiny_model(), examples(4)[2:]
    for packing in (True, False):
        batch = Collator(0, packing=packing)(rows)
        assert batch["items"].tolist() == [1]
        loss = weighted_loss(model, batch)
        assert loss.item() == 0.0
        assert all(gradient.abs().max() == 0 for gradient in gradients(model, loss).values())


def test_padding_is_on_the_right_and_masked() -> None:
    supervised = {"input_ids": [1, 2, 3], "labels": [IGNORED, 2, 3]}
    text = {"input_ids": [4, 5], "labels": [4, 5]}
    batch = Collator(59, packing=False)([supervised, text])
    assert batch["input_ids"].tolist() == [[1, 2, 3], [4, 5, 59]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 1, 0]]
    assert batch["labels"].tolist() == [[IGNORED, 2, 3], [IGNORED, 5, IGNORED]]
    assert batch["target_counts"].tolist() == [[3, 3, 3], [3, 3, 1]]
    assert not any(torch.is_tensor(value) and value.is_floating_point() for value in batch.values())
    assert batch["tokens"].tolist() == [5]
