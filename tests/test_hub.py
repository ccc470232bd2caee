"""Models of the hub: kept to one commit, pickles converted and nothing run, a system that fails beside others."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from hub_server import HubServer, Repository
from profiles import changed
from tiny_training import make_base
from transformers import AutoModelForCausalLM

from qalign_core import evaluate, hub, launch, models, params, plan, results, runs
from qalign_core.runs import Run

NAME, FIRST, SECOND = "owner/tiny-7B", "a" * 40, "b" * 40


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of a checkpoint as some authors saved theirs: pickles in two shards, fp16, and an index."""
    folder = make_base(tmp_path_factory.mktemp("hub") / "base")
    state = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float16).state_dict()
    names = sorted(state)
    for number, chosen in enumerate((names[:7], names[7:]), start=1):
        torch.save({name: state[name] for name in chosen}, folder / f"pytorch_model-0000{number}-of-00002.bin")
    runs.write_json(folder / "pytorch_model.bin.index.json", {"weight_map": {}})
    (folder / "model.safetensors").unlink()
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def fetch(convert: bool = True) -> Path:
    return hub.fetch(hub.pin(NAME, None), convert)


def test_the_first_download_is_recorded_and_kept_to(server: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    server.repositories[NAME] = Repository({"config.json": b"{}"}, FIRST)
    assert hub.pinned(NAME, None) == {"path": NAME, "revision": None}
    assert hub.pin(NAME, None) == hub.pinned(NAME, None) == {"path": NAME, "revision": FIRST}
    server.repositories[NAME].commit = SECOND
    assert hub.pin(NAME, None)["revision"] == FIRST
    assert hub.pinned(NAME, SECOND)["revision"] == SECOND  # the profile names one
    # A run begun elsewhere from the first commit is not gone on with from the second.
    monkeypatch.setenv("QALIGN_CACHE_DIR", str(tmp_path / "another"))
    profile = changed("llama2-7b", model__base=NAME)
    run = Run(tmp_path / "run")
    runs.write_json(run.corpus("gsm8k").with_suffix(".json"), {"sha256": "c", "rows": 3})
    job = plan.stage_job(profile, run, 1234, ["gsm8k"])
    before = job.content | {"model": {"path": NAME, "revision": FIRST}, "fingerprint": "of the first"}
    runs.write_json(job.folder / "job.json", before)
    runs.write_json(job.folder / "done.json", {"fingerprint": "of the first"})
    assert hub.pin(NAME, None)["revision"] == SECOND
    job = plan.stage_job(profile, run, 1234, ["gsm8k"])
    with pytest.raises(launch.JobError, match=f'model.revision: "{FIRST}" then, "{SECOND}" now'):
        launch.run_job(job, profile, run)


def test_an_owner_of_two_names_is_found_by_either(server: HubServer):
    server.repositories["WizardLMTeam/WizardMath-7B-V1.0"] = Repository({"config.json": b"{}"}, FIRST)
    found = {"path": "WizardLMTeam/WizardMath-7B-V1.0", "revision": FIRST}
    assert hub.pin("WizardLM/WizardMath-7B-V1.0", None) == found
    assert hub.pinned("WizardLM/WizardMath-7B-V1.0", None) == found


def test_pickles_are_converted_once_on_request_and_their_checksums_recorded(
    server: HubServer, published: dict[str, bytes], tmp_path: Path
):
    server.repositories[NAME] = Repository(published, FIRST)
    with pytest.raises(hub.DownloadError, match=r"no model\*.safetensors, and pickles are not loaded.*model.convert"):
        fetch(convert=False)
    assert not server.asked("GET", ".bin")
    assert not hub.is_local(NAME, None)
    folder = fetch()
    assert hub.is_local(NAME, None)
    assert hub.located({"path": NAME, "revision": FIRST}, tmp_path) == (str(folder), None)
    sums = runs.read_json(folder / "converted.json")
    assert sorted(sums["from"]) == [name for name in sorted(published) if name.endswith(".bin")]
    assert sums["to"] == {"model.safetensors": runs.sha256_file(folder / "model.safetensors")}
    assert (sums["model"], sums["commit"]) == (NAME, FIRST)
    (tmp_path / "copy").mkdir()
    for name, content in published.items():
        (tmp_path / "copy" / name).write_bytes(content)
    shards = [torch.load(path, weights_only=True) for path in sorted((tmp_path / "copy").glob("*.bin"))]
    expected = shards[0] | shards[1]
    found = models.load_model(str(folder)).state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], value.float()) for name, value in expected.items())
    assert len(models.load_tokenizer(str(folder))) > 300
    asked = len(server.requests)
    assert fetch() == folder
    assert len(server.requests) == asked


class Malicious:
    def __init__(self, path: Path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.mark.parametrize("kind", ["malicious", "damaged", "no tensors", "no weights"])
def test_what_is_not_just_weights_is_refused(server: HubServer, published: dict[str, bytes], tmp_path: Path, kind: str):
    files = {name: content for name, content in published.items() if not name.endswith(".bin")}
    path = tmp_path / "pytorch_model.bin"
    torch.save({"weight": Malicious(tmp_path / "harm")} if kind == "malicious" else {"weight": [1.0]}, path)
    if kind != "no weights":
        files["pytorch_model.bin"] = path.read_bytes()[: 100 if kind == "damaged" else None]
    server.repositories[NAME] = Repository(files, FIRST)
    with pytest.raises(hub.DownloadError, match="has no weights" if kind == "no weights" else r"model\.bin is refused"):
        fetch()
    assert not (tmp_path / "harm").exists()
    assert not hub.converted(NAME, FIRST).exists()
    assert os.environ["DISABLE_SAFETENSORS_CONVERSION"]


def test_checkpoints_answer_beside_one_that_is_gone(
    server: HubServer, published: dict[str, bytes], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    """The road of `checkpoints`: pickles are fetched and converted, asked by a real job, a missing one is reported."""
    server.repositories[NAME] = Repository(published, FIRST)
    systems = {"Gone 7B": {"checkpoint": "nobody/gone-7B"}, "Ours 7B": {"checkpoint": NAME}}
    sections = params.load("checkpoints").model_dump(mode="json") | {"systems": systems}
    sections["data"]["languages"] = ["en"]
    sections["evaluation"] |= {"benchmarks": {"mgsm": {"max_new_tokens": 4}}, "dtype": "float32"}
    profile = params.validate(sections)
    run = plan.open_run(profile, tmp_path / "run")
    rows = [{"index": i, "question": f"{i} plus 1", "prompt": f"{i} plus 1 is"} for i in range(3)]
    runs.write_json_lines(run.prompts("mgsm", "en"), rows)
    runs.write_json_lines(run.benchmark("mgsm", "en"), [row | {"answer": 1} for row in rows])
    failures = launch.run_groups(evaluate.answering_jobs(profile, run), profile, run)
    assert len(failures) == 1
    assert "the hub has no model nobody/gone-7B" in failures[0]
    assert failures[0] in capsys.readouterr().out
    assert list(evaluate.answered(profile, run).systems) == ["Ours 7B"]
    assert results.read_log(run.results)["system"].tolist() == ["Ours 7B"]
    done = runs.read_json(run.checkpoint_predictions("Ours 7B") / "benchmarks" / "done.json")
    assert done["model"] == {"path": NAME, "revision": FIRST}
    assert done["metrics"]["questions"] == 3
