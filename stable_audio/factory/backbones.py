"""Sections -> backbones, objectives and distribution shifts."""

from __future__ import annotations

import json
from typing import Any

from stable_audio.backbones import BACKBONES, UNCOND_BACKBONES
from stable_audio.backbones.base import Backbone
from stable_audio.config.schemas.leaf import arguments
from stable_audio.config.sections.diffusion import (
    DiffusionKeys,
    DiffusionSection,
    UncondDiffusion,
    objective_options,
)
from stable_audio.config.sections.sampling import settings_from
from stable_audio.config.sections.shift import shift_from
from stable_audio.diffusion.objectives import OBJECTIVES, Objective
from stable_audio.diffusion.processes import PROCESSES
from stable_audio.diffusion.settings import SamplingSettings
from stable_audio.diffusion.shift import LogSNRShift, TimeShift
from stable_audio.factory.components import create
from stable_audio.options import keywords_of


def build_backbone(section: DiffusionSection) -> Backbone:
    """The backbone of a conditional model.

    Raises:
        ValueError: it cannot be built, or does not read what the section wires to it.
    """
    modular = {entry.id: entry.dim for entry in section.modular_local_cond_configs}
    if not modular:
        return create(section, BACKBONES)
    backbone: Any = BACKBONES[section.type]
    if "modular_local_dims" not in keywords_of(backbone):
        raise ValueError(
            f"backbone '{section.type}' does not read modular_local_cond_configs; only 'dit' does: empty the "
            "list"
        )
    return create(section, BACKBONES, modular_local_dims=modular)


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


def build_sampling_shift(section: DiffusionKeys) -> TimeShift | None:
    """The shift that a section has for sampling alone; that of Stable Audio 3 for files with keys of it."""
    options = section.sampling_distribution_shift_options
    return LogSNRShift(rate=0.0) if options is None and is_stable_audio_3(section) else shift_from(options)


def build_sampling_defaults(section: DiffusionKeys) -> SamplingSettings:
    """The settings of sampling that a section states."""
    return settings_from(section.sampling_defaults)


def is_stable_audio_3(section: DiffusionKeys) -> bool:
    """Whether a section has a key that came with Stable Audio 3, whose models are sampled in another way."""
    return not NEW_KEYS.isdisjoint(section.model_fields_set)


NEW_KEYS = frozenset(
    {
        "local_add_cond_ids",
        "modular_local_cond_configs",
        "sampling_distribution_shift_options",
        "mask_padding_attention",
        "use_effective_length_for_schedule",
    }
)
"""Keys of `model.diffusion` that came with Stable Audio 3."""
