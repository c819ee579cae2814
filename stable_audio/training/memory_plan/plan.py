"""The memory of a training run, from its model file, before anything is built."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from stable_audio.config import ModelConfig
from stable_audio.inference.memory.kernels import MIXED
from stable_audio.inference.memory.reserve import memory_of, readable_size, reserve_of
from stable_audio.training.base import TrainingModule
from stable_audio.training.devices.float8 import FLOAT8, layers_of
from stable_audio.training.diffusion.module import DiffusionTraining
from stable_audio.training.errors import TrainingError
from stable_audio.training.memory_plan.choice import Choice, choice_of
from stable_audio.training.memory_plan.gathered import Gathered
from stable_audio.training.memory_plan.module_memory import LOW, ModuleMemory, module_memory
from stable_audio.training.memory_plan.processes import sharing_of
from stable_audio.training.memory_plan.trace import Circumstances, StepTrace, trace_step
from stable_audio.training.memory_plan.training_plan import TrainingPlan
from stable_audio.training.options import RunOptions
from stable_audio.training.precision_names import precision_name

PLANNED = ("32-true", *MIXED, *LOW, *FLOAT8)
"""Precisions whose memory is planned."""


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
        self._static: dict[Any, ModuleMemory] = {}
        self._traces: dict[Any, StepTrace] = {}

    def plan(self, choice: Choice, *, device_bytes: int | None = None) -> TrainingPlan:
        """The plan of a run with these settings.

        Raises:
            TrainingError: the model has nothing that could be trained in the precision.
        """
        static, sharing = self._static_of(choice), choice.sharing
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
        step = max(moments.values())
        checkpoint = _gathered_checkpoint(static, choice)
        if checkpoint and self.device == "cpu":
            moments["checkpoint"] = sum(held.values()) + checkpoint
        parts = {
            **held,
            "gathered": whole,
            "activations": max(0, step - sum(held.values()) - whole),
            "checkpoint": max(0, moments.get("checkpoint", 0) - step),
            "reserve": reserve_of(self.device),
        }
        return TrainingPlan(
            choice=choice,
            device=self.device,
            parts=parts,
            moments=moments,
            operations=trace.operations,
            assumptions=self._assumptions(static, choice, checkpoint),
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

    def _static_of(self, choice: Choice) -> ModuleMemory:
        several = choice.sharing.processes > 1
        key = (choice.precision in LOW and choice.precision, several, *_of_file(choice))
        if key not in self._static:
            self._static[key] = module_memory(
                self.config, choice, device=self.device, texts_read=self.texts_read
            )
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

    def _assumptions(self, static: ModuleMemory, choice: Choice, checkpoint: int) -> tuple[str, ...]:
        notes = list(static.assumptions)
        if self.device == "cpu":
            notes.append(WITHOUT_COPY)
        elif checkpoint:
            notes.append(
                f"without the {readable_size(checkpoint)} of host memory in which the first process gathers "
                "each checkpoint; --checkpoint-format shards gathers none"
            )
        if choice.precision in FLOAT8:
            layers_of(static.module.model, choice.precision)
            notes.append(LIKE_BFLOAT16)
        return tuple(notes)

    def _encodes_ahead(self, module: TrainingModule) -> bool:
        return self.device != "cpu" and isinstance(module, DiffusionTraining) and module.options.encode_ahead


LIKE_BFLOAT16 = "layers in 8 bits are counted as in bfloat16"

WITHOUT_COPY = (
    "without the copy of weights, average and optimizer that checkpoints are written from; "
    "--no-background-checkpoints makes none"
)

MOST_CLIPS = 1024
"""Largest batch that is looked for."""

MOST_TRIALS = 6
"""Batches that are tried to find the largest one; the answer fits in any case."""


def _gathered_checkpoint(static: ModuleMemory, choice: Choice) -> int:
    """Bytes of split weights, average and optimizer together, where the first process gathers them."""
    if not choice.sharing.gathers_checkpoints:
        return 0
    split = static.gathered.split
    return split + static.optimizer.state + (0 if choice.average == "none" else split)


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
    usual = "32-true" if device == "cpu" else "bf16-mixed"
    meant = usual if precision == "auto" else precision_name(precision)
    if meant not in PLANNED:
        allowed = ", ".join(("auto", *PLANNED))
        raise TrainingError(f"--precision {precision!r}: its memory is not planned; give one of {allowed}")
    return meant
