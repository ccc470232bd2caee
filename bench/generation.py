"""How much faster the package answers questions than the authors' loop, on one model and the same prompts.

    python bench/generation.py --model runs/mini/models/seed-1/base/questions-x-en/metamathqa/model \\
        --prompts runs/mini/data/prompts/alpaca/mgsm/*.jsonl --max-new-tokens 600

The authors' loop is implemented plainly: prompts in the order of the file, batches of 32 padded on the left, each run
until its longest answer ends. Both sides decode greedily with the same weights on the same device; runs are interleaved
in pairs, and the answers are compared.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from qalign_core import runs
from qalign_core.decoding import GreedyDecoder, Sequence, choose_batch_tokens
from qalign_core.generate import Rank, load_tokenizer


def authors_loop(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompts: list[str], limit: int, batch_size: int
) -> list[list[int]]:
    """New tokens of every prompt, without EOS.

    Source: NJUNLP/QAlign evaluate (after microsoft/MathOctopus): batches in file order, `model.generate` a batch.
    """
    eos = tokenizer.eos_token_id
    config = GenerationConfig(
        do_sample=False, max_new_tokens=limit, eos_token_id=eos, pad_token_id=tokenizer.pad_token_id or eos
    )
    answers = []
    for start in range(0, len(prompts), batch_size):
        batch = tokenizer(prompts[start : start + batch_size], return_tensors="pt", padding=True).to(model.device)
        output = model.generate(
            batch["input_ids"], attention_mask=batch["attention_mask"], generation_config=config
        )  # (32, P + T)
        for row in output[:, batch["input_ids"].shape[1] :].tolist():
            answers.append(row[: row.index(eos)] if eos in row else row)
    return answers


def package(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompts: list[str], limit: int, batch_tokens: int
) -> list[list[int]]:
    """New tokens of every prompt, without EOS, by the decoder of `qalign_core.generate`."""
    eos = tokenizer.eos_token_id
    decoder = GreedyDecoder(model, eos_token_id=eos, filler_token_id=eos, batch_tokens=batch_tokens)
    tokens = tokenizer(prompts)["input_ids"]
    sequences = [Sequence(str(i), input_ids, limit) for i, input_ids in enumerate(tokens)]
    for _ in decoder.decode(sequences):
        pass
    return [sequence.output_ids for sequence in sequences]


def measure(arguments: argparse.Namespace) -> dict:
    """Run the pairs; return rates in questions/s, ratios of wall and of processor time, and the medians of both.

    Other work on the machine disturbs processor time less.
    """
    prompts = [row["prompt"] for path in arguments.prompts for row in runs.read_json_lines(path)]
    prompts = prompts[: arguments.questions]
    tokenizer = load_tokenizer(arguments.model, None)
    tokenizer.padding_side = "left"
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    model = AutoModelForCausalLM.from_pretrained(
        arguments.model, dtype=getattr(torch, arguments.dtype), use_safetensors=True, attn_implementation="sdpa"
    )
    model = model.to(Rank().device()).eval()
    batch_tokens, _ = choose_batch_tokens(arguments.batch_tokens, model, processes=1)
    sides = {
        "authors": lambda chosen: authors_loop(
            model, tokenizer, chosen, arguments.max_new_tokens, arguments.batch_size
        ),
        "package": lambda chosen: package(model, tokenizer, chosen, arguments.max_new_tokens, batch_tokens),
    }
    pairs, answers = [], {}
    for side in sides.values():
        side(prompts[:8])  # warm-up
    for number in range(arguments.pairs):
        seconds, processor = {}, {}
        for name, side in sides.items():
            begun, begun_processor = time.perf_counter(), time.process_time()
            answers[name] = side(prompts)
            seconds[name] = time.perf_counter() - begun
            processor[name] = time.process_time() - begun_processor
        pairs.append({name: len(prompts) / seconds[name] for name in sides})
        pairs[-1]["ratio"] = seconds["authors"] / seconds["package"]
        pairs[-1]["processor_ratio"] = processor["authors"] / processor["package"]
        rates = ", ".join(f"{name} {pairs[-1][name]:.2f} questions/s" for name in sides)
        print(
            f"pair {number + 1}: {rates}, ratio {pairs[-1]['ratio']:.2f}, "
            f"of processor time {pairs[-1]['processor_ratio']:.2f}",
            flush=True,
        )
    lengths = sorted(len(tokens) for tokens in answers["package"])
    return {
        "questions": len(prompts),
        "new_tokens": {"median": statistics.median(lengths), "longest": lengths[-1], "total": sum(lengths)},
        "ended_by_limit": sum(length == arguments.max_new_tokens for length in lengths),
        "different_answers": sum(a != b for a, b in zip(answers["authors"], answers["package"], strict=True)),
        "threads": torch.get_num_threads(),
        "device": str(model.device),
        "dtype": arguments.dtype,
        "pairs": pairs,
        "median": {key: statistics.median(pair[key] for pair in pairs) for key in pairs[0]},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="model folder")
    parser.add_argument("--prompts", required=True, nargs="+", type=Path, help="JSON lines with a field `prompt`")
    parser.add_argument("--max-new-tokens", type=int, default=600)
    parser.add_argument("--questions", type=int, default=None, help="only the first so many (default: all)")
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=32, help="of the authors' loop")
    parser.add_argument("--batch-tokens", default="auto", help="of the package: a number, or auto")
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), default="float32")
    parser.add_argument("--output", type=Path, default=None, help="write the result as JSON here")
    arguments = parser.parse_args()
    result = measure(arguments)
    print(json.dumps(result, indent=2))
    if arguments.output:
        runs.write_json(arguments.output, result)


if __name__ == "__main__":
    main()
