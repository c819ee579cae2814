"""What weights that are split over processes take while they are whole."""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

from torch import nn

from stable_audio.training.base import TrainingModule
from stable_audio.training.processes.split_parts import parts_of


class Gathered(NamedTuple):
    """Bytes of split weights.

    Attributes:
        split: all of them, whole.
        at_once: those that are whole on a device at the same time: what is outside of blocks, and two blocks,
            the one that computes and the next one, which is gathered meanwhile.
        block: of the largest block, whose gradient is whole before it is divided.
    """

    split: int = 0
    at_once: int = 0
    block: int = 0


def gathered_bytes(module: TrainingModule) -> Gathered:
    """The split weights of a module that would be trained by several processes."""
    counted: set[int] = set()
    outside, pairs, blocks = 0, [0], [0]
    for network in (module.model, *(each.module for each in module.networks())):
        for part in parts_of(network):
            sizes = [_own_bytes(unit.module, counted) for unit in part.inner]
            outside += _own_bytes(part.outer.module, counted)
            blocks += sizes
            pairs += sizes[:1] + [a + b for a, b in pairwise(sizes)]
    split = sum(blocks) + outside
    return Gathered(split, outside + max(pairs), max(blocks))


def _own_bytes(module: nn.Module, counted: set[int]) -> int:
    """Bytes of the trained weights that were not counted before; they are counted now."""
    own = {id(p): p for p in module.parameters() if p.requires_grad and id(p) not in counted}
    counted.update(own)
    return sum(p.nbytes for p in own.values())
