"""From the answers of a run to its saved results, and where every number comes from."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd
import sacrebleu

from qalign_core import comparisons, models, plan, responses, results, runs, scorer
from qalign_core.audit import near_duplicate_groups
from qalign_core.benchmarks import benchmark_files
from qalign_core.comparisons import OURS, WITHOUT
from qalign_core.corpora import corpus_seed
from qalign_core.params import Profile
from qalign_core.runs import Run

# ------------------------------------------------------------------------------------------------- whose answers


def generated(profile: Profile, *, ablations: bool = False) -> list[str]:
    """The systems of chapter 4, or of chapter 6, whose answers are generated here and not external predictions."""
    return [n for n in profile.in_chapter(ablations=ablations) if profile.systems[n].predictions is None]


def answers_folder(profile: Profile, run: Run, system: str, seed: int) -> Path:
    """Where a system's answers are: those generated here, or external predictions."""
    external = profile.systems[system].predictions
    return Path(external) if external is not None else plan.prediction_job(profile, run, system, seed).folder


def read_answers(profile: Profile, run: Run, system: str, seed: int) -> pd.DataFrame:
    """A system's answers to every benchmark in every language of the profile: rows of `scorer.read_predictions`."""
    entry, asked = profile.systems[system], profile.evaluation.benchmarks
    folder, codes = answers_folder(profile, run, system, seed), profile.data.languages
    if entry.predictions is None:
        return scorer.read_predictions(folder, asked, codes)
    fields = {str(ours): theirs for ours, theirs in (entry.fields or {}).items()}
    how: dict[str, Any] = {"fields": fields, "files": entry.files, "only": entry.filter, "samples": entry.samples}
    found = scorer.read_predictions(folder, asked, codes, **how)
    cut = [name for name, test in asked.items() if test.limit or test.drop]
    return scorer.fitted(found, benchmark_questions(profile, run), cut)


def _prediction_files(profile: Profile, folder: str, files: str | None = None) -> dict[tuple[str, str], Path]:
    """Benchmark and language → file of answers."""
    asked = [(name, code) for name in profile.evaluation.benchmarks for code in profile.data.languages]
    return {(name, code): scorer.prediction_file(folder, name, code, files) for name, code in asked}


def external_files(profile: Profile) -> dict[str, dict[str, str]]:
    """The user's own files a profile reads: system, benchmark or corpus → file → sha256, of those that are there."""
    files: dict[str, list[Path]] = {}
    for name, test in profile.evaluation.benchmarks.items():
        if test.folder is not None:
            files[f"evaluation.benchmarks.{name}"] = [
                Path(test.folder, place) for code in profile.data.languages for place in benchmark_files(name, code)
            ]
    for name, choice in profile.data.corpora.items():
        if choice.path is not None:
            files[f"data.corpora.{name}"] = [Path(choice.path)]
    for name, entry in profile.systems.items():
        if entry.predictions is not None:
            files[name] = list(_prediction_files(profile, entry.predictions, entry.files).values())
    return {name: {str(p): runs.sha256_file(p) for p in paths if p.is_file()} for name, paths in files.items()}


def external_overview(profile: Profile) -> Iterator[tuple[str, bool, str]]:
    """Every system with external predictions: its name, whether all its files are there, and if not, which is not."""
    for system, entry in profile.systems.items():
        if entry.predictions is not None:
            wanted = list(_prediction_files(profile, entry.predictions, entry.files).values())
            missing = [path for path in wanted if not path.is_file()]
            why = f"{len(missing)} of {len(wanted)} files are missing, first {missing[0]}" if missing else ""
            name = f"answers    {system}: external predictions from {entry.predictions}, nothing is generated"
            yield name, not missing, why


def answering_jobs(profile: Profile, run: Run, *, ablations: bool = False) -> Iterator[list[plan.Job]]:
    """The jobs that ask every system of chapter 4 (or 6), in groups that may run together, the systems trained here
    first; ask for a group when those before it have run.

    When a system has answered, and had not before, the evaluation log says so.
    """
    names = generated(profile, ablations=ablations)
    trained = [name for name in names if profile.systems[name].lineage is not None]
    for seed in profile.run.seeds:
        for systems in filter(None, [trained, *([name] for name in names if name not in trained)]):
            left = {name: plan.prediction_jobs(profile, run, name, seed) for name in systems}
            for turn in (0, 1):  # a system whose questions are translated answers in the second
                jobs = {name: job for name, waiting in left.items() if (job := next(waiting, None))}
                new = [name for name, job in jobs.items() if not job.done]
                if jobs:
                    yield list(jobs.values())
                left = {name: left[name] for name, job in jobs.items() if job.done}
                for name in new:
                    if name in left and turn == bool(profile.systems[name].translator):
                        log_evaluation(profile, run, name, seed, "answered")


def answered(profile: Profile, run: Run) -> Profile:
    """The profile without the systems of chapter 4 that could not be asked."""

    def lacks(system: str) -> bool:
        try:
            return any(not plan.prediction_job(profile, run, system, seed).done for seed in profile.run.seeds)
        except FileNotFoundError:  # an earlier stage, or the translation of its questions
            return True

    absent = {name for name in generated(profile) if lacks(name)}
    return with_systems(profile, profile.systems.keys() - absent) if absent else profile


def with_systems(profile: Profile, names: Collection[str]) -> Profile:
    """The profile with only these of its systems, and the comparisons in which both are left."""
    left = {
        name: entry if entry.against in names else entry.model_copy(update={"against": None})
        for name, entry in profile.systems.items()
        if name in names
    }
    pairs = profile.evaluation.pairs
    kept = pairs and [pair for pair in pairs if set(pair) <= set(names)]
    evaluation = profile.evaluation.model_copy(update={"pairs": kept})
    return profile.model_copy(update={"systems": left, "evaluation": evaluation})


# ------------------------------------------------------------------------------------------------- evaluation log

_SHORT = 12  # characters of a fingerprint that are shown
_ASKED = ("mgsm", "msvamp", "dev")  # sizes of the miniature that are about what is asked, not what is trained on


def log_evaluation(profile: Profile, run: Run, system: str, seed: int, action: str) -> None:
    """Add a line per benchmark to the evaluation log, unless it has this action (`answered` or `scored`) on these very
    answers already.

    A recipe that is chosen after many looks at a test set fits that test set: so every look leaves a line.
    """
    log, answers = results.read_log(run.results), answers_fingerprint(profile, run, system, seed)
    same = {"action": action, "system": system, "seed": seed, "answers": answers}
    seen = set(log[(log[list(same)] == pd.Series(same)).all(axis=1)].benchmark)
    lines: list[dict[str, Any]] = []
    for benchmark in profile.evaluation.benchmarks:
        if benchmark not in seen:
            miniature = profile.data.source(benchmark) == "miniature"
            asked = [runs.read_json_lines(run.benchmark(benchmark, code)) for code in profile.data.languages]
            line = same | {"benchmark": benchmark, "questions": sum(map(len, asked))}
            line["time"] = datetime.now(UTC).isoformat(timespec="seconds")
            line["split"] = profile.data.miniature.split if miniature else "test"
            lines.append(line | {"recipe": recipe_fingerprint(profile, system)})
    if lines:
        new = pd.DataFrame(lines, columns=results.LOG_COLUMNS)
        results.write_csv(run.results, "openings", pd.concat([log, new]) if len(log) else new)


def recipe_fingerprint(profile: Profile, system: str) -> str:
    """Of what makes a system: model, data, lineage and training; not how and what it is asked."""
    entry = profile.systems[system]
    trained = [*(entry.lineage or []), *(entry.translator or [])]
    corpora = {name for corpus in trained for name in profile.data.ancestry(corpus)}
    data: dict[str, Any] = profile.data.model_dump(mode="json")
    data["corpora"] = {name: choice for name, choice in data["corpora"].items() if name in corpora}
    sizes = {name: size for name, size in data["miniature"]["sizes"].items() if name not in _ASKED}
    data["miniature"] = {"style": data["miniature"]["style"], "sizes": sizes}
    recipe = {"data": data, "system": entry.model_dump(mode="json", exclude={"published", "table"})}
    recipe |= {name: getattr(profile, name).model_dump(mode="json") for name in ("model", "training")}
    return runs.fingerprint(recipe)[:_SHORT]


def answers_fingerprint(profile: Profile, run: Run, system: str, seed: int) -> str:
    """Of a system's answers: of the job that makes them, or of the files of external predictions."""
    if profile.systems[system].predictions is not None:
        return runs.fingerprint(external_files(profile)[system])[:_SHORT]
    return plan.prediction_job(profile, run, system, seed).content["fingerprint"][:_SHORT]


# ------------------------------------------------------------------------------------------------- scores


def benchmark_questions(profile: Profile, run: Run) -> pd.DataFrame:
    """Every question of the run with its gold answer: rows of `scorer.read_benchmark`."""
    folder, codes = run.folder / "data" / "benchmarks", profile.data.languages
    return pd.concat([scorer.read_benchmark(folder, name, codes) for name in profile.evaluation.benchmarks])


def score_run(profile: Profile, run: Run, systems: Sequence[str] | None = None) -> pd.DataFrame:
    """Every answer of every system (those of chapter 4 unless given) and seed: rows of `scorer.score`, with the kind
    of each wrong answer.

    Raises:
        FileNotFoundError, ValueError: for answers that are missing or belong to other questions, naming file and row.
    """
    gold, scored = benchmark_questions(profile, run), []
    for seed in profile.run.seeds:
        for system in profile.in_chapter(ablations=False) if systems is None else systems:
            if seed in profile.systems[system].seeds(profile.run):
                log_evaluation(profile, run, system, seed, "scored")
                predictions = read_answers(profile, run, system, seed)
                answers = scorer.score(predictions, gold, system=system, seed=seed)
                scored.append(responses.with_error_kinds(answers, predictions, profile.evaluation.scorer))
    return pd.concat(scored, ignore_index=True)


def declared_pairs(profile: Profile) -> Sequence[Sequence[str]]:
    """The differences that are tested: the profile's, or the paper's."""
    return comparisons.DECLARED_PAIRS if profile.evaluation.pairs is None else profile.evaluation.pairs


def save_results(profile: Profile, run: Run, answers: pd.DataFrame) -> results.Results:
    """Compute and save what the tables and figures are drawn from; see `results` for the files."""
    groups, mode = near_duplicates(profile, run), profile.evaluation.scorer
    # The size of LLaMA-2 whose published numbers may stand beside ours: the base's own, or 7B for the miniature.
    size = re.search(r"llama-2-(7|13)b", profile.model.base.lower())
    computed = {
        "primary": comparisons.primary_outcomes(answers, groups, column=f"correct_{mode}"),
        "responses": responses.rates(answers),
        "errors": responses.errors(answers),
        "identified": responses.identified(benchmark_questions(profile, run)),
        "trace": trace(profile, run, answers),
        "cleaned": responses.cleaned_accuracy(answers, responses.broken_questions(profile, run)),
    }
    for name, rows in computed.items():
        if rows.empty:
            (run.results / f"{name}.csv").unlink(missing_ok=True)  # of earlier answers
        else:
            results.write_csv(run.results, name, rows)
    saved = results.write_results(
        run.results,
        answers,
        profile=profile.run.profile,
        systems={name: system.model_dump(exclude_none=True) for name, system in profile.systems.items()},
        base_size="7B" if profile.model.base == "miniature" else f"{size[1]}B" if size else None,
        mode=mode,
        groups=groups,
        pairs=declared_pairs(profile),
        floor=language_blind_floor(profile, run),
    )
    models.write_cards(profile, run)
    return saved


def save_consistency(profile: Profile, run: Run) -> results.Results:
    """Compute and save what the tables and figures of consistency are drawn from, out of the answers scored before."""
    return results.write_consistency(run.results, near_duplicates(profile, run))


def near_duplicates(profile: Profile, run: Run) -> dict[str, pd.Series]:
    """Questions that are not independent of one another: benchmark → the group of each question."""
    groups: dict[str, pd.Series] = {}
    for name in profile.evaluation.benchmarks:
        rows = pd.DataFrame(runs.read_json_lines(runs.prepared(run.benchmark(name, "en"))))
        if profile.data.source(name) == "miniature":  # minimal pairs, which share their numbers
            groups[name] = rows.set_index("index").question.str.findall(r"\d+").str.join(" ")
        elif name == "msvamp":  # varies a story several times over; mGSM's questions are all different
            groups[name] = pd.Series(near_duplicate_groups(rows.question.tolist()), index=rows["index"])
    return groups


def language_blind_floor(profile: Profile, run: Run) -> pd.DataFrame | None:
    """What a rule reaches that sees only the numbers of a question, fitted on stage 2's data: `benchmark, language,
    accuracy` (percent), or None where the data is not the miniature's.
    """
    names = list(profile.evaluation.benchmarks)
    if "metamathqa" not in profile.corpora() or {*map(profile.data.source, ["metamathqa", *names])} != {"miniature"}:
        return None
    from qalign_core import miniature

    solved = runs.read_json_lines(run.corpus("metamathqa", corpus_seed(profile, "metamathqa", profile.run.seeds[0])))
    rows = [
        (name, code, miniature.language_blind_floor(solved, runs.read_json_lines(run.benchmark(name, code))))
        for name in names
        for code in profile.data.languages
    ]
    return pd.DataFrame(rows, columns=["benchmark", "language", "accuracy"])


# ------------------------------------------------------------------------------------------------- provenance

AS_GENERATED, CHANGED, ELSEWHERE = "as generated", "changed since", "made elsewhere"
TRACE_COLUMNS = [
    *("system", "seed", "benchmark", "language", "lineage", "model", "model_done", "model_fingerprint"),
    *("predictions", "sha256", "state", "predictions_done", "predictions_fingerprint", "commit"),
]


def trace(profile: Profile, run: Run, answers: pd.DataFrame) -> pd.DataFrame:
    """The provenance of every cell of Tables 2 and 3: one row per system, seed, benchmark and language.

    Returns:
        `TRACE_COLUMNS`: paths are relative to the run folder if they lie in it. `model_done` and `predictions_done` are
        the `done.json` of the model's last stage and of the generation (missing where this run did not train or
        generate); `commit` is the package's at generation; `state` compares the file with its checksum in `done.json`.
    """
    rows = []
    for system, seed in answers[["system", "seed"]].drop_duplicates().itertuples(index=False):
        entry, folder = profile.systems[system], answers_folder(profile, run, system, int(seed))
        origin: dict[str, Any] = {"lineage": "predictions made elsewhere", "model": None}
        files: dict[str, str] = {}
        if entry.predictions is None:
            done = runs.read_json(folder / "done.json")
            files, lineage = done.get("files", {}), " → ".join(["base", *(entry.lineage or [])])
            lineage = lineage if entry.checkpoint is None else f"checkpoint {entry.checkpoint}"
            if entry.translator:
                translator = " → ".join(["base", *entry.translator])
                lineage = f"questions translated by {translator}, answered by {lineage}"
            origin = {
                "lineage": lineage,
                "model": runs.read_json(folder / "job.json")["model"]["path"],
                "predictions_done": run.relative(folder / "done.json"),
                "predictions_fingerprint": done["fingerprint"],
                "commit": done.get("git_commit"),
            }
            stage = run.stage(int(seed), entry.lineage or []) / "done.json"
            if entry.checkpoint is None and stage.is_file():
                fingerprint = runs.read_json(stage)["fingerprint"]
                origin |= {"model_done": run.relative(stage), "model_fingerprint": fingerprint}
        for (name, code), path in _prediction_files(profile, str(folder), entry.files).items():
            sha256, known = runs.sha256_file(path), files.get(f"{name}/{code}.jsonl")
            state = ELSEWHERE if known is None else AS_GENERATED if known == sha256 else CHANGED
            key = {"system": system, "seed": int(seed), "benchmark": name, "language": code}
            rows.append(key | origin | {"predictions": run.relative(path), "sha256": sha256, "state": state})
    return pd.DataFrame(rows, columns=TRACE_COLUMNS)


# ------------------------------------------------------------------------------------------------- chapter 6


def ablation_systems(profile: Profile) -> list[str]:
    """What chapter 6 compares: the baseline and the paper's method if they are there, then its own systems."""
    return [*(name for name in (WITHOUT, OURS) if name in profile.systems), *profile.in_chapter(ablations=True)]


def ablation_pairs(profile: Profile) -> list[tuple[str, str]]:
    """The declared differences: every system with QAlign, and with the one it names as `against`.

    A system whose corpora leave out a language is compared with the baseline, too, whose stage 1 lacks all of them.
    """
    named, own = ablation_systems(profile), profile.in_chapter(ablations=True)
    pairs = [(name, OURS) for name in named if name != OURS and OURS in named]
    pairs += [(name, other) for name in own if (other := profile.systems[name].against) not in (None, OURS)]
    return pairs + [(name, WITHOUT) for name in left_out(profile) if WITHOUT in named]


def left_out(profile: Profile) -> dict[str, list[str]]:
    """The systems of chapter 6 whose corpora leave out languages → which."""
    found: dict[str, list[str]] = {}
    for name in profile.in_chapter(ablations=True):
        for corpus in profile.systems[name].lineage or ():
            if corpus in profile.data.corpora and (without := profile.data.corpora[corpus].without):
                found[name] = [*found.get(name, []), *without]
    return found


def ablation_rows(profile: Profile, run: Run) -> pd.DataFrame:
    """What each system's stage 1 was trained on, if it has one: `system, table, stage_1, examples, target_tokens`."""
    columns, found = ["system", "table", "stage_1", "examples", "target_tokens"], []
    for name in ablation_systems(profile):
        entry = profile.systems[name]
        row: dict[str, Any] = {"system": name, "table": entry.table}
        if entry.lineage and len(entry.lineage) > 1:
            stage = run.stage(profile.run.seeds[0], entry.lineage[:1])
            metrics = runs.read_json(stage / "done.json")["metrics"]
            row |= {"stage_1": entry.lineage[0], "examples": metrics["rows"], "target_tokens": metrics["target_tokens"]}
        found.append(row)
    return pd.DataFrame(found, columns=columns).astype({"examples": "Int64", "target_tokens": "Int64"})


def save_ablations(profile: Profile, run: Run) -> results.Results:
    """Score the answers of chapter 6's systems and save what its tables and figures are drawn from."""
    for name in results.ABLATIONS:  # made of earlier answers
        (run.results / f"{name}.csv").unlink(missing_ok=True)
    if profile.in_chapter(ablations=True):
        answers, groups = score_run(profile, run, ablation_systems(profile)), near_duplicates(profile, run)
        pairs, mode = ablation_pairs(profile), profile.evaluation.scorer
        write_ablations(run.results, answers, pairs, left_out(profile), groups, mode)
        results.write_csv(run.results, "ablation_rows", ablation_rows(profile, run))
        models.write_cards(profile, run)
    return results.read_results(run.results)


def write_ablations(
    folder: str | Path,
    answers: pd.DataFrame,
    declared: Sequence[tuple[str, str]],
    lacks: Mapping[str, Sequence[str]],
    groups: comparisons.Groups = None,
    mode: str = "paper",
) -> None:
    """Compute and save chapter 6's accuracies by the scorer `mode`, and the differences of `ablation_pairs`; systems of
    `left_out` are compared in the languages they lack, too."""
    column = f"correct_{mode}"
    measures = [*comparisons.MEASURES, *dict.fromkeys(code for codes in lacks.values() for code in codes)]
    rows = comparisons.compare(answers, declared, groups, column=column, measures=measures)
    named = zip(rows["a"], rows["measure"], strict=True)
    wanted = [measure in comparisons.MEASURES or measure in lacks.get(system, ()) for system, measure in named]
    results.write_csv(folder, "ablation_intervals", comparisons.intervals(answers, groups, column=column))
    results.write_csv(folder, "ablations", rows.loc[wanted].reset_index(drop=True))
    results.write_csv(folder, "ablation_responses", responses.rates(answers))


# ------------------------------------------------------------------------------------------------- representations

PARALLEL = "mgsm"
REPRESENTED = 100  # questions per language, at most


def representation_jobs(profile: Profile, run: Run) -> Iterator[tuple[str, int, plan.Job]]:
    """The jobs that measure how alike models represent the same questions in several languages: name of the questions
    (mGSM, or the profile's first benchmark), seed and job.

    The models are the base, and the systems without and with question alignment that are trained here.
    """
    if profile.data.languages == ["en"]:  # English alone has nothing to be compared with
        return
    asked = list(profile.evaluation.benchmarks)
    name = PARALLEL if PARALLEL in asked else asked[0]
    lineages = {n: e.lineage for n, e in profile.systems.items() if n in (WITHOUT, OURS) and e.lineage}
    tasks = []
    for code in profile.data.languages:
        path = run.benchmark(name, code)
        tasks.append({"language": code, "path": run.relative(path), "sha256": runs.sha256_file(path)})
    for seed in profile.run.seeds:
        entries = []
        for system, lineage in {"base": [], **lineages}.items():
            model, identity = plan.lineage_model(profile, run, seed, lineage)[:2]
            entries.append({"name": system, "model": model, "model_fingerprint": runs.fingerprint(identity)})
        decides: dict[str, Any] = {"dtype": profile.evaluation.dtype, "limit": REPRESENTED}
        content = {"kind": "represent", **decides, "models": entries, "tasks": tasks}
        decides["models"] = [{k: v for k, v in entry.items() if k != "model"} for entry in entries]
        decides["tasks"] = [{k: v for k, v in task.items() if k != "path"} for task in tasks]
        folder = run.folder / "representations" / f"seed-{seed}" / name
        job = plan.Job({"fingerprint": runs.fingerprint(decides), **content}, folder)
        if not job.done:  # of other models: it is replaced, as it takes seconds and nothing depends on it
            (folder / "done.json").unlink(missing_ok=True)
        yield name, seed, job


def save_representations(profile: Profile, run: Run) -> dict[str, pd.DataFrame]:
    """Save what `representation_jobs` have measured: `representations` and `representations_points` of `results/`."""
    jobs, saved = {(name, seed): job for name, seed, job in representation_jobs(profile, run)}, {}
    first = {key: job for key, job in jobs.items() if key[1] == profile.run.seeds[0]}  # the picture shows one seed
    for table, stem, of in (("representations", "measures", jobs), ("representations_points", "points", first)):
        parts = {key: pd.read_csv(job.folder / f"{stem}.csv") for key, job in of.items()}
        rows = pd.concat(parts, names=["set", "seed"]).reset_index(["set", "seed"])
        saved[table] = rows.reset_index(drop=True)
        results.write_csv(run.results, table, saved[table])
    return saved


# ------------------------------------------------------------------------------------------------- chapters 2 and 3


def translation_quality(folders: dict[int, Path], references: Path) -> pd.DataFrame:
    """How well stage 1 translates, one row per seed (→ folder of its translation job) and language.

    Returns:
        `seed, language, sentences, bleu, chrf` (0 to 100, sacrebleu's defaults), `exact` and `numbers` (percent: equal
        to the reference, the English question; every number of it there).
    """
    english = {row["index"]: row["question"].strip() for row in runs.read_json_lines(references)}
    rows = []
    for seed, folder in folders.items():
        for path in sorted((folder / "translation").glob("*.jsonl")):
            answers = runs.read_json_lines(path)
            said = [answer["response"].strip() for answer in answers]
            meant = [english[answer["index"]] for answer in answers]
            both = list(zip(said, meant, strict=True))
            kept = [set(re.findall(r"\d+", b)) <= set(re.findall(r"\d+", a)) for a, b in both]
            row = {"seed": seed, "language": path.stem, "sentences": len(said)}
            row["bleu"] = sacrebleu.corpus_bleu(said, [meant]).score
            row["chrf"] = sacrebleu.corpus_chrf(said, [meant]).score
            row["exact"] = 100 * sum(a == b for a, b in both) / len(said)
            rows.append(row | {"numbers": 100 * sum(kept) / len(said)})
    return pd.DataFrame(rows)


def training_curves(jobs: dict[tuple[int, tuple[str, ...]], plan.Job]) -> pd.DataFrame:
    """The losses of jobs by (seed, lineage), from their progress files: `lineage, seed, step, loss`."""
    rows = [
        {"lineage": "/".join(lineage) or plan.BASE_TEXT, "seed": seed, "step": line["step"], "loss": line["loss"]}
        for (seed, lineage), job in jobs.items()
        for line in runs.read_json_lines(job.folder / "progress.jsonl")
        if line.get("loss") is not None
    ]
    return pd.DataFrame(rows)
