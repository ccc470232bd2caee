"""The sizes of a base model, as its `config.json` says: how many parameters, and what a token costs in training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qalign_core import runs
from qalign_core.params import Profile


@dataclass(frozen=True)
class Geometry:
    """A decoder of LLaMA's kind (LLaMA, Mistral, Qwen2): RMS norms, rotary positions, gated feed-forward layers.

    Attributes:
        layers: decoder layers.
        hidden, intermediate: widths of the residual stream and of the feed-forward layer.
        heads, key_value_heads, head_dim: of the attention; fewer key-value heads than heads is grouped attention.
        vocabulary: rows of the embedding.
        tied: whether input and output embedding are one matrix.
        biased: whether the query, key and value projections have biases.
    """

    layers: int
    hidden: int
    intermediate: int
    heads: int
    key_value_heads: int
    head_dim: int
    vocabulary: int
    tied: bool = False
    biased: bool = False

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Geometry:
        """The geometry a `config.json` describes.

        Raises:
            ValueError: for a model of another kind, whose parameters this does not count.
        """
        if config.get("model_type") not in ("llama", "mistral", "qwen2"):
            raise ValueError(f"model_type {config.get('model_type')!r}: only llama, mistral and qwen2 are counted")
        heads = config["num_attention_heads"]
        return cls(
            layers=config["num_hidden_layers"],
            hidden=config["hidden_size"],
            intermediate=config["intermediate_size"],
            heads=heads,
            key_value_heads=config.get("num_key_value_heads") or heads,
            head_dim=config.get("head_dim") or config["hidden_size"] // heads,
            vocabulary=config["vocab_size"],
            tied=bool(config.get("tie_word_embeddings", False)),
            biased=config["model_type"] == "qwen2",
        )

    @property
    def projections(self) -> dict[str, tuple[int, int]]:
        """The linear layers of a decoder layer: name → (outputs, inputs)."""
        query, key = self.heads * self.head_dim, self.key_value_heads * self.head_dim
        return {
            "q_proj": (query, self.hidden),
            "k_proj": (key, self.hidden),
            "v_proj": (key, self.hidden),
            "o_proj": (self.hidden, query),
            "gate_proj": (self.intermediate, self.hidden),
            "up_proj": (self.intermediate, self.hidden),
            "down_proj": (self.hidden, self.intermediate),
        }

    @property
    def parameters(self) -> int:
        """How many parameters the model has."""
        biases = sum(self.projections[name][0] for name in ("q_proj", "k_proj", "v_proj")) if self.biased else 0
        layer = sum(outputs * inputs for outputs, inputs in self.projections.values()) + biases + 2 * self.hidden
        return self.layers * layer + self.hidden + self.embeddings

    @property
    def embeddings(self) -> int:
        """Parameters of the input and output embeddings."""
        return (1 if self.tied else 2) * self.vocabulary * self.hidden

    def adapters(self, rank: int, target_modules: Sequence[str]) -> int:
        """Parameters of LoRA's matrices."""
        shapes = [shape for name, shape in self.projections.items() if name in target_modules]
        return self.layers * sum(rank * (outputs + inputs) for outputs, inputs in shapes)

    def layer_activations(self, size: int) -> int:
        """Bytes that the backward pass needs of one layer and one token, in a type of `size` bytes.

        Two norms keep their input in fp32 and its normalised form; the projections' inputs; query, key, value and
        output of the attention; four widths of the feed-forward layer. Counted on transformers' LLaMA (see the test).
        """
        attention = 2 * (self.heads + self.key_value_heads) * self.head_dim
        return 8 * self.hidden + size * (4 * self.hidden + attention + 4 * self.intermediate)


# The bases of the shipped profiles, as their config.json on the hub says; the gated ones cannot be read without login.
KNOWN: dict[str, Geometry] = {
    "meta-llama/Llama-2-7b-hf": Geometry(32, 4096, 11008, 32, 32, 128, 32000),
    "meta-llama/Llama-2-13b-hf": Geometry(40, 5120, 13824, 40, 40, 128, 32000),
    "meta-llama/Meta-Llama-3-8B": Geometry(32, 4096, 14336, 32, 8, 128, 128256),
    "meta-llama/Llama-3.2-1B": Geometry(16, 2048, 8192, 32, 8, 64, 128256, tied=True),
    "mistralai/Mistral-7B-v0.1": Geometry(32, 4096, 14336, 32, 8, 128, 32000),
    "Qwen/Qwen2.5-1.5B": Geometry(28, 1536, 8960, 12, 2, 128, 151936, tied=True, biased=True),
}


def base_geometry(profile: Profile) -> Geometry | None:
    """The geometry of a profile's base: from its folder, the hub's cache, or what is known here; None if unknown.

    The miniature's is None, too: nobody needs an estimate for it.
    """
    base = profile.model.base
    if base == "miniature":
        return None
    path = Path(base) / "config.json"
    if not path.is_file():
        from huggingface_hub import try_to_load_from_cache

        cached = try_to_load_from_cache(base, "config.json", revision=profile.model.revision)
        if not isinstance(cached, str):
            return KNOWN.get(base)
        path = Path(cached)
    try:
        return Geometry.from_config(runs.read_json(path))
    except (ValueError, KeyError):  # a model of another kind: no estimate
        return None
