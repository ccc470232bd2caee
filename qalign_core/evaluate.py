"""From the answers of a run to its saved results, and the questions behind them."""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd
import sacrebleu

from qalign_core import brought, cleaned, plan, response_kinds, runs, scorer
from qalign_core.near_duplicates import near_duplicate_groups
from qalign_core.params import Profile
from qalign_core.predictions import read_benchmark
from qalign_core.results import Results, write_consistency, write_csv, write_results
from qalign_core.runs import Run
from qalign_core.schema import DataSet


def score_run(profile: Profile, run: Run) -> pd.DataFrame:
    """Every answer of every system and seed, scored in both ways.

    Returns:
        Rows of `scorer.score`, and the kind of each wrong answer as `response_kinds.with_error_kinds` has it.

    Raises:
        FileNotFoundError, ValueError: for answers that are missing or belong to other questions, naming file and row.
    """
    codes = profile.data.languages
    folder = run.folder / "data" / "benchmarks"
    gold = pd.concat([read_benchmark(folder, name, codes) for name in profile.evaluation.benchmarks])
    scored = []
    for seed in profile.run.seeds:
        for system, entry in profile.systems.items():
            if seed in entry.seeds(profile.run):
                predictions = brought.read_answers(profile, run, system, seed)
                answers = scorer.score(predictions, gold, system=system, seed=seed)
                scored.append(response_kinds.with_error_kinds(answers, predictions, profile))
    return pd.concat(scored, ignore_index=True)


def save_results(profile: Profile, run: Run, answers: pd.DataFrame) -> Results:
    """Compute and save what the tables and figures are drawn from; see `results` for the files."""
    _save_responses(profile, run, answers)
    return write_results(
        run.results,
        answers,
        profile=profile.run.profile,
        systems={name: system.model_dump(exclude_none=True) for name, system in profile.systems.items()},
        base_size=published_size(profile.model.base),
        mode=profile.evaluation.scorer,
        groups=near_duplicates(profile, run),
        floor=language_blind_floor(profile, run),
    )


def _save_responses(profile: Profile, run: Run, answers: pd.DataFrame) -> None:
    write_csv(run.results, "responses", response_kinds.rates(answers))
    write_csv(run.results, "errors", response_kinds.errors(answers))
    broken = cleaned.broken_questions(profile, run)
    if len(broken):
        write_csv(run.results, "cleaned", cleaned.cleaned_accuracy(answers, broken))
    else:
        (run.results / "cleaned.csv").unlink(missing_ok=True)


def save_consistency(profile: Profile, run: Run) -> Results:
    """Compute and save what the tables and figures of consistency are drawn from, out of the answers scored before."""
    return write_consistency(run.results, near_duplicates(profile, run))


def published_size(base: str) -> str | None:
    """The size of LLaMA-2 whose published numbers may stand beside a base model's: its own, or 7B for the miniature."""
    if base == "miniature":
        return "7B"
    found = re.search(r"llama-2-(7|13)b", base.lower())
    return f"{found[1]}B" if found else None


def near_duplicates(profile: Profile, run: Run) -> dict[str, pd.Series]:
    """Questions that are not independent of one another: benchmark → the group of each question.

    mSVAMP varies a story several times over. The miniature's questions come in minimal pairs, which share their
    numbers. mGSM's questions are all different.
    """
    groups: dict[str, pd.Series] = {}
    for name in profile.evaluation.benchmarks:
        rows = pd.DataFrame(runs.read_json_lines(run.benchmark(name, "en")))
        labels: list[str] | list[int]
        if profile.data.sources[name] == "miniature":
            labels = [" ".join(re.findall(r"\d+", text)) for text in rows.question]
        elif name == "msvamp":
            labels = near_duplicate_groups(rows.question.tolist())
        else:
            continue
        groups[name] = pd.Series(labels, index=rows["index"])
    return groups


def language_blind_floor(profile: Profile, run: Run) -> pd.DataFrame | None:
    """What a rule reaches that sees only the numbers of a question, fitted on stage 2's data; miniature only.

    Returns:
        `benchmark, language, accuracy` (percent), or None where the data is not the miniature's.
    """
    data_sets: list[DataSet] = ["metamathqa", *profile.evaluation.benchmarks]
    if "metamathqa" not in profile.corpora() or any(profile.data.sources[n] != "miniature" for n in data_sets):
        return None
    from qalign_core import miniature

    solved = runs.read_json_lines(
        run.corpus("metamathqa", plan.corpus_seed(profile, "metamathqa", profile.run.seeds[0]))
    )
    rows = []
    for name in profile.evaluation.benchmarks:
        for code in profile.data.languages:
            asked = runs.read_json_lines(run.benchmark(name, code))
            rows.append(
                {"benchmark": name, "language": code, "accuracy": miniature.language_blind_floor(solved, asked)}
            )
    return pd.DataFrame(rows)


# ------------------------------------------------------------------------------------------------- translations


def translation_quality(folders: dict[int, Path], references: Path) -> pd.DataFrame:
    """How well stage 1 translates, a line a seed and language.

    Args:
        folders: seed → folder of the translation job.
        references: the English questions, `index, question, answer`.

    Returns:
        `seed, language, sentences, bleu, chrf` (0 to 100, sacrebleu's defaults), `exact` and `numbers` (percent: equal
        to the reference; every number of the reference there).
    """
    english = {row["index"]: row["question"] for row in runs.read_json_lines(references)}
    rows = []
    for seed, folder in folders.items():
        for path in sorted((folder / "translation").glob("*.jsonl")):
            answers = runs.read_json_lines(path)
            said = [answer["response"].strip() for answer in answers]
            meant = [english[answer["index"]].strip() for answer in answers]
            rows.append(
                {
                    "seed": seed,
                    "language": path.stem,
                    "sentences": len(said),
                    "bleu": sacrebleu.corpus_bleu(said, [meant]).score,
                    "chrf": sacrebleu.corpus_chrf(said, [meant]).score,
                    "exact": 100 * sum(a == b for a, b in zip(said, meant, strict=True)) / len(said),
                    "numbers": 100
                    * sum(_numbers(b) <= _numbers(a) for a, b in zip(said, meant, strict=True))
                    / len(said),
                }
            )
    return pd.DataFrame(rows)


def _numbers(text: str) -> set[str]:
    return {word for word in "".join(c if c.isdecimal() else " " for c in text).split()}


# ------------------------------------------------------------------------------------------------- training


def training_curves(jobs: dict[tuple[int, tuple[str, ...]], plan.Job]) -> pd.DataFrame:
    """The losses that every stage's progress file holds.

    Args:
        jobs: (seed, lineage) → its job, done.

    Returns:
        `lineage, seed, step, loss`.
    """
    rows = [
        {"lineage": "/".join(lineage) or plan.BASE_TEXT, "seed": seed, "step": line["step"], "loss": line["loss"]}
        for (seed, lineage), job in jobs.items()
        for line in runs.read_json_lines(job.folder / "progress.jsonl")
        if line.get("loss") is not None
    ]
    return pd.DataFrame(rows)
