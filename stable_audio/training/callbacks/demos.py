"""Renders demos every N steps, the first ones early. A demo that fails costs a log line, never the run."""

from __future__ import annotations

import itertools
import logging
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor, nn

from stable_audio.audio.demo_page import DemoClip, DemoStep, write_index, write_step_page
from stable_audio.audio.demo_page.clips import save_clip
from stable_audio.audio.plots import save_mel_grid
from stable_audio.incidents import incident
from stable_audio.model import DiffusionModel
from stable_audio.training.base import TrainingModule
from stable_audio.training.batches.feed import RunData
from stable_audio.training.callbacks.base import StepCallback, on_any_process
from stable_audio.training.demo import Demo, DemoRenderer
from stable_audio.training.modes import evaluating
from stable_audio.training.processes.shared_rows import AloneError, CommonWork, ElsewhereError, shared_rows
from stable_audio.training.processes.splitting import are_split
from stable_audio.training.processes.stopping import StopRequest
from stable_audio.training.record.ending_demos import ending_demo
from stable_audio.training.record.loggers.base import RunLogger

log = logging.getLogger(__name__)


class _RunStopsError(Exception):
    """A signal has come to end the run."""


@dataclass
class _Rendered:
    """What the first process has saved of the demos of a step, and why it could not save more."""

    clips: list[DemoClip] = field(default_factory=list)
    pictured: list[tuple[str, Tensor]] = field(default_factory=list)
    failure: Exception | None = None


class RenderDemos(StepCallback):
    """Writes `demos/step_N/`: a wav file per demo, spectrograms and a page; and a page of all steps.

    Demos use the averaged weights. Their level is not changed: samples beyond full scale are clipped and
    flagged. The random state of the run is not changed either.

    Attributes:
        failure: why the last demo failed, or None.
        seconds: duration of the last demo.
        page: the page that plays the demos of all steps.

    Args:
        renderer: renders the demos.
        data: the data of the run, whose first clips some demos are of.
        logger: gets sounds and pictures, too.
        folder: folder of the run.
        every: steps between demos.
        first_minutes: minutes of training after which demos are rendered if the run has none yet; 0 = by
            steps alone.
        stop: says that a signal has come to end the run, which then renders demos when it goes on: whoever
            sends one may not wait for the checkpoint until that is done.
        ended_by: steps whose demos have ended the run before, which are left out; the first process knows.
    """

    def __init__(
        self,
        renderer: DemoRenderer,
        data: RunData,
        logger: RunLogger,
        folder: Path,
        *,
        every: int,
        first_minutes: float = 0.0,
        stop: StopRequest,
        ended_by: Callable[[], frozenset[int]] = frozenset,
    ) -> None:
        super().__init__()
        self.stop, self._ended_by = stop, ended_by
        self._left_out: frozenset[int] = frozenset()
        self.renderer, self.data, self.logger = renderer, data, logger
        self._shown = False
        self.folder, self.every = Path(folder) / "demos", every
        self.first_minutes = first_minutes
        self._first_at: float | None = None
        self._together = False
        self.failure: str | None = None
        self.seconds = 0.0

    @property
    def page(self) -> Path:
        """The page that plays the demos of all steps."""
        return self.folder / "index.html"

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        super().on_train_start(trainer, pl_module)
        self._begin(trainer, pl_module)

    def on_fit_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """A run without a step left to train may lack the demo of the last one."""
        if self._last_step < 0 and trainer.global_step > 0:
            self._begin(trainer, pl_module)

    def _begin(self, trainer: pl.Trainer, pl_module: Any) -> None:
        several, model = trainer.world_size > 1, pl_module.model
        self._together = several and (isinstance(model, DiffusionModel) or are_split(model))
        waits = trainer.strategy.broadcast(self.first_minutes > 0 and not self.page.exists())
        self._first_at = time.monotonic() + 60 * self.first_minutes if waits else None
        self._left_out = trainer.strategy.broadcast(self._ended_by())
        if trainer.strategy.broadcast(self._is_missing(trainer.global_step)):
            # The run was stopped before it, or a process died while they rendered.
            self.after_step(trainer, pl_module, trainer.global_step)

    def _is_missing(self, step: int) -> bool:
        """Whether a run that goes on from `step` has left out the demo of that step."""
        return step > 0 and step % self.every == 0 and not (self.folder / _name(step) / "index.html").exists()

    def after_step(self, trainer: pl.Trainer, module: TrainingModule, step: int) -> None:
        early = self._first_at is not None and time.monotonic() >= self._first_at
        if self._first_at is not None and self._together:
            early = trainer.strategy.broadcast(early)  # by the clock of one of them
        if (early or step % self.every == 0) and (trainer.is_global_zero or self._together):
            self._first_at = None
            if step in self._left_out:
                log.warning("the demo of step %d is left out, since it has ended this run before", step)
                return
            self.render(trainer, module, step)

    def render(self, trainer: pl.Trainer, module: TrainingModule, step: int) -> None:
        """Render and write the demos of `step`; an error is logged with its reason.

        Several processes sample demos of diffusion models together, and where weights are split, all of them
        compute every demo; the first one writes.
        """
        began, self.failure = time.monotonic(), None
        try:
            with module.averaged(), evaluating(module), torch.no_grad():
                if trainer.is_global_zero:
                    self._show_clips()
                render = self._rendered_together if self._together else self._rendered
                self._write(trainer, step, render(trainer, module, step))
        except AloneError as error:
            log.error("the demo of step %d ends the run: %s", step, error, extra=ending_demo(step))
            raise
        except _RunStopsError:
            log.warning("the demo of step %d follows when the run goes on", step)
        except Exception as error:
            self.failure = f"{type(error).__name__}: {error}"
            log.exception(
                "the demo of step %d failed; training continues",
                step,
                extra=incident("demo failed", step=step),
            )
        else:
            self.seconds = time.monotonic() - began
            log.log(
                logging.INFO if trainer.is_global_zero else logging.DEBUG,
                "demo of step %d in %.1f s, to listen to: %s",
                step,
                self.seconds,
                self.page,
            )

    def _show_clips(self) -> None:
        """Show the renderer the clips that the run began with: those that this start begins with would be
        others after a stop. An error is logged, since the other processes wait."""
        if self._shown:
            return
        self._shown = True
        try:
            for clip in itertools.islice(self.data.first_clips(), self.renderer.wanted_clips):
                self.renderer.observe(clip)
        except Exception:
            log.exception("the clips for demos could not be read", extra=incident("clips of demos not read"))

    def _rendered_together(self, trainer: pl.Trainer, module: TrainingModule, step: int) -> _Rendered:
        """The demos of all processes, which leave at the same point where one of them has failed."""
        name, observed = trainer.strategy.broadcast((uuid.uuid4().hex, self.renderer.observed()))
        self.renderer.adopt(observed)

        def any_of(failed: bool) -> bool:
            return on_any_process(trainer, failed)[0]

        work = CommonWork(any_of, split=are_split(module.model), name=name)
        with _shared_work(module.model, work):
            try:
                rendered = self._rendered(trainer, module, step, work)
            except (_RunStopsError, AloneError, ElsewhereError):
                raise
            except Exception as error:
                work.fail(error, inside=_may_gather(module.model))
            work.go_on()
        return rendered

    def _rendered(
        self, trainer: pl.Trainer, module: TrainingModule, step: int, work: CommonWork | None = None
    ) -> _Rendered:
        """Render all demos; the first process saves the sounds."""
        rendered = _Rendered()
        demos = self.renderer.render(module.model)
        self._go_on(trainer, work)
        while (demo := _next(trainer, demos)) is not None:
            if rendered.failure is None and trainer.is_global_zero:  # the other processes go on
                try:
                    rendered.clips.append(self._save(self.folder / _name(step), demo, step))
                except Exception as error:
                    if not self._together:
                        raise
                    rendered.failure = error
                # The column comes first, since long titles are cut at the end.
                rendered.pictured.append((f"{demo.column}: {demo.row}", demo.audio))
            self._go_on(trainer, work)
        return rendered

    def _write(self, trainer: pl.Trainer, step: int, rendered: _Rendered) -> None:
        """Write the pages and pictures of what was rendered, by the first process."""
        folder = self.folder / _name(step)
        if rendered.failure is not None:
            raise rendered.failure
        if not trainer.is_global_zero:
            return
        self._log_picture(folder, rendered.pictured, step)
        pictures = self._more(folder, step)
        write_step_page(folder, DemoStep(step=step, clips=rendered.clips, pictures=pictures))
        write_index(self.folder)

    def _go_on(self, trainer: pl.Trainer, work: CommonWork | None) -> None:
        """Leave the demo if a signal has come to end the run, on one of the processes that render together.

        Raises:
            _RunStopsError: one has come.
            ElsewhereError: one of the processes has failed.
        """
        if work is not None:
            work.go_on()
        stops = self.stop.asked
        if self._together:
            (stops,) = on_any_process(trainer, stops)
        if stops:
            raise _RunStopsError

    def _save(self, folder: Path, demo: Demo, step: int) -> DemoClip:
        audio = demo.audio.float().cpu()
        if not bool(torch.isfinite(audio).all()):
            raise ValueError(f"demo '{demo.row}' ({demo.column}) holds values that are not numbers")
        rate = self.renderer.sample_rate
        clip = save_clip(folder / f"{demo.name}.wav", audio, rate, row=demo.row, column=demo.column)
        self.logger.audio(demo.name, audio, rate, step, caption=f"{demo.row} ({demo.column})")
        return clip

    def _log_picture(self, folder: Path, pictured: list[tuple[str, Tensor]], step: int) -> None:
        """Draw all spectrograms in one picture, for loggers that show pictures."""
        path = folder / "spectrograms.png"
        try:
            save_mel_grid(path, pictured, self.renderer.sample_rate)
        except ImportError as error:
            log.warning("no picture of all spectrograms: %s", error)
            return
        self.logger.image("demo_spectrograms", path, step)

    def _more(self, folder: Path, step: int) -> list[str]:
        """Further pictures of this kind of demo."""
        try:
            names = self.renderer.draw(folder)
        except ImportError as error:
            log.warning("no further pictures: %s", error)
            return []
        for name in names:
            self.logger.image(f"demo_{Path(name).stem}", folder / name, step)
        return names


def _name(step: int) -> str:
    return f"step_{step:08d}"


def _shared_work(model: nn.Module, work: CommonWork) -> AbstractContextManager[None]:
    return shared_rows(model.backbone, work) if isinstance(model, DiffusionModel) else nullcontext()


def _may_gather(model: nn.Module) -> bool:
    """Whether demos compute with split weights outside of the calls whose rows are shared."""
    return not isinstance(model, DiffusionModel) or (
        model.pretransform is not None and are_split(model.pretransform)
    )


def _next(trainer: pl.Trainer, demos: Iterator[Demo]) -> Demo | None:
    # Mixed precision is for the network only, not for writing the demos.
    with trainer.precision_plugin.val_step_context():
        return next(demos, None)
