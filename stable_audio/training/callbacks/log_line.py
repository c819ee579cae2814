"""What a log line is made of: means over all processes, and measurements of each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import lightning.pytorch as pl
import torch
from torch import Tensor

from stable_audio.nn.transfer import Readback, to_device
from stable_audio.training.base import TrainingModule
from stable_audio.training.processes.gathering import summed
from stable_audio.training.window import SigmaBuckets


@dataclass(frozen=True)
class SharedValues:
    """The scalars that a module has recorded since the last line, over all processes, which are still being
    copied from the device.

    Attributes:
        step: step of the line.
        names: names of `means`.
        means: means over all processes, or None without any.
        sigma: sums and counts by noise level, or None.
    """

    step: int
    names: tuple[str, ...]
    means: Readback | None
    sigma: Readback | None

    @classmethod
    def take(cls, trainer: pl.Trainer, module: TrainingModule, step: int) -> SharedValues:
        """Exchange the scalars of a module, and empty its window. Every process must call it."""
        means = module.window.means()
        stacked, totals = _stacked(trainer, means), _sigma_totals(trainer, module)
        return cls(
            step=step,
            names=tuple(means),
            means=None if stacked is None else Readback(stacked),
            sigma=None if totals is None else Readback(totals),
        )

    def values(self) -> dict[str, float]:
        """The scalars by name; waits until they have been copied."""
        values = dict(zip(self.names, self.means.values().tolist())) if self.means is not None else {}
        if self.sigma is not None:
            values.update(SigmaBuckets.means(self.sigma.values()))
        return values


@dataclass(frozen=True)
class LogLine:
    """A log line, some of whose values are still being copied from the device.

    Attributes:
        shared: scalars over all processes.
        host_values: values that are not on the device.
        measured: `Measured.numbers` of all processes, being copied; None where one could not be reached.
    """

    shared: SharedValues
    host_values: Mapping[str, float]
    measured: Readback | None = None

    @property
    def step(self) -> int:
        """Step of the line."""
        return self.shared.step

    def values(self) -> dict[str, float]:
        """All values by name but those of the speed; waits until they have been copied."""
        return {**self.shared.values(), **self.host_values}


def of_each_process(trainer: pl.Trainer, numbers: Sequence[float]) -> Tensor:
    """The numbers of all processes as one tensor (processes, n), on the device if there are several."""
    own = torch.tensor(numbers, dtype=torch.float64)
    if trainer.world_size == 1:
        return own[None]
    everyone = trainer.strategy.all_gather(to_device(own, trainer.strategy.root_device))
    return everyone.view(trainer.world_size, -1)


def _stacked(trainer: pl.Trainer, values: Mapping[str, Tensor]) -> Tensor | None:
    """Means over all processes as one tensor on the device of this process; None without values.

    Every process must pass the same names, in the same order.
    """
    if not values:
        return None
    device = trainer.strategy.root_device
    stacked = torch.stack([to_device(v.float().reshape(()), device) for v in values.values()])
    return summed(stacked) / trainer.world_size if trainer.world_size > 1 else stacked


def _sigma_totals(trainer: pl.Trainer, module: TrainingModule) -> Tensor | None:
    totals = module.buckets.pop()
    if totals is None or trainer.world_size == 1:
        return totals
    return summed(totals)
