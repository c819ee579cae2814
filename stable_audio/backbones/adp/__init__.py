"""U-Nets in the layout of audio-diffusion-pytorch 0.0.94."""

from stable_audio.backbones.adp.backbones import ADP1d, ADPCfg1d

__all__ = ["ADP1d", "ADPCfg1d"]
