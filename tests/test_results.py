"""The results folder: what is written, what a new evaluation keeps, and which damage is named."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scored_answers import answers_of

from qalign_core import comparisons, evaluate, results
from qalign_core.languages import NON_ENGLISH

SKILL = {"MonoReason": 0.3, "QAlign": 0.6, "Other": 0.4}
SYSTEMS = {name: {"lineage": ["metamathqa"]} for name in SKILL}
GROUPS = {"mgsm": pd.Series(np.arange(20) // 2)}


@pytest.fixture(scope="module")
def answers() -> pd.DataFrame:
    return answers_of(SKILL, questions=20)


@pytest.fixture(scope="module")
def folder(answers: pd.DataFrame, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("run") / "results"
    results.write_results(place, answers, profile="test", systems=SYSTEMS, groups=GROUPS)
    results.write_consistency(place, GROUPS)
    return place


def test_every_system_is_compared_with_the_one_without_alignment(folder: Path, answers: pd.DataFrame):
    found = results.read_results(folder).tables["agreement_differences"]
    assert set(zip(found["a"], found["b"], strict=True)) == {("QAlign", "MonoReason"), ("Other", "MonoReason")}
    assert set(found["measure"]) == {*NON_ENGLISH, "non_english"}
    agrees = comparisons.agreement(answers).groupby(["system", "benchmark"])["agrees"].mean() * 100
    row = found.query("a == 'QAlign' and benchmark == 'mgsm' and measure == 'non_english'").iloc[0]
    assert row["difference"] == pytest.approx(agrees["QAlign", "mgsm"] - agrees["MonoReason", "mgsm"])
    assert row["low"] < row["difference"] < row["high"]
    assert (row["clusters"], row["questions"]) == (10, 20)
    table = results.read_results(folder).tables["agreement"].query("measure == 'non_english'").set_index("benchmark")
    assert set(table.loc["mgsm", "clusters"]) == {10}  # resampled by group
    assert set(table.loc["msvamp", "clusters"]) == {20}


# ------------------------------------------------------------------------------------------------- evaluating again


def test_evaluating_again_keeps_consistency_of_the_same_answers_and_removes_the_rest(
    answers: pd.DataFrame, tmp_path: Path
):
    few = answers[answers["benchmark"] == "mgsm"].reset_index(drop=True)
    with pytest.raises(FileNotFoundError, match="run notebook 04"):
        results.write_consistency(tmp_path)
    results.write_results(tmp_path, few, profile="test", systems=SYSTEMS, groups=GROUPS)
    results.write_consistency(tmp_path, GROUPS)
    made = (tmp_path / "agreement_map.csv").read_bytes()
    results.write_results(tmp_path, few, profile="test", systems=SYSTEMS, groups=GROUPS)
    assert (tmp_path / "agreement_map.csv").read_bytes() == made
    one = (few["system"] == "Other") & (few["index"] == 0)
    for changed, mode, near in (
        (few.assign(answer_fixed=few["answer_fixed"].where(~one, -1.0)), "paper", GROUPS),  # another answer
        (few, "fixed", GROUPS),
        (few, "paper", {"mgsm": pd.Series(np.arange(20) // 4)}),  # other near-duplicates
    ):
        results.write_consistency(tmp_path, GROUPS)
        again = results.write_results(tmp_path, changed, profile="test", systems=SYSTEMS, mode=mode, groups=near)
        assert {f"{name}.csv" for name in results.CONSISTENCY} <= set(again.absent)
        results.write_results(tmp_path, few, profile="test", systems=SYSTEMS, groups=GROUPS)
    (tmp_path / "answers.parquet").unlink()
    with pytest.raises(FileNotFoundError, match=r"answers\.parquet; run notebook 04"):
        results.write_consistency(tmp_path)


def test_evaluating_again_keeps_the_ablations_unless_what_they_are_compared_with_changed(tmp_path: Path):
    answers = answers_of(SKILL, languages=("sw", "en"), benchmarks=("mgsm",))
    systems = SYSTEMS | {"Varied": {"lineage": ["x", "metamathqa"], "table": "ablation"}}

    def evaluated(answers: pd.DataFrame, systems: dict) -> set[str]:
        return set(results.write_results(tmp_path, answers, profile="test", systems=systems).tables)

    def other(system: str) -> pd.DataFrame:  # another answer of this system
        return answers.assign(answer_fixed=answers["answer_fixed"].where(answers["system"] != system, -1.0))

    for changed, entries, kept in (
        (answers, systems, True), (other("Other"), systems, True),
        (other("QAlign"), systems, False), (answers, SYSTEMS, False),
    ):  # fmt: skip
        evaluated(answers, systems)
        evaluate.write_ablations(tmp_path, answers, [("Other", "QAlign")], {})
        assert ("ablations" in evaluated(changed, entries)) == kept


def test_a_language_left_out_is_compared_in_that_language(tmp_path: Path):
    answers = answers_of(SKILL | {"QAlign without sw": 0.5}, languages=("sw", "th", "en"), benchmarks=("mgsm",))
    pairs = [("MonoReason", "QAlign"), ("QAlign without sw", "QAlign"), ("QAlign without sw", "MonoReason")]
    evaluate.write_ablations(tmp_path, answers, pairs, {"QAlign without sw": ["sw"]})
    found = results.read_table(tmp_path / "ablations.csv").groupby(["a", "b"])["measure"].apply(list)
    assert found["MonoReason", "QAlign"] == list(comparisons.MEASURES)
    for other in ("QAlign", "MonoReason"):
        assert found["QAlign without sw", other] == [*comparisons.MEASURES, "sw"]


# ------------------------------------------------------------------------------------------------- damage


@pytest.mark.parametrize(("name", "chapter"), [("accuracy.csv", "04"), ("solved.csv", "05"), ("run.json", "04")])
def test_a_file_that_was_changed_is_named_with_the_notebook_that_writes_it(
    folder: Path, tmp_path: Path, name: str, chapter: str
):
    copied = shutil.copytree(folder, tmp_path / "results")
    text = (copied / name).read_text(encoding="utf-8")
    (copied / name).write_text(text.replace("QAlign", "QAlight").replace("test", "text"), encoding="utf-8")
    with pytest.raises(
        ValueError, match=rf"{copied / name}: not what the evaluation wrote .*; run notebook {chapter} "
    ):
        results.read_results(copied)


def test_results_from_before_there_were_checksums_are_read(folder: Path, tmp_path: Path):
    copied = shutil.copytree(folder, tmp_path / "results")
    (copied / "checksums.json").unlink()
    assert results.read_results(copied).tables.keys() == results.read_results(folder).tables.keys()
    (copied / "accuracy.csv").write_text("a,b\n1,2,3\n1,2,3,4\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"accuracy\.csv: not a table .*; run notebook 04"):
        results.read_results(copied)


def test_a_kill_between_a_file_and_its_checksum_leaves_it_readable(folder: Path, tmp_path: Path, monkeypatch):
    copied = shutil.copytree(folder, tmp_path / "results")
    before = results.read_results(copied).tables["solved"]
    monkeypatch.setattr(results, "sha256_file", lambda path: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        results.write_csv(copied, "solved", before.head(3))
    monkeypatch.undo()
    assert len(results.read_results(copied).tables["solved"]) == 3


# ------------------------------------------------------------------------------------------------- published numbers


def test_one_row_never_mixes_measurements_that_disagree():
    cells = results.published_cells("msvamp", "7B").set_index(["system", "language"])["value"]
    assert cells["MathOctopus"].to_dict() == {"average": 44.1}  # its own README says 41.7 and other languages
    cells = results.published_cells("mgsm", "7B").set_index(["system", "language"])
    assert cells.loc[("QAlign", "th"), ["value", "tier"]].tolist() == [39.6, "secondary"]
    assert cells.loc[("QAlign", "average"), "tier"] == "primary"
    with pytest.raises(ValueError, match="no published accuracy on 'mgsm' with LLaMA-2 '3B'"):
        results.published_cells("mgsm", "3B")
