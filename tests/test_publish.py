"""The profile of the committed results: `mini` with more seeds, all questions, controls and a study of styles."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest

from qalign_core import hub, launch, models, params, plan, prepare, runs
from qalign_core.miniature import SHIPPED_BASE
from qalign_core.params import PARAMS_FOLDER
from qalign_core.plan import HOW_ONLY, Job
from qalign_core.runs import Run

MINI, PUBLISHED, BASE = (params.load(name) for name in ("mini", "mini-publish", "miniature-base"))
BASES = ["base-text"]


def test_it_is_mini_with_more_seeds_questions_and_systems():
    mini, published = MINI.model_dump(), PUBLISHED.model_dump()
    assert published["run"] | {"profile": "mini", "seeds": [1]} == mini["run"]
    assert PUBLISHED.run.seeds == [1, 2, 3]
    added = {name for name in published["data"]["corpora"] if name not in mini["data"]["corpora"]}
    published["data"]["corpora"] = {n: c for n, c in published["data"]["corpora"].items() if n not in added}
    assert published["data"] == mini["data"]
    published["training"]["stages"] = {n: a for n, a in published["training"]["stages"].items() if n not in BASES}
    assert published["training"] == mini["training"]
    for test in (*published["evaluation"]["benchmarks"].values(), *mini["evaluation"]["benchmarks"].values()):
        del test["limit"]
    assert published["evaluation"] == mini["evaluation"]
    assert all(test.limit is None for test in PUBLISHED.evaluation.benchmarks.values())  # all questions are asked
    own = [name for name in published["systems"] if name not in mini["systems"]]
    assert {name: published["systems"][name] for name in mini["systems"]} == mini["systems"]
    assert {published["systems"][name]["table"] for name in own} == {"control", "study"}
    assert added == {corpus for name in own for corpus in published["systems"][name]["lineage"]} - {
        "questions-x-en",
        "metamathqa",
    }


def test_its_bases_are_made_by_the_recipe_of_the_one_that_comes_with_the_package():
    def decides(profile: params.Profile) -> dict[str, Any]:
        return {key: value for key, value in profile.arguments("base-text").items() if key not in HOW_ONLY}

    assert decides(PUBLISHED) == decides(BASE)
    assert PUBLISHED.model == BASE.model
    assert PUBLISHED.data.miniature.style == BASE.data.miniature.style
    assert BASE.run.seeds[0] in PUBLISHED.run.seeds
    assert [plan.effective_batch_size(profile, "base-text") for profile in (PUBLISHED, BASE)] == [8, 8]


# ------------------------------------------------------------------------------------------------- the shipped base


@pytest.fixture
def job(tmp_path: Path) -> Job:
    manifest = runs.read_json(SHIPPED_BASE / launch.MANIFEST)
    return Job({"fingerprint": manifest["job"]}, tmp_path / "base")


def test_the_shipped_base_is_taken_by_the_job_that_made_it(job: Job):
    assert launch.use_shipped_base(job)
    assert job.done
    files = runs.read_json(job.folder / "done.json")["files"]
    assert files == {f"model/{name}": digest for name, digest in runs.sha256_tree(job.folder / "model").items()}
    assert not launch.use_shipped_base(job)  # it is there


def test_another_job_or_one_that_was_begun_trains_its_own_base(job: Job):
    assert not launch.use_shipped_base(Job({"fingerprint": "another seed"}, job.folder))
    assert not job.folder.exists()
    runs.write_json(job.folder / "job.json", job.content)
    assert not launch.use_shipped_base(job)


# ------------------------------------------------------------------------------------------------- with tiny sizes


def test_every_seed_has_its_own_base_corpora_and_jobs_and_the_same_questions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    sections = PUBLISHED.model_dump(mode="json")
    sections["run"]["seeds"] = [1, 2]
    sections["model"]["miniature"] |= {
        "base_tokens": 2000, "hidden_size": 32, "intermediate_size": 64,
        "num_hidden_layers": 1, "num_attention_heads": 2,
    }  # fmt: skip
    sections["data"]["miniature"]["sizes"] = dict.fromkeys(PUBLISHED.data.miniature.sizes, 8) | {"dev": 2}
    profile, run = params.validate(sections), Run(tmp_path / "run")
    monkeypatch.setenv(hub.CACHE_DIR, str(tmp_path / "cache"))
    prepare.write_corpora(profile, run)
    counts = prepare.write_benchmarks(profile, run)
    assert set(counts.questions) == {8}
    lineages = plan.stages(profile)
    assert lineages[0] == []
    for seed in (1, 2):
        models.write_base(profile, run, seed)
    jobs = {seed: [plan.stage_job(profile, run, seed, lineage) for lineage in lineages] for seed in (1, 2)}
    for one, two in zip(jobs[1], jobs[2], strict=True):
        assert one.content["corpus"]["sha256"] != two.content["corpus"]["sha256"]
        assert one.content["fingerprint"] != two.content["fingerprint"]
        assert one.folder != two.folder
    assert not launch.use_shipped_base(jobs[1][0])  # another text than the shipped base's
    styles = {"metamathqa", "metamathqa-equations", "metamathqa-calibrated"}
    assert len({runs.sha256_file(run.corpus(name, 1)) for name in styles}) == 3


# ------------------------------------------------------------------------------------------------- the command


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
