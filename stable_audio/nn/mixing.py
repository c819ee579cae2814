"""Classes of single layers with something mixed in, as torch.nn.utils.parametrize makes them."""

from __future__ import annotations

import functools
from typing import Any

from torch import nn


def mix_in(layer: nn.Module, mixin: type) -> None:
    """Give a layer a class of its own that looks first in `mixin`."""
    kind: Any = type(layer)
    layer.__class__ = _mixed(mixin, kind)


def take_out(layer: nn.Module, mixin: type) -> None:
    """Undo `mix_in`, where `mixin` was the last that was mixed in."""
    kind: Any = type(layer)
    assert kind.__bases__[0] is mixin
    layer.__class__ = kind.__bases__[1]


def plain_class(layer: nn.Module) -> type[nn.Module]:
    """The class of a layer without what is mixed into it."""
    plain: type[nn.Module] = getattr(type(layer), "plain", type(layer))
    return plain


@functools.cache
def _mixed(mixin: type, cls: Any) -> type[nn.Module]:
    return type(cls.__name__, (mixin, cls), {"plain": getattr(cls, "plain", cls)})
