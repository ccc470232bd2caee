"""Every corpus: the authors' order, prompts and quirks, what is dropped and counted, and what is refused."""

from __future__ import annotations

import json

import pandas as pd
import pytest

from qalign_core.corpora import COLUMNS, CORPORA, build_corpus, data_sets_of, load_corpus
from qalign_core.languages import LANGUAGES, STAGE1_ORDER
from qalign_core.prompts import translation_instruction
from qalign_core.runs import BadRow

SIZES = dict(zip(STAGE1_ORDER, (7469, 7363, 6525, 7464, 7468, 7464, 7466, 7360, 7466), strict=True))

MATHOCTOPUS_PROMPT = (
    "Below is an instruction that describes a task. \nWrite a response that appropriately completes the request in "
    "{language}. Please answer in {language}. \n\n### Instruction:\n{question}\n\n### Response:"
)


def write_lines(path, lines):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def write_json_lines(path, rows):
    write_lines(path, [json.dumps(row) for row in rows])


@pytest.fixture
def world(tmp_path):
    """A data folder of two languages besides English, three questions each."""
    for code in ("sw", "fr"):
        folder = tmp_path / "gsm8kinstruct_question" / f"{code}-en"
        write_lines(folder / f"train.{code}", [f" {code} question {i} " for i in range(3)])
        write_lines(folder / "train.en", [f"question {i}" for i in range(3)])
        write_lines(tmp_path / f"flores/dev/{code}.txt", [f"{code} sentence {i}" for i in range(4)])
    write_lines(tmp_path / "flores/dev/en.txt", [f"sentence {i}" for i in range(4)])
    for code, prefix in (("sw", "sw "), ("fr", "fr "), ("en", "")):
        solved = [{"question": f"{prefix}question {i}", "answer": f"{prefix}solution {i}"} for i in range(3)]
        write_json_lines(tmp_path / f"gsm8kinstruct/{code}/train.txt", solved)
    write_json_lines(tmp_path / "gsm8k/train.jsonl", [{"question": "g", "answer": "s"}])
    (tmp_path / "metamathqa").mkdir()
    rows = [{"query": "one\ntwo ", "response": " r", "type": "GSM_Rephrased", "original_question": "o"}]
    (tmp_path / "metamathqa/MetaMathQA-395K.json").write_text(json.dumps(rows))
    return tmp_path


def outcomes(corpus):
    return {(row.language, row.outcome): row.rows for row in corpus.report.itertuples()}


# ------------------------------------------------------------------------------------------------- real data


def test_stage_1_rows_are_the_authors(data_dir, reference_dir):
    with (reference_dir / "golden" / "stage1_rows.jsonl").open(encoding="utf-8") as stream:
        golden = [json.loads(line) for line in stream]
    assert len(golden) == 5
    for expected in golden:
        found = load_corpus("questions-x-en", data_dir, [expected["language"]])
        assert len(found) == expected["rows"] == SIZES[expected["language"]]
        first = [{"instruction": row["instruction"], "output": row["output"]} for row in found.select(range(5))]
        assert first == expected["first"]


def test_all_to_english_is_in_the_authors_order(data_dir):
    present = [code for code in STAGE1_ORDER if (data_dir / "gsm8kinstruct_question" / f"{code}-en").is_dir()]
    corpus = build_corpus("questions-x-en", data_dir, sorted(present))
    kept = corpus.report[corpus.report.outcome == "kept"]
    assert list(kept.language) == present
    assert list(kept.rows) == [SIZES[code] for code in present]
    assert list(dict.fromkeys(corpus.dataset["source_language"])) == present
    assert len(set(corpus.dataset["id"])) == len(corpus.dataset) == sum(SIZES[code] for code in present)


@pytest.mark.parametrize(
    ("switches", "rows"),
    [
        ({}, 7476),
        ({"sft_data": "gsm8k"}, 7473),
        ({"gsm8kinstruct_language": "fixed"}, 7473),
    ],
)
def test_sft_sizes(data_dir, switches, rows):
    assert len(load_corpus("gsm8k", data_dir, **switches)) == rows


def test_absent_languages_are_named_with_those_there_are(data_dir):
    if (data_dir / "gsm8kinstruct_question" / "bn-en").is_dir():
        pytest.skip("all languages are there")
    with pytest.raises(
        FileNotFoundError, match=r"train\.bn does not exist; fetch the question pairs .* there are de, fr"
    ):
        load_corpus("questions-x-en", data_dir)


# ------------------------------------------------------------------------------------------------- the eight corpora


@pytest.mark.parametrize("name", CORPORA)
def test_columns_and_unique_ids(world, name):
    found = load_corpus(name, world, ["sw", "fr", "en"])
    assert tuple(found.column_names) == COLUMNS
    assert len(set(found["id"])) == len(found) > 0


def test_questions_both_ways(world):
    there = load_corpus("questions-x-en", world, ["fr", "sw"])
    assert there[0] == {
        "id": "questions-x-en/sw/0",
        "instruction": "Translate the following sentences from Swahili (macrolanguage) to English. sw question 0",
        "output": "question 0",
        "source_language": "sw",
        "target_language": "en",
    }
    back = load_corpus("questions-en-x", world, ["fr", "sw"], language_names="plain")
    assert back[3]["instruction"] == "Translate the following sentences from English to French. question 0"
    assert back[3]["output"] == "fr question 0"
    assert (back[0]["source_language"], back[0]["target_language"]) == ("en", "sw")


def test_a_blank_side_is_dropped_and_counted(world):
    write_lines(world / "gsm8kinstruct_question/sw-en/train.sw", ["sw question 0", "  ", "sw question 2"])
    corpus = build_corpus("questions-x-en", world, ["sw"])
    assert outcomes(corpus) == {("sw", "kept"): 2, ("sw", "blank side"): 1}
    assert corpus.dataset["id"][:] == ["questions-x-en/sw/0", "questions-x-en/sw/2"]


def test_responses_are_joined_through_the_questions(world):
    solved = [{"question": f"question {i}", "answer": f"solution {i}"} for i in (2, 0)]
    write_json_lines(world / "gsm8kinstruct/en/train.txt", [*solved, {"question": "question 2", "answer": "later"}])
    write_json_lines(
        world / "gsm8kinstruct/fr/train.txt",
        [{"question": f"fr question {i}", "answer": f"fr solution {i}"} for i in (1, 2)],
    )
    corpus = build_corpus("responses-x-en", world, ["fr"])
    assert outcomes(corpus) == {
        ("fr", "kept"): 1,
        ("fr", "no solution in the language"): 1,
        ("fr", "no English solution"): 1,
    }
    assert corpus.dataset[0]["instruction"] == translation_instruction("fr solution 2", "fr")
    assert corpus.dataset[0]["output"] == "solution 2"
    reverse = load_corpus("responses-en-x", world, ["fr"])[0]
    assert (reverse["instruction"], reverse["output"]) == (
        translation_instruction("solution 2", "en", "fr"),
        "fr solution 2",
    )


def test_flores_is_joined_by_row_in_any_of_its_layouts(world):
    assert load_corpus("flores-x-en", world, ["sw"])[3]["output"] == "sentence 3"
    (world / "flores/dev/sw.txt").unlink()
    table = pd.DataFrame({"id": [3, 2, 1, 0], "text": [f"jedwali {i}" for i in (3, 2, 1, 0)]})
    table.to_parquet(world / "flores/dev/swh_Latn.parquet")
    assert load_corpus("flores-x-en", world, ["sw"])[1]["instruction"].endswith("jedwali 1")


def test_metamathqa_keeps_its_text_as_it_is(world):
    row = load_corpus("metamathqa", world, ["sw"])[0]
    assert (row["instruction"], row["output"], row["source_language"]) == ("one\ntwo ", " r", "en")


def test_gsm8kinstruct_has_exactly_the_languages_asked_for(world):
    found = load_corpus("gsm8kinstruct", world, ["fr", "en", "sw"])
    assert list(dict.fromkeys(found["source_language"])) == ["sw", "en", "fr"]
    assert set(load_corpus("gsm8kinstruct", world, ["fr"])["target_language"]) == {"fr"}


# ------------------------------------------------------------------------------------------------- MathOctopus's file


@pytest.fixture
def mathoctopus(tmp_path):
    def row(code, question, solution=" s "):
        prompt = MATHOCTOPUS_PROMPT.format(language=LANGUAGES[code].name, question=question)
        return {"prompt": prompt, "chosen": solution}

    rows = [row(code, f"{code}?") for code in LANGUAGES]
    rows += [row("fr", "Her English class has\nInstruction:\nhow many?"), row("zh", "A Swahili class?")]
    write_json_lines(tmp_path / "gsm8kinstruct/MGSM8KInstruct_Parallel.json", rows)
    return tmp_path


def test_paper_finds_a_language_anywhere_in_the_prompt(mathoctopus):
    found = load_corpus("gsm8kinstruct", mathoctopus)
    counts = pd.Series(found["source_language"]).value_counts()
    assert counts["en"] == 2
    assert counts["sw"] == 2
    assert counts["fr"] == counts["zh"] == 1
    assert found[0]["instruction"] == "sw?"
    assert found[0]["output"] == "s"
    assert found[3]["instruction"] == "how many?", "the question stands behind the last 'Instruction:'"


def test_fixed_looks_at_the_template_only(mathoctopus):
    found = load_corpus("gsm8kinstruct", mathoctopus, gsm8kinstruct_language="fixed")
    counts = pd.Series(found["source_language"]).value_counts()
    assert counts["fr"] == counts["zh"] == 2
    assert counts["en"] == counts["sw"] == 1
    assert len(load_corpus("gsm8k", mathoctopus)) == 2


def test_a_row_without_a_language_is_counted(mathoctopus):
    path = mathoctopus / "gsm8kinstruct/MGSM8KInstruct_Parallel.json"
    path.write_text(path.read_text() + json.dumps({"prompt": "### Instruction:\nWhat?\n\n", "chosen": "1"}) + "\n")
    assert outcomes(build_corpus("gsm8kinstruct", mathoctopus))[("", "no language named in the prompt")] == 1


def test_fixed_moves_the_three_misplaced_rows_of_the_authors_files(world):
    path = world / "gsm8kinstruct/en/train.txt"
    question = "Henry scored 50 points on his Geography test, 70 on his Math test"
    french = {"question": question, "answer": "La somme de ses scores pour"}
    with path.open("a") as stream:
        stream.write(json.dumps({"question": question, "answer": "The sum"}) + "\n" + json.dumps(french) + "\n")
    assert len(load_corpus("gsm8kinstruct", world, ["fr"])) == 3
    found = load_corpus("gsm8kinstruct", world, ["fr"], gsm8kinstruct_language="fixed")
    assert found[3]["output"] == french["answer"]
    assert len(load_corpus("gsm8k", world, gsm8kinstruct_language="fixed")) == 4
    assert len(load_corpus("gsm8k", world)) == 5


# ------------------------------------------------------------------------------------------------- limits, bad input


def test_a_limit_is_for_each_language(world):
    found = build_corpus("questions-x-en", world, ["sw", "fr"], limit=2)
    assert outcomes(found) == {
        ("sw", "kept"): 2,
        ("sw", "beyond the limit"): 1,
        ("fr", "kept"): 2,
        ("fr", "beyond the limit"): 1,
    }


@pytest.mark.parametrize(
    ("place", "content", "message"),
    [
        ("gsm8kinstruct_question/sw-en/train.en", b"a\nb\n", r"has 3 rows but .*train\.en has 2"),
        ("gsm8kinstruct_question/sw-en/train.sw", b"a\nb\n\xe9t\xe9\n", r"train\.sw: line 3: not UTF-8 \(byte 0xe9\)"),
        ("gsm8kinstruct_question/sw-en/train.sw", b"", "the file is empty"),
        ("gsm8kinstruct/en/train.txt", b'{"question": "a", "answer": "b"}\n{"question": ', r"line 2: not JSON"),
        ("gsm8kinstruct/en/train.txt", b'{"question": "a"}\n', r"line 1: field 'answer' is missing .*question"),
        (
            "gsm8kinstruct/en/train.txt",
            b'{"question": "a", "answer": 3}\n',
            "field 'answer' is a number; it must be text",
        ),
        ("gsm8kinstruct/en/train.txt", b"[1]\n", "line 1: expected a JSON object, found a list"),
        (
            "gsm8kinstruct/en/train.txt",
            b'{"id": 7, "question": "a", "answer": "b"}\n{"id": 7, "question": "c", "answer": "d"}\n',
            "line 2: id '7' was already used in line 1",
        ),
        (
            "metamathqa/MetaMathQA-395K.json",
            b'[{"query": "a", "response": "b"},\n{"query"',
            r"line 2: not JSON .* cut off",
        ),
        ("metamathqa/MetaMathQA-395K.json", b'{"query": "a"}', "expected a JSON array of rows, found an object"),
        ("metamathqa/MetaMathQA-395K.json", b'[{"query": "a"}]', "row 0: field 'response' is missing"),
        ("flores/dev/sw.txt", b"one\n", r"sw\.txt has 1 rows but .*en\.txt has 4"),
    ],
)
def test_bad_rows_are_refused_by_file_and_line(world, place, content, message):
    (world / place).write_bytes(content)
    name = {"gsm8kinstruct_question": "questions-x-en", "flores": "flores-x-en"}.get(
        place.split("/")[0], place.split("/")[0]
    )
    languages = ["en"] if name == "gsm8kinstruct" else ["sw"]
    with pytest.raises(BadRow, match=message):
        load_corpus(name, world, languages)


def test_a_parquet_file_that_is_none(world):
    (world / "flores/dev/sw.txt").unlink()
    (world / "flores/dev/swh_Latn.parquet").write_bytes(b"<html>sign in</html>")
    with pytest.raises(BadRow, match=r"swh_Latn\.parquet: not a Parquet file"):
        load_corpus("flores-x-en", world, ["sw"])


@pytest.mark.parametrize(
    ("place", "name", "message"),
    [
        ("gsm8kinstruct_question/sw-en/train.sw", "questions-x-en", r"there are fr, sw in this folder"),
        ("gsm8kinstruct/sw/train.txt", "responses-x-en", r"sw/train\.txt does not exist, nor does .*Parallel\.json"),
        ("flores/dev/sw.txt", "flores-x-en", "no FLORES sentences in Swahili"),
        ("metamathqa/MetaMathQA-395K.json", "metamathqa", "fetch metamathqa"),
    ],
)
def test_absent_files_are_named_with_a_remedy(world, place, name, message):
    (world / place).unlink()
    with pytest.raises(FileNotFoundError, match=message):
        load_corpus(name, world, ["sw"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "question-x-en"}, "known corpora: questions-x-en"),
        ({"languages": ["sw", "xx"]}, "unknown language code 'xx'"),
        ({"languages": ["en"]}, "needs at least one of the languages bn"),
        ({"languages": "sw"}, "must be a list of codes"),
        ({"language_names": "iso"}, "language_names must be 'paper' or 'plain'"),
        ({"sft_data": "GSM8K"}, "sft_data must be"),
    ],
)
def test_impossible_requests_name_what_is_possible(world, arguments, message):
    with pytest.raises(ValueError, match=message):
        load_corpus(**{"name": "questions-x-en", "data_dir": world, "languages": ["sw"]} | arguments)


def test_a_corpus_of_blank_rows_only_is_refused(world):
    write_lines(world / "gsm8kinstruct_question/sw-en/train.sw", ["", " ", ""])
    with pytest.raises(BadRow, match="has no examples"):
        load_corpus("questions-x-en", world, ["sw"])


def test_data_sets_of_a_corpus():
    assert data_sets_of("responses-x-en") == ("questions", "gsm8kinstruct")
    assert data_sets_of("gsm8k") == ("gsm8kinstruct",)
    assert data_sets_of("gsm8k", sft_data="gsm8k") == ("gsm8k",)
