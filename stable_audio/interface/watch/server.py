"""The HTTP server of the page: Python's own, reading only."""

from __future__ import annotations

import json
import logging
import math
import socket
from collections.abc import Sequence
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import parse_qs, unquote, urlsplit

from stable_audio.audio.demo_page import demo_page, read_steps
from stable_audio.audio.templates import resource, theme
from stable_audio.characters import shown
from stable_audio.interface.hosts import LOOPBACK, host_name, is_loopback
from stable_audio.interface.watch import answers
from stable_audio.interface.watch.library import Library
from stable_audio.interface.watch.pictures import drawn, with_pictures
from stable_audio.interface.watch.sounds import TYPES, FilePart, demo_file, part_of

log = logging.getLogger(__name__)

_PAGE = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "frame-src 'self'; base-uri 'none'; form-action 'none'"
)
# The page of demos holds its script, so that it works from disk; its texts cannot become markup.
_DEMOS = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src 'self'; "
    "media-src 'self'; base-uri 'none'; form-action 'none'"
)
_BLOCK = 2**16


class WatchServer(ThreadingHTTPServer):
    """Serves the page of a library.

    Args:
        library: the runs.
        host: address to listen at.
        port: port; 0 takes a free one.

    Raises:
        OSError: the address cannot be listened at.
    """

    daemon_threads = True

    def __init__(self, library: Library, *, host: str = "127.0.0.1", port: int = 0) -> None:
        self.library = library
        # Other pages in a browser may lead their own name to this machine: a page for loopback alone answers
        # to the names of loopback alone.
        self.names = (*LOOPBACK, host) if is_loopback(host) else None
        if ":" in host:
            self.address_family = socket.AF_INET6
        super().__init__((host, port), _Handler)

    @property
    def url(self) -> str:
        """Where the page is."""
        host, port = self.server_address[:2]
        name = f"[{host!s}]" if ":" in str(host) else str(host)
        return f"http://{name}:{port}/"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A browser that goes away is no error."""
        log.debug("a request ended early", exc_info=True)


def open_server(folders: Sequence[str | Path], *, host: str = "127.0.0.1", port: int = 0) -> WatchServer:
    """A server for the runs below some folders, ready to `serve_forever`.

    Args:
        folders: folders with runs, or runs.
        host: address to listen at.
        port: port; 0 takes a free one.

    Raises:
        OSError: a folder is none, or the address cannot be listened at.
    """
    for folder in folders:
        if not Path(folder).is_dir():
            told = "name a folder with runs, such as the --save-dir of train"
            raise NotADirectoryError(f"{folder} is no folder; {told}")
    try:
        return WatchServer(Library([Path(folder) for folder in folders]), host=host, port=port)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        told = "choose another with --host or --port"
        raise OSError(f"{host}, port {port}: cannot be listened at ({reason}); {told}") from error


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 60  # seconds that a silent browser may keep a thread
    server: WatchServer

    def do_GET(self) -> None:
        names = self.server.names
        if names is not None and host_name(self.headers.get("Host", "")) not in names:
            self._send(HTTPStatus.FORBIDDEN, b"this page is for this machine alone\n", "text/plain")
            return
        address = urlsplit(self.path)
        asked = {key: values[-1] for key, values in parse_qs(address.query).items()}
        try:
            self._answer(address.path, asked)
        except (KeyError, FileNotFoundError):
            self._send(HTTPStatus.NOT_FOUND, b"there is nothing of this name\n", "text/plain")
        except (ConnectionError, TimeoutError):
            self.close_connection = True
        except Exception as error:
            log.exception("%s could not be answered", self.path)
            told = f"{type(error).__name__}: {error}\n"
            self._send(HTTPStatus.INTERNAL_SERVER_ERROR, shown(told).encode(), "text/plain")

    do_HEAD = do_GET

    def _answer(self, path: str, asked: dict[str, str]) -> None:
        library = self.server.library
        if path == "/":
            self._send(HTTPStatus.OK, _own("watch.html"), "text/html", policy=_PAGE)
        elif path == "/watch.css":
            self._send(HTTPStatus.OK, theme().encode() + _own("watch.css"), "text/css")
        elif path in ("/watch.js", "/charts.js"):
            self._send(HTTPStatus.OK, _own(path[1:]), "text/javascript")
        elif path == "/favicon.ico":  # browsers ask for it
            self._send(HTTPStatus.NO_CONTENT, b"", "image/x-icon")
        elif path == "/api/runs":
            self._send_json(answers.runs(library))
        elif path == "/api/run":
            self._send_json(answers.run(library, asked["name"]))
        elif path == "/api/demos":
            self._send_json(answers.demos(library, asked["name"]))
        elif path == "/api/differences":
            self._send_json(answers.compared(library, asked["first"], asked["second"]))
        elif path.startswith("/demos/"):
            self._demos(unquote(path.removeprefix("/demos/")))
        else:
            raise KeyError(path)

    def _demos(self, rest: str) -> None:
        """`NAME/demos/` is the page of a run's demos, and what is below are its files."""
        name, _, address = rest.rpartition("/demos/")
        demos = self.server.library.folder(name) / "demos"
        if (picture := drawn(demos, address)) is not None:
            self._send(HTTPStatus.OK, picture, "image/png", cached=True)
            return
        if address:
            self._send_file(demos, address)
            return
        page = demo_page(f"Demos of {name}", with_pictures(read_steps(demos)))
        self._send(HTTPStatus.OK, page.encode(), "text/html", policy=_DEMOS)

    def _send_file(self, demos: Path, address: str) -> None:
        path = demo_file(demos, address)
        if path is None:
            raise KeyError(address)
        with open(path, "rb") as file:
            size = path.stat().st_size
            part = part_of(size, self.headers.get("Range"))
            if part is None:
                self._begin(HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE, TYPES[path.suffix], 0)
                self.send_header("Content-Range", f"bytes */{size}")
                self.end_headers()
                return
            whole = part.end - part.begin == size
            status = HTTPStatus.OK if whole else HTTPStatus.PARTIAL_CONTENT
            self._begin(status, TYPES[path.suffix], part.end - part.begin)
            self.send_header("Accept-Ranges", "bytes")
            if not whole:
                self.send_header("Content-Range", f"bytes {part.begin}-{part.end - 1}/{size}")
            self.end_headers()
            if self.command == "HEAD":
                return
            self._send_part(file, part)

    def _send_part(self, file: BinaryIO, part: FilePart) -> None:
        left = part.end - part.begin
        try:
            file.seek(part.begin)
            while left > 0 and (block := file.read(min(_BLOCK, left))):
                self.wfile.write(block)
                left -= len(block)
        except OSError:
            log.debug("%s was sent in part", self.path, exc_info=True)
        if left > 0:  # the browser must not take this for all of it
            self.close_connection = True

    def _send_json(self, value: Any) -> None:
        text = json.dumps(_for_json(value), default=str, separators=(",", ":"))
        self._send(HTTPStatus.OK, text.encode(), "application/json")

    def _send(
        self, status: HTTPStatus, content: bytes, kind: str, *, policy: str = "", cached: bool = False
    ) -> None:
        self._begin(status, f"{kind}; charset=utf-8", len(content), cached=cached)
        self.send_header("Content-Security-Policy", policy or "default-src 'none'")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _begin(self, status: HTTPStatus, kind: str, length: int, *, cached: bool = False) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(length))
        self.send_header("Cache-Control", "max-age=3600" if cached else "no-cache")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Referrer-Policy", "no-referrer")

    def log_message(self, format: str, *values: Any) -> None:
        log.debug(format, *values)


def _for_json(value: Any) -> Any:
    """NaN and infinity, which Python writes into JSON and browsers refuse, as texts; texts in Unicode."""
    if isinstance(value, str):
        return shown(value)
    if isinstance(value, dict):
        return {_for_json(key): _for_json(member) for key, member in value.items()}
    if isinstance(value, (list, tuple)):
        return [_for_json(member) for member in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def _own(name: str) -> bytes:
    return resource(__package__ or "", name).encode()
