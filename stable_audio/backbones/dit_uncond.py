"""The diffusion transformer for unconditional models."""

from __future__ import annotations

from stable_audio.backbones.dit import DiT
from stable_audio.backbones.dit_options import DiTOptions
from stable_audio.backbones.init import scale_parameters
from stable_audio.options import Flat, takes_keywords


class UncondDiT(DiT):
    """DiT without conditioning. All parameters are halved at the start, as in stable-audio-tools.

    Args:
        in_channels: channels of x and of the output.
        options: see `DiTOptions`, whose fields are keywords as well.
    """

    @takes_keywords
    def __init__(
        self,
        *,
        in_channels: int = 32,
        options: Flat[DiTOptions] = DiTOptions(),  # noqa: B008 (frozen)
    ) -> None:
        super().__init__(io_channels=in_channels, options=options)
        scale_parameters(self, 0.5)
