"""`diffusion`: the training and the demos of diffusion autoencoders, from the `training` section."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stable_audio.config import ModelConfig
from stable_audio.config.sections.autoencoder import DiffusionAutoencoderTrainingSection as Section
from stable_audio.diffusion_autoencoder import DiffusionAutoencoder
from stable_audio.training.autoencoder.diffusion import (
    DiffusionAutoencoderDemos,
    DiffusionAutoencoderTraining,
)
from stable_audio.training.demo import DemoRenderer
from stable_audio.training.diffusion.timed import optimizer_configs


def build_diffusion_autoencoder_training(
    config: ModelConfig, model: DiffusionAutoencoder, run: Mapping[str, Any]
) -> DiffusionAutoencoderTraining:
    """`diffusion_autoencoder`.

    Raises:
        TrainingError: neither learning_rate nor optimizer_configs is given.
    """
    section: Section = config.training
    optimizer, scheduler = optimizer_configs(section)
    return DiffusionAutoencoderTraining(
        model,
        optimizer=optimizer,
        scheduler=scheduler,
        use_reconstruction_loss=section.use_reconstruction_loss,
        use_ema=section.use_ema,
        ema_options=section.ema.model_dump(),
        gradient_checkpointing=section.gradient_checkpointing,
        **run,
    )


def build_diffusion_autoencoder_demos(config: ModelConfig) -> tuple[DemoRenderer, int] | None:
    """(renderer, steps between demos) for `diffusion_autoencoder`; None if the config has no demos."""
    section = config.training.demo
    if section is None:
        return None
    demos = DiffusionAutoencoderDemos(
        sample_rate=config.sample_rate, count=section.max_demos, steps=section.demo_steps
    )
    return demos, section.demo_every
