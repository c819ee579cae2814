"""Frozen encoders beside a model, which are in none of its files."""

from __future__ import annotations

from typing import Any, NamedTuple

from stable_audio.model import DiffusionModel


class FrozenEncoders(NamedTuple):
    """Encoders beside a model; those with equal weights count once.

    Attributes:
        parameters: number of their parameters.
        bytes: memory of their weights; those as stored are taken for float32.
        unknown: why some are not counted, by the id of their conditioner.
    """

    parameters: int
    bytes: int
    unknown: list[str]


def frozen_encoders(model: DiffusionModel) -> FrozenEncoders:
    """Count the frozen encoders of a model by their configs; downloads nothing."""
    parts: Any = model.conditioner.conditioners.items() if model.conditioner is not None else ()
    networks = {(n.identity(), n.dtype): (key, n) for key, part in parts for n in part.frozen_networks()}
    parameters, held, unknown = 0, 0, []
    for key, network in networks.values():
        try:
            count = network.count()
        # Their configs come from others, and transformers may refuse one or be absent; other sizes are known.
        except (ImportError, OSError, ValueError) as error:
            unknown.append(f"without the frozen encoder of '{key}', which cannot be counted: {error}")
            continue
        parameters += count
        held += count * (4 if network.dtype is None else network.dtype.itemsize)
    return FrozenEncoders(parameters, held, unknown)
