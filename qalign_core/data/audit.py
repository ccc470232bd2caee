"""The data audit: what is wrong with each data set, counted by language, with examples. Reported, never mended."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd
from datasets import Dataset

from qalign_core.data.near_duplicates import near_duplicate_groups, overlap
from qalign_core.data.numerals import lost, readings, small
from qalign_core.prompts import alpaca, translation_instruction

__all__ = [
    "audit",
    "checked",
    "corpora_table",
    "counted",
    "near_duplicate_groups",
    "overlap",
    "pairs_of",
    "token_lengths",
    "translation_defects",
]

COLUMNS = ("check", "data_set", "language", "count", "total", "example")
EXAMPLE_CHARACTERS = 240
ROWS_KEPT, ROW_CHARACTERS = 50, 1200  # of a check's rows, for those who look through them
Texts = Sequence[str] | Mapping[int, str]  # row → text

# At least four characters, three times or more in a row: how a translation model loops.
_LOOP = re.compile(r"(\S.{3,59}?)\1{2,}", re.DOTALL)

TRANSLATION_CHECKS = (
    "untranslated",
    "loses a number",
    "loses a small number (may be a word)",
    "has no number left",
    "repeats itself",
)


def audit(
    corpora: Mapping[str, Dataset],
    benchmarks: Mapping[str, Mapping[str, Dataset]],
    *,
    tokenizer: Any = None,
    max_length: int = 512,
) -> pd.DataFrame:
    """Everything that is checked, over every corpus and benchmark, in one long table; arguments as those of `checked`.

    Returns:
        one line for each check, data set and language, also where nothing was found: `check, data_set, language,
        count, total, example` (the first row concerned, shortened; empty if there is none).
    """
    return counted(checked(corpora, benchmarks, tokenizer=tokenizer, max_length=max_length))


def counted(lines: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """The lines of `checked` as `audit`'s table."""
    return pd.DataFrame(lines, columns=list(COLUMNS))


def checked(
    corpora: Mapping[str, Dataset],
    benchmarks: Mapping[str, Mapping[str, Dataset]],
    *,
    tokenizer: Any = None,
    max_length: int = 512,
) -> list[dict[str, Any]]:
    """Every check of every data set in every language, with the rows it found.

    Args:
        corpora: name → examples, as `corpora.load_corpus` gives them.
        benchmarks: name → language code → questions, as `benchmarks.load_benchmark` gives them.
        tokenizer: to count tokens; without one, lengths are not checked.
        max_length: tokens at which a training sequence is cut.

    Returns:
        the lines of `audit`'s table, and beside its columns `rows`: the first rows found, as (row, text). Rows are
        counted from 0 among those of the language; where it is about lengths, among all of the corpus.
    """
    lines: list[dict[str, Any]] = []
    for name, dataset in corpora.items():
        lines += _corpus_lines(name, dataset)
        if tokenizer is not None:
            lines += _length_lines(name, dataset, tokenizer, max_length)
    texts = _training_texts(corpora)
    for name, by_language in benchmarks.items():
        lines += _benchmark_lines(name, by_language)
        for code, dataset in by_language.items():
            for corpus, training in texts.get(code, {}).items():
                lines += _overlap_lines(name, code, dataset["question"][:], corpus, training)
    return lines


def translation_defects(translations: Sequence[str], originals: Sequence[str]) -> dict[str, list[int]]:
    """Rows of a translated text that are defective beside their English originals, by check (`TRANSLATION_CHECKS`).

    A number counts as lost if no reading of the translation has its value (`numerals.readings`); rows that lose
    whole numbers up to 20 only are told apart, since a translator may have written them as words.

    Raises:
        ValueError: if the two sides differ in length.
    """
    found: dict[str, list[int]] = {check: [] for check in TRANSLATION_CHECKS}
    for row, (translation, original) in enumerate(zip(translations, originals, strict=True)):
        if translation.strip() == original.strip():
            found["untranslated"].append(row)
            continue
        missing = lost(original, translation)
        if missing:
            words = len(small(missing)) == len(missing)
            found["loses a small number (may be a word)" if words else "loses a number"].append(row)
            if not readings(translation):
                found["has no number left"].append(row)
        if _LOOP.search(translation):
            found["repeats itself"].append(row)
    return found


def pairs_of(dataset: Dataset) -> dict[str, tuple[list[str], list[str]]]:
    """The texts of a corpus's translations without their prompt: language → (texts in it, the same in English)."""
    found: dict[str, tuple[list[str], list[str]]] = {}
    for instruction, output, source, target in _rows(dataset):
        text = _to_translate(instruction, source, target)
        if text is None:
            continue
        foreign, english = found.setdefault(target if source == "en" else source, ([], []))
        foreign.append(output if source == "en" else text)
        english.append(text if source == "en" else output)
    return found


def token_lengths(dataset: Dataset, tokenizer: Any, *, batch: int = 1000) -> pd.DataFrame:
    """How many tokens each example has before anything is cut.

    Returns:
        one line an example: `id, source_language, prompt_tokens` (BOS and prompt) and `tokens` (with target and EOS).
    """
    prompts = [alpaca(instruction) for instruction in dataset["instruction"]]
    outputs = dataset["output"][:]

    def lengths(texts: list[str]) -> list[int]:
        return [
            len(ids)
            for start in range(0, len(texts), batch)
            for ids in tokenizer(texts[start : start + batch], truncation=False, verbose=False)["input_ids"]
        ]

    return pd.DataFrame(
        {
            "id": dataset["id"][:],
            "source_language": dataset["source_language"][:],
            "prompt_tokens": lengths(prompts),
            "tokens": [n + 1 for n in lengths([p + o for p, o in zip(prompts, outputs, strict=True)])],
        }
    )


def corpora_table(corpora: Mapping[str, Dataset], tokenizer: Any = None) -> pd.DataFrame:
    """Table 1: what the models are trained on.

    Returns:
        one line a corpus: `corpus, languages` (codes, in the order of the rows), `rows`, and with a tokenizer `tokens`.
    """
    lines = []
    for name, dataset in corpora.items():
        spoken = dict.fromkeys(code for _, _, *codes in _rows(dataset) for code in codes)
        line: dict[str, Any] = {"corpus": name, "languages": " ".join(spoken), "rows": len(dataset)}
        if tokenizer is not None:
            line["tokens"] = int(token_lengths(dataset, tokenizer).tokens.sum())
        lines.append(line)
    return pd.DataFrame(lines)


# ------------------------------------------------------------------------------------------------- lines of the table


def _line(check: str, data_set: str, language: str, rows: Sequence[int], total: int, texts: Texts) -> dict:
    kept = [(int(row), " ".join(texts[row].split())) for row in rows[:ROWS_KEPT]]
    example = _cut(kept[0][1], EXAMPLE_CHARACTERS) if kept else ""
    line = dict(zip(COLUMNS, (check, data_set, language, len(rows), total, example), strict=True))
    return line | {"rows": [(row, _cut(text, ROW_CHARACTERS)) for row, text in kept]}


def _cut(text: str, characters: int) -> str:
    return text if len(text) <= characters else text[: characters - 1] + "…"


def _corpus_lines(name: str, dataset: Dataset) -> Iterable[dict]:
    for code, (foreign, english) in pairs_of(dataset).items():
        shown = [f"{text} ⟶ {original}" for text, original in zip(foreign, english, strict=True)]
        for check, rows in translation_defects(foreign, english).items():
            yield _line(check, name, code, rows, len(foreign), shown)
        yield _line("repeats an earlier row", name, code, _repeated(foreign), len(foreign), foreign)
    for code, (questions, solutions) in _by_language(dataset).items():
        blank = [i for i, pair in enumerate(zip(questions, solutions, strict=True)) if not all(map(str.strip, pair))]
        yield _line("blank side", name, code, blank, len(questions), questions)
        yield _line("repeats an earlier row", name, code, _repeated(questions), len(questions), questions)


def _benchmark_lines(name: str, by_language: Mapping[str, Dataset]) -> Iterable[dict]:
    english = by_language.get("en")
    for code, dataset in by_language.items():
        questions, golds = dataset["question"][:], dataset["answer"][:]
        total = len(questions)
        yield _line("blank side", name, code, [i for i, q in enumerate(questions) if not q.strip()], total, questions)
        yield _line("repeats an earlier row", name, code, _repeated(questions), total, questions)
        groups = near_duplicate_groups(questions)
        first = {group: row for row, group in reversed(list(enumerate(groups)))}
        near = [row for row, group in enumerate(groups) if first[group] != row]
        yield _line("nearly repeats an earlier row", name, code, near, total, questions)
        if english is None or code == "en":
            continue
        if len(english) != total:
            raise ValueError(
                f"{name}: {total} questions in {code!r} but {len(english)} in English; they are parallel by row, so "
                f"one of the files is cut off: fetch both again, or load both with the same limit"
            )
        shown = [f"{text} ⟶ {original}" for text, original in zip(questions, english["question"], strict=True)]
        for check, rows in translation_defects(questions, english["question"][:]).items():
            yield _line(check, name, code, rows, total, shown)
        pairs = list(zip(golds, english["answer"], strict=True))
        differ = [row for row, (gold, known) in enumerate(pairs) if not set.intersection(*_golds(gold, known))]
        shown = [f"{gold} ⟶ {known}: {q}" for (gold, known), q in zip(pairs, questions, strict=True)]
        yield _line("gold answer differs from English", name, code, differ, total, shown)


def _overlap_lines(name: str, code: str, questions: list[str], corpus: str, training: list[str]) -> Iterable[dict]:
    met = overlap(questions, training)
    for kind in ("exact", "other numbers", "near"):
        found = met[met.kind == kind]
        shown = {row.test: f"{questions[row.test]} ⟶ {training[row.training]}" for row in found.itertuples()}
        yield _line(f"in training data: {kind}", f"{name} in {corpus}", code, list(found.test), len(questions), shown)


def _length_lines(name: str, dataset: Dataset, tokenizer: Any, max_length: int) -> Iterable[dict]:
    lengths = token_lengths(dataset, tokenizer)
    texts = dataset["instruction"][:]
    for code, group in lengths.groupby("source_language", sort=False):
        for check, over in (
            (f"longer than {max_length} tokens", group.tokens > max_length),
            (f"prompt of {max_length} tokens or more", group.prompt_tokens >= max_length),
        ):
            yield _line(check, name, code, list(group.index[over]), len(group), texts)


# ------------------------------------------------------------------------------------------------- texts of a data set


def _rows(dataset: Dataset) -> Iterable[tuple[str, str, str, str]]:
    names = ("instruction", "output", "source_language", "target_language")
    return zip(*(dataset[name][:] for name in names), strict=True)


def _to_translate(instruction: str, source: str, target: str) -> str | None:
    """The text that an instruction has translated into or from English; None if it is about something else."""
    if (source == "en") == (target == "en"):
        return None
    heads = (translation_instruction("", source, target, names=names) for names in ("paper", "plain"))
    return next((instruction[len(head) :] for head in heads if instruction.startswith(head)), None)


def _by_language(dataset: Dataset) -> dict[str, tuple[list[str], list[str]]]:
    """Language → (questions, solutions) of what is not a translation."""
    found: dict[str, tuple[list[str], list[str]]] = {}
    for instruction, output, source, target in _rows(dataset):
        if _to_translate(instruction, source, target) is None:
            questions, solutions = found.setdefault(source, ([], []))
            questions.append(instruction)
            solutions.append(output)
    return found


def _training_texts(corpora: Mapping[str, Dataset]) -> dict[str, dict[str, list[str]]]:
    """Language → corpus → the distinct questions a model trained on the corpus has seen in it."""
    found: dict[str, dict[str, list[str]]] = {}
    for name, dataset in corpora.items():
        sides = {code: questions for code, (questions, _) in _by_language(dataset).items()}
        if name.startswith("questions"):
            for code, pair in pairs_of(dataset).items():
                for side, texts in zip((code, "en"), pair, strict=True):
                    sides.setdefault(side, []).extend(texts)
        for code, texts in sides.items():
            found.setdefault(code, {})[name] = list(dict.fromkeys(texts))
    return found


def _repeated(texts: Sequence[str]) -> list[int]:
    first: dict[str, int] = {}
    return [row for row, text in enumerate(texts) if first.setdefault(text.strip(), row) != row]


def _golds(*answers: str) -> list[set[float]]:
    """The values each gold answer may stand for, its first number."""
    return [set(next(iter(readings(answer)), set())) for answer in answers]
