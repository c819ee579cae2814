"""What trainings that draw a diffusion time share: the stream of t, the draws of a batch, one optimizer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from stable_audio.config.sections.autoencoder import DiffusionAutoencoderTrainingSection
from stable_audio.config.sections.training import TrainingKeys
from stable_audio.data.base import Packed
from stable_audio.diffusion.item_means import FrameGroups, ItemMeans
from stable_audio.diffusion.losses import LossInputs, LossSum
from stable_audio.diffusion.objectives import Compared, TrainingPoint
from stable_audio.diffusion.shift import TimeShift
from stable_audio.diffusion.timesteps import Timesteps, TimestepSampler
from stable_audio.diffusion_autoencoder import DiffusionAutoencoder
from stable_audio.model import DiffusionModel
from stable_audio.options import Flat, takes_keywords
from stable_audio.training.base import RunSettings, TrainingModule
from stable_audio.training.batches.draws import StepDraws
from stable_audio.training.errors import TrainingError
from stable_audio.training.optimisation.ema import EMA
from stable_audio.training.optimisation.networks import OptimizerChoice, TrainedNetwork
from stable_audio.training.teacher import Teacher

VALIDATION_TIMES = (0.1, 0.3, 0.5, 0.7, 0.9)


class TimedTraining(TrainingModule):
    """A training module with one optimizer and a stream of t that resumes where it was.

    Args:
        optimizer: `{"type", "config"}` of an optimizer.
        scheduler: `{"type", "config"}` of an LR schedule.
        timestep_sampler: distribution of t in training.
        p_one_shot: probability of training at t = 1, pure noise.
        dist_shift: shift of t for long latents.
        run: settings of the run; its fields are keywords as well.

    Attributes:
        item_means: makes the loss a mean over items; None: over all elements that count.
    """

    model: DiffusionModel | DiffusionAutoencoder
    item_means: ItemMeans | None = None

    @takes_keywords
    def __init__(
        self,
        model: DiffusionModel | DiffusionAutoencoder,
        *,
        optimizer: Mapping[str, Any],
        scheduler: Mapping[str, Any] | None,
        timestep_sampler: TimestepSampler,
        p_one_shot: float = 0.0,
        dist_shift: TimeShift | None = None,
        run: Flat[RunSettings] = RunSettings(),  # noqa: B008 (frozen)
        ema: EMA | None = None,
        teacher: Teacher | None = None,
    ) -> None:
        super().__init__(
            model,
            run=run,
            ema=ema,
            teacher=teacher,
        )
        self.choice = OptimizerChoice(optimizer, scheduler)
        self.timestep_sampler, self.p_one_shot = timestep_sampler, p_one_shot
        self.dist_shift = dist_shift
        self._timesteps: Timesteps | None = None
        self._timesteps_state: Mapping[str, Any] | None = None

    @torch.no_grad()
    def note_levels(self, losses: LossSum, inputs: LossInputs, t: Tensor) -> None:
        """Add the main loss of each item to those by noise level.

        Args:
            losses: terms of the loss, the main one first.
            inputs: what they compare.
            t: (b,) times of the items.
        """
        self.buckets.add(self.model.objective.alpha_sigma(t)[1], losses.per_item(inputs))

    @property
    def timesteps(self) -> Timesteps:
        """The run's stream of t, made at first use, when rank and world size are known."""
        if self._timesteps is None:
            self._timesteps = Timesteps(
                self.timestep_sampler,
                shift=self.dist_shift,
                p_one_shot=self.p_one_shot,
                seed=self.seed,
                rank=self._rank(),
                world_size=self._world_size(),
            )
            if self._timesteps_state is not None:
                self._timesteps.load_state_dict(dict(self._timesteps_state))
        return self._timesteps

    def draws(
        self,
        position: int | None = None,
        packed: Packed | None = None,
        items: Sequence[int] | None = None,
    ) -> StepDraws:
        """The draws of the batch at `position`.

        Args:
            position: batches before this one; default: the current position; -1 for validation.
            packed: layout of a batch whose clips share rows.
            items: numbers of the clips in their dataset.
        """
        return StepDraws(
            timesteps=self.timesteps,
            seed=self.seed,
            position=self.position if position is None else position,
            rank=self._rank(),
            world_size=self._world_size(),
            batch_size=self.batch_size,
            packed=packed,
            items=items,
        )

    def loss_inputs(
        self,
        compared: Compared,
        point: TrainingPoint,
        mask: Tensor | None = None,
        computed: Mapping[str, Tensor] = MappingProxyType({}),
        groups: FrameGroups | None = None,
    ) -> LossInputs:
        """Inputs of the losses, in float32."""
        return LossInputs(
            output=compared.output.float(),
            target=compared.target.float(),
            x0=point.x0,
            x_t=compared.x_t,
            t=point.t,
            objective=self.model.objective,
            mask=mask,
            means=self.item_means,
            groups=groups,
            computed=computed,
        )

    def losses_at_times(
        self,
        point: TrainingPoint,
        losses: LossSum,
        mask: Tensor | None = None,
        groups: FrameGroups | None = None,
    ) -> dict[str, Tensor]:
        """`val/loss_<t>` (b,) of each item at fixed times, and their mean, `val/avg_loss`.

        Args:
            point: its t is replaced.
            mask: (b 1 n) bool, True where the loss counts.
            groups: what each frame is to the means over items, if there are.
        """
        objective, values = self.model.objective, {}
        for time in VALIDATION_TIMES:
            t = objective.process.grid(torch.full((point.x0.shape[0],), time, device=point.x0.device))
            at_t = replace(point, t=t)
            inputs = self.loss_inputs(objective.compare(at_t), at_t, mask, groups=groups)
            values[f"val/loss_{time:.1f}"] = losses.alone(inputs)
        return _with_average(values)

    def networks(self) -> list[TrainedNetwork]:
        return [TrainedNetwork("diffusion", self.model, self.choice)]

    def order_state(self) -> dict[str, Any]:
        return {**super().order_state(), "timesteps": self.timesteps.state_dict()}

    def load_state(self, state: Mapping[str, Any]) -> None:
        super().load_state(state)
        self._timesteps, self._timesteps_state = None, state["timesteps"]


def _with_average(losses: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Losses (b,) at several times and their mean, `val/avg_loss`. NaN becomes infinite, since NaN would mean
    that nothing was measured."""
    finite = {k: v.float().nan_to_num(nan=float("inf"), posinf=float("inf")) for k, v in losses.items()}
    return {**finite, "val/avg_loss": torch.stack(list(finite.values())).mean(0)}


def optimizer_configs(
    section: TrainingKeys | DiffusionAutoencoderTrainingSection,
) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """(optimizer, scheduler or None); `learning_rate` alone means Adam.

    Raises:
        TrainingError: neither is given.
    """
    if section.optimizer_configs is not None:
        configs = section.optimizer_configs.diffusion
        scheduler = configs.scheduler.model_dump() if configs.scheduler is not None else None
        return configs.optimizer.model_dump(), scheduler
    if section.learning_rate is None:
        raise TrainingError("$.training: give learning_rate or optimizer_configs")
    return {"type": "Adam", "config": {"lr": section.learning_rate}}, None
