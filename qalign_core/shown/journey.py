"""One question on its way through the two stages, in every language: asked, put into English, answered."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path

import pandas as pd

from qalign_core import plan, runs
from qalign_core.data.prepare import FOLLOWED, translated
from qalign_core.languages import LANGUAGES
from qalign_core.params import Profile
from qalign_core.runs import Run
from qalign_core.scores import brought

COMPARED = ("MonoReason", "QAlign")  # before and after alignment
_CELL = "vertical-align: top; text-align: start; padding: .5em .7em; min-width: 11em; overflow-wrap: anywhere"

Column = dict[str, str]  # HTML by language


def base_job(profile: Profile, run: Run, seed: int) -> plan.Job:
    """The job that has the base model translate the one question that is followed: how it was before alignment."""
    return plan.translation_job(profile, run, seed, [], task=FOLLOWED)


def follow(profile: Profile, run: Run, seed: int, index: int = 0, systems: Sequence[str] = ()) -> str:
    """One question of the in-domain benchmark in every language: what the base and stage 1 make of it, and what
    systems answer, as HTML.

    Args:
        profile: the checked profile.
        run: where the translations and, for `systems`, the scored answers are.
        seed: whose.
        index: of the question; the base translates only the first.
        systems: whose answers are written out, after notebook 04; of all others it is only said which are right.

    Raises:
        ValueError: when there is no such question.
    """
    first = profile.first_stage()
    if profile.evaluation.translation is None or first is None:
        return (
            "<p><em>This profile trains no stage 1 that translates questions, so there is nothing to follow.</em></p>"
        )
    stage1 = plan.translation_job(profile, run, seed, [first])
    if not stage1.done:
        return "<p><em>Stage 1 has not translated any question yet: run notebook 02 first.</em></p>"
    codes = profile.data.languages
    asked = {code: escape(_row(run.benchmark(translated(profile), code), index)["question"]) for code in codes}
    columns = {"the question": asked}
    before = base_job(profile, run, seed)
    if not systems and index == 0 and before.done:
        columns["before: the base says"] = _said(before, FOLLOWED, codes, index)
    columns["stage 1 says" if systems else "after: stage 1 says"] = _said(stage1, "translation", codes, index)
    if systems:
        columns |= _answers(profile, run, seed, index, [name for name in systems if name in profile.systems])
    return _table(columns, codes)


def _row(path: Path, index: int) -> dict:
    """The row of one question.

    Raises:
        ValueError: when the file has no such question, saying how many it has.
    """
    rows = runs.read_json_lines(path)
    found = next((row for row in rows if row["index"] == index), None)
    if found is None:
        raise ValueError(f"{path}: no question {index}; it has {len(rows)}, numbered from 0")
    return found


def _said(job: plan.Job, task: str, codes: Sequence[str], index: int) -> Column:
    """What a translator made of the question; English needs no translation."""
    said = {code: _row(job.folder / task / f"{code}.jsonl", index)["response"] for code in codes if code != "en"}
    return {code: _text(text) for code, text in said.items()} | {"en": "–"}


def _answers(profile: Profile, run: Run, seed: int, index: int, systems: Sequence[str]) -> dict[str, Column]:
    """A column a system with its answers, and one that says which of the others are right."""
    scored = pd.read_parquet(run.results / "answers.parquet")
    scored = scored[(scored.seed == seed) & (scored.benchmark == translated(profile)) & (scored["index"] == index)]
    marks = scored.set_index(["system", "language"])[f"correct_{profile.evaluation.scorer}"]
    found: dict[str, Column] = {}
    for system in systems:
        folder = brought.answers_folder(profile, run, system, seed)
        given = {code: _row(folder / translated(profile) / f"{code}.jsonl", index) for code in profile.data.languages}
        found[f"{system} answers"] = {
            code: f"{_mark(bool(marks[system, code]))} {_text(row['response'])}" for code, row in given.items()
        }
    others = [system for system in dict.fromkeys(scored.system) if system not in systems]
    if others:
        found["the others"] = {
            code: "<br>".join(f"{_mark(bool(marks[system, code]))} {escape(system)}" for system in others)
            for code in profile.data.languages
        }
    return found


def _mark(right: bool) -> str:
    return f'<strong style="color: {"#00614a" if right else "#a33b20"}">{"✓" if right else "✗"}</strong>'


def _text(text: str) -> str:
    return escape(text.strip()) or "<em>(empty)</em>"


def _table(columns: dict[str, Column], codes: Sequence[str]) -> str:
    head = "".join(f'<th style="{_CELL}">{escape(title)}</th>' for title in ("", *columns))
    body = []
    for code in codes:
        name = (
            f'<th style="{_CELL}; min-width: 5em">{escape(LANGUAGES[code].native_name)}<br><small>{code}</small></th>'
        )
        cells = "".join(
            f'<td dir="auto" lang="{code if number == 0 else "en"}" style="{_CELL}; white-space: pre-wrap">'
            f"{column[code]}</td>"
            for number, column in enumerate(columns.values())
        )
        body.append(f"<tr>{name}{cells}</tr>")
    return (
        f'<div style="overflow-x: auto"><table style="font-size: .85em; line-height: 1.5">'
        f"<thead><tr>{head}</tr></thead><tbody>{''.join(body)}</tbody></table></div>"
    )
