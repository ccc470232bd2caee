"""`make doctor`: what it finds on this machine, and on machines that lack something; at most ten seconds."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from hub_server import HubServer, Repository

from qalign_core import doctor, params
from qalign_core.checks import machine_checks, profile_checks, source_checks
from qalign_core.checks.machine_checks import GIB, OK, PROBLEM, WARNING, Finding
from qalign_core.data.data_lock import read_lock
from qalign_core.params import PARAMS_FOLDER, Profile
from qalign_core.runs import Run
from qalign_core.shown import drawing

ROOT = PARAMS_FOLDER.parent
A100 = "0, NVIDIA A100-SXM4-80GB, 81920, 4, 570.86.10, 8.0"


def asked(*arguments: str, options: tuple[str, ...] = (), **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *options, "-m", "qalign_core.doctor", *arguments],
        cwd=ROOT,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": "", "COLUMNS": "200", **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


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


def profile_of(name: str, **sections: dict) -> Profile:
    """A shipped profile with some keys of its sections set otherwise."""
    content = yaml.safe_load((PARAMS_FOLDER / f"{name}.yaml").read_text(encoding="utf-8"))
    for section, keys in sections.items():
        content[section] = {**content[section], **keys}
    return params.validate(content)


def by_check(findings) -> dict[str, Finding]:
    return {finding.check: finding for finding in findings}


# ------------------------------------------------------------------------------------------------- the command


def test_this_machine_is_ready_for_smoke_and_nothing_is_written(tmp_path: Path) -> None:
    done = asked("smoke", "--run-dir", str(tmp_path / "run"), QALIGN_CACHE_DIR=str(tmp_path / "cache"))
    assert done.returncode == 0, done.stdout + done.stderr
    for words in ("profile smoke", "Python", "packages", "memory", "disk", "fonts of figures", "made here"):
        assert words in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_without_packages_it_says_so_and_goes_on() -> None:
    done = asked(options=("-S",))
    assert done.returncode == 1
    assert "✗ packages: missing: accelerate" in done.stdout
    assert "compiler" in done.stdout
    assert done.stderr == ""


def test_a_profile_that_is_not_there_is_a_problem(capsys) -> None:
    assert doctor.main(["lama2-7b"]) == 1
    assert "did you mean 'llama2-7b'?" in " ".join(capsys.readouterr().out.split())


def test_late_and_failing_checks_are_findings() -> None:
    def failing():
        raise RuntimeError("unforeseen")

    begun = time.monotonic()
    checks = {"slow": lambda: time.sleep(30), "failing": failing, "good": lambda: [Finding("good", OK, "is")]}
    slow, failed, good = doctor.run_checks(checks, 0.3)
    assert time.monotonic() - begun < 5
    assert (slow.check, slow.state) == ("slow", WARNING)
    assert (failed.state, failed.found) == (WARNING, "the check failed: RuntimeError: unforeseen")
    assert good == Finding("good", OK, "is")


def test_neighbours_that_say_the_same_are_shown_once() -> None:
    said = [Finding(f"model: {name}", PROBLEM, "gated", "log in") for name in "abc"]
    assert doctor.merged([*said, Finding("model: d", OK, "is here")]) == [
        Finding("model: a and 2 more", PROBLEM, "gated", "log in"),
        Finding("model: d", OK, "is here"),
    ]


# ------------------------------------------------------------------------------------------------- the machine


def test_an_old_python_and_other_packages(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(machine_checks, "NEEDED_PYTHON", (9, 9))
    assert machine_checks.python().state == PROBLEM
    pins = tmp_path / "requirements.txt"
    pins.write_text("# pins\nrich==0.0.1\nnumpy==0.1\n", encoding="utf-8")
    assert machine_checks.packages(pins).state == WARNING
    assert "(pinned: 0.0.1)" in machine_checks.packages(pins).found
    pins.write_text("rich==0.0.1\nno-such-package-here==1.0\n", encoding="utf-8")
    found = machine_checks.packages(pins)
    assert (found.state, found.found) == (PROBLEM, "missing: no-such-package-here")
    pins.write_text("rich>=0.0.1\n", encoding="utf-8")
    with pytest.raises(ValueError, match="line 1: expected name==version"):
        machine_checks.packages(pins)


def test_a_compiler_is_asked_for_by_offloading_alone(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert machine_checks.compilers(needed=False).state == OK
    assert machine_checks.compilers(needed=True).state == PROBLEM
    assert profile_checks.offloads(params.load("llama2-13b"))
    assert not profile_checks.offloads(params.load("mini"))


def test_fonts(tools: Path) -> None:
    program(tools, "fc-list", "ru|ja|th,en|zh-cn")
    figures, pages = machine_checks.fonts()
    assert figures.state == OK
    assert (pages.state, pages.found) == (WARNING, "no letters for bn")
    assert "apt install fonts-noto-core" in pages.remedy
    assert drawing._STYLE["font.family"] == "DejaVu Sans"
    assert machine_checks.FIGURE_FONT == "DejaVuSans.ttf"


def test_a_file_where_a_folder_should_be(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("", encoding="utf-8")
    assert machine_checks.writable("runs", tmp_path / "taken" / "runs").state == PROBLEM
    assert machine_checks.writable("cache", tmp_path / "taken", WARNING).state == WARNING
    assert machine_checks.writable("runs", tmp_path / "new" / "runs").state == OK
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]


# ------------------------------------------------------------------------------------------------- GPUs


def test_gpus_as_the_driver_tells_them(tools: Path, monkeypatch) -> None:
    program(tools, "nvidia-smi", f"{A100}\n{A100.replace('0,', '1,', 1)}")
    assert [(gpu.memory, gpu.capability) for gpu in machine_checks.gpus()] == [(80 * GIB, 8.0)] * 2
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert len(machine_checks.gpus()) == 1
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert machine_checks.gpus() == []
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    program(tools, "nvidia-smi", "Failed to initialize NVML: Driver/library version mismatch", code=18)
    (found,) = profile_checks.gpus(params.load("mini"))
    assert found.state == PROBLEM
    assert "version mismatch" in found.found


def test_no_gpu_is_a_problem_of_real_profiles_only(monkeypatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    for name, state in (("mini", OK), ("real-input", OK), ("llama2-7b", PROBLEM), ("checkpoints", PROBLEM)):
        (found,) = profile_checks.gpus(params.load(name))
        assert found.state == state, name


def test_too_few_small_busy_and_old_gpus(tools: Path, monkeypatch) -> None:
    monkeypatch.setattr(machine_checks, "torch_sees", lambda *_: [])
    program(tools, "nvidia-smi", "\n".join(f"{i}, Tesla T4, 15360, 9000, 570.86.10, 7.5" for i in range(4)))
    found = {(f.check, f.state): f for f in profile_checks.gpus(params.load("llama2-7b"))}
    few = found["GPU", PROBLEM]
    assert few.found == "4 × Tesla T4, 15 GiB; the profile needs 8"
    assert "run.devices: 4 and gradient_accumulation_steps: 16" in few.remedy
    assert "of 15 GiB a GPU" in found["GPU memory", PROBLEM].found
    assert "9 of 15 GiB in use" in found["GPU memory", WARNING].found
    assert ("bf16", WARNING) in found
    program(tools, "nvidia-smi", "\n".join(A100.replace("0", str(i), 1) for i in range(8)))
    assert [f.state for f in profile_checks.gpus(params.load("llama2-7b"))] == [OK, OK]


@pytest.mark.parametrize(
    ("build", "printed", "expected"),
    [
        (None, "", [("torch", PROBLEM)]),
        ("13.0", '{"available": false, "devices": 0, "nccl": "2.29"}', [("torch", PROBLEM)]),
        ("13.0", '{"available": true, "devices": 8, "nccl": ""}', [("torch", OK), ("NCCL", PROBLEM)]),
    ],
)
def test_torch_and_the_driver(build, printed, expected, monkeypatch) -> None:
    monkeypatch.setattr(machine_checks, "torch_build", lambda: build)
    monkeypatch.setattr(machine_checks, "PROBE", f"print('{printed}')")
    gpu = machine_checks.Gpu("A100", 80 * GIB, 0, "470.1", 8.0)
    assert [(f.check, f.state) for f in machine_checks.torch_sees([gpu], devices=8)] == expected


def test_small_shared_memory_is_warned_of(monkeypatch) -> None:
    monkeypatch.setattr(machine_checks, "SHARED_MEMORY", 2**62)
    assert machine_checks._nccl("2.29.3").state == WARNING
    monkeypatch.setattr(machine_checks, "SHARED_MEMORY", 0)
    assert machine_checks._nccl("2.29.3").state == OK


def test_the_probe_runs_with_this_torch() -> None:
    import torch

    assert machine_checks.torch_build() == torch.version.cuda
    done = subprocess.run(
        [sys.executable, "-c", machine_checks.PROBE], capture_output=True, text=True, timeout=120, check=True
    )
    assert '"available": ' in done.stdout


# ------------------------------------------------------------------------------------------------- disk and files


def test_the_disk_that_a_profile_fills(tmp_path: Path, monkeypatch) -> None:
    profile = profile_of("one-gpu", training={"method": "full", "lora": None})
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    run = Run(tmp_path / "run")
    parameters = 1.5437e9  # of Qwen2.5-1.5B
    stages = len(profile.lineages())
    needed = profile_checks.disk_needed(profile, run)
    assert needed["run folder"][1] == pytest.approx((4 * stages + 14 * 3) * parameters, rel=1e-3)
    assert needed["hub cache"] == (tmp_path / "hub", pytest.approx(2 * parameters, rel=1e-3))
    run.model(1234, profile.lineages()[0]).mkdir(parents=True)
    assert profile_checks.disk_needed(profile, run)["run folder"][1] == pytest.approx(
        (4 * (stages - 1) + 14 * 3) * parameters, rel=1e-3
    )
    usage = type("Usage", (), {"free": 10 * GIB})
    monkeypatch.setattr(profile_checks.shutil, "disk_usage", lambda _: usage)
    found = by_check(profile_checks.disk(profile, run))["disk"]
    assert found.state == PROBLEM
    assert "10 GiB free for run folder, data cache, hub cache" in found.found


def test_sizes_in_names() -> None:
    names = {"QAlign-MetaMathQA-7B": 7e9, "gsm8k-rft-llama13b2-u13b": 13e9, "Qwen2.5-1.5B": 1.5e9, "plain": 0}
    assert {name: profile_checks._billions(name) for name in names} == names


def test_memory_that_offloading_needs(monkeypatch) -> None:
    monkeypatch.setattr(machine_checks, "memory", lambda: 64 * GIB)
    assert by_check(profile_checks.machine(params.load("llama2-13b")))["memory"].state == PROBLEM
    assert by_check(profile_checks.machine(params.load("mini")))["memory"].state == OK
    monkeypatch.setattr(machine_checks, "memory", lambda: 2 * GIB)
    assert by_check(profile_checks.machine(params.load("mini")))["memory"].state == WARNING


def test_files_that_a_profile_names(tmp_path: Path) -> None:
    profile = profile_of("smoke", run={"hostfile": str(tmp_path / "hosts")})
    (found,) = profile_checks.files(profile)
    assert (found.state, "run.hostfile: no file" in found.found) == (PROBLEM, True)
    (tmp_path / "hosts").write_text("worker-1 slots=2\n", encoding="utf-8")
    found = by_check(profile_checks.files(profile))
    assert "(1 machines)" in found["files"].found
    assert found["launcher"].check == "launcher"
    theirs = {"Theirs": {"predictions": str(tmp_path / "no-such-folder")}}
    assert "systems.Theirs.predictions" in next(profile_checks.files(profile_of("smoke", systems=theirs))).found
    for section, keys in (
        ("evaluation", {"benchmarks": {"mine": {"max_new_tokens": 9, "folder": str(tmp_path / "gone")}}}),
        ("data", {"corpora": {"mine": {"path": str(tmp_path / "gone")}}}),
    ):
        assert "gone is not there" in next(profile_checks.files(profile_of("smoke", **{section: keys}))).found


# ------------------------------------------------------------------------------------------------- data and models


@pytest.fixture
def server(monkeypatch, tmp_path):
    with HubServer() as hub:
        lock = read_lock()
        mgsm, first = lock.hub["mgsm"], next(iter(lock.hub["mgsm"].files.values()))
        hub.repositories = {
            f"datasets/{mgsm.repo_id}": Repository({first.path: b"x"}, commit=mgsm.revision or "c0ffee" + "0" * 34),
            "owner/open": Repository({"config.json": b"{}"}),
            "owner/gated": Repository({"config.json": b"{}"}, token="hf_right"),
        }
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        monkeypatch.setenv("HF_TOKEN_PATH", str(tmp_path / "no-token"))
        monkeypatch.setenv("QALIGN_CACHE_DIR", str(tmp_path / "cache"))
        monkeypatch.setenv("QALIGN_REPOSITORY_URL", f"{hub.url}/raw")
        for variable in ("HF_TOKEN", "HF_HUB_OFFLINE"):
            monkeypatch.delenv(variable, raising=False)
        yield hub


def test_models_of_the_hub(server, monkeypatch, tmp_path: Path) -> None:
    def found(name: str) -> Finding:
        return next(source_checks.hub_model(name, None))

    assert found("owner/open").state == OK
    assert found("owner/none").state == PROBLEM
    assert found("no-such-folder").found == "no such folder with a config.json"
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    gated = found("owner/gated")
    assert (gated.state, "nobody is logged in" in gated.found, "hf auth login" in gated.remedy) == (PROBLEM, True, True)
    monkeypatch.setattr("huggingface_hub.get_token", lambda: "hf_wrong")
    assert "has not been granted access" in found("owner/gated").found
    monkeypatch.setattr("huggingface_hub.get_token", lambda: "hf_right")
    assert found("owner/gated").state == OK
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert "HF_HUB_OFFLINE is set" in found("owner/open").found
    (tmp_path / "config.json").write_text("{}", encoding="utf-8")
    assert found(str(tmp_path)) == Finding(f"model: {tmp_path}", OK, "is here")


def test_data_sets_of_the_hub_and_the_repository(server, monkeypatch, tmp_path: Path) -> None:
    profile, lock = params.load("llama2-7b"), read_lock()
    first = next(place for place, file in lock.hub["mgsm"].files.items())
    code = lock.hub["mgsm"].files[first].language
    (found,) = source_checks.data_set(profile, "mgsm", [code])
    assert (found.state, found.found) == (OK, "1 of 1 files to fetch (hub): reachable")
    place = tmp_path / "cache" / "hub" / first
    place.parent.mkdir(parents=True)
    place.touch()
    (found,) = source_checks.data_set(profile, "mgsm", [code])
    assert found.found.startswith("all 1 files are in")
    (found,) = source_checks.data_set(profile, "questions", ["sw"])
    assert (found.state, "404" in found.found) == (PROBLEM, True)
    monkeypatch.setenv("QALIGN_REPOSITORY_URL", "http://127.0.0.1:9")
    (found,) = source_checks.data_set(profile, "questions", ["sw"])
    assert "127.0.0.1:9 cannot be reached" in found.found


def test_data_in_a_folder(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.delenv("QALIGN_DATA_DIR", raising=False)
    profile = params.load("real-input")
    assert next(source_checks.data_set(profile, "mgsm", ["sw", "en"])).found == "no folder is named"
    monkeypatch.setenv("QALIGN_DATA_DIR", str(tmp_path))
    found = next(source_checks.data_set(profile, "mgsm", ["sw", "en"]))
    assert "mgsm_sw.tsv" in found.found
    assert found.found.endswith("and 1 more")
    (tmp_path / "mgsm").mkdir()
    for code in ("sw", "en"):
        (tmp_path / "mgsm" / f"mgsm_{code}.tsv").touch()
    assert next(source_checks.data_set(profile, "mgsm", ["sw", "en"])).state == OK


def test_every_shipped_profile_can_be_examined(server, monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    for path in sorted(PARAMS_FOLDER.glob("*.yaml")):
        if path.name != "data.lock.yaml":
            found = doctor.examine(path.stem, str(tmp_path / "run"))
            assert not [f for f in found if "the check failed" in f.found], path.name
            assert not [f for f in found if f.state != OK and not f.remedy], path.name
