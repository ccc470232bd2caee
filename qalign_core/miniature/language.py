"""One language of the miniature: its YAML file, and how a template of that file becomes a sentence.

A template is a sentence with placeholders in braces. Numbers are called `x` (the sentence's first number), `y` (its
second) and `eq` (an equation, which agrees with its result); people are called `N` and `M`:

    {N}  {N gen}           a person's name, in the form that the language's `names` call `gen`
    {x}                    a bare number
    {x item}  {x dollar}   a number with its noun (`item` is whatever the problem is about); `{x item acc}` in a case
    {x item noun}          only the noun, in the form the number asks for; `{x item count}` only number and counter
    {many item}            "how many apples"; `{many item count}` only the counter ("何個")
    {pl item}  {sg item}   the noun by itself; `{pl item many}` in a case or in one of its other forms
    {cl item}              only its classifier
    {one item}             "one apple", in words
    {agree N his}          the word of the language's table `agreement: his` that N's gender asks for;
    {agree item each}      the same by the class of a noun
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from importlib import resources
from typing import Any

import yaml
from babel import Locale

from qalign_core.languages import language
from qalign_core.miniature.world import PEOPLE, Problem

NATIVE_DIGITS = {"bn": str.maketrans("0123456789", "০১২৩৪৫৬৭৮৯"), "th": str.maketrans("0123456789", "๐๑๒๓๔๕๖๗๘๙")}
_PLACEHOLDER = re.compile(r"\{([^{}]+)\}")
_CASED = {"Latin", "Cyrillic"}


@dataclass(frozen=True)
class Slots:
    """What the placeholders of one sentence stand for."""

    people: tuple[str, str] = ("", "")  # (N, M), names as in the English file
    genders: tuple[str, str] = ("m", "m")  # "m" or "f" of N, of M
    item: str = ""  # the noun the problem is about, as in the English file
    x: int = 0  # the sentence's numbers, 0 where it has none
    y: int = 0
    equation: str = ""  # such as "17+5=22"
    result: int = 0  # of the equation
    spelled: bool = False  # write numbers up to ten as words


Part = Callable[[Slots], str]


class LanguageData:
    """The words, patterns and sentences of one language, read from `languages/<code>.yaml`.

    Raises:
        ValueError: for a template that names an unknown person, number, noun or word (with file and template).
    """

    def __init__(self, code: str) -> None:
        source = resources.files(__package__).joinpath(f"languages/{code}.yaml").read_text(encoding="utf-8")
        data = yaml.safe_load(source)
        self.code = code
        self.separator: str = data["separator"]
        self.names: dict[str, dict[str, str]] = data["names"]
        self.nouns: dict[str, dict[str, str]] = data["nouns"]
        self.sentences: dict[str, list[str]] = data["sentences"]
        self.solutions: dict[str, str] = data["solutions"]
        self.generic: dict = data.get("generic", {})
        self._patterns: dict = data["patterns"]
        self._numerals: dict = data["numerals"]
        self._agreement: dict[str, dict[str, str]] = data["agreement"]
        self._rewrite = [(re.compile(pattern), replacement) for pattern, replacement in data.get("rewrite", [])]
        self._cased = language(code).script in _CASED
        self._plural = cache(Locale.parse(code).plural_form)
        self._quantity = lru_cache(maxsize=100_000)(self._quantity_uncached)
        self._compiled: dict[str, list[Part]] = {}

    # ---------------------------------------------------------------- words

    def name(self, person: str, form: str = "nom") -> str:
        """A person's name in this language, in the form `form` where the language has one."""
        forms = self.names.get(person)
        return person if forms is None else forms.get(form, forms["nom"])

    def noun(self, noun: str, number: int, case: str = "") -> str:
        """The form of a noun that `number` asks for, by CLDR's plural rules and the case."""
        forms = self.nouns[noun]
        category = self._plural(number)
        if category not in forms:
            category = "other"
        return forms.get(f"{category} {case}", forms[category])

    def plural(self, noun: str, case: str = "") -> str:
        """The plural of a noun by itself ("apples")."""
        forms = self.nouns[noun]
        return next(forms[key] for key in (f"plural {case}", case, "plural", "other") if key in forms)

    def singular(self, noun: str, case: str = "") -> str:
        """The singular of a noun by itself ("apple")."""
        forms = self.nouns[noun]
        return next(forms[key] for key in (f"one {case}", f"other {case}", "one", "other") if key in forms)

    def agree(self, kind: str, word: str, case: str = "") -> str:
        """The word of table `agreement: <word>` for a gender or noun class."""
        table = self._agreement[word]
        return table.get(f"{kind} {case}", table.get(kind, table.get("default", "")))

    def numeral(self, number: int, kind: str, case: str = "") -> str:
        """A number up to ten as a word, agreeing with a noun's class and case."""
        word = self._numerals[number]
        if isinstance(word, str):
            return word
        return word.get(f"{kind} {case}", word.get(kind, word.get("default", "")))

    def _pattern(self, name: str, kind: str) -> str:
        pattern = self._patterns[name]
        return pattern if isinstance(pattern, str) else pattern.get(kind, pattern["default"])

    def _fill(self, pattern: str, noun: str, number: int, shown: str, case: str) -> str:
        forms = self.nouns[noun]
        kind = forms.get("class", "default")

        def field(match: re.Match) -> str:
            key = match[1]
            if key == "number":
                return shown
            if key == "noun":
                return self.noun(noun, number, case)
            if key == "plural":
                return self.plural(noun, case)
            if key == "singular":
                return self.singular(noun, case)
            if key in forms:
                return forms[key]
            if key == "classifier":
                return ""
            return self.agree(kind, key, case)

        return _PLACEHOLDER.sub(field, pattern)

    def _quantity_uncached(self, noun: str, number: int, shown: str, case: str, spelled: bool) -> str:
        kind = self.nouns[noun].get("class", "default")
        if case == "noun":
            return self.noun(noun, number)
        pattern = "count" if case == "count" else "quantity"
        if spelled and number in self._numerals:
            shown = self.numeral(number, kind, case)
            pattern = f"{pattern} in words" if f"{pattern} in words" in self._patterns else pattern
        return self._fill(self._pattern(pattern, kind), noun, number, shown, case)

    # ---------------------------------------------------------------- templates

    def render(self, template: str, slots: Slots) -> str:
        """One sentence: the template with its placeholders filled, elisions made and the first letter raised."""
        parts = self._compiled.get(template)
        if parts is None:
            parts = self._compiled[template] = self._compile(template)
        text = "".join(part if isinstance(part, str) else part(slots) for part in parts)
        for pattern, replacement in self._rewrite:
            text = pattern.sub(replacement, text)
        return self.raise_first_letter(text)

    def raise_first_letter(self, text: str) -> str:
        """The text with a capital at its beginning, where the script has capitals."""
        if not self._cased:
            return text
        for position, character in enumerate(text):
            if character.isalnum():
                return text if character.isdigit() else text[:position] + character.upper() + text[position + 1 :]
        return text

    def _compile(self, template: str) -> list:
        parts: list = []
        for index, piece in enumerate(_PLACEHOLDER.split(template)):
            if index % 2 == 0:
                if piece:
                    parts.append(piece)
                continue
            try:
                parts.append(self._placeholder(piece.split()))
            except (KeyError, ValueError, IndexError) as error:
                where = f"languages/{self.code}.yaml: {{{piece}}} in {template!r}"
                raise ValueError(f"{where} is unknown: {error}") from error
        return parts

    def _placeholder(self, words: list[str]) -> Part:
        head, noun, case = words[0], words[1] if len(words) > 1 else "", words[2] if len(words) > 2 else ""
        if head in ("N", "M"):
            who, form = "NM".index(head), noun or "nom"
            return lambda slots: self.name(slots.people[who], form)
        if head == "agree":
            return self._agreement_part(noun, case, words[3] if len(words) > 3 else "")
        if head in ("x", "y", "eq") and not noun:
            return {"x": lambda s: str(s.x), "y": lambda s: str(s.y), "eq": lambda s: s.equation}[head]
        if noun != "item" and noun not in self.nouns:
            raise ValueError(f"no noun {noun!r}")
        pick = (lambda slots: slots.item) if noun == "item" else (lambda slots: noun)
        if head == "x":
            return lambda slots: self._quantity(pick(slots), slots.x, str(slots.x), case, slots.spelled)
        if head == "y":
            return lambda slots: self._quantity(pick(slots), slots.y, str(slots.y), case, slots.spelled)
        if head == "eq":
            return lambda slots: self._quantity(pick(slots), slots.result, slots.equation, case, False)
        if head == "one":
            return lambda slots: self._quantity(pick(slots), 1, "1", case, True)
        if head == "many":
            name = "how_many count" if case == "count" else "how_many"
            return lambda slots: self._how_many(pick(slots), name, case)
        if head == "cl":
            return lambda slots: self.nouns[pick(slots)]["classifier"]
        if head == "pl":
            return lambda slots: self.plural(pick(slots), case)
        if head == "sg":
            return lambda slots: self.singular(pick(slots), case)
        raise ValueError(f"no placeholder {head!r}")

    def _how_many(self, noun: str, name: str, case: str) -> str:
        pattern = self._pattern(name, self.nouns[noun].get("class", "default"))
        return self._fill(pattern, noun, 0, "", case)

    def _agreement_part(self, who: str, word: str, case: str) -> Part:
        if word not in self._agreement:
            raise ValueError(f"no table {word!r} under `agreement`")
        if who in ("N", "M"):
            index = "NM".index(who)
            return lambda slots: self.agree(slots.genders[index], word, case)
        if who == "NM":
            return lambda slots: self.agree("f" if slots.genders == ("f", "f") else "m", word, case)
        if who == "item":
            return lambda slots: self.agree(self.nouns[slots.item].get("class", "default"), word, case)
        if who not in self.nouns:
            raise ValueError(f"no noun {who!r}")
        return lambda slots: self.agree(self.nouns[who].get("class", "default"), word, case)


@cache
def language_data(code: str) -> LanguageData:
    """The language's data, read once."""
    return LanguageData(code)


STYLES = ("equations", "calibrated", "restating")  # the last in English only
OPENING = "We want to know:"


def _slots(problem: Problem, swapped: bool = False, **values: Any) -> Slots:
    first, second = reversed(problem.people) if swapped else problem.people
    return Slots((first, second), (PEOPLE[first], PEOPLE[second]), problem.item, **values)


def statements(problem: Problem, code: str) -> list[str]:
    """Every sentence of the question, the last one being what is asked."""
    data = language_data(code)
    sentences = []
    for key, statement, wording in problem.parts:
        wordings = data.sentences[key]
        number = 0 if statement.number is None else problem.numbers[statement.number]
        # A sentence without a held-out wording has only two.
        template = wordings[wording] if wording < len(wordings) else wordings[number % 2]
        slots = _slots(problem, statement.swapped, x=number, spelled=problem.spelled)
        sentence = data.render(template, slots)
        if problem.native_digits and code in NATIVE_DIGITS:
            sentence = sentence.translate(NATIVE_DIGITS[code])
        sentences.append(sentence)
    return sentences


def question(problem: Problem, code: str) -> str:
    """The question in one language."""
    return language_data(code).separator.join(statements(problem, code))


def solution(problem: Problem, code: str, style: str = "calibrated") -> str:
    """The worked solution in one language; its last number is the answer.

    Styles: `equations` for nothing but equations, `calibrated` for GSM8K's shorthand, a sentence round each equation,
    `restating` for MetaMathQA's way, every fact restated before its equation (English; else a ValueError).
    """
    data = language_data(code)
    if style == "equations":
        lines = [c.equation + data.solutions["stop"] for c in problem.calculations if c.equation]
    elif style == "calibrated":
        lines = [*_steps(data, problem), data.render(data.solutions["closing"], Slots(x=problem.answer))]
    elif style == "restating":
        if code != "en":
            raise ValueError(f"solutions in the style `restating` are written in English only, not in {code!r}")
        lines = _restated(data, problem)
    else:
        raise ValueError(f"unknown solution style {style!r}; known styles: {', '.join(STYLES)}")
    return data.separator.join([*lines, data.render(data.solutions["answer"], Slots(x=problem.answer))])


def _steps(data: LanguageData, problem: Problem) -> list[str]:
    """A short sentence around every step: `{y}` is its first number, `{x}` its second, `{eq}` the equation."""
    carriers = {statement.number: (key, statement.swapped) for key, statement, _ in problem.parts}
    lines = []
    for step, calculation in zip(problem.schema.steps, problem.calculations, strict=True):
        key, swapped = step.key, step.swapped
        if key == "event" and step.right is not None:
            key, swapped = carriers[step.right[1]]
        x, y = (calculation.right, calculation.left) if step.operator else (calculation.left, 0)
        slots = _slots(problem, swapped, x=x, y=y, equation=calculation.equation, result=calculation.result)
        lines.append(data.render(data.solutions[key], slots))
    return lines


def _restated(data: LanguageData, problem: Problem) -> list[str]:
    """What is asked, then every fact without its adjuncts, continued by the calculation that it makes possible."""
    schema = problem.schema
    places = {part.number: place for place, part in enumerate((*schema.statements, schema.question))}
    wordings = tuple(_without_adjunct(data.sentences[key], wording) for key, _, wording in problem.parts)
    *facts, asked = statements(replace(problem, wordings=wordings, spelled=False, native_digits=False), "en")
    lines = [[fact] for fact in facts]
    known: list[int] = []  # the statement after which the result of each operation is known
    for step, sentence in zip(schema.steps, _steps(data, problem), strict=True):
        if step.right is None:
            continue
        place = max(places[index] if kind == "number" else known[index] for kind, index in (step.left, step.right))
        known.append(place)
        line = lines[min(place, len(lines) - 1)]
        given, _, calculated = sentence.rpartition(", ")
        if place < len(lines) and len(line) == 1 and any(character.isdigit() for character in given):
            line[0] = f"{line[0].rstrip('.')}, {calculated}"  # the fact stands for the sentence's first half
            line.append("")
        else:
            line.append(sentence)
    opening = f"{OPENING} {asked[0].lower()}{asked[1:]}"
    return [opening, *(" ".join(part for part in line if part) for line in lines)]


def _without_adjunct(wordings: list[str], wording: int) -> int:
    """The first wording where the chosen one only adds a place or a time to it ("At the market, Tom buys 3 pens")."""
    added = wording < len(wordings) and wordings[0].rstrip(".?") in wordings[wording]
    return 0 if added else wording


_GENERIC_PLACEHOLDER = re.compile(r"\{(\w+)(?: (\w+))?\}")


MOST_MISSES = 2000  # draws in a row that bring no new sentence


@dataclass(frozen=True)
class GenericSentence:
    """A sentence before it has words: its template, its people, and which word of every list it takes."""

    key: str
    people: tuple[str, str]
    words: tuple[tuple[str, int], ...]

    @property
    def signature(self) -> str:
        """What two equal sentences share."""
        return render_generic(self, "en")


def draw_generic(rng: random.Random) -> GenericSentence:
    """A generic sentence from a seeded generator."""
    data = language_data("en").generic
    key = rng.choice(list(data["sentences"]))
    first = rng.choice(list(PEOPLE))
    second = rng.choice([person for person in PEOPLE if person != first])
    words = tuple((name, rng.randrange(len(words))) for name, words in data["words"].items())
    return GenericSentence(key, (first, second), words)


def distinct_generic(rng: random.Random, count: int) -> list[GenericSentence]:
    """`count` sentences that differ from each other in English; a ValueError when there are not so many."""
    seen: set[str] = set()
    sentences: list[GenericSentence] = []
    misses = 0
    while len(sentences) < count:
        sentence = draw_generic(rng)
        if sentence.signature in seen:
            misses += 1
            if misses > MOST_MISSES:
                raise ValueError(f"the miniature has no {count} different generic sentences; ask for fewer (flores)")
            continue
        misses = 0
        seen.add(sentence.signature)
        sentences.append(sentence)
    return sentences


def render_generic(sentence: GenericSentence, code: str) -> str:
    """The sentence in one language."""
    data = language_data(code)
    chosen = dict(sentence.words)

    def fill(match: re.Match) -> str:
        name, form = match[1], match[2]
        if name in ("N", "M"):
            return data.name(sentence.people["NM".index(name)], form or "nom")
        word = data.generic["words"][name][chosen[name]]
        return word if isinstance(word, str) else word[form or "nom"]

    return data.raise_first_letter(_GENERIC_PLACEHOLDER.sub(fill, data.generic["sentences"][sentence.key]))
