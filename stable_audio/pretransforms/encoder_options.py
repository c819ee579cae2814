"""What the training of an autoencoder does with its encoder and latents."""

from __future__ import annotations

from dataclasses import dataclass

from stable_audio.ranges import Probability, check_ranges


@dataclass(frozen=True, kw_only=True)
class EncoderOptions:
    """Options of the encoder and the latents in training.

    Attributes:
        encoder_freeze_on_warmup: freeze encoder and bottleneck once warm-up is over.
        decoder_finetune: train the decoder only; encoder and bottleneck are frozen, so that the same audio
            keeps its latents.
        force_input_mono: encode the mean of the channels.
        latent_mask_ratio: share of the latent frames set to zero, so that the decoder learns to fill gaps.

    Raises:
        ValueError: a share outside of [0, 1].
    """

    encoder_freeze_on_warmup: bool = False
    decoder_finetune: bool = False
    force_input_mono: bool = False
    latent_mask_ratio: Probability = 0.0

    def __post_init__(self) -> None:
        check_ranges(self)
