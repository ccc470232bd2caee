"""What stands behind a run's numbers: what its base read, how its solutions are written, where its recipe differs.

Each as a table that sets the real thing, or the paper, beside what is here.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

import pandas as pd
from IPython.display import Markdown

from qalign_core import plan, runs
from qalign_core.data.prepare import DATA_DIR, read_corpus
from qalign_core.languages import CODES
from qalign_core.params import BASE_TEXT, Profile
from qalign_core.runs import Run
from qalign_core.shown.tables import Table, from_frame
from qalign_core.shown.views import PAPER_RECIPE
from qalign_core.training.base_models import pretrains, starting_model

# Source: Touvron et al. 2023, Llama 2 (arXiv 2307.09288), section 2 and Table 10 (languages with 0.005% and more).
LLAMA2 = {
    "parameters": "6.7 billion (7B)",
    "tokens read": "2,000,000,000,000",
    "English": "89.7%",
    "de, fr, zh, es, ru, ja": "0.17, 0.16, 0.13, 0.13, 0.13, 0.10%",
    "bn, th, sw": "below 0.005% each",
    "solved problems read": "not published",
    "problems of stage 2": "395,000",
}
# GSM8K's 7,473 training problems, by `miniature.solution_overlap`: shares of a question's content words and of its
# numbers that the solution repeats, and the solution's words a word of the question.
GSM8K_OVERLAP = {"content_words": 0.483, "numbers": 0.962, "length_ratio": 1.15}

MEASURED = 20_000  # examples of a corpus, the first ones

# Where a profile differs from the paper's recipe, for a base of a few million parameters.
REASONS = {
    "num_train_epochs": "the miniature's corpora are drawn, not collected: new examples instead of a second look",
    "learning_rate": "the smaller the model, the larger the step it needs; LLaMA-2 has 3,000 times as many parameters",
    "lr_scheduler_type": "so few updates that the last ones must still count",
    "lr_scheduler_kwargs": "the floor of the learning rate, as a share of its peak",
    "weight_decay": "trained on few examples at a high rate",
    "adam_beta2": "a memory of 1,000 updates is longer than a stage",
    "sequences an update": "fewer examples, hence smaller batches, or there would be a handful of updates",
    "max_length": "no text of this profile is longer",
    "bf16": "this computer has no fast bf16",
    "loss": "a switch of the profile",
}


# ------------------------------------------------------------------------------------------------- the base model


def base_report(profile: Profile, run: Run) -> pd.DataFrame | None:
    """What the miniature's base read, `language, kind, documents, tokens`; None for a base that is not the miniature's,
    or that was never trained."""
    if profile.model.base != "miniature" or profile.model.miniature.weights == "random":
        return None
    if pretrains(profile):
        manifest = run.corpus(BASE_TEXT, profile.run.seeds[0]).with_suffix(".json")
        return pd.DataFrame(runs.read_json(manifest)["report"])
    from qalign_core.miniature.pretrain import MANIFEST, SHIPPED_BASE, text_report

    return text_report(runs.read_json(SHIPPED_BASE / MANIFEST))


def base_text_table(profile: Profile, run: Run) -> Table | Markdown:
    """What the miniature's base model read before any fine-tuning: tokens by kind of text and language."""
    report = base_report(profile, run)
    if report is None:
        return Markdown(f"*{escape(profile.model.base)}: this table is about the miniature's trained base.*")
    report = report.assign(language=report.language.where(~report.language.str.contains("-"), "x-en"))
    wide = report.pivot_table(index="kind", columns="language", values="tokens", aggfunc="sum", sort=False)
    wide = wide[[code for code in (*CODES, "x-en") if code in wide]].astype("Int64")
    wide["all"] = wide.sum(axis=1)
    wide.loc["all"] = wide.sum()
    caption = (
        "Tokens. It never read a question of another language with its answer, or a problem in two languages (x-en: "
        "generic sentences beside their translation)."
    )
    return from_frame(wide.reset_index(), name="base-text", title="What the base model read", caption=caption)


def base_comparison(profile: Profile, run: Run) -> Table | Markdown:
    """The miniature's base beside LLaMA-2 7B: size, text, languages, and solved problems beside those of stage 2."""
    report = base_report(profile, run)
    if report is None:
        return Markdown("")
    tokens = report[~report.language.str.contains("-")].groupby("language").tokens.sum()
    share = 100 * tokens / report.tokens.sum()
    solved = int(report[report.kind == "solved"].documents.sum())
    problems = len(read_corpus(profile, run, "metamathqa")) if "metamathqa" in profile.corpora() else None
    ours = {
        "parameters": f"{_parameters(profile, run) / 1e6:.1f} million",
        "tokens read": f"{report.tokens.sum():,}",
        "English": f"{share['en']:.1f}%",
        "de, fr, zh, es, ru, ja": _shares(share, ("de", "fr", "zh", "es", "ru", "ja")),
        "bn, th, sw": _shares(share, ("bn", "th", "sw")),
        "solved problems read": f"{solved:,}, all English",
        "problems of stage 2": "" if problems is None else f"{problems:,}",
    }
    rows = [{"": key, "miniature's base": ours[key], "LLaMA-2": LLAMA2[key]} for key in LLAMA2]
    times = (
        f" The miniature's base read {solved / problems:.1f} solved problems for each one of stage 2."
        if problems
        else ""
    )
    caption = f"LLaMA-2: Touvron et al. 2023 (arXiv 2307.09288), Table 10.{times}"
    return from_frame(pd.DataFrame(rows), name="base", title="Two base models", caption=caption)


def _shares(share: pd.Series, codes: Sequence[str]) -> str:
    return ", ".join(f"{share.get(code, 0.0):.1f}" for code in codes) + "%"


def _parameters(profile: Profile, run: Run) -> int:
    """Parameters of the miniature's model, from its configuration (no weights are loaded)."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    folder = runs.resolve(starting_model(profile, run, profile.run.seeds[0])["path"], run.folder)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder))
    return sum(parameter.numel() for parameter in model.parameters())


# ------------------------------------------------------------------------------------------------- solutions


def overlap_table(profile: Profile, run: Run) -> Table | Markdown:
    """How much of a question its solution repeats: GSM8K beside every solved English corpus of the run."""
    from qalign_core.miniature import solution_overlap

    solved = {"gsm8k", "metamathqa"}
    found = {
        name: read_corpus(profile, run, name) for name in profile.corpora() if set(profile.data.roots(name)) <= solved
    }
    if not found:
        return Markdown("*This profile trains on no solved English problems.*")
    real = real_problems(profile)
    measured = solution_overlap(*real) if real else GSM8K_OVERLAP
    rows = [
        {"": "GSM8K, training problems", **measured, "measured": "here" if real else "before, by the same function"}
    ]
    for name, corpus in found.items():
        corpus = corpus.head(MEASURED)
        measured = solution_overlap(list(corpus.instruction), list(corpus.output))
        rows.append({"": name, **measured, "measured": "here"})
    frame = pd.DataFrame(rows)
    for share in ("content_words", "numbers"):
        frame[share] = 100 * frame[share]
    names = {"content_words": "content words (%)", "numbers": "numbers (%)", "length_ratio": "length"}
    caption = (
        "What share of a question's different content words and numbers its solution repeats, and how many words the "
        "solution has for each of the question's."
    )
    return from_frame(
        frame.rename(columns=names), name="overlap", title="Solutions beside their questions", caption=caption,
        formats={"length": ".2f"},
    )  # fmt: skip


def real_problems(profile: Profile) -> tuple[list[str], list[str]] | None:
    """GSM8K's training questions and solutions, if the real ones are at hand: in the profile's data folder, or in the
    one the environment's QALIGN_DATA_DIR names."""
    folder = profile.data.folder or os.environ.get(DATA_DIR)
    path = Path(folder or "", "gsm8k", "train.jsonl")
    if not folder or not path.is_file():
        return None
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [row["question"] for row in rows], [row["answer"].rpartition("####")[0] for row in rows]


# ------------------------------------------------------------------------------------------------- the recipe


def recipe_differences(profile: Profile) -> Table | Markdown:
    """Every constant of training that differs from the paper's in some stage, with the stages and the reason."""
    paper = PAPER_RECIPE | {"max_length": 512, "bf16": True, "loss": "paper"}
    stages = {
        corpus: profile.arguments(corpus)
        | {"sequences an update": plan.sequences_per_update(profile, corpus)}
        | {"max_length": profile.training.max_length, "loss": profile.training.loss}
        for corpus in profile.corpora()
    }
    rows = [
        {"constant": key, "paper": _plain(value), "here": _here({c: a[key] for c, a in stages.items()})}
        for key, value in paper.items()
        if any(arguments[key] != value for arguments in stages.values())
    ]
    if not rows:
        return Markdown("*Every constant of training is the paper's.*")
    if profile.model.base == "miniature":
        rows = [{**row, "why": REASONS.get(row["constant"], "")} for row in rows]
    caption = "The constants that are not listed are the paper's, in every stage."
    return from_frame(pd.DataFrame(rows), name="recipe-differences", title="What differs", caption=caption)


def _here(by_stage: dict[str, Any]) -> str:
    """The commonest value, and in brackets the stages that have another."""
    values = [_plain(value) for value in by_stage.values()]
    common = max(dict.fromkeys(values), key=values.count)
    others = [f"{stage}: {_plain(value)}" for stage, value in by_stage.items() if _plain(value) != common]
    return common + (f" ({', '.join(others)})" if others else "")


def _plain(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_plain(part)}" for key, part in value.items())
    if value is None:
        return "–"
    return f"{value:g}" if isinstance(value, int | float) and not isinstance(value, bool) else str(value).lower()
