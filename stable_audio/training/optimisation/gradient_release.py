"""Optimizer steps inside the backward pass, weight by weight, so that gradients never exist all at once.

Lv et al. 2023 (LOMO, arXiv:2306.09782) fuse the update with the backward pass in this way.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim import LBFGS, Optimizer, SparseAdam

from stable_audio.training.errors import TrainingError
from stable_audio.training.guards.finite import skips_by_itself

WHOLE_GRADIENT = (LBFGS, SparseAdam)
"""Optimizers that need all gradients of a step together, or others than dense ones."""


class GradientRelease:
    """Lets an optimizer step on each weight as soon as its gradient is complete, and frees the gradient.

    The weights end with the bits of an ordinary step, since the optimizers of torch and torchao treat each
    weight by itself. When the optimizer itself steps afterwards, it finds no gradients and does nothing.

    Of a step whose loss is not finite no weight changes, as of an ordinary one. A gradient that is not finite
    is known when it comes: neither its weight nor those after it step. Were there weights that had stepped
    before, the step can be neither completed nor undone. `is_torn` says so, and files must not be written.

    Attributes:
        is_torn: some weights have taken a step that is not complete.

    Args:
        optimizer: steps on dense gradients.

    Raises:
        TrainingError: the optimizer needs the whole gradient.
    """

    def __init__(self, optimizer: Optimizer) -> None:
        if isinstance(optimizer, WHOLE_GRADIENT):
            raise TrainingError(
                f"$.training.gradient_release: {type(optimizer).__name__} needs all gradients of a step at "
                "once; use another optimizer, or leave gradient_release out"
            )
        self.is_torn = False
        self._optimizer = optimizer
        self._norms: dict[int, Tensor] = {}
        self._holds = False
        self._not_finite: Tensor | None = None
        self._first: Tensor | None = None
        places = [(g, p) for g, group in enumerate(optimizer.param_groups) for p in group["params"]]
        self._hooks = [
            parameter.register_post_accumulate_grad_hook(self._stepping(index, group))
            for index, (group, parameter) in enumerate(places)
        ]

    def remove(self) -> None:
        """Leave the weights to another optimizer."""
        for hook in self._hooks:
            hook.remove()

    def begin(self, loss: Tensor, *, bad: bool = False) -> None:
        """Called before the backward pass of a step.

        Args:
            loss: of the step, in any shape; where it is not finite, no weight steps.
            bad: no weight steps, whatever the loss is.
        """
        self.is_torn, self._holds = False, bad
        self._norms, self._not_finite, self._first = {}, None, None
        finite = torch.isfinite(loss.detach()).all()
        if skips_by_itself(self._optimizer, finite):
            self._not_finite = (~finite).to(torch.float32)
        elif not bad:
            self._holds = not bool(finite)

    def finish(self) -> Tensor:
        """Called after it; returns the norm of the gradient, as `torch.nn.utils.get_total_norm` does."""
        norms = [self._norms[index] for index in sorted(self._norms)]
        norm = torch.linalg.vector_norm(torch.stack(norms)) if norms else torch.zeros(())
        self._norms = {}
        if self._first is not None:  # what the device knows, in one reading
            first, last = torch.stack([self._first, (~torch.isfinite(norm)).to(self._first)]).tolist()
            self.is_torn = self.is_torn and last > first
        elif bool(torch.isfinite(norm)):
            self.is_torn = False
        return norm

    def _stepping(self, index: int, group: int) -> Callable[[Tensor], None]:
        def step(parameter: Tensor) -> None:
            assert parameter.grad is not None
            norm = torch.linalg.vector_norm(parameter.grad.detach())
            self._norms[index] = norm
            self._judge(norm)
            if not self._holds:
                self.is_torn = True
                self._step(parameter, group)
            parameter.grad = None

        return step

    def _judge(self, norm: Tensor) -> None:
        """Hold this weight and those after it if the gradient is not finite. Optimizers that can leave out a
        step do so on the device; reading the norm from a GPU for every weight would take too long."""
        optimizer: Any = self._optimizer
        if skips_by_itself(optimizer, norm):
            bad = (~torch.isfinite(norm)).to(torch.float32)
            self._not_finite = bad if self._not_finite is None else torch.maximum(self._not_finite, bad)
            self._first = self._not_finite if self._first is None else self._first
            optimizer.found_inf, optimizer.grad_scale = self._not_finite, None
        elif norm.device.type != "cuda":
            self._holds = self._holds or not bool(torch.isfinite(norm))

    def _step(self, parameter: Tensor, group: int) -> None:
        optimizer: Any = self._optimizer
        groups = optimizer.param_groups
        optimizer.param_groups = [{**groups[group], "params": [parameter]}]
        try:
            type(optimizer).step(optimizer)  # not the instance's, by which schedules count steps
        finally:
            optimizer.param_groups = groups
