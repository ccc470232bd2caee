"""What the miniature's base model reads before it is trained, the tokenizer, and the untrained model.

The text is English-centric, as LLaMA-2's was: questions without answers in every language, generic sentences, lists and
paragraphs that occur twice (which teaches copying), arithmetic, solved problems in English, single sentences beside
their translation, and questions whose sentences change between two languages. It never holds a question in another
language with its answer, or the same problem in two languages.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from tokenizers import Tokenizer

from qalign_core import runs
from qalign_core.languages import PAPER_NON_ENGLISH as NON_ENGLISH
from qalign_core.miniature.language import (
    NATIVE_DIGITS,
    Slots,
    draw_generic,
    language_data,
    question,
    render_generic,
    solution,
    statements,
)
from qalign_core.miniature.world import ITEMS, LARGEST, PEOPLE, Problem, World

HIGH_RESOURCE = ("ja", "zh", "de", "fr", "ru", "es")
# Shares of documents: the rare languages are rarer, as in LLaMA-2's text.
LANGUAGE_SHARES: dict[str, float] = {
    "en": 0.50, **dict.fromkeys(HIGH_RESOURCE, 0.06), **dict.fromkeys(("bn", "th", "sw"), 0.14 / 3),
}  # fmt: skip
ARITHMETIC_SHARE = 0.12  # of the English documents
SOLVED_SHARE = 0.50  # of the English documents
BITEXT_SHARE = 0.45  # of the other languages' documents
MIXED_SHARE = 0.25  # of the other languages' documents
LIST_SHARE = 0.30  # of the remaining documents
TWICE_SHARE = 0.50  # of the remaining paragraphs
QUESTION_SHARE = 0.60  # of the paragraphs; the others are generic
SOLVED_STYLES = ("calibrated", "restating")  # in equal parts: the web has GSM8K's way of writing and MetaMathQA's


def base_text(seed: int) -> Iterator[dict[str, str]]:
    """An endless stream of documents, `{"text", "language", "kind"}`: kind is `arithmetic`, `solved`, `bitext`,
    `mixed`, `list`, `question` or `generic`, language that of the text (`xx-en` for sentences of two languages).
    """
    rng = random.Random(f"base/{seed}")
    problems = World(f"base/{seed}").problems()
    codes, weights = list(LANGUAGE_SHARES), list(LANGUAGE_SHARES.values())
    while True:
        yield _document(rng, problems, rng.choices(codes, weights)[0])


def _document(rng: random.Random, problems: Iterator[Problem], code: str) -> dict[str, str]:
    chance = rng.random()
    if code == "en" and chance < ARITHMETIC_SHARE:
        return {"text": _arithmetic(rng), "language": "en", "kind": "arithmetic"}
    if code == "en" and chance < ARITHMETIC_SHARE + SOLVED_SHARE:
        problem = next(problems)
        text = f"{question(problem, 'en')}\n{solution(problem, 'en', rng.choice(SOLVED_STYLES))}"
        return {"text": text, "language": "en", "kind": "solved"}
    if code != "en" and chance < BITEXT_SHARE + MIXED_SHARE:
        other = "en" if rng.random() < 0.7 else rng.choice([each for each in NON_ENGLISH if each != code])
        kind, write = ("bitext", _bitext) if chance < BITEXT_SHARE else ("mixed", _mixed)
        return {"text": write(rng, problems, code, other), "language": f"{code}-{other}", "kind": kind}
    if rng.random() < LIST_SHARE:
        items = _list(rng, code)
        return {"text": f"{items}\n{items}", "language": code, "kind": "list"}
    separator = language_data(code).separator
    kind = "question" if rng.random() < QUESTION_SHARE else "generic"
    first = _paragraph(rng, problems, code, kind)
    if rng.random() < TWICE_SHARE:
        return {"text": f"{first}\n{first}", "language": code, "kind": kind}
    second = _paragraph(rng, problems, code, kind)
    return {"text": first + (separator or "\n") + second, "language": code, "kind": kind}


def _bitext(rng: random.Random, problems: Iterator[Problem], code: str, other: str) -> str:
    """Single sentences of different origin, each beside its translation: no problem is there whole."""
    lines = []
    for _ in range(rng.randint(1, 4)):
        if rng.random() < 0.25:
            sentence = draw_generic(rng)
            sides = [render_generic(sentence, code), render_generic(sentence, other)]
        else:
            problem = next(problems)
            place = rng.randrange(len(problem.keys))
            sides = [statements(problem, each)[place] for each in (code, other)]
        rng.shuffle(sides)
        lines += sides
    return "\n".join(lines)


def _mixed(rng: random.Random, problems: Iterator[Problem], code: str, other: str) -> str:
    """Questions whose sentences are each in one of two languages, as people write who speak both."""
    sentences = []
    for _ in range(rng.randint(1, 2)):
        problem = next(problems)
        sides = [statements(problem, each) for each in (code, other)]
        sentences += [rng.choice(pair) for pair in zip(*sides, strict=True)]
    return " ".join(sentences)


def _paragraph(rng: random.Random, problems: Iterator[Problem], code: str, kind: str) -> str:
    if kind == "question":
        return question(next(problems), code)
    sentences = [render_generic(draw_generic(rng), code) for _ in range(rng.randint(1, 3))]
    return language_data(code).separator.join(sentences)


def _arithmetic(rng: random.Random) -> str:
    facts: list[str] = []
    while len(facts) < 14:
        operator = rng.choice("+++---**/")
        if operator in "+-":
            small = rng.randint(1, 9) if rng.random() < 0.7 else rng.randint(10, LARGEST // 2)
            rest = rng.randint(1, LARGEST - small)
            left, right, result = (rest, small, rest + small) if operator == "+" else (rest + small, small, rest)
        else:
            first = rng.randint(1, 12)
            second = rng.randint(1, min(30, LARGEST // first))
            if rng.random() < 0.5:
                first, second = second, first
            product = first * second
            left, right, result = (first, second, product) if operator == "*" else (product, first, second)
        facts.append(f"{left}{operator}{right}={result}.")
    return " ".join(facts)


def _list(rng: random.Random, code: str) -> str:
    data = language_data(code)
    parts = [str(rng.randint(1, LARGEST)) for _ in range(rng.randint(3, 8))]
    parts += [data.name(rng.choice(list(PEOPLE))) for _ in range(rng.randint(1, 4))]
    for _ in range(rng.randint(1, 4)):
        number = rng.randint(1, LARGEST)
        parts.append(data.render("{x item}", Slots(item=rng.choice(ITEMS), x=number, spelled=rng.random() < 0.3)))
    if code in NATIVE_DIGITS and rng.random() < 0.3:
        digits = str(rng.randint(1, LARGEST))
        parts.append(f"{digits.translate(NATIVE_DIGITS[code])} {digits}")
    rng.shuffle(parts)
    return " ".join(parts)


def write_base_corpus(path: str | Path, *, seed: int, tokens: int) -> dict:
    """Write the base text as JSON lines (`id, text, language, kind`) until it has so many tokens of the miniature's
    tokenizer, BOS and EOS of every document counted.

    Returns:
        `{"rows", "tokens", "report"}`; the report has a row a language and kind: `language, kind, documents, tokens`.
    """
    import pandas as pd

    tokenizer, rows, lengths, total = shipped_tokenizer(), list[dict](), list[int](), 0
    for row in base_text(seed):
        lengths.append(len(tokenizer.encode(row["text"]).ids) + 1)  # BOS is there, EOS is added by the trainer
        rows.append({"id": len(rows), **row})
        total += lengths[-1]
        if total >= tokens:
            break
    runs.write_json_lines(path, rows)
    grouped = pd.DataFrame(rows).assign(tokens=lengths).groupby(["language", "kind"])["tokens"]
    report = grouped.agg(documents="size", tokens="sum").reset_index().to_dict("records")
    return {"rows": len(rows), "tokens": total, "report": report}


TOKENIZER_FILE = Path(__file__).parent / "languages/tokenizer.json"
DEFAULT_CONFIG = {
    "hidden_size": 192,
    "intermediate_size": 512,
    "num_hidden_layers": 4,
    "num_attention_heads": 6,
    "max_position_embeddings": 1024,
    "initializer_range": 0.06,
}


@cache
def shipped_tokenizer() -> Tokenizer:
    """The tokenizer that all models of the miniature share, as `make miniature-base` once made it."""
    return Tokenizer.from_file(str(TOKENIZER_FILE))


def create_base(folder: str | Path, *, seed: int = 1, config: dict | None = None) -> Path:
    """Write an untrained LLaMA with its tokenizer, a plain transformers folder, and return the folder.

    Weights are normal with a deviation of 0.06, output projections zero: every layer begins as the identity.
    There is no pad token, as in LLaMA-2; the trainer adds one. `config` has the names of `transformers.LlamaConfig`
    that differ from `DEFAULT_CONFIG`.
    """
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
    from transformers.utils import logging

    logging.disable_progress_bar()  # of one file of a few MB
    folder = Path(folder)
    tokenizer = shipped_tokenizer()
    chosen = {**DEFAULT_CONFIG, **(config or {})}
    chosen.setdefault("num_key_value_heads", chosen["num_attention_heads"])
    settings = LlamaConfig(
        vocab_size=tokenizer.get_vocab_size(), bos_token_id=1, eos_token_id=2, tie_word_embeddings=False, **chosen
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(settings)
    with torch.no_grad():
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
    model.generation_config.bos_token_id, model.generation_config.eos_token_id = 1, 2
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        model_max_length=chosen["max_position_embeddings"],
        clean_up_tokenization_spaces=False,
    ).save_pretrained(folder)
    return folder
