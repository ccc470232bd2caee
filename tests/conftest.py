"""Fixtures every test may use: the real data and the golden outputs, where they are given. No test has a network."""

from __future__ import annotations

import ipaddress
import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hub_server import HubServer

from qalign_core import languages, scorer

NOWHERE = "http://127.0.0.1:9"  # a proxy that is not there: what a test starts cannot reach the network either


def is_loopback(host: object) -> bool:
    """Whether a host, as it is given to a socket or to be looked up, is this machine itself."""
    name = host.decode() if isinstance(host, bytes) else str(host or "")
    if name in ("", "localhost", socket.gethostname()):
        return True
    try:
        return ipaddress.ip_address(name.partition("%")[0]).is_loopback
    except ValueError:
        return False


@pytest.fixture(autouse=True, scope="session")
def no_network() -> Iterator[None]:
    """Refuse every connection that leaves this machine, and every look-up of another one's name.

    Raises:
        RuntimeError: in the test that tries, not an OSError, which code under test may take for a bad network.
    """

    def refuse(what: str, host: object) -> None:
        if not is_loopback(host):
            raise RuntimeError(f"a test wants to {what} {host!r}: tests have no network; use tests/hub_server.py")

    def connecting(original: Any) -> Any:
        def connect(self: socket.socket, address: Any) -> Any:
            if self.family in (socket.AF_INET, socket.AF_INET6) and self.type & socket.SOCK_STREAM:
                refuse("connect to", address[0])
            return original(self, address)

        return connect

    def looking_up(original: Any) -> Any:
        def look_up(host: Any, *arguments: Any, **options: Any) -> Any:
            refuse("look up", host)
            return original(host, *arguments, **options)

        return look_up

    with pytest.MonkeyPatch.context() as patch:
        for name in ("connect", "connect_ex"):
            patch.setattr(socket.socket, name, connecting(getattr(socket.socket, name)))
        for name in ("getaddrinfo", "gethostbyname"):
            patch.setattr(socket, name, looking_up(getattr(socket, name)))
        for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
            patch.setenv(name, NOWHERE)
        for name in ("no_proxy", "NO_PROXY"):
            patch.setenv(name, "127.0.0.1,localhost,::1")
        yield


@pytest.fixture(autouse=True, scope="session")
def interrupts_are_heard() -> None:
    """What a shell without job control starts in the background is deaf to Ctrl-C, and so would be what tests start."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True, scope="module")
def only_the_languages_of_the_paper() -> Iterator[None]:
    """A profile's own languages are known to the whole process: forget them, as the next test file is another run."""
    before = dict(languages.LANGUAGES)
    yield
    languages.LANGUAGES.clear()
    languages.LANGUAGES.update(before)


@pytest.fixture(autouse=True)
def only_the_scorers_that_are_shipped(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is counted is what is shipped: one of a reader's own is tested as the function that it is."""
    for name in scorer.SCORERS.keys() - {"paper", "fixed"}:
        monkeypatch.delitem(scorer.SCORERS, name)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[HubServer]:
    """A hub and a git host on the loopback, which are asked instead of the real ones: nobody is logged in, caches are
    empty."""
    with HubServer() as hub:
        places = {"HF_ENDPOINT": hub.url, "QALIGN_REPOSITORY_URL": f"{hub.url}/raw", "NO_PROXY": "127.0.0.1"}
        places |= {"HF_HUB_CACHE": str(tmp_path / "hf"), "QALIGN_CACHE_DIR": str(tmp_path / "cache")}
        for name, value in (places | {"HF_TOKEN_PATH": str(tmp_path / "no-token")}).items():
            monkeypatch.setenv(name, value)
        for name in ("HF_TOKEN", "HF_HUB_OFFLINE"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hf"))
        monkeypatch.setattr("huggingface_hub.file_download.time.sleep", lambda _: None)  # between attempts
        yield hub


def _folder_from_environment(variable: str) -> Path:
    value = os.environ.get(variable)
    if not value:
        pytest.skip(f"{variable} is not set: this test reads files that are not part of the repository")
    folder = Path(value)
    if not folder.is_dir():
        pytest.fail(f"{variable}={value} is not a folder")
    return folder


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of real data, laid out as README.md describes (`QALIGN_DATA_DIR`)."""
    return _folder_from_environment("QALIGN_DATA_DIR")


@pytest.fixture(scope="session")
def reference_dir() -> Path:
    """The folder of published numbers and golden outputs (`QALIGN_REFERENCE_DIR`)."""
    return _folder_from_environment("QALIGN_REFERENCE_DIR")
