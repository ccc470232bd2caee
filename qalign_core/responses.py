"""Beyond accuracy: how responses end, in which language, how the wrong ones are wrong, what rounding changes."""

from __future__ import annotations

import ast
import math
import operator
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import huggingface_hub
import pandas as pd
import psutil

from qalign_core import audit, hub, plan, runs
from qalign_core.params import Profile
from qalign_core.runs import Run
from qalign_core.scorer import SCORERS, UNDETERMINED, paper_number, plain_numbers, response_language

KINDS = ("number missing", "cut off", "wrong language", "arithmetic slip", "other")  # the first that fits
RATES = ("cut", "empty", "without_number", "english", "own", "other", "undetermined")
_KEY = ["system", "seed", "benchmark", "language"]


def rates(answers: pd.DataFrame) -> pd.DataFrame:
    """How many responses there are, and in percent how many are `cut` (at the token limit; missing where it is not
    known how responses ended), `empty`, `without_number`, and of which language: `english`, `own` (the question's),
    `other`, `undetermined`. Responses in English to an English question are `own` and not `english`.
    """
    written, asked, ended = answers["response_language"], answers["language"], answers["finish_reason"]
    own, english, undetermined = written == asked, (written == "en") & (asked != "en"), written == UNDETERMINED
    flags = {
        "cut": (ended == "length").astype(float).where(ended.notna()),
        "empty": answers["empty"],
        "without_number": ~answers["has_number"].astype(bool),
        "english": english,
        "own": own,
        "other": ~(own | english | undetermined),
        "undetermined": undetermined,
    }
    grouped = answers[_KEY].assign(**flags).groupby(_KEY, sort=False)
    shares = 100.0 * grouped[list(RATES)].mean().astype(float)
    return grouped.size().rename("responses").to_frame().join(shares).reset_index()


def identified(gold: pd.DataFrame) -> pd.DataFrame:
    """How often `response_language` is right on the run's own questions: `benchmark, language, questions, right`."""
    right = [response_language(text) == code for text, code in zip(gold["question"], gold["language"], strict=True)]
    grouped = gold.assign(right=right).groupby(["benchmark", "language"], sort=False)["right"]
    return grouped.agg(questions="size", right="sum").reset_index()


def _kind(row: Any, response: str) -> str:
    """Why an answer is wrong, as far as its text tells; the first kind of `KINDS` that fits."""
    if not row.has_number:
        return "number missing"
    if row.finish_reason == "length":
        return "cut off"
    if row.response_language not in (row.language, "en", UNDETERMINED):  # they have learnt to solve in English
        return "wrong language"
    # Other: mostly the wrong calculation, carried out correctly.
    code = row.language if row.response_language == UNDETERMINED else row.response_language
    return "arithmetic slip" if false_equations(response, code) else "other"


def with_error_kinds(answers: pd.DataFrame, predictions: pd.DataFrame, mode: str) -> pd.DataFrame:
    """Answers with a column `error`: the kind of a wrong answer by the scorer `mode`, nothing for a right one;
    `predictions` are what they were scored from."""
    key = ["benchmark", "language", "index"]
    texts = predictions.set_index(key)["response"].loc[answers.set_index(key).index]
    rows = zip(answers.itertuples(), answers[f"correct_{mode}"], texts, strict=True)
    return answers.assign(error=[None if right else _kind(row, text) for row, right, text in rows])


def errors(answers: pd.DataFrame) -> pd.DataFrame:
    """Wrong answers by kind: `system, seed, benchmark, language, kind, answers, wrong`; every kind, also where it has
    none; `wrong` is how many answers of that system, seed, benchmark and language are wrong.
    """
    counts = answers.groupby(_KEY, sort=False)["error"].value_counts().unstack(fill_value=0)
    every = answers[_KEY].drop_duplicates().set_index(_KEY).index
    counts = counts.reindex(index=every, columns=list(KINDS), fill_value=0).fillna(0).astype(int)
    long = counts.rename_axis(columns="kind").stack().rename("answers").reset_index()
    return long.assign(wrong=long.groupby(_KEY, sort=False)["answers"].transform("sum"))


def broken_questions(profile: Profile, run: Run) -> pd.DataFrame:
    """The questions of mSVAMP that nobody could answer: machine translation broke them, and nobody mended them.

    Returns:
        `benchmark, language, index, check`, one row per question (its first check); empty where there are none.
    """
    rows = []
    if "msvamp" in profile.evaluation.benchmarks:
        originals = [row["question"] for row in runs.read_json_lines(run.benchmark("msvamp", "en"))]
        for code in sorted(code for code in profile.data.languages if code != "en"):
            asked = runs.read_json_lines(run.benchmark("msvamp", code))
            found = audit.translation_defects([row["question"] for row in asked], originals, code)
            # Where only numbers up to 20 are gone, a translator has written them as words: the question is whole.
            found["has no number left"] = [n for n in found["has no number left"] if n in found["loses a number"]]
            checks = ("untranslated", "has no number left", "repeats itself")
            rows += [("msvamp", code, asked[n]["index"], check) for check in checks for n in found[check]]
    table = pd.DataFrame(rows, columns=["benchmark", "language", "index", "check"])
    table = table.drop_duplicates(["benchmark", "language", "index"])
    return table.sort_values(["language", "index"], ignore_index=True)


def cleaned_accuracy(answers: pd.DataFrame, broken: pd.DataFrame) -> pd.DataFrame:
    """Accuracy (percent) with and without the broken questions of each language, of the benchmarks that have some."""
    chosen = answers[answers["benchmark"].isin(broken["benchmark"])]
    key = ["benchmark", "language", "index"]
    removed = pd.MultiIndex.from_frame(chosen[key]).isin(pd.MultiIndex.from_frame(broken[key]))
    parts = []
    for mode in SCORERS:
        right = 100.0 * chosen[f"correct_{mode}"]
        rows = chosen[_KEY].assign(scorer=mode, right=right, removed=removed, kept=right.where(~removed))
        part = rows.groupby([*_KEY, "scorer"], sort=False).agg(
            total=("right", "size"), removed=("removed", "sum"), accuracy=("right", "mean"), cleaned=("kept", "mean")
        )
        parts.append(part)
    return pd.concat(parts).reset_index()


# ------------------------------------------------------------------------------------------------- equations

_SIGNS = str.maketrans("×·∙⋅÷−－＋＝（）％／＊", "****/--+=()%/*")
_PLAIN = (
    (re.compile(r"\\(?:times|cdot)\b"), "*"),
    (re.compile(r"\\div\b"), "/"),
    (re.compile(r"\\(?=[$%])|\\[()\[\]]|\\left|\\right"), " "),
    (re.compile(r"[$€£¥₹฿৳](?=\s*[-\d(.])|(?<=\d)\s*[$€£¥₹฿৳]"), " "),
    (re.compile(r"(?<=[\d)])\s*[xX]\s*(?=[\d(])|(?<=\S)\s+[xX]\s+(?=[\d(])"), "*"),
)
_WORD = r"[^\s\d+\-*/=()<>\[\]{}%.,;:!?|\\^_√\"'。、，；：！？।]+"
# Up to three words between a number and an operator: its unit, such as `cans`, `km/h`, `minutes per egg`.
_UNIT = re.compile(rf"(?<=\d)(%?)[ \t]*((?:/[ \t]?)?{_WORD}(?:[ \t/]{_WORD}){{0,2}})(?=[ \t]*[+\-*/=)])")
_BREAK = re.compile(r"[\n\r;!?。，、；：！？।|<>]|[.,:](?=\s|$)")
_RUN = re.compile(r"[-+(]*[\d.][\d.+\-*/()%=\s]*=[\d.+\-*/()%=\s]*[\d)%]")
# What makes a number part of something else when it stands right before or behind it, such as 10:30, x2 or 2^3.
_PART_BEFORE = re.compile(
    r"[A-Za-z\u00c0-\u024f\u0400-\u04ff\d:^_√.,]$|[+\-*/^=(]\s*[^\s\d]{0,20}\s*$"
    r"|(?:[\d%]|half|third|quarter|percent|Hälfte|Drittel|moitié|mitad|tercio|половин\w)\s*(?:of|von|de|от)?\s*$"
)
_PART_BEHIND = re.compile(r"[:^_]\d|[A-Za-z](?![A-Za-z])|\s*[+\-*/(]\s*\S|\s*[^\W\d_]+\s*[+\-*/]\s*[\w(]")
_PERCENT = re.compile(r"([\d.,]+)\s*%")
_FRACTION = re.compile(r"/\s*(\d+)/(\d+)")  # 60 / 3/4 is meant as 60 / (3/4)
_OPERATORS = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv}
_LONGEST = 200  # characters of an equation; longer ones are loops


def false_equations(text: str, code: str | None) -> list[str]:
    """The equations of a text in language `code` that do not hold, as they were read.

    Only what computes on its left and can be read with certainty is judged: `+ - * /`, brackets, percents, numbers as
    `scorer` reads them, units. A side may be rounded or truncated behind its last decimal; a quotient may also be a
    whole number. In `2 + 3 = 5 * 4 = 20`, which takes up a result and goes on, each step counts by itself. Equations
    with unknowns are left out.
    """
    if "=" not in text and "＝" not in text:
        return []
    text = text.translate(_SIGNS)
    for pattern, plain in _PLAIN:
        text = pattern.sub(plain, text)
    return [equation for equation in _equations(plain_numbers(text, code)) if _is_false(equation)]


def _equations(text: str) -> Iterator[str]:
    """Stretches of digits, operators and at least one `=`, units taken out."""
    for part in _BREAK.split(text):
        part = _UNIT.sub(_without_unit, part)
        for match in _RUN.finditer(part):
            before, behind = part[: match.start()], part[match.end() :]
            if len(match[0]) <= _LONGEST and not _PART_BEFORE.search(before):
                equation, word = match[0].strip(), re.match(rf"\s*({_WORD})", behind)
                # The last side is not all of it: a time, a power, an unknown, a word that multiplies.
                goes_on = _PART_BEHIND.match(behind) or (word is not None and audit.multiplier(word[1]) != 1)
                yield equation.rpartition("=")[0] if goes_on else equation


def _without_unit(match: re.Match[str]) -> str:
    """A number's unit taken away, unless it is an unknown (one Latin letter) or a multiplier (million, 万)."""
    unknown = any(len(word) == 1 and word.isascii() for word in match[2].split())
    return match[0] if unknown or audit.multiplier(match[2]) != 1 else match[1] + " "


def _is_false(equation: str) -> bool:
    """Whether it is false by every way of reading its percents and fractions."""
    forms = [equation.replace("%", ""), _PERCENT.sub(r"(\1/100)", equation)] if "%" in equation else [equation]
    forms += [_FRACTION.sub(r"/(\1/\2)", form) for form in forms if _FRACTION.search(form)]
    known = [verdict for form in forms if (verdict := _differs([_read(side) for side in form.split("=")])) is not None]
    return bool(known) and all(known)


def _read(side: str) -> tuple[ast.expr, int] | None:
    """A side as an expression, and the decimals of its last number; None if it is none."""
    side = side.strip()
    surplus = side.count("(") - side.count(")")
    side = side[surplus:] if surplus > 0 and side.startswith("(" * surplus) else side[: surplus or None]
    decimals = re.search(r"\.(\d+)\D*$", side)
    try:
        return ast.parse(side.strip(), mode="eval").body, len(decimals[1]) if decimals else 0
    except (SyntaxError, RecursionError, MemoryError):
        return None


def _differs(sides: list[tuple[ast.expr, int] | None]) -> bool | None:
    """Whether two neighbouring sides differ; None if no two can be compared."""
    compared = []
    for left, right in zip(sides, sides[1:], strict=False):
        if left is None or right is None or not isinstance(left[0], ast.BinOp):
            continue
        a, b = _value(left[0]), _value(right[0])
        if not (math.isfinite(a) and math.isfinite(b)):
            continue
        first = right[0]  # the result that the right side takes up and goes on with
        while isinstance(first, ast.BinOp):
            first = first.left
        quotient, decimals = isinstance(left[0].op, ast.Div), max(left[1], right[1])
        compared.append(not any(_equal(a, value, decimals, quotient) for value in (b, _value(first))))
    return any(compared) if compared else None


def _value(node: ast.expr) -> float:
    """What an expression of numbers and the four operations comes to; not a number for any other."""
    match node:
        case ast.Constant(value=int() | float() as number):
            return float(number)
        case ast.UnaryOp(op=ast.USub()):
            return -_value(node.operand)
        case ast.UnaryOp(op=ast.UAdd()):
            return _value(node.operand)
        case ast.BinOp() if type(node.op) in _OPERATORS:
            try:
                return _OPERATORS[type(node.op)](_value(node.left), _value(node.right))
            except ZeroDivisionError:
                return math.nan
    return math.nan


def _equal(a: float, b: float, decimals: int, quotient: bool) -> bool:
    """Whether two values are the same up to the last decimal that is written; of a quotient, up to a whole number."""
    if math.isclose(a, b, rel_tol=1e-9, abs_tol=1e-9):
        return True
    if (decimals == 0 and not (quotient and abs(a) >= 1)) or max(abs(a), abs(b)) > 1e15:
        return False
    step = 10.0**-decimals
    cut = math.isclose(math.trunc(a / step + 1e-9), math.trunc(b / step + 1e-9))
    return cut or abs(a - b) <= step / 2 + 1e-9


# ------------------------------------------------------------------------------------------------- in other precision

OTHER = {"float32": "bfloat16", "bfloat16": "float32"}
WEIGHTS_SHARE = 0.8  # of a device's memory: the rest is for keys, values and activations


def other_precision_job(answered: plan.Job, run: Run, per_language: int = 10) -> plan.Job:
    """The job that asks a part of another job's questions again in the other precision; writes their prompts.

    Rounding moves every probability a little, and where two tokens are nearly as likely, greedy decoding takes the
    other one. `per_language` questions of each benchmark and language are asked, spread evenly over the file.
    """
    content = {**answered.content, "dtype": OTHER[answered.content["dtype"]]}
    folder = answered.folder.with_name(f"{answered.folder.name}-{content['dtype']}")
    tasks = []
    for task in content["tasks"]:
        rows = runs.read_json_lines(Path(runs.resolve(task["path"], run.folder)))
        rows = rows[:: max(1, len(rows) // per_language)][:per_language]
        path = runs.write_json_lines(folder / "asked" / task["name"] / f"{task['language']}.jsonl", rows)
        tasks.append({**task, "path": run.relative(path), "sha256": runs.sha256_file(path)})
    decides = {"of": answered.content["fingerprint"], "dtype": content["dtype"], "tasks": [t["sha256"] for t in tasks]}
    return plan.Job({**content, "tasks": tasks, "fingerprint": runs.fingerprint(decides)}, folder)


def does_not_fit(job: plan.Job, run: Run, devices: int) -> str | None:
    """Why a job's model cannot answer on every device of this machine, or not in reasonable time, or None."""
    if job.content["dtype"] == "bfloat16" and not runs.has_native_bf16():
        return "this processor only emulates it, many times slower than fp32"
    source, revision = hub.located(job.content["model"], run.folder)
    if not Path(source).is_dir():  # in the hub's cache, since it has answered
        source = str(hub.fetch({"path": source, "revision": revision}, convert=False))
    weights = sum(huggingface_hub.get_local_safetensors_metadata(source).parameter_count.values())
    dtype = job.content["dtype"]
    memory = runs.smallest_gpu() or psutil.virtual_memory().available // devices  # of each rank
    needed, there = weights * (4 if dtype == "float32" else 2) / 2**30, memory / 2**30  # GiB
    if needed <= WEIGHTS_SHARE * there:
        return None
    return f"its weights take {needed:.1f} GiB in {dtype}, and each of {devices} device(s) has {there:.1f} GiB"


def changed_answers(answered: Path, again: Path) -> pd.DataFrame:
    """Compare two folders of predictions of one model, the second perhaps with fewer questions.

    Returns:
        `benchmark, language, asked, other_text, other_number`: how many were asked again, how many answers have another
        text, and how many of these end in another number.
    """
    rows = []
    for task in runs.read_json(again / "job.json")["tasks"]:
        name = Path(task["name"]) / f"{task['language']}.jsonl"
        before, after = (pd.DataFrame(runs.read_json_lines(f / name)).set_index("index") for f in (answered, again))
        before = before.reindex(after.index)
        if other := list(after.index[before["prompt"] != after["prompt"]]):
            raise ValueError(f"{answered / name}: index {other[0]} is another question than in {again / name}")
        texts = (before["response"] != after["response"]).sum()
        numbers = (before["response"].map(paper_number) != after["response"].map(paper_number)).sum()
        rows.append((task["name"], task["language"], len(after), texts, numbers))
    return pd.DataFrame(rows, columns=["benchmark", "language", "asked", "other_text", "other_number"])
