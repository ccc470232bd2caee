"""Pre-train the base models that come with the package, one for each seed: `make miniature-base`.

The recipe is `params/miniature-base.yaml`; training is that of every other stage. What comes out is copied into
`qalign_core/miniature/base/`, each with a manifest of everything it depends on and a model card.
"""

# ruff: noqa: E501  (the text of the card)
from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

import pandas as pd

from qalign_core import launch, models, params, plan, prepare, runs
from qalign_core.miniature import SHIPPED_BASE
from qalign_core.miniature.text import TOKENIZER_FILE

PROFILE = "miniature-base"
MANIFEST = "manifest.json"
RECORDED = ("versions", "hardware", "wall_seconds", "peak_memory_bytes")  # of the training's done.json
MODEL_FILES = ("config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")


def main(arguments: list[str] | None = None) -> int:
    """Train, copy, describe. An optional argument is the run folder."""
    given = sys.argv[1:] if arguments is None else arguments
    from miniature_tokenizer import train_tokenizer  # beside this file

    profile = params.load(PROFILE)
    train_tokenizer().save(str(TOKENIZER_FILE))
    run = plan.open_run(profile, given[0] if given else None)
    prepare.write_corpora(profile, run)
    for seed in profile.run.seeds:
        job = plan.stage_job(profile, run, seed, [])
        print(f"pre-training in {job.folder}; its progress is in progress.jsonl, its log in log.txt", flush=True)
        launch.run_job(job, profile, run)
        target = ship(profile, run, seed)
        print(f"the base model is in {target}")
    return 0


def ship(profile: params.Profile, run: runs.Run, seed: int) -> Path:
    """Put the pre-trained base of a seed into the package in fp16, half its size, with its manifest and model card."""
    job, target = plan.stage_job(profile, run, seed, []), SHIPPED_BASE.with_name(f"seed-{seed}")
    source = job.folder / "model"
    model = models.load_model(str(source), dtype="float16")
    target.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(target)
    for name in MODEL_FILES:
        if name.startswith("tokenizer"):
            shutil.copyfile(source / name, target / name)
    corpus = runs.read_json(run.corpus(plan.BASE_TEXT, seed).with_suffix(".json"))
    done = runs.read_json(job.folder / "done.json")
    manifest = {
        "seed": seed,
        "profile": profile.model_dump(mode="json"),
        "job": job.content["fingerprint"],
        "corpus": corpus,
        "metrics": done["metrics"],
        **{key: done[key] for key in RECORDED},
        "files": {name: runs.sha256_file(target / name) for name in MODEL_FILES},
    }
    runs.write_json(target / MANIFEST, manifest)
    runs.write_atomic(target / "README.md", card(manifest))
    return target


def card(manifest: dict[str, Any]) -> str:
    """The model card: what the base is, what it read and what it never read."""
    report = pd.DataFrame(manifest["corpus"]["report"])
    tokens = report.groupby("language").tokens.sum()
    english = 100 * tokens["en"] / tokens.sum()
    solved = int(report[report.kind == "solved"].documents.sum())
    kinds = report.groupby("kind")[["documents", "tokens"]].sum().sort_values("tokens", ascending=False)
    metrics = manifest["metrics"]
    return f"""# The miniature's base model

A LLaMA of {metrics["trained_parameters"] / 1e6:.1f} million parameters, trained from random initialisation on {metrics["tokens"]:,} tokens of the miniature's
text, {english:.0f}% of them English. It stands where LLaMA-2 stands in the paper: fluent in English, acquainted with
nine other languages, able to solve English word problems written as plain text.

| kind of text | documents | tokens |
|---|---:|---:|
{chr(10).join(f"| {kind} | {row.documents:,} | {row.tokens:,} |" for kind, row in kinds.iterrows())}

It read {solved:,} solved problems, all of them English, half in GSM8K's way of writing and half in MetaMathQA's. It read
single sentences of problems beside their translation, and questions whose sentences change between two languages. It
never read a question of another language with its answer, the same problem in two languages, the instruction
template, or a number tuple of any test question; the tests check the text for this. LLaMA-2 read about two trillion tokens, 90% of them English; what problems were among them is not known.

* Recipe: `params/miniature-base.yaml`; made again by `make miniature-base`.
* Final loss: {metrics["final_loss"]:.3f} nats a token, after {metrics["updates"]:,} updates.
* Everything it depends on, with checksums: `manifest.json`.
* Licence: Apache-2.0, like the package.
"""


if __name__ == "__main__":
    sys.exit(main())
