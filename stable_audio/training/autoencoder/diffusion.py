"""Training of diffusion autoencoders: encoder and backbone together, by the diffusion loss."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stable_audio.config import ModelConfig
from stable_audio.config.autoencoder import DiffusionAutoencoderTraining as Section
from stable_audio.data.base import Batch
from stable_audio.diffusion.timesteps import Timesteps, Uniform
from stable_audio.model import DiffusionAutoencoder
from stable_audio.pretransforms.losses import MultiResolutionSTFTLoss, distance_for
from stable_audio.training.autoencoder.demos import AutoencoderDemos, describe
from stable_audio.training.base import TrainingModule
from stable_audio.training.demos import Demo
from stable_audio.training.draws import Draws, StepDraws
from stable_audio.training.ema import EMA
from stable_audio.training.errors import TrainingError

RECONSTRUCTION_WEIGHT = 0.1


class DiffusionAutoencoderTraining(TrainingModule):
    """Trains the backbone to predict v of the audio from noisy audio and latents, and the encoder with it.

    Args:
        optimizer, scheduler: `{"type", "config"}`.
        use_reconstruction_loss: add an STFT loss of the denoised audio.
    """

    model: DiffusionAutoencoder

    def __init__(
        self,
        model: DiffusionAutoencoder,
        *,
        optimizer: Mapping[str, Any],
        scheduler: Mapping[str, Any] | None = None,
        use_reconstruction_loss: bool = False,
        use_ema: bool = True,
        ema_options: Mapping[str, Any] | None = None,
        gradient_checkpointing: bool = False,
        seed: int = 0,
        batch_size: int = 1,
        gradient_clip_val: float = 0.0,
    ) -> None:
        ema = EMA(model, **(ema_options or {})) if use_ema else None
        super().__init__(
            model, seed=seed, batch_size=batch_size, gradient_clip_val=gradient_clip_val, ema=ema
        )
        self.optimizer_config, self.scheduler_config = optimizer, scheduler
        self.use_reconstruction_loss = use_reconstruction_loss
        self._timesteps: Timesteps | None = None
        self._timesteps_state: Mapping[str, Any] | None = None
        self._stft: MultiResolutionSTFTLoss | None = None
        model.backbone.enable_gradient_checkpointing(gradient_checkpointing)

    def training_step(self, batch: Batch, batch_idx: int = 0, draws: Draws | None = None) -> Tensor:
        """The loss of one batch; everything random in it comes from `draws`."""
        draws = draws if draws is not None else self.draws(self.position)
        loss, terms = self.losses(batch.audio, draws)
        self._loss = loss.detach()
        self.record({"train/loss": loss, **{f"train/{k}": v for k, v in terms.items()}})
        return loss

    def losses(self, audio: Tensor, draws: Draws) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss and what is logged beside it."""
        latents, info = self.model.encode_with_info(audio, noise=draws.encoder_noise)
        cond, x0 = self.model.condition(latents), self.model.to_space(audio)
        length = cond.input_concat.shape[-1]  # type: ignore[union-attr]
        x0 = x0[..., :length]
        t = draws.timesteps(x0.shape[0], length).to(x0)
        noise, objective = draws.noise(x0), self.model.objective
        x_t = objective.noisy(x0, noise, t)
        output = self.model(x_t, t, cond).float()
        terms = {"mse_loss": F.mse_loss(output, objective.target(x0, noise, t).float())}
        weights = self.model.bottleneck.loss_weights if self.model.bottleneck is not None else {}
        terms.update({k: w * info[k] for k, w in weights.items() if k in info})
        if self.use_reconstruction_loss:
            terms["mrstft_loss"] = RECONSTRUCTION_WEIGHT * self._distance(
                x0, objective.denoised(output, x_t.float(), t)
            )
        loss = torch.stack(list(terms.values())).sum()
        return loss, {**terms, "latent_std": latents.std(), "std_data": x0.std()}

    def _distance(self, x0: Tensor, denoised: Tensor) -> Tensor:
        pretransform = self.model.pretransform
        if pretransform is not None:
            x0, denoised = pretransform.decode(x0), pretransform.decode(denoised)
        if self._stft is None:
            self._stft = distance_for(x0.shape[-1]).to(x0.device)
        return self._stft(x0.float(), denoised.float())

    def configure_optimizers(self) -> dict[str, Any]:
        return self.optimizers_from(self.optimizer_config, self.scheduler_config)

    def state(self) -> dict[str, Any]:
        return {**super().state(), "timesteps": self.timesteps.state_dict()}

    def load_state(self, state: Mapping[str, Any]) -> None:
        super().load_state(state)
        self._timesteps_state = state.get("timesteps")

    @property
    def timesteps(self) -> Timesteps:
        """The run's stream of t; made late, since rank and world size are known late."""
        if self._timesteps is None:
            self._timesteps = Timesteps(
                Uniform(), seed=self.seed, rank=self._rank(), world_size=self._world_size()
            )
            if self._timesteps_state is not None:
                self._timesteps.load_state_dict(dict(self._timesteps_state))
        return self._timesteps

    def draws(self, position: int) -> StepDraws:
        """The draws of the batch at `position`."""
        return StepDraws(
            timesteps=self.timesteps,
            seed=self.seed,
            position=position,
            rank=self._rank(),
            world_size=self._world_size(),
            batch_size=self.batch_size,
        )


class DiffusionAutoencoderDemos(AutoencoderDemos):
    """Originals beside what is decoded from their latents.

    Args:
        steps: of the sampler. seed: of the noise that decoding starts from.
    """

    def __init__(self, *, sample_rate: int, count: int = 8, steps: int = 50, seed: int = 0) -> None:
        super().__init__(sample_rate=sample_rate, count=count)
        self.steps, self.seed = steps, seed

    def render(self, model: nn.Module) -> Iterator[Demo]:
        if not isinstance(model, DiffusionAutoencoder):
            raise TrainingError(f"reconstructions need an autoencoder, found {type(model).__name__}")
        device = next(model.parameters()).device
        for i, (clip, name) in enumerate(zip(self._clips, self._names)):
            generator = torch.Generator().manual_seed(self.seed + i)

            def noise(like: Tensor, *_: Any, source: torch.Generator = generator) -> Tensor:
                return torch.randn(like.shape, generator=source).to(like)

            real = clip[None].to(device)
            latents = model.encode(real, noise=torch.zeros_like)
            decoded = model.decode(latents, noise=noise, steps=self.steps).float()[..., : real.shape[-1]]
            row = f"{name} ({describe(real[..., : decoded.shape[-1]], decoded, latents)})"
            yield Demo(f"clip_{i:03d}_original", row, "original", clip)
            yield Demo(f"clip_{i:03d}_reconstruction", row, "reconstruction", decoded[0].cpu())


def build_diffusion_autoencoder_training(
    config: ModelConfig, model: DiffusionAutoencoder, run: Mapping[str, Any]
) -> DiffusionAutoencoderTraining:
    """`diffusion_autoencoder`.

    Raises:
        TrainingError: neither learning_rate nor optimizer_configs is given.
    """
    section: Section = config.training
    scheduler = None
    if section.optimizer_configs is not None:
        chosen = section.optimizer_configs.diffusion
        optimizer = chosen.optimizer.model_dump()
        scheduler = chosen.scheduler.model_dump() if chosen.scheduler is not None else None
    elif section.learning_rate is not None:
        optimizer = {"type": "Adam", "config": {"lr": section.learning_rate}}
    else:
        raise TrainingError("$.training: give learning_rate or optimizer_configs")
    ema = section.ema.model_dump()
    ema.pop("include_conditioner")
    return DiffusionAutoencoderTraining(
        model,
        optimizer=optimizer,
        scheduler=scheduler,
        use_reconstruction_loss=section.use_reconstruction_loss,
        use_ema=section.use_ema,
        ema_options=ema,
        gradient_checkpointing=section.gradient_checkpointing,
        **run,
    )
