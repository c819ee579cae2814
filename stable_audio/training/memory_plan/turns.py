"""The training steps of every method on batches without values, by the code that trains."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from stable_audio.data.base import Batch
from stable_audio.diffusion.objectives import TrainingPoint
from stable_audio.inference.memory.blank import blank_conditioning
from stable_audio.training.autoencoder.diffusion import DiffusionAutoencoderTraining
from stable_audio.training.autoencoder.module import AutoencoderTraining
from stable_audio.training.base import TrainingModule
from stable_audio.training.diffusion.frame_masks import frame_groups
from stable_audio.training.diffusion.module import DiffusionTraining
from stable_audio.training.diffusion.prepared import PreparedBatch


@dataclass(frozen=True)
class Turn:
    """A step of one network.

    Attributes:
        network: the network that the step changes.
        forward: the clean latents or sounds of a batch -> its loss.
        encode: makes what `forward` takes.
        apart: a part of the network that `forward` leaves out, but that is trained all the same.
    """

    network: nn.Module
    encode: Callable[[], Tensor]
    forward: Callable[[Tensor], Tensor]
    apart: nn.Module | None = None


def turns_of(module: TrainingModule, batch_size: int, sample_size: int) -> list[Turn]:
    """The steps that a training module takes in turn, on `batch_size` clips without values.

    Args:
        module: a module with weights without values.
        sample_size: audio samples of each clip.

    Raises:
        TypeError: it is of a kind whose steps are not known here.
    """
    for kind, turns in TURNS.items():
        if isinstance(module, kind):
            return turns(module, batch_size, sample_size)
    raise TypeError(f"the memory of {type(module).__name__} cannot be planned")


def _diffusion(module: DiffusionTraining, batch_size: int, sample_size: int) -> list[Turn]:
    model, dtype = module.model, module.model.dtype

    def encode() -> Tensor:
        if module.pre_encoded or model.pretransform is None:
            return torch.empty(batch_size, *model.latent_shape_of(sample_size), dtype=dtype)
        # The cache of latents encodes clip by clip.
        at_once = batch_size if module.cache is None else 1
        audio = torch.empty(batch_size, model.audio_channels, sample_size)
        latents = module.latents(audio[:at_once], torch.zeros_like).to(dtype)
        return latents if at_once == batch_size else latents.new_empty(batch_size, *latents.shape[1:])

    def forward(x0: Tensor) -> Tensor:
        cond = blank_conditioning(model, batch=batch_size, sample_size=sample_size, device="cpu")
        cond = cond.to(dtype=dtype)
        if _is_trained(model.conditioner):  # gradients go on to what makes the conditioning
            cond = cond.map(lambda v: v.requires_grad_(v.is_floating_point()))
        point = TrainingPoint(
            x0=x0,
            noise=torch.empty_like(x0),
            t=x0.new_empty(batch_size),
            network=partial(model, cond=cond),
            uniform=lambda: x0.new_empty(batch_size),
        )
        mask = torch.ones(batch_size, 1, *x0.shape[2:], dtype=torch.bool)
        groups = None
        if module.item_means is not None:
            groups = frame_groups(x0, mask, None, packed=False)
        prepared = PreparedBatch(point, cond, mask if module.options.mask_padding else None, None, groups)
        return module.score(model.objective.compare(point), prepared)

    module.options = replace(module.options, log_loss_info=False)  # sorts values, which are not there
    return [Turn(model, encode, forward, apart=model.conditioner)]


def _autoencoder(module: AutoencoderTraining, batch_size: int, sample_size: int) -> list[Turn]:
    def audio() -> Tensor:
        return torch.empty(batch_size, module.model.io_channels, sample_size)

    warm = module.warmup_steps + module.warmup_steps % 2  # a step of the generator that sees all terms
    noise: Any = torch.zeros_like
    generator = Turn(module.model, audio, lambda x: module.generator_step(x, warm, noise=noise))
    if module.discriminator is None:
        return [generator]
    second = Turn(module.discriminator, audio, lambda x: module.discriminator_step(x, noise=noise))
    return [generator, second]


def _diffusion_autoencoder(
    module: DiffusionAutoencoderTraining, batch_size: int, sample_size: int
) -> list[Turn]:
    def audio() -> Tensor:
        return torch.empty(batch_size, module.model.io_channels, sample_size)

    def forward(x: Tensor) -> Tensor:
        return module.training_step(Batch(x, []), draws=_EmptyDraws())  # type: ignore[arg-type]

    return [Turn(module.model, audio, forward)]


def _is_trained(module: nn.Module | None) -> bool:
    return module is not None and any(p.requires_grad for p in module.parameters())


class _EmptyDraws:
    """Draws without values."""

    encoder_noise = bottleneck_noise = staticmethod(torch.zeros_like)

    def noise(self, x0: Tensor) -> Tensor:
        return torch.empty_like(x0)

    def timesteps(self, count: int, length: int) -> Tensor:
        return torch.empty(count)

    def uniform(self, count: int) -> Tensor:
        return torch.empty(count)


TURNS: dict[type[TrainingModule], Callable[[Any, int, int], list[Turn]]] = {
    DiffusionTraining: _diffusion,
    AutoencoderTraining: _autoencoder,
    DiffusionAutoencoderTraining: _diffusion_autoencoder,
}
"""Class of training modules, subclasses included -> its steps."""
