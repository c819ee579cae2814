"""Backbones: the networks (x, t, conditioning) -> output, by their name in `model.diffusion.type`."""

from __future__ import annotations

from stable_audio.backbones.base import Backbone
from stable_audio.backbones.dau1d import DAU1d

BACKBONES: dict[str, type[Backbone]] = {
    "DAU1d": DAU1d,
}
"""For `diffusion_cond` and `diffusion_cond_inpaint`."""

UNCOND_BACKBONES: dict[str, type[Backbone]] = {
    "DAU1d": DAU1d,
}
"""For `diffusion_uncond`."""
