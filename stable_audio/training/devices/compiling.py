"""Compile the networks that a training step runs, for `--compile`."""

from __future__ import annotations

import logging

from torch import nn

from stable_audio.nn.compiling import compile_network
from stable_audio.training.errors import TrainingError

log = logging.getLogger(__name__)

NETWORKS = ("backbone", "encoder", "decoder")
"""Parts of models that training calls as networks. Compiling the model around them would have no effect."""


def compile_networks(model: nn.Module) -> list[str]:
    """`torch.compile` the networks of a model in place (`compile_network`); returns their names.

    Raises:
        TrainingError: it has none.
    """
    parts = {name: getattr(model, name, None) for name in NETWORKS}
    networks = {name: m for name, m in parts.items() if isinstance(m, nn.Module)}
    if not networks:
        raise TrainingError(
            f"--compile: {type(model).__name__} has none of the networks that are compiled "
            f"({', '.join(NETWORKS)}); leave the flag out"
        )
    for network in networks.values():
        compile_network(network)
    log.info("torch.compile: %s; the first step of each shape takes long", ", ".join(networks))
    return list(networks)
