"""Follow the bytes of tensors that are alive, from operation to operation."""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode


class LiveMemory(TorchDispatchMode):
    """Counts the bytes of the tensors that operations make and that are still in use, autograd's included.

    It is a context; operations outside of it are not counted, but what they free is. Views count once, with
    the tensor that they show. What kernels take for themselves while they run is not seen. Code that asks
    for a value of a tensor that has none, as to choose a branch, is told 1.

    Attributes:
        now: bytes in use.
        peak: greatest value of `now` since `reset_peak`.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._storages: dict[int, weakref.ref[Any]] = {}

    def hold(self, tensors: Iterable[Tensor]) -> int:
        """Count tensors that are there already; returns how many bytes that added."""
        before = self.now
        for tensor in tensors:
            self._add(tensor)
        return self.now - before

    def reset_peak(self) -> None:
        self.peak = self.now

    def peak_of(self, action: Callable[[], Any]) -> int:
        """The greatest number of bytes in use while `action` runs."""
        self.reset_peak()
        with self:
            action()
        return self.peak

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        with torch._C.DisableTorchFunction():  # otherwise modes see what tensors without values do inside
            return self._dispatched(func, args, kwargs or {})

    def _dispatched(self, func: Any, args: Any, kwargs: Any) -> Any:
        if func is torch.ops.prim.device.default:  # asked for at every access of `device`
            return getattr(args[0], "fake_device", torch.device("cpu"))
        if func is torch.ops.aten._local_scalar_dense.default:
            return _one(args[0].dtype)
        if func in _LENGTH_BY_VALUES:
            return self._added(_LENGTH_BY_VALUES[func](*args, **kwargs))
        return self._added(func(*args, **kwargs))

    def _added(self, result: Any) -> Any:
        for value in result if isinstance(result, (tuple, list)) else (result,):
            if isinstance(value, Tensor):
                self._add(value)
        return result

    def _add(self, tensor: Tensor) -> None:
        for part in plain_parts(tensor):
            storage = part.untyped_storage()
            key = storage._cdata
            if key in self._storages:
                continue
            size = storage.nbytes()
            self._storages[key] = weakref.ref(storage, self._on_release(key, size))
            self.now += size
            self.peak = max(self.peak, self.now)

    def _on_release(self, key: int, size: int) -> Callable[[Any], None]:
        def release(_: Any) -> None:
            self.now -= size
            del self._storages[key]

        return release


_LENGTH_BY_VALUES: dict[Any, Callable[..., Tensor]] = {
    torch.ops.aten.bincount.default: lambda x, weights=None, minlength=0: x.new_empty(minlength),
    torch.ops.aten.nonzero.default: lambda x: x.new_empty(x.numel(), x.ndim, dtype=torch.int64),
    torch.ops.aten.index.Tensor: lambda x, indices: torch.ops.aten.index.Tensor(x, _all_places(indices)),
}
"""Operations whose output is as long as the values say, which are not there -> those with all of them."""


def _all_places(indices: Sequence[Tensor | None]) -> list[Tensor | None]:
    """Indices with every place that a mask can choose instead of the mask."""
    chosen: list[Tensor | None] = []
    for index in indices:
        if index is None or index.dtype is not torch.bool:
            chosen.append(index)
        else:
            chosen += [index.new_empty(index.numel(), dtype=torch.int64) for _ in range(index.ndim)]
    return chosen


def _one(dtype: torch.dtype) -> bool | int | float:
    if dtype is torch.bool:
        return True
    return 1.0 if dtype.is_floating_point else 1


def plain_parts(tensor: Tensor) -> list[Tensor]:
    """The tensors that hold the values of a tensor, such as codes and scales of one in 8 bits."""
    flatten = getattr(tensor, "__tensor_flatten__", None)
    if flatten is None:
        return [tensor]
    names, _ = flatten()
    return [part for name in names for part in plain_parts(getattr(tensor, name))]


def bytes_of(tensors: Iterable[Tensor]) -> int:
    """Bytes of tensors, each storage once; tensors on the meta device count as they would elsewhere."""
    parts = [part for tensor in tensors for part in plain_parts(tensor)]
    return sum({p.untyped_storage()._cdata: p.untyped_storage().nbytes() for p in parts}.values())


@contextmanager
def on_shapes() -> Iterator[None]:
    """Context in which tensors have shapes, types and a device, but no values and no memory."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    # Constructors may draw nothing here: the random state of the caller stays as it is.
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about slow kernels, none of which runs
        with FakeTensorMode(allow_non_fake_inputs=True):
            yield


def empty_weights(module: nn.Module) -> None:
    """Put tensors without values, of the current context, in place of all weights of a module on the meta
    device; those that are shared stay shared.

    The module can only be run on shapes from then on.
    """
    made: dict[int, Tensor] = {}
    for part in module.modules():
        for owner in (part._parameters, part._buffers):
            for name, value in owner.items():
                if value is not None:
                    owner[name] = made.setdefault(id(value), _empty(value))  # type: ignore[assignment]


def _empty(value: Tensor) -> Tensor:
    empty = torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device="cpu")
    if isinstance(value, nn.Parameter):
        return nn.Parameter(empty, requires_grad=value.requires_grad)
    return empty
