"""Calls of a network on a GPU that are recorded once and then replayed, as CUDA graphs.

A step of sampling launches hundreds of kernels, which for short clips take less time than their launches.
"""

from __future__ import annotations

import dataclasses
import logging
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

log = logging.getLogger(__name__)

RecordableWork = Callable[[], Tensor]
Capture = Callable[[RecordableWork], tuple[Callable[[], None], Tensor]]
"""Work on fixed tensors -> a function that does it again, and the tensor in which its result is then."""

MOST_RECORDINGS = 8
"""Shapes whose recordings are kept, each with the memory of its activations."""


def replay(module: nn.Module) -> None:
    """Let calls of `module` (x, t, conditioning) without gradients be replayed on a GPU.

    Its layers must not decide by the values of tensors, nor by anything else than their inputs' shapes.
    """
    module._compiled_call_impl = RecordedCalls(  # type: ignore[assignment]
        module._compiled_call_impl or module._call_impl, module
    )


class RecordedCalls:
    """A network whose second call with inputs of one kind is recorded, and whose further calls replay that.

    Inputs are copied into those of the recording, and the result out of it. Whatever else a recording depends
    on is part of its kind: shapes, types and layouts of all tensors, values that are no tensors, where the
    weights are, and the stream, so that calls of several threads do not meet in one recording.

    Args:
        call: the network, compiled or not.
        module: owner of the weights.
        capture: records; that of CUDA.
        records: whether a call with this x can be recorded.
    """

    def __init__(
        self,
        call: Callable[..., Tensor],
        module: nn.Module,
        *,
        capture: Capture | None = None,
        records: Callable[[Tensor], bool] | None = None,
    ) -> None:
        self._call = call
        self._weights = [
            (entries, name)
            for member in module.modules()
            for entries in (member._parameters, member._buffers)
            for name, tensor in entries.items()
            if tensor is not None
        ]
        self._capture, self._records = capture or captured_on_cuda, records or _on_cuda
        self._lock = threading.Lock()
        self._recordings: OrderedDict[Any, _Recording | None] = OrderedDict()
        self._refused = False

    def __call__(self, x: Tensor, *others: Any, **keywords: Any) -> Tensor:
        if self._refused or torch.is_grad_enabled() or not self._records(x):
            return self._call(x, *others, **keywords)
        inputs = (x, others, keywords)
        tensors: list[Tensor] = []
        kind = (_kind(inputs, tensors), *self._places(), *_surroundings(x))
        with self._lock:
            if kind not in self._recordings:
                # What is called once needs no recording, and a compiler has its work to do before one.
                self._recordings[kind] = None
                return self._call(x, *others, **keywords)
            recording = self._recordings.pop(kind) or self._recorded(inputs, tensors)
            if recording is None:
                return self._call(x, *others, **keywords)
            self._recordings[kind] = recording
            while len(self._recordings) > MOST_RECORDINGS:
                self._recordings.popitem(last=False)
            return recording(tensors)

    def _places(self) -> Iterator[int]:
        """Where the weights are."""
        for entries, name in self._weights:
            tensor = entries[name]
            yield 0 if tensor is None else tensor.data_ptr()

    def _recorded(self, inputs: Any, tensors: list[Tensor]) -> _Recording | None:
        static = [tensor.clone(memory_format=torch.preserve_format) for tensor in tensors]
        x, others, keywords = _with_tensors(inputs, iter(static))
        try:
            run, output = self._capture(lambda: self._call(x, *others, **keywords))
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            self._refused = True
            self._recordings.clear()
            log.warning("calls of the network cannot be recorded, and are made one by one: %s", error)
            return None
        return _Recording(run, output, static, tensors)


class _Recording:
    """A recorded call.

    Args:
        run: does it again.
        output: where its result is then.
        static: the tensors that it reads.
        tensors: those whose values they have.
    """

    def __init__(
        self, run: Callable[[], None], output: Tensor, static: list[Tensor], tensors: list[Tensor]
    ) -> None:
        self._run, self._output, self._static, self._latest = run, output, static, tensors

    def __call__(self, tensors: list[Tensor]) -> Tensor:
        for index, (place, tensor) in enumerate(zip(self._static, tensors)):
            # Conditioning stays the same object for a whole generation; x and t are written at every step.
            if index < 2 or tensor is not self._latest[index]:
                place.copy_(tensor)
        self._latest = [*self._latest[:2], *tensors[2:]]
        self._run()
        return self._output.clone()


def captured_on_cuda(run: RecordableWork) -> tuple[Callable[[], None], Tensor]:
    """Record work on the current GPU as a CUDA graph."""
    current, side = torch.cuda.current_stream(), torch.cuda.Stream()
    side.wait_stream(current)
    with torch.cuda.stream(side):  # libraries set themselves up at the first call on a stream
        run()
    current.wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    # Other threads may allocate meanwhile, as one that decodes does.
    with torch.cuda.graph(graph, stream=side, capture_error_mode="thread_local"):
        output = run()
    return graph.replay, output


def _on_cuda(x: Tensor) -> bool:
    return x.is_cuda and not torch.cuda.is_current_stream_capturing()


def _surroundings(x: Tensor) -> tuple[Any, ...]:
    """The stream, and settings that kernels are chosen by."""
    stream = torch.cuda.current_stream(x.device).cuda_stream if x.is_cuda else 0
    device = x.device.type
    rounding = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
    return stream, rounding, torch.get_float32_matmul_precision(), torch.is_inference_mode_enabled()


def _kind(value: Any, tensors: list[Tensor]) -> Any:
    """What tells inputs apart but for the values of their tensors, which are appended to `tensors`."""
    if isinstance(value, Tensor):
        tensors.append(value)
        return (tuple(value.shape), value.stride(), value.dtype, value.device)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        parts = tuple(_kind(getattr(value, f.name), tensors) for f in dataclasses.fields(value))
        return (type(value), parts)
    if isinstance(value, Mapping):
        return tuple((key, _kind(value[key], tensors)) for key in value)
    if isinstance(value, (tuple, list)):
        return (type(value), tuple(_kind(part, tensors) for part in value))
    return value  # numbers, types and the like: what cannot be compared is an error


def _with_tensors(value: Any, tensors: Any) -> Any:
    """The same inputs with other tensors, in the order of `_kind`."""
    if isinstance(value, Tensor):
        return next(tensors)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        parts = {f.name: _with_tensors(getattr(value, f.name), tensors) for f in dataclasses.fields(value)}
        return dataclasses.replace(value, **parts)
    if isinstance(value, Mapping):
        return {key: _with_tensors(part, tensors) for key, part in value.items()}
    if isinstance(value, (tuple, list)):
        values = [_with_tensors(part, tensors) for part in value]
        return type(value)(*values) if hasattr(value, "_fields") else type(value)(values)
    return value
