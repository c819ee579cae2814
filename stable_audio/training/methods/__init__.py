"""Methods of training by model type and name; of a model type the first one is the default."""

from __future__ import annotations

from stable_audio.training.methods.autoencoder import build_autoencoder_demos, build_autoencoder_training
from stable_audio.training.methods.base import Method
from stable_audio.training.methods.diffusion import build_diffusion, build_diffusion_demos
from stable_audio.training.methods.diffusion_autoencoder import (
    build_diffusion_autoencoder_demos,
    build_diffusion_autoencoder_training,
)

DIFFUSION = Method(build_diffusion, build_diffusion_demos)

METHODS: dict[tuple[str, str], Method] = {
    ("diffusion_cond", "diffusion"): DIFFUSION,
    ("diffusion_cond_inpaint", "diffusion"): DIFFUSION,
    ("diffusion_uncond", "diffusion"): DIFFUSION,
    ("autoencoder", "reconstruction"): Method(build_autoencoder_training, build_autoencoder_demos),
    ("diffusion_autoencoder", "diffusion"): Method(
        build_diffusion_autoencoder_training, build_diffusion_autoencoder_demos
    ),
}
