"""Problems as text: the question and the worked solution, in any of the ten languages."""

from __future__ import annotations

from typing import Any

from qalign_core.miniature.language_data import NATIVE_DIGITS, LanguageData, Slots, language_data
from qalign_core.miniature.world import PEOPLE, Problem

STYLES = ("equations", "calibrated", "restating")


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
        style: `"equations"` for nothing but equations, `"calibrated"` for a short sentence round each equation,
            `"restating"` for every sentence of the question repeated before its equation.

    Raises:
        ValueError: for an unknown style.
    """
    data = language_data(code)
    if style == "equations":
        lines = [c.equation + data.solutions["stop"] for c in problem.calculations if c.equation]
    elif style == "calibrated":
        lines = [*_steps(data, problem), data.render(data.solutions["closing"], Slots(x=problem.answer))]
    elif style == "restating":
        lines = _restated(data, problem, code)
    else:
        raise ValueError(f"unknown solution style {style!r}; known styles: {', '.join(STYLES)}")
    return data.separator.join([*lines, data.render(data.solutions["answer"], Slots(x=problem.answer))])


def _steps(data: LanguageData, problem: Problem) -> list[str]:
    """A short sentence round every step: `{y}` is its first number, `{x}` its second, `{eq}` the equation."""
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


def _restated(data: LanguageData, problem: Problem, code: str) -> list[str]:
    """Statements in order, each followed by the equations whose numbers have all been mentioned by then."""
    schema = problem.schema
    places = {part.number: place for place, part in enumerate((*schema.statements, schema.question))}
    known: list[int] = []  # where the result of each operation becomes known
    after: dict[int, list[str]] = {}
    operations = [(step.left, step.right) for step in schema.steps if step.right is not None]
    equations = [calculation.equation for calculation in problem.calculations if calculation.operator]
    for sides, equation in zip(operations, equations, strict=True):
        place = max(places[index] if kind == "number" else known[index] for kind, index in sides)
        known.append(place)
        after.setdefault(min(place, len(schema.statements) - 1), []).append(equation + data.solutions["stop"])
    lines = []
    for place, sentence in enumerate(statements(problem, code)[:-1]):
        lines += [sentence, *after.get(place, [])]
    return lines
