"""The usual norm of a network's gradient, by which spikes are told, without the host reading it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

COUNT = 64
"""Number of norms whose median is the usual one."""
FIRST = 10
"""Number of steps before there is a usual norm."""
NONE = -1.0
"""What stands for the norm of a bad step, and of one that is not taken yet."""


class UsualNorm:
    """The median of the last norms, on the device of the gradient.

    Norms of bad steps are left out. A median of 0 sets no limit, since any gradient would then be a spike.
    """

    def __init__(self) -> None:
        self._norms: Tensor | None = None
        self._steps = 0

    def limit(self, norm: Tensor, factor: float | None) -> Tensor:
        """`factor` times the usual norm; infinite while that is not known, and for None.

        Args:
            norm: a scalar, whose device the result is on.
        """
        infinite = torch.full_like(norm, float("inf"), dtype=torch.float32)
        if factor is None or self._norms is None or self._steps < FIRST:
            return infinite
        usual = _median_of_known(self._norms.to(norm.device))
        return torch.where(usual > 0, factor * usual, infinite)

    def add(self, norm: Tensor, good: Tensor) -> None:
        """Count the norm of a step.

        Args:
            norm: a scalar.
            good: whether the step is not bad, a scalar.
        """
        if self._norms is None:
            self._norms = torch.full((COUNT,), NONE, dtype=torch.float32, device=norm.device)
        norms = self._norms = self._norms.to(norm.device)
        norms[self._steps % COUNT] = torch.where(good, norm.detach().float(), NONE)
        self._steps += 1

    def state_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {"steps": self._steps, "norms": None if self._norms is None else self._norms.tolist()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state`."""
        norms = state["norms"]
        self._steps, self._norms = int(state["steps"]), None if norms is None else torch.tensor(norms)


def _median_of_known(norms: Tensor) -> Tensor:
    """The median of the norms (n,) that are not `NONE`, the lower one of two, as by `nanmedian`, which makes
    the host wait for a GPU; `NONE` where there are none."""
    known = (norms >= 0).sum()
    # In ascending order those that are not known come first.
    place = norms.numel() - known + (known - 1).clamp(min=0) // 2
    place = place.clamp(max=norms.numel() - 1).reshape(1)
    return norms.sort().values.index_select(0, place).reshape(())
