"""What a training checkpoint holds beside weights and optimizers: where its run was, to go on there."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import lightning.pytorch as pl

from stable_audio.checkpoints.format import TRAINING_ENTRY
from stable_audio.checkpoints.scale import adopt_model_scale, with_scale
from stable_audio.training.base import StepBegin, TrainingModule
from stable_audio.training.batches.feed import RunData
from stable_audio.training.devices.halved_encoder import ENCODING_KEY
from stable_audio.training.processes.gathering import of_all
from stable_audio.training.saving.batch_counts import begin_with_a_whole_step
from stable_audio.training.saving.continuing import apply_learning_rate
from stable_audio.training.starting.precision import PRECISION_KEY
from stable_audio.training.window import state_of_rank

log = logging.getLogger(__name__)


def add_position(
    checkpoint: dict[str, Any],
    trainer: pl.Trainer,
    module: TrainingModule,
    data: RunData,
    config: Mapping[str, Any],
    *,
    alone: bool,
) -> None:
    """Add the config of the model and the position of the run: in the data, in the scalars that wait for the
    next log line, and what the module keeps.

    Args:
        checkpoint: what Lightning saves, changed in place.
        alone: save what this process has without asking the others, which may have ended. Otherwise every
            process must call it.
    """
    # After an error in the middle of a step, the run goes on with that step from its beginning.
    begin: StepBegin = module.step_begin or StepBegin(module.order_state(), module.window, module.buckets)
    logged = {"window": begin.window.state_dict(), "buckets": begin.buckets.state_dict()}
    here = (data.position(begin.order["position"]), logged)
    gathered: list[Any] = [here]
    if trainer.world_size > 1 and not alone:
        # Processes differ where a whole batch was rejected on one of them.
        gathered = of_all(here)
    device = trainer.strategy.root_device.type
    checkpoint["model_config"] = with_scale(config, module.model)
    checkpoint[TRAINING_ENTRY] = {
        **module.saved.entry,
        "step": trainer.global_step,
        PRECISION_KEY: (device, str(trainer.precision)),
        ENCODING_KEY: (device, getattr(module, "encoding_precision", "float32")),
        "data": [position for position, _ in gathered],
        "logged": [logged for _, logged in gathered],
        **module.state(),
        **begin.order,
    }


def go_on_from(
    checkpoint: dict[str, Any],
    trainer: pl.Trainer,
    module: TrainingModule,
    data: RunData,
    config: Mapping[str, Any],
) -> None:
    """Continue where the run was that has saved a checkpoint, with the learning rate of the config.

    Args:
        checkpoint: what Lightning loads; its counts of batches are changed where a step was cut off.
    """
    entry = checkpoint[TRAINING_ENTRY]
    module.load_state(entry)
    adopt_model_scale(module.model, checkpoint.get("model_config"))
    positions = entry["data"]
    mine = trainer.global_rank if len(positions) == trainer.world_size else 0
    data.continue_from(positions[mine])
    if entry.get("logged"):  # scalars since the last log line
        logged = state_of_rank(entry["logged"], trainer.global_rank, trainer.world_size)
        module.window.load_state_dict(logged["window"])
        module.buckets.load_state_dict(logged["buckets"])
    apply_learning_rate(config, module.networks(), checkpoint)
    begin_with_a_whole_step(checkpoint, trainer.accumulate_grad_batches)
    if entry["seed"] != module.seed:
        log.warning(
            "the run was started with --seed %d and goes on with %d: data and noise change here",
            entry["seed"],
            module.seed,
        )
