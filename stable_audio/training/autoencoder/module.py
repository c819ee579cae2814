"""Training of autoencoders: reconstruction, and a discriminator that takes every other step."""

from __future__ import annotations

import contextlib
import logging
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from stable_audio.data.base import Batch
from stable_audio.nn.checkpointing import set_gradient_checkpointing
from stable_audio.optim import build_optimizer, build_scheduler
from stable_audio.pretransforms import Autoencoder
from stable_audio.pretransforms.bottlenecks.base import NoiseSource
from stable_audio.pretransforms.discriminators import Discriminator
from stable_audio.pretransforms.losses import Terms
from stable_audio.training.autoencoder.explosion import Explosion, exploded
from stable_audio.training.autoencoder.metrics import default_metrics
from stable_audio.training.base import Schedule, TrainingModule
from stable_audio.training.draws import StepDraws
from stable_audio.training.ema import EMA
from stable_audio.training.errors import TrainingError
from stable_audio.training.modes import evaluating

log = logging.getLogger(__name__)
MEASURED_BATCHES = 4
"""Latest batches on which the spread of the latents is measured."""


@dataclass(frozen=True)
class OptimizerChoice:
    """Optimizer and LR scheduler, each `{"type", "config"}`."""

    optimizer: Mapping[str, Any]
    scheduler: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Adversary:
    """A discriminator, its weights in the generator's loss, and what trains it.

    Attributes:
        warmup_mode: "adv": the discriminator trains during warm-up; "full": it waits as well.
    """

    discriminator: Discriminator
    adversarial: float = 0.1
    feature_matching: float = 5.0
    warmup_mode: Literal["adv", "full"] = "adv"


@dataclass(frozen=True)
class EncoderOptions:
    """What training does to the encoder and the latents.

    Attributes:
        freeze_on_warmup: the encoder is not trained once warm-up is over. decoder_finetune: never. The
            bottleneck then rests as well, so that the same audio keeps its latents.
        force_input_mono: the encoder hears the mean of the channels.
        latent_mask_ratio: share of the latents set to zero, so that the decoder learns to do without.
    """

    freeze_on_warmup: bool = False
    decoder_finetune: bool = False
    force_input_mono: bool = False
    latent_mask_ratio: float = 0.0


@dataclass
class Reconstruction:
    """What a forward pass gives: tensors for the loss terms, by name.

    decoded: None where nothing hears it.
    """

    reals: Tensor
    decoded: Tensor | None
    latents: Tensor
    values: dict[str, Tensor] = field(default_factory=dict)


class AutoencoderTraining(TrainingModule):
    """Trains an autoencoder; with a discriminator, even steps are the generator's and odd ones its own.

    A step is one optimizer step of either network. Generator and discriminator steps are optimised by
    hand, with accumulation and clipping done here. In a discriminator step the autoencoder runs without
    a graph; in a generator step the discriminator is frozen.

    Args:
        terms: losses of `reals`, `decoded`, `latents`, `transformed_reals` and `transformed` (the same in the
            space of the autoencoder's own pretransform) and what the bottleneck computed.
        optimizer, discriminator_optimizer: of the two networks.
        teacher: frozen autoencoder to learn from; adds the values `teacher_*`.
        warmup_steps: steps (of both networks) before the generator sees the discriminator.
        metrics: of validation, by name. use_ema, ema_options: averaging of the weights.
        accum_batches: batches per step.
    """

    model: Autoencoder
    ranked = MappingProxyType({"val/stft": 1, "val/mel": 1, "val/sisdr": -1, "val/pesq": -1})

    def __init__(
        self,
        model: Autoencoder,
        *,
        terms: Terms,
        optimizer: OptimizerChoice,
        adversary: Adversary | None = None,
        discriminator_optimizer: OptimizerChoice | None = None,
        encoder: EncoderOptions = EncoderOptions(),
        teacher: Autoencoder | None = None,
        warmup_steps: int = 0,
        metrics: Mapping[str, nn.Module] | None = None,
        use_ema: bool = False,
        ema_options: Mapping[str, Any] | None = None,
        gradient_checkpointing: bool = False,
        accum_batches: int = 1,
        seed: int = 0,
        batch_size: int = 1,
        gradient_clip_val: float = 0.0,
    ) -> None:
        super().__init__(
            model,
            seed=seed,
            batch_size=batch_size,
            gradient_clip_val=gradient_clip_val,
            ema=EMA(model, **(ema_options or {})) if use_ema else None,
        )
        self.automatic_optimization = False
        self.terms, self.adversary, self.encoder = terms, adversary, encoder
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
        self.accum_batches = accum_batches
        # A list hides the teacher from state_dict and from the optimizers.
        self._teacher = [teacher.eval().requires_grad_(False)] if teacher is not None else []
        self._accumulated = 0
        self._worst: Tensor | None = None
        self._explosions = (Explosion(), Explosion())
        self._generator_stepped = False
        self._recent: deque[Tensor] = deque(maxlen=MEASURED_BATCHES)
        if encoder.decoder_finetune:
            model.encoder.requires_grad_(False)
            if model.bottleneck is not None:
                model.bottleneck.requires_grad_(False)
        if gradient_checkpointing:  # otherwise a coder's own `checkpointing` decides
            set_gradient_checkpointing(model)

    def begin_batch(self, batch: Batch) -> None:
        super().begin_batch(batch)
        self._recent.append(batch.audio)

    def before_save(self) -> None:
        """Measure the spread of the latents of the latest batches; files keep it as `latent_scale`.

        The weights that inference will use are the ones measured, and the random state is left alone.
        """
        super().before_save()
        if not self._recent:
            return
        averaged = self.ema.swapped() if self.ema is not None else contextlib.nullcontext()
        try:
            with averaged, evaluating(self), torch.no_grad():
                self.model.latent_scale = self._spread() or self.model.latent_scale
        except RuntimeError as error:  # out of memory must not cost the checkpoint
            log.warning("the scale of the latents was not measured: %s", error)

    def _spread(self) -> float | None:
        """Standard deviation over all latents of the latest batches, None where it means nothing."""
        like = next(self.model.parameters())
        noise = self._draws(0).encoder_noise
        mono = self.encoder.force_input_mono
        heard = [hear(a.to(like), self.model, mono=mono) for a in self._recent]
        latents = [self.model.encode(a, noise=noise).float() for a in heard]
        spread = float(torch.cat([x.flatten() for x in latents]).std())
        return spread if 0 < spread < float("inf") else None

    def training_step(self, batch: Batch, batch_idx: int = 0) -> None:
        """One batch of the network whose turn it is."""
        if self._precision() == "16-mixed":
            raise TrainingError(
                "autoencoders are not trained in float16: gradients of spectral losses overflow; "
                "use --precision bf16-mixed or 32"
            )
        step = self.trainer.global_step
        optimizers = self.optimizers()
        optimizers = optimizers if isinstance(optimizers, list) else [optimizers]
        self._generator_stepped = False
        if self.is_discriminator_step(step):
            loss = self.discriminator_step(batch.audio, noise=self.noise())
            self._optimise(loss, optimizers[1], 1)
        else:
            loss = self.generator_step(batch.audio, step, noise=self.noise())
            self._generator_stepped = self._optimise(loss, optimizers[0], 0)

    def is_discriminator_step(self, step: int) -> bool:
        """Odd steps, unless warm-up leaves the discriminator out."""
        if self.adversary is None or step % 2 == 0:
            return False
        return self.adversary.warmup_mode == "adv" or self.warmed_up(step)

    def warmed_up(self, step: int) -> bool:
        """Whether the generator sees the discriminator, and an encoder to be frozen then is frozen."""
        return step >= self.warmup_steps

    def generator_step(self, audio: Tensor, step: int, *, noise: NoiseSource | None = None) -> Tensor:
        """The loss of the autoencoder; notes the scalars to log."""
        frozen = self.encoder.decoder_finetune or (self.encoder.freeze_on_warmup and self.warmed_up(step))
        if self.discriminator is not None:
            self.discriminator.requires_grad_(False)
        made = self.reconstruct(audio, noise=noise, encoder_frozen=frozen, audible=self._compares_audio)
        return self.generator_loss(made, step)

    def discriminator_step(self, audio: Tensor, *, noise: NoiseSource | None = None) -> Tensor:
        """The loss of the discriminator; the autoencoder keeps no graph and stays as it is."""
        assert self.discriminator is not None
        self.discriminator.requires_grad_(True)
        with torch.no_grad(), unchanged(self.model.bottleneck):
            made = self.reconstruct(audio, noise=noise)
        return self.discriminator_loss(made)

    def reconstruct(
        self,
        audio: Tensor,
        *,
        noise: NoiseSource | None = None,
        encoder_frozen: bool = False,
        audible: bool = True,
    ) -> Reconstruction:
        """Encode and decode audio (b c n); both are cut to the shorter. Not audible: without the audio."""
        heard = hear(audio, self.model, mono=self.encoder.force_input_mono)
        resting = unchanged(self.model.bottleneck) if encoder_frozen else contextlib.nullcontext()
        with resting, torch.set_grad_enabled(torch.is_grad_enabled() and not encoder_frozen):
            seen = self.model.transform(heard)
            latents, info = self.model.encode_transformed(seen, noise=noise)
        if self.encoder.latent_mask_ratio > 0 and self.training:
            kept = torch.rand_like(latents[:, :1]) >= self.encoder.latent_mask_ratio
            latents = latents * kept
        values = {k: v for k, v in info.items() if isinstance(v, Tensor)}
        transformed, decoded = self.model.decoder(self.model.expand(latents)), None
        if self._compares_transformed:
            with torch.no_grad():
                reals = seen if heard is audio else self.model.transform(audio)
            values.update(transformed_reals=reals.detach(), transformed=transformed)
        if audible:
            decoded = self.model.undo_transform(transformed)
            n = min(audio.shape[-1], decoded.shape[-1])
            audio, decoded = audio[..., :n], decoded[..., :n].float()
            values["decoded"] = decoded
        audio = audio.float()
        values.update(reals=audio, latents=latents)
        if self._teacher and torch.is_grad_enabled():
            values.update(self._ask_teacher(self._teacher[0], heard, latents))
        return Reconstruction(audio, decoded, latents, values)

    def _ask_teacher(self, teacher: Autoencoder, audio: Tensor, latents: Tensor) -> dict[str, Tensor]:
        teacher.to(audio.device)
        with torch.no_grad():
            theirs = teacher.encode(audio)
            decoded = teacher.decode(theirs)
        return {
            "teacher_latents": theirs,
            "teacher_decoded": decoded,
            "teacher_decodes_ours": teacher.decode(latents),
            "we_decode_theirs": self.model.decode(theirs),
        }

    def generator_loss(self, made: Reconstruction, step: int) -> Tensor:
        """Sum of the terms and the adversarial ones; notes the scalars to log."""
        with torch.autocast(made.latents.device.type, enabled=False):
            loss, terms = self.terms({k: _full(v) for k, v in made.values.items()})
            if self.adversary is not None:
                extra = self._adversarial(made, step)
                loss, terms = loss + torch.stack(list(extra.values())).sum(), {**extra, **terms}
        self._loss = loss.detach()
        self.record(
            {
                "train/loss": loss,
                "train/latent_std": made.latents.std(),
                "train/data_std": made.reals.std(),
                **{f"train/{name}": value for name, value in terms.items()},
            }
        )
        return loss

    def _adversarial(self, made: Reconstruction, step: int) -> dict[str, Tensor]:
        assert self.adversary is not None
        names = ("loss_adv", "feature_matching_loss")
        if not self.warmed_up(step):
            return {name: made.reals.new_zeros(()) for name in names}
        assert made.decoded is not None
        found = self.adversary.discriminator.generator_losses(made.reals, made.decoded)
        weights = (self.adversary.adversarial, self.adversary.feature_matching)
        return {name: weight * value for name, weight, value in zip(names, weights, found)}

    def discriminator_loss(self, made: Reconstruction) -> Tensor:
        """How badly the discriminator tells reals from reconstructions."""
        assert self.discriminator is not None
        assert made.decoded is not None
        with torch.autocast(made.decoded.device.type, enabled=False):
            loss = self.discriminator.discriminator_loss(made.reals, made.decoded)
        self._loss = loss.detach()
        self.record({"train/discriminator_loss": loss})
        return loss

    def _optimise(self, loss: Tensor, optimizer: Any, index: int) -> bool:
        """Accumulate; every `accum_batches` batches clip and step. True when the weights moved."""
        self.manual_backward(loss / self.accum_batches)
        size = loss.detach().abs()
        self._worst = size if self._worst is None else torch.maximum(self._worst, size)
        self._accumulated += 1
        if self._accumulated < self.accum_batches:
            return False
        self._accumulated = 0
        self._check_loss(index)
        self._clip(optimizer, ("train/grad_norm", "train/disc_grad_norm")[index])
        names = ("train/gen_lr", "train/disc_lr")
        self.record({names[index]: float(optimizer.param_groups[0]["lr"])})
        optimizer.step()
        optimizer.zero_grad()
        if (scheduler := self._schedulers[index]) is not None:
            scheduler.step()
        return True

    def _check_loss(self, index: int) -> None:
        """Stop before the weights move if a batch's loss is not finite or exploded.

        Raises:
            TrainingError: with the files of the batches since the last step.
        """
        worst, self._worst = self._worst, None
        if worst is None:
            return
        self._loss = worst
        self.check_finite(worst)
        if (limit := self._explosions[index].exceeded(float(worst))) is not None:
            raise self.stopped(exploded(float(worst), limit))

    def _clip(self, optimizer: Any, name: str) -> None:
        parameters = [p for g in optimizer.param_groups for p in g["params"] if p.grad is not None]
        limit = self.gradient_clip_val if self.gradient_clip_val > 0 else float("inf")
        norm = nn.utils.clip_grad_norm_(parameters, limit)
        self.record({name: norm})
        self.check_finite(norm)

    def configure_optimizers(self) -> Any:
        """Two optimizers, or one without a discriminator; schedulers step with their own network."""
        trained: list[tuple[nn.Module, OptimizerChoice]] = [(self.model, self.optimizer_choice)]
        lengths = [s.steps for s in self.schedules(self.run_steps)]
        if self.discriminator is not None:
            trained.append((self.discriminator.requires_grad_(True), self.discriminator_choice))
        optimizers: list[Optimizer] = []
        self._schedulers: list[Any] = []
        for (network, choice), steps in zip(trained, lengths):
            parameters = [p for p in network.parameters() if p.requires_grad]
            if not parameters:
                raise TrainingError(f"no parameter of {type(network).__name__} is trainable")
            made = build_optimizer(choice.optimizer, parameters)
            optimizers.append(made)
            self._schedulers.append(
                build_scheduler(choice.scheduler, made, steps=steps) if choice.scheduler is not None else None
            )
        return optimizers

    def schedules(self, steps: int) -> list[Schedule]:
        """Of the autoencoder and its discriminator, which share the steps; -1 = no end, for both."""
        if self.adversary is None:
            return [Schedule("autoencoder", self.optimizer_choice.scheduler, steps)]
        waits = self.warmup_steps if self.adversary.warmup_mode == "full" else 0
        # Odd steps from `waits` on: as many as there are below `steps`, less those below `waits`.
        theirs = max(0, steps // 2 - waits // 2) if steps >= 0 else -1
        return [
            Schedule("autoencoder", self.optimizer_choice.scheduler, steps - theirs if steps >= 0 else -1),
            Schedule("discriminator", self.discriminator_choice.scheduler, theirs),
        ]

    def end_batch(self, *, stepped: bool) -> None:
        """The average follows the autoencoder alone."""
        super().end_batch(stepped=False)
        if stepped:
            self._files = []
        if self._generator_stepped and self.ema is not None:
            self.ema.update()

    def state(self) -> dict[str, Any]:
        schedulers = [s.state_dict() if s is not None else None for s in self._schedulers]
        explosions = [e.state_dict() for e in self._explosions]
        more = {"losses": self.terms.state_dict(), "schedulers": schedulers, "explosions": explosions}
        return {**super().state(), **more}

    def load_state(self, state: Mapping[str, Any]) -> None:
        super().load_state(state)
        self.terms.load_state_dict(dict(state.get("losses") or {}))
        for explosion, stored in zip(self._explosions, state.get("explosions") or []):
            explosion.load_state_dict(stored)
        self._pending_schedulers: Sequence[Any] = state.get("schedulers") or []

    def on_train_start(self) -> None:
        """Put the LR schedulers of a resumed run where they were."""
        for scheduler, stored in zip(self._schedulers, getattr(self, "_pending_schedulers", [])):
            if scheduler is not None and stored is not None:
                scheduler.load_state_dict(stored)

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
        """`val/<metric>` (b,) of each reconstruction; not a number where there was nothing to measure."""
        made = self.reconstruct(batch.audio, noise=self._draws(-1, items).encoder_noise)
        assert made.decoded is not None
        pairs = list(zip(made.reals.split(1), made.decoded.split(1)))
        with torch.autocast(made.decoded.device.type, enabled=False):
            return {
                f"val/{name}": torch.stack([metric(*pair).reshape(()) for pair in pairs])
                for name, metric in self.metrics.items()
            }


def hear(audio: Tensor, model: Autoencoder, *, mono: bool) -> Tensor:
    """What the encoder is given of audio (b c n): with `mono` the mean of the channels in all of its own."""
    if mono and audio.shape[1] > 1:
        return audio.mean(dim=1, keepdim=True).expand(-1, model.in_channels, -1)
    return audio


@contextlib.contextmanager
def unchanged(module: nn.Module | None) -> Iterator[None]:
    """Puts back what a forward pass changes in place: codebooks and scales that follow averages."""
    tensors = [] if module is None else [*module.buffers(), *module.parameters()]
    kept = [(t, t._version, t.detach().clone()) for t in tensors if not t.requires_grad]
    try:
        yield
    finally:
        with torch.no_grad():
            for tensor, version, value in kept:
                if tensor._version != version:
                    tensor.copy_(value)


def _full(value: Tensor) -> Tensor:
    return value.float() if value.is_floating_point() else value
