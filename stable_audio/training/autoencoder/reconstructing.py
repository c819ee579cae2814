"""The forward pass of autoencoder training: audio into latents and back, with what the losses compare."""

from __future__ import annotations

import contextlib

import torch
from torch import Tensor

from stable_audio.pretransforms import Autoencoder
from stable_audio.pretransforms.bottlenecks.base import NoiseSource
from stable_audio.pretransforms.encoder_options import EncoderOptions
from stable_audio.training.autoencoder.parts import Reconstruction, encoder_input, unchanged
from stable_audio.training.autoencoder.teaching import teacher_values
from stable_audio.training.teacher import Teacher


def reconstructed(
    model: Autoencoder,
    audio: Tensor,
    *,
    encoder: EncoderOptions,
    noise: NoiseSource | None,
    encoder_frozen: bool,
    compares_transformed: bool,
    audible: bool,
    masks: bool,
    teacher: Teacher | None,
) -> Reconstruction:
    """Encode and decode audio (b c n); both are cut to the shorter length.

    Args:
        encoder: what the encoder gets, and how many of its latents are masked.
        noise: source of the bottleneck's draws.
        encoder_frozen: encode without gradients.
        compares_transformed: add the values `transformed_reals` and `transformed`.
        audible: False: decode only into the space of the autoencoder's pretransform, not into audio.
        masks: mask latents, as in training.
        teacher: an autoencoder whose values `teacher_*` are added where gradients are computed.
    """
    encoder_audio = encoder_input(audio, model, mono=encoder.force_input_mono)
    restoring = unchanged(model.bottleneck) if encoder_frozen else contextlib.nullcontext()
    with restoring, torch.set_grad_enabled(torch.is_grad_enabled() and not encoder_frozen):
        transformed_audio = model.transform(encoder_audio)
        latents, info = model.encode_transformed(transformed_audio, noise=noise)
    if encoder.latent_mask_ratio > 0 and masks:
        mask = torch.rand_like(latents[:, :1]) >= encoder.latent_mask_ratio
        latents = latents * mask
    values = {k: v for k, v in info.items() if isinstance(v, Tensor)}
    transformed, decoded = model.decoder(model.expand(latents)), None
    if compares_transformed:
        with torch.no_grad():
            reals = transformed_audio if encoder_audio is audio else model.transform(audio)
        values.update(transformed_reals=reals.detach(), transformed=transformed)
    if audible:
        decoded = model.undo_transform(transformed)
        n = min(audio.shape[-1], decoded.shape[-1])
        audio, decoded = audio[..., :n], decoded[..., :n].float()
        values["decoded"] = decoded
    audio = audio.float()
    values.update(reals=audio, latents=latents)
    if teacher is not None and torch.is_grad_enabled():
        values.update(teacher_values(teacher, model, encoder_audio, latents))
    return Reconstruction(audio, decoded, latents, values)
