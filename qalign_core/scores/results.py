"""The small files a report is drawn from: `runs/<profile>/results/`.

| file | rows |
|---|---|
| `run.json` | profile, base size of the published numbers, scorer, seeds, questions a benchmark, languages described |
| `systems.json` | system → lineage or checkpoint, `published` name, `table`; in the tables' order |
| `answers.parquet` | one answer a row: `scorer.score` |
| `accuracy.csv` | `scorer.accuracy` |
| `intervals.csv`, `comparisons.csv`, `languages.csv` | `comparisons.intervals`, `.compare`, `.compare_languages` |
| `ablations.csv`, `ablation_*.csv` | Table 4, controls and studies (written by chapter 6; see `ablations`) |
| `representations.csv`, `representations_points.csv` | `representations.measure` (written by chapter 6) |
| `differences.csv` | answers on which the two scorers differ |
| `responses.csv`, `errors.csv` | `response_kinds.rates`, `response_kinds.errors` |
| `identified.csv` | `response_kinds.identified` |
| `cleaned.csv` | `cleaned.cleaned_accuracy` (if the audit finds broken questions) |
| `corrected.csv` | `corrected.corrected_accuracy` (if the profile names corrected benchmarks) |
| `trace.csv` | `trace.trace` |
| `primary.csv` | `primary.outcomes` (if QAlign and MonoReason were run) |
| `openings.csv` | `openings.record`: the log of every look at a test or development set |
| `floor.csv` | `benchmark, language, accuracy` of the language-blind rule (if there is one) |
| `consistency.csv` | `consistency.consistency` (this and the next three are written by chapter 5) |
| `agreement.csv` | `comparisons.intervals` of `consistency.agreement` |
| `agreement_differences.csv` | `comparisons.compare` of every system's agreement with MonoReason's (if that was run) |
| `agreement_map.csv`, `solved.csv` | `consistency.agreement_map`, `consistency.solved_languages` |
| `corpora.csv` | Table 1, first column the name of the data set (written by chapter 1) |
| `lengths.csv` | `corpus, tokens, examples, limit` (written by chapter 1; the tokens at which examples are cut) |
| `training.csv` | `lineage, seed, step, loss` (written by chapter 3) |

Everything but the answers is text, so that it can be read, compared and committed.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from qalign_core import languages, scorer
from qalign_core.languages import NON_ENGLISH
from qalign_core.runs import read_json, write_atomic, write_json
from qalign_core.scores import comparisons, consistency
from qalign_core.scores.saved_tables import check_english, read_described, read_table

OURS = "QAlign"  # what Table 4 compares its rows with
WITHOUT = "MonoReason"  # the system without question alignment, which chapter 5 compares every other with
EVALUATION = ("accuracy", "intervals", "comparisons", "languages", "differences")
CONSISTENCY = ("consistency", "agreement", "agreement_differences", "agreement_map", "solved")
ABLATIONS = ("ablations", "ablation_intervals", "ablation_rows", "ablation_responses")
REPRESENTATIONS = ("representations", "representations_points")
RESPONSES = (
    "responses",
    "errors",
    "identified",
    "cleaned",
    "corrected",
    "trace",
    "primary",
    "openings",
)  # how answers look, written beside the evaluation's files
OPTIONAL = ("floor", *ABLATIONS, *REPRESENTATIONS, *RESPONSES, *CONSISTENCY, "corpora", "lengths", "training")


@dataclass(frozen=True)
class Results:
    """What a results folder holds; `tables` maps the stem of each CSV file that is there to its rows."""

    run: dict[str, Any]
    systems: dict[str, dict[str, Any]]
    tables: dict[str, pd.DataFrame]
    absent: tuple[str, ...]

    def main(self) -> list[str]:
        """The systems of Tables 2 and 3, in order."""
        return [name for name, entry in self.systems.items() if entry.get("table", "main") == "main"]


def write_csv(folder: str | Path, name: str, rows: pd.DataFrame) -> Path:
    """Write `<name>.csv` of a results folder."""
    return write_atomic(Path(folder) / f"{name}.csv", _csv(rows))


def write_results(
    folder: str | Path,
    answers: pd.DataFrame,
    *,
    profile: str,
    systems: Mapping[str, Mapping[str, Any]],
    base_size: str | None = "7B",
    mode: str = "paper",
    groups: Mapping[str, pd.Series] | None = None,
    pairs: Sequence[Sequence[str]] = comparisons.DECLARED_PAIRS,
    floor: pd.DataFrame | None = None,
) -> Results:
    """Compute and save everything the evaluation's tables and figures are drawn from.

    What chapters 5 and 6 made of other answers than these is removed; where what they rest on is the same, it stays.

    Args:
        folder: `runs/<profile>/results`.
        answers: rows of `scorer.score`, all systems, seeds and benchmarks.
        profile: its name.
        systems: system → its entry in the profile (`lineage`, `checkpoint`, `published`, `table`), in order.
        base_size: published numbers to show beside ours, or `None`.
        mode: the scorer whose numbers are compared; both are in `accuracy.csv`.
        groups: benchmark → near-duplicate group of each question.
        pairs: declared differences.
        floor: `benchmark, language, accuracy` of the language-blind rule.

    Raises:
        ValueError: for a system without answers, or answers of an unknown system.
    """
    folder = Path(folder)
    answered, main = set(answers["system"]), {n for n, e in systems.items() if e.get("table", "main") == "main"}
    unknown, without = answered - set(systems), main - answered
    if unknown or without:
        raise ValueError(f"systems without answers: {sorted(without)}; answers of unknown systems: {sorted(unknown)}")
    order = {name: position for position, name in enumerate(systems)}
    answers = answers.sort_values("system", key=lambda names: names.map(order), kind="stable", ignore_index=True)
    column = f"correct_{mode}"
    computed = {
        "accuracy": scorer.accuracy(answers),
        "intervals": comparisons.intervals(answers, groups, column=column),
        "comparisons": comparisons.compare(answers, pairs, groups, column=column),
        "languages": comparisons.compare_languages(answers, pairs, column=column),
        "differences": scorer.differences(answers),
    }
    if floor is not None:
        computed["floor"] = floor
    entries = {name: dict(entry) for name, entry in systems.items()}
    buffer = io.BytesIO()
    answers.to_parquet(buffer, index=False)
    for name in _outdated(folder, pd.read_parquet(buffer), computed["intervals"], entries, mode):
        (folder / f"{name}.csv").unlink(missing_ok=True)
    for name, rows in computed.items():
        write_csv(folder, name, rows)
    write_atomic(folder / "answers.parquet", buffer.getvalue())
    questions = answers.groupby("benchmark")["index"].nunique()
    seeds = sorted(map(int, set(answers["seed"])))
    run: dict[str, Any] = {"profile": profile, "base_size": base_size, "scorer": mode, "seeds": seeds}
    described = languages.described(answers["language"].unique())
    run |= {"questions": {name: int(n) for name, n in questions.items()}}
    write_json(folder / "run.json", run | ({"languages": described} if described else {}))
    write_json(folder / "systems.json", entries)
    return read_results(folder)


def _outdated(
    folder: Path, answers: pd.DataFrame, intervals: pd.DataFrame, entries: dict[str, Any], mode: str
) -> list[str]:
    """The files of chapters 5 and 6 that rest on something else than these answers.

    Consistency rests on all answers of chapter 4. Chapter 6 rests on those of the baseline and the paper's method, and
    on which systems it compares; its own answers it reads itself. Intervals are compared for what is behind them: the
    questions that are near-duplicates.
    """
    try:
        before, saved = pd.read_parquet(folder / "answers.parquet"), read_table(folder / "intervals.csv")
        systems, scorer_before = read_json(folder / "systems.json"), read_json(folder / "run.json")["scorer"]
    except (OSError, ValueError, KeyError, TypeError):  # nothing there, or nothing to compare with
        return [*CONSISTENCY, *ABLATIONS, *REPRESENTATIONS]

    def same(names: Sequence[str]) -> bool:
        now, then = (rows[rows["system"].isin(names)].reset_index(drop=True) for rows in (answers, before))
        here, there = (rows[rows["system"].isin(names)] for rows in (intervals, saved))
        return scorer_before == mode and now.equals(then) and _csv(here) == _csv(there)

    of_chapter_6 = [
        {n: e for n, e in found.items() if e.get("table", "main") != "main"} for found in (entries, systems)
    ]
    outdated = [] if same([*entries, *systems]) else [*CONSISTENCY]
    kept = same([WITHOUT, OURS]) and of_chapter_6[0] == of_chapter_6[1]
    return outdated if kept else [*outdated, *ABLATIONS, *REPRESENTATIONS]


def _csv(rows: pd.DataFrame) -> str:
    return rows.to_csv(index=False, float_format="%.10g", lineterminator="\n")


def write_consistency(folder: str | Path, groups: Mapping[str, pd.Series] | None = None) -> Results:
    """Compute and save everything the tables and figures of consistency are drawn from, out of the scored answers.

    Args:
        folder: `runs/<profile>/results`, holding the evaluation's results.
        groups: benchmark → near-duplicate group of each question.

    Raises:
        FileNotFoundError: where there are no scored answers.
        ValueError: where the English answers are missing.
    """
    folder = Path(folder)
    results = read_results(folder)
    if not (folder / "answers.parquet").is_file():
        raise FileNotFoundError(f"{folder}: missing answers.parquet; run notebook 04 (evaluation) first")
    answers, mode = pd.read_parquet(folder / "answers.parquet"), results.run["scorer"]
    agrees = consistency.agreement(answers, mode)
    computed = {
        "consistency": consistency.consistency(answers, mode),
        "agreement": comparisons.intervals(agrees, groups, column="agrees"),
        "agreement_map": consistency.agreement_map(answers, mode),
        "solved": consistency.solved_languages(answers, mode),
    }
    if WITHOUT in results.systems:
        pairs = [(name, WITHOUT) for name in results.systems if name != WITHOUT]
        computed["agreement_differences"] = comparisons.compare(
            agrees, pairs, groups, column="agrees", measures=(*NON_ENGLISH, "non_english")
        )
    for name, rows in computed.items():
        write_csv(folder, name, rows)
    return read_results(folder)


def read_results(folder: str | Path) -> Results:
    """Read a results folder.

    Raises:
        FileNotFoundError: where the evaluation's files are missing, naming them.
        ValueError: where one of them is damaged, naming it.
    """
    folder = Path(folder)
    needed = ["run.json", "systems.json", *(f"{name}.csv" for name in EVALUATION)]
    missing = [name for name in needed if not (folder / name).is_file()]
    if missing:
        raise FileNotFoundError(f"{folder}: missing {', '.join(missing)}; run notebook 04 (evaluation) first")
    there = [name for name in (*EVALUATION, *OPTIONAL) if (folder / f"{name}.csv").is_file()]
    tables = {name: read_table(folder / f"{name}.csv") for name in there}
    check_english(folder, tables)
    absent = tuple(f"{name}.csv" for name in OPTIONAL if name not in there)
    run, systems = read_described(folder, tables)
    languages.restore(run.get("languages", {}))
    return Results(run, systems, tables, absent)
