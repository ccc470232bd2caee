"""Write the miniature world as a data folder, in the layouts of the real data sets."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from qalign_core import runs
from qalign_core.languages import LANGUAGES
from qalign_core.languages import PAPER_CODES as CODES
from qalign_core.languages import PAPER_NON_ENGLISH as NON_ENGLISH
from qalign_core.miniature.language import distinct_generic, question, render_generic, solution
from qalign_core.miniature.world import Problem, Tree, World

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
    """Write all data sets of the miniature below `folder`, and `manifest.json` (`seed, style, sizes`, and `files`: path
    → sha256), which is returned.

    The benchmarks and the development sets (below `dev/`) are the same for every seed; everything to train on is drawn
    from it. GSM8KInstruct's questions are among the question pairs of every language, so that responses can be joined
    across languages through the pairs; the remaining pairs differ from language to language.

    Args:
        sizes: numbers of rows that differ from `DEFAULT_SIZES`.
        style: of MetaMathQA's solutions, one of `STYLES`; those of GSM8K and GSM8KInstruct are `calibrated`.
    """
    folder, sizes = Path(folder), DEFAULT_SIZES | (sizes or {})
    _write_benchmarks(folder, sizes)
    _write_translations(folder, sizes, seed)
    _write_english(folder, sizes, seed, style)
    _write_generic(folder, sizes, seed)
    manifest = {"seed": seed, "style": style, "sizes": sizes, "files": runs.sha256_tree(folder)}
    runs.write_json(folder / "manifest.json", manifest)
    return manifest


def benchmark_problems(name: str, count: int, *, development: bool = False) -> list[Problem]:
    """The problems of `mgsm` (in-domain) or `msvamp` (out-of-domain), the same for every training seed."""
    split = "development" if development else "test"
    return World(f"benchmark/{name}", split, held_out=name == "msvamp").distinct(count)


def training_problems(seed: int, name: str, count: int) -> list[Problem]:
    """The problems of one training set (`gsm8kinstruct`, `questions/<code>`, `gsm8k`, `metamathqa`)."""
    return World(f"{name}/{seed}").distinct(count)


def _write(path: Path, lines: Iterable[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes("".join(f"{line}\n" for line in lines).encode("utf-8"))


def _json(**row: str) -> str:
    return json.dumps(row, ensure_ascii=False)


def _write_benchmarks(folder: Path, sizes: dict[str, int]) -> None:
    for development, prefix in ((False, ""), (True, "dev/")):
        mgsm = benchmark_problems("mgsm", sizes["dev" if development else "mgsm"], development=development)
        msvamp = benchmark_problems("msvamp", sizes["dev" if development else "msvamp"], development=development)
        for code in CODES:
            _write(folder / f"{prefix}mgsm/mgsm_{code}.tsv", (f"{question(p, code)}\t{p.answer}" for p in mgsm))
            rows = []
            for problem in msvamp:
                fields = {"equation": prefix_equation(problem.tree), "response": f"{problem.answer}.0"}
                rows.append(_json(query=question(problem, "en"), **fields, m_query=question(problem, code)))
            _write(folder / f"{prefix}msvamp/test_{LANGUAGES[code].name}.json", rows)


def prefix_equation(tree: Tree) -> str:
    """The arithmetic of a problem as mSVAMP writes it: `- number0 number1`."""
    if isinstance(tree, int):
        return f"number{tree}"
    operator, left, right = tree
    return f"{operator} {prefix_equation(left)} {prefix_equation(right)}"


def _write_translations(folder: Path, sizes: dict[str, int], seed: int) -> None:
    solved = training_problems(seed, "gsm8kinstruct", sizes["gsm8kinstruct"])
    for code in CODES:
        rows = (_json(question=question(p, code), answer=solution(p, code)) for p in solved)
        _write(folder / f"gsm8kinstruct/{code}/train.txt", rows)
    shared = solved[: sizes["questions"]]
    for code in NON_ENGLISH:
        world, seen = World(f"questions/{code}/{seed}"), {problem.signature for problem in shared}
        pairs = [*shared, *world.distinct(sizes["questions"] - len(shared), seen)]
        random.Random(f"order/{code}/{seed}").shuffle(pairs)
        for side in (code, "en"):
            _write(folder / f"gsm8kinstruct_question/{code}-en/train.{side}", (question(p, side) for p in pairs))


def _write_english(folder: Path, sizes: dict[str, int], seed: int, style: str) -> None:
    problems = training_problems(seed, "gsm8k", sizes["gsm8k"])
    solved = (_json(question=question(p, "en"), answer=f"{solution(p, 'en')}\n#### {p.answer}") for p in problems)
    _write(folder / "gsm8k/train.jsonl", solved)
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
    _write(folder / "metamathqa/MetaMathQA-395K.json", ["[", ",\n".join(rows), "]"])


def _write_generic(folder: Path, sizes: dict[str, int], seed: int) -> None:
    sentences = distinct_generic(random.Random(f"flores/{seed}"), sizes["flores"])
    for code in CODES:
        _write(folder / f"flores/dev/{code}.txt", (render_generic(sentence, code) for sentence in sentences))
