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
from stable_audio.training.finite import skips_by_itself

WHOLE_GRADIENT = (LBFGS, SparseAdam)
"""Optimizers that need all gradients of a step together, or others than dense ones."""


class GradientRelease:
    """Lets an optimizer step on each weight as soon as its gradient is complete, and frees the gradient.

    The weights end with the bits of an ordinary step, since the optimizers of torch and torchao treat each
    weight by itself. When the optimizer itself steps afterwards, it finds no gradients and does nothing.

    A gradient that is not finite is known when it comes, after the weights behind it have stepped: none of
    them changes any more, but the step cannot be undone. `is_torn` says so, and files must not be written.

    Attributes:
        is_torn: some weights have taken a step that is not complete.

    Args:
        optimizer: steps on dense gradients.
        refuse: makes the error of a gradient that is not finite.

    Raises:
        TrainingError: the optimizer needs the whole gradient.
    """

    def __init__(self, optimizer: Optimizer, refuse: Callable[[], Exception]) -> None:
        if isinstance(optimizer, WHOLE_GRADIENT):
            raise TrainingError(
                f"$.training.gradient_release: {type(optimizer).__name__} needs all gradients of a step at "
                "once; use another optimizer, or leave gradient_release out"
            )
        self.is_torn = False
        self._optimizer, self._refuse = optimizer, refuse
        self._norms: dict[int, Tensor] = {}
        self._not_finite: Tensor | None = None
        places = [(g, p) for g, group in enumerate(optimizer.param_groups) for p in group["params"]]
        for index, (group, parameter) in enumerate(places):
            parameter.register_post_accumulate_grad_hook(self._stepping(index, group))

    def begin(self) -> None:
        """Called before the backward pass of a step."""
        self._norms, self._not_finite = {}, None

    def finish(self) -> Tensor:
        """Called after it; returns the norm of the gradient, as `torch.nn.utils.get_total_norm` does."""
        norms = [self._norms[index] for index in sorted(self._norms)]
        norm = torch.linalg.vector_norm(torch.stack(norms)) if norms else torch.zeros(())
        self._norms = {}
        if bool(torch.isfinite(norm)):
            self.is_torn = False
        return norm

    def _stepping(self, index: int, group: int) -> Callable[[Tensor], None]:
        def step(parameter: Tensor) -> None:
            assert parameter.grad is not None
            norm = torch.linalg.vector_norm(parameter.grad.detach())
            self._norms[index] = norm
            if not self._keeps_out(norm):
                raise self._refuse()
            self.is_torn = True
            self._step(parameter, group)
            parameter.grad = None

        return step

    def _keeps_out(self, norm: Tensor) -> bool:
        """Whether a gradient may go to the optimizer, which leaves out what is not finite by itself where it
        can; reading the norm from a GPU for every weight would take too long."""
        optimizer: Any = self._optimizer
        if norm.device.type != "cuda":
            return bool(torch.isfinite(norm))
        if skips_by_itself(optimizer, norm):
            bad = (~torch.isfinite(norm)).to(torch.float32)
            self._not_finite = bad if self._not_finite is None else torch.maximum(self._not_finite, bad)
            optimizer.found_inf, optimizer.grad_scale = self._not_finite, None
        return True

    def _step(self, parameter: Tensor, group: int) -> None:
        optimizer: Any = self._optimizer
        groups = optimizer.param_groups
        optimizer.param_groups = [{**groups[group], "params": [parameter]}]
        try:
            type(optimizer).step(optimizer)  # not the instance's, by which schedules count steps
        finally:
            optimizer.param_groups = groups
