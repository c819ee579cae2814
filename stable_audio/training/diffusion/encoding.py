"""Training on what a frozen or trained pretransform makes of the sound of a batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from stable_audio.data.base import Batch
from stable_audio.diffusion.step_options import StepOptions
from stable_audio.diffusion.timesteps import TimestepSampler
from stable_audio.inference.generation.coding import pretransform_dtype
from stable_audio.model import DiffusionModel
from stable_audio.nn.transfer import moved_alone
from stable_audio.pretransforms.autoencoder_pretransform import AutoencoderPretransform
from stable_audio.training.base import RunSettings
from stable_audio.training.batches.draws import Draws
from stable_audio.training.batches.encoding_ahead import EncodingAhead
from stable_audio.training.batches.latent_cache import LatentCache
from stable_audio.training.devices.halved_encoder import EncodingPrecision, HalvedEncoder
from stable_audio.training.devices.resting import left_out, pretransform_rests
from stable_audio.training.diffusion.timed import TimedTraining
from stable_audio.training.optimisation.ema import EMA
from stable_audio.training.teacher import Teacher


class EncodedTraining(TimedTraining):
    """A training module whose batches are sound that the model's pretransform encodes, or latents.

    Args:
        options: `pre_encoded`, `cache_latents` and `encode_ahead` count here.
        optimizer: `{"type", "config"}` of an optimizer.
        scheduler: `{"type", "config"}` of an LR schedule.
        timestep_sampler: distribution of t in training.
        p_one_shot: probability of training at t = 1, pure noise.
        run: settings of the run.
        ema: average of the weights.
        teacher: a model to learn from.

    Attributes:
        encoding_precision: of the frozen autoencoder, where the run decides it (`halved_encoder`).
        ahead: encodes the next batch, if the options ask for it and `encode_ahead` was called.
    """

    model: DiffusionModel

    def __init__(
        self,
        model: DiffusionModel,
        *,
        options: StepOptions,
        optimizer: Mapping[str, Any],
        scheduler: Mapping[str, Any] | None,
        timestep_sampler: TimestepSampler,
        p_one_shot: float,
        run: RunSettings,
        ema: EMA | None,
        teacher: Teacher | None,
    ) -> None:
        super().__init__(
            model,
            optimizer=optimizer,
            scheduler=scheduler,
            timestep_sampler=timestep_sampler,
            p_one_shot=p_one_shot,
            dist_shift=model.dist_shift,
            run=run,
            ema=ema,
            teacher=teacher,
        )
        self.options, self.pre_encoded = options, options.pre_encoded
        self.cache = LatentCache() if options.cache_latents else None
        self.encoding_precision: EncodingPrecision = "float32"
        self._halved_encoder: HalvedEncoder | None = None
        self.ahead: EncodingAhead | None = None

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        """A pretransform that only demos need stays in host memory. One that is frozen keeps its type,
        whatever that of the trained weights is."""
        pretransform = self.model.pretransform
        if pretransform is None or pretransform.enable_grad:
            return super()._apply(fn, recurse)
        with left_out(self.model, ["pretransform"]):
            moved = super()._apply(fn, recurse)
        if not self._pretransform_rests():
            pretransform._apply(lambda tensor: moved_alone(tensor, fn))
        return moved

    def begin_fit(self) -> None:
        """Demos bring a pretransform that rests to the device for as long as they decode."""
        super().begin_fit()
        if self._pretransform_rests() and self.device.type != "cpu":
            self.model.computes_on = self.device

    @property
    def encodes_sound(self) -> bool:
        """Whether batches are sound that a pretransform encodes in every step."""
        return self.model.pretransform is not None and not self.pre_encoded

    def _pretransform_rests(self) -> bool:
        decodes_alone = self.pre_encoded or self.encoding_precision == "float16"
        return pretransform_rests(self.model, decodes_alone=decodes_alone, processes=self._world_size())

    def encode_ahead(self, upcoming: Callable[[], Batch | None]) -> None:
        """From now on, encode the next batch beside the present one, if the options ask for it.

        Args:
            upcoming: the next batch, on the host.
        """
        if self.options.encode_ahead:
            self.ahead = EncodingAhead(upcoming=upcoming, encode=self._encoded_ahead, read=self._read_ahead)

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:
        """A batch that was begun ahead is there already."""
        audio = None if self.ahead is None else self.ahead.on_device(batch.audio)
        if audio is not None:
            return batch._replace(audio=audio)
        return super().transfer_batch_to_device(batch, device, dataloader_idx)

    def load_state(self, state: Mapping[str, Any]) -> None:
        super().load_state(state)
        if self.ahead is not None:
            self.ahead.forget()

    def _encoded_ahead(self, batch: Batch, position: int) -> Tensor | None:
        pretransform = self.model.pretransform
        frozen = pretransform is not None and not pretransform.enable_grad
        if self.pre_encoded or self.cache is not None or not frozen:
            return None
        # The clock times one stream of a device.
        with nullcontext() if batch.audio.is_cuda else self.clock.part("pretransform"):
            return self._encode(batch.audio, self.draws(position, batch.packed).encoder_noise)

    def _read_ahead(self, batch: Batch) -> None:
        if self.model.conditioner is not None:
            self.model.conditioner.read_next(batch.metadata, batch.audio.device)

    def training_latents(self, batch: Batch, draws: Draws) -> Tensor:
        """The latents (b c n) of a batch of the run."""
        ready = None if self.ahead is None else self.ahead.take(batch.audio, self.position)
        if ready is not None:
            return ready
        if self.cache is None:
            return self.latents(batch.audio, draws.encoder_noise)
        # Clip by clip, so that latents do not depend on the batch that a clip comes in first: after a resume
        # that is another one.
        return self.cache(batch, lambda clip: self.latents(clip, torch.zeros_like))

    def latents(self, audio: Tensor, noise: Callable[[Tensor], Tensor]) -> Tensor:
        """The latents that diffusion runs on: encoded audio, or stored latents divided by `scale`.

        Args:
            noise: as for Pretransform.encode.
        """
        pretransform = self.model.pretransform
        if self.pre_encoded:
            return audio / getattr(pretransform, "scale", 1.0)
        if pretransform is None:
            return audio
        with self.clock.part("pretransform"):
            return self._encode(audio, noise)

    def _encode(self, audio: Tensor, noise: Callable[[Tensor], Tensor]) -> Tensor:
        pretransform = self.model.pretransform
        assert pretransform is not None
        # Without autocast, since spectra lose too much in half precision, and latents limit the model's
        # quality; casts between the convolutions would cost more than they save, too.
        with (
            torch.set_grad_enabled(pretransform.enable_grad and torch.is_grad_enabled()),
            torch.autocast(audio.device.type, enabled=False),
        ):
            if self.encoding_precision == "float16":
                return self._encoder_on(audio.device).encode(audio, noise=noise)
            return pretransform.encode(audio.to(pretransform_dtype(pretransform)), noise=noise)

    def _encoder_on(self, device: torch.device) -> HalvedEncoder:
        """The encoder in float16, made when all weights are in place."""
        if self._halved_encoder is None:
            assert isinstance(self.model.pretransform, AutoencoderPretransform)
            self._halved_encoder = HalvedEncoder(self.model.pretransform, device)
        return self._halved_encoder
