"""Eval mode for the time of a call, for several callers of one module at once."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from weakref import WeakKeyDictionary

from torch import nn

_LOCK = threading.Lock()
_CALLERS: WeakKeyDictionary[nn.Module, int] = WeakKeyDictionary()
"""Modules that were in train mode -> how many callers need them in eval mode."""


@contextmanager
def eval_mode(module: nn.Module) -> Iterator[None]:
    """Eval mode for every submodule within the block; the last caller gives each its own mode back.

    A module in eval mode, as every loaded model is, is only looked at, so that threads can share it.
    `module.train()` at the end would wake frozen encoders up.
    """
    with _LOCK:
        awake = [m for m in module.modules() if m.training or m in _CALLERS]
        for member in awake:
            _CALLERS[member] = _CALLERS.get(member, 0) + 1
            member.training = False
    try:
        yield
    finally:
        with _LOCK:
            for member in awake:
                _CALLERS[member] -= 1
                if not _CALLERS[member]:
                    del _CALLERS[member]
                    member.training = True
