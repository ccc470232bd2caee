import csv
import dataclasses
import io
import itertools
import re
import resource
import shutil
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from bs4 import BeautifulSoup
from matplotlib import font_manager, ft2font
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image
from rich.console import Console
from scored_answers import answers_of

from qalign_core import comparisons, results, scorer
from qalign_core.languages import CODES
from qalign_core.miniature.folder import benchmark_problems
from qalign_core.results import PUBLISHED, SOURCES
from qalign_core.show import figures, paper_tables, report, tables
from qalign_core.show.report import few_groups

SKILL = {
    "SFT": 0.2,
    "MonoReason": 0.3,
    "MultiReason": 0.4,
    "QAlign": 0.5,
    "QAlign + mixed": 0.6,
    "En→X questions": 0.35,
}
SYSTEMS = {name: {"lineage": ["gsm8k"], "table": "ablation" if "→" in name else "main"} for name in SKILL}
FIGURES = ("1-framework", "headline", "2-mixed-supervision", "3-consistency")
TABLES = ("1-data", "2-mgsm", "2-mgsm-intervals", "3-msvamp", "gap", "comparisons", "languages")
TABLES += ("consistency-mgsm", "consistency-msvamp", "consistency-split")
SCRIPT = "<script>alert('x')</script>"


@pytest.fixture(scope="module")
def answers():
    return answers_of(SKILL)


@pytest.fixture(scope="module")
def floor():
    return pd.DataFrame([(b, c, 12.0) for b in ("mgsm", "msvamp") for c in CODES],
                        columns=["benchmark", "language", "accuracy"])  # fmt: skip


@pytest.fixture(scope="module")
def results_folder(tmp_path_factory, answers, floor):
    folder = tmp_path_factory.mktemp("run") / "results"
    groups = {"msvamp": pd.Series(np.arange(40) // 2)}
    results.write_results(folder, answers, profile="test", systems=SYSTEMS, groups=groups, floor=floor)
    results.write_consistency(folder, groups)
    corpora = pd.DataFrame({"data set": ["mGSM", SCRIPT], "languages": [10, 1], "examples": [2500, 12345]})
    results.write_csv(folder, "corpora", corpora)
    return folder


# -------------------------------------------------------------------------------- published numbers


def test_every_published_number_is_the_reference_files(reference_dir):
    with (reference_dir / "published_results.csv").open(encoding="utf-8", newline="") as file:
        reference = list(csv.DictReader(file))
    with PUBLISHED.open(encoding="utf-8", newline="") as file:
        ours = list(csv.DictReader(file))
    for row in ours:
        row.pop("system")
        assert row.pop("url").startswith("https://") or row["source"] == "notes_literature"
        row.pop("line")
        row["system"] = row.pop("published_name")
    assert {row["source"] for row in ours} == set(SOURCES)
    assert ours == reference  # the same rows in the same order; keys have no order


# -------------------------------------------------------------------------------- tables


def test_the_table_holds_ours_published_and_floor(answers):
    accuracy = scorer.accuracy(answers)
    table = paper_tables.accuracy_table(
        accuracy, "mgsm", systems=["MonoReason", "QAlign"], floor=dict.fromkeys(CODES, 12.0)
    )
    assert table.title == "Table 2. Accuracy on mGSM (%)"
    assert table.data["kind"].tolist() == ["ours", "published", "ours", "published", "floor"]
    assert table.muted == {1, 3, 4}
    ours = accuracy.query("system == 'QAlign' and benchmark == 'mgsm' and scorer == 'paper'").set_index("language")
    others = ours["accuracy"].drop("en").mean()
    expected = [ours["accuracy"].mean(), others, ours.loc["en", "accuracy"] - others]
    assert table.data.loc[2, ["average", "non_english", "gap"]].tolist() == pytest.approx(expected)
    assert table.text.loc[3, ["Avg.", "th"]].tolist() == ["49.6", "39.6†"]
    assert table.text.loc[1, "bn"] == ""  # unknown stays blank
    assert (2, "Avg.") in table.bold
    commit = "https://github.com/NJUNLP/QAlign/blob/a65ee63836e41896466a1b81834d8db0deaf4324/README.md"
    assert f'<a href="{commit}">README of NJUNLP/QAlign</a>' in table._repr_html_()
    assert not {row for row, _ in table.bold} & table.muted
    assert table.hints.loc[3, "Avg."] == f"LLaMA-2 7B, README of NJUNLP/QAlign (primary source): {commit}#L35"
    assert "(secondary source)" in table.hints.loc[3, "th"]
    assert "qalign_readme (primary)" in table.data.loc[3, "source"]
    assert "† a transcription of tables II and IV of arXiv 2405.01345" in table.caption
    assert paper_tables.accuracy_table(accuracy.assign(accuracy=0.0), "mgsm").bold == frozenset()
    with pytest.raises(ValueError, match="no accuracy of RFT on mgsm"):
        paper_tables.accuracy_table(accuracy, "mgsm", systems=["QAlign", "RFT"])


def test_several_seeds_are_averaged_and_intervals_come_on_demand(answers):
    one = comparisons.intervals(answers, draws=200)
    table = paper_tables.accuracy_table(scorer.accuracy(answers), "mgsm", intervals=one, published_size=None)
    row = one.query("system == 'SFT' and benchmark == 'mgsm' and measure == 'th'").iloc[0]
    behind = f"95% interval {row['low']:.1f} to {row['high']:.1f}, Wilson"
    assert "[" not in table.text.loc[0, "th"]
    assert behind in table.hints.loc[0, "th"]
    assert "of 40 right" in table.hints.loc[0, "th"]
    cell = table.details[0].text.set_index("Language").loc["Thai (th)", "SFT"]
    assert cell == f"{row['estimate']:.1f} [{row['low']:.1f}, {row['high']:.1f}]"
    found = tags(table._repr_html_())
    assert any(behind in attributes.get("title", "") for tag, attributes in found if tag == "td")
    assert "details" in {tag for tag, _ in found}


def test_two_seeds_are_points_and_a_range_and_never_one_interval():
    answers = answers_of(SKILL, seeds=(1, 2))
    accuracy, both = scorer.accuracy(answers), comparisons.intervals(answers, draws=100)
    rows = accuracy.query("system == 'QAlign' and benchmark == 'mgsm' and language == 'th' and scorer == 'paper'")
    table = paper_tables.accuracy_table(accuracy, "mgsm", systems=["QAlign"], published_size=None, intervals=both)
    assert table.data.loc[0, "th"] == pytest.approx(rows["accuracy"].mean())
    values = sorted(rows["accuracy"])
    assert f"range over 2 seeds: {values[0]:.1f} to {values[1]:.1f}" in table.hints.loc[0, "th"]
    seeds = paper_tables.seeds_table(both, ["QAlign"])
    first = seeds.data.iloc[0]
    assert first["mean"] == pytest.approx((first["seed 1"] + first["seed 2"]) / 2)
    assert [first["low"], first["high"]] == sorted([first["seed 1"], first["seed 2"]])
    assert "[" not in seeds.text.to_string()
    _, mixed = figures.mixed_supervision(both, ["MultiReason", "QAlign"], None)
    ends = both.query("system == 'QAlign' and benchmark == 'mgsm' and measure == 'average'")
    row = mixed.query("system == 'QAlign' and benchmark == 'mgsm'").iloc[0]  # both seeds' ends
    assert [row["low"], row["high"]] == pytest.approx([ends["low"].min(), ends["high"].max()])


def test_differences_language_by_language_are_bold_after_holm():
    rows = [("QAlign", "SFT", 1, "mgsm", "th", 30.0, 14, 2, 0.004, 0.008),
            ("QAlign", "SFT", 1, "mgsm", "en", -5.0, 3, 5, 0.7, 0.7)]  # fmt: skip
    columns = ["a", "b", "seed", "benchmark", "language", "difference", "only_a", "only_b", "p", "p_holm"]
    table = paper_tables.languages_table(pd.DataFrame(rows, columns=columns))
    assert table.text.iloc[0].tolist() == ["QAlign − SFT", "mGSM", "1", "+30.0", "-5.0"]
    assert table.bold == {(0, "th")}
    assert table.hints.loc[0, "th"].startswith("14 questions only QAlign has right, 2 only SFT; exact McNemar p 0.004")
    assert "too small" not in table.caption
    assert "too small" in paper_tables.languages_table(pd.DataFrame(rows, columns=columns), clustered=True).caption


def test_a_table_never_breaks_inside_a_number(answers):
    table = paper_tables.accuracy_table(scorer.accuracy(answers), "mgsm")
    file, terminal = io.StringIO(), io.StringIO()
    tables.print_table(table, Console(width=60, file=file))  # a log: every cell, however wide
    assert all(cell in file.getvalue() for cell in table.text.to_numpy().ravel())
    tables.print_table(table, Console(width=60, file=terminal, force_terminal=True, color_system=None))
    printed = terminal.getvalue()
    assert all(len(line) <= 60 for line in printed.splitlines())
    assert re.search(r"^System +Avg\. +non-en +en +gap$", printed, re.MULTILINE)
    assert "they are in table-2-mgsm.md" in " ".join(printed.split())
    assert "https://" not in printed


def test_latex_and_markdown_escape_what_they_must(tmp_path):
    frame = pd.DataFrame({"name": ["a_b & 50%", "x|y", "En→X", SCRIPT], "n": [1, 2000, 3, 4]})
    table = tables.from_frame(frame, name="t", title="Table 1. A_b", caption="100% of $5")
    _, markdown, latex = (path.read_text(encoding="utf-8") for path in tables.save_table(table, tmp_path))
    for part in (r"a\_b \& 50\%", r"En$\rightarrow$X", r"\caption{A\_b. 100\% of \$5}", r"\toprule"):
        assert part in latex
    assert r"x\|y" in markdown
    assert "2,000" in markdown
    assert "<script>" not in markdown


# -------------------------------------------------------------------------------- plain words


def test_near_zero_accuracy_is_said_in_plain_words(answers, floor):
    accuracy = scorer.accuracy(answers)
    assert report.remarks(accuracy.assign(total=250)) == []
    near_zero = report.remarks(accuracy.assign(accuracy=0.4, total=250))
    assert len(near_zero) == 1  # of both benchmarks, said once
    assert near_zero[0].startswith("mGSM and mSVAMP: every accuracy is under 5%")
    assert "its numbers mean nothing" in near_zero[0]
    below = report.remarks(accuracy.assign(accuracy=11.0, total=250), floor)
    assert "no system is above the language-blind floor of 12.0%" in below[0]
    some = accuracy.assign(total=250)
    some.loc[some["system"] == "SFT", "accuracy"] = 11.0
    assert any(
        "on average not above" in line and "SFT" in line and "QAlign" not in line
        for line in report.remarks(some, floor)
    )
    assert any("only 40 questions" in line for line in report.remarks(accuracy))


def test_intervals_from_a_few_groups_of_questions_are_warned_of():
    rows = pd.DataFrame({"benchmark": ["mgsm", "msvamp"], "clusters": [250, 4]})
    assert "few groups (mSVAMP 4)" in few_groups(rows)
    assert few_groups(rows.head(1)) == ""


def test_captions_say_what_a_reader_must_know(results_folder):
    found = results.read_results(results_folder)
    run = {**found.run, "seeds": [1, 2, 3], "questions": {"mgsm": 250, "msvamp": 1000}}
    several = dataclasses.replace(found, run=run)
    words = {table.name: table.caption for table in report.run_tables(several)}
    for part in ("Profile test", "3 seeds (1, 2, 3)", "250 questions", "12 points wide", "†", "Floor:", "Gap:"):
        assert part in words["table-2-mgsm"]
    assert "250 (mGSM) and 1,000 (mSVAMP) questions a language" in words["table-gap"]
    captions = {name: words for name, (*_, words) in report.run_figures(several).items()}
    for name in ("figure-headline", "figure-2-mixed-supervision", "figure-3-consistency"):
        assert captions[name].startswith("Profile test, mean over 3 seeds (1, 2, 3)")
        assert "Shown: the mean over seeds, with the lowest and highest end" in captions[name]


def test_every_caption_names_profile_seeds_and_questions(results_folder):
    captions = {name: words for name, (*_, words) in report.run_figures(results.read_results(results_folder)).items()}
    del captions["figure-1-framework"]  # nothing is measured there
    for name, words in captions.items():
        assert words.startswith("Profile test, seed 1"), name
        assert "40 (mGSM)" in words, name


# -------------------------------------------------------------------------------- text from outside


def tags(text):
    return [(tag.name, tag.attrs) for tag in BeautifulSoup(text, "html.parser").find_all(True)]


def test_every_table_escapes_cells_headings_hints_captions_and_its_name():
    plain = tables.from_frame(pd.DataFrame({SCRIPT: [SCRIPT], "n": [1]}), name=SCRIPT, title=SCRIPT, caption=SCRIPT)
    hints = pd.DataFrame({SCRIPT: ['"><img src=x>' + SCRIPT], "n": [""]})
    page = dataclasses.replace(plain, hints=hints, details=(plain,))._repr_html_()
    assert {"script", "img"}.isdisjoint(tag for tag, _ in tags(page))
    assert [attributes["title"] for _, attributes in tags(page) if "title" in attributes] == [hints.loc[0, SCRIPT]]
    assert plain._repr_html_().count("&lt;script&gt;") == 4


def test_a_table_without_rows_has_its_headings():
    empty = tables.from_frame(pd.DataFrame({"system": [], "stage 1": []}), name="none", title="Nothing")
    assert "stage 1" in empty._repr_html_()


# -------------------------------------------------------------------------------- agreement


def test_the_table_shows_agreement_its_difference_and_the_responses_without_a_number(results_folder):
    data = results.read_results(results_folder).tables
    table = paper_tables.consistency_table(
        data["agreement"], data["consistency"], "mgsm", differences=data["agreement_differences"]
    )
    shown = table.text.set_index("System")
    assert list(shown.index) == list(SKILL)
    assert shown["no number"].tolist() == ["80"] * 6  # eight of forty questions in ten languages
    assert shown.loc["MonoReason", "to MonoReason"] == ""
    assert shown.loc["QAlign", "to MonoReason"].startswith("+")
    assert (shown["Mean"].str.count(r"\[") == 1).all()
    means = data["consistency"].query("benchmark == 'mgsm'").groupby("system")["consistency"].mean()
    assert table.data.set_index("system")["mean"].to_dict() == pytest.approx(means.to_dict())


def test_splits_are_shown_with_their_floor_and_pooled_where_a_language_has_none():
    counts = {"system": "A", "seed": 1, "benchmark": "mgsm", "consistency": [50.0, 70.0], "chance": [10.0, 20.0]}
    counts |= {"both_right": [40.0, 60.0], "both_right_chance": [20.0, 30.0]}
    counts |= {"right_given_english_right": [50.0, 70.0], "right_given_english_right_chance": [40.0, 50.0]}
    counts |= {"both_wrong": [0, 4], "same_given_both_wrong": [np.nan, 25.0]}
    counts |= {"same_given_both_wrong_chance": [np.nan, 5.0]}
    row = paper_tables.split_table(pd.DataFrame(counts)).text.iloc[0]
    assert row.tolist() == ["A", "mGSM", "60.0 (15.0)", "50.0 (25.0)", "60.0 (45.0)", "25.0 (5.0)", "4"]
    nothing = pd.DataFrame(counts).assign(both_wrong=0, same_given_both_wrong=np.nan)
    assert paper_tables.split_table(nothing).text.loc[0, "same, if both wrong"] == ""


# -------------------------------------------------------------------------------- figures


def test_the_papers_systems_look_the_same_in_every_figure():
    alone, together = figures.look(["QAlign"]), figures.look(["other", "SFT", "QAlign", "another"])
    assert alone["QAlign"] == together["QAlign"]
    assert len({tuple(look.values()) for look in together.values()}) == 4


def test_the_data_beside_a_figure_are_the_numbers_it_shows(results_folder):
    data = results.read_results(results_folder).tables
    figure, shown = figures.mixed_supervision(data["intervals"], report.MIXED, data["floor"])
    bars = sorted(round(bar.get_height(), 6) for bar in figure.axes[0].patches)
    assert bars == sorted(shown["estimate"].round(6))
    written = [label.get_text() for label in figure.axes[0].get_xticklabels()]
    assert sorted(written) == sorted(f"{value:.1f}" for value in shown["estimate"])
    assert figures.FLOOR in [text.get_text() for text in figure.legends[0].get_texts()]
    figure, shown = figures.consistency(data["agreement"], data["consistency"], list(SKILL)[:2])
    assert len(shown) == 2 * 2 * 9
    assert sorted(round(bar.get_height(), 6) for axis in figure.axes for bar in axis.patches) == sorted(
        shown["estimate"].round(6)
    )


def test_nothing_is_drawn_outside_the_picture(results_folder):
    data = results.read_results(results_folder).tables
    for figure, _ in (
        figures.headline(data["intervals"], ["MonoReason", "QAlign"], data["floor"]),
        figures.consistency(data["agreement"], data["consistency"], list(SKILL)),
    ):
        FigureCanvasAgg(figure).draw()
        legend = figure.legends[0].get_window_extent()
        panels = [axis.get_window_extent() for axis in figure.axes]
        assert legend.y0 >= max(panel.y1 for panel in panels)
        assert figure.bbox.x0 <= legend.x0
        assert legend.x1 <= figure.bbox.x1


def test_one_question_of_the_miniature_runs_through_all_steps():
    _, steps = figures.framework()
    assert steps["input"].tolist()[::2] == [steps.loc[0, "input"]] * 2  # the foreign question
    assert steps.loc[0, "output"] == steps.loc[1, "input"]  # stage 2 begins with what stage 1 ends with
    assert steps.loc[1, "output"] == steps.loc[2, "output"]
    answer = benchmark_problems("mgsm", figures.FOLLOWED[1] + 1)[-1].answer
    assert steps.loc[2, "output"].endswith(f"The answer is: {answer}")


def test_every_letter_is_in_the_font_and_every_text_in_its_box():
    path = font_manager.findfont("DejaVu Sans")
    letters = set(ft2font.FT2Font(path).get_charmap())
    figure, data = figures.framework()
    FigureCanvasAgg(figure).draw()
    texts = {text.get_text(): text for text in figure.axes[0].texts}
    assert {ord(letter) for text in texts for letter in text} - {ord("\n")} <= letters
    boxes = [patch.get_window_extent() for patch in figure.axes[0].patches]
    running = [text for words, text in texts.items() if "\n" in words]
    assert " ".join(data.loc[0, "input"].split()) in {" ".join(text.get_text().split()) for text in running}
    for text in running:
        inner = text.get_window_extent()
        assert any(
            box.x0 <= inner.x0 and inner.x1 <= box.x1 and box.y0 <= inner.y0 and inner.y1 <= box.y1 for box in boxes
        ), text.get_text()


# -------------------------------------------------------------------------------- from saved results


def test_redrawing_twice_gives_the_same_bytes_quickly_and_without_torch(results_folder, tmp_path):
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "qalign_core.show.report", str(results_folder), str(tmp_path / "a")],
        capture_output=True, text=True, check=True, env={"PATH": "/usr/bin:/bin", "MPLBACKEND": "svg"},
    )  # fmt: skip
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    assert seconds < 40  # of one core, whatever else the machine does; about 12
    assert not re.search(r"\| +torch$", done.stderr, re.MULTILINE)
    assert "Table 2. Accuracy on mGSM" in done.stdout
    assert "only 40 questions a language" in done.stdout
    again = report.redraw(results_folder, tmp_path / "b")
    names = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert names == sorted(path.name for path in again)
    for table in TABLES:
        assert {f"table-{table}.{suffix}" for suffix in ("csv", "md", "tex")} <= set(names)
    for figure in FIGURES:
        assert {f"figure-{figure}.{suffix}" for suffix in ("svg", "png", "pdf", "csv", "txt")} <= set(names)
    assert Image.open(tmp_path / "a" / "figure-headline.png").width == 6.8 * 200
    for name in names:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes(), name


def test_what_the_results_do_not_hold_is_left_out_and_a_chapter_draws_its_own(results_folder, answers, tmp_path):
    drawn = report.redraw(results_folder, tmp_path / "chapter", report.CONSISTENCY)
    assert {path.stem for path in drawn} == {"figure-3-consistency", *(f"table-{name}" for name in TABLES[-3:])}
    results.write_results(tmp_path / "results", answers, profile="test", systems=SYSTEMS)
    drawn = report.redraw(tmp_path / "results", tmp_path / "figures", ("figure",))
    assert {path.stem for path in drawn} == {f"figure-{name}" for name in FIGURES[:3]}


def test_missing_results_and_a_file_where_figures_should_be_are_said(results_folder, tmp_path, capsys):
    assert report.main([]) == 2
    assert report.main([str(tmp_path), str(tmp_path)]) == 1
    assert "notebook 04" in capsys.readouterr().err
    (tmp_path / "figures").write_text("mine", encoding="utf-8")
    assert report.main([str(results_folder), str(tmp_path / "figures")]) == 1
    assert str(tmp_path / "figures") in capsys.readouterr().err
    assert (tmp_path / "figures").read_text(encoding="utf-8") == "mine"


def test_published_names_may_carry_a_size() -> None:
    accuracy = pd.DataFrame(
        [(s, 0, "mgsm", c, "paper", 1, 2, 50.0) for s in ("QAlign 7B", "QAlign 13B") for c in CODES],
        columns=["system", "seed", "benchmark", "language", "scorer", "correct", "total", "accuracy"],
    )
    names = {"QAlign 7B": "QAlign 7B", "QAlign 13B": "QAlign 13B"}
    text = paper_tables.accuracy_table(accuracy, "mgsm", published_as=names).text.set_index("System", drop=False)
    assert text.loc["published 7B", "Avg."] == "49.6"
    assert text.loc["published 13B", "Avg."] == "57.1"


def test_tables_that_may_be_empty_are_left_out(results_folder, tmp_path):
    folder = shutil.copytree(results_folder, tmp_path / "results")
    for name in ("comparisons", "languages", "floor"):
        results.write_csv(folder, name, pd.read_csv(folder / f"{name}.csv").iloc[:0])
    read = results.read_results(folder)
    assert "table-comparisons" not in {table.name for table in report.run_tables(read)}


def test_a_system_may_have_any_name(tmp_path):
    names = {"SFT": "5", "MonoReason": r"$\frac{a$ ![x](http://evil/p.png)"}
    answers = answers_of({name: SKILL[old] for old, name in names.items()}, benchmarks=("mgsm",), questions=4)
    systems = {name: SYSTEMS[old] for old, name in names.items()}
    folder = tmp_path / "results"
    results.write_results(folder, answers, profile="test", systems=systems, pairs=[("5", names["MonoReason"])])
    results.write_consistency(folder)
    assert list(results.read_results(folder).tables["comparisons"]["a"].unique()) == ["5"]
    paths = {path.name: path for path in report.redraw(folder, tmp_path / "figures", ("table", "figure-3"))}
    assert paths.keys() >= {"table-comparisons.md", "figure-3-consistency.svg"}
    shown = paths["table-2-mgsm.md"].read_text(encoding="utf-8")
    assert "](" not in shown
    assert all(name in shown.replace("\\(", "(").replace("\\:", ":") for name in names.values())


@pytest.mark.parametrize("highest", ["mgsm", "msvamp"])
def test_every_panel_shows_every_point(highest):
    keys = itertools.product(("MonoReason", "QAlign"), ("mgsm", "msvamp"), CODES)
    rows = pd.DataFrame(keys, columns=["system", "benchmark", "measure"]).assign(seed=1, low=0.0)
    rows["high"] = rows["benchmark"].eq(highest).map({True: 99.0, False: 25.0})
    rows["estimate"] = rows["high"] - 4
    chance = rows.rename(columns={"measure": "language"}).assign(chance=5.0)
    scales = [axis for axis in figures.consistency(rows, chance, ["MonoReason", "QAlign"])[0].axes for _ in range(2)]
    figure, _ = figures.headline(rows, ["MonoReason", "QAlign"], None)
    both = figure.axes  # the other languages and English, by benchmark
    for benchmark, *panels in zip(("mgsm", "mgsm", "msvamp", "msvamp"), both, scales, strict=True):
        assert all(axis.get_ylim()[1] >= (99 if benchmark == highest else 25) for axis in panels)


def test_figure_3_shows_the_papers_four_systems_that_solve_anything_and_names_the_others(results_folder):
    found = results.read_results(results_folder)
    accuracy = found.tables["accuracy"]
    _, shown, caption = report.run_figures(found)["figure-3-consistency"]
    assert list(shown["system"].unique()) == ["MonoReason", "MultiReason", "QAlign", "QAlign + mixed"]
    assert "Only in the table: SFT." in caption
    english = (accuracy["system"] == "MultiReason") & (accuracy["language"] == "en")
    weak = {**found.tables, "accuracy": accuracy.assign(accuracy=accuracy["accuracy"].where(~english, 1.0))}
    _, shown, caption = report.run_figures(dataclasses.replace(found, tables=weak))["figure-3-consistency"]
    assert list(shown["system"].unique()) == ["MonoReason", "QAlign", "QAlign + mixed"]
    assert "Only in the table: SFT, MultiReason." in caption


def test_the_gap_of_several_seeds_is_their_mean_with_the_outermost_ends(results_folder):
    intervals = results.read_results(results_folder).tables["intervals"]
    first = intervals[intervals["seed"] == intervals["seed"].iloc[0]]
    second = first.assign(seed=99, **{name: first[name] + 2.0 for name in ("estimate", "low", "high")})
    one, both = paper_tables.gap_table(first), paper_tables.gap_table(pd.concat([first, second]))
    assert not both.text.duplicated(["System", "benchmark"]).any()
    assert list(both.text["benchmark"]) == sorted(both.text["benchmark"])  # a benchmark at a time
    assert both.data["gap_estimate"].to_list() == pytest.approx((one.data["gap_estimate"] + 1.0).to_list())
    assert both.data["gap_low"].to_list() == pytest.approx(one.data["gap_low"].to_list())
    assert both.data["gap_high"].to_list() == pytest.approx((one.data["gap_high"] + 2.0).to_list())
