"""Training of autoencoders: reconstruction, with a discriminator that is trained every other step."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from stable_audio.checkpoints.format import TRAINING_ENTRY
from stable_audio.data.base import Batch
from stable_audio.nn.checkpointing import Recomputation, set_gradient_checkpointing
from stable_audio.options import Flat, takes_keywords
from stable_audio.pretransforms import Autoencoder
from stable_audio.pretransforms.bottlenecks.base import NoiseSource
from stable_audio.pretransforms.encoder_options import EncoderOptions
from stable_audio.pretransforms.losses import Terms
from stable_audio.pretransforms.metrics import default_metrics
from stable_audio.training.autoencoder.latent_spread import RecentSound
from stable_audio.training.autoencoder.parts import Adversary, Reconstruction, unchanged
from stable_audio.training.autoencoder.reconstructing import reconstructed
from stable_audio.training.autoencoder.teaching import check_latents
from stable_audio.training.base import RunSettings, TrainingModule
from stable_audio.training.batches.draws import StepDraws
from stable_audio.training.modes import evaluating
from stable_audio.training.optimisation.ema import Averaging
from stable_audio.training.optimisation.networks import OptimizerChoice, Schedule, TrainedNetwork
from stable_audio.training.processes.sharding import reshard
from stable_audio.training.processes.splitting import are_split
from stable_audio.training.teacher import Teacher

log = logging.getLogger(__name__)
AUTOENCODER, DISCRIMINATOR = 0, 1
RECENT_KEY = "recent_batches"
"""Key of checkpoints: the sound of these batches."""


class AutoencoderTraining(TrainingModule):
    """Trains an autoencoder; with a discriminator, even steps are the generator's and odd ones its own.

    A step is one optimizer step of either network. In a discriminator step the autoencoder runs without
    a graph; in a generator step the discriminator is frozen.

    Args:
        terms: losses of `reals`, `decoded`, `latents`, `transformed_reals` and `transformed` (the same in the
            space of the autoencoder's own pretransform) and what the bottleneck computed.
        optimizer: `{"type", "config"}` of the autoencoder's optimizer.
        discriminator_optimizer: `{"type", "config"}` of the discriminator's optimizer.
        teacher: an autoencoder with latents of the same shape; adds the values `teacher_*`.
        warmup_steps: steps (of both networks) before the generator sees the discriminator.
        metrics: metrics of validation, by name.
        averaging: average of the weights, by default none; its fields are keywords as well.
        run: settings of the run; its fields are keywords as well.
    """

    model: Autoencoder
    by_hand = True
    watches_explosion = True
    no_float16 = "autoencoders are not trained in float16: gradients of spectral losses overflow"
    ranking = MappingProxyType({"val/stft": 1, "val/mel": 1, "val/sisdr": -1, "val/pesq": -1})

    @takes_keywords
    def __init__(
        self,
        model: Autoencoder,
        *,
        terms: Terms,
        optimizer: OptimizerChoice,
        adversary: Adversary | None = None,
        discriminator_optimizer: OptimizerChoice | None = None,
        encoder: EncoderOptions | None = None,
        teacher: Teacher | None = None,
        warmup_steps: int = 0,
        metrics: Mapping[str, nn.Module] | None = None,
        averaging: Flat[Averaging] = Averaging(use_ema=False),  # noqa: B008 (frozen)
        gradient_checkpointing: Recomputation = False,
        run: Flat[RunSettings] = RunSettings(),  # noqa: B008 (frozen)
    ) -> None:
        super().__init__(
            model,
            run=run,
            ema=averaging.average(model),
            teacher=teacher,
        )
        self.terms, self.adversary = terms, adversary
        self.encoder = encoder = encoder if encoder is not None else EncoderOptions()
        self.warmup_steps = warmup_steps
        # Their windows and filters follow the module to its device; none of them is stored.
        self.term_networks = nn.ModuleList(terms.networks())
        compared = terms.compared()
        self._compares_transformed = "transformed" in compared
        self._compares_audio = adversary is not None or "decoded" in compared
        self.discriminator = adversary.discriminator if adversary is not None else None
        self.optimizer_choice = optimizer
        self.discriminator_choice = discriminator_optimizer or optimizer
        self.metrics = nn.ModuleDict(metrics or default_metrics())
        if teacher is not None:
            check_latents(teacher.model, model)
        self._recent = RecentSound()
        if gradient_checkpointing:  # otherwise a coder's own `checkpointing` decides
            set_gradient_checkpointing(model, gradient_checkpointing)

    def begin_batch(self, batch: Batch) -> None:
        super().begin_batch(batch)
        self._recent.add(batch.audio)

    def order_state(self) -> dict[str, Any]:
        """With the latest batches, so that a run that goes on measures the latents of the same sound."""
        return {**super().order_state(), RECENT_KEY: self._recent.batches()}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        if self.saves_parts and self._rank() > 0:
            # What the first process measures is stored, and so are its batches.
            checkpoint[TRAINING_ENTRY].pop(RECENT_KEY)

    def before_save(self) -> None:
        """Measure the standard deviation of the latents of the latest batches, to store it as `latent_scale`.

        It is measured with the weights that inference will use, and does not change the random state.
        """
        super().before_save()
        if not self._recent.batches():
            return
        try:
            with self.averaged(), evaluating(self), torch.no_grad():
                spread = self._recent.spread(
                    self.model, noise=self._draws(0).encoder_noise, mono=self.encoder.force_input_mono
                )
                self.model.latent_scale = spread or self.model.latent_scale
        except RuntimeError as error:  # out of memory must not cost the checkpoint
            log.warning("the scale of the latents was not measured: %s", error)

    def training_step(self, batch: Batch, batch_idx: int = 0) -> None:
        """One batch of the network whose turn it is."""
        step, turn = self.step_and_turn()
        if turn == DISCRIMINATOR:
            self.optimise(self.discriminator_step(batch.audio, noise=self.noise()))
        else:
            self.optimise(self.generator_step(batch.audio, step, noise=self.noise()))

    def networks(self) -> list[TrainedNetwork]:
        """The autoencoder, and its discriminator if it has one."""
        generator = TrainedNetwork(
            "autoencoder", self.model, self.optimizer_choice, rate_label="train/gen_lr"
        )
        if self.discriminator is None:
            return [generator]
        discriminator = TrainedNetwork(
            "discriminator",
            self.discriminator,
            self.discriminator_choice,
            "train/disc_grad_norm",
            "train/disc_lr",
        )
        return [generator, discriminator]

    def turn(self, step: int) -> int:
        return DISCRIMINATOR if self.is_discriminator_step(step) else AUTOENCODER

    def configure_networks(self) -> None:
        """Unfreeze the discriminator, which a generator step may have left frozen."""
        if self.discriminator is not None:
            self.discriminator.requires_grad_(True)

    def is_discriminator_step(self, step: int) -> bool:
        """Whether the step is the discriminator's: odd steps, unless warm-up leaves the discriminator out."""
        return self.adversary is not None and self.adversary.has_turn(step, warmed_up=self.warmed_up(step))

    def warmed_up(self, step: int) -> bool:
        """Whether warm-up is over: adversarial terms count, and the encoder may be frozen."""
        return step >= self.warmup_steps

    def generator_step(self, audio: Tensor, step: int, *, noise: NoiseSource | None = None) -> Tensor:
        """The loss of the autoencoder; records the scalars to log."""
        frozen = self.encoder.decoder_finetune or (
            self.encoder.encoder_freeze_on_warmup and self.warmed_up(step)
        )
        if self.discriminator is not None:
            self._train_discriminator(False)
        reconstruction = self.reconstruct(
            audio, noise=noise, encoder_frozen=frozen, audible=self._compares_audio
        )
        return self.generator_loss(reconstruction, step)

    def discriminator_step(self, audio: Tensor, *, noise: NoiseSource | None = None) -> Tensor:
        """The loss of the discriminator; the autoencoder runs without a graph and does not change."""
        self._train_discriminator(True)
        with torch.no_grad(), unchanged(self.model.bottleneck):
            reconstruction = self.reconstruct(audio, noise=noise)
        return self.discriminator_loss(reconstruction)

    def _train_discriminator(self, trains: bool) -> None:
        assert self.discriminator is not None
        if are_split(self.discriminator):
            reshard(self.discriminator)  # what is whole for now would keep the setting to itself
        self.discriminator.requires_grad_(trains)

    def reconstruct(
        self,
        audio: Tensor,
        *,
        noise: NoiseSource | None = None,
        encoder_frozen: bool = False,
        audible: bool = True,
    ) -> Reconstruction:
        """Encode and decode audio (b c n), see `reconstructed`."""
        return reconstructed(
            self.model,
            audio,
            encoder=self.encoder,
            noise=noise,
            encoder_frozen=encoder_frozen,
            compares_transformed=self._compares_transformed,
            audible=audible,
            masks=self.training,
            teacher=self.teacher,
        )

    def generator_loss(self, reconstruction: Reconstruction, step: int) -> Tensor:
        """Sum of the terms and the adversarial terms; records the scalars to log."""
        with torch.autocast(reconstruction.latents.device.type, enabled=False):
            loss, terms = self.terms({k: _full(v) for k, v in reconstruction.values.items()})
            if self.adversary is not None:
                extra = self.adversary.generator_terms(reconstruction, counts=self.warmed_up(step))
                loss, terms = loss + torch.stack(list(extra.values())).sum(), {**extra, **terms}
        self._loss = loss.detach()
        self.record(
            {
                "train/loss": loss,
                "train/latent_std": reconstruction.latents.std(),
                "train/data_std": reconstruction.reals.std(),
                **{f"train/{name}": value for name, value in terms.items()},
            }
        )
        return loss

    def discriminator_loss(self, reconstruction: Reconstruction) -> Tensor:
        """The loss of the discriminator, between real audio and reconstructions."""
        assert self.discriminator is not None
        assert reconstruction.decoded is not None
        with torch.autocast(reconstruction.decoded.device.type, enabled=False):
            loss = self.discriminator.discriminator_loss(reconstruction.reals, reconstruction.decoded)
        self._loss = loss.detach()
        self.record({"train/discriminator_loss": loss})
        return loss

    def schedules(self, steps: int) -> list[Schedule]:
        """LR schedules of the autoencoder and its discriminator, which share the steps; -1 = no end."""
        if self.adversary is None:
            return [Schedule("autoencoder", self.optimizer_choice.scheduler, steps)]
        share = self.adversary.turns(steps, warmup_steps=self.warmup_steps) if steps >= 0 else -1
        return [
            Schedule("autoencoder", self.optimizer_choice.scheduler, steps - share if steps >= 0 else -1),
            Schedule("discriminator", self.discriminator_choice.scheduler, share),
        ]

    def state(self) -> dict[str, Any]:
        return {**super().state(), "losses": self.terms.state_dict()}

    def load_state(self, state: Mapping[str, Any]) -> None:
        super().load_state(state)
        self.terms.load_state_dict(dict(state.get("losses") or {}))
        # Runs that an earlier version began measure anew.
        self._recent = RecentSound(state.get(RECENT_KEY, ()))

    def noise(self) -> NoiseSource:
        """Standard normal noise of the current batch; depends on seed, position and item alone."""
        return self._draws(self.position).encoder_noise

    def _draws(self, position: int, items: Sequence[int] | None = None) -> StepDraws:
        return StepDraws(
            timesteps=None,  # type: ignore[arg-type]  # no diffusion time is drawn here
            seed=self.seed,
            position=position,
            rank=self._rank(),
            world_size=self._world_size(),
            batch_size=self.batch_size,
            items=items,
        )

    @torch.no_grad()
    def validation_values(self, batch: Batch, items: Sequence[int]) -> dict[str, Tensor]:
        """`val/<metric>` (b,) of each reconstruction; NaN if there was nothing to measure."""
        reconstruction = self.reconstruct(batch.audio, noise=self._draws(-1, items).encoder_noise)
        assert reconstruction.decoded is not None
        pairs = list(zip(reconstruction.reals.split(1), reconstruction.decoded.split(1)))
        with torch.autocast(reconstruction.decoded.device.type, enabled=False):
            return {
                f"val/{name}": torch.stack([metric(*pair).reshape(()) for pair in pairs])
                for name, metric in self.metrics.items()
            }


def _full(value: Tensor) -> Tensor:
    return value.float() if value.is_floating_point() else value
