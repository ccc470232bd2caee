"""One table as HTML in a notebook, in the terminal, and as CSV, Markdown and LaTeX files; all text is escaped here."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import yaml
from pandas.io.formats.style import Styler
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from qalign_core.runs import write_atomic

CAPTIONS: dict[str, str] = yaml.safe_load(Path(__file__).with_name("captions.yaml").read_text(encoding="utf-8"))
RUNNING_TEXT = 30  # characters of a cell from which on its column reads better from the left
_CSS = [
    {"selector": "", "props": "border-collapse: collapse; font-variant-numeric: tabular-nums; border: none"},
    {"selector": "thead th", "props": "border-top: 1.5px solid; border-bottom: 1px solid; font-weight: 600"},
    {"selector": "tbody tr:last-child td", "props": "border-bottom: 1.5px solid"},
    {"selector": "tbody tr", "props": "background: transparent"},
    {"selector": "th, td", "props": "padding: 0.25em 0.7em; text-align: right; white-space: nowrap"},
    {
        "selector": "th:first-child, td:first-child",  # stays where it is while the rest scrolls
        "props": "text-align: left; position: sticky; left: 0; background: var(--jp-layout-color0, var(--paper, #fff))",
    },
]
_CAPTION = "font-size: .85em; opacity: .8; max-width: 60em; margin: .4em 0 .8em; white-space: normal"
_LATEX = {"†": r"\textdagger{}", "→": r"$\rightarrow$", "−": r"$-$", "–": "--", "±": r"$\pm$"}
_LATEX |= {"≤": r"$\leq$", "≥": r"$\geq$", r"\color{gray}": r"\color[gray]{0.45}"}


@dataclass(frozen=True, repr=False)
class Table:
    """A finished table: its numbers and the same cells as they are printed."""

    name: str  # stem of its files
    title: str
    caption: str
    data: pd.DataFrame  # the numbers, as they go into the CSV file
    text: pd.DataFrame  # the cells as they are printed; the first column names the row
    bold: frozenset[tuple[int, str]] = frozenset()  # (row, column name)
    muted: frozenset[int] = frozenset()  # rows in grey: published numbers and floors
    hints: pd.DataFrame | None = None  # provenance of single cells, shown on hover; the columns of `text`
    details: tuple[Table, ...] = ()  # to unfold below this one; they have files of their own

    def __repr__(self) -> str:
        return f"{self.title} ({len(self.text)} rows)"

    def _repr_html_(self) -> str:
        more = [f"<details><summary>{html.escape(t.title)}</summary>{t._repr_html_()}</details>" for t in self.details]
        caption = html.escape(self.caption)  # "from: README of X (https://…)" becomes a link with that text
        linked = re.sub(r"(?<=[:;†] )([^:;†]+?) \((https://[\w./-]*\w)\)", r'<a href="\2">\1</a>', caption)
        caption = f"<strong>{html.escape(self.title)}</strong><br>{linked}"
        # The caption stands below the part that scrolls, so that it can be read on a narrow screen.
        return (
            f'<figure style="margin: .6em 0"><div style="overflow-x: auto">{styled(self).to_html()}</div>'
            f'<figcaption style="{_CAPTION}">{caption}</figcaption>{"".join(more)}</figure>'
        )


def from_frame(
    frame: pd.DataFrame, *, name: str, title: str, caption: str = "", formats: Mapping[str, str] | None = None
) -> Table:
    """A plain table of a frame: whole numbers as `1,234`, others with one decimal or as `formats` says per column."""

    def cell(column: str, value: Any) -> str:
        if pd.isna(value) or isinstance(value, bool | str):
            return "" if pd.isna(value) else str(value)
        whole = float(value).is_integer() and "float" not in str(frame[column].dtype)
        return format(value, (formats or {}).get(column, "," if whole else ",.1f"))

    text = pd.DataFrame({column: [cell(column, v) for v in frame[column]] for column in frame}, columns=frame.columns)
    return Table(name, title, caption, frame.reset_index(drop=True), text)


def bounded(value: float, low: float, high: float, *, sign: str = "") -> str:
    """Such as `44.0 [38.1, 50.2]`; the value alone where nothing could be resampled, blank without one."""
    if pd.isna(value):
        return ""
    return f"{value:{sign}z.1f}" if pd.isna(low) else f"{value:{sign}z.1f} [{low:{sign}z.1f}, {high:{sign}z.1f}]"


def _styler(table: Table, escape: str, muted: str) -> Styler:
    """The cells with their CSS, every cell and heading escaped."""
    styles = pd.DataFrame("", index=table.text.index, columns=table.text.columns)
    rows = sorted(table.muted)
    styles.iloc[rows] = table.text.iloc[rows].ne("").replace({True: muted, False: ""})
    for row, column in table.bold:
        styles.loc[row, column] = "font-weight: bold"
    styler = table.text.style.format(escape=escape).format_index(escape=escape, axis=1).hide(axis="index")
    return styler.apply(lambda _: styles, axis=None)


def styled(table: Table) -> Styler:
    """The table for a notebook, without its caption; every cell, heading and hint is escaped."""
    lengths = table.text.map(len).max()  # NaN in a table without rows
    long = [n for n, length in enumerate(lengths) if n and length > RUNNING_TEXT]
    left = [{"selector": f"th.col{n}, td.col{n}", "props": "text-align: left"} for n in long]
    styler = _styler(table, "html", "color: #767676").set_table_styles([*_CSS, *left])  # grey on white and on black
    if table.hints is not None:  # pandas writes hints and the identifier as they are
        styler = styler.set_tooltips(table.hints.map(html.escape), as_title_attribute=True)
    return styler.set_uuid(re.sub(r"[^\w-]", "-", table.name))


def _latex(table: Table) -> str:
    """A `booktabs` table environment."""
    columns = "l" + "r" * (table.text.shape[1] - 1)
    body = _styler(table, "latex", "color: gray").to_latex(
        hrules=True, convert_css=True, column_format=columns, position_float="centering"
    )
    title = re.sub(r"^(Table|Figure) \d+\. ", "", table.title)  # LaTeX numbers tables itself
    escaped = pd.DataFrame([f"{title}. {table.caption}"]).style.format(escape="latex").hide(axis=0).hide(axis=1)
    caption = escaped.to_latex().splitlines()[1].removesuffix(r" \\")
    body = body.replace(r"\end{table}", f"\\caption{{{caption}}}\n\\label{{tab:{table.name}}}\n\\end{{table}}")
    body = body.replace(r"\begin{tabular}", "\\small\\setlength{\\tabcolsep}{4pt}\n\\begin{tabular}")
    for character, command in _LATEX.items():
        body = body.replace(character, command)
    return "% needs \\usepackage{booktabs,xcolor}\n" + body


def _markdown(table: Table) -> str:
    def safe(text: str) -> str:  # of markup only what does harm, so that the file reads well as text
        return re.sub(r"([|*]|(?<=\])\(|:(?=//)|(?<=www)\.)", r"\\\1", html.escape(text, quote=False))

    cells = table.text.map(safe)
    for row, column in table.bold:
        cells.loc[row, column] = f"**{cells.loc[row, column]}**"
    for row in table.muted:
        cells.loc[row] = [f"*{cell}*" if cell else "" for cell in cells.loc[row]]
    align = ["left"] + ["right"] * (cells.shape[1] - 1)
    body = cells.to_markdown(index=False, colalign=align, disable_numparse=True, headers=[safe(c) for c in cells])
    return f"**{safe(table.title)}**\n\n{body}\n\n{safe(table.caption)}\n"


def save_table(table: Table, folder: str | Path) -> list[Path]:
    """Write `<name>.csv`, `.md` and `.tex`, of its details too; the same table gives the same bytes."""
    csv = table.data.to_csv(index=False, float_format="%.10g", lineterminator="\n")
    contents = {"csv": csv, "md": _markdown(table), "tex": _latex(table)}
    written = [write_atomic(Path(folder) / f"{table.name}.{suffix}", text) for suffix, text in contents.items()]
    return written + [path for more in table.details for path in save_table(more, folder)]


MEANS = ["Avg.", "non-en", "en", "gap"]  # what a terminal too narrow for every language gets


def print_table(table: Table, console: Console) -> None:
    """Print the table; a terminal too narrow for it gets its means, so that no line breaks inside a number."""
    columns, caption, wide = list(table.text), re.sub(r" \(https://[^)]*\)", "", table.caption), console
    needed = console.measure(_printed(table, columns), options=console.options.update(max_width=1000)).maximum
    if needed > console.width:
        if console.is_terminal and set(MEANS[:3]) <= set(columns):
            columns = [columns[0], *(mean for mean in MEANS if mean in columns)]
            caption = f"The languages need a wider terminal; they are in {table.name}.md. {caption}"
        else:
            wide = Console(file=console.file, width=1000, highlight=False)
    console.print(Text(table.title, style="bold"))
    wide.print(_printed(table, columns))
    console.print(Text(caption, style="dim"))


def _printed(table: Table, columns: Iterable[str]) -> RichTable:
    printed = RichTable(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    for position, column in enumerate(columns):
        printed.add_column(Text(str(column)), justify="right" if position else "left", no_wrap=True)
    for row, cells in enumerate(table.text[list(columns)].to_dict("records")):
        style = "dim" if row in table.muted else ""
        printed.add_row(*(Text(cell, "bold" if (row, name) in table.bold else style) for name, cell in cells.items()))
    return printed
