"""Which kernels attention runs on."""

from __future__ import annotations

from collections import Counter
from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode


class AttentionKernels(TorchDispatchMode):
    """Counts fused attention calls, and the softmaxes that show products with the whole matrix instead."""

    def __init__(self) -> None:
        super().__init__()
        self.fused: Counter[str] = Counter()
        self.softmax: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = str(func)
        if "softmax" in name:
            self.softmax[name] += 1
        if name.startswith("aten._scaled_dot_product_"):
            self.fused[name] += 1
        return func(*args, **(kwargs or {}))
