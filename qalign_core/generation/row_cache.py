"""The key/value cache of a running batch: rows come and go, a step writes one column and copies nothing.

The rows share columns and are aligned on the right, so that the next token of every row goes into the same column. The
rows and columns in use are a window into larger buffers.
"""

from __future__ import annotations

import torch
from transformers import Cache, DynamicCache
from transformers.cache_utils import CacheLayerMixin

SPARE_COLUMNS = 64


class RowLayer(CacheLayerMixin):
    """Keys and values of one layer.

    Args:
        cache: the cache it belongs to, which knows the window.
        keys, values: (K, H, P, D) each, whose heads, head sizes, type and device the buffers take.
    """

    is_sliding = False

    def __init__(self, cache: RowCache, keys: torch.Tensor, values: torch.Tensor):
        super().__init__()
        self.cache = cache
        self.keys = keys.new_zeros((0, keys.shape[1], 0, keys.shape[3]))  # (rows, H, columns, D)
        self.values = values.new_zeros((0, values.shape[1], 0, values.shape[3]))
        self.is_initialized = True

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """The buffers exist from the start."""

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args, **kwargs
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write one column (N, H, 1, D) behind the window and return the window with it, (N, H, W + 1, D) each."""
        rows, start, end = self.cache.rows, self.cache.start, self.cache.end
        self.keys[:rows, :, end : end + 1] = key_states
        self.values[:rows, :, end : end + 1] = value_states
        return self.keys[:rows, :, start : end + 1], self.values[:rows, :, start : end + 1]

    def get_seq_length(self) -> int:
        return self.cache.width

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.cache.width + query_length, 0

    def get_max_length(self) -> int:
        return -1


class RowCache(Cache):
    """A cache whose rows can be appended and dropped between steps.

    Args:
        like: a cache whose layers these are like.
        tokens: rows x columns that new buffers are made for where so many are expected, so that they need not grow with
            every group that joins; and more only if they must.

    Attributes:
        rows: rows in use, from the top.
        start, end: first column in use, and the first behind those in use, into which the next step writes.
    """

    def __init__(self, like: DynamicCache, tokens: int):
        self.tokens = tokens
        self.rows = self.start = self.end = 0
        self.capacity = (0, 0)  # rows, columns
        super().__init__(layers=[RowLayer(self, layer.keys, layer.values) for layer in like.layers])

    @property
    def width(self) -> int:
        """Columns of the longest row."""
        return self.end - self.start

    def append(self, new: DynamicCache, prefix: int, padding: torch.Tensor, expected_rows: int) -> None:
        """Add the rows of another cache at the bottom, aligned on the right.

        Args:
            new: keys and values (K, H, P + S, D): columns that all rows begin with, then padding, then a row's own.
            prefix: P of these columns; they move behind the padding.
            padding: columns of padding of every row (K,); the longest row has none.
            expected_rows: rows there may be soon.
        """
        count, _, width, _ = new.layers[0].keys.shape
        if self.rows + count > self.capacity[0] or width > self.end:
            self._reallocate(self.rows + count, expected_rows, max(width, self.width))
        first = self.end - width
        rows = torch.arange(self.rows, self.rows + count, device=padding.device)[:, None]  # (K, 1)
        places = first + padding[:, None] + torch.arange(prefix, device=padding.device)  # (K, P)
        for layer, added in zip(self.layers, new.layers, strict=True):
            for buffer, states in ((layer.keys, added.keys), (layer.values, added.values)):
                buffer[self.rows : self.rows + count, :, first + prefix : self.end] = states[:, :, prefix:]
                if prefix:
                    buffer[rows, :, places] = states[:, :, :prefix].transpose(1, 2)  # (K, P, H, D)
        self.rows += count
        self.start = min(self.start, first)

    def keep(self, order: list[int], width: int) -> None:
        """Drop all rows but those in `order`, of which the longest has `width` columns.

        Args:
            order: row by row the present row it shall hold; only rows that change are copied.
            width: in columns.
        """
        targets = [row for row, source in enumerate(order) if row != source]
        if targets:
            sources = [order[row] for row in targets]
            for layer in self.layers:
                for buffer in (layer.keys, layer.values):
                    buffer[targets, :, self.start : self.end] = buffer[sources, :, self.start : self.end]
        self.rows, self.start = len(order), self.end - width

    def make_room(self, expected_rows: int) -> None:
        """Make sure that the next step has a column to write into; there may soon be `expected_rows`."""
        if self.end == self.capacity[1]:
            self._reallocate(self.rows, expected_rows, self.width)

    def advance(self) -> None:
        """Take the column that a step wrote into the window."""
        self.end += 1

    def _reallocate(self, rows: int, expected_rows: int, end: int) -> None:
        """Move the window into new buffers of at least `rows` rows, where it ends at column `end`.

        The new buffers are zeros: a masked column has weight 0, and 0 x NaN would be NaN.
        """
        columns = end + SPARE_COLUMNS
        self.capacity = (max(rows, min(expected_rows, self.tokens // columns)), columns)
        for layer in self.layers:
            for name in ("keys", "values"):
                old = getattr(layer, name)
                new = old.new_zeros((self.capacity[0], old.shape[1], columns, old.shape[3]))
                new[: self.rows, :, end - self.width : end] = old[: self.rows, :, self.start : self.end]
                setattr(layer, name, new)
        self.start, self.end = end - self.width, end
