"""Profiles: the shipped ones say what the paper did, and a wrong one is refused with what to do."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import yaml
from profiles import sections_of

from qalign_core import params, plan
from qalign_core.params import PARAMS_FOLDER, SECTIONS, Arguments, LoraSection, ProfileError

SHIPPED = sorted(path.stem for path in PARAMS_FOLDER.glob("*.yaml") if not path.stem.endswith(".lock"))
LLAMA = ["llama2-7b", "llama2-13b"]


def changed(path: str, value: Any) -> dict[str, Any]:
    """The sections of llama2-7b with one key (`section/key/...`) set to `value`."""
    return sections_of("llama2-7b", **{path.replace("/", "__"): value})


def refusal(path: str, value: Any) -> str:
    with pytest.raises(ProfileError) as error:
        params.validate(changed(path, value), "some.yaml")
    message = str(error.value)
    assert message.startswith("profile ")
    return message


# ------------------------------------------------------------------------------------------------- shipped profiles


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_profile_loads_under_its_own_name(name: str):
    profile = params.load(name)
    assert profile.run.profile == name
    assert tuple(params.read_sections(PARAMS_FOLDER / f"{name}.yaml")) == SECTIONS
    assert profile.training.deepspeed == "auto" or (PARAMS_FOLDER / profile.training.deepspeed).is_file()
    assert params.validate(yaml.safe_load(params.dump(profile))) == profile


@pytest.mark.parametrize("name", SHIPPED)
def test_a_profile_survives_papermills_injection(name: str):
    profile = params.load(name)
    injected: dict[str, Any] = {}
    for section, value in profile.model_dump(mode="json").items():
        exec(f"{section} = {value!r}", {}, injected)  # as papermill writes a parameters cell
    assert params.from_notebook(**injected) == profile


def test_arguments_are_transformers_own_names():
    from transformers import TrainingArguments

    theirs = {field.name for field in fields(TrainingArguments)}
    assert set(Arguments.model_fields) <= theirs


@pytest.mark.parametrize("name", LLAMA)
def test_optimisation_is_the_papers(name: str):
    profile = params.load(name)
    training = profile.training
    expected = {
        "num_train_epochs": 3,
        "gradient_accumulation_steps": 8,
        "learning_rate": 2e-5,
        "lr_scheduler_type": "cosine",
        "warmup_steps": 0.03,
        "weight_decay": 0.0,
        "adam_beta1": 0.9,
        "adam_beta2": 0.999,
        "adam_epsilon": 1e-8,
        "max_grad_norm": 1.0,
        "tf32": True,
        "bf16": True,
    }
    for corpus in profile.corpora():  # the same in both stages
        arguments = profile.arguments(corpus)
        assert {key: arguments[key] for key in expected} == expected
        assert plan.effective_batch_size(profile, corpus) == 128
    assert profile.run.seeds == [1234]
    assert (training.max_length, training.loss, training.method) == (512, "paper", "full")
    assert profile.model.pad_token == "<pad>"


@pytest.mark.parametrize("name", LLAMA)
def test_generation_scoring_and_switches_are_the_papers(name: str):
    profile = params.load(name)
    limits = {key: (test.max_new_tokens, test.limit) for key, test in profile.evaluation.benchmarks.items()}
    assert limits == {"mgsm": (600, None), "msvamp": (300, None)}
    assert (profile.evaluation.dtype, profile.evaluation.scorer) == ("bfloat16", "paper")
    data = profile.data
    assert (data.language_names, data.gsm8kinstruct_language, data.sft_data) == ("paper", "paper", "paper")
    assert data.sources["questions"] == "repository"
    assert list(data.corpora) == ["questions-x-en-997"]  # Table 4's control of size
    assert "miniature" not in data.sources.values()


@pytest.mark.parametrize("name", LLAMA)
def test_the_systems_are_the_papers(name: str):
    systems = {title: (system.lineage, system.table) for title, system in params.load(name).systems.items()}
    assert systems == {
        "SFT": (["gsm8k"], "main"),
        "MonoReason": (["metamathqa"], "main"),
        "MultiReason": (["gsm8kinstruct"], "main"),
        "QAlign": (["questions-x-en", "metamathqa"], "main"),
        "QAlign + mixed": (["questions-x-en", "gsm8kinstruct", "metamathqa"], "main"),
        "En→X questions": (["questions-en-x", "metamathqa"], "ablation"),
        "X→En responses": (["responses-x-en", "metamathqa"], "ablation"),
        "En→X responses": (["responses-en-x", "metamathqa"], "ablation"),
        "X→En FLORES": (["flores-x-en", "metamathqa"], "ablation"),
        "X→En questions (997)": (["questions-x-en-997", "metamathqa"], "ablation"),  # ours
    }


def test_the_checkpoints_profile_trains_nothing():
    profile = params.load("checkpoints")
    assert profile.lineages() == []
    assert all("/" in system.checkpoint for system in profile.systems.values())


def test_a_stage_has_its_own_differences_and_the_rest_in_common():
    profile = params.validate(changed("training/stages", {"questions-x-en": {"learning_rate": 1.0e-4, "max_steps": 7}}))
    common, own = profile.arguments("metamathqa"), profile.arguments("questions-x-en")
    assert {key for key in common if common[key] != own[key]} == {"learning_rate", "max_steps"}
    assert (own["learning_rate"], own["max_steps"]) == (1e-4, 7)
    assert params.validate(yaml.safe_load(params.dump(profile))) == profile


def test_a_derived_corpus_is_trained_as_what_it_is_derived_from():
    wanted = changed("training/stages", {"questions-x-en": {"learning_rate": 1.0e-4}, "own": {"max_steps": 3}})
    wanted["data"]["corpora"] |= {
        "half": {"of": "questions-x-en", "share": 0.5},
        "quarter": {"of": "half", "share": 0.5},
        "own": {"of": ["half"], "limit": 3},
    }
    wanted["systems"]["Half"] = {"lineage": ["quarter", "metamathqa"]}
    profile = params.validate(wanted)
    assert profile.arguments("quarter") == profile.arguments("questions-x-en")
    assert (profile.arguments("quarter")["learning_rate"], profile.arguments("own")["learning_rate"]) == (1e-4, 2e-5)
    assert list(profile.data.ancestry("quarter")) == ["quarter", "half", "questions-x-en"]
    assert ["quarter", "metamathqa"] in profile.lineages()
    assert params.validate(yaml.safe_load(params.dump(profile))) == profile


@pytest.mark.parametrize("name", ["llama3-8b", "mistral-7b"])
def test_the_follow_up_papers_bases_are_trained_and_asked_as_llama_2_is(name: str):
    profile, paper = params.load(name), params.load("llama2-7b")
    assert (profile.training, profile.evaluation) == (paper.training, paper.evaluation)
    assert profile.run.model_copy(update={"profile": "llama2-7b"}) == paper.run
    assert profile.model.pad_token == "<pad>"
    assert profile.systems == {system: paper.systems[system] for system in ("MonoReason", "QAlign")}
    assert set(profile.data.sources) == {"mgsm", "msvamp", "questions", "metamathqa"}


def test_one_gpu_changes_what_it_says():
    profile, paper = params.load("one-gpu"), params.load("llama2-7b")
    ours, papers = (p.training.model_dump(exclude={"stages"}) for p in (profile, paper))
    assert {key: ours[key] for key in ours if ours[key] != papers[key]} == {
        "method": "lora",
        "lora": LoraSection().model_dump(),  # the file spells out the defaults
        "learning_rate": 2e-4,
        "gradient_accumulation_steps": 64,
        "deepspeed": "deepspeed/zero2.json",
    }
    assert profile.evaluation == paper.evaluation
    assert {plan.effective_batch_size(profile, corpus) for corpus in profile.corpora()} == {128}
    third = profile.data.choice("metamathqa-third")
    assert (third.of, third.share) == (["metamathqa"], 0.3333)
    assert {name: system.lineage for name, system in profile.systems.items()} == {
        "MonoReason": ["metamathqa-third"],
        "MultiReason": ["gsm8kinstruct"],
        "QAlign": ["questions-x-en", "metamathqa-third"],
    }


# ------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("training/lerning_rate", 1e-5, "training.lerning_rate: unknown key (did you mean 'learning_rate'?)"),
        ("trainig", {}, "trainig: unknown key (did you mean 'training'?); allowed here: run, model, data, systems"),
        ("systems/QAlign/tabel", "main", "systems.QAlign.tabel: unknown key (did you mean 'table'?)"),
        (
            "data/sources/mgms",
            "hub",
            "data.sources.mgms: unknown name (did you mean 'mgsm'?); allowed: 'mgsm', 'msvamp'",
        ),
        (
            "systems/QAlign/lineage",
            ["question-x-en"],
            "systems.QAlign.lineage.0: unknown corpus 'question-x-en' (did you mean 'questions-x-en'?); known: ",
        ),
        ("systems/QAlign/lineage", ["../../etc"], "systems.QAlign.lineage.0: String should match pattern"),
        ("systems/QAlign/translator", [], "a translator is the lineage of a model that translates"),
        ("systems/QAlign/checkpoint", "a/b", "systems.QAlign: give either a lineage"),
        ("systems", {}, "systems: Dictionary should have at least 1 item"),
        ("run/seeds", [1, 1], "run.seeds: the seeds [1, 1] must differ"),
        ("run/seeds", [True], "run.seeds.0: must be a valid integer; got True"),
        ("run/devices", 0, "run.devices: must be greater than 0; got 0"),
        ("data/languages", ["en", "xx"], "unknown language code 'xx'; known codes: bn, th, sw"),
        ("data/languages", ["de", "fr"], "'en' must be among the languages"),
        ("data/languages", ["en", "de", "de"], "a language is named twice"),
        ("data/miniature", {"split": "development"}, "miniature.split: development needs mgsm from the miniature"),
        ("data/corpora", {"half": {"share": 0.5}}, "half: unknown corpus; a new one needs `of`"),
        ("data/corpora", {"gsm8k": {"share": 0.5}}, "of a known corpus only limit and languages can be set, not share"),
        ("data/corpora", {"tensorboard": {"of": "gsm8k"}}, "tensorboard: this name is taken"),
        ("data/corpora", {"a": {"of": "b"}, "b": {"of": "a"}}, " is derived from itself: a of b of a"),
        ("data/corpora", {"a": {"of": "gsm8k", "path": "x"}}, "give either of (other corpora) or path"),
        ("data/corpora", {"a": {"path": "x", "pairs": "shuffled"}}, "not for a file of your own"),
        ("data/corpora", {"a": {"of": "gsm8k", "languages": ["de"], "without": ["fr"]}}, "either languages or without"),
        ("data/corpora", {"a": {"of": "gsm8k", "style": "equations"}}, "only the miniature can be written in styles"),
        ("training/learning_rate", "2e-5", "got '2e-5' (YAML reads 2e-5 as text: write 2.0e-5)"),
        ("training/learning_rate", 1e30, "training.learning_rate: must be less than or equal to 10"),
        ("training/learning_rate", float("inf"), "training.learning_rate: must be a finite number"),
        ("training/packing", "yes", "training.packing: must be a valid boolean; got 'yes'"),
        ("training/save_total_limit", 1, "training.save_total_limit: must be greater than or equal to 2"),
        ("training/loss", "mean", "training.loss: must be 'paper' or 'token'; got 'mean'"),
        ("training", None, "training: must be a valid dictionary"),
        ("evaluation/benchmarks", {}, "evaluation.benchmarks: Dictionary should have at least 1 item"),
        ("evaluation/benchmarks/gsm", {"max_new_tokens": 1}, "evaluation.benchmarks.gsm: unknown benchmark"),
        ("evaluation/pairs", [["QAlgn", "MonoReason"]], "no system is named 'QAlgn' (did you mean 'QAlign'?)"),
        ("evaluation/pairs", [["QAlign"]], "evaluation.pairs.0: List should have at least 2 items"),
        ("model/base", 7, "model.base: must be a valid string; got 7"),
        ("model/base", "a/b\n", "model.base: must be one line of plain text, without U+000A"),
        ("run", {"profile": {"a": 1}}, "run.profile: must be a valid string"),
        ("systems/\x1b[31m", {"lineage": []}, "must be one line of plain text, without U+001B"),
        ("model/miniature", {"hidden_size": 8}, "sizes cannot be chosen with weights: shipped"),
    ],
)
def test_a_wrong_value_is_refused_with_what_is_allowed(path: str, value: Any, said: str):
    message = refusal(path, value)
    assert said in message
    assert len(message.splitlines()) == 2  # the profile, and one line for the one thing that is wrong


def test_a_refusal_names_the_profile_and_everything_that_is_wrong():
    wrong = changed("training/bf16", 1)
    wrong["run"]["devises"] = 8
    with pytest.raises(ProfileError) as error:
        params.validate(wrong)
    first, *rest = str(error.value).splitlines()
    assert first == "profile llama2-7b is not valid:"
    assert len(rest) == 2


@pytest.mark.parametrize("name", ["../mini", "a/b", "/etc", "..", "a..b", ".hidden", "", "a\n", "a b"])
def test_a_profiles_name_cannot_lead_out_of_the_runs(name: str):
    assert "run.profile" in refusal("run/profile", name)


@pytest.mark.parametrize("content", ["", "- a\n- b\n", "just text\n", "3\n"])
def test_a_file_without_sections_is_refused(tmp_path: Path, content: str):
    path = tmp_path / "p.yaml"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(ProfileError, match="a profile is a YAML file of sections"):
        params.load(path)


@pytest.mark.parametrize(
    "content",
    [
        b"run: {profile: x\nmodel: [",
        b"\xff\xfe\x00",
        b"!!python/name:os.system ''",
        b"run:\n  profile: 2026-13-45\n",
        b"run: " + b"9" * 5000,
        b"run: " + b"[" * 3000,
    ],
)
def test_a_file_that_is_no_yaml_is_refused_with_its_path(tmp_path: Path, content: bytes):
    path = tmp_path / "broken.yaml"
    path.write_bytes(content)
    with pytest.raises(ProfileError, match="broken.yaml: not a YAML file"):
        params.load(path)


def test_aliases_of_aliases_do_not_make_a_huge_message(tmp_path: Path):
    lines = ["a: &a [x, x, x, x, x, x, x, x, x]"]
    lines += [f"{new}: &{new} [{', '.join([f'*{old}'] * 9)}]" for old, new in zip("abcdefg", "bcdefgh", strict=True)]
    path = tmp_path / "laughs.yaml"
    text = yaml.safe_dump(sections_of("llama2-7b")).replace("  profile: llama2-7b", "  profile: *h")
    path.write_text("\n".join([*lines, text]).replace("run:", "run: &run", 1), encoding="utf-8")
    with pytest.raises(ProfileError, match=r"a: unknown key") as error:
        params.load(path)
    assert len(str(error.value)) < 10_000


@pytest.mark.parametrize(
    ("path", "written", "key"),
    [
        ("systems", "{5: {lineage: []}}", "systems.5: a name must be a valid string"),
        ("systems", "{2026-01-31: {lineage: []}}", "a name must be a valid string; got datetime.date(2026, 1, 31)"),
        ("data/languages", "[no, en]", "data.languages.0: must be a valid string; got False"),
        ("model/revision", "1_000", "model.revision: must be a valid string; got 1000"),
        ("model/revision", "2026-01-31", "model.revision: must be a valid string; got datetime.date(2026, 1, 31)"),
        ("run/profile", "1_000", "run.profile: must be a valid string; got 1000"),
    ],
)
def test_what_yaml_takes_for_something_else_than_text_is_told_to_be_quoted(path: str, written: str, key: str):
    message = refusal(path, yaml.safe_load(written))
    assert key in message
    assert "put it in quotes: YAML takes no, 1_000 and 2026-01-31 for something else than text" in message


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("run:", "model: {base: x}\nrun:", "the key 'model' is already there on line 1"),
        ("  devices: 8", "  devices: 8\n  'devices': 4", "the key 'devices' is already there on line"),
        ("    mgsm: {", "    mgsm: {max_new_tokens: 1}\n    mgsm: {", "the key 'mgsm' is already there on line"),
        ("  SFT: {", "  SFT: {published: a, published: b, ", "the key 'published' is already there on line"),
    ],
)
def test_a_key_that_is_there_twice_is_refused_with_its_line(tmp_path: Path, old: str, new: str, said: str):
    text = (PARAMS_FOLDER / "llama2-7b.yaml").read_text(encoding="utf-8").partition("\nrun:")[2]
    text = f"run:{text}"
    assert text.count(old) == 1, text
    path = tmp_path / "twice.yaml"
    path.write_text(text.replace(old, new), encoding="utf-8")
    with pytest.raises(ProfileError) as error:
        params.load(path)
    message = str(error.value)
    assert said in message
    assert message.endswith("; keep one of the two")
    number = int(message.split("settings: line ")[1].split(":")[0])
    assert said.split("'")[1] in path.read_text(encoding="utf-8").splitlines()[number - 1]


def test_a_key_may_override_what_is_merged_in(tmp_path: Path):
    text = "defaults: &all {max_length: 64, packing: true}\n" + yaml.safe_dump(sections_of("llama2-7b"))
    path = tmp_path / "merged.yaml"
    path.write_text(text.replace("max_length: 512", "<<: *all\n  max_length: 512", 1), encoding="utf-8")
    with pytest.raises(ProfileError, match="defaults: unknown key") as error:
        params.load(path)
    assert "keep one" not in str(error.value)


@pytest.mark.parametrize(("name", "meant"), [("minni", "mini"), ("llama-7b", "llama2-7b"), ("mini.yaml", "mini")])
def test_an_unknown_profile_names_the_nearest_and_all(name: str, meant: str, tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ProfileError) as error:
        params.load(name)
    assert f"no profile {name} (did you mean {meant!r}?)" in str(error.value)
    assert all(known in str(error.value) for known in SHIPPED)
    assert "data.lock" not in str(error.value)


def test_a_profile_may_extend_another(tmp_path: Path):
    """Mappings are merged, lists replaced, null takes an entry out; the profile above may itself extend one."""
    own, next_ = tmp_path / "own.yaml", tmp_path / "next.yaml"
    own.write_text("extends: mini\nrun: {profile: own, seeds: [1, 2]}\nsystems: {SFT: null}\nmodel: {revision: null}")
    next_.write_text("extends: own.yaml\ntraining: {stages: {gsm8kinstruct: {num_train_epochs: 2}}}")
    mini, found = params.load("mini"), params.load(next_)
    assert (found.run.profile, found.run.seeds, found.run.devices) == ("own", [1, 2], mini.run.devices)
    assert set(found.systems) == set(mini.systems) - {"SFT"}
    given = mini.arguments("gsm8kinstruct")
    assert found.arguments("gsm8kinstruct") == {**given, "num_train_epochs": 2}
    own.write_text("extends: next.yaml")
    with pytest.raises(ProfileError, match=r"own\.yaml: extends: a profile cannot extend itself"):
        params.load(own)
    own.write_text("extends: minni")
    with pytest.raises(ProfileError, match=r"no profile minni \(did you mean 'mini'\?\)"):
        params.load(own)


# ------------------------------------------------------------------------------------------------- in a notebook


def test_a_notebook_opened_by_hand_uses_the_miniature():
    assert params.from_notebook(**dict.fromkeys(SECTIONS)) == params.load("mini")
    assert params.from_notebook() == params.load("mini")


def test_a_notebook_with_only_some_sections_is_stopped():
    with pytest.raises(ProfileError) as error:
        params.from_notebook(**{**dict.fromkeys(SECTIONS), "run": {"profile": "mine"}})
    message = str(error.value)
    assert message.startswith("profile mine is not valid")
    assert all(f"{section}: is missing" in message for section in SECTIONS if section != "run")


def test_what_papermill_is_given_by_half_is_the_named_profiles(capsys):
    given = params.load("mini").model_dump(mode="json") | {"training": {"learning_rate": 0.5}}
    profile, mini = params.from_notebook(**given), params.load("mini")
    assert profile.training == mini.training.model_copy(update={"learning_rate": 0.5})
    assert profile.evaluation == mini.evaluation
    said = capsys.readouterr().out
    assert "mini.yaml: training.num_train_epochs, " in said
    assert "training.learning_rate" not in said
    given["evaluation"] = {"benchmarks": {"mgsm": {"max_new_tokens": 5}}}
    asked = params.from_notebook(**given).evaluation.benchmarks
    assert asked["mgsm"] == mini.evaluation.benchmarks["mgsm"].model_copy(update={"max_new_tokens": 5})
    assert asked["msvamp"] == mini.evaluation.benchmarks["msvamp"]
    assert "evaluation.benchmarks.msvamp, " in capsys.readouterr().out
    few = {"X": {"lineage": []}}
    assert list(params.from_notebook(run={"profile": "mini"}, systems=few).systems) == ["X"]
    with pytest.raises(ProfileError, match="evaluation: must be a valid dictionary"):
        params.from_notebook(run={"profile": "mini"}, evaluation="{scorer: fixed}")


def test_languages_are_put_into_the_order_of_the_tables():
    assert params.validate(changed("data/languages", ["en", "sw", "bn"])).data.languages == ["bn", "sw", "en"]
