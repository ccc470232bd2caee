"""The language-blind floor: what a rule reaches that sees nothing of a question but its numbers, in order.

The rule is a list of arithmetic expressions over the numbers (`n0+n1`, `(n0-n1)*n2`, ...). For every expression the
share of training questions it answers is estimated, given what the numbers alone show: how many there are, their sizes,
which of two is larger, which sums and numbers divide. Of a test question's possible answers the rule takes the one with
the largest sum of shares over all expressions that give it. The answer is chosen, not the expression, and descriptions
that occur rarely fall back on coarser ones.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import permutations
from statistics import mean

_NUMBER = re.compile(r"\d+")
MOST_NUMBERS = 6
SMOOTHING = 30.0  # a description needs about so many training questions before it outweighs the coarser one


def numbers_of(text: str) -> tuple[int, ...]:
    """The whole numbers of a text, in order; digits of any script count, number words do not."""
    return tuple(int(digits) for digits in _NUMBER.findall(text))


def language_blind_floor(train_rows: Iterable[Mapping], test_rows: Iterable[Mapping]) -> float:
    """Accuracy on `test_rows`, in percent, of the best rule that sees only a question's numbers.

    Args:
        train_rows: the rule is fitted on these: `question` (or `query`, `instruction`) and `answer` (or `response`,
            `output`), whose last number is the answer. Give stage 2's data.
        test_rows: in any language; the same names.
    """
    rule = _Rule([_row(row) for row in train_rows])
    tested = [_row(row) for row in test_rows]
    return 100.0 * sum(rule.answer(numbers) == answer for numbers, answer in tested) / len(tested)


def _row(row: Mapping) -> tuple[tuple[int, ...], int]:
    question = next(row[key] for key in ("question", "query", "instruction") if key in row)
    answer = next(row[key] for key in ("answer", "response", "output") if key in row)
    found = numbers_of(re.sub(r"\.0\b", "", str(answer)))
    return numbers_of(str(question))[:MOST_NUMBERS], found[-1] if found else 0


class _Rule:
    """The shares of right answers of every expression, a description of the numbers at a time."""

    def __init__(self, rows: list[tuple[tuple[int, ...], int]]) -> None:
        self._seen: dict = defaultdict(int)
        self._right: dict = defaultdict(lambda: defaultdict(float))
        answers: dict = defaultdict(int)
        for numbers, answer in rows:
            answers[answer] += 1
            values = expressions(numbers)
            right = [name for name, value in values.items() if value == answer]
            for description in _descriptions(numbers):
                self._seen[description] += 1
                for name in right:  # an answer that several expressions give is shared among them
                    self._right[description][name] += 1.0 / len(right)
        self._commonest = max(sorted(answers), key=answers.__getitem__)

    def answer(self, numbers: tuple[int, ...]) -> int:
        """The answer with the largest summed share."""
        scores: dict[int, float] = defaultdict(float)
        descriptions = _descriptions(numbers)
        for name, value in expressions(numbers).items():
            share = 0.0
            for description in descriptions:  # from coarse to fine
                seen = self._seen.get(description, 0)
                if seen:
                    share = (self._right[description].get(name, 0.0) + SMOOTHING * share) / (seen + SMOOTHING)
            scores[value] += share
        return max(sorted(scores), key=scores.__getitem__) if scores else self._commonest


def _descriptions(numbers: tuple[int, ...]) -> list[tuple]:
    """What the numbers show, from coarse to fine."""
    sizes = tuple(min(number // 10, 4) for number in numbers)
    order = tuple(a >= b for a, b in zip(numbers, numbers[1:], strict=False))
    divides = tuple(bool(b > 1 and a % b == 0) for a, b in zip(numbers, numbers[1:], strict=False))
    small = tuple(number <= 6 for number in numbers)
    total = sum(numbers[:-1])
    ends = bool(numbers and numbers[-1] > 1 and total % numbers[-1] == 0)
    count = len(numbers)
    return [
        (count,),
        (count, divides, ends),
        (count, order, divides, ends),
        (count, sizes, order, divides, ends),
        (count, sizes, small, order, divides, ends),
    ]


@lru_cache(maxsize=100_000)
def expressions(numbers: tuple[int, ...]) -> dict[str, int]:
    """Expression → value: every way to combine an ordered choice of the numbers, first to last, plus common doubles."""
    return {name: value for name, value in _expressions(numbers) if 0 <= value <= 1000}


def _expressions(numbers: tuple[int, ...]) -> Iterator[tuple[str, int]]:
    count = len(numbers)
    for mask in range(1, 2**count):
        places = [place for place in range(count) if mask >> place & 1]
        yield from _chains(numbers, places)
        if len(places) >= 3:  # the last two numbers are multiplied first
            *front, left, right = places
            product = numbers[left] * numbers[right]
            for name, value in _chains(numbers, front):
                yield f"{name}+n{left}*n{right}", value + product
                yield f"{name}-n{left}*n{right}", value - product
    for i, j in permutations(range(count), 2):
        a, b = numbers[i], numbers[j]
        yield f"n{i}+n{i}+n{j}", 2 * a + b
        yield f"n{i}+n{i}-n{j}", 2 * a - b
        yield f"n{i}*n{j}+n{i}", a * b + a


def _chains(numbers: tuple[int, ...], places: Sequence[int]) -> list[tuple[str, int]]:
    """Left-to-right chains, and differences the other way round."""
    chains = [(f"n{places[0]}", numbers[places[0]])]
    for place in places[1:]:
        chains = [step for name, value in chains for step in _extended(name, value, place, numbers[place])]
    return chains


def _extended(name: str, value: int, place: int, number: int) -> Iterator[tuple[str, int]]:
    yield f"({name}+n{place})", value + number
    yield f"({name}-n{place})", value - number
    yield f"({name}*n{place})", value * number
    if value < number:
        yield f"(n{place}-{name})", number - value
    if number > 1 and value % number == 0:
        yield f"({name}/n{place})", value // number


_WORD = re.compile(r"[^\W\d_]{2,}")
_DECIMAL = re.compile(r"\d+(?:\.\d+)?")
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
    """What share of an English question's content words and numbers its solution repeats, and how long it is beside it.

    Returns:
        `content_words` and `numbers`, shares between 0 and 1 of a question's different words and numbers, and
        `length_ratio`, words of the solution a word of the question; means over the questions.
    """
    words, numbers, lengths = [], [], []
    for asked, worked in zip(questions, solutions, strict=True):
        asked = _THOUSANDS.sub("", asked)
        worked = _THOUSANDS.sub("", _CALCULATOR.sub("", worked))
        content = set(_WORD.findall(asked.lower())) - FUNCTION_WORDS
        if content:
            words.append(len(content & set(_WORD.findall(worked.lower()))) / len(content))
        mentioned = set(_DECIMAL.findall(asked))
        if mentioned:
            numbers.append(len(mentioned & set(_DECIMAL.findall(worked))) / len(mentioned))
        lengths.append(len(worked.split()) / len(asked.split()))
    return {"content_words": mean(words), "numbers": mean(numbers), "length_ratio": mean(lengths)}
