"""The log line of a step whose process has died before it wrote it."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl

from stable_audio.training.callbacks.scalars import LogScalars


class UnwrittenLine(pl.Callback):
    """Keeps the last line in the checkpoint that another process than the first one writes after an error.

    All processes know it, but the first one alone writes it, and may have died before. The next start writes
    it, again or for the first time. It must come after `LogScalars` and before `Checkpoints`.

    Args:
        scalars: has the lines, and writes them.
    """

    def __init__(self, scalars: LogScalars) -> None:
        self.scalars = scalars
        self._line: dict[str, Any] = {}

    def state_dict(self) -> dict[str, Any]:
        return self._line

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._line = state_dict

    def on_exception(self, trainer: pl.Trainer, pl_module: Any, exception: BaseException) -> None:
        if not trainer.is_global_zero and self.scalars.latest_step == trainer.global_step:
            self._line = {"step": self.scalars.latest_step, "values": dict(self.scalars.latest)}

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        self._write(trainer)

    def on_fit_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """A run without a step left to train may lack the line of the last one."""
        self._write(trainer)

    def _write(self, trainer: pl.Trainer) -> None:
        line, self._line = self._line, {}
        if trainer.is_global_zero and line.get("step") == trainer.global_step:
            self.scalars.logger.scalars(line["values"], line["step"])
