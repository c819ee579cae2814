"""What stays in memory from step to step: the optimizer's state and the average of the weights."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from stable_audio.inference.memory.live import LiveMemory, bytes_of, empty_weights, on_shapes
from stable_audio.nn.checkpointing import Checkpointed
from stable_audio.optim import OPTIMIZERS, build_optimizer
from stable_audio.optim.low_bit import LowBitAdam
from stable_audio.training.base import TrainingModule
from stable_audio.training.devices.resting import pretransform_rests
from stable_audio.training.diffusion.module import DiffusionTraining
from stable_audio.training.optimisation.networks import TrainedNetwork
from stable_audio.training.optimisation.roles import by_role

SAMPLE_VALUES = 2**20
"""Values of a weight in place of a larger one, where an optimizer must be tried with real numbers."""


class OptimizerMemory(NamedTuple):
    """Bytes of optimizers.

    Attributes:
        state: what they keep between steps.
        step: what a step takes besides, gradients not included.
    """

    state: int
    step: int


def optimizer_memory(module: TrainingModule) -> OptimizerMemory:
    """The memory of the optimizers of a module whose weights have no values, or are on the meta device.

    A step is taken on shapes. Optimizers that need numbers, such as those with 8-bit states, take one on
    samples of the weights instead.
    """
    module.configure_networks()
    memories = [_of_network(network) for network in module.networks()]
    # Networks step in turn.
    return OptimizerMemory(sum(m.state for m in memories), max(m.step for m in memories))


def _of_network(network: TrainedNetwork) -> OptimizerMemory:
    trained = [p for p in network.module.parameters() if p.requires_grad]
    kind = OPTIMIZERS.get(str(network.choice.optimizer.get("type")), Optimizer)
    try:
        with on_shapes():
            if issubclass(kind, LowBitAdam):
                return _of_each_shape(network, trained)
            likes = {p: _like(p) for p in trained}
            groups = by_role(network, [{"params": list(likes.values())}], likes)
            return _of_step(network, list(likes.values()), groups)
    # Any kind of error: the code of an optimizer looks at numbers that are not there.
    except Exception:
        return _of_samples(network, trained)


def _like(weight: Tensor) -> nn.Parameter:
    return nn.Parameter(torch.empty(weight.shape, dtype=weight.dtype, device="cpu"))


def _of_each_shape(network: TrainedNetwork, trained: Sequence[Tensor]) -> OptimizerMemory:
    """One weight of each shape, for optimizers that treat weights one by one; all of them take long."""
    numbers = Counter((p.shape, p.dtype) for p in trained)
    examples = {(p.shape, p.dtype): p for p in trained}
    each = {key: _of_step(network, [_like(p)]) for key, p in examples.items()}
    state = sum(count * each[key].state for key, count in numbers.items())
    return OptimizerMemory(state, max((memory.step for memory in each.values()), default=0))


def _of_step(
    network: TrainedNetwork, weights: Sequence[nn.Parameter], groups: Sequence[Any] = ()
) -> OptimizerMemory:
    live = LiveMemory()
    with live:
        for weight in weights:
            weight.grad = torch.empty_like(weight)
    live.hold(weights)
    start = live.now
    with live:
        optimizer = build_optimizer(network.choice.optimizer, groups or weights)
        optimizer.step()
    state = live.now - start
    return OptimizerMemory(state, live.peak_of(optimizer.step) - live.now)


def _of_samples(network: TrainedNetwork, trained: Sequence[Tensor]) -> OptimizerMemory:
    """Each shape once, with fewer rows where it is large, by a step with real numbers."""
    state = 0
    shapes = {(tuple(p.shape), p.dtype) for p in trained}
    for shape, dtype in shapes:
        sample = nn.Parameter(torch.zeros(_smaller(shape), dtype=dtype))
        sample.grad = torch.ones_like(sample)
        optimizer = build_optimizer(network.choice.optimizer, [sample])
        optimizer.step()
        values = [v for s in optimizer.state.values() for v in s.values() if isinstance(v, Tensor)]
        count = sum((tuple(p.shape), p.dtype) == (shape, dtype) for p in trained)
        state += round(bytes_of(values) * math.prod(shape) / max(1, sample.numel())) * count
    # Their kernels work weight by weight, on a copy with all bits.
    return OptimizerMemory(state, 3 * max((4 * p.numel() for p in trained), default=0))


def _smaller(shape: tuple[int, ...]) -> tuple[int, ...]:
    rest = math.prod(shape[1:])
    rows = shape[0] if shape else 1
    return (max(1, min(rows, SAMPLE_VALUES // max(1, rest))), *shape[1:]) if shape else shape


def average_bytes(module: TrainingModule, device: str) -> int:
    """Bytes of the average of the weights on a device of this type; 0 without one, or if it is elsewhere."""
    if module.ema is None or (module.ema.rule.device == "cpu" and device != "cpu"):
        return 0
    with on_shapes():
        if any(p.is_meta for p in module.parameters()):
            empty_weights(module)
        module.ema.start()
        return bytes_of(module.ema.average.values())


def resting_bytes(
    module: TrainingModule, *, device: str, offloads: bool, halved: bool = False, processes: int = 1
) -> int:
    """Bytes of weights that are counted as on the device and are not: of an autoencoder that only demos need,
    which stays in the memory of the host, and of offloaded blocks, of which two are on the device at once.

    Args:
        halved: batches are encoded by a copy of the encoder in float16, in which the plan has the whole
            autoencoder. Where that stays on the device beside the copy, there is more than what is counted.
        processes: that train together.
    """
    if not isinstance(module, DiffusionTraining):
        return 0
    model, resting = module.model, 0
    pretransform: Any = model.pretransform
    decodes_alone = module.pre_encoded or halved
    rests = device != "cpu" and pretransform_rests(model, decodes_alone=decodes_alone, processes=processes)
    if halved:
        resting += bytes_of(pretransform.model.decoder.parameters())
        if not rests:
            resting -= sum(4 * p.numel() for p in pretransform.parameters())
    elif rests:
        resting += bytes_of(pretransform.parameters())
    if offloads and device != "cpu":
        blocks = [m for m in model.backbone.modules() if isinstance(m, Checkpointed)]
        sizes = [sum(p.nbytes for p in block.parameters() if not p.requires_grad) for block in blocks]
        resting += sum(sorted(sizes)[:-BLOCKS_AT_ONCE])
    return resting


BLOCKS_AT_ONCE = 2
"""Blocks on the device: the one that computes, and the next one, which is copied meanwhile."""
