"""What guidance does, as plain values."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from stable_audio.diffusion.branches import slots_named
from stable_audio.diffusion.guidance_schedules import check_guidance_schedule

if TYPE_CHECKING:
    from stable_audio.diffusion.objectives import Objective

EVERYWHERE = (0.0, 1.0)
"""The interval of all noise levels."""

_SHARES = {"apg_scale": "apg_scale", "zero_init": "zero_init", "scale_phi": "scale_phi (cfg_rescale)"}
"""Settings from 0 to 1, and what messages call them."""


@dataclass(frozen=True, kw_only=True)
class GuidanceOptions:
    """Strength and range of classifier-free guidance, and its variants; None is off, or as the model says.

    Attributes:
        cfg_scale: guidance weight, 1 = off; None takes the default of the model's objective. In a call also
            one for each clip.
        scale_phi: share of the output that is rescaled to the deviation of the conditioned one over
            channels (Lin et al. 2023, section 3.4); None = the backbone's default.
        cfg_interval: guide only where low <= sigma(t) <= high, sigma being that of the objective
            (Kynkaanniemi et al. 2024); None = everywhere.
        cfg_schedule: share of the guidance at each t, with which a weight w is 1 + (w - 1) share: "linear" or
            "cosine", which grow towards the data (Wang et al. 2024), or points (t, share) to interpolate.
        apg_scale: share of adaptive projected guidance (Sadat et al. 2024), which leaves out the part of the
            guidance that only amplifies the estimate: 0 = plain guidance, 1 = full projection; None = 0, or
            the default of the model.
        apg_momentum: factor of the guidance of earlier steps that is added to that of each step (Sadat et al.
            2024, section 4.3, where it is negative, such as -0.5); for samplers of one evaluation per step.
        cfg_norm_threshold: greatest norm of the guidance, as a difference of estimates of x0, over channels
            and frames; None or 0 = no limit.
        cfg_zero_star: scale the unconditional velocity of flows to its best fit of the conditional one
            (CFG-Zero*, Fan et al. 2025, equation 8).
        zero_init: hold x still at times t above 1 - zero_init (CFG-Zero*, section 3.2, which uses the first
            4% of the steps); for flows.
        slot_scales: slot -> weight of its own, in place of cfg_scale (Brooks et al. 2023, equation 3); each
            takes an evaluation more.
        negative_slots: slots in which negative conditioning takes the place of the null conditioning, or
            "all"; None = cross_attn.
        guide_scale: weight of auto-guidance by a weaker model, 1 = off (Karras et al. 2024, "Guiding a
            diffusion model with a bad version of itself").
    """

    cfg_scale: float | tuple[float, ...] | None = None
    scale_phi: float | None = None
    cfg_interval: tuple[float, float] | None = None
    cfg_schedule: str | tuple[tuple[float, float], ...] | None = None
    apg_scale: float | None = None
    apg_momentum: float | None = None
    cfg_norm_threshold: float | None = None
    cfg_zero_star: bool | None = None
    zero_init: float | None = None
    slot_scales: Mapping[str, float] | None = None
    negative_slots: tuple[str, ...] | None = None
    guide_scale: float | None = None

    @property
    def interval(self) -> tuple[float, float]:
        """`cfg_interval`, or all noise levels."""
        return self.cfg_interval or EVERYWHERE

    @property
    def weights(self) -> tuple[float, ...]:
        """The values of cfg_scale; None is 1."""
        if isinstance(self.cfg_scale, tuple):
            return self.cfg_scale
        return (1.0 if self.cfg_scale is None else self.cfg_scale,)

    @property
    def guide_weight(self) -> float:
        """`guide_scale`, or 1."""
        return 1.0 if self.guide_scale is None else self.guide_scale

    @property
    def needs_null(self) -> bool:
        """Whether the branch without conditioning counts."""
        return bool(self.slot_scales) or any(weight != 1 for weight in self.weights)

    def check_guidance(self) -> None:
        """Raise ValueError if a number is out of range, or two settings contradict each other."""
        low, high = self.interval
        if not 0 <= low <= high <= 1:
            raise ValueError(f"cfg_interval must be 0 <= low <= high <= 1, found {(low, high)}")
        if not all(map(math.isfinite, self.weights)):
            raise ValueError(f"cfg_scale must be finite numbers, found {self.cfg_scale}")
        for name, shown in _SHARES.items():
            value = getattr(self, name)
            if value is not None and not 0 <= value <= 1:
                raise ValueError(f"{shown} must be from 0 to 1, found {value}")
        if self.cfg_norm_threshold is not None and self.cfg_norm_threshold < 0:
            raise ValueError(f"cfg_norm_threshold must be at least 0, found {self.cfg_norm_threshold}")
        if self.apg_momentum is not None and not -1 < self.apg_momentum < 1:
            raise ValueError(f"apg_momentum must be between -1 and 1, found {self.apg_momentum}")
        if self.cfg_schedule is not None:
            check_guidance_schedule(self.cfg_schedule)
        slots_named(self.negative_slots)
        slots_named(list(self.slot_scales or {}))
        if "all" in (self.slot_scales or {}):
            raise ValueError("slot_scales name each slot; for the same weight in all use cfg_scale")
        if self.cfg_zero_star and self.slot_scales:
            raise ValueError("cfg_zero_star compares two branches; leave slot_scales out")

    def check_objective(self, objective: Objective) -> None:
        """Raise ValueError for settings of flows with another objective."""
        for name in ("cfg_zero_star", "zero_init"):
            if getattr(self, name) and not objective.predicts_flow:
                raise ValueError(
                    f"{name} is defined for the velocity of flows (rectified_flow, rf_denoiser), but this "
                    f"model predicts '{objective.name}'; leave it out"
                )


PLAIN = GuidanceOptions()
"""Guidance by the defaults."""
