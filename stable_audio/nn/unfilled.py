"""Networks whose weights are about to be loaded: no memory and no random numbers go into them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import chain
from typing import Any, TypeVar

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

Module = TypeVar("Module", bound=nn.Module)
Report = TypeVar("Report")

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


def with_stored_weights(
    build: Callable[[bool], Module], load: Callable[[Module], Report]
) -> tuple[Module, Report]:
    """Build a module for weights that are stored: without any, and at random only where some are in no file.

    The global random numbers of the CPU stay where they are, unless the module has to start at random.

    Args:
        build: gets True to build without weights (under `Unfilled`), False to build as usual.
        load: puts the stored weights in. It is called again where the module is built again.

    Returns:
        (the module, what `load` returned).
    """
    with torch.random.fork_rng(devices=[]):  # what starts at random is replaced, and shall draw for nobody
        module = build(True)
        report = load(module)
    if is_unfilled(module):
        del module  # its memory goes before the other takes some
        module = build(False)
        report = load(module)
    return module, report


@torch.no_grad()
def take_own_memory(module: nn.Module, keys: Iterable[str]) -> None:
    """Copy these tensors of the module's state into memory of their own, one after the other.

    Tensors that were loaded with `assign=True` are pages of the file: writing to them never reaches the
    file, but whoever overwrites the file changes them, and several may share one place in it.
    """
    state = module.state_dict(keep_vars=True)
    for tensor in {id(state[key]): state[key] for key in keys if key in state}.values():
        tensor.data = tensor.data.clone(memory_format=torch.contiguous_format)
