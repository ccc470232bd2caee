"""The files of a data set → its rows, in file order: question pairs, FLORES, MetaMathQA, GSM8K, GSM8KInstruct."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from qalign_core.data.rows import BadRow, read_json_array, read_json_lines, read_lines, read_parquet, require
from qalign_core.languages import CODES, LANGUAGES, language

# Order in which the authors look for a language's name in a prompt, and in which they concatenate the ten files.
# Source: NJUNLP/QAlign data/gsm8kinstruct/extract_data.py:7, gsm8kinstruct.py.
GSM8KINSTRUCT_ORDER = ("sw", "en", "zh", "bn", "de", "es", "fr", "ja", "ru", "th")
MATHOCTOPUS_FILE = "gsm8kinstruct/MGSM8KInstruct_Parallel.json"

# How the three rows begin that the authors' language detection put into the English file: question, solution, language.
MISPLACED = (
    ("Henry scored 50 points on his Geography test", "La suma de sus puntajes", "es"),
    ("Henry scored 50 points on his Geography test", "La somme de ses scores", "fr"),
    ("Melody needs to read 20 pages for her English class", "Elle lira 20 pages", "fr"),
)

Text = tuple[int | str, str, str]  # row in the file (0-based), text or question, its translation or solution


def question_pairs(data_dir: Path, code: str) -> list[Text]:
    """Stage 1's questions in a language and in English, parallel by line: (row, question, English question).

    Raises:
        FileNotFoundError, BadRow: for an absent file, or sides of different lengths.
    """
    folder = data_dir / "gsm8kinstruct_question" / f"{code}-en"
    remedy = (
        f"fetch the question pairs (source `repository`), or leave {code!r} out of the languages: "
        f"{_available(data_dir)} in this folder"
    )
    foreign, english = (require(folder / f"train.{side}", remedy) for side in (code, "en"))
    return _parallel(foreign, english, read_lines(foreign), read_lines(english))


def _available(data_dir: Path) -> str:
    found = [p.name.removesuffix("-en") for p in sorted((data_dir / "gsm8kinstruct_question").glob("*-en"))]
    return ("there are " + ", ".join(found)) if found else "there are none"


def flores_pairs(data_dir: Path, code: str) -> list[Text]:
    """FLORES dev sentences in a language and in English, parallel by row: (row, sentence, English sentence).

    Raises:
        FileNotFoundError, BadRow: for an absent file, or sides of different lengths.
    """
    found = []
    for side in (code, "en"):
        folder, flores_code = data_dir / "flores" / "dev", language(side).flores
        readers = {
            folder / f"{side}.txt": read_lines,
            folder / f"{flores_code}.parquet": lambda p: [row["text"] for row in read_parquet(p, ("text",))],
            folder / f"{flores_code}.jsonl": lambda p: [row["text"] for row in read_json_lines(p, ("text",))],
        }
        path = next((p for p in readers if p.is_file()), None)
        if path is None:
            names = ", ".join(p.name for p in readers)
            raise FileNotFoundError(
                f"no FLORES sentences in {language(side).name}: {folder} holds none of {names}; fetch flores "
                f"(source `hub`; openlanguagedata/flores_plus asks you to accept its terms first)"
            )
        found.append((path, readers[path](path)))
    (foreign_path, foreign), (english_path, english) = found
    return _parallel(foreign_path, english_path, foreign, english)


def _parallel(foreign_path: Path, english_path: Path, foreign: list[str], english: list[str]) -> list[Text]:
    if len(foreign) != len(english):
        raise BadRow(
            f"{foreign_path} has {len(foreign)} rows but {english_path} has {len(english)}; they are parallel by row, "
            f"so one of them is cut off or edited: fetch both again"
        )
    return [(index, *pair) for index, pair in enumerate(zip(foreign, english, strict=True))]


def metamathqa(data_dir: Path) -> list[Text]:
    """MetaMathQA's rows as (row, `query`, `response`), unstripped.

    Source: NJUNLP/QAlign data/metamath/metamath.py.
    """
    path = require(data_dir / "metamathqa" / "MetaMathQA-395K.json", "fetch metamathqa (meta-math/MetaMathQA)")
    found = read_json_array(path, ("query", "response"))
    return [(index, row["query"], row["response"]) for index, row in enumerate(found)]


def questions_answers(path: Path) -> list[Text]:
    """A JSON-lines file of `question` and `answer` as (row, question, answer), unstripped."""
    found = read_json_lines(path, ("question", "answer"))
    return [(index, row["question"], row["answer"]) for index, row in enumerate(found)]


def gsm8kinstruct(
    data_dir: Path, wanted: Sequence[str], mode: str
) -> tuple[dict[str, list[Text]], dict[str, Counter[str]]]:
    """Solved questions by language, from the authors' files by language or MathOctopus's single file.

    With `mode` "paper" the authors' files come first: they already are the outcome of their language detection. With
    "fixed" MathOctopus's comes first, since only its prompts name the language beyond doubt.
    """
    needed = list(dict.fromkeys([*wanted, "en"])) if mode == "fixed" else list(wanted)
    files = {code: data_dir / "gsm8kinstruct" / code / "train.txt" for code in needed}
    absent = [path for path in files.values() if not path.is_file()]
    single = data_dir / MATHOCTOPUS_FILE
    if single.is_file() and (absent or mode == "fixed"):
        found, unnamed = _by_prompt(single, mode)
        for code in (code for code in needed if code not in GSM8KINSTRUCT_ORDER):  # a language of the profile's own
            found[code] = questions_answers(require(files[code], f"{single.name} has no {language(code).name}"))
        return found, unnamed
    if absent:
        raise FileNotFoundError(
            f"{absent[0]} does not exist" + (f" (and {len(absent) - 1} more languages)" if absent[1:] else "") + f", "
            f"nor does {single}; fetch gsm8kinstruct (source `hub` or `repository`) or leave these languages out"
        )
    solved = {code: questions_answers(path) for code, path in files.items()}
    return (_replaced(solved) if mode == "fixed" else solved), {}


def _by_prompt(path: Path, mode: str) -> tuple[dict[str, list[Text]], dict[str, Counter[str]]]:
    """Assign each row of MathOctopus's file to a language.

    Source: NJUNLP/QAlign data/gsm8kinstruct/extract_data.py.
    """
    solved: dict[str, list[Text]] = {code: [] for code in CODES}
    unnamed = 0
    for index, row in enumerate(read_json_lines(path, ("prompt", "chosen"))):
        prompt = row["prompt"].strip()
        searched = prompt if mode == "paper" else prompt.split("Instruction:\n", maxsplit=1)[0]
        code = next((c for c in GSM8KINSTRUCT_ORDER if LANGUAGES[c].name in searched), None)
        if code is None:
            unnamed += 1
            continue
        question = prompt.split("Instruction:\n")[-1].split("\n\n")[0].strip()
        solved[code].append((index, question, row["chosen"].strip()))
    return solved, {"": Counter({"no language named in the prompt": unnamed})} if unnamed else {}


def _replaced(solved: dict[str, list[Text]]) -> dict[str, list[Text]]:
    """Move the three misplaced rows of the authors' English file behind the rows of their own language."""
    moved: dict[str, list[Text]] = {code: list(texts) for code, texts in solved.items()}
    for start, begins, code in MISPLACED:
        for text in solved["en"]:
            if text[1].startswith(start) and text[2].startswith(begins):
                moved["en"].remove(text)
                moved.setdefault(code, []).append((f"en:{text[0]}", text[1], text[2]))
    return moved
