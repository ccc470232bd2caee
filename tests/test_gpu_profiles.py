"""The profiles of other bases: what they take over from LLaMA-2's, and what they say that they change."""

from __future__ import annotations

import pytest

from qalign_core import params, plan
from qalign_core.training.lora import LoraSection

PAPER = params.load("llama2-7b")


@pytest.mark.parametrize("name", ["llama3-8b", "mistral-7b"])
def test_the_follow_up_papers_bases_are_trained_and_asked_as_llama_2_is(name: str):
    profile = params.load(name)
    for section in ("training", "evaluation"):
        assert getattr(profile, section) == getattr(PAPER, section)
    assert profile.run.model_copy(update={"profile": "llama2-7b"}) == PAPER.run
    assert profile.model.pad_token == "<pad>"
    for system in ("MonoReason", "QAlign"):  # the two whose numbers are known
        assert profile.systems[system] == PAPER.systems[system]
    assert set(profile.systems) == {"MonoReason", "QAlign"}
    assert set(profile.data.sources) == {"mgsm", "msvamp", "questions", "metamathqa"}


def test_one_gpu_changes_what_it_says():
    profile = params.load("one-gpu")
    ours, papers = (p.training.model_dump(exclude={"stages"}) for p in (profile, PAPER))
    changed = {key: ours[key] for key in ours if ours[key] != papers[key]}
    assert changed == {
        "method": "lora",
        "lora": LoraSection().model_dump(),  # the file spells out the defaults
        "learning_rate": 2e-4,
        "per_device_train_batch_size": 4,
        "gradient_accumulation_steps": 32,
        "deepspeed": "deepspeed/zero2.json",
    }
    assert profile.evaluation == PAPER.evaluation
    assert {plan.sequences_per_update(profile, corpus) for corpus in profile.corpora()} == {128}
    third = profile.data.choice("metamathqa-third")
    assert (third.of, third.share) == (["metamathqa"], 0.3333)
    lineages = {name: system.lineage for name, system in profile.systems.items()}
    assert lineages == {
        "MonoReason": ["metamathqa-third"],
        "MultiReason": ["gsm8kinstruct"],
        "QAlign": ["questions-x-en", "metamathqa-third"],
    }
