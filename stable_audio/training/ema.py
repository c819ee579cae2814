"""Exponential moving average of weights."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


class EMA:
    """Average of a module's parameters and floating buffers; everything else is copied.

    After n updates the decay is 0 for n <= update_after_step + 1 (the average is a copy), then
    `1 - (1 + (n - update_after_step - 1) / inv_gamma) ** -power`, at most beta: the warm-up of
    Crowson's k-diffusion, with stable-audio-tools' settings as defaults. The average starts from a copy at
    the first update past the wait, whatever the decay.

    Weights of less than 32 bits are averaged in float32: at a decay of 0.9999 a bfloat16 average would
    never move. The update is fused over all tensors of a type.

    Args:
        module: whose weights are averaged.
        parts: names of submodules to average (prefixes of keys); None averages everything.
        beta, power, inv_gamma, update_after_step: the rule above.
        update_every: average at every such update only.
    """

    def __init__(
        self,
        module: nn.Module,
        *,
        parts: Sequence[str] | None = None,
        beta: float = 0.9999,
        power: float = 0.75,
        inv_gamma: float = 1.0,
        update_every: int = 1,
        update_after_step: int = 1,
    ) -> None:
        if not 0 <= beta < 1:
            raise ValueError(f"beta must be in [0, 1), found {beta}")
        if update_every < 1:
            raise ValueError(f"update_every must be at least 1, found {update_every}")
        self.beta, self.power, self.inv_gamma = beta, power, inv_gamma
        self.update_every, self.update_after_step = update_every, update_after_step
        self._module = module
        self._parts = None if parts is None else tuple(f"{p}." for p in parts)
        # What checkpoints keep: no scratch buffers, no frozen encoders that stay out of them.
        self._kept = frozenset(k for k in module.state_dict(keep_vars=True) if self._is_averaged(k))
        self.step = 0
        self.initialised = False
        self.average: dict[str, Tensor] = {k: _shadow(v) for k, v in self._tracked().items()}

    def decay(self) -> float:
        """Weight of the old average at the current step."""
        age = self.step - self.update_after_step - 1
        if age <= 0:
            return 0.0
        return min(max(1 - (1 + age / self.inv_gamma) ** -self.power, 0.0), self.beta)

    @torch.no_grad()
    def update(self) -> None:
        """Take the module's weights in. Call once per optimizer step."""
        step, self.step = self.step, self.step + 1
        if step % self.update_every:
            return
        if step <= self.update_after_step or not self.initialised:
            self.initialised = step > self.update_after_step
            self._blend(1.0)
        else:
            self._blend(1 - self.decay())

    @torch.no_grad()
    def _blend(self, weight: float) -> None:
        """average += weight * (current - average), one fused operation per dtype."""
        groups: dict[torch.dtype, tuple[list[Tensor], list[Tensor]]] = {}
        for key, current in self._tracked().items():
            average = self.average[key]
            if average.device != current.device:
                average = self.average[key] = average.to(current.device)
            if not average.is_floating_point() or weight == 1.0:
                average.copy_(current)
                continue
            averages, currents = groups.setdefault(average.dtype, ([], []))
            averages.append(average)
            currents.append(current.to(average.dtype))
        for averages, currents in groups.values():
            torch._foreach_lerp_(averages, currents, weight)

    @contextmanager
    def swapped(self) -> Iterator[nn.Module]:
        """The module with averaged weights; its own come back at the end, whatever happens."""
        own = {k: v.detach().clone() for k, v in self._tracked().items()}
        try:
            self._write(self.average)
            yield self._module
        finally:
            self._write(own)

    @torch.no_grad()
    def _write(self, values: dict[str, Tensor]) -> None:
        for key, tensor in self._tracked().items():
            tensor.copy_(values[key])

    def state_dict(self) -> dict[str, Any]:
        """Average and counters; only tensors and plain values."""
        return {"step": self.step, "initialised": self.initialised, "average": dict(self.average)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take `state` over.

        Raises:
            ValueError: it belongs to other weights.
        """
        differing = set(state["average"]) ^ set(self.average)
        if differing:
            raise ValueError(
                f"the stored average has other weights: {sorted(differing)[:5]} are on one side only"
            )
        self.step, self.initialised = state["step"], state["initialised"]
        with torch.no_grad():
            for key, value in state["average"].items():
                self.average[key].copy_(value)

    def reset(self) -> None:
        """Start again from the module's present weights."""
        self.step, self.initialised = 0, False
        self.average = {k: _shadow(v) for k, v in self._tracked().items()}

    def _tracked(self) -> dict[str, Tensor]:
        """The module's tensors by key. They are looked up anew, since moving a module replaces buffers."""
        named = (*self._module.named_parameters(), *self._module.named_buffers())
        return {k: v.detach() for k, v in named if k in self._kept}

    def _is_averaged(self, key: str) -> bool:
        return self._parts is None or key.startswith(self._parts)


def _shadow(tensor: Tensor) -> Tensor:
    low = tensor.is_floating_point() and tensor.element_size() < 4
    return tensor.detach().to(torch.float32 if low else tensor.dtype, copy=True)
