"""Numbers printed in papers, from `params/published.csv`: each with its source and whether that is a first-hand one."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from qalign_core.languages import PAPER_CODES as CODES
from qalign_core.params import PARAMS_FOLDER

PUBLISHED = PARAMS_FOLDER / "published.csv"
PAPER = "qalign_readme"  # the authors' own numbers of this paper
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


def published(benchmark: str, base_size: str = "7B", path: str | Path = PUBLISHED) -> pd.DataFrame:
    """Accuracies printed in papers for our systems: every source, as printed.

    Args:
        benchmark: `"mgsm"` or `"msvamp"`.
        base_size: `"7B"` or `"13B"`, LLaMA-2 in both cases.
        path: the file of published numbers.

    Returns:
        `system, published_name, language, value, source, tier`; `language` is a code, `average` or `non_english`,
        `value` in percent, `tier` is `primary` (the authors' own page) or `secondary` (a transcription or a re-run).

    Raises:
        ValueError: for a benchmark or a size of which the file has no accuracy.
    """
    rows = pd.read_csv(path, keep_default_na=False, dtype={"value": float})
    rows = rows[(rows["benchmark"].str.lower() == benchmark) & (rows["base_size"] == base_size)]
    rows = rows[(rows["metric"] == "accuracy_pct") & (rows["system"] != "")]
    if rows.empty:
        raise ValueError(
            f"{path}: no published accuracy on {benchmark!r} with LLaMA-2 {base_size!r}; use '7B' or '13B'"
        )
    language = rows["language"].str.lower().replace({"avg": "average", "nonen": "non_english"})
    rows = rows.assign(language=language)[language.isin([*CODES, "average", "non_english"])]
    return rows[["system", "published_name", "language", "value", "source", "tier"]].reset_index(drop=True)


def published_cells(benchmark: str, base_size: str = "7B", path: str | Path = PUBLISHED) -> pd.DataFrame:
    """At most one published number a system and column, fit to stand beside each other in one row.

    The average is the paper's own. Languages come from sources whose own average (or, where one prints none,
    the mean of its ten languages) agrees with the paper's within rounding, so that a row is one measurement.

    Returns:
        `system, language, value, source, tier`.
    """
    rows = published(benchmark, base_size, path)
    chosen = []
    for _, of_system in rows.groupby("system", sort=False):
        paper = of_system[of_system["source"] == PAPER]
        chosen.append(paper)
        average = paper.loc[paper["language"] == "average", "value"]
        for _, source in of_system[of_system["source"] != PAPER].groupby("source", sort=False):
            printed = source.loc[source["language"] == "average", "value"]
            mean = source.loc[source["language"].isin(CODES), "value"]
            own = printed.iloc[0] if len(printed) else mean.mean() if len(mean) == len(CODES) else None
            if own is not None and len(average) and abs(own - average.iloc[0]) <= 0.05:
                chosen.append(source)
    cells = pd.concat(chosen) if chosen else rows
    cells = cells.drop_duplicates(["system", "language"], keep="first")
    return cells[["system", "language", "value", "source", "tier"]].reset_index(drop=True)
