"""A model's own chat template in place of the Alpaca prompt: `model.template: chat`.

Ours, for bases that were trained to chat; the paper uses the Alpaca prompt throughout. A question is one turn of the
user's without a system message of ours, the response is learnt up to and including the token that ends the assistant's
turn, and generation stops there.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TEMPLATE = "chat"
# Templates that name today's date (LLaMA 3's) get this one: a prompt must not change from one day to the next.
DATE = "26 Jul 2024"
_DAY = datetime(2024, 7, 26)
_NOW = re.compile(r"""\bstrftime_now\(\s*(['"])(.*?)\1\s*\)""")
_QUESTION, _MARK = "qalign-question", "qalign-response"
_REMEDY = "correct the chat_template of its tokenizer, or use model.template: alpaca, as the paper does"


def prompt(tokenizer: PreTrainedTokenizerBase, instruction: str) -> str:
    """The text that asks a chat model something, special tokens included: tokenise it with `add_special_tokens=False`.

    Raises:
        ValueError: when the tokenizer has no chat template, or one that fails or leaves the question out.
    """
    text = _rendered(tokenizer, [{"role": "user", "content": instruction}], begin_answer=True)
    if instruction.strip() not in text:
        raise ValueError(
            f"{_name(tokenizer)}: its chat template does not write the user's turn as it is: asked "
            f"{instruction[:60]!r}, it wrote {text[:120]!r}; {_REMEDY}"
        )
    return text


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
        ValueError: when the tokenizer has no chat template, or the template fails, does not write the question and the
            response once, or ends a turn with ordinary text.
    """
    asked = prompt(tokenizer, _QUESTION)
    turns = [{"role": "user", "content": _QUESTION}, {"role": "assistant", "content": _MARK}]
    whole = _rendered(tokenizer, turns, begin_answer=False)
    for text, content, side in ((asked, _QUESTION, "question"), (whole, _MARK, "response")):
        if text.count(content) != 1:
            raise ValueError(
                f"{_name(tokenizer)}: its chat template writes the {side} {text.count(content)} times, not once, so "
                f"what is learnt would not be the response alone; {_REMEDY}"
            )
    head, _, behind = whole.partition(_MARK)
    ids = tokenizer(behind.lstrip(), add_special_tokens=False)["input_ids"]
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
    try:
        # Written into the template: a function of ours would not reach it.
        template = _NOW.sub(lambda call: repr(_DAY.strftime(call[2])), tokenizer.get_chat_template())
        if "strftime_now(" in template:
            raise ValueError("it asks strftime_now for a date in a form that is not written out")
        return str(
            tokenizer.apply_chat_template(
                turns, chat_template=template, tokenize=False, add_generation_prompt=begin_answer, date_string=DATE
            )
        )
    except Exception as error:  # a template is a program of somebody's: it may fail in any way
        reason = f"{type(error).__name__}: {error}"
        raise ValueError(f"{_name(tokenizer)}: its chat template cannot be used ({reason}); {_REMEDY}") from error


def _name(tokenizer: PreTrainedTokenizerBase) -> str:
    return getattr(tokenizer, "name_or_path", "") or "the tokenizer"
