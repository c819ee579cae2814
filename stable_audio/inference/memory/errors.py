"""Out of memory, in all its forms, and the error that says what to do about it."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable

import torch

log = logging.getLogger(__name__)

_SAYINGS = ("can't allocate memory", "not enough memory", "backend out of memory")
"""What torch says on devices that have no error of their own for it."""


class OutOfMemory(ValueError, torch.OutOfMemoryError):
    """A device has too little memory; the message names what took how much, and what fits."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means that memory ran out, and nobody has said yet what to do."""
    if isinstance(error, OutOfMemory):
        return False
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(saying in str(error) for saying in _SAYINGS)


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or its type where it says nothing."""
    return (str(error).splitlines() or [""])[0] or type(error).__name__


def out_of_memory_with(
    start: str, what_fits: Callable[[], str], error: BaseException, needs: str
) -> OutOfMemory:
    """The error that begins with `start` and goes on with what fits, or else with the reason.

    Args:
        what_fits: plans what fits.
        error: that of torch.
        needs: what needs less, where it cannot be planned.
    """
    try:
        return OutOfMemory(f"{start}: {what_fits()}")
    # Planning takes some memory itself, and must not hide the reason.
    except Exception as failure:
        log.debug("what fits was not planned", exc_info=failure)
        return OutOfMemory(f"{start}: {first_line(error)}; {needs}")


def free_memory_of(error: BaseException) -> None:
    """Let go of what the functions that raised an error still hold."""
    seen: BaseException | None = error
    while seen is not None:
        traceback.clear_frames(seen.__traceback__)
        seen = seen.__cause__ or seen.__context__
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
