"""Keeps gradients that are not finite away from the weights."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.optim import Optimizer

from stable_audio.nn.transfer import Readback


@dataclass(frozen=True)
class _Check:
    """One step whose verdict is on its way: the step, its files, [gradient is finite, loss is finite]."""

    step: int
    files: tuple[str, ...]
    verdict: Readback


@dataclass(frozen=True)
class NotFinite:
    """A step whose gradient was not finite.

    Attributes:
        what: what failed first, "loss" or "gradient".
    """

    step: int
    files: tuple[str, ...]
    what: str


class FiniteGuard:
    """Looks at the gradient norm of every step.

    Reading a value from a GPU makes the host wait for all queued work. A fused optimizer needs no reading:
    it leaves weights and averages alone on the device where its attribute `found_inf` is 1, which is how
    torch's gradient scaler skips a step. The verdict then arrives one step later.
    """

    def __init__(self) -> None:
        self._pending: _Check | None = None

    def watch(
        self, optimizer: Optimizer, norm: Tensor, loss: Tensor | None, *, step: int, files: list[str]
    ) -> NotFinite | None:
        """Take in the norm of a step before `optimizer` acts on it.

        Args:
            optimizer: that is about to step.
            norm: norm of the gradients, a scalar tensor.
            loss: loss in any shape, or None.
            step: step that a fault is reported for.
            files: files that a fault is reported for.

        Returns:
            The step that was not finite: this one where the optimizer cannot skip it by itself, else the
            one before.
        """
        finite = torch.isfinite(norm)
        both = torch.stack([finite, torch.ones_like(finite) if loss is None else torch.isfinite(loss).all()])
        check = _Check(step, tuple(files), Readback(both))
        if not skips_by_itself(optimizer, norm):
            return _verdict(check)
        optimizer.found_inf = (~finite).to(torch.float32)  # type: ignore[attr-defined]
        optimizer.grad_scale = None  # type: ignore[attr-defined]
        earlier, self._pending = self._pending, check
        return None if earlier is None else _verdict(earlier)

    def settle(self) -> NotFinite | None:
        """The verdict that is still on its way, if it is a bad one; waits for it."""
        earlier, self._pending = self._pending, None
        return None if earlier is None else _verdict(earlier)


def skips_by_itself(optimizer: Optimizer, norm: Tensor) -> bool:
    """Whether `optimizer` skips a step on the device: fused, and on a GPU, where reading the norm costs."""
    return norm.device.type == "cuda" and bool(getattr(optimizer, "_step_supports_amp_scaling", False))


def _verdict(check: _Check) -> NotFinite | None:
    gradient, loss = check.verdict.values().tolist()
    return None if gradient else NotFinite(check.step, check.files, "gradient" if loss else "loss")
