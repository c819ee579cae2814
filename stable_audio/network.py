"""Whether the Hugging Face hub can be reached: asked once, with a limit, before anybody waits for it."""

from __future__ import annotations

import functools
import os
import socket
import threading
import urllib.request
from urllib.parse import urlsplit

SECONDS = 5.0
"""How long an answer may take. The hub's own client waits minutes, over several tries."""

ENDPOINT = "https://huggingface.co"


def offline(name: str) -> bool:
    """Whether `name`, a hub id or a local path, has to be found on this machine.

    For `local_files_only` of the hub's clients, which find what was downloaded before all the same.
    """
    return os.path.exists(name) or not hub_in_reach()


@functools.cache
def hub_in_reach() -> bool:
    """Whether the hub, or the proxy on the way to it, takes connections; the first answer is kept.

    `HF_HUB_OFFLINE` and `HF_ENDPOINT` count as they do for the hub's client.
    """
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
        return False
    proxy = urllib.request.getproxies().get("https")
    return takes_connections(proxy or os.environ.get("HF_ENDPOINT", ENDPOINT))


def takes_connections(url: str, *, seconds: float = SECONDS) -> bool:
    """Whether something listens at the host and port of `url`; False as well when nothing answers in time."""
    address = urlsplit(url if "//" in url else f"//{url}")
    port = address.port or (80 if address.scheme == "http" else 443)
    answers: list[bool] = []

    def connect() -> None:
        try:
            socket.create_connection((address.hostname or "", port), timeout=seconds).close()
            answers.append(True)
        except OSError:
            pass

    # In a thread, since looking up the name knows no limit of its own.
    thread = threading.Thread(target=connect, daemon=True)
    thread.start()
    thread.join(seconds)
    return bool(answers)
