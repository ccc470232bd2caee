"""How much faster than the authors' loop the package answers questions with LLaMA-2-7B's geometry, on one GPU.

    python bench/gpu_generation.py [--questions 512 --pairs 3]

Weights are random, since only time is measured, so no answer would end where a trained model's does. Lengths are drawn
instead, log-normal and clipped, with a fixed seed: prompts of 200 tokens in the median (sigma 0.45, 60 to 800), which
begin with the same 40 as a template makes them; answers of 130 (sigma 0.5, 10 to 600), of which 3% run to the limit.
Both sides are told the length of every answer and end it there: the authors' loop by a stopping rule a row, ours by a
limit a sequence. They decode greedily in bf16 with the same weights; runs are interleaved in pairs.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import time
from pathlib import Path

import torch
from transformers import (
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    StoppingCriteria,
    StoppingCriteriaList,
)

from qalign_core import runs
from qalign_core.decoding import GreedyDecoder, Sequence, choose_batch_tokens

GEOMETRIES = {
    "llama2-7b": {"hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32},
    "tiny": {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2},
}
VOCABULARY = 32000
TEMPLATE = 40  # tokens that all prompts begin with
LIMIT = 600  # new tokens
LOOPING = 0.03  # share of the answers that run until the limit
FIRST_TOKEN = 3  # below are LLaMA's special tokens
NEVER = -1  # no token


class Lengths(StoppingCriteria):
    """Ends every row of a batch at its own number of new tokens."""

    def __init__(self, prompt: int, lengths: list[int], device: torch.device):
        self.ends = prompt + torch.tensor(lengths, device=device)  # (N,)

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **_: object) -> torch.Tensor:
        """Whether each row (N,) is at its end."""
        return input_ids.shape[1] >= self.ends


def draw(questions: int, shrink: int = 1) -> list[tuple[list[int], int]]:
    """Prompts of random tokens, and the length of the answer to each.

    Args:
        questions: how many.
        shrink: lengths are divided by this, for a test on a CPU.
    """
    dice = random.Random(1)

    def length(median: float, sigma: float, shortest: int, longest: int) -> int:
        drawn = round(median * dice.lognormvariate(0, sigma))
        return max(2, min(longest, max(shortest, drawn)) // shrink)

    template = [dice.randrange(FIRST_TOKEN, VOCABULARY) for _ in range(TEMPLATE // shrink)]
    made = []
    for _ in range(questions):
        own = length(200, 0.45, 60, 800) - len(template)
        prompt = template + [dice.randrange(FIRST_TOKEN, VOCABULARY) for _ in range(max(1, own))]
        answer = LIMIT // shrink if dice.random() < LOOPING else length(130, 0.5, 10, LIMIT)
        made.append((prompt, answer))
    return made


def authors_loop(model: PreTrainedModel, asked: list[tuple[list[int], int]], batch_size: int) -> list[list[int]]:
    """New tokens of every prompt: batches in file order, padded on the left, each run until its longest answer ends.

    Source: NJUNLP/QAlign evaluate (after microsoft/MathOctopus).
    """
    config = GenerationConfig(do_sample=False, max_new_tokens=LIMIT, eos_token_id=None, pad_token_id=0)
    answers = []
    for start in range(0, len(asked), batch_size):
        batch = asked[start : start + batch_size]
        width = max(len(prompt) for prompt, _ in batch)
        padded = torch.tensor([[0] * (width - len(prompt)) + prompt for prompt, _ in batch], device=model.device)
        mask = torch.tensor(
            [[0] * (width - len(prompt)) + [1] * len(prompt) for prompt, _ in batch], device=model.device
        )
        ends = StoppingCriteriaList([Lengths(width, [length for _, length in batch], model.device)])
        output = model.generate(
            padded, attention_mask=mask, generation_config=config, stopping_criteria=ends
        )  # (N, P + T)
        rows = output[:, width:].tolist()
        answers += [row[:length] for row, (_, length) in zip(rows, batch, strict=True)]
    return answers


def package(
    model: PreTrainedModel, asked: list[tuple[list[int], int]], batch_tokens: int, notes: list[str]
) -> list[list[int]]:
    """New tokens of every prompt by the decoder of `qalign_core.generate`."""
    decoder = GreedyDecoder(model, eos_token_id=NEVER, filler_token_id=0, batch_tokens=batch_tokens, note=notes.append)
    sequences = [Sequence(str(number), prompt, length) for number, (prompt, length) in enumerate(asked)]
    for _ in decoder.decode(sequences):
        pass
    return [sequence.output_ids for sequence in sequences]


def measure(
    model: PreTrainedModel, asked: list[tuple[list[int], int]], pairs: int, batch_size: int, batch_tokens: int
) -> dict:
    """Run the pairs; return rates in questions/s, their medians and the median ratio."""
    found, answers, notes = [], {}, []
    for _ in range(pairs + 1):  # the first warms up
        seconds = {}
        for name in ("authors", "package"):
            begun = time.perf_counter()
            if name == "authors":
                answers[name] = authors_loop(model, asked, batch_size)
            else:
                answers[name] = package(model, asked, batch_tokens, notes)
            seconds[name] = time.perf_counter() - begun
        found.append({name: len(asked) / seconds[name] for name in seconds})
        found[-1]["ratio"] = seconds["authors"] / seconds["package"]
    found = found[1:]
    lengths = [length for _, length in asked]
    return {
        "questions": len(asked),
        "prompt_tokens": {"median": statistics.median(len(prompt) for prompt, _ in asked)},
        "new_tokens": {"median": statistics.median(lengths), "longest": max(lengths), "total": sum(lengths)},
        "batch_tokens": batch_tokens,
        "notes": notes,
        "different_answers": sum(a != b for a, b in zip(answers["authors"], answers["package"], strict=True)),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "pairs": found,
        "median": {key: statistics.median(pair[key] for pair in found) for key in found[0]},
    }


def make_model(geometry: str, dtype: torch.dtype, device: torch.device) -> LlamaForCausalLM:
    """A LLaMA of that geometry with random weights, on its device."""
    config = LlamaConfig(vocab_size=VOCABULARY, max_position_embeddings=4096, **GEOMETRIES[geometry])
    torch.manual_seed(0)
    with torch.device(device):
        return LlamaForCausalLM._from_config(config, dtype=dtype, attn_implementation="sdpa").eval()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--geometry", choices=tuple(GEOMETRIES), default="llama2-7b")
    parser.add_argument("--questions", type=int, default=512)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=32, help="of the authors' loop")
    parser.add_argument("--batch-tokens", default="auto", help="of the package: a number, or auto")
    parser.add_argument("--shrink", type=int, default=1, help="divide all lengths by this, for a try on a CPU")
    parser.add_argument("--output", type=Path, default=None, help="write the result as JSON here")
    given = parser.parse_args()
    gpu = torch.cuda.is_available()
    model = make_model(given.geometry, torch.bfloat16 if gpu else torch.float32, torch.device("cuda" if gpu else "cpu"))
    batch_tokens, _ = choose_batch_tokens(given.batch_tokens, model, processes=1)
    result = measure(model, draw(given.questions, given.shrink), given.pairs, given.batch_size, batch_tokens)
    print(json.dumps(result, indent=2))
    if given.output:
        runs.write_json(given.output, result)


if __name__ == "__main__":
    main()
