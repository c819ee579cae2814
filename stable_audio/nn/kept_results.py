"""Which results selective checkpointing keeps: those that cost more to compute again than to hold.

Korthikanti et al. 2022, arXiv:2205.05198 (section 5), by torch's `create_selective_checkpoint_contexts`.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import CheckpointPolicy, create_selective_checkpoint_contexts

LEAST_TERMS = 256
"""Terms of the sum behind one number of a product. With fewer, such as behind the second product of a
low-rank adapter, a GPU takes no longer for the sums than for writing the results (an H100 makes about 300
products and sums in bfloat16 in the time in which it writes a byte), so that they cost as little as
elementwise results."""


def selective_contexts() -> tuple[AbstractContextManager[Any], AbstractContextManager[Any]]:
    """Contexts of a forward pass and of its repetition, in which results are kept by `keeps`."""
    keeping, repeating = create_selective_checkpoint_contexts(keeps)
    return keeping, _Repetition(repeating)


def keeps(context: Any, operation: Any, *args: Any, **kwargs: Any) -> CheckpointPolicy:
    """Whether the result of an operation of torch is kept: of a product or a convolution with at least
    `LEAST_TERMS` terms, and of fused attention without dropout. All others are computed again: random draws,
    too, all of them in their order, so that they give the same numbers.

    Args:
        context: torch's, not used.
        operation: an overload of an operation, with its arguments.
    """
    terms = _TERMS.get(getattr(operation, "_overloadpacket", operation))
    if terms is not None:
        kept = terms(*args) >= LEAST_TERMS
    else:
        kept = _is_attention(operation) and not _drops_out(operation, args, kwargs)
    return CheckpointPolicy.MUST_SAVE if kept else CheckpointPolicy.PREFER_RECOMPUTE


class _Repetition(TorchDispatchMode):
    """Torch's context of a repetition, for the operations alone whose results may have been kept.

    There may be more of others than before: autocast casts a weight again that the network has used before
    the block, and then found cast; weights that come and go are brought again, and gathered again.
    """

    def __init__(self, repeating: TorchDispatchMode) -> None:
        super().__init__()
        self.repeating = repeating

    @classmethod
    def ignore_compile_internals(cls) -> bool:
        return True

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if _may_be_kept(func):
            return self.repeating.__torch_dispatch__(func, types, args, kwargs)
        return func(*args, **(kwargs or {}))


def _of_first(matrix: Tensor, *_: Any) -> int:
    return matrix.shape[-1]


def _of_second(_: Any, matrix: Tensor, *__: Any) -> int:
    return matrix.shape[-1]


def _of_convolution(x: Tensor, weight: Tensor, *rest: Any) -> int:
    is_transposed, groups = rest[4], rest[6]
    outputs = weight.shape[1] * groups if is_transposed else weight.shape[0]
    return weight.numel() // outputs


_TERMS: dict[Any, Callable[..., int]] = {
    torch.ops.aten.mm: _of_first,
    torch.ops.aten.bmm: _of_first,
    torch.ops.aten.mv: _of_first,
    torch.ops.aten._scaled_mm: _of_first,
    torch.ops.aten._int_mm: _of_first,
    torch.ops.aten.addmm: _of_second,
    torch.ops.aten.baddbmm: _of_second,
    torch.ops.aten.addmv: _of_second,
    torch.ops.aten.convolution: _of_convolution,
}
"""Operation of torch -> terms of the sum behind one number of its result."""


def _may_be_kept(operation: Any) -> bool:
    return getattr(operation, "_overloadpacket", operation) in _TERMS or _is_attention(operation)


def _is_attention(operation: Any) -> bool:
    """Kernels of torch and of other packages, such as `flash_attn::_flash_attn_forward`."""
    name = operation.name() if callable(getattr(operation, "name", None)) else str(operation)
    return "attention" in name or "attn" in name


def _drops_out(operation: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    schema = getattr(operation, "_schema", None)
    names = [argument.name for argument in schema.arguments] if schema is not None else []
    given = {**dict(zip(names, args)), **kwargs}
    return bool(given.get("dropout_p", 0.0) > 0)
