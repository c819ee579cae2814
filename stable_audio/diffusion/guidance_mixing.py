"""From the outputs of the branches to the guided output.

With v_0 the output for the whole conditioning, v_1 ... v_n those with ever less of it, and g that of a guide,

    guided = v_0 + sum_k (w_k - 1) (v_(k-1) - v_k) + (w_guide - 1) (v_0 - g)

For n = 1 that is v_1 + w (v_0 - v_1) (Ho & Salimans 2022); for more, Brooks et al. 2023, equation 3. The last
term is Karras et al. 2024, "Guiding a diffusion model with a bad version of itself", equation 3.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from stable_audio.diffusion.guidance_options import GuidanceOptions
from stable_audio.diffusion.guidance_schedules import share_at
from stable_audio.diffusion.objectives import Objective, Scale
from stable_audio.diffusion.projection import GuidanceProjection, Momentum, best_scale


class Mixer:
    """Mixes the outputs of one generation, in the order of its steps.

    Args:
        weights: of the differences of neighbours; None stands for cfg_scale, which is 1 unless it is given.
        padding_mask: (b n) bool, False = padding, which is out of all norms.
    """

    def __init__(
        self,
        options: GuidanceOptions,
        objective: Objective,
        weights: Sequence[float | None],
        padding_mask: Tensor | None = None,
    ) -> None:
        self._options, self._objective, self._weights = options, objective, weights
        self._projection = GuidanceProjection(options.apg_scale or 0.0, options.cfg_norm_threshold or 0.0)
        beta = options.apg_momentum or 0.0
        # One for each difference, the last for that to the guide.
        self._momenta = [Momentum(beta) for _ in range(len(weights) + 1)] if beta else []
        self._mask = padding_mask
        self._scales: Tensor | None = None

    def __call__(self, outputs: Sequence[Tensor], guide: Tensor | None, x: Tensor, t: Tensor) -> Tensor:
        """Outputs (b c n) from whole to null, and that of the guide -> guided output (b c n).

        Args:
            x: what they were computed for (b c n).
            t: its times (b,).
        """
        scales = [self._scale(weight, x, t) for weight in self._weights]
        if self._is_plain:
            mixed = _plain(outputs[0], outputs[1], scales[0])
        else:
            mixed = outputs[0]
            for index, ((upper, lower), scale) in enumerate(zip(pairwise(outputs), scales)):
                if self._options.cfg_zero_star:
                    lower = best_scale(upper, lower, self._mask) * lower
                mixed = mixed + (scale - 1) * self._difference(index, upper, lower, outputs[0], x, t)
            if len(scales) == 1:
                mixed = _at_zero(mixed, outputs[1], scales[0])
        if guide is None:
            return mixed
        scale = self._scale(self._options.guide_weight, x, t)
        return mixed + (scale - 1) * self._difference(-1, outputs[0], guide, outputs[0], x, t)

    @property
    def _is_plain(self) -> bool:
        off = self._projection.off and not self._momenta and not self._options.cfg_zero_star
        return off and len(self._weights) == 1

    def _difference(
        self, index: int, upper: Tensor, lower: Tensor, whole: Tensor, x: Tensor, t: Tensor
    ) -> Tensor:
        difference = upper - lower
        if self._momenta:
            difference = self._momenta[index](difference, x, t, self._objective)
        if self._projection.off:
            return difference
        return self._projection(difference, whole, x, t, self._objective, self._mask)

    def _scale(self, weight: float | None, x: Tensor, t: Tensor) -> Scale:
        """The weight at t: a number, or (b 1 1) where it depends on the item."""
        scale: Scale = self._cfg_scale(x) if weight is None else weight
        if self._options.cfg_schedule is None:
            return scale
        return 1 + (scale - 1) * share_at(self._options.cfg_schedule, t).to(x).view(-1, *[1] * (x.ndim - 1))

    def _cfg_scale(self, x: Tensor) -> Scale:
        scale = self._options.cfg_scale
        if not isinstance(scale, tuple):
            return 1.0 if scale is None else float(scale)
        if self._scales is None:
            if len(scale) != len(x):
                raise ValueError(f"found {len(scale)} values of cfg_scale for {len(x)} clips")
            self._scales = torch.tensor(scale, dtype=x.dtype).to(x.device).view(-1, *[1] * (x.ndim - 1))
        return self._scales


def _plain(cond: Tensor, uncond: Tensor, scale: Scale) -> Tensor:
    """u + w (c - u); items of weight 1 get c itself, as without guidance."""
    mixed = uncond + scale * (cond - uncond)
    return torch.where(scale == 1, cond, mixed) if isinstance(scale, Tensor) else mixed


def _at_zero(mixed: Tensor, uncond: Tensor, scale: Scale) -> Tensor:
    """Weight 0 is the unconditional branch, whatever the projection leaves out."""
    if isinstance(scale, Tensor):
        return torch.where(scale == 0, uncond, mixed)
    return uncond if scale == 0 else mixed
