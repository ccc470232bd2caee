"""Every template that reaches a model, against the authors' own output."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import get_args

import pytest

from qalign_core import prompts
from qalign_core.prompts import alpaca, build, translation_instruction

HEAD = "Below is an instruction that describes a task. Write a response that appropriately completes the request"


def golden(folder: Path, name: str) -> list[dict]:
    lines = (folder / "golden" / name).read_text(encoding="utf-8").splitlines()
    assert lines
    return [json.loads(line) for line in lines]


@pytest.mark.parametrize(
    "question", ["{instruction}", "{", "}", "{0}", "{{x}}", "a % b %s", "\\n", "line\n\nline", " x "]
)
def test_a_question_is_put_into_a_template_as_it_stands(question: str):
    assert alpaca(question) == f"{HEAD}.\n\n### Instruction:\n{question}\n\n### Response:"
    for template in ("alpaca", "mathoctopus", "metamath"):
        assert f"### Instruction:\n{question}\n\n### Response:" in build(template, question, "th")


def test_alpaca_equals_the_authors_prompts(reference_dir: Path):
    for row in golden(reference_dir, "encode.jsonl"):
        assert alpaca(row["instruction"]) == row["prompt"]


# ------------------------------------------------------------------------------------------------- stage 1


def test_swahili_is_named_as_in_iso_639_3_unless_plain_names_are_wanted():
    assert translation_instruction("Habari?", "sw") == (
        "Translate the following sentences from Swahili (macrolanguage) to English. Habari?"
    )
    assert translation_instruction("Habari?", "sw", names="plain") == (
        "Translate the following sentences from Swahili to English. Habari?"
    )


def test_the_other_direction_names_english_first():
    assert translation_instruction("Why?", "en", "sw") == (
        "Translate the following sentences from English to Swahili (macrolanguage). Why?"
    )


def test_a_question_is_stripped_and_its_braces_are_kept():
    assert translation_instruction("  {source} {x}\n ", "de").endswith("from German to English. {source} {x}")


def test_stage_1_instructions_equal_the_authors(reference_dir: Path, data_dir: Path):
    compared = 0
    for entry in golden(reference_dir, "stage1_rows.jsonl"):
        code = entry["language"]
        source = data_dir / "gsm8kinstruct_question" / f"{code}-en" / f"train.{code}"
        questions = source.read_text(encoding="utf-8").split("\n")
        for row, question in zip(entry["first"], questions, strict=False):
            assert translation_instruction(question, code) == row["instruction"]
            compared += 1
    assert compared >= 15


def test_unknown_languages_and_names_are_refused():
    with pytest.raises(ValueError, match="unknown language code 'tlh'; known codes: bn"):
        translation_instruction("nuqneH", "tlh")
    with pytest.raises(ValueError, match="unknown language code 'xx'"):
        translation_instruction("x", "sw", "xx")
    with pytest.raises(ValueError, match="names must be 'paper' or 'plain', not 'long'"):
        translation_instruction("x", "sw", names="long")


# ------------------------------------------------------------------------------------------------- checkpoints' own


def test_mathoctopus_asks_for_an_answer_in_the_questions_language():
    assert build("mathoctopus", "1+1?", "sw") == (
        f"{HEAD} in Swahili. Please answer in Swahili.\n\n### Instruction:\n1+1?\n\n### Response:"
    )


def test_metamath_adds_one_sentence_behind_the_colon():
    assert build("metamath", "1+1?", "de") == alpaca("1+1?") + " Let's think step by step."


def test_an_unknown_template_is_refused():
    with pytest.raises(ValueError, match="unknown template 'chatml'; known: alpaca, mathoctopus, metamath, chat"):
        build("chatml", "1+1?", "en")


# ------------------------------------------------------------------------------------------------- the registry


def test_a_profile_may_name_every_template_and_train_on_those_that_need_no_language():
    assert get_args(prompts.TemplateName) == tuple(prompts.TEMPLATES)
    trained = set(get_args(prompts.TrainedTemplateName))
    assert {"alpaca", "metamath", "chat"} <= trained <= prompts.TEMPLATES.keys() - {"mathoctopus"}


def test_a_new_template_is_one_entry(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(prompts.TEMPLATES, "plain", prompts.Template("Q ({language}): {instruction}\nA:", "a question"))
    assert build("plain", "1+{1}?", "de") == "Q (German): 1+{1}?\nA:"
    tokenizer = SimpleNamespace(eos_token="</s>", eos_token_id=2)
    assert prompts.render(tokenizer, "1+1?", "plain") == "Q (English): 1+1?\nA:"
    assert prompts.turn(tokenizer, "plain") == prompts.Turn("", "</s>", 2)


def test_a_chat_template_leaves_the_question_to_the_tokenizer():
    assert build("chat", "1+1?", "de") == "1+1?"
    with pytest.raises(ValueError, match=r"no chat template: use model\.template: alpaca"):
        prompts.render(SimpleNamespace(chat_template=None), "1+1?", "chat")
