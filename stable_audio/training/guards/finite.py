"""Keep bad steps, whose gradient is not finite or a spike, from changing the weights."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from stable_audio.nn.transfer import Readback
from stable_audio.optim.split import local
from stable_audio.optim.step_limits import StepLimits
from stable_audio.training.guards.explosion import exploded
from stable_audio.training.guards.finite_values import in_state_of, not_finite_among
from stable_audio.training.guards.usual_norm import FIRST, UsualNorm

Agree = Callable[[Tensor], Tensor]
"""The sum of a number over all processes."""

MOST_SUSPECTS = 1000
"""Number of files whose bad steps are counted."""


@dataclass(frozen=True)
class _Check:
    """The check of one step, whose result is being copied from the device.

    Attributes:
        step: number of the steps before it.
        files: files of its batches.
        result: [step is good, gradient is finite, loss is finite, norm, its limit, size of the loss if that
            has a limit].
        early: the run had too few steps before it to skip it.
        reason: what the host knows of its loss; "" where the result says whether the step is bad.
        loss_limit: the largest size of the loss; infinite: there is none.
    """

    step: int
    files: tuple[str, ...]
    result: Readback
    early: bool
    reason: str
    loss_limit: float


@dataclass(frozen=True)
class BadStep:
    """A step that must not change the weights.

    Attributes:
        step: number of the steps before it.
        files: files of its batches.
        what: what is wrong: "loss" if that has exploded or is not finite, "gradient" if that is not finite,
            "spike", or "elsewhere" if it is bad on another process only.
        early: it is one of the first steps of the run, which ends with it.
        reason: the same in words.
    """

    step: int
    files: tuple[str, ...]
    what: Literal["loss", "gradient", "spike", "elsewhere"]
    early: bool = True
    reason: str = ""

    @property
    def number(self) -> int:
        """The step as the log and `metrics.csv` count, from 1."""
        return self.step + 1


class FiniteGuard:
    """Checks the gradient norm of every step, and counts the bad steps.

    Reading a value from a GPU makes the host wait for all queued work. With a fused optimizer that is not
    necessary: where its attribute `found_inf` is 1, it skips the step on the device, as with torch's gradient
    scaler. The result of the check is then read one step later.

    A bad step counts as a step: schedules and the data go on. In the first ten steps of a run nothing is lost
    yet, and it ends instead.

    Args:
        limits: which steps are spikes, and how many bad ones a run takes; None: it ends with the first step
            that is not finite.

    Attributes:
        returns: how often the run has gone back to a checkpoint.
        suspects: file -> number of bad steps that it was part of.
        torn: number of the steps before a bad one that some weights have taken, until the run goes back to
            before it; else None.
    """

    def __init__(self, limits: StepLimits | None = None) -> None:
        self.limits = limits
        self.returns = 0
        self.suspects: Counter[str] = Counter()
        self.torn: int | None = None
        self._pending: _Check | None = None
        self._usual: dict[int, UsualNorm] = {}
        self._watched = 0
        self._recent: list[int] = []

    def watch(
        self,
        optimizer: Optimizer | None,
        norm: Tensor,
        loss: Tensor | None,
        *,
        step: int,
        files: Sequence[str],
        network: int = 0,
        reason: str = "",
        loss_limit: float = math.inf,
        spikes: bool = True,
        agree: Agree | None = None,
    ) -> BadStep | None:
        """Check the norm of a step before `optimizer` steps.

        Args:
            optimizer: the optimizer that is about to step; None if it cannot skip a step by itself.
            norm: norm of the gradient, a scalar tensor.
            loss: loss in any shape, or None.
            step: number of the steps before it.
            files: files of its batches.
            network: index of the network that steps.
            reason: why the loss is known to be bad already, or "".
            loss_limit: the largest size of the loss; a larger one has exploded. Infinite: none has.
            spikes: whether a spike is a bad step.
            agree: sums over all processes, which skip a step together; None: there is one.

        Returns:
            The step that was bad, or None: this step, if the optimizer cannot skip it by itself, else the one
            before.
        """
        norm, usual = norm.detach(), self._usual.setdefault(network, UsualNorm())
        if loss is not None:  # gradients of offloaded weights are in host memory
            loss = loss.detach().to(norm.device)
        limit = usual.limit(norm, self.limits.spike if self.limits is not None and spikes else None)
        finite = torch.isfinite(norm)
        good = finite & (norm <= limit) if not reason else torch.zeros_like(finite)
        size = torch.zeros_like(norm)
        if loss is not None and math.isfinite(loss_limit):
            size = loss.abs().max()
            good = good & (size <= loss_limit)
        if agree is not None:
            good = agree((~good).to(torch.float32)) == 0
        if self.limits is not None:
            usual.add(norm, good)
        loss_finite = torch.ones_like(finite) if loss is None else torch.isfinite(loss).all()
        values = (good, finite, loss_finite, norm, limit, size)
        result = Readback(torch.stack([v.to(torch.float32) for v in values]))
        check = _Check(step, tuple(files), result, self._watched < FIRST, reason, loss_limit)
        self._watched += 1
        if optimizer is None or not skips_by_itself(optimizer, norm):
            return _result(check)
        optimizer.found_inf = (~good).to(torch.float32)  # type: ignore[attr-defined]
        optimizer.grad_scale = None  # type: ignore[attr-defined]
        earlier, self._pending = self._pending, check
        return None if earlier is None else _result(earlier)

    def settle(self) -> BadStep | None:
        """Wait for the result of the last check; returns its step if that was bad."""
        earlier, self._pending = self._pending, None
        return None if earlier is None else _result(earlier)

    def skips(self, bad: BadStep) -> bool:
        """Whether the run goes on without this step."""
        return self.limits is not None and not bad.early

    def count(self, bad: BadStep) -> None:
        """Count a bad step, which was skipped."""
        self._recent.append(bad.step)
        for file in dict.fromkeys(bad.files):
            if file in self.suspects or len(self.suspects) < MOST_SUSPECTS:
                self.suspects[file] += 1

    def tear(self, bad: BadStep) -> None:
        """Count a bad step that some weights have taken: the run must go back to before it."""
        self.count(bad)
        self.torn = bad.step

    def first_of_too_many(self, step: int) -> int | None:
        """The number of steps before the first of the last bad ones, if at `step` there are more than are
        skipped, or before that which some weights have taken; else None."""
        if self.limits is None or self.torn is not None:
            return self.torn
        self._forget_before(step - self.limits.within)
        return self._recent[0] if len(self._recent) > self.limits.skips else None

    def return_point(self, step: int) -> int:
        """The step whose checkpoint, or the newest before it, the run may have to go back to after `step`."""
        if self.limits is None:
            return step
        self._forget_before(step - self.limits.within)
        return self._recent[0] if self._recent else step

    def _forget_before(self, step: int) -> None:
        """Leave bad steps before `step` out of the count."""
        self._recent = [bad for bad in self._recent if bad >= step]

    def go_back(self) -> None:
        """The run goes back to a checkpoint, from which it counts anew."""
        self.returns += 1
        self.torn = None
        self._recent = []

    def state_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "watched": self._watched,
            "recent": list(self._recent),
            "returns": self.returns,
            "suspects": dict(self.suspects),
            "usual": {index: usual.state_dict() for index, usual in self._usual.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state`."""
        self._watched, self._recent = int(state["watched"]), list(state["recent"])
        self.returns, self.suspects = int(state["returns"]), Counter(state["suspects"])
        self._usual = {}
        for index, stored in state["usual"].items():
            self._usual.setdefault(int(index), UsualNorm()).load_state_dict(stored)


def skips_by_itself(optimizer: Optimizer, norm: Tensor) -> bool:
    """Whether `optimizer` can skip a step on the device: it is fused and on a GPU."""
    return norm.device.type == "cuda" and bool(getattr(optimizer, "_step_supports_amp_scaling", False))


def _result(check: _Check) -> BadStep | None:
    good, finite, loss_finite, norm, limit, size = check.result.values().tolist()
    if good:
        return None
    what: Literal["loss", "gradient", "spike", "elsewhere"] = "elsewhere"
    reason = check.reason or "step is bad on another process"
    if check.reason:
        what = "loss"
    elif math.isfinite(check.loss_limit) and not size <= check.loss_limit:
        what = "loss"
        reason = exploded(size, check.loss_limit) if loss_finite else "loss is not finite"
    elif not finite:
        what = "gradient" if loss_finite else "loss"
        reason = f"{what} is not finite"
    elif norm > limit:
        what, reason = (
            "spike",
            f"gradient is a spike: its norm is {norm:.3g}, above the limit of {limit:.3g},",
        )
    return BadStep(check.step, check.files, what, check.early, reason)


def not_finite(module: nn.Module, optimizers: Sequence[Optimizer] = ()) -> str | None:
    """What this process has with a value that is not finite, such as "the weights hold ... in NAME"; None if
    all are numbers.

    A device is asked once, not for each weight.

    Args:
        optimizers: whose state is looked at, too.
    """
    own = {name: local(parameter.detach()) for name, parameter in module.named_parameters()}
    state = in_state_of(optimizers)
    name = next(iter(not_finite_among(itertools.chain(own.items(), state))), None)
    if name is None:
        return None
    holder = "the weights hold" if name in own else "the state of the optimizer holds"
    return f"{holder} values that are not finite, in {name}"
