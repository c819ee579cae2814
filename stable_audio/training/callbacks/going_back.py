"""Go back to a checkpoint after too many bad steps, with other data than led to them."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import lightning.pytorch as pl

from stable_audio.checkpoints.errors import CheckpointError
from stable_audio.checkpoints.format import TRAINING_ENTRY
from stable_audio.checkpoints.steps import step_of
from stable_audio.incidents import incident
from stable_audio.stored.shards_folder import is_shards
from stable_audio.training.base import TrainingModule
from stable_audio.training.batches.feed import RunData
from stable_audio.training.callbacks.base import StepCallback
from stable_audio.training.callbacks.checkpoints import Checkpoints
from stable_audio.training.errors import TrainingError
from stable_audio.training.guards.checks import named
from stable_audio.training.saving.pruning import leave_later
from stable_audio.training.saving.recovery import newest_whole
from stable_audio.wording import plural

log = logging.getLogger(__name__)


class GoBack(StepCallback):
    """Ends the fit when there are too many bad steps, or one that some weights have taken, for a new one from
    the last checkpoint before them.

    The step and with it the schedules go back to those of the checkpoint; the order of data and draws does
    not, so that the run goes on with what comes after the bad steps. It must come before `Checkpoints`, which
    must not save what it leaves.

    Attributes:
        path: the checkpoint to go back to, until the new fit has loaded it; else None.
        step: its step.

    Args:
        checkpoints: writes the checkpoints of the run.
        data: the training data.
        resumed: (step, file) of the checkpoint that the run has been continued from, or None.
    """

    def __init__(
        self, checkpoints: Checkpoints, data: RunData, *, resumed: tuple[int, Path] | None = None
    ) -> None:
        super().__init__()
        self.checkpoints, self.data, self.resumed = checkpoints, data, resumed
        self.path: Path | None = None
        self.step = 0
        self._order: dict[str, Any] = {}
        self._batches: dict[str, Any] = {}

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        super().on_train_start(trainer, pl_module)
        self.path, self.checkpoints.paused = None, False

    def after_step(self, trainer: pl.Trainer, module: TrainingModule, step: int) -> None:
        first = module.guard.first_of_too_many(step)
        if first is None or self.path is not None:
            return
        self.step, self.path = self._target(trainer, module, first)
        log.error(
            "%s; the run goes back to step %d, %s, and goes on with other data. Files of most bad steps: %s",
            _too_many(module, first, step),
            self.step,
            self.path,
            _suspects(module),
            extra=incident("went back", step=step, to=self.step, checkpoint=str(self.path)),
        )
        if trainer.is_global_zero:
            leave_later(self.checkpoints.folder, self.step, self.path)
        module.guard.go_back()
        self._order, self._batches = module.order_state(), self.data.position(module.position)
        self.checkpoints.paused = True
        trainer.should_stop = True

    def on_load_checkpoint(self, trainer: pl.Trainer, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        """Replace the order of data and draws in the checkpoint, and its count of bad steps, by ours."""
        if self.path is None:
            _count_anew(checkpoint[TRAINING_ENTRY], pl_module)
            return
        entry, count = checkpoint[TRAINING_ENTRY], pl_module.guard.state_dict()
        usual = entry.get("guard", count)["usual"]
        entry.update(self._order)
        entry.update(data=[self._batches] * trainer.world_size, guard={**count, "usual": usual})

    def _target(self, trainer: pl.Trainer, module: TrainingModule, first: int) -> tuple[int, Path]:
        """(step, file) of the newest whole checkpoint up to step `first`, the same for all processes.

        Raises:
            TrainingError: there is none, or the run has gone back too often.
        """
        self.checkpoints.io.writer.wait()
        found: tuple[int, str] | None = None
        limits = module.guard.limits
        if limits is not None and module.guard.returns < limits.returns and trainer.is_global_zero:
            found = self._newest(first)
        found = trainer.strategy.broadcast(found)
        if found is None:
            why = (
                f"the run has gone back {plural(module.guard.returns, 'time')}"
                if limits is not None and module.guard.returns >= limits.returns
                else "there is no checkpoint from before that to go back to"
            )
            raise TrainingError(
                f"{_too_many(module, first, trainer.global_step)}, and {why}. Files of most bad steps: "
                f"{_suspects(module)}. Look at these files, lower the learning rate, set "
                "--gradient-clip-val, or change $.training.guard"
            )
        return found[0], Path(found[1])

    def _newest(self, up_to: int) -> tuple[int, str] | None:
        try:
            newest = newest_whole(self.checkpoints.folder, up_to=up_to)
        except CheckpointError as error:
            log.error("%s", error, extra=incident("damaged checkpoint"))
            newest = None
        if newest is not None:
            return int(newest[1][TRAINING_ENTRY]["step"]), str(newest[0])
        if self.resumed is None:
            return None
        step, path = self.resumed
        # `last.ckpt` may have been replaced since, and a numbered one been removed.
        still = is_shards(path) or step_of(path) == step
        return (step, str(path)) if step <= up_to and still else None


def _count_anew(entry: dict[str, Any], module: TrainingModule) -> None:
    """Forget the bad steps by which the start before has ended: somebody has looked at them since."""
    limits, stored = module.guard.limits, entry.get("guard")
    if limits is None or stored is None or len(stored["recent"]) <= limits.skips:
        return
    entry["guard"] = {**stored, "recent": [], "returns": 0}
    log.warning(
        "the run had ended after too many bad steps, the last of them step %d; they count no more",
        stored["recent"][-1] + 1,
        extra=incident("bad steps forgotten"),
    )


def _too_many(module: TrainingModule, first: int, step: int) -> str:
    """Why the run goes back, in words.

    Args:
        first: number of the steps before the first bad one.
        step: number of the last step.
    """
    limits = module.guard.limits
    assert limits is not None
    if module.guard.torn is not None:
        return f"some of the weights have taken step {first + 1}, which is bad"
    return f"more than {plural(limits.skips, 'bad step')} between step {first + 1} and {step}"


def _suspects(module: TrainingModule) -> str:
    return named([f"{file} ({count})" for file, count in module.guard.suspects.most_common(10)])
