"""Frozen weights of a backbone's blocks in host memory, from where each block gets them when it computes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from stable_audio.adapters.layers import forget_computed_weights
from stable_audio.nn.checkpointing import Checkpointed
from stable_audio.training.errors import TrainingError

Weights = dict[nn.Parameter, Tensor]


class BlockOffload:
    """Keeps the frozen weights of blocks on the host, but for the block that computes and the one after it.

    A block gets them before any of its modules is called: in the forward pass, in the backward pass when it
    is recomputed, and where conditioning is prepared. Which block comes next is learned from the step before,
    and its weights are copied meanwhile, on a stream of their own. The blocks must recompute their
    activations (gradient checkpointing), since autograd would hold what they have used otherwise. Weights
    that are trained, such as adapters, buffers, and weights that modules outside of the blocks have too, stay
    on the device.

    Attributes:
        resident: numbers of the blocks whose weights are on the device.

    Args:
        backbone: its `Checkpointed` parts are the blocks.

    Raises:
        TrainingError: fewer than two blocks have frozen weights.
    """

    def __init__(self, backbone: nn.Module) -> None:
        blocks = [m for m in backbone.modules() if isinstance(m, Checkpointed)]
        frozen = [(b, homes) for b, homes in zip(blocks, _frozen_weights(backbone, blocks)) if homes]
        self._blocks, self._homes = [b for b, _ in frozen], [homes for _, homes in frozen]
        if len(self._homes) < 2:
            raise TrainingError(
                "$.training.offload_blocks: fewer than two blocks of the backbone have frozen weights, and "
                "weights that train stay on the GPU; freeze parts of it, or leave offload_blocks out"
            )
        self.resident: list[int] = []
        self._copies: dict[int, tuple[list[Tensor], torch.cuda.Event | None]] = {}
        self._after: dict[tuple[int, int], int] = {}
        self._latest = (-1, -1)
        self._device: torch.device | None = None
        self._stream: torch.cuda.Stream | None = None
        for number, block in enumerate(self._blocks):
            for module in block.modules():
                module.register_forward_pre_hook(self._before(number))

    def start(self, device: torch.device) -> None:
        """Bring weights to `device` from now on."""
        self._device = device
        if device.type == "cuda":
            self._stream = torch.cuda.Stream(device)
            for homes in self._homes:
                for p in homes:
                    homes[p] = p.data = p.data.pin_memory()  # so that copies need not wait for the host

    @contextmanager
    def left_out(self, fn: Callable[[Tensor], Tensor]) -> Iterator[None]:
        """Context in which a move of the whole model by `fn` changes the type of these weights only."""
        for number in list(self.resident):
            self._evict(number)
        for homes in self._homes:
            for p in homes:
                p.data = p.data.new_empty(0)
        try:
            yield
        finally:
            for homes in self._homes:
                for p, home in homes.items():
                    homes[p] = p.data = home.to(fn(home.new_empty(0)).dtype)

    def _before(self, number: int) -> Callable[[nn.Module, Any], None]:
        def hook(module: nn.Module, args: Any) -> None:
            if self._device is not None and self._latest[1] != number:
                self._bring(number)

        return hook

    def _bring(self, number: int) -> None:
        before, latest = self._latest
        self._after[before, latest] = number
        self._latest = (latest, number)
        following = self._after.get(self._latest)
        for other in [n for n in self.resident if n not in (number, following)]:
            self._evict(other)
        if number not in self.resident:
            self._copy(number)
        copies, arrived = self._copies[number]
        if arrived is not None:
            stream = torch.cuda.current_stream(self._device)
            stream.wait_event(arrived)
            for copy in copies:
                copy.record_stream(stream)
        for p, copy in zip(self._homes[number], copies):
            p.data = copy
        if following is not None and following not in self.resident:
            self._copy(following)

    def _copy(self, number: int) -> None:
        """Start to copy the weights of a block."""
        assert self._device is not None
        homes, arrived = self._homes[number].values(), None
        if self._stream is None:
            copies = [_copied(home, self._device) for home in homes]
        else:
            with torch.cuda.stream(self._stream):
                copies = [_copied(home, self._device) for home in homes]
                arrived = torch.cuda.Event()
                arrived.record(self._stream)
        self._copies[number] = (copies, arrived)
        self.resident.append(number)

    def _evict(self, number: int) -> None:
        for p, home in self._homes[number].items():
            p.data = home
        forget_computed_weights(self._blocks[number])
        del self._copies[number]
        self.resident.remove(number)
        if self._latest[1] == number:
            self._latest = (-1, -1)


def _frozen_weights(backbone: nn.Module, blocks: list[Checkpointed]) -> list[Weights]:
    """The frozen weights of each block that no module outside of it has."""
    owners: dict[int, set[int]] = {}
    place = {id(m): number for number, block in enumerate(blocks) for m in block.modules()}
    for module in backbone.modules():
        for p in module.parameters(recurse=False):
            owners.setdefault(id(p), set()).add(place.get(id(module), -1))
    return [
        {p: p.data for p in block.parameters() if not p.requires_grad and owners[id(p)] == {number}}
        for number, block in enumerate(blocks)
    ]


def _copied(tensor: Tensor, device: torch.device) -> Tensor:
    return tensor.to(device, non_blocking=True)
