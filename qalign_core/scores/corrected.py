"""A benchmark's corrected questions and golds, where the profile names a folder of them: `evaluation.corrected`.

Where only a gold was corrected, the answers that are there are scored again. A question whose text was corrected is
asked again in a small job of its own. Systems that cannot be asked here (their answers are brought, or were given to
translations) leave such questions out.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from qalign_core import plan, prompts, runs, scorer
from qalign_core.benchmarks import benchmark_files, load_benchmark
from qalign_core.data.rows import BadRow
from qalign_core.params import Profile
from qalign_core.profiles.schema import Benchmark
from qalign_core.runs import Run
from qalign_core.scores import brought
from qalign_core.scores.predictions import read_benchmark, read_predictions

GROUP = "corrected"  # beside `benchmarks` in a system's folder of predictions
_KEY = ["benchmark", "language", "index"]
COLUMNS = (*_KEY, "question", "gold", "new_text", "new_gold")


def corrected_questions(profile: Profile, run: Run) -> pd.DataFrame:
    """Every question of the benchmarks that have corrections, as it is after them.

    Languages without a file in the folder stay as they are.

    Returns:
        `COLUMNS`; `new_text` and `new_gold` say what differs from the benchmark as the paper used it.

    Raises:
        FileNotFoundError: where the folder holds no file of the benchmark, naming the names it looks for.
        ValueError: for a file that is not parallel to the benchmark, by row.
    """
    parts = []
    for name, folder in profile.evaluation.corrected.items():
        original = read_benchmark(run.folder / "data" / "benchmarks", name, profile.data.languages)
        there = [code for code in profile.data.languages if _file(name, code, folder)]
        if not there:
            looked = " or ".join(benchmark_files(name, profile.data.languages[0]))
            raise FileNotFoundError(
                f"evaluation.corrected.{name}: {folder} holds no file of {name} in any language of this run; a file is "
                f"named such as {looked} (paths begin in that folder)"
            )
        for code, rows in original.groupby("language", sort=False):
            parts.append(_corrected(name, str(code), rows, folder, profile) if code in there else rows)
    if not parts:
        return pd.DataFrame(columns=list(COLUMNS))
    table = pd.concat(parts, ignore_index=True)
    for column in ("new_text", "new_gold"):
        table[column] = table[column].eq(True) if column in table else False
    return table[list(COLUMNS)]


def _file(name: str, code: str, folder: str) -> Path | None:
    return next((Path(folder, place) for place in benchmark_files(name, code) if Path(folder, place).is_file()), None)


def _corrected(name: Benchmark, code: str, original: pd.DataFrame, folder: str, profile: Profile) -> pd.DataFrame:
    loaded = load_benchmark(name, code, folder)
    limited = profile.evaluation.benchmarks[name].limit is not None
    if len(loaded) < len(original) or (len(loaded) > len(original) and not limited):
        raise BadRow(
            f"{_file(name, code, folder)}: {len(loaded)} questions, but {name} has {len(original)} in this run; "
            "a corrected file has the same questions in the same rows"
        )
    rows = loaded.select(range(len(original)))
    texts, golds = rows["question"][:], rows["answer"][:]
    old = [scorer.extract_number(gold, "fixed", "en") for gold in original["gold"]]
    new = [scorer.extract_number(gold, "fixed", "en") for gold in golds]
    return original.assign(
        question=texts,
        gold=golds,
        new_text=[text != before for text, before in zip(texts, original["question"], strict=True)],
        new_gold=[abs(a - b) >= scorer.TOLERANCE for a, b in zip(new, old, strict=True)],
    )


# ------------------------------------------------------------------------------------------------- asking again


def can_be_asked(profile: Profile, system: str) -> bool:
    """Whether a system can be asked the corrected text of a question here."""
    entry = profile.systems[system]
    return entry.predictions is None and entry.translator is None


def job(profile: Profile, run: Run, system: str, seed: int) -> plan.Job | None:
    """The job that asks a system the questions whose text was corrected; None where there is nothing to ask.

    Writes the prompts of these questions into the run folder.
    """
    table = corrected_questions(profile, run)
    changed = table[table["new_text"]]
    if changed.empty or not can_be_asked(profile, system):
        return None
    template, tasks = plan.template_of(profile, system), []
    for (name, code), rows in changed.groupby(["benchmark", "language"], sort=False):
        asked = [
            {"index": index, "question": question, "prompt": prompts.build(template, question, code)}
            for index, question in zip(rows["index"].tolist(), rows["question"], strict=True)
        ]
        path = run.prompts(f"{name}-{GROUP}", code, template)
        if not (path.is_file() and runs.read_json_lines(path) == asked):
            run.may_write(path)
            runs.write_json_lines(path, asked)
        task = {"name": name, "language": code, "path": run.relative(path), "sha256": runs.sha256_file(path)}
        tasks.append({**task, "max_new_tokens": profile.evaluation.benchmarks[name].max_new_tokens})
    base = plan.prediction_job(profile, run, system, seed)
    content = {**base.content, "tasks": tasks}
    decides = {k: content[k] for k in ("model_fingerprint", "dtype")}
    decides["tasks"] = [{k: v for k, v in task.items() if k != "path"} for task in tasks]
    return plan.Job({**content, "fingerprint": runs.fingerprint(decides)}, base.folder.with_name(GROUP))


# ------------------------------------------------------------------------------------------------- scores


def corrected_accuracy(profile: Profile, run: Run, answers: pd.DataFrame) -> pd.DataFrame:
    """Accuracy on the corrected benchmarks beside that on the paper's.

    Args:
        profile: names the folders.
        run: holds the predictions, also those of `job`.
        answers: rows of `scorer.score` on the paper's benchmarks.

    Returns:
        `system, seed, benchmark, language, scorer, total, removed, new_golds, new_texts, accuracy, corrected`; the last
        two in percent. `removed` questions were left out because the system could not be asked their new text.

    Raises:
        FileNotFoundError, ValueError: as `corrected_questions`, and for answers that are missing.
    """
    table = corrected_questions(profile, run)
    before = scorer.accuracy(answers).set_index(["system", "seed", "benchmark", "language", "scorer"])["accuracy"]
    parts = []
    for system, seed in answers[["system", "seed"]].drop_duplicates().itertuples(index=False):
        asked = can_be_asked(profile, system)
        gold = table if asked else table[~table["new_text"]]
        predictions = _predictions(profile, run, system, int(seed), gold)
        scored = scorer.score(predictions, gold[[*_KEY, "question", "gold"]], system=system, seed=int(seed))
        parts.append(scorer.accuracy(scored))
    found = pd.concat(parts, ignore_index=True).rename(columns={"accuracy": "corrected"})
    counts = table.groupby(["benchmark", "language"]).agg(
        all=("index", "size"), new_golds=("new_gold", "sum"), new_texts=("new_text", "sum")
    )
    found = found.join(counts, on=["benchmark", "language"])
    found["removed"] = found["all"] - found["total"]
    found["accuracy"] = before.reindex(pd.MultiIndex.from_frame(found[list(before.index.names)])).to_numpy()
    first = ["system", "seed", "benchmark", "language", "scorer"]
    return found[[*first, "total", "removed", "new_golds", "new_texts", "accuracy", "corrected"]]


def _predictions(profile: Profile, run: Run, system: str, seed: int, gold: pd.DataFrame) -> pd.DataFrame:
    """A system's answers to exactly the questions of `gold`: those that are there, and to new texts the new ones."""
    names = list(profile.evaluation.corrected)
    rows = brought.read_answers(profile, run, system, seed)
    rows = rows[rows["benchmark"].isin(names)]
    again = pd.MultiIndex.from_frame(gold.loc[gold["new_text"], _KEY])
    kept = rows[pd.MultiIndex.from_frame(rows[_KEY]).isin(pd.MultiIndex.from_frame(gold.loc[~gold["new_text"], _KEY]))]
    if not len(again):
        return kept
    folder = brought.answers_folder(profile, run, system, seed).with_name(GROUP)
    new = [
        read_predictions(folder, [name], list(dict.fromkeys(part["language"])))
        for name, part in gold[gold["new_text"]].groupby("benchmark", sort=False)
    ]
    return pd.concat([kept, *new], ignore_index=True)
