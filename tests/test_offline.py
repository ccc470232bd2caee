"""Without a network, a login or a cache that can be written, what is missing is said once; no test has a network."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import requests
from hub_server import HubServer, Repository
from test_sources import MGSM, lock_of

import qalign_core
from qalign_core import params, prepare, reproduce, runs, sources
from qalign_core.reproduce import CACHES, confined
from qalign_core.runs import Run
from qalign_core.sources import DownloadError

SIZES = {"mgsm": 2, "msvamp": 2, "dev": 1, "questions": 2, "gsm8kinstruct": 2, "gsm8k": 2, "metamathqa": 2, "flores": 2}
WORLD = {"seed": 1, "sizes": SIZES}
ASK = """
from qalign_core import params
from qalign_core.models import base_tokenizer
from qalign_core.runs import Run
for base in {bases}:
    profile = params.load("llama2-7b")
    profile = profile.model_copy(update={{"model": profile.model.model_copy(update={{"base": base}})}})
    try:
        base_tokenizer(profile, Run({run!r}))
    except OSError as error:
        print(type(error).__name__, error)
"""


def ask(*bases: str, run: Path, **environment: str) -> list[str]:
    """What a new process says of base models that it cannot read, a line each."""
    keep = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    command = [sys.executable, "-c", ASK.format(bases=list(bases), run=str(run))]
    places = {"HF_HOME": str(run / "hf"), "NO_PROXY": "127.0.0.1"}
    done = subprocess.run(command, env={**keep, **places, **environment}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_a_gated_and_an_unknown_base_say_how_to_get_in(server: HubServer, tmp_path: Path):
    server.repositories = {"meta-llama/Gated": Repository({"config.json": b"{}"}, token="secret")}
    said = ask("meta-llama/Gated", "nobody/nothing", str(tmp_path / "none"), run=tmp_path, HF_ENDPOINT=server.url)
    assert said[0].startswith("DownloadError model.base: meta-llama/Gated is gated: accept its terms at ")
    assert said[0].endswith("/meta-llama/Gated, then log in (hf auth login) or set HF_TOKEN")
    assert "the hub has no model nobody/nothing, nor is there such a folder" in said[1]
    assert len(said) == 3
    assert str(tmp_path / "none") in said[2]


def test_a_base_that_is_not_in_the_cache_says_what_gets_it(tmp_path: Path):
    (said,) = ask("meta-llama/Gated", run=tmp_path, HF_HUB_OFFLINE="1")
    assert "is not in the hub's cache, and HF_HUB_OFFLINE is set" in said
    assert said.endswith("where there is a network: hf download meta-llama/Gated")


def test_a_run_without_a_network_names_everything_once_and_runs_nothing(tmp_path: Path, monkeypatch, capsys):
    monkeypatch.setattr("qalign_core.runs.has_native_bf16", lambda: True)  # on any processor
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hf"))
    monkeypatch.setenv("QALIGN_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hf"))
    assert reproduce.main(["checkpoints", "--run-dir", str(tmp_path / "run")]) == 2
    said = capsys.readouterr().out
    profile = params.load("checkpoints")
    wanted = {entry.checkpoint for entry in profile.systems.values() if entry.checkpoint}
    assert len(wanted) > 3
    for name in wanted:
        assert said.count(f"hf download {name} ") == 1, name
    for name in ("mgsm", "msvamp"):
        assert said.count(f"the data set {name} (") == 1
    assert "make reproduce PROFILE=checkpoints ONLY=01" in said
    assert not (tmp_path / "run").exists()
    monkeypatch.delenv("HF_HUB_OFFLINE")
    prepare.refuse(profile)  # with a network nothing is missing yet


def test_the_dry_run_says_what_is_missing_and_goes_on(tmp_path: Path, monkeypatch, capsys):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    prepare.refuse(params.load("mini"))  # needs nothing
    prepare.refuse(params.load("llama2-7b"), data=False, model=False)  # everything is prepared and answered
    monkeypatch.setenv("QALIGN_CACHE_DIR", str(tmp_path / "cache"))
    assert reproduce.main(["llama2-7b", "--dry-run", "--run-dir", str(tmp_path / "run")]) == 0
    assert "the data set questions (" in capsys.readouterr().out
    assert not (tmp_path / "run").exists()


# ------------------------------------------------------------------------------------------------- caches


def test_a_full_cache_serves_without_a_network_and_is_not_written(server: HubServer, tmp_path: Path, monkeypatch):
    cache, lock = tmp_path / "cache", lock_of()
    server.repositories = {"datasets/owner/mgsm": Repository({"mgsm_sw.tsv": MGSM})}
    sources.locate("mgsm", "hub", cache_dir=cache, languages=["sw"], lock=lock)
    sources.locate("mgsm", "miniature", cache_dir=cache, world=WORLD)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(os, "access", lambda path, mode, **_: mode != os.W_OK)  # as on a disk mounted to be read
    before, asked = {path: path.stat().st_mtime_ns for path in cache.rglob("*")}, len(server.requests)
    found = sources.locate("mgsm", "hub", cache_dir=cache, languages=["sw"], lock=lock)
    assert (found / "mgsm" / "mgsm_sw.tsv").read_bytes() == MGSM
    assert (sources.locate("mgsm", "miniature", cache_dir=cache, world=WORLD) / "mgsm").is_dir()
    assert {path: path.stat().st_mtime_ns for path in cache.rglob("*")} == before
    assert len(server.requests) == asked


@pytest.fixture
def unwritable(tmp_path: Path) -> Path:
    """A folder that nobody can make, not even root: below a file."""
    (tmp_path / "file").touch()
    return tmp_path / "file" / "cache"


def test_a_cache_that_cannot_be_written_says_what_it_lacks(unwritable: Path):
    with pytest.raises(DownloadError, match=r"the cache \S+/file/cache cannot be written .*set QALIGN_CACHE_DIR"):
        sources.locate("mgsm", "miniature", cache_dir=unwritable, world=WORLD)


def test_libraries_write_into_the_cache_or_the_run_folder(tmp_path: Path, unwritable: Path, monkeypatch):
    for name in (*CACHES, "IPYTHONDIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TRITON_CACHE_DIR", "/mine")
    for cache, place in ((tmp_path / "cache", tmp_path / "cache" / "tools"), (unwritable, tmp_path / ".tools")):
        monkeypatch.setenv("QALIGN_CACHE_DIR", str(cache))
        with confined(Run(tmp_path)):
            assert os.environ["MPLCONFIGDIR"] == str(place / "matplotlib")
            assert os.environ["TRITON_CACHE_DIR"] == "/mine"
            profile = Path(os.environ["IPYTHONDIR"])
            runs.write_atomic(profile / "history", "")
        assert not profile.exists()
        assert "MPLCONFIGDIR" not in os.environ
        assert os.environ["TRITON_CACHE_DIR"] == "/mine"


FOLDER = Path(qalign_core.__file__).parent
IMPORT_EVERYTHING = """
import importlib, sys

def refuse(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname"):
        raise RuntimeError(f"{event} {arguments[-1]!r} at import")

sys.addaudithook(refuse)
for name in sys.argv[1:]:
    importlib.import_module(name)
"""


def test_no_module_uses_the_network_when_it_is_imported() -> None:
    paths = [p.relative_to(FOLDER.parent).with_suffix("") for p in FOLDER.rglob("*.py") if p.stem != "__init__"]
    names = sorted(".".join(path.parts) for path in paths)
    assert "qalign_core.sources" in names
    command = [sys.executable, "-c", IMPORT_EVERYTHING, *names]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    code = IMPORT_EVERYTHING + "import socket\nsocket.create_connection(('127.0.0.1', 9))"  # which it would see
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert "at import" in done.stderr


@pytest.mark.parametrize("address", ["192.0.2.1", "2001:db8::1", "example.invalid"])
def test_a_test_cannot_leave_this_machine(address: str) -> None:
    with pytest.raises(RuntimeError, match="tests have no network"):
        socket.create_connection((address, 80), timeout=1)


def test_what_a_test_starts_cannot_either() -> None:
    code = "import requests; requests.head('http://192.0.2.1', timeout=5)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert "ProxyError" in done.stderr


def test_the_loopback_is_open() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        socket.create_connection(server.getsockname(), timeout=5).close()
    with pytest.raises(requests.ConnectionError):
        requests.head("http://localhost:9", timeout=5)
