"""The profile of the committed results: `mini` with more seeds, all questions, controls and a study of styles."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from qalign_core import hub, params, plan, prepare, runs
from qalign_core.params import PARAMS_FOLDER

PUBLISHED = params.load("mini-publish")


def test_it_has_three_seeds_all_questions_and_systems_of_its_own():
    mini = params.load("mini")
    assert PUBLISHED.run.seeds == [1, 2, 3]
    assert all(test.limit is None for test in PUBLISHED.evaluation.benchmarks.values())  # all questions are asked
    own = {name: system for name, system in PUBLISHED.systems.items() if name not in mini.systems}
    assert {system.table for system in own.values()} == {"control", "study"}
    added = PUBLISHED.data.corpora.keys() - mini.data.corpora.keys()
    assert added == {corpus for system in own.values() for corpus in system.lineage} - {"questions-x-en", "metamathqa"}


def test_every_seed_has_its_own_base_corpora_and_jobs_and_the_same_questions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    sections = PUBLISHED.model_dump(mode="json")
    sections["run"]["seeds"] = [1, 2]
    sections["data"]["miniature"]["sizes"] = dict.fromkeys(PUBLISHED.data.miniature.sizes, 8) | {"dev": 2}
    profile = params.validate(sections)
    monkeypatch.setenv(hub.CACHE_DIR, str(tmp_path / "cache"))
    run = plan.open_run(profile, tmp_path / "run")
    prepare.write_corpora(profile, run)
    counts = prepare.write_benchmarks(profile, run)
    assert set(counts.questions) == {8}
    jobs = {seed: [plan.stage_job(profile, run, seed, lineage) for lineage in plan.stages(profile)] for seed in (1, 2)}
    for one, two in zip(jobs[1], jobs[2], strict=True):
        assert one.content["corpus"]["sha256"] != two.content["corpus"]["sha256"]
        assert one.content["fingerprint"] != two.content["fingerprint"]
        assert one.folder != two.folder
    bases = [runs.sha256_file(run.model(seed, []) / "model.safetensors") for seed in (1, 2)]
    assert bases[0] != bases[1]
    styles = {"metamathqa", "metamathqa-equations", "metamathqa-calibrated"}
    assert len({runs.sha256_file(run.corpus(name, 1)) for name in styles}) == 3


def test_make_publish_swaps_the_committed_folder_last():
    said = subprocess.run(
        ["make", "--dry-run", "--old-file", ".venv/.ready", "publish"],
        cwd=PARAMS_FOLDER.parent, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    steps = [line for line in said.splitlines() if "figures/mini" in line or "reproduce" in line]
    assert "qalign_core.reproduce mini-publish" in steps[0]
    assert steps[-1] == "rm -rf figures/mini && mv figures/mini.part figures/mini"
    assert "runs/mini-publish/results figures/mini.part/results" in steps[2]
    assert all("figures/mini.part" in step for step in steps[1:])
