"""Scalars between two log lines: means on the device, read once per line."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


class Window:
    """Running means by name. Values stay on their device until `means` is called."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, int] = {}

    def add(self, values: Mapping[str, Tensor | float]) -> None:
        """Take one value per name in."""
        for name, value in values.items():
            value = torch.as_tensor(value).detach().float()
            self._sums[name] = self._sums[name] + value if name in self._sums else value
            self._counts[name] = self._counts.get(name, 0) + 1

    def means(self) -> dict[str, Tensor]:
        """Mean by name since the last call, which empties the window."""
        means = {k: v / self._counts[k] for k, v in sorted(self._sums.items())}
        self._sums, self._counts = {}, {}
        return means


class SigmaBuckets:
    """Mean loss in ten equal ranges of sigma: where in the noise range training is good or bad."""

    COUNT = 10

    def __init__(self) -> None:
        self._totals: Tensor | None = None

    def add(self, sigma: Tensor, loss: Tensor) -> None:
        """sigma (b,) in [0, 1] and loss (b,) of the same items."""
        bucket = (sigma.detach() * self.COUNT).long().clamp(0, self.COUNT - 1)
        update = torch.zeros(2, self.COUNT, device=loss.device, dtype=torch.float32)
        update[0].index_add_(0, bucket, loss.detach().float())
        update[1].index_add_(0, bucket, torch.ones_like(loss, dtype=torch.float32))
        self._totals = update if self._totals is None else self._totals + update

    def pop(self) -> Tensor | None:
        """(2, 10): sums and counts since the last call; ranks add theirs up before `means`."""
        totals, self._totals = self._totals, None
        return totals

    @staticmethod
    def means(totals: Tensor) -> dict[str, float]:
        """`{"model/loss_all_0.3": mean}` for the ranges that had items."""
        sums, counts = totals.cpu()
        return {
            f"model/loss_all_{i / SigmaBuckets.COUNT:.1f}": float(sums[i] / counts[i])
            for i in range(SigmaBuckets.COUNT)
            if counts[i] > 0
        }
