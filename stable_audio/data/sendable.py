"""Check that worker processes can send a value; one that cannot be pickled would make them hang."""

from __future__ import annotations

import pickle
from multiprocessing.reduction import ForkingPickler
from typing import Any

import numpy as np
from torch import Tensor


def sendable(value: Any, name: str) -> Any:
    """Prepare a value for another process: tensors are moved to the CPU and detached.

    Args:
        what: name of the value in error messages.

    Raises:
        ValueError: the value cannot be pickled, or not be restored.
    """
    if type(value) in (str, int, float, bool, type(None)):
        return value
    if isinstance(value, Tensor):
        return value.detach().cpu()
    if isinstance(value, np.ndarray) and value.dtype != object:
        return value
    if type(value) is dict:
        return {sendable(k, name): sendable(v, name) for k, v in value.items()}
    if type(value) in (list, tuple):
        return type(value)(sendable(v, name) for v in value)
    try:
        pickle.loads(ForkingPickler.dumps(value))
    except Exception as error:
        raise ValueError(
            f"{name} with a {type(value).__name__}, which worker processes cannot send "
            f"({type(error).__name__}: {' '.join(str(error).split())}); return numbers, text, lists, dicts, "
            "arrays, tensors, or objects of classes at the top of the file"
        ) from error
    return value
