"""Nothing is fetched when the package is imported, and no test can reach the network by accident."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import pytest
import requests

import qalign_core

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


def test_the_audit_would_see_a_connection() -> None:
    code = IMPORT_EVERYTHING + "import socket\nsocket.create_connection(('127.0.0.1', 9))"
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
