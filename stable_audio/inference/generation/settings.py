"""Settings of sampling: everything that determines a result besides model, conditioning, seed and length."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from stable_audio.diffusion.settings import MAX_STEPS, SamplingSettings
from stable_audio.model import DiffusionModel


@dataclass(frozen=True, kw_only=True)
class Sampling(SamplingSettings):
    """Settings of sampler and guidance of a call; what is None is for the model to say."""

    def resolved_for(self, model: DiffusionModel) -> Sampling:
        """As `resolved`, with the defaults of the model."""
        shifted, apg_scale = model.sampling_shift is not None, model.apg_scale
        return self.over(model.sampling_defaults).resolved(
            model.objective, shifted=shifted, apg_scale=apg_scale
        )

    def of_clips(self, rows: Sequence[int]) -> Sampling:
        """The settings of some of the clips of a call: the weights of these, a number if they are equal."""
        if not isinstance(self.cfg_scale, tuple):
            return self
        own = tuple(self.cfg_scale[row if len(self.cfg_scale) > 1 else 0] for row in rows)
        return replace(self, cfg_scale=own[0] if len(set(own)) == 1 else own)


__all__ = ["MAX_STEPS", "Sampling"]
