"""Adaptive projected guidance: what of a guidance step changes the estimate, and what only amplifies it.

Sadat et al. 2024, "Eliminating oversaturation and artifacts of high guidance scales in diffusion models",
section 4. With c and u the conditional and unconditional estimates of x0 and d = c - u, the guided estimate
c + (cfg_scale - 1) d' uses d' = d minus its component along c.

An estimate of x0 is linear in the output of the backbone at fixed x and t, so d' is computed from outputs,
without dividing by sigma, which is 0 at the end.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from stable_audio.diffusion.objectives import Objective


@dataclass(frozen=True)
class GuidanceProjection:
    """Limits and projects the difference of two outputs.

    Attributes:
        apg_scale: share of the projection: 0 leaves the difference whole, 1 removes all of its component
            along the estimate.
        norm_threshold: greatest norm of the difference of the estimates of x0, before the projection; 0 = no
            limit.
    """

    apg_scale: float = 0.0
    norm_threshold: float = 0.0

    @property
    def off(self) -> bool:
        """Whether the difference stays as it is."""
        return self.apg_scale == 0 and self.norm_threshold <= 0

    def __call__(
        self,
        difference: Tensor,
        cond: Tensor,
        x: Tensor,
        t: Tensor,
        objective: Objective,
        padding_mask: Tensor | None = None,
    ) -> Tensor:
        """A difference of outputs (b c n) -> the one to guide with, in its dtype.

        Args:
            cond: the output (b c n) whose estimate of x0 is not to be amplified.
            x: what the outputs were computed for (b c n).
            t: its times (b,).
            objective: defines the outputs.
            padding_mask: (b n) bool, False = padding: it is out of all norms, and the projected difference is
                0 there.
        """
        dtype, difference = difference.dtype, difference.float()
        estimate = objective.denoised(cond.float(), x.float(), t)
        valid = None if padding_mask is None else _over_frames(padding_mask, difference)
        if self.norm_threshold > 0:
            norm = _norm(difference) * _of_x0(difference, t, objective).abs()
            difference = difference * (self.norm_threshold / norm.clamp(min=1e-12)).clamp(max=1.0)
        if self.apg_scale > 0:
            orthogonal = _without_component(difference, estimate, valid)
            difference = self.apg_scale * orthogonal + (1 - self.apg_scale) * difference
        return difference.to(dtype)


class Momentum:
    """Adds a share of the earlier differences to each: d_i + beta d'_(i-1), as differences in x0.

    Sadat et al. 2024, section 4.3. One instance belongs to one generation, whose steps follow each other.
    """

    def __init__(self, beta: float) -> None:
        self.beta = beta
        self._sum: Tensor | None = None

    def __call__(self, difference: Tensor, x: Tensor, t: Tensor, objective: Objective) -> Tensor:
        """A difference of outputs (b c n) -> the one with those of earlier calls in it."""
        factor = _of_x0(difference, t, objective)
        current = difference * factor
        self._sum = current if self._sum is None else current + self.beta * self._sum
        # Where an estimate of x0 does not depend on the output, at the data, there is nothing to add.
        safe = torch.where(factor.abs() > 1e-6, factor, torch.ones_like(factor))
        return torch.where(factor.abs() > 1e-6, self._sum / safe, difference)


def best_scale(cond: Tensor, uncond: Tensor, padding_mask: Tensor | None = None) -> Tensor:
    """s (b 1 1) that minimises |cond - s uncond| of each item (Fan et al. 2025, CFG-Zero*, equation 8).

    Args:
        padding_mask: (b n) bool, False = padding, which does not count.
    """
    if padding_mask is not None:
        valid = _over_frames(padding_mask, cond)
        cond, uncond = cond * valid, uncond * valid
    product, square = (cond * uncond).flatten(1).sum(1), uncond.square().flatten(1).sum(1)
    return _per_item(product / square.clamp(min=1e-8), cond)


def _of_x0(like: Tensor, t: Tensor, objective: Objective) -> Tensor:
    """(b 1 1): how much the estimate of x0 grows with the output at t."""
    one = _per_item(torch.ones_like(t), like)
    return objective.denoised(one, torch.zeros_like(one), t)


def _without_component(difference: Tensor, along: Tensor, valid: Tensor | None) -> Tensor:
    """`difference` (b c n) minus its component along the other tensor, item by item; 0 outside of `valid`."""
    if valid is not None:
        difference, along = difference * valid, along * valid
    unit = along / _norm(along).clamp(min=1e-12)
    return difference - _per_item((difference * unit).flatten(1).sum(1), difference) * unit


def _norm(values: Tensor) -> Tensor:
    """(b c n) -> (b 1 1): the norm of each item."""
    return _per_item(torch.linalg.vector_norm(values.flatten(1), dim=1), values)


def _per_item(values: Tensor, like: Tensor) -> Tensor:
    return values.view(-1, *[1] * (like.ndim - 1))


def _over_frames(mask: Tensor, like: Tensor) -> Tensor:
    """(b n) -> (b 1 n), or (b 1 1 n) for pictures."""
    return mask.view(mask.shape[0], *[1] * (like.ndim - 2), -1).to(like)
