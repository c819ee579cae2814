"""A training module on shapes, and what it keeps in memory from step to step."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from stable_audio.config import ModelConfig
from stable_audio.factory import create_model_from_config
from stable_audio.inference.memory.encoders import frozen_encoders
from stable_audio.model import DiffusionModel
from stable_audio.pretransforms.autoencoder_pretransform import AutoencoderPretransform
from stable_audio.training.base import TrainingModule
from stable_audio.training.build import build_training
from stable_audio.training.devices.halved_encoder import encoding_precision
from stable_audio.training.diffusion.module import DiffusionTraining
from stable_audio.training.memory_plan.choice import Choice, configured
from stable_audio.training.memory_plan.gathered import Gathered, gathered_bytes
from stable_audio.training.memory_plan.static import (
    OptimizerMemory,
    average_bytes,
    optimizer_memory,
    resting_bytes,
)
from stable_audio.training.options import RunOptions
from stable_audio.training.transforms import transforms_for
from stable_audio.transforms.recorded import apply_transforms

LOW = {"bf16-true": torch.bfloat16, "64-true": torch.float64}
"""Precision -> the type of all weights that Lightning trains."""


@dataclass(frozen=True)
class ModuleMemory:
    """A training module, and bytes that do not depend on the batch.

    Attributes:
        module: the training module, on shapes.
        optimizer: bytes of its optimizers.
        average: bytes of the average on the device.
        resting: bytes of weights that are counted and are not on the device, see `resting_bytes`.
        encoders: bytes of frozen encoders beside the model.
        gathered: what weights take while they are whole, where processes have parts of them.
        assumptions: what is left out, as sentences.
    """

    module: TrainingModule
    optimizer: OptimizerMemory
    average: int
    resting: int
    encoders: int
    gathered: Gathered
    assumptions: tuple[str, ...]


def module_memory(config: ModelConfig, choice: Choice, *, device: str, texts_read: bool) -> ModuleMemory:
    """The training module that settings make of a model file, built on shapes.

    Args:
        config: the model file.
        choice: the settings.
        device: "cpu", or the type of a GPU.
        texts_read: whether all texts are in `cache_text` already, so that their encoders are not loaded.
    """
    trained = configured(config, choice)
    model = create_model_from_config(trained, device="meta")
    apply_transforms(model, transforms_for(trained, RunOptions()))
    module = build_training(trained, model, gradient_release=choice.releases)
    if choice.precision in LOW:
        module.to(LOW[choice.precision])
    halved = isinstance(module, DiffusionTraining) and _halved(module, device)
    encoders, notes = 0, _left_out(config)
    if isinstance(model, DiffusionModel) and not texts_read:
        frozen = frozen_encoders(model)
        encoders = frozen.bytes
        notes = [*frozen.unknown, *notes]
        if encoders and trained.training.cache_text is not None:
            notes.append("the text encoder leaves the memory once all texts are in cache_text")
    return ModuleMemory(
        module=module,
        optimizer=optimizer_memory(module),
        average=average_bytes(module, device),
        resting=resting_bytes(
            module,
            device=device,
            offloads=choice.offloads,
            halved=halved,
            processes=choice.sharing.processes,
        ),
        encoders=encoders,
        gathered=gathered_bytes(module),
        assumptions=tuple(notes),
    )


def _left_out(config: ModelConfig) -> list[str]:
    if config.training is None:
        return ["the file has no training section: Adam and an average of the weights are assumed"]
    return [] if config.training.teacher_model_ckpt is None else ["without the teacher"]


def _halved(module: DiffusionTraining, device: str) -> bool:
    """Whether the run encodes in float16; the pretransform then does on shapes."""
    options, pretransform = module.options, module.model.pretransform
    chosen = encoding_precision(
        module.model, options.encoding_precision, pre_encoded=module.pre_encoded, device=device
    )
    if chosen == "float16":
        assert isinstance(pretransform, AutoencoderPretransform)
        pretransform.model.half()
        pretransform.model_half = True
    return chosen == "float16"
