"""Frozen networks beside a model: loaded at first use, once for all who need them, and in no checkpoint."""

from __future__ import annotations

import copy
import functools
import weakref
from collections.abc import Callable, Hashable
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from stable_audio.conditioning.tokenizers import ONE_AT_A_TIME

_LOADED: weakref.WeakValueDictionary[Hashable, nn.Module] = weakref.WeakValueDictionary()
"""(identity, dtype, device) -> network in use. Such a network is never changed, so that all can share it."""


class LazyNetwork:
    """A frozen network that is loaded at first use.

    Networks with equal weights on one device are one network, whoever asks for it.

    Args:
        load: returns the network with its weights on the CPU.
        identity: equal for equal weights, or a function that returns it, which is called at first use.
        count: the number of parameters, counted without loading them.
        dtype: type of the weights; None: as `load` returns them.
    """

    def __init__(
        self,
        *,
        load: Callable[[], nn.Module],
        identity: Callable[[], Hashable],
        count: Callable[[], int],
        dtype: torch.dtype | None = None,
    ) -> None:
        self._load, self.identity, self.dtype = load, identity, dtype
        self.count: Callable[[], int] = functools.cache(count)
        self.module: nn.Module | None = None

    def on(self, device: torch.device | str) -> nn.Module:
        """The network, loaded to `device` unless it is loaded already."""
        with ONE_AT_A_TIME:
            if self.module is None:
                place, identity = torch.device(device), self.identity()
                self.module = _LOADED.get((identity, self.dtype, place))
                if self.module is None:
                    loaded = self._load().eval().requires_grad_(False)
                    self._hold(loaded.to(device=place, dtype=self.dtype), identity)
            assert self.module is not None
            return self.module

    def move(self, fn: Callable[[Tensor], Tensor]) -> None:
        """Follow a module that `fn` moves to another device; others who share the network keep theirs."""
        with ONE_AT_A_TIME:
            if self.module is None:
                return
            present = device_of(self.module)
            place = fn(torch.empty(0, device=present)).device
            if place == present:
                return
            identity = self.identity()
            shared = _LOADED.get((identity, self.dtype, place))
            if shared is None:
                self._hold(_copied_to(self.module, place), identity)
            else:
                self.module = shared

    def drop(self) -> None:
        """Free its memory, unless others share it; it is loaded again if it is needed again."""
        with ONE_AT_A_TIME:
            self.module = None

    def _hold(self, module: nn.Module, identity: Hashable) -> None:
        self.module = module
        _LOADED[identity, self.dtype, device_of(module)] = module

    def __deepcopy__(self, memo: dict[int, Any]) -> LazyNetwork:
        twin = LazyNetwork(load=self._load, identity=self.identity, count=self.count, dtype=self.dtype)
        twin.module = self.module
        return twin


def device_of(module: nn.Module) -> torch.device:
    """Device of the weights of a module; the CPU if it has none."""
    tensor = next(chain(module.parameters(), module.buffers()), None)
    return torch.device("cpu") if tensor is None else tensor.device


def _copied_to(module: nn.Module, device: torch.device) -> nn.Module:
    """A copy on `device`, made without a second copy in between."""
    memo: dict[int, Any] = {
        id(p): nn.Parameter(p.detach().to(device), requires_grad=False) for p in module.parameters()
    }
    memo.update({id(b): b.to(device) for b in module.buffers()})
    return copy.deepcopy(module, memo)
