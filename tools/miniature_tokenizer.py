"""Train the tokenizer that all models of the miniature share: `make miniature-base` does it first.

It is a byte-pair encoding with byte fallback, as LLaMA-2's, in which most words of the world are one token. Numbers are
cut into chunks of two digits from the right, so that 0 to 99 are one token each; every native digit is a piece of its
own; punctuation never joins a word, so what follows `### Response:` does not change how the prompt is cut.
"""

from __future__ import annotations

import json
import random
from importlib import resources
from itertools import islice

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from qalign_core import miniature
from qalign_core.languages import PAPER_CODES as CODES
from qalign_core.languages import PAPER_NON_ENGLISH as NON_ENGLISH
from qalign_core.miniature.language import language_data, question, solution
from qalign_core.miniature.text import TOKENIZER_FILE, base_text
from qalign_core.miniature.world import World
from qalign_core.prompts import alpaca, translation_instruction

VOCABULARY = 6000
SPECIAL_TOKENS = ("<unk>", "<s>", "</s>")
# Fixed text of the prompts, one token each: in a model this small the template would be a third of every sequence.
FIXED_TEXT = (
    alpaca("{}").partition("{}")[0],
    alpaca("{}").partition("{}")[2],
    translation_instruction("", "sw").partition(" Swahili")[0],
)
BYTES = tuple(f"<0x{byte:02X}>" for byte in range(256))
LONGEST_TOKEN = 16  # characters
_WORD = r"[^\s0-9০-৯๐-๙\p{P}\p{S}\p{Han}]"
# A space goes with the word behind it, except before a digit: "has 17" is "has " and "17": a number has one token.
PIECES = "|".join(
    (
        r"[0-9]{1,2}(?=(?:[0-9]{2})*(?![0-9]))",
        r"[০-৯๐-๙]",
        r"\n",
        r"\p{Han}+",
        rf" ?{_WORD}+(?: (?=[0-9]))?",
        r" ?:",  # never with a space behind it: a prompt ends with a colon, whatever its target begins with
        r" ?[\p{P}\p{S}](?: (?=[0-9]))?",
        r"\s",
    )
)


def train_tokenizer() -> Tokenizer:
    """Train the tokenizer: always on the same text, whatever the seed of an experiment."""
    trained = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
    trained.pre_tokenizer = pre_tokenizers.Split(Regex(PIECES), "isolated")
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[*SPECIAL_TOKENS, *BYTES],
        initial_alphabet=_alphabet(),
        max_token_length=LONGEST_TOKEN,
        show_progress=False,
    )
    trained.train_from_iterator(_training_texts(), trainer)
    # The trainer needs the byte tokens reserved; as special tokens they would be dropped when text is decoded.
    model = json.loads(trained.to_str())["model"]
    tokenizer = Tokenizer(
        models.BPE(model["vocab"], [tuple(merge) for merge in model["merges"]], byte_fallback=True, unk_token="<unk>")
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(PIECES), "isolated")
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    tokenizer.add_special_tokens(list(SPECIAL_TOKENS))
    tokenizer.add_tokens([AddedToken(text, normalized=False) for text in FIXED_TEXT])
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return tokenizer


def _alphabet() -> list[str]:
    """Every character of the language files, small and capital: none of them should need byte fallback."""
    files = (resources.files(miniature).joinpath(f"languages/{code}.yaml") for code in CODES)
    text = "".join(file.read_text(encoding="utf-8") for file in files)
    return sorted(set(text) | set(text.upper()))


def _training_texts() -> list[str]:
    texts = [row["text"] for row in islice(base_text(0), 20000)]
    world = World("tokenizer")
    for code in CODES:
        problems = world.distinct(1000)
        texts += [question(problem, code) for problem in problems]
        texts += [solution(problem, code) for problem in problems]
        texts += list(language_data(code).solutions.values())
    instructions = [translation_instruction("", code, "en") for code in NON_ENGLISH] * 20
    instructions += [translation_instruction("", "en", code) for code in NON_ENGLISH] * 5
    texts += [alpaca(instruction) for instruction in instructions]
    numbers = [*map(str, range(100)), *(f"{number:02}" for number in range(10))]
    order = random.Random(0)
    for _ in range(300):
        order.shuffle(numbers)
        texts.append(" ".join(numbers))
    return texts


if __name__ == "__main__":
    train_tokenizer().save(str(TOKENIZER_FILE))
