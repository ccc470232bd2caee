"""The first page of a run's report: what was run, what must be kept in mind, and the main tables and figures."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from html import escape

from qalign_core import report
from qalign_core.runs import Run
from qalign_core.scores.results import Results
from qalign_core.shown import captions
from qalign_core.shown.tables import Table

SHOWN = (*report.ACCURACY, "table-4")
PICTURES = ("figure-1-framework", "figure-headline", "figure-ablation")


def heading(results: Results) -> str:
    """The title of the report."""
    return f"QAlign, profile {results.run['profile']}"


def front(run: Run, results: Results, tables: Sequence[Table] | None = None) -> str:
    """What stands on the index page above the list of chapters, as HTML.

    Args:
        run: holds the figures.
        results: of the same run.
        tables: `report.run_tables(results)`, where they are there already.
    """
    seeds, asked = results.run["seeds"], results.run["questions"]
    questions = ", ".join(f"{count:,} of {captions.BENCHMARKS[name][1]}" for name, count in asked.items())
    said = captions.remarks(results.tables["accuracy"], results.tables.get("floor"), results.run["scorer"])
    parts = [
        f"<p>Profile <b>{escape(results.run['profile'])}</b>, seed{'s' * (len(seeds) > 1)} "
        f"{escape(', '.join(map(str, seeds)))}; questions a language: {escape(questions)}; "
        f"{len(results.main())} system{'s' * (len(results.main()) != 1)} in the main tables. "
        'All tables and figures, with their data: <a href="../figures">figures</a>.</p>'
    ]
    if said:
        parts.append(f"<blockquote><ul>{''.join(f'<li>{escape(text)}</li>' for text in said)}</ul></blockquote>")
    parts += [_picture(run, name) for name in PICTURES[:2]]
    tables = report.run_tables(results) if tables is None else tables
    parts += [f'<div class="output_area">{t._repr_html_()}</div>' for t in tables if t.name.startswith(SHOWN)]
    parts += [_picture(run, name) for name in PICTURES[2:]]
    return "\n".join(parts)


def _picture(run: Run, name: str) -> str:
    """A figure of the run with its caption, inside the page; nothing where it was not drawn."""
    path = run.figures / f"{name}.png"
    if not path.is_file():
        return ""
    text = path.with_suffix(".txt")
    caption = escape(text.read_text(encoding="utf-8").strip()) if text.is_file() else ""
    data = base64.b64encode(path.read_bytes()).decode()
    return (
        f'<figure><img alt="{escape(name)}" src="data:image/png;base64,{data}" width="720">'
        f"<figcaption>{caption}</figcaption></figure>"
    )
