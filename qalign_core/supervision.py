"""Examples become `input_ids` and `labels`, rows become batches, and every target token gets its weight in the loss."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch

from qalign_core import prompts

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

IGNORED = -100  # label of a token that is no target

# ------------------------------------------------------------------------------------------------- tokens and labels


def encode(
    instruction: str, output: str, tokenizer: PreTrainedTokenizerBase, max_length: int = 512, template: str = "alpaca"
) -> dict[str, list[int]]:
    """One supervised example: BOS + prompt + output + EOS, of which only the output and the EOS are targets.

    Args:
        output: the text to learn, directly behind the prompt's last character.
        tokenizer: a fast tokenizer; whether there is a BOS is its own affair.
        max_length: tokens kept, counted from the left; a truncated example has no EOS.
        template: a name in `prompts.TEMPLATES`; with `chat` the end of a turn takes the place of EOS.

    Returns:
        `input_ids` (T,) and `labels` (T,), −100 where nothing is to be learnt. The masked prefix is as long as the
        prompt's own tokenisation, so a token that joins prompt and output would count as prompt. A prompt of
        `max_length` tokens or more leaves no target.

    Source: NJUNLP/QAlign finetune.py:68-118, 123-128.
    """
    columns = encode_examples([instruction], [output], tokenizer, max_length, template)
    return {"input_ids": columns["input_ids"][0], "labels": columns["labels"][0]}


def encode_examples(
    instructions: list[str],
    outputs: list[str],
    tokenizer: PreTrainedTokenizerBase,
    max_length: int = 512,
    template: str = "alpaca",
) -> dict[str, list]:
    """Many examples at once, as `encode` does each.

    Returns:
        Columns `input_ids`, `labels`, `tokens` (each example's length before truncation) and `joined`: whether a token
        holds the prompt's end and the output's beginning, which then is not learnt (as with the authors' code).
    """
    check_tokenizer(tokenizer)
    chats = prompts.TEMPLATES[template].is_chat  # which brings its own BOS
    asked = [prompts.render(tokenizer, text, template) for text in instructions]
    turn = prompts.turn(tokenizer, template)
    wholes = [f"{prompt}{turn.before}{output}{turn.end}" for prompt, output in zip(asked, outputs, strict=True)]
    full, before = (tokenizer(t, verbose=False, add_special_tokens=not chats)["input_ids"] for t in (wholes, asked))
    input_ids, labels, joined = [], [], []
    for ids, prompt_ids in zip(full, before, strict=True):
        ids = ids[:max_length]
        # The authors count what is not padding; a chat's prompt may hold the pad token itself (the end of a turn).
        prefix = sum(chats or token != tokenizer.pad_token_id for token in prompt_ids[:max_length])
        masked = min(prefix, len(ids))
        input_ids.append(ids)
        labels.append([IGNORED] * masked + ids[masked:])
        joined.append(ids[:masked] != prompt_ids[:masked])
    return {"input_ids": input_ids, "labels": labels, "tokens": [len(ids) for ids in full], "joined": joined}


def encode_texts(texts: list[str], tokenizer: PreTrainedTokenizerBase, max_length: int = 512) -> dict[str, list]:
    """Texts concatenated and cut into blocks of `max_length` tokens, every token a target: pre-training.

    Every text is BOS + text + EOS; a block may begin and end in the middle of one. What is left behind the last whole
    block is dropped (or is the only block).
    """
    check_tokenizer(tokenizer)
    full = tokenizer([f"{text}{tokenizer.eos_token}" for text in texts], verbose=False)["input_ids"]
    stream = [token for ids in full for token in ids]
    whole = len(stream) // max_length * max_length or len(stream)
    blocks = [stream[start : start + max_length] for start in range(0, whole, max_length)]
    labels, tokens = [list(ids) for ids in blocks], [len(ids) for ids in blocks]
    return {"input_ids": blocks, "labels": labels, "tokens": tokens, "joined": [False] * len(blocks)}


def check_tokenizer(tokenizer: PreTrainedTokenizerBase) -> None:
    """Refuse a tokenizer that would silently give other sequences than BOS + prompt + output + EOS."""
    name = getattr(tokenizer, "name_or_path", "") or "the tokenizer"
    if not tokenizer.is_fast:
        raise ValueError(f"{name}: not a fast tokenizer; give a model folder with a tokenizer.json")
    if tokenizer.eos_token is None:
        raise ValueError(f"{name}: has no EOS token; set eos_token in its tokenizer_config.json")
    if tokenizer("a")["input_ids"][-1] == tokenizer.eos_token_id:
        raise ValueError(f"{name}: appends EOS by itself; set add_eos_token to false in its tokenizer_config.json")


def encode_corpus(
    rows: Sequence[dict[str, Any]],
    tokenizer: PreTrainedTokenizerBase,
    max_length: int = 512,
    chunk: int = 2000,
    template: str = "alpaca",
) -> Dataset:
    """A corpus, tokenised `chunk` rows at a time; rows with a `text` are language modelling, others supervised."""
    from datasets import Dataset, Features, List, Value, concatenate_datasets

    ids = List(Value("int32"))
    features = Features({"input_ids": ids, "labels": ids, "tokens": Value("int32"), "joined": Value("bool")})
    parts = []
    for start in range(0, len(rows), chunk):
        part = rows[start : start + chunk]
        if all("text" in row for row in part):
            columns = encode_texts([row["text"] for row in part], tokenizer, max_length)
        else:
            instructions, outputs = ([row[field] for row in part] for field in ("instruction", "output"))
            columns = encode_examples(instructions, outputs, tokenizer, max_length, template)
        parts.append(Dataset.from_dict(columns, features=features))
    if not parts:
        raise ValueError("the corpus has no rows; build it again")
    return concatenate_datasets(parts)


# ------------------------------------------------------------------------------------------------- batches and weights


@dataclass(frozen=True)
class Collator:
    """Lay the examples of one device batch out as tensors, with what every target token weighs in the loss.

    Padding-free (`packing`): all examples concatenated in one row, `position_ids` restarting at each, and no attention
    mask: `document_lengths` keeps them apart. Otherwise one row per example, padded on the right.

    The loss of an update is Σ nll / target_count / items, over all its device batches on all ranks:

    * `paper`: mean over the targets of each micro-batch of `micro_batch` consecutive examples, then mean over the
      micro-batches; one without targets counts as zero. target_count = targets of the micro-batch, items = number of
      micro-batches. Source: NJUNLP/QAlign finetune.py under transformers 4.29 (Trainer, LlamaForCausalLM).
    * `token`: mean over all target tokens of the update. target_count = 1, items = number of targets.
    """

    pad_token_id: int  # what fills a short row (its labels are −100)
    packing: bool = True
    loss: Literal["paper", "token"] = "paper"
    micro_batch: int = 2  # examples in one of the paper's micro-batches, whatever the device batch holds

    def __call__(self, examples: list[dict[str, Any]]) -> dict[str, Any]:
        """Collate `examples` (each `input_ids`, `labels`).

        Returns:
            `input_ids`, `labels`, `target_counts` (B, T), all integers, since the Trainer rounds what is floating to
            the model's type; packed `position_ids` (1, T) and `document_lengths` (integers), or padded
            `attention_mask` (B, T); `logits_to_keep` (C,), the columns whose next token is a target in some row;
            `items` and `target_tokens`, `tokens` (1,).
        """
        sequences, items = [], 0
        for start in range(0, len(examples), self.micro_batch):
            group = examples[start : start + self.micro_batch]
            members = [{name: torch.as_tensor(row[name]).long() for name in ("input_ids", "labels")} for row in group]
            for member in members:
                member["labels"] = member["labels"].clone()
                member["labels"][:1] = IGNORED  # nothing predicts a first token; packed, the example before would
            targets = sum(int((member["labels"] != IGNORED).sum()) for member in members)
            items += 1 if self.loss == "paper" else targets
            count = max(targets, 1) if self.loss == "paper" else 1
            sequences += [member | {"target_counts": torch.full_like(member["labels"], count)} for member in members]
        batch = self._flatten(sequences) if self.packing else self._pad(sequences)
        is_target = batch["labels"] != IGNORED  # (B, T)
        batch["logits_to_keep"] = is_target[:, 1:].any(dim=0).nonzero().squeeze(1)  # (C,)
        batch["items"] = torch.tensor([items])
        batch["target_tokens"] = is_target.sum().reshape(1)
        batch["tokens"] = torch.tensor([sum(len(sequence["input_ids"]) for sequence in sequences)])
        return batch

    @staticmethod
    def _flatten(sequences: list[dict[str, torch.Tensor]]) -> dict[str, Any]:
        lengths = [len(sequence["input_ids"]) for sequence in sequences]
        batch: dict[str, Any] = {name: torch.cat([s[name] for s in sequences])[None] for name in sequences[0]}
        positions = torch.cat([torch.arange(length) for length in lengths])
        return {**batch, "position_ids": positions[None], "document_lengths": lengths}  # (1, T), (documents)

    def _pad(self, sequences: list[dict[str, torch.Tensor]]) -> dict[str, Any]:
        fillers = {"input_ids": self.pad_token_id, "labels": IGNORED, "target_counts": 1, "attention_mask": 0}
        rows = [sequence | {"attention_mask": torch.ones_like(sequence["input_ids"])} for sequence in sequences]
        return {
            name: torch.nn.utils.rnn.pad_sequence([row[name] for row in rows], batch_first=True, padding_value=filler)
            for name, filler in fillers.items()
        }  # each (B, T)
