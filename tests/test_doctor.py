"""`make doctor`: what it finds on this machine, and on machines that lack something; at most ten seconds."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hub_server import Repository
from profiles import changed

from qalign_core import cost, doctor, params
from qalign_core.doctor import GIB, OK, PROBLEM, WARNING, Finding
from qalign_core.params import PARAMS_FOLDER
from qalign_core.runs import Run
from qalign_core.sources import read_lock

ROOT = PARAMS_FOLDER.parent


def program(folder: Path, name: str, prints: str, code: int = 0) -> None:
    """Put a program into a folder that prints a text and ends."""
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/bin/sh\ncat <<'END'\n{prints}\nEND\nexit {code}\n", encoding="utf-8")
    (folder / name).chmod(0o755)


@pytest.fixture
def tools(tmp_path, monkeypatch) -> Path:
    """A folder of programs that are found first."""
    folder = tmp_path / "tools"
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return folder


def by_check(findings) -> dict[str, Finding]:
    return {finding.check: finding for finding in findings}


# ------------------------------------------------------------------------------------------------- the command


def test_this_machine_is_ready_for_smoke_and_nothing_is_written(tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(cost, "measure", lambda *_: cost.Speed(1e4, 1e4, 5.0))
    monkeypatch.setenv("QALIGN_CACHE_DIR", str(tmp_path / "cache"))
    assert doctor.main(["smoke", "--run-dir", str(tmp_path / "run")]) == 0
    said = capsys.readouterr().out
    for words in ("profile smoke", "Python", "packages", "memory", "disk", "made here", "Measured here:"):
        assert words in said
    assert list(tmp_path.iterdir()) == []


def test_without_packages_it_says_so_and_goes_on() -> None:
    command = [sys.executable, "-S", "-m", "qalign_core.doctor"]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "COLUMNS": "200"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 1
    assert "✗ packages: missing: accelerate" in done.stdout
    assert done.stderr == ""


def test_a_profile_that_is_not_there_is_a_problem(capsys) -> None:
    assert doctor.main(["lama2-7b"]) == 1
    assert "did you mean 'llama2-7b'?" in " ".join(capsys.readouterr().out.split())


def test_a_failing_check_is_a_finding() -> None:
    (found,) = doctor.run_check(("failing", lambda: 1 / 0))
    assert (found.state, found.found) == (WARNING, "the check failed: ZeroDivisionError('division by zero')")


def test_the_list_of_licences_is_that_of_requirements() -> None:
    text = (ROOT / "THIRD_PARTY.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| ([\w.-]+) +\| (\d[\w.+]*) ", text, re.MULTILINE))
    wanted = {re.sub(r"[-_.]+", "-", name).lower(): version for name, version in doctor.required().items()}
    assert {re.sub(r"[-_.]+", "-", n).lower(): v.split("+")[0] for n, v in rows.items()} == wanted, (
        "run `make licences`"
    )


# ------------------------------------------------------------------------------------------------- the machine


def test_an_old_python_and_other_packages(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(doctor, "NEEDED_PYTHON", (9, 9))
    assert doctor.python().state == PROBLEM
    pins = tmp_path / "requirements.txt"
    pins.write_text("# pins\nrich==0.0.1\nnumpy==0.1\n", encoding="utf-8")
    assert doctor.packages(pins).state == WARNING
    assert "(pinned: 0.0.1)" in doctor.packages(pins).found
    pins.write_text("rich==0.0.1\nno-such-package-here==1.0\n", encoding="utf-8")
    found = doctor.packages(pins)
    assert (found.state, found.found) == (PROBLEM, "missing: no-such-package-here")


def test_a_compiler_is_asked_for_by_offloading_alone(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert doctor.compiler(params.load("mini")).state == OK
    assert doctor.compiler(params.load("llama2-13b")).state == OK  # deepspeed: auto, and no GPU needs offloading here
    offloading = changed("llama2-13b", training__deepspeed="deepspeed/zero3-offload.json")
    assert doctor.compiler(offloading).state == PROBLEM


def test_a_file_where_a_folder_should_be(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "taken").write_text("", encoding="utf-8")
    monkeypatch.setenv("QALIGN_CACHE_DIR", str(tmp_path / "taken"))
    found = by_check(doctor.disk(params.load("mini"), Run(tmp_path / "taken" / "run")))
    assert (found["run folder"].state, found["data cache"].state) == (PROBLEM, WARNING)
    assert by_check(doctor.disk(params.load("mini"), Run(tmp_path / "new" / "run")))["run folder"].state == OK
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]


# ------------------------------------------------------------------------------------------------- GPUs


def seen(monkeypatch, *gpus: tuple[str, float, float, float], nccl: str = "2.29.3") -> None:
    """Let torch see GPUs: of each the name, GiB, GiB in use and the capability."""
    listed = [
        {"name": name, "memory": total * GIB, "used": used * GIB, "capability": capability}
        for name, total, used, capability in gpus
    ]
    found = json.dumps({"cuda": "13.0", "gpus": listed, "nccl": nccl})
    monkeypatch.setattr(doctor, "PROBE", f"print({found!r})")


def test_no_gpu_is_a_problem_of_real_profiles_only(tools: Path, monkeypatch) -> None:
    seen(monkeypatch)
    for name, state in (("mini", OK), ("real-input", OK), ("llama2-7b", PROBLEM), ("checkpoints", PROBLEM)):
        (found,) = doctor.gpus(params.load(name))
        assert found.state == state, name
    program(tools, "nvidia-smi", "Failed to initialize NVML: Driver/library version mismatch", code=18)
    (found,) = doctor.gpus(params.load("mini"))
    assert (found.state, "version mismatch" in found.found) == (PROBLEM, True)
    program(tools, "nvidia-smi", "all is well")
    (found,) = doctor.gpus(params.load("mini"))
    assert (found.state, "does not see this machine's GPUs" in found.found) == (PROBLEM, True)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert [finding.state for finding in doctor.gpus(params.load("mini"))] == [OK]


def test_too_few_small_busy_and_old_gpus(monkeypatch) -> None:
    seen(monkeypatch, *[("Tesla T4", 15, 9, 7.5)] * 4)
    found = {(f.check, f.state): f for f in doctor.gpus(params.load("llama2-7b"))}
    few = found["GPU", PROBLEM]
    assert few.found == "4 × Tesla T4, 15 GiB, CUDA 13.0; the profile needs 8"
    assert "run.devices: 4 and gradient_accumulation_steps: 16" in few.remedy
    assert "of 15 GiB a GPU" in found["GPU memory", PROBLEM].found
    assert "9 of 15 GiB in use" in found["GPU memory", WARNING].found
    assert ("bf16", WARNING) in found
    seen(monkeypatch, ("RTX 4090", 24, 0, 8.9))
    answering = by_check(doctor.gpus(params.load("checkpoints")))["answering"]  # its largest have 13 billion weights
    assert answering.found == "a model's weights take 24 GiB of each GPU when it answers"
    monkeypatch.setattr(doctor, "SHARED_MEMORY", 0)
    seen(monkeypatch, *[("A100", 80, 0, 8.0)] * 8)
    assert [f.state for f in doctor.gpus(params.load("llama2-7b"))] == [OK, OK, OK]
    monkeypatch.setattr(doctor, "SHARED_MEMORY", 2**62)
    assert by_check(doctor.gpus(params.load("llama2-7b")))["NCCL"].state == WARNING
    seen(monkeypatch, *[("A100", 80, 0, 8.0)] * 8, nccl="")
    assert by_check(doctor.gpus(params.load("llama2-7b")))["NCCL"].state == PROBLEM


def test_the_probe_runs_with_this_torch(monkeypatch) -> None:
    import torch

    monkeypatch.setattr(doctor, "PROBE_SECONDS", 120)
    assert len(doctor.probe()["gpus"]) == torch.cuda.device_count()


# ------------------------------------------------------------------------------------------------- disk and files


def test_the_disk_that_a_profile_fills(tmp_path: Path, monkeypatch) -> None:
    profile = changed("one-gpu", training__method="full", training__lora=None)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    run = Run(tmp_path / "run")
    parameters = 1.5437e9  # of Qwen2.5-1.5B
    stages = len(profile.lineages())
    needed = doctor.disk_needed(profile, run)
    assert needed["run folder"][1] == pytest.approx((4 * stages + 14 * 3) * parameters, rel=1e-3)
    assert needed["hub cache"] == (tmp_path / "hub", pytest.approx(2 * parameters, rel=0.05))
    run.model(1234, profile.lineages()[0]).mkdir(parents=True)
    assert doctor.disk_needed(profile, run)["run folder"][1] == pytest.approx(
        (4 * (stages - 1) + 14 * 3) * parameters, rel=1e-3
    )
    usage = type("Usage", (), {"free": 10 * GIB})
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda _: usage)
    found = by_check(doctor.disk(profile, run))["disk"]
    assert found.state == PROBLEM
    assert "10 GiB free for run folder, data cache, hub cache" in found.found


def test_memory_that_offloading_needs(monkeypatch) -> None:
    monkeypatch.setattr(doctor, "memory", lambda: 64 * GIB)
    offloading = changed("llama2-13b", training__deepspeed="deepspeed/zero3-offload.json")
    assert by_check(doctor.machine(offloading))["memory"].state == PROBLEM
    assert by_check(doctor.machine(params.load("mini")))["memory"].state == OK
    monkeypatch.setattr(doctor, "memory", lambda: 2 * GIB)
    assert by_check(doctor.machine(params.load("mini")))["memory"].state == WARNING


def test_files_that_a_profile_names(tmp_path: Path) -> None:
    profile = changed("smoke", run__hostfile=str(tmp_path / "hosts"))
    (found,) = doctor.files(profile)
    assert (found.state, "run.hostfile: no file" in found.found) == (PROBLEM, True)
    (tmp_path / "hosts").write_text("worker-1 slots=2\n", encoding="utf-8")
    found = by_check(doctor.files(profile))
    assert "(1 machines)" in found["files"].found
    assert found["launcher"].check == "launcher"
    gone = str(tmp_path / "gone")
    for change, said in (
        ({"systems__Theirs": {"predictions": gone}}, "systems.Theirs.predictions"),
        ({"evaluation__benchmarks": {"mine": {"max_new_tokens": 9, "folder": gone}}}, "gone is not there"),
        ({"data__corpora": {"mine": {"path": gone}}}, "gone is not there"),
    ):
        assert said in next(doctor.files(changed("smoke", **change))).found


# ------------------------------------------------------------------------------------------------- data and models


@pytest.fixture
def server(server):
    mgsm = read_lock().hub["mgsm"]
    first = next(iter(mgsm.files.values()))
    server.repositories = {
        f"datasets/{mgsm.repo_id}": Repository({first.path: b"x"}, commit=mgsm.revision or "c0ffee" + "0" * 34),
        "owner/open": Repository({"config.json": b"{}", "model.safetensors": b""}),
        "owner/pickles": Repository({"config.json": b"{}", "pytorch_model-00001-of-00002.bin": b""}),
        "owner/gated": Repository({"config.json": b"{}", "model.safetensors": b""}, token="hf_right"),
    }
    return server


def test_models_of_the_hub(server, monkeypatch, tmp_path: Path) -> None:
    def found(name: str, convert: bool = False) -> str:
        finding = doctor.model(name, None, convert)
        assert (finding.state == PROBLEM) == bool(finding.remedy)
        return f"{finding.found} → {finding.remedy}".removesuffix(" → ")

    assert found("owner/open") == "to fetch: readable, with weights"
    assert "pickles are not loaded" in found("owner/pickles")
    assert found("owner/pickles", convert=True) == "to fetch: readable, with weights"
    assert "the hub has no model owner/none" in found("owner/none")
    assert "no such folder with a config.json" in found("no-such-folder")
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    assert "owner/gated is gated → accept its terms at" in found("owner/gated")
    assert "hf auth login" in found("owner/gated")
    monkeypatch.setenv("HF_TOKEN", "hf_right")
    assert found("owner/gated") == "to fetch: readable, with weights"
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert "HF_HUB_OFFLINE is set" in found("owner/open")
    (tmp_path / "config.json").write_text("{}", encoding="utf-8")
    assert found(str(tmp_path)) == "is here"


def test_data_sets_of_the_hub_and_the_repository(server, monkeypatch, tmp_path: Path) -> None:
    profile, lock = params.load("llama2-7b"), read_lock()
    first = next(place for place, file in lock.hub["mgsm"].files.items())
    code = lock.hub["mgsm"].files[first].language
    assert doctor.data_set(profile, "mgsm", [code]).found == "1 of 1 files to fetch (hub): reachable"
    place = tmp_path / "cache" / "hub" / first
    place.parent.mkdir(parents=True)
    place.touch()
    assert doctor.data_set(profile, "mgsm", [code]).found.startswith("all 1 files are in")
    refused = doctor.data_set(profile, "questions", ["sw"])
    assert (refused.state, "answered 404" in refused.found) == (PROBLEM, True)
    monkeypatch.setenv("QALIGN_REPOSITORY_URL", "http://127.0.0.1:9")
    assert "127.0.0.1:9 cannot be reached" in doctor.data_set(profile, "questions", ["sw"]).found


def test_data_in_a_folder(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.delenv("QALIGN_DATA_DIR", raising=False)
    profile = params.load("real-input")
    assert doctor.data_set(profile, "mgsm", ["sw", "en"]).found == "no folder is named"
    monkeypatch.setenv("QALIGN_DATA_DIR", str(tmp_path))
    found = doctor.data_set(profile, "mgsm", ["sw", "en"]).found
    assert "mgsm_sw.tsv" in found
    assert found.endswith("and 1 more")
    (tmp_path / "mgsm").mkdir()
    for code in ("sw", "en"):
        (tmp_path / "mgsm" / f"mgsm_{code}.tsv").touch()
    assert doctor.data_set(profile, "mgsm", ["sw", "en"]).found == f"in {tmp_path}"


def test_bf16_that_would_be_emulated_is_a_problem(monkeypatch) -> None:
    monkeypatch.setattr("qalign_core.runs.has_native_bf16", lambda: False)
    found = by_check(doctor.machine(changed("mini", training__bf16=True)))["bf16"]
    assert (found.state, "training.bf16: false" in found.found) == (PROBLEM, True)


def test_every_shipped_profile_can_be_examined(server, monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    seen(monkeypatch)
    for path in sorted(PARAMS_FOLDER.glob("*.yaml")):
        if path.name != "data.lock.yaml":
            found = doctor.examine(path.stem, str(tmp_path / "run"))
            assert not [f for f in found if "the check failed" in f.found], path.name
            assert not [f for f in found if f.state != OK and not f.remedy], path.name
