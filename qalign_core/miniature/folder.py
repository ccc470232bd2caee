"""Write the miniature world as a data folder, in the layouts of the real data sets."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from qalign_core.languages import LANGUAGES
from qalign_core.languages import PAPER_CODES as CODES
from qalign_core.languages import PAPER_NON_ENGLISH as NON_ENGLISH
from qalign_core.miniature.language import STYLES, distinct_generic, question, render_generic, solution
from qalign_core.miniature.world import Problem, Tree, World

GENERATOR_VERSION = 2
REPHRASED_SHARE = 0.2  # of MetaMathQA's rows: the same problem in other words, as in the real data set
DEFAULT_SIZES: dict[str, int] = {
    "mgsm": 250,  # questions
    "msvamp": 1000,  # questions
    "dev": 100,  # questions of each development set
    "questions": 1000,  # pairs a language
    "gsm8kinstruct": 600,  # questions a language, the same ones in all ten
    "gsm8k": 600,  # problems
    "metamathqa": 5000,  # problems
    "flores": 400,  # sentences a language
}


def write_world(
    folder: str | Path, *, seed: int = 1, sizes: dict[str, int] | None = None, style: str = "restating"
) -> dict:
    """Write all data sets of the miniature below `folder` and return the manifest, also written as `manifest.json`.

    The benchmarks and the development sets (below `dev/`) are the same for every seed; everything to train on is drawn
    from it. GSM8KInstruct's questions are among the question pairs of every language, so that responses can be joined
    across languages through the pairs; the remaining pairs differ from language to language.

    Args:
        folder: made if absent.
        seed: of the training data.
        sizes: numbers of rows that differ from `DEFAULT_SIZES`.
        style: of MetaMathQA's solutions, one of `render.STYLES`; those of GSM8K and GSM8KInstruct are `calibrated`.

    Returns:
        `{"generator", "seed", "style", "sizes", "rows": {path: rows}, "files": {path: sha256}}`.

    Raises:
        ValueError: for an unknown size or style, or a size below 1.
    """
    sizes = _sizes(sizes)
    if style not in STYLES:
        raise ValueError(f"unknown solution style {style!r}; known styles: {', '.join(STYLES)}")
    written = _Folder(Path(folder))
    _write_benchmarks(written, sizes)
    _write_translations(written, sizes, seed)
    _write_english(written, sizes, seed, style)
    _write_generic(written, sizes, seed)
    manifest = {
        "generator": GENERATOR_VERSION, "seed": seed, "style": style, "sizes": sizes,
        "rows": written.rows, "files": written.files,
    }  # fmt: skip
    text = json.dumps(manifest, ensure_ascii=False, indent=1, sort_keys=True) + "\n"
    (Path(folder) / "manifest.json").write_text(text, encoding="utf-8")
    return manifest


def benchmark_problems(name: str, count: int, *, development: bool = False) -> list[Problem]:
    """The problems of `mgsm` (in-domain) or `msvamp` (out-of-domain), the same for every training seed."""
    split = "development" if development else "test"
    return World(f"benchmark/{name}", split, held_out=name == "msvamp").distinct(count)


def training_problems(seed: int, name: str, count: int) -> list[Problem]:
    """The problems of one training set (`gsm8kinstruct`, `questions/<code>`, `gsm8k`, `metamathqa`)."""
    return World(f"{name}/{seed}").distinct(count)


class _Folder:
    """Writes text files and remembers their rows and checksums."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.rows: dict[str, int] = {}
        self.files: dict[str, str] = {}

    def write(self, path: str, lines: Iterable[str], *, array: bool = False) -> None:
        lines = list(lines)
        text = "[\n" + ",\n".join(lines) + "\n]\n" if array else "".join(f"{line}\n" for line in lines)
        content = text.encode("utf-8")
        target = self.root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
        self.rows[path] = len(lines)
        self.files[path] = hashlib.sha256(content).hexdigest()


def _sizes(sizes: dict[str, int] | None) -> dict[str, int]:
    for name, size in (sizes or {}).items():
        if name not in DEFAULT_SIZES:
            raise ValueError(f"unknown size {name!r} of the miniature; known sizes: {', '.join(DEFAULT_SIZES)}")
        if not isinstance(size, int) or size < 1:
            raise ValueError(f"the miniature's size {name} must be a whole number of at least 1, not {size!r}")
    return {**DEFAULT_SIZES, **(sizes or {})}


def _json(**row: str) -> str:
    return json.dumps(row, ensure_ascii=False)


def _write_benchmarks(written: _Folder, sizes: dict[str, int]) -> None:
    for development, prefix in ((False, ""), (True, "dev/")):
        mgsm = benchmark_problems("mgsm", sizes["dev" if development else "mgsm"], development=development)
        msvamp = benchmark_problems("msvamp", sizes["dev" if development else "msvamp"], development=development)
        for code in CODES:
            written.write(f"{prefix}mgsm/mgsm_{code}.tsv", (f"{question(p, code)}\t{p.answer}" for p in mgsm))
            rows = []
            for problem in msvamp:
                fields = {"equation": prefix_equation(problem.tree), "response": f"{problem.answer}.0"}
                rows.append(_json(query=question(problem, "en"), **fields, m_query=question(problem, code)))
            written.write(f"{prefix}msvamp/test_{LANGUAGES[code].name}.json", rows)


def prefix_equation(tree: Tree) -> str:
    """The arithmetic of a problem as mSVAMP writes it: `- number0 number1`."""
    if isinstance(tree, int):
        return f"number{tree}"
    operator, left, right = tree
    return f"{operator} {prefix_equation(left)} {prefix_equation(right)}"


def _write_translations(written: _Folder, sizes: dict[str, int], seed: int) -> None:
    solved = training_problems(seed, "gsm8kinstruct", sizes["gsm8kinstruct"])
    for code in CODES:
        rows = (_json(question=question(p, code), answer=solution(p, code)) for p in solved)
        written.write(f"gsm8kinstruct/{code}/train.txt", rows)
    shared = solved[: sizes["questions"]]
    for code in NON_ENGLISH:
        world, seen = World(f"questions/{code}/{seed}"), {problem.signature for problem in shared}
        pairs = [*shared, *world.distinct(sizes["questions"] - len(shared), seen)]
        random.Random(f"order/{code}/{seed}").shuffle(pairs)
        pair = f"gsm8kinstruct_question/{code}-en"
        written.write(f"{pair}/train.{code}", (question(p, code) for p in pairs))
        written.write(f"{pair}/train.en", (question(p, "en") for p in pairs))


def _write_english(written: _Folder, sizes: dict[str, int], seed: int, style: str) -> None:
    problems = training_problems(seed, "gsm8k", sizes["gsm8k"])
    solved = (_json(question=question(p, "en"), answer=f"{solution(p, 'en')}\n#### {p.answer}") for p in problems)
    written.write("gsm8k/train.jsonl", solved)
    rows = []
    rephrased = int(sizes["metamathqa"] * REPHRASED_SHARE)
    problems = training_problems(seed, "metamathqa", sizes["metamathqa"] - rephrased)
    for place, problem in enumerate(problems):
        asked = question(problem, "en")
        fields = {"response": solution(problem, "en", style), "original_question": asked}
        rows.append(_json(query=asked, type="MINI_AnsAug", **fields))
        if place < rephrased:
            other = replace(problem, wordings=tuple(1 - wording for wording in problem.wordings))
            rows.append(_json(query=question(other, "en"), type="MINI_Rephrased", **fields))
    written.write("metamathqa/MetaMathQA-395K.json", rows, array=True)


def _write_generic(written: _Folder, sizes: dict[str, int], seed: int) -> None:
    sentences = distinct_generic(random.Random(f"flores/{seed}"), sizes["flores"])
    for code in CODES:
        written.write(f"flores/dev/{code}.txt", (render_generic(sentence, code) for sentence in sentences))
