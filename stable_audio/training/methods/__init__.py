"""Methods of training by model type and name; of a model type the first one is the default.

How a model is built is for `factory.models.BUILDERS` to say, by model type alone, since models are there
without training, too; all that training adds, its module, its options and its demos, is said here.

To add a method: one file with its class, one line here, one entry in tests/tiny.py.
"""

from __future__ import annotations

from stable_audio.training.diffusion.module import DiffusionTraining
from stable_audio.training.methods.autoencoder import build_autoencoder_demos, build_autoencoder_training
from stable_audio.training.methods.base import Method
from stable_audio.training.methods.diffusion import diffusion_method
from stable_audio.training.methods.diffusion_autoencoder import (
    build_diffusion_autoencoder_demos,
    build_diffusion_autoencoder_training,
)

DIFFUSION = diffusion_method(DiffusionTraining)

METHODS: dict[tuple[str, str], Method] = {
    ("diffusion_cond", "diffusion"): DIFFUSION,
    ("diffusion_cond_inpaint", "diffusion"): DIFFUSION,
    ("diffusion_uncond", "diffusion"): DIFFUSION,
    ("autoencoder", "reconstruction"): Method(build_autoencoder_training, build_autoencoder_demos),
    ("diffusion_autoencoder", "diffusion"): Method(
        build_diffusion_autoencoder_training, build_diffusion_autoencoder_demos
    ),
}
