"""Every template that reaches a model."""

from __future__ import annotations

from qalign_core.languages import language

# Source: NJUNLP/QAlign finetune.py:18-30 (`prompt_no_input`), also used by its evaluation.
ALPACA = (
    "Below is an instruction that describes a task. "
    "Write a response that appropriately completes the request.\n\n"
    "### Instruction:\n{instruction}\n\n### Response:"
)

# Source: NJUNLP/QAlign data/gsmtrans/gsmtrans.py:27, 90-130.
TRANSLATION = "Translate the following sentences from {source} to {target}."

# MathOctopus's own template names the language it wants. Source: microsoft/MathOctopus
# step1_supervised_finetuning/generate_and_eval.py (`prompt_no_input`).
MATHOCTOPUS = (
    "Below is an instruction that describes a task. "
    "Write a response that appropriately completes the request in {language}. Please answer in {language}.\n\n"
    "### Instruction:\n{instruction}\n\n### Response:"
)


def alpaca(instruction: str) -> str:
    """Wrap an instruction in the Alpaca template without input; the response follows directly behind its last colon.

    Source: NJUNLP/QAlign finetune.py:18-30.
    """
    return ALPACA.format_map({"instruction": instruction})


def writing_instruction(code: str, *, names: str = "paper") -> str:
    """What is asked where a text of language `code` is the whole target, with nothing to translate: a control (ours).

    Raises:
        ValueError: as `translation_instruction`, whose `names` this is.
    """
    return f"Write a text in {_called(code, names)}."


def translation_instruction(question: str, source: str, target: str = "en", *, names: str = "paper") -> str:
    """The stage-1 instruction: translate `question` from language `source` to language `target`.

    Args:
        question: the text to translate; stripped.
        source: language code of the text, such as `"sw"`.
        target: language code of the translation.
        names: `"paper"` for ISO 639-3 reference names (Swahili is `Swahili (macrolanguage)`), `"plain"` for common
            English names.

    Raises:
        ValueError: for an unknown language code or an unknown `names`.

    Source: NJUNLP/QAlign data/gsmtrans/gsmtrans.py:27, 90-130.
    """
    head = TRANSLATION.format(source=_called(source, names), target=_called(target, names))
    return f"{head} {question.strip()}"


def _called(code: str, names: str) -> str:
    if names not in ("paper", "plain"):
        raise ValueError(f"names must be 'paper' or 'plain', not {names!r}")
    return language(code).reference_name if names == "paper" else language(code).name


def build(template: str, question: str, code: str) -> str:
    """The prompt that asks a model a benchmark's question.

    Args:
        template: `alpaca` (the paper's, for every system), or a published checkpoint's own: `mathoctopus`, `metamath`.
            `chat` leaves the question as it is: the model's own template is put around it when it is asked.
        question: as it stands in the benchmark's file.
        code: the question's language.

    Raises:
        ValueError: for an unknown template.

    Source: NJUNLP/QAlign's evaluation for `alpaca`; MATHOCTOPUS above; MetaMath's own evaluation adds one sentence
        behind the Alpaca template.
    """
    if template == "alpaca":
        return alpaca(question)
    if template == "chat":
        return question
    if template == "mathoctopus":
        return MATHOCTOPUS.format_map({"instruction": question, "language": language(code).name})
    if template == "metamath":
        return alpaca(question) + " Let's think step by step."
    raise ValueError(f"unknown template {template!r}; known: alpaca, mathoctopus, metamath, chat")
