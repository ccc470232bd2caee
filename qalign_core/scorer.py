"""From raw responses to scored answers, accuracy and averages.

Scoring reads text files only; it needs neither a model nor a GPU, and every prediction is scored in two ways:

* `paper` is what the authors' evaluation does, quirk for quirk;
* `fixed` reads the same last number as a person would (see `extract_number`).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from qalign_core.data.rows import BadRow
from qalign_core.languages import CODES
from qalign_core.scores.identify import UNDETERMINED, response_language
from qalign_core.scores.last_number import extract_number, fixed_number, has_number, paper_number
from qalign_core.scores.predictions import read_predictions

__all__ = [
    "accuracy",
    "averages",
    "differences",
    "extract_number",
    "response_language",
    "score",
]

MODES = ("paper", "fixed")
TOLERANCE = 1e-3  # two numbers are the same answer when they differ by less
ACCURACY_COLUMNS = ["system", "seed", "benchmark", "language", "scorer", "correct", "total", "accuracy"]
_KEY = ["benchmark", "language", "index"]
_RUN = ["system", "seed"]


def _checked_gold(gold: pd.DataFrame) -> pd.DataFrame:
    """Gold rows with the answers parsed in both ways (gold answers are written with English marks)."""
    text = gold["gold"].where(gold["gold"].notna(), "").astype(str)
    bad = gold[~text.str.contains(r"\d")]
    if len(bad):
        row = bad.iloc[0]
        where = row.get("file", f"benchmark {row['benchmark']}, language {row['language']}")
        raise BadRow(
            f"{where}: row {row['index']} has no number as its gold answer ({row['gold']!r}); {len(bad)} such rows"
        )
    repeated = gold[gold.duplicated(_KEY)]
    if len(repeated):
        raise BadRow(f"gold answers: {dict(repeated.iloc[0][_KEY])} occurs more than once")
    return gold[[*_KEY, "question"]].assign(
        gold=[paper_number(answer) for answer in text], gold_fixed=[fixed_number(answer, "en") for answer in text]
    )


def _some(index: pd.Index) -> str:
    """`3 (index 4, 5, 9)`, cut after five."""
    listed = ", ".join(map(str, index[:5])) + (", ..." if len(index) > 5 else "")
    return f"{len(index)} (index {listed})" if len(index) else "none"


def _pairs_up(predictions: pd.DataFrame, gold: pd.DataFrame) -> bool:
    """Whether `_check_pairing` would find nothing: the same conditions, asked of all rows at once."""
    asked = gold[[*_KEY, "question"]].rename(columns={"question": "expected"})
    rows = predictions.merge(asked, on=_KEY, how="left", sort=False)
    if "question" in rows and (rows["question"].notna() & (rows["question"] != rows["expected"])).any():
        return False
    if rows["expected"].isna().any() or rows.duplicated([*_RUN, *_KEY]).any():
        return False
    answered = rows.groupby([*_RUN, "benchmark", "language"], dropna=False).size().rename("answers").reset_index()
    questions = gold.groupby(["benchmark", "language"]).size().rename("questions").reset_index()
    both = answered.merge(questions, on=["benchmark", "language"])
    languages = both["benchmark"].map(questions["benchmark"].value_counts())
    found = both.groupby([*_RUN, "benchmark"], dropna=False)["language"].transform("size")
    return bool((both["answers"] == both["questions"]).all() and (found == languages).all())


def _check_pairing(predictions: pd.DataFrame, gold: pd.DataFrame) -> None:
    """Every gold question has exactly one prediction and the other way round, and the question texts are equal."""
    if _pairs_up(predictions, gold):
        return
    golds = {key: rows for key, rows in gold.groupby(["benchmark", "language"], sort=False)}
    found = predictions.groupby([*_RUN, "benchmark", "language"], sort=False, dropna=False)
    seen: dict[tuple, set[str]] = {}
    for (system, seed, benchmark, code), rows in found:
        seen.setdefault((system, seed, benchmark), set()).add(code)
        where = rows["file"].iloc[0] if "file" in rows else f"{system} (seed {seed}), {benchmark}, {code}"
        if (benchmark, code) not in golds:
            raise BadRow(f"{where}: there are no gold answers for {benchmark}, {code}")
        expected = golds[benchmark, code].set_index("index")["question"]
        index = pd.Index(rows["index"])
        if index.has_duplicates:
            raise BadRow(f"{where}: index {index[index.duplicated()][0]} occurs more than once")
        missing, extra = expected.index.difference(index), index.difference(expected.index)
        if len(missing) or len(extra):
            raise BadRow(
                f"{where}: the benchmark has {len(expected)} questions; predictions missing: {_some(missing)}, "
                f"too many: {_some(extra)}. Generate what is missing, or score against the benchmark they were made for"
            )
        question = rows.set_index("index")["question"].dropna() if "question" in rows else pd.Series(dtype=object)
        other = question[question != expected.loc[question.index]]
        if len(other):
            first = other.index[0]
            raise BadRow(
                f"{where}: the question of row {first} is not the benchmark's ({len(other)} differ): these predictions "
                f"are of another run. Prediction: {str(other[first])[:80]!r}; benchmark: {str(expected[first])[:80]!r}"
            )
    for (system, seed, benchmark), codes in seen.items():
        absent = [code for name, code in golds if name == benchmark and code not in codes]
        if absent:
            raise ValueError(f"{system} (seed {seed}), {benchmark}: no predictions for {', '.join(absent)}")


def score(
    predictions: pd.DataFrame | str | Path, gold: pd.DataFrame, *, system: str | None = None, seed: int | None = None
) -> pd.DataFrame:
    """Score every prediction in both ways.

    Args:
        predictions: rows of `predictions.read_predictions` (columns `benchmark, language, index, response`, optionally
            `question, finish_reason, file, system, seed`), or the folder to read.
        gold: rows of `predictions.read_benchmark` (`benchmark, language, index, question, gold`).
        system: name of the row in the tables; needed unless a column says it.
        seed: seed of the run; needed unless a column says it.

    Returns:
        One row a question: `system, seed, benchmark, language, index, gold, gold_fixed, answer_paper, answer_fixed,
        correct_paper, correct_fixed, has_number, empty, finish_reason, response_language`. The numbers of a response
        are read by the conventions of the language it is written in, which is not always the question's.

    Raises:
        ValueError: for a missing gold, a missing or extra index, or a question that is not the benchmark's, naming file
            and row.
    """
    rows = read_predictions(predictions) if isinstance(predictions, str | Path) else predictions
    rows = rows.assign(**{k: v for k, v in {"system": system, "seed": seed}.items() if v is not None})
    absent = [name for name in (*_RUN, *_KEY, "response") if name not in rows]
    if absent:
        raise ValueError(f"predictions: no column {', '.join(absent)}; `system` and `seed` may be given as arguments")
    answers = _checked_gold(gold)
    _check_pairing(rows, gold)
    rows = rows.drop(columns=[name for name in ("question", "gold", "gold_fixed") if name in rows])
    rows = rows.merge(answers, on=_KEY, how="left", sort=False, validate="many_to_one")
    responses, asked = rows["response"].tolist(), rows["language"].tolist()
    written = [response_language(text, code) for text, code in zip(responses, asked, strict=True)]
    read_as = [code if found == UNDETERMINED else found for found, code in zip(written, asked, strict=True)]
    rows["answer_paper"] = [paper_number(text) for text in responses]
    rows["answer_fixed"] = [fixed_number(text, code) for text, code in zip(responses, read_as, strict=True)]
    with np.errstate(invalid="ignore"):  # a number of more than 308 digits is infinite
        rows["correct_paper"] = (rows["answer_paper"] - rows["gold"]).abs() < TOLERANCE
        rows["correct_fixed"] = (rows["answer_fixed"] - rows["gold_fixed"]).abs() < TOLERANCE
    rows["has_number"] = [has_number(text) for text in responses]
    rows["empty"] = [not text.strip() for text in responses]
    rows["response_language"] = written
    if "finish_reason" not in rows:
        rows["finish_reason"] = None
    columns = ["gold", "gold_fixed", *(f"{what}_{mode}" for what in ("answer", "correct") for mode in MODES)]
    return rows[[*_RUN, *_KEY, *columns, "has_number", "empty", "finish_reason", "response_language"]]


def accuracy(answers: pd.DataFrame) -> pd.DataFrame:
    """Accuracy (percent) of every system, seed, benchmark and language by both scorers, in the order of `answers`.

    Returns:
        Exactly the columns `system, seed, benchmark, language, scorer, correct, total, accuracy`.
    """
    grouped = answers.groupby([*_RUN, "benchmark", "language"], sort=False)
    parts = []
    for mode in MODES:
        part = grouped[f"correct_{mode}"].agg(correct="sum", total="size").reset_index()
        parts.append(part.assign(scorer=mode, order=range(len(part))))
    table = pd.concat(parts).sort_values("order", kind="stable", ignore_index=True)
    table["accuracy"] = 100.0 * table["correct"] / table["total"]
    return table[ACCURACY_COLUMNS]


def averages(table: pd.DataFrame, languages: Sequence[str] = CODES) -> pd.DataFrame:
    """Unweighted means over languages of `accuracy(...)`.

    Args:
        table: rows of `accuracy`.
        languages: the languages of the run; each must be there, so that no mean is taken over fewer without notice.

    Returns:
        `system, seed, benchmark, scorer, average, non_english, english, gap`: the mean over all languages, over all but
        English, English alone (percent), and English minus the mean of the others (points).

    Raises:
        ValueError: naming the system and the languages it lacks.
    """
    keys = [*_RUN, "benchmark", "scorer"]
    wide = table.set_index([*keys, "language"])["accuracy"].unstack("language")
    wide = wide.reindex(columns=list(languages))
    lacking = wide[wide.isna().any(axis=1)]
    if len(lacking):
        missing = lacking.columns[lacking.iloc[0].isna()]
        raise ValueError(f"{dict(zip(keys, lacking.index[0], strict=True))}: no accuracy for {', '.join(missing)}")
    others = [code for code in languages if code != "en"]
    result = pd.DataFrame({"average": wide.mean(axis=1), "non_english": wide[others].mean(axis=1)})
    result["english"] = wide["en"]
    result["gap"] = result["english"] - result["non_english"]
    order = table.drop_duplicates(keys).set_index(keys).index
    return result.loc[order].reset_index()


def differences(answers: pd.DataFrame) -> pd.DataFrame:
    """The rows whose answer or correctness depends on the scorer."""
    same = (answers["answer_paper"] - answers["answer_fixed"]).abs() < TOLERANCE
    return answers[~same | (answers["correct_paper"] != answers["correct_fixed"])].reset_index(drop=True)
