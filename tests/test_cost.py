"""What a profile will cost: sizes as the models' own pages print them, memory and hours, the table of docs/gpus.md."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from profiles import changed
from rich.console import Console
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, Qwen2Config

from qalign_core import cost, miniature, params, plan, prompts
from qalign_core.corpora import build_corpus
from qalign_core.cost import CORPORA, LENGTHS, MACHINES, UTILISATION, Machine, Speed, hours, stage_tokens
from qalign_core.params import PARAMS_FOLDER, Profile
from qalign_core.plan import CONTEXT, GIB, Sizes, base_sizes, training_memory
from qalign_core.runs import Run, write_json

SHAPE = {"hidden_size": 64, "intermediate_size": 160, "num_hidden_layers": 3, "num_attention_heads": 8}
CONFIGS = {
    "llama": LlamaConfig(**SHAPE, vocab_size=512),
    "llama, tied": LlamaConfig(**SHAPE, vocab_size=512, num_key_value_heads=2, head_dim=16, tie_word_embeddings=True),
    "qwen2": Qwen2Config(**SHAPE, vocab_size=512, num_key_value_heads=2, tie_word_embeddings=True),
}


def profile_of(name: str = "llama2-7b", **changes: Any) -> Profile:
    return changed(name, **changes)


def sizes_of(name: str) -> Sizes:
    found = base_sizes(profile_of(name))
    assert found is not None
    return found


# ------------------------------------------------------------------------------------------------- sizes


@pytest.mark.parametrize(
    ("base", "parameters"),  # as the models' own pages print them
    [
        ("meta-llama/Llama-2-7b-hf", 6_738_415_616),
        ("meta-llama/Llama-2-13b-hf", 13_015_864_320),
        ("meta-llama/Meta-Llama-3-8B", 8_030_261_248),
        ("meta-llama/Llama-3.2-1B", 1_235_814_400),
        ("mistralai/Mistral-7B-v0.1", 7_241_732_096),
        ("Qwen/Qwen2.5-1.5B", 1_543_714_304),
    ],
)
def test_the_known_bases_have_the_published_number_of_parameters(base: str, parameters: int):
    found = base_sizes(profile_of(model__base=base, model__revision=None))
    assert found is not None
    assert found.parameters == parameters


def test_every_gpu_profile_has_a_known_base():
    for path in PARAMS_FOLDER.glob("*.yaml"):
        if path.stem not in ("data.lock", "checkpoints"):
            profile = params.load(path.stem)
            assert profile.model.base == "miniature" or profile.model.base in plan.KNOWN, path.name


def test_a_folders_config_is_read_and_another_kind_of_model_gives_no_estimate(tmp_path: Path):
    for name, content in (("qwen", CONFIGS["qwen2"].to_dict()), ("gpt2", {"model_type": "gpt2"})):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(json.dumps(content))
    own = base_sizes(profile_of(model__base=str(tmp_path / "qwen")))
    assert own is not None
    assert own.parameters == plan.sizes_of(CONFIGS["qwen2"]).parameters
    other = profile_of(model__base=str(tmp_path / "gpt2"))
    assert base_sizes(other) is cost.estimates(other) is base_sizes(params.load("smoke")) is None


@pytest.mark.parametrize("kind", CONFIGS)
def test_activations_are_what_autograd_keeps(kind: str):
    model = AutoModelForCausalLM.from_config(CONFIGS[kind]).to(torch.bfloat16)
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: dict[int, torch.Tensor] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.untyped_storage().data_ptr() not in weights:
            kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model.model(input_ids=torch.randint(0, 512, (1, 1024)), use_cache=False)
    measured = sum(tensor.untyped_storage().nbytes() for tensor in kept.values())
    estimate = plan.activations(CONFIGS[kind], 1024, checkpointing=False) - 1024 * 2 * 512  # without the logits
    assert estimate == pytest.approx(measured, rel=0.1)


# ------------------------------------------------------------------------------------------------- memory


def test_zero_partitions_the_states_and_offloading_moves_them_to_the_host():
    profile, sizes = profile_of(), sizes_of("llama2-7b")
    working = CONTEXT + plan.activations(sizes.config, 1024, True)
    device = [training_memory(profile, sizes, 8, stage, False, 2, True)[0] for stage in (1, 2, 3)]
    states = [(memory - working) / sizes.parameters for memory in device]
    assert states[:2] == pytest.approx([2 + 6 + 12 / 8, 2 + 18 / 8])
    assert 18 / 8 < states[2] < states[1]
    offloaded, host = training_memory(profile, sizes, 8, 3, True, 2, True)
    assert host >= 18 * sizes.parameters
    assert offloaded < working + 4 * GIB


def test_lora_trains_the_matrices_alone():
    profile, sizes = params.load("one-gpu"), sizes_of("one-gpu")
    lora, _ = training_memory(profile, sizes, 1, 2, False, 4, True)
    with pytest.raises(params.ProfileError, match="training.lora.target_modules: nothing is not among"):
        base_sizes(profile_of("one-gpu", training__lora={"target_modules": ["nothing"]}))
    config, rank = sizes.config, profile.training.lora.rank
    queries = rank * 2 * config.hidden_size * config.num_hidden_layers
    assert queries < sizes.trained < 20 * queries
    working = CONTEXT + plan.activations(config, 4 * 512, True)
    assert lora == pytest.approx(2 * sizes.parameters + 20 * sizes.trained + working)
    settings = {**profile.training.lora.model_dump(), "embeddings": True}
    other = profile_of("one-gpu", training__lora=settings)
    embeddings, _ = training_memory(other, base_sizes(other), 1, 2, False, 4, True)
    assert embeddings - lora == pytest.approx(18 * config.vocab_size * config.hidden_size)  # they are tied


@pytest.mark.parametrize(
    ("name", "devices", "memory", "expected"),  # GPUs and GiB of each → device batch, checkpointing, configuration
    [
        ("llama2-7b", 8, 80, (16, False, "zero3")),
        ("llama2-7b", 8, 24, (8, True, "zero3")),
        ("llama2-13b", 8, 80, (8, False, "zero3")),
        ("llama2-13b", 8, 24, (2, False, "zero3-offload")),
        ("one-gpu", 1, 24, (8, False, "zero2")),
        ("llama2-7b", 8, None, (2, True, "zero3")),  # no GPU: the least memory
    ],
)
def test_auto_takes_what_fits_and_keeps_the_effective_batch(name: str, devices: int, memory: int | None, expected: Any):
    profile = profile_of(name, run__devices=devices)
    found = plan.fit(profile, profile.corpora()[0], memory and memory * GIB, devices)
    assert (found.batch, found.checkpointing, f"deepspeed/{expected[2]}.json") == (*expected[:2], found.deepspeed)
    assert found.batch * found.accumulation * devices == plan.effective_batch_size(profile, profile.corpora()[0]) == 128
    assert f"device batch {found.batch} × {found.accumulation}" in found.sentence
    if memory:
        layout = (*plan.zero(found.deepspeed), found.batch, found.checkpointing)
        assert training_memory(profile, base_sizes(profile), devices, *layout)[0] <= plan.SHARE * memory * GIB


def test_what_is_given_is_kept_and_jobs_say_what_was_picked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    given = profile_of(training__per_device_train_batch_size=2, training__activation_checkpointing=True)
    assert plan.fit(given, "gsm8k", 80 * GIB, 8)[:4] == (2, 8, True, "deepspeed/zero3.json")
    monkeypatch.setattr("qalign_core.runs.smallest_gpu", lambda: 80 * GIB)
    run = Run(tmp_path)
    write_json(run.corpus("gsm8k").with_suffix(".json"), {"sha256": "c", "rows": 3})
    jobs = [plan.stage_job(profile, run, 1234, ["gsm8k"]).content for profile in (profile_of(), given)]
    assert jobs[0]["fingerprint"] == jobs[1]["fingerprint"]
    assert jobs[0]["training_arguments"]["per_device_train_batch_size"] == 16
    assert jobs[0]["training_arguments"]["activation_checkpointing"] is False
    assert jobs[0]["fit"].startswith("device batch 16 × 1, no activation checkpointing, deepspeed/zero3.json, about ")


# ------------------------------------------------------------------------------------------------- hours


def test_hours_are_operations_over_the_machines_speed():
    sizes, machine = sizes_of("llama2-7b"), Machine("of a test", 4, 80, 1e14)
    plain = profile_of(training__activation_checkpointing=False)
    expected = 6 * sizes.parameters * 1e9 / (UTILISATION * 4 * 1e14) / 3600
    assert hours(plain, sizes, 1e9, machine) == pytest.approx(expected)
    checkpointing = profile_of(training__activation_checkpointing=True)
    assert hours(checkpointing, sizes, 1e9, machine) == pytest.approx(expected * 8 / 6)  # a second forward pass
    lora = profile_of(training__method="lora", training__activation_checkpointing=False)
    assert hours(lora, sizes, 1e9, machine) == pytest.approx(expected * 4 / 6)


def test_examples_are_those_the_profile_chooses():
    assert sum(cost.PAIRS.values()) == 66_045
    assert sum(CORPORA["gsm8kinstruct"][0].values()) == pytest.approx(73_559, abs=10)
    corpora = {
        "questions-x-en": {"languages": ["sw", "de"], "limit": 1000},
        "some": {"of": ["questions-x-en", "metamathqa"], "share": 0.5},
        "less": {"of": "some", "without": ["sw"], "limit": 400},
        "mine": {"path": "my.jsonl"},
    }
    profile = profile_of("llama3-8b", data__corpora=corpora, systems__QAlign={"lineage": ["mine", "less"]})
    assert cost.examples_of(profile, "questions-x-en") == {"sw": 1000, "de": 1000}
    assert cost.examples_of(profile, "some") == {"sw": 500, "de": 500, "en": 197_500}
    assert cost.examples_of(profile, "less") == {"de": 400, "en": 400}
    assert stage_tokens(profile, "mine") is None
    assert stage_tokens(profile, "metamathqa") == 395_000 * CORPORA["metamathqa"][1] * 3


def test_what_notebook_01_counted_is_used_and_max_steps_ends_a_stage(tmp_path: Path):
    counted = {"metamathqa": (10, 2000)}
    assert stage_tokens(profile_of(), "metamathqa", counted) == 3 * 2000
    assert stage_tokens(profile_of(training__max_length=100), "metamathqa", counted) == 3 * 1000  # truncated examples
    assert stage_tokens(profile_of(training__max_steps=5), "metamathqa", counted) == 5 * 128 * 200
    run, row = Run(tmp_path), "stage metamathqa (8 of them)"
    before = cost.estimates(profile_of(), run)
    run.results.mkdir(parents=True)
    table = pd.DataFrame({"corpus": ["metamathqa", "mgsm (test)"], "rows": [10**6, 250], "tokens": [10**9, None]})
    table.to_csv(run.results / "corpora.csv", index=False)
    after = cost.estimates(profile_of(), run)
    assert (before.loc[row].iloc[0], after.loc[row].iloc[0]) == ("3.7 h", "17.3 h")  # truncated at 512


# ------------------------------------------------------------------------------------------------- shown


def printed(name: str, folder: Path) -> str:
    console = Console(file=io.StringIO(), width=140)
    cost.show(params.load(name), Run(folder), console)
    return console.file.getvalue()


def test_a_dry_run_shows_every_kind_of_stage_on_every_machine(tmp_path: Path):
    text = printed("llama2-7b", tmp_path)
    for expected in (*(machine.name for machine in MACHINES), "ZeRO-3 (this profile)", "GiB ✗", "all stages"):
        assert expected in text
    for corpus in params.load("llama2-7b").corpora():
        assert f"stage {corpus}" in text
    assert printed("smoke", tmp_path) == ""
    assert printed("checkpoints", tmp_path).startswith("\n474 GB to fetch")


def test_one_gpu_is_enough_for_the_profile_of_that_name():
    profile, sizes, smallest = params.load("one-gpu"), sizes_of("one-gpu"), MACHINES[-1]
    assert (smallest.devices, smallest.memory) == (1, 24)
    assert training_memory(profile, sizes, 1, 2, False, 4, True)[0] < 0.9 * 24 * GIB
    stages = [lineage[-1] for lineage in profile.lineages()]
    assert sum(hours(profile, sizes, stage_tokens(profile, corpus) or 0.0, smallest) for corpus in stages) < 20
    full = profile_of("one-gpu", training__method="full", training__lora=None)
    assert 24 * GIB < training_memory(full, base_sizes(full), 1, 2, False, 4, True)[0] < 80 * GIB


def page_table() -> str:
    """The table of docs/gpus.md, in Markdown: one line per profile and machine."""
    tables = []
    for name in ("llama2-7b", "llama2-13b", "llama3-8b", "mistral-7b", "one-gpu"):
        table = cost.estimates(params.load(name))
        assert table is not None  # its base is KNOWN
        table = table.loc[[*cost.LAYOUTS, "QAlign", "all stages"]].T.rename_axis("machine").reset_index()
        tables.append(table.assign(profile=[f"`{name}`", *[""] * (len(table) - 1)]).set_index("profile"))
    text = pd.concat(tables).replace(r" GiB| h$| \+.*RAM", "", regex=True).reset_index().to_markdown(index=False)
    return re.sub(r" +\|", " |", re.sub(r"\| +", "| ", text))


def test_the_page_shows_what_is_estimated():
    text = (PARAMS_FOLDER.parent / "docs" / "gpus.md").read_text(encoding="utf-8")
    assert page_table() in text, f"put this table into docs/gpus.md:\n{page_table()}"
    assert f"{UTILISATION:.0%} of the peak" in text


# ------------------------------------------------------------------------------------------------- measured


def test_the_time_of_chapters_is_counted_from_tokens_and_start_ups(monkeypatch):
    monkeypatch.setattr(cost, "LENGTHS", dict.fromkeys(LENGTHS, (100, 50)))
    profile = params.load("smoke")
    slow, fast = (cost.chapters(profile, Speed(rate, rate, 0.0)) for rate in (10.0, 1000.0))
    assert slow["02"] == pytest.approx(7200 / 10)  # one stage of 72 examples
    assert slow["03"] == pytest.approx(2 * 6400 / 10)
    assert all(slow[number] == pytest.approx(100 * fast[number]) for number in slow)
    idle = cost.chapters(profile, Speed(1e9, 1e9, 2.0))
    assert idle["05"] == pytest.approx(2 * cost.NOTEBOOK, rel=1e-3)
    assert idle["03"] == pytest.approx(2 * (cost.NOTEBOOK + cost.START + 2 * cost.JOB), rel=1e-3)
    two = cost.chapters(profile_of("smoke", run__seeds=[1, 2]), Speed(10.0, 10.0, 0.0))
    assert two["03"] == pytest.approx(2 * slow["03"])


def test_the_miniatures_examples_and_their_lengths_are_those_of_what_will_be_made(tmp_path: Path):
    mini = params.load("mini")
    sizes = miniature.DEFAULT_SIZES | mini.data.miniature.sizes
    assert cost.examples_of(mini, "metamathqa") == {"en": sizes["metamathqa"]}
    assert sum(cost.examples_of(mini, "gsm8kinstruct").values()) == 10 * sizes["gsm8kinstruct"]
    tokenizer = AutoTokenizer.from_pretrained(miniature.SHIPPED_BASE)
    miniature.write_world(tmp_path, sizes=dict.fromkeys(miniature.DEFAULT_SIZES, 40))
    for name, (tokens, output) in LENGTHS.items():
        rows = build_corpus(name, tmp_path, list(mini.data.languages)).dataset.shuffle(seed=0)[:40]
        texts = [prompts.alpaca(text) for text in rows["instruction"]]
        found = [sum(map(len, tokenizer(part).input_ids)) / 40 for part in (texts, rows["output"])]
        assert (sum(found), found[1]) == pytest.approx((tokens, output), rel=0.25), name


def test_a_machine_that_can_train_the_miniature_is_measured_and_other_models_are_not():
    found = cost.measure(params.load("smoke"))
    assert found.training > found.startup > 0
    assert found.generation > 0
    assert list(cost.sentences(params.load("llama2-7b"))) == []


def test_asking_published_checkpoints_is_said_in_gigabytes_and_hours():
    said = cost.asking(params.load("qalign-7b"))
    for words in ("27 GB to fetch", "13.5 GB of GPU memory", "12,500 answers: about 1.5 hours"):
        assert words in said
    numbers = (PARAMS_FOLDER.parent / "docs" / "numbers.md").read_text(encoding="utf-8")
    for words in ("27 GB", "13.5 GB", "12,500 answers", "1.5 hours", f"{cost.ANSWERED} tokens/s"):
        assert words in numbers
    assert cost.asking(params.load("llama2-7b")) == cost.asking(params.load("mini")) == ""
