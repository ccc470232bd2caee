"""What the notebooks show: questions with their answers, tables about data and training, saved figures.

All text from models and data is escaped here. Menus appear in a running notebook only; papermill's output, read without
a kernel, gets one telling view instead.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from html import escape
from typing import Any

import matplotlib as mpl
import pandas as pd
import seaborn.objects as so
from IPython.display import HTML, Image, Markdown, display
from matplotlib.figure import Figure

from qalign_core import runs
from qalign_core.languages import CODES, LANGUAGES
from qalign_core.launch import is_interactive
from qalign_core.models import markdown_text
from qalign_core.params import Profile
from qalign_core.runs import Run
from qalign_core.show.figures import legend_above, style
from qalign_core.show.paper_tables import named
from qalign_core.show.report import save_figure
from qalign_core.show.tables import Table, from_frame

_CELL = "text-align: start; vertical-align: top; white-space: pre-wrap; max-width: 32em; padding: .3em .7em"
_TOKEN = "border: 1px solid #d5dbe1; padding: 0 2px; margin: 1px; display: inline-block; white-space: pre"

# ------------------------------------------------------------------------------------- pieces


def show(plot: so.Plot | Figure, data: pd.DataFrame, run: Run, name: str, caption: str, size=(6.8, 2.6)) -> None:
    """Save a figure with its data in the run's `figures/`, and show it; a seaborn plot is drawn at `size` (inches)."""
    with style():
        figure = plot if isinstance(plot, Figure) else Figure(figsize=size)
        if figure is not plot:
            plot.theme(mpl.rcParams).layout(engine="constrained").on(figure).plot()
        for beside in figure.legends[:]:  # where seaborn puts it, outside of the figure, it would be cut off
            figure.legends.remove(beside)
            names = [text.get_text() for text in beside.get_texts()]
            legend_above(figure, dict(zip(names, beside.legend_handles, strict=True)))
    paths = save_figure(figure, run.figures, name, data, caption)
    display(Image(next(p for p in paths if p.suffix == ".png").read_bytes(), width=720, alt=caption))


def remarks_note(said: Sequence[str]) -> Markdown:
    """What a reader must know before reading the numbers, as one note."""
    return Markdown("\n".join(["**Mind:**", "", *(f"- {markdown_text(text)}" for text in said)]) if said else "")


def text_table(rows: pd.DataFrame, language: str | None = None) -> str:
    """Running text as an HTML table that keeps line breaks; the column `language` names each row's language code, for
    the browser's fonts."""
    head = "".join(f'<th style="text-align: start">{escape(str(name))}</th>' for name in rows)
    body = ""
    for row in rows.to_dict("records"):
        code = f' lang="{escape(str(row[language]))}"' if language else ""
        cells = [f'<td dir="auto"{code} style="{_CELL}">{escape(str(value))}</td>' for value in row.values()]
        body += f"<tr>{''.join(cells)}</tr>"
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    return f'<div style="overflow-x: auto">{table}</div>'


def token_view(tokens: Sequence[str], labels: Sequence[int]) -> str:
    """One example token by token, the target tokens (label not −100) shaded, as HTML."""
    shown = []
    for token, label in zip(tokens, labels, strict=True):
        # Byte-level and SentencePiece vocabularies have stand-ins for spaces and newlines.
        text = token.replace("Ġ", " ").replace("▁", " ").replace("Ċ", "↵").replace("\n", "↵").replace("<0x0A>", "↵")
        colour = "transparent" if label == -100 else "#cfe8f3"
        shown.append(f'<span style="background: {colour}; {_TOKEN}">{escape(text)}</span>')
    return f'<div style="font-family: monospace; font-size: .8em; line-height: 1.7">{"".join(shown)}</div>'


def _native(code: str) -> str:
    return f"{LANGUAGES[code].native_name} ({code})" if code in LANGUAGES else code


# ------------------------------------------------------------------------------------- data and training


def lineage_table(profile: Profile, *, ablations: bool = False) -> Table:
    """What each system of chapter 3 is trained on, in order; or what those of chapter 6 are."""
    rows = []
    for name in profile.in_chapter(ablations=ablations):
        system = profile.systems[name]
        origin = "predictions made elsewhere" if system.predictions else system.checkpoint or profile.model.base
        if system.translator:
            origin += f", asked what {' → '.join(system.translator)} translated"
        rows.append((name, origin, *[*(system.lineage or []), "", "", ""][:3]))
    table = pd.DataFrame(rows, columns=["system", "from", "stage 1", "stage 2", "stage 3"])
    caption = "" if rows else "This profile has no such systems."
    return from_frame(table, name="lineages", title="Systems and their lineages", caption=caption)


def stages_table(done: Mapping[tuple[int, tuple[str, ...]], Mapping[str, Any]]) -> Table:
    """What training each stage took: (seed, lineage) → the stage's `done.json`."""
    metrics = {"examples": "rows", "updates": "updates", "tokens": "tokens", "target tokens": "target_tokens"}
    metrics["final loss"] = "final_loss"
    rows = [
        {"stage": " → ".join(lineage) or "base", "seed": str(seed)}
        | {name: record["metrics"][key] for name, key in metrics.items()}
        | {"minutes": record["wall_seconds"] / 60, "GB": record["peak_memory_bytes"] / 1e9}
        for (seed, lineage), record in done.items()
    ]
    caption, formats = "GB: peak memory of the largest process, or of the largest device.", {"final loss": ".3f"}
    return from_frame(pd.DataFrame(rows), name="stages", title="Training", caption=caption, formats=formats)


# ------------------------------------------------------------------------------------- answers

ALL = "all questions"
_KEY = ["benchmark", "language", "index"]


def answers_frame(
    run: Run, given: Mapping[str, pd.DataFrame], answers: pd.DataFrame, languages: Sequence[str], mode: str = "paper"
) -> pd.DataFrame:
    """Every answer of one seed beside its question: one row per system and question.

    Args:
        given: system → its predictions.
        answers: rows of `evaluate.score_run`, of one seed.
        mode: the scorer that says what is right; `differ` says where another one reads another number.
    """
    asked = [{"benchmark": benchmark, "language": code, "index": row["index"], "question": row["question"]}
             for benchmark in dict.fromkeys(answers["benchmark"]) for code in languages
             for row in runs.read_json_lines(run.benchmark(benchmark, code))]  # fmt: skip
    responses = pd.concat([rows[[*_KEY, "response"]].assign(system=system) for system, rows in given.items()])
    found = pd.DataFrame(asked).merge(answers[answers["system"].isin(given)], on=_KEY)
    found = found.merge(responses, on=["system", *_KEY])
    found["right"] = found[f"correct_{mode}"].astype(bool)
    numbers = found.filter(regex="^answer_")
    found["differ"] = ~(numbers.sub(found["answer_paper"], axis=0).abs() < 1e-3).all(axis=1)
    return found[["system", *_KEY, "question", "gold", "response", "right", "error", "response_language", "differ"]]


def question_view(frame: pd.DataFrame, benchmark: str, index: int) -> str:
    """One question in all its languages with every system's answer, as HTML."""
    rows = frame[(frame["benchmark"] == benchmark) & (frame["index"] == index)]
    if rows.empty:
        return "No such question."
    kinds = rows["error"].where(rows["error"].notna() & (rows["error"] != "other"), "")
    marks = rows["right"].map({True: "✓ ", False: "✗ "}) + kinds.map(lambda kind: f"({kind}) " if kind else "")
    rows = rows.assign(cell=marks + rows["response"].str.strip().replace("", "(empty)"))
    wide = rows.pivot(index="language", columns="system", values="cell")[list(dict.fromkeys(rows["system"]))]
    wide = wide.loc[list(dict.fromkeys(rows["language"]))]
    first = rows.drop_duplicates("language").set_index("language")
    wide.insert(0, "question", first["question"] + first["gold"].map(" [{:g}]".format))
    wide.insert(0, "in", [_native(code) for code in wide.index])
    right = f"{named(benchmark)} {index}: {int(rows['right'].sum())} of {len(rows)} answers are right"
    return f"<p><strong>{escape(right)}</strong></p>{text_table(wide.rename_axis('code').reset_index(), 'code')}"


def patterns(frame: pd.DataFrame, benchmark: str, pairs: Sequence[Sequence[str]] = ()) -> dict[str, list[int]]:
    """Questions (of `answers_frame`) by who got them right, the most telling first; `pairs` of systems are compared."""
    rows = frame[frame["benchmark"] == benchmark]
    by_system = rows.pivot_table(index="index", columns="system", values="right", aggfunc="sum")
    total, english = by_system.sum(axis=1), rows[rows["language"] == "en"].groupby("index")["right"].sum()
    scores = {f"{a} ahead of {b}": by_system[a] - by_system[b] for a, b in [*pairs, *(p[::-1] for p in pairs)]
              if {a, b} <= set(by_system)}  # fmt: skip
    scores |= {
        "right most often": total,
        "right in English only": total.where(total == english.reindex(total.index).fillna(0), 0),
        "right nowhere": (total == 0).astype(int),
        "the scorers differ": rows.groupby("index")["differ"].sum(),
    }
    ranked = {name: values[values > 0].sort_values(ascending=False, kind="stable") for name, values in scores.items()}
    return {name: [int(index) for index in values.index] for name, values in ranked.items() if len(values)}


def questions(frame: pd.DataFrame, pairs: Sequence[Sequence[str]] = ()) -> Any:
    """Menus that lead to every question of `answers_frame` with its answers; without a kernel the most telling one."""
    benchmarks = list(dict.fromkeys(frame["benchmark"]))
    found = {name: patterns(frame, name, pairs) | {ALL: sorted(set(frame[frame["benchmark"] == name]["index"]))}
             for name in benchmarks}  # fmt: skip
    if not is_interactive():
        return HTML(question_view(frame, benchmarks[0], next(iter(found[benchmarks[0]].values()))[0]))
    return _menus(lambda benchmark, which, question: question_view(frame, benchmark, question), found)


def _menus(view: Callable[..., str], choices: Mapping[str, Mapping[str, list]]) -> Any:
    """Three menus, each of which offers what the one before it leaves, over a view of what is chosen."""
    from ipywidgets import Dropdown, interactive

    menus = {name: Dropdown(description=name) for name in view.__code__.co_varnames[:3]}
    first, second, third = menus.values()

    def offer(menu: Dropdown, options: Iterable[Any]) -> None:
        menu.options = list(options)
        menu.index = 0

    first.observe(lambda _: offer(second, choices[first.value]), "value")
    for menu in (first, second):
        menu.observe(lambda _: offer(third, choices[first.value].get(second.value, [None])), "value")
    offer(first, choices)
    stale = "<p><small>Menus need the kernel that made them: after a restart, run this cell again.</small></p>"
    return interactive(lambda **chosen: display(HTML(stale + view(**chosen))), **menus)


def suspicious(lines: Sequence[Mapping[str, Any]]) -> Any:
    """The findings of `audit.checked`: menus for language, check and data set; without a kernel one row per check."""
    found = {(line["language"], line["check"], line["data_set"]): line for line in lines if line["count"]}
    if not found or not is_interactive():
        rows = pd.DataFrame(list(found.values()), columns=["check", "data_set", "language", "count", "example"])
        return HTML(text_table(rows.groupby("check", sort=False).head(1), language="language"))
    choices: dict[str, dict[str, list[str]]] = {}
    for language, check, data_set in sorted(found, key=lambda key: [*CODES, key[0]].index(key[0])):
        choices.setdefault(language, {}).setdefault(check, []).append(data_set)

    def view(language: str, check: str, data_set: str) -> str:
        if (line := found.get((language, check, data_set))) is None:  # between two menus
            return ""
        rows = pd.DataFrame(line["rows"], columns=["row", "text"]).assign(language=language)
        return f"<p>{len(rows)} of {line['count']:,} rows</p>{text_table(rows, language='language')}"

    return _menus(view, choices)
