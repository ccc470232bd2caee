"""`llama2-7b` from the first notebook to the last, then `checkpoints`, against a hub and a git host on the loopback.

Everything but sizes is as in the shipped profiles: a gated base in fp16 shards with SentencePiece's tokenizer alone,
data sets in the layouts they are published in, bf16 under ZeRO-3, packing, a run that is killed and started again. What
is served is the miniature's; the processes of the test read a lock file that says so. The profiles of other bases go
the same way as far as chapter 4, each with random weights and a tokenizer of its own base's kind.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import pandas as pd
import pytest
import torch
import yaml
from datasets import load_from_disk
from hub_server import HubServer, Repository
from safetensors.torch import load_file
from test_supervision import sentencepiece_folder
from tiny_training import byte_level
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    Qwen2Config,
)

from qalign_core import miniature, runs, sources
from qalign_core.params import PARAMS_FOLDER
from qalign_core.prompts import alpaca
from qalign_core.supervision import IGNORED

TOKEN = "hf_right"
BASE, RELEASED = "meta-llama/Llama-2-7b-hf", "Wenhao97/QAlign-MetaMathQA-7B"
SIZES = {"mgsm": 3, "msvamp": 3, "dev": 1, "questions": 8, "gsm8kinstruct": 8, "gsm8k": 24, "metamathqa": 48}
SIZES["flores"] = 8
SHORT = {"limit": 2, "max_new_tokens": 8}  # random weights never end an answer
ROAD = {
    "extends": "llama2-7b",
    "run": {"profile": "road", "devices": 2, "slow_bf16": True},
    "training": {"max_steps": 2, "stages": {"questions-x-en": {"max_steps": 3, "save_steps": 1}}},
    "evaluation": {"benchmarks": {"mgsm": SHORT, "msvamp": SHORT}, "translation": SHORT},
}
RELEASES = {
    "extends": "checkpoints",
    "run": {"profile": "releases", "slow_bf16": True},
    "evaluation": {"benchmarks": {"mgsm": SHORT, "msvamp": SHORT}},
}
# Profiles of other bases: the base, the class of its model, and how many devices it gets here.
OTHERS = {
    "one-gpu": ("Qwen/Qwen2.5-1.5B", "Qwen2ForCausalLM", 1),
    "llama3-8b": ("meta-llama/Meta-Llama-3-8B", "LlamaForCausalLM", 2),
    "mistral-7b": ("mistralai/Mistral-7B-v0.1", "MistralForCausalLM", 2),
}
# The lock is read from another file; Python imports this by itself when it starts.
OVERLAY = """
import os, sys
from importlib.abc import MetaPathFinder
from importlib.util import find_spec

class Overlay(MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name != "qalign_core.sources":
            return None
        sys.meta_path.remove(self)
        spec = find_spec(name)
        run = spec.loader.exec_module
        def exec_module(module):
            run(module)
            module.read_lock.__defaults__ = (os.environ["TEST_LOCK"],)
        spec.loader.exec_module = exec_module
        return spec

sys.meta_path.insert(0, Overlay())
"""


def parquet(rows: list[dict]) -> bytes:
    buffer = BytesIO()
    pd.DataFrame(rows).to_parquet(buffer)
    return buffer.getvalue()


def published(world: Path, place: str, path: str) -> bytes:
    """A file of the miniature's data folder as its data set is published."""
    if path.endswith(".parquet") and place.endswith(".jsonl"):
        return parquet(runs.read_json_lines(world / place))
    if path.endswith(".parquet") and place.endswith(".tsv"):
        rows = [line.rpartition("\t") for line in runs.read_lines(world / place)]
        return parquet([{"question": q, "answer": None, "answer_number": int(a)} for q, _, a in rows])
    if path.endswith(".parquet"):
        return parquet([{"id": i, "text": line} for i, line in enumerate(runs.read_lines(world / place))])
    return (world / place).read_bytes()


TEXTS = [alpaca("7 plus 8"), "Anna has 15"] * 9  # what a byte-level tokenizer is trained on


def other_base(name: str, folder: Path, sentencepiece: Path) -> Path:
    """A profile's base with random weights in bf16 shards, its settings and tokenizer's files as those on the hub."""
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    sizes |= {"num_key_value_heads": 2}
    if name == "one-gpu":  # no BOS, EOS pads, rows to spare; a chat template, which the profile does not use
        ids = {"eos_token_id": byte_level(folder, TEXTS, None, "<|endoftext|>") - 1}
        config = Qwen2Config(**sizes, **ids, vocab_size=ids["eos_token_id"] + 41, tie_word_embeddings=True,
                             sliding_window=4096, use_sliding_window=False)  # fmt: skip
        tokens = {"bos_token": None, "eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>", "unk_token": None}
        tokens |= {"tokenizer_class": "Qwen2Tokenizer", "chat_template": "{{ messages[0].content }}<|im_end|>"}
        sampled = {"do_sample": False, "max_new_tokens": 2048}
    elif name == "llama3-8b":  # neither pad nor unknown token; more special tokens behind the last of its text
        rows = byte_level(folder, TEXTS, "<|begin_of_text|>", "<|end_of_text|>")
        ids = {"bos_token_id": rows - 2, "eos_token_id": rows - 1}
        config = LlamaConfig(**sizes, **ids, vocab_size=rows, rope_parameters={"rope_type": "default",
                             "rope_theta": 500000.0}, max_position_embeddings=8192)  # fmt: skip
        tokens = {"bos_token": "<|begin_of_text|>", "eos_token": "<|end_of_text|>"}
        tokens |= {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": True}
        sampled = {"do_sample": True, "temperature": 0.6, "top_p": 0.9, "max_length": 4096}
        new_folder(folder / "original").joinpath("consolidated.00.pth").write_bytes(b"not to be fetched")
    else:
        for file in ("tokenizer.model", "tokenizer_config.json"):
            (folder / file).write_bytes((sentencepiece / file).read_bytes())
        AutoTokenizer.from_pretrained(folder).backend_tokenizer.save(str(folder / "tokenizer.json"))
        ids = {"bos_token_id": 1, "eos_token_id": 2}
        config = MistralConfig(**sizes, **ids, vocab_size=340, sliding_window=4096, max_position_embeddings=32768)
        tokens, sampled = json.loads((folder / "tokenizer_config.json").read_text()), {}
    (folder / "tokenizer_config.json").write_text(json.dumps(tokens), encoding="utf-8")
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.save_pretrained(folder, max_shard_size="40KB")
    (folder / "generation_config.json").write_text(json.dumps(ids | sampled), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory):
    """The server with everything on it, and the environment of a process that finds it."""
    root = tmp_path_factory.mktemp("served")
    world = root / "world"
    miniature.write_world(world, seed=1, sizes=SIZES)
    lock, hub, raw = sources.read_lock().model_dump(mode="json", exclude_none=True), {}, {}
    for data_set in lock["hub"].values():
        files = {}
        for place, file in data_set["files"].items():
            file.pop("rows", None)
            path = file.get("moved", file["path"])  # mGSM is served where it moved to
            if (world / place).is_file():
                files[path] = published(world, place, path)
        gated = "flores" in data_set["repo_id"]
        hub["datasets/" + data_set["repo_id"]] = Repository(files, token=TOKEN if gated else None)
    for data_set in lock["repository"]["data_sets"].values():
        for place, file in data_set["files"].items():
            for checked in ("sha256", "bytes", "rows"):
                file.pop(checked, None)
            if (world / place).is_file():
                file["git_blob"] = sources.git_blob(world / place)
                raw[f"{lock['repository']['commit']}/{file['path']}"] = (world / place).read_bytes()
    (root / "lock.yaml").write_text(yaml.safe_dump(lock), encoding="utf-8")

    base = sentencepiece_folder(new_folder(root / "base"))
    (base / "text.txt").unlink()
    config = LlamaConfig(vocab_size=340, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
                         num_attention_heads=4, max_position_embeddings=4096)  # fmt: skip
    torch.manual_seed(0)
    model = LlamaForCausalLM(config).to(torch.float16)
    model.save_pretrained(base, max_shard_size="60KB")
    files = {path.name: path.read_bytes() for path in base.iterdir()}
    assert {"tokenizer.model", "model.safetensors.index.json"} <= files.keys()
    assert "tokenizer.json" not in files
    hub[BASE] = Repository(files, token=TOKEN)
    weights = BytesIO()
    torch.save({name: tensor.float() for name, tensor in model.state_dict().items()}, weights)
    plain = {name: content for name, content in files.items() if "safetensors" not in name}
    hub[RELEASED] = Repository(plain | {"pytorch_model.bin": weights.getvalue()})

    for name, (repo_id, _, _) in OTHERS.items():
        other = other_base(name, new_folder(root / "bases" / name), base)
        files = {path.relative_to(other).as_posix(): path.read_bytes() for path in other.rglob("*") if path.is_file()}
        hub[repo_id] = Repository(files, token=TOKEN if repo_id.startswith("meta-llama/") else None)

    (new_folder(root / "overlay") / "sitecustomize.py").write_text(OVERLAY)
    keep = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "QALIGN_"))}
    with HubServer(hub, raw) as server:
        places = {"HF_HOME": root / "hf", "QALIGN_CACHE_DIR": root / "cache", "TEST_LOCK": root / "lock.yaml"}
        environment = keep | {name: str(place) for name, place in places.items()}
        environment |= {"HF_ENDPOINT": server.url, "HF_TOKEN": TOKEN, "QALIGN_REPOSITORY_URL": f"{server.url}/raw"}
        environment |= {"NO_PROXY": "127.0.0.1", "OMP_NUM_THREADS": "1"}
        environment["PYTHONPATH"] = os.pathsep.join([str(root / "overlay"), str(PARAMS_FOLDER.parent)])
        yield root, environment


def new_folder(folder: Path) -> Path:
    folder.mkdir(parents=True)
    return folder


def command(root: Path, profile: dict, *more: str) -> list[str]:
    name = profile["run"]["profile"]
    (root / f"{name}.yaml").write_text(yaml.safe_dump(profile), encoding="utf-8")
    line = [sys.executable, "-m", "qalign_core.reproduce", str(root / f"{name}.yaml"), "--run-dir", str(root / name)]
    return [*line, *more]


def killed(line: list[str], environment: dict[str, str], when: Callable[[], bool]) -> None:
    """Start a command and kill it, with all it started, at a moment."""
    process = subprocess.Popen(
        line, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True, text=True
    )
    deadline = time.monotonic() + 900
    while not when():
        assert process.poll() is None, process.communicate()[0][-3000:]
        assert time.monotonic() < deadline, "nothing to kill"
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def test_the_papers_main_profile_goes_its_whole_way(served: tuple[Path, dict[str, str]]):
    root, environment = served
    line, run = command(root, ROAD), root / "road"
    stage = run / "models" / "seed-1234" / "base" / "questions-x-en"
    killed(line, environment, lambda: any(stage.glob("checkpoints/*/complete.json")))
    assert not (stage / "done.json").exists()
    ended = subprocess.run(line, env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout[-3000:] + ended.stderr[-3000:]
    assert "resuming from" in (stage / "log.txt").read_text()

    profile = yaml.safe_load((PARAMS_FOLDER / "llama2-7b.yaml").read_text(encoding="utf-8"))
    for name, system in profile["systems"].items():
        model = run.joinpath("models", "seed-1234", "base", *system["lineage"])
        assert (model / "done.json").is_file(), name
    done = runs.read_json(stage / "done.json")
    assert done["model"] == {"path": BASE, "revision": "c0ffee" + "0" * 34}  # the first commit met
    assert done["metrics"]["updates"] == 3
    assert all(tensor.dtype == torch.float32 for tensor in load_file(stage / "model" / "model.safetensors").values())
    accuracy = pd.read_csv(run / "results" / "accuracy.csv")
    assert set(accuracy.system) == {name for name, system in profile["systems"].items() if "table" not in system}
    assert set(accuracy.groupby(["benchmark", "language"]).total.first()) == {2}
    assert len(list((run / "report").glob("0*.html"))) == 6


def test_published_checkpoints_are_asked_beside_those_that_are_missing(served: tuple[Path, dict[str, str]]):
    root, environment = served
    line = command(root, RELEASES, "--systems", "QAlign 7B,MAmmoTH 7B")
    ended = subprocess.run(line, env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode != 0
    assert "the hub has no model TIGER-Lab/MAmmoTH-7B" in ended.stdout
    accuracy = pd.read_csv(root / "releases" / "results" / "accuracy.csv")
    assert set(accuracy.system) == {"QAlign 7B"}


@pytest.mark.slow
@pytest.mark.parametrize("name", OTHERS)
def test_the_profile_of_another_base_goes_as_far_as_its_answers(served: tuple[Path, dict[str, str]], name: str):
    root, environment = served
    repo_id, architecture, devices = OTHERS[name]
    if name == "one-gpu":  # needs no login
        environment = {key: value for key, value in environment.items() if key != "HF_TOKEN"}
    profile = {
        "extends": name,
        "run": {"profile": f"{name}-road", "devices": devices, "slow_bf16": True},
        "training": {"max_steps": 2},
        "evaluation": {"benchmarks": {"mgsm": SHORT, "msvamp": SHORT}, "translation": SHORT},
    }
    line = command(root, profile, "--only", "01", "02", "03", "04", "--systems", "MonoReason, QAlign")
    ended = subprocess.run(line, env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout[-3000:] + ended.stderr[-3000:]

    run, base = runs.Run(root / f"{name}-road"), root / "bases" / name
    config, tokenizer = AutoConfig.from_pretrained(base), AutoTokenizer.from_pretrained(base)
    before = AutoModelForCausalLM.from_pretrained(base, dtype="float32").state_dict()
    eos, added = tokenizer.eos_token_id, tokenizer.pad_token is None
    assert added == (name != "one-gpu")
    shipped = yaml.safe_load((PARAMS_FOLDER / f"{name}.yaml").read_text(encoding="utf-8"))
    lineages = [shipped["systems"][system]["lineage"] for system in ("MonoReason", "QAlign")]

    # Every stage leaves a model of the base's kind, in fp32, with a pad row if the base's tokenizer has no pad token.
    for lineage in (*lineages, lineages[1][:1]):
        stage, model = run.stage(1234, lineage), run.model(1234, lineage)
        done, job = runs.read_json(stage / "done.json"), runs.read_json(stage / "job.json")
        assert (done["metrics"]["updates"], done["metrics"]["world_size"]) == (2, devices)
        assert (job["method"], job["packing"]) == (shipped["training"]["method"], True)
        assert job["training_arguments"]["bf16"]
        if len(lineage) == 1:
            assert done["model"] == {"path": repo_id, "revision": "c0ffee" + "0" * 34}
        saved = AutoConfig.from_pretrained(model)
        assert saved.architectures == [architecture]
        assert saved.vocab_size == config.vocab_size + added
        for field in ("sliding_window", "tie_word_embeddings", "num_key_value_heads", "rope_parameters"):
            assert getattr(saved, field, None) == getattr(config, field, None), field
        weights = load_file(model / "model.safetensors")
        assert {tensor.dtype for tensor in weights.values()} == {torch.float32}
        assert all(tensor.isfinite().all() for tensor in weights.values())
        assert len(weights["model.embed_tokens.weight"]) == saved.vocab_size
        layer = "model.layers.0.self_attn.q_proj.weight"
        assert not torch.equal(weights[layer], before[layer])
        assert ("lm_head.weight" in weights) != config.tie_word_embeddings
        whole = sum(tensor.numel() for tensor in weights.values())
        assert (done["metrics"]["trained_parameters"] == whole) == (job["method"] == "full")
        after, settings = AutoTokenizer.from_pretrained(model), runs.read_json(model / "generation_config.json")
        assert (after.pad_token, after.eos_token) == ("<pad>" if added else tokenizer.pad_token, tokenizer.eos_token)
        assert after.pad_token_id == settings["pad_token_id"] == (config.vocab_size if added else eos)
        assert (settings["eos_token_id"], settings["do_sample"]) == (eos, False)

    # What is trained on: BOS if there is one, the Alpaca prompt, and behind it what is learnt, to EOS.
    (corpus,) = run.folder.glob("data/corpora/**/questions-x-en.jsonl")
    (encoded,) = run.folder.glob("data/encoded/questions-x-en-*")
    for row, example in zip(runs.read_json_lines(corpus), load_from_disk(str(encoded)), strict=True):
        prompt = tokenizer(alpaca(row["instruction"]))["input_ids"]
        assert (prompt[0] == tokenizer.bos_token_id) == (name != "one-gpu")
        learnt = [label for label in example["labels"] if label != IGNORED]
        assert example["input_ids"][: len(prompt)] == prompt[:512] or example["joined"]
        assert example["tokens"] > 512 or (learnt[-1] == eos and learnt.count(eos) == 1)

    # What is asked, answered and scored.
    for lineage in lineages:
        found = run.predictions(1234, lineage) / "benchmarks"
        paths = [found / task / f"{code}.jsonl" for task in ("mgsm", "msvamp") for code in shipped["data"]["languages"]]
        rows = [row for path in paths for row in runs.read_json_lines(path)]
        assert len(rows) == 2 * len(paths)
        assert all(row["prompt"] == alpaca(row["question"]) for row in rows)
        assert {row["finish_reason"] for row in rows} <= {"stop", "length"}
        assert any(row["response"] for row in rows)
        assert not any(token in row["response"] for row in rows for token in (tokenizer.eos_token, "<pad>"))
    accuracy = pd.read_csv(run.results / "accuracy.csv")
    assert set(accuracy.system) == {"MonoReason", "QAlign"}
    assert set(accuracy.groupby(["benchmark", "language"]).total.first()) == {2}
    assert not list((root / "hf").rglob("*.pth"))
