"""From a profile to its jobs: `job.json`, its fingerprint, what is shared; the two machines of docs/gpus.md."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from profiles import with_changes
from rich.console import Console

from qalign_core import cost, launch, models, params, plan, prepare, prompts, reproduce, runs
from qalign_core.params import PARAMS_FOLDER, Profile, ProfileError
from qalign_core.runs import Run
from qalign_core.train import read_job

CORPORA = ("gsm8k", "metamathqa", "questions-x-en", "gsm8kinstruct")
TEMPLATES = ("alpaca", "mathoctopus")


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """A local base model; nothing here loads it."""
    folder = tmp_path / "base-model"
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "llama"}')
    (folder / "model.safetensors").write_bytes(b"weights")
    return folder


def profile_of(base: Path, **changes: Any) -> Profile:
    """A profile of two languages on a local base model; `section__key=value` changes it."""
    sections: dict[str, Any] = {
        "run": {"profile": "plan", "seeds": [1], "devices": 2},
        "model": {"base": str(base)},
        "data": {"languages": ["sw", "en"], "sources": dict.fromkeys(("mgsm", "msvamp"), "folder")},
        "systems": {
            "Base": {"lineage": []},
            "MonoReason": {"lineage": ["metamathqa"]},
            "QAlign": {"lineage": ["questions-x-en", "metamathqa"]},
            "Mixed": {"lineage": ["questions-x-en", "gsm8kinstruct", "metamathqa"]},
            "Octopus 7B": {"checkpoint": "Some/Octopus-7B", "revision": "abc", "template": "mathoctopus"},
        },
        "training": {"deepspeed": "deepspeed/zero1.json"},
        "evaluation": {
            "benchmarks": {"mgsm": {"max_new_tokens": 600}, "msvamp": {"max_new_tokens": 300}},
            "translation": {"max_new_tokens": 100},
            "dtype": "float32",
        },
    }
    return params.validate(with_changes(sections, changes))


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """A run folder as notebook 01 leaves it."""
    found = Run(tmp_path / "run")
    for name in CORPORA:
        runs.write_json(found.corpus(name).with_suffix(".json"), {"sha256": f"sha-{name}", "rows": 10})
    for template in TEMPLATES:
        for task in ("mgsm", "msvamp", "translation"):
            for code in ("sw", "en"):
                row = {"index": 0, "question": "?", "prompt": f"{template} {task} {code}"}
                runs.write_json_lines(found.prompts(task, code, template), [row])
    return found


def print_of(profile: Profile, run: Run, *lineage: str, seed: int = 1) -> str:
    return plan.stage_job(profile, run, seed, list(lineage)).content["fingerprint"]


def finish(job: plan.Job) -> None:
    runs.write_json(job.folder / "job.json", job.content)
    runs.write_json(job.folder / "done.json", {"fingerprint": job.content["fingerprint"]})


# ------------------------------------------------------------------------------------------------- the run folder


def test_the_effective_profile_is_saved_and_can_be_run_again(base: Path, tmp_path: Path, monkeypatch):
    monkeypatch.delenv(plan.RUN_FOLDER, raising=False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")  # or the hub is asked for the checkpoint's commit in vain, for 23 s
    profile = profile_of(base)
    opened = plan.open_run(profile, tmp_path / "elsewhere")
    assert params.load(opened.profile) == profile
    monkeypatch.setenv(plan.RUN_FOLDER, str(tmp_path / "told"))
    assert plan.open_run(profile).folder == tmp_path / "told"


def test_the_shipped_base_is_known_before_it_is_copied_and_planning_writes_nothing(tmp_path: Path):
    profile, run = params.load("mini"), Run(tmp_path / "run")
    runs.write_json(run.corpus("metamathqa", 1).with_suffix(".json"), {"sha256": "x", "rows": 1})
    before = runs.sha256_tree(run.folder)
    planned = plan.stage_job(profile, run, 1, ["metamathqa"])
    assert runs.sha256_tree(run.folder) == before
    assert plan.stage_job(profile, plan.open_run(profile, run.folder), 1, ["metamathqa"]).content == planned.content
    assert (run.folder / planned.content["model"]["path"] / "config.json").is_file()


def test_an_untrained_base_is_made_where_the_run_begins(tmp_path: Path):
    profile, run = params.load("smoke"), Run(tmp_path / "run")
    runs.write_json(run.corpus("metamathqa", 1).with_suffix(".json"), {"sha256": "x", "rows": 1})
    with pytest.raises(FileNotFoundError, match=r"the untrained model is not there; open the run first"):
        plan.stage_job(profile, run, 1, ["metamathqa"])


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"training__bf16": True}, "write training.bf16: false; or, to run it all the same, run.slow_bf16: true"),
        ({"training__stages": {"metamathqa": {"bf16": True}}}, "write training.bf16: false; or"),
        ({"evaluation__dtype": "bfloat16"}, "write evaluation.dtype: float32; or"),
        ({"training__bf16": True, "evaluation__dtype": "bfloat16"}, "training.bf16: false and evaluation.dtype: float"),
        ({"training__bf16": True, "run__slow_bf16": True}, None),
        ({"training__bf16": True, "systems": {"Octopus 7B": {"checkpoint": "Some/Octopus-7B"}}}, None),
        ({"training__stages": {"gsm8k": {"bf16": True}}}, None),  # no system is trained on it
        ({}, None),
    ],
    ids=str,
)
def test_bf16_that_the_processor_would_only_emulate_is_refused_before_anything_runs(
    base: Path, tmp_path: Path, monkeypatch, changes: dict[str, Any], said: str | None
):
    profile = profile_of(base, **changes)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")  # as above
    monkeypatch.setattr(runs, "has_native_bf16", lambda: False)
    if said is None:
        assert plan.slow_bf16(profile) == ""
        plan.open_run(profile, tmp_path / "run")
    else:
        with pytest.raises(ProfileError, match=f"profile plan asks for bf16, but there is no GPU here.*{said}"):
            plan.open_run(profile, tmp_path / "run")
        assert not (tmp_path / "run").exists()
        plan.open_run(profile, tmp_path / "run", read_only=True)
    monkeypatch.setattr(runs, "has_native_bf16", lambda: True)
    assert plan.slow_bf16(profile) == ""


@pytest.mark.parametrize("name", ["smoke", "mini", "mini-publish", "miniature-base", "real-input", "studies"])
def test_the_miniature_needs_no_bf16(name: str, monkeypatch):
    monkeypatch.setattr(runs, "has_native_bf16", lambda: False)
    assert plan.slow_bf16(params.load(name)) == ""


# ------------------------------------------------------------------------------------------------- training jobs


def test_a_training_job_says_everything_its_subprocess_needs(base: Path, run: Run):
    job = plan.stage_job(profile_of(base), run, 1, ["questions-x-en"])
    content = job.content
    assert job.folder == run.folder / "models" / "seed-1" / "base" / "questions-x-en"
    assert (content["kind"], content["lineage"], content["seed"]) == ("train", ["questions-x-en"], 1)
    assert content["model"] == {"path": str(base), "revision": None}
    assert content["corpus"] == {
        "name": "questions-x-en",
        "path": "data/corpora/questions-x-en.jsonl",
        "sha256": "sha-questions-x-en",
        "rows": 10,
    }
    assert (content["max_length"], content["loss"], content["packing"]) == (512, "paper", True)
    assert content["training_arguments"]["learning_rate"] == 2e-5
    assert content["deepspeed"]["zero_optimization"]["stage"] == 1
    assert read_job(runs.write_json(job.folder / "job.json", content)) == content
    later = plan.stage_job(profile_of(base), run, 1, ["questions-x-en", "metamathqa"])
    assert later.content["model"]["path"] == "models/seed-1/base/questions-x-en/model"
    assert later.folder == job.folder / "metamathqa"


@pytest.mark.parametrize(
    "change",
    [
        {"training__learning_rate": 1e-5},
        {"training__num_train_epochs": 2},
        {"training__max_length": 256},
        {"training__loss": "token"},
        {"training__bf16": True},
        {"training__max_grad_norm": 0.5},
        {"training__stages": {"metamathqa": {"weight_decay": 0.1}}},
        {"training__gradient_accumulation_steps": 4},
        {"run__devices": 4},
        {"model__pad_token": "[PAD]"},
    ],
    ids=str,
)
def test_a_setting_that_decides_the_weights_changes_the_fingerprint(base: Path, run: Run, change: dict[str, Any]):
    assert print_of(profile_of(base), run, "metamathqa") != print_of(profile_of(base, **change), run, "metamathqa")


@pytest.mark.parametrize(
    "change",
    [
        {"training__activation_checkpointing": True},
        {"training__save_steps": 7},
        {"training__save_total_limit": 5},
        {"training__logging_steps": 3},
        {"training__report_to": "tensorboard"},
        {"training__packing": False},
        {"training__deepspeed": "deepspeed/zero3.json"},
        {"run__devices": 4, "training__gradient_accumulation_steps": 4},
        {"run__devices": 1, "training__per_device_train_batch_size": 4},
        {"run__silence_seconds": 5},
        {"run__profile": "renamed"},
        {"training__stages": {"gsm8k": {"learning_rate": 1e-3}}},
        {"training__num_train_epochs": 3.0},
        {"evaluation__batch_tokens": 1},
    ],
    ids=str,
)
def test_a_setting_that_only_says_how_leaves_it(base: Path, run: Run, change: dict[str, Any]):
    assert print_of(profile_of(base), run, "metamathqa") == print_of(profile_of(base, **change), run, "metamathqa")


def test_seed_corpus_base_and_earlier_stages_change_the_fingerprint(base: Path, run: Run):
    profile = profile_of(base)
    before = print_of(profile, run, "questions-x-en", "metamathqa")
    assert before != print_of(profile, run, "questions-x-en", "metamathqa", seed=2)
    assert before != print_of(profile, run, "metamathqa")

    manifest = run.corpus("questions-x-en").with_suffix(".json")
    runs.write_json(manifest, {"sha256": "other", "rows": 10})
    assert print_of(profile, run, "questions-x-en", "metamathqa") != before
    runs.write_json(manifest, {"sha256": "sha-questions-x-en", "rows": 10})
    assert print_of(profile, run, "questions-x-en", "metamathqa") == before

    (base / "model.safetensors").write_bytes(b"weighty")
    assert print_of(profile, run, "questions-x-en", "metamathqa") != before


def test_an_earlier_stages_settings_change_the_later_ones_but_not_the_other_way(base: Path, run: Run):
    plain, other = profile_of(base), profile_of(base, training__stages={"questions-x-en": {"learning_rate": 1e-4}})
    assert print_of(plain, run, "questions-x-en", "metamathqa") != print_of(other, run, "questions-x-en", "metamathqa")
    assert print_of(plain, run, "metamathqa") == print_of(other, run, "metamathqa")
    later = profile_of(base, training__stages={"metamathqa": {"learning_rate": 1e-4}})
    assert print_of(plain, run, "questions-x-en") == print_of(later, run, "questions-x-en")


def test_a_hub_models_revision_counts_and_a_copied_run_folder_does_not(base: Path, run: Run, tmp_path: Path):
    hub = {"base": "meta-llama/Llama-2-7b-hf"}
    prints = []
    for revision in (None, "abc", "abd"):
        profile = profile_of(base, model__base=hub["base"], model__revision=revision)
        prints.append(print_of(profile, run, "metamathqa"))
    assert len(set(prints)) == 3
    copied = Run(run.folder.rename(tmp_path / "moved"))
    assert print_of(profile_of(base), copied, "metamathqa") == print_of(profile_of(base), copied, "metamathqa")
    assert print_of(profile, copied, "metamathqa") == prints[-1]


def test_a_large_weight_file_is_known_by_its_size_and_samples_of_its_bytes(base: Path, run: Run, monkeypatch):
    monkeypatch.setattr(models, "LARGE_FILE", 2**20)
    monkeypatch.setattr(models, "SAMPLE_EVERY", 2**18)
    size = 3 * 2**20
    prints = []
    for changed_from in (None, 0, size // 2, size - 1):  # a merged adapter changes matrices in the middle alone
        content = bytearray(size)
        if changed_from is not None:
            content[changed_from : changed_from + 2**18] = b"x" * min(2**18, size - changed_from)
        (base / "model.safetensors").write_bytes(content)
        prints.append(print_of(profile_of(base), run, "metamathqa"))
    (base / "model.safetensors").write_bytes(bytes(size + 1))
    prints.append(print_of(profile_of(base), run, "metamathqa"))
    assert len(set(prints)) == 5


def test_a_missing_corpus_or_configuration_says_what_to_do(base: Path, run: Run):
    with pytest.raises(FileNotFoundError, match="flores-x-en.json is not there; run notebook 01"):
        plan.stage_job(profile_of(base), run, 1, ["flores-x-en"])
    wrong = profile_of(base, training__deepspeed="deepspeed/zero9.json")
    with pytest.raises(ProfileError, match=r"training\.deepspeed: no file .*zero9\.json; known: deepspeed/zero0\.json"):
        plan.stage_job(wrong, run, 1, ["metamathqa"])


# ------------------------------------------------------------------------------------------------- machines


def test_a_host_files_machines_count_in_the_batch(base: Path, tmp_path: Path):
    hosts = tmp_path / "hosts.txt"
    hosts.write_text("# two of them\nworker-1 slots=2\n\nworker-2 slots=2  # GPUs\n")
    one, two = profile_of(base), profile_of(base, run__hostfile=str(hosts))
    assert (plan.machines(one), plan.machines(two)) == (1, 2)
    assert plan.effective_batch_size(one, "metamathqa") == 2 * 2 * 8
    assert plan.effective_batch_size(two, "metamathqa") == 2 * 2 * 2 * 8


@pytest.mark.parametrize("content", ["worker-1 slots=2\nworker-2 slots=4\n", "worker-1\n", "", "# nobody\n"])
def test_a_host_file_that_does_not_fit_is_refused(base: Path, tmp_path: Path, content: str):
    hosts = tmp_path / "hosts.txt"
    hosts.write_text(content)
    with pytest.raises(ProfileError, match=r"run\.hostfile: no file .*params/nobody\.txt"):
        plan.machines(profile_of(base, run__hostfile="nobody.txt"))
    with pytest.raises(ProfileError, match=r"hosts\.txt: .* must be `<host> slots=2`, as run\.devices says"):
        plan.machines(profile_of(base, run__hostfile=str(hosts)))


# ------------------------------------------------------------------------------------------------- generation jobs


def test_a_generation_job_asks_every_benchmark_in_every_language(base: Path, run: Run):
    job = plan.prediction_job(profile_of(base), run, "QAlign", 1)
    assert job.folder == run.folder / "predictions/seed-1/base/questions-x-en/metamathqa/benchmarks"
    assert job.content["model"]["path"] == "models/seed-1/base/questions-x-en/metamathqa/model"
    asked = [(task["name"], task["language"], task["max_new_tokens"]) for task in job.content["tasks"]]
    assert asked == [("mgsm", "sw", 600), ("mgsm", "en", 600), ("msvamp", "sw", 300), ("msvamp", "en", 300)]
    for task in job.content["tasks"]:
        assert runs.sha256_file(run.folder / task["path"]) == task["sha256"]
    of_base = plan.prediction_job(profile_of(base), run, "Base", 1)  # the base model itself is a system
    assert of_base.content["model"]["path"] == str(base)
    assert of_base.folder == run.folder / "predictions/seed-1/base/benchmarks"
    run.prompts("msvamp", "sw").unlink()
    with pytest.raises(FileNotFoundError, match="sw.jsonl is not there; run notebook 01"):
        plan.prediction_job(profile_of(base), run, "QAlign", 1)


def test_a_published_checkpoint_is_asked_with_its_own_template_in_its_own_folder(base: Path, run: Run):
    profile = profile_of(base)
    job = plan.prediction_job(profile, run, "Octopus 7B", 1)
    assert job.content["model"] == {"path": "Some/Octopus-7B", "revision": "abc"}
    assert job.folder == run.checkpoint_predictions("Octopus 7B") / "benchmarks"
    assert all("/mathoctopus/" in task["path"] for task in job.content["tasks"])
    assert job.content == plan.prediction_job(profile, run, "Octopus 7B", 2).content  # no seed in it
    assert ["Octopus 7B"] not in profile.lineages()


def test_stage_1_translates_every_language_but_english(base: Path, run: Run):
    job = plan.translation_job(profile_of(base), run, 1, ["questions-x-en"])
    assert [(task["name"], task["language"]) for task in job.content["tasks"]] == [("translation", "sw")]
    assert job.folder == run.folder / "predictions/seed-1/base/questions-x-en/translation"
    with pytest.raises(ProfileError, match=r"evaluation\.translation is not set"):
        plan.translation_job(profile_of(base, evaluation__translation=None), run, 1, ["questions-x-en"])


TRANSLATED = {"systems__Translate-test": {"lineage": ["metamathqa"], "translator": ["questions-x-en"]}}


def translated(profile: Profile, run: Run, response: str) -> plan.Job:
    """The translator's job, as if it had been run and had said `response` to every question."""
    job = plan.translator_job(profile, run, "Translate-test", 1)
    for task in job.content["tasks"]:
        row = {"index": 0, "question": "?", "prompt": "translate", "response": response, "finish_reason": "stop"}
        runs.write_json_lines(job.folder / task["name"] / f"{task['language']}.jsonl", [row])
    finish(job)
    return job


@pytest.fixture
def asks_to_translate(run: Run) -> Run:
    for name in ("mgsm", "msvamp"):
        runs.write_json_lines(
            run.prompts(name, "sw", plan.TO_ENGLISH), [{"index": 0, "question": "?", "prompt": "to English: ?"}]
        )
    return run


def test_translate_test_asks_the_translations_and_english_as_it_is(base: Path, asks_to_translate: Run):
    run, profile = asks_to_translate, profile_of(base, **TRANSLATED)
    waiting = plan.prediction_jobs(profile, run, "Translate-test", 1)
    first = next(waiting)
    assert first.content["model"]["path"] == "models/seed-1/base/questions-x-en/model"
    assert first.folder == run.folder / "predictions/seed-1/base/questions-x-en/to-english"
    assert [(t["name"], t["language"]) for t in first.content["tasks"]] == [("mgsm", "sw"), ("msvamp", "sw")]
    translated(profile, run, " How many? ")
    before = runs.sha256_tree(run.folder)
    planned = plan.prediction_job(profile, run, "Translate-test", 1)
    assert runs.sha256_tree(run.folder) == before
    second = next(waiting)  # writes the prompts that the job reads
    assert second.content == planned.content
    for task in second.content["tasks"]:
        assert runs.sha256_file(run.folder / task["path"]) == task["sha256"]
    assert second.content["model"]["path"] == "models/seed-1/base/metamathqa/model"
    assert second.folder == run.folder / "predictions/seed-1/base/metamathqa/translated-by+questions-x-en/benchmarks"
    asked = {(t["name"], t["language"]): runs.read_json_lines(run.folder / t["path"]) for t in second.content["tasks"]}
    assert asked["mgsm", "sw"] == [{"index": 0, "question": "?", "prompt": prompts.alpaca("How many?")}]
    assert asked["mgsm", "en"] == runs.read_json_lines(run.prompts("mgsm", "en"))
    mono = plan.prediction_job(profile, run, "MonoReason", 1)
    assert second.folder != mono.folder
    assert list(waiting) == []
    translated(profile, run, "How much?")  # other translations make other answers
    again = plan.prediction_job(profile, run, "Translate-test", 1)
    assert again.content["fingerprint"] != planned.content["fingerprint"]


def test_translate_test_waits_for_its_translations(base: Path, asks_to_translate: Run):
    run, profile = asks_to_translate, profile_of(base, **TRANSLATED)
    with pytest.raises(plan.NotTranslatedError, match="the questions of Translate-test are not translated yet"):
        plan.prediction_job(profile, run, "Translate-test", 1)
    found = {name: why for name, _, why in reproduce.overview(profile, run) if "Translate-test" in name}
    assert found == {
        "translated seed 1: Translate-test": "not begun",
        "answers    seed 1: Translate-test": "its questions are not translated yet",
    }
    assert ["questions-x-en"] in profile.lineages()


def test_predictions_are_of_one_model_one_set_of_prompts_and_one_decoding(base: Path, run: Run):
    def prediction(**changes: Any) -> str:
        return plan.prediction_job(profile_of(base, **changes), run, "QAlign", 1).content["fingerprint"]

    before = prediction()
    assert prediction(training__learning_rate=1e-5) != before  # retrained: a stale answer is not reused
    assert prediction(evaluation__dtype="bfloat16") != before
    assert prediction(evaluation__benchmarks={"mgsm": {"max_new_tokens": 600}}) != before
    assert prediction(evaluation__batch_tokens=128) == before
    assert prediction(training__save_steps=3) == before
    runs.write_json_lines(run.prompts("mgsm", "sw"), [{"index": 0, "question": "?", "prompt": "other"}])
    assert prediction() != before


# ------------------------------------------------------------------------------------------------- overview


def states(profile: Profile, run: Run) -> dict[str, tuple[bool, str]]:
    listed = list(reproduce.overview(profile, run))
    assert len({name for name, _, _ in listed}) == len(listed)
    return {name: (done, why) for name, done, why in listed}


def test_a_shared_stage_is_planned_once_and_before_what_needs_it(base: Path, run: Run):
    names = list(states(profile_of(base), run))
    assert [name for name in names if name.startswith("stage")] == [
        "stage      seed 1: metamathqa",
        "stage      seed 1: questions-x-en",
        "stage      seed 1: questions-x-en → metamathqa",
        "stage      seed 1: questions-x-en → gsm8kinstruct",
        "stage      seed 1: questions-x-en → gsm8kinstruct → metamathqa",
    ]
    assert sum(name.startswith("answers") for name in names) == 5
    assert len(states(profile_of(base, run__seeds=[1, 2]), run)) == 2 * len(names)


def test_overview_tells_how_far_a_stage_is(base: Path, run: Run):
    profile, name = profile_of(base), "stage      seed 1: metamathqa"
    job = plan.stage_job(profile, run, 1, ["metamathqa"])
    assert states(profile, run)[name] == (False, "not begun")
    assert set(states(profile, Run(run.folder / "empty")).values()) == {(False, "its data is prepared by notebook 01")}
    runs.write_json(job.folder / "job.json", job.content)
    assert states(profile, run)[name] == (False, "begun: will be resumed")
    other = profile_of(base, training__learning_rate=1e-3)
    assert states(other, run)[name] == (False, "was begun with other settings")
    finish(job)
    assert job.done
    assert states(profile, run)[name] == (True, "")
    assert states(other, run)[name] == (False, "was finished with other settings")
    assert states(profile, run)["answers    seed 1: MonoReason"] == (False, "not begun")
    runs.write_json(job.folder / "done.json", {"fingerprint": job.content["fingerprint"], "files": {"model/x": "0"}})
    assert states(profile, run)[name] == (
        True,
        "but model/x is gone; delete its done.json too, to have it made again",
    )


@pytest.mark.parametrize("damaged", ["job.json", "done.json"])
@pytest.mark.parametrize("content", ["[]", "5", "{", "{}"])
def test_overview_names_a_damaged_file(base: Path, run: Run, damaged: str, content: str):
    profile, name = profile_of(base), "stage      seed 1: metamathqa"
    job = plan.stage_job(profile, run, 1, ["metamathqa"])
    finish(job)
    (job.folder / damaged).write_text(content)
    done, why = states(profile, run)[name]
    assert not done
    if content != "{}":
        assert why.startswith(str(job.folder / damaged))
        assert "delete or repair" in why
    else:
        assert why == {"job.json": "was begun with other settings", "done.json": "begun: will be resumed"}[damaged]


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """The speed of this machine, not measured: that takes processes of their own."""
    monkeypatch.setattr(cost, "measure", lambda *_: cost.Speed(1e4, 1e4, 5.0))


@pytest.mark.parametrize("name", ["smoke", "mini", "real-input", "miniature-base", "llama2-7b", "checkpoints"])
def test_a_dry_run_leaves_no_trace(name: str, tmp_path: Path, capsys, measured: None):
    folder = tmp_path / "run"
    assert reproduce.main([name, "--dry-run", "--run-dir", str(folder)]) == 0
    printed = capsys.readouterr().out
    assert "to do  notebook" in printed
    assert "done " not in printed
    assert not folder.exists()


def test_some_systems_of_a_profile_that_extends_another_are_planned(tmp_path: Path, capsys, measured: None):
    own = tmp_path / "own.yaml"
    own.write_text("extends: mini\nrun: {profile: own}\ntraining: {num_train_epochs: 2}\n")
    given = ["--dry-run", "--run-dir", str(tmp_path / "run"), "--systems"]
    assert reproduce.main([str(own), *given, "QAlign, X→En FLORES"]) == 0
    printed = capsys.readouterr().out
    assert "extends mini; changed:\n  run.profile: mini → own\n  training.num_train_epochs: 1 → 2\n" in printed
    answers = [line for line in printed.splitlines() if "answers" in line]
    assert [re.search(r"seed 1: (.*?)  ", line)[1] for line in answers] == ["QAlign", "X→En FLORES"]
    assert reproduce.main([str(own), *given, "QAling"]) == 2
    assert "no system is named 'QAling' (did you mean 'QAlign'?)" in capsys.readouterr().out


def test_the_tolerance_is_said_before_and_the_verdict_after(tmp_path: Path, capsys):
    assert reproduce.main(["qalign-7b", "--dry-run", "--run-dir", str(tmp_path / "run")]) == 0
    assert "QAlign 7B on mgsm: published 49.6; counts as reproduced within 2 points" in capsys.readouterr().out
    run = Run(tmp_path / "run")
    run.results = PARAMS_FOLDER.parent / "figures" / "mini" / "results"
    sections = params.load("mini").model_dump(mode="json")
    sections["systems"]["QAlign"]["published"] = "QAlign 7B"
    for tolerance, verdict in ((2.0, "not reproduced"), (60.0, "reproduced")):
        sections["evaluation"]["tolerance"] = {"mgsm": tolerance}
        reproduce.summary(params.validate(sections), run, Console(width=200))
        assert f"here, 49.6 published: {verdict} (within {tolerance:g} points" in capsys.readouterr().out


def test_a_dry_run_after_notebook_01_leaves_the_run_as_it_is(tmp_path: Path, measured: None):
    profile = params.load("smoke")
    found = plan.open_run(profile, tmp_path / "run")
    for name in profile.corpora():
        runs.write_json(found.corpus(name, 1).with_suffix(".json"), {"sha256": name, "rows": 1})
    for task in (*profile.evaluation.benchmarks, "translation"):
        for code in profile.data.languages:
            runs.write_json_lines(found.prompts(task, code), [{"index": 0, "question": "?", "prompt": "?"}])
    runs.write_atomic(found.profile, "an older profile")
    before = runs.sha256_tree(found.folder)
    assert reproduce.main(["smoke", "--dry-run", "--run-dir", str(found.folder)]) == 0
    assert runs.sha256_tree(found.folder) == before
    assert set(states(profile, plan.open_run(profile, found.folder, read_only=True)).values()) == {(False, "not begun")}
    assert (found.model(1, []) / "config.json").is_file()  # `open_run` put the untrained base there


# ------------------------------------------------------------------------------------------------- studies


def test_the_studies_are_systems_that_differ_from_qalign_in_one_stage():
    profile = params.load("studies")
    ours = profile.systems["QAlign"].lineage or []
    studied = [system.lineage or [] for system in profile.systems.values() if system.table == "study"]
    assert len(studied) == 3 + 2 + 9  # sizes, stages answered in the language, languages left out
    for lineage in studied:
        assert sum(a != b for a, b in zip(lineage, ours, strict=True)) == 1
        assert [profile.arguments(corpus) for corpus in lineage] == [profile.arguments(corpus) for corpus in ours]


def test_corpora_and_jobs_of_the_studies_at_tiny_sizes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("QALIGN_CACHE_DIR", str(tmp_path / "cache"))
    sections = params.load("studies").model_dump(mode="json")
    sections["data"]["miniature"]["sizes"] = dict.fromkeys(sections["data"]["miniature"]["sizes"], 8) | {"dev": 4}
    sections["evaluation"]["benchmarks"] = {"mgsm": {"max_new_tokens": 12, "limit": 4}}
    profile, run = params.validate(sections), Run(tmp_path / "run")
    prepare.write_corpora(profile, run)

    def rows(name: str) -> list[dict]:
        return runs.read_json_lines(run.corpus(name, plan.corpus_seed(profile, name, 1)))

    pairs = rows("questions-x-en")
    assert len(pairs) == 9 * 8
    assert len(rows("questions-x-en-25-percent")) == 9 * 2
    left = {row["source_language"] for row in rows("questions-x-en-without-sw")}
    assert left == {row["source_language"] for row in pairs} - {"sw"}
    assert len(rows("questions-x-en-and-en-x")) == 9 * 8 + 9 * 8
    assert {row["target_language"] for row in rows("metamathqa-and-en-x")} == set(profile.data.languages)
    jobs = {tuple(lineage): plan.stage_job(profile, run, 1, lineage) for lineage in plan.stages(profile)}
    assert len({job.content["fingerprint"] for job in jobs.values()}) == len(jobs)


@pytest.mark.slow
def test_the_whole_road_with_every_study(tmp_path: Path):
    """Two languages beside English and one benchmark: trained, asked, tabled, drawn and put on the page."""
    given = params.load("smoke").model_dump(mode="json")
    given["run"] |= {"profile": "studied", "devices": 1}
    given["data"]["languages"] = ["sw", "de", "en"]
    studied = params.load("studies")
    chosen = ["QAlign, 50% of the pairs", "QAlign + En→X in stage 1", "QAlign + En→X in stage 2", "QAlign without sw"]
    given["systems"] = studied.model_dump(mode="json", include={"systems"})["systems"]
    given["systems"] = {name: given["systems"][name] for name in ("MonoReason", "QAlign", *chosen)}
    used = {corpus for system in given["systems"].values() for corpus in system["lineage"]}
    corpora = studied.model_dump(mode="json", include={"data"})["data"]["corpora"]
    given["data"]["corpora"] = {name: choice for name, choice in corpora.items() if name in used}
    given["evaluation"]["benchmarks"] = {"mgsm": {"max_new_tokens": 12, "limit": 4}}
    profile = runs.write_json(tmp_path / "studied.yaml", given)  # JSON is YAML
    done = subprocess.run(
        [sys.executable, "-m", "qalign_core.reproduce", str(profile), "--run-dir", str(tmp_path / "run")],
        env={**os.environ, "QALIGN_CACHE_DIR": str(tmp_path / "cache"), "QALIGN_DATA_DIR": "", "COLUMNS": "160"},
        cwd=PARAMS_FOLDER.parent, capture_output=True, text=True, timeout=1200, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    run = Run(tmp_path / "run")
    rows = pd.read_csv(run.results / "ablation_rows.csv").set_index("system")
    assert rows["examples"].dropna().astype(int).to_dict() == {
        "QAlign": 16, "QAlign, 50% of the pairs": 8, "QAlign + En→X in stage 1": 32, "QAlign + En→X in stage 2": 16,
        "QAlign without sw": 8,
    }  # fmt: skip
    assert {path.stem for path in run.figures.glob("figure-study-*")} == {"figure-study-other"}


def test_the_commented_host_file_example_of_the_profile_is_valid_yaml():
    lines = (PARAMS_FOLDER / "llama2-7b.yaml").read_text(encoding="utf-8").splitlines()
    uncommented = [line.replace("# hostfile:", "hostfile:").replace("# launcher:", "launcher:") for line in lines]
    profile = params.validate(yaml.safe_load("\n".join(uncommented)))
    assert (profile.run.hostfile, profile.run.launcher) == ("hosts.txt", "slurm")


GPUS = (PARAMS_FOLDER.parent / "docs" / "gpus.md").read_text(encoding="utf-8")


def block(kind: str, beginning: str) -> str:
    """The code block of docs/gpus.md that begins so."""
    blocks = re.findall(r"^```(\w*)\n(.*?)^```$", GPUS, re.DOTALL | re.MULTILINE)
    return next(text for found, text in blocks if found == kind and text.startswith(beginning))


def test_two_machines_make_the_papers_update(tmp_path: Path):
    hosts = tmp_path / "hosts.txt"
    hosts.write_text(block("", "worker-1"))
    sections = yaml.safe_load((PARAMS_FOLDER / "llama2-7b.yaml").read_text(encoding="utf-8"))
    sections["run"] |= yaml.safe_load(block("yaml", "run:"))["run"] | {"hostfile": str(hosts)}
    accumulation = re.search(r"With two machines the effective batch size stays (\d+) at `(\w+): (\d+)`", GPUS)
    sections["training"][accumulation[2]] = int(accumulation[3])
    profile = params.validate(sections)
    assert plan.machines(profile) == 2
    assert plan.effective_batch_size(profile, "metamathqa") == int(accumulation[1]) == 128
    line = launch.command([Path("/shared/run/job.json")], "qalign_core.train", profile)
    assert line[line.index("--hostfile") + 1] == profile.run.hostfile
    assert line[line.index("--launcher") + 1] == "slurm"
    assert "--launcher_args=--ntasks-per-node=8" in line
    script = block("bash", "#!/bin/bash")  # asks Slurm for what the profile uses
    asked = dict(re.findall(r"#SBATCH --([\w-]+)=(\S+)", script))
    assert int(asked["nodes"]) == plan.machines(profile)
    assert int(asked["ntasks-per-node"]) == int(asked["gpus-per-node"]) == profile.run.devices
    slots = re.search(r"s/\$/(.*?)/", script)
    hosts.write_text("".join(f"node{n:02d}{slots[1]}\n" for n in range(2)))
    assert plan.machines(profile) == 2
    assert f"PROFILE={profile.run.profile}" in script
