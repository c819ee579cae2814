"""Signal handling in data processes: their parent decides when they end."""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType

GRACE_SECONDS = 30
"""How long a worker survives SIGTERM: its parent may have to finish a step before it saves."""


def answer_signals(worker: int = 0) -> None:
    """Set the handlers of a data process; the `worker_init_fn` of every loader.

    Batch systems and terminals signal all processes of a job. A worker that ended at once would end
    its parent as well, before the parent's checkpoint.
    """
    if threading.current_thread() is not threading.main_thread():
        return
    for name in ("SIGINT", "SIGUSR1", "SIGTERM"):
        if (number := getattr(signal, name, None)) is not None:
            signal.signal(number, in_worker)


def in_worker(number: int, frame: FrameType | None = None) -> None:
    """Ignore Ctrl-C and SIGUSR1, which the parent handles; SIGTERM ends a worker if its parent does not."""
    if number != signal.SIGTERM:
        return
    if hasattr(signal, "setitimer"):
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_REAL, GRACE_SECONDS)
        return
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
