"""What is wrong with each data set, counted by language with examples; reported, never mended."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain, islice
from typing import Any

import numpy as np
import pandas as pd
from datasets import Dataset

from qalign_core.prompts import TEMPLATES, render, translation_instruction, turn
from qalign_core.scorer import TOLERANCE, fixed_number, numbers

COLUMNS = ("check", "data_set", "language", "count", "total", "example")
EXAMPLE_CHARACTERS = 240
ROWS_KEPT, ROW_CHARACTERS = 50, 1200  # of a check's rows, for those who look through them

# At least four characters, three times or more in a row: how a translation model loops.
_LOOP = re.compile(r"(\S.{3,59}?)\1{2,}", re.DOTALL)


def checked(
    corpora: Mapping[str, Dataset],
    benchmarks: Mapping[str, Mapping[str, Dataset]],
    *,
    tokenizer: Any = None,
    max_length: int = 512,
    template: str = "alpaca",
) -> list[dict[str, Any]]:
    """Every check of every data set in every language, also where nothing was found, with the rows it found.

    Args:
        corpora: name → examples.
        benchmarks: name → language code → questions.
        tokenizer: to count tokens of `template`'s prompts; without one, lengths are not checked.

    Returns:
        lines of `check, data_set, language, count, total, example` (the first row concerned, shortened) and `rows`: the
        first rows found, as (row, text). Rows count from 0 within the language (lengths: within the corpus).
    """
    lines: list[dict[str, Any]] = []
    seen: dict[str, dict[str, list[str]]] = {}  # language → corpus → the questions a model trained on it has seen
    for name, dataset in corpora.items():
        translations, solved = split(dataset)
        sides = {code: list(questions) for code, (questions, _) in solved.items()}
        for code, (foreign, english) in translations.items():
            lines += _translation_lines(name, code, foreign, english)
            lines.append(_line("repeats an earlier row", name, code, _repeated(foreign), foreign))
            if name.startswith("questions"):
                sides.setdefault(code, []).extend(foreign)
                sides.setdefault("en", []).extend(english)
        for code, (questions, solutions) in solved.items():
            pairs = enumerate(zip(questions, solutions, strict=True))
            blank = [row for row, (question, solution) in pairs if not question.strip() or not solution.strip()]
            lines.append(_line("blank side", name, code, blank, questions))
            lines.append(_line("repeats an earlier row", name, code, _repeated(questions), questions))
        if tokenizer is not None:
            lines += _length_lines(name, dataset, token_lengths(dataset, tokenizer, template), max_length)
        for code, texts in sides.items():
            seen.setdefault(code, {})[name] = list(dict.fromkeys(texts))
    for name, by_language in benchmarks.items():
        lines += _benchmark_lines(name, by_language)
        for code, dataset in by_language.items():
            for corpus, training in seen.get(code, {}).items():
                questions = dataset["question"][:]
                for kind, found in overlap(questions, training).groupby("kind", observed=False):
                    shown = {
                        row.test: f"{questions[row.test]} ⟶ {training[row.training]}" for row in found.itertuples()
                    }
                    check, tests = f"in training data: {kind}", found.test.tolist()
                    lines.append(_line(check, f"{name} in {corpus}", code, tests, shown, len(questions)))
    return lines


def counted(lines: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """The lines of `checked` as a table, without their rows."""
    return pd.DataFrame(lines, columns=list(COLUMNS))


def translation_defects(
    translations: Sequence[str], originals: Sequence[str], code: str | None = None
) -> dict[str, list[int]]:
    """Rows of a text translated into `code` that are defective beside their English originals, by check.

    A number is lost if the translation does not show it (`lost`); rows that lose whole numbers up to 20
    only are told apart, since a translator may have written them as words.
    """
    checks = ("untranslated", "loses a number", "loses a small number (may be a word)", "has no number left")
    found: dict[str, list[int]] = {check: [] for check in (*checks, "repeats itself")}
    for row, (translation, original) in enumerate(zip(translations, originals, strict=True)):
        if translation.strip() == original.strip():
            found["untranslated"].append(row)
            continue
        missing = lost(original, translation, code)
        if missing:
            words = all(number <= 20 and number == int(number) for number in missing)
            found["loses a small number (may be a word)" if words else "loses a number"].append(row)
            if not numbers(translation, code):
                found["has no number left"].append(row)
        if _LOOP.search(translation):
            found["repeats itself"].append(row)
    return found


def token_lengths(dataset: Dataset, tokenizer: Any, template: str = "alpaca") -> pd.DataFrame:
    """How many tokens each example has before anything is truncated: `id, source_language, prompt_tokens` (BOS and
    prompt) and `tokens` (with target and end)."""
    is_chat, before = TEMPLATES[template].is_chat, turn(tokenizer, template).before
    prompts = [render(tokenizer, instruction, template) for instruction in dataset["instruction"]]
    texts = [prompt + before + output for prompt, output in zip(prompts, dataset["output"], strict=True)]

    def lengths(texts: list[str]) -> list[int]:
        batches = (texts[start : start + 1000] for start in range(0, len(texts), 1000))
        encoded = (tokenizer(b, truncation=False, verbose=False, add_special_tokens=not is_chat) for b in batches)
        return [len(ids) for batch in encoded for ids in batch["input_ids"]]

    columns = {name: dataset[name][:] for name in ("id", "source_language")}
    return pd.DataFrame({**columns, "prompt_tokens": lengths(prompts), "tokens": [n + 1 for n in lengths(texts)]})


# ------------------------------------------------------------------------------------------------- lines of the table


def _line(check: str, data_set: str, language: str, rows: Sequence[int], texts: Any, total: int | None = None) -> dict:
    """A line of the table; `texts` are those of all rows (or of the rows found, by row, with their `total`)."""

    def shortened(text: str, characters: int) -> str:
        return text if len(text) <= characters else text[: characters - 1] + "…"

    kept = [(int(row), " ".join(texts[row].split())) for row in rows[:ROWS_KEPT]]
    example = shortened(kept[0][1], EXAMPLE_CHARACTERS) if kept else ""
    values = (check, data_set, language, len(rows), len(texts) if total is None else total, example)
    shown = [(row, shortened(text, ROW_CHARACTERS)) for row, text in kept]
    return {**dict(zip(COLUMNS, values, strict=True)), "rows": shown}


def _translation_lines(name: str, code: str, foreign: Sequence[str], english: Sequence[str]) -> Iterator[dict]:
    shown = [f"{text} ⟶ {original}" for text, original in zip(foreign, english, strict=True)]
    for check, rows in translation_defects(foreign, english, code).items():
        yield _line(check, name, code, rows, shown)


def _benchmark_lines(name: str, by_language: Mapping[str, Dataset]) -> Iterator[dict]:
    english = by_language.get("en")
    for code, dataset in by_language.items():
        questions, golds = dataset["question"][:], dataset["answer"][:]
        blank = [row for row, question in enumerate(questions) if not question.strip()]
        yield _line("blank side", name, code, blank, questions)
        yield _line("repeats an earlier row", name, code, _repeated(questions), questions)
        groups = near_duplicate_groups(questions)
        first = {group: row for row, group in reversed(list(enumerate(groups)))}
        near = [row for row, group in enumerate(groups) if first[group] != row]
        yield _line("nearly repeats an earlier row", name, code, near, questions)
        if english is None or code == "en":
            continue
        if len(english) != len(questions):
            why = "they are parallel by row: fetch both files again, or load both with the same limit"
            raise ValueError(f"{name}: {len(questions)} questions in {code!r} but {len(english)} in English; {why}")
        yield from _translation_lines(name, code, questions, english["question"][:])
        pairs = list(zip(golds, english["answer"], strict=True))
        values = [[fixed_number(answer, "en") for answer in pair] for pair in pairs]
        differ = [row for row, (gold, known) in enumerate(values) if abs(gold - known) >= TOLERANCE]
        shown = [f"{gold} ⟶ {known}: {q}" for (gold, known), q in zip(pairs, questions, strict=True)]
        yield _line("gold answer differs from English", name, code, differ, shown)


def _length_lines(name: str, dataset: Dataset, lengths: pd.DataFrame, max_length: int) -> Iterator[dict]:
    texts = dataset["instruction"][:]
    for code, group in lengths.groupby("source_language", sort=False):
        too_long = list(group.index[group.tokens > max_length])
        no_target = list(group.index[group.prompt_tokens >= max_length])
        yield _line(f"longer than {max_length} tokens", name, str(code), too_long, texts, len(group))
        yield _line(f"prompt of {max_length} tokens or more", name, str(code), no_target, texts, len(group))


Sides = dict[str, tuple[list[str], list[str]]]


def split(dataset: Dataset) -> tuple[Sides, Sides]:
    """Translations, as language → (texts, English texts), and the rest, as language → (questions, solutions)."""
    translations: Sides = {}
    solved: Sides = {}
    columns = (dataset[name][:] for name in ("instruction", "output", "source_language", "target_language"))
    for instruction, output, source, target in zip(*columns, strict=True):
        text = None
        if (source == "en") != (target == "en"):
            heads = (translation_instruction("", source, target, names=names) for names in ("paper", "plain"))
            text = next((instruction[len(head) :] for head in heads if instruction.startswith(head)), None)
        if text is None:
            sides, pair = solved.setdefault(source, ([], [])), (instruction, output)
        elif source == "en":
            sides, pair = translations.setdefault(target, ([], [])), (output, text)
        else:
            sides, pair = translations.setdefault(source, ([], [])), (text, output)
        for side, said in zip(sides, pair, strict=True):
            side.append(said)
    return translations, solved


def _repeated(texts: Sequence[str]) -> list[int]:
    return [int(row) for row in np.flatnonzero(pd.Series([text.strip() for text in texts], dtype=object).duplicated())]


# ------------------------------------------------------------------------------------------------- near-duplicates

# Scripts written without spaces: each character is a token.
_UNSPACED = (("\u0e00", "\u0e7f"), ("\u3040", "\u30ff"), ("\u3400", "\u9fff"), ("\uf900", "\ufaff"))


class _Tokens(dict):
    """Character → what it becomes before splitting at spaces, for `str.translate`."""

    def __missing__(self, code: int) -> str:
        character = chr(code)
        kind = unicodedata.category(character)
        if any(first <= character <= last for first, last in _UNSPACED) and kind[0] in "LM":
            text = f" {character} "
        elif kind == "Nd":
            text = str(unicodedata.decimal(character))
        else:
            text = character.casefold() if kind[0] in "LMN" else " "
        self[code] = text
        return text


_TOKENS = _Tokens()


def tokens(text: str, *, numbers: bool = False) -> list[str]:
    """Words (characters, where a script has no spaces) without case and punctuation; numbers kept or all made alike."""
    found = text.translate(_TOKENS).split()
    return found if numbers else ["0" if token[0].isdigit() else token for token in found]


def _shingles(words: Sequence[str], size: int) -> set[tuple[str, ...]]:
    """The runs of `size` tokens; a shorter text is one run."""
    return set(zip(*(words[i:] for i in range(size)), strict=False)) if len(words) > size else {tuple(words)}


def _incidence(sets: Sequence[set[tuple[str, ...]]], known: dict[tuple[str, ...], int]) -> Any:
    """Which text (N) has which of the `known` runs of tokens (S), as a sparse matrix of 0 and 1."""
    from scipy.sparse import csr_matrix

    found = [[known[run] for run in one & known.keys()] for one in sets]
    starts = np.cumsum([0, *map(len, found)])
    columns = np.fromiter(chain.from_iterable(found), np.int32, count=starts[-1])
    return csr_matrix((np.ones(starts[-1], np.int32), columns, starts), shape=(len(sets), len(known)))


def near_duplicate_groups(questions: Sequence[str], *, threshold: float = 0.4) -> list[int]:
    """The group of each question, from 0 in order of appearance: chains of questions that share most of their words.

    Two questions are near-duplicates when the pairs of neighbouring tokens they share, numbers made alike, are at least
    `threshold` of all that either has (Jaccard). At 0.4 mSVAMP's variations of one story fall together, while
    mGSM's 250 questions stay 250 groups (down to 0.2). Parallel languages have the groups of their English.
    """
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    if not questions:
        return []
    sets = [_shingles(tokens(question), 2) for question in questions]
    has = _incidence(sets, {run: column for column, run in enumerate(set().union(*sets))})
    shared, sizes = coo_matrix(has @ has.T), np.array([len(one) for one in sets])  # (N, N) counts, (N,)
    near = shared.data >= threshold * (sizes[shared.row] + sizes[shared.col] - shared.data)
    graph = coo_matrix((near[near], (shared.row[near], shared.col[near])), shape=shared.shape)
    _, labels = connected_components(graph, directed=False)
    return [int(group) for group in pd.factorize(labels)[0]]


def overlap(tests: Sequence[str], training: Iterable[str], *, threshold: float = 0.6, size: int = 3) -> pd.DataFrame:
    """Test questions that occur in training data of the same language, exactly or nearly; one pass over the latter.

    Texts are nearly the same from a share of `threshold` runs of `size` tokens in common (Jaccard, numbers made alike).

    Returns:
        one line for each test question that was met, with its best match: `test, training` (positions), `kind`
        (`exact`: the same words and numbers; `other numbers`: the same words; `near`), `similarity` (0 to 1).
    """
    from scipy.sparse import coo_matrix

    sets, exact = [_shingles(tokens(text), size) for text in tests], [tokens(text, numbers=True) for text in tests]
    known = {run: column for column, run in enumerate(set().union(*sets))}
    asked, sizes = _incidence(sets, known).T, np.array([len(one) for one in sets])  # (S, T), (T,)
    kinds = ("near", "other numbers", "exact")  # by rank
    best: dict[int, tuple[tuple[int, float], int]] = {}  # test → (rank, similarity), training row
    rows = enumerate(training)
    while block := list(islice(rows, 4096)):  # the corpus need not be in memory
        sets = [_shingles(tokens(text), size) for _, text in block]
        shared = coo_matrix(_incidence(sets, known) @ asked)  # (R, T), counts
        similarities = shared.data / (
            sizes[shared.col] + np.array([len(one) for one in sets])[shared.row] - shared.data
        )
        for place in np.flatnonzero(similarities >= threshold):
            position, (row, text) = int(shared.col[place]), block[shared.row[place]]
            similarity, rank = float(similarities[place]), 0
            if similarity == 1.0:
                words = tokens(text, numbers=True)
                rank = (1 + (words == exact[position])) if len(words) == len(exact[position]) else 0
            if position not in best or (rank, similarity) > best[position][0]:
                best[position] = ((rank, similarity), row)
    lines = [(test, row, kinds[rank], similarity) for test, ((rank, similarity), row) in sorted(best.items())]
    met = pd.DataFrame(lines, columns=["test", "training", "kind", "similarity"])
    return met.astype({"kind": pd.CategoricalDtype(kinds[::-1])})


# ------------------------------------------------------------------------------------------------- numbers

# Words and signs behind a number that multiply it; Chinese and Japanese glue them to the next word.
_MULTIPLIERS = {
    word: 10.0**exponent
    for exponent, words in {
        2: "hundred 百",
        3: "thousand k mil mille tausend тысяч тысячи тыс elfu 千",
        4: "หมื่น 万 萬",
        5: "แสน লক্ষ লাখ",
        6: "million millions millionen millón millones миллион миллионов миллиона ล้าน milioni মিলিয়ন 百万",
        8: "亿 億",
        9: "billion billions milliarden milliards миллиардов bilioni",
    }.items()
    for word in words.split()
}


def multiplier(behind: str) -> float:
    """What the word behind a number multiplies it with; 1 for any other word."""
    word = re.split(r"[\W\d_]", behind.lstrip(" -\u00a0").lower(), maxsplit=1)[0]
    starts = [word] if word.isascii() else [word[:length] for length in range(min(len(word), 10), 0, -1)]
    return next((_MULTIPLIERS[start] for start in starts if start in _MULTIPLIERS), 1.0)


def lost(original: str, translation: str, code: str | None) -> list[float]:
    """The numbers of an English original that its translation into `code` does not show, in order, each once.

    Both are read as `scorer` reads a response. Translations may keep English marks, `32 million` may be 32,000,000, and
    a sign may be a hyphen.
    """

    def values(text: str, language: str | None) -> Iterator[set[float]]:
        for number, behind in numbers(text, language):
            yield {abs(number), abs(number) * multiplier(behind)}

    missing = list(values(original, "en"))
    for language in (code, "en"):
        shown: set[float] = set().union(*values(translation, language)) if missing else set()
        missing = [found for found in missing if not found & shown]
    return list(dict.fromkeys(min(found) for found in missing))
