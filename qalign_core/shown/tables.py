"""One table, four ways to show it: styled HTML in a notebook, the terminal, and CSV, Markdown and LaTeX files.

Everything that reaches HTML is escaped here, because responses, questions and names of systems are text from outside.
"""

from __future__ import annotations

import html
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
from pandas.io.formats.style import Styler
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table as RichTable
from rich.text import Text

from qalign_core.runs import write_atomic

MUTED = "color: #767676"  # readable on white and on a dark theme
_TABLE_CSS = [
    {"selector": "", "props": "border-collapse: collapse; font-variant-numeric: tabular-nums; border: none"},
    {"selector": "thead th", "props": "border-top: 1.5px solid; border-bottom: 1px solid; font-weight: 600"},
    {"selector": "tbody tr:last-child td", "props": "border-bottom: 1.5px solid"},
    {"selector": "tbody tr", "props": "background: transparent"},
    {"selector": "th, td", "props": "padding: 0.25em 0.7em; text-align: right; white-space: nowrap"},
    {
        "selector": "th:first-child, td:first-child",  # stays where it is while the rest scrolls
        "props": "text-align: left; position: sticky; left: 0; background: var(--jp-layout-color0, var(--paper, #fff))",
    },
    {"selector": "caption", "props": "caption-side: bottom; text-align: left; padding-top: 0.6em; max-width: 60em"},
]
RUNNING_TEXT = 30  # characters of a cell
_CAPTION = "font-size: .85em; opacity: .8; max-width: 60em; margin: .4em 0 .8em; white-space: normal"
_LATEX = {
    "†": r"\textdagger{}",
    "→": r"$\rightarrow$",
    "−": r"$-$",
    "–": "--",
    "±": r"$\pm$",
    "≤": r"$\leq$",
    "≥": r"$\geq$",
}


@dataclass(frozen=True, repr=False)
class Table:
    """A finished table: its numbers and the same cells as they are printed.

    Attributes:
        name: stem of its files, such as `"table-2-mgsm"`.
        title: such as `"Table 2. Accuracy on mGSM (%)"`.
        caption: what a reader must know: profile, seeds, questions, intervals, floor.
        data: the numbers, as they go into the CSV file.
        text: the cells as they are printed; the first column names the row. Same number of rows as `data`.
        bold: cells of `text` in bold, as (row, column name).
        muted: rows set apart in grey: published numbers and floors.
        hints: what stands behind single cells, shown where a pointer rests on them; the columns of `text`.
        details: tables to unfold below this one; they have files of their own.
    """

    name: str
    title: str
    caption: str
    data: pd.DataFrame
    text: pd.DataFrame
    bold: frozenset[tuple[int, str]] = field(default_factory=frozenset)
    muted: frozenset[int] = field(default_factory=frozenset)
    hints: pd.DataFrame | None = None
    details: tuple[Table, ...] = ()

    def __repr__(self) -> str:
        return f"{self.title} ({len(self.text)} rows)"

    def _repr_html_(self) -> str:
        body = _styled(self).to_html()
        unfolded = "".join(
            f"<details><summary>{html.escape(table.title)}</summary>{table._repr_html_()}</details>"
            for table in self.details
        )
        # The caption stands below the part that scrolls, so that it can be read on a narrow screen.
        caption = f'<figcaption style="{_CAPTION}">{_caption(self)}</figcaption>'
        return f'<figure style="margin: .6em 0"><div style="overflow-x: auto">{body}</div>{caption}{unfolded}</figure>'


def from_frame(
    frame: pd.DataFrame, *, name: str, title: str, caption: str, formats: Mapping[str, str] | None = None
) -> Table:
    """A plain table of a frame: whole numbers as `1,234`, others with one decimal, missing ones blank.

    Args:
        frame: what to show; its first column names the rows.
        name: stem of the files.
        title: heading.
        caption: text below.
        formats: format specifications of single columns, such as `{"p": ".4f"}`.
    """
    formats = formats or {}

    def cell(column: str, value: Any) -> str:
        if value is None or value is pd.NA or value != value:
            return ""
        if column in formats:
            return format(value, formats[column])
        if isinstance(value, bool | str):
            return str(value)
        return (
            f"{value:,}" if float(value).is_integer() and "float" not in str(frame[column].dtype) else f"{value:,.1f}"
        )

    text = pd.DataFrame(
        {column: [cell(column, value) for value in frame[column]] for column in frame}, columns=frame.columns
    )
    return Table(name, title, caption, frame.reset_index(drop=True), text)


def _cell_styles(table: Table, muted: str) -> pd.DataFrame:
    styles = pd.DataFrame("", index=table.text.index, columns=table.text.columns)
    rows = sorted(table.muted)
    styles.iloc[rows] = table.text.iloc[rows].ne("").replace({True: muted, False: ""})
    for row, column in table.bold:
        styles.loc[row, column] = "font-weight: bold"
    return styles


def _running_text(table: Table) -> list[int]:
    """The columns, by position, of more than names and numbers, which read better from the left."""
    if table.text.empty:
        return []
    return [n for n, c in enumerate(table.text) if n and table.text[c].str.len().max() > RUNNING_TEXT]


def _caption(table: Table) -> str:
    return f"<strong>{html.escape(table.title)}</strong><br>{html.escape(table.caption)}"


def _styled(table: Table) -> Styler:
    styler = table.text.style.format(escape="html").format_index(escape="html", axis=1).hide(axis="index")
    styler = styler.apply(lambda _: _cell_styles(table, MUTED), axis=None).set_table_styles(_TABLE_CSS)
    left = [{"selector": f"th.col{n}, td.col{n}", "props": "text-align: left"} for n in _running_text(table)]
    styler = styler.set_table_styles(left, overwrite=False)
    if table.hints is not None:  # pandas writes them as they are
        styler = styler.set_tooltips(table.hints.map(html.escape), as_title_attribute=True)
    return styler.set_uuid(re.sub(r"[^\w-]", "-", table.name))  # it stands in HTML as it is


def styled(table: Table) -> Styler:
    """The table for a notebook, with its caption; every cell, heading, hint and caption is escaped."""
    return _styled(table).set_caption(_caption(table))


def _latex(table: Table) -> str:
    """A `booktabs` table environment; the preamble needs `\\usepackage{booktabs}`."""
    styler = table.text.style.format(escape="latex").format_index(escape="latex", axis=1).hide(axis="index")
    styler = styler.apply(lambda _: _cell_styles(table, "color: gray"), axis=None)
    body = styler.to_latex(
        hrules=True, convert_css=True, column_format="l" + "r" * (table.text.shape[1] - 1), position_float="centering"
    )
    title = re.sub(r"^(Table|Figure) \d+\. ", "", table.title)  # LaTeX numbers tables itself
    escaped = pd.Series([f"{title}. {table.caption}"]).to_frame().style.format(escape="latex").hide(axis="index")
    caption = escaped.hide(axis="columns").to_latex().splitlines()[1].removesuffix(r" \\")
    body = body.replace(r"\end{table}", f"\\caption{{{caption}}}\n\\label{{tab:{table.name}}}\n\\end{{table}}")
    body = body.replace(r"\begin{tabular}", "\\small\\setlength{\\tabcolsep}{4pt}\n\\begin{tabular}")
    body = body.replace(r"\color{gray}", r"\color[gray]{0.45}")
    for character, command in _LATEX.items():
        body = body.replace(character, command)
    return "% needs \\usepackage{booktabs,xcolor}\n" + body


def markdown_text(text: str) -> str:
    """Text that means itself in Markdown: no markup, link, image, formula or HTML."""
    text = re.sub(r"([\\`*_|\[\]#!$~@]|:(?=//)|(?<=www)\.)", r"\\\1", text)
    return html.escape(text, quote=False)


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
    """Write `<name>.csv`, `<name>.md` and `<name>.tex`; the same table gives the same bytes.

    Returns:
        The three paths, and those of the tables that unfold below it.
    """
    folder = Path(folder)
    contents = {
        "csv": table.data.to_csv(index=False, float_format="%.10g", lineterminator="\n"),
        "md": _markdown(table),
        "tex": _latex(table),
    }
    written = [write_atomic(folder / f"{table.name}.{suffix}", text) for suffix, text in contents.items()]
    return written + [path for more in table.details for path in save_table(more, folder)]


def print_table(table: Table, console: Console | None = None) -> None:
    """Print the table in the terminal. Columns keep their width: a terminal too narrow for it scrolls or wraps."""
    console = console or Console()
    printed = RichTable(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    for position, column in enumerate(table.text):
        printed.add_column(Text(str(column)), justify="right" if position else "left", no_wrap=True)
    for row, cells in enumerate(table.text.itertuples(index=False)):
        style = "dim" if row in table.muted else ""
        bold = [(row, column) in table.bold for column in table.text]
        printed.add_row(*(Text(cell, style="bold" if b else style) for cell, b in zip(cells, bold, strict=True)))
    needed = Measurement.get(console, console.options.update(max_width=1000), printed).maximum
    console.print(Text(table.title, style="bold"))
    width = console.width
    console.width = max(width, needed)
    console.print(printed)
    console.width = width
    console.print(Text(table.caption, style="dim"))


def best_cells(values: pd.DataFrame, rows: Sequence[int]) -> frozenset[tuple[int, str]]:
    """The largest value of each column among `rows` (all of them where several are equal); none where it is zero."""
    chosen = values.loc[list(rows)].round(6)
    return frozenset(
        (row, column)
        for column in chosen
        for row in chosen.index
        if chosen.loc[row, column] == chosen[column].max() > 0
    )
