"""The plans of `stable-audio plan`: of training and of generation, for files as users have them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from stable_audio.config import ModelConfig, load_config, load_dataset_config
from stable_audio.factory import create_model_from_config
from stable_audio.inference.memory.generation import GenerationPlan, plan_generation
from stable_audio.inference.memory.reserve import memory_of, readable_size
from stable_audio.model import DiffusionModel
from stable_audio.nn.checkpointing import ELEMENTWISE
from stable_audio.training.errors import TrainingError
from stable_audio.training.memory_plan.changes import RANK, advice
from stable_audio.training.memory_plan.choice import Choice, adapters_are_known
from stable_audio.training.memory_plan.plan import Planner, TrainingPlan, plan_training
from stable_audio.training.memory_plan.processes import refuse_unplanned
from stable_audio.training.options import RunOptions
from stable_audio.training.saving.recovery import config_inside
from stable_audio.wording import plural

CHECKPOINTS = (".safetensors", ".ckpt", ".pt", ".pth", ".bin")


@dataclass(frozen=True, kw_only=True)
class Device:
    """A device to plan for.

    Attributes:
        kind: "cpu", or the type of a GPU.
        gib: its memory in GiB; None: that of this machine's own.
    """

    kind: str = "cuda"
    gib: float | None = None

    @property
    def bytes(self) -> int | None:
        return memory_of(self.kind) if self.gib is None else round(self.gib * 2**30)


def config_of(model: str | Path, *, lenient: bool = False) -> ModelConfig:
    """The config of a model file, a checkpoint or a run, by its path or name.

    Raises:
        TrainingError: a checkpoint without a config.
        ConfigError: with every mistake of the file.
    """
    path = Path(model).expanduser()
    if not path.is_dir() and path.suffix not in CHECKPOINTS:
        return load_config(model, lenient=lenient)
    return config_inside(path, lenient=lenient, advice="name its model file instead")


def training_plan(
    model: str | Path,
    dataset: str | Path | None = None,
    *,
    device: Device = Device(),
    lenient: bool = False,
    processes: int = 1,
    **settings: Any,
) -> TrainingPlan:
    """The plan of training a model, with what fits the device.

    Args:
        model: model file, checkpoint, or folder of a run.
        dataset: dataset file; one of latents means that none are encoded in a step.
        processes: that train together, each on a device of its own.
        settings: fields of `RunOptions`.

    Raises:
        TrainingError: a setting that no plan would heed.
        ConfigError: with every mistake of a file.
    """
    config = _trained_on(model, dataset, lenient=lenient)
    options = RunOptions.from_section(config.training, **settings)
    refuse_unplanned(options, settings)
    return plan_training(config, options, device=device.kind, device_bytes=device.bytes, processes=processes)


def _trained_on(model: str | Path, dataset: str | Path | None, *, lenient: bool) -> ModelConfig:
    """The config of a model that is trained on a dataset; see `training_plan`."""
    config = config_of(model, lenient=lenient)
    section = config.training
    if dataset is None or section is None:
        return config
    stored = load_dataset_config(dataset, lenient=lenient).dataset_type == "pre_encoded"
    if not stored or getattr(section, "pre_encoded", True):
        return config
    return config.model_copy(update={"training": section.model_copy(update={"pre_encoded": True})})


def choices_table(
    model: str | Path, plan: TrainingPlan, dataset: str | Path | None = None, *, lenient: bool = False
) -> list[tuple[Choice, TrainingPlan]]:
    """Plans of the usual choices of precision, trained weights, checkpointing, optimizer and average, one
    clip per batch.

    Args:
        model: as for `training_plan`, as is `dataset`.
        plan: of the run as it is.
    """
    config = _trained_on(model, dataset, lenient=lenient)
    planner = Planner(config, device=plan.device)
    base = replace(plan.choice, batch_size=1, accum_batches=1)
    ranks = (None, RANK) if adapters_are_known(config) else (None,)
    rows: list[Choice] = []
    for rank in ranks:
        for precision in ("32-true", "bf16-mixed", "bf16-true"):
            for checkpointing in (False, ELEMENTWISE, True):
                rows.append(replace(base, rank=rank, precision=precision, checkpointing=checkpointing))
                if rank is None:
                    rows.append(replace(rows[-1], optimizer="AdamW8bit", average="none"))
    return [(row, each) for row in rows if (each := _planned(planner, row, plan.device_bytes)) is not None]


def _planned(planner: Planner, choice: Choice, device_bytes: int | None) -> TrainingPlan | None:
    try:
        return planner.plan(choice, device_bytes=device_bytes)
    # The model has no such setting or cannot run by it, or a package is absent.
    except (ValueError, RuntimeError, ImportError):
        return None


def generation_plan(
    model: str | Path,
    *,
    device: Device = Device(),
    lenient: bool = False,
    seconds: float | None = None,
    batch_size: int = 1,
    dtype: str = "float32",
) -> GenerationPlan:
    """The plan of rendering clips from a model.

    Raises:
        TrainingError: the model renders nothing.
    """
    config = config_of(model, lenient=lenient)
    built = create_model_from_config(config, device="meta")
    if not isinstance(built, DiffusionModel):
        raise TrainingError(f"{model}: a model of type {config.model_type} renders nothing from prompts")
    return plan_generation(
        built,
        batch_size=batch_size,
        seconds=seconds,
        dtype=dtype,
        device=device.kind,
        device_bytes=device.bytes,
    )


def plan_lines(plan: TrainingPlan) -> Iterator[str]:
    """A plan of training as lines of text."""
    yield f"training, {plan.choice.words()}"
    for name, size in plan.parts.items():
        if size:
            yield f"  {name:<14}{readable_size(size):>12}"
    yield f"  {'in all':<14}{readable_size(plan.total):>12}{_verdict(plan.fits, plan.device_bytes)}"
    for note in plan.assumptions:
        yield f"  ({note})"
    if plan.device_bytes is None:
        yield "give --device-memory to see what fits"
        return
    if plan.largest_batch:
        yield f"largest batch    {plural(plan.largest_batch, 'clip')}"
    if plan.fitting is not None:
        yield f"what fits        {'; '.join(advice(plan.choice, plan.fitting.choice))}"
        yield f"                 {plan.fitting.choice.words()}: {readable_size(plan.fitting.total)}"
    elif plan.fits is False:
        yield "what fits        nothing that the plan knows; a shorter sample_size, or a smaller model"


def generation_lines(plan: GenerationPlan) -> Iterator[str]:
    """A plan of generation as lines of text."""
    yield f"generation, {plural(plan.batch_size, 'clip')} of {plan.seconds:g} s at once"
    for name, size in plan.weights.items():
        work = plan.decoding["whole"] if name == "autoencoder" else plan.work[name]
        yield f"  {name:<14}{readable_size(size):>12} weights, {readable_size(work)} at work"
    for name, total in plan.totals().items():
        fits = None if plan.device_bytes is None else total <= plan.device_bytes
        yield f"  {name:<30}{readable_size(total):>12}{_verdict(fits, plan.device_bytes)}"
    for note in plan.assumptions:
        yield f"  ({note})"


def _verdict(fits: bool | None, device_bytes: int | None) -> str:
    if fits is None or device_bytes is None:
        return ""
    return f"  {'fits' if fits else 'more than'} the {readable_size(device_bytes)} of the device"
