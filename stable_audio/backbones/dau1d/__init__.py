"""The attention U-Net of Dance Diffusion."""

from stable_audio.backbones.dau1d.backbone import DAU1d

__all__ = ["DAU1d"]
