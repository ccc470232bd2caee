"""The whole road: `python -m qalign_core.reproduce` on the smoke profile, again, and on real input."""

from __future__ import annotations

import html
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pandas as pd
import pytest
import torch
from forked_training import wait_for
from rich.console import Console
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from qalign_core import cost, launch, params, plan, prepare, reproduce, runs
from qalign_core.languages import CODES
from qalign_core.miniature.folder import benchmark_problems
from qalign_core.miniature.language import question
from qalign_core.params import PARAMS_FOLDER
from qalign_core.runs import Run

ROOT = PARAMS_FOLDER.parent


def run_reproduce(
    *arguments: str, cache: Path, timeout: int = 900, **environment: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "qalign_core.reproduce", *arguments],
        cwd=ROOT,
        env={**os.environ, "QALIGN_CACHE_DIR": str(cache), "COLUMNS": "160", **environment},
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home folder of somebody new, with a folder for temporary files in it."""
    folder = tmp_path_factory.mktemp("home")
    (folder / "tmp").mkdir()
    return folder


@pytest.fixture(scope="session")
def smoke(
    tmp_path_factory: pytest.TempPathFactory, cache: Path, home: Path
) -> tuple[Run, subprocess.CompletedProcess[str]]:
    """A finished run of profile `smoke` and what the command printed."""
    folder = tmp_path_factory.mktemp("runs") / "smoke"
    places = {"HOME": str(home), "TMPDIR": str(home / "tmp")}
    places |= {f"XDG_{kind}_HOME": str(home / kind) for kind in ("CACHE", "CONFIG", "DATA", "STATE")}
    done = run_reproduce("smoke", "--run-dir", str(folder), cache=cache, **places)
    assert done.returncode == 0, done.stdout + done.stderr
    return Run(folder), done


def test_smoke_ends_with_tables_and_paths(smoke: tuple[Run, subprocess.CompletedProcess[str]]) -> None:
    run, done = smoke
    for words in ("Table 2", "Table 3", "QAlign", "MonoReason", "report/index.html"):
        assert words in done.stdout, done.stdout
    accuracy = pd.read_csv(run.results / "accuracy.csv")
    columns = ["system", "seed", "benchmark", "language", "scorer", "correct", "total", "accuracy"]
    assert list(accuracy.columns) == columns
    profile = params.load("smoke")
    systems, benchmarks = profile.in_chapter(ablations=False), profile.evaluation.benchmarks
    assert len(accuracy) == len(systems) * len(benchmarks) * len(CODES) * 2  # two scorers
    assert (accuracy.total == 4).all()
    assert (accuracy.accuracy == 100 * accuracy.correct / accuracy.total).all()


def test_nothing_is_written_outside_of_the_run_folder_and_the_cache(
    smoke: tuple[Run, subprocess.CompletedProcess[str]], home: Path
) -> None:
    written = [path.relative_to(home).as_posix() for path in home.rglob("*") if path.is_file()]
    assert written == []
    assert {path.name for path in home.iterdir()} == {"tmp"}
    beside = {path.name for folder in ("notebooks", "params") for path in (ROOT / folder).iterdir()}
    assert not beside & {".ipynb_checkpoints", "runs"}


def test_every_number_can_be_traced(smoke: tuple[Run, subprocess.CompletedProcess[str]]) -> None:
    run, _ = smoke
    profile = params.load("smoke")
    for lineage in profile.lineages():
        job = plan.stage_job(profile, run, 1, lineage)
        assert job.done
        done = json.loads((job.folder / "done.json").read_text())
        assert {"fingerprint", "metrics", "files", "versions", "hardware", "wall_seconds"} <= done.keys()
    for system in profile.systems:
        job = plan.prediction_job(profile, run, system, 1)
        assert job.done
        assert len((job.folder / "mgsm" / "bn.jsonl").read_text().splitlines()) == 4


def test_every_answer_is_that_of_decoding_alone(smoke: tuple[Run, subprocess.CompletedProcess[str]]) -> None:
    """In fp32 a question asked alone, with `generate` of transformers, gets the text that it got in the batches of two
    ranks: every question of every system."""
    run, _ = smoke
    profile = params.load("smoke")
    for system in profile.in_chapter(ablations=False):
        job = plan.prediction_job(profile, run, system, 1)
        folder = runs.resolve(job.content["model"]["path"], run.folder)
        model, tokenizer = AutoModelForCausalLM.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
        assert model.dtype == torch.float32
        for task in job.content["tasks"]:
            config = GenerationConfig(
                do_sample=False,
                max_new_tokens=task["max_new_tokens"],
                eos_token_id=tokenizer.eos_token_id,
                pad_token_id=tokenizer.pad_token_id,
            )
            answers = runs.read_json_lines(job.folder / task["name"] / f"{task['language']}.jsonl")
            assert len(answers) == 4
            for row in answers:
                asked = tokenizer(row["prompt"], return_tensors="pt")  # (1, P)
                output = model.generate(**asked, generation_config=config)[0, asked["input_ids"].shape[1] :]
                assert row["response"] == tokenizer.decode(output, skip_special_tokens=True), (system, task, row)


def test_notebooks_are_executed_and_pages_are_self_contained(
    smoke: tuple[Run, subprocess.CompletedProcess[str]],
) -> None:
    run, _ = smoke
    pages = sorted(run.report.glob("*.html"))
    assert [page.name[:2] for page in pages] == ["01", "02", "03", "04", "05", "06", "in"]
    for page in pages:
        text = page.read_text(encoding="utf-8")
        assert "<script" not in text
        assert not re.search(
            r"""(src|srcset|data|poster)\s*=\s*["']?https?:|<link|@import|url\(\s*["']?https?:""", text
        )
    samples = pages[0].read_text(encoding="utf-8")
    first = benchmark_problems("mgsm", 1)[0]
    assert all(html.escape(question(first, code)) in samples for code in CODES)  # all ten scripts
    executed = nbformat.read(run.notebooks / "04_evaluation.ipynb", as_version=4)
    assert all(cell.execution_count for cell in executed.cells if cell.cell_type == "code")
    shown = json.dumps(executed, ensure_ascii=False)
    assert "Table 2" in shown
    assert "Table 3" in shown
    for name in ("figure-1-framework", "figure-3-consistency", "chapter-5-map", "chapter-5-solved"):
        assert (run.figures / f"{name}.svg").is_file()


def test_the_last_chapter_trains_its_own_systems_and_looks_inside_the_models(
    smoke: tuple[Run, subprocess.CompletedProcess[str]],
) -> None:
    run, _ = smoke
    table = pd.read_csv(run.figures / "table-4-ablation.csv")
    assert set(table["system"]) == {"MonoReason", "QAlign", "X→En FLORES"}
    assert table.query("system == 'X→En FLORES'")["to_ours"].notna().all()
    inside = pd.read_csv(run.results / "representations.csv")
    assert list(inside["model"].unique()) == ["base", "MonoReason", "QAlign"]
    assert set(inside.loc[inside["set"] == "mgsm", "language"]) == set(CODES) - {"en"}
    assert inside["retrieval"].between(0, 100).all()
    for name in ("figure-ablation", "chapter-6-layers", "figure-representations-plane"):
        assert (run.figures / f"{name}.svg").is_file()


def test_a_second_run_does_nothing_and_says_so(
    smoke: tuple[Run, subprocess.CompletedProcess[str]], cache: Path
) -> None:
    run, _ = smoke
    before = {path: path.stat().st_mtime_ns for path in run.folder.rglob("done.json")}
    begun = time.monotonic()
    done = run_reproduce("smoke", "--run-dir", str(run.folder), cache=cache)
    assert done.returncode == 0, done.stdout
    assert done.stdout.count("already done") == 6
    assert "Table 2" in done.stdout
    assert before == {path: path.stat().st_mtime_ns for path in run.folder.rglob("done.json")}
    assert time.monotonic() - begun < 60


def test_a_notebook_runs_alone_by_papermill(
    smoke: tuple[Run, subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    folder = shutil.copytree(smoke[0].folder, tmp_path / "moved")  # a run folder can be moved and continued
    command = ["notebooks/04_evaluation.ipynb", str(tmp_path / "out.ipynb"), "-f", "params/smoke.yaml"]
    done = subprocess.run(
        [sys.executable, "-m", "papermill", *command, "--no-progress-bar"],
        cwd=ROOT,
        env={**os.environ, plan.RUN_FOLDER: str(folder)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "unknown parameter" not in done.stderr.lower()
    assert "Table 2" in (tmp_path / "out.ipynb").read_text(encoding="utf-8")


@pytest.mark.slow
def test_a_run_that_was_moved_with_its_cache_goes_on_elsewhere(
    smoke: tuple[Run, subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    """Chapters 1 and 2 on one machine, the others on another: nothing is trained again, the results are the same."""
    here, there = tmp_path / "here", tmp_path / "there"
    done = run_reproduce("smoke", "--only", "01", "02", "--run-dir", str(here / "run"), cache=here / "cache")
    assert done.returncode == 0, done.stdout + done.stderr
    here.rename(there)
    first = there / "run" / "models" / "seed-1" / "base" / "questions-x-en"
    before = (first / "done.json").read_bytes()
    done = run_reproduce("smoke", "--run-dir", str(there / "run"), cache=there / "cache")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("already done") == 2
    assert (first / "done.json").read_bytes() == before
    for name in ("accuracy.csv", "agreement.csv", "ablations.csv", "training.csv"):
        assert (there / "run" / "results" / name).read_bytes() == (smoke[0].results / name).read_bytes(), name
    left = [path for path in there.rglob("*.json") if str(here) in path.read_text(encoding="utf-8")]
    assert left == []


def test_dry_run_changes_nothing_and_tells_what_is_done(
    smoke: tuple[Run, subprocess.CompletedProcess[str]], cache: Path
) -> None:
    run, _ = smoke
    done = run_reproduce("smoke", "--dry-run", "--run-dir", str(run.folder), cache=cache)
    assert done.returncode == 0
    assert "to do" not in done.stdout, done.stdout
    assert "questions-x-en → metamathqa" in done.stdout


def test_a_failing_cell_is_shown_and_the_exit_code_is_not_zero(tmp_path: Path, cache: Path) -> None:
    done = run_reproduce("smoke", "--only", "03", "--run-dir", str(tmp_path / "empty"), cache=cache)
    assert done.returncode == 1
    assert "run notebook 01 (data preparation) first" in done.stdout


KERNEL = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
INTERRUPTED = """
import sys
from pathlib import Path
from qalign_core import reproduce

reproduce.NOTEBOOKS_FOLDER = Path(sys.argv[1])
reproduce.leave(reproduce.main(["smoke", "--only", "01", "--run-dir", sys.argv[2]]))
"""


def test_an_interrupt_is_one_sentence(tmp_path: Path) -> None:
    ready = tmp_path / "ready"
    code = f"import os, pathlib, time\nos.write(2, b'noise')\npathlib.Path({str(ready)!r}).touch()\ntime.sleep(100)"
    cells = [nbformat.v4.new_code_cell("x = None", metadata={"tags": ["parameters"]}), nbformat.v4.new_code_cell(code)]
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=KERNEL), tmp_path / "01_waits.ipynb")
    line = [sys.executable, "-c", INTERRUPTED, str(tmp_path), str(tmp_path / "run")]
    with subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT) as process:
        wait_for(lambda: ready.exists() or process.poll() is not None, 300)
        process.send_signal(signal.SIGINT)
        said, noise = process.communicate(timeout=100)
    assert process.returncode == 130
    path, *said = said.strip().split("\n\n")  # the path takes a second line where it is long
    assert path.replace("\n", "") == f"smoke → {tmp_path / 'run'}"
    assert said == ["interrupted; what is finished is kept. Run the same command to go on."]
    assert noise == ""


def test_the_clock_runs_while_jobs_follow_each_other(tmp_path: Path) -> None:
    console, run = Console(file=io.StringIO(), force_terminal=True, width=80), Run(tmp_path)
    with reproduce.watch("02_stage1", run, console):
        for job in ("first", "second"):
            state = {"time": time.time(), "phase": "training", "step": 5, "total_steps": 5}
            runs.write_json_lines(tmp_path / "models" / job / "progress.jsonl", [state])
            runs.write_json(tmp_path / launch.CURRENT, {"job": f"models/{job}/job.json", "since": 0})
            time.sleep(1.3)
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    for words in ("02_stage1  0 s", "02_stage1  2 s  job 2", "models/first · training · 5/5", "models/second"):
        assert words in shown


def test_a_chapters_line_says_which_of_its_stages_is_trained(tmp_path: Path) -> None:
    profile, run = params.load("smoke"), Run(tmp_path)
    stages = [reproduce.to_train(profile, run, chapter) for chapter in ("02", "03", "06")]
    base = "models/seed-1/base"
    assert stages[:2] == [[f"{base}/questions-x-en"], [f"{base}/metamathqa", f"{base}/questions-x-en/metamathqa"]]
    assert stages[2] == [f"{base}/flores-x-en", f"{base}/flores-x-en/metamathqa"]
    runs.write_json(tmp_path / launch.CURRENT, {"job": f"{stages[1][1]}/job.json", "since": 0})
    console = Console(file=io.StringIO(), force_terminal=True, width=80)
    with reproduce.watch("03_stage2", run, console, stages[1]):
        time.sleep(0.5)
    assert "  stage 2 of 2" in console.file.getvalue()  # type: ignore[attr-defined]


def test_the_time_left_is_the_last_to_go_on_a_narrow_terminal() -> None:
    console = Console(file=io.StringIO(), width=80)
    state = {"phase": "training", "step": 1200, "total_steps": 9258, "loss": 0.5, "seconds_left": 3725}
    console.print(reproduce.job_line("questions-x-en/metamathqa", {**state, "tokens_per_second": 12345.6}, 80))
    (line,) = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert line.rstrip().endswith(" 1:02:05 left · questions-x-en/metamathqa · training")  # nothing cut inside a number
    assert len(line) <= 80


def test_a_kernel_that_dies_is_a_failure_in_words(tmp_path: Path, monkeypatch, capsys) -> None:
    before = tmp_path / "run" / "notebooks" / "01_dies.ipynb"
    before.parent.mkdir(parents=True)
    before.write_text("executed before")
    cells = [nbformat.v4.new_code_cell("x = None", metadata={"tags": ["parameters"]})]
    said = "import os, signal\nos.write(2, b'last words of a library\\n')\nos.kill(os.getpid(), signal.SIGKILL)"
    cells += [nbformat.v4.new_code_cell(said)]
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=KERNEL), tmp_path / "01_dies.ipynb")
    monkeypatch.setattr(reproduce, "NOTEBOOKS_FOLDER", tmp_path)
    assert reproduce.main(["smoke", "--only", "01", "--run-dir", str(tmp_path / "run")]) == 1
    said = capsys.readouterr().out
    assert "The notebook's kernel died" in said
    assert "last words of a library" in said.partition("The last lines its kernel wrote")[2]
    assert "01_dies" in said
    monkeypatch.setattr(cost, "measure", lambda *_: cost.Speed(1e4, 1e4, 5.0))
    assert before.read_text() == "executed before"
    assert "os.kill" in (before.parent / "unfinished" / "01_dies.ipynb").read_text()
    assert reproduce.main(["smoke", "--only", "01", "--dry-run", "--run-dir", str(tmp_path / "run")]) == 0
    assert "to do  notebook   01_dies  (not executed yet)" in capsys.readouterr().out


def test_bad_profile_stops_before_anything_runs(tmp_path: Path, cache: Path) -> None:
    text = (PARAMS_FOLDER / "smoke.yaml").read_text().replace("learning_rate: 1.0e-3", "learning_rat: 1.0e-3")
    profile = tmp_path / "bad.yaml"
    profile.write_text(text)
    done = run_reproduce(str(profile), "--run-dir", str(tmp_path / "run"), cache=cache)
    assert done.returncode == 2
    assert "did you mean 'learning_rate'?" in done.stdout
    assert not (tmp_path / "run").exists()


def test_an_empty_run_folder_is_refused_and_is_not_the_profiles_own(capsys) -> None:
    for empty in ("", " "):
        with pytest.raises(SystemExit):
            reproduce.main(["smoke", "--dry-run", "--run-dir", empty])
        assert "--run-dir: is empty; name a folder, or leave the option out" in capsys.readouterr().err


@pytest.mark.parametrize("content", [None, "{", "[]"])
def test_a_deepspeed_file_of_no_use_stops_before_anything_runs(tmp_path: Path, capsys, content: str | None) -> None:
    configuration = tmp_path / "zero.json"
    if content:
        configuration.write_text(content, encoding="utf-8")
    text = (PARAMS_FOLDER / "smoke.yaml").read_text(encoding="utf-8")
    before = "deepspeed: deepspeed/zero2.json"
    assert text.count(before) == 1
    profile = tmp_path / "mine.yaml"
    profile.write_text(text.replace(before, f"deepspeed: {configuration}"), encoding="utf-8")
    assert reproduce.main([str(profile), "--run-dir", str(tmp_path / "run")]) == 2
    said = capsys.readouterr().out.replace("\n", "")
    assert str(configuration) in said
    assert {None: "training.deepspeed: no file", "{": "line 1: not JSON", "[]": "not a JSON object"}[content] in said
    assert not (tmp_path / "run").exists()


def test_select_refuses_an_unknown_notebook() -> None:
    profile = params.load("smoke")
    assert [path.name[:2] for path in reproduce.select(profile, ["04"], None)] == ["04"]
    assert [path.name[:2] for path in reproduce.select(profile, None, "03")] == ["03", "04", "05", "06"]
    with pytest.raises(params.ProfileError, match="no notebook '99'"):
        reproduce.select(profile, ["99"], None)
    with pytest.raises(params.ProfileError, match="no notebook is left"):
        reproduce.select(profile, ["04"], "05")


def test_a_run_folder_that_is_a_file_is_an_error_not_a_traceback(tmp_path: Path, capsys) -> None:
    place = tmp_path / "[mine]"  # brackets are no markup
    place.write_text("mine", encoding="utf-8")
    assert reproduce.main(["smoke", "--run-dir", str(place)]) == 2
    assert str(place) in capsys.readouterr().out
    assert place.read_text(encoding="utf-8") == "mine"


@pytest.mark.parametrize("content", ["{", "[]", ""])
def test_a_damaged_record_counts_as_none(tmp_path: Path, content: str) -> None:
    (tmp_path / launch.CURRENT).write_text(content, encoding="utf-8")
    assert reproduce.running_job(Run(tmp_path)) == (None, None)
    run = Run(tmp_path)
    output = run.notebooks / "01_data_preparation.ipynb"
    output.parent.mkdir()
    output.write_text("{}", encoding="utf-8")
    (run.notebooks / reproduce.STATE).write_text(content, encoding="utf-8")
    assert reproduce.why_to_do(run, output, "x")
    reproduce.remember(run, output, "x")
    assert not reproduce.why_to_do(run, output, "x")


def test_a_corpus_to_translate_needs_another_language_than_english() -> None:
    profile = params.load("smoke")
    alone = profile.model_copy(update={"data": profile.data.model_copy(update={"languages": ["en"]})})
    with pytest.raises(params.ProfileError, match="questions-x-en needs another language than 'en'"):
        prepare.data_sets(alone)


def test_real_input_goes_through_every_part(data_dir: Path, tmp_path: Path, cache: Path) -> None:
    """Real mGSM and mSVAMP in ten languages and real question pairs, with the miniature's untrained model."""
    folder = tmp_path / "real-input"
    done = run_reproduce("real-input", "--run-dir", str(folder), cache=cache)
    assert done.returncode == 0, done.stdout + done.stderr
    accuracy = pd.read_csv(folder / "results" / "accuracy.csv")
    assert set(accuracy.language) == set(CODES)
    assert (accuracy.total == 50).all()
    pairs = (folder / "data" / "corpora" / "questions-x-en.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(pairs) == 5 * 200
    assert "Swahili (macrolanguage)" in pairs[0]
    assert "its numbers mean nothing" in (folder / "report" / "04_evaluation.html").read_text(encoding="utf-8")
