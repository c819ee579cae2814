"""Generate with parts of the latents given, by a model that was not trained to inpaint.

The estimate of x0 that a sampler gets is replaced by the known latents where they are known, and that of the
noise by what is then left in x (Song et al. 2021, "Score-based generative modeling through SDEs", section 5).
So every sampler leads these frames to the known latents along its own path, and the network sees them at the
noise level of the rest. Walking each part of the schedule several times, with fresh noise in between, lets
the new frames fit the known ones (Lugmayr et al. 2022, "RePaint", section 4.2).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from stable_audio.diffusion.denoiser import Denoise, Prediction
from stable_audio.diffusion.noise import Noise
from stable_audio.diffusion.objectives import Scale
from stable_audio.diffusion.samplers import SamplerCallback, SamplerSpec
from stable_audio.diffusion.spaces import Level, Space
from stable_audio.nn.transfer import to_device

Walk = Callable[[Tensor, Tensor, SamplerCallback | None], Tensor]
"""(x at the first level, levels, callback) -> x at the last level."""


@dataclass(frozen=True, kw_only=True)
class KnownLatents:
    """Latents of which some frames are known.

    Attributes:
        latents: (b c n), or (b c h n); only the known frames matter.
        mask: (b n), 1 = known, 0 = to generate.
        repeats: how often each part of the schedule is walked.
        jump: steps of such a part.
    """

    latents: Tensor
    mask: Tensor
    repeats: int = 1
    jump: int = 1

    def rows(self, indices: Tensor, device: torch.device) -> KnownLatents:
        """Those of the items at `indices`, on `device`."""
        latents, mask = (v[indices.to(v.device)].to(device) for v in (self.latents, self.mask))
        return replace(self, latents=latents, mask=mask)

    def started(self, x: Tensor, noise: Tensor, space: Space, level: Level) -> Tensor:
        """`x` at the first level, with the known frames, noised, in their place."""
        alpha, sigma = _scales(space, level, x)
        return self._joined(alpha * self.latents.to(x) + sigma * noise, x)

    def imposed(self, denoise: Denoise, space: Space) -> Denoise:
        """`denoise` whose estimates are the known latents where they are known."""

        def known(x: Tensor, level: Level) -> Prediction:
            alpha, sigma = _scales(space, level, x)
            left = None if _is_data(space, level) else (x - alpha * self.latents.to(x)) / sigma
            return _KnownPrediction(denoise(x, level), self, left)

        return known

    def walked(
        self,
        walk: Walk,
        x: Tensor,
        levels: Tensor,
        spec: SamplerSpec,
        *,
        noise: Noise,
        report: SamplerCallback | None,
    ) -> Tensor:
        """Walk the levels in parts of `jump` steps, each `repeats` times.

        Samplers that choose their own steps walk the whole schedule once. At the end the known frames are the
        known latents exactly, which some samplers only come near to.

        Args:
            levels: (steps + 1,) or (b, steps + 1).
            report: called at every step of the last walk of each part.
        """
        if self.repeats == 1 or spec.one_by_one:
            return self._joined(self.latents.to(x), walk(x, levels, report))
        last = levels.shape[-1] - 1
        for start in range(0, last, self.jump):
            part = levels[..., start : min(start + self.jump, last) + 1]
            high, low = (part[..., i] if part.ndim == 2 else float(part[i]) for i in (0, -1))
            for _ in range(self.repeats - 1):
                x = renoised(walk(x, part, None), low, high, spec.space, noise)
            x = walk(x, part, None if report is None else _shifted(report, start))
        return self._joined(self.latents.to(x), x)

    def _joined(self, known: Tensor, other: Tensor) -> Tensor:
        mask = self.mask.to(other).reshape(len(self.mask), *[1] * (other.ndim - 2), -1)
        return torch.where(mask > 0, known, other)


class _KnownPrediction(Prediction):
    """Estimates of `inner`, but for the known frames.

    Args:
        left: the noise of the known latents (b c n); None at a level without noise.
    """

    def __init__(self, inner: Prediction, known: KnownLatents, left: Tensor | None) -> None:
        self._inner, self._known, self._left = inner, known, left

    @property
    def denoised(self) -> Tensor:
        denoised = self._inner.denoised
        return self._known._joined(self._known.latents.to(denoised), denoised)

    @property
    def noise(self) -> Tensor:
        noise = self._inner.noise
        return noise if self._left is None else self._known._joined(self._left, noise)

    @property
    def uncond_noise(self) -> Tensor | None:
        noise = self._inner.uncond_noise
        return noise if noise is None or self._left is None else self._known._joined(self._left, noise)


def renoised(x: Tensor, level: Level, target: Level, space: Space, noise: Noise) -> Tensor:
    """x at `level` with fresh noise, so that it is distributed as x at the higher level `target`.

    With k = alpha_target / alpha, x -> k x + sqrt(sigma_target^2 - k^2 sigma^2) noise.
    """
    (alpha, sigma), (alpha_target, sigma_target) = _scales(space, level, x), _scales(space, target, x)
    k = alpha_target / alpha
    fresh = (sigma_target**2 - (k * sigma) ** 2) ** 0.5
    return k * x + fresh * noise(x, level, target)


def _scales(space: Space, level: Level, x: Tensor) -> tuple[Scale, Scale]:
    if not isinstance(level, Tensor):
        return space.path(level)
    pairs = to_device(torch.tensor([space.path(value) for value in level.tolist()]), x.device, x.dtype)
    shape = (-1, *[1] * (x.ndim - 1))
    return pairs[:, 0].view(shape), pairs[:, 1].view(shape)


def _is_data(space: Space, level: Level) -> bool:
    """Whether an item is at a level without noise, told without reading from the device of its scales."""
    return any(space.path(v)[1] == 0 for v in (level.tolist() if isinstance(level, Tensor) else [level]))


def _shifted(report: SamplerCallback, start: int) -> SamplerCallback:
    return lambda i, x, level, denoised: report(start + i, x, level, denoised)
