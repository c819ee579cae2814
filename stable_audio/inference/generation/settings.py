"""Settings of sampling: everything that determines a result besides model, conditioning, seed and length."""

from __future__ import annotations

from dataclasses import dataclass

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


__all__ = ["MAX_STEPS", "Sampling"]
