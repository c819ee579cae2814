"""The flags of sampling and guidance as settings."""

from __future__ import annotations

import argparse
import dataclasses
from typing import Any

from stable_audio.cli.key_values import key_values
from stable_audio.inference.generation.settings import Sampling

_NAMES = {
    "scale_phi": "cfg_rescale",
    "options": "sampler_option",
    "slot_scales": "slot_scale",
    "negative_slots": "negative_slot",
}
ARGUMENTS = {field.name: _NAMES.get(field.name, field.name) for field in dataclasses.fields(Sampling)}
"""Field of Sampling -> name of the argument that sets it."""


def sampling_from_flags(args: argparse.Namespace) -> Sampling:
    """The settings of the flags that were given.

    Raises:
        ValueError: a flag whose text cannot be read; the message says what it needs.
    """
    values: dict[str, Any] = {name: getattr(args, argument) for name, argument in ARGUMENTS.items()}
    if args.cfg_interval is not None:
        values["cfg_interval"] = tuple(args.cfg_interval)
    if args.schedule is not None:
        values["schedule"] = schedule_from(args.schedule)
    if args.cfg_schedule is not None:
        values["cfg_schedule"] = points_from(args.cfg_schedule)
    if args.negative_slot is not None:
        values["negative_slots"] = tuple(args.negative_slot)
    values["slot_scales"] = slot_scales_from(args.slot_scale) or None
    values["options"] = key_values(args.sampler_option, "--sampler-option") or None
    return Sampling(**{name: value for name, value in values.items() if value is not None})


def schedule_from(text: str) -> str | tuple[float, ...]:
    """The name of a schedule, or the levels of a list such as 1,0.6,0.2,0."""
    if "," not in text:
        return text
    try:
        return tuple(float(level) for level in text.split(","))
    except ValueError as error:
        raise ValueError(
            f"--schedule needs a name, or numbers with commas such as 1,0.6,0.2,0; found '{text}'"
        ) from error


def points_from(text: str) -> str | tuple[tuple[float, float], ...]:
    """The name of a guidance schedule, or points T:SHARE such as 1:0,0.6:1."""
    if ":" not in text:
        return text
    try:
        pairs = [point.split(":") for point in text.split(",")]
        return tuple((float(t), float(share)) for t, share in pairs)
    except ValueError as error:
        raise ValueError(
            f"--cfg-schedule needs a name, or points T:SHARE with commas such as 1:0,0.6:1; found '{text}'"
        ) from error


def slot_scales_from(arguments: list[str] | None) -> dict[str, float]:
    """["cross_attn=6"] -> {"cross_attn": 6.0}."""
    scales = key_values(arguments, "--slot-scale")
    for slot, weight in scales.items():
        if isinstance(weight, bool) or not isinstance(weight, (int, float)):
            raise ValueError(f"--slot-scale {slot} needs a number, found {weight!r}")
    return {slot: float(weight) for slot, weight in scales.items()}
