"""Run folders: files are whole or absent, fingerprints are of content, and a killed parent takes its children along."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from qalign_core import runs
from qalign_core.runs import Run

# ------------------------------------------------------------------------------------------------- files

WRITER = """
import sys
from qalign_core import runs
size = 200_000
print("ready", flush=True)
generation = 0
while True:
    generation += 1
    runs.write_json(sys.argv[1], {"generation": generation, "text": str(generation % 10) * size})
"""


def test_a_reader_never_sees_half_a_file_however_its_writer_dies(tmp_path: Path):
    chance = random.Random(1)
    path = tmp_path / "state.json"
    seen = set()
    for _ in range(6):
        writer = subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE)
        writer.stdout.readline()
        deadline = time.monotonic() + 0.1 + chance.random() / 5
        while time.monotonic() < deadline:
            seen.add(whole(path))
        writer.kill()
        writer.wait()
        writer.stdout.close()
        seen.add(whole(path))
    assert len(seen) > 6  # the file did change under the reader


def whole(path: Path) -> int:
    """The generation of the file, which must be complete (0 before the first)."""
    if not path.exists():
        return 0
    state = json.loads(path.read_text(encoding="utf-8"))
    assert state["text"] == str(state["generation"] % 10) * 200_000
    return state["generation"]


def test_an_unwritable_value_or_a_full_disk_leaves_the_old_file_and_nothing_else(tmp_path: Path, monkeypatch):
    def no_space(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    path = runs.write_json(tmp_path / "a" / "done.json", {"x": 1})
    for wrong in (float("nan"), object()):
        with pytest.raises((ValueError, TypeError)):
            runs.write_json(path, {"x": wrong})
    monkeypatch.setattr(os, "fsync", no_space)
    with pytest.raises(OSError, match="No space left"):
        runs.write_json(path, {"x": 2})
    assert runs.read_json(path) == {"x": 1}
    assert [p.name for p in path.parent.iterdir()] == ["done.json"]


def test_a_last_line_that_a_full_disk_cut_short_is_taken_off(tmp_path: Path):
    path = tmp_path / "progress.jsonl"
    runs.mend_lines(path)
    assert not path.exists()
    for torn, whole in (('{"step": 1}\n{"step": 2}\n{"st', 2), ('{"step": 1}\n', 1), ('{"st', 0), ("", 0)):
        path.write_text(torn)
        runs.mend_lines(path)
        assert [row["step"] for row in runs.read_json_lines(path)] == list(range(1, whole + 1))


def test_a_tree_is_flushed_before_it_is_declared_finished(tmp_path: Path, monkeypatch):
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "weights").write_text("x")
    (tmp_path / "a" / "c").write_text("x")
    flushed: list[str] = []
    monkeypatch.setattr(os, "fsync", lambda number: flushed.append(os.readlink(f"/proc/self/fd/{number}")))
    runs.sync_tree(tmp_path / "a")
    assert {Path(path).name for path in flushed} == {"weights", "b", "c", "a"}
    assert flushed.index(str(tmp_path / "a" / "b" / "weights")) < flushed.index(str(tmp_path / "a" / "b"))
    assert flushed[-1] == str(tmp_path / "a")


def test_a_file_is_flushed_then_renamed_then_its_folder_is_flushed(tmp_path: Path, monkeypatch):
    happened, replace = [], Path.replace
    monkeypatch.setattr(os, "fsync", lambda number: happened.append("flush"))
    monkeypatch.setattr(Path, "replace", lambda path, to: (happened.append("rename"), replace(path, to)))
    runs.write_json(tmp_path / "done.json", {})
    assert happened == ["flush", "rename", "flush"]


def test_text_bytes_and_rows_come_back_as_they_were(tmp_path: Path):
    rows = [{"text": 'বাংলা ไทย 日本語\u2028 "quoted" \\ \r\n\t'}, {"number": 1.5, "nothing": None}]
    assert runs.read_json_lines(runs.write_json_lines(tmp_path / "rows.jsonl", rows)) == rows
    assert "বাংলা" in (tmp_path / "rows.jsonl").read_text(encoding="utf-8")
    assert runs.write_atomic(tmp_path / "b", b"\x00\xff").read_bytes() == b"\x00\xff"
    assert runs.read_json_lines(runs.write_json_lines(tmp_path / "none.jsonl", [])) == []


def test_broken_json_is_named_by_file_and_line(tmp_path: Path):
    path = tmp_path / "x.json"
    path.write_text('{"a": 1,\n"b": }\n')
    with pytest.raises(ValueError, match=r"x\.json: line 2: not JSON .*delete or repair"):
        runs.read_json(path)
    path.write_bytes(b'{"a": "\xff"}')
    with pytest.raises(ValueError, match=r"x\.json: line 1: not UTF-8"):
        runs.read_json(path)
    for text, said in (
        ("[" * 10**5, "line 1: not JSON"),
        ("9" * 5000, "line 1: not JSON"),
        ("[]", "not a JSON object"),
    ):
        path.write_text(text)
        with pytest.raises(runs.BadRow, match=rf"x\.json: {said} .*delete or repair"):
            runs.read_object(path)
    path.write_text('{"a": 1}\n{"a": \n')
    with pytest.raises(ValueError, match=r"x\.json: line 2: not JSON"):
        runs.read_json_lines(path)


def test_sha256_is_the_one_of_the_standard_and_of_every_file_below(tmp_path: Path):
    (tmp_path / "model" / "deep").mkdir(parents=True)
    (tmp_path / "model" / "b").write_bytes(b"abc")
    (tmp_path / "model" / "deep" / "a").write_bytes(b"")
    assert runs.sha256_tree(tmp_path / "model") == {
        "b": "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
        "deep/a": "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    }


# ------------------------------------------------------------------------------------------------- fingerprints


def test_a_fingerprint_is_of_content_and_not_of_the_order_of_keys():
    first = {"a": 1, "b": {"x": [1, 2], "y": "ไทย"}}
    assert runs.fingerprint(first) == runs.fingerprint({"b": {"y": "ไทย", "x": [1, 2]}, "a": 1})
    values = [{"a": 1}, {"a": 2}, {"a": "1"}, {"a": None}, {"b": 1}, {"a": [1, 2]}, {"a": [2, 1]}, {"a": True}, {}, []]
    assert len({runs.fingerprint(value) for value in values}) == len(values)


def test_a_fingerprint_outlives_its_process():
    code = "from qalign_core import runs; print(runs.fingerprint({'b': 2e-5, 'a': ['é', None]}))"
    expected = runs.fingerprint({"a": ["é", None], "b": 0.00002})
    for seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
        assert done.stdout.strip() == expected


# ------------------------------------------------------------------------------------------------- folders


def test_a_models_place_is_its_lineage(tmp_path: Path):
    run = Run(tmp_path)
    assert run.relative(run.model(1, [])) == "models/seed-1/base/model"
    assert run.relative(run.model(2, ["questions-x-en", "metamathqa"])) == (
        "models/seed-2/base/questions-x-en/metamathqa/model"
    )
    assert run.relative("/elsewhere/model") == "/elsewhere/model"


def test_checkpoints_whose_names_differ_in_punctuation_only_have_their_own_folders(tmp_path: Path):
    systems = [
        "QAlign 7B",
        "QAlign-7B",
        "QAlign/7B",
        "qalign 7b",
        "QAlign 7B ",
        ".QAlign 7B",
        "→",
        "←",
        "." * 300,
        "../..",
    ]
    folders = [Run(tmp_path).checkpoint_predictions(system) for system in systems]
    assert {Path(os.path.normpath(folder)).parent for folder in folders} == {tmp_path / "predictions" / "checkpoints"}
    names = [folder.name for folder in folders]
    assert not any(name.startswith((".", "-")) for name in names)
    assert len({name.lower() for name in names}) == len(systems)
    assert all(name.lower().startswith("qalign-7b-") for name in names[:6])
    assert names == [Run("/elsewhere").checkpoint_predictions(system).name for system in systems]
    assert max(map(len, names)) < 64


def test_a_jobs_root_is_the_nearest_folder_with_a_profile(tmp_path: Path):
    job = tmp_path / "run" / "models" / "seed-1" / "base" / "gsm8k" / "job.json"
    job.parent.mkdir(parents=True)
    assert runs.run_root(job) == job.parent
    (tmp_path / "profile.yaml").write_text("")
    assert runs.run_root(job) == tmp_path
    (tmp_path / "run" / "profile.yaml").write_text("")
    assert runs.run_root(job) == tmp_path / "run"


def test_a_job_is_done_only_with_its_own_fingerprint(tmp_path: Path):
    job, done = tmp_path / "job.json", tmp_path / "done.json"
    assert not runs.is_done(job)
    runs.write_json(done, {"fingerprint": "a"})
    assert not runs.is_done(job)
    runs.write_json(job, {"fingerprint": "b"})
    assert not runs.is_done(job)
    runs.write_json(job, {"fingerprint": "a"})
    assert runs.is_done(job)
    runs.write_json(job, {})
    runs.write_json(done, {})
    assert not runs.is_done(job)  # two absent fingerprints do not match


def test_provenance_says_what_decides_results():
    found = runs.versions()
    assert found["python"] == ".".join(map(str, sys.version_info[:3]))
    assert all(found[package] != "not installed" for package in ("torch", "transformers", "deepspeed", "qalign-core"))
    assert runs.hardware()["memory_bytes"] > 2**28


# ------------------------------------------------------------------------------------------------- lifeline

CHILD = """
from pathlib import Path
from qalign_core import train
print("watching", flush=True)
train.watch(Path("no-beats"), None, interval=0.2)
"""


def watching_child(lifeline: str) -> subprocess.Popen:
    environment, pipe = {**os.environ, runs.LIFELINE: lifeline}, subprocess.PIPE
    child = subprocess.Popen([sys.executable, "-c", CHILD], env=environment, stdout=pipe, stderr=pipe, text=True)
    child.said = child.stdout.readline().strip()
    return child


def test_a_child_ends_soon_after_the_parent_it_watches_was_killed():
    code = "import time; from qalign_core import runs; print(runs.lifeline(), flush=True); time.sleep(60)"
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    with watching_child(parent.stdout.readline().strip()) as child, parent:
        assert child.said == "watching"
        time.sleep(0.6)
        assert child.poll() is None
        parent.kill()  # not yet reaped: a zombie counts as dead
        assert child.wait(timeout=5) == 3
        assert f"(pid {parent.pid}) is gone: stopping" in child.stderr.read()


def test_a_reused_process_number_is_not_mistaken_for_the_parent():
    pid, created, host = runs.lifeline().split(":", 2)
    with watching_child(f"{pid}:{float(created) - 60}:{host}") as child:
        assert child.wait(timeout=5) == 3


def test_a_process_number_of_another_machine_is_not_watched(monkeypatch: pytest.MonkeyPatch):
    for lifeline in ("999999999:1.0:some-other-host", ""):  # nor where there is none
        monkeypatch.setenv(runs.LIFELINE, lifeline)
        assert runs.starter_lives()


def test_a_jobs_commit_reads_no_notebook_through_its_filter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a fresh clone nbstripout would read them all, at the end of every job."""
    root, clone, seen = Path(runs.__file__).parents[1], tmp_path / "clone", tmp_path / "seen"
    if not (root / ".git").exists():
        pytest.skip("this is no git checkout")
    subprocess.run(["git", "clone", "-q", str(root), str(clone)], check=True)
    subprocess.run(["git", "config", "filter.nbstripout.clean", f"touch {seen}; cat"], cwd=clone, check=True)
    monkeypatch.setattr(runs, "__file__", str(clone / "qalign_core" / "runs.py"))
    commit = runs.git_commit()
    assert len(commit or "") == 40
    assert not seen.exists()
    (clone / "params" / "mini.yaml").write_text("", encoding="utf-8")
    assert runs.git_commit() == f"{commit}+changes"
