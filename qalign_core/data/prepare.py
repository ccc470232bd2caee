"""The data of a run: sources gathered in one folder, corpora and benchmarks written as every later step reads them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pandas as pd
from datasets import Dataset

from qalign_core import corpora, plan, prompts, runs, sources
from qalign_core.benchmarks import load_benchmark
from qalign_core.data import audit, derived
from qalign_core.data.data_folder import layout
from qalign_core.data.rows import BadRow
from qalign_core.languages import CODES
from qalign_core.params import BASE_TEXT, Profile, ProfileError
from qalign_core.profiles.schema import Benchmark, Corpus
from qalign_core.runs import Run
from qalign_core.scores.results import write_csv
from qalign_core.training.base_models import base_tokenizer, pretrains

DATA_DIR = "QALIGN_DATA_DIR"
CACHE_DIR = "QALIGN_CACHE_DIR"
FOLLOWED = "followed"  # the task of translating only the first of them, which the base is given, too


def data_sets(profile: Profile) -> dict[str, list[str]]:
    """The data sets a profile needs, each with the languages it is needed in.

    Raises:
        ProfileError: when a data set that is needed has no source, or its source not the files of a language of the
            profile's own, or a corpus no language to translate.
    """
    asked = [name for name, test in profile.evaluation.benchmarks.items() if test.folder is None]
    needed: dict[str, set[str]] = {name: set(profile.data.languages) for name in asked}
    for corpus in _roots(profile):
        if corpus.endswith(("-x-en", "-en-x")) and corpus_languages(profile, corpus) == ["en"]:
            raise ProfileError(
                f"profile {profile.run.profile}: corpus {corpus} needs another language than 'en': add one to "
                f"data.languages or data.corpora.{corpus}.languages, or leave out the systems that train on it"
            )
        for name in corpora.data_sets_of(corpus, sft_data=profile.data.sft_data):
            needed.setdefault(name, set()).update(corpus_languages(profile, corpus), {"en"})
    missing = [name for name in needed if profile.data.source(name) is None]
    if missing:
        raise ProfileError(
            f"profile {profile.run.profile}: data.sources names no source for {', '.join(missing)}; "
            "each is hub, repository, folder or miniature"
        )
    for data_set, codes in needed.items():
        _refuse_unheld(profile, data_set, codes)
    return {name: [code for code in CODES if code in codes] for name, codes in needed.items()}


def _refuse_unheld(profile: Profile, name: str, codes: set[str]) -> None:
    """Refuse a language that needs files of its own when the source has none: only folders hold more than the ten."""
    source = profile.data.source(name)
    for code, entry in profile.data.new_languages.items():
        own_files = code in codes and layout(name, [code]) != layout(name, ["en"])
        if own_files and source != "folder" and not entry.folder:
            raise ProfileError(
                f"profile {profile.run.profile}: source {source} of {name} has no files in {entry.name}: give "
                f"data.new_languages.{code}.folder, which holds them, or leave {code!r} out of data.languages"
            )


def translated(profile: Profile) -> Benchmark:
    """The benchmark whose questions stage 1 is asked to translate: mGSM, or the first where that is not asked."""
    names = list(profile.evaluation.benchmarks)
    return "mgsm" if "mgsm" in names else names[0]


def _roots(profile: Profile) -> list[str]:
    """The known corpora that the profile's corpora are, or are derived from."""
    roots = dict.fromkeys(root for name in profile.corpora() for root in profile.data.roots(name))
    return [root for root in roots if profile.data.choice(root).path is None]


def corpus_languages(profile: Profile, corpus: Corpus) -> list[str]:
    """The languages a corpus is made of: its own, or all of the profile's."""
    return profile.data.choice(corpus).languages or profile.data.languages


def gather(profile: Profile, run: Run, seed: int, style: str | None = None) -> Path:
    """Get every data set the profile needs and lay them out in one folder of the run, for one seed.

    Args:
        style: of the miniature's solutions, where it is another one than the profile's.

    Returns:
        The folder, in the layout `sources` describes; its parts are links to where the data sets are kept.

    Raises:
        ProfileError: when `folder` is a source and no folder is given.
        FileNotFoundError, ValueError: what is absent or damaged, and how to get it.
    """
    place = run.source(seed) if style is None else run.source(seed).with_name(f"seed-{seed}-{style}")
    world = profile.data.miniature.model_dump(exclude={"split"}) | ({"style": style} if style else {})
    for name, languages in data_sets(profile).items():
        source = str(profile.data.source(name))
        sources.gather(
            {name: source},
            place,
            cache_dir=cache_dir(),
            folder=_folder(profile) if source == "folder" else None,
            languages=languages,
            world={"seed": seed, **world},
            own={code: entry.folder for code, entry in profile.data.new_languages.items() if entry.folder},
        )
    return place


def cache_dir() -> Path:
    """Where fetched and generated data sets are kept: QALIGN_CACHE_DIR, or `~/.cache/qalign`."""
    return Path(os.environ.get(CACHE_DIR) or Path.home() / ".cache" / "qalign").expanduser().absolute()


def _folder(profile: Profile) -> Path:
    value = profile.data.folder or os.environ.get(DATA_DIR)
    if not value:
        raise ProfileError(
            f"profile {profile.run.profile}: data.sources says `folder`, but neither data.folder nor the environment's "
            f"{DATA_DIR} names one"
        )
    return Path(value).expanduser().absolute()


# ------------------------------------------------------------------------------------------------- corpora


def write_corpora(profile: Profile, run: Run) -> pd.DataFrame:
    """Write every corpus of the profile as JSON lines, with a manifest beside it; the miniature's for each seed.

    Returns:
        What became of every row that was read for the first seed: `corpus, language, outcome, rows`.
    """
    reports = []
    for number, seed in enumerate(profile.run.seeds):
        gather(profile, run, seed)
        if pretrains(profile):
            _write_base_text(profile, run, seed)
        for name in profile.corpora():
            drawn = plan.corpus_seed(profile, name, seed)
            if number and drawn is None:
                continue
            built = _build(profile, run, seed, name, profile.data.choice(name).style)
            path = runs.write_json_lines(run.corpus(name, drawn), list(built.dataset))
            _write_manifest(path, len(built.dataset), built.report.to_dict("records"))
            reports += [] if number else [built.report]
    return pd.concat(reports, ignore_index=True) if reports else pd.DataFrame()


def _build(profile: Profile, run: Run, seed: int, name: str, style: str | None) -> corpora.Corpus:
    """A corpus of the profile, whatever it is derived from; `style` is asked for by the nearest that names one."""
    data, choice = profile.data, profile.data.choice(name)
    if choice.path is None and choice.of is None:
        switches = corpora.Switches(data.language_names, data.gsm8kinstruct_language, data.sft_data)
        data_dir = gather(profile, run, seed, style) if style else run.source(seed)
        languages = corpus_languages(profile, name)
        return corpora.build_corpus(name, data_dir, languages, switches=switches, limit=choice.limit)
    if choice.path is not None:
        parts = [list(derived.read_brought(name, choice.path).dataset)]
    else:
        below = [(part, style or data.choice(part).style) for part in choice.of or []]
        parts = [list(_build(profile, run, seed, part, of_part).dataset) for part, of_part in below]
    return derived.derive(
        name, parts, choice, seed=seed, names=data.language_names, target_tokens=_target_tokens(profile, run)
    )


def _target_tokens(profile: Profile, run: Run) -> derived.TargetTokens:
    """Counts the tokens that are learnt of each example, as the base model's tokenizer and `max_length` make them."""

    def count(instructions: list[str], outputs: list[str]) -> list[int]:
        from qalign_core.supervision import IGNORED, encode_examples

        tokenizer = base_tokenizer(profile, run)
        length, template = profile.training.max_length, profile.model.template
        encoded = encode_examples(instructions, outputs, tokenizer, length, template)
        return [sum(label != IGNORED for label in labels) for labels in encoded["labels"]]

    return count


def _write_manifest(path: Path, rows: int, report: list[dict]) -> None:
    runs.write_json(path.with_suffix(".json"), {"rows": rows, "sha256": runs.sha256_file(path), "report": report})


def _write_base_text(profile: Profile, run: Run, seed: int) -> None:
    from qalign_core import miniature

    path = run.corpus(BASE_TEXT, seed)
    made = miniature.write_base_corpus(path, seed=seed, tokens=profile.model.miniature.base_tokens)
    _write_manifest(path, made["rows"], made["report"])


def read_corpus(profile: Profile, run: Run, name: str) -> pd.DataFrame:
    """A corpus as it was written (of the first seed): `id, instruction, output, source_language, target_language`."""
    drawn = plan.corpus_seed(profile, name, profile.run.seeds[0])
    return pd.DataFrame(runs.read_json_lines(run.corpus(name, drawn)))


# ------------------------------------------------------------------------------------------------- benchmarks


def write_benchmarks(profile: Profile, run: Run) -> pd.DataFrame:
    """Write the questions of every benchmark, and the prompts that ask them, a file a language.

    Returns:
        `benchmark, language, questions`.

    Raises:
        ValueError: when a benchmark has a different number of questions in two languages.
    """
    data_dir = benchmark_source(profile, run)
    templates = sorted({plan.template_of(profile, system) for system in profile.systems})
    counts, found = [], {}
    for name, test in profile.evaluation.benchmarks.items():
        for code in profile.data.languages:
            loaded = _questions(name, code, Path(test.folder or data_dir), None)
            found[name, code] = len(loaded)  # a limit must not hide that a language's file is longer
            rows = loaded[: test.limit]
            runs.write_json_lines(run.benchmark(name, code), rows)
            for template in templates:
                asked = [{**_asked(row), "prompt": prompts.build(template, row["question"], code)} for row in rows]
                runs.write_json_lines(run.prompts(name, code, template), asked)
            if code != "en" and any(system.translator for system in profile.systems.values()):
                runs.write_json_lines(run.prompts(name, code, plan.TO_ENGLISH), _to_english(profile, rows, code))
            counts.append({"benchmark": name, "language": code, "questions": len(rows)})
    if profile.evaluation.translation:
        _write_translation_prompts(profile, run, data_dir, profile.evaluation.translation.limit)
    for name in profile.evaluation.benchmarks:
        _same_number_of_questions(name, {code: n for (benchmark, code), n in found.items() if benchmark == name})
    return pd.DataFrame(counts)


def _same_number_of_questions(benchmark: str, found: dict[str, int]) -> None:
    """Refuse files of different lengths: their rows cannot be the same problems."""
    if len(set(found.values())) > 1:
        numbers = ", ".join(f"{code} {number:,}" for code, number in found.items())
        raise BadRow(
            f"{benchmark} must ask the same questions in every language, in the same rows, but the numbers of "
            f"questions differ: {numbers}"
        )


def benchmark_source(profile: Profile, run: Run) -> Path:
    """The data folder whose benchmarks are asked: the miniature's development questions where the profile says so."""
    folder = run.source(profile.run.seeds[0])
    if profile.data.miniature.split == "test":
        return folder
    return (folder / "mgsm").resolve().parent / "dev"


def _questions(name: str, code: str, data_dir: Path, limit: int | None) -> list[dict]:
    loaded = load_benchmark(name, code, data_dir, limit=limit)
    return [{"index": i, **row} for i, row in enumerate(loaded)]


def _asked(row: dict) -> dict:
    return {"index": row["index"], "question": row["question"]}


def _write_translation_prompts(profile: Profile, run: Run, data_dir: Path, limit: int | None) -> None:
    """Stage 1's exercise: a benchmark's questions to be translated, with the English ones as references."""
    name = translated(profile)
    for code in profile.data.languages:
        rows = _questions(name, code, Path(profile.evaluation.benchmarks[name].folder or data_dir), limit)
        if code == "en":
            runs.write_json_lines(run.benchmark("translation", "en"), rows)
            continue
        asked = _to_english(profile, rows, code)
        runs.write_json_lines(run.prompts("translation", code, profile.model.template), asked)
        runs.write_json_lines(run.prompts(FOLLOWED, code, profile.model.template), asked[:1])


def _to_english(profile: Profile, rows: list[dict], code: str) -> list[dict]:
    """The prompts that have a stage-1 model translate questions, as it was trained."""
    asked = []
    for row in rows:
        instruction = prompts.translation_instruction(row["question"], code, names=profile.data.language_names)
        asked.append({**_asked(row), "prompt": prompts.build(profile.model.template, instruction, "en")})
    return asked


# ------------------------------------------------------------------------------------------------- looking at it


def loaded(profile: Profile, run: Run) -> tuple[dict[str, Dataset], dict[str, dict[str, Dataset]]]:
    """The corpora and benchmarks of a run as data sets: name → examples, and name → language → questions."""
    drawn = {name: plan.corpus_seed(profile, name, profile.run.seeds[0]) for name in profile.corpora()}
    examples: dict[str, Dataset] = {name: _data_set(run.corpus(name, seed)) for name, seed in drawn.items()}
    codes = profile.data.languages
    questions: dict[str, dict[str, Dataset]] = {
        name: {code: _data_set(run.benchmark(name, code)).select_columns(["question", "answer"]) for code in codes}
        for name in profile.evaluation.benchmarks
    }
    return examples, questions


def _data_set(path: Path) -> Dataset:
    return Dataset.from_list(runs.read_json_lines(path))


def audited(profile: Profile, examples: dict[str, Dataset]) -> dict[str, Dataset]:
    """The corpora worth an audit: those that are not derived from others, which would only repeat them, and not those
    that are wrong on purpose."""
    return {name: data for name, data in examples.items() if profile.data.choice(name).of is None}


def save_lengths(profile: Profile, run: Run, examples: dict[str, Dataset], tokenizer: Any) -> pd.DataFrame:
    """Count every example's tokens.

    Returns:
        `corpus, tokens, examples`: how many examples of corpora that are not derived have so many tokens; also saved
        as `results/lengths.csv`, and Table 1 as `results/corpora.csv`.
    """
    counted = {name: audit.token_lengths(data, tokenizer) for name, data in examples.items()}
    columns = ["corpus", "tokens", "examples"]
    parts = [
        table.groupby("tokens").size().rename("examples").reset_index().assign(corpus=name)[columns]
        for name, table in counted.items()
        if name in audited(profile, examples)
    ]
    lengths = pd.concat(parts) if parts else pd.DataFrame(columns=columns)
    if parts:  # without corpora of its own there is nothing to draw
        write_csv(run.results, "lengths", lengths.assign(limit=profile.training.max_length))
    lines = audit.corpora_table(examples) if examples else pd.DataFrame(columns=["corpus", "languages", "rows"])
    table = lines.assign(tokens=[int(counted[name].tokens.sum()) for name in examples])
    for name in profile.evaluation.benchmarks:
        rows = len(runs.read_json_lines(run.benchmark(name, "en")))
        codes = " ".join(profile.data.languages)
        table.loc[len(table)] = [f"{name} (test)", codes, rows * len(profile.data.languages), None]
    write_csv(run.results, "corpora", table.astype({"tokens": "Int64"}))
    return lengths
