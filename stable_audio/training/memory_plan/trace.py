"""The memory and the operations of a training step, followed one by one on shapes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from stable_audio.inference.memory.kernels import kernels_of
from stable_audio.inference.memory.live import LiveMemory, empty_weights, on_shapes
from stable_audio.inference.memory.operations import OperationCount, Operations
from stable_audio.training.base import TrainingModule
from stable_audio.training.devices.float8 import without_float8
from stable_audio.training.memory_plan.turns import Turn, turns_of


@dataclass(frozen=True)
class StepTrace:
    """Bytes that a step needs beside weights, optimizer and average.

    Attributes:
        weights: bytes of all weights of the training module.
        buffers: bytes of its buffers, such as tables and windows of losses.
        gradients: bytes of the gradients, which optimizer steps see at once.
        encode: greatest need while the batch is encoded.
        forward: greatest need in the forward pass.
        backward: greatest need in the backward pass, gradients included.
        operations: of the forward and the backward pass of a batch; where networks take turns, on average.
        keeps_gradients: gradients of the last step or batch are there while a batch is encoded and in its
            forward pass, and count in it.
    """

    weights: int
    buffers: int
    gradients: int
    encode: int
    forward: int
    backward: int
    operations: Operations = Operations()  # noqa: RUF009 (frozen)
    keeps_gradients: bool = False

    @property
    def peak(self) -> int:
        return max(self.encode, self.forward, self.backward)


@dataclass(frozen=True)
class Circumstances:
    """What a step runs on, and how.

    Attributes:
        device: "cpu", or the type of a GPU.
        precision: of `RunOptions`, other than "auto".
        accumulates: gradients of several batches are summed before a step.
    """

    device: str = "cpu"
    precision: str = "32-true"
    accumulates: bool = False


def trace_step(
    module: TrainingModule, *, batch_size: int, sample_size: int, circumstances: Circumstances
) -> StepTrace:
    """Run the steps of a module on the meta device on shapes; afterwards it can only be used for that.

    Args:
        module: the module; the function may be called again with it.
        batch_size: clips.
        sample_size: audio samples of each clip.
    """
    with on_shapes():
        if any(p.is_meta for p in module.parameters()):
            empty_weights(module)
        module.train()
        live = LiveMemory()
        weights, buffers = live.hold(module.parameters()), live.hold(module.buffers())
        turns = turns_of(module, batch_size, sample_size)
        traces = [_trace_turn(module, turn, live, circumstances) for turn in turns]
    return StepTrace(
        weights=weights,
        buffers=buffers,
        gradients=max(t.gradients for t in traces),
        encode=max(t.encode for t in traces),
        forward=max(t.forward for t in traces),
        backward=max(t.backward for t in traces),
        operations=sum((t.operations for t in traces), Operations()).scaled(1 / len(traces)),
        keeps_gradients=_keeps_gradients(module, circumstances),
    )


def _keeps_gradients(module: TrainingModule, how: Circumstances) -> bool:
    """Lightning frees the gradients of a step after the next forward pass, modules that optimise by hand at
    once, and where they are released each one as soon as its weight has stepped."""
    return how.accumulates or not (module.by_hand or module.gradient_release)


def _trace_turn(module: TrainingModule, turn: Turn, live: LiveMemory, how: Circumstances) -> StepTrace:
    resting = live.now
    trained = [p for p in turn.network.parameters() if p.requires_grad]
    releases = module.gradient_release
    if _keeps_gradients(module, how):
        _make_gradients(trained, live)
    results: list[Tensor] = []
    count = OperationCount()
    precision = without_float8(how.precision)
    with kernels_of(how.device, precision):
        encode = live.peak_of(lambda: results.append(turn.encode()))
        with count:
            forward = live.peak_of(lambda: results.append(turn.forward(results.pop())))
    loss = results.pop()
    if not how.accumulates:
        _free_gradients(trained)
    with ExitStack() as stack:
        stack.enter_context(kernels_of(how.device, precision if module.by_hand else "32-true"))
        if releases:
            stack.enter_context(_released(trained))
        with count, count.backward_pass():
            backward = live.peak_of(lambda: torch.autograd.backward(loss))
    gradients = sum(p.grad.untyped_storage().nbytes() for p in trained if p.grad is not None)
    others = [] if turn.apart is None or releases else turn.apart.parameters()
    without = sum(p.nbytes for p in others if p.requires_grad and p.grad is None)
    gradients, backward = gradients + without, backward + (0 if how.accumulates else without)
    _free_gradients(module.parameters())
    encode, forward, backward = (peak - resting for peak in (encode, forward, backward))
    return StepTrace(0, 0, gradients, encode, forward, backward, count.counted)


@contextmanager
def _released(parameters: Sequence[nn.Parameter]) -> Iterator[None]:
    hooks = [p.register_post_accumulate_grad_hook(lambda p: _free_gradients([p])) for p in parameters]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _make_gradients(parameters: Sequence[nn.Parameter], live: LiveMemory) -> None:
    with live:
        for parameter in parameters:
            parameter.grad = torch.empty_like(parameter)


def _free_gradients(parameters: Iterable[Tensor]) -> None:
    for parameter in parameters:
        parameter.grad = None
