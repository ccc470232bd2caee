"""What the files of a results folder must hold, so that a damaged one is named before anything is drawn from it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from qalign_core.languages import Language
from qalign_core.profiles.schema import BENCHMARK_NAME, LONGEST_NAME
from qalign_core.runs import read_json
from qalign_core.scores.comparisons import MEASURES
from qalign_core.scores.published import SIZES

AGAIN = "run notebook 04 (evaluation) again"
_CELL = "system seed# benchmark language"
_INTERVALS = "system seed# benchmark measure | estimate# low#? high#? method [clusters#]"
_DIFFERENCES = "a b seed# benchmark measure difference# low#? high#? p#?"
# Columns by the chapter that writes them: `#` holds numbers, `?` may be blank, `[]` may not be there at all; no two
# rows are alike in all columns before `|`. Other columns are left as they are.
_WRITTEN = {
    AGAIN: {
        "accuracy": f"{_CELL} scorer | correct# total# accuracy#",
        "intervals": _INTERVALS,
        "comparisons": _DIFFERENCES,
        "languages": "a b seed# benchmark language difference# p#? p_holm#?",
        "differences": _CELL,
        "floor": "benchmark language | accuracy#",
        "responses": f"{_CELL} | cut#? empty# without_number# english#? own#? other#? undetermined#?",
        "errors": f"{_CELL} kind | answers# wrong#",
        "identified": "benchmark language | questions# right#",
        "cleaned": f"{_CELL} scorer | total# removed# accuracy#? cleaned#?",
        "corrected": f"{_CELL} scorer | total# removed# new_golds# new_texts# accuracy#? corrected#?",
        "trace": f"{_CELL} | lineage? model? model_done? model_fingerprint? predictions? sha256? state? "
        "predictions_done? predictions_fingerprint? commit?",
        "primary": "outcome seed# benchmark | estimate# low#? high#? questions# verdict",
    },
    "run notebook 05 (consistency) again": {
        "consistency": f"{_CELL} scorer | consistency# chance#? both_right#? both_wrong#? without_number#",
        "agreement": _INTERVALS,
        "agreement_differences": _DIFFERENCES,
        "agreement_map": f"{_CELL} other | agreement#",
        "solved": "system seed# benchmark languages# | questions# percent#",
    },
    "run notebook 06 (ablations) again": {
        "ablations": _DIFFERENCES,
        "ablation_intervals": _INTERVALS,
        "ablation_rows": "system | table study? at? examples#?",
        "ablation_responses": f"{_CELL} | cut#? empty# without_number# english#? own#? other#? undetermined#?",
        "representations": "set seed# model layer# language | retrieval# cosine# cosine_others# questions#",
        "representations_points": "set seed# model language x# y# x_share# y_share#",
    },
    "run notebook 01 (data preparation) again": {"lengths": "corpus tokens# examples# [limit#]"},
    "run notebook 03 (stage 2) again": {"training": "lineage seed# step# | loss#?"},
}
_COLUMNS = {name: (words, again) for again, tables in _WRITTEN.items() for name, words in tables.items()}
_WITH_ROWS = (
    *("accuracy", "intervals", "consistency", "agreement", "agreement_map", "solved"),
    *("ablation_intervals", "ablation_rows", "representations", "representations_points"),
)
_TABLES = ("main", "ablation", "control", "study")


def read_table(path: Path) -> pd.DataFrame:
    """A table of a results folder, its columns checked; names stay text, though they be digits.

    Raises:
        ValueError: where the file is damaged, naming it, the column or row, and the notebook that writes it.
    """
    words, again = _COLUMNS.get(path.stem, ("", AGAIN))
    kinds = {word.strip("[]?#"): word for word in words.split() if word != "|"}
    text = {name: str for name, word in kinds.items() if "#" not in word}
    try:  # "none" and "null" are words in these files; only an empty field is a missing value
        rows = pd.read_csv(path, keep_default_na=False, na_values=[""], dtype=text)
    except ValueError as error:  # pandas' own errors are of this kind, too
        raise ValueError(f"{path}: not a table ({str(error).strip()}); {again}") from None
    fault = _fault(path.stem, rows, kinds, words.partition("|"))
    if fault:
        raise ValueError(f"{path}: {fault}; {again}")
    return rows


def _fault(name: str, rows: pd.DataFrame, kinds: Mapping[str, str], words: Sequence[str]) -> str | None:
    """What is wrong with a table, or None."""
    lacking = [column for column, word in kinds.items() if column not in rows and "[" not in word]
    if lacking:
        return f"no column {', '.join(lacking)}"
    if rows.empty:
        return "no rows" if name in _WITH_ROWS else None
    for column, word in kinds.items():
        values = rows.get(column)
        if values is None:
            continue
        if "#" in word and not (pd.api.types.is_numeric_dtype(values) and not np.isinf(values.astype(float)).any()):
            return f"{column} must be numbers"
        if "?" not in word and "[" not in word and values.isna().any():
            return f"row {int(values.isna().to_numpy().argmax()) + 1}: {column} is blank"
    key = [word.strip("[]?#") for word in words[0].split()]
    if words[1] and rows.duplicated(key).any():
        row = int(rows.duplicated(key).to_numpy().argmax())
        return f"row {row + 1}: a second one of {', '.join(str(value) for value in rows.iloc[row][key])}"
    for column in ("benchmark", "study"):  # names that become those of files
        for value in rows[column].dropna().unique() if column in kinds else ():
            name = value.replace("_", "-") if column == "study" else value
            if len(name) > LONGEST_NAME or not re.fullmatch(BENCHMARK_NAME, name):
                return f"{column} {value!r}: allowed are lower-case letters, digits and single hyphens"
    return None


def check_english(folder: Path, tables: Mapping[str, pd.DataFrame]) -> None:
    """Every mean and gap is relative to English: refuse results in which some system lacks it.

    Raises:
        ValueError: naming the file and the first system.
    """
    for name, column, wanted in (("accuracy", "language", {"en"}), ("intervals", "measure", set(MEASURES))):
        rows = tables[name]
        for (system, benchmark), part in rows.groupby(["system", "benchmark"], sort=False):
            lacking = sorted(wanted - set(part[column]))
            if lacking:
                raise ValueError(
                    f"{folder / name}.csv: no rows of {system} on {benchmark} with {column} {', '.join(lacking)}, but "
                    f"every mean and gap of the tables needs them; {AGAIN}"
                )


def read_described(
    folder: Path, tables: Mapping[str, pd.DataFrame]
) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """`run.json` and `systems.json` of a results folder, checked.

    Raises:
        ValueError: where one of them is damaged, naming it and the key.
    """
    run, systems = read_json(folder / "run.json"), read_json(folder / "systems.json")
    asked = {
        name for table in ("accuracy", "ablation_intervals") for name in tables.get(table, {}).get("benchmark", ())
    }
    for name, fault in (
        ("run.json", _run_fault(run, asked)),
        ("systems.json", _systems_fault(systems, set(tables["accuracy"]["system"]))),
    ):
        if fault:
            raise ValueError(f"{folder / name}: not what the evaluation wrote ({fault}); {AGAIN}")
    return run, systems


def _whole(value: Any, least: int = 0) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _run_fault(run: Any, asked: set[str]) -> str | None:
    """The first key of `run.json` that is wrong, with what is allowed."""
    if not isinstance(run, dict):
        return "no object"
    seeds, questions = run.get("seeds"), run.get("questions")
    good = {
        "profile: a name": isinstance(run.get("profile"), str),
        f"base_size: null or one of {', '.join(SIZES)}": "base_size" in run and run["base_size"] in (None, *SIZES),
        "scorer: paper or fixed": run.get("scorer") in ("paper", "fixed"),
        "seeds: whole numbers": isinstance(seeds, list) and seeds != [] and all(map(_whole, seeds)),
        f"questions: a number for each of {', '.join(sorted(asked))}": isinstance(questions, dict)
        and asked <= questions.keys()
        and all(_whole(questions[name], 1) for name in asked),
        "languages: code → its description": _are_languages(run.get("languages", {})),
    }
    return next((allowed for allowed, is_so in good.items() if not is_so), None)


def _are_languages(entries: Any) -> bool:
    """Whether these are what `languages.described` writes down."""
    wanted = {field.name: field.type for field in fields(Language)}
    return isinstance(entries, dict) and all(
        isinstance(entry, dict)
        and entry.keys() == wanted.keys()
        and entry["code"] == code
        and re.fullmatch(BENCHMARK_NAME, code.lower()) is not None
        and isinstance(entry["words"], list)
        and all(isinstance(entry[name], str) for name, kind in wanted.items() if kind == "str")
        and all(isinstance(word, str) for word in entry["words"])
        for code, entry in entries.items()
    )


def _systems_fault(systems: Any, answered: set[str]) -> str | None:
    """The first system that is wrong, with what is allowed."""
    if not isinstance(systems, dict):
        return "no object"
    for name, entry in systems.items():
        if not isinstance(entry, dict) or entry.get("table", "main") not in _TABLES:
            return f"{name}: a lineage or checkpoint, and as table one of {', '.join(_TABLES)}"
        if not isinstance(entry.get("published", ""), str):
            return f"{name}.published: a name"
    main = [name for name, entry in systems.items() if entry.get("table", "main") == "main"]
    if not main or set(main) - answered:
        return f"accuracy.csv has no rows of {', '.join(sorted(set(main) - answered)) or 'any system of the tables'}"
    return None
