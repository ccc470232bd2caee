"""The small files that tables, figures and the report are drawn from, in `runs/<profile>/results/`.

`docs/results.md` lists them with their columns.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd

from qalign_core import comparisons, languages, scorer
from qalign_core.comparisons import OURS, WITHOUT, Groups
from qalign_core.languages import NON_ENGLISH, PAPER_CODES
from qalign_core.params import PARAMS_FOLDER
from qalign_core.runs import fingerprint, read_object, sha256_file, write_atomic, write_json

EVALUATION = ("accuracy", "intervals", "comparisons", "languages", "differences")
RESPONSES = ("responses", "errors", "identified", "cleaned", "trace", "primary", "openings")
CONSISTENCY = ("consistency", "agreement", "agreement_differences", "agreement_map", "solved")
ABLATIONS = ("ablations", "ablation_intervals", "ablation_rows", "ablation_responses")
REPRESENTATIONS = ("representations", "representations_points")
OPTIONAL = ("floor", *ABLATIONS, *REPRESENTATIONS, *RESPONSES, *CONSISTENCY, "corpora")
_WRITERS = {
    "01 (data preparation)": ("corpora", "lengths", "audit"),
    "03 (stage 2)": ("training",),
    "05 (consistency)": CONSISTENCY,
    "06 (ablations)": (*ABLATIONS, *REPRESENTATIONS),
}
# Names stay text, though they be digits.
_TEXT = (
    *("system", "a", "b", "benchmark", "language", "measure", "scorer", "method", "kind", "model", "set", "table"),
    *("corpus", "lineage", "recipe", "commit", "sha256", "verdict"),
    *("model_done", "model_fingerprint", "predictions_done", "predictions_fingerprint"),
)
_TEXT_OF = {"agreement_map": ("other",), "openings": ("answers",)}  # elsewhere a rate, and a count


# ------------------------------------------------------------------------------------------------- files


def _csv(rows: pd.DataFrame) -> str:
    return rows.to_csv(index=False, float_format="%.10g", lineterminator="\n")


def _write(folder: str | Path, name: str, content: str | bytes | dict) -> Path:
    """Write a file of a results folder and its checksum."""
    path, sums = Path(folder) / name, Path(folder) / "checksums.json"
    known = read_object(sums) if sums.is_file() else {}
    if known.pop(name, None):  # killed between the two writes below, the file is whole and has no checksum
        write_json(sums, known)
    write_json(path, content) if isinstance(content, dict) else write_atomic(path, content)
    write_json(sums, known | {name: sha256_file(path)})
    return path


def write_csv(folder: str | Path, name: str, rows: pd.DataFrame) -> Path:
    """Write `<name>.csv` of a results folder."""
    return _write(folder, f"{name}.csv", _csv(rows))


def _verify(path: Path) -> None:
    """Compare a file with its checksum; a folder of before there were checksums has none."""
    sums = path.with_name("checksums.json")
    known = read_object(sums).get(path.name) if sums.is_file() else None
    if known not in (None, sha256_file(path)):
        raise ValueError(f"{path}: not what the evaluation wrote (sha256 differs from checksums.json); {_again(path)}")


def _again(path: Path) -> str:
    writer = next((notebook for notebook, names in _WRITERS.items() if path.stem in names), "04 (evaluation)")
    return f"run notebook {writer} again"


def read_table(path: Path) -> pd.DataFrame:
    """A table of a results folder; a ValueError names a damaged file and the notebook that writes it."""
    _verify(path)
    text = dict.fromkeys([*_TEXT, *_TEXT_OF.get(path.stem, ())], str)
    try:  # "none" and "null" are words in these files; only an empty field is a missing value
        return pd.read_csv(path, keep_default_na=False, na_values=[""], dtype=text)
    except ValueError as error:  # pandas' own errors are of this kind, too
        raise ValueError(f"{path}: not a table ({str(error).strip()}); {_again(path)}") from None


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


def read_results(folder: str | Path) -> Results:
    """Read a results folder; an error names the evaluation's files that are missing or damaged."""
    folder = Path(folder)
    needed = ["run.json", "systems.json", *(f"{name}.csv" for name in EVALUATION)]
    missing = [name for name in needed if not (folder / name).is_file()]
    if missing:
        raise FileNotFoundError(f"{folder}: missing {', '.join(missing)}; run notebook 04 (evaluation) first")
    there = [name for name in (*EVALUATION, *OPTIONAL) if (folder / f"{name}.csv").is_file()]
    tables = {name: read_table(folder / f"{name}.csv") for name in there}
    for name in ("run.json", "systems.json"):
        _verify(folder / name)
    run, systems = read_object(folder / "run.json"), read_object(folder / "systems.json")
    languages.restore(run.get("languages", {}))
    return Results(run, systems, tables, tuple(f"{name}.csv" for name in OPTIONAL if name not in there))


LOG_COLUMNS = ["time", "action", "benchmark", "split", "system", "seed", "questions", "recipe", "answers"]


def read_log(folder: Path) -> pd.DataFrame:
    """The evaluation log of a results folder, oldest first; empty where there is none."""
    path = folder / "openings.csv"
    if not path.is_file():
        return pd.DataFrame(columns=LOG_COLUMNS)
    return pd.read_csv(path, dtype={"recipe": str, "answers": str, "system": str}, keep_default_na=False)


# ------------------------------------------------------------------------------------------------- from answers


def write_results(
    folder: str | Path,
    answers: pd.DataFrame,
    *,
    profile: str,
    systems: Mapping[str, Mapping[str, Any]],
    base_size: str | None = "7B",
    mode: str = "paper",
    groups: Groups = None,
    pairs: Sequence[Sequence[str]] = comparisons.DECLARED_PAIRS,
    floor: pd.DataFrame | None = None,
) -> Results:
    """Compute and save what the evaluation's tables and figures are drawn from.

    What chapters 5 and 6 made of other answers than these is removed; where what they rest on is the same, it stays.

    Args:
        answers: rows of `scorer.score`, all systems, seeds and benchmarks.
        profile: its name.
        systems: system → its entry in the profile (`lineage`, `checkpoint`, `published`, `table`), in order.
        base_size: size of the published numbers to show beside ours, or `None`.
        mode: the scorer whose numbers are compared; all are in `accuracy.csv`.
        floor: `benchmark, language, accuracy` of the language-blind rule.
    """
    folder = Path(folder)
    answered, main = set(answers["system"]), {n for n, e in systems.items() if e.get("table", "main") == "main"}
    if (unknown := answered - set(systems)) | (without := main - answered):
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
    inputs, path = _inputs(answers, computed["intervals"], entries, mode), folder / "inputs.json"
    before = read_object(path) if path.is_file() else {}
    for chapter, names in (("consistency", CONSISTENCY), ("ablations", (*ABLATIONS, *REPRESENTATIONS))):
        for name in names if before.get(chapter) != inputs[chapter] else ():
            (folder / f"{name}.csv").unlink(missing_ok=True)
    for name, rows in computed.items():
        write_csv(folder, name, rows)
    buffer = io.BytesIO()
    answers.to_parquet(buffer, index=False)
    _write(folder, "answers.parquet", buffer.getvalue())
    questions = answers.groupby("benchmark")["index"].nunique()
    seeds = sorted(map(int, set(answers["seed"])))
    run: dict[str, Any] = {"profile": profile, "base_size": base_size, "scorer": mode, "seeds": seeds}
    run["questions"] = {name: int(n) for name, n in questions.items()}
    if described := languages.described(answers["language"].unique()):
        run["languages"] = described
    _write(folder, "run.json", run)
    _write(folder, "systems.json", entries)
    write_json(path, inputs)  # last: until then, what chapter 5 or 6 makes is of nobody knows which answers
    return read_results(folder)


def _inputs(answers: pd.DataFrame, intervals: pd.DataFrame, entries: Mapping[str, Any], mode: str) -> dict[str, str]:
    """Fingerprints of what the files of chapters 5 and 6 rest on: all answers of chapter 4; those of the baseline and
    the paper's method, and which systems are compared. The intervals say which questions are near-duplicates.
    """
    compared = {name: entry for name, entry in entries.items() if entry.get("table", "main") != "main"}

    def made_of(names: Sequence[str], *more: Any) -> str:
        return fingerprint([mode, *more, *(_csv(rows[rows["system"].isin(names)]) for rows in (answers, intervals))])

    return {"consistency": made_of(list(entries)), "ablations": made_of([WITHOUT, OURS], compared)}


def write_consistency(folder: str | Path, groups: Groups = None) -> Results:
    """Compute and save what the tables and figures of consistency are drawn from, out of the scored answers. Where all
    questions are English there is nothing to agree with, and nothing is saved."""
    folder = Path(folder)
    for name in CONSISTENCY:  # made of earlier answers
        (folder / f"{name}.csv").unlink(missing_ok=True)
    results = read_results(folder)
    path = folder / "answers.parquet"
    if not path.is_file():
        raise FileNotFoundError(f"{folder}: missing answers.parquet; run notebook 04 (evaluation) first")
    _verify(path)
    answers, mode = pd.read_parquet(path), results.run["scorer"]
    agrees = comparisons.agreement(answers, mode)
    if agrees.empty:
        return results
    computed = {
        "consistency": comparisons.consistency(answers, mode),
        "agreement": comparisons.intervals(agrees, groups, column="agrees"),
        "agreement_map": comparisons.agreement_map(answers, mode),
        "solved": comparisons.solved_languages(answers, mode),
    }
    if WITHOUT in results.systems:
        pairs = [(name, WITHOUT) for name in results.systems if name != WITHOUT]
        measures = (*NON_ENGLISH, "non_english")
        differences = comparisons.compare(agrees, pairs, groups, column="agrees", measures=measures)
        computed["agreement_differences"] = differences
    for name, rows in computed.items():
        write_csv(folder, name, rows)
    return read_results(folder)


# ------------------------------------------------------------------------------------------------- published numbers

PUBLISHED = PARAMS_FOLDER / "published.csv"
SIZES = ("7B", "13B")  # of LLaMA-2, of which the paper has numbers
SECONDARY = "†"  # marks a number that was not read from its authors' own page
# The `source` of a row, in words.
SOURCES = {
    "qalign_readme": "README of NJUNLP/QAlign",
    "qalign_abstract": "abstract of arXiv 2401.07817",
    "notes_2405_01345": "a transcription of tables II and IV of arXiv 2405.01345",
    "notes_literature": "a literature table that quotes QAlign and MindMerger",
    "abstract_2405_01345": "abstract of arXiv 2405.01345",
    "mathoctopus_readme": "README of microsoft/MathOctopus",
    "mapo_readme": "README of NJUNLP/MAPO (arXiv 2401.06838)",
    "mcot_readme": "README of laihuiyuan/mCoT (arXiv 2406.02301)",
    "mindmerger_readme": "README of CONE-MT/MindMerger (arXiv 2405.17386)",
    "layalign_2502_11405": "table 2 of arXiv 2502.11405",
    "souper_2511_13254": "table 2a of arXiv 2511.13254",
}


@cache
def published_cells(benchmark: str, base_size: str = "7B") -> pd.DataFrame:
    """At most one published accuracy per system of ours and column, fit to stand beside each other in one row.

    The average is the paper's own. Languages come from sources whose own average (or, where one prints none,
    the mean of its ten languages) agrees with the paper's within rounding, so that a row is one measurement.

    Returns:
        `system, language, value, source, tier, link`; `language` is a code, `average` or `non_english`, `value` in
        percent, `tier` is `primary` (the authors' own page) or `secondary` (a transcription or a re-run), `link` where
        it was read, to the line if that is known.

    Raises:
        ValueError: for a benchmark or a size of which the file has no accuracy.
    """
    rows = pd.read_csv(PUBLISHED, keep_default_na=False, dtype={"value": float})
    rows = rows[(rows["benchmark"].str.lower() == benchmark) & (rows["base_size"] == base_size)]
    rows = rows[(rows["metric"] == "accuracy_pct") & (rows["system"] != "")]
    if rows.empty:
        raise ValueError(f"{PUBLISHED}: no published accuracy on {benchmark!r} with LLaMA-2 {base_size!r}")
    rows["language"] = rows["language"].str.lower().replace({"avg": "average", "nonen": "non_english"})
    rows = rows[rows["language"].isin([*PAPER_CODES, "average", "non_english"])]
    chosen = []
    for _, of_system in rows.groupby("system", sort=False):
        paper = of_system[of_system["source"] == "qalign_readme"]  # the authors' own numbers of this paper
        chosen.append(paper)
        average = paper.loc[paper["language"] == "average", "value"]
        for _, source in of_system.drop(paper.index).groupby("source", sort=False):
            printed = source.loc[source["language"] == "average", "value"]
            mean = source.loc[source["language"].isin(PAPER_CODES), "value"]
            own = printed.iloc[0] if len(printed) else mean.mean() if len(mean) == len(PAPER_CODES) else None
            if own is not None and len(average) and abs(own - average.iloc[0]) <= 0.05:
                chosen.append(source)
    cells = pd.concat(chosen).drop_duplicates(["system", "language"], keep="first")
    cells["link"] = cells["url"] + cells["line"].map(lambda line: f"#L{line}" if line.isdigit() else "")
    return cells[["system", "language", "value", "source", "tier", "link"]].reset_index(drop=True)
