"""Compile networks in place: one of the blocks that repeat, for all of them, else the whole network."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from stable_audio.nn.copying import is_compiled


def compile_network(network: nn.Module) -> None:
    """Let `torch.compile` make kernels for training a network, at its first call.

    Blocks that repeat (`Backbone.repeated`) are compiled instead of the network around them: the compiler
    works on one of them, and its kernels serve the others. Training is no slower so, while sampling is by
    some percent, for which `network.compile()` compiles the whole.
    """
    for module in repeated_blocks(network) or [network]:
        module.compile()


def runs_compiled(network: nn.Module) -> bool:
    """Whether `compile_network` was called, or the network's own `compile`."""
    return is_compiled(network) or any(is_compiled(block) for block in repeated_blocks(network))


def repeated_blocks(network: nn.Module) -> Sequence[nn.Module]:
    """The blocks of a network that repeat: at least two, or none."""
    blocks = getattr(network, "repeated", ())
    return blocks if len(blocks) > 1 else ()
