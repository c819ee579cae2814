"""Split the weights of a model over processes block by block: PyTorch's FSDP2 (`fully_shard`).

Zhao et al. 2023, arXiv:2304.11277; with replicas of a split model, "hybrid sharding" of the same paper.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from stable_audio.optim.split import is_split
from stable_audio.training.errors import TrainingError
from stable_audio.training.processes.joining import join_weights
from stable_audio.training.processes.split_parts import Unit, parts_of


@dataclass(frozen=True, kw_only=True)
class Sharding:
    """How weights are split.

    Attributes:
        mesh: the processes: one dimension, over which weights are split; or two, replicas and parts.
        cpu_offload: parts of weights, their gradients and the optimizer rest in the memory of the host.
    """

    mesh: Any
    cpu_offload: bool = False


def split(module: nn.Module, sharding: Sharding, *, joins: bool = False) -> None:
    """Split what is trained of a model, or of another network, block by block (see `parts_of`).

    Each block is gathered for its own computation only. What is frozen stays whole on every process:
    gathering it again and again costs more than it saves without gradients and optimizer state.

    Args:
        module: a model, or a discriminator.
        joins: weights without a part in a step get gradients of 0, since processes send the same tensors;
            otherwise every step must have gradients for the same weights, on every process.

    Raises:
        TrainingError: a trained weight belongs to no part that is known.
    """
    parts = [part for part in parts_of(module) if _trains(part.outer.module)]
    if joins:
        join_weights([unit.module for part in parts for unit in part.units])
    for part in parts:
        for unit in part.inner:
            _shard(unit, sharding)
        _shard(part.outer, sharding, always=bool(part.inner))
    if whole := [name for name, p in module.named_parameters() if p.requires_grad and not is_split(p)]:
        raise TrainingError(
            f"trained weights of {type(module).__name__} belong to no part of it that can be split: "
            f"{', '.join(whole[:3])}; use --strategy ddp"
        )


def reshard(module: nn.Module) -> None:
    """Let go of the whole weights that a computation without gradients has gathered.

    FSDP2 keeps those of the outermost units for the backward pass, which does not come then: the next step
    would compute with them even if they have changed meanwhile.
    """
    from torch.distributed.fsdp import FSDPModule

    for part in module.modules():
        if isinstance(part, FSDPModule):
            part.reshard()


def _shard(unit: Unit, sharding: Sharding, *, always: bool = False) -> None:
    """Gather a module at once, and let it go after its calls.

    Weights are gathered in their own type, of which autocast makes what each operation needs: norms and
    scales stay exact. Gradients of 16 bits are summed in float32.

    Args:
        always: even if it has no trained weights outside of the units in it: the outermost unit.
    """
    from torch.distributed.fsdp import (
        CPUOffloadPolicy,
        MixedPrecisionPolicy,
        OffloadPolicy,
        fully_shard,
        register_fsdp_forward_method,
    )

    module = unit.module
    if not always and not any(p.requires_grad for p in _own(module)):
        return
    options: dict[str, Any] = {}
    if "ignored_params" in inspect.signature(fully_shard).parameters:  # from torch 2.7 on
        options["ignored_params"] = {p for p in module.parameters() if not p.requires_grad}
    fully_shard(
        module,
        mesh=sharding.mesh,
        mp_policy=MixedPrecisionPolicy(reduce_dtype=_sum_dtype(module), cast_forward_inputs=False),
        offload_policy=CPUOffloadPolicy() if sharding.cpu_offload else OffloadPolicy(),
        **options,
    )
    for name in unit.methods:
        register_fsdp_forward_method(module, name)


def _trains(module: nn.Module) -> bool:
    return any(p.requires_grad for p in module.parameters())


def _sum_dtype(module: nn.Module) -> torch.dtype | None:
    """The type in which gradients of several processes are summed; None: that of the weights."""
    low = any(p.element_size() < 4 for p in module.parameters() if p.requires_grad)
    return torch.float32 if low else None


def _own(module: nn.Module) -> Iterator[nn.Parameter]:
    """The weights of a module that are not in a unit inside of it."""
    from torch.distributed.fsdp import FSDPModule

    if isinstance(module, FSDPModule):
        return
    yield from module.parameters(recurse=False)
    for child in module.children():
        yield from _own(child)
