"""Language-free word problems: the schemas they follow, and problems drawn from a seed, with their arithmetic.

Numbers come first: a tuple of numbers is drawn from one distribution for all families, then an answer it can have, then
a schema with that answer. So the numbers alone say as little as possible about what is asked (see `floor`).
Which tuples belong to tests, to development and to training is decided by a checksum of the tuple: no test question
shares its numbers, let alone numbers and skeleton, with any question of the training, development or base text.
The schemas, and how they are written, are in `schemas.txt`.
"""

from __future__ import annotations

import random
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from importlib import resources

ADDING = ("buys", "gets", "finds")
TAKING = ("gives", "loses", "sells")
DISTRACTING = ("other_has", "price", "age")
HELD_OUT_FAMILY = "travel"

# Smallest and largest value a statement's number can sensibly have.
LIMITS = {
    "boxes": (2, 12), "each_box": (1, 30), "more_boxes": (1, 12), "fewer_boxes": (1, 9), "share": (2, 9),
    "friends": (2, 9), "each_friend": (1, 12), "price": (1, 20), "discount": (1, 20), "times": (2, 6),
    "age": (2, 60), "age@": (2, 60), "older": (1, 30), "younger": (1, 30), "q_age_in": (1, 30), "q_age_in@": (1, 30),
    "q_age_ago": (1, 30), "q_age_ago@": (1, 30), "reads": (2, 30), "long_book": (10, 60), "has_read": (2, 40),
    "q_pages": (2, 12), "q_pages_left": (2, 12), "wage": (2, 20), "works": (2, 10), "works_more": (1, 9),
    "wants": (6, 60), "money": (2, 60), "speed": (2, 30), "rides": (2, 10), "walks": (1, 12), "way": (6, 60),
}  # fmt: skip
DEFAULT_LIMITS = (1, 60)


@dataclass(frozen=True)
class Statement:
    """A key of `sentences` (or `+`, `-`, `?`), whether the two people are swapped, and which number it carries."""

    key: str
    swapped: bool
    number: int | None  # index into the problem's numbers


@dataclass(frozen=True)
class Step:
    """A key of `solutions` and one operation on earlier values; `operator` is empty for a start line."""

    key: str
    operator: str
    left: tuple[str, int]  # ("number", index) or ("result", index)
    right: tuple[str, int] | None
    swapped: bool


@dataclass(frozen=True)
class Schema:
    """One line of `schemas.txt`."""

    family: str
    statements: tuple[Statement, ...]
    question: Statement
    steps: tuple[Step, ...]
    implied: tuple[Step, ...]
    line: str

    @cached_property
    def arity(self) -> int:
        """How many numbers a question of this schema contains."""
        return sum(part.number is not None for part in (*self.statements, self.question))

    @cached_property
    def limits(self) -> tuple[tuple[int, int], ...]:
        """Smallest and largest value of every number."""
        parts = [part for part in (*self.statements, self.question) if part.number is not None]
        keys = [part.key + "@" * part.swapped for part in parts]
        return tuple(LIMITS.get(key, LIMITS.get(key.rstrip("@"), DEFAULT_LIMITS)) for key in keys)

    @cached_property
    def distracts(self) -> bool:
        """Whether a number of the question is not needed."""
        sides = [side for step in self.steps for side in (step.left, step.right) if side is not None]
        return len({place for kind, place in sides if kind == "number"}) < self.arity


def _statement(text: str) -> Statement:
    key, _, letter = text.strip().partition(" ")
    return Statement(key.rstrip("@"), key.endswith("@"), "abcde".index(letter) if letter else None)


def _operand(letter: str) -> tuple[str, int]:
    return ("number", "abcde".index(letter)) if letter in "abcde" else ("result", "rst".index(letter))


def _step(text: str) -> Step:
    key, operation = text.split()
    swapped = key.endswith("@")
    if len(operation) == 1:
        return Step(key, "", _operand(operation), None, swapped)
    return Step(key.rstrip("@"), operation[1], _operand(operation[0]), _operand(operation[2]), swapped)


def _schema(line: str) -> Schema:
    family, statements, question, steps, *implied = (part.strip() for part in line.split("|"))
    return Schema(
        family,
        tuple(_statement(text) for text in statements.split(";")),
        _statement(question),
        tuple(_step(text) for text in steps.split("; ")),
        tuple(_step(f"implied {text}") for part in implied for text in part.split("; ")),
        line.strip(),
    )


_LINES = resources.files(__package__).joinpath("schemas.txt").read_text(encoding="utf-8").splitlines()
SCHEMAS: tuple[Schema, ...] = tuple(_schema(line) for line in _LINES if line.strip() and not line.startswith("#"))


LARGEST = 60  # no number of a problem, given or computed, is larger
PAIR_SHARE = 0.30  # of the draws, less those without a possible twin: about a third of all questions are in a pair
SPELLED_SHARE = 0.12  # questions that write numbers up to ten as words
NATIVE_DIGITS_SHARE = 0.06  # questions whose Bengali and Thai versions use those languages' own digits
# Among the (answer, family) pairs that fit a tuple of numbers; adding fits nearly every tuple, multiplying few.
FAMILY_WEIGHTS = {
    "stock": 2,
    "compare": 2,
    "boxes": 6,
    "share": 6,
    "price": 4,
    "age": 2,
    "read": 7,
    "work": 5,
    "travel": 9,
}
# By how many numbers there are: a tuple with fewer possible answers would say too much by itself.
FEWEST_ANSWERS = {2: 5, 3: 5, 4: 5, 5: 2}
DISTRACTED_WEIGHT = 0.4  # of schemas with a number that is not needed
SPLITS = {"test": (0, 1), "development": (2,), "training": tuple(range(3, 16))}  # of the checksum modulo 16

MEN = (
    "Tom", "Peter", "David", "Max", "Paul", "Daniel", "Adam", "Oscar", "Victor", "Martin", "Samuel", "Robert",
)  # fmt: skip
WOMEN = (
    "Anna", "Maria", "Lisa", "Sara", "Nina", "Emma", "Laura", "Clara", "Julia", "Sofia", "Eva", "Olga",
)  # fmt: skip
PEOPLE: dict[str, str] = {**dict.fromkeys(MEN, "m"), **dict.fromkeys(WOMEN, "f")}
ITEMS: tuple[str, ...] = (
    "apple", "orange", "banana", "lemon", "pear", "egg", "tomato", "book", "notebook", "pencil", "pen", "ball", "rose",
    "cup", "plate", "bottle", "balloon", "stamp", "card", "photo", "ticket", "hat", "candle", "spoon",
)  # fmt: skip
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
    """A word problem before it has words."""

    schema: Schema
    keys: tuple[str, ...]  # the statements' (`+`, `-` and `?` resolved), then the question's
    numbers: tuple[int, ...]  # in the order in which the question mentions them
    people: tuple[str, str]  # (N, M)
    item: str  # what it is about
    wordings: tuple[int, ...]  # index of the wording of every statement and of the question
    spelled: bool = False  # numbers up to ten are words in the question
    native_digits: bool = False  # Bengali and Thai use their own digits in the question

    @property
    def family(self) -> str:
        return self.schema.family

    @property
    def signature(self) -> tuple[str, tuple[int, ...]]:
        """Schema and numbers: what makes two problems duplicates, whatever their people, things and wordings."""
        return self.schema.line, self.numbers

    @property
    def parts(self) -> Iterator[tuple[str, Statement, int]]:
        """(key, statement, wording) of every statement and of the question."""
        yield from zip(self.keys, (*self.schema.statements, self.schema.question), self.wordings, strict=True)

    @property
    def calculations(self) -> list[Calculation]:
        """The steps of the solution with their values."""
        return calculate(self.schema.steps, self.numbers)

    @property
    def answer(self) -> int:
        """The last step's result."""
        return self.calculations[-1].result

    @property
    def tree(self) -> Tree:
        """The answer as a tree over the places of the question's numbers."""
        trees: list[Tree] = []
        for step in self.schema.steps:
            if step.right is not None:
                trees.append((step.operator, _side(step.left, trees), _side(step.right, trees)))
        return trees[-1]


def _side(operand: tuple[str, int], trees: list[Tree]) -> Tree:
    kind, place = operand
    return place if kind == "number" else trees[place]


_BY_ARITY = {arity: [schema for schema in SCHEMAS if schema.arity == arity] for arity in FEWEST_ANSWERS}


def calculate(steps: Sequence[Step], numbers: tuple[int, ...]) -> list[Calculation]:
    """The steps of a schema for these numbers; a division that leaves a rest has result 0."""
    results: list[int] = []
    calculations = []
    for step in steps:
        left = numbers[step.left[1]] if step.left[0] == "number" else results[step.left[1]]
        if step.right is None:
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
    for schema in _BY_ARITY[len(numbers)]:
        if schema.family == HELD_OUT_FAMILY and not held_out:
            continue
        if not all(low <= n <= high for n, (low, high) in zip(numbers, schema.limits, strict=True)):
            continue
        calculations = calculate(schema.steps, numbers)
        everything = [*calculations, *calculate(schema.implied, numbers)]
        if all(1 <= calculation.result <= LARGEST for calculation in everything):
            found.setdefault(calculations[-1].result, []).append(schema)
    return {answer: tuple(schemas) for answer, schemas in found.items()}


def _draw_numbers(rng: random.Random) -> tuple[int, ...]:
    arity = rng.choices((2, 3, 4, 5), (29, 44, 22, 5))[0]
    numbers = []
    for position in range(arity):
        large = rng.random() < (0.52 if position == 0 else 0.16)
        numbers.append(rng.randint(10, 40) if large else rng.randint(1 if rng.random() < 0.5 else 2, 9))
    return tuple(numbers)


@lru_cache(maxsize=200_000)
def _weighted(numbers: tuple[int, ...], held_out: bool) -> tuple[list[Schema], list[float]]:
    """The schemas that fit, weighted so that answers are about equally likely, and families balanced on the whole."""
    schemas, weights = [], []
    for fitting in solvable(numbers, held_out).values():
        families = Counter(schema.family for schema in fitting)
        for schema in fitting:
            weight = FAMILY_WEIGHTS[schema.family] / families[schema.family]
            schemas.append(schema)
            weights.append(weight * (DISTRACTED_WEIGHT if schema.distracts else 1.0))
    return schemas, weights


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

    def problems(self) -> Iterator[Problem]:
        """An endless stream. About a third belong to a minimal pair, whose two members follow each other."""
        while True:
            yield from self._group()

    def distinct(self, count: int, seen: set | None = None) -> list[Problem]:
        """`count` problems, no two with the same skeleton and numbers, none with a signature in `seen` (extended)."""
        seen = set() if seen is None else seen
        chosen: list[Problem] = []
        while len(chosen) < count:
            group = self._group()[: count - len(chosen)]
            if not any(problem.signature in seen for problem in group):
                seen.update(problem.signature for problem in group)
                chosen += group
        return chosen

    def _group(self) -> list[Problem]:
        """One problem, or a minimal pair."""
        problem = self._draw()
        while self.rng.random() < PAIR_SHARE:
            twin = self._twin(problem)
            if twin is not None:
                return [problem, twin]
            problem = self._draw()
        return [problem]

    def _draw(self) -> Problem:
        rng = self.rng
        while True:
            numbers = _draw_numbers(rng)
            if split_of(numbers) != self.split:
                continue
            if len(solvable(numbers, self.held_out)) >= FEWEST_ANSWERS[len(numbers)]:
                break
        schemas, weights = _weighted(numbers, self.held_out)
        schema = rng.choices(schemas, weights)[0]
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
