"""Importing what a command needs."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager

LARGEST = "torch"
"""The package that nearly all of the time goes into; where it is there, so is the rest."""


@contextmanager
def importing() -> Iterator[None]:
    """Import without looking for garbage in between, and leave what was imported out of later looks.

    Modules live as long as the process, yet every look for cycles of garbage goes through all of them: that
    is a sixth of the time in which a command starts. Where torch is imported already, such as in a notebook,
    nothing is changed.
    """
    if LARGEST in sys.modules or not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        gc.freeze()
