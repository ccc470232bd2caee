"""Language-free word problems: drawn from a seed, with their arithmetic as a small tree.

Numbers come first: a tuple of numbers is drawn from one distribution for all families, then an answer it can have, then a
schema with that answer. So the numbers alone say as little as possible about what is asked (see `floor`).
Which tuples belong to tests, to development and to training is decided by a checksum of the tuple: no test question
shares its numbers, let alone numbers and skeleton, with any question of the training, development or base text.
"""

from __future__ import annotations

import random
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache

from qalign_core.miniature.families import ADDING, DISTRACTING, HELD_OUT_FAMILY, SCHEMAS, TAKING, Schema, Statement

LARGEST = 60  # no number of a problem, given or computed, is larger
PAIR_SHARE = 0.2  # drawing a pair one time in five makes a third of all questions members of a pair
SPELLED_SHARE = 0.12  # questions that write numbers up to ten as words
NATIVE_DIGITS_SHARE = 0.06  # questions whose Bengali and Thai versions use those languages' own digits
SPLITS = {"test": (0, 1), "development": (2,), "training": tuple(range(3, 16))}  # of the checksum modulo 16

PEOPLE: dict[str, str] = {
    **dict.fromkeys("Tom Peter David Max Paul Daniel Adam Oscar Victor Martin Samuel Robert".split(), "m"),
    **dict.fromkeys("Anna Maria Lisa Sara Nina Emma Laura Clara Julia Sofia Eva Olga".split(), "f"),
}
ITEMS: tuple[str, ...] = tuple(
    "apple orange banana lemon pear egg tomato book notebook pencil pen ball rose cup plate bottle balloon stamp card "
    "photo ticket hat candle spoon".split()
)
HELD_OUT_ITEMS: tuple[str, ...] = ("button", "ring", "umbrella", "shirt", "envelope", "ruler")

Tree = int | tuple[str, "Tree", "Tree"]  # the place of a number in the question, or (operator, left, right)


@dataclass(frozen=True)
class Calculation:
    """One step of the solution: what it is about, its operation and its result."""

    key: str
    operator: str
    left: int
    right: int
    result: int

    @property
    def equation(self) -> str:
        """Such as `"17+5=22"`; empty for a line that only says with what the solution begins."""
        return f"{self.left}{self.operator}{self.right}={self.result}" if self.operator else ""


@dataclass(frozen=True)
class Problem:
    """A word problem before it has words.

    Attributes:
        schema: its family, statements, question and steps.
        keys: the statements' keys, `+`, `-` and `?` resolved, then the question's.
        numbers: in the order in which the question mentions them.
        people: (N, M).
        item: what it is about.
        wordings: index of the wording of every statement and of the question.
        spelled: numbers up to ten are words in the question.
        native_digits: Bengali and Thai use their own digits in the question.
    """

    schema: Schema
    keys: tuple[str, ...]
    numbers: tuple[int, ...]
    people: tuple[str, str]
    item: str
    wordings: tuple[int, ...]
    spelled: bool = False
    native_digits: bool = False

    @property
    def family(self) -> str:
        """The scenario family."""
        return self.schema.family

    @property
    def signature(self) -> tuple[str, tuple[int, ...]]:
        """Skeleton and numbers: what makes two problems duplicates, whatever their people, things and wordings."""
        return self.schema.skeleton(), self.numbers

    @property
    def parts(self) -> Iterator[tuple[str, Statement, int]]:
        """(key, statement, wording) of every statement and of the question."""
        yield from zip(self.keys, (*self.schema.statements, self.schema.question), self.wordings, strict=True)

    @property
    def calculations(self) -> list[Calculation]:
        """The steps of the solution with their values."""
        return calculate(self.schema, self.numbers)

    @property
    def answer(self) -> int:
        """The last step's result."""
        return self.calculations[-1].result

    @property
    def tree(self) -> Tree:
        """The answer as a tree over the places of the question's numbers."""
        trees: list[Tree] = []
        for step in self.schema.steps:
            if step.operator:
                sides = [i if kind == "number" else trees[i] for kind, i in (step.left, step.right)]
                trees.append((step.operator, *sides))
        return trees[-1]


def calculate(schema: Schema, numbers: tuple[int, ...]) -> list[Calculation]:
    """The steps of a schema's solution for these numbers; a division that leaves a rest has result 0."""
    results: list[int] = []
    calculations = []
    for step in schema.steps:
        left = numbers[step.left[1]] if step.left[0] == "number" else results[step.left[1]]
        if not step.operator:
            calculations.append(Calculation(step.key, "", left, 0, left))
            continue
        right = numbers[step.right[1]] if step.right[0] == "number" else results[step.right[1]]
        if step.operator == "/":
            result = left // right if right and left % right == 0 else 0
        else:
            result = {"+": left + right, "-": left - right, "*": left * right}[step.operator]
        results.append(result)
        calculations.append(Calculation(step.key, step.operator, left, right, result))
    return calculations


def split_of(numbers: tuple[int, ...]) -> str:
    """`"test"`, `"development"` or `"training"`: the split that owns this tuple of numbers."""
    bucket = zlib.crc32(",".join(map(str, numbers)).encode()) % 16
    return next(name for name, buckets in SPLITS.items() if bucket in buckets)


@lru_cache(maxsize=200_000)
def solvable(numbers: tuple[int, ...], held_out: bool) -> dict[int, tuple[Schema, ...]]:
    """Every answer these numbers can have, with the schemas that give it, all values between 1 and `LARGEST`."""
    found: dict[int, list[Schema]] = {}
    for schema in SCHEMAS:
        if schema.arity != len(numbers) or (schema.family == HELD_OUT_FAMILY) > held_out:
            continue
        if not all(low <= n <= high for n, (low, high) in zip(numbers, schema.limits, strict=True)):
            continue
        calculations = calculate(schema, numbers)
        if all(1 <= c.result <= LARGEST for c in calculations):
            found.setdefault(calculations[-1].result, []).append(schema)
    return {answer: tuple(schemas) for answer, schemas in found.items()}


def _draw_numbers(rng: random.Random) -> tuple[int, ...]:
    arity = rng.choices((2, 3, 4, 5), (34, 42, 20, 4))[0]
    numbers = []
    for position in range(arity):
        large = rng.random() < (0.62 if position == 0 else 0.22)
        numbers.append(rng.randint(10, 40) if large else rng.randint(1 if rng.random() < 0.5 else 2, 9))
    return tuple(numbers)


class World:
    """A stream of problems of one split.

    Args:
        seed: anything; the same text of it gives the same problems on every machine.
        split: `"training"`, `"development"` or `"test"`.
        held_out: draw the out-of-domain world: held-out wordings, things and family.
    """

    def __init__(self, seed: object, split: str = "training", *, held_out: bool = False) -> None:
        self.rng = random.Random(f"miniature/{split}/{held_out}/{seed}")
        self.split = split
        self.held_out = held_out
        self._waiting: list[Problem] = []

    def problem(self) -> Problem:
        """The next problem. One third of all belong to a minimal pair, whose members follow each other."""
        if self._waiting:
            return self._waiting.pop()
        while True:
            problem = self._draw()
            if self.rng.random() >= PAIR_SHARE:
                return problem
            twin = self._twin(problem)
            if twin is not None:
                self._waiting.append(twin)
                return problem

    def distinct(self, count: int, seen: set | None = None) -> list[Problem]:
        """`count` problems, no two with the same skeleton and numbers, none with a signature in `seen` (extended)."""
        seen = set() if seen is None else seen
        problems: list[Problem] = []
        while len(problems) < count:
            pair = [self.problem(), *self._waiting]
            self._waiting.clear()
            if any(problem.signature in seen for problem in pair) or len(problems) + len(pair) > count:
                if len(problems) + len(pair) > count and pair[0].signature not in seen:
                    pair = pair[:1]
                else:
                    continue
            seen.update(problem.signature for problem in pair)
            problems += pair
        return problems

    def _draw(self) -> Problem:
        rng = self.rng
        while True:
            numbers = _draw_numbers(rng)
            if split_of(numbers) != self.split:
                continue
            answers = solvable(numbers, self.held_out)
            if answers:
                break
        schemas = answers[rng.choice(sorted(answers))]
        families = sorted({schema.family for schema in schemas})
        weights = [3 if family == HELD_OUT_FAMILY else 1 for family in families]
        family = rng.choices(families, weights)[0]
        schema = rng.choice([schema for schema in schemas if schema.family == family])
        first = rng.choice(list(PEOPLE))
        second = rng.choice([person for person in PEOPLE if person != first])
        keys = tuple(self._resolve(part.key) for part in (*schema.statements, schema.question))
        items = HELD_OUT_ITEMS if self.held_out else ITEMS
        return Problem(
            schema, keys, numbers, (first, second), rng.choice(items),
            tuple(2 if self.held_out else rng.randrange(2) for _ in keys),
            spelled=rng.random() < SPELLED_SHARE, native_digits=rng.random() < NATIVE_DIGITS_SHARE,
        )  # fmt: skip

    def _resolve(self, key: str) -> str:
        return self.rng.choice({"+": ADDING, "-": TAKING, "?": DISTRACTING}.get(key, (key,)))

    def _twin(self, problem: Problem) -> Problem | None:
        """The same numbers, people and thing with one statement or the question changed, and another answer."""
        schema = problem.schema
        parts = (*schema.statements, schema.question)
        twins = []
        for answer, schemas in solvable(problem.numbers, self.held_out).items():
            for other in schemas if answer != problem.answer else ():
                other_parts = (*other.statements, other.question)
                if other.family == schema.family and len(other_parts) == len(parts):
                    changed = [i for i, (a, b) in enumerate(zip(parts, other_parts, strict=True)) if a != b]
                    if len(changed) == 1:
                        twins.append((other, changed[0]))
        if not twins:
            return None
        other, position = self.rng.choice(twins)
        keys = list(problem.keys)
        keys[position] = self._resolve((*other.statements, other.question)[position].key)
        return replace(problem, schema=other, keys=tuple(keys))
