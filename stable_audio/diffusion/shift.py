"""Length-dependent shift of t: long latents need more noise before their coarse structure is hidden.

`SHIFTS` has them by the `type` of `distribution_shift_options`.
"""

from __future__ import annotations

import math
from typing import Annotated, TypeVar

import torch
from annotated_types import Gt
from torch import Tensor

_Number = TypeVar("_Number", float, Tensor)
_Factor = Annotated[float, Gt(0)]


class TimeShift:
    """Base of the shifts. t = 0 and t = 1 are unchanged."""

    def __call__(self, t: Tensor, length: int | Tensor) -> Tensor:
        """Shift t (any shape, in [0, 1]) for latents of `length` frames.

        Args:
            length: frames; a tensor broadcasts with t, so that (b 1) and t (steps,) give a row per item.
        """
        raise NotImplementedError


class NoShift(TimeShift):
    """t as it is."""

    def __call__(self, t: Tensor, length: int | Tensor) -> Tensor:
        return t


class DistributionShift(TimeShift):
    """Moves t towards noise, further for longer latents (Esser et al. 2024, section 5.3.2).

    t' = 1 - e^mu / (e^mu + 1 / (1 - t) - 1), with -mu linear from base_shift at min_length to max_shift at
    max_length. t = 0 and t = 1 are unchanged. With use_sine, t' becomes sin(pi t' / 2).

    Args:
        base_shift: shift at min_length.
        max_shift: shift at max_length.
        max_length: latent frames at which the shift is largest; longer latents are clamped to it.
        min_length: latent frames at which the shift is base_shift; shorter latents are clamped to it.
        use_sine: map the result t' to sin(pi t' / 2), which is nearer to noise.
    """

    def __init__(
        self,
        *,
        base_shift: float = 0.5,
        max_shift: float = 1.15,
        max_length: int = 4096,
        min_length: int = 256,
        use_sine: bool = False,
    ) -> None:
        _check_lengths(min_length, max_length)
        self.base_shift = base_shift
        self.max_shift = max_shift
        self.max_length = max_length
        self.min_length = min_length
        self.use_sine = use_sine

    def __call__(self, t: Tensor, length: int | Tensor) -> Tensor:
        weight: float | Tensor
        first, last = self.min_length, self.max_length
        if isinstance(length, Tensor):
            frames = length.to(t.device, torch.float64).clamp(first, last)
            weight = torch.exp(-self._mu((frames - first) / (last - first)))
        else:
            weight = math.exp(-self._mu((min(max(length, first), last) - first) / (last - first)))
        # 1 - w / (w + t / (1 - t)), with the fraction cleared so that t = 1 needs no division by zero.
        shifted = t / (t + weight * (1 - t))
        return (torch.sin(shifted * math.pi / 2) if self.use_sine else shifted).to(t.dtype)

    def _mu(self, share: _Number) -> _Number:
        """Minus mu at a share of the way from min_length to max_length."""
        return self.base_shift + (self.max_shift - self.base_shift) * share


class FluxShift(TimeShift):
    """t' = a t / (1 + (a - 1) t), log a being linear in the logarithm of the length.

    The form of Esser et al. 2024, equation 23, with the factor a of a length instead of a resolution.

    Args:
        min_length: latent frames at which a is alpha_min; shorter latents are clamped to it.
        max_length: latent frames at which a is alpha_max; longer latents are clamped to it.
        alpha_min: a at min_length; 1 changes nothing.
        alpha_max: a at max_length.
    """

    def __init__(
        self,
        *,
        min_length: int = 256,
        max_length: int = 4096,
        alpha_min: _Factor = 1.0,
        alpha_max: _Factor = 1.0,
    ) -> None:
        _check_lengths(min_length, max_length)
        if alpha_min <= 0 or alpha_max <= 0:
            raise ValueError(f"alpha_min and alpha_max must be above 0, found {alpha_min} and {alpha_max}")
        self.min_length, self.max_length = min_length, max_length
        self.alpha_min, self.alpha_max = alpha_min, alpha_max

    def __call__(self, t: Tensor, length: int | Tensor) -> Tensor:
        frames = torch.as_tensor(length, dtype=torch.float64, device=t.device)
        low, high = math.log(self.min_length), math.log(self.max_length)
        share = (frames.clamp(self.min_length, self.max_length).log() - low) / (high - low)
        log_min, log_max = math.log(self.alpha_min), math.log(self.alpha_max)
        alpha = torch.exp(log_min + share * (log_max - log_min))
        time = t.double()
        return (alpha * time / (1 + (alpha - 1) * time)).to(t.dtype)


class LogSNRShift(TimeShift):
    """The log signal-to-noise ratio becomes linear in t: t' = sigmoid(-(end - t (end - start))).

    start = anchor_logsnr - rate log2(length / anchor_length): every doubling of the length starts `rate`
    lower. 0 and 1 stay what they are, although their ratios are infinite.

    Args:
        anchor_length: latent frames at which the ratio starts at anchor_logsnr.
        anchor_logsnr: log signal-to-noise ratio just below t = 1, for latents of anchor_length frames.
        rate: how much lower it is for latents of twice the length; 0 ignores the length.
        logsnr_end: log signal-to-noise ratio just above t = 0.
    """

    def __init__(
        self,
        *,
        anchor_length: int = 2000,
        anchor_logsnr: float = -6.2,
        rate: float = 1.0,
        logsnr_end: float = 2.0,
    ) -> None:
        if anchor_length < 1:
            raise ValueError(f"anchor_length must be at least 1, found {anchor_length}")
        self.anchor_length, self.anchor_logsnr = anchor_length, anchor_logsnr
        self.rate, self.logsnr_end = rate, logsnr_end

    def __call__(self, t: Tensor, length: int | Tensor) -> Tensor:
        frames = torch.as_tensor(length, dtype=torch.float64, device=t.device).clamp(min=1)
        start = self.anchor_logsnr - self.rate * torch.log2(frames / self.anchor_length)
        time, end = t.double(), self.logsnr_end
        shifted = torch.sigmoid(-(end - time * (end - start)))
        return torch.where((time <= 0) | (time >= 1), time, shifted).to(t.dtype)


SHIFTS: dict[str, type[TimeShift]] = {
    "full": DistributionShift,
    "flux": FluxShift,
    "logsnr": LogSNRShift,
    "none": NoShift,
}

DEFAULT_SHIFT = "full"
"""The type of options that name none."""


def _check_lengths(min_length: int, max_length: int) -> None:
    if not 0 < min_length < max_length:
        raise ValueError(
            f"found min_length {min_length} and max_length {max_length}; give 0 < min_length < max_length"
        )
