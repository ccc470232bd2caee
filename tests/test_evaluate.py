"""Whose answers are scored, the evaluation log, provenance, what chapter 6 compares, and English-only profiles."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nbformat
import pandas as pd
import pytest
import yaml
from profiles import changed

from qalign_core import comparisons, doctor, evaluate, params, plan, prepare, reproduce, results, runs
from qalign_core.params import PARAMS_FOLDER, Profile, ProfileError
from qalign_core.runs import BadRow, Run
from qalign_core.show import report

# ------------------------------------------------------------------------------------------------- external predictions

QUESTIONS = {
    "bn": ["রহিমের ৩টি আপেল আছে।", "করিমের ৫টি আম আছে।"],
    "de": ["Anna hat 3 Äpfel.", "Ben hat 5 Birnen."],
    "en": ["Ann has 3 apples.", "Ben has 5 pears."],
}
ANSWERS = ["3", "5"]
RESPONSES = {
    "bn": ["Ann has 3 apples. The answer is 3", "তার কাছে ৫টি আছে"],
    "de": ["Die Antwort ist 3", "Sie hat 2 + 2 = 5, also ist die Antwort 6"],
    "en": ["The answer is 3", ""],
}


def profile_of(system: dict[str, Any], **run: Any) -> Profile:
    return params.validate(
        {
            "run": {"profile": "theirs", "seeds": [0], **run},
            "model": {"base": "miniature"},
            "data": {"languages": list(QUESTIONS), "sources": {"mgsm": "folder"}},
            "systems": {"Theirs": system},
            "training": {},
            "evaluation": {"benchmarks": {"mgsm": {"max_new_tokens": 600}}},
        }
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Responses as another program writes them: a field `output`, in the order of the questions, nothing else."""
    for code, responses in RESPONSES.items():
        runs.write_json_lines(tmp_path / "made" / "mgsm" / f"{code}.jsonl", [{"output": text} for text in responses])
    return tmp_path / "made"


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """A run folder as notebook 01 leaves it."""
    found = Run(tmp_path / "run")
    for code, asked in QUESTIONS.items():
        rows = [{"index": i, "question": asked[i], "answer": ANSWERS[i]} for i in range(2)]
        runs.write_json_lines(found.benchmark("mgsm", code), rows)
    return found


def theirs(folder: Path, **more: Any) -> dict[str, Any]:
    fields = {"response": "output", "index": None, "question": None, "finish_reason": None}
    return {"predictions": str(folder), "fields": fields, **more}


@pytest.mark.parametrize(
    ("system", "message"),
    [
        ({"predictions": "x", "lineage": []}, "give either a lineage .* or predictions"),
        ({"predictions": "x", "checkpoint": "a/b"}, "give either a lineage .* or predictions"),
        ({"lineage": [], "fields": {"response": "output"}}, "for predictions made elsewhere"),
        ({"checkpoint": "a/b", "seed": 0}, "for predictions made elsewhere"),
        ({"predictions": "x", "fields": {"respons": "output"}}, r"respons: unknown name \(did you mean 'response'\?\)"),
        ({"predictions": "x", "files": "mgsm.json"}, r"systems\.Theirs\.files: mgsm\.json: a pattern for several"),
        ({"predictions": "x", "files": "/x/{language}.json"}, r"systems\.Theirs\.files: .*pattern"),
        ({"predictions": "x", "samples": "best"}, "must be 'first' or 'majority'"),
        ({"predictions": "x", "seed": 7}, r"systems\.Theirs\.seed: 7 is not among run\.seeds \[0\]"),
    ],
)
def test_a_wrong_origin_is_refused(system: dict[str, Any], message: str):
    with pytest.raises(ProfileError, match=message):
        profile_of(system)


def test_a_relative_folder_is_relative_to_here_and_stays_so_wherever_the_notebooks_run(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    profile = profile_of({"predictions": "made"})
    monkeypatch.chdir(tmp_path.parent)
    again = params.validate(profile.model_dump(mode="json"))
    assert again == profile
    assert evaluate.answers_folder(again, Run(tmp_path), "Theirs", 0) == tmp_path / "made"


def test_what_is_missing_is_said_before_anything_runs(folder: Path):
    profile = profile_of(theirs(folder))
    assert evaluate.generated(profile) == []
    name = f"answers    Theirs: external predictions from {folder}, nothing is generated"
    assert list(evaluate.external_overview(profile)) == [(name, True, "")]
    files = evaluate.external_files(profile)["Theirs"]
    assert files[str(folder / "mgsm" / "de.jsonl")] == runs.sha256_file(folder / "mgsm" / "de.jsonl")
    (folder / "mgsm" / "de.jsonl").unlink()
    why = f"1 of 3 files are missing, first {folder / 'mgsm' / 'de.jsonl'}"
    assert list(evaluate.external_overview(profile)) == [(name, False, why)]
    assert len(evaluate.external_files(profile)["Theirs"]) == 2


def test_it_is_scored_and_saved_like_ours(folder: Path, run: Run):
    profile = profile_of(theirs(folder, published="QAlign 7B"))
    answers = evaluate.score_run(profile, run)
    right = answers.groupby("language")["correct_paper"].apply(list).to_dict()
    assert right == {"bn": [True, True], "de": [True, False], "en": [True, False]}
    wrong = answers[~answers["correct_paper"]].set_index("language")["error"]
    assert wrong.to_dict() == {"de": "arithmetic slip", "en": "number missing"}
    found = evaluate.save_results(profile, run, answers).tables
    assert found["responses"]["cut"].isna().all()  # not known
    assert found["responses"].set_index("language").loc["bn", "english"] == 50.0
    assert set(found["trace"]["state"]) == {evaluate.ELSEWHERE}
    assert found["errors"]["answers"].sum() == 2  # counts and rates are numbers
    assert found["responses"]["other"].tolist() == [0.0, 0.0, 0.0]
    assert "cleaned" not in found
    assert set(evaluate.save_consistency(profile, run).tables["consistency"]["language"]) == {"bn", "de"}


def test_another_projects_files_are_read_as_they_are(tmp_path: Path, run: Run):
    """As mCoT publishes its generations: one JSON array a language, numbered from 1, for all questions."""
    for code, asked in QUESTIONS.items():
        rows = [
            {"id": i, "data": {"question": question}, "outputs": [RESPONSES[code][i - 1], "6", "6"]}
            for i, question in enumerate(asked, start=1)
        ]
        (tmp_path / f"mcot_ft_mgsm_{code}.json").write_text(json.dumps(rows, ensure_ascii=False), encoding="utf-8")
        runs.write_json_lines(run.benchmark("mgsm", code), runs.read_json_lines(run.benchmark("mgsm", code))[:1])
    fields = {"index": "id", "question": "data.question", "response": "outputs", "finish_reason": None}
    how = {"fields": fields, "files": "mcot_ft_{benchmark}_{language}.json", "samples": "first"}
    sections = profile_of({"predictions": str(tmp_path), **how}).model_dump(mode="json")
    sections["evaluation"]["benchmarks"]["mgsm"]["limit"] = 1
    profile = params.validate(sections)
    assert all(there for _, there, _ in evaluate.external_overview(profile))
    with pytest.warns(UserWarning, match="counts from 1"):
        answers = evaluate.score_run(profile, run)
    assert answers["correct_paper"].tolist() == [True, True, True]
    trace = evaluate.save_results(profile, run, answers).tables["trace"]
    assert trace["language"].tolist() == list(QUESTIONS)
    assert trace["predictions"].iloc[0].endswith("mcot_ft_mgsm_bn.json")


def test_a_profile_of_english_alone_is_evaluated(folder: Path, run: Run):
    sections = profile_of(theirs(folder)).model_dump(mode="json")
    sections["data"]["languages"] = ["en"]
    profile = params.validate(sections)
    found = evaluate.save_results(profile, run, evaluate.score_run(profile, run))
    assert found.tables["intervals"]["measure"].tolist() == ["en", "average", "english"]
    assert "consistency" not in evaluate.save_consistency(profile, run).tables
    assert evaluate.save_ablations(profile, run).tables.keys() == found.tables.keys()
    assert list(evaluate.representation_jobs(profile, run)) == []
    for ours in ("Theirs", "QAlign"):  # nothing to compare chapter 6's systems with, or no other language to do it in
        other = theirs(folder) | {"table": "ablation"}
        wider = params.validate({**sections, "systems": {ours: theirs(folder), "Other": other}})
        evaluate.save_results(wider, run, evaluate.score_run(wider, run, [ours]))
        saved = evaluate.save_ablations(wider, run)
        made = {table.name: table for table in report.run_tables(saved)}
        assert list(made["table-2-mgsm"].text) == ["System", "en"]
        assert "Gap:" not in made["table-2-mgsm"].caption
        assert {"en", "non-en", "non-en, to QAlign"} & set(made["table-4-ablation"].text) == {"en"}
        assert "table-gap" not in made
        assert "figure-ablation" not in report.run_figures(saved)
    sections["systems"]["Theirs"]["files"] = "mgsm/en.*"  # one language may stand in no name
    assert list(evaluate.external_overview(params.validate(sections)))[0][1]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"fields": {"question": "q"}}, "fields and corrects describe the files of a `folder` of your own"),
        ({"folder": "x", "corrects": "msvamp"}, r"school\.corrects: name another of evaluation\.benchmarks"),
        ({"folder": "x", "corrects": "school"}, r"school\.corrects: name another of evaluation\.benchmarks"),
        ({"folder": "x", "drop": [-1]}, r"school\.drop\.0: must be greater than or equal to 0"),
    ],
)
def test_a_benchmark_of_ones_own_that_cannot_be_is_refused(settings: dict[str, Any], said: str):
    sections = profile_of({"predictions": "x"}).model_dump(mode="json")
    name = "school" if "folder" in settings else "mgsm"
    sections["evaluation"]["benchmarks"][name] = {"max_new_tokens": 5, **settings}
    with pytest.raises(ProfileError, match=said):
        params.validate(sections)


def test_the_profile_declares_which_systems_are_compared(folder: Path, run: Run):
    sections = profile_of(theirs(folder)).model_dump(mode="json")
    sections["systems"]["Others"] = theirs(folder)
    for pairs, compared in (([["Theirs", "Others"]], {("Theirs", "Others")}), (None, set())):
        sections["evaluation"]["pairs"] = pairs
        profile = params.validate(sections)
        saved = evaluate.save_results(profile, run, evaluate.score_run(profile, run))
        for name in ("comparisons", "languages"):
            rows = saved.tables[name]
            assert set(zip(rows["a"], rows["b"], strict=True)) == compared


def test_it_stands_beside_every_seed_or_beside_its_own(folder: Path, run: Run):
    for own, seeds in (({}, {0, 1}), ({"seed": 1}, {1})):
        assert set(evaluate.score_run(profile_of(theirs(folder, **own), seeds=[0, 1]), run)["seed"]) == seeds


def test_another_field_or_folder_is_named(folder: Path, run: Run):
    with pytest.raises(ValueError, match=r"row 1: no field 'index'; the line has output"):
        evaluate.score_run(profile_of({"predictions": str(folder)}), run)
    with pytest.raises(FileNotFoundError, match="is not a folder: no predictions there"):
        evaluate.score_run(profile_of(theirs(folder / "elsewhere")), run)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"index": "x"}, r"en\.jsonl, row 1: the index is 'x'"),
        ({"index": None}, r"en\.jsonl, row 1: the index is None"),
        ({"index": 0.5}, r"en\.jsonl, row 1: the index is 0\.5"),
        ({"index": True}, r"en\.jsonl, row 1: the index is True"),
        ({"question": None}, r"en\.jsonl, row 1: the question is NoneType, not text"),
        ({"output": 5}, r"en\.jsonl, row 1: the response is int, not text"),
        ({"output": "5 \ud83d"}, r"row 1: the response holds .ud83d, half a character"),
    ],
)
def test_a_row_that_cannot_be_scored_is_named(folder: Path, run: Run, change: dict[str, Any], message: str):
    for code, asked in QUESTIONS.items():
        rows = [{"index": i, "question": asked[i], "output": "5"} for i in range(2)]
        if code == "en":
            rows[0] |= change
        path = folder / "mgsm" / f"{code}.jsonl"
        path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8-sig")  # a mark is no error
    profile = profile_of({"predictions": str(folder), "fields": {"response": "output", "finish_reason": None}})
    with pytest.raises(BadRow, match=message):
        evaluate.score_run(profile, run)


def test_a_file_in_another_encoding_is_named(folder: Path, run: Run):
    (folder / "mgsm" / "de.jsonl").write_bytes(b'{"output": "\xe9"}\n')
    with pytest.raises(BadRow, match=r"de\.jsonl: line 1: not UTF-8"):
        evaluate.score_run(profile_of(theirs(folder)), run)


def test_dry_run_says_that_predictions_are_external_and_what_is_missing(
    folder: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
):
    profile = profile_of(theirs(folder))
    assert {path.name[:2] for path in reproduce.notebooks_of(profile)}.isdisjoint({"02", "03"})
    assert prepare.data_sets(profile) == {"mgsm": list(QUESTIONS)}
    assert list(reproduce.overview(profile, Run(tmp_path / "run"))) == []
    with pytest.raises(ProfileError, match=r"systems\.Theirs: its predictions are"):
        plan.prediction_job(profile, Run(tmp_path / "run"), "Theirs", 0)
    (folder / "mgsm" / "de.jsonl").unlink()
    written = tmp_path / "theirs.yaml"
    written.write_text(params.dump(profile), encoding="utf-8")
    assert reproduce.main([str(written), "--dry-run", "--run-dir", str(tmp_path / "other")]) == 0
    assert "to do  answers    Theirs: external predictions" in capsys.readouterr().out.replace("\n", " ")
    assert reproduce.main([str(written), "--run-dir", str(tmp_path / "other")]) == 2
    assert "1 of 3 files are missing" in capsys.readouterr().out.replace("\n", "")
    assert "1 of 3 files are missing" in " ".join(finding.found for finding in doctor.files(profile))


def test_a_notebook_is_executed_again_when_the_predictions_change(folder: Path):
    profile, notebook = profile_of(theirs(folder)), reproduce.NOTEBOOKS_FOLDER / "04_evaluation.ipynb"
    before = reproduce.notebook_identity(notebook, profile)
    assert reproduce.notebook_identity(notebook, profile) == before
    runs.write_json_lines(folder / "mgsm" / "en.jsonl", [{"output": "7"}, {"output": "8"}])
    assert reproduce.notebook_identity(notebook, profile) != before


def test_outputs_saved_into_a_notebook_are_no_change(folder: Path, tmp_path: Path):
    profile, notebook = profile_of(theirs(folder)), nbformat.read(reproduce.NOTEBOOKS_FOLDER / "04_evaluation.ipynb", 4)
    cell, identities = next(cell for cell in notebook.cells if cell.cell_type == "code"), []
    for source, outputs in (("1", []), ("1", [nbformat.v4.new_output("stream", text="by hand")]), ("1\npass", [])):
        cell.source, cell.outputs = source, outputs
        nbformat.write(notebook, tmp_path / "notebook.ipynb")
        identities.append(reproduce.notebook_identity(tmp_path / "notebook.ipynb", profile))
    assert identities[0] == identities[1] != identities[2]


# ------------------------------------------------------------------------------------------------- evaluation log


def smoke_with(**changes: Any) -> Profile:
    return changed("smoke", data__languages=["sw", "en"], **changes)


@pytest.fixture
def logged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """A run whose answers have the fingerprint of the profile's benchmarks, as if jobs were planned."""
    found = Run(tmp_path)
    for name in ("mgsm", "msvamp"):
        for code in ("sw", "en"):
            runs.write_json_lines(found.benchmark(name, code), [{"index": i} for i in range(3)])
    monkeypatch.setattr(evaluate, "answers_fingerprint", lambda profile, run, system, seed: f"{system}-{seed}")
    return found


def test_a_look_is_logged_once_for_the_same_answers(logged: Run, monkeypatch: pytest.MonkeyPatch):
    profile = smoke_with()
    for _ in range(2):
        evaluate.log_evaluation(profile, logged, "QAlign", 1, "scored")
    log = results.read_log(logged.results)
    assert list(log.columns) == results.LOG_COLUMNS
    assert list(log.benchmark) == ["mgsm", "msvamp"]
    assert set(log.questions) == {6}
    assert set(log.split) == {"test"}
    monkeypatch.setattr(evaluate, "answers_fingerprint", lambda *_: "others")
    evaluate.log_evaluation(profile, logged, "QAlign", 1, "scored")
    evaluate.log_evaluation(profile, logged, "QAlign", 1, "answered")
    assert list(results.read_log(logged.results).action) == ["scored"] * 4 + ["answered"] * 2
    evaluate.log_evaluation(smoke_with(data__miniature__split="development"), logged, "MonoReason", 1, "scored")
    assert list(results.read_log(logged.results).split) == ["test"] * 6 + ["development"] * 2


def test_the_recipe_is_what_makes_a_system_and_nothing_else():
    before = evaluate.recipe_fingerprint(smoke_with(), "QAlign")
    same = [
        {"run__devices": 1},
        {"evaluation__batch_tokens": 99},
        {"data__miniature__split": "development"},
        {"data__miniature__sizes__mgsm": 7},
        {"data__corpora": {"half": {"of": "questions-x-en", "share": 0.5}}},
        {"systems__Other": {"lineage": []}},
    ]
    other = [
        {"training__learning_rate": 0.5},
        {"data__miniature__sizes__questions": 7},
        {"data__corpora": {"questions-x-en": {"limit": 3}}},
        {"systems__QAlign__lineage": ["questions-x-en"]},
        {"model__pad_token": "[PAD]"},
    ]
    assert {evaluate.recipe_fingerprint(smoke_with(**change), "QAlign") for change in same} == {before}
    found = {evaluate.recipe_fingerprint(smoke_with(**change), "QAlign") for change in other}
    assert len(found) == len(other)
    assert before not in found


def test_asking_logs_only_what_was_not_answered_before(logged: Run, monkeypatch: pytest.MonkeyPatch):
    profile, job = smoke_with(), plan.Job({"fingerprint": "x"}, logged.folder / "job")
    own = profile.model_copy(update={"systems": {"QAlign": profile.systems["QAlign"]}})
    monkeypatch.setattr(plan, "prediction_jobs", lambda *_: iter([job]))
    for [wanted] in evaluate.answering_jobs(own, logged):
        runs.write_json(wanted.folder / "job.json", wanted.content)
        runs.write_json(wanted.folder / "done.json", wanted.content)
    assert list(results.read_log(logged.results).action) == ["answered", "answered"]
    monkeypatch.setattr(evaluate, "answers_fingerprint", lambda *_: "not looked at")
    assert [wanted.done for [wanted] in evaluate.answering_jobs(own, logged)] == [True]
    assert len(results.read_log(logged.results)) == 2


# ------------------------------------------------------------------------------------------------- provenance


@pytest.fixture
def traced(tmp_path: Path) -> Run:
    """A run in which QAlign's last stage was trained and its answers generated, as the jobs leave it."""
    found = Run(tmp_path)
    lineage = ["questions-x-en", "metamathqa"]
    runs.write_json(found.stage(1, lineage) / "done.json", {"fingerprint": "f" * 64})
    folder = found.predictions(1, lineage) / "benchmarks"
    for code in ("sw", "en"):
        runs.write_json_lines(folder / "mgsm" / f"{code}.jsonl", [{"index": 0, "response": f"{code} 7"}])
    files = {f"mgsm/{code}.jsonl": runs.sha256_file(folder / "mgsm" / f"{code}.jsonl") for code in ("sw", "en")}
    runs.write_json(
        folder / "done.json", {"fingerprint": "a" * 64, "files": files, "git_commit": "c" * 40 + "+changes"}
    )
    runs.write_json(folder / "job.json", {"model": {"path": "models/seed-1/base/questions-x-en/metamathqa/model"}})
    return found


@pytest.fixture
def two_systems(monkeypatch: pytest.MonkeyPatch, traced: Run, tmp_path: Path) -> Profile:
    folder = traced.predictions(1, ["questions-x-en", "metamathqa"]) / "benchmarks"
    monkeypatch.setattr(plan, "prediction_job", lambda *_: SimpleNamespace(folder=folder))
    for code in ("sw", "en"):
        runs.write_json_lines(tmp_path / "theirs" / "mgsm" / f"{code}.jsonl", [{"index": 0, "response": "8"}])
    base = params.load("mini")
    systems = {"QAlign": base.systems["QAlign"], "Theirs": params.System(predictions=str(tmp_path / "theirs"))}
    data = base.data.model_copy(update={"languages": ["sw", "en"]})
    asked = base.evaluation.model_copy(update={"benchmarks": {"mgsm": base.evaluation.benchmarks["mgsm"]}})
    return base.model_copy(update={"systems": systems, "data": data, "evaluation": asked})


TRACED = pd.DataFrame({"system": ["QAlign", "QAlign", "Theirs"], "seed": [1, 1, 1]})


def test_every_cell_names_its_files(two_systems: Profile, traced: Run):
    rows = evaluate.trace(two_systems, traced, TRACED).set_index(["system", "language"])
    assert len(rows) == 4
    cell = rows.loc[("QAlign", "sw")]
    assert cell["lineage"] == "base → questions-x-en → metamathqa"
    assert cell["state"] == evaluate.AS_GENERATED
    for name in ("predictions", "predictions_done", "model_done"):
        assert (traced.folder / cell[name]).is_file()
    assert (traced.folder / cell["predictions"]).name == "sw.jsonl"
    assert cell["sha256"] == runs.sha256_file(traced.folder / cell["predictions"])
    assert rows.loc[("Theirs", "en"), "state"] == evaluate.ELSEWHERE


def test_answers_that_were_edited_are_told_apart(two_systems: Profile, traced: Run):
    path = traced.folder / evaluate.trace(two_systems, traced, TRACED)["predictions"].iloc[0]
    runs.write_json_lines(path, [{"index": 0, "response": "better"}])
    rows = evaluate.trace(two_systems, traced, TRACED)
    assert rows["state"].tolist() == [evaluate.CHANGED, evaluate.AS_GENERATED, evaluate.ELSEWHERE, evaluate.ELSEWHERE]


# ------------------------------------------------------------------------------------------------- chapter 6

SMALL = "X→En questions (150)"


def test_every_variant_is_compared_with_ours_and_the_small_ones_with_their_control():
    profile = params.load("mini")
    declared = evaluate.ablation_pairs(profile)
    own = profile.in_chapter(ablations=True)
    assert {a for a, b in declared if b == "QAlign"} == {"MonoReason", *own}
    assert {a for a, b in declared if b == SMALL} == {"X→En responses", "En→X responses", "X→En FLORES"}


def test_a_study_is_a_few_systems_over_derived_corpora(tmp_path: Path):
    lineages = {"A": ["quarter", "metamathqa"], "C": ["without-sw", "metamathqa"]}
    systems = {name: params.load("mini").systems[name].model_dump() for name in ("MonoReason", "QAlign")}
    systems |= {name: {"lineage": lineage, "table": "study"} for name, lineage in lineages.items()}
    corpora = {
        "data__corpora__quarter": {"of": ["questions-x-en"], "share": 0.25},
        "data__corpora__without-sw": {"of": ["questions-x-en"], "without": ["sw"]},
    }
    profile, run = changed("mini", systems=systems, **corpora), Run(tmp_path)
    for stage in ("questions-x-en", "quarter", "without-sw"):
        done = {"metrics": {"rows": 7, "target_tokens": 70}}
        runs.write_json(run.stage(profile.run.seeds[0], [stage]) / "done.json", done)
    rows = evaluate.ablation_rows(profile, run).set_index("system")
    assert rows["table"].tolist() == ["main", "main", "study", "study"]
    assert rows.loc["C", "stage_1"] == "without-sw"
    assert evaluate.left_out(profile) == {"C": ["sw"]}
    assert rows.loc["QAlign", ["examples", "target_tokens"]].tolist() == [7, 70]
    assert ("C", comparisons.WITHOUT) in evaluate.ablation_pairs(profile)


# ------------------------------------------------------------------------------------------------- docs/data.md


def recipe(word: str) -> dict[str, Any]:
    """The part of a profile in docs/data.md that has a word."""
    text = (PARAMS_FOLDER.parent / "docs" / "data.md").read_text(encoding="utf-8")
    (block,) = (part for part in re.findall(r"```yaml\n(.*?)```", text, re.DOTALL) if word in part)
    return yaml.safe_load(block)


def test_the_recipe_for_predictions_made_elsewhere_runs(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    for code, asked in QUESTIONS.items():
        said = RESPONSES[code]
        runs.write_json_lines(Path("theirs", "mgsm", f"{code}.jsonl"), [{"output": text} for text in said])
        published = json.dumps([{"prediction": text} for text in said])
        runs.write_atomic(Path("mcot", f"mcot_ft_mgsm_{code}.json"), published)
        rows = [
            {"doc_id": i, "doc": {"question": asked[i]}, "resps": [[said[i], said[i]]], "filter": name}
            for i in range(2)
            for name in ("strict-match", "flexible-extract")
        ]
        runs.write_json_lines(Path("logs", "model", f"samples_mgsm_direct_{code}_2026-01-31T00.jsonl"), rows)
    sections = profile_of({"predictions": "x"}).model_dump(mode="json", exclude_unset=True)
    profile = params.validate({**sections, "systems": recipe("mCoT")["systems"]})
    answers = evaluate.score_run(profile, run)
    rows = answers[["benchmark", "language", "index", "answer_paper", "correct_fixed"]]
    alike = [part.reset_index(drop=True) for _, part in rows.groupby(answers["system"])]
    assert len(alike) == 3
    assert alike[0].equals(alike[1])
    assert alike[0].equals(alike[2])
    assert alike[0]["correct_fixed"].sum() == 4


def test_the_recipe_for_benchmarks_of_ones_own_runs(data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    rows = [
        {"doc": {"question": f"{i} + 1?", "target": "?" if i in (17, 203) else f"#### {i + 1}"}} for i in range(250)
    ]
    runs.write_json_lines(Path("their-benchmark", "en.jsonl"), rows)
    runs.write_json_lines(Path("my-benchmark", "en.jsonl"), [{"question": "2 + 3?", "answer": "$5$"}])
    runs.write_json_lines(Path("corrections", "en.jsonl"), [{"index": 1, "answer": "70,000"}])
    sections = profile_of({"predictions": "x"}).model_dump(mode="json", exclude_unset=True)
    sections["data"] = {"languages": ["en"], "sources": {"mgsm": "folder"}, "folder": str(data_dir)}
    profile = params.validate(sections | recipe("mgsm-corrected"))
    found = Run(tmp_path / "run")
    prepare.gather(profile, found, 0)
    counts = prepare.write_benchmarks(profile, found).set_index("benchmark")["questions"].to_dict()
    assert counts == {"mgsm": 250, "school": 1, "theirs": 248, "mgsm-corrected": 250}
    golds = {
        name: {row["index"]: row["answer"] for row in runs.read_json_lines(found.benchmark(name, "en"))}
        for name in counts
    }
    assert golds["theirs"][18] == "19"
    assert {i for i in range(250) if golds["mgsm"][i] != golds["mgsm-corrected"][i]} == {1}
    assert golds["mgsm-corrected"][1] == "70000"
