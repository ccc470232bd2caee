"""Questions and what systems answered, as HTML that needs no script: who got what right, to be filtered and unfolded.

All text from models and data is escaped here. Filters are radio buttons that style sheets look at (`:has`), so that
they work on a page that may not run scripts; where a viewer removes styles and buttons, everything is simply shown.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape

import pandas as pd
from IPython.display import Markdown

from qalign_core.languages import LANGUAGES
from qalign_core.scores.answer_sheet import Answer, AnswerSheet, named
from qalign_core.scores.response_kinds import KINDS, OTHER
from qalign_core.shown.tables import Table, from_frame
from qalign_core.shown.views import text_table

_STYLE = """
.answers {font-size: .9em}
.answers fieldset {border: none; padding: 0; margin: .2em 0; display: flex; flex-wrap: wrap; gap: .1em 1em}
.answers legend {float: left; padding: 0; min-width: 6em; font-weight: 600}
.answers label {white-space: nowrap; cursor: pointer}
.answers details {border-top: 1px solid #d5dbe1; padding: .45em 0}
.answers summary {cursor: pointer}
.answers .grid {border-collapse: collapse; margin: .5em 0; font-variant-numeric: tabular-nums; width: auto}
.answers .grid th, .answers .grid td {padding: .1em .5em; text-align: center; border: none; line-height: 1.5}
.answers .grid th:first-child {text-align: start; font-weight: normal}
.answers .right {color: #00614a; font-weight: 700} .answers .wrong {opacity: .55}
.answers section {border-top: 1px dotted #b8c1ca; padding: .4em 0}
.answers .asked {margin: .1em 0 .4em; max-width: 46em; line-height: 1.6}
.answers .cards {display: grid; grid-template-columns: repeat(auto-fit, minmax(14em, 1fr)); gap: .5em}
.answers .card {border-inline-start: 3px solid #b8c1ca; padding: .1em .6em; min-width: 0}
.answers .card.right {border-color: #00614a; color: inherit; font-weight: inherit}
.answers .card.wrong {opacity: 1}
.answers .said {white-space: pre-wrap; overflow-wrap: anywhere; max-height: 16em; overflow-y: auto; line-height: 1.5}
.answers small {opacity: .75}
"""


def question_block(sheet: AnswerSheet, benchmark: str, index: int) -> str:
    """One question: who got it right, the question in every language, and what each system answered to each."""
    grid = sheet.right(benchmark, index)
    head = "".join(f"<th>{code}</th>" for code in grid)
    rows = "".join(
        f"<tr><th>{escape(system)}</th>"
        + "".join(f'<td class="{"right" if r else "wrong"}">{"✓" if r else "·"}</td>' for r in grid.loc[system])
        + "</tr>"
        for system in grid.index
    )
    sections = "".join(_section(sheet, benchmark, code, index) for code in sheet.languages)
    return (
        f'<div style="overflow-x: auto"><table class="grid"><thead><tr><th></th>{head}</tr></thead>'
        f"<tbody>{rows}</tbody></table></div>{sections}"
    )


def _section(sheet: AnswerSheet, benchmark: str, code: str, index: int) -> str:
    key = (benchmark, code, index)
    cards = "".join(answer_card(system, sheet.answers[system][key], code) for system in sheet.systems)
    entry = LANGUAGES[code]
    return (
        f'<section data-language="{code}"><strong>{escape(entry.native_name)}</strong> '
        f"<small>{escape(entry.name)} ({code}), right: {sheet.golds[key]:g}</small>"
        f'<p class="asked" dir="auto" lang="{code}">{escape(sheet.questions[key])}</p>'
        f'<div class="cards">{cards}</div></section>'
    )


def answer_card(system: str, answer: Answer, code: str) -> str:
    """What a system answered to a question in language `code`, and what became of it."""
    what = "right" if answer.right else (answer.error or OTHER)
    told = "" if what in ("right", OTHER) else f" · {escape(what)}"
    spoken = f' lang="{answer.language}"' if answer.language in LANGUAGES else ""
    said = escape(answer.response) if answer.response.strip() else "<em>(empty)</em>"
    return (
        f'<div class="card {"right" if answer.right else "wrong"}" data-kind="{escape(what)}">'
        f"<small>{'✓' if answer.right else '✗'} {escape(system)}{told}</small>"
        f'<div class="said" dir="auto"{spoken}>{said}</div></div>'
    )


def styled_block(block: str) -> str:
    """A question's block with the style sheet it needs."""
    return f'<style>{_STYLE}</style><div class="answers">{block}</div>'


def questions_view(
    sheet: AnswerSheet, pairs: Sequence[Sequence[str]] = (), each: int = 1, name: str = "questions"
) -> str:
    """A few telling questions of every benchmark to unfold, with filters by pattern, language and kind of answer.

    Args:
        sheet: the answers of one seed.
        pairs: systems to be set against each other, as `AnswerSheet.patterns` takes them.
        each: questions shown of each pattern and benchmark.
        name: of the view, which must be its own on a page.
    """
    chosen: dict[tuple[str, int], list[str]] = {}
    for benchmark in sheet.benchmarks():
        for pattern, indexes in sheet.patterns(benchmark, pairs).items():
            for index in indexes[:each]:
                chosen.setdefault((benchmark, index), []).append(pattern)
    patterns = list(dict.fromkeys(pattern for found in chosen.values() for pattern in found))
    numbers = {pattern: str(number) for number, pattern in enumerate(patterns)}
    groups = (
        ("questions", "Questions", [(numbers[pattern], pattern) for pattern in patterns]),
        ("language", "Language", [(code, code) for code in sheet.languages]),
        ("answers", "Answers", [(kind, kind) for kind in ("right", *KINDS)]),
    )
    blocks = "".join(
        _folded(sheet, benchmark, index, [numbers[pattern] for pattern in found], opened=position == 0)
        for position, ((benchmark, index), found) in enumerate(chosen.items())
    )
    return (
        f"<style>{_STYLE}{_rules(name, groups)}</style>"
        f'<div class="answers" id="{name}">{_controls(name, groups)}{blocks}</div>'
    )


def _folded(sheet: AnswerSheet, benchmark: str, index: int, patterns: Sequence[str], opened: bool) -> str:
    grid = sheet.right(benchmark, index)
    english = sheet.questions.get((benchmark, "en", index), "")
    short = english if len(english) <= 100 else english[:99] + "…"
    return (
        f'<details data-patterns=" {" ".join(patterns)} "{" open" if opened else ""}>'
        f"<summary><strong>{escape(named(benchmark))} {index}</strong> · {int(grid.to_numpy().sum())} of {grid.size} "
        f"answers right · {escape(short)}</summary>{question_block(sheet, benchmark, index)}</details>"
    )


def _controls(name: str, groups: Iterable[tuple[str, str, Sequence[tuple[str, str]]]]) -> str:
    shown = []
    for group, legend, options in groups:
        buttons = "".join(
            f'<label><input type="radio" name="{name}-{group}" value="{escape(value)}"{"" if value else " checked"}> '
            f"{escape(text)}</label>"
            for value, text in (("", "all"), *options)
        )
        shown.append(f"<fieldset><legend>{legend}</legend>{buttons}</fieldset>")
    return "".join(shown)


def _rules(name: str, groups: Iterable[tuple[str, str, Sequence[tuple[str, str]]]]) -> str:
    """Style rules that hide what the checked buttons do not ask for; values are ours or numbers, never outside text."""
    hidden = {
        "questions": 'details:not([data-patterns*=" {} "])',
        "language": 'section:not([data-language="{}"])',
        "answers": '.card:not([data-kind="{}"])',
    }
    rules = []
    for group, _, options in groups:
        for value, _ in options:
            button = f'#{name}:has(input[name="{name}-{group}"][value="{value}"]:checked)'
            rules.append(f"{button} {hidden[group].format(value)} {{display: none}}")
    return "\n".join(rules)


def errors_view(sheet: AnswerSheet) -> str:
    """The first wrong answer of each kind, beside its question and the right number, as HTML."""
    first: dict[str, dict[str, str]] = {}
    for system in sheet.systems:
        for (benchmark, code, index), answer in sheet.answers[system].items():
            if answer.error and answer.error not in first:
                first[answer.error] = {
                    "kind": answer.error,
                    "system": system,
                    "language": code,
                    "question": sheet.questions[benchmark, code, index],
                    "right": f"{sheet.golds[benchmark, code, index]:g}",
                    "response": answer.response,
                }
    rows = pd.DataFrame([first[kind] for kind in KINDS if kind in first])
    return f'<div style="overflow-x: auto">{text_table(rows, language="language" if len(rows) else None)}</div>'


def disagreements(
    differences: pd.DataFrame, given: Mapping[str, pd.DataFrame] | None = None, seed: int | None = None, limit: int = 40
) -> Table | Markdown:
    """Answers from which the two scorers read different numbers; those first that only one of them finds right.

    Args:
        differences: rows of `scorer.differences`.
        given: system → predictions of `seed`, to show how each response ends.
        seed: whose rows are shown; all by default.
        limit: rows shown; the results folder holds all of them.
    """
    if differences.empty:
        return Markdown("The two scorers read the same number from every answer.")
    changed = differences["correct_paper"] != differences["correct_fixed"]
    rows = differences.assign(changed=changed).sort_values("changed", ascending=False, kind="stable")
    rows = rows if seed is None else rows[rows["seed"] == seed]
    rows = rows.head(limit).reset_index(drop=True)
    shown = rows[["system", "language", "index", "gold"]].assign(
        benchmark=rows["benchmark"].map(named), paper=rows["answer_paper"], fixed=rows["answer_fixed"]
    )
    shown = shown[["system", "benchmark", "language", "index", "gold", "paper", "fixed"]]
    if given is not None:
        texts = {system: dict(_responses(made)) for system, made in given.items()}
        keys = rows[["system", "benchmark", "language", "index"]].itertuples(index=False, name=None)
        shown["the response ends"] = [_end(texts.get(system, {}).get(tuple(key), "")) for system, *key in keys]
    caption = (
        f"{len(differences)} answers of all systems and seeds, {int(changed.sum())} of them right for one scorer and "
        f"wrong for the other; {len(shown)} are shown{'' if seed is None else f' of seed {seed}'}, those first. "
        "differences.csv lists all. Paper, fixed: the number that each scorer reads."
    )
    return from_frame(shown, name="differences", title="Where the two scorers differ", caption=caption)


def _end(text: str, characters: int = 28) -> str:
    text = " ".join(text.split())
    return text if len(text) <= characters else "…" + text[-characters:]


def _responses(rows: pd.DataFrame) -> Iterable[tuple[tuple[str, str, int], str]]:
    keys = zip(rows["benchmark"], rows["language"], rows["index"], strict=True)
    return zip(keys, rows["response"], strict=True)
