"""Training of diffusion models: one short step around `backbone(x_t, t, conditioning)`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor

from stable_audio.conditioning.inpainting import inpainting_tensors
from stable_audio.data.base import Batch
from stable_audio.diffusion.coupling import coupled
from stable_audio.diffusion.guidance import cfg_dropout
from stable_audio.diffusion.item_means import FrameGroups
from stable_audio.diffusion.losses import LossSum, MSELoss, SpectralLoss
from stable_audio.diffusion.objectives import Compared, Network, TrainingPoint
from stable_audio.diffusion.step_options import StepOptions
from stable_audio.diffusion.timesteps import TimestepSampler, Uniform
from stable_audio.model import DiffusionModel
from stable_audio.nn.terms import Term
from stable_audio.nn.transfer import to_device
from stable_audio.options import Flat, takes_keywords
from stable_audio.training.base import RunSettings
from stable_audio.training.batches.draws import Draws
from stable_audio.training.batches.latent_cache import cache_texts
from stable_audio.training.devices.block_offload import BlockOffload
from stable_audio.training.diffusion.encoding import EncodedTraining
from stable_audio.training.diffusion.frame_masks import (
    frame_groups,
    frame_mask,
    masked_std,
    padding_mask,
    whole_steps,
)
from stable_audio.training.diffusion.inpainting import InpaintingMasks
from stable_audio.training.diffusion.loss_means import item_means_of
from stable_audio.training.diffusion.prepared import Clean, PreparedBatch, shift_lengths, with_silence
from stable_audio.training.errors import TrainingError
from stable_audio.training.optimisation.ema import Averaging
from stable_audio.training.teacher import Teacher, check_teacher
from stable_audio.types import Conditioning


class DiffusionTraining(EncodedTraining):
    """Trains `model` to predict the target of its objective.

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
        options: what a training step does; its fields are keywords as well.
        inpainting: masks for models with the ids `inpaint_mask` and `inpaint_masked_input`.
        averaging: average of the weights of the backbone; its fields are keywords as well.
        ema_conditioner: average the weights of the conditioners, too.
        run: settings of the run; its fields are keywords as well.
        teacher: a model to learn from, where the objective or a subclass needs one.

    Attributes:
        needs_teacher: whether the class learns from a teacher; one that neither it nor the objective needs is
            refused.
    """

    needs_teacher: ClassVar[bool] = False
    steps_alike: ClassVar[bool] = True

    @takes_keywords
    def __init__(
        self,
        model: DiffusionModel,
        *,
        optimizer: Mapping[str, Any],
        scheduler: Mapping[str, Any] | None = None,
        losses: LossSum | None = None,
        timestep_sampler: TimestepSampler | None = None,
        p_one_shot: float = 0.0,
        options: Flat[StepOptions] = StepOptions(),  # noqa: B008 (frozen)
        inpainting: InpaintingMasks | None = None,
        averaging: Flat[Averaging] = Averaging(),  # noqa: B008 (frozen)
        ema_conditioner: bool = False,
        run: Flat[RunSettings] = RunSettings(),  # noqa: B008 (frozen)
        teacher: Teacher | None = None,
    ) -> None:
        check_teacher(teacher, model, learner=type(self).__name__, required=self.needs_teacher)
        parts = ["backbone", "conditioner"] if ema_conditioner else ["backbone"]
        super().__init__(
            model,
            options=options,
            optimizer=optimizer,
            scheduler=scheduler,
            timestep_sampler=timestep_sampler if timestep_sampler is not None else Uniform(),
            p_one_shot=p_one_shot,
            run=run,
            ema=averaging.average(model, parts=parts),
            teacher=teacher,
        )
        self.losses = losses if losses is not None else LossSum([Term("mse", MSELoss())])
        self.inpainting = inpainting
        self.item_means = item_means_of(options, model)
        if options.cache_text is not None:
            cache_texts(model, options.cache_text)
        model.backbone.enable_gradient_checkpointing(options.gradient_checkpointing)
        self._blocks = BlockOffload(model.backbone) if options.offload_blocks else None

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        """The weights of offloaded blocks stay in host memory."""
        with nullcontext() if self._blocks is None else self._blocks.left_out(fn):
            return super()._apply(fn, recurse)

    def begin_fit(self) -> None:
        super().begin_fit()
        if self._blocks is not None:
            self._blocks.start(self.device)

    def training_step(self, batch: Batch, batch_idx: int = 0, draws: Draws | None = None) -> Tensor:
        """The loss of one batch; everything random in it comes from `draws`."""
        step = self.prepare(batch, draws if draws is not None else self.draws(packed=batch.packed))
        if self.ahead is not None:
            self.ahead.begin(self.position + 1, batch.audio.device)
        return self.score(self.model.objective.compare(step.point), step)

    def prepare(self, batch: Batch, draws: Draws) -> PreparedBatch:
        """Encode, condition, drop conditioning, draw t and noise."""
        sound = self._clean(batch, self.training_latents(batch, draws))
        silence = self.options.silence_extension_scale_seconds
        clean = with_silence(sound, self.model, silence, draws)
        x0, lengths, mask = clean.x0, clean.lengths, clean.mask
        inpainting = self._inpaint_masks(x0, mask, draws) if self.inpainting is not None else None
        conditioning = self._condition(self.model, clean, inpainting)
        dropped = self.options.cfg_dropout_prob
        conditioning = cfg_dropout(self.model.backbone, conditioning, dropped, draws.bernoulli)
        times = draws.timesteps(x0.shape[0], shift_lengths(sound, self.model))
        t = to_device(self.model.objective.process.grid(times), x0.device, x0.dtype)
        return PreparedBatch(
            point=TrainingPoint(
                x0=x0,
                noise=self._noise(x0, lengths, draws),
                t=t,
                network=self._network(self.model, conditioning, lengths),
                uniform=lambda: to_device(draws.uniform(x0.shape[0]), x0.device, x0.dtype),
                teacher=self._teacher_network(clean, inpainting),
            ),
            conditioning=conditioning,
            mask=_on(x0, self._loss_mask(mask, draws) if lengths is None else mask),
            lengths=lengths,
            groups=self._groups(clean, inpainting),
        )

    def score(self, compared: Compared, step: PreparedBatch) -> Tensor:
        """The loss; records the scalars to log."""
        mask = step.mask if step.groups is None else step.groups.signal
        inputs = self.loss_inputs(compared, step.point, mask, groups=step.groups)
        loss, terms = self.losses(inputs)
        self._loss = loss.detach()
        scalars = {f"train/{name}": value for name, value in terms.items()}
        self.record({"train/loss": loss, **self._deviations(step, inputs.target), **scalars})
        if self.options.log_loss_info:
            self.note_levels(self.losses, inputs, step.point.t)
        return loss

    def _deviations(self, step: PreparedBatch, target: Tensor) -> dict[str, Tensor]:
        if self.item_means is None or step.groups is None:
            return {"train/std_data": _std(step)}
        values = {"train/std_data": step.point.x0, "train/std_targets": target}
        if not self.item_means.apart:
            return {name: value.std() for name, value in values.items()}
        return {name: masked_std(value, step.groups.signal) for name, value in values.items()}

    def _noise(self, x0: Tensor, lengths: Sequence[int] | None, draws: Draws) -> Tensor:
        noise = draws.noise(x0) if lengths is None else draws.noise(x0, lengths)
        if not self.options.ot_coupling or x0.shape[0] < 2:
            return noise
        if lengths is not None:
            raise TrainingError(
                "clips cannot share rows with ot_coupling, which swaps their noise; set it to false"
            )
        return noise[coupled(x0, noise)]

    def _groups(self, clean: Clean, inpainting: Tensor | None) -> FrameGroups | None:
        if self.item_means is None:
            return None
        return frame_groups(clean.x0, clean.mask, inpainting, packed=clean.lengths is not None)

    def _network(
        self, model: DiffusionModel, conditioning: Conditioning, lengths: Sequence[int] | None
    ) -> Network:
        """The model as a function of x and t; one whose weights have 16 or 64 bits computes in their type."""
        # The type of all weights is searched for only where the first one has not 32 bits.
        other = next(model.backbone.parameters()).element_size() != 4
        dtype = model.dtype if other else torch.float32
        cond = conditioning if dtype.itemsize == 4 else conditioning.to(dtype=dtype)
        network: Network = partial(model, cond=cond)
        if lengths is not None:
            network = partial(model.forward_packed, cond=cond, lengths=lengths)
        if dtype.itemsize == 4:
            return network
        return lambda x, t: network(x.to(dtype), t).to(x.dtype)

    def _teacher_network(self, clean: Clean, inpainting: Tensor | None) -> Network | None:
        """The teacher as a function of x and t, if the objective needs one, without dropped conditioning."""
        if self.teacher is None or not self.model.objective.needs_teacher:
            return None
        teacher, device = self.teacher, clean.x0.device
        with torch.no_grad(), teacher.on(device) as model:
            network = self._network(model, self._condition(model, clean, inpainting), clean.lengths)

        def teacher_output(x: Tensor, t: Tensor) -> Tensor:
            with torch.no_grad(), teacher.on(device):
                return network(teacher.cast(x), t).to(x.dtype)

        return teacher_output

    def _clean(self, batch: Batch, x0: Tensor) -> Clean:
        if batch.packed is None:
            partial = self.item_means is not None
            mask = padding_mask(batch.metadata, x0, required=self.options.mask_padding, partial=partial)
            return Clean(x0, mask, None, batch.metadata)
        if any(isinstance(term.loss, SpectralLoss) for term in self.losses.terms):
            raise TrainingError("clips cannot share rows with a spectral loss, which looks across padding")
        real = batch.packed.lengths
        x0, lengths = whole_steps(x0, real, self.model.backbone.length_multiple)
        return Clean(x0, frame_mask(real, x0.shape[-1]), lengths, batch.metadata)

    def _condition(self, model: DiffusionModel, clean: Clean, inpainting: Tensor | None) -> Conditioning:
        """The conditioning of `model` for the metadata.

        Args:
            inpainting: masks (b 1 n), 1 = keep, of models that inpaint; else None.
        """
        extra = None if inpainting is None else inpainting_tensors(clean.x0, inpainting)
        with self.clock.part("conditioning"):
            conditioning = model.condition(clean.metadata, extra, device=clean.x0.device)
        if not model.mask_padding_attention or clean.mask is None or clean.lengths is not None:
            return conditioning
        return conditioning.replace(padding_mask=to_device(clean.mask.flatten(1), clean.x0.device))

    def _inpaint_masks(self, x0: Tensor, mask: Tensor | None, draws: Draws) -> Tensor:
        assert self.inpainting is not None
        length = x0.shape[-1]
        real = [length] * x0.shape[0] if mask is None else mask.flatten(1).sum(1).tolist()
        masks = [self.inpainting(int(r), length, draws.item_random(i)) for i, r in enumerate(real)]
        return to_device(torch.stack(masks), x0.device, x0.dtype)

    def _loss_mask(self, mask: Tensor | None, draws: Draws) -> Tensor | None:
        share = self.options.mask_padding_dropout
        if not self.options.mask_padding or (share > 0 and draws.coin(share)):
            return None
        return mask

    @torch.no_grad()
    def validation_values(self, batch: Batch, items: Sequence[int]) -> dict[str, Tensor]:
        """`val/loss_<t>` (b,) at fixed times and their mean; the noise depends on seed and item only."""
        draws = self.draws(-1, batch.packed, items)
        clean = self._clean(batch, self.latents(batch.audio, draws.encoder_noise))
        x0 = clean.x0
        inpainting = torch.zeros_like(x0[:, :1]) if self.inpainting is not None else None
        point = TrainingPoint(
            x0=x0,
            noise=draws.noise(x0, clean.lengths),
            t=x0.new_zeros(x0.shape[0]),
            network=self._network(self.model, self._condition(self.model, clean, inpainting), clean.lengths),
            uniform=lambda: to_device(draws.uniform(x0.shape[0]), x0.device, x0.dtype),
            teacher=self._teacher_network(clean, inpainting),
        )
        mask = _on(x0, clean.mask if self.options.mask_padding or clean.lengths is not None else None)
        groups = self._groups(clean, inpainting)
        return self.losses_at_times(point, self.losses, mask if groups is None else groups.signal, groups)


def _std(step: PreparedBatch) -> Tensor:
    x0 = step.point.x0
    return x0.std() if step.lengths is None or step.mask is None else masked_std(x0, step.mask)


def _on(x0: Tensor, mask: Tensor | None) -> Tensor | None:
    return None if mask is None else to_device(mask, x0.device)
