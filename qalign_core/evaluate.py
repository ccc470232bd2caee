"""From the answers of a run to its saved results, and the questions behind them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import pandas as pd
import sacrebleu

from qalign_core import plan, runs, scorer
from qalign_core.data.near_duplicates import near_duplicate_groups
from qalign_core.params import Profile
from qalign_core.runs import Run
from qalign_core.scores import brought, cleaned, comparisons, corrected, openings, primary, response_kinds, trace
from qalign_core.scores.predictions import read_benchmark
from qalign_core.scores.results import Results, write_consistency, write_csv, write_results
from qalign_core.training import model_card


def score_run(profile: Profile, run: Run, systems: Sequence[str] | None = None) -> pd.DataFrame:
    """Every answer of every system and seed, scored in both ways.

    Args:
        profile: the checked profile.
        run: where the answers are.
        systems: whose answers; those of chapter 4 unless said otherwise.

    Returns:
        Rows of `scorer.score`, and the kind of each wrong answer as `response_kinds.with_error_kinds` has it.

    Raises:
        FileNotFoundError, ValueError: for answers that are missing or belong to other questions, naming file and row.
    """
    gold, scored = benchmark_questions(profile, run), []
    for seed in profile.run.seeds:
        for system in profile.in_chapter(ablations=False) if systems is None else systems:
            if seed in profile.systems[system].seeds(profile.run):
                openings.record(profile, run, system, seed, "scored")
                predictions = brought.read_answers(profile, run, system, seed)
                answers = scorer.score(predictions, gold, system=system, seed=seed)
                scored.append(response_kinds.with_error_kinds(answers, predictions, profile))
    return pd.concat(scored, ignore_index=True)


def answering_jobs(profile: Profile, run: Run) -> Iterator[plan.Job]:
    """The jobs of chapter 4, in order: what every system is asked, and again where a question's text was corrected.

    Ask for one when those before it are done (`plan.prediction_jobs`); new answers are logged (`openings`).
    """
    for seed in profile.run.seeds:
        for system in brought.generated(profile):
            yield from openings.jobs(profile, run, system, seed)
            again = corrected.job(profile, run, system, seed)
            if again is not None:
                yield again


def benchmark_questions(profile: Profile, run: Run) -> pd.DataFrame:
    """Every question of the run with its gold answer: rows of `predictions.read_benchmark`."""
    folder, codes = run.folder / "data" / "benchmarks", profile.data.languages
    return pd.concat([read_benchmark(folder, name, codes) for name in profile.evaluation.benchmarks])


def declared_pairs(profile: Profile) -> Sequence[Sequence[str]]:
    """The differences that are tested: the profile's, or the paper's."""
    pairs = profile.evaluation.pairs
    return comparisons.DECLARED_PAIRS if pairs is None else pairs


def save_results(profile: Profile, run: Run, answers: pd.DataFrame) -> Results:
    """Compute and save what the tables and figures are drawn from; see `results` for the files."""
    _save_responses(profile, run, answers)
    saved = write_results(
        run.results,
        answers,
        profile=profile.run.profile,
        systems={name: system.model_dump(exclude_none=True) for name, system in profile.systems.items()},
        base_size=published_size(profile.model.base),
        mode=profile.evaluation.scorer,
        groups=near_duplicates(profile, run),
        pairs=declared_pairs(profile),
        floor=language_blind_floor(profile, run),
    )
    model_card.write_cards(profile, run)
    return saved


def _save_responses(profile: Profile, run: Run, answers: pd.DataFrame) -> None:
    groups, column = near_duplicates(profile, run), f"correct_{profile.evaluation.scorer}"
    outcomes = primary.outcomes(answers, groups, column=column)
    _write_if(run, "primary", outcomes if len(outcomes) else None)
    write_csv(run.results, "responses", response_kinds.rates(answers))
    write_csv(run.results, "errors", response_kinds.errors(answers))
    write_csv(run.results, "identified", response_kinds.identified(benchmark_questions(profile, run)))
    write_csv(run.results, "trace", trace.trace(profile, run, answers))
    broken = cleaned.broken_questions(profile, run)
    _write_if(run, "cleaned", cleaned.cleaned_accuracy(answers, broken) if len(broken) else None)
    mended = profile.evaluation.corrected
    _write_if(run, "corrected", corrected.corrected_accuracy(profile, run, answers) if mended else None)


def _write_if(run: Run, name: str, rows: pd.DataFrame | None) -> None:
    """Write a table of the results, or remove the one of earlier answers where there is none now."""
    if rows is None:
        (run.results / f"{name}.csv").unlink(missing_ok=True)
    else:
        write_csv(run.results, name, rows)


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
        if profile.data.source(name) == "miniature":
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
    data_sets = ["metamathqa", *profile.evaluation.benchmarks]
    if "metamathqa" not in profile.corpora() or any(profile.data.source(n) != "miniature" for n in data_sets):
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
