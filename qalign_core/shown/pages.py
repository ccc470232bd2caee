"""Executed notebooks as one linked report of self-contained HTML pages: no script, no request to any other place."""

from __future__ import annotations

import re
from collections.abc import Sequence
from html import escape
from pathlib import Path

import nbformat
from bs4 import BeautifulSoup
from jinja2 import pass_context
from jinja2.runtime import Context
from latex2mathml.converter import convert as mathml
from nbconvert import HTMLExporter
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath
from pygments.formatters import HtmlFormatter

from qalign_core import runs

STYLE = """
:root { --ink: #1d2733; --soft: #5b6875; --line: #dfe4ea; --paper: #ffffff; --shade: #f6f7f9; --accent: #22577a; }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); line-height: 1.6; font-size: 16px;
  font-family: "Noto Sans", "Helvetica Neue", Arial, "Noto Sans Bengali", "Noto Sans Thai", "Noto Sans CJK JP",
  "Noto Sans CJK SC", sans-serif; }
nav { border-bottom: 1px solid var(--line); padding: .7rem 1.2rem; font-size: .85rem; display: flex; flex-wrap: wrap;
  gap: .3rem 1.1rem; }
nav a { color: var(--soft); text-decoration: none; } nav a[aria-current] { color: var(--accent); font-weight: 600; }
main { max-width: 70rem; margin: 0 auto; padding: 1.2rem 1.2rem 5rem; }
.text_cell { max-width: 46rem; }
h1 { font-size: 1.9rem; line-height: 1.25; margin: 1.6rem 0 .8rem; } h2 { font-size: 1.35rem; margin: 2.4rem 0 .6rem; }
h3 { font-size: 1.08rem; margin: 1.6rem 0 .4rem; } a { color: var(--accent); } a.anchor-link { display: none; }
blockquote { margin: 1rem 0; padding: .1rem 1rem; border-left: 3px solid var(--accent); color: var(--soft); }
.text_cell code { overflow-wrap: anywhere; }
.highlight, pre { font: .82rem/1.5 "DejaVu Sans Mono", Consolas, monospace; }
.input_area .highlight { background: var(--shade); border-radius: 4px; padding: .55rem .8rem; overflow-x: auto; }
.input_area pre { margin: 0; background: none; } .output_area { overflow-x: auto; margin: .5rem 0; }
.text_cell .highlight { background: var(--shade); padding: .4rem .8rem; overflow-x: auto; width: max-content;
  min-width: 100%; max-width: min(67.6rem, 100vw - 2.4rem); }
.text_cell .highlight pre { margin: 0; background: none; }
.output_area pre { margin: .2rem 0; white-space: pre-wrap; overflow-wrap: anywhere; }
.output_stderr { background: #fdf3ee; padding: .1rem .8rem; border-radius: 4px; }
.prompt, .anchor-link { display: none; } img, svg { max-width: 100%; height: auto; }
table { border-collapse: collapse; font-size: .85rem; margin: .6rem 0; font-variant-numeric: tabular-nums; }
th, td { padding: .28rem .6rem; text-align: right; border-bottom: 1px solid var(--line); vertical-align: top; }
thead th { border-bottom: 1.5px solid var(--ink); font-weight: 600; } tbody th { text-align: left; font-weight: 500; }
.text_cell th, .text_cell td { text-align: left; }
caption { caption-side: top; text-align: left; color: var(--soft); padding: .3rem 0; font-size: .85rem; }
math[display="block"] { margin: 1rem 0; font-size: 1.08rem; }
figure { margin: 1.6rem 0; } figcaption { color: var(--soft); font-size: .85rem; max-width: 46rem; }
.output_area small { color: var(--soft); display: block; font-size: .85rem; line-height: 1.45; max-width: 46rem; }
@media (max-width: 40rem) { body { font-size: 15px; } h1 { font-size: 1.5rem; }
  figure { overflow-x: auto; } figure img, .output_area img { max-width: none; width: 38rem; } }
"""


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


INDEX = "index.html"


def title(notebook: nbformat.NotebookNode) -> str:
    """A notebook's first heading."""
    for cell in notebook.cells:
        if cell.cell_type == "markdown" and cell.source.lstrip().startswith("# "):
            return cell.source.lstrip().splitlines()[0].removeprefix("# ").strip()
    return "Notebook"


def page(notebook: nbformat.NotebookNode, chapters: Sequence[tuple[str, str]] = (), current: str = "") -> str:
    """One executed notebook as an HTML page.

    Args:
        notebook: with its outputs; images become part of the page.
        chapters: (file name, title) of every page to link to.
        current: this page's file name.
    """
    return _document(title(notebook), body(notebook), chapters, current)


def body(notebook: nbformat.NotebookNode) -> str:
    """What stands on a notebook's page, without scripts and frames."""
    exporter = _Exporter(template_name="basic")
    exporter.exclude_input_prompt = exporter.exclude_output_prompt = True
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
    """Write every executed notebook of a folder as a page, each linked to the others, and an index page before them.

    Args:
        notebooks: the run's `notebooks/`.
        folder: where to write; what is there under the same names is replaced.
        front: HTML that stands on the index page above the list of chapters, such as `front_page.front` makes.
        heading: of the index page.

    Returns:
        The index page, then the chapters in order of their numbers; nothing where no notebook was executed.
    """
    paths = sorted(p for p in Path(notebooks).glob("[0-9]*.ipynb"))
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
