"""Greedy decoding of many prompts in one running batch: finished sequences leave it, waiting ones join it.

Rows are aligned on the right; what lies left of a row is padding and masked, and a row's positions count from its own
first token. The text of a sequence therefore does not depend on its neighbours. What all prompts begin with (a template
does) is read once; its keys and values are copied into every row.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import psutil
import torch
from transformers import Cache, DynamicCache, PreTrainedModel
from transformers.cache_utils import CacheLayerMixin

# New sequences join only up to this share of the token budget: the rest is room for the batch to grow into.
ADMISSION_SHARE = 0.75
# They join in groups of at least this share of the running batch: reading one prompt costs a whole forward pass.
GROUP_SHARE = 1 / 8
# At most this share of the token budget is read at once: reading needs several times the memory of a step.
READING_SHARE = 1 / 8
# Of the free memory: what the cache may fill. The rest is for activations, and for the buffers' spare columns.
CACHE_SHARE = 0.5
SPARE_COLUMNS = 64
# On a processor a step has a fixed cost, which hardly matters any more with some two hundred short questions at once.
PROCESSOR_TOKENS = 32768


@dataclass
class Sequence:
    """One prompt and what was generated for it so far."""

    key: str
    input_ids: list[int]  # without padding
    max_new_tokens: int
    output_ids: list[int] = field(default_factory=list)  # without EOS
    finish_reason: str | None = None  # "stop" (EOS), "length" (max_new_tokens), or None while it runs

    @property
    def length(self) -> int:
        """Tokens of the prompt and the answer so far."""
        return len(self.input_ids) + len(self.output_ids)


class GreedyDecoder:
    """Decodes sequences greedily with one model.

    Args:
        model: a causal language model of full attention, in evaluation mode, on its device.
        eos_token_id: the only token that ends a sequence.
        filler_token_id: stands on padded positions, which nothing attends to; any row of the embedding will do.
        batch_tokens: most columns (rows x longest row) the batch may hold, in tokens.
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
        self.model, self.eos_token_id, self.filler_token_id = model, eos_token_id, filler_token_id
        self.batch_tokens, self.note = batch_tokens, note
        self.waiting: deque[Sequence] = deque()
        self.prefix: list[int] = []  # what all sequences begin with
        self.prefix_cache = DynamicCache()  # its keys and values (1, H, P, D)
        self._clear()

    def _clear(self) -> None:
        self.joining: list[Sequence] = []  # being read
        self.running: list[Sequence] = []  # row by row
        self.cache: RowCache | None = None
        self.lengths = torch.zeros(0, dtype=torch.long, device=self.model.device)  # (N,) columns of each row
        self.next_ids = self.lengths  # (N,) newest token of each row, not in the cache yet

    @property
    def width(self) -> int:
        """Columns of the longest row."""
        return self.cache.width if self.cache else 0

    @torch.inference_mode()
    def decode(self, sequences: list[Sequence]) -> Iterator[list[Sequence]]:
        """Decode all sequences, the longest first; yield after every step those that ended in it (often none)."""
        self.waiting = deque(sorted(sequences, key=lambda sequence: sequence.length, reverse=True))
        self._read_prefix()
        while self.waiting or self.running:
            finished: list[Sequence] = []
            out_of_memory = False
            try:
                self._admit()
                finished += self._drop_finished()
                if self.running:
                    self._evict()
                    self._step()
                    finished += self._drop_finished()
            except RuntimeError as error:
                if not _is_out_of_memory(error) or len(self.running) + len(self.joining) == 1:
                    raise
                out_of_memory = True
            if out_of_memory:  # not inside `except`: the error still holds the failed step's tensors
                self._halve()
            yield finished

    # ---- who is in the batch

    def _admit(self) -> None:
        """Let waiting sequences join when enough of them fit."""
        group: list[Sequence] = []
        width, rows = self.width, len(self.running)
        longest, complete = 0, False  # of the group: its longest row, whether it is as large as it may be
        while self.waiting and not complete:
            longest = max(longest, self.waiting[0].length)
            width = max(width, longest + 1)
            if rows and (rows + 1) * width > self.batch_tokens * ADMISSION_SHARE:
                break
            group.append(self.waiting.popleft())
            rows += 1
            complete = (len(group) + 1) * longest > self.batch_tokens * READING_SHARE
        if self.running and self.waiting and not complete and len(group) < GROUP_SHARE * len(self.running):
            self.waiting.extendleft(reversed(group))
        elif group:
            self._read(group)

    def _evict(self) -> None:
        """Send the sequences with the fewest new tokens back to wait while the batch is over its budget."""
        excess = len(self.running) - max(1, self.batch_tokens // (self.width + 1))
        if excess > 0:
            rows = sorted(range(len(self.running)), key=lambda row: len(self.running[row].output_ids))
            self.waiting.extendleft(self.running[row] for row in rows[:excess])
            self._keep(sorted(rows[excess:]))

    def _halve(self) -> None:
        """After running out of memory: start the batch afresh with half the budget. No token is lost."""
        sequences = self.running + self.joining
        width = max(sequence.length for sequence in sequences)
        self.batch_tokens = min(self.batch_tokens, len(sequences) * width) // 2
        self.waiting.extendleft(reversed(sequences))
        self._clear()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        said = f"out of memory with {len(sequences)} sequences of up to {width} tokens"
        self.note(f"{said}: batch halved to {self.batch_tokens} tokens")

    def _drop_finished(self) -> list[Sequence]:
        finished = [sequence for sequence in self.running if sequence.finish_reason]
        if finished:
            self._keep([row for row, sequence in enumerate(self.running) if not sequence.finish_reason])
        return finished

    def _keep(self, rows: list[int]) -> None:
        """Shrink the batch to `rows`, in ascending order; the last of them move into the gaps that the others leave."""
        stay = {row for row in rows if row < len(rows)}
        movers = iter(rows[len(stay) :])
        order = [row if row in stay else next(movers) for row in range(len(rows))]
        self.running = [self.running[row] for row in order]
        assert self.cache is not None  # rows were running, so they have been read
        self.cache.keep(order, width=max((sequence.length - 1 for sequence in self.running), default=0))
        self.lengths, self.next_ids = self.lengths[order], self.next_ids[order]

    # ---- the two forward passes

    def _read_prefix(self) -> None:
        """Read what all prompts begin with, once; at least one token of each is left to be read."""
        prompts = [sequence.input_ids for sequence in self.waiting]
        self.prefix = list(os.path.commonprefix(prompts))[: min(map(len, prompts), default=1) - 1]
        self.prefix_cache = DynamicCache()
        if self.prefix:
            prefix_ids = torch.tensor([self.prefix], device=self.model.device)  # (1, P)
            self.model(prefix_ids, past_key_values=self.prefix_cache, logits_to_keep=1)

    def _read(self, group: list[Sequence]) -> None:
        """Read the prompts of a group (and what it generated before an eviction), take a token each, join the batch."""
        self.joining = group
        device, shared = self.model.device, len(self.prefix)
        tokens = [(sequence.input_ids + sequence.output_ids)[shared:] for sequence in group]
        width = max(map(len, tokens))
        padded = [[self.filler_token_id] * (width - len(row)) + row for row in tokens]
        padding = torch.tensor([width - len(row) for row in tokens], device=device)  # (K,)
        columns = torch.arange(width, device=device)  # (S,)
        attention_mask = torch.ones((len(group), shared + width), dtype=torch.long, device=device)  # (K, P + S)
        attention_mask[:, shared:] = columns >= padding[:, None]
        cache = DynamicCache()
        for number, layer in enumerate(self.prefix_cache.layers):
            cache.update(*(states.expand(len(group), -1, -1, -1) for states in (layer.keys, layer.values)), number)
        logits = self.model(
            torch.tensor(padded, device=device),  # (K, S)
            attention_mask=attention_mask,
            position_ids=shared + (columns - padding[:, None]).clamp(min=0),  # (K, S)
            past_key_values=cache,
            logits_to_keep=1,
        ).logits[:, -1]  # (K, V)
        self.cache = self.cache or RowCache(cache, self.batch_tokens)
        self.cache.append(cache, shared, padding, len(self.running) + len(group) + len(self.waiting))
        next_ids = self._take(logits, group)
        self.running, self.joining = self.running + group, []
        self.lengths = torch.cat([self.lengths, shared + width - padding])
        self.next_ids = torch.cat([self.next_ids, next_ids])

    def _step(self) -> None:
        """One more token for every running sequence."""
        assert self.cache is not None  # rows are running, so they have been read
        self.cache.make_room(len(self.running) + len(self.waiting))
        columns = torch.arange(self.width + 1, device=self.model.device)
        attention_mask = columns >= (self.width - self.lengths)[:, None]  # (N, W + 1)
        logits = self.model(
            self.next_ids[:, None],
            attention_mask=attention_mask[:, None, None],  # (N, 1, 1, W + 1)
            position_ids=self.lengths[:, None],
            past_key_values=self.cache,
            logits_to_keep=1,
        ).logits[:, -1]  # (N, V)
        self.cache.end += 1  # the column the step wrote
        self.lengths += 1
        self.next_ids = self._take(logits, self.running)

    def _take(self, logits: torch.Tensor, sequences: list[Sequence]) -> torch.Tensor:
        """The most likely token of every row (N,), given to its sequence."""
        next_ids = logits.argmax(dim=-1)
        for sequence, token in zip(sequences, next_ids.tolist(), strict=True):
            if token == self.eos_token_id:
                sequence.finish_reason = "stop"
                continue
            sequence.output_ids.append(token)
            if len(sequence.output_ids) == sequence.max_new_tokens:
                sequence.finish_reason = "length"
        return next_ids


def _is_out_of_memory(error: RuntimeError) -> bool:
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


# ------------------------------------------------------------------------------------------------- keys and values


class RowCache(Cache):
    """The key/value cache of a running batch: rows come and go, a step writes one column and copies nothing.

    The rows and columns in use are a window into larger buffers. Rows are aligned on the right, so that the next token
    of every row goes into the same column.

    Layers are like those of the cache `like`. New buffers are made for `tokens` (rows x columns) where so many are
    expected, so that they need not grow with every group that joins; and for more only if they must.
    """

    def __init__(self, like: DynamicCache, tokens: int):
        self.tokens = tokens
        self.rows = 0  # in use, from the top
        self.start = self.end = 0  # first column in use; the first behind those, into which the next step writes
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
        """Let row by row hold the present row that `order` names, of which the longest has `width` columns; only rows
        that change are copied."""
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

    def _reallocate(self, rows: int, expected_rows: int, end: int) -> None:
        """Move the window into new buffers of at least `rows` rows, where it ends at column `end`."""
        columns = end + SPARE_COLUMNS
        self.capacity = (max(rows, min(expected_rows, self.tokens // columns)), columns)
        for layer in self.layers:
            for name in ("keys", "values"):
                old = getattr(layer, name)
                # Zeros: a masked column has weight 0, and 0 x NaN would be NaN.
                new = old.new_zeros((self.capacity[0], old.shape[1], columns, old.shape[3]))
                new[: self.rows, :, end - self.width : end] = old[: self.rows, :, self.start : self.end]
                setattr(layer, name, new)
        self.start, self.end = end - self.width, end


class RowLayer(CacheLayerMixin):
    """One layer of a `RowCache`, with buffers of the heads, head size, type and device of `keys` and `values`."""

    is_sliding = False

    def __init__(self, cache: RowCache, keys: torch.Tensor, values: torch.Tensor):
        super().__init__()
        self.cache = cache  # knows the window
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


# ------------------------------------------------------------------------------------------------- batch size


def choose_batch_tokens(wanted: int | str, model: PreTrainedModel, processes: int) -> tuple[int, str | None]:
    """How many tokens a batch may hold: no more keys and values than the device's free memory has room for, shared by
    so many processes; and a sentence when that is less than the profile wanted (a number or `auto`).
    """
    room = int(free_memory(model.device, processes) * CACHE_SHARE) // cache_bytes_per_token(model)
    room = max(room, 1)  # a single sequence is always tried
    if wanted == "auto":
        return (min(room, PROCESSOR_TOKENS) if model.device.type == "cpu" else room), None
    if int(wanted) <= room:
        return int(wanted), None
    return room, f"batches of {room} tokens instead of {wanted}: the keys and values of more do not fit in free memory"


def free_memory(device: torch.device, processes: int) -> int:
    """Bytes free for this process: on its GPU, or its share of the machine's memory."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return psutil.virtual_memory().available // processes


def cache_bytes_per_token(model: PreTrainedModel) -> int:
    """Bytes that the keys and values of one token take, measured on two tokens."""
    cache = DynamicCache()
    with torch.inference_mode():
        model(torch.zeros((1, 2), dtype=torch.long, device=model.device), past_key_values=cache, logits_to_keep=1)
    return sum(states.nbytes for layer in cache.layers for states in (layer.keys, layer.values)) // 2
