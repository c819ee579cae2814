"""What an autoencoder learns from another one: values for its loss terms."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from stable_audio.pretransforms import Autoencoder
from stable_audio.training.errors import TrainingError
from stable_audio.training.teacher import Teacher


def check_latents(teacher: nn.Module, model: Autoencoder) -> None:
    """Refuse a teacher whose latents cannot be compared with those of the model.

    Args:
        teacher: the model of the teacher.
        model: the one that learns.

    Raises:
        TrainingError: it is no autoencoder, or its latents are of another kind.
    """
    if not isinstance(teacher, Autoencoder):
        raise TrainingError(
            f"$.training.teacher_model is a {type(teacher).__name__}; autoencoders learn from autoencoders"
        )
    ours, theirs = ((m.latent_dim, m.downsampling_ratio, m.io_channels) for m in (model, teacher))
    if ours != theirs:
        raise TrainingError(
            f"$.training.teacher_model has (latent_dim, downsampling_ratio, io_channels) {theirs}, the model "
            f"{ours}; they must agree"
        )


def teacher_values(teacher: Teacher, model: Autoencoder, audio: Tensor, latents: Tensor) -> dict[str, Tensor]:
    """Latents and sounds of teacher and model, each also decoded by the other one, by name.

    Args:
        teacher: without gradients of its own.
        model: the one that learns.
        audio: (b c n), what both encode.
        latents: (b d frames) of the model.
    """
    with teacher.on(audio.device) as other:
        with torch.no_grad():
            teacher_latents = other.encode(teacher.cast(audio))
            decoded = other.decode(teacher_latents)
        ours = other.decode(teacher.cast(latents))
    return {
        "teacher_latents": teacher_latents,
        "teacher_decoded": decoded,
        "teacher_decodes_ours": ours,
        "we_decode_theirs": model.decode(teacher_latents.to(latents.dtype)),
    }
