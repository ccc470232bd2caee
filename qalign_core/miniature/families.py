"""What a word problem can be about: scenario families, their statements, and the arithmetic behind each question.

A schema is written on one line:

    family | statements; separated; by semicolons | question | steps of the solution | what else must be possible

A statement is a key of `sentences` in the language files followed by the letter of its number; letters are given in
the order in which the numbers appear. `+` stands for any statement that adds things, `-` for any that takes them away
and `?` for one that has nothing to do with the question (a distractor). `@` behind a key swaps the two people.
A step is a key of `solutions`, then one operation; `r`, `s`, `t` are the results of the first, second and third step.
The step `event` takes the key of the `+` or `-` statement that its second number comes from.
A key that starts with `start` has no operation: it only says with what the solution begins.
The last column, mostly absent, holds operations that are not asked for but must be possible, so that a story makes
sense: nobody spends more than there is. Every result, there and in the solution, must be at least 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

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

_SCHEMAS = """
stock | has a; + b | q_now | start a; event a+b
stock | has a; - b | q_now | start a; event a-b
stock | some; + a; now_has b | q_first | first b-a
stock | some; - a; now_has b | q_first | first b+a
stock | has a; + b; + c | q_now | start a; event a+b; event r+c
stock | has a; + b; - c | q_now | start a; event a+b; event r-c
stock | has a; - b; + c | q_now | start a; event a-b; event r+c
stock | has a; - b; - c | q_now | start a; event a-b; event r-c
stock | has a; ? b; + c | q_now | start a; event a+c
stock | has a; ? b; - c | q_now | start a; event a-c
stock | has a; + b; ? c | q_now | start a; event a+b
stock | has a; - b; ? c | q_now | start a; event a-b
stock | has a; + b; + c; - d | q_now | start a; event a+b; event r+c; event s-d
stock | has a; + b; - c; + d | q_now | start a; event a+b; event r-c; event s+d
stock | has a; - b; + c; + d | q_now | start a; event a-b; event r+c; event s+d
stock | has a; + b; - c; - d | q_now | start a; event a+b; event r-c; event s-d
stock | has a; - b; + c; - d | q_now | start a; event a-b; event r+c; event s-d
stock | has a; - b; - c; + d | q_now | start a; event a-b; event r-c; event s+d
stock | has a; ? b; + c; - d | q_now | start a; event a+c; event r-d
stock | has a; - b; ? c; + d | q_now | start a; event a-b; event r+d
stock | has a; + b; - c; + d; - e | q_now | start a; event a+b; event r-c; event s+d; event t-e
stock | has a; - b; + c; - d; + e | q_now | start a; event a-b; event r+c; event s-d; event t+e
stock | has a; + b; + c; - d; - e | q_now | start a; event a+b; event r+c; event s-d; event t-e

compare | has a; more b | q_other | start a; more a+b
compare | has a; fewer b | q_other | start a; fewer a-b
compare | has a; times b | q_other | start a; times a*b
compare | has a; more b | q_both | more a+b; both a+r
compare | has a; fewer b | q_both | fewer a-b; both a+r
compare | has a; times b | q_both | times a*b; both a+r
compare | has a; other_has b | q_both | start a; both a+b
compare | has a; other_has b | q_diff | start a; diff a-b
compare | has a; other_has b | q_diff_other | start a; diff b-a
compare | has a; more b; +@ c | q_other | more a+b; event r+c
compare | has a; more b; -@ c | q_other | more a+b; event r-c
compare | has a; fewer b; +@ c | q_other | fewer a-b; event r+c
compare | has a; fewer b; -@ c | q_other | fewer a-b; event r-c
compare | has a; times b; +@ c | q_other | times a*b; event r+c
compare | has a; times b; -@ c | q_other | times a*b; event r-c
compare | has a; + b; times c | q_other | start a; event a+b; times r*c
compare | has a; - b; times c | q_other | start a; event a-b; times r*c
compare | has a; + b; more c | q_both | event a+b; more r+c; both r+s
compare | has a; - b; fewer c | q_both | event a-b; fewer r-c; both r+s
compare | has a; other_has b; + c | q_both | event a+c; both r+b
compare | has a; other_has b; - c | q_both | event a-c; both r+b
compare | has a; other_has b; + c | q_diff | event a+c; diff r-b
compare | has a; other_has b; - c | q_diff_other | event a-c; diff b-r
compare | has a; more b; +@ c | q_both | more a+b; event r+c; both a+s
compare | has a; other_has b; + c; -@ d | q_both | event a+c; event b-d; both r+s

boxes | boxes a; each_box b | q_in_boxes | in_boxes a*b
boxes | boxes a; more_boxes b | q_boxes | more_boxes a+b
boxes | boxes a; fewer_boxes b | q_boxes | fewer_boxes a-b
boxes | boxes a; more_boxes b; each_box c | q_in_boxes | more_boxes a+b; in_boxes r*c
boxes | boxes a; fewer_boxes b; each_box c | q_in_boxes | fewer_boxes a-b; in_boxes r*c
boxes | boxes a; more_boxes b; each_box c | q_boxes | more_boxes a+b
boxes | boxes a; fewer_boxes b; each_box c | q_boxes | fewer_boxes a-b
boxes | boxes a; each_box b; + c | q_now | in_boxes a*b; event r+c
boxes | boxes a; each_box b; - c | q_now | in_boxes a*b; event r-c
boxes | boxes a; each_box b; ? c | q_in_boxes | in_boxes a*b
boxes | boxes a; each_box b; share c | q_each | in_boxes a*b; each r/c
boxes | boxes a; more_boxes b; each_box c; + d | q_now | more_boxes a+b; in_boxes r*c; event s+d
boxes | boxes a; fewer_boxes b; each_box c; - d | q_now | fewer_boxes a-b; in_boxes r*c; event s-d
boxes | boxes a; each_box b; + c; - d | q_now | in_boxes a*b; event r+c; event s-d
boxes | boxes a; each_box b; - c; share d | q_each | in_boxes a*b; event r-c; each s/d
boxes | boxes a; each_box b; + c; - d; share e | q_each | in_boxes a*b; event r+c; event s-d; each t/e

share | has a; share b | q_each | start a; each a/b
share | friends a; each_friend b | q_given | given a*b
share | has a; + b; share c | q_each | event a+b; each r/c
share | has a; - b; share c | q_each | event a-b; each r/c
share | has a; ? b; share c | q_each | start a; each a/c
share | has a; friends b; each_friend c | q_given | given b*c | b*c; a-r
share | has a; friends b; each_friend c | q_now | start a; given b*c; rest a-r
share | has a; + b; - c; share d | q_each | event a+b; event r-c; each s/d
share | has a; + b; friends c; each_friend d | q_now | event a+b; given c*d; rest r-s
share | has a; - b; friends c; each_friend d | q_given | given c*d | a-b; c*d; r-s

price | price a; buys b | q_pay | pay a*b
price | money a; price b | q_afford | start_money a; afford a/b
price | money a; gets_money b | q_money | start_money a; gets_money a+b
price | money a; spends b | q_money | start_money a; spends a-b
price | money a; price b; buys c | q_money | start_money a; pay b*c; spends a-r
price | money a; price b; buys c | q_pay | pay b*c | b*c; a-r
price | money a; gets_money b; price c | q_afford | gets_money a+b; afford r/c
price | money a; spends b; price c | q_afford | spends a-b; afford r/c
price | price a; buys b; discount c | q_pay | pay a*b; discount r-c
price | has a; price b; buys c | q_pay | pay b*c
price | has a; price b; buys c | q_now | start a; event a+c
price | money a; gets_money b; spends c | q_money | start_money a; gets_money a+b; spends r-c
price | money a; gets_money b; price c; buys d | q_money | gets_money a+b; pay c*d; spends r-s
price | money a; price b; buys c; discount d | q_pay | pay b*c; discount r-d | b*c; r-d; a-s
price | money a; price b; buys c; discount d | q_money | pay b*c; discount r-d; spends a-s

age | age a; older b | q_age_other | older a+b
age | age a; younger b | q_age_other | younger a-b
age | age a | q_age_in b | age_in a+b
age | age a | q_age_ago b | age_ago a-b
age | age a; older b | q_age_both | older a+b; age_both a+r
age | age a; younger b | q_age_both | younger a-b; age_both a+r
age | age a; age@ b | q_age_both | age_both a+b
age | age a; age@ b | q_age_diff | age_diff a-b
age | age a; age@ b | q_age_diff_other | age_diff b-a
age | age a; older b | q_age_in@ c | older a+b; age_in@ r+c
age | age a; older b | q_age_ago@ c | older a+b; age_ago@ r-c
age | age a; younger b | q_age_in@ c | younger a-b; age_in@ r+c
age | age a; younger b | q_age_ago@ c | younger a-b; age_ago@ r-c
age | age a; older b | q_age_in c | age_in a+c
age | age a; younger b | q_age_ago c | age_ago a-c | a-b

read | reads a | q_pages b | pages a*b
read | long_book a; reads b | q_days | days a/b
read | long_book a; has_read b | q_pages_rest | has_read a-b
read | long_book a; reads b | q_pages_left c | pages b*c; pages_left a-r
read | long_book a; reads b | q_pages c | pages b*c | b*c; a-r
read | long_book a; has_read b; reads c | q_days | has_read a-b; days r/c
read | long_book a; has_read b; reads c | q_pages_rest | has_read a-b
read | long_book a; has_read b; reads c | q_pages_left d | has_read a-b; pages c*d; pages_left r-s

work | wage a; works b | q_earn | earned a*b
work | wants a; wage b | q_hours | hours a/b
work | wants a; money b | q_missing | missing a-b
work | wage a; works b; spends c | q_money | earned a*b; spends r-c
work | money a; wage b; works c | q_money | start_money a; earned b*c; gets_money a+r
work | money a; wage b; works c | q_earn | earned b*c
work | wants a; wage b; works c | q_missing | earned b*c; missing a-r
work | wants a; money b; wage c | q_hours | missing a-b; hours r/c
work | wants a; money b; wage c | q_missing | missing a-b
work | wage a; works b; works_more c | q_earn | all_hours b+c; earned a*r
work | wage a; works b; price c | q_afford | earned a*b; afford r/c
work | money a; wage b; works c; spends d | q_money | earned b*c; gets_money a+r; spends s-d

travel | speed a; rides b | q_kilometers | kilometers a*b
travel | way a; speed b | q_trip_hours | trip_hours a/b
travel | speed a; rides b; walks c | q_distance | kilometers a*b; distance r+c
travel | speed a; rides b; walks c | q_kilometers | kilometers a*b
travel | way a; speed b; rides c | q_kilometers_left | kilometers b*c; kilometers_left a-r
travel | way a; speed b; rides c | q_kilometers | kilometers b*c | b*c; a-r
travel | way a; speed b; rides c; walks d | q_kilometers_left | kilometers b*c; distance r+d; kilometers_left a-s
travel | way a; speed b; rides c; walks d | q_distance | kilometers b*c; distance r+d | b*c; r+d; a-s
"""


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
    """One line of the table above."""

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

    def skeleton(self) -> str:
        """What two problems share when they differ in nothing but numbers, people, things and choice of words."""
        return self.line


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


SCHEMAS: tuple[Schema, ...] = tuple(_schema(line) for line in _SCHEMAS.splitlines() if line.strip())
FAMILIES: tuple[str, ...] = tuple(dict.fromkeys(schema.family for schema in SCHEMAS))
