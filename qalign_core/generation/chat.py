"""A model's own chat template in place of the Alpaca prompt: `model.template: chat`.

Ours, for bases that were trained to chat; the paper uses the Alpaca prompt throughout. A question is one turn of the
user's without a system message of ours, the response is learnt up to and including the token that ends the assistant's
turn, and generation stops there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TEMPLATE = "chat"
# Templates that name today's date (LLaMA 3's) get this one: a prompt must not change from one day to the next.
DATE = "26 Jul 2024"
_MARK = "qalign-response"


def prompt(tokenizer: PreTrainedTokenizerBase, instruction: str) -> str:
    """The text that asks a chat model something, special tokens included: tokenise it with `add_special_tokens=False`.

    Raises:
        ValueError: when the tokenizer has no chat template.
    """
    return _rendered(tokenizer, [{"role": "user", "content": instruction}], begin_answer=True)


@dataclass(frozen=True)
class Turn:
    """What stands around a response in the assistant's turn.

    Attributes:
        before: text between the prompt and the response, mostly none or a space; it is learnt with the response.
        end: the token that ends the turn, as text.
        end_id: the same as id.
    """

    before: str
    end: str
    end_id: int


def turn(tokenizer: PreTrainedTokenizerBase) -> Turn:
    """The assistant's turn, as the chat template writes it.

    Raises:
        ValueError: when the tokenizer has no chat template, or the template ends a turn with ordinary text.
    """
    turns = [{"role": "user", "content": "?"}, {"role": "assistant", "content": _MARK}]
    head, found, behind = _rendered(tokenizer, turns, begin_answer=False).rpartition(_MARK)
    asked = prompt(tokenizer, "?")
    ids = tokenizer(behind.lstrip(), add_special_tokens=False)["input_ids"] if found else []
    if not ids or ids[0] not in tokenizer.added_tokens_decoder:
        raise ValueError(
            f"{_name(tokenizer)}: its chat template ends the assistant's turn with {behind[:40]!r}, which does not "
            "begin with a special token, so no answer could end: use model.template: alpaca"
        )
    before = head.removeprefix(asked) if head.startswith(asked) else ""
    return Turn(before, str(tokenizer.added_tokens_decoder[ids[0]]), ids[0])


def _rendered(tokenizer: PreTrainedTokenizerBase, turns: list[dict[str, str]], *, begin_answer: bool) -> str:
    if not tokenizer.chat_template:
        raise ValueError(
            f"{_name(tokenizer)}: its tokenizer has no chat template: use model.template: alpaca, as the paper does, "
            "or save a chat_template with the tokenizer"
        )
    return str(
        tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=begin_answer, date_string=DATE)
    )


def _name(tokenizer: PreTrainedTokenizerBase) -> str:
    return getattr(tokenizer, "name_or_path", "") or "the tokenizer"
