"""Checks that keep an optimizer step from destroying the weights: bad steps are skipped, or end the run."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence

import lightning.pytorch as pl
from torch import Tensor
from torch.optim import Optimizer

from stable_audio.incidents import incident
from stable_audio.optim.step_limits import StepLimits
from stable_audio.training.errors import TrainingError
from stable_audio.training.guards.finite import Agree, BadStep, FiniteGuard
from stable_audio.training.processes.gathering import of_all, summed
from stable_audio.training.window import Window

log = logging.getLogger(__name__)

MOST_NAMES = 20
"""Number of files that a message names."""


class CheckedModule(pl.LightningModule):
    """Skips steps whose loss or gradient is not finite, or a spike, and names their files.

    Attributes:
        window: scalars since the last log line.
        guard: what tells bad steps, and counts them.

    Args:
        limits: how many bad steps are skipped; None: the first one ends the run.
    """

    def __init__(self, *, limits: StepLimits | None = None) -> None:
        super().__init__()
        self.window = Window()
        self.guard = FiniteGuard(limits)
        self._files: list[str] = []
        self._loss: Tensor | None = None

    def check_step(
        self,
        norm: Tensor,
        optimizer: Optimizer | None = None,
        *,
        network: int = 0,
        reason: str = "",
        loss_limit: float = math.inf,
        stepped: bool = False,
        torn: bool = False,
    ) -> bool:
        """Check a step before its optimizer steps; returns whether the caller must skip it.

        Args:
            norm: norm of the gradient, a scalar.
            optimizer: the optimizer that is about to step. On a GPU a fused one skips a bad step by itself,
                which is told at the next step; see `FiniteGuard`.
            network: index of the network that steps.
            reason: why the loss is bad, where that is known already.
            loss_limit: the largest size of the loss; a larger one has exploded. Infinite: none has.
            stepped: weights whose gradient is finite have stepped already, so that no step is a spike.
            torn: the step is bad, and some of them have.

        Raises:
            TrainingError: the step is bad and ends the run; with the files of the batches since the last one.
        """
        scaled = self._precision() == "16-mixed"
        bad = self.guard.watch(
            None if scaled else optimizer,
            norm,
            self._loss,
            step=self.trainer.global_step,
            files=self._files,
            network=network,
            reason=reason,
            loss_limit=loss_limit,
            spikes=not stepped,
            agree=self._agreement(),
        )
        if torn and bad is not None:
            self._answer_torn(bad)
            return True
        if bad is None or (scaled and bad.what == "gradient"):
            return False  # the gradient scaler overflowed, skips this step and lowers its scale
        self._answer(bad)
        return bad.step == self.trainer.global_step

    def settle_checks(self) -> None:
        """Wait for the check of the last step. Call it before anything is written.

        Raises:
            TrainingError: it was bad, and ends the run.
        """
        bad = self.guard.settle()
        if bad is not None:
            self._answer(bad, alone=True)

    def _answer(self, bad: BadStep, *, alone: bool = False) -> None:
        """Count and name a bad step, which is skipped, or end the run."""
        if not self.guard.skips(bad):
            raise self.stopped(bad.reason, number=bad.number, files=bad.files)
        self.guard.count(bad)
        files = list(bad.files) if alone else self._files_of_all(bad)
        log.error(
            "the %s at step %d; the step is skipped, the weights were not changed. Files of this step: %s",
            bad.reason.rstrip(","),
            bad.number,
            named(files),
            extra=incident("skipped step", step=bad.number, files=files[:MOST_NAMES]),
        )

    def _answer_torn(self, bad: BadStep) -> None:
        """Have the run go back to a checkpoint, or end it."""
        what = (
            f"the {bad.reason.rstrip(',')} at step {bad.number}; gradient_release had let other weights take "
            "this step before that was known, so it is not saved"
        )
        files = f"Files of this step: {named(bad.files)}"
        if not self.guard.skips(bad):
            raise TrainingError(
                f"{what}: continue from the last checkpoint. {files}. Look at these files, lower the "
                "learning rate, or leave gradient_release out, by which a bad step changes nothing"
            )
        self.guard.tear(bad)
        log.error("%s. %s", what, files)

    def _files_of_all(self, bad: BadStep) -> list[str]:
        """Files of all processes: of those whose loss is bad, if there are any."""
        if self._agreement() is None:
            return list(bad.files)
        parts = of_all((bad.what, bad.files))
        blamed = [files for what, files in parts if what == "loss"] or [files for _, files in parts]
        return [file for files in blamed for file in files]

    def _agreement(self) -> Agree | None:
        """Sums over all processes, or None if there is one."""
        if self._trainer is None or self._trainer.world_size == 1:
            return None
        return summed

    def stopped(self, what: str, *, number: int, files: Sequence[str] = ()) -> TrainingError:
        """The error that ends a run, with the files to look at and advice.

        Args:
            what: what is wrong, such as "loss is not finite".
            number: the faulty step, counted from 1.
            files: files of the faulty step; empty for the current one.
        """
        names = files or self._files
        return TrainingError(
            f"the {what} at step {number}; the weights were not changed. Files of this step: "
            f"{', '.join(names) or 'unknown'}. Look at these files, lower the learning rate, or set "
            "--gradient-clip-val"
        )

    def record(self, values: Mapping[str, Tensor | float]) -> None:
        """Add scalars to the next log line."""
        self.window.add(values)

    def _precision(self) -> str:
        return str(self._trainer.precision) if self._trainer is not None else "32-true"


def named(files: Sequence[str]) -> str:
    """The names of some files, for a message."""
    more = f" and {len(files) - MOST_NAMES} more" if len(files) > MOST_NAMES else ""
    return (", ".join(files[:MOST_NAMES]) or "unknown") + more
