"""Rows of a source → examples of a corpus, in the authors' order and with the authors' quirks as named switches; and
corpora derived from others."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
from datasets import Dataset

from qalign_core import runs
from qalign_core.languages import CODES, LANGUAGES, NON_ENGLISH, STAGE1_ORDER, language
from qalign_core.params import BASE_TEXT, KNOWN_CORPORA, CorpusChoice, Profile
from qalign_core.prompts import translation_instruction, with_input, writing_instruction
from qalign_core.runs import BadRow, Run, check_text, read_lines, read_rows, require
from qalign_core.sources import MATHOCTOPUS_FILE

COLUMNS = ("id", "instruction", "output", "source_language", "target_language")
# Fields of other tools' files that belong to the prompt: a row that trains without them is not that row.
PROMPT_FIELDS = (
    *("input", "inputs", "context", "passage", "system", "system_prompt", "prompt", "question", "query", "problem"),
    *("instances", "history", "messages", "turns", "conversations", "conversation", "dialogue"),
)

# Order in which the authors look for a language's name in a prompt, and in which they concatenate the ten files.
# Source: NJUNLP/QAlign data/gsm8kinstruct/extract_data.py:7, gsm8kinstruct.py.
GSM8KINSTRUCT_ORDER = ("sw", "en", "zh", "bn", "de", "es", "fr", "ja", "ru", "th")

# How the three rows begin that the authors' language detection put into the English file: question, solution, language.
MISPLACED = (
    ("Henry scored 50 points on his Geography test", "La suma de sus puntajes", "es"),
    ("Henry scored 50 points on his Geography test", "La somme de ses scores", "fr"),
    ("Melody needs to read 20 pages for her English class", "Elle lira 20 pages", "fr"),
)

Row = dict[str, Any]  # with COLUMNS
Pair = tuple[int | str, str, str]  # row in the file (0-based), text or question, its translation or solution
Dropped = Counter[tuple[str, str]]  # (language, why) → rows
TargetTokens = Callable[[list[str], list[str]], list[int]]  # instructions, outputs → target tokens of each example


class Corpus(NamedTuple):
    """Examples, and what became of every row that was read: `corpus, language, outcome, rows`."""

    dataset: Dataset
    report: pd.DataFrame


def data_sets_of(name: str, *, sft_data: str = "paper") -> tuple[str, ...]:
    """The data sets a corpus is made of; ValueError for an unknown corpus, naming the known ones."""
    if name not in KNOWN_CORPORA:
        raise ValueError(f"unknown corpus {name!r}; known corpora: {', '.join(KNOWN_CORPORA)}")
    if name == "gsm8k" and sft_data == "paper":  # GSM8KInstruct's English file
        return ("gsm8kinstruct",)
    kind = name.split("-", maxsplit=1)[0]
    return ("questions", "gsm8kinstruct") if kind == "responses" else (kind,)


def build_corpus(
    name: str,
    data_dir: str | Path,
    languages: Sequence[str] | None = None,
    *,
    language_names: str = "paper",
    gsm8kinstruct_language: str = "paper",
    sft_data: str = "paper",
    limit: int | None = None,
) -> Corpus:
    """The examples of a corpus with an account of the rows that were read.

    Args:
        name: one of `params.KNOWN_CORPORA`.
        data_dir: a folder of data, laid out as `sources` describes.
        languages: codes in any order; the examples keep the authors' (`STAGE1_ORDER`, `GSM8KINSTRUCT_ORDER`). Those
            other than English of a translation corpus; exactly these in `gsm8kinstruct`; `gsm8k` and `metamathqa` are
            English. None: all of the paper's.
        language_names: `paper` calls Swahili `Swahili (macrolanguage)` in the translation prompt; `plain` does not.
        gsm8kinstruct_language: `paper` finds a row's language by the first language name anywhere in its prompt,
            which puts three rows into the wrong language; `fixed` looks at the template before the question only.
        sft_data: `paper` trains SFT on GSM8KInstruct's English rows (7,476); `gsm8k` on GSM8K itself (7,473).
        limit: keep at most the first so many examples per language.

    Raises:
        ValueError: for an unknown name, language or switch, or a row that cannot be used (`BadRow`: file and line).
        FileNotFoundError: for an absent file, with the file and how to get it.

    Source: NJUNLP/QAlign data/gsmtrans/gsmtrans.py:27, data/gsm8kinstruct/extract_data.py, training_scripts/.
    """
    data_sets_of(name)
    for switch, value, allowed in (
        ("language_names", language_names, ("paper", "plain")),
        ("gsm8kinstruct_language", gsm8kinstruct_language, ("paper", "fixed")),
        ("sft_data", sft_data, ("paper", "gsm8k")),
    ):
        if value not in allowed:
            raise ValueError(f"{switch} must be {' or '.join(map(repr, allowed))}, not {value!r}")
    folder, wanted, dropped = Path(data_dir), _wanted(name, languages), Dropped()
    by_language: Iterable[tuple[str, list[Pair]]]
    if name == "metamathqa":  # unstripped. Source: NJUNLP/QAlign data/metamath/metamath.py
        path = require(folder / "metamathqa" / "MetaMathQA-395K.json", "fetch metamathqa (meta-math/MetaMathQA)")
        rows = read_rows(path, ("query", "response"))
        by_language = [("en", [(i, row["query"], row["response"]) for i, row in enumerate(rows)])]
    elif name == "gsm8k" and sft_data == "gsm8k":
        path = require(folder / "gsm8k" / "train.jsonl", "fetch gsm8k (openai/gsm8k, config main)")
        by_language = [("en", _questions_answers(path))]
    elif name in ("gsm8k", "gsm8kinstruct"):
        solved = _gsm8kinstruct(folder, wanted, gsm8kinstruct_language, dropped)
        by_language = [(code, solved[code]) for code in wanted]
    else:
        by_language = _translations(name, folder, wanted, language_names, gsm8kinstruct_language, dropped)
    examples: list[Row] = []
    for code, pairs in by_language:
        source, target = ("en" if name.endswith("-en-x") else code), ("en" if name.endswith("-x-en") else code)
        for index, instruction, output in pairs[:limit]:
            values = (f"{name}/{code}/{index}", instruction, output, source, target)
            examples.append(dict(zip(COLUMNS, values, strict=True)))
        dropped[code, "beyond the limit"] += len(pairs) - len(pairs[:limit])
    return _corpus(name, examples, dropped)


def _wanted(name: str, languages: Sequence[str] | None) -> list[str]:
    """The languages of a corpus in the authors' order; a profile's own come last."""
    if name in ("gsm8k", "metamathqa"):
        return ["en"]
    if isinstance(languages, str):
        raise ValueError(f"languages must be a list of codes such as ['sw', 'fr'], not the text {languages!r}")
    chosen = set(CODES) if languages is None else {language(code).code for code in languages}
    order = GSM8KINSTRUCT_ORDER if name == "gsm8kinstruct" else STAGE1_ORDER
    order += tuple(code for code in CODES if code not in (*order, "en"))
    wanted = [code for code in order if code in chosen]
    if not wanted:
        allowed = CODES if name == "gsm8kinstruct" else NON_ENGLISH
        raise ValueError(f"corpus {name} needs at least one of the languages {', '.join(allowed)}")
    return wanted


def _corpus(name: str, rows: list[Row], dropped: Dropped) -> Corpus:
    """Rows with their report; BadRow when no row is left."""
    if not rows:
        why = f"; dropped: {dict(+dropped)}" if +dropped else ""
        raise BadRow(f"corpus {name} has no examples left; see data.corpora.{name} in the profile{why}")
    kept = Counter((foreign_language(row), "kept") for row in rows)
    report = [
        {"corpus": name, "language": code, "outcome": outcome, "rows": count}
        for (code, outcome), count in (kept + dropped).items()
    ]
    return Corpus(Dataset.from_list([{c: row[c] for c in COLUMNS} for row in rows]), pd.DataFrame(report))


def foreign_language(row: Row) -> str:
    """The language an example counts for: the one that is not English, if there is one."""
    return row["target_language"] if row["source_language"] == "en" else row["source_language"]


# ------------------------------------------------------------------------------------------------- translations


def _translations(
    name: str, data_dir: Path, wanted: Sequence[str], names: str, mode: str, dropped: Dropped
) -> Iterator[tuple[str, list[Pair]]]:
    """Language → (row, instruction, output) of a translation corpus."""
    kind = name.split("-", maxsplit=1)[0]
    solutions: dict[str, dict[str, str]] = {}
    if kind == "responses":
        found = _gsm8kinstruct(data_dir, [*wanted, "en"], mode, Dropped())
        # A question that was solved twice keeps its first solution.
        solutions = {c: {q.strip(): a.strip() for _, q, a in reversed(found[c])} for c in (*wanted, "en")}
    for code in wanted:
        texts: list[Pair] = []
        for index, *pair in _flores(data_dir, code) if kind == "flores" else _question_pairs(data_dir, code):
            foreign, english = (text.strip() for text in pair)
            if kind == "responses":  # matched by their questions; the authors released no such pairs: ours
                if foreign not in solutions[code] or english not in solutions["en"]:
                    solved = foreign in solutions[code]
                    dropped[code, "no English solution" if solved else "no solution in the language"] += 1
                    continue
                foreign, english = solutions[code][foreign], solutions["en"][english]
            if not foreign or not english:
                dropped[code, "blank side"] += 1
            elif name.endswith("-x-en"):
                texts.append((index, translation_instruction(foreign, code, "en", names=names), english))
            else:
                texts.append((index, translation_instruction(english, "en", code, names=names), foreign))
        yield code, texts


def _question_pairs(data_dir: Path, code: str) -> list[Pair]:
    """Stage 1's questions in a language and in English, parallel by line."""
    folder = data_dir / "gsm8kinstruct_question"
    there = ", ".join(path.name.removesuffix("-en") for path in sorted(folder.glob("*-en"))) or "none"
    other = f"or leave {code!r} out of the languages: there are {there} in this folder"
    remedy = f"fetch the question pairs (source `repository`), {other}"
    return _parallel(*(require(folder / f"{code}-en" / f"train.{side}", remedy) for side in (code, "en")))


def _flores(data_dir: Path, code: str) -> list[Pair]:
    """FLORES dev sentences in a language and in English, parallel by row; in any of the layouts FLORES comes in."""
    paths: list[Path] = []
    for side in (code, "en"):
        folder, flores_code = data_dir / "flores" / "dev", language(side).flores
        names = (f"{side}.txt", f"{flores_code}.parquet", f"{flores_code}.jsonl")
        found = [folder / name for name in names if (folder / name).is_file()]
        if not found:
            lacks = f"no FLORES sentences in {language(side).name}: {folder} holds none of {', '.join(names)}"
            remedy = "fetch flores (source `hub`; openlanguagedata/flores_plus asks you to accept its terms first)"
            raise FileNotFoundError(f"{lacks}; {remedy}")
        paths.append(found[0])
    return _parallel(*paths)


def _parallel(*paths: Path) -> list[Pair]:
    """Row, text and English text of two files."""
    foreign, english = (
        [row["text"] for row in read_rows(path, ("text",))]
        if path.suffix in (".parquet", ".jsonl")
        else read_lines(path)
        for path in paths
    )
    if len(foreign) != len(english):
        why = "they are parallel by row, so one of them is cut off or edited: fetch both again"
        raise BadRow(f"{paths[0]} has {len(foreign)} rows but {paths[1]} has {len(english)}; {why}")
    return [(index, *pair) for index, pair in enumerate(zip(foreign, english, strict=True))]


# ------------------------------------------------------------------------------------------------- solved problems


def _questions_answers(path: Path) -> list[Pair]:
    """A JSON-lines file of `question` and `answer`, unstripped."""
    return [(i, row["question"], row["answer"]) for i, row in enumerate(read_rows(path, ("question", "answer")))]


def _gsm8kinstruct(data_dir: Path, wanted: Sequence[str], mode: str, dropped: Dropped) -> dict[str, list[Pair]]:
    """Solved questions by language, from the authors' files by language or MathOctopus's single file.

    "paper" prefers the authors' files, the outcome of their language detection; "fixed" MathOctopus's, since only
    its prompts name the language beyond doubt.
    """
    needed = list(dict.fromkeys([*wanted, "en"])) if mode == "fixed" else list(wanted)
    files = {code: data_dir / "gsm8kinstruct" / code / "train.txt" for code in needed}
    absent = [path for path in files.values() if not path.is_file()]
    single = data_dir / MATHOCTOPUS_FILE
    if single.is_file() and (absent or mode == "fixed"):
        found = _by_prompt(single, mode, dropped)
        for code in (code for code in needed if code not in GSM8KINSTRUCT_ORDER):  # a language of the profile's own
            found[code] = _questions_answers(require(files[code], f"{single.name} has no {language(code).name}"))
        return found
    if absent:
        raise FileNotFoundError(
            f"{absent[0]} does not exist" + (f" (and {len(absent) - 1} more languages)" if absent[1:] else "") + f", "
            f"nor does {single}; fetch gsm8kinstruct (source `hub` or `repository`) or leave these languages out"
        )
    solved = {code: _questions_answers(path) for code, path in files.items()}
    for start, begins, code in MISPLACED if mode == "fixed" else ():
        for text in list(solved["en"]):
            if text[1].startswith(start) and text[2].startswith(begins):
                solved["en"].remove(text)
                solved.setdefault(code, []).append((f"en:{text[0]}", text[1], text[2]))
    return solved


def _by_prompt(path: Path, mode: str, dropped: Dropped) -> dict[str, list[Pair]]:
    """MathOctopus's rows by language. Source: NJUNLP/QAlign data/gsm8kinstruct/extract_data.py."""
    solved: dict[str, list[Pair]] = {code: [] for code in CODES}
    for index, row in enumerate(read_rows(path, ("prompt", "chosen"))):
        prompt = row["prompt"].strip()
        searched = prompt if mode == "paper" else prompt.split("Instruction:\n", maxsplit=1)[0]
        code = next((c for c in GSM8KINSTRUCT_ORDER if LANGUAGES[c].name in searched), None)
        if code is None:
            dropped["", "no language named in the prompt"] += 1
            continue
        question = prompt.split("Instruction:\n")[-1].split("\n\n")[0].strip()
        solved[code].append((index, question, row["chosen"].strip()))
    return solved


# ------------------------------------------------------------------------------------------------- derived corpora


def read_file(name: str, path: str | Path, ignored: Sequence[str] = ()) -> list[Row]:
    """The user's own file as examples: rows of `instruction, output`, perhaps `input`, `id` and `language` or
    `source_language, target_language` (codes; English where they are absent).

    Raises:
        BadRow: for a broken row, a blank text, an unknown language, or another field of a prompt that is not `ignored`.
    """
    path, rows = Path(path), []
    if path.exists() and not path.is_file():
        kind = "a folder" if path.is_dir() else "not a regular file"
        raise BadRow(f"data.corpora.{name}.path: {path} is {kind}; name a file of JSON lines: instruction, output")
    for number, row in enumerate(read_rows(path, ("instruction", "output")), start=1):
        where = f"corpus {name}: {path}: line {number}"
        for field in ("instruction", "output"):
            if not row[field].strip():
                raise BadRow(f"{where}: field {field!r} is blank; fill it in or delete the line")
        given = {key: row[key] for key in row if key.lower() in PROMPT_FIELDS and row[key] and key not in ignored}
        instruction = with_input(row["instruction"], str(given.pop("input", "")))
        if lost := [field for field, text in given.items() if str(text).strip() not in instruction]:
            advice = f"join it to `instruction`, or say data.corpora.{name}.ignore_fields: [{', '.join(lost)}]"
            raise BadRow(f"{where}: field {lost[0]!r} has text that no prompt here would hold; {advice}")
        both = row.get("language") or "en"
        languages = {f"{side}_language": row.get(f"{side}_language", both) for side in ("source", "target")}
        for field, code in languages.items():
            try:
                language(str(code))
            except ValueError as error:
                raise BadRow(f"{where}: {field if field in row else 'language'}: {error}") from None
        known = row.get("id", f"{name}/{number - 1}")
        if not isinstance(known, str | int | float):
            raise BadRow(f"{where}: field 'id' must be text or a number, or be left out")
        check_text(str(known), f"{where}: field 'id'")
        check_text(instruction, f"{where}: field 'input'")
        rows.append({"id": str(known), "instruction": instruction, "output": row["output"], **languages})
    return rows


def derive(
    name: str, rows: list[Row], choice: CorpusChoice, *, seed: int, names: str = "paper", target_tokens: TargetTokens
) -> Corpus:
    """A corpus made of the rows of others: languages, share, limit and pairs are applied in this order.

    Args:
        rows: of the corpora it is made of, one after the other; they keep their ids.
        seed: of the share and of the shuffle. A smaller share is a part of a larger one of the same corpus.
        names: how the translation instruction calls the languages (`data.language_names`).

    Source: ours; the paper trains on whole corpora only.
    """
    dropped, excluded = Dropped(), choice.without or []

    def keep(kept: list[Row], outcome: str) -> list[Row]:
        before, after = (Counter(map(foreign_language, part)) for part in (rows, kept))
        dropped.update((code, outcome) for code in (before - after).elements())
        return kept

    chosen = choice.languages or {foreign_language(row) for row in rows}
    rows = keep(
        [r for r in rows if foreign_language(r) in chosen and foreign_language(r) not in excluded], "language left out"
    )
    share, limit = choice.share, choice.limit
    if share is not None:
        rows = keep(_by_direction(rows, lambda part, key: _sampled(part, share, f"{seed}/{key}")), "not sampled")
    if limit is not None:
        rows = keep(_by_direction(rows, lambda part, _: part[:limit]), "beyond the limit")
    if choice.pairs is not None:
        for row in rows:
            if (row["source_language"] == "en") == (row["target_language"] == "en"):
                sides = f"{row['id']} is {row['source_language']} to {row['target_language']}"
                remedy = "derive it from a corpus such as questions-x-en"
                raise BadRow(f"corpus {name}: pairs needs translations into or from English, but {sides}; {remedy}")
    if choice.pairs == "shuffled":
        rows = _by_direction(rows, lambda part, key: _shuffled(name, part, f"{seed}/{key}"))
    elif choice.pairs == "source-only":
        rows = keep(_source_only(rows, names, target_tokens), "beyond the target tokens")
    return _corpus(name, rows, dropped)


def _by_direction(rows: list[Row], change: Callable[[list[Row], str], list[Row]]) -> list[Row]:
    """Change the rows of each pair of languages by themselves; the order of the pairs is that of their first rows."""
    parts: dict[str, list[Row]] = {}
    for row in rows:
        parts.setdefault(f"{row['source_language']}-{row['target_language']}", []).append(row)
    return [row for key, part in parts.items() for row in change(part, key)]


def _sampled(rows: list[Row], share: float, seed: str) -> list[Row]:
    order = list(range(len(rows)))
    random.Random(seed).shuffle(order)
    return [rows[i] for i in sorted(order[: max(1, round(share * len(rows)))])]


def _shuffled(name: str, rows: list[Row], seed: str) -> list[Row]:
    """Every instruction with another row's output: the same texts and tokens, but no pair says the same thing."""
    outputs = sorted({row["output"] for row in rows})
    random.Random(seed).shuffle(outputs)
    rank = {output: i for i, output in enumerate(outputs)}
    order = sorted(range(len(rows)), key=lambda i: rank[rows[i]["output"]])  # rows of one output side by side
    step = max(Counter(row["output"] for row in rows).values())  # beyond all rows of the commonest output
    if 2 * step > len(rows):
        raise BadRow(f"corpus {name}: too few different outputs ({len(outputs)} in {len(rows)} rows) to shuffle them")
    other = {i: rows[order[(place + step) % len(rows)]] for place, i in enumerate(order)}
    return [{**row, "id": f"{row['id']}~{other[i]['id']}", "output": other[i]["output"]} for i, row in enumerate(rows)]


def _source_only(rows: list[Row], names: str, target_tokens: TargetTokens) -> list[Row]:
    """The texts that are not English as targets of their own, with nothing to translate.

    A language's texts are taken in order, and again, until they have as many target tokens as its translations had; the
    last is whichever fits best, and the next language makes up for what is left over.
    """
    missing = 0  # target tokens that the languages so far are short of

    def alone(row: Row) -> Row:
        code, source, target = foreign_language(row), row["source_language"], row["target_language"]
        head = translation_instruction("", source, target, names=names)
        text = row["output"] if source == "en" else row["instruction"].removeprefix(head)
        changed = (row["id"], writing_instruction(code, names=names), text, code, code)
        return dict(zip(COLUMNS, changed, strict=True))

    def fill(part: list[Row], key: str) -> list[Row]:
        nonlocal missing
        texts = [alone(row) for row in part]
        missing += sum(target_tokens([r["instruction"] for r in part], [r["output"] for r in part]))
        lengths = target_tokens([r["instruction"] for r in texts], [r["output"] for r in texts])
        if not all(lengths):
            raise BadRow(f"{texts[lengths.index(0)]['id']}: a text without any target token ({key})")
        filled: list[Row] = []
        while missing >= lengths[len(filled) % len(texts)]:
            missing -= lengths[len(filled) % len(texts)]
            filled.append(texts[len(filled) % len(texts)])
        last = min(range(len(texts)), key=lambda i: abs(missing - lengths[i]))  # the one that fits best
        if abs(missing - lengths[last]) < missing:
            missing -= lengths[last]
            filled.append(texts[last])
        return filled

    return _by_direction(rows, fill)


# ------------------------------------------------------------------------------------------------- in a run


def corpus_seed(profile: Profile, name: str, seed: int) -> int | None:
    """The seed a corpus was generated, sampled or shuffled with; None for one that is the same for every seed."""
    data = profile.data
    choices = [data.choice(part) for part in data.ancestry(name)]
    drawn = name == BASE_TEXT or any(choice.share is not None or choice.pairs == "shuffled" for choice in choices)
    known = [] if drawn else [root for root in data.roots(name) if data.choice(root).path is None]
    needed = {data_set for root in known for data_set in data_sets_of(root, sft_data=data.sft_data)}
    return seed if drawn or any(data.source(data_set) == "miniature" for data_set in needed) else None


def read_corpus(profile: Profile, run: Run, name: str) -> pd.DataFrame:
    """A corpus as it was written (of the first seed): `id, instruction, output, source_language, target_language`."""
    drawn = corpus_seed(profile, name, profile.run.seeds[0])
    return pd.DataFrame(runs.read_json_lines(runs.prepared(run.corpus(name, drawn))))
