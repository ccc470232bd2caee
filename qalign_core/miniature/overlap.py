"""How much of a question its solution repeats: measured in one way on the real data and on the miniature."""

from __future__ import annotations

import re
from collections.abc import Sequence
from statistics import mean

_WORD = re.compile(r"[^\W\d_]{2,}")
_NUMBER = re.compile(r"\d+(?:\.\d+)?")
_THOUSANDS = re.compile(r"(?<=\d),(?=\d)")
_CALCULATOR = re.compile(r"<<.*?>>")  # GSM8K's calculator annotations, which no model is trained on
# English words that carry no content: articles, pronouns, auxiliaries, prepositions, conjunctions, question words.
_FUNCTION_WORDS = """
a an the and or but if then than so of to in on at by for from with as is are was were be been being has have had
do does did can could will would should may might must he she it they we you him her them us his hers its their our
your this that these those there who what which when where why how many much each every all some any no not
"""
FUNCTION_WORDS = frozenset(_FUNCTION_WORDS.split())


def solution_overlap(questions: Sequence[str], solutions: Sequence[str]) -> dict[str, float]:
    """What share of a question's content words and numbers its solution repeats, and how long it is beside it.

    Args:
        questions: in English.
        solutions: of the same questions, in the same order.

    Returns:
        `content_words` and `numbers`, shares between 0 and 1 of a question's different words and numbers, and
        `length_ratio`, words of the solution a word of the question; means over the questions.

    Raises:
        ValueError: when there are not as many solutions as questions, or none.
    """
    if len(questions) != len(solutions) or not questions:
        raise ValueError(f"{len(questions)} questions, {len(solutions)} solutions: give as many of each, at least one")
    words, numbers, lengths = [], [], []
    for asked, worked in zip(questions, solutions, strict=True):
        asked = _THOUSANDS.sub("", asked)
        worked = _THOUSANDS.sub("", _CALCULATOR.sub("", worked))
        content = set(_WORD.findall(asked.lower())) - FUNCTION_WORDS
        if content:
            words.append(len(content & set(_WORD.findall(worked.lower()))) / len(content))
        mentioned = set(_NUMBER.findall(asked))
        if mentioned:
            numbers.append(len(mentioned & set(_NUMBER.findall(worked))) / len(mentioned))
        lengths.append(len(worked.split()) / len(asked.split()))
    return {"content_words": mean(words), "numbers": mean(numbers), "length_ratio": mean(lengths)}
