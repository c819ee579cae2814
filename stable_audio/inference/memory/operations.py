"""Count the floating-point operations of matrix products, convolutions and attention, by what they serve."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode


@dataclass(frozen=True, kw_only=True)
class Operations:
    """Floating-point operations; a product and a sum are two.

    Attributes:
        products: of matrix products.
        convolutions: of convolutions.
        self_attention: of the scores of attention of tokens to as many tokens, and of their use.
        cross_attention: of attention to another number of tokens.
        recomputed: of any kind that a backward pass does again, such as checkpointed blocks and the scores
            that kernels of attention do not keep. It is no part of the others.
    """

    products: float = 0.0
    convolutions: float = 0.0
    self_attention: float = 0.0
    cross_attention: float = 0.0
    recomputed: float = 0.0

    @property
    def model(self) -> float:
        """Operations that the model needs, each once."""
        return self.products + self.convolutions + self.self_attention + self.cross_attention

    def __add__(self, other: Operations) -> Operations:
        return Operations(**{f.name: getattr(self, f.name) + getattr(other, f.name) for f in fields(self)})

    def scaled(self, factor: float) -> Operations:
        """As many times the operations."""
        return Operations(**{f.name: getattr(self, f.name) * factor for f in fields(self)})

    def in_words(self) -> str:
        """The shares of the kinds, and what is recomputed on top."""
        kinds = {
            "matrix products": self.products,
            "convolutions": self.convolutions,
            "attention": self.self_attention + self.cross_attention,
        }
        kinds["recomputed on top"] = self.recomputed
        shares = {name: value / max(self.model, 1.0) for name, value in kinds.items()}
        return ", ".join(f"{name} {share:.0%}" for name, share in shares.items() if share >= 0.005)


class OperationCount(TorchDispatchMode):
    """Context that counts the operations inside, on values or on shapes alone.

    Elementwise work, norms, sums and Fourier transforms are not counted, by the convention of model FLOPs
    utilisation (Chowdhery et al. 2022, arXiv:2204.02311, appendix B).

    Attributes:
        counted: so far.
    """

    def __init__(self) -> None:
        super().__init__()
        self.counted = Operations()
        self._is_backward = False

    @contextmanager
    def backward_pass(self) -> Iterator[None]:
        """Context of a backward pass, in which whatever builds a graph is done again."""
        self._is_backward = True
        try:
            yield
        finally:
            self._is_backward = False

    def add(self, kind: str, operations: float, *, recomputed: float = 0.0) -> None:
        """Count operations of a kind, a field of `Operations`."""
        if self._is_backward and torch.is_grad_enabled():
            kind = "recomputed"
        self.counted = self.counted + Operations(**{kind: operations}) + Operations(recomputed=recomputed)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        count = _COUNTED.get(func._overloadpacket)
        if count is not None:
            count(self, args, result)
        return result


def _add_attention(
    count: OperationCount, query: Tensor, key: Tensor, value: Tensor, *, backward: bool
) -> None:
    pairs = math.prod(query.shape[:-1]) * key.shape[-2]
    width, out = query.shape[-1], value.shape[-1]
    once = 2 * pairs * (width + out)
    kind = "self_attention" if query.shape[-2] == key.shape[-2] else "cross_attention"
    # Backward: gradients of queries, keys, values and scores, and the scores again, which are not kept.
    count.add(kind, 2 * once if backward else once, recomputed=2 * pairs * width if backward else 0.0)


def _product(count: OperationCount, args: Sequence[Any], result: Tensor) -> None:
    """(... n k) times (... k m)."""
    count.add("products", 2 * result.numel() * args[0].shape[-1])


def _product_added(count: OperationCount, args: Sequence[Any], result: Tensor) -> None:
    count.add("products", 2 * result.numel() * args[1].shape[-1])


def _convolution(count: OperationCount, args: Sequence[Any], result: Tensor) -> None:
    x, weight, is_transposed = args[0], args[1], args[6]
    count.add("convolutions", _convolved(x if is_transposed else result, weight))


def _convolution_backward(count: OperationCount, args: Sequence[Any], result: Any) -> None:
    gradient, x, weight, is_transposed, wanted = args[0], args[1], args[2], args[7], args[10]
    once = _convolved(x if is_transposed else gradient, weight)
    count.add("convolutions", once * (int(wanted[0]) + int(wanted[1])))


def _convolved(positions: Tensor, weight: Tensor) -> float:
    """Every place in time (and height) of every item meets each number of the weight once."""
    return 2 * positions.shape[0] * math.prod(positions.shape[2:]) * weight.numel()


def _attention(count: OperationCount, args: Sequence[Any], result: Any) -> None:
    _add_attention(count, *args[:3], backward=False)


def _attention_backward(count: OperationCount, args: Sequence[Any], result: Any) -> None:
    _add_attention(count, *args[1:4], backward=True)


_Count = Callable[[OperationCount, Sequence[Any], Any], None]
_COUNTED: dict[Any, _Count] = {
    getattr(torch.ops.aten, name): count
    for name, count in {
        "mm": _product,
        "bmm": _product,
        "addmm": _product_added,
        "baddbmm": _product_added,
        "mv": _product,
        "convolution": _convolution,
        "convolution_backward": _convolution_backward,
        "_scaled_dot_product_flash_attention": _attention,
        "_scaled_dot_product_efficient_attention": _attention,
        "_scaled_dot_product_cudnn_attention": _attention,
        "_scaled_dot_product_flash_attention_for_cpu": _attention,
        "_scaled_dot_product_flash_attention_backward": _attention_backward,
        "_scaled_dot_product_efficient_attention_backward": _attention_backward,
        "_scaled_dot_product_cudnn_attention_backward": _attention_backward,
        "_scaled_dot_product_flash_attention_for_cpu_backward": _attention_backward,
    }.items()
    if hasattr(torch.ops.aten, name)
}
"""Operation of torch -> how it is counted."""
