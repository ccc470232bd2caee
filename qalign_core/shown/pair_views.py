"""Two systems on the same questions: where one is right and the other is not, by language, with examples."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from itertools import product

from qalign_core.languages import LANGUAGES
from qalign_core.scores.answer_sheet import AnswerSheet, named
from qalign_core.shown.answer_views import answer_card, styled_block

ONLY_A, ONLY_B, BOTH, NEITHER = OUTCOMES = ("only the first", "only the second", "both", "neither")
_COLOURS = {ONLY_A: "#0072b2", ONLY_B: "#e69f00"}


def outcomes(sheet: AnswerSheet, benchmark: str, a: str, b: str) -> dict[str, dict[str, list[int]]]:
    """The questions of a benchmark by language and by which of two systems is right.

    Returns:
        language → outcome of `OUTCOMES` → indexes of its questions.
    """
    found: dict[str, dict[str, list[int]]] = {}
    for code in sheet.languages:
        by_outcome: dict[str, list[int]] = {outcome: [] for outcome in OUTCOMES}
        for index in sheet.indexes(benchmark):
            ours, theirs = (sheet.answers[system][benchmark, code, index].right for system in (a, b))
            by_outcome[(BOTH if theirs else ONLY_A) if ours else (ONLY_B if theirs else NEITHER)].append(index)
        found[code] = by_outcome
    return found


def counts_table(found: dict[str, dict[str, list[int]]], a: str, b: str) -> str:
    """A row a language: how many questions only one of the two has right, both, neither; the difference in points."""
    largest = max((len(at[only]) for at in found.values() for only in (ONLY_A, ONLY_B)), default=0)
    titles = ("language", f"only {a}", "", f"only {b}", "both", "neither", "difference")
    sides = ("left", "right", "center", "left", "right", "right", "right")
    head = "".join(f'<th style="{_cell(side)}">{escape(title)}</th>' for side, title in zip(sides, titles, strict=True))
    rows = "".join(_row(code, at, largest) for code, at in found.items())
    return f'<div style="overflow-x: auto"><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>'


def _cell(side: str) -> str:
    return f"text-align: {side}; padding: .1em .7em; line-height: 1.5"


def _row(code: str, at: dict[str, list[int]], largest: int) -> str:
    wins, losses, both, neither = (len(at[outcome]) for outcome in OUTCOMES)
    questions = wins + losses + both + neither
    points = f"{100 * (wins - losses) / max(questions, 1):+.1f}".replace("-", "−") if wins != losses else "0.0"
    shown = ("left", f"{LANGUAGES[code].native_name} ({code})"), ("right", wins), ("center", None), ("left", losses)
    cells = "".join(
        f'<td style="{_cell(side)}">{_bars(wins, losses, largest) if text is None else escape(str(text))}</td>'
        for side, text in (*shown, ("right", both), ("right", neither), ("right", points))
    )
    return f"<tr>{cells}</tr>"


def _bars(wins: int, losses: int, largest: int) -> str:
    """Wins to the left and losses to the right of a middle line."""

    def half(count: int, only: str, side: str) -> str:
        share = 100 * count / max(largest, 1)
        bar = f'<div style="width: {share:.0f}%; height: 100%; background: {_COLOURS[only]}"></div>'
        return f'<div style="width: 6em; height: .8em; display: flex; justify-content: {side}">{bar}</div>'

    line = '<div style="width: 1px; height: 1.2em; background: currentColor"></div>'
    sides = half(wins, ONLY_A, "flex-end") + line + half(losses, ONLY_B, "flex-start")
    return f'<div style="display: flex; align-items: center">{sides}</div>'


def example(sheet: AnswerSheet, benchmark: str, code: str, index: int, a: str, b: str) -> str:
    """One question in a language and in English, and what the two systems answered to it."""
    key = (benchmark, code, index)
    english = sheet.questions.get((benchmark, "en", index), "")
    said = f'<p class="asked" lang="en">{escape(english)}</p>' if code != "en" and english else ""
    cards = "".join(answer_card(system, sheet.answers[system][key], code) for system in (a, b))
    return (
        f"<section><strong>{escape(named(benchmark))} {index}</strong> "
        f"<small>{escape(LANGUAGES[code].name)}, right: {sheet.golds[key]:g}</small>"
        f'<p class="asked" dir="auto" lang="{escape(code)}">{escape(sheet.questions[key])}</p>{said}'
        f'<div class="cards">{cards}</div></section>'
    )


def pair_view(sheet: AnswerSheet, benchmark: str, a: str, b: str, each: int = 1) -> str:
    """The counts of two systems on a benchmark, and below them the first questions that only one of them has right.

    Args:
        sheet: the answers of one seed.
        benchmark: whose questions.
        a: the first system.
        b: the second.
        each: examples of each side, of languages other than English where there are any.
    """
    found = outcomes(sheet, benchmark, a, b)
    others_first = sorted(found, key=lambda code: code == "en")
    shown = ""
    for only, system in ((ONLY_A, a), (ONLY_B, b)):
        at = [(code, index) for code in others_first for index in found[code][only]][:each]
        examples = "".join(example(sheet, benchmark, code, index, a, b) for code, index in at)
        shown += f"<details><summary>Only {escape(system)} is right</summary>{examples}</details>" if at else ""
    return counts_table(found, a, b) + shown


def pairs_view(sheet: AnswerSheet, pairs: Sequence[tuple[str, str]]) -> str:
    """Every pair on every benchmark, to unfold; the first is unfolded."""
    folded = "".join(
        f"<details{'' if n else ' open'}><summary><strong>{escape(a)}</strong> and <strong>{escape(b)}</strong> "
        f"on {escape(named(benchmark))}</summary>{pair_view(sheet, benchmark, a, b)}</details>"
        for n, ((a, b), benchmark) in enumerate(product(pairs, sheet.benchmarks()))
    )
    return styled_block(folded or "No two systems to set against each other.")
