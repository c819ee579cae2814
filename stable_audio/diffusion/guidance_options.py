"""What guidance does, as plain values."""

from __future__ import annotations

from dataclasses import dataclass

EVERYWHERE = (0.0, 1.0)
"""The interval of all noise levels."""


@dataclass(frozen=True, kw_only=True)
class GuidanceOptions:
    """Strength and range of classifier-free guidance.

    Attributes:
        cfg_scale: guidance weight, 1 = off; None takes the default of the model's objective.
        scale_phi: share of the output that is rescaled to the deviation of the conditioned one over
            channels (Lin et al. 2023, section 3.4); None = the backbone's default.
        cfg_interval: guide only where low <= sigma(t) <= high, sigma being that of the objective
            (Kynkaanniemi et al. 2024); None = everywhere.
        apg_scale: share of adaptive projected guidance (Sadat et al. 2024), which leaves out the part of the
            guidance that only amplifies the estimate: 0 = plain guidance, 1 = full projection; None = 0, or
            the default of the model.
        cfg_norm_threshold: greatest norm of the guidance, as a difference of estimates of x0, over channels
            and frames; None or 0 = no limit.
    """

    cfg_scale: float | None = None
    scale_phi: float | None = None
    cfg_interval: tuple[float, float] | None = None
    apg_scale: float | None = None
    cfg_norm_threshold: float | None = None

    @property
    def interval(self) -> tuple[float, float]:
        """`cfg_interval`, or all noise levels."""
        return self.cfg_interval or EVERYWHERE

    def check_guidance(self) -> None:
        """Raise ValueError if a number is out of range."""
        low, high = self.interval
        if not 0 <= low <= high <= 1:
            raise ValueError(f"cfg_interval must be 0 <= low <= high <= 1, found {(low, high)}")
        if self.apg_scale is not None and not 0 <= self.apg_scale <= 1:
            raise ValueError(f"apg_scale must be from 0 to 1, found {self.apg_scale}")
        if self.cfg_norm_threshold is not None and self.cfg_norm_threshold < 0:
            raise ValueError(f"cfg_norm_threshold must be at least 0, found {self.cfg_norm_threshold}")


PLAIN = GuidanceOptions()
"""Guidance by the defaults."""
