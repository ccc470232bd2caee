"""Every corpus: the authors' order, prompts and quirks, what is dropped and refused; derived ones; what a run makes."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from profiles import changed

from qalign_core import corpora, params, plan, prepare, prompts, runs
from qalign_core.corpora import COLUMNS, Row, build_corpus, corpus_seed, read_corpus
from qalign_core.languages import LANGUAGES, STAGE1_ORDER
from qalign_core.models import base_tokenizer
from qalign_core.params import KNOWN_CORPORA, CorpusChoice, Profile
from qalign_core.prompts import translation_instruction
from qalign_core.runs import BadRow
from qalign_core.supervision import IGNORED, encode_examples

SIZES = dict(zip(STAGE1_ORDER, (7469, 7363, 6525, 7464, 7468, 7464, 7466, 7360, 7466), strict=True))

MATHOCTOPUS_PROMPT = (
    "Below is an instruction that describes a task. \nWrite a response that appropriately completes the request in "
    "{language}. Please answer in {language}. \n\n### Instruction:\n{question}\n\n### Response:"
)


def write_lines(path, lines):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def write_own(path: Path, *rows: Any) -> Path:
    """JSON lines, in which half a character may stand."""
    write_lines(path, [json.dumps(row) for row in rows])
    return path


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
        runs.write_json_lines(tmp_path / f"gsm8kinstruct/{code}/train.txt", solved)
    runs.write_json_lines(tmp_path / "gsm8k/train.jsonl", [{"question": "g", "answer": "s"}])
    (tmp_path / "metamathqa").mkdir()
    rows = [{"query": "one\ntwo ", "response": " r", "type": "GSM_Rephrased", "original_question": "o"}]
    (tmp_path / "metamathqa/MetaMathQA-395K.json").write_text(json.dumps(rows))
    return tmp_path


def outcomes(corpus):
    return {(row.language, row.outcome): row.rows for row in corpus.report.itertuples()}


# ------------------------------------------------------------------------------------------------- real data


def test_stage_1_rows_are_the_authors(data_dir, reference_dir):
    golden = runs.read_json_lines(reference_dir / "golden" / "stage1_rows.jsonl")
    assert len(golden) == 5
    for expected in golden:
        found = build_corpus("questions-x-en", data_dir, [expected["language"]]).dataset
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
    assert len(build_corpus("gsm8k", data_dir, **switches).dataset) == rows


# ------------------------------------------------------------------------------------------------- the eight corpora


@pytest.mark.parametrize("name", KNOWN_CORPORA)
def test_columns_and_unique_ids(world, name):
    found = build_corpus(name, world, ["sw", "fr", "en"]).dataset
    assert tuple(found.column_names) == COLUMNS
    assert len(set(found["id"])) == len(found) > 0


def test_questions_both_ways(world):
    there = build_corpus("questions-x-en", world, ["fr", "sw"]).dataset
    assert there[0] == {
        "id": "questions-x-en/sw/0",
        "instruction": "Translate the following sentences from Swahili (macrolanguage) to English. sw question 0",
        "output": "question 0",
        "source_language": "sw",
        "target_language": "en",
    }
    back = build_corpus("questions-en-x", world, ["fr", "sw"], language_names="plain").dataset
    assert back[3]["instruction"] == "Translate the following sentences from English to French. question 0"
    assert back[3]["output"] == "fr question 0"
    assert (back[0]["source_language"], back[0]["target_language"]) == ("en", "sw")


def test_a_blank_side_is_dropped_and_counted(world):
    write_lines(world / "gsm8kinstruct_question/sw-en/train.sw", ["sw question 0", "  ", "sw question 2"])
    corpus = build_corpus("questions-x-en", world, ["sw"])
    assert outcomes(corpus) == {("sw", "kept"): 2, ("sw", "blank side"): 1}
    assert corpus.dataset["id"][:] == ["questions-x-en/sw/0", "questions-x-en/sw/2"]


def test_responses_are_joined_through_the_questions(world):
    solved = ((2, "solution 2"), (0, "solution 0"), (2, "later"))
    english = [{"question": f"question {i}", "answer": answer} for i, answer in solved]
    french = [{"question": f"fr question {i}", "answer": f"fr solution {i}"} for i in (1, 2)]
    runs.write_json_lines(world / "gsm8kinstruct/en/train.txt", english)
    runs.write_json_lines(world / "gsm8kinstruct/fr/train.txt", french)
    corpus = build_corpus("responses-x-en", world, ["fr"])
    assert outcomes(corpus) == {
        ("fr", "kept"): 1,
        ("fr", "no solution in the language"): 1,
        ("fr", "no English solution"): 1,
    }
    assert corpus.dataset[0]["instruction"] == translation_instruction("fr solution 2", "fr")
    assert corpus.dataset[0]["output"] == "solution 2"
    reverse = build_corpus("responses-en-x", world, ["fr"]).dataset[0]
    assert (reverse["instruction"], reverse["output"]) == (
        translation_instruction("solution 2", "en", "fr"),
        "fr solution 2",
    )


def test_flores_is_joined_by_row_in_any_of_its_layouts(world):
    assert build_corpus("flores-x-en", world, ["sw"]).dataset[3]["output"] == "sentence 3"
    (world / "flores/dev/sw.txt").unlink()
    table = pd.DataFrame({"id": [3, 2, 1, 0], "text": [f"jedwali {i}" for i in (3, 2, 1, 0)]})
    table.to_parquet(world / "flores/dev/swh_Latn.parquet")
    assert build_corpus("flores-x-en", world, ["sw"]).dataset[1]["instruction"].endswith("jedwali 1")


def test_metamathqa_keeps_its_text_as_it_is(world):
    row = build_corpus("metamathqa", world, ["sw"]).dataset[0]
    assert (row["instruction"], row["output"], row["source_language"]) == ("one\ntwo ", " r", "en")


def test_gsm8kinstruct_has_exactly_the_languages_asked_for(world):
    found = build_corpus("gsm8kinstruct", world, ["fr", "en", "sw"]).dataset
    assert list(dict.fromkeys(found["source_language"])) == ["sw", "en", "fr"]
    assert set(build_corpus("gsm8kinstruct", world, ["fr"]).dataset["target_language"]) == {"fr"}


# ------------------------------------------------------------------------------------------------- MathOctopus's file


@pytest.fixture
def mathoctopus(tmp_path):
    def row(code, question, solution=" s "):
        prompt = MATHOCTOPUS_PROMPT.format(language=LANGUAGES[code].name, question=question)
        return {"prompt": prompt, "chosen": solution}

    rows = [row(code, f"{code}?") for code in LANGUAGES]
    rows += [row("fr", "Her English class has\nInstruction:\nhow many?"), row("zh", "A Swahili class?")]
    runs.write_json_lines(tmp_path / "gsm8kinstruct/MGSM8KInstruct_Parallel.json", rows)
    return tmp_path


def test_paper_finds_a_language_anywhere_in_the_prompt(mathoctopus):
    found = build_corpus("gsm8kinstruct", mathoctopus).dataset
    counts = pd.Series(found["source_language"]).value_counts()
    assert counts["en"] == 2
    assert counts["sw"] == 2
    assert counts["fr"] == counts["zh"] == 1
    assert found[0]["instruction"] == "sw?"
    assert found[0]["output"] == "s"
    assert found[3]["instruction"] == "how many?", "the question stands behind the last 'Instruction:'"


def test_fixed_looks_at_the_template_only(mathoctopus):
    found = build_corpus("gsm8kinstruct", mathoctopus, gsm8kinstruct_language="fixed").dataset
    counts = pd.Series(found["source_language"]).value_counts()
    assert counts["fr"] == counts["zh"] == 2
    assert counts["en"] == counts["sw"] == 1
    assert len(build_corpus("gsm8k", mathoctopus).dataset) == 2


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
    assert len(build_corpus("gsm8kinstruct", world, ["fr"]).dataset) == 3
    found = build_corpus("gsm8kinstruct", world, ["fr"], gsm8kinstruct_language="fixed").dataset
    assert found[3]["output"] == french["answer"]
    assert len(build_corpus("gsm8k", world, gsm8kinstruct_language="fixed").dataset) == 4
    assert len(build_corpus("gsm8k", world).dataset) == 5


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
        ("gsm8kinstruct/en/train.txt", b'{"question": "a", "answer": "b"}\n{"question": ', r"line 2: not JSON"),
        ("gsm8kinstruct/en/train.txt", b'{"question": "a"}\n', r"line 1: field 'answer' is missing .*question"),
        (
            "gsm8kinstruct/en/train.txt",
            b'{"question": "a", "answer": 3}\n',
            "field 'answer' is a number; it must be text",
        ),
        (
            "metamathqa/MetaMathQA-395K.json",
            b'[{"query": "a", "response": "b"},\n{"query"',
            r"line 2: not JSON .* cut off",
        ),
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
        build_corpus(name, world, languages)


def test_a_parquet_file_that_is_none(world):
    (world / "flores/dev/sw.txt").unlink()
    (world / "flores/dev/swh_Latn.parquet").write_bytes(b"<html>sign in</html>")
    with pytest.raises(BadRow, match=r"swh_Latn\.parquet: not a Parquet file"):
        build_corpus("flores-x-en", world, ["sw"])


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
        build_corpus(name, world, ["sw"])


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
        build_corpus(**{"name": "questions-x-en", "data_dir": world, "languages": ["sw"]} | arguments)


def pairs(count: int = 40, codes: tuple[str, ...] = ("sw", "th")) -> list[Row]:
    return [
        {
            "id": f"questions-x-en/{code}/{i}",
            "instruction": translation_instruction(f"{code} question " + "word " * (i % 7) + str(i), code),
            "output": f"English question {code} {i}",
            "source_language": code,
            "target_language": "en",
        }
        for code in codes
        for i in range(count)
    ]


def words(_: list[str], outputs: list[str]) -> list[int]:
    return [len(text.split()) + 1 for text in outputs]


def made(rows: list[Row], seed: int = 1, **choice: Any) -> list[Row]:
    wanted = CorpusChoice(of=["questions-x-en"], **choice)
    return list(corpora.derive("new", rows, wanted, seed=seed, target_tokens=words).dataset)


# ------------------------------------------------------------------------------------------------- parts


def test_a_share_is_sampled_by_the_seed_and_a_smaller_one_lies_in_a_larger_one():
    half, quarter, other = made(pairs(), share=0.5), made(pairs(), share=0.25), made(pairs(), seed=2, share=0.5)
    ids = [[row["id"] for row in rows] for rows in (half, quarter, other)]
    assert Counter(row["source_language"] for row in half) == {"sw": 20, "th": 20}
    assert set(ids[1]) < set(ids[0])
    assert ids[0] != ids[2]
    assert ids[0] == [row["id"] for row in made(pairs(), share=0.5)]


def test_languages_are_left_out_or_chosen():
    assert {row["source_language"] for row in made(pairs(), without=["sw"])} == {"th"}
    assert made(pairs(), languages=["th"]) == made(pairs(), without=["sw"])


def test_the_report_accounts_for_every_row():
    choice = CorpusChoice(of=["x"], without=["sw"], share=0.5, limit=5)
    assert outcomes(corpora.derive("new", pairs(), choice, seed=1, target_tokens=words)) == {
        ("sw", "language left out"): 40,
        ("th", "not sampled"): 20,
        ("th", "beyond the limit"): 15,
        ("th", "kept"): 5,
    }


def test_nothing_left_is_an_error():
    with pytest.raises(BadRow, match=r"corpus new has no examples left; see data.corpora.new"):
        made(pairs(), without=["sw", "th"])


# ------------------------------------------------------------------------------------------------- controls


def test_shuffled_pairs_are_the_same_texts_with_no_pair_left():
    rows = pairs()
    wrong = made(rows, pairs="shuffled")
    assert [row["instruction"] for row in wrong] == [row["instruction"] for row in rows]
    assert Counter(row["output"] for row in wrong) == Counter(row["output"] for row in rows)
    assert not any(a["output"] == b["output"] for a, b in zip(rows, wrong, strict=True))
    assert all(row["output"].split()[2] == row["source_language"] for row in wrong)  # within the language
    assert wrong != made(rows, seed=2, pairs="shuffled")


def test_shuffled_pairs_differ_also_where_outputs_repeat():
    rows = [{**row, "output": f"the same {i // 4}"} for i, row in enumerate(pairs(12, ("sw",)))]
    wrong = made(rows, pairs="shuffled")
    assert not any(a["output"] == b["output"] for a, b in zip(rows, wrong, strict=True))
    with pytest.raises(BadRow, match="too few different outputs"):
        made([{**row, "output": "one"} for row in rows], pairs="shuffled")


@pytest.mark.parametrize("direction", ["x-en", "en-x"])
def test_questions_alone_are_as_long_as_their_translations(direction: str):
    rows = pairs(200)
    if direction == "en-x":
        rows = [
            {
                **row,
                "instruction": translation_instruction(row["output"], "en", row["source_language"]),
                "output": row["instruction"].split(". ", 1)[1],
                "source_language": "en",
                "target_language": row["source_language"],
            }
            for row in rows
        ]
    alone = made(rows, pairs="source-only")
    before, after = (sum(words([], [row["output"] for row in part])) for part in (rows, alone))
    assert abs(after - before) <= 0.01 * before
    assert all(row["output"].startswith(f"{row['source_language']} question") for row in alone)
    assert {row["instruction"] for row in alone} == {
        "Write a text in Swahili (macrolanguage).",
        "Write a text in Thai.",
    }
    assert {(row["source_language"], row["target_language"]) for row in alone} == {("sw", "sw"), ("th", "th")}


def test_shorter_texts_are_repeated_until_they_are_as_long():
    rows = [{**row, "output": row["output"] + " long" * 30} for row in pairs(20)]
    alone = made(rows, pairs="source-only")
    assert len(alone) > len(rows)
    assert abs(sum(words([], [r["output"] for r in alone])) - sum(words([], [r["output"] for r in rows]))) <= 6


def test_controls_need_translations():
    solved = [{**row, "target_language": row["source_language"]} for row in pairs(3)]
    for control in ("shuffled", "source-only"):
        with pytest.raises(BadRow, match="pairs needs translations into or from English, but questions-x-en/sw/0"):
            made(solved, pairs=control)


# ------------------------------------------------------------------------------------------------- a file of one's own


def test_a_file_of_ones_own_is_read_with_english_assumed(tmp_path: Path):
    path = write_own(
        tmp_path / "own.jsonl",
        {"instruction": "2 + 2?", "output": "4"},
        {"instruction": "2 + 3?", "output": "5", "source_language": "sw", "target_language": "en"},
        {"instruction": "2 + 3?", "output": "5", "language": "sw", "id": 7, "input": "", "context": None},
    )
    rows = corpora.read_file("own", path)
    assert [(row["id"], row["source_language"], row["target_language"]) for row in rows] == [
        ("own/0", "en", "en"),
        ("own/1", "sw", "en"),
        ("7", "sw", "sw"),
    ]
    array = tmp_path / "own.json"
    array.write_text(json.dumps([json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]))
    assert corpora.read_file("own", array) == rows
    pd.DataFrame({"instruction": ["2 + 2?"], "output": ["4"]}).to_parquet(tmp_path / "own.parquet")
    assert corpora.read_file("own", tmp_path / "own.parquet") == rows[:1]


def test_an_input_stands_in_the_authors_second_prompt(tmp_path: Path):
    row = {"instruction": "Solve.", "input": "2+3?", "output": "5"}
    (read,) = corpora.read_file("own", write_own(tmp_path / "own.jsonl", row))
    assert prompts.alpaca(read["instruction"]) == (  # NJUNLP/QAlign finetune.py:18-23
        "Below is an instruction that describes a task, paired with an input that provides further context. Write a "
        "response that appropriately completes the request.\n\n"
        "### Instruction:\nSolve.\n\n### Input:\n2+3?\n\n### Response:"
    )
    assert prompts.alpaca("Solve.") == prompts.ALPACA.format(instruction="Solve.")


def test_prompt_fields_are_refused_unless_they_are_ignored_or_in_the_prompt(tmp_path: Path):
    row = {"instruction": "What is 2+3?", "output": "5", "query": "2+3?", "messages": [{"role": "user"}], "input": "x"}
    path = write_own(tmp_path / "own.jsonl", row)
    with pytest.raises(BadRow, match=r"field 'messages' has text .* data\.corpora\.own\.ignore_fields: \[messages\]"):
        corpora.read_file("own", path)
    for field in ("passage", "problem", "Input"):
        other = write_own(tmp_path / "other.jsonl", {"instruction": "Solve.", "output": "5", field: "2+3?"})
        with pytest.raises(BadRow, match=rf"field '{field}' has text .*ignore_fields: \[{field}\]"):
            corpora.read_file("own", other)
    (read,) = corpora.read_file("own", path, ["messages", "input"])
    assert read["instruction"] == "What is 2+3?"


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"instruction": "x"}, "line 2: field 'output' is missing"),
        ({"instruction": "x", "output": " "}, "line 2: field 'output' is blank"),
        ({"instruction": "x", "output": "y", "input": "\ud83d"}, r"line 2: field 'input' holds .ud83d, half"),
        (
            {"instruction": "x", "output": "y", "language": "Swahili"},
            "line 2: language: unknown language code 'Swahili'",
        ),
        ({"instruction": "x", "output": "y", "source_language": "xx"}, "source_language: unknown language code 'xx'"),
        (
            {"instruction": "x", "output": "y", "target_language": ["de"]},
            r"line 2: target_language: unknown language code .*known codes",
        ),
        ({"instruction": "x", "output": "y", "id": "\ud83d"}, r"line 2: field 'id' holds .ud83d, half a character"),
        ({"instruction": "x", "output": "y", "id": {}}, "line 2: field 'id' must be text or a number"),
    ],
)
def test_a_row_of_ones_own_that_cannot_be_used_is_named(tmp_path: Path, row: dict, said: str):
    path = write_own(tmp_path / "own.jsonl", {"instruction": "a", "output": "b"}, row)
    with pytest.raises(BadRow, match=said):
        corpora.read_file("own", path)


@pytest.mark.parametrize(("path", "said"), [("", "is a folder"), ("/dev/zero", "is not a regular file")])
def test_a_corpus_of_ones_own_is_a_file(tmp_path: Path, path: str, said: str):
    with pytest.raises(BadRow, match=rf"data\.corpora\.own\.path: .* {said}; name a file of JSON lines"):
        corpora.read_file("own", path or tmp_path)


# ------------------------------------------------------------------------------------------------- in a run

MADE = {
    "mgsm": 2,
    "msvamp": 2,
    "dev": 2,
    "questions": 30,
    "gsm8kinstruct": 8,
    "gsm8k": 8,
    "metamathqa": 12,
    "flores": 8,
}
CORPORA = {
    "questions-x-en": {"limit": 24},
    "half-the-questions": {"of": "questions-x-en", "share": 0.5},
    "both-directions": {"of": ["questions-x-en", "questions-en-x"]},
    "shuffled-pairs": {"of": "questions-x-en", "pairs": "shuffled"},
    "questions-alone": {"of": "questions-x-en", "pairs": "source-only"},
    "metamathqa-equations": {"of": "metamathqa", "style": "equations"},
}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> tuple[Profile, runs.Run]:
    folder = tmp_path_factory.mktemp("derived")
    own = write_own(
        folder / "own.jsonl", {"instruction": "2 + 2?", "output": "4"}, {"instruction": "1?", "output": "1"}
    )
    chosen = {**CORPORA, "my-corpus": {"path": str(own)}}
    systems = {name: {"lineage": [name]} for name in chosen if name != "questions-x-en"}
    data = {"data__languages": ["th", "de", "en"], "data__corpora": chosen, "data__miniature__sizes": MADE}
    profile = changed("smoke", systems=systems, **data)
    run = plan.open_run(profile, folder / "run")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("QALIGN_CACHE_DIR", str(folder / "cache"))
        prepare.write_corpora(profile, run)
        prepare.write_benchmarks(profile, run)
    return profile, run


def test_a_run_writes_its_derived_corpora(prepared: tuple[Profile, runs.Run]):
    profile, run = prepared
    rows = {name: len(read_corpus(profile, run, name)) for name in profile.corpora()}
    assert rows["half-the-questions"] == 24
    assert rows["both-directions"] == 2 * 24 + 2 * 30
    both = read_corpus(profile, run, "both-directions").id.str.split("/").str[0]
    assert list(dict.fromkeys(both)) == ["questions-x-en", "questions-en-x"]
    assert rows["shuffled-pairs"] == 48
    assert rows["metamathqa-equations"] == 12
    assert rows["my-corpus"] == 2
    drawn = {name: corpus_seed(profile, name, 1) for name in profile.corpora()}
    assert drawn == {**dict.fromkeys(drawn, 1), "my-corpus": None}


def test_questions_alone_have_the_originals_target_tokens(prepared: tuple[Profile, runs.Run]):
    profile, run = prepared
    tokenizer = base_tokenizer(profile, run)
    totals = {}
    for name in ("shuffled-pairs", "questions-alone"):
        rows = read_corpus(profile, run, name)
        encoded = encode_examples(list(rows.instruction), list(rows.output), tokenizer, profile.training.max_length)
        totals[name] = sum(label != IGNORED for labels in encoded["labels"] for label in labels)
    assert abs(totals["questions-alone"] - totals["shuffled-pairs"]) <= 0.01 * totals["shuffled-pairs"]


def test_another_style_has_the_same_problems_with_other_solutions(prepared: tuple[Profile, runs.Run]):
    profile, run = prepared
    styled = read_corpus(profile, run, "metamathqa-equations")
    plain = prepare.build(profile, run, 1, "metamathqa", None).dataset
    assert list(styled.instruction) == plain["instruction"][:]
    assert list(styled.output) != plain["output"][:]


def test_a_derived_corpus_takes_part_in_the_fingerprint_by_its_content(prepared: tuple[Profile, runs.Run]):
    profile, run = prepared
    before = plan.stage_job(profile, run, 1, ["my-corpus"])
    assert before.content["corpus"]["sha256"] == runs.sha256_file(run.corpus("my-corpus"))
    own = Path(profile.data.corpora["my-corpus"].path or "")
    text = own.read_text(encoding="utf-8")
    try:
        write_own(own, {"instruction": "2 + 2?", "output": "5"}, {"instruction": "1?", "output": "1"})
        built = prepare.build(profile, run, 1, "my-corpus", None)
        path = runs.write_json_lines(run.corpus("my-corpus"), list(built.dataset))
        runs.write_json(path.with_suffix(".json"), {"rows": 2, "sha256": runs.sha256_file(path), "report": []})
        assert plan.stage_job(profile, run, 1, ["my-corpus"]).content["fingerprint"] != before.content["fingerprint"]
    finally:
        own.write_text(text, encoding="utf-8")


def test_the_development_questions_can_be_asked_instead(prepared: tuple[Profile, runs.Run], tmp_path: Path):
    profile, run = prepared
    sections = profile.model_dump(mode="json")
    sections["data"]["miniature"]["split"] = "development"
    sections["data"]["corpora"], sections["systems"] = {}, {"Base": {"lineage": []}}
    chosen, other = params.validate(sections), runs.Run(tmp_path / "development")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("QALIGN_CACHE_DIR", str(run.folder.parent / "cache"))  # the world that is there
        prepare.write_corpora(chosen, other)
        prepare.write_benchmarks(chosen, other)
    for name in ("mgsm", "msvamp"):
        asked, tested = (runs.read_json_lines(place.benchmark(name, "th")) for place in (other, run))
        assert len(asked) == len(tested) == MADE["dev"]
        assert not {row["question"] for row in asked} & {row["question"] for row in tested}


def test_only_what_is_not_derived_is_audited(prepared: tuple[Profile, runs.Run]):
    profile, run = prepared
    examples, _ = prepare.loaded(profile, run)
    assert set(prepare.audited(profile, examples)) == {"my-corpus"}
