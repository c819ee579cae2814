"""Networks whose weights are about to be loaded: no memory and no random numbers go into them."""

from __future__ import annotations

from itertools import chain
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

_FACTORIES = frozenset({torch.empty, torch.rand, torch.randn})
"""What weights start from; tables and filters are computed by other functions, and keep their values."""


class Unfilled(TorchFunctionMode):
    """Within the block, in this thread alone, networks get their weights on the meta device.

    Everything else is built as usual. Loading with `assign=True` then puts the stored tensors in place;
    `is_unfilled` tells whether some are still missing.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func in _FACTORIES and kwargs.get("device") is None and kwargs.get("generator") is None:
            kwargs["device"] = "meta"
        return func(*args, **kwargs)


def is_unfilled(module: nn.Module) -> bool:
    """Whether any weight or buffer of `module` has no values."""
    return any(t.is_meta for t in chain(module.parameters(), module.buffers()))
