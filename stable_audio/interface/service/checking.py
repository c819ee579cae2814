"""Requests against the limits and the model, before they wait for a device."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Any

from stable_audio.inference.generation.generate import RANDOM_SEED, random_seed
from stable_audio.inference.rendering.batches import batch_key
from stable_audio.inference.rendering.flag_keys import with_keys
from stable_audio.inference.rendering.recipe import Recipe
from stable_audio.interface.service.errors import ServiceError
from stable_audio.interface.service.models import ServedModel
from stable_audio.interface.service.prepare import prepared
from stable_audio.interface.service.settings import Limits
from stable_audio.interface.service.sounds import RequestSounds, StoredSound

MAX_TEXT = 20_000
"""Characters of all texts of a request together."""

MAX_REPEATS = 32
"""Of each step of an inpainted clip."""


@dataclass(frozen=True)
class CheckedRequest:
    """A request that its model can serve.

    Attributes:
        line: as for `prepared`, with the seed.
        recipe: of its sound.
        key: as in `WaitingJob`.
        sounds: those that it names.
    """

    line: Mapping[str, Any]
    recipe: Recipe
    key: Hashable
    sounds: Mapping[str, StoredSound]


def checked(
    served: ServedModel, line: Mapping[str, Any], sounds: RequestSounds, limits: Limits, *, chunked: bool
) -> CheckedRequest:
    """Check a request, and draw its seed if it has none.

    Args:
        served: its model, which is ready.
        line: the keys that determine the sound.
        sounds: those that it can name.
        chunked: whether sounds are decoded in pieces.

    Raises:
        ServiceError: 422, with what is wrong with it.
    """
    if line.get("seed", RANDOM_SEED) == RANDOM_SEED:
        line = {**line, "seed": random_seed()}
    assert served.model is not None
    try:
        _check_sizes(line, limits)
        result = prepared(served.model, line, sounds, served.adapters, chunked_decode=chunked)
        _check_recipe(result.recipe, limits)
    except (ValueError, OverflowError) as error:
        raise ServiceError(422, with_keys(str(error).removeprefix("request: "))) from error
    except OSError as error:
        raise ServiceError(422, "a sound that the request names can no longer be read") from error
    key = (served.name, batch_key(result.job, result.recipe))
    return CheckedRequest(line, result.recipe, key, dict(sounds.used))


def _check_sizes(line: Mapping[str, Any], limits: Limits) -> None:
    """Before anything is computed from the numbers: what must not be large."""
    for name, most in (
        ("steps", limits.max_steps),
        ("inversion_steps", limits.max_steps),
        ("seconds", limits.max_seconds),
        ("extend", limits.max_seconds),
        ("window_seconds", limits.max_seconds),
        ("inpaint_repeats", MAX_REPEATS),
    ):
        if (value := line.get(name)) is not None and value > most:
            raise ValueError(f"{name} must be at most {most:g}, found {value:g}")
    schedule = line.get("schedule")
    if isinstance(schedule, list) and len(schedule) - 1 > limits.max_steps:
        raise ValueError(f"schedule must have at most {limits.max_steps} steps, found {len(schedule) - 1}")
    if (texts := _characters(line)) > MAX_TEXT:
        raise ValueError(f"texts must have at most {MAX_TEXT} characters in all, found {texts}")


def _check_recipe(recipe: Recipe, limits: Limits) -> None:
    """What the request and the model give together."""
    if not math.isfinite(recipe.seconds) or recipe.seconds > limits.max_seconds:
        raise ValueError(f"a clip has at most {limits.max_seconds:g} seconds, found {recipe.seconds:g}")
    if recipe.sampling["steps"] > limits.max_steps:
        raise ValueError(f"steps must be at most {limits.max_steps}, found {recipe.sampling['steps']}")


def _characters(value: Any) -> int:
    if isinstance(value, str):
        return len(value)
    if isinstance(value, Mapping):
        return sum(len(key) + _characters(part) for key, part in value.items())
    return sum(map(_characters, value)) if isinstance(value, (list, tuple)) else 0
