"""What the operations of a profile are, by their names."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

KINDS: dict[str, str] = {
    "communication between processes": r"nccl|gloo|c10d|all_?reduce|all_?gather|reduce_scatter",
    "loading of data": r"dataloader|pin_memory",
    "optimizer": r"^optimizer\.|_fused_(adam|sgd|adagrad)|multi_tensor_apply|^_foreach_|lerp",
    "attention": r"attention",
    "convolutions": r"conv",
    "matrix products": r"^(mm|addmm|bmm|baddbmm|mv|addmv|_addmm_activation|linear|matmul)$|gemm"
    r"|linear_pointwise",
    "Fourier transforms": r"fft",
    "norms": r"layer_norm|rms_norm|group_norm|batch_norm|weight_norm",
    "copies and casts": r"^(copy_|_to_copy|cat|stack|clone|contiguous|fill_|zero_|constant_pad_nd|index.*"
    r"|gather|masked_fill_?|repeat_interleave|memcpy.*|memset.*)$",
    "sums": r"^(sum|mean|max|min|amax|var|std|std_mean|var_mean|linalg_vector_norm|norm|cumsum|.*softmax.*)$",
    "elementwise": r"^(add|sub|rsub|mul|div|neg|exp|log|sin|cos|tanh|sqrt|rsqrt|pow|silu|gelu|sigmoid"
    r"|softplus|snake|where|clamp|abs|addcmul|addcdiv|reciprocal|threshold|leaky_relu|elu|mse_loss|glu|square)(_|_backward"
    r"|_min)?_?$|^_(swiglu|rotation)(backward)?$",
}
"""Kind -> what matches the names of its operations, without `aten::`; the first kind that matches counts."""

OTHER = "all else"


@dataclass(frozen=True)
class Cost:
    """The time of one kind of operation.

    Attributes:
        name: of the operation, or of a kind.
        seconds: its own time, in all recorded steps.
        calls: how often it ran.
    """

    name: str
    seconds: float
    calls: int


def kind_of(name: str) -> str:
    """The kind of the operation called `name`."""
    plain = name.removeprefix("aten::").removeprefix("torch::").lower()
    return next((kind for kind, pattern in KINDS.items() if re.search(pattern, plain)), OTHER)


def by_kind(costs: Iterable[Cost]) -> list[Cost]:
    """The costs of kinds, the greatest first."""
    totals: dict[str, Cost] = {}
    for cost in costs:
        kind = kind_of(cost.name)
        total = totals.get(kind, Cost(kind, 0.0, 0))
        totals[kind] = Cost(kind, total.seconds + cost.seconds, total.calls + cost.calls)
    return sorted(totals.values(), key=lambda cost: -cost.seconds)
