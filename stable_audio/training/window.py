"""Scalars between two log lines: means on the device, read once per line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor


class Window:
    """Running means by name. Values stay on their device until `means` is called."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, int] = {}

    def add(self, values: Mapping[str, Tensor | float]) -> None:
        """Add one value per name."""
        for name, value in values.items():
            value = torch.as_tensor(value).detach().float()
            self._sums[name] = self._sums[name] + value if name in self._sums else value
            self._counts[name] = self._counts.get(name, 0) + 1

    def means(self) -> dict[str, Tensor]:
        """Mean by name since the last call, which empties the window."""
        means = {k: v / self._counts[k] for k, v in sorted(self._sums.items())}
        self._sums, self._counts = {}, {}
        return means

    def copy(self) -> Window:
        """A window with the same values, which those that are added to this one do not change."""
        window = Window()
        window._sums, window._counts = dict(self._sums), dict(self._counts)
        return window

    def state_dict(self) -> dict[str, Any]:
        """Sums and counts since the last call of `means`, on the CPU."""
        return {"sums": {k: v.cpu() for k, v in self._sums.items()}, "counts": dict(self._counts)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state`."""
        self._sums, self._counts = dict(state["sums"]), dict(state["counts"])


class SigmaBuckets:
    """Mean loss in ten equal ranges of the noise level sigma."""

    COUNT = 10

    def __init__(self) -> None:
        self._totals: Tensor | None = None

    def add(self, sigma: Tensor, loss: Tensor) -> None:
        """Add the losses (b,) of items at the noise levels sigma (b,) in [0, 1]."""
        bucket = (sigma.detach() * self.COUNT).long().clamp(0, self.COUNT - 1)
        update = torch.zeros(2, self.COUNT, device=loss.device, dtype=torch.float32)
        update[0].index_add_(0, bucket, loss.detach().float())
        update[1].index_add_(0, bucket, torch.ones_like(loss, dtype=torch.float32))
        self._totals = update if self._totals is None else self._totals.to(update.device) + update

    def pop(self) -> Tensor | None:
        """Sums and counts (2, 10) since the last call, to be summed over processes before `means`."""
        totals, self._totals = self._totals, None
        return totals

    def copy(self) -> SigmaBuckets:
        """Buckets with the same values, which those that are added to these do not change."""
        buckets = SigmaBuckets()
        buckets._totals = self._totals
        return buckets

    def state_dict(self) -> dict[str, Any]:
        """Sums and counts since the last call of `pop`, on the CPU."""
        return {"totals": None if self._totals is None else self._totals.cpu()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state`."""
        self._totals = state["totals"]

    @staticmethod
    def means(totals: Tensor) -> dict[str, float]:
        """`{"model/loss_all_0.3": mean}` for the ranges that had items."""
        sums, counts = totals.cpu()
        return {
            f"model/loss_all_{i / SigmaBuckets.COUNT:.1f}": float(sums[i] / counts[i])
            for i in range(SigmaBuckets.COUNT)
            if counts[i] > 0
        }


def state_of_rank(states: Sequence[Mapping[str, Any]], rank: int, world_size: int) -> dict[str, Any]:
    """{"window", "buckets"} of one process from those of all processes. If their number has changed, every
    process gets a share that gives the same means."""
    if len(states) == world_size:
        return dict(states[rank])
    windows, totals = [s["window"] for s in states], [s["buckets"]["totals"] for s in states]
    present = [t for t in totals if t is not None]
    names = [k for k in windows[0]["sums"] if all(k in w["sums"] for w in windows)]
    return {
        "window": {
            "sums": {k: torch.stack([w["sums"][k] for w in windows]).mean(0) for k in names},
            "counts": {k: windows[0]["counts"][k] for k in names},
        },
        "buckets": {"totals": torch.stack(present).sum(0) / world_size if present else None},
    }
