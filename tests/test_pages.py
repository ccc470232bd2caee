"""Executed notebooks as pages: nothing is loaded from elsewhere, nothing runs, and every script is still there."""

from __future__ import annotations

import base64
import re
from pathlib import Path

import nbformat
import pytest
from bs4 import BeautifulSoup
from nbclient import NotebookClient
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from scored_answers import answers_of

from qalign_core import results, runs
from qalign_core.languages import CODES, LANGUAGES
from qalign_core.runs import Run
from qalign_core.show import pages, report

PROSE = r"""# Stage 1 & *alignment*

The loss is $p(y \mid x)$ on average, $a < b$:

$$\mathcal{L} = -\sum_{t=1}^{T} \log p_\theta(y_t \mid y_{<t}, x)$$

\begin{align} a &= b \\ c &= d \end{align}

![a curve](attachment:curve.png) ![from elsewhere](https://example.org/x.png)

Read [the paper](https://arxiv.org/abs/2401.07817).

<script>alert("prose")</script>
<iframe src="https://example.org"></iframe>
"""

SCRIPTS = " ".join(LANGUAGES[code].native_name for code in CODES)

PLOT = """
import base64
import pandas as pd
from IPython.display import HTML, Image, Markdown, display

print("<script>alert('text')</script> & 1 < 2")
print(NAMES)
display(Image(data=base64.b64decode(PIXEL), format="png"))
display(pd.DataFrame({"language": ["ไทย"], "accuracy": [49.6]}))
display(HTML("<script src='https://example.org/x.js'></script><b>bold</b>"))
display(Markdown("so $x^2$"))
"""

PIXEL = base64.b64encode(
    bytes.fromhex(
        "89504e470d0a1a0a0000000d49484452000000010000000108060000001f15c4890000000d4944415478"
        "9c6360000002000001e221bc330000000049454e44ae426082"
    )
).decode()


@pytest.fixture(scope="module")
def executed() -> nbformat.NotebookNode:
    """A notebook that a real kernel has executed, with one image attached to its prose."""
    prose = new_markdown_cell(PROSE, attachments={"curve.png": {"image/png": PIXEL}})
    code = new_code_cell(PLOT.replace("NAMES", repr(SCRIPTS)).replace("PIXEL", repr(PIXEL)))
    notebook = new_notebook(cells=[prose, code])
    NotebookClient(notebook, kernel_name="python3", timeout=60).execute()
    return notebook


@pytest.fixture(scope="module")
def page(executed: nbformat.NotebookNode) -> BeautifulSoup:
    return BeautifulSoup(pages._document("One", pages.body(executed), [], ""), "html.parser")


def test_nothing_is_asked_of_any_other_place_and_nothing_runs(page: BeautifulSoup):
    for tag in page.find_all(True):
        for attribute in ("src", "srcset", "data", "poster", "background", "action"):
            assert str(tag.get(attribute, "data:")).startswith("data:"), tag
    assert page.find_all(["link", "script", "iframe", "object", "embed"]) == []
    styles = " ".join(tag.string for tag in page.find_all("style"))
    assert "url(" not in styles
    assert "@import" not in styles
    assert "<b>bold</b>" in str(page)  # what stood beside a script is kept


def test_the_page_forbids_itself_everything_but_its_own_style_and_images(page: BeautifulSoup):
    policy = page.find("meta", {"http-equiv": "Content-Security-Policy"})
    assert policy["content"] == "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
    before = [tag.name for tag in policy.find_previous_siblings()]
    assert "style" not in before


def test_equations_are_mathml(page: BeautifulSoup):
    found = page.find_all("math")
    assert [tag.get("display") for tag in found] == ["inline", "inline", "block", "block", "inline"]
    assert "∑" in found[2].get_text()
    assert "θ" in found[2].get_text()
    assert found[3].find("mtable") is not None
    text = page.get_text()
    assert "\\mathcal" not in text
    assert "$" not in page.find("main").find("div").get_text()


def test_images_are_part_of_the_page(page: BeautifulSoup):
    sources = [image["src"].split(";base64,") for image in page.find_all("img")]
    assert [kind for kind, _ in sources] == ["data:image/png"] * 2  # the attached one and the plotted one
    assert {base64.b64decode(data) for _, data in sources} == {base64.b64decode(PIXEL)}
    assert "from elsewhere" in page.get_text()


def test_text_tables_links_and_the_ten_scripts_are_kept(page: BeautifulSoup):
    printed = page.find(class_="output_stdout").get_text()
    assert "<script>alert('text')</script> & 1 < 2" in printed
    assert SCRIPTS in printed
    assert page.find("meta", {"charset": "utf-8"})
    assert page.find("table").find("td", string="49.6")
    assert page.find("a", string="the paper")["href"] == "https://arxiv.org/abs/2401.07817"


def test_a_failed_cell_is_shown_escaped():
    error = new_output("error", ename="ValueError", evalue="<bad>", traceback=["\x1b[31mValueError\x1b[0m: <bad>"])
    shown = BeautifulSoup(pages.body(new_notebook(cells=[new_code_cell("x", outputs=[error])])), "html.parser")
    assert shown.find(class_="output_error").get_text().strip() == "ValueError: <bad>"


def test_a_chapter_begins_with_what_it_is_about():
    """The cells that open it are one folded line; a tagged cell's picture, without code and warnings, is on top."""
    stdout = new_output("stream", text="python 3.11\nprofile tiny · seed 1, 2\n")
    warned = [new_output("stream", name="stderr", text="a warning"), new_output("display_data", {"image/png": PIXEL})]
    cells = [new_markdown_cell("# 1 · One\n\ntext"), new_code_cell("run = None", metadata={"tags": ["parameters"]})]
    cells += [new_code_cell("this_run = plan.open_run(profile)", outputs=[stdout])]
    cells += [new_markdown_cell(f"## Part {n}") for n in range(pages.LONG)]
    cells += [new_code_cell("draw()", outputs=warned, metadata={"tags": ["lead"]})]
    main = BeautifulSoup(pages.body(new_notebook(cells=cells)), "html.parser")
    folded = main.find("details")
    assert folded.find("summary").get_text() == "profile tiny · seed 1, 2"
    assert "open_run" in folded.get_text()
    links = main.find(class_="contents").find_all("a")
    assert [main.find(id=link["href"][1:]).get_text().strip("¶") for link in links] == [a.get_text() for a in links]
    first, again = main.find_all("img")
    assert first.find_previous("h2") is None
    assert again.find_previous("h2").get_text().startswith(f"Part {pages.LONG - 1}")
    assert (main.get_text().count("a warning"), main.get_text().count("draw()")) == (1, 1)


def test_pages_link_to_one_another_in_order(tmp_path: Path):
    for name, heading in (("02_b", "Two <& more>"), ("01_a", "One"), ("10_c", None)):
        cells = [new_markdown_cell(f"# {heading}\n\ntext")] if heading else []
        nbformat.write(new_notebook(cells=cells), tmp_path / f"{name}.ipynb")
    nbformat.write(new_notebook(), tmp_path / "notes.ipynb")  # no chapter
    assert pages.write_report(tmp_path / "empty", tmp_path / "report") == []
    written = pages.write_report(tmp_path, tmp_path / "report", front="<p>front</p><script>x</script>", heading="All")
    chapters = [("index.html", "All"), ("01_a.html", "One"), ("02_b.html", "Two <& more>"), ("10_c.html", "Notebook")]
    for path, (name, heading) in zip(written, chapters, strict=True):
        shown = BeautifulSoup(path.read_text(encoding="utf-8"), "html.parser")
        links = shown.find("nav").find_all("a")
        assert [(a["href"], a.get_text()) for a in links] == chapters
        assert [a["href"] for a in links if a.get("aria-current") == "page"] == [path.name] == [name]
        assert shown.title.get_text() == heading
    index = BeautifulSoup(written[0].read_text(encoding="utf-8"), "html.parser")
    assert [a["href"] for a in index.find("main").find_all("a")] == ["01_a.html", "02_b.html", "10_c.html"]
    assert index.find("main").find("section").find("p").get_text() == "text"  # how a chapter begins
    assert index.find("p", string="front")
    assert index.find("script") is None


def test_the_front_page_holds_tables_figures_and_warnings_and_loads_nothing(tmp_path: Path):
    run = Run(tmp_path)
    answers = answers_of({"MonoReason": 0.2, "<b>QAlign</b>": 0.5}, benchmarks=("mgsm",), questions=10)
    systems = {name: {"lineage": []} for name in ("MonoReason", "<b>QAlign</b>")}
    found = results.write_results(run.results, answers, profile="tiny", systems=systems)
    runs.write_atomic(run.figures / "figure-1-framework.png", base64.b64decode(PIXEL))
    runs.write_atomic(run.figures / "figure-1-framework.txt", "Two <stages>.")
    nbformat.write(new_notebook(cells=[new_markdown_cell("# One\n\ntext")]), tmp_path / "01_a.ipynb")
    front = report.front(run, found, report.run_tables(found))
    index = pages.write_report(tmp_path, run.report, front, "QAlign, profile tiny")[0]
    text = index.read_text(encoding="utf-8")
    shown = BeautifulSoup(text, "html.parser")
    assert shown.find("h1").get_text() == "QAlign, profile tiny"
    assert "Table 2" in shown.get_text()
    assert "only 10 questions a language" in shown.get_text()
    assert "<b>QAlign</b>" in shown.find("main").get_text()
    (image,) = shown.find_all("img")
    assert base64.b64decode(image["src"].split(",")[1]) == base64.b64decode(PIXEL)
    assert shown.find("figcaption").get_text() == "Two <stages>."
    assert not re.search(r"(src|srcset|data|poster)\s*=\s*[\"']?https?:|url\(|@import", text)


@pytest.mark.parametrize(
    ("paragraph", "shown"),
    [
        ("<p>It <b>helps. Why</b>? Table 4:</p>", "<p>It <b>helps. Why</b>?</p>"),
        ("<p>It helps.</p>", "<p>It helps.</p>"),
        ("<p>text</p>", "<p>text</p>"),
    ],
)
def test_a_chapter_is_announced_in_whole_sentences(paragraph: str, shown: str):
    assert pages.opening(f"<h1>6</h1>{paragraph}<ul><li>more</li></ul>") == shown


def test_no_equation_of_the_chapters_stops_a_page():
    notebooks = sorted((Path(pages.__file__).parents[2] / "notebooks").glob("[0-9]*.ipynb"))
    assert notebooks
    for path in notebooks:
        notebook = nbformat.read(path, as_version=4)
        equations = re.findall(r"\$\$.+?\$\$", "".join(c.source for c in notebook.cells), re.DOTALL)
        shown = BeautifulSoup(pages.body(notebook), "html.parser")
        assert len(shown.find_all("math", {"display": "block"})) == len(equations)
