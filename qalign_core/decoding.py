"""Greedy decoding of many prompts in one running batch: finished sequences leave it, waiting ones join it.

Rows share their columns in the key/value cache and are aligned on the right, so that the next token of every row is
written into the same column. A row is `length` columns long; what lies to its left is padding and is masked, and the
positions of a row count from its own first token. The text of a sequence therefore does not depend on its neighbours.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
from transformers import Cache, DynamicCache, PreTrainedModel
from transformers.cache_utils import CacheLayerMixin

# New sequences join only up to this share of the token budget: the rest is room for the batch to grow into.
ADMISSION_SHARE = 0.75
# They join in groups of at least this share of the running batch: reading one prompt costs a whole forward pass.
GROUP_SHARE = 1 / 8


@dataclass
class Sequence:
    """One prompt and what was generated for it so far.

    Attributes:
        key: whatever names it to the caller.
        input_ids: tokens of the prompt, without padding.
        max_new_tokens: most tokens to generate.
        output_ids: tokens generated, without EOS.
        finish_reason: `"stop"` (EOS), `"length"` (max_new_tokens), or None while it runs.
    """

    key: str
    input_ids: list[int]
    max_new_tokens: int
    output_ids: list[int] = field(default_factory=list)
    finish_reason: str | None = None

    def append(self, token: int, eos_token_id: int) -> None:
        """Take the next token and note whether the sequence ends here."""
        if token == eos_token_id:
            self.finish_reason = "stop"
            return
        self.output_ids.append(token)
        if len(self.output_ids) == self.max_new_tokens:
            self.finish_reason = "length"

    @property
    def length(self) -> int:
        """Columns the sequence needs in the cache, in tokens."""
        return len(self.input_ids) + len(self.output_ids)


@dataclass
class Window:
    """The part of the cache's buffers in use: the first `rows` rows, columns `start` to `end`."""

    rows: int = 0
    start: int = 0
    end: int = 0

    @property
    def width(self) -> int:
        return self.end - self.start


class BufferedLayer(CacheLayerMixin):
    """Keys and values of one layer in buffers with room to spare, so that a step writes one column and copies nothing."""

    is_sliding = False

    def __init__(self, window: Window, like: torch.Tensor):
        super().__init__()
        self.window = window
        self.keys = like.new_zeros((0, like.shape[1], 0, like.shape[3]))  # (rows, heads, columns, head size)
        self.values = self.keys
        self.is_initialized = True

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """The buffers exist from the start."""

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor, *args, **kwargs):
        """Write the column behind the window; return the window with it. The window itself moves when the step is over."""
        rows, start, end = self.window.rows, self.window.start, self.window.end
        self.keys[:rows, :, end : end + 1] = key_states  # (N, H, 1, D)
        self.values[:rows, :, end : end + 1] = value_states
        return self.keys[:rows, :, start : end + 1], self.values[:rows, :, start : end + 1]  # (N, H, W + 1, D)

    def get_seq_length(self) -> int:
        return self.window.width

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.window.width + query_length, 0

    def get_max_length(self) -> int:
        return -1

    def reallocate(self, rows: int, columns: int, end: int) -> None:
        """Move the window into new buffers of `rows` x `columns`, where it ends at column `end`.

        Padding must be finite: a masked column has weight 0, and 0 x NaN is NaN. Hence zeros, not empty memory.
        """
        window = self.window
        for name in ("keys", "values"):
            old = getattr(self, name)
            new = old.new_zeros((rows, old.shape[1], columns, old.shape[3]))
            new[: window.rows, :, end - window.width : end] = old[: window.rows, :, window.start : window.end]
            setattr(self, name, new)

    def move_rows(self, sources: list[int], targets: list[int]) -> None:
        """Copy whole rows inside the window."""
        columns = slice(self.window.start, self.window.end)
        for buffer in (self.keys, self.values):
            buffer[targets, :, columns] = buffer[sources, :, columns]

    def append_rows(self, keys: torch.Tensor, values: torch.Tensor) -> None:
        """Copy new rows (K, H, P, D) below the window, aligned on its right edge."""
        rows, end, (count, _, width, _) = self.window.rows, self.window.end, keys.shape
        self.keys[rows : rows + count, :, end - width : end] = keys
        self.values[rows : rows + count, :, end - width : end] = values


class GreedyDecoder:
    """Decodes sequences greedily with one model.

    Args:
        model: a causal language model of full attention, in evaluation mode, on its device.
        eos_token_id: the only token that ends a sequence.
        filler_token_id: stands on padded positions, which nothing attends to; any row of the embedding will do.
        batch_tokens: most columns (rows x longest row) the cache may hold, in tokens.
        note: called with one sentence when the batch had to be made smaller.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        *,
        eos_token_id: int,
        filler_token_id: int,
        batch_tokens: int,
        note: Callable[[str], None] = print,
    ):
        self.model = model
        self.eos_token_id = eos_token_id
        self.filler_token_id = filler_token_id
        self.batch_tokens = batch_tokens
        self.note = note
        self.new_tokens = 0
        self.waiting: deque[Sequence] = deque()
        self._clear()

    def _clear(self) -> None:
        self.running: list[Sequence] = []  # row by row
        self.joining: list[Sequence] = []  # being read
        self.window = Window()
        self.cache: Cache | None = None
        self.capacity = (0, 0)  # rows, columns
        self.lengths = torch.zeros(0, dtype=torch.long, device=self.model.device)  # (N,)
        self.next_ids = self.lengths  # (N,)

    @torch.inference_mode()
    def decode(self, sequences: list[Sequence]) -> Iterator[list[Sequence]]:
        """Decode all sequences, the longest first; yield after every step those that ended in it (often none).

        Raises:
            torch.OutOfMemoryError: when a single sequence does not fit.
        """
        self.waiting = deque(sorted(sequences, key=lambda sequence: sequence.length, reverse=True))
        while self.waiting or self.running:
            try:
                self._admit()
                finished = self._drop_finished()
                if self.running:
                    self._evict()
                    self._step()
                    finished += self._drop_finished()
            except RuntimeError as error:
                if not _is_out_of_memory(error) or len(self.running) + len(self.joining) == 1:
                    raise
                self._halve()
                continue
            yield finished

    # ------------------------------------------------------------------ who is in the batch

    def _admit(self) -> None:
        """Let waiting sequences join when enough of them fit."""
        group: list[Sequence] = []
        width = self.window.width
        while self.waiting:
            width = max(width, self.waiting[0].length + 1)
            if self._rows(group) and (self._rows(group) + 1) * width > self.batch_tokens * ADMISSION_SHARE:
                break
            group.append(self.waiting.popleft())
        if self.running and self.waiting and len(group) < GROUP_SHARE * len(self.running):
            self.waiting.extendleft(reversed(group))
        elif group:
            self._prefill(group)

    def _rows(self, group: list[Sequence]) -> int:
        return len(self.running) + len(group)

    def _evict(self) -> None:
        """Send the sequences with the fewest new tokens back to wait while the batch is over its budget."""
        fit = max(1, self.batch_tokens // (self.window.width + 1))
        if len(self.running) <= fit:
            return
        order = sorted(range(len(self.running)), key=lambda row: len(self.running[row].output_ids))
        leaving = set(order[: len(self.running) - fit])
        self.waiting.extendleft(self.running[row] for row in sorted(leaving))
        self._keep([row for row in range(len(self.running)) if row not in leaving])

    def _halve(self) -> None:
        """After running out of memory: start the batch afresh with half the budget. No token is lost."""
        sequences = self.running + self.joining
        width = max(sequence.length for sequence in sequences)
        self.batch_tokens = min(self.batch_tokens, len(sequences) * width) // 2
        self.waiting.extendleft(reversed(sequences))
        self._clear()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        self.note(
            f"out of memory with {len(sequences)} sequences of up to {width} tokens: "
            f"batch halved to {self.batch_tokens} tokens"
        )

    def _drop_finished(self) -> list[Sequence]:
        finished = [sequence for sequence in self.running if sequence.finish_reason]
        if finished:
            self._keep([row for row, sequence in enumerate(self.running) if not sequence.finish_reason])
        return finished

    def _keep(self, rows: list[int]) -> None:
        """Shrink the batch to `rows`: the last of them move up into the gaps."""
        count = len(rows)
        kept = set(rows)
        gaps = [row for row in range(count) if row not in kept]
        movers = [row for row in rows if row >= count]
        if gaps:
            for layer in self.cache.layers:
                layer.move_rows(movers, gaps)
        order = list(range(count))
        for gap, mover in zip(gaps, movers, strict=True):
            order[gap] = mover
        self.running = [self.running[row] for row in order]
        self.lengths, self.next_ids = self.lengths[order], self.next_ids[order]
        self.window.rows = count
        self.window.start = self.window.end - max((self._cached(s) for s in self.running), default=0)

    @staticmethod
    def _cached(sequence: Sequence) -> int:
        """Columns of a running sequence: its newest token is not in the cache yet."""
        return sequence.length - 1

    # ------------------------------------------------------------------ the two forward passes

    def _prefill(self, group: list[Sequence]) -> None:
        """Read the prompts of a group (and what was generated before an eviction), take one token each, join the batch."""
        self.joining = group
        device = self.model.device
        tokens = [sequence.input_ids + sequence.output_ids for sequence in group]
        width = max(map(len, tokens))
        input_ids = torch.tensor(
            [[self.filler_token_id] * (width - len(t)) + t for t in tokens], device=device
        )  # (K, P)
        lengths = torch.tensor([len(t) for t in tokens], device=device)  # (K,)
        columns = torch.arange(width, device=device)  # (P,)
        attention_mask = columns >= (width - lengths)[:, None]  # (K, P)
        position_ids = (columns - (width - lengths)[:, None]).clamp(min=0)  # (K, P)
        cache = DynamicCache()
        logits = self.model(
            input_ids,
            attention_mask=attention_mask.long(),
            position_ids=position_ids,
            past_key_values=cache,
            logits_to_keep=1,
        ).logits[:, -1]  # (K, V)
        self._reserve(cache, len(group), width)
        for layer, new in zip(self.cache.layers, cache.layers, strict=True):
            layer.append_rows(new.keys, new.values)
        self.window.rows += len(group)
        self.window.start = min(self.window.start, self.window.end - width)
        self.running, self.joining = self.running + group, []
        self.lengths = torch.cat([self.lengths, lengths])
        self.next_ids = torch.cat([self.next_ids, self._take(logits, group)])

    def _step(self) -> None:
        """One more token for every running sequence."""
        if self.window.end == self.capacity[1]:
            self._reserve(None, 0, 0)
        width = self.window.width
        columns = torch.arange(width + 1, device=self.model.device)
        attention_mask = columns >= (width - self.lengths)[:, None]  # (N, W + 1)
        logits = self.model(
            self.next_ids[:, None],
            attention_mask=attention_mask[:, None, None],  # (N, 1, 1, W + 1)
            position_ids=self.lengths[:, None],
            past_key_values=self.cache,
            logits_to_keep=1,
        ).logits[:, -1]  # (N, V)
        self.window.end += 1
        self.lengths += 1
        self.next_ids = self._take(logits, self.running)

    def _take(self, logits: torch.Tensor, sequences: list[Sequence]) -> torch.Tensor:
        next_ids = logits.argmax(dim=-1)
        for sequence, token in zip(sequences, next_ids.tolist(), strict=True):
            sequence.append(token, self.eos_token_id)
        self.new_tokens += len(sequences)
        return next_ids

    def _reserve(self, like: DynamicCache | None, rows: int, width: int) -> None:
        """Make room in the cache for `rows` more rows, `width` columns left of the window's end, and one column more."""
        window = self.window
        if self.cache is None:
            self.cache = Cache(layers=[BufferedLayer(window, layer.keys) for layer in like.layers])
        rows, end = window.rows + rows, max(window.width, width)
        if rows <= self.capacity[0] and width <= window.end < self.capacity[1]:
            return
        rows = max(rows, self.capacity[0]) if self.waiting else rows
        self.capacity = (rows, end + max(64, end // 4))
        for layer in self.cache.layers:
            layer.reallocate(*self.capacity, end)
        window.start, window.end = end - window.width, end


def _is_out_of_memory(error: RuntimeError) -> bool:
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)
