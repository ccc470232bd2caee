"""Rows of a source → examples of a corpus, in the authors' order and with the authors' quirks as named switches."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from datasets import Dataset

from qalign_core.data.data_sets import (
    GSM8KINSTRUCT_ORDER,
    Text,
    flores_pairs,
    gsm8kinstruct,
    metamathqa,
    question_pairs,
    questions_answers,
)
from qalign_core.data.rows import BadRow, require
from qalign_core.languages import CODES, NON_ENGLISH, STAGE1_ORDER, language
from qalign_core.profiles.schema import DataSet
from qalign_core.prompts import translation_instruction

COLUMNS = ("id", "instruction", "output", "source_language", "target_language")

# The data sets each corpus is made of; `gsm8k` reads GSM8KInstruct's English file unless sft_data is "gsm8k".
DATA_SETS: dict[str, tuple[DataSet, ...]] = {
    "questions-x-en": ("questions",),
    "questions-en-x": ("questions",),
    "responses-x-en": ("questions", "gsm8kinstruct"),
    "responses-en-x": ("questions", "gsm8kinstruct"),
    "flores-x-en": ("flores",),
    "gsm8k": ("gsm8kinstruct",),
    "gsm8kinstruct": ("gsm8kinstruct",),
    "metamathqa": ("metamathqa",),
}
CORPORA = tuple(DATA_SETS)


@dataclass(frozen=True)
class Corpus:
    """A corpus and what became of every row that was read for it.

    Attributes:
        name: such as `questions-x-en`.
        dataset: the examples; columns `id, instruction, output, source_language, target_language`.
        report: one line an outcome: `corpus, language, outcome, rows`; the outcome `kept` counts the examples.
    """

    name: str
    dataset: Dataset
    report: pd.DataFrame


@dataclass(frozen=True)
class Switches:
    """Quirks of the released code that move numbers; the defaults are the authors'.

    Attributes:
        language_names: `paper` calls Swahili `Swahili (macrolanguage)` in the translation prompt; `plain` does not.
        gsm8kinstruct_language: `paper` finds a row's language by the first language name anywhere in its prompt,
            which puts three rows into the wrong language; `fixed` looks at the template before the question only.
        sft_data: `paper` trains SFT on GSM8KInstruct's English rows (7,476); `gsm8k` on GSM8K itself (7,473).

    Source: NJUNLP/QAlign data/gsmtrans/gsmtrans.py:27, data/gsm8kinstruct/extract_data.py, training_scripts/.
    """

    language_names: str = "paper"
    gsm8kinstruct_language: str = "paper"
    sft_data: str = "paper"

    def __post_init__(self) -> None:
        allowed = {
            "language_names": ("paper", "plain"),
            "gsm8kinstruct_language": ("paper", "fixed"),
            "sft_data": ("paper", "gsm8k"),
        }
        for switch, values in allowed.items():
            if getattr(self, switch) not in values:
                raise ValueError(f"{switch} must be {' or '.join(map(repr, values))}, not {getattr(self, switch)!r}")


# ------------------------------------------------------------------------------------------------- public


def data_sets_of(name: str, *, sft_data: str = "paper") -> tuple[DataSet, ...]:
    """The data sets a corpus is made of, as `sources.locate` names them.

    Raises:
        ValueError: for an unknown corpus, naming the known ones.
    """
    if name not in DATA_SETS:
        raise ValueError(f"unknown corpus {name!r}; known corpora: {', '.join(CORPORA)}")
    return ("gsm8k",) if name == "gsm8k" and sft_data == "gsm8k" else DATA_SETS[name]


def load_corpus(
    name: str,
    data_dir: str | Path,
    languages: Sequence[str] | None = None,
    *,
    language_names: str = "paper",
    gsm8kinstruct_language: str = "paper",
    sft_data: str = "paper",
    limit: int | None = None,
    seed: int | None = None,
) -> Dataset:
    """The examples of a corpus; arguments and errors as `build_corpus`."""
    switches = Switches(language_names, gsm8kinstruct_language, sft_data)
    return build_corpus(name, data_dir, languages, switches=switches, limit=limit, seed=seed).dataset


def build_corpus(
    name: str,
    data_dir: str | Path,
    languages: Sequence[str] | None = None,
    *,
    switches: Switches | None = None,
    limit: int | None = None,
    seed: int | None = None,
) -> Corpus:
    """The examples of a corpus with an account of the rows that were read.

    Args:
        name: one of `CORPORA`.
        data_dir: a folder of data, laid out as `sources` describes.
        languages: codes to use, in any order: the examples keep the authors' order (`STAGE1_ORDER`,
            `GSM8KINSTRUCT_ORDER`). In a translation corpus these are the languages other than English (`en` may be
            among them and says nothing); in `gsm8kinstruct` exactly these. The English corpora `gsm8k` and
            `metamathqa` have one language and do not look at it. None: all of the paper's.
        switches: the authors' quirks; None for the paper's.
        limit: at most so many examples a language: the first ones, or with `seed` a sample of them in file order.
        seed: of that sample.

    Raises:
        ValueError: for an unknown name or language, or a row that cannot be used (`rows.BadRow`: file and line).
        FileNotFoundError: for an absent file, with the file and how to get it.
    """
    data_sets_of(name)
    switches = switches or Switches()
    wanted = _wanted(name, languages)
    columns: dict[str, list[str]] = {column: [] for column in COLUMNS}
    outcomes: list[dict[str, str | int]] = []
    for code, texts, dropped in _read(name, Path(data_dir), wanted, switches):
        source, target = _direction(name, code)
        kept = _limited(texts, limit, seed)
        if len(kept) < len(texts):
            dropped["beyond the limit"] += len(texts) - len(kept)
        for index, instruction, output in kept:
            for column, value in zip(
                COLUMNS, (f"{name}/{code}/{index}", instruction, output, source, target), strict=True
            ):
                columns[column].append(value)
        counts = {"kept": len(kept), **dropped}
        outcomes += [{"corpus": name, "language": code, "outcome": o, "rows": n} for o, n in counts.items()]
    if not columns["id"]:
        raise BadRow(f"corpus {name} has no examples: every row of {data_dir} was dropped ({outcomes})")
    return Corpus(name, Dataset.from_dict(columns), pd.DataFrame(outcomes))


# ------------------------------------------------------------------------------------------------- one corpus


def _read(
    name: str, data_dir: Path, wanted: Sequence[str], switches: Switches
) -> Iterable[tuple[str, list[Text], Counter[str]]]:
    """Yield, for each language in order, its (row, instruction, output) and how many rows were dropped for what."""
    if name == "metamathqa":
        yield "en", metamathqa(data_dir), Counter()
    elif name == "gsm8k" and switches.sft_data == "gsm8k":
        path = require(data_dir / "gsm8k" / "train.jsonl", "fetch gsm8k (openai/gsm8k, config main)")
        yield "en", questions_answers(path), Counter()
    elif name in ("gsm8k", "gsm8kinstruct"):
        solved, dropped = gsm8kinstruct(data_dir, wanted, switches.gsm8kinstruct_language)
        for code in wanted:
            yield code, solved[code], dropped.pop(code, Counter())
        for code, counts in dropped.items():
            yield code, [], counts
    else:
        yield from _translations(name, data_dir, wanted, switches)


def _translations(
    name: str, data_dir: Path, wanted: Sequence[str], switches: Switches
) -> Iterable[tuple[str, list[Text], Counter[str]]]:
    kind = name.split("-", maxsplit=1)[0]
    solutions: dict[str, dict[str, str]] = {}
    if kind == "responses":
        spoken = [*wanted, "en"]
        solved, _ = gsm8kinstruct(data_dir, spoken, switches.gsm8kinstruct_language)
        # A question that was solved twice keeps its first solution.
        solutions = {c: {q.strip(): a.strip() for _, q, a in reversed(solved[c])} for c in spoken}
    for code in wanted:
        dropped: Counter[str] = Counter()
        pairs = flores_pairs(data_dir, code) if kind == "flores" else question_pairs(data_dir, code)
        if kind == "responses":
            pairs = _solution_pairs(pairs, solutions[code], solutions["en"], dropped)
        source, target = _direction(name, code)
        texts = []
        for index, foreign, english in pairs:
            pair = (foreign.strip(), english.strip())
            if not all(pair):
                dropped["blank side"] += 1
                continue
            said, meant = pair if source == code else pair[::-1]
            texts.append((index, translation_instruction(said, source, target, names=switches.language_names), meant))
        yield code, texts, dropped


def _solution_pairs(
    pairs: list[Text], foreign: dict[str, str], english: dict[str, str], dropped: Counter[str]
) -> list[Text]:
    """Replace both questions of each pair by their solutions, found by the question's exact text.

    The authors released no such pairs; this is our construction.
    """
    found = []
    for index, question, translation in pairs:
        if question.strip() not in foreign:
            dropped["no solution in the language"] += 1
        elif translation.strip() not in english:
            dropped["no English solution"] += 1
        else:
            found.append((index, foreign[question.strip()], english[translation.strip()]))
    return found


# ------------------------------------------------------------------------------------------------- languages


def _wanted(name: str, languages: Sequence[str] | None) -> list[str]:
    if name in ("gsm8k", "metamathqa"):
        return ["en"]
    if languages is None:
        chosen = set(CODES)
    else:
        if isinstance(languages, str):
            raise ValueError(f"languages must be a list of codes such as ['sw', 'fr'], not the text {languages!r}")
        chosen = {language(code).code for code in languages}
    order = GSM8KINSTRUCT_ORDER if name == "gsm8kinstruct" else STAGE1_ORDER
    order += tuple(code for code in CODES if code not in (*order, "en"))  # a profile's own come last
    wanted = [code for code in order if code in chosen]
    if not wanted:
        allowed = CODES if name == "gsm8kinstruct" else NON_ENGLISH
        raise ValueError(f"corpus {name} needs at least one of the languages {', '.join(allowed)}")
    return wanted


def _direction(name: str, code: str) -> tuple[str, str]:
    """Languages of an example's instruction and output."""
    if name.endswith("-x-en"):
        return code, "en"
    return ("en", code) if name.endswith("-en-x") else (code, code)


def _limited(texts: list[Text], limit: int | None, seed: int | None) -> list[Text]:
    if limit is None or limit >= len(texts):
        return texts
    if seed is None:
        return texts[:limit]
    return [texts[i] for i in sorted(random.Random(seed).sample(range(len(texts)), limit))]
