"""Build models as shapes only, without memory, and stop those that would take hours to build."""

from __future__ import annotations

from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from stable_audio.nn.shapes import without_values

MAX_OPERATIONS = 20_000
"""Maximum tensor operations of a constructor: three times those of the largest published models."""


RANGES = frozenset({torch.arange, torch.linspace, torch.hann_window})
"""Operations whose result has a shape that follows from values."""


class TooLargeError(ValueError):
    """A part with more layers than any model has."""


class _Limit(TorchFunctionMode):
    """Counts tensor operations and raises TooLargeError above MAX_OPERATIONS; computes no values."""

    def __init__(self) -> None:
        super().__init__()
        self.operations = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.operations += 1
        if self.operations > MAX_OPERATIONS:
            raise TooLargeError("has more layers than any model")
        kwargs = kwargs or {}
        if func in RANGES:
            # On the CPU where that is asked for, which is where values are needed.
            return func(*args, **{**kwargs, "device": "cpu"}).to(kwargs.get("device") or "meta")
        result = without_values(func, args, kwargs)
        return func(*args, **kwargs) if result is NotImplemented else result


def on_meta(build: Any, *args: Any, **kwargs: Any) -> Any:
    """Call `build` on the meta device, without memory or arithmetic, and without advancing random generators.

    Raises:
        TooLargeError: `build` makes more layers than any model has.
    """
    with torch.random.fork_rng(devices=[]), torch.device("meta"), _Limit():
        return build(*args, **kwargs)
