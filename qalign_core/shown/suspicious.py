"""The rows that the audit found, to be looked through by language in JupyterLab; the first of each check elsewhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import pandas as pd

from qalign_core.languages import CODES, LANGUAGES
from qalign_core.shown.live import Explorer
from qalign_core.shown.views import text_table

EVERY = "every check"
SHOWN = 40  # rows at once


class SuspiciousRows(Explorer):
    """The audit's findings: menus for a language and a check where someone is there, an example a check elsewhere.

    Args:
        lines: of `audit.checked`.
    """

    def __init__(self, lines: Sequence[Mapping[str, Any]]) -> None:
        super().__init__()
        self.lines = [line for line in lines if line["count"]]

    def __repr__(self) -> str:
        return f"SuspiciousRows of {len({line['data_set'] for line in self.lines})} data sets"

    def static(self) -> str:
        """The first row of each check."""
        rows = pd.DataFrame(self.lines, columns=["check", "data_set", "language", "count", "example"])
        return text_table(rows.groupby("check", sort=False).head(1), language="language")

    def languages(self) -> dict[str, int]:
        """Codes in the order of the languages, with how many rows were found."""
        counts: dict[str, int] = {}
        for line in self.lines:
            counts[line["language"]] = counts.get(line["language"], 0) + line["count"]
        known = [code for code in CODES if code in counts]
        return {code: counts[code] for code in (*known, *sorted(counts.keys() - set(known)))}

    def checks(self, language: str) -> dict[str, int]:
        """What was found in a language: check → rows."""
        counts: dict[str, int] = {}
        for line in self.lines:
            if line["language"] == language:
                counts[line["check"]] = counts.get(line["check"], 0) + line["count"]
        return counts

    def rows(self, language: str, check: str = EVERY) -> pd.DataFrame:
        """The rows that were kept of a language's findings: `check, data_set, row, text`.

        Of several checks and data sets the first row of each comes first, then the second of each, and so on.
        """
        found = [
            (place, line["check"], line["data_set"], row, text)
            for line in self.lines
            if line["language"] == language and check in (EVERY, line["check"])
            for place, (row, text) in enumerate(line["rows"])
        ]
        table = pd.DataFrame(found, columns=["place", "check", "data_set", "row", "text"])
        return table.sort_values("place", kind="stable").drop(columns="place").reset_index(drop=True)

    def view(self, language: str, check: str = EVERY) -> str:
        """The first of these rows as HTML, with how many there are."""
        rows = self.rows(language, check).head(SHOWN)
        total = sum(n for name, n in self.checks(language).items() if check in (EVERY, name))
        counted = f"{len(rows)} of {total:,} rows" if len(rows) < total else f"{total:,} rows"
        box = "max-height: 32em; overflow: auto; line-height: 1.4"
        return f'<p>{counted}</p><div lang="{escape(language)}" style="{box}">{text_table(rows)}</div>'

    def _make_controls(self) -> Any:
        from ipywidgets import HTML, Dropdown, HBox, Layout, VBox

        spoken = self.languages()
        if not spoken:
            return HTML("The audit found nothing.")
        named = [(f"{_native(code)}: {n:,}", code) for code, n in spoken.items()]
        language = Dropdown(options=named, description="language")
        check = Dropdown(options=[EVERY], description="check", layout=Layout(width="32em"))
        shown = HTML()

        def show(_: Any = None) -> None:
            if check.value is not None:
                shown.value = self.view(language.value, check.value)

        def offer(_: Any = None) -> None:
            before, found = check.value, self.checks(language.value)
            check.options = [(EVERY, EVERY), *((f"{name}: {n:,}", name) for name, n in found.items())]
            check.value = before if before in found else EVERY
            show()

        language.observe(offer, "value")
        check.observe(show, "value")
        offer()
        return VBox([HBox([language, check], layout=Layout(flex_flow="row wrap")), shown])


def _native(code: str) -> str:
    return f"{LANGUAGES[code].native_name} ({code})" if code in LANGUAGES else code
