"""Training of diffusion autoencoders: encoder and backbone together, by the diffusion loss."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from stable_audio.data.base import Batch
from stable_audio.diffusion.losses import LossInputs, LossSum, MSELoss
from stable_audio.diffusion.noise import SeededNoise
from stable_audio.diffusion.objectives import TrainingPoint
from stable_audio.diffusion.timesteps import Uniform
from stable_audio.diffusion_autoencoder import DiffusionAutoencoder
from stable_audio.nn.checkpointing import Recomputation, set_gradient_checkpointing
from stable_audio.nn.terms import Term
from stable_audio.nn.transfer import to_device
from stable_audio.options import Flat, takes_keywords
from stable_audio.pretransforms.losses import MultiResolutionSTFTLoss
from stable_audio.pretransforms.losses.terms import value
from stable_audio.training.autoencoder.demos import AutoencoderDemos
from stable_audio.training.base import RunSettings
from stable_audio.training.batches.draws import Draws
from stable_audio.training.diffusion.timed import TimedTraining
from stable_audio.training.errors import TrainingError
from stable_audio.training.optimisation.ema import Averaging
from stable_audio.types import Conditioning

RECONSTRUCTION_WEIGHT = 0.1
_WINDOWS = (2048, 1024, 512, 256, 128, 64, 32)


@dataclass(frozen=True)
class Encoded:
    """An encoded batch.

    Attributes:
        x0: audio in the space of diffusion (b c n).
        latents: latents (b d frames).
        conditioning: the latents in the slots of the backbone.
        losses: losses of the bottleneck, by name.
    """

    x0: Tensor
    latents: Tensor
    conditioning: Conditioning
    losses: dict[str, Tensor]


class ReconstructionLoss:
    """Multi-resolution STFT distance between the audio and its estimate (the denoised audio).

    Windows have 2048 down to 32 samples, as far as they fit the audio, and hops of a quarter.

    Args:
        model: its pretransform, if it has one, decodes both into audio.
    """

    def __init__(self, model: DiffusionAutoencoder) -> None:
        self._to_audio = model.from_space
        self._distances: dict[int, MultiResolutionSTFTLoss] = {}

    def __call__(self, inputs: LossInputs) -> Tensor:
        with torch.autocast(inputs.x0.device.type, enabled=False):
            estimate = self._to_audio(inputs.denoised.float()).float()
            with torch.no_grad():
                audio = self._to_audio(inputs.x0.float()).float()
            return self._distance(audio)(audio, estimate)

    def _distance(self, audio: Tensor) -> MultiResolutionSTFTLoss:
        length = audio.shape[-1]
        if length not in self._distances:
            sizes = [s for s in _WINDOWS if s <= length] or [16]
            self._distances[length] = MultiResolutionSTFTLoss(
                fft_sizes=sizes, hop_sizes=[s // 4 for s in sizes], win_lengths=sizes, w_lin_mag=1.0
            )
        return self._distances[length].to(audio.device)


class DiffusionAutoencoderTraining(TimedTraining):
    """Trains the backbone to denoise the audio with the help of latents, and the encoder with it.

    Loss terms of the bottleneck (such as the KL divergence of a VAE) are added with the weights that it
    defines. The average is of the whole model.

    Args:
        optimizer: `{"type", "config"}` of an optimizer.
        scheduler: `{"type", "config"}` of an LR schedule.
        use_reconstruction_loss: add an STFT distance of the estimate of the audio, times 0.1.
        averaging: average of the weights; its fields are keywords as well.
        gradient_checkpointing: what the backward pass recomputes, see `set_gradient_checkpointing`.
        run: settings of the run; its fields are keywords as well.
    """

    model: DiffusionAutoencoder
    watches_explosion = True

    @takes_keywords
    def __init__(
        self,
        model: DiffusionAutoencoder,
        *,
        optimizer: Mapping[str, Any],
        scheduler: Mapping[str, Any] | None = None,
        use_reconstruction_loss: bool = False,
        averaging: Flat[Averaging] = Averaging(),  # noqa: B008 (frozen)
        gradient_checkpointing: Recomputation = False,
        run: Flat[RunSettings] = RunSettings(),  # noqa: B008 (frozen)
    ) -> None:
        super().__init__(
            model,
            optimizer=optimizer,
            scheduler=scheduler,
            timestep_sampler=Uniform(),
            run=run,
            ema=averaging.average(model),
        )
        terms: list[Term[LossInputs]] = [Term("mse", MSELoss())]
        if use_reconstruction_loss:
            terms.append(Term("mrstft", ReconstructionLoss(model), RECONSTRUCTION_WEIGHT))
        self.denoising = LossSum(terms)
        self.losses = LossSum([*terms, *self._bottleneck_terms()])
        model.backbone.enable_gradient_checkpointing(gradient_checkpointing)
        if gradient_checkpointing:  # otherwise a coder's own `checkpointing` decides
            set_gradient_checkpointing(model, gradient_checkpointing)

    def training_step(self, batch: Batch, batch_idx: int = 0, draws: Draws | None = None) -> Tensor:
        """The loss of one batch; everything random in it comes from `draws`."""
        draws = draws if draws is not None else self.draws()
        encoded = self.encode(batch.audio, draws)
        t = to_device(
            draws.timesteps(encoded.x0.shape[0], encoded.x0.shape[-1]), encoded.x0.device, encoded.x0.dtype
        )
        point = self._point(encoded, t, draws)
        compared = self.model.objective.compare(point)
        inputs = self.loss_inputs(compared, point, computed=encoded.losses)
        loss, terms = self.losses(inputs)
        self.note_levels(self.denoising, inputs, t)
        self._loss = loss.detach()
        spreads = {
            "train/std_data": encoded.x0.std(),
            "train/latent_std": encoded.latents.detach().float().std(),
        }
        self.record({"train/loss": loss, **{f"train/{k}": v for k, v in terms.items()}, **spreads})
        return loss

    def encode(self, audio: Tensor, draws: Draws) -> Encoded:
        """Encode audio (b c n) into the space of diffusion, cut to whole latent frames, and into latents."""
        x0 = self._to_space(audio, draws)
        latents, info = self.model.compress(x0, noise=draws.bottleneck_noise)
        conditioning = self.model.condition(latents, noise=draws.bottleneck_noise)
        assert conditioning.input_concat is not None
        length = conditioning.input_concat.shape[-1]
        losses = {k: v for k, v in info.items() if k in self._bottleneck_weights()}
        return Encoded(x0[..., :length], latents, conditioning, losses)

    def _bottleneck_weights(self) -> Mapping[str, float]:
        """Weights of the losses that the bottleneck computes, by its names for them."""
        bottleneck = self.model.bottleneck
        return {} if bottleneck is None else bottleneck.loss_weights

    def _bottleneck_terms(self) -> list[Term[LossInputs]]:
        return [
            Term(name.removesuffix("_loss"), _computed(name), weight)
            for name, weight in self._bottleneck_weights().items()
        ]

    def _point(self, made: Encoded, t: Tensor, draws: Draws) -> TrainingPoint:
        return TrainingPoint(
            x0=made.x0,
            noise=draws.noise(made.x0),
            t=t,
            network=partial(self.model, cond=made.conditioning),
            uniform=lambda: to_device(draws.uniform(t.shape[0]), made.x0.device, made.x0.dtype),
        )

    def _to_space(self, audio: Tensor, draws: Draws) -> Tensor:
        pretransform = self.model.pretransform
        if pretransform is None:
            return audio
        # In full precision, since spectra lose too much in half precision.
        with (
            torch.set_grad_enabled(pretransform.enable_grad and torch.is_grad_enabled()),
            torch.autocast(audio.device.type, enabled=False),
        ):
            return self.model.to_space(audio.float(), noise=draws.encoder_noise)

    @torch.no_grad()
    def validation_values(self, batch: Batch, items: Sequence[int]) -> dict[str, Tensor]:
        """`val/loss_<t>` (b,) at fixed times and their mean; the noise depends on seed and item only."""
        draws = self.draws(-1, items=items)
        encoded = self.encode(batch.audio, draws)
        point = self._point(encoded, encoded.x0.new_zeros(encoded.x0.shape[0]), draws)
        return self.losses_at_times(point, self.denoising)


def _computed(name: str) -> Callable[[LossInputs], Tensor]:
    loss = value(name)
    return lambda inputs: loss(inputs.computed)


class DiffusionAutoencoderDemos(AutoencoderDemos):
    """Renders originals beside the audio that is decoded from their latents.

    Args:
        steps: steps of the sampler.
        seed: clip i is decoded from the noise of seed + i at every step of training.
    """

    def __init__(self, *, sample_rate: int, count: int = 8, steps: int = 50, seed: int = 0) -> None:
        super().__init__(sample_rate=sample_rate, count=count)
        self.steps, self.seed = steps, seed

    def shorten(self, steps: int) -> None:
        self.steps = steps

    def _check(self, model: nn.Module) -> None:
        if not isinstance(model, DiffusionAutoencoder):
            raise TrainingError(
                f"reconstructions by diffusion need a diffusion autoencoder, found {type(model).__name__}"
            )

    def _decode(self, model: Any, latents: Tensor, index: int) -> Tensor:
        return model.decode(latents, noise=SeededNoise([self.seed + index]), steps=self.steps)
