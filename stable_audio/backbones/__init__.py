"""Backbones: the networks (x, t, conditioning) -> output, by their name in `model.diffusion.type`."""

from __future__ import annotations

from stable_audio.backbones.adp import ADP1d, ADPCfg1d
from stable_audio.backbones.base import Backbone
from stable_audio.backbones.dau1d import DAU1d
from stable_audio.backbones.dit import DiT
from stable_audio.backbones.dit_uncond import UncondDiT
from stable_audio.backbones.mlp import ConditionalMLP
from stable_audio.backbones.unet import UNet

BACKBONES: dict[str, type[Backbone]] = {
    "dit": DiT,
    "DAU1d": DAU1d,
    "adp_cfg_1d": ADPCfg1d,
    "adp_1d": ADP1d,
    "unet": UNet,
    "mlp": ConditionalMLP,
}
"""For `diffusion_cond` and `diffusion_cond_inpaint`."""

UNCOND_BACKBONES: dict[str, type[Backbone]] = {
    "dit": UncondDiT,
    "DAU1d": DAU1d,
    "adp_uncond_1d": ADP1d,
    "adp_1d": ADP1d,
    "unet": UNet,
    "mlp": ConditionalMLP,
}
"""For `diffusion_uncond`."""
