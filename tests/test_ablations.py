"""Chapter 6: what is compared with what, Table 4, the studies' tables and figures, drawn from saved results alone."""

from __future__ import annotations

import dataclasses
import itertools
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text

from qalign_core import evaluate, params, represent, results
from qalign_core.languages import CODES
from qalign_core.params import PARAMS_FOLDER, Profile
from qalign_core.results import published_cells
from qalign_core.show import figures, paper_tables, report

SMALL = "X→En questions (600)"
SKILL = {"MonoReason": 0.1, "QAlign": 0.6, "En→X questions": 0.3, "X→En FLORES": 0.2, SMALL: 0.4}
SKILL |= {"QAlign, 25% of the pairs": 0.35, "QAlign + En→X in stage 2": 0.5, "QAlign without sw": 0.55}
MAIN = ("MonoReason", "QAlign")
STUDIES = {"data_size": {"shares": [0.25]}, "answer_language": {}, "left_out": {"languages": ["sw"]}}


def profile_with(studies: dict[str, Any] | None = None) -> Profile:
    return params.validate({**params.read_yaml(PARAMS_FOLDER / "mini.yaml"), "studies": studies or {}})


def answers_of(systems: dict[str, float], questions: int = 30) -> pd.DataFrame:
    """Scored answers: English right half as often again; the study of languages answers as it was asked."""
    rng, parts = np.random.default_rng(2), []
    for system, skill in systems.items():
        for benchmark in ("mgsm", "msvamp"):
            for code in CODES:
                right = rng.random(questions) < skill * (1.5 if code == "en" else 1)
                part = pd.DataFrame({"index": range(questions), "correct_paper": right, "correct_fixed": right})
                part = part.assign(answer_paper=np.where(right, 7.0, 1.0), gold=7.0, gold_fixed=7.0, has_number=True)
                part = part.assign(answer_fixed=part["answer_paper"], finish_reason="stop", empty=False)
                spoken = code if "stage 2" in system else "en"
                key = {"system": system, "seed": 1, "benchmark": benchmark, "language": code}
                parts.append(part.assign(**key, response_language=spoken))
    return pd.concat(parts, ignore_index=True)


def described() -> pd.DataFrame:
    places = {
        "QAlign, 25% of the pairs": ("data_size", "0.25"),
        "QAlign + En→X in stage 2": ("answer_language", "stage 2"),
    }
    places |= {"QAlign without sw": ("left_out", "sw")}
    rows = []
    for name in SKILL:
        kind = "main" if name in MAIN else "study" if name in places else "ablation"
        study, at = places.get(name, (None, None))
        rows.append({"system": name, "table": kind, "study": study, "at": at, "stage_1": None})
    sizes = [None, 18000, 18000, 5400, 5400, 4500, 18000, 16000]
    return pd.DataFrame(rows).assign(examples=pd.array(sizes, dtype="Int64"), target_tokens=pd.NA)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A results folder with everything chapter 6 writes."""
    place = tmp_path_factory.mktemp("run") / "results"
    answers = answers_of(SKILL)
    systems = {name: {"lineage": ["metamathqa"], "table": "main" if name in MAIN else "ablation"} for name in SKILL}
    results.write_results(place, answers[answers["system"].isin(MAIN)], profile="test", systems=systems)
    declared = [(name, "QAlign") for name in SKILL if name != "QAlign"] + [("X→En FLORES", SMALL)]
    declared.append(("QAlign without sw", "MonoReason"))
    evaluate.write_ablations(place, answers, described(), declared)
    rng, measures, points = np.random.default_rng(3), [], []
    for model, noise in (("base", 3.0), ("MonoReason", 3.0), ("QAlign", 0.5)):
        english = rng.normal(size=(3, 12, 8))
        states = {code: english + noise * rng.normal(size=english.shape) for code in CODES[:-1]} | {"en": english}
        key = {"set": "mgsm", "seed": 1, "model": model}
        measures.append(represent.parallel_measures(states).assign(**key))
        points.append(represent.plane({c: s[1] for c, s in states.items()}).assign(**key, layer=1))
    results.write_csv(place, "representations", pd.concat(measures))
    results.write_csv(place, "representations_points", pd.concat(points))
    return place


# ------------------------------------------------------------------------------------------------- what is compared


def test_the_control_has_as_many_pairs_as_the_corpora_it_stands_beside():
    profile = profile_with()
    sizes = profile.data.miniature.sizes
    assert profile.data.corpora["questions-x-en-600"].limit == sizes["flores"] == sizes["gsm8kinstruct"]


def test_chapters_3_and_4_leave_the_ablations_to_chapter_6():
    profile = profile_with(STUDIES)
    main = profile.lineages(profile.in_chapter(ablations=False))
    assert ["flores-x-en"] not in main
    assert ["questions-x-en-25-percent"] not in main
    own = profile.lineages(profile.in_chapter(ablations=True))
    assert ["questions-x-en-25-percent", "metamathqa"] in own
    assert {tuple(lineage) for lineage in [*main, *own]} == {tuple(lineage) for lineage in profile.lineages()}


def test_an_unknown_control_is_refused():
    sections = params.read_yaml(PARAMS_FOLDER / "mini.yaml")
    sections["systems"]["X→En FLORES"]["against"] = "QAlin"
    with pytest.raises(params.ProfileError, match=r"against: no system 'QAlin' \(did you mean 'QAlign'\?\)"):
        params.validate(sections)


# ------------------------------------------------------------------------------------------------- Table 4


def test_table_4_holds_averages_differences_and_what_is_published(folder: Path):
    (table,) = (t for t in ablation_report.tables(results.read_results(folder)) if t.name == "table-4-ablation")
    shown = table.text.set_index(["benchmark", "Stage 1"])
    assert list(shown.loc["mGSM"].index) == ["none", "X→En questions (ours)", "En→X questions", "X→En FLORES", SMALL]
    published = {size: published_cells("mgsm", size).query("language == 'average'") for size in ("7B",)}["7B"]
    known = published.set_index("system")["value"]
    assert shown.loc[("mGSM", "none"), "published Avg."] == str(known["MonoReason"])
    assert shown.loc[("mGSM", "X→En questions (ours)"), "published Avg."] == str(known["QAlign"])
    assert (shown["published Avg."].drop(["none", "X→En questions (ours)"], level=1) == "").all()
    assert shown.loc[("mGSM", "X→En questions (ours)"), "non-en, to ours"] == ""
    assert shown.loc[("mGSM", "X→En FLORES"), "to same size"].startswith("-")
    assert shown.loc[("mGSM", "En→X questions"), "to same size"] == ""
    assert shown.loc[("mGSM", SMALL), "examples"] == "5,400"
    row = table.data.query(f"system == '{SMALL}' and benchmark == 'mgsm'").iloc[0]
    data = results.read_results(folder).tables
    means = data["ablation_intervals"].query("measure == 'non_english' and benchmark == 'mgsm'")
    means = means.set_index("system")["estimate"]
    assert row["to_ours"] == pytest.approx(means[SMALL] - means["QAlign"])
    assert row["to_ours_low"] < row["to_ours"] < row["to_ours_high"]


def test_of_a_benchmark_of_ones_own_table_4_has_nothing_published(folder: Path):
    found = results.read_results(folder)
    named = {name: rows.replace({"benchmark": {"msvamp": "school"}}) if "benchmark" in rows else rows
             for name, rows in found.tables.items()}  # fmt: skip
    run = found.run | {"questions": {"mgsm": 30, "school": 30}}
    (table,) = (
        t
        for t in ablation_report.tables(dataclasses.replace(found, tables=named, run=run))
        if t.name == "table-4-ablation"
    )
    shown = table.text.set_index(["benchmark", "Stage 1"])["published Avg."]
    assert shown["mGSM", "none"] != ""
    assert (shown["school"] == "").all()


def test_seeds_are_averaged_in_table_4_and_unfold_below_it(folder: Path):
    found = results.read_results(folder)
    several = dict(found.tables)
    for name, moved in (("ablation_intervals", "estimate"), ("ablations", "difference")):
        other = found.tables[name].assign(seed=2)
        other[[moved, "low", "high"]] += 3.0
        several[name] = pd.concat([found.tables[name], other])
    found = dataclasses.replace(found, tables=several, run=found.run | {"seeds": [1, 2]})
    (table,) = (t for t in ablation_report.tables(found) if t.name == "table-4-ablation")
    assert "mean over 2 seeds (1, 2)" in table.caption
    assert "lowest and highest end of any seed's interval" in table.caption
    assert not table.text.duplicated(["benchmark", "Stage 1"]).any()
    (each,) = table.details
    assert each.name == "table-4-ablation-seeds"
    assert "seeds 1, 2, 30" in each.caption
    for measure in ("non_english", "to_ours", "to_control"):
        row = "system == 'X→En FLORES' and benchmark == 'mgsm'"
        mean, (first, second) = table.data.query(row).iloc[0], each.data.query(row).to_dict("records")
        assert mean[measure] == pytest.approx(first[measure] + 1.5)
        assert mean[f"{measure}_low"] == pytest.approx(first[f"{measure}_low"])
        assert mean[f"{measure}_high"] == pytest.approx(second[f"{measure}_high"])
    assert {"seed", "to_ours_p"} <= set(each.data) - set(table.data)


def test_a_system_without_results_is_named(folder: Path):
    data = results.read_results(folder).tables
    with pytest.raises(ValueError, match="Table 4: no results of 'RFT'"):
        paper_tables.ablation_table(data["ablation_intervals"], data["ablations"], {"RFT": "RFT"})


# ------------------------------------------------------------------------------------------------- studies


def test_each_study_has_its_table(folder: Path):
    tables = {table.name: table for table in ablation_report.tables(results.read_results(folder))}
    assert {name for name in tables if name.startswith("table-study")} == {
        "table-study-data-size", "table-study-answer-language", "table-study-answer-language-accuracy",
        "table-study-left-out", "table-study-left-out-accuracy",
    }  # fmt: skip
    listed = list(tables["table-study-data-size"].data["system"].unique())
    assert listed == ["MonoReason", "QAlign, 25% of the pairs", "QAlign"]  # from no pairs to all
    spoken = tables["table-study-answer-language"].data.set_index(["benchmark", "system"])["own_language"]
    assert spoken["mgsm", "QAlign"] == 0
    assert spoken["mgsm", "QAlign + En→X in stage 2"] == 100
    assert "41 with 52.3%" in tables["table-study-answer-language"].caption  # published, averages of ten languages


def test_the_picture_of_answer_languages_shows_both_sides(folder: Path):
    data = results.read_results(folder).tables
    systems = [*MAIN, "QAlign + En→X in stage 2"]
    _, shown = ablation_figures.answer_language(data["ablation_intervals"], data["ablation_responses"], systems)
    mgsm = shown.query("benchmark == 'mgsm'").set_index("system")
    assert mgsm["own_language"].to_dict() == {"MonoReason": 0, "QAlign": 0, "QAlign + En→X in stage 2": 100}
    means = data["ablation_intervals"].query("benchmark == 'mgsm' and measure == 'non_english'").set_index("system")
    assert mgsm["estimate"].to_dict() == pytest.approx(means.loc[systems, "estimate"].to_dict())


def test_a_language_left_out_is_compared_in_that_language(folder: Path):
    found = results.read_results(folder)
    table = next(t for t in ablation_report.tables(found) if t.name == "table-study-left-out")
    assert table.text["Language"].tolist() == ["sw", "sw"]
    means = found.tables["ablation_intervals"].query("measure == 'sw' and benchmark == 'mgsm'")
    means = means.set_index("system")["estimate"]
    row = table.data.iloc[0]
    assert row["without its pairs"] == means["QAlign without sw"]
    for other in MAIN:
        assert row[f"to_{other}"] == pytest.approx(means["QAlign without sw"] - means[other])
        assert row[f"to_{other}_low"] <= row[f"to_{other}"] <= row[f"to_{other}_high"]
    uncompared = dataclasses.replace(found, tables={**found.tables, "ablations": found.tables["ablations"].head(0)})
    blank = next(t for t in ablation_report.tables(uncompared) if t.name == "table-study-left-out")
    assert blank.text["to QAlign"].tolist() == ["", ""]
    single = found.tables["ablations"].query("measure == 'sw'")
    assert set(single["a"]) == {"QAlign without sw"}  # no other system is tested in single languages
    declared = [b for a, b in evaluate.ablation_pairs(profile_with(STUDIES)) if a == "QAlign without sw"]
    assert declared == ["QAlign", "MonoReason"]


def test_the_curve_begins_without_pairs_and_ends_with_all(folder: Path):
    data = results.read_results(folder).tables
    shares = {"MonoReason": 0.0, "QAlign, 25% of the pairs": 0.25, "QAlign": 1.0}
    figure, shown = ablation_figures.data_size(data["ablation_intervals"], shares)
    part = shown.query("benchmark == 'mgsm' and measure == 'non_english'")
    assert part["share"].tolist() == [0, 25, 100]
    assert len(figure.axes) == 2


# ------------------------------------------------------------------------------------------------- drawing


def test_everything_is_redrawn_without_torch_and_byte_for_byte(folder: Path, tmp_path: Path):
    begun = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "qalign_core.report", str(folder), str(tmp_path / "a")],
        capture_output=True, text=True, check=True, env={"PATH": "/usr/bin:/bin", "MPLBACKEND": "svg"},
    )  # fmt: skip
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert ended.ru_utime - begun.ru_utime < 40  # seconds of computing, whatever else the machine does; goal: 20
    assert "torch" not in done.stderr
    again = report.redraw(folder, tmp_path / "b")
    names = {path.name for path in again}
    for stem in (
        "ablation",
        "study-data-size",
        "study-answer-language",
        "study-left-out",
        "representations-layers",
        "representations-plane",
    ):
        assert {f"figure-{stem}.{suffix}" for suffix in ("svg", "png", "pdf", "csv", "txt")} <= names
    assert names == {path.name for path in (tmp_path / "a").iterdir()}
    for name in sorted(names):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes(), name


def test_the_layers_figure_shows_the_mean_of_the_languages(folder: Path):
    measures = results.read_results(folder).tables["representations"]
    _, shown = figures.layers(measures)
    mean = measures.query("model == 'QAlign' and layer == 2")["retrieval"].mean()
    row = shown.query("model == 'QAlign' and layer == 2").iloc[0]
    assert row["retrieval"] == pytest.approx(mean)
    assert row["chance"] == pytest.approx(100 / 12)
    assert row["lowest"] <= row["retrieval"] <= row["highest"]
    assert row["closer"] == pytest.approx(row["cosine"] - row["cosine_others"])


def test_each_set_of_questions_has_its_own_chance_and_count(folder: Path):
    found = results.read_results(folder)
    measures = found.tables["representations"]
    more = pd.concat([measures, measures.assign(set="real-mgsm", questions=100)])
    _, shown = figures.layers(more)
    assert shown.groupby("set")["chance"].first().to_dict() == pytest.approx({"mgsm": 100 / 12, "real-mgsm": 1.0})
    tables = {**found.tables, "representations": more}
    *_, caption = ablation_report.pictures(dataclasses.replace(found, tables=tables))["figure-representations-layers"]
    assert "12 (mGSM) and 100 (real mGSM) questions a language" in caption


def test_the_labels_of_a_plane_do_not_cover_one_another(folder: Path):
    points = results.read_results(folder).tables["representations_points"]
    together = points.assign(x=points["x"] * 0.01, y=points["y"] * 0.01)  # ten languages in one place, and one point
    together.loc[0, ["x", "y"]] = 9.0
    figure, _ = figures.planes(together)
    FigureCanvasAgg(figure).draw()
    for axis in figure.axes:
        boxes = [Text.get_window_extent(text) for text in axis.texts]  # without the lines to the means
        assert len(boxes) == len(CODES)
        panel = axis.get_window_extent()
        assert all(panel.x0 <= (box.x0 + box.x1) / 2 <= panel.x1 for box in boxes)
        assert not any(one.overlaps(two) for one, two in itertools.combinations(boxes, 2))
