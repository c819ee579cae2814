"""Base of every kind of training: position, seeds, averaged weights, scalars to log."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from stable_audio.checkpoints.format import BASE_KEY, TRAINING_ENTRY
from stable_audio.data.base import Batch
from stable_audio.data.seeding import derive_seed, seed_draws_on
from stable_audio.nn.transfer import moved_without_loss, to_device
from stable_audio.optim.split import is_split
from stable_audio.optim.step_limits import StepLimits
from stable_audio.options import Flat, takes_keywords
from stable_audio.training.devices.resting import left_out
from stable_audio.training.errors import TrainingError
from stable_audio.training.optimisation.ema import EMA
from stable_audio.training.optimisation.optimising import OptimisedModule
from stable_audio.training.processes.gathering import whole
from stable_audio.training.processes.sharding import reshard, split
from stable_audio.training.processes.splitting import SplitWeights, are_split
from stable_audio.training.saving.saved import SavedWeights
from stable_audio.training.teacher import Teacher
from stable_audio.training.window import SigmaBuckets, Window


@dataclass(frozen=True, kw_only=True)
class RunSettings:
    """Settings of a run that its training module needs.

    Attributes:
        seed: seed of all random draws.
        batch_size: items per batch and process.
        gradient_clip_val: greatest gradient norm, 0 = no clipping.
        gradient_release: step on each weight in the backward pass, and free its gradient.
        limits: how many bad steps are skipped; None: the first one ends the run.
    """

    seed: int = 0
    batch_size: int = 1
    gradient_clip_val: float = 0.0
    gradient_release: bool = False
    limits: StepLimits | None = None


@dataclass(frozen=True)
class StepBegin:
    """What changes in a step before the weights do, as it was at the beginning of the step.

    Attributes:
        order: the place in the order of data and draws.
        window: scalars since the last log line.
        buckets: losses by noise level since then.
    """

    order: Mapping[str, Any]
    window: Window
    buckets: SigmaBuckets


AVERAGED = ("model", "ema")
"""Parts of a training module that have the type of trained weights: the model, and its average."""


class TrainingModule(OptimisedModule):
    """Base of the Lightning modules.

    Subclasses write `training_step`, and `validation_values` where they can validate. The callbacks of a
    run call `begin_batch` and `end_batch`, store `state()` and read `window` and `buckets`.

    Attributes:
        model: what is trained and exported; checkpoints keep its weights under `model.`.
        ema: average of its weights, or None.
        teacher: a frozen model to learn from, which is moved along and no part of what is stored; or None.
        saved: which weights the run's files hold.
        position: batches that this process has consumed, resumed runs included.
        step_begin: the beginning of the step that is under way; None between two steps.
        batch_shape: shape of the latest batch.
        saves_parts: checkpoints hold the parts of each process.
        steps_alike: whether every step of this very class has a gradient for the same weights, but for parts
            of the model that say otherwise (`may_rest`). A class that extends another one says so itself.
        ranking: validation scalars that choose the best weights, of which the first that was measured counts;
            1: lower is better, -1: higher is better.

    Args:
        run: settings of the run; its fields are keywords as well.
    """

    position: int
    saves_parts: bool = False
    steps_alike: ClassVar[bool] = False
    ranking: Mapping[str, int] = MappingProxyType({"val/avg_loss": 1})

    @takes_keywords
    def __init__(
        self,
        model: nn.Module,
        *,
        run: Flat[RunSettings] = RunSettings(),
        ema: EMA | None = None,
        teacher: Teacher | None = None,
    ) -> None:
        super().__init__(
            gradient_clip_val=run.gradient_clip_val,
            gradient_release=run.gradient_release,
            limits=run.limits,
        )
        self.model = model
        self.ema = ema
        self.teacher = teacher
        self.seed, self.batch_size = run.seed, run.batch_size
        self.position = 0
        self.step_begin: StepBegin | None = None
        self.batch_shape: tuple[int, ...] = ()
        self.buckets = SigmaBuckets()
        self.saved = SavedWeights()
        self._stored_average: Mapping[str, Any] | None = None

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        """Moves between devices take the teacher along, which keeps its own precision, as do discriminators
        and terms of the loss: they read sound in float32 where the model's weights have fewer bits."""
        beside = [name for name, part in self._modules.items() if part is not None and name not in AVERAGED]
        with left_out(self, beside):
            moved = super()._apply(fn, recurse)
        for name in beside:
            self._modules[name]._apply(lambda tensor: moved_without_loss(tensor, fn))  # type: ignore[union-attr]
        if self.teacher is not None:
            self.teacher.to(next(self.parameters()).device)
        return moved

    def begin_batch(self, batch: Batch) -> None:
        """Called before `training_step`: record the files, and seed the global random generators.

        Dropout layers have no other source. Seeding for every batch makes a run independent of all other
        draws, so that it can be resumed exactly.
        """
        self.begin_step()
        if self.step_begin is None:
            self.step_begin = StepBegin(self.order_state(), self.window.copy(), self.buckets.copy())
        self.batch_shape = tuple(batch.audio.shape)
        self._files += [_name_of(metadata) for metadata in batch.metadata]
        seed_draws_on(self.device, derive_seed("global", self.seed, self.position, self._rank()))

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:
        """Move the audio only; conditioners move the metadata that they use."""
        with self.clock.part("transfer"):
            return batch._replace(audio=to_device(batch.audio, device))

    def before_step(self) -> None:
        """The weights of the last step are copied for their average before this one changes them."""
        if are_split(self.model):  # what was gathered without gradients, too, which no backward pass lets go
            reshard(self)
        if self.ema is not None:
            self.ema.hold()

    def end_batch(self, *, stepped: bool) -> None:
        """Called after `training_step`.

        Args:
            stepped: whether an optimizer stepped. The average is updated after steps of the first network.
        """
        self.position += 1
        if stepped:
            self._files = []
            self.step_begin = None
        if self.end_step(stepped=stepped) == 0 and self.ema is not None:
            self.ema.update()

    def state(self) -> dict[str, Any]:
        """State for checkpoints besides weights and optimizers: tensors and plain values."""
        ema = self.ema.state_dict(gathered=not self.saves_parts) if self.ema is not None else None
        if ema is not None:
            ema["average"] = self.saved.part(ema["average"])
        return {**self.order_state(), "seed": self.seed, "ema": ema, **self.optimising_state()}

    def order_state(self) -> dict[str, Any]:
        """The part of `state` that says where the run is in the order of its data and draws."""
        return {"position": self.position}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Continue from `state`; an average that the checkpoint lacks starts from its weights."""
        self.position = int(state["position"])
        self.step_begin = None
        self.load_optimising_state(state)
        self._stored_average = state.get("ema")

    @property
    def trains_the_same(self) -> bool:
        """Whether every step has a gradient for the same weights, on every process."""
        alike = bool(type(self).__dict__.get("steps_alike", False))
        return alike and not any(getattr(part, "may_rest", False) for part in self.model.modules())

    def configure_model(self) -> None:
        """Lightning calls this before optimizers are built: split the weights where the run asks for it."""
        strategy = self.trainer.strategy
        if not isinstance(strategy, SplitWeights) or are_split(self.model):
            return
        names = {id(p): name for name, p in self.named_parameters()}
        for module in (self.model, *(network.module for network in self.networks())):
            if any(p.requires_grad and not is_split(p) for p in module.parameters()):
                split(module, strategy.sharding, joins=not self.trains_the_same)
        weights = dict(self.named_parameters())  # others than before
        factors = {names[i]: factor for i, factor in self.rate_factors.items() if i in names}
        self.rate_factors = {id(weights[name]): factor for name, factor in factors.items()}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Leave out the weights that are in the base of the run's files; subclasses call it too."""
        checkpoint["state_dict"] = self.saved.part(checkpoint["state_dict"], "model.")

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the weights that a difference leaves out, which the model has from its base; subclasses call it
        too."""
        if checkpoint[TRAINING_ENTRY].get(BASE_KEY):
            weights, stored = self.model.state_dict(), checkpoint["state_dict"]
            parts = any(is_split(value) for value in stored.values())
            own = {
                f"model.{key}": v
                for key, v in (weights if parts else whole(weights, everywhere=True)).items()
            }
            checkpoint["state_dict"] = {**own, **stored}

    def begin_fit(self) -> None:
        """Called before the first batch, when all weights are in place: make or continue their average."""
        super().begin_fit()
        stored, self._stored_average = self._stored_average, None
        if self.ema is None:
            return
        self.ema.start()
        if stored is not None:
            # Buffers of the base may be averaged, too, and are what they are there.
            own = {k: v for k, v in self.ema.average.items() if k in self.saved.in_base}
            self.ema.load_state_dict({**stored, "average": {**own, **stored["average"]}})

    def before_save(self) -> None:
        """Called before a checkpoint is written, on every process; overriding methods must call it, too.

        Raises:
            TrainingError: the last step was bad and ends the run.
        """
        self.settle_checks()

    def inference_tensors(self) -> dict[str, Tensor]:
        """Weights for generation in our layout, averaged ones where there are any, but for those that are in
        the base of the run's files.

        Where weights are split over processes, every process must call it; the first one gets them.
        """
        tensors = dict(self.model.state_dict())
        if self.ema is not None:
            tensors.update({k: v.to(tensors[k].dtype) for k, v in self.ema.average.items()})
        return whole(self.saved.part(tensors))

    @property
    def weights_label(self) -> str:
        """Kind of the `inference_tensors`: "ema" or "online"."""
        return "ema" if self.ema is not None else "online"

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Context in which the model has its averaged weights, if it has an average.

        Where weights are split over processes, every process must enter and leave it.
        """
        if are_split(self.model):  # what has been gathered of them is neither exchanged nor used afterwards
            reshard(self.model)
        with self.ema.swapped() if self.ema is not None else nullcontext():
            try:
                yield
            finally:
                if are_split(self.model):
                    reshard(self.model)

    def validation_values(self, batch: Batch, items: Sequence[int]) -> dict[str, Tensor]:
        """Measures of validation: name -> values (b,), each of which depends on its item alone.

        NaN means that there was nothing to measure.

        Args:
            batch: the items.
            items: numbers of the clips in their dataset, which choose the noise.
        """
        raise TrainingError(f"{type(self).__name__} has no validation; leave out --val-dataset-config")

    def _rank(self) -> int:
        return self._trainer.global_rank if self._trainer is not None else 0

    def _world_size(self) -> int:
        return self._trainer.world_size if self._trainer is not None else 1


def _name_of(metadata: Mapping[str, Any]) -> str:
    """The name of a clip, for messages about its step."""
    keys = ("path", "latent_filename", "relpath")
    return str(next((metadata[key] for key in keys if metadata.get(key)), "?"))
