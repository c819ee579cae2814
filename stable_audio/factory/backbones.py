"""Sections -> backbones, objectives and distribution shifts."""

from __future__ import annotations

import json

from stable_audio.backbones import BACKBONES, UNCOND_BACKBONES
from stable_audio.backbones.base import Backbone
from stable_audio.config.schemas.leaf import arguments
from stable_audio.config.sections.diffusion import (
    DiffusionKeys,
    DiffusionSection,
    UncondDiffusion,
    objective_options,
)
from stable_audio.config.sections.shift import shift_from
from stable_audio.diffusion.objectives import OBJECTIVES, Objective
from stable_audio.diffusion.processes import PROCESSES
from stable_audio.diffusion.shift import TimeShift
from stable_audio.factory.components import create


def build_backbone(section: DiffusionSection) -> Backbone:
    """The backbone of a conditional model."""
    return create(section, BACKBONES)


def build_uncond_backbone(section: UncondDiffusion) -> Backbone:
    """The backbone of an unconditional model."""
    return create(section, UNCOND_BACKBONES)


def build_objective(keys: DiffusionKeys) -> Objective:
    """The objective that a section names, on its process.

    Raises:
        ValueError: the process cannot be built, or the objective is not defined on it.
    """
    process = keys.diffusion_process
    options = objective_options(keys.diffusion_objective).model_validate_json(
        json.dumps(keys.diffusion_objective_options)
    )
    return OBJECTIVES[keys.diffusion_objective](
        process=None if process is None else create(process, PROCESSES), **arguments(options)
    )


def build_shift(section: DiffusionKeys) -> TimeShift | None:
    """The distribution shift of a section, if it has one."""
    return shift_from(section.distribution_shift_options)
