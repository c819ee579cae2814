"""Training of diffusion models: one short step around `backbone(x_t, t, conditioning)`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from stable_audio.audio.padding import PaddingMask
from stable_audio.conditioning.inpainting import inpainting_tensors
from stable_audio.data.base import Batch
from stable_audio.diffusion.guidance import cfg_dropout
from stable_audio.diffusion.losses import LossInputs, LossSum, MSELoss, SpectralLoss, Term
from stable_audio.diffusion.timesteps import TimestepSampler, Uniform
from stable_audio.model import DiffusionModel
from stable_audio.nn.transfer import to_device
from stable_audio.training.draws import Draws
from stable_audio.training.ema import EMA
from stable_audio.training.errors import TrainingError
from stable_audio.training.inpainting import InpaintingMasks
from stable_audio.training.packed import frame_mask, masked_std, whole_steps
from stable_audio.training.timed import VALIDATION_TIMES, TimedTraining, with_average
from stable_audio.types import Conditioning, Metadata


@dataclass(frozen=True)
class Prepared:
    """Inputs of the backbone and what its output is compared with.

    Attributes:
        mask: (b 1 n) bool or None.
        lengths: frames of each clip where clips share rows, else None.
    """

    x0: Tensor
    x_t: Tensor
    t: Tensor
    target: Tensor
    conditioning: Conditioning
    mask: Tensor | None
    lengths: Sequence[int] | None = None


class DiffusionTraining(TimedTraining):
    """Trains `model` to predict what its objective asks for.

    A packed batch (`Batch.packed`) goes through the backbone without padding. Its loss is the mean over
    all elements of real frames: with l_i the loss of clip i alone and without padding, for the same t,
    noise and dropped conditioning, and n_i its frames, loss = sum_i n_i l_i / sum_i n_i; so are the
    gradients. (mask_padding weighs the frames of a padded batch in the same way.) t is shifted by the
    length of each clip, and padding is out of the loss whatever mask_padding and its dropout say.

    Args:
        optimizer: `{"type", "config"}` of an optimizer.
        scheduler: `{"type", "config"}` of an LR schedule.
        losses: terms to minimise; default: mean squared error.
        timestep_sampler: distribution of t in training.
        p_one_shot: probability of training at t = 1, pure noise.
        cfg_dropout_prob: share of items whose conditioning is dropped, per slot.
        mask_padding: leave padding out of the loss.
        mask_padding_dropout: share of batches whose loss includes the padding.
        pre_encoded: batches hold latents, unscaled, as the encode command stores them.
        inpainting: masks for models with the ids `inpaint_mask` and `inpaint_masked_input`.
        use_ema: average the weights of the backbone.
        ema_options: options of the average.
        ema_conditioner: average the weights of the conditioners, too.
        log_loss_info: also log the loss by noise level.
        gradient_checkpointing: recompute activations in the backward pass.
    """

    model: DiffusionModel

    def __init__(
        self,
        model: DiffusionModel,
        *,
        optimizer: Mapping[str, Any],
        scheduler: Mapping[str, Any] | None = None,
        losses: LossSum | None = None,
        timestep_sampler: TimestepSampler | None = None,
        p_one_shot: float = 0.0,
        cfg_dropout_prob: float = 0.0,
        mask_padding: bool = False,
        mask_padding_dropout: float = 0.0,
        pre_encoded: bool = False,
        inpainting: InpaintingMasks | None = None,
        use_ema: bool = True,
        ema_options: Mapping[str, Any] | None = None,
        ema_conditioner: bool = False,
        log_loss_info: bool = False,
        gradient_checkpointing: bool = False,
        seed: int = 0,
        batch_size: int = 1,
        gradient_clip_val: float = 0.0,
    ) -> None:
        parts = ["backbone", "conditioner"] if ema_conditioner else ["backbone"]
        ema = EMA(model, parts=parts, deferred=True, **(ema_options or {})) if use_ema else None
        super().__init__(
            model,
            optimizer=optimizer,
            scheduler=scheduler,
            timestep_sampler=timestep_sampler if timestep_sampler is not None else Uniform(),
            p_one_shot=p_one_shot,
            dist_shift=model.dist_shift,
            seed=seed,
            batch_size=batch_size,
            gradient_clip_val=gradient_clip_val,
            ema=ema,
        )
        self.losses = losses if losses is not None else LossSum([Term("mse", MSELoss())])
        self.cfg_dropout_prob = cfg_dropout_prob
        self.mask_padding, self.mask_padding_dropout = mask_padding, mask_padding_dropout
        self.pre_encoded, self.inpainting = pre_encoded, inpainting
        self.log_loss_info = log_loss_info
        model.backbone.enable_gradient_checkpointing(gradient_checkpointing)

    def training_step(self, batch: Batch, batch_idx: int = 0, draws: Draws | None = None) -> Tensor:
        """The loss of one batch; everything random in it comes from `draws`."""
        step = self.prepare(batch, draws if draws is not None else self.draws(packed=batch.packed))
        return self.score(self._run(step.x_t, step.t, step.conditioning, step.lengths), step)

    def prepare(self, batch: Batch, draws: Draws) -> Prepared:
        """Encode, condition, drop conditioning, draw t and noise."""
        x0, lengths, mask = self._clean(batch, draws)
        conditioning = self._condition(batch.metadata, x0, mask, draws)
        conditioning = cfg_dropout(self.model.backbone, conditioning, self.cfg_dropout_prob, draws.bernoulli)
        objective = self.model.objective
        times = draws.timesteps(x0.shape[0], x0.shape[-1] if lengths is None else lengths)
        t = to_device(objective.process.grid(times), x0.device, x0.dtype)
        noise = draws.noise(x0) if lengths is None else draws.noise(x0, lengths)
        return Prepared(
            x0=x0,
            x_t=objective.noisy(x0, noise, t),
            t=t,
            target=objective.target(x0, noise, t),
            conditioning=conditioning,
            mask=_on(x0, self._loss_mask(mask, draws) if lengths is None else mask),
            lengths=lengths,
        )

    def score(self, output: Tensor, step: Prepared) -> Tensor:
        """The loss; notes the scalars to log."""
        inputs = LossInputs(
            output=output.float(),
            target=step.target.float(),
            x0=step.x0,
            x_t=step.x_t,
            t=step.t,
            objective=self.model.objective,
            mask=step.mask,
        )
        loss, terms = self.losses(inputs)
        self._loss = loss.detach()
        named = {f"train/{name}": value for name, value in terms.items()}
        self.record({"train/loss": loss, "train/std_data": _std(step), **named})
        if self.log_loss_info:
            with torch.no_grad():
                sigma = self.model.objective.alpha_sigma(step.t)[1]
                self.buckets.add(sigma, self.losses.per_item(inputs))
        return loss

    def _run(
        self, x_t: Tensor, t: Tensor, conditioning: Conditioning, lengths: Sequence[int] | None
    ) -> Tensor:
        if lengths is None:
            return self.model(x_t, t, conditioning)
        return self.model.forward_packed(x_t, t, conditioning, lengths)

    def _clean(self, batch: Batch, draws: Draws) -> tuple[Tensor, list[int] | None, Tensor | None]:
        """(latents, length of each clip in a packed batch, mask of real frames on the CPU where known)."""
        x0 = self.latents(batch.audio, draws)
        if batch.packed is None:
            return x0, None, self._padding_mask(batch.metadata, x0)
        if any(isinstance(term.loss, SpectralLoss) for term in self.losses.terms):
            raise TrainingError("clips cannot share rows with a spectral loss, which looks across padding")
        real = batch.packed.lengths
        x0, lengths = whole_steps(x0, real, self.model.backbone.length_multiple)
        return x0, lengths, frame_mask(real, x0.shape[-1])

    def latents(self, audio: Tensor, draws: Draws) -> Tensor:
        """What diffusion runs on: encoded audio, or the given latents at the model's scale."""
        pretransform = self.model.pretransform
        if self.pre_encoded:
            return audio / getattr(pretransform, "scale", 1.0)
        if pretransform is None:
            return audio
        # In full precision: spectra lose too much in half, and latents set what the model can reach.
        with (
            torch.set_grad_enabled(pretransform.enable_grad),
            torch.autocast(audio.device.type, enabled=False),
        ):
            return pretransform.encode(audio.float(), noise=draws.encoder_noise)

    def _condition(
        self, metadata: list[Metadata], x0: Tensor, mask: Tensor | None, draws: Draws
    ) -> Conditioning:
        extra = None
        if self.inpainting is not None:
            extra = inpainting_tensors(x0, self._inpaint_masks(x0, mask, draws))
        return self.model.condition(metadata, extra, device=x0.device)

    def _inpaint_masks(self, x0: Tensor, mask: Tensor | None, draws: Draws) -> Tensor:
        assert self.inpainting is not None
        length = x0.shape[-1]
        real = [length] * x0.shape[0] if mask is None else mask.flatten(1).sum(1).tolist()
        masks = [self.inpainting(int(r), length, draws.item_random(i)) for i, r in enumerate(real)]
        return to_device(torch.stack(masks), x0.device, x0.dtype)

    def _padding_mask(self, metadata: Sequence[Metadata], x0: Tensor) -> Tensor | None:
        """(b 1 n) bool, (b 1 1 n) for latents with rows, True = real; None where the items have no mask.

        On the CPU, where the lengths of the items can be read without waiting for the device.
        """
        masks = [_unwrapped(m["padding_mask"]) for m in metadata if "padding_mask" in m]
        if len(masks) < len(metadata):
            if self.mask_padding:
                raise TrainingError(
                    f"mask_padding needs 'padding_mask' in the metadata of every item; "
                    f"{len(metadata) - len(masks)} of {len(metadata)} have none"
                )
            return None
        resized = [_sound_at(m, x0.shape[-1]) for m in masks]
        return torch.stack(resized).view(x0.shape[0], *[1] * (x0.ndim - 2), -1)

    def _loss_mask(self, mask: Tensor | None, draws: Draws) -> Tensor | None:
        if not self.mask_padding or (self.mask_padding_dropout > 0 and draws.coin(self.mask_padding_dropout)):
            return None
        return mask

    @torch.no_grad()
    def validation_values(self, batch: Batch, items: Sequence[int]) -> dict[str, Tensor]:
        """`val/loss_<t>` (b,) at fixed times and their mean; the noise depends on seed and item only."""
        draws = self.draws(-1, batch.packed, items)
        x0, lengths, mask = self._clean(batch, draws)
        conditioning = self._validation_conditioning(batch.metadata, x0)
        noise, objective = draws.noise(x0, lengths), self.model.objective
        mask = _on(x0, mask if self.mask_padding or lengths is not None else None)
        found: dict[str, Tensor] = {}
        for time in VALIDATION_TIMES:
            t = objective.process.grid(torch.full((x0.shape[0],), time, device=x0.device))
            x_t, target = objective.noisy(x0, noise, t), objective.target(x0, noise, t)
            output = self._run(x_t, t, conditioning, lengths).float()
            inputs = LossInputs(output, target, x0, x_t, t, objective, mask)
            found[f"val/loss_{time:.1f}"] = self.losses.alone(inputs)
        return with_average(found)

    def _validation_conditioning(self, metadata: list[Metadata], x0: Tensor) -> Conditioning:
        extra = None
        if self.inpainting is not None:
            extra = inpainting_tensors(x0, torch.zeros_like(x0[:, :1]))
        return self.model.condition(metadata, extra, device=x0.device)


def _std(step: Prepared) -> Tensor:
    if step.lengths is None or step.mask is None:
        return step.x0.std()
    return masked_std(step.x0, step.mask)


def _on(x0: Tensor, mask: Tensor | None) -> Tensor | None:
    return None if mask is None else to_device(mask, x0.device)


@lru_cache(maxsize=64)
def _nearest(source: int, target: int) -> Tensor:
    """Which of `source` points `F.interpolate(mode="nearest")` takes for each of `target` ones."""
    places = torch.arange(source, dtype=torch.float64).view(1, 1, -1)
    return F.interpolate(places, size=target, mode="nearest").long().flatten()


def _unwrapped(value: Any) -> Tensor | PaddingMask:
    value = value[0] if isinstance(value, (list, tuple)) else value
    return value if isinstance(value, PaddingMask) else torch.as_tensor(value)


def _sound_at(mask: Tensor | PaddingMask, frames: int) -> Tensor:
    """(frames,) bool: whether the sample nearest to each frame is sound."""
    if isinstance(mask, PaddingMask):
        return mask.at(_nearest(len(mask), frames))
    return mask.flatten()[_nearest(mask.numel(), frames)].bool()
