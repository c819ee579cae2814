"""Test once, within a few seconds, whether the Hugging Face hub can be reached."""

from __future__ import annotations

import functools
import os
import socket
import threading
import urllib.request
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

SECONDS = 5.0
"""Time limit for an answer. The hub's own client waits for minutes, over several tries."""

ENDPOINT = "https://huggingface.co"


def offline(name: str) -> bool:
    """Whether `name`, a hub id or a local path, must be loaded without the network.

    Pass it as `local_files_only` to the hub's clients: they still load what was downloaded before.
    """
    return os.path.exists(name) or not hub_in_reach()


def downloaded_file(name: str, filename: str, *, revision: str | None = None) -> Path | None:
    """A file of a hub repository in the cache of earlier downloads, without asking the hub; None: not there.

    Args:
        name: the hub id; a local path gives None.
        filename: its path within the repository.
        revision: branch, tag or commit; None: the main one.
    """
    try:
        from huggingface_hub import try_to_load_from_cache
        from huggingface_hub.errors import HFValidationError
    except ImportError:
        return None
    try:
        path = try_to_load_from_cache(name, filename, revision=revision)
    except HFValidationError:  # a path that does not exist
        return None
    return Path(path) if isinstance(path, str) else None


def transformers_arguments(
    name: str, *, revision: str = "", subfolder: str = ""
) -> tuple[str, dict[str, Any]]:
    """The first argument of transformers' `from_pretrained` for the weights of a network, and keywords.

    Where the hub cannot be reached, the first is the folder of an earlier download: by name, transformers
    asks the hub for an adapter, whatever local_files_only says, and waits for it.

    Args:
        name: hub id or local path.
        revision: branch, tag or commit on the hub; empty: the main one.
        subfolder: of the repository; empty: none.
    """
    local = offline(name)
    if local and not os.path.exists(name):
        file = f"{subfolder}/config.json" if subfolder else "config.json"
        config = downloaded_file(name, file, revision=revision or None)
        if config is not None:
            return str(config.parent), {"local_files_only": True}
    chosen = {"revision": revision, "subfolder": subfolder}
    return name, {"local_files_only": local, **{k: v for k, v in chosen.items() if v}}


def load_failure(name: str, error: Exception) -> str:
    """Why a hub id or local path could not be loaded, as part of a sentence.

    transformers explains a missing connection in several lines, with links.

    Args:
        name: the hub id or path.
        error: what the hub's client or transformers raised.
    """
    exists = os.path.exists(name)
    # Ids of the hub are a name, or an owner and a name.
    if not exists and (os.path.isabs(name) or name.startswith((".", "~")) or name.count("/") > 1):
        return "it is neither a folder nor the id of a model on the Hugging Face hub"
    if not exists and not hub_in_reach():
        return "it was not downloaded before, and the Hugging Face hub cannot be reached"
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(". ")


@functools.cache
def hub_in_reach() -> bool:
    """Whether the hub, or the proxy on the way to it, accepts connections; the first answer is cached.

    `HF_HUB_OFFLINE` and `HF_ENDPOINT` work as in the hub's own client.
    """
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
        return False
    proxy = urllib.request.getproxies().get("https")
    return takes_connections(proxy or os.environ.get("HF_ENDPOINT", ENDPOINT))


def takes_connections(url: str, *, seconds: float = SECONDS) -> bool:
    """Whether a server answers at the host and port of `url` within `seconds`."""
    address = urlsplit(url if "//" in url else f"//{url}")
    port = address.port or (80 if address.scheme == "http" else 443)
    answers: list[bool] = []

    def connect() -> None:
        try:
            socket.create_connection((address.hostname or "", port), timeout=seconds).close()
            answers.append(True)
        except OSError:
            pass

    # In a thread, because name resolution has no timeout.
    thread = threading.Thread(target=connect, daemon=True)
    thread.start()
    thread.join(seconds)
    return bool(answers)
