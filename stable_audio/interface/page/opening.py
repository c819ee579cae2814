"""Opening the page in the browser of the person who started it."""

from __future__ import annotations

import os
import sys
import threading
import webbrowser


def has_screen() -> bool:
    """Whether a browser would open before the person who starts the program: not over SSH, say."""
    if os.environ.get("SSH_CONNECTION") or os.environ.get("SSH_TTY"):
        return False
    if sys.platform in ("win32", "darwin"):
        return True
    return bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


def open_soon(address: str) -> None:
    """Open an address in the browser, which takes its time, without waiting for it."""
    threading.Thread(target=webbrowser.open, args=(address,), daemon=True).start()
