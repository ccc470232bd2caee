"""Derived corpora: parts, joined ones, controls and files of one's own; and what a run makes of them."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml

from qalign_core import corpora, params, plan, prepare, runs
from qalign_core.corpora import Row, corpus_seed, read_corpus
from qalign_core.models import base_tokenizer
from qalign_core.params import PARAMS_FOLDER, CorpusChoice, Profile
from qalign_core.prompts import translation_instruction
from qalign_core.runs import BadRow
from qalign_core.supervision import IGNORED, encode_examples


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


def test_a_limit_keeps_the_first_of_each_language():
    kept = made(pairs(), limit=3)
    assert [row["id"] for row in kept] == [f"questions-x-en/{code}/{i}" for code in ("sw", "th") for i in range(3)]


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
    report = corpora.derive("new", pairs(), choice, seed=1, target_tokens=words).report
    counted = {(line.language, line.outcome): line.rows for line in report.itertuples()}
    assert counted == {
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


def write_own(path: Path, *rows: Any) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_a_file_of_ones_own_is_read_with_english_assumed(tmp_path: Path):
    path = write_own(
        tmp_path / "own.jsonl",
        {"instruction": "2 + 2?", "output": "4"},
        {"instruction": "2 + 3?", "output": "5", "source_language": "sw", "target_language": "sw"},
    )
    rows = corpora.read_file("own", path)
    assert [(row["id"], row["source_language"], row["target_language"]) for row in rows] == [
        ("own/0", "en", "en"),
        ("own/1", "sw", "sw"),
    ]


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"instruction": "x"}, "line 2: field 'output' is missing"),
        ({"instruction": "x", "output": " "}, "line 2: field 'output' is blank"),
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

SIZES = {
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
    sections = yaml.safe_load((PARAMS_FOLDER / "smoke.yaml").read_text(encoding="utf-8"))
    sections["data"]["languages"] = ["th", "de", "en"]
    sections["data"]["corpora"] = {**CORPORA, "my-corpus": {"path": str(own)}}
    sections["data"]["miniature"]["sizes"] = SIZES
    names = [name for name in sections["data"]["corpora"] if name != "questions-x-en"]
    sections["systems"] = {name: {"lineage": [name]} for name in names}
    profile = params.validate(sections)
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
        assert len(asked) == len(tested) == SIZES["dev"]
        assert not {row["question"] for row in asked} & {row["question"] for row in tested}


def test_only_what_is_not_derived_is_audited(prepared: tuple[Profile, runs.Run]):
    profile, run = prepared
    examples, _ = prepare.loaded(profile, run)
    assert set(prepare.audited(profile, examples)) == {"my-corpus"}
