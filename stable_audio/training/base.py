"""What every kind of training shares: position, seeds, averaged weights, gradient norm, scalars to log."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import lightning.pytorch as pl
import torch
from torch import Tensor, nn

from stable_audio.data.base import Batch
from stable_audio.data.seeding import derive_seed
from stable_audio.nn.transfer import to_device
from stable_audio.optim import OPTIMIZERS, build_optimizer, build_scheduler
from stable_audio.training.ema import EMA
from stable_audio.training.errors import TrainingError
from stable_audio.training.finite import FiniteGuard, NotFinite
from stable_audio.training.window import SigmaBuckets, Window


class Schedule(NamedTuple):
    """An LR schedule: its name in `optimizer_configs`, its `{"type", "config"}`, the steps that it takes."""

    name: str
    config: Mapping[str, Any] | None
    steps: int


class TrainingModule(pl.LightningModule):
    """Base of the Lightning modules.

    Subclasses write `training_step`, and `validation_values` where they can validate. The callbacks of a
    run call `begin_batch` and `end_batch`, store `state()` and read `window` and `buckets`.

    Attributes:
        model: what is trained and exported; checkpoints keep its weights under `model.`.
        ema: average of its weights, or None.
        position: batches that this process has consumed, resumed runs included.
        accum_batches: batches per step, of modules that optimise by hand.
        run_steps: steps that the run will take, -1 = no end; LR schedules without a length follow it.
        ranked: scalars of validation by which weights are judged, the first that is there; 1: less is better,
            -1: more is.

    Args:
        seed: of all draws. batch_size: items per batch and process.
        gradient_clip_val: greatest gradient norm, 0 = no clipping.
    """

    position: int
    accum_batches: int
    run_steps: int = -1
    ranked: Mapping[str, int] = MappingProxyType({"val/avg_loss": 1})

    def __init__(
        self,
        model: nn.Module,
        *,
        seed: int = 0,
        batch_size: int = 1,
        gradient_clip_val: float = 0.0,
        ema: EMA | None = None,
    ) -> None:
        super().__init__()
        self.model = model
        self.ema = ema
        self.seed, self.batch_size, self.gradient_clip_val = seed, batch_size, gradient_clip_val
        self.position = 0
        self.window, self.buckets = Window(), SigmaBuckets()
        self._files: list[str] = []
        self._loss: Tensor | None = None
        self._guard = FiniteGuard()

    def begin_batch(self, batch: Batch) -> None:
        """Before `training_step`: remember the files, and seed what draws from the global generators.

        Dropout layers know no other source. Seeding them anew for every batch makes a run independent of
        everything else that draws, so that it can be resumed exactly.
        """
        self._files += [str(m.get("path", m.get("latent_filename", "?"))) for m in batch.metadata]
        torch.manual_seed(derive_seed("global", self.seed, self.position, self._rank()))

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:
        """Only the audio goes to the device by itself; conditioners move what they use of the metadata."""
        return batch._replace(audio=to_device(batch.audio, device))

    def end_batch(self, *, stepped: bool) -> None:
        """After `training_step`; `stepped`: the optimizer moved the weights."""
        self.position += 1
        if stepped:
            self._files = []
            if self.ema is not None:
                self.ema.update()

    def record(self, values: Mapping[str, Tensor | float]) -> None:
        """Scalars for the next log line."""
        self.window.add(values)

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps besides weights and optimizer: tensors and plain values."""
        ema = self.ema.state_dict() if self.ema is not None else None
        return {"position": self.position, "seed": self.seed, "ema": ema}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Continue from `state`; an average that the checkpoint lacks starts from its weights."""
        self.position = int(state["position"])
        if self.ema is None:
            return
        if state.get("ema") is None:
            self.ema.reset()
        else:
            self.ema.load_state_dict(state["ema"])

    def before_save(self) -> None:
        """Called before a checkpoint is written, on every process; subclasses call it too.

        Raises:
            TrainingError: the weights would be those of a run that has failed.
        """
        self.settle_checks()

    def inference_tensors(self) -> dict[str, Tensor]:
        """Weights for generation in our layout, averaged ones where there are any."""
        tensors = dict(self.model.state_dict())
        if self.ema is not None:
            tensors.update({k: v.to(tensors[k].dtype) for k, v in self.ema.average.items()})
        return tensors

    def validation_values(self, batch: Batch, items: Sequence[int]) -> dict[str, Tensor]:
        """What validation measures: one value (b,) per item and name, which depends on the item alone.

        Not a number: there was nothing to measure.

        Args:
            items: numbers of the clips in their dataset; they choose the noise.
        """
        raise TrainingError(f"{type(self).__name__} has no validation; leave out --val-dataset-config")

    def optimizers_from(
        self, optimizer: Mapping[str, Any], scheduler: Mapping[str, Any] | None
    ) -> dict[str, Any]:
        """Optimizer over the trainable parameters, and its scheduler, which steps after every step.

        Raises:
            TrainingError: nothing is trainable.
        """
        parameters = [p for p in self.model.parameters() if p.requires_grad]
        if not parameters:
            raise TrainingError("no parameter of the model is trainable")
        made = build_optimizer(self._with_fused(optimizer), parameters)
        if scheduler is None:
            return {"optimizer": made}
        return {
            "optimizer": made,
            "lr_scheduler": {
                "scheduler": build_scheduler(scheduler, made, steps=self.run_steps),
                "interval": "step",
            },
        }

    def schedules(self, steps: int) -> list[Schedule]:
        """The LR schedules, with the steps that each takes in a run of `steps`."""
        return []

    def _with_fused(self, optimizer: Mapping[str, Any]) -> Mapping[str, Any]:
        """With float16 the gradients are unscaled before clipping, which fused optimizers do themselves."""
        cls = OPTIMIZERS.get(optimizer.get("type", ""))
        if cls is None or self._precision() != "16-mixed" or "fused" not in inspect.signature(cls).parameters:
            return optimizer
        return {**optimizer, "config": {"fused": False, **(optimizer.get("config") or {})}}

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Measure the gradient norm, refuse one that is not finite, clip. Lightning calls this every step."""
        parameters = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        if self.gradient_clip_val > 0:
            norm = nn.utils.clip_grad_norm_(parameters, self.gradient_clip_val)
        else:
            norm = nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
        self.record({"train/grad_norm": norm})
        self.check_finite(norm, optimizer)

    def check_finite(self, norm: Tensor, optimizer: torch.optim.Optimizer | None = None) -> None:
        """Stop before the optimizer spoils the weights.

        Args:
            optimizer: that is about to step. On a GPU a fused one skips a bad step by itself, and the run
                stops at the next step; see `FiniteGuard`.

        Raises:
            TrainingError: with the files of the batches since the last step.
        """
        if optimizer is not None and self._precision() != "16-mixed":
            self._refuse(
                self._guard.watch(
                    optimizer, norm, self._loss, step=self.trainer.global_step, files=self._files
                )
            )
            return
        if bool(torch.isfinite(norm)):
            return
        loss = self._loss
        if self._precision() == "16-mixed" and (loss is None or bool(torch.isfinite(loss).all())):
            return  # the gradient scaler overflowed, skips this step and lowers its scale
        what = "gradient" if loss is None or bool(torch.isfinite(loss).all()) else "loss"
        raise self.stopped(f"{what} is not finite")

    def settle_checks(self) -> None:
        """Wait for the verdict on the last step; before anything that outlives it is written.

        Raises:
            TrainingError: its gradient was not finite.
        """
        self._refuse(self._guard.settle())

    def _refuse(self, bad: NotFinite | None) -> None:
        if bad is not None:
            raise self.stopped(f"{bad.what} is not finite", step=bad.step, files=bad.files)

    def stopped(self, what: str, *, step: int | None = None, files: Sequence[str] = ()) -> TrainingError:
        """What ends a run: `what` is wrong, the files to look at, what helps.

        Args:
            step, files: of the step that is to blame; None and empty: the present one.
        """
        names = files or self._files
        return TrainingError(
            f"the {what} at step {self.trainer.global_step if step is None else step}; the weights were not "
            f"changed. Files of this step: {', '.join(names) or 'unknown'}. Look at these files, lower the "
            "learning rate, or set --gradient-clip-val"
        )

    def _rank(self) -> int:
        return self._trainer.global_rank if self._trainer is not None else 0

    def _world_size(self) -> int:
        return self._trainer.world_size if self._trainer is not None else 1

    def _precision(self) -> str:
        return str(self._trainer.precision) if self._trainer is not None else "32-true"
