"""Validation every N steps, with averaged weights and the same times and noise every time."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor

from stable_audio.checkpoints.steps import step_of_inference
from stable_audio.data.base import Batch, DataError
from stable_audio.data.loader import ResumableLoader
from stable_audio.data.seeding import derive_seed, seed_draws_on
from stable_audio.training.base import TrainingModule
from stable_audio.training.callbacks.base import StepCallback, on_any_process
from stable_audio.training.callbacks.checkpoints import Checkpoints, continues
from stable_audio.training.callbacks.item_means import ItemValues, Rows, means, over_processes
from stable_audio.training.modes import evaluating
from stable_audio.training.processes.lockstep import in_lockstep
from stable_audio.training.processes.splitting import are_split
from stable_audio.training.processes.stopping import StopRequest
from stable_audio.training.record.loggers.base import RunLogger

log = logging.getLogger(__name__)


class Validate(StepCallback):
    """Logs `val/...`, means over the items, and writes the best weights by `module.ranking` to
    `best.safetensors`.

    Args:
        make_loader: (rank, world_size) -> a loader that repeats one pass.
        checkpoints: writes the checkpoints of the run, which hold what has been the best so far.
        every: steps.
        stop: says that a signal has come to end the run, which then validates when it goes on: whoever sends
            one may not wait for the checkpoint until that is done.
    """

    def __init__(
        self,
        make_loader: Callable[[int, int], ResumableLoader],
        logger: RunLogger,
        checkpoints: Checkpoints,
        *,
        every: int,
        stop: StopRequest,
    ) -> None:
        super().__init__()
        self.stop = stop
        self._make_loader, self.logger = make_loader, logger
        self.checkpoints, self.every = checkpoints, every
        self._bests: list[tuple[int, float]] = []
        self.latest: dict[str, float] = {}
        self._loader: ResumableLoader | None = None
        self._step: int | None = 0
        # Both as they were before the latest validation.
        self._before: tuple[list[tuple[int, float]], int | None] = [], self._step

    @property
    def best(self) -> float:
        """What is the lowest so far, by `module.ranking`; infinite before the first."""
        return self._bests[-1][1] if self._bests else math.inf

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best, "bests": list(self._bests), "step": self._step}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        # Checkpoints of earlier versions have no step, and no bests but the last.
        best, self._step = state_dict["best"], state_dict.get("step")
        earlier = [] if math.isinf(best) else [(0, best)]
        self._bests = [(step, measure) for step, measure in state_dict.get("bests", earlier)]
        self._before = self._bests, self._step

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        super().on_train_start(trainer, pl_module)
        # Now, so that a mistake in the dataset file is found before the first step.
        self._begin(trainer, pl_module)

    def on_fit_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """A run without a step left to train may lack the validation of the last one."""
        if self._last_step < 0 and self._is_missing(trainer.global_step):
            self._begin(trainer, pl_module)

    def on_exception(self, trainer: pl.Trainer, pl_module: Any, exception: BaseException) -> None:
        """Another process than the one that writes may save the run now. It cannot know whether the row and
        the best weights of this step were written, so that the validation follows once more."""
        if not trainer.is_global_zero and self._step == trainer.global_step:
            self._bests, self._step = self._before

    def _begin(self, trainer: pl.Trainer, module: TrainingModule) -> None:
        self._loader = self._make_loader(trainer.global_rank, trainer.world_size)
        self._leave_out_lost(trainer)
        self._catch_up(trainer, module)

    def _leave_out_lost(self, trainer: pl.Trainer) -> None:
        """Compare with the best weights that are on disk: later ones could not be written, or the process
        that wrote them has died, and another one has saved the run."""
        if not continues(trainer, self.checkpoints.folder):
            return
        step = step_of_inference(self.checkpoints.folder / "best.safetensors")
        written: float = trainer.strategy.broadcast(-1 if math.isinf(step) else step)
        self._bests = [(at, measure) for at, measure in self._bests if at <= written]
        self._before = self._bests, self._step

    def _is_missing(self, step: int) -> bool:
        """Whether a run that goes on from `step` has left out the validation of that step."""
        return step > 0 and step % self.every == 0 and self._step not in (None, step)

    def _catch_up(self, trainer: pl.Trainer, module: TrainingModule) -> None:
        step = trainer.global_step
        if self._is_missing(step):
            # The run was stopped before it, or a process died while they validated.
            self.after_step(trainer, module, step)
            self.checkpoints.stale = self._step == step

    def after_step(self, trainer: pl.Trainer, module: TrainingModule, step: int) -> None:
        if step % self.every:
            return
        (stops,) = on_any_process(trainer, self.stop.asked)
        if stops:
            log.warning("the validation of step %d follows when the run goes on", step)
            return
        rows = over_processes(self._measured(trainer, module, step), trainer.world_size)
        self._before, self._step = (self._bests, self._step), step
        # In the order of the items, so that the sums are the same whatever the batches.
        self.latest = values = means(rows[item] for item in sorted(rows))
        if trainer.is_global_zero and values:
            self.logger.scalars(values, step)
        if not values and trainer.is_global_zero:
            log.error("validation at step %d found no usable item; training continues", step)
        name = next((n for n in module.ranking if n in values), None)
        if name is None or (measure := module.ranking[name] * values[name]) >= self.best:
            return
        self._bests = [*self._bests, (step, measure)]
        tensors = module.inference_tensors()  # of all processes, which have the same values
        if trainer.is_global_zero:
            facts = {"step": step, name.replace("/", "_"): values[name]}
            write = partial(module.saved.write, weights=module.weights_label, info=facts)
            self.checkpoints.io.writer.write(tensors, partial(self._keep_best, write))

    def _measured(self, trainer: pl.Trainer, module: TrainingModule, step: int) -> Rows:
        """Measured values of the items of this process; empty if all of them were rejected."""
        measured, device = ItemValues(), module.device
        with (
            module.averaged(),
            evaluating(module),
            torch.no_grad(),
            trainer.precision_plugin.val_step_context(),
        ):
            numbered = self._read(step)
            # Items that a process repeats count once.
            for index, batch in in_lockstep(numbered) if are_split(module) else numbered:
                items = batch.items if batch.items is not None else _numbered(index, batch)
                # Draws from the global generators are the same at every validation.
                seed_draws_on(device, derive_seed("validation", module.seed, items[0]))
                on_device = trainer.strategy.batch_to_device(batch, device)
                measured.add(items, module.validation_values(on_device, items))
        return measured.rows()

    def _read(self, step: int) -> Iterator[tuple[int, Batch]]:
        """The numbered batches of one pass, which ends early where they cannot be read any more."""
        assert self._loader is not None
        try:
            yield from enumerate(self._loader)
        except DataError as error:  # not one of what is done with a batch, which does not pass through here
            log.error("validation at step %d: %s", step, error)

    def _keep_best(self, write: Callable[..., None], tensors: Mapping[str, Tensor]) -> None:
        path = self.checkpoints.folder / "best.safetensors"
        try:
            write(path, tensors, self.checkpoints.config)
        except OSError as error:
            log.error("best.safetensors was not written (%s); training continues", error)


def _numbered(index: int, batch: Batch) -> list[int]:
    """Numbers for the items of a batch without item numbers."""
    return [(index << 20) + place for place in range(batch.audio.shape[0])]
