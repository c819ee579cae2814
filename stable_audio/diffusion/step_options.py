"""Settings of a training step of diffusion."""

from __future__ import annotations

from dataclasses import dataclass

from stable_audio.ranges import Probability, check_ranges


@dataclass(frozen=True, kw_only=True)
class StepOptions:
    """What a training step of diffusion does.

    Attributes:
        cfg_dropout_prob: share of items trained without conditioning, per slot.
        mask_padding: leave padding out of the loss.
        mask_padding_dropout: share of batches whose loss includes padding all the same.
        pre_encoded: the dataset holds latents, unscaled, as the encode command stores them.
        cache_latents: keep the latents of each clip in memory once they are computed, without the noise of a
            VAE, as long as the run lasts. For datasets whose clips never change.
        log_loss_info: log the loss by noise level, too.
        gradient_checkpointing: recompute activations in the backward pass, to save memory.

    Raises:
        ValueError: a share outside of [0, 1].
    """

    cfg_dropout_prob: Probability = 0.0
    mask_padding: bool = False
    mask_padding_dropout: Probability = 0.0
    pre_encoded: bool = False
    cache_latents: bool = False
    log_loss_info: bool = False
    gradient_checkpointing: bool = False

    def __post_init__(self) -> None:
        check_ranges(self)
