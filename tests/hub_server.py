"""A server on the loopback that speaks the Hugging Face hub's protocol, and serves raw files of a git host.

What it answers is what the hub answers: metadata of a repository, `resolve` with ETag and X-Repo-Commit, a redirect for
files in large-file storage, Range requests, and the error codes that huggingface_hub looks for. Faults are asked for by
path: a connection cut after so many bytes, or other bytes than the right ones.
"""

from __future__ import annotations

import hashlib
import json
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit


@dataclass
class Repository:
    """Files of one repository at one commit; with `token` set, it is gated and asks for that token."""

    files: dict[str, bytes]
    commit: str = "c0ffee" + "0" * 34
    token: str | None = None
    stored_large: set[str] = field(default_factory=set)


@dataclass
class HubServer:
    """Serve `repositories` (`datasets/owner/name` or `owner/name`) and `raw` files (`<commit>/<path>`) while entered.

    Attributes:
        cuts: path → bytes after which the next answer for it is cut off, once.
        wrong: path → bytes that are sent instead of the right ones, until removed.
        requests: what was asked: (method, path, Range header).
    """

    repositories: dict[str, Repository] = field(default_factory=dict)
    raw: dict[str, bytes] = field(default_factory=dict)
    cuts: dict[str, int] = field(default_factory=dict)
    wrong: dict[str, bytes] = field(default_factory=dict)
    requests: list[tuple[str, str, str | None]] = field(default_factory=list)

    def __enter__(self) -> HubServer:
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def asked(self, method: str, ending: str) -> list[str | None]:
        """The Range headers of the requests for paths with this ending."""
        return [ranged for verb, path, ranged in list(self.requests) if verb == method and path.endswith(ending)]


def _handler(hub: HubServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: Any) -> None:
            """Keep the test's output quiet."""

        def do_HEAD(self) -> None:
            self._answer()

        def do_GET(self) -> None:
            self._answer()

        def _answer(self) -> None:
            path = unquote(urlsplit(self.path).path).lstrip("/")
            hub.requests.append((self.command, path, self.headers.get("Range")))
            if path.startswith("raw/"):
                self._raw(path.removeprefix("raw/"))
            elif path.startswith("storage/"):
                self._content(path, self._stored(path.removeprefix("storage/")), {})
            elif path.startswith("api/"):
                self._metadata(path.removeprefix("api/").removeprefix("models/"))
            else:
                self._resolve(path)

        def _raw(self, path: str) -> None:
            if path in hub.raw:
                self._content(path, hub.raw[path], {})
            else:
                self._refuse(404, None, "404: Not Found")

        def _metadata(self, path: str) -> None:
            name, listed, revision = path.partition("/tree/" if "/tree/" in path else "/revision/")
            revision, _, folder = revision.partition("/")
            repository = self._repository(name, revision or "main")
            if repository is not None and folder:  # none of these has any
                self._refuse(404, "EntryNotFound", f"{folder} does not exist", repository.commit)
            elif repository is not None and listed == "/tree/":
                tree = [
                    {"type": "file", "path": file, "size": len(c), "oid": hashlib.sha1(c).hexdigest()}
                    for file, c in repository.files.items()
                ]
                self._content(path, json.dumps(tree).encode(), {"Content-Type": "application/json"})
            elif repository is not None:
                files = [{"rfilename": file} for file in repository.files]
                short = name.removeprefix("datasets/")
                body = {"_id": "1", "id": short, "sha": repository.commit, "siblings": files, "private": False}
                self._content(path, json.dumps(body).encode(), {"Content-Type": "application/json"})

        def _resolve(self, path: str) -> None:
            name, _, rest = path.partition("/resolve/")
            revision, _, file = rest.partition("/")
            repository = self._repository(name, revision)
            if repository is None:
                return
            if file not in repository.files:
                self._refuse(404, "EntryNotFound", "Entry not found", repository.commit)
                return
            content = repository.files[file]
            etag = hashlib.sha256(content).hexdigest()
            if file not in repository.stored_large:
                self._content(path, content, {"X-Repo-Commit": repository.commit, "ETag": f'"{etag}"'})
                return
            self.send_response(302)
            self.send_header("X-Repo-Commit", repository.commit)
            self.send_header("X-Linked-ETag", f'"{etag}"')
            self.send_header("X-Linked-Size", str(len(content)))
            # Another host, as the hub's content network is: a client must not expect the hub's headers of it.
            self.send_header("Location", f"{hub.url.replace('127.0.0.1', 'localhost')}/storage/{etag}")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def _repository(self, name: str, revision: str) -> Repository | None:
            repository = hub.repositories.get(name)
            if repository is None:
                self._refuse(401, "RepoNotFound", "Repository not found")
            elif repository.token and self.headers.get("Authorization") != f"Bearer {repository.token}":
                signed_in = "Authorization" in self.headers
                self._refuse(403 if signed_in else 401, "GatedRepo", "Access to this dataset is restricted")
            elif revision not in ("main", repository.commit):
                self._refuse(404, "RevisionNotFound", "Revision not found")
            else:
                return repository
            return None

        def _stored(self, digest: str) -> bytes:
            every = (content for repository in hub.repositories.values() for content in repository.files.values())
            return next(content for content in every if hashlib.sha256(content).hexdigest() == digest)

        def _content(self, path: str, right: bytes, headers: dict[str, str]) -> None:
            content = next((hub.wrong[key] for key in hub.wrong if path.endswith(key)), right)
            start, asked = 0, self.headers.get("Range")
            if asked:
                start = int(asked.removeprefix("bytes=").split("-")[0])
            self.send_response(206 if asked else 200)
            if asked:
                self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
            for key, value in {"Accept-Ranges": "bytes", **headers}.items():
                self.send_header(key, value)
            self.send_header("Content-Length", str(len(content) - start))
            self.end_headers()
            if self.command == "HEAD":
                return
            cut = next((key for key in hub.cuts if path.endswith(key)), None)
            end = len(content) if cut is None else hub.cuts.pop(cut)
            self.wfile.write(content[start:end])
            if cut is not None:
                self.close_connection = True

        def _refuse(self, status: int, code: str | None, message: str, commit: str | None = None) -> None:
            self.send_response(status)
            for key, value in (("X-Error-Code", code), ("X-Error-Message", message), ("X-Repo-Commit", commit)):
                if value:
                    self.send_header(key, value)
            body = b"" if self.command == "HEAD" else message.encode()
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    return Handler
