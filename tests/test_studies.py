"""Studies on request: each becomes systems over derived corpora, and these run like any other system."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from bs4 import BeautifulSoup

from qalign_core import params, plan, runs
from qalign_core.data import prepare
from qalign_core.params import PARAMS_FOLDER, Profile, ProfileError
from qalign_core.profiles import studies, unique_keys
from qalign_core.runs import Run

ALL: dict[str, Any] = {
    "data_size": {"shares": [0.25, 0.125]},
    "answer_language": {"share": 0.5},
    "left_out": {"languages": ["de", "sw"]},
}


def sections(asked: dict[str, Any]) -> dict[str, Any]:
    return {**unique_keys.read(PARAMS_FOLDER / "smoke.yaml"), "studies": asked}


def profile_with(asked: dict[str, Any]) -> Profile:
    return params.validate(sections(asked))


def of_study(profile: Profile, study: str) -> dict[str, studies.Variant]:
    return {variant.at: variant for variant in studies.variants(profile) if variant.study == study}


def test_nothing_is_added_unless_it_is_asked_for():
    assert profile_with({}).systems == params.load("smoke").systems
    assert not profile_with({}).studies.any()


def test_every_study_becomes_systems_of_its_own_table():
    profile = profile_with(ALL)
    added = [name for name, system in profile.systems.items() if system.table == "study"]
    assert added == [variant.system for variant in studies.variants(profile)]
    assert len(added) == 2 + 2 + 2
    assert set(added) <= set(profile.in_chapter(ablations=True))
    assert not set(added) & set(profile.in_chapter(ablations=False))
    assert params.validate(profile.model_dump(mode="json")) == profile  # as a notebook gets it


@pytest.mark.parametrize(
    ("study", "at", "lineage"),
    [
        ("data_size", "0.25", ["questions-x-en-25-percent", "metamathqa"]),
        ("data_size", "0.125", ["questions-x-en-12-5-percent", "metamathqa"]),
        ("answer_language", "stage 1", ["questions-x-en-and-en-x", "metamathqa"]),
        ("answer_language", "stage 2", ["questions-x-en", "metamathqa-and-en-x"]),
        ("left_out", "sw", ["questions-x-en-without-sw", "metamathqa"]),
    ],
)
def test_a_variant_differs_from_qalign_in_one_stage(study: str, at: str, lineage: list[str]):
    profile = profile_with(ALL)
    variant = of_study(profile, study)[at]
    assert variant.lineage == lineage
    ours = profile.systems["QAlign"].lineage or []
    assert sum(a != b for a, b in zip(variant.lineage, ours, strict=True)) == 1


def test_defaults_take_the_shares_and_every_language_with_pairs():
    profile = profile_with({"data_size": {}, "left_out": {}})
    assert list(of_study(profile, "data_size")) == ["0.1", "0.25", "0.5"]
    assert list(of_study(profile, "left_out")) == [code for code in profile.data.languages if code != "en"]


def test_a_joined_corpus_is_trained_like_the_one_it_replaces():
    given = sections({"answer_language": {}})
    given["training"]["stages"] = {"questions-x-en": {"learning_rate": 0.5}, "questions-en-x": {"learning_rate": 0.25}}
    profile = params.validate(given)
    assert profile.arguments("questions-x-en-and-en-x")["learning_rate"] == 0.5
    assert profile.arguments("metamathqa-and-en-x")["learning_rate"] == profile.training.learning_rate


def test_corpora_and_jobs_of_every_study_at_tiny_sizes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("QALIGN_CACHE_DIR", str(tmp_path / "cache"))
    profile, run = profile_with(ALL), Run(tmp_path / "run")
    prepare.write_corpora(profile, run)
    prepare.write_benchmarks(profile, run)

    def rows(name: str) -> list[dict]:
        return runs.read_json_lines(run.corpus(name, plan.corpus_seed(profile, name, 1)))

    pairs = rows("questions-x-en")
    assert len(pairs) == 9 * 8
    assert len(rows("questions-x-en-25-percent")) == 9 * 2
    left = {row["source_language"] for row in rows("questions-x-en-without-sw")}
    assert left == {row["source_language"] for row in pairs} - {"sw"}
    assert len(rows("questions-x-en-and-en-x")) == 9 * 8 + 9 * 4
    assert {row["target_language"] for row in rows("metamathqa-and-en-x")} == set(profile.data.languages)
    jobs = {
        tuple(lineage): plan.stage_job(profile, run, 1, lineage)
        for lineage in plan.stages(profile, profile.in_chapter(ablations=True))
    }
    assert len({job.content["fingerprint"] for job in jobs.values()}) == len(jobs)
    assert ("questions-x-en",) in jobs  # chapter 2's stage, used again


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"data_sise": {}}, "studies.data_sise: unknown key (did you mean 'data_size'?)"),
        ({"data_size": {"shares": [1.5]}}, "less than 1"),
        ({"left_out": {"languages": ["en"]}}, "English (en) has no pairs to leave out"),
    ],
)
def test_a_wrong_study_is_refused(asked: dict[str, Any], message: str):
    with pytest.raises(ProfileError) as error:
        profile_with(asked)
    assert message in str(error.value)


def test_a_study_needs_a_qalign_to_vary_and_its_names():
    given = sections({"data_size": {}})
    taken = {**given["systems"], "QAlign, 25% of the pairs": {"lineage": ["metamathqa"]}}
    with pytest.raises(ProfileError, match="call yours something else"):
        params.validate({**given, "systems": taken})
    del given["systems"]["QAlign"]
    with pytest.raises(ProfileError, match="they vary the system QAlign"):
        params.validate(given)


@pytest.mark.slow
def test_the_whole_road_with_every_study(tmp_path: Path):
    """Two languages beside English and one benchmark: trained, asked, tabled, drawn and put on the page."""
    given = sections({"data_size": {"shares": [0.5]}, "answer_language": {}, "left_out": {"languages": ["sw"]}})
    given["run"] = {**given["run"], "profile": "studied", "devices": 1}
    given["data"] = {**given["data"], "languages": ["sw", "de", "en"]}
    given["systems"] = {name: given["systems"][name] for name in ("MonoReason", "QAlign")}
    given["evaluation"] = {**given["evaluation"], "benchmarks": {"mgsm": {"max_new_tokens": 12, "limit": 4}}}
    given["training"] = {**given["training"], "deepspeed": str(PARAMS_FOLDER / "deepspeed" / "zero2.json")}
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
    drawn = {path.stem for path in run.figures.glob("*-study-*")}
    assert drawn == {
        "figure-study-data-size", "figure-study-answer-language", "figure-study-left-out",
        "table-study-data-size", "table-study-left-out",
        "table-study-left-out-accuracy", "table-study-answer-language", "table-study-answer-language-accuracy",
    }  # fmt: skip
    chapter = BeautifulSoup((run.report / "06_ablations.html").read_text(encoding="utf-8"), "html.parser")
    said = chapter.get_text()
    for heading in (
        "How much stage-1 data",
        "Accuracy against language consistency",
        "Accuracy in a language left out",
    ):
        assert heading in said
    assert len(chapter.find_all("img")) == 5  # three studies, the layers and the plane
