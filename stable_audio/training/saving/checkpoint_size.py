"""The size of a run's checkpoints before one is written, and whether the disk has room for them."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor
from torch.optim import Optimizer

from stable_audio.inference.memory.live import bytes_of
from stable_audio.inference.memory.reserve import readable_size
from stable_audio.optim.split import is_split
from stable_audio.training.options import RunOptions
from stable_audio.training.saving.checkpoint_files import step_checkpoints
from stable_audio.training.saving.folder import disk_of
from stable_audio.wording import plural

if TYPE_CHECKING:
    from stable_audio.training.base import TrainingModule


def checkpoint_bytes(
    module: TrainingModule, optimizers: Iterable[Optimizer], *, planned: int, in_parts: bool
) -> int:
    """About the bytes of a checkpoint with its inference file: weights, average and optimizer state.

    Args:
        module: the training module, which may be split over processes.
        optimizers: of the run.
        planned: bytes of their state; 0: not planned, so that what they have counts, which a new run has not.
        in_parts: the checkpoints are in parts, without inference files.
    """
    whole = _bytes(module.saved.part(module.state_dict(), "model.").values())
    average = 0 if module.ema is None else _bytes(module.saved.part(module.ema.average).values())
    inference = 0 if in_parts else _bytes(module.saved.part(module.model.state_dict()).values())
    states = [value for o in optimizers for state in o.state.values() for value in state.values()]
    held = _bytes(value for value in states if isinstance(value, Tensor))
    return whole + average + inference + (planned or held)


def _bytes(tensors: Iterable[Tensor]) -> int:
    # The number of elements of a split tensor is that of the whole one; others may share memory.
    listed = list(tensors)
    split = sum(tensor.numel() * tensor.element_size() for tensor in listed if is_split(tensor))
    return split + bytes_of(tensor for tensor in listed if not is_split(tensor))


@dataclass(frozen=True)
class Expected:
    """What a run will write.

    Attributes:
        step: where it begins.
        every: steps between numbered checkpoints, 0: at the end only.
        keep: how many of them stay, -1: all.
        last: the last step, -1: it has no end.
    """

    step: int
    every: int
    keep: int
    last: int

    @classmethod
    def of(cls, options: RunOptions, step: int) -> Expected:
        """What a run with these options writes from a step on."""
        return cls(step, options.checkpoint_every, options.keep, options.max_steps)

    def more(self, present: int) -> int:
        """How many checkpoints need room beside those that are there: one is written beside those kept.

        Args:
            present: numbered checkpoints up to the step.
        """
        kept = self._written if self.keep < 0 else min(self._written, self.keep + 1 - present)
        return max(1, kept)

    @property
    def _written(self) -> int:
        """Checkpoints until the end; where there is none, one that stays and one that is being written."""
        if self.last < 0:
            return 2 if self.keep < 0 else self.keep + 1
        if self.every == 0:
            return 1
        # One at each multiple of `every`, and one at the end.
        return -(-self.last // self.every) - self.step // self.every


def lack_of_room(folder: Path, size: int, expected: Expected) -> str | None:
    """A sentence about a disk that holds fewer checkpoints than a run needs; None if it holds them.

    Args:
        folder: of the run.
        size: bytes of a checkpoint.
        expected: what the run will write.
    """
    free = shutil.disk_usage(disk_of(folder)).free
    present = sum(step <= expected.step for step, _ in step_checkpoints(folder))
    more = expected.more(present)
    if free >= more * size:
        return None
    kept = "all stay" if expected.keep < 0 else f"--keep {expected.keep}"
    holds = plural(free // size, "checkpoint")
    return (
        f"{folder}: the disk has {readable_size(free)} free, which holds {holds} of about "
        f"{readable_size(size)}, but room for {more} more is needed ({kept}, and the next is written beside "
        "them); make room, lower --keep, or choose another --save-dir"
    )
