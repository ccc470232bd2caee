"""The miniature's data folder: layouts, determinism and content."""

from __future__ import annotations

import hashlib
import json
import random
import re

import pytest

from qalign_core import miniature
from qalign_core.languages import CODES, LANGUAGES, NON_ENGLISH
from qalign_core.miniature import language as generic
from qalign_core.miniature.folder import prefix_equation

SIZES = {
    "mgsm": 20, "msvamp": 30, "dev": 10, "questions": 40, "gsm8kinstruct": 25, "gsm8k": 20, "metamathqa": 60,
    "flores": 30,
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("world")
    miniature.write_world(folder, seed=1, sizes=SIZES)
    return folder


@pytest.fixture(scope="module")
def manifest(folder):
    return json.loads((folder / "manifest.json").read_text(encoding="utf-8"))


def json_lines(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_the_same_seed_writes_the_same_bytes(manifest, tmp_path):
    assert miniature.write_world(tmp_path, seed=1, sizes=SIZES) == manifest
    for path, digest in manifest["files"].items():
        assert hashlib.sha256((tmp_path / path).read_bytes()).hexdigest() == digest
    assert json.loads((tmp_path / "manifest.json").read_text(encoding="utf-8")) == manifest


def test_another_seed_draws_other_training_data_but_the_same_tests(manifest, tmp_path):
    other = miniature.write_world(tmp_path, seed=2, sizes=SIZES)
    for path, digest in manifest["files"].items():
        same = path.startswith(("mgsm/", "msvamp/", "dev/"))
        assert (other["files"][path] == digest) == same, path


def test_every_file_of_the_layout_is_there(folder, manifest):
    expected = {"gsm8k/train.jsonl", "metamathqa/MetaMathQA-395K.json"}
    for code in CODES:
        for prefix in ("", "dev/"):
            expected |= {f"{prefix}mgsm/mgsm_{code}.tsv", f"{prefix}msvamp/test_{LANGUAGES[code].name}.json"}
        expected |= {f"gsm8kinstruct/{code}/train.txt", f"flores/dev/{code}.txt"}
    for code in NON_ENGLISH:
        expected |= {f"gsm8kinstruct_question/{code}-en/train.{side}" for side in (code, "en")}
    assert set(manifest["files"]) == expected
    assert len((folder / "mgsm/mgsm_sw.tsv").read_text().splitlines()) == SIZES["mgsm"]
    assert len((folder / "dev/msvamp/test_English.json").read_text().splitlines()) == SIZES["dev"]
    assert (folder / "manifest.json").is_file()


def test_benchmarks_ask_the_same_in_ten_languages(folder):
    answers = set()
    for code in CODES:
        lines = (folder / f"mgsm/mgsm_{code}.tsv").read_text(encoding="utf-8").splitlines()
        rows = [line.split("\t") for line in lines]
        assert all(len(row) == 2 for row in rows)
        answers.add(tuple(answer for _, answer in rows))
    assert len(answers) == 1
    english = json_lines(folder / "msvamp/test_English.json")
    for code in CODES:
        rows = json_lines(folder / f"msvamp/test_{LANGUAGES[code].name}.json")
        assert [row["query"] for row in rows] == [row["m_query"] for row in english]
        assert [row["response"] for row in rows] == [row["response"] for row in english]
        assert [row["equation"] for row in rows] == [row["equation"] for row in english]


def prefix_value(tokens, numbers):
    """The value of an equation as mSVAMP writes it, and what is left of its tokens."""
    head, *rest = tokens
    if head.startswith("number"):
        return numbers[int(head.removeprefix("number"))], rest
    left, rest = prefix_value(rest, numbers)
    right, rest = prefix_value(rest, numbers)
    return {"+": left + right, "-": left - right, "*": left * right, "/": left / right}[head], rest


def test_the_equations_of_the_out_of_domain_benchmark_give_its_answers(folder):
    checked = 0
    for row in json_lines(folder / "msvamp/test_English.json"):
        numbers = [int(number) for number in re.findall(r"\d+", row["query"])]
        places = {int(place) for place in re.findall(r"number(\d)", row["equation"])}
        if re.search(r"\b(one|two|three|four|five|six|seven|eight|nine|ten)\b", row["query"]) or max(places) >= len(
            numbers
        ):
            continue
        checked += 1
        assert prefix_value(row["equation"].split(), numbers) == (float(row["response"]), [])
    assert checked > 10
    assert prefix_equation(("-", 1, ("*", 0, 2))) == "- number1 * number0 number2"


def test_question_pairs_hold_every_solved_question(folder):
    english = [row["question"] for row in json_lines(folder / "gsm8kinstruct/en/train.txt")]
    for code in NON_ENGLISH:
        solved = [row["question"] for row in json_lines(folder / f"gsm8kinstruct/{code}/train.txt")]
        pair = folder / f"gsm8kinstruct_question/{code}-en"
        sources = (pair / f"train.{code}").read_text(encoding="utf-8").splitlines()
        targets = (pair / "train.en").read_text(encoding="utf-8").splitlines()
        assert len(sources) == len(targets) == len(set(targets)) == SIZES["questions"]
        pairs = dict(zip(sources, targets, strict=True))
        assert [pairs[source] for source in solved] == english


def test_stage_2_has_the_fields_of_metamathqa(folder):
    rows = json.loads((folder / "metamathqa/MetaMathQA-395K.json").read_text(encoding="utf-8"))
    assert len(rows) == SIZES["metamathqa"]
    assert {frozenset(row) for row in rows} == {frozenset(("query", "response", "type", "original_question"))}
    rephrased = [row for row in rows if row["type"] == "MINI_Rephrased"]
    assert len(rephrased) == len(rows) // 5
    told = {row["query"]: row["response"] for row in rows if row["type"] == "MINI_AnsAug"}
    for row in rephrased:
        assert row["query"] != row["original_question"]
        assert told[row["original_question"]] == row["response"]
    assert all(re.search(r"The answer is: \d+$", row["response"]) for row in rows)
    assert json_lines(folder / "gsm8k/train.jsonl")[0]["answer"].split("\n")[-1].startswith("#### ")


def test_generic_sentences_differ_and_hold_no_numbers(folder):
    lines = {code: (folder / f"flores/dev/{code}.txt").read_text(encoding="utf-8").splitlines() for code in CODES}
    assert len(set(lines["en"])) == SIZES["flores"]
    assert {len(side) for side in lines.values()} == {SIZES["flores"]}
    assert not any(re.search(r"\d", line) for side in lines.values() for line in side)


def test_styles_change_the_solutions_only(manifest, tmp_path):
    other = miniature.write_world(tmp_path, seed=1, sizes=SIZES, style="equations")
    changed = {path for path, digest in manifest["files"].items() if other["files"][path] != digest}
    assert changed == {"metamathqa/MetaMathQA-395K.json"}


def test_more_generic_sentences_than_there_are_cannot_be_had(monkeypatch):
    monkeypatch.setattr(generic, "MOST_MISSES", 0)
    with pytest.raises(ValueError, match="no 3000 different generic sentences"):
        generic.distinct_generic(random.Random(1), 3000)


def test_the_base_corpus_is_as_long_as_asked(tmp_path):
    made = miniature.write_base_corpus(tmp_path / "base.jsonl", seed=1, tokens=20_000)
    rows = json_lines(tmp_path / "base.jsonl")
    assert len(rows) == made["rows"] == sum(row["documents"] for row in made["report"])
    assert 20_000 <= made["tokens"] < 21_000
    assert made["tokens"] == sum(row["tokens"] for row in made["report"])
    assert set(rows[0]) == {"id", "text", "language", "kind"}
