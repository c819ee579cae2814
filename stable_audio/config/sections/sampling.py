"""Settings of sampling that a model file states, for its users and for its demos."""

from __future__ import annotations

from typing import TypeAlias

from stable_audio.config.schemas.derived import Derived
from stable_audio.config.schemas.leaf import Leaf, arguments, leaf_model
from stable_audio.diffusion.settings import SamplingSettings

SamplingSection: TypeAlias = Derived[Leaf, leaf_model(SamplingSettings)]

STATED_BY_DEMOS = ("steps", "sampler", "cfg_scale")
"""Settings that demos have keys of their own for."""

DemoSamplingSection: TypeAlias = Derived[Leaf, leaf_model(SamplingSettings, hidden=STATED_BY_DEMOS)]


def settings_from(section: Leaf | None) -> SamplingSettings:
    """The settings of a section; what it leaves out is None."""
    return SamplingSettings() if section is None else SamplingSettings(**arguments(section))
