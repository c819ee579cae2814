"""Keep gradients that are not finite from changing the weights."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.optim import Optimizer

from stable_audio.nn.transfer import Readback


@dataclass(frozen=True)
class _Check:
    """The check of one step, whose result is being copied from the device.

    Attributes:
        step: the step.
        files: files of its batches.
        result: [gradient is finite, loss is finite].
    """

    step: int
    files: tuple[str, ...]
    result: Readback


@dataclass(frozen=True)
class NotFinite:
    """A step whose gradient was not finite.

    Attributes:
        step: the step.
        files: files of its batches.
        what: "loss" if the loss was not finite either, else "gradient".
    """

    step: int
    files: tuple[str, ...]
    what: str


class FiniteGuard:
    """Checks the gradient norm of every step.

    Reading a value from a GPU makes the host wait for all queued work. With a fused optimizer that is not
    necessary: where its attribute `found_inf` is 1, it skips the step on the device, as with torch's gradient
    scaler. The result of the check is then read one step later.
    """

    def __init__(self) -> None:
        self._pending: _Check | None = None

    def watch(
        self, optimizer: Optimizer, norm: Tensor, loss: Tensor | None, *, step: int, files: list[str]
    ) -> NotFinite | None:
        """Check the norm of a step before `optimizer` steps.

        Args:
            optimizer: the optimizer that is about to step.
            norm: norm of the gradient, a scalar tensor.
            loss: loss in any shape, or None.
            step: number of the step.
            files: files of its batches.

        Returns:
            The step that was not finite, or None: this step, if the optimizer cannot skip it by itself, else
            the one before.
        """
        finite = torch.isfinite(norm)
        both = torch.stack([finite, torch.ones_like(finite) if loss is None else torch.isfinite(loss).all()])
        check = _Check(step, tuple(files), Readback(both))
        if not skips_by_itself(optimizer, norm):
            return _result(check)
        optimizer.found_inf = (~finite).to(torch.float32)  # type: ignore[attr-defined]
        optimizer.grad_scale = None  # type: ignore[attr-defined]
        earlier, self._pending = self._pending, check
        return None if earlier is None else _result(earlier)

    def settle(self) -> NotFinite | None:
        """Wait for the result of the last check; returns its step if that was not finite."""
        earlier, self._pending = self._pending, None
        return None if earlier is None else _result(earlier)


def skips_by_itself(optimizer: Optimizer, norm: Tensor) -> bool:
    """Whether `optimizer` can skip a step on the device: it is fused and on a GPU."""
    return norm.device.type == "cuda" and bool(getattr(optimizer, "_step_supports_amp_scaling", False))


def _result(check: _Check) -> NotFinite | None:
    gradient, loss = check.result.values().tolist()
    return None if gradient else NotFinite(check.step, check.files, "gradient" if loss else "loss")
