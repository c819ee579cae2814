"""Train the contenders of a bakeoff; see `stable_audio.evaluation.bakeoff`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from stable_audio.checkpoints import load_model
from stable_audio.config import load_dataset_config
from stable_audio.data.world import ALONE
from stable_audio.evaluation.bakeoff import Contender, TrainingResult
from stable_audio.training.callbacks.validation import Validate
from stable_audio.training.options import RunOptions
from stable_audio.training.processes.stopping import Interrupted
from stable_audio.training.trainer import assemble

VALIDATION = {"split": "val", "num_clips": 438}
"""Every class of the collection once."""


class BackboneTraining:
    """Trains one contender after the other on the synthetic collection, each with the same options.

    Args:
        folder: folder in which each contender gets a folder.
        precision: see `RunOptions`.
        accelerator: see `RunOptions`.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        batch_size: int,
        seed: int = RunOptions.seed,
        precision: str = RunOptions.precision,
        accelerator: str = RunOptions.accelerator,
    ) -> None:
        self.folder, self.batch_size, self.seed = str(folder), batch_size, seed
        self.precision, self.accelerator = precision, accelerator

    def __call__(self, entry: Contender, steps: int) -> TrainingResult:
        """Train, and load the weights that validation saved: averaged ones if the config has `use_ema`.

        Raises:
            Interrupted: a signal ended the training.
            ValueError: the validation loss is not a number.
        """
        options = RunOptions(
            name=entry.name,
            save_dir=self.folder,
            overwrite=True,
            batch_size=self.batch_size,
            num_workers=0,
            seed=self.seed,
            max_steps=steps,
            precision=self.precision,
            checkpoint_every=0,
            val_every=steps,
            accelerator=self.accelerator,
            devices="1",
            gradient_clip_val=entry.config.training.gradient_clip_val or 0.0,
            demos=False,
            log_every=max(1, steps // 20),
        )
        data = load_dataset_config({"dataset_type": "synthetic"})
        validation = load_dataset_config({"dataset_type": "synthetic", **VALIDATION})
        started = time.perf_counter()
        run = assemble(entry.config, data, options, val_dataset=validation, world=ALONE)
        status = run.start()
        if status:
            raise Interrupted(status - 128)
        seconds = time.perf_counter() - started
        (validate,) = [c for c in run.trainer.callbacks if isinstance(c, Validate)]  # type: ignore[attr-defined]
        # The only validation is the one at the end, so its file holds the final weights.
        best = options.folder / "best.safetensors"
        if not best.is_file():
            raise ValueError(
                f"{entry.name}: the validation loss is not a number, so there is nothing to judge"
            )
        model: Any = load_model(best, device=run.module.device)[0]
        return TrainingResult(model=model, val_loss=validate.latest["val/avg_loss"], seconds=seconds)
