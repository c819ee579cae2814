"""Let the processes of a run compute the rows of a network's batches together, as for demos."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from stable_audio.backbones.base import Backbone
from stable_audio.types import Conditioning

_REPLACED = ("forward", "prepare", "_compiled_call_impl")


@contextmanager
def shared_rows(backbone: Backbone) -> Iterator[None]:
    """Context in which each process computes its share of the rows of every call, and gets all of them.

    All processes must make the same calls, with the same inputs. That holds for samplers, whatever their
    number of steps: what one decides from the outputs, the others decide, too. Where weights are split,
    processes could not call the network apart from each other.
    """
    forward, own = backbone.forward, {n: backbone.__dict__[n] for n in _REPLACED if n in backbone.__dict__}
    processes, rank = torch.distributed.get_world_size(), torch.distributed.get_rank()

    def shared(x: Tensor, t: Tensor, cond: Conditioning) -> Tensor:
        count = -(-x.shape[0] // processes)  # a process without rows computes the last one again
        rows = torch.arange(rank * count, (rank + 1) * count, device=x.device).clamp(max=x.shape[0] - 1)
        mine = forward(x[rows], t[rows], cond.index(rows)).contiguous()
        gathered = [torch.empty_like(mine) for _ in range(processes)]
        torch.distributed.all_gather(gathered, mine)
        return torch.cat(gathered)[: x.shape[0]]

    replaced: dict[str, Any] = {
        "forward": shared,
        # Each process needs what belongs to its rows alone.
        "prepare": lambda cond: cond,
        "_compiled_call_impl": None,
    }
    backbone.__dict__.update(replaced)
    try:
        yield
    finally:
        for name in _REPLACED:
            del backbone.__dict__[name]
        backbone.__dict__.update(own)
