"""The general residual U-Net for one and two dimensions."""

from stable_audio.backbones.unet.backbone import UNet

__all__ = ["UNet"]
