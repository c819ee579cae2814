"""What `--compile` compiles: the networks that a training step runs."""

from __future__ import annotations

import logging

from torch import nn

from stable_audio.training.errors import TrainingError

log = logging.getLogger(__name__)

NETWORKS = ("backbone", "encoder", "decoder")
"""Parts of models that are called as networks. Wrapping the whole model would do nothing where training calls
its parts."""


def compile_networks(model: nn.Module) -> list[str]:
    """`torch.compile` the networks of a model in place; returns their names.

    Raises:
        TrainingError: it has none.
    """
    found = {name: getattr(model, name, None) for name in NETWORKS}
    networks = {name: m for name, m in found.items() if isinstance(m, nn.Module)}
    if not networks:
        raise TrainingError(
            f"--compile: {type(model).__name__} has none of the networks that are compiled "
            f"({', '.join(NETWORKS)}); leave the flag out"
        )
    for network in networks.values():
        network.compile()
    log.info("torch.compile: %s; the first step of each shape takes long", ", ".join(networks))
    return list(networks)
