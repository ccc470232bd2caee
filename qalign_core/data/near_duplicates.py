"""Questions that are the same but for numbers and a few words: groups within a set, and overlap between two sets."""

from __future__ import annotations

import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd

NUMBER = "0"
# Scripts written without spaces: each character is a token.
_UNSPACED = (("\u0e00", "\u0e7f"), ("\u3040", "\u30ff"), ("\u3400", "\u9fff"), ("\uf900", "\ufaff"))


class _Tokens(dict):
    """Character → what it becomes before splitting at spaces, for `str.translate`."""

    def __missing__(self, code: int) -> str:
        character = chr(code)
        kind = unicodedata.category(character)
        if any(first <= character <= last for first, last in _UNSPACED) and kind[0] in "LM":
            text = f" {character} "
        elif kind == "Nd":
            text = str(unicodedata.decimal(character))
        else:
            text = character.casefold() if kind[0] in "LMN" else " "
        self[code] = text
        return text


_TOKENS = _Tokens()


def tokens(text: str, *, numbers: bool = False) -> list[str]:
    """Words (characters, where a script has no spaces) without case and punctuation; numbers kept or all made alike."""
    found = text.translate(_TOKENS).split()
    return found if numbers else [NUMBER if token[0].isdigit() else token for token in found]


def _shingles(words: Sequence[str], size: int) -> set[tuple[str, ...]]:
    """The runs of `size` tokens; a shorter text is one run."""
    if len(words) <= size:
        return {tuple(words)}
    return set(zip(*(words[i:] for i in range(size)), strict=False))


def near_duplicate_groups(questions: Sequence[str], *, threshold: float = 0.4) -> list[int]:
    """The group of each question: questions that share most of their words in the same places, whatever the numbers.

    Two questions are near-duplicates when the pairs of neighbouring tokens that they share, numbers made alike, are at
    least `threshold` of all that either has (Jaccard). Groups are chains of near-duplicates.

    Args:
        questions: N texts in one language; parallel languages have the groups of their English.
        threshold: from 0 to 1; 1 finds questions that are equal but for numbers. At 0.4 the variations that mSVAMP
            makes of one story fall together, while mGSM's 250 questions stay 250 groups (they do down to 0.2).

    Returns:
        N group numbers, from 0 in order of first appearance.
    """
    from scipy.sparse import coo_matrix, csr_matrix
    from scipy.sparse.csgraph import connected_components

    if not questions:
        return []
    known: dict[tuple[str, ...], int] = {}
    sets = [[known.setdefault(s, len(known)) for s in _shingles(tokens(q), 2)] for q in questions]
    sizes = np.array([len(s) for s in sets])  # (N,)
    starts = np.concatenate([[0], np.cumsum(sizes)])
    has = csr_matrix((np.ones(starts[-1], np.int32), np.concatenate(sets), starts), shape=(len(sets), len(known)))
    left, right = [], []
    for start in range(0, len(sets), 512):
        shared = coo_matrix(has[start : start + 512] @ has.T)  # (block, N), counts
        row = shared.row + start
        near = shared.data >= threshold * (sizes[row] + sizes[shared.col] - shared.data)
        left.append(row[near])
        right.append(shared.col[near])
    edges = np.concatenate(left), np.concatenate(right)
    graph = coo_matrix((np.ones(len(edges[0]), np.int8), edges), shape=(len(sets), len(sets)))
    _, labels = connected_components(graph, directed=False)
    order: dict[int, int] = {}
    return [order.setdefault(int(label), len(order)) for label in labels]


def overlap(tests: Sequence[str], training: Iterable[str], *, threshold: float = 0.6, size: int = 3) -> pd.DataFrame:
    """Test questions that occur in training data, exactly or nearly; one pass over the training data.

    An inverted index of the tests' runs of `size` tokens is held in memory; each training text is looked up in it.

    Args:
        tests: questions of a benchmark.
        training: texts in the same language; any number of them.
        threshold: the share of runs in common (Jaccard, numbers made alike) from which texts are nearly the same.

    Returns:
        one line for each test question that was met, with its best match: `test, training` (positions), `kind`
        (`exact`: the same words and numbers; `other numbers`: the same words; `near`), `similarity` (0 to 1).
    """
    index: defaultdict[tuple[str, ...], list[int]] = defaultdict(list)
    sizes, exact = [], []
    best: dict[int, tuple[tuple[int, float], int, str]] = {}  # test → its match: rank and similarity, row, kind
    for position, text in enumerate(tests):
        runs = _shingles(tokens(text), size)
        sizes.append(len(runs))
        exact.append(tokens(text, numbers=True))
        for run in runs:
            index[run].append(position)
    rank = {"exact": 2, "other numbers": 1, "near": 0}
    for row, text in enumerate(training):
        words = tokens(text)
        runs = _shingles(words, size)
        shared = Counter(position for run in runs & index.keys() for position in index[run])
        for position, count in shared.items():
            similarity = count / (sizes[position] + len(runs) - count)
            if similarity < threshold:
                continue
            kind = "near"
            if similarity == 1.0 and len(words) == len(exact[position]):
                kind = "exact" if tokens(text, numbers=True) == exact[position] else "other numbers"
            found = (rank[kind], similarity)
            if position not in best or found > best[position][0]:
                best[position] = (found, row, kind)
    lines = [
        {"test": position, "training": row, "kind": kind, "similarity": found[1]}
        for position, (found, row, kind) in sorted(best.items())
    ]
    return pd.DataFrame(lines, columns=["test", "training", "kind", "similarity"])
