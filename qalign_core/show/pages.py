"""Executed notebooks as one linked report of self-contained HTML pages: no script, no request to any other place."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import nbformat
from bs4 import BeautifulSoup
from jinja2 import pass_context
from jinja2.runtime import Context
from latex2mathml.converter import convert as mathml
from nbconvert import HTMLExporter
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath
from pygments.formatters import HtmlFormatter

from qalign_core import runs

STYLE = Path(__file__).with_name("pages.css").read_text(encoding="utf-8")
INDEX = "index.html"
LONG = 5  # sections from which on a chapter's page has a table of contents


class _Renderer(IPythonRenderer):
    """Markdown with its equations as MathML, which browsers draw without a script."""

    def block_math(self, body: str) -> str:
        return mathml(body, display="block")

    def inline_math(self, body: str) -> str:
        return mathml(body)

    def latex_environment(self, name: str, body: str) -> str:
        return mathml(rf"\begin{{{name}}}{body}\end{{{name}}}", display="block")


class _Exporter(HTMLExporter):
    @pass_context
    def markdown2html(self, context: Context, source: str) -> str:
        attachments = context.get("cell", {}).get("attachments", {})
        return MarkdownWithMath(renderer=_Renderer(escape=False, attachments=attachments)).render(source)


def _at_rest(body: str) -> str:
    """A page's body without scripts and frames; an image from elsewhere gives way to its description."""
    soup = BeautifulSoup(body, "html.parser")
    for tag in soup.find_all(["script", "iframe", "object", "embed", "link"]):
        tag.decompose()
    for image in soup.find_all("img"):
        if not str(image.get("src", "")).startswith("data:"):
            image.replace_with(str(image.get("alt", "")))
    return str(soup)


def title(notebook: nbformat.NotebookNode) -> str:
    """A notebook's first heading."""
    for cell in notebook.cells:
        if cell.cell_type == "markdown" and cell.source.lstrip().startswith("# "):
            return cell.source.lstrip().splitlines()[0].removeprefix("# ").strip()
    return "Notebook"


def body(notebook: nbformat.NotebookNode) -> str:
    """What is on a notebook's page, without scripts and frames.

    The cells that open a chapter are folded into one line. Below it stand the outputs of the cells tagged `lead`, so
    that a page begins with what the chapter is about, and in a long chapter its contents.
    """
    cells = list(notebook.cells)
    end = next((n for n, cell in enumerate(cells, 1) if "open_run(" in cell.source), 0)
    head, rest = _exported([c for c in cells[:end] if c.cell_type == "markdown"]), _exported(cells[end:])
    if not end:
        return rest
    opening = _exported([c for c in cells[:end] if c.cell_type == "code"])
    said = re.search(r"^profile \S+ · seed [\d, ]+$", BeautifulSoup(opening, "html.parser").get_text(), re.MULTILINE)
    folded = f"<details><summary>{said[0] if said else 'how this chapter begins'}</summary>{opening}</details>"
    leading = [cell for cell in cells if "lead" in cell.metadata.get("tags", [])]
    lead = _exported([{**cell, "outputs": [o for o in cell.outputs if "data" in o]} for cell in leading], code=False)
    headings = BeautifulSoup(rest, "html.parser").find_all("h2")
    links = [f'<a href="#{h["id"]}">{escape(h.get_text().removesuffix("¶"))}</a>' for h in headings if h.get("id")]
    contents = f'<p class="contents">{" · ".join(links)}</p>' if len(links) >= LONG else ""
    return f"{head}{folded}{contents}{lead}{rest}"


def _exported(cells: Sequence[Mapping[str, Any]], *, code: bool = True) -> str:
    exporter = _Exporter(template_name="basic")
    exporter.exclude_input_prompt = exporter.exclude_output_prompt = True
    exporter.exclude_input = not code
    notebook = nbformat.from_dict({"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 5})
    return _at_rest(exporter.from_notebook_node(notebook)[0])


def _document(heading: str, content: str, chapters: Sequence[tuple[str, str]], current: str) -> str:
    """A whole page around content that is at rest."""
    links = "".join(
        f'<a href="{escape(name)}"{" aria-current=page" if name == current else ""}>{escape(text)}</a>'
        for name, text in chapters
    )
    code = HtmlFormatter(style="friendly").get_style_defs(".highlight")
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        # The page runs no script and asks no other place for anything, whatever a model's output contains.
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'; "
        'img-src data:">'
        f"<title>{escape(heading)}</title><style>{code}{STYLE}</style></head>\n"
        f"<body><nav>{links}</nav><main>{content}</main></body></html>\n"
    )


def opening(content: str) -> str:
    """The first paragraph of a page, as HTML, without a last sentence that leads over to what is not shown."""
    first = BeautifulSoup(content, "html.parser").find("p")
    if first is None:
        return ""
    if first.get_text().rstrip().endswith((".", "!", "?")):
        return str(first)
    ends = [found.end() for found in re.finditer(r"[.!?](?=\s)", str(first))]
    return str(BeautifulSoup(str(first)[: ends[-1] if ends else None], "html.parser"))


def write_report(notebooks: str | Path, folder: str | Path, front: str = "", heading: str = "Report") -> list[Path]:
    """Write every executed notebook of a folder as a page, each linked to the others, and before them an index page
    with its `heading` and `front` (HTML above the list of chapters); nothing where no notebook was executed.
    """
    paths = sorted(Path(notebooks).glob("[0-9]*.ipynb"))
    if not paths:
        return []
    loaded = [nbformat.read(path, as_version=4) for path in paths]
    names = [path.with_suffix(".html").name for path in paths]
    titles = [title(notebook) for notebook in loaded]
    chapters = [(INDEX, heading), *zip(names, titles, strict=True)]
    bodies = [body(notebook) for notebook in loaded]
    listed = "".join(
        f'<section><h3><a href="{escape(name)}">{escape(text)}</a></h3>{opening(content)}</section>'
        for name, text, content in zip(names, titles, bodies, strict=True)
    )
    index = f"<h1>{escape(heading)}</h1>{_at_rest(front)}<h2>Chapters</h2>{listed}"
    written = [(INDEX, heading, index), *zip(names, titles, bodies, strict=True)]
    return [
        runs.write_atomic(Path(folder) / name, _document(text, content, chapters, name))
        for name, text, content in written
    ]
