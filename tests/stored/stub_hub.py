"""A server on the loopback interface that answers the clients of huggingface_hub as the hub does."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

COMMIT = "c" * 40


@dataclass
class Repository:
    """What one repository has.

    Attributes:
        folder: its files.
        revisions: names of its branches and tags.
        gated: only requests with the token "member" may read files.
        failing: status to answer every request with; None: as usual.
        cut: send only half of each file.
    """

    folder: Path
    revisions: tuple[str, ...] = ("main",)
    gated: bool = False
    failing: int | None = None
    cut: bool = False


@dataclass
class StubHub:
    """The server's repositories by owner/name, and the files that it was asked for."""

    url: str = ""
    repositories: dict[str, Repository] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)


@contextmanager
def stub_hub() -> Iterator[StubHub]:
    """Serve on a free port until the context ends."""
    hub = StubHub()

    class Handler(_Handler):
        state = hub

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    state: StubHub

    def do_HEAD(self) -> None:
        self._answer(send=False)

    def do_GET(self) -> None:
        self._answer(send=True)

    def log_message(self, *_: Any) -> None:
        """Print nothing."""

    def _answer(self, *, send: bool) -> None:
        path = urlsplit(self.path).path
        parts = path.strip("/").split("/")
        if "resolve" in parts:
            self.state.requests.append(f"{self.command} {path}")
        if parts[:2] == ["api", "models"]:
            self._list("/".join(parts[2:4]), unquote(parts[5]))
        elif parts[2:3] != ["resolve"]:
            self._send(404, {})
        else:
            self._file("/".join(parts[:2]), unquote(parts[3]), "/".join(parts[4:]), send)

    def _refusal(self, repository: Repository | None, revision: str) -> tuple[int, dict[str, str]] | None:
        if repository is None:
            return 401, {"X-Error-Code": "RepoNotFound"}
        if repository.failing is not None:
            return repository.failing, {"X-Error-Message": "as the test asks"}
        if revision not in (*repository.revisions, COMMIT):
            return 404, {"X-Error-Code": "RevisionNotFound"}
        if repository.gated and self.headers.get("Authorization") != "Bearer member":
            return 403 if "Authorization" in self.headers else 401, {"X-Error-Code": "GatedRepo"}
        return None

    def _list(self, name: str, revision: str) -> None:
        repository = self.state.repositories.get(name)
        if (refusal := self._refusal(repository, revision)) is not None:
            return self._send(*refusal)
        assert repository is not None
        files = [p for p in sorted(repository.folder.rglob("*")) if p.is_file()]
        names = [str(path.relative_to(repository.folder)) for path in files]
        entries = [{"type": "file", "path": name, "size": 1, "oid": "0"} for name in names]
        self._send(200, {"Content-Type": "application/json"}, json.dumps(entries).encode())

    def _file(self, name: str, revision: str, file: str, send: bool) -> None:
        repository = self.state.repositories.get(name)
        if (refusal := self._refusal(repository, revision)) is not None:
            return self._send(*refusal)
        assert repository is not None
        path = repository.folder / file
        if not path.is_file():
            return self._send(404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT})
        content = path.read_bytes()
        headers = {"X-Repo-Commit": COMMIT, "ETag": f'"{hashlib.sha256(content).hexdigest()}"'}
        self._send(200, headers, content if send else b"", len(content), cut=repository.cut)

    def _send(
        self,
        status: int,
        headers: dict[str, str],
        body: bytes = b"",
        length: int | None = None,
        cut: bool = False,
    ) -> None:
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        self.end_headers()
        self.wfile.write(body[: len(body) // 2] if cut else body)
