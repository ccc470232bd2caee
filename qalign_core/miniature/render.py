"""Problems as text: the question and the worked solution, in any of the ten languages."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from qalign_core.miniature.language_data import NATIVE_DIGITS, LanguageData, Slots, language_data
from qalign_core.miniature.world import PEOPLE, Problem

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

    Args:
        problem: the problem.
        code: language code.
        style: `"equations"` for nothing but equations, `"calibrated"` for GSM8K's shorthand, a sentence round each
            equation, `"restating"` for MetaMathQA's way, every fact restated before its equation (English).

    Raises:
        ValueError: for an unknown style, or for `restating` in another language than English.
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
    """What is asked, then every fact in its plainest wording, continued by the calculation that it makes possible."""
    schema = problem.schema
    places = {part.number: place for place, part in enumerate((*schema.statements, schema.question))}
    plain = replace(problem, wordings=(0,) * len(problem.wordings), spelled=False, native_digits=False)
    *facts, asked = statements(plain, "en")
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
