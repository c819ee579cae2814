"""Parts of a model that a run does not compute with: they stay in host memory, but for demos."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from stable_audio.model import DiffusionModel


def pretransform_rests(model: DiffusionModel, *, decodes_alone: bool, processes: int) -> bool:
    """Whether the pretransform is for demos alone: no conditioner encodes with it.

    Several processes keep their whole model on one device each, as DDP asks.

    Args:
        decodes_alone: batches hold latents, or a copy of its encoder encodes them.
    """
    pretransform, conditioner = model.pretransform, model.conditioner
    if pretransform is None or not decodes_alone or pretransform.enable_grad or processes > 1:
        return False
    parts: Any = conditioner.conditioners.values() if conditioner is not None else ()
    return all(getattr(part, "pretransform", None) is not pretransform for part in parts)


@contextmanager
def left_out(module: nn.Module, names: Iterable[str]) -> Iterator[None]:
    """Context in which what is done to a whole module is not done to these parts of it."""
    parts = {name: module._modules[name] for name in names}
    module._modules.update(dict.fromkeys(parts))  # in their places, so that the order of modules stays
    try:
        yield
    finally:
        module._modules.update(parts)
