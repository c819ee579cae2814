"""Temporary eval mode of a module that several threads may use at once."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from weakref import WeakKeyDictionary

from torch import nn

_LOCK = threading.Lock()
_CALLERS: WeakKeyDictionary[nn.Module, int] = WeakKeyDictionary()
"""Modules that were in train mode -> number of callers that need them in eval mode."""


@contextmanager
def eval_mode(module: nn.Module) -> Iterator[None]:
    """Put every submodule into eval mode within the block; the last caller restores the modes.

    A module in eval mode, such as every loaded model, is not modified, so that threads can share it. Calling
    `module.train()` at the end instead would switch frozen encoders to train mode.
    """
    with _LOCK:
        training_modules = [m for m in module.modules() if m.training or m in _CALLERS]
        for member in training_modules:
            _CALLERS[member] = _CALLERS.get(member, 0) + 1
            member.training = False
    try:
        yield
    finally:
        with _LOCK:
            for member in training_modules:
                _CALLERS[member] -= 1
                if not _CALLERS[member]:
                    del _CALLERS[member]
                    member.training = True
