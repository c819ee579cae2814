"""Who saves a run after an error: one process, which has whole weights that are still numbers."""

from __future__ import annotations

import logging
from pathlib import Path

import lightning.pytorch as pl
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy
from torch import nn

from stable_audio.training.guards.finite import not_finite

log = logging.getLogger(__name__)


def claim_rescue(trainer: pl.Trainer, module: nn.Module, folder: Path) -> bool:
    """Whether this process is to save the current step after an error; why none can is logged.

    Args:
        module: the module that is trained.
        folder: folder of the run.
    """
    if not isinstance(trainer.strategy, (SingleDeviceStrategy, DDPStrategy)):
        log.error("no checkpoint: each process has a part of the weights")
        return False
    if (broken := not_finite(module, trainer.optimizers)) is not None:
        log.error("no checkpoint: %s", broken)
        return False
    return trainer.world_size == 1 or _is_first(folder, trainer.global_step)


def leave_rescue(folder: Path, step: int) -> None:
    """Let another process save `step`, since this one could not."""
    _mark(folder, step).unlink(missing_ok=True)


def _is_first(folder: Path, step: int) -> bool:
    """Claim the saving of `step`; returns False if another process of the run has claimed it.

    All processes have the same weights, and if one fails, the others often fail, too.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _mark(folder, step).touch(exist_ok=False)
    except FileExistsError:
        return False
    except OSError:  # a full disk is reported when the checkpoint is written
        return True
    return True


def _mark(folder: Path, step: int) -> Path:
    """An empty file, which the next start removes with other leftovers."""
    return folder / f".rescue-{step}"
