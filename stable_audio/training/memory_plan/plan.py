"""The memory of a training run, from its model file, before anything is built."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from stable_audio.config import ModelConfig
from stable_audio.factory import create_model_from_config
from stable_audio.inference.memory.encoders import frozen_encoders
from stable_audio.inference.memory.kernels import MIXED
from stable_audio.inference.memory.operations import Operations
from stable_audio.inference.memory.reserve import memory_of, readable_size, reserve_of
from stable_audio.model import DiffusionModel
from stable_audio.pretransforms.autoencoder import AutoencoderPretransform
from stable_audio.training.base import TrainingModule
from stable_audio.training.build import build_training
from stable_audio.training.diffusion import DiffusionTraining
from stable_audio.training.errors import TrainingError
from stable_audio.training.float8 import FLOAT8, layers_of
from stable_audio.training.halved_encoder import encoding_precision
from stable_audio.training.memory_plan.choice import Choice, choice_of, configured
from stable_audio.training.memory_plan.gathered import Gathered, gathered_bytes
from stable_audio.training.memory_plan.processes import sharing_of
from stable_audio.training.memory_plan.static import (
    OptimizerMemory,
    average_bytes,
    optimizer_memory,
    resting_bytes,
)
from stable_audio.training.memory_plan.trace import Circumstances, StepTrace, trace_step
from stable_audio.training.options import RunOptions
from stable_audio.training.transforms import transforms_for
from stable_audio.transforms.recorded import apply_transforms

log = logging.getLogger(__name__)

LOW = {"bf16-true": torch.bfloat16, "16-true": torch.float16, "64-true": torch.float64}
"""Precision -> the type of all weights that Lightning trains."""

PLANNED = ("32-true", *MIXED, *LOW, *FLOAT8)
"""Precisions whose memory is planned."""


NAMES = {
    "weights": "weights",
    "buffers": "buffers",
    "gradients": "gradients",
    "optimizer": "optimizer",
    "ema": "average",
    "gathered": "whole blocks",
    "activations": "activations",
    "reserve": "libraries",
}
"""Part of a plan -> what it is called in sentences."""


@dataclass(frozen=True, kw_only=True)
class TrainingPlan:
    """Bytes that a training run needs on its device.

    Attributes:
        choice: the settings.
        device: type of the device.
        parts: bytes by what they are for; `activations` is what the greatest moment needs beside the others.
        moments: bytes in all at each moment of a step, weights and everything else included.
        operations: of the forward and backward passes of a batch.
        assumptions: what the plan rests on, and what it leaves out, as sentences.
        device_bytes: memory of the device, if known.
        largest_batch: clips per batch that fit the device, 0 = not even one; None: not looked for.
        fitting: the cheapest other settings that fit, if these do not; None: there are none, or nothing was
            looked for.
    """

    choice: Choice
    device: str
    parts: Mapping[str, int]
    moments: Mapping[str, int]
    operations: Operations = Operations()  # noqa: RUF009 (frozen)
    assumptions: tuple[str, ...] = ()
    device_bytes: int | None = None
    largest_batch: int | None = None
    fitting: TrainingPlan | None = None

    @property
    def total(self) -> int:
        return sum(self.parts.values())

    @property
    def fits(self) -> bool | None:
        """Whether the run fits the device; None if its memory is unknown."""
        return None if self.device_bytes is None else self.total <= self.device_bytes

    def in_words(self) -> str:
        """The parts with their sizes, the largest first."""
        sizes = sorted(self.parts.items(), key=lambda item: -item[1])
        return ", ".join(f"{NAMES[name]} {readable_size(size)}" for name, size in sizes if size)

    def as_dict(self) -> dict[str, Any]:
        """The plan for JSON."""
        return {
            "settings": {**vars(self.choice), "sharing": vars(self.choice.sharing)},
            "device": self.device,
            "total": self.total,
            "parts": dict(self.parts),
            "moments": dict(self.moments),
            "operations": vars(self.operations),
            "assumptions": list(self.assumptions),
            "device_bytes": self.device_bytes,
            "fits": self.fits,
            "largest_batch": self.largest_batch,
            "fitting": None if self.fitting is None else self.fitting.as_dict(),
        }


@dataclass(frozen=True)
class _Static:
    """What does not depend on the batch.

    Attributes:
        module: the training module, on shapes.
        optimizer: bytes of its optimizers.
        average: bytes of the average on the device.
        resting: bytes of weights that are counted and are not on the device, see `resting_bytes`.
        encoders: bytes of frozen encoders beside the model.
        gathered: what weights take while they are whole, where processes have parts of them.
        assumptions: what is left out.
    """

    module: TrainingModule
    optimizer: OptimizerMemory
    average: int
    resting: int
    encoders: int
    gathered: Gathered
    assumptions: tuple[str, ...]


class Planner:
    """Plans runs of one model file; what several plans share is computed once.

    Args:
        config: the model file.
        device: "cpu", or the type of a GPU.
        sample_size: audio samples of each row of a batch; None: the file's.
        texts_read: whether all texts are in `cache_text` already, so that their encoders are not loaded.
    """

    def __init__(
        self,
        config: ModelConfig,
        *,
        device: str = "cuda",
        sample_size: int | None = None,
        texts_read: bool = False,
    ) -> None:
        self.config, self.device, self.texts_read = config, device, texts_read
        self.sample_size = sample_size if sample_size is not None else config.sample_size
        self._static: dict[Any, _Static] = {}
        self._traces: dict[Any, StepTrace] = {}

    def plan(self, choice: Choice, *, device_bytes: int | None = None) -> TrainingPlan:
        """The plan of a run with these settings.

        Raises:
            TrainingError: the model has nothing that could be trained in the precision.
        """
        static, sharing = self._static_of(choice), choice.sharing
        notes = (*static.assumptions, *([WITHOUT_COPY] if self.device == "cpu" else []))
        if choice.precision in FLOAT8:
            layers_of(static.module.model, choice.precision)
            notes = (*notes, LIKE_BFLOAT16)
        trace = self._trace_of(choice, static.module)
        parts_whole = static.gathered if sharing.shares > 1 else Gathered()
        elsewhere = parts_whole.split - sharing.part(parts_whole.split)
        gradients, copies = sharing.part(trace.gradients), 0
        if sharing.copies_gradients(self.device):
            copies = gradients
        held = {
            "weights": trace.weights + static.encoders - static.resting - elsewhere,
            "buffers": trace.buffers,
            "gradients": gradients + copies,
            "optimizer": sharing.part(static.optimizer.state),
            "ema": sharing.part(static.average),
        }
        resting = sum(held.values()) - gradients
        # The gradient of a block, and what is sent of it.
        whole = parts_whole.at_once + 2 * parts_whole.block
        saved = trace.gradients - gradients
        # What is left of the last step or batch is there in the forward pass, too.
        early = trace.gradients if trace.keeps_gradients else 0
        # The next batch is encoded beside both passes.
        ahead = trace.encode - early if self._encodes_ahead(static.module) else 0
        backward = max(trace.forward - early + gradients, trace.backward - saved)
        moments = {
            "encoding": resting + trace.encode - min(saved, early),
            "forward pass": resting + trace.forward - min(saved, early) + parts_whole.at_once + ahead,
            "backward pass": resting + (backward + whole if whole else trace.backward) + ahead,
            "optimizer step": resting + gradients + sharing.part(static.optimizer.step),
        }
        if choice.releases:
            held["gradients"] = 0
            moments["optimizer step"] = resting
        parts = {
            **held,
            "gathered": whole,
            "activations": max(0, max(moments.values()) - sum(held.values()) - whole),
            "reserve": reserve_of(self.device),
        }
        return TrainingPlan(
            choice=choice,
            device=self.device,
            parts=parts,
            moments=moments,
            operations=trace.operations,
            assumptions=notes,
            device_bytes=device_bytes,
        )

    def largest_batch(self, choice: Choice, device_bytes: int) -> int:
        """Clips per batch that fit the device with these settings; 0 = not even one."""

        def need(batch: int) -> int:
            return self.plan(replace(choice, batch_size=batch)).total

        points = [(1, need(1))]
        if points[0][1] > device_bytes:
            return 0
        fits, too_many = 1, MOST_CLIPS + 1
        points.append((2, need(2)))
        for _ in range(MOST_TRIALS):
            # Memory grows in proportion once activations are its greatest moment, so that the line through
            # the last two batches tells the next.
            (n0, y0), (n1, y1) = points[-2:]
            slope = max(1.0, (y1 - y0) / (n1 - n0))
            guess = min(too_many - 1, max(fits + 1, int(n1 + (device_bytes - y1) / slope)))
            if guess <= fits or guess == n1:
                guess = (fits + too_many) // 2
            points.append((guess, need(guess)))
            if points[-1][1] <= device_bytes:
                fits = max(fits, guess)
            else:
                too_many = min(too_many, guess)
            if too_many - fits <= 1:
                break
        return fits

    def _static_of(self, choice: Choice) -> _Static:
        several = choice.sharing.processes > 1
        key = (choice.precision in LOW and choice.precision, several, *_of_file(choice))
        if key not in self._static:
            self._static[key] = self._built(choice)
        return self._static[key]

    def _trace_of(self, choice: Choice, module: TrainingModule) -> StepTrace:
        accumulates = choice.accum_batches > 1
        settings = (
            choice.precision,
            choice.rank,
            choice.base_precision,
            choice.checkpointing,
            choice.releases,
        )
        key = (*settings, choice.batch_size, accumulates)
        if key not in self._traces:
            self._traces[key] = trace_step(
                module,
                batch_size=choice.batch_size,
                sample_size=self.sample_size,
                circumstances=Circumstances(self.device, choice.precision, accumulates),
            )
        return self._traces[key]

    def _built(self, choice: Choice) -> _Static:
        config = configured(self.config, choice)
        model = create_model_from_config(config, device="meta")
        apply_transforms(model, transforms_for(config, RunOptions()))
        module = build_training(config, model, gradient_release=choice.releases)
        if choice.precision in LOW:
            module.to(LOW[choice.precision])
        halved = isinstance(module, DiffusionTraining) and self._halved(module)
        notes: list[str] = []
        encoders = 0
        if isinstance(model, DiffusionModel) and not self.texts_read:
            frozen = frozen_encoders(model)
            encoders = frozen.bytes
            notes += frozen.unknown
            if encoders and config.training.cache_text is not None:
                notes.append("the text encoder leaves the memory once all texts are in cache_text")
        if self.config.training is None:
            notes.append("the file has no training section: Adam and an average of the weights are assumed")
        elif self.config.training.teacher_model_ckpt is not None:
            notes.append("without the teacher")
        return _Static(
            module=module,
            optimizer=optimizer_memory(module),
            average=average_bytes(module, self.device),
            resting=resting_bytes(
                module,
                device=self.device,
                offloads=choice.offloads,
                halved=halved,
                processes=choice.sharing.processes,
            ),
            encoders=encoders,
            gathered=gathered_bytes(module),
            assumptions=tuple(notes),
        )

    def _encodes_ahead(self, module: TrainingModule) -> bool:
        return self.device != "cpu" and isinstance(module, DiffusionTraining) and module.options.encode_ahead

    def _halved(self, module: DiffusionTraining) -> bool:
        """Whether the run encodes in float16; the pretransform then does on shapes."""
        options, pretransform = module.options, module.model.pretransform
        chosen = encoding_precision(
            module.model, options.encoding_precision, pre_encoded=module.pre_encoded, device=self.device
        )
        if chosen == "float16":
            assert isinstance(pretransform, AutoencoderPretransform)
            pretransform.model.half()
            pretransform.model_half = True
        return chosen == "float16"


LIKE_BFLOAT16 = "layers in 8 bits are counted as in bfloat16"

WITHOUT_COPY = (
    "without the copy of weights, average and optimizer that checkpoints are written from; "
    "--no-background-checkpoints makes none"
)

MOST_CLIPS = 1024
"""Largest batch that is looked for."""

MOST_TRIALS = 6
"""Batches that are tried to find the largest one; the answer fits in any case."""


def _of_file(choice: Choice) -> tuple[Any, ...]:
    """The settings that a training module is built by."""
    return tuple(value for name, value in vars(choice).items() if name not in _OF_THE_STEP)


_OF_THE_STEP = ("batch_size", "accum_batches", "precision", "sharing")


def plan_training(
    config: ModelConfig,
    options: RunOptions = RunOptions(),  # noqa: B008 (frozen)
    *,
    device: str = "cuda",
    device_bytes: int | None = None,
    sample_size: int | None = None,
    texts_read: bool = False,
    search: bool = True,
    processes: int = 1,
) -> TrainingPlan:
    """Plan the memory of a run by taking its steps on shapes: no weights are built, and nothing computed.

    Args:
        config: the model file.
        options: of the run; batch size, accumulation, precision and strategy count here.
        device: "cpu", or the type of a GPU.
        device_bytes: memory of the device; None: that of this machine's first one, if it has one.
        sample_size: audio samples of each row of a batch; None: the file's.
        texts_read: as for `Planner`.
        search: look for the largest batch that fits and, where the run does not fit, for what does.
        processes: that train together, each on a device of its own, of which one is planned.

    Raises:
        TrainingError: the model cannot be trained, or the strategy or the precision is not planned.
    """
    from stable_audio.training.memory_plan.changes import cheapest

    device_bytes = device_bytes if device_bytes is not None else memory_of(device)
    planner = Planner(config, device=device, sample_size=sample_size, texts_read=texts_read)
    precision = precision_on(device, options.precision)
    choice = choice_of(config, options, precision=precision, sharing=sharing_of(options, processes))
    plan = planner.plan(choice, device_bytes=device_bytes)
    if not search or device_bytes is None:
        return plan
    largest = planner.largest_batch(choice, device_bytes)
    fitting = None if plan.fits else cheapest(planner, plan)
    return replace(plan, largest_batch=largest, fitting=fitting)


def precision_on(device: str, precision: str) -> str:
    """What a precision means on a device, of which "auto" takes the usual one.

    Raises:
        TrainingError: its memory is not planned.
    """
    names = {"auto": "32-true" if device == "cpu" else "bf16-mixed", "32": "32-true", "64": "64-true"}
    meant = names.get(precision, precision)
    if meant not in PLANNED:
        allowed = ", ".join(("auto", *PLANNED))
        raise TrainingError(f"--precision {precision!r}: its memory is not planned; give one of {allowed}")
    return meant
