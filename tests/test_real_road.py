"""`llama2-7b` from the first notebook to the last, then `checkpoints`, against a hub and a git host on the loopback.

Everything but sizes is as in the shipped profiles: a gated base in fp16 shards with SentencePiece's tokenizer alone,
data sets in the layouts they are published in, bf16 under ZeRO-3, packing, a run that is killed and started again. What
is served is the miniature's; the processes of the test read a lock file that says so.
"""

from __future__ import annotations

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
from hub_server import HubServer, Repository
from safetensors.torch import load_file
from test_supervision import sentencepiece_folder
from transformers import LlamaConfig, LlamaForCausalLM

from qalign_core import miniature, runs, sources
from qalign_core.params import PARAMS_FOLDER

TOKEN = "hf_right"
BASE, RELEASED = "meta-llama/Llama-2-7b-hf", "Wenhao97/QAlign-MetaMathQA-7B"
SIZES = {"mgsm": 3, "msvamp": 3, "dev": 1, "questions": 8, "gsm8kinstruct": 8, "gsm8k": 24, "metamathqa": 48}
SIZES["flores"] = 8
ROAD = {
    "extends": "llama2-7b",
    "run": {"profile": "road", "devices": 2, "slow_bf16": True},
    "training": {"max_steps": 3, "save_steps": 1, "stages": {"flores-x-en": {"max_steps": 2}}},
    "evaluation": {"benchmarks": {"mgsm": {"limit": 2}, "msvamp": {"limit": 2}}, "translation": {"limit": 2}},
}
RELEASES = {
    "extends": "checkpoints",
    "run": {"profile": "releases", "slow_bf16": True},
    "evaluation": {
        "benchmarks": {"mgsm": {"limit": 2, "max_new_tokens": 8}, "msvamp": {"limit": 2, "max_new_tokens": 8}}
    },
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
    deadline = time.monotonic() + 240
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
