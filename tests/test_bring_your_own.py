"""Another base, another language, another corpus, another benchmark: all from a folder outside the package.

Everything here is what README's "Going further" tells a reader to write: a profile and a few files of one's own.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from itertools import chain
from pathlib import Path

import pandas as pd
import pytest
import torch
import yaml
from datasets import Dataset
from forked_training import Forks, forks
from profiles import with_changes
from tiny_training import ENVIRONMENT, byte_level
from transformers import AutoModelForCausalLM, LlamaConfig, MistralConfig, Qwen2Config

from qalign_core import evaluate, generate, params, plan, prepare, prompts, runs
from qalign_core.audit import token_lengths
from qalign_core.benchmarks import load_benchmark
from qalign_core.corpora import read_corpus
from qalign_core.languages import CODES, LANGUAGES, PAPER_CODES, Language, add, refuse_unrecognisable
from qalign_core.models import load_tokenizer
from qalign_core.params import Profile, ProfileError
from qalign_core.runs import Run
from qalign_core.scorer import response_language
from qalign_core.show import report
from qalign_core.supervision import IGNORED, encode

__all__ = ["forks"]  # a fixture
QUESTIONS = {  # the same sums in four languages: (question, its answer)
    "ko": [("사과 세 개와 두 개를 더하면 몇 개입니까?", "5"), ("연필 열 자루에서 네 자루를 빼면 몇 자루입니까?", "6")],
    "te": [("మూడు పండ్లు, రెండు పండ్లు కలిపితే ఎన్ని?", "5"), ("పది పెన్సిళ్లలో నాలుగు తీసేస్తే ఎన్ని?", "6")],
    "sw": [("Matufaha matatu na mawili ni mangapi?", "5"), ("Penseli kumi ukitoa nne ni ngapi?", "6")],
    "en": [("How many are three apples and two apples?", "5"), ("How many are ten pencils less four pencils?", "6")],
}
SPECIAL = {  # what begins a text, what ends one, other special tokens, and the chat template, by family
    "llama3": (
        "<|begin_of_text|>",
        "<|end_of_text|>",
        ["<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"],
        "{{ bos_token }}<|start_header_id|>system<|end_header_id|>\n\nToday Date: {{ date_string }}<|eot_id|>"
        "{% for m in messages %}<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n{{ m.content | trim }}<|eot_id|>"
        "{% endfor %}{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}",
    ),
    "qwen": (
        None,
        "<|endoftext|>",
        ["<|im_start|>", "<|im_end|>"],
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
    ),
    "mistral": (
        "<s>",
        "</s>",
        ["[INST]", "[/INST]"],
        "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }}[/INST]"
        "{% else %} {{ m.content }}{{ eos_token }}{% endif %}{% endfor %}",
    ),
}
CONFIGS = {"llama3": LlamaConfig, "qwen": Qwen2Config, "mistral": MistralConfig}


def make_base(folder: Path, family: str) -> Path:
    """A model of a few thousand weights with a byte-level tokenizer and the chat template of its family."""
    bos, eos, others, template = SPECIAL[family]
    questions = [question for rows in QUESTIONS.values() for question, _ in rows]
    rows = byte_level(folder, questions, bos, eos, *others, chat_template=template)
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = CONFIGS[family](**sizes, num_key_value_heads=2, vocab_size=rows)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def outside(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of somebody's own: a base, a Korean part of the question pairs and of mGSM, a corpus, a benchmark, and
    the profile that names them."""
    home = tmp_path_factory.mktemp("outside")
    make_base(home / "base", "qwen")
    for code in ("sw", "ko", "te"):
        pairs = (home / "data" if code == "sw" else home / code) / "gsm8kinstruct_question" / f"{code}-en"
        pairs.mkdir(parents=True)
        for side in (code, "en"):
            (pairs / f"train.{side}").write_text("".join(f"{q}\n" for q, _ in QUESTIONS[side]), encoding="utf-8")
    for code, rows in QUESTIONS.items():
        runs.write_json_lines(home / "sums" / f"{code}.jsonl", [{"question": q, "answer": a} for q, a in rows])
    solved = [{"instruction": q, "output": f"The answer is {a}"} for q, a in QUESTIONS["en"]]
    runs.write_json_lines(home / "solved.jsonl", solved * 4)
    languages = {"ko": ("Korean", "한국어", "Hangul"), "te": ("Telugu", "తెలుగు", "Telugu")}
    profile = {
        "run": {"profile": "outside", "seeds": [1], "devices": 1},
        "model": {"base": str(home / "base"), "template": "chat"},
        "data": {
            "new_languages": {
                code: {"name": name, "native_name": native, "script": script, "folder": str(home / code)}
                for code, (name, native, script) in languages.items()
            },
            "languages": ["ko", "te", "sw", "en"],
            "sources": {"questions": "folder"},
            "folder": str(home / "data"),
            "corpora": {"solved": {"path": str(home / "solved.jsonl")}},
        },
        "systems": {
            "MonoReason": {"lineage": ["solved"]},
            "QAlign": {"lineage": ["questions-x-en", "solved"]},
        },
        "training": {
            "num_train_epochs": 1,
            "per_device_train_batch_size": 2,
            "gradient_accumulation_steps": 1,
            "learning_rate": 1e-3,
            "logging_steps": 1,
            "packing": False,
            "deepspeed": "deepspeed/zero0.json",
        },
        "evaluation": {
            "benchmarks": {"sums": {"folder": str(home / "sums"), "max_new_tokens": 6}},
            "translation": {"max_new_tokens": 6, "limit": 2},
            "dtype": "float32",
        },
    }
    (home / "outside.yaml").write_text(yaml.safe_dump(profile, allow_unicode=True), encoding="utf-8")
    return home


def load(home: Path, **changes: object) -> Profile:
    """The outside profile, with keys such as `model__template` changed."""
    return params.validate(with_changes(runs.read_yaml(home / "outside.yaml"), changes))


@pytest.fixture(scope="module")
def road(outside: Path, forks: Forks) -> tuple[Profile, Run]:
    """The run of the outside profile: prepared, trained, and every system asked."""
    profile = load(outside)
    run = plan.open_run(profile, outside / "run")
    prepare.write_corpora(profile, run)
    prepare.write_benchmarks(profile, run)
    train(forks, [plan.stage_job(profile, run, 1, lineage) for lineage in profile.lineages()])
    for job in chain(*evaluate.answering_jobs(profile, run)):
        generate.generate(runs.write_json(job.folder / "job.json", job.content))
    return profile, run


def train(forks: Forks, jobs: list[plan.Job]) -> None:
    """Train stages one after the other, in one process."""
    forks.in_turn([runs.write_json(job.folder / "job.json", job.content) for job in jobs])
    errors = [path.read_text(encoding="utf-8") for job in jobs for path in job.folder.glob("error.txt")]
    assert all(job.done for job in jobs), errors


# ------------------------------------------------------------------------------------------------- the whole road


def test_tables_and_figures_take_the_languages_and_the_benchmark(road: tuple[Profile, Run]):
    profile, run = road
    answers = evaluate.score_run(profile, run)
    assert len(answers) == 2 * 4 * 2  # systems × languages × questions
    evaluate.save_results(profile, run, answers)
    results = evaluate.save_consistency(profile, run)
    tables = {table.name: table for table in report.run_tables(results)}
    shown = tables["table-accuracy-sums"]
    assert list(shown.text)[1:5] == ["sw", "ko", "te", "en"]  # the paper's order, then one's own, English last
    assert shown.title == "Accuracy on sums (%)"
    assert "Korean (ko)" in set(shown.details[0].text["Language"])
    assert "table-consistency-sums" in tables
    drawn = report.redraw(run.results, run.figures)
    assert {"figure-headline.png", "figure-3-consistency.png", "table-accuracy-sums.md"} <= {
        path.name for path in drawn
    }


def test_saved_results_are_drawn_by_a_process_that_has_not_seen_the_profile(road: tuple[Profile, Run], tmp_path: Path):
    profile, run = road
    evaluate.save_results(profile, run, evaluate.score_run(profile, run))
    command = [sys.executable, "-m", "qalign_core.show.report", str(run.results), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | {"COLUMNS": "150"})
    assert done.returncode == 0, done.stderr
    table = pd.read_csv(tmp_path / "table-accuracy-sums.csv")
    assert [code for code in table.columns if code in LANGUAGES] == ["sw", "ko", "te", "en"]


def test_the_corpora_name_the_languages_in_english_and_keep_their_text(road: tuple[Profile, Run]):
    profile, run = road
    pairs = read_corpus(profile, run, "questions-x-en")
    assert list(dict.fromkeys(pairs.source_language)) == ["sw", "ko", "te"]
    korean = pairs[pairs.source_language == "ko"].iloc[0]
    assert korean.instruction == f"Translate the following sentences from Korean to English. {QUESTIONS['ko'][0][0]}"
    assert korean.output == QUESTIONS["en"][0][0]


def test_a_chat_base_is_trained_and_asked_as_a_chat(road: tuple[Profile, Run]):
    profile, run = road
    folder = run.model(1, ["questions-x-en", "solved"])
    job = plan.prediction_job(profile, run, "QAlign", 1)
    asked = runs.read_json_lines(job.folder / "sums" / "ko.jsonl")[0]
    assert asked["prompt"] == f"<|im_start|>user\n{QUESTIONS['ko'][0][0]}<|im_end|>\n<|im_start|>assistant\n"
    tokenizer = load_tokenizer(str(folder))
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert runs.read_json(folder / "generation_config.json")["eos_token_id"] == end
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    ids = tokenizer(asked["prompt"], add_special_tokens=False, return_tensors="pt")
    alone = model.generate(**ids, max_new_tokens=6, do_sample=False)[0, ids["input_ids"].shape[1] :]
    assert asked["response"] == tokenizer.decode(alone, skip_special_tokens=True)


def test_a_half_finished_run_goes_on_in_another_folder(road: tuple[Profile, Run], forks: Forks, tmp_path: Path):
    profile, run = road
    last = ["questions-x-en", "solved"]
    skipped = shutil.ignore_patterns("*.lock", "predictions", "results", "figures")
    moved = Run(shutil.copytree(run.folder, tmp_path / "moved", symlinks=True, ignore=skipped))
    shutil.rmtree(moved.stage(1, last))
    for link in (moved.folder / "data" / "source").rglob("*"):  # as where nobody has their targets
        if link.is_symlink():
            link.unlink()
            link.symlink_to(tmp_path / "gone")
    assert plan.stage_job(profile, moved, 1, last[:1]).done
    job = plan.stage_job(profile, moved, 1, last)
    assert job.content == plan.stage_job(profile, run, 1, last).content
    train(forks, [job])
    for name in ("model.safetensors", "config.json", "tokenizer.json"):
        assert runs.sha256_file(moved.model(1, last) / name) == runs.sha256_file(run.model(1, last) / name)
    asked = plan.prediction_job(profile, moved, "QAlign", 1)
    generate.generate(runs.write_json(asked.folder / "job.json", asked.content))
    answers = runs.read_json(asked.folder / "done.json")["files"]
    assert answers == runs.read_json(plan.prediction_job(profile, run, "QAlign", 1).folder / "done.json")["files"]


@pytest.mark.slow
def test_every_notebook_takes_it(outside: Path, tmp_path: Path):
    command = [sys.executable, "-m", "qalign_core.reproduce", str(outside / "outside.yaml"), "--run-dir", str(tmp_path)]
    environment = ENVIRONMENT | {"QALIGN_CACHE_DIR": str(tmp_path / "cache"), "COLUMNS": "150"}
    done = subprocess.run(command, cwd=outside, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Accuracy on sums" in done.stdout
    pages = {path.name[:2]: path.read_text(encoding="utf-8") for path in (tmp_path / "report").glob("*.html")}
    assert "한국어" in pages["01"]
    assert "తెలుగు" in pages["04"]
    assert "Accuracy on sums" in pages["04"]


# ------------------------------------------------------------------------------------------------- a base


@pytest.mark.parametrize("family", list(SPECIAL))
def test_a_chat_example_is_what_the_template_writes(family: str, tmp_path: Path):
    tokenizer = load_tokenizer(str(make_base(tmp_path, family)))
    example = encode("3 + 2?", "It is 5", tokenizer, template="chat")
    turns = [{"role": "user", "content": "3 + 2?"}, {"role": "assistant", "content": "It is 5"}]
    whole = tokenizer.apply_chat_template(turns, tokenize=False, date_string=prompts.CHAT_DATE)
    assert tokenizer.decode(example["input_ids"]) == whole.rstrip("\n")  # one BOS at most, none doubled
    learnt = tokenizer.decode([label for label in example["labels"] if label != IGNORED])
    ends = {"llama3": "It is 5<|eot_id|>", "qwen": "It is 5<|im_end|>", "mistral": " It is 5</s>"}
    assert learnt == ends[family]
    turn = prompts.turn(tokenizer, "chat")
    assert tokenizer.convert_ids_to_tokens(turn.end_id) == turn.end
    row = {"id": "0", "instruction": "3 + 2?", "output": "It is 5", "source_language": "en"}
    assert token_lengths(Dataset.from_list([row]), tokenizer, "chat").tokens[0] == len(example["input_ids"])


@pytest.mark.parametrize("call", ["strftime_now('%Y-%m-%d')", 'strftime_now( "%Y-%m-%d" )'])
def test_a_template_that_asks_for_the_date_gets_the_same_one(call: str, tmp_path: Path):
    tokenizer = load_tokenizer(str(make_base(tmp_path, "qwen")))
    tokenizer.chat_template = "{% if strftime_now is defined %}{{ " + call + " }}{% endif %}" + SPECIAL["qwen"][3]
    assert prompts.render(tokenizer, "3 + 2?", "chat").startswith("2024-07-26<|im_start|>user")


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("{% for %}", "cannot be used \\(TemplateSyntaxError"),
        ("{{ messages.__class__.__mro__ }}", "cannot be used \\(SecurityError"),
        ("{{ raise_exception('no system turn') }}", "no system turn"),
        ("{{ range(10**30) | list }}", "cannot be used \\(OverflowError"),
        ("{{ strftime_now(messages[0].role) }}", "in a form that is not written out"),
        (5, "cannot be used"),
        (SPECIAL["qwen"][3].replace("m.content", "m.content | upper"), "does not write the user's turn as it is"),
        (SPECIAL["qwen"][3].replace("m.content", "m.content + m.content"), "writes the question 2 times"),
        ("{% for m in messages if m.role == 'user' %}{{ m.content }}{% endfor %}", "writes the response 0 times"),
    ],
)
def test_a_template_that_fails_or_says_something_else_is_refused(template: object, said: str, tmp_path: Path):
    tokenizer = load_tokenizer(str(make_base(tmp_path, "qwen")))
    tokenizer.chat_template = template
    with pytest.raises(ValueError, match=said) as error:
        encode("3 + 2, how many?", "5", tokenizer, template="chat")
    assert str(tmp_path) in str(error.value)
    assert "model.template: alpaca" in str(error.value)


def test_the_paper_keeps_its_prompt_and_its_fingerprints(outside: Path, road: tuple[Profile, Run]):
    profile, run = road
    plain = load(outside, model__template="alpaca")
    job = plan.stage_job(plain, run, 1, ["solved"])
    assert "template" not in job.content
    assert job.content["fingerprint"] != plan.stage_job(profile, run, 1, ["solved"]).content["fingerprint"]
    assert plan.template_of(plain, "QAlign") == "alpaca"


def test_a_base_without_a_chat_template_says_so(tmp_path: Path):
    tokenizer = load_tokenizer(str(make_base(tmp_path, "qwen")))
    tokenizer.chat_template = None
    with pytest.raises(ValueError, match=r"no chat template: use model\.template: alpaca"):
        encode("3 + 2?", "5", tokenizer, template="chat")
    tokenizer.chat_template = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    with pytest.raises(ValueError, match="ends the assistant's turn with"):
        encode("3 + 2?", "5", tokenizer, template="chat")


# ------------------------------------------------------------------------------------------------- a language


def test_a_language_stands_before_english_and_is_told_by_its_script(outside: Path):
    load(outside)
    assert tuple(CODES)[-3:] == ("ko", "te", "en")
    assert tuple(code for code in CODES if code not in ("ko", "te")) == PAPER_CODES
    assert [response_language(rows[0][0], code) for code, rows in QUESTIONS.items()] == list(QUESTIONS)
    assert response_language("The answer is 5", "ko") == "en"
    assert response_language("答案是5", "ko") == "zh"


def test_a_language_in_latin_letters_is_told_by_its_words():
    vietnamese = Language("vi", "Vietnamese", "Vietnamese", "Tiếng Việt", "Latin", "vie_Latn", True, frozenset({"là"}))
    try:
        add(vietnamese)
        assert response_language("Đáp số là 5", "vi") == "vi"
        assert response_language("The answer is 5", "vi") == "en"
    finally:
        del LANGUAGES["vi"]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"data__new_languages": {}}, "'ko'.* described in data.new_languages"),
        ({"data__languages": ["xx", "en"]}, "unknown language code 'xx'"),
        ({"data__new_languages": {"sw": {"name": "Swahili"}}}, "'sw' is one of the paper's ten languages"),
        ({"data__new_languages": {"ko": {}}}, "data.new_languages.ko.name: is missing"),
        ({"evaluation__benchmarks": {"sums": {"max_new_tokens": 6}}}, "sums: unknown benchmark"),
        ({"evaluation__benchmarks": {"mgsm": {"max_new_tokens": 6, "folder": "x"}}}, "mgsm: folder is for benchmarks"),
        ({"evaluation__benchmarks": {"a-intervals": {"max_new_tokens": 6, "folder": "x"}}}, "this name is taken"),
    ],
)
def test_what_a_profile_cannot_say_is_refused(outside: Path, changes: dict, said: str):
    with pytest.raises(ProfileError, match=said):
        load(outside, **changes)


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ({"name": "chinese", "script": "Han"}, r"ko: 'chinese' is Chinese \(zh\) already"),
        ({"reference_name": "Swahili (macrolanguage)"}, r"is Swahili \(sw\) already"),
        ({"flores": "tha_Thai"}, r"is Thai \(th\) already"),
        ({"name": "TELUGU"}, r"te: 'telugu' is TELUGU \(ko\) already"),
        ({"script": "Hangull"}, r"ko\.script: Unicode names no letters by 'Hangull'; write a script as it does"),
        ({"script": "Latin", "words": "và là,"}, r"ko\.words: 'là,' is not of Latin letters alone"),
        ({"name": "Korean\0"}, r"ko\.name: must be one line of plain text, without U\+0000"),
        ({"name": "{target}"}, "without {, }"),
        ({"name": "../x"}, "without /"),
        ({"native_name": ""}, r"ko\.native_name: must not be blank"),
        ({"native_name": "\u202eevil"}, r"without U\+202E"),
        ({"flores": "../../../etc/passwd"}, r"ko\.flores: "),
    ],
)
def test_a_language_that_could_not_be_told_from_others_is_refused(outside: Path, entry: dict, said: str):
    described = {"ko": {"name": "Korean", "script": "Hangul"} | entry, "te": {"name": "Telugu", "script": "Telugu"}}
    with pytest.raises(ProfileError, match=said):
        load(outside, data__new_languages=described)


def test_words_are_asked_for_only_where_py3langid_does_not_know_the_language(outside: Path):
    with pytest.raises(ProfileError, match=r"ceb\.words: py3langid does not know this code"):
        load(outside, data__new_languages={"ceb": {"name": "Cebuano"}})
    load(outside, data__new_languages={"vi": {"name": "Vietnamese"}}, data__languages=["vi", "en"])
    try:
        assert response_language("Có bao nhiêu quả táo trong giỏ?", "vi") == "vi"
    finally:
        del LANGUAGES["vi"]


@pytest.mark.parametrize("code", ["und", "nan", "KO", "../x", "korean", "ko-" + "a" * 20])
def test_a_code_that_means_something_else_is_refused(outside: Path, code: str):
    with pytest.raises(ProfileError, match="is no code of a language"):
        load(outside, data__new_languages={code: {"name": "Korean", "script": "Hangul"}})


def test_names_may_be_written_as_their_speakers_do(outside: Path):
    described = {
        "ko": {"name": "St. Lucian Creole", "words": "la\u0300 SE\u0301", "native_name": "ක්\u200dෂ"},
        "te": {"name": "Telugu", "reference_name": "Telugu (macrolanguage)", "script": "telugu"},
    }
    load(outside, data__new_languages=described)
    assert LANGUAGES["ko"].words == {"là", "sé"}
    assert response_language(QUESTIONS["te"][0][0], "te") == "te"


@pytest.mark.parametrize(
    ("script", "text"),
    [
        ("Han", "佢有幾多個蘋果"),
        ("katakana", "アイヌイタク"),
        ("Ol Chiki", "ᱚᱞ ᱪᱤᱠᱤ"),
        ("Thai", "มีกี่ผล"),
        ("LATIN", "Anh a\u0302\u0301y la\u0300 5"),
    ],
)
def test_responses_in_a_script_are_recognised(script: str, text: str, monkeypatch: pytest.MonkeyPatch):
    entry = Language("xa", "X", "X", "X", script, "xa", words=frozenset({"ấy", "là"}))
    refuse_unrecognisable(entry)
    monkeypatch.setitem(LANGUAGES, "xa", entry)
    assert response_language(text, "xa") == "xa"
    assert response_language("The answer is 5", "xa") == "en"
    assert response_language("これは何個ですか", "ja") == "ja"


def test_a_corpus_names_languages_of_its_own_profile_only(outside: Path):
    load(outside)  # Korean and Telugu are known now
    changes = {"data__new_languages": {}, "data__languages": ["sw", "en"]}
    for key in ("languages", "without"):
        corpora = {"solved": {"path": "x.jsonl"}, "part": {"of": "questions-x-en", key: ["ko"]}}
        with pytest.raises(
            ProfileError, match=r"corpora\.part: 'ko' is none of the paper's languages and not described"
        ):
            load(outside, **changes, data__corpora=corpora)


@pytest.mark.parametrize("source", ["miniature", "repository"])
def test_a_source_that_cannot_have_the_language_is_refused_before_anything_is_fetched(outside: Path, source: str):
    profile = load(outside, data__new_languages__ko__folder=None, data__sources={"questions": source})
    with pytest.raises(
        ProfileError, match=rf"source {source} of questions has no files in Korean: give data\.new_lang"
    ):
        prepare.data_sets(profile)
    load(outside)


def test_files_of_another_language_are_not_replaced(outside: Path, tmp_path: Path):
    for home, text in (("found", "theirs\n"), ("korean", "ours\n"), ("copied", "theirs\n")):
        write = tmp_path / home / "msvamp" / "test_Korean.json"
        write.parent.mkdir(parents=True)
        write.write_text(text, encoding="utf-8")
    load(outside)
    with pytest.raises(
        FileExistsError, match=r"new_languages\.ko: .*/korean/.* would replace .*/found/msvamp/test_Kor"
    ):
        prepare.link_data_set(tmp_path / "found", tmp_path / "joined", "msvamp", {"ko": str(tmp_path / "korean")})
    assert not (tmp_path / "joined").exists()
    prepare.link_data_set(tmp_path / "found", tmp_path / "joined", "msvamp", {"ko": str(tmp_path / "copied")})
    assert (tmp_path / "joined" / "msvamp" / "test_Korean.json").read_text(encoding="utf-8") == "theirs\n"


def test_files_that_a_language_lacks_are_named(outside: Path, tmp_path: Path):
    profile = load(outside, data__new_languages__ko__folder=str(tmp_path))
    with pytest.raises(
        FileNotFoundError, match=r"new_languages\.ko: .* holds no gsm8kinstruct_question/ko-en/train\.ko"
    ):
        prepare.gather(profile, Run(tmp_path / "run"), 1)


# ------------------------------------------------------------------------------------------------- a benchmark


def test_a_benchmark_is_a_file_a_language(outside: Path, tmp_path: Path):
    assert load_benchmark("sums", "ko", outside / "sums")["answer"][:] == ["5", "6"]
    (tmp_path / "en.tsv").write_text("3 + 2?\t5\n", encoding="utf-8")
    assert load_benchmark("sums", "en", tmp_path).to_list() == [{"question": "3 + 2?", "answer": "5"}]
    with pytest.raises(FileNotFoundError, match=r"no sums questions in Swahili: .* no sw\.jsonl or .* or sw\.tsv"):
        load_benchmark("sums", "sw", tmp_path)


def test_a_limit_does_not_hide_that_a_file_is_longer(outside: Path, tmp_path: Path):
    shutil.copytree(outside / "sums", tmp_path / "sums")
    with (tmp_path / "sums" / "ko.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"question": "1 + 1?", "answer": "2"}\n')
    asked = {"sums": {"max_new_tokens": 6, "limit": 1, "folder": str(tmp_path / "sums")}}
    profile = load(outside, evaluation__benchmarks=asked)
    with pytest.raises(ValueError, match=r"sums must ask the same questions in every language.*ko 3, .*en 2"):
        prepare.write_benchmarks(profile, plan.open_run(profile, tmp_path / "run"))
