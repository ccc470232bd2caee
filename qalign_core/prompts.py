"""Every template that reaches a model. A new one is one more entry of `TEMPLATES`: all else reads it from there."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime
from string import Formatter
from typing import TYPE_CHECKING, Literal, NamedTuple

from qalign_core.languages import language

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Source: NJUNLP/QAlign finetune.py:18-30 (`prompt_no_input`), also used by its evaluation.
ALPACA = (
    "Below is an instruction that describes a task. "
    "Write a response that appropriately completes the request.\n\n"
    "### Instruction:\n{instruction}\n\n### Response:"
)
# How their second prompt (`prompt_input`) differs: its first sentence, and what follows the instruction.
FIRST, FIRST_WITH_INPUT = "a task. ", "a task, paired with an input that provides further context. "
INPUT = "\n\n### Input:\n"
# Source: microsoft/MathOctopus step1_supervised_finetuning/generate_and_eval.py (`prompt_no_input`).
MATHOCTOPUS = ALPACA.replace("the request.", "the request in {language}. Please answer in {language}.")
# Source: NJUNLP/QAlign data/gsmtrans/gsmtrans.py:27, 90-130.
TRANSLATION = "Translate the following sentences from {source} to {target}."


@dataclass(frozen=True)
class Template:
    """How a model is asked; the response follows directly behind the prompt's last character."""

    text: str  # with {instruction}, perhaps {language} (never trained on); empty: the tokenizer's chat template
    about: str  # ends the sentence "It is asked with …" of a model card

    def __post_init__(self) -> None:
        fields = {name for _, name, _, _ in Formatter().parse(self.text) if name is not None}
        if self.text and not {"instruction"} <= fields <= {"instruction", "language"}:
            raise ValueError(f"a template has {{instruction}} and perhaps {{language}}, nothing else: {self.text!r}")

    @property
    def is_chat(self) -> bool:
        """Whether the tokenizer's own template is used, which writes BOS and the end of a turn itself."""
        return not self.text


CHAT = "chat"
TEMPLATES = {
    "alpaca": Template(ALPACA, "the Alpaca prompt without input, the response directly behind its last colon"),
    "mathoctopus": Template(MATHOCTOPUS, "MathOctopus's prompt, which names the language it wants"),
    "metamath": Template(f"{ALPACA} Let's think step by step.", "MetaMath's prompt: Alpaca's and one sentence"),
    CHAT: Template("", "its tokenizer's chat template, which is ours: the paper uses the Alpaca prompt"),
}
if TYPE_CHECKING:  # names for a profile's fields
    TemplateName = str
    TrainedTemplateName = str
else:
    TemplateName = Literal[tuple(TEMPLATES)]
    TrainedTemplateName = Literal[tuple(name for name, entry in TEMPLATES.items() if "{language}" not in entry.text)]


def build(template: str, instruction: str, code: str = "en") -> str:
    """The prompt that puts an instruction in language `code`, such as a benchmark's question, to a model.

    An instruction that holds an input (`with_input`) gets the first sentence of the authors' prompt for that. A chat
    template leaves it as it is, since only the tokenizer can apply it: see `render`.
    """
    if template not in TEMPLATES:
        raise ValueError(f"unknown template {template!r}; known: {', '.join(TEMPLATES)}")
    text = TEMPLATES[template].text or "{instruction}"
    text = text.replace(FIRST, FIRST_WITH_INPUT, 1) if INPUT in instruction else text
    return text.format_map({"instruction": instruction, "language": language(code).name})


def with_input(instruction: str, text: str) -> str:
    """An instruction with the input it is about, as both stand in the prompt; without one it stays as it is."""
    return f"{instruction}{INPUT}{text}" if text else instruction


def alpaca(instruction: str) -> str:
    """The paper's prompt around an instruction. Source: NJUNLP/QAlign finetune.py:18-30."""
    return build("alpaca", instruction)


# ------------------------------------------------------------------------------------------------- instructions


def translation_instruction(question: str, source: str, target: str = "en", *, names: str = "paper") -> str:
    """The stage-1 instruction: translate `question` (stripped) from language `source` to language `target`, both codes.

    `names`: `paper` for ISO 639-3 reference names (Swahili is `Swahili (macrolanguage)`), `plain` for common English
    names. Source: NJUNLP/QAlign data/gsmtrans/gsmtrans.py:27, 90-130.
    """
    head = TRANSLATION.format(source=_language_name(source, names), target=_language_name(target, names))
    return f"{head} {question.strip()}"


def writing_instruction(code: str, *, names: str = "paper") -> str:
    """The instruction of a control of ours, which has no text to translate."""
    return f"Write a text in {_language_name(code, names)}."


def _language_name(code: str, names: str) -> str:
    if names not in ("paper", "plain"):
        raise ValueError(f"names must be 'paper' or 'plain', not {names!r}")
    return language(code).reference_name if names == "paper" else language(code).name


# ------------------------------------------------------------------------------------------------- with a tokenizer

# Chat templates that name today's date (LLaMA 3's) get this one: a prompt must not change from one day to the next.
CHAT_DATE = "26 Jul 2024"
_DAY = datetime(2024, 7, 26)
_NOW = re.compile(r"""\bstrftime_now\(\s*(['"])(.*?)\1\s*\)""")
_QUESTION, _RESPONSE = "qalign-question", "qalign-response"
_REMEDY = "correct the chat_template of its tokenizer, or use model.template: alpaca, as the paper does"


class Turn(NamedTuple):
    """What stands around a response."""

    before: str  # between the prompt and the response, mostly none or a space; learnt with the response
    end: str  # the token that ends the response, as text: EOS, or the end of a turn
    end_id: int


def render(tokenizer: PreTrainedTokenizerBase, instruction: str, template: str) -> str:
    """An instruction exactly as the model reads it; tokenise a chat (`is_chat`) with `add_special_tokens=False`.

    Raises:
        ValueError: for an unknown template, or a chat template that is absent, fails or leaves the instruction out.
    """
    prompt = build(template, instruction)
    if not TEMPLATES[template].is_chat:
        return prompt
    text = _chat(tokenizer, [{"role": "user", "content": instruction}], begin_answer=True)
    if instruction.strip() not in text:
        why = f"asked {instruction[:60]!r}, it wrote {text[:120]!r}; {_REMEDY}"
        raise ValueError(f"{_name(tokenizer)}: its chat template does not write the user's turn as it is: {why}")
    return text


def turn(tokenizer: PreTrainedTokenizerBase, template: str) -> Turn:
    """What stands around a response: nothing and EOS, or what the chat template writes.

    Raises:
        ValueError: for a chat template that is absent or fails, does not write the question and the response exactly
            once, or ends a turn with ordinary text.
    """
    if not TEMPLATES[template].is_chat:
        return Turn("", str(tokenizer.eos_token), tokenizer.eos_token_id)
    asked = render(tokenizer, _QUESTION, template)
    turns = [{"role": "user", "content": _QUESTION}, {"role": "assistant", "content": _RESPONSE}]
    whole = _chat(tokenizer, turns, begin_answer=False)
    for text, content, side in ((asked, _QUESTION, "question"), (whole, _RESPONSE, "response")):
        if text.count(content) != 1:
            why = f"so what is learnt would not be the response alone; {_REMEDY}"
            times = f"writes the {side} {text.count(content)} times, not once"
            raise ValueError(f"{_name(tokenizer)}: its chat template {times}, {why}")
    head, _, behind = whole.partition(_RESPONSE)
    ids = tokenizer(behind.lstrip(), add_special_tokens=False)["input_ids"]
    if not ids or ids[0] not in tokenizer.added_tokens_decoder:
        why = "which does not begin with a special token, so no answer could end: use model.template: alpaca"
        raise ValueError(f"{_name(tokenizer)}: its chat template ends the assistant's turn with {behind[:40]!r}, {why}")
    before = head.removeprefix(asked) if head.startswith(asked) else ""
    return Turn(before, str(tokenizer.added_tokens_decoder[ids[0]]), ids[0])


def _chat(tokenizer: PreTrainedTokenizerBase, turns: list[dict[str, str]], *, begin_answer: bool) -> str:
    if not tokenizer.chat_template:
        remedy = "use model.template: alpaca, as the paper does, or save a chat_template with the tokenizer"
        raise ValueError(f"{_name(tokenizer)}: its tokenizer has no chat template: {remedy}")
    try:
        # The date is written into the template: a function of ours would not reach it.
        template = _NOW.sub(lambda call: repr(_DAY.strftime(call[2])), tokenizer.get_chat_template())
        if "strftime_now(" in template:
            raise ValueError("it asks strftime_now for a date in a form that is not written out")
        options = {"tokenize": False, "add_generation_prompt": begin_answer, "date_string": CHAT_DATE}
        return str(tokenizer.apply_chat_template(turns, chat_template=template, **options))
    except Exception as error:  # a template is somebody's program: it may fail in any way
        reason = f"{type(error).__name__}: {error}"
        raise ValueError(f"{_name(tokenizer)}: its chat template cannot be used ({reason}); {_REMEDY}") from error


def _name(tokenizer: PreTrainedTokenizerBase) -> str:
    return getattr(tokenizer, "name_or_path", "") or "the tokenizer"
