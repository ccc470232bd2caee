"""The files of a run: data sets in one folder, and corpora, benchmarks and prompts as every later step reads them."""

from __future__ import annotations

import filecmp
import itertools
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from datasets import Dataset

from qalign_core import corpora, hub, plan, prompts, runs, sources
from qalign_core.audit import token_lengths
from qalign_core.benchmarks import corrected, load_benchmark
from qalign_core.corpora import corpus_seed
from qalign_core.languages import CODES
from qalign_core.models import base_tokenizer, hub_models, pretrains
from qalign_core.params import BASE_TEXT, Benchmark, Corpus, Profile, ProfileError
from qalign_core.results import write_csv
from qalign_core.runs import BadRow, Run

FOLLOWED = "followed"  # the task of translating only the first question, which the base is given, too

# ------------------------------------------------------------------------------------------------- data sets


def data_sets(profile: Profile) -> dict[str, list[str]]:
    """The data sets a profile needs, each with the languages it is needed in.

    Raises:
        ProfileError: for a data set without a source or in a language its source lacks, or a corpus without one.
    """
    data, who = profile.data, f"profile {profile.run.profile}:"
    asked = [name for name, test in profile.evaluation.benchmarks.items() if test.folder is None]
    needed: dict[str, set[str]] = {name: set(data.languages) for name in asked}
    roots = dict.fromkeys(root for name in profile.corpora() for root in data.roots(name))
    for corpus in (root for root in roots if data.choice(root).path is None):
        languages = corpus_languages(profile, corpus)
        if corpus.endswith(("-x-en", "-en-x")) and languages == ["en"]:
            remedy = f"add one to data.languages or data.corpora.{corpus}.languages, or leave out what trains on it"
            raise ProfileError(f"{who} corpus {corpus} needs another language than 'en': {remedy}")
        for data_set in corpora.data_sets_of(corpus, sft_data=data.sft_data):
            needed.setdefault(data_set, set()).update(languages, {"en"})
    if missing := [name for name in needed if data.source(name) is None]:
        known = "hub, repository, folder or miniature"
        raise ProfileError(f"{who} data.sources names no source for {', '.join(missing)}; each is {known}")
    for name, codes in needed.items():
        for code, entry in data.new_languages.items():  # only folders hold more than the paper's ten
            own_files = code in codes and sources.layout(name, [code]) != sources.layout(name, ["en"])
            if own_files and data.source(name) != "folder" and not entry.folder:
                remedy = f"data.new_languages.{code}.folder, which holds them, or leave {code!r} out of data.languages"
                lacks = f"source {data.source(name)} of {name} has no files in {entry.name}"
                raise ProfileError(f"{who} {lacks}: give {remedy}")
    return {name: [code for code in CODES if code in codes] for name, codes in needed.items()}


def corpus_languages(profile: Profile, corpus: Corpus) -> list[str]:
    """The languages a corpus is made of: its own, or all of the profile's."""
    return profile.data.choice(corpus).languages or profile.data.languages


def gather(profile: Profile, run: Run, seed: int, style: str | None = None) -> Path:
    """Get every data set the profile needs and link them in one folder of the run, for one seed; return the folder.

    `style` is of the miniature's solutions, where it is another one than the profile's.
    """
    folder = run.source(seed) if style is None else run.source(seed).with_name(f"seed-{seed}-{style}")
    world = profile.data.miniature.model_dump(exclude={"split"}) | ({"style": style} if style else {})
    own = {code: entry.folder for code, entry in profile.data.new_languages.items() if entry.folder}
    for name, languages in data_sets(profile).items():
        source, added = str(profile.data.source(name)), {code: own[code] for code in languages if code in own}
        found = sources.locate(
            name,
            source,
            cache_dir=hub.cache_dir(),
            folder=data_folder(profile) if source == "folder" else None,
            languages=[code for code in languages if code not in added],
            world={"seed": seed, **world},
        )
        link_data_set(found, folder, name, added)
    return folder


def data_folder(profile: Profile) -> Path:
    """The user's data folder: `data.folder`, or QALIGN_DATA_DIR; a ProfileError if neither names one."""
    value = profile.data.folder or os.environ.get(sources.DATA_DIR)
    if not value:
        why = f"neither data.folder nor the environment's {sources.DATA_DIR} names one"
        raise ProfileError(f"profile {profile.run.profile}: data.sources says `folder`, but {why}")
    return Path(value).expanduser().absolute()


def link_data_set(found: Path, destination: Path, data_set: str, added: Mapping[str, str]) -> None:
    """Link a data set into a data folder; file by file where languages were `added` (code → folder of their files).

    Raises:
        FileNotFoundError: when an added language lacks a file, naming it.
        FileExistsError: for files where links should go, or when an added language's file would replace another one.
    """
    top = sources.layout(data_set, CODES)[0][0].split("/")[0]  # the folder that holds it
    links = {top: found / top}
    if added:
        links = {path.relative_to(found).as_posix(): path for path in (found / top).rglob("*") if path.is_file()}
    for code, folder in added.items():
        for places in sources.layout(data_set, [code]):
            here = [place for place in places if Path(folder, place).is_file()]
            if not here and not any(place in links for place in places):
                remedy = f"put it there, or leave {code!r} out of data.languages"
                lacks = f"{folder} holds no {' or '.join(places)}, which {data_set} needs"
                raise FileNotFoundError(f"data.new_languages.{code}: {lacks}: {remedy}")
            for place in here:
                added_file = Path(folder, place)
                if place in links and not filecmp.cmp(links[place], added_file, shallow=False):
                    both = f"{added_file} would replace {links[place]}, which is another file"
                    remedy = "remove the one that is not meant; languages of one name have files of one name"
                    raise FileExistsError(f"data.new_languages.{code}: {both}: {remedy}")
                links[place] = added_file
    destination.mkdir(parents=True, exist_ok=True)
    whole = destination / top
    with hub.locked(destination / f".{top}"):
        if whole.is_symlink():
            whole.unlink()
        elif whole.exists():
            held = [path for path in whole.rglob("*") if not path.is_dir()]
            if not held or not all(path.is_symlink() for path in held):
                raise FileExistsError(f"{whole} is a folder of its own, not links; move it away and run again")
            shutil.rmtree(whole)
        for place, target in links.items():
            (destination / place).parent.mkdir(parents=True, exist_ok=True)
            (destination / place).symlink_to(target.resolve())


# ------------------------------------------------------------------------------------------------- without a network


def refuse(profile: Profile, *, data: bool = True, model: bool = True) -> None:
    """Stop before anything runs if data or a model would have to be fetched and may not be (`HF_HUB_OFFLINE`), by a
    DownloadError that names everything that is missing, each with the command that gets it."""
    if not hub.is_offline():
        return
    name, absent = profile.run.profile, []
    own = {code for code, entry in profile.data.new_languages.items() if entry.folder}
    for data_set, codes in data_sets(profile).items() if data else ():
        files, total = sources.absent_files(
            data_set, str(profile.data.source(data_set)), [code for code in codes if code not in own]
        )
        if files:
            counted = f"{len(files)} of its {total} files, first {files[0]}"
            absent.append(f"the data set {data_set} ({counted}): make reproduce PROFILE={name} ONLY=01")
    for hub_id, revision in hub_models(profile) if model else ():
        if hub_id.count("/") == 1 and not hub.is_local(hub_id, revision):
            at = f" --revision {revision}" if revision else ""
            absent.append(f"the model {hub_id}: hf download {hub_id}{at} --exclude '*.bin' '*.pth' '*.pt'")
    if absent:
        listed = "\n".join(f"  {line}" for line in absent)
        remedy = "Run these commands where there is a network, with HF_HUB_OFFLINE unset; "
        remedy += "caches can be copied or shared (QALIGN_CACHE_DIR, HF_HUB_CACHE)"
        lacks = f"HF_HUB_OFFLINE is set, so nothing is fetched, but profile {name} lacks:\n{listed}"
        raise hub.DownloadError(f"{lacks}\n{remedy}")


# ------------------------------------------------------------------------------------------------- corpora


def write_corpora(profile: Profile, run: Run) -> pd.DataFrame:
    """Write every corpus of the profile as JSON lines, with a manifest beside it; the miniature's for each seed. Return
    what became of every row that was read for the first seed: `corpus, language, outcome, rows`."""
    reports = []
    for number, seed in enumerate(profile.run.seeds):
        gather(profile, run, seed)
        if pretrains(profile):
            from qalign_core import miniature

            path, sizes = run.corpus(BASE_TEXT, seed), profile.model.miniature
            made = miniature.write_base_corpus(path, seed=seed, tokens=sizes.base_tokens or 0)
            _write_manifest(path, made["rows"], made["report"])
        for name in profile.corpora():
            drawn = corpus_seed(profile, name, seed)
            if number and drawn is None:  # the same for every seed
                continue
            built = build(profile, run, seed, name, profile.data.choice(name).style)
            path = runs.write_json_lines(run.corpus(name, drawn), list(built.dataset))
            _write_manifest(path, len(built.dataset), built.report.to_dict("records"))
            reports += [] if number else [built.report]
    return pd.concat(reports, ignore_index=True) if reports else pd.DataFrame()


def build(profile: Profile, run: Run, seed: int, name: str, style: str | None) -> corpora.Corpus:
    """A corpus of the profile, whatever it is derived from; `style` is asked for by the nearest that names one."""
    data, choice = profile.data, profile.data.choice(name)
    if choice.path is None and choice.of is None:
        return corpora.build_corpus(
            name,
            gather(profile, run, seed, style) if style else run.source(seed),
            corpus_languages(profile, name),
            language_names=data.language_names,
            gsm8kinstruct_language=data.gsm8kinstruct_language,
            sft_data=data.sft_data,
            limit=choice.limit,
        )
    rows = corpora.read_file(name, choice.path, choice.ignore_fields or []) if choice.path is not None else []
    for part in choice.of or []:
        rows += list(build(profile, run, seed, part, style or data.choice(part).style).dataset)

    def target_tokens(instructions: list[str], outputs: list[str]) -> list[int]:
        from qalign_core.supervision import IGNORED, encode_examples

        tokenizer, length = base_tokenizer(profile, run), profile.training.max_length
        encoded = encode_examples(instructions, outputs, tokenizer, length, profile.model.template)
        return [sum(label != IGNORED for label in labels) for labels in encoded["labels"]]

    return corpora.derive(name, rows, choice, seed=seed, names=data.language_names, target_tokens=target_tokens)


def _write_manifest(path: Path, rows: int, report: list[dict]) -> None:
    runs.write_json(path.with_suffix(".json"), {"rows": rows, "sha256": runs.sha256_file(path), "report": report})


# ------------------------------------------------------------------------------------------------- benchmarks


def write_benchmarks(profile: Profile, run: Run) -> pd.DataFrame:
    """Write the questions of every benchmark, and the prompts that ask them, one file per language; return how many
    each has: `benchmark, language, questions`."""
    source = run.source(profile.run.seeds[0])
    if profile.data.miniature.split == "development":
        source = (source / "mgsm").resolve().parent / "dev"
    templates = sorted({plan.template_of(profile, system) for system in profile.systems})
    translates = any(system.translator for system in profile.systems.values())

    def questions(name: str, code: str) -> list[dict]:
        test = profile.evaluation.benchmarks[name]
        if test.corrects is not None:
            rows = corrected(questions(test.corrects, code), name, code, test.folder or source)
            return [row for row in rows if row["index"] not in test.drop]
        found = load_benchmark(name, code, test.folder or source, fields=test.fields, drop=test.drop)
        index = (row for row in itertools.count() if row not in test.drop)  # as in the file
        return [{"index": i, **row} for i, row in zip(index, found, strict=False)]

    def write_prompts(task: str, code: str, template: str, rows: list[dict], texts: list[str]) -> None:
        asked = [
            {"index": r["index"], "question": r["question"], "prompt": t} for r, t in zip(rows, texts, strict=True)
        ]
        runs.write_json_lines(run.prompts(task, code, template), asked)

    def to_english(rows: list[dict], code: str) -> list[str]:
        """The prompts that have a stage-1 model translate questions, as it was trained."""
        names = profile.data.language_names
        texts = [prompts.translation_instruction(row["question"], code, names=names) for row in rows]
        return [prompts.build(profile.model.template, text, "en") for text in texts]

    counts = []
    for name, test in profile.evaluation.benchmarks.items():
        found: dict[str, int] = {}
        for code in profile.data.languages:
            every = questions(name, code)
            found[code], rows = len(every), every[: test.limit]  # a limit must not hide that a file is longer
            runs.write_json_lines(run.benchmark(name, code), rows)
            for template in templates:
                texts = [prompts.build(template, row["question"], code) for row in rows]
                write_prompts(name, code, template, rows, texts)
            if code != "en" and translates:
                write_prompts(name, code, plan.TO_ENGLISH, rows, to_english(rows, code))
            counts.append({"benchmark": name, "language": code, "questions": len(rows)})
        if len(set(found.values())) > 1:
            numbers = ", ".join(f"{code} {number:,}" for code, number in found.items())
            wanted = "must ask the same questions in every language, in the same rows"
            raise BadRow(f"{name} {wanted}, but the numbers of questions differ: {numbers}")
    if profile.evaluation.translation:  # stage 1's exercise, with the English questions as references
        for code in profile.data.languages:
            rows = questions(translated(profile), code)[: profile.evaluation.translation.limit]
            if code == "en":
                runs.write_json_lines(run.benchmark("translation", "en"), rows)
                continue
            texts = to_english(rows, code)
            write_prompts("translation", code, profile.model.template, rows, texts)
            write_prompts(FOLLOWED, code, profile.model.template, rows[:1], texts[:1])
    return pd.DataFrame(counts)


def translated(profile: Profile) -> Benchmark:
    """The benchmark whose questions stage 1 is asked to translate: mGSM, or the first where that is not asked."""
    names = list(profile.evaluation.benchmarks)
    return "mgsm" if "mgsm" in names else names[0]


# ------------------------------------------------------------------------------------------------- looking at it


def loaded(profile: Profile, run: Run) -> tuple[dict[str, Dataset], dict[str, dict[str, Dataset]]]:
    """The corpora and benchmarks of a run as data sets: name → examples, and name → language → questions."""

    def read(path: Path) -> Dataset:
        return Dataset.from_list(runs.read_json_lines(path))

    first = profile.run.seeds[0]
    examples = {name: read(run.corpus(name, corpus_seed(profile, name, first))) for name in profile.corpora()}
    questions = {
        name: {c: read(run.benchmark(name, c)).select_columns(["question", "answer"]) for c in profile.data.languages}
        for name in profile.evaluation.benchmarks
    }
    return examples, questions


def audited(profile: Profile, examples: dict[str, Dataset]) -> dict[str, Dataset]:
    """The corpora worth an audit: derived ones would only repeat the others, or are wrong on purpose."""
    return {name: data for name, data in examples.items() if profile.data.choice(name).of is None}


def save_lengths(profile: Profile, run: Run, examples: dict[str, Dataset], tokenizer: Any) -> pd.DataFrame:
    """Count tokens: how many examples of each corpus that is not derived have so many (`corpus, tokens, examples`).

    Saved as `results/lengths.csv`, and Table 1 (`corpus, languages, rows, tokens`) as `results/corpora.csv`.
    """
    template = profile.model.template
    counted = {name: token_lengths(data, tokenizer, template).tokens for name, data in examples.items()}
    parts = [
        counted[name].value_counts(sort=False).sort_index().rename("examples").reset_index().assign(corpus=name)
        for name in audited(profile, examples)
    ]
    columns = ["corpus", "tokens", "examples"]
    lengths = pd.concat(parts)[columns] if parts else pd.DataFrame(columns=columns)
    if parts:  # without corpora of its own there is nothing to draw
        write_csv(run.results, "lengths", lengths.assign(limit=profile.training.max_length))
    table: list[tuple[str, str, int, int | None]] = []
    for name, data in examples.items():
        sides = zip(data["source_language"], data["target_language"], strict=True)
        languages = " ".join(dict.fromkeys(code for pair in sides for code in pair))
        table.append((name, languages, len(data), int(counted[name].sum())))
    for name in profile.evaluation.benchmarks:
        codes = profile.data.languages
        rows = len(runs.read_json_lines(run.benchmark(name, "en")))
        table.append((f"{name} (test)", " ".join(codes), rows * len(codes), None))
    sizes = pd.DataFrame(table, columns=["corpus", "languages", "rows", "tokens"])
    write_csv(run.results, "corpora", sizes.astype({"tokens": "Int64"}))
    return lengths
