"""Chapter 6: Table 4, the profile's own studies, and what the layers make of questions, drawn from saved results."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text
from scored_answers import answers_of

from qalign_core import evaluate, params, represent, results, runs
from qalign_core.languages import CODES
from qalign_core.params import PARAMS_FOLDER
from qalign_core.results import Results, published_cells
from qalign_core.show import figures, paper_tables, report
from qalign_core.show.tables import Table

SMALL, STUDY = "X→En questions (150)", "QAlign, 25% of the pairs"
OURS, FEW = "X→En questions (18,000)", "X→En questions (5,400)"  # how Table 4 calls them
GENERIC = "X→En generic sentences (5,400)"
SKILL = {"MonoReason": 0.1, "QAlign": 0.6, "En→X questions": 0.3, "X→En FLORES": 0.2, SMALL: 0.4, STUDY: 0.35}
EXAMPLES = [None, 18000, 18000, 5400, 5400, 4500]
MAIN = ("MonoReason", "QAlign")
KINDS = {name: "main" if name in MAIN else "study" if name == STUDY else "ablation" for name in SKILL}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A results folder with everything chapter 6 writes."""
    place = tmp_path_factory.mktemp("run") / "results"
    answers = answers_of(SKILL, questions=30)
    systems = {name: {"lineage": ["metamathqa"], "table": KINDS[name]} for name in SKILL}
    results.write_results(place, answers[answers["system"].isin(MAIN)], profile="test", systems=systems)
    declared = [(name, "QAlign") for name in SKILL if name != "QAlign"] + [("X→En FLORES", SMALL)]
    evaluate.write_ablations(place, answers, declared, {})
    described = pd.DataFrame({"system": list(SKILL), "table": list(KINDS.values())})
    results.write_csv(place, "ablation_rows", described.assign(examples=pd.array(EXAMPLES, dtype="Int64")))
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


def table_of(found: Results, name: str = "table-4-ablation") -> Table:
    return {table.name: table for table in report.run_tables(found)}[name]


def test_the_control_has_as_many_pairs_as_the_corpora_it_stands_beside():
    profile = params.load("mini")
    sizes = profile.data.miniature.sizes
    assert profile.data.corpora["questions-x-en-150"].limit == sizes["flores"] == sizes["gsm8kinstruct"]


def test_chapters_3_and_4_leave_the_ablations_to_chapter_6():
    profile = params.load("studies")
    main = profile.lineages(profile.in_chapter(ablations=False))
    own = profile.lineages(profile.in_chapter(ablations=True))
    assert ["questions-x-en-25-percent", "metamathqa"] in own
    assert ["questions-x-en-25-percent"] not in main
    assert {tuple(lineage) for lineage in [*main, *own]} == {tuple(lineage) for lineage in profile.lineages()}


def test_an_unknown_control_is_refused():
    sections = runs.read_yaml(PARAMS_FOLDER / "mini.yaml")
    sections["systems"]["X→En FLORES"]["against"] = "QAlin"
    with pytest.raises(params.ProfileError, match=r"against: no system is named 'QAlin' \(did you mean 'QAlign'\?\)"):
        params.validate(sections)


# ------------------------------------------------------------------------------------------------- Table 4


def test_table_4_holds_averages_differences_and_what_is_published(folder: Path):
    table = table_of(results.read_results(folder))
    shown = table.text.set_index(["benchmark", "Stage 1"])
    assert list(shown.loc["mGSM"].index) == ["none", OURS, "En→X questions (18,000)", GENERIC, FEW]
    known = published_cells("mgsm", "7B").query("language == 'average'").set_index("system")["value"]
    assert shown.loc[("mGSM", "none"), "published Avg."] == str(known["MonoReason"])
    assert shown.loc[("mGSM", OURS), "published Avg."] == str(known["QAlign"])
    assert (shown["published Avg."].drop(["none", OURS], level=1) == "").all()
    assert shown.loc[("mGSM", OURS), "non-en, to QAlign"] == ""
    assert shown.loc[("mGSM", GENERIC), "to same size"].startswith("-")
    assert shown.loc[("mGSM", "En→X questions (18,000)"), "to same size"] == ""
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
    table = table_of(dataclasses.replace(found, tables=named, run=run))
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
    table = table_of(found)
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
        paper_tables.ablation_table(data["ablation_intervals"], data["ablations"], {"RFT": "RFT"}, examples={})


def test_the_profiles_own_studies_stand_in_a_table_like_it(folder: Path):
    shown = table_of(results.read_results(folder), "table-study-other").text
    assert shown["System"].tolist() == [*MAIN, STUDY] * 2
    assert shown.loc[2, "examples"] == "4,500"
    assert shown.loc[2, "non-en, to QAlign"].startswith("-")


# ------------------------------------------------------------------------------------------------- figures


def test_chapter_6_draws_its_own(folder: Path, tmp_path: Path):
    drawn = {path.stem for path in report.redraw(folder, tmp_path, report.ABLATIONS)}
    assert {name for name in drawn if name.startswith("figure")} == {
        "figure-ablation", "figure-study-other", "figure-representations-plane",
    }  # fmt: skip


def test_each_set_of_questions_has_its_own_count(folder: Path):
    found = results.read_results(folder)
    measures = found.tables["representations"]
    more = pd.concat([measures, measures.assign(set="school", questions=100)])
    tables = {**found.tables, "representations": more}
    *_, caption = report.run_figures(dataclasses.replace(found, tables=tables))["figure-representations-plane"]
    assert "12 (mGSM) and 100 (school) questions a language" in caption


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
