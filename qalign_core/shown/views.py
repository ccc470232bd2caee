"""Small pieces of HTML and tables that the notebooks show. All text from models and data is escaped here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import pandas as pd
from IPython.display import Image, Markdown, display
from matplotlib.figure import Figure

from qalign_core import runs
from qalign_core.languages import CODES, LANGUAGES
from qalign_core.params import Profile
from qalign_core.runs import Run
from qalign_core.shown.drawing import save_figure
from qalign_core.shown.tables import Table, from_frame, markdown_text

CELL = "text-align: start; vertical-align: top; white-space: pre-wrap; max-width: 32em; padding: .3em .7em"
# The paper's recipe, to stand beside a profile's. Source: NJUNLP/QAlign training scripts.
PAPER_RECIPE = {
    "num_train_epochs": 3,
    "learning_rate": 2e-5,
    "lr_scheduler_type": "cosine",
    "lr_scheduler_kwargs": None,
    "warmup_steps": 0.03,
    "weight_decay": 0.0,
    "adam_beta1": 0.9,
    "adam_beta2": 0.999,
    "adam_epsilon": 1e-8,
    "max_grad_norm": 1.0,
    "sequences an update": 128,
}


def shown(tables: Mapping[str, Table], name: str, otherwise: str) -> Table | Markdown:
    """A table of the run, or a word on why there is none."""
    return tables[name] if name in tables else Markdown(f"*{escape(otherwise, quote=False)}*")


def text_table(rows: pd.DataFrame, language: str | None = None) -> str:
    """Running text in a table whose cells keep their line breaks, as HTML.

    Args:
        rows: what to show.
        language: the column that names each row's language code, for the browser's fonts.
    """
    head = "".join(f'<th style="text-align: start">{escape(str(name))}</th>' for name in rows)
    body = []
    for _, row in rows.iterrows():
        code = f' lang="{escape(str(row[language]))}"' if language else ""
        cells = "".join(f'<td dir="auto"{code} style="{CELL}">{escape(str(value))}</td>' for value in row)
        body.append(f"<tr>{cells}</tr>")
    return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(body)}</tbody></table>"


def token_view(tokens: Sequence[str], labels: Sequence[int]) -> str:
    """One example token by token, those that are learnt (label not −100) shaded, as HTML."""
    shown = []
    for token, label in zip(tokens, labels, strict=True):
        colour = "#cfe8f3" if label != -100 else "transparent"
        style = f"background: {colour}; border: 1px solid #d5dbe1; border-radius: 3px; padding: 0 2px; margin: 1px"
        shown.append(f'<span style="{style}; display: inline-block; white-space: pre">{escape(_printed(token))}</span>')
    return f'<div style="font-family: monospace; font-size: .8em; line-height: 1.7">{"".join(shown)}</div>'


def _printed(token: str) -> str:
    """A token without the stand-ins that byte-level and SentencePiece vocabularies use for spaces and newlines."""
    return token.replace("Ġ", " ").replace("▁", " ").replace("Ċ", "↵").replace("\n", "↵").replace("<0x0A>", "↵")


def recipe_table(arguments: Mapping[str, Any], sequences_per_update: int) -> Table:
    """A stage's recipe beside the paper's; where they differ, the profile's comments say why."""
    ours = {**arguments, "sequences an update": sequences_per_update}
    rows = [
        {"setting": name, "here": _plain(ours[name]), "paper": _plain(value), "": "" if ours[name] == value else "≠"}
        for name, value in PAPER_RECIPE.items()
    ]
    return from_frame(pd.DataFrame(rows), name="recipe", title="Recipe", caption="≠ marks where this profile differs.")


def _plain(value: Any) -> str:
    return "" if value is None else f"{value:g}" if isinstance(value, int | float) else str(value)


def lineage_table(profile: Profile, *, ablations: bool = False) -> Table:
    """What each system of chapter 3 is trained on, in order; or what those of chapter 6 are."""
    rows = []
    for name in profile.in_chapter(ablations=ablations):
        system = profile.systems[name]
        stages = system.lineage or []
        steps = {f"stage {i + 1}": stages[i] if i < len(stages) else "" for i in range(3)}
        origin = "predictions made elsewhere" if system.predictions else system.checkpoint or profile.model.base
        if system.translator:
            origin += f", asked what {' → '.join(system.translator)} translated"
        rows.append({"system": name, "from": origin, **steps})
    table = pd.DataFrame(rows, columns=["system", "from", "stage 1", "stage 2", "stage 3"])
    caption = "" if rows else "This profile has no such systems."
    return from_frame(table, name="lineages", title="Systems and their lineages", caption=caption)


def stages_table(done: Mapping[tuple[int, tuple[str, ...]], Mapping[str, Any]]) -> Table:
    """What training each stage took.

    Args:
        done: (seed, lineage) → the stage's `done.json`.
    """
    rows = []
    for (seed, lineage), record in done.items():
        metrics = record["metrics"]
        rows.append(
            {
                "stage": " → ".join(lineage) or "base",
                "seed": str(seed),
                "sequences": metrics["rows"],
                "updates": metrics["updates"],
                "tokens": metrics["tokens"],
                "learnt from": metrics["target_tokens"],
                "final loss": metrics["final_loss"],
                "minutes": record["wall_seconds"] / 60,
                "GB": record["peak_memory_bytes"] / 1e9,
            }
        )
    caption = "GB: peak memory of the largest process, or of the largest device."
    formats = {"final loss": ".3f"}
    return from_frame(pd.DataFrame(rows), name="stages", title="Training", caption=caption, formats=formats)


def translation_table(quality: pd.DataFrame) -> Table:
    """BLEU, chrF and what survives, a language a row, averaged over seeds; the mean last."""
    columns = ["bleu", "chrf", "exact", "numbers"]
    means = quality.groupby("language", sort=False)[columns].mean()
    means = means.loc[[code for code in CODES if code in means.index]]
    means.loc["mean"] = means.mean()
    names = {"bleu": "BLEU", "chrf": "chrF", "exact": "equal (%)", "numbers": "numbers kept (%)"}
    shown = means.rename(columns=names).reset_index(names="language")
    sentences = int(quality.sentences.iloc[0])
    caption = f"{sentences} questions a language; seeds {sorted(set(quality.seed))}."
    return from_frame(shown, name="translation", title="Stage 1 translates into English", caption=caption)


def samples_view(run: Run, benchmark: str, languages: Sequence[str], index: int = 0) -> str:
    """One question of a benchmark in every language, with its gold answer, as HTML."""
    rows = []
    for code in languages:
        row = runs.read_json_lines(run.benchmark(benchmark, code))[index]
        name = f"{LANGUAGES[code].native_name} ({code})"
        rows.append({"code": code, "language": name, "question": row["question"], "answer": row["answer"]})
    return text_table(pd.DataFrame(rows), language="code")


def outcomes_table(made: pd.DataFrame) -> Table:
    """What became of the rows that were read: a row a corpus and outcome, a column a language.

    Args:
        made: `corpus, language, outcome, rows`, as `prepare.write_corpora` returns it.
    """
    if made.empty:
        return from_frame(made, name="outcomes", title="Rows of the corpora", caption="This profile trains nothing.")
    wide = made.pivot_table(index=["corpus", "outcome"], columns="language", values="rows", aggfunc="sum", sort=False)
    wide = wide[[code for code in CODES if code in wide]].astype("Int64")
    wide["all"] = wide.sum(axis=1)
    caption = "Rows read for each corpus, and what became of them."
    return from_frame(wide.reset_index(), name="outcomes", title="Rows of the corpora", caption=caption)


def remarks(said: Sequence[str]) -> Markdown:
    """What a reader must know before reading the numbers, as one note."""
    if not said:
        return Markdown("")
    return Markdown("\n".join(["**Mind:**", "", *(f"- {markdown_text(text)}" for text in said)]))


def audit_table(findings: pd.DataFrame) -> Table:
    """What the audit found: a row a check and data set, a column a language; checks that found nothing are named."""
    found = findings[findings["count"] > 0]
    clean = [check for check in dict.fromkeys(findings.check) if check not in set(found.check)]
    caption = f"Rows concerned. Nothing was found by: {', '.join(clean)}." if clean else "Rows concerned."
    wide = found.pivot_table(index=["check", "data_set"], columns="language", values="count", aggfunc="sum", sort=False)
    wide = wide[[code for code in (*CODES, *wide.columns.difference(CODES)) if code in wide]].astype("Int64")
    return from_frame(wide.reset_index(), name="audit", title="What the audit found", caption=caption)


def show(figure: Figure, data: pd.DataFrame, run: Run, name: str, caption: str = "") -> Image:
    """Save a figure with its data in the run's `figures/`, and show it."""
    paths = save_figure(figure, run.figures, name, data, caption)
    picture = next(path for path in paths if path.suffix == ".png")
    return Image(picture.read_bytes(), width=720, alt=caption or name)


def picture(run: Run, name: str) -> Markdown:
    """Show a figure that was drawn into the run's `figures/` with its caption, or say why there is none."""
    path = run.figures / f"{name}.png"
    if not path.is_file():
        return Markdown(f"*No {name}: this profile does not have the systems it compares.*")
    text = path.with_suffix(".txt")
    caption = text.read_text(encoding="utf-8").strip() if text.is_file() else ""
    display(Image(path.read_bytes(), width=720, alt=caption or name))
    return Markdown(f"<small>{markdown_text(caption)}</small>")
