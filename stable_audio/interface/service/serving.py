"""Run a service on an address until it is told to stop, and let what is at work finish."""

from __future__ import annotations

import asyncio
import logging
import shutil
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import FrameType
from typing import Any

from stable_audio.folder_lock import FolderLock
from stable_audio.interface.service.service import RESULTS, UPLOADS, Service
from stable_audio.interface.service.settings import ServiceSettings

log = logging.getLogger(__name__)

_LOCK = ".lock"
_ANSWERS_WITHIN = 30
"""Seconds for answers that are being sent when the service stops."""


def serve(
    settings: ServiceSettings,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    app: Callable[[Service], Any] | None = None,
    started: Callable[[str], None] | None = None,
) -> None:
    """Answer requests until SIGTERM or Ctrl-C; the second one stops at once.

    Args:
        settings: of the service.
        host: address to listen on.
        port: 0 = any that is free.
        app: makes the application of a service; None: `create_app`.
        started: called with the address once requests are answered.

    Raises:
        OSError: the address is taken, or the folder is in use or cannot be written to.
        ValueError: no model can be loaded, or a setting is wrong.
        ImportError: the extra `serve` is missing.
    """
    try:
        import uvicorn

        from stable_audio.interface.service.app import create_app
    except ImportError as error:
        raise ImportError('the service needs an extra: pip install "stable-audio[serve]"') from error
    is_new = not settings.folder.exists()
    with (
        FolderLock(settings.folder, _LOCK, user="service", hint="end it, or choose another --out"),
        _removed_if_unused(settings.folder) if is_new else nullcontext(),
        _listening(host, port) as listener,
    ):
        service = Service(settings)
        config = uvicorn.Config(
            (app or create_app)(service),
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_keep_alive=30,
            timeout_graceful_shutdown=_ANSWERS_WITHIN,
        )
        name = f"[{host}]" if ":" in host else host
        address = f"http://{name}:{listener.getsockname()[1]}"
        server = _server(uvicorn.Server, service, started and (lambda: started(address)))(config)
        server.run(sockets=[listener])
        if service.events.unusable:
            raise ValueError("no model can be loaded: " + "; ".join(service.events.unusable))


@contextmanager
def _removed_if_unused(folder: Path) -> Iterator[None]:
    """Context of a service in a new folder, which goes if the service fails before anything was kept."""
    try:
        yield
    except (OSError, ValueError):
        kept = (path for name in (RESULTS, UPLOADS) for path in (folder / name).rglob("*"))
        if not any(path.is_file() for path in kept):
            shutil.rmtree(folder, ignore_errors=True)
        raise


def _listening(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=2048)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise OSError(
            f"{host}:{port}: cannot listen there ({reason}); choose another --host or --port"
        ) from error


def _server(base: Any, service: Service, started: Callable[[], None] | None) -> Any:
    """A server that drains before it stops."""

    class DrainingServer(base):  # type: ignore[misc]
        async def startup(self, sockets: Any = None) -> None:
            self._loop = asyncio.get_running_loop()
            service.events.on_unusable = self._give_up
            await super().startup(sockets)
            if started is not None and not self.should_exit:
                started()

        def _give_up(self) -> None:
            self.should_exit = True

        def handle_exit(self, sig: int, frame: FrameType | None) -> None:
            self._captured_signals.append(sig)
            if getattr(self, "_draining", False) or not self.started:
                self.should_exit = self.force_exit = True
                return
            self._draining = True
            self._loop.call_soon_threadsafe(self._begin_to_drain)

        def _begin_to_drain(self) -> None:
            self._drain_task = self._loop.create_task(self._drain())

        async def _drain(self) -> None:
            log.info("stopping: what is at work is finished, what waits is kept; once more stops at once")
            await service.drain(service.settings.drain_seconds)
            self.should_exit = True

    return DrainingServer
