"""Checks that end a run before an optimizer step destroys its weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import lightning.pytorch as pl
import torch
from torch import Tensor
from torch.optim import Optimizer

from stable_audio.training.errors import TrainingError
from stable_audio.training.finite import FiniteGuard, NotFinite
from stable_audio.training.window import Window


class CheckedModule(pl.LightningModule):
    """Refuses losses and gradients that are not finite, and names the files of their step.

    Attributes:
        window: scalars since the last log line.
    """

    def __init__(self) -> None:
        super().__init__()
        self.window = Window()
        self._files: list[str] = []
        self._loss: Tensor | None = None
        self._guard = FiniteGuard()

    def check_finite(self, norm: Tensor, optimizer: Optimizer | None = None) -> None:
        """End the run if the gradient norm is not finite, before the optimizer steps.

        Args:
            norm: norm of the gradient, a scalar.
            optimizer: the optimizer that is about to step. On a GPU a fused one skips a bad step by itself,
                and the run ends at the next step; see `FiniteGuard`.

        Raises:
            TrainingError: with the files of the batches since the last step.
        """
        if optimizer is not None and self._precision() != "16-mixed":
            self._refuse(
                self._guard.watch(
                    optimizer, norm, self._loss, step=self.trainer.global_step, files=self._files
                )
            )
            return
        if bool(torch.isfinite(norm)):
            return
        loss = self._loss
        if self._precision() == "16-mixed" and (loss is None or bool(torch.isfinite(loss).all())):
            return  # the gradient scaler overflowed, skips this step and lowers its scale
        what = "gradient" if loss is None or bool(torch.isfinite(loss).all()) else "loss"
        raise self.stopped(f"{what} is not finite")

    def settle_checks(self) -> None:
        """Wait for the check of the last step. Call it before anything is written.

        Raises:
            TrainingError: its gradient was not finite.
        """
        self._refuse(self._guard.settle())

    def _refuse(self, bad: NotFinite | None) -> None:
        if bad is not None:
            raise self.stopped(f"{bad.what} is not finite", step=bad.step, files=bad.files)

    def stopped(self, what: str, *, step: int | None = None, files: Sequence[str] = ()) -> TrainingError:
        """The error that ends a run, with the files to look at and advice.

        Args:
            what: what is wrong, such as "loss is not finite".
            step: the faulty step; None means the current one.
            files: files of the faulty step; empty for the current one.
        """
        names = files or self._files
        return TrainingError(
            f"the {what} at step {self.trainer.global_step if step is None else step}; the weights were not "
            f"changed. Files of this step: {', '.join(names) or 'unknown'}. Look at these files, lower the "
            "learning rate, or set --gradient-clip-val"
        )

    def record(self, values: Mapping[str, Tensor | float]) -> None:
        """Add scalars to the next log line."""
        self.window.add(values)

    def _precision(self) -> str:
        return str(self._trainer.precision) if self._trainer is not None else "32-true"
