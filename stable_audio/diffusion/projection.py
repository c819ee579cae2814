"""Adaptive projected guidance: what of a guidance step changes the estimate, and what only amplifies it.

Sadat et al. 2024, "Eliminating oversaturation and artifacts of high guidance scales in diffusion models",
section 4, without momentum. With c and u the conditional and unconditional estimates of x0 and d = c - u, the
guided estimate c + (cfg_scale - 1) d' uses d' = d minus its component along c.

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
        cond: Tensor,
        uncond: Tensor,
        x: Tensor,
        t: Tensor,
        objective: Objective,
        padding_mask: Tensor | None = None,
    ) -> Tensor:
        """The difference of the outputs `cond` and `uncond` (b c n) to guide with, in their dtype.

        Args:
            x: what both were computed for (b c n).
            t: its times (b,).
            objective: defines the outputs.
            padding_mask: (b n) bool, False = padding: it is out of all norms, and the projected difference is
                0 there.
        """
        difference, estimate = (cond - uncond).float(), objective.denoised(cond.float(), x.float(), t)
        valid = None if padding_mask is None else _over_frames(padding_mask, difference)
        if self.norm_threshold > 0:
            one = _per_item(torch.ones_like(t), difference)
            norm = _norm(difference) * objective.denoised(one, torch.zeros_like(one), t).abs()
            difference = difference * (self.norm_threshold / norm.clamp(min=1e-12)).clamp(max=1.0)
        if self.apg_scale > 0:
            orthogonal = _without_component(difference, estimate, valid)
            difference = self.apg_scale * orthogonal + (1 - self.apg_scale) * difference
        return difference.to(cond.dtype)


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
