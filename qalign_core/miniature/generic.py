"""Generic sentences in ten languages, parallel by construction: FLORES's part in the miniature."""

from __future__ import annotations

import random
import re
from dataclasses import dataclass

from qalign_core.miniature.language_data import language_data
from qalign_core.miniature.world import PEOPLE

_PLACEHOLDER = re.compile(r"\{(\w+)(?: (\w+))?\}")


MOST_MISSES = 2000  # draws in a row that bring no new sentence


@dataclass(frozen=True)
class GenericSentence:
    """A sentence before it has words: its template, its people, and which word of every list it takes."""

    key: str
    people: tuple[str, str]
    words: tuple[tuple[str, int], ...]

    @property
    def signature(self) -> str:
        """What two equal sentences share."""
        return render_generic(self, "en")


def draw_generic(rng: random.Random) -> GenericSentence:
    """A generic sentence from a seeded generator."""
    data = language_data("en").generic
    key = rng.choice(list(data["sentences"]))
    first = rng.choice(list(PEOPLE))
    second = rng.choice([person for person in PEOPLE if person != first])
    words = tuple((name, rng.randrange(len(words))) for name, words in data["words"].items())
    return GenericSentence(key, (first, second), words)


def distinct_generic(rng: random.Random, count: int) -> list[GenericSentence]:
    """`count` sentences that differ from each other in English.

    Raises:
        ValueError: when the world has not that many sentences.
    """
    seen: set[str] = set()
    sentences: list[GenericSentence] = []
    misses = 0
    while len(sentences) < count:
        sentence = draw_generic(rng)
        if sentence.signature in seen:
            misses += 1
            if misses > MOST_MISSES:
                raise ValueError(f"the miniature has no {count} different generic sentences; ask for fewer (flores)")
            continue
        misses = 0
        seen.add(sentence.signature)
        sentences.append(sentence)
    return sentences


def render_generic(sentence: GenericSentence, code: str) -> str:
    """The sentence in one language."""
    data = language_data(code)
    chosen = dict(sentence.words)

    def fill(match: re.Match) -> str:
        name, form = match[1], match[2]
        if name in ("N", "M"):
            return data.name(sentence.people["NM".index(name)], form or "nom")
        word = data.generic["words"][name][chosen[name]]
        return word if isinstance(word, str) else word[form or "nom"]

    return data.raise_first_letter(_PLACEHOLDER.sub(fill, data.generic["sentences"][sentence.key]))
