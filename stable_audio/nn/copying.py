"""Copies of single modules, which share their tensors and the modules below them."""

from __future__ import annotations

from typing import TypeVar

from torch import nn

_COMPILED = "_compiled_call_impl"
"""Attribute of compiled modules: the compiled call, of the layers that the module had then."""

Module = TypeVar("Module", bound=nn.Module)


def copied_alone(module: Module) -> Module:
    """A copy with dictionaries of its own (parameters, buffers, modules below, hooks) and the same entries.

    The copy of a compiled module is not compiled: it would run the layers of the original.
    """
    new = type(module).__new__(type(module))
    new.__dict__ = {k: v.copy() if isinstance(v, dict) else v for k, v in vars(module).items()}
    new.__dict__.pop(_COMPILED, None)
    return new


def is_compiled(module: nn.Module) -> bool:
    """Whether `module.compile()` was called."""
    return vars(module).get(_COMPILED) is not None
