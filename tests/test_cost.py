"""What a profile will cost: parameters as transformers counts them, memory and hours, and README's table."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from rich.console import Console
from transformers import AutoModelForCausalLM, LlamaConfig, MistralConfig, Qwen2Config

from qalign_core import params
from qalign_core.params import PARAMS_FOLDER, Profile
from qalign_core.runs import Run
from qalign_core.scores.results import write_csv
from qalign_core.training import cost
from qalign_core.training.cost import (
    CONTEXT,
    CORPORA,
    GIB,
    MACHINES,
    UTILISATION,
    Machine,
    hours,
    stage_tokens,
    training_memory,
)
from qalign_core.training.geometry import KNOWN, Geometry, base_geometry
from qalign_core.training.lora import LoraSection, add_adapters

README = PARAMS_FOLDER.parent / "README.md"
SIZES = {
    "hidden_size": 64,
    "intermediate_size": 160,
    "num_hidden_layers": 3,
    "num_attention_heads": 8,
    "vocab_size": 512,
}
CONFIGS = {
    "llama": LlamaConfig(**SIZES),
    "llama, grouped and tied": LlamaConfig(**SIZES, num_key_value_heads=2, head_dim=16, tie_word_embeddings=True),
    "mistral": MistralConfig(**SIZES, num_key_value_heads=4),
    "qwen2": Qwen2Config(**SIZES, num_key_value_heads=2, tie_word_embeddings=True),
}


def profile_of(name: str = "llama2-7b", **changes: Any) -> Profile:
    """A shipped profile, `section__key=value` changed."""
    sections = yaml.safe_load((PARAMS_FOLDER / f"{name}.yaml").read_text(encoding="utf-8"))
    for key, value in changes.items():
        section, name = key.split("__")
        sections[section][name] = value
    return params.validate(sections)


# ------------------------------------------------------------------------------------------------- geometry


@pytest.mark.parametrize("kind", CONFIGS)
def test_parameters_are_those_of_transformers(kind: str):
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(CONFIGS[kind])
    geometry = Geometry.from_config(CONFIGS[kind].to_dict())
    assert geometry.parameters == sum(parameter.numel() for parameter in model.parameters())
    settings = LoraSection(rank=3, target_modules=["q_proj", "v_proj", "down_proj"])
    adapted = add_adapters(model, settings.model_dump())
    trained = sum(parameter.numel() for parameter in adapted.parameters() if parameter.requires_grad)
    assert geometry.adapters(3, settings.target_modules) == trained


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
    assert KNOWN[base].parameters == parameters


def test_every_gpu_profile_has_a_known_base():
    for path in PARAMS_FOLDER.glob("*.yaml"):
        if path.stem not in ("data.lock", "checkpoints"):
            profile = params.load(path.stem)
            assert profile.model.base == "miniature" or profile.model.base in KNOWN, path.name


def test_a_folders_config_is_read_and_another_kind_of_model_gives_no_estimate(tmp_path: Path):
    (tmp_path / "config.json").write_text(json.dumps(CONFIGS["qwen2"].to_dict()))
    profile = profile_of(model__base=str(tmp_path))
    assert base_geometry(profile) == Geometry.from_config(CONFIGS["qwen2"].to_dict())
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
    assert base_geometry(profile) is None
    assert list(cost.estimates(profile, Run(tmp_path))) == []
    assert base_geometry(params.load("smoke")) is None


@pytest.mark.parametrize("kind", ["llama", "llama, grouped and tied", "qwen2"])
def test_activations_are_what_autograd_keeps(kind: str):
    model = AutoModelForCausalLM.from_config(CONFIGS[kind]).to(torch.bfloat16)
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: dict[int, torch.Tensor] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.untyped_storage().data_ptr() not in weights:
            kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    tokens = 256
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model.model(input_ids=torch.randint(0, 512, (1, tokens)), use_cache=False)
    measured = sum(tensor.untyped_storage().nbytes() for tensor in kept.values())
    geometry = Geometry.from_config(CONFIGS[kind].to_dict())
    assert geometry.layers * geometry.layer_activations(2) * tokens == pytest.approx(measured, rel=0.1)


# ------------------------------------------------------------------------------------------------- memory


def test_full_training_takes_eighteen_bytes_a_parameter_and_zero_shares_them_out():
    profile, geometry = profile_of(), KNOWN["meta-llama/Llama-2-7b-hf"]
    every = geometry.parameters
    alone = training_memory(profile, geometry, 1, 3, False)
    assert alone.weights + alone.gradients + alone.optimizer == 18 * every
    shared = [training_memory(profile, geometry, 8, stage, False) for stage in (1, 2, 3)]
    assert [(m.weights / every, m.gradients / every, m.optimizer / every) for m in shared] == [
        (2.0, 6.0, 1.5),
        (2.0, 0.5, 1.5),
        (0.25, 0.5, 1.5),
    ]
    assert shared[0].device > shared[1].device > shared[2].device
    offloaded = training_memory(profile, geometry, 8, 3, True)
    assert offloaded.host == 18 * every
    assert offloaded.device == offloaded.working < shared[2].device


def test_lora_trains_the_matrices_alone():
    profile, geometry = params.load("one-gpu"), KNOWN["Qwen/Qwen2.5-1.5B"]
    lora = training_memory(profile, geometry, 1, 2, False)
    adapters = geometry.adapters(64, LoraSection().target_modules)
    assert lora.weights == 2 * (geometry.parameters + adapters)
    assert lora.gradients + lora.optimizer == 16 * adapters
    settings = {**profile.training.lora.model_dump(), "embeddings": True}
    embeddings = training_memory(profile_of("one-gpu", training__lora=settings), geometry, 1, 2, False)
    assert embeddings.optimizer - lora.optimizer == 12 * geometry.embeddings


def test_activations_grow_with_the_micro_batch_and_shrink_with_checkpointing():
    geometry = KNOWN["meta-llama/Llama-2-7b-hf"]

    def activations(**changes: Any) -> float:
        profile = profile_of(**{f"training__{key}": value for key, value in changes.items()})
        return cost._activations(profile, geometry)

    twice = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 4}
    assert activations(**twice) == 2 * activations()
    assert activations(gradient_checkpointing=False) > 5 * activations()
    working = training_memory(profile_of(), geometry, 8, 3, False).working
    assert working >= CONTEXT + activations() + 2e9 + 4e8  # what is gathered, and a bucket


def test_what_does_not_fit_is_struck_out():
    memory = cost.Memory(weights=10.0 * GIB, gradients=0.0, optimizer=0.0, working=8.0 * GIB, host=0.0)
    assert cost.memory_cell(memory, Machine("small", 1, 18, 1e12)) == "~~18~~"
    assert cost.memory_cell(memory, Machine("large", 1, 24, 1e12)) == "18"


# ------------------------------------------------------------------------------------------------- hours


def test_hours_are_operations_over_the_machines_speed():
    geometry, machine = KNOWN["meta-llama/Llama-2-7b-hf"], Machine("of a test", 4, 80, 1e14)
    plain = profile_of(training__gradient_checkpointing=False)
    expected = 6 * geometry.parameters * 1e9 / (UTILISATION * 4 * 1e14) / 3600
    assert hours(plain, geometry, 1e9, machine) == pytest.approx(expected)
    assert hours(profile_of(), geometry, 1e9, machine) == pytest.approx(expected * 8 / 6)  # a second forward pass
    lora = profile_of(training__method="lora", training__gradient_checkpointing=False)
    assert hours(lora, geometry, 1e9, machine) == pytest.approx(expected * 4 / 6)


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
    assert cost._examples(profile, "questions-x-en") == {"sw": 1000, "de": 1000}
    assert cost._examples(profile, "some") == {"sw": 500, "de": 500, "en": 197_500}
    assert cost._examples(profile, "less") == {"de": 400, "en": 400}
    assert stage_tokens(profile, "mine") is None
    assert stage_tokens(profile, "metamathqa") == 395_000 * CORPORA["metamathqa"][1] * 3


def test_what_notebook_01_counted_is_used_and_max_steps_ends_a_stage(tmp_path: Path):
    run = Run(tmp_path)
    assert cost.counted_tokens(run) == {}
    table = cost.pd.DataFrame({"corpus": ["metamathqa", "mgsm (test)"], "rows": [10, 250], "tokens": [2000, None]})
    write_csv(run.results, "corpora", table.astype({"tokens": "Int64"}))
    counted = cost.counted_tokens(run)
    assert counted == {"metamathqa": (10, 2000)}
    assert stage_tokens(profile_of(), "metamathqa", counted) == 3 * 2000
    assert stage_tokens(profile_of(training__max_length=100), "metamathqa", counted) == 3 * 1000  # cut examples
    assert stage_tokens(profile_of(training__max_steps=5), "metamathqa", counted) == 5 * 128 * 200


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
    assert printed("checkpoints", tmp_path) == ""


def test_one_gpu_is_enough_for_the_profile_of_that_name(tmp_path: Path):
    profile, geometry = params.load("one-gpu"), KNOWN["Qwen/Qwen2.5-1.5B"]
    smallest = MACHINES[-1]
    assert (smallest.devices, smallest.memory) == (1, 24)
    assert training_memory(profile, geometry, 1, 2, False).fits(smallest)
    stages = [lineage[-1] for lineage in profile.lineages()]
    assert sum(hours(profile, geometry, stage_tokens(profile, corpus) or 0.0, smallest) for corpus in stages) < 20
    full = profile_of("one-gpu", training__method="full", training__lora=None)
    assert not training_memory(full, geometry, 1, 2, False).fits(smallest)
    assert training_memory(full, geometry, 1, 2, False).fits(MACHINES[1])


def test_readme_shows_the_functions_table():
    text = README.read_text(encoding="utf-8")
    assert cost.readme_table() in text, "run `python -m qalign_core.training.cost` and put its table into README.md"
    assert f"{UTILISATION:.0%} of the peak" in text
