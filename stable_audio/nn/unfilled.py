"""Build networks whose weights will be loaded, without memory or random numbers for them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import chain
from typing import Any, TypeVar

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from stable_audio.nn.shapes import without_values

Module = TypeVar("Module", bound=nn.Module)
Report = TypeVar("Report")

_FACTORIES = frozenset({torch.empty, torch.rand, torch.randn})
"""Functions that create weights; tables and filters come from other functions, and keep their values."""


class Unfilled(TorchFunctionMode):
    """Within the block, in this thread alone, networks get their weights on the meta device.

    Everything else is built as usual. Loading with `assign=True` then sets the stored tensors; `is_unfilled`
    checks whether any is still missing.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func in _FACTORIES and kwargs.get("device") is None and kwargs.get("generator") is None:
            kwargs["device"] = "meta"
        result = without_values(func, args, kwargs)
        return func(*args, **kwargs) if result is NotImplemented else result


def is_unfilled(module: nn.Module) -> bool:
    """Whether any weight or buffer of `module` has no values."""
    return any(t.is_meta for t in chain(module.parameters(), module.buffers()))


def with_stored_weights(
    build: Callable[[bool], Module], load: Callable[[Module], Report]
) -> tuple[Module, Report]:
    """Build a module for stored weights: without values, or at random if some are in no file.

    The global random state of the CPU does not change, unless the module has to start at random.

    Args:
        build: called with True to build without weights (under `Unfilled`), with False to build as usual.
        load: loads the stored weights. It is called again if the module is built again.

    Returns:
        (the module, what `load` returned).
    """
    with torch.random.fork_rng(
        devices=[]
    ):  # random values are replaced, and must not change what others draw
        module = build(True)
        report = load(module)
    if is_unfilled(module):
        del module  # free its memory before the next allocation
        module = build(False)
        report = load(module)
    return module, report


@torch.no_grad()
def take_own_memory(module: nn.Module, keys: Iterable[str]) -> None:
    """Copy these tensors of the module's state into separate memory, one after the other.

    Tensors loaded with `assign=True` are memory-mapped: writing to them does not change the file, but
    overwriting the file changes them, and several may share the same bytes.
    """
    state = module.state_dict(keep_vars=True)
    for tensor in {id(state[key]): state[key] for key in keys if key in state}.values():
        tensor.data = tensor.data.clone(memory_format=torch.contiguous_format)
