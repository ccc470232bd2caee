"""Both benchmarks: the questions exactly as they stand in the files, and what is refused."""

from __future__ import annotations

import json

import pytest

from qalign_core.benchmarks import BENCHMARKS, load_benchmark
from qalign_core.languages import CODES, LANGUAGES
from qalign_core.runs import BadRow


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "mgsm").mkdir()
    (tmp_path / "msvamp").mkdir()
    (tmp_path / "mgsm/mgsm_sw.tsv").write_text('"quoted" swali?\t1,000\nmaswali\tmawili\t2\n', encoding="utf-8")
    rows = [{"query": "unused", "m_query": " as it stands . ", "equation": "+", "response": "8.0"}]
    (tmp_path / "msvamp/test_Swahili.json").write_text("".join(json.dumps(row) + "\n" for row in rows))
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
    assert len(load_benchmark("mgsm", "sw", folder, limit=1)) == 1


@pytest.mark.parametrize(
    ("place", "content", "message"),
    [
        ("mgsm/mgsm_sw.tsv", b"swali\t1\nno tab\n", r"mgsm_sw\.tsv: line 2: no tab"),
        ("mgsm/mgsm_sw.tsv", b"swali\t\n", r"line 1: the gold answer '' holds no number"),
        ("mgsm/mgsm_sw.tsv", b"1\tswali 5?\n", "line 1: the gold answer 'swali 5.' must be a number .* swapped"),
        ("mgsm/mgsm_sw.tsv", b"swali\t1\tmore 2\n", "the gold answer 'more 2' must be a number .* one too many"),
        ("mgsm/mgsm_sw.tsv", b"swali\t5,,,\n", "line 1: the gold answer '5,,,' must be a number"),
        ("mgsm/mgsm_sw.tsv", b"swali\t3,5\n", r"'3,5' must be .* commas only between thousands \(1,000 or 3\.5\)"),
        ("mgsm/mgsm_sw.tsv", b"swali\t" + b"9" * 400 + b"\n", "of at most 20 characters"),
        ("mgsm/mgsm_sw.tsv", b"swali\t1\n \t2\n", "line 2: the question is blank"),
        ("msvamp/test_Swahili.json", b"[" * 100_000, "line 1: not JSON .*nested thousands deep"),
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
