"""Examples become `input_ids` and `labels`, rows become batches, and every target token gets its weight in the loss."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any, Literal

import torch

from qalign_core.generation import chat
from qalign_core.prompts import alpaca
from qalign_core.training.cross_entropy import weighted_nll
from qalign_core.training.packed_attention import BY_DOCUMENT

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
        instruction: what goes into the Alpaca template.
        output: the text to learn, directly behind the prompt's last colon.
        tokenizer: a fast tokenizer; whether there is a BOS is its own affair.
        max_length: tokens kept, counted from the left; a cut example has no EOS.
        template: `alpaca`, or `chat` for the tokenizer's own, whose end of a turn then takes the place of EOS.

    Returns:
        `input_ids` (T,) and `labels` (T,), −100 where nothing is to be learnt. The masked prefix is as long as the
        prompt's own tokenisation, so a token that joins prompt and output would count as prompt. A prompt of
        `max_length` tokens or more leaves no target.

    Raises:
        ValueError: for a tokenizer that cannot be used so (see `check_tokenizer`).

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
        Columns `input_ids`, `labels`, `tokens` (each example's length before the cut) and `joined`: whether a token
        holds the prompt's end and the output's beginning, which then is not learnt (as with the authors' code).
    """
    check_tokenizer(tokenizer)
    chats = template == chat.TEMPLATE  # which brings its own BOS
    prompts = [chat.prompt(tokenizer, text) if chats else alpaca(text) for text in instructions]
    turn = chat.turn(tokenizer) if chats else chat.Turn("", tokenizer.eos_token, tokenizer.eos_token_id)
    wholes = [f"{prompt}{turn.before}{output}{turn.end}" for prompt, output in zip(prompts, outputs, strict=True)]
    full, before = (tokenizer(t, verbose=False, add_special_tokens=not chats)["input_ids"] for t in (wholes, prompts))
    input_ids, labels, joined = [], [], []
    for ids, prompt_ids in zip(full, before, strict=True):
        ids = ids[:max_length]
        # The authors count what is not padding; a chat's prompt may hold the pad token itself (the end of a turn).
        asked = sum(chats or token != tokenizer.pad_token_id for token in prompt_ids[:max_length])
        masked = min(asked, len(ids))
        input_ids.append(ids)
        labels.append([IGNORED] * masked + ids[masked:])
        joined.append(ids[:masked] != prompt_ids[:masked])
    return {"input_ids": input_ids, "labels": labels, "tokens": [len(ids) for ids in full], "joined": joined}


def encode_texts(texts: list[str], tokenizer: PreTrainedTokenizerBase, max_length: int = 512) -> dict[str, list]:
    """Many texts, one behind the other, cut into blocks of `max_length` tokens: how base models are pre-trained.

    Every text is BOS + text + EOS and every token is a target; a block may begin and end in the middle of a text, and
    what is left behind the last whole block is dropped (or is the only block).

    Returns:
        Columns `input_ids`, `labels`, `tokens` (each block's length) and `joined` (never).
    """
    check_tokenizer(tokenizer)
    full = tokenizer([f"{text}{tokenizer.eos_token}" for text in texts], verbose=False)["input_ids"]
    stream = [token for ids in full for token in ids]
    whole = len(stream) // max_length * max_length or len(stream)
    blocks = [stream[start : start + max_length] for start in range(0, whole, max_length)]
    labels, tokens = [list(ids) for ids in blocks], [len(ids) for ids in blocks]
    return {"input_ids": blocks, "labels": labels, "tokens": tokens, "joined": [False] * len(blocks)}


def check_tokenizer(tokenizer: PreTrainedTokenizerBase) -> None:
    """Refuse a tokenizer that would silently give other sequences than BOS + prompt + output + EOS.

    Raises:
        ValueError: when it is slow (Python), has no EOS, or appends one by itself.
    """
    name = getattr(tokenizer, "name_or_path", "") or "the tokenizer"
    if not tokenizer.is_fast:
        raise ValueError(f"{name}: not a fast tokenizer; give a model folder with a tokenizer.json")
    if tokenizer.eos_token is None:
        raise ValueError(f"{name}: has no EOS token; set eos_token in its tokenizer_config.json")
    if tokenizer("a")["input_ids"][-1] == tokenizer.eos_token_id:
        raise ValueError(f"{name}: appends EOS by itself; set add_eos_token to false in its tokenizer_config.json")


def encode_corpus(
    rows: Iterable[dict[str, Any]],
    tokenizer: PreTrainedTokenizerBase,
    max_length: int = 512,
    chunk: int = 2000,
    template: str = "alpaca",
) -> Dataset:
    """A whole corpus, tokenised chunk by chunk; rows with a `text` are language modelling, others supervised.

    Args:
        rows: examples (`instruction`, `output`) or texts (`text`, see `encode_texts`), in the corpus's order.
        tokenizer: a fast tokenizer.
        max_length: tokens kept of each row.
        chunk: rows tokenised at a time.
        template: as for `encode`.

    Returns:
        Columns as of `encode_examples` or `encode_texts`: one row an example, or one a block of text.

    Raises:
        ValueError: for no rows, or a row that has neither form (its number is named).
    """
    from datasets import Dataset, Features, List, Value, concatenate_datasets

    features = Features({"input_ids": List(Value("int32")), "labels": List(Value("int32")), "tokens": Value("int32")})
    features["joined"] = Value("bool")
    parts, first = [], 1
    for part in _chunks(rows, chunk):
        if all("text" in row for row in part):
            columns = encode_texts([row["text"] for row in part], tokenizer, max_length)
        else:
            for number, row in enumerate(part, start=first):
                if not {"instruction", "output"} <= row.keys():
                    raise ValueError(
                        f"row {number} of the corpus has the fields {sorted(row)}; it needs instruction and output "
                        "(or every row needs text)"
                    )
            instructions, outputs = ([row[field] for row in part] for field in ("instruction", "output"))
            columns = encode_examples(instructions, outputs, tokenizer, max_length, template)
        parts.append(Dataset.from_dict(columns, features=features))
        first += len(part)
    if not parts:
        raise ValueError("the corpus has no rows; build it again")
    return concatenate_datasets(parts)


def _chunks(rows: Iterable[dict[str, Any]], size: int) -> Iterator[list[dict[str, Any]]]:
    iterator = iter(rows)
    while part := list(islice(iterator, size)):
        yield part


# ------------------------------------------------------------------------------------------------- batches and weights


@dataclass(frozen=True)
class Collator:
    """Lay the examples of one device batch out as tensors, with the weight of every target token in the loss.

    Padding-free (`packing`): all examples one behind the other in one row, `position_ids` restarting at each, and no
    attention mask: `document_lengths` keeps them apart. Otherwise one row an example, padded on the right.

    The loss of an update is Σ weight · nll / items, over all its device batches on all ranks:

    * `paper`: mean over the targets of each micro-batch of `micro_batch` consecutive examples, then mean over the
      micro-batches; a micro-batch without targets counts as zero. Weight 1/targets of the micro-batch, items = number
      of micro-batches. Source: NJUNLP/QAlign finetune.py under transformers 4.29 (Trainer, LlamaForCausalLM).
    * `token`: mean over all target tokens of the update. Weight 1, items = number of targets.

    Args:
        pad_token_id: what fills a short row (its labels are −100).
        packing: padding-free or padded.
        loss: `paper` or `token`.
        micro_batch: examples in one of the paper's micro-batches, whatever the device batch holds.
    """

    pad_token_id: int
    packing: bool = True
    loss: Literal["paper", "token"] = "paper"
    micro_batch: int = 2

    def __call__(self, examples: list[dict[str, Any]]) -> dict[str, Any]:
        """Collate `examples` (each `input_ids`, `labels`).

        Returns:
            `input_ids`, `labels`, `weights` (B, T); packed `position_ids` (1, T) and `document_lengths` (integers), or
            padded `attention_mask` (B, T); `logits_to_keep` (C,), the columns whose next token is a target in some
            row; `items` and `target_tokens`, `tokens` (1,).
        """
        sequences = [self._sequence(example) for example in examples]
        items = self._weigh(sequences)
        batch = self._flatten(sequences) if self.packing else self._pad(sequences)
        is_target = batch["labels"] != IGNORED  # (B, T)
        batch["logits_to_keep"] = is_target[:, 1:].any(dim=0).nonzero().squeeze(1)  # (C,)
        batch["items"] = torch.tensor([items])
        batch["target_tokens"] = is_target.sum().reshape(1)
        batch["tokens"] = torch.tensor([sum(len(sequence["input_ids"]) for sequence in sequences)])
        return batch

    @staticmethod
    def _sequence(example: dict[str, Any]) -> dict[str, torch.Tensor]:
        input_ids, labels = torch.as_tensor(example["input_ids"]), torch.as_tensor(example["labels"]).clone()
        labels[:1] = IGNORED  # nothing predicts a first token; packed, the example before would
        return {"input_ids": input_ids.long(), "labels": labels.long()}

    def _weigh(self, sequences: list[dict[str, torch.Tensor]]) -> int:
        """Give every sequence its `weights` (T,); return the number of items the batch counts for."""
        total = 0
        for start in range(0, len(sequences), self.micro_batch):
            group = sequences[start : start + self.micro_batch]
            targets = sum(int((sequence["labels"] != IGNORED).sum()) for sequence in group)
            weight = 1.0 / max(targets, 1) if self.loss == "paper" else 1.0
            for sequence in group:
                sequence["weights"] = (sequence["labels"] != IGNORED).double() * weight
            total += targets
        return math.ceil(len(sequences) / self.micro_batch) if self.loss == "paper" else total

    @staticmethod
    def _flatten(sequences: list[dict[str, torch.Tensor]]) -> dict[str, Any]:
        lengths = [len(sequence["input_ids"]) for sequence in sequences]
        batch = {name: torch.cat([s[name] for s in sequences])[None] for name in ("input_ids", "labels", "weights")}
        positions = torch.cat([torch.arange(length) for length in lengths])
        return {**batch, "position_ids": positions[None], "document_lengths": lengths}  # (1, T), (documents)

    def _pad(self, sequences: list[dict[str, torch.Tensor]]) -> dict[str, Any]:
        batch = {}
        for name, filler in (("input_ids", self.pad_token_id), ("labels", IGNORED), ("weights", 0.0)):
            columns = [sequence[name] for sequence in sequences]
            batch[name] = torch.nn.utils.rnn.pad_sequence(columns, batch_first=True, padding_value=filler)
        masks = [torch.ones_like(sequence["input_ids"]) for sequence in sequences]
        return batch | {"attention_mask": torch.nn.utils.rnn.pad_sequence(masks, batch_first=True)}  # (B, T)


def weighted_loss(model: torch.nn.Module, batch: dict[str, Any]) -> torch.Tensor:
    """Σ weight · negative log-likelihood over the targets of a collated batch; logits are computed only where needed.

    Args:
        model: a causal language model whose forward takes `logits_to_keep`.
        batch: what `Collator` returned.

    Returns:
        A scalar in fp32 or better, still to be divided by the `items` of the whole update.

    Raises:
        ValueError: for a packed batch with an attention mask: examples would see each other.
    """
    layout = {name: batch[name] for name in ("position_ids", "document_lengths", "attention_mask") if name in batch}
    if "attention_mask" in layout and len(layout) > 1:
        raise ValueError("a packed batch has no attention_mask: with one, examples would see each other; leave it out")
    columns = batch["logits_to_keep"]  # (C,)
    # The cache must be off: with it, sdpa would not look for sequence boundaries in position_ids.
    logits = model(input_ids=batch["input_ids"], use_cache=False, logits_to_keep=columns, **layout).logits  # (B, C, V)
    targets = batch["labels"][:, columns + 1].flatten().clamp(min=0)  # (B·C,), weight 0 where there was none
    return weighted_nll(logits.flatten(0, 1), targets, batch["weights"][:, columns + 1].flatten())


# Attention implementations under which packed examples were tested to be separate; the first is the faster one.
SEPARATING_ATTENTION = (BY_DOCUMENT, "sdpa")


def attention_for(packing: bool) -> str:
    """The attention implementation to load a model with for training."""
    return BY_DOCUMENT if packing else "sdpa"


def check_attention(implementation: str, packing: bool) -> None:
    """Refuse packing under an attention implementation that is not known to keep examples apart.

    Raises:
        ValueError: naming the tested ones.
    """
    if packing and implementation not in SEPARATING_ATTENTION:
        raise ValueError(
            f"packing is tested with attention {' and '.join(SEPARATING_ATTENTION)}, not with {implementation!r}: "
            "packed examples might see each other; use one of those or set training.packing to false"
        )


@torch.no_grad()
def check_separation(model: torch.nn.Module, device: torch.device | str = "cpu") -> None:
    """Prove on the model itself that a packed example does not see the one before it.

    Two examples are packed twice, the first with other tokens the second time: the second's logits may not move.

    Raises:
        RuntimeError: when they do.
    """
    length = 8
    layout = {"position_ids": torch.arange(length, device=device).repeat(2)[None], "document_lengths": [length] * 2}
    before = torch.arange(2 * length, device=device)[None]
    after = before.clone()
    after[:, :length] += length
    was_training = model.training
    model.eval()
    logits = [model(input_ids=ids, use_cache=False, **layout).logits for ids in (before, after)]
    model.train(was_training)
    if not torch.equal(logits[0][:, length:], logits[1][:, length:]):
        raise RuntimeError(
            "packed examples see each other in this model with this version of transformers: "
            "set training.packing to false, or use the versions of requirements.txt"
        )
