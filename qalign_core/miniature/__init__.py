"""The embedded default world: word problems in ten languages, and a small LLaMA to learn them.

`write_world` writes a data folder in the layouts of the real data sets, `base_text` is what the base model reads before
it is trained, `create_base` makes that model, `language_blind_floor` says how much of a benchmark the numbers alone
give away and `solution_overlap` how much of a question its solution repeats.
"""

from __future__ import annotations

from pathlib import Path

from qalign_core.miniature.floor import language_blind_floor, solution_overlap
from qalign_core.miniature.folder import DEFAULT_SIZES, write_world
from qalign_core.miniature.language import STYLES
from qalign_core.miniature.text import base_text, create_base, shipped_tokenizer, write_base_corpus

SHIPPED_BASE = Path(__file__).parent / "base" / "seed-1"


def shipped_base(seed: int) -> Path:
    """The folder of the pre-trained base that a seed starts from: there are a few, and the seeds take turns."""
    bases = sorted(SHIPPED_BASE.parent.glob("seed-*"))
    return bases[(seed - 1) % len(bases)]


__all__ = [
    "DEFAULT_SIZES",
    "SHIPPED_BASE",
    "STYLES",
    "base_text",
    "create_base",
    "language_blind_floor",
    "shipped_base",
    "shipped_tokenizer",
    "solution_overlap",
    "write_base_corpus",
    "write_world",
]
