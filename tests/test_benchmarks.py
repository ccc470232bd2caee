"""Both benchmarks: the questions exactly as they stand in the files, and what is refused."""

from __future__ import annotations

import json

import pandas as pd
import pytest

from qalign_core.benchmarks import BENCHMARKS, corrected, load_benchmark
from qalign_core.languages import CODES, LANGUAGES
from qalign_core.runs import BadRow, write_json_lines


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "mgsm").mkdir()
    (tmp_path / "mgsm/mgsm_sw.tsv").write_text('"quoted" swali?\t1,000\nmaswali\tmawili\t2\n', encoding="utf-8")
    rows = [{"query": "unused", "m_query": " as it stands . ", "equation": "+", "response": "8.0"}]
    write_json_lines(tmp_path / "msvamp/test_Swahili.json", rows)
    return tmp_path


@pytest.mark.parametrize("language", CODES)
def test_real_benchmarks_are_parallel(data_dir, language):
    assert len(load_benchmark("mgsm", language, data_dir)) == 250
    for name in BENCHMARKS:
        found, english = (load_benchmark(name, code, data_dir) for code in (language, "en"))
        assert found.column_names == ["question", "answer"]
        assert len(found) == len(english)
        if name == "msvamp":
            assert found["answer"][:] == english["answer"][:]


@pytest.mark.parametrize("language", CODES)
def test_both_files_of_mgsm_say_the_same(data_dir, tmp_path, language):
    name = f"mgsm_{LANGUAGES[language].name}.json"
    (tmp_path / "mgsm").mkdir()
    (tmp_path / "mgsm" / name).symlink_to((data_dir / "mgsm" / name).absolute())
    assert load_benchmark("mgsm", language, tmp_path).to_list() == load_benchmark("mgsm", language, data_dir).to_list()


def test_text_is_left_as_it_is(folder):
    assert load_benchmark("mgsm", "sw", folder).to_list() == [
        {"question": '"quoted" swali?', "answer": "1,000"},
        {"question": "maswali\tmawili", "answer": "2"},
    ]
    assert load_benchmark("msvamp", "sw", folder).to_list() == [{"question": " as it stands . ", "answer": "8.0"}]


@pytest.mark.parametrize(
    ("place", "content", "message"),
    [
        ("mgsm/mgsm_sw.tsv", b"swali\t1\nno tab\n", r"mgsm_sw\.tsv: line 2: no tab"),
        ("mgsm/mgsm_sw.tsv", b"swali\t\n", r"line 1: the gold answer '' must be a number"),
        ("mgsm/mgsm_sw.tsv", b"1\tswali 5?\n", "line 1: the gold answer 'swali 5.' must be a number .* swapped"),
        ("mgsm/mgsm_sw.tsv", b"swali\t1\tmore 2\n", "the gold answer 'more 2' must be a number .* one too many"),
        ("mgsm/mgsm_sw.tsv", b"swali\t5,,,\n", "line 1: the gold answer '5,,,' must be a number"),
        ("mgsm/mgsm_sw.tsv", b"swali\t3,5\n", r"'3,5' must be .* commas only between thousands \(1,000 or 3\.5\)"),
        ("mgsm/mgsm_sw.tsv", b"swali\t" + b"9" * 400 + b"\n", "of at most 20 characters"),
        ("mgsm/mgsm_sw.tsv", b"swali\t1\n \t2\n", "line 2: the question is blank"),
        ("msvamp/test_Swahili.json", b'{"m_query": "\\ud83d", "response": "1"}', r"'m_query' holds .ud83d, half"),
        ("msvamp/test_Swahili.json", b'{"query": "a", "response": "1"}\n', "field 'm_query' is missing"),
    ],
)
def test_bad_rows_are_refused_by_file_and_line(folder, place, content, message):
    (folder / place).write_bytes(content)
    with pytest.raises(BadRow, match=message):
        load_benchmark(place.split("/")[0], "sw", folder)


def test_impossible_requests_name_what_is_possible(folder):
    with pytest.raises(ValueError, match="known benchmarks: mgsm, msvamp"):
        load_benchmark("gsm8k", "sw", folder)
    with pytest.raises(ValueError, match="unknown language code 'xx'"):
        load_benchmark("mgsm", "xx", folder)
    with pytest.raises(
        FileNotFoundError, match=r"no mgsm questions in French: .*mgsm_fr\.tsv or mgsm/mgsm_French\.json"
    ):
        load_benchmark("mgsm", "fr", folder)
    for place in (folder / "none", folder / "mgsm/mgsm_sw.tsv"):
        with pytest.raises(FileNotFoundError, match=r"no such folder: .*evaluation\.benchmarks\.school\.folder"):
            load_benchmark("school", "sw", place)
    for suffix in ("tsv", "jsonl"):
        (folder / f"sw.{suffix}").write_text("{}", encoding="utf-8")
    with pytest.raises(ValueError, match=r"both sw\.jsonl and sw\.tsv are there"):
        load_benchmark("school", "sw", folder)


# ------------------------------------------------------------------------------------------------- one's own


@pytest.mark.parametrize(
    ("language", "answer", "number"),
    [
        ("de", "70.000", "70000"),
        ("en", "70.000", "70"),
        ("en", "70,000", "70000"),
        ("de", "3,5", "3.5"),
        ("fr", "1\u202f200,5 €", "1200.5"),
        ("en", 18, "18"),
        ("de", 1.234, "1.234"),  # a number of JSON has no marks
        ("en", "He has 9.\n#### 18", "18"),
        ("en", "$4049$", "4049"),
        ("en", "\\boxed{-18}", "-18"),
        ("en", "$4,049$", "4049"),
        ("en", "\\boxed{\\$4{,}049}", "4049"),
        ("en", "\\(18\\)", "18"),
        ("de", "1'000", "1000"),
        ("ja", "4万", "40000"),
        ("bn", "৪,৫০০", "4500"),
        ("en", "1/4", "0.25"),
    ],
)
def test_golds_of_ones_own_are_read_in_their_files_language(tmp_path, language, answer, number):
    write_json_lines(tmp_path / f"{language}.jsonl", [{"question": "?", "answer": answer}])
    assert load_benchmark("school", language, tmp_path)["answer"][:] == [number]


def test_fields_and_formats_of_ones_own(tmp_path):
    rows = [{"question": "one?", "answer": None, "answer_number": 1}, {"question": "two?", "answer_number": 2}]
    expected = [{"question": "one?", "answer": "1"}, {"question": "two?", "answer": "2"}]
    (tmp_path / "en.json").write_text(json.dumps(rows))
    pd.DataFrame(rows).to_parquet(tmp_path / "sw.parquet")
    nested = [{"doc": {"q": row["question"]}, "gold": [row["answer_number"]]} for row in rows]
    write_json_lines(tmp_path / "de.jsonl", nested)
    assert load_benchmark("school", "en", tmp_path).to_list() == expected
    assert load_benchmark("school", "sw", tmp_path).to_list() == expected
    table = pd.DataFrame([{"id": name, **row} for name, row in zip(("10", "9"), rows, strict=True)])
    table.to_parquet(tmp_path / "fr.parquet")  # parallel by row, whatever the ids
    assert load_benchmark("school", "fr", tmp_path).to_list() == expected
    fields = {"question": "doc.q", "answer": "gold.0"}
    assert load_benchmark("school", "de", tmp_path, fields=fields).to_list() == expected
    with pytest.raises(
        BadRow, match=r"de\.jsonl: line 1: no field 'question'; the line has doc, gold\. Name it in `fields`"
    ):
        load_benchmark("school", "de", tmp_path)


def test_rows_that_cannot_be_asked_are_listed_together_and_can_be_dropped(tmp_path):
    golds = ["1", "x = 3", None, "4", "5 apples"]
    write_json_lines(tmp_path / "en.jsonl", [{"question": "?", "answer": gold} for gold in golds])
    listed = r" 3 such rows in all: 1, 2, 4 \(from 0\)\. Mend .*school\.drop: \[1, 2, 4\]"
    said = "line 2: the gold answer 'x = 3' .* with the marks of English.*" + listed
    with pytest.raises(BadRow, match=said):
        load_benchmark("school", "en", tmp_path)
    assert load_benchmark("school", "en", tmp_path, drop=[1, 2, 4])["answer"][:] == ["1", "4"]
    with pytest.raises(ValueError, match=r"school\.drop: .* has no rows \[7\], only 0 to 4"):
        load_benchmark("school", "en", tmp_path, drop=[7])


def test_corrections_of_some_rows_are_applied(tmp_path):
    rows = [{"index": i, "question": f"Frage {i}?", "answer": "1"} for i in range(3)]
    write_json_lines(tmp_path / "de.jsonl", [{"index": 2, "answer": "70.000"}, {"index": 0, "question": "Neu?"}])
    found = corrected(rows, "fixed", "de", tmp_path)
    assert [(row["question"], row["answer"]) for row in found] == [
        ("Neu?", "1"),
        ("Frage 1?", "1"),
        ("Frage 2?", "70000"),
    ]
    assert corrected(rows, "fixed", "en", tmp_path) == rows
    table = pd.DataFrame({"index": [2, 0], "answer": ["70.000", None], "question": [None, "Neu?"]})
    (tmp_path / "parquet").mkdir()
    table.to_parquet(tmp_path / "parquet" / "de.parquet")
    assert corrected(rows, "fixed", "de", tmp_path / "parquet") == found
    for row, said in (
        ({"index": 2, "gold": "5"}, "line 1: neither question nor answer is corrected; the line has index, gold"),
        ({"index": 2, "answer": "five"}, r"line 1: the gold answer 'five' .*benchmarks\.fixed\.drop: \[2\]"),
        ({"index": 3, "answer": "5"}, "line 1: fixed corrects rows 0 to 2, and there is no row 3"),
    ):
        write_json_lines(tmp_path / "de.jsonl", [row])
        with pytest.raises(BadRow, match=said):
            corrected(rows, "fixed", "de", tmp_path)
    with pytest.raises(FileNotFoundError, match=r"no <language>\.jsonl of corrections, which fixed needs"):
        corrected(rows, "fixed", "de", tmp_path / "none")
