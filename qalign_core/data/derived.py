"""Corpora derived from others: parts, joined ones, and the controls that change what a pair says.

Everything here works on the rows of a corpus; which corpora a profile derives is said in `data.corpora`.

Source: ours; the paper trains on whole corpora only.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from datasets import Dataset

from qalign_core.corpora import COLUMNS, Corpus, data_sets_of
from qalign_core.data.rows import BadRow, check_text, read_json_lines
from qalign_core.languages import language
from qalign_core.profiles.data_section import CorpusChoice, DataSection
from qalign_core.prompts import translation_instruction, writing_instruction

Row = dict[str, Any]
TargetTokens = Callable[[list[str], list[str]], list[int]]  # instructions, outputs → target tokens of each example


def is_drawn(data: DataSection, name: str) -> bool:
    """Whether a corpus is another one for every seed: generated, sampled or shuffled."""
    for part in data.ancestry(name):
        choice = data.choice(part)
        if choice.share is not None or choice.pairs == "shuffled":
            return True
    known = [root for root in data.roots(name) if data.choice(root).path is None]
    needed = {data_set for root in known for data_set in data_sets_of(root, sft_data=data.sft_data)}
    return any(data.sources.get(data_set) == "miniature" for data_set in needed)


def spoken(row: Row) -> str:
    """The language an example counts for: the one that is not English, if there is one."""
    return row["target_language"] if row["source_language"] == "en" else row["source_language"]


# ------------------------------------------------------------------------------------------------- brought


def read_brought(name: str, path: str | Path) -> Corpus:
    """A file of somebody's own as a corpus: JSON lines `instruction, output`, perhaps `source_language,
    target_language` (codes; English where they are absent) and `id`.

    Raises:
        FileNotFoundError, BadRow: for an absent file, a broken row, a blank text or an unknown language.
    """
    path, rows = Path(path), []
    if path.exists() and not path.is_file():
        kind = "a folder" if path.is_dir() else "not a regular file"
        raise BadRow(f"data.corpora.{name}.path: {path} is {kind}; name a file of JSON lines: instruction, output")
    for number, row in enumerate(read_json_lines(path, ("instruction", "output")), start=1):
        where = f"corpus {name}: {path}: line {number}"
        for field in ("instruction", "output"):
            if not row[field].strip():
                raise BadRow(f"{where}: field {field!r} is blank; fill it in or delete the line")
        codes = [row.get(f"{side}_language", "en") for side in ("source", "target")]
        for side, code in zip(("source", "target"), codes, strict=True):
            try:
                language(str(code))
            except ValueError as error:
                raise BadRow(f"{where}: {side}_language: {error}") from None
        given = row.get("id", f"{name}/{number - 1}")
        if not isinstance(given, str | int | float):
            raise BadRow(f"{where}: field 'id' must be text or a number, or be left out")
        check_text(str(given), f"{where}: field 'id'")
        texts = (str(given), row["instruction"], row["output"])
        rows.append(dict(zip(COLUMNS, (*texts, *codes), strict=True)))
    return as_corpus(name, rows, Counter())


def as_corpus(name: str, rows: list[Row], dropped: Counter[tuple[str, str]]) -> Corpus:
    """Rows as a corpus, with its report: what was kept, and what was `dropped`, counted by (language, outcome).

    Raises:
        BadRow: when no row is left.
    """
    if not rows:
        raise BadRow(f"corpus {name} has no examples left; see data.corpora.{name} in the profile")
    kept = Counter((spoken(row), "kept") for row in rows)
    report = [
        {"corpus": name, "language": code, "outcome": outcome, "rows": count}
        for (code, outcome), count in (kept + dropped).items()
    ]
    return Corpus(name, Dataset.from_list([{c: row[c] for c in COLUMNS} for row in rows]), pd.DataFrame(report))


# ------------------------------------------------------------------------------------------------- derived


def derive(
    name: str,
    parts: Sequence[Sequence[Row]],
    choice: CorpusChoice,
    *,
    seed: int,
    names: str = "paper",
    target_tokens: TargetTokens | None = None,
) -> Corpus:
    """A corpus made of others: joined in order, then languages, share, limit and pairs, in this order.

    Args:
        name: of the new corpus.
        parts: the rows of the corpora it is made of.
        choice: what the profile says of it.
        seed: of the share and of the shuffle. A smaller share is a part of a larger one of the same corpus.
        names: how the translation instruction calls the languages (`data.language_names`).
        target_tokens: counts targets, for `pairs: source-only`.

    Returns:
        The corpus; its rows keep the ids they had.

    Raises:
        BadRow: when nothing is left, or pairs is asked of a corpus that holds no translations.
    """
    rows, dropped = [row for part in parts for row in part], Counter[tuple[str, str]]()

    def keep(kept: list[Row], outcome: str) -> list[Row]:
        dropped.update((code, outcome) for code in (Counter(map(spoken, rows)) - Counter(map(spoken, kept))).elements())
        return kept

    rows = keep([row for row in rows if _chosen(spoken(row), choice)], "language left out")
    if choice.share is not None:
        rows = keep(_by_direction(rows, lambda part, key: _sampled(part, choice.share, f"{seed}/{key}")), "not sampled")
    if choice.limit is not None:
        rows = keep(_by_direction(rows, lambda part, _: part[: choice.limit]), "beyond the limit")
    if choice.pairs == "shuffled":
        rows = _by_direction(_translations(name, rows), lambda part, key: shuffled(name, part, f"{seed}/{key}"))
    if choice.pairs == "source-only":
        if target_tokens is None:
            raise ValueError("source-only needs target_tokens, to be as long as the original")
        rows = keep(source_only(_translations(name, rows), names, target_tokens), "cut to as many tokens")
    return as_corpus(name, rows, dropped)


def _chosen(code: str, choice: CorpusChoice) -> bool:
    return (choice.languages is None or code in choice.languages) and code not in (choice.without or [])


def _by_direction(rows: list[Row], change: Callable[[list[Row], str], list[Row]]) -> list[Row]:
    """Change the rows of each pair of languages by themselves; the order of the pairs is that of their first rows."""
    parts: dict[str, list[Row]] = {}
    for row in rows:
        parts.setdefault(f"{row['source_language']}-{row['target_language']}", []).append(row)
    return [row for key, part in parts.items() for row in change(part, key)]


def _sampled(rows: list[Row], share: float | None, seed: str) -> list[Row]:
    order = list(range(len(rows)))
    random.Random(seed).shuffle(order)
    return [rows[i] for i in sorted(order[: max(1, round((share or 1) * len(rows)))])]


def _translations(name: str, rows: list[Row]) -> list[Row]:
    for row in rows:
        if (row["source_language"] == "en") == (row["target_language"] == "en"):
            raise BadRow(
                f"corpus {name}: pairs needs translations into or from English, but {row['id']} is "
                f"{row['source_language']} to {row['target_language']}; derive it from a corpus such as questions-x-en"
            )
    return rows


def shuffled(name: str, rows: list[Row], seed: str) -> list[Row]:
    """Every instruction with another row's output: the same texts and tokens, but no pair says the same thing.

    Rows with the same output stand side by side in a random order of the outputs, and the outputs move on by as many
    places as the commonest has rows.

    Raises:
        BadRow: when one output is that of more than half of the rows, so that some pair must stay as it was.
    """
    outputs = sorted({row["output"] for row in rows})
    random.Random(seed).shuffle(outputs)
    rank = {output: i for i, output in enumerate(outputs)}
    order = sorted(range(len(rows)), key=lambda i: rank[rows[i]["output"]])
    step = max(Counter(row["output"] for row in rows).values())
    if 2 * step > len(rows):
        raise BadRow(f"corpus {name}: too few different outputs ({len(outputs)} in {len(rows)} rows) to shuffle them")
    other = {i: rows[order[(place + step) % len(rows)]] for place, i in enumerate(order)}
    return [{**row, "id": f"{row['id']}~{other[i]['id']}", "output": other[i]["output"]} for i, row in enumerate(rows)]


def source_only(rows: list[Row], names: str, target_tokens: TargetTokens) -> list[Row]:
    """The texts that are not English as targets of their own, with nothing to translate.

    A language's texts are taken in order, and again from the first one, until they have as many target tokens as the
    language's translations had, the last one being whichever fits best; what one language misses or has too many of,
    the next one makes up for.
    """
    behind = 0  # target tokens that the languages so far are short of

    def fill(part: list[Row], key: str) -> list[Row]:
        nonlocal behind
        alone = [_alone(row, names) for row in part]
        behind += sum(target_tokens([r["instruction"] for r in part], [r["output"] for r in part]))
        lengths = target_tokens([r["instruction"] for r in alone], [r["output"] for r in alone])
        if not all(lengths):
            raise BadRow(f"{alone[lengths.index(0)]['id']}: a text without any target token ({key})")
        filled: list[Row] = []
        while behind >= lengths[len(filled) % len(alone)]:
            behind -= lengths[len(filled) % len(alone)]
            filled.append(alone[len(filled) % len(alone)])
        last = min(range(len(alone)), key=lambda i: abs(behind - lengths[i]))  # the one that fits best
        if abs(behind - lengths[last]) < behind:
            behind -= lengths[last]
            filled.append(alone[last])
        return filled

    return _by_direction(rows, fill)


def _alone(row: Row, names: str) -> Row:
    code, source, target = spoken(row), row["source_language"], row["target_language"]
    head = translation_instruction("", source, target, names=names)
    text = row["output"] if source == "en" else row["instruction"].removeprefix(head)
    instruction = writing_instruction(code, names=names)
    return {**row, "instruction": instruction, "output": text, "source_language": code, "target_language": code}
