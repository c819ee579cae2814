"""Teachers: frozen models of any type that a training learns from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from stable_audio.checkpoints import CheckpointError, NoConfigError, load_model
from stable_audio.config import ModelConfig, load_config
from stable_audio.model import DiffusionModel
from stable_audio.nn.unfilled import take_own_memory
from stable_audio.training.errors import TrainingError

TeacherPrecision = Literal["float32", "float16", "bfloat16"]


class Teacher:
    """A frozen model of any type, which a training module may hold without training or storing it.

    It stays in eval mode, and its weights have no gradients, but gradients flow through it to its inputs. It
    is not registered as a submodule, so optimizers, averages and checkpoints do not contain it.
    `TrainingModule` moves it to other devices.

    Attributes:
        model: the frozen model.

    Args:
        model: the model, which is frozen in place.
        precision: type of its products; half types also store its weights in 16 bits. None: as the training.
    """

    def __init__(self, model: nn.Module, *, precision: TeacherPrecision | None = None) -> None:
        self.model = model.eval().requires_grad_(False)
        self._dtype = None if precision is None else getattr(torch, precision)
        if self._dtype is not None:
            for parameter in model.parameters():  # spectra of filters in buffers are not computed in 16 bits
                parameter.data = parameter.data.to(self._dtype)

    def to(self, device: torch.device) -> None:
        """Move the weights to `device`, unless they are already there."""
        first = next(self.model.parameters(), None)
        if first is not None and first.device != device:
            self.model.to(device)

    @contextmanager
    def on(self, device: torch.device) -> Iterator[Any]:
        """Context with the model on `device` and in its precision; its inputs must come from `cast`."""
        self.to(device)
        if self._dtype is None:
            yield self.model
            return
        half = self._dtype is not torch.float32
        with torch.autocast(device.type, self._dtype if half else None, enabled=half):
            yield self.model

    def cast(self, x: Tensor) -> Tensor:
        """Convert an input to the type of the model."""
        return x if self._dtype is None else x.to(self._dtype)


def load_teacher(
    path: str | Path,
    config: ModelConfig | Mapping[str, Any] | str | None = None,
    *,
    precision: TeacherPrecision | None = None,
) -> Teacher:
    """Load a frozen model of any model type from a checkpoint.

    Args:
        path: a file of weights, or the folder of a run.
        config: the model's config, or its path; None: the config inside the file.
        precision: as for `Teacher`.

    Raises:
        TrainingError: there is no config, or the weights do not fit it.
        ConfigError: with every mistake of the config.
    """
    key = "$.training.teacher_model_ckpt"
    if isinstance(config, Mapping):
        config = load_config(config, source_name="$.training.teacher_model")
    try:
        model, _ = load_model(path, config=config)
    except NoConfigError as error:
        raise TrainingError(
            f"{key}: {path} has no config inside; give the model's config as teacher_model"
        ) from error
    except CheckpointError as error:
        raise TrainingError(f"{key}: {error}") from error
    take_own_memory(model, model.state_dict())
    return Teacher(model, precision=precision)


def build_teacher(section: Any) -> Teacher | None:
    """The teacher of a `training` section; None if it names none.

    Raises:
        TrainingError: no weights are named, or they do not fit.
    """
    if section.teacher_model_ckpt is not None:
        return load_teacher(
            section.teacher_model_ckpt, section.teacher_model, precision=section.teacher_precision
        )
    if section.teacher_model is not None:
        raise TrainingError("$.training.teacher_model needs teacher_model_ckpt, the file with its weights")
    return None


def check_teacher(teacher: Teacher | None, model: DiffusionModel, *, learner: str, required: bool) -> None:
    """Check that a diffusion model has the teacher that its training needs, and no needless one.

    Args:
        teacher: the teacher, or None.
        model: the model that is trained.
        learner: name of the training, for messages.
        required: whether the training needs a teacher, even if the objective does not.

    Raises:
        TrainingError: the teacher is missing, not used, or does not fit the objective.
    """
    objective, key = model.objective, "$.training.teacher_model_ckpt"
    if not (required or objective.needs_teacher):
        if teacher is not None:
            raise TrainingError(f"{key}: found, but nothing in {learner} learns from a teacher; remove it")
        return
    if teacher is None:
        who = learner if required else f"the objective '{objective.name}'"
        raise TrainingError(f"{key}: missing; {who} learns from a teacher")
    if not objective.needs_teacher:
        return  # the training itself checks that the teacher fits
    if not isinstance(teacher.model, DiffusionModel):
        kind = type(teacher.model).__name__
        raise TrainingError(f"{key}: '{objective.name}' learns from a diffusion model, found {kind}")
    ours, theirs = ((m.io_channels, m.downsampling_ratio) for m in (model, teacher.model))
    if ours != theirs:
        raise TrainingError(
            f"{key}: the teacher has (io_channels, downsampling_ratio) {theirs}, the model {ours}; "
            "they must agree"
        )
