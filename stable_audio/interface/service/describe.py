"""What clients are told of a model: enough to make controls for everything that it reads."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from stable_audio.conditioning.base import Conditioner
from stable_audio.conditioning.scalars import IntConditioner, ListConditioner
from stable_audio.conditioning.values import (
    AnyValue,
    NumberValue,
    SoundValue,
    SourcesValue,
    TextValue,
    VectorValue,
)
from stable_audio.diffusion.objectives import OBJECTIVES
from stable_audio.diffusion.samplers import SAMPLERS
from stable_audio.inference.generation.audio_inputs import inpaints
from stable_audio.inference.generation.settings import Sampling
from stable_audio.inference.rendering.recipe import sampling_values
from stable_audio.interface.service.prepare import TIMES
from stable_audio.model import DiffusionModel

_KINDS: dict[type, Callable[[Any], dict[str, Any]]] = {
    TextValue: lambda rule: {"kind": "text"},
    NumberValue: lambda rule: {"kind": "number", "minimum": rule.low, "maximum": rule.high},
    VectorValue: lambda rule: {"kind": "vector", "size": rule.size},
    SoundValue: lambda rule: {"kind": "sound"},
    SourcesValue: lambda rule: {"kind": "sounds"},
    AnyValue: lambda rule: {"kind": "any"},
}
"""Rule of the values of a conditioner -> what is told of it."""


def described(model: DiffusionModel) -> dict[str, Any]:
    """A model as JSON values; its weights are not looked at."""
    defaults = Sampling().resolved_for(model)
    read = conditioners(model)
    return {
        "objective": next(name for name, kind in OBJECTIVES.items() if type(model.objective) is kind),
        "sample_rate": model.sample_rate,
        "channels": model.audio_channels,
        "seconds": model.sample_size / model.sample_rate,
        "unconditional": not read,
        "inpainting_input": inpaints(model),
        "conditioners": read,
        "samplers": samplers(model),
        "sampling": sampling_values(defaults),
    }


def conditioners(model: DiffusionModel) -> list[dict[str, Any]]:
    """Each conditioner: its key, kind of value, range or choices."""
    if model.conditioner is None:
        return []
    parts = dict(model.conditioner.conditioners.items())
    check, required = model.conditioner.value_check(), model.conditioner.ids()
    return [
        {
            "key": key,
            **_KINDS[type(rule)](rule),
            **_choices(parts.get(key)),
            "required": key in required and key not in TIMES,
            "from_length": key in TIMES,
            "default_key": check.default_keys.get(key),
        }
        for key, rule in check.rules.items()
    ]


def _choices(conditioner: Any) -> dict[str, Any]:
    """What a conditioner says beyond its rule."""
    if isinstance(conditioner, IntConditioner):
        return {"kind": "integer"}
    if isinstance(conditioner, ListConditioner):
        return {"kind": "choice", "choices": list(conditioner.rows)}
    names: Sequence[str] = getattr(conditioner, "source_keys", ())
    return {"sources": list(names)} if isinstance(conditioner, Conditioner) and names else {}


def samplers(model: DiffusionModel) -> list[str]:
    """Names of the samplers that walk the model's objective."""
    names = []
    for name in SAMPLERS:
        try:
            Sampling(sampler=name).resolved_for(model)
        except ValueError:
            continue
        names.append(name)
    return names
