"""The first lines of a run, and a warning of a disk that will not hold its checkpoints."""

from __future__ import annotations

import logging
from typing import Any

import lightning.pytorch as pl

from stable_audio.config import ModelConfig
from stable_audio.incidents import incident
from stable_audio.training.base import TrainingModule
from stable_audio.training.batches.feed import RunData
from stable_audio.training.callbacks.scalars import LogScalars
from stable_audio.training.memory_plan import TrainingPlan
from stable_audio.training.memory_plan.processes import sharing_in
from stable_audio.training.options import RunOptions
from stable_audio.training.record.lines import nominal, planned, start_lines
from stable_audio.training.saving.checkpoint_size import Expected, checkpoint_bytes, lack_of_room

log = logging.getLogger(__name__)


class Summary(pl.Callback):
    """Logs a summary of the run before its first step.

    Args:
        config: the model file.
        options: options of the run.
        data: the training data.
        scalars: the log lines, which need what the plan counts.
        row: samples per item of a batch, which differ from the config's sample_size if clips are packed.
    """

    def __init__(
        self,
        config: ModelConfig,
        options: RunOptions,
        data: RunData,
        scalars: LogScalars,
        *,
        row: int,
    ) -> None:
        self.config, self.options, self.data, self.row = config, options, data, row
        self.scalars = scalars
        self._looked = False

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        if trainer.is_global_zero:
            plan = planned(
                self.config,
                self.options,
                precision=str(trainer.precision),
                device=trainer.strategy.root_device.type,
                row=self.row,
                sharing=sharing_in(trainer.strategy, trainer.world_size),
            )
            if plan is not None:
                self.scalars.nominal = nominal(plan, trainer.strategy.root_device)
            lines = start_lines(
                trainer, pl_module, self.options, self.data, plan, nominal=self.scalars.nominal
            )
            for line in lines:
                log.info("%s", line)
            if not self._looked:
                self._look_for_room(trainer, pl_module, plan)
            self._looked = True  # a run that goes back to a checkpoint comes here again

    def _look_for_room(self, trainer: pl.Trainer, module: TrainingModule, plan: TrainingPlan | None) -> None:
        """Warn of a disk that will not hold the run's checkpoints."""
        state = 0 if plan is None else plan.parts.get("optimizer", 0) * plan.choice.sharing.shares
        in_parts = self.options.checkpoint_format == "shards"
        expected = Expected.of(self.options, trainer.global_step)
        try:
            size = checkpoint_bytes(module, trainer.optimizers, planned=state, in_parts=in_parts)
            lack = lack_of_room(self.options.folder, size, expected)
        except Exception as error:  # a missing estimate must not end a run
            log.debug("the room on the disk is not known", exc_info=error)
            return
        if lack is not None:
            log.warning("%s", lack, extra=incident("little room"))
