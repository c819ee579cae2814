"""Linear layers that take the faster library for their product where a network only computes."""

from __future__ import annotations

import functools
import platform
from pathlib import Path

import torch
from torch import Tensor, nn

from stable_audio.nn.gradients import has_values, is_only_computed

LEAST_WEIGHTS = 2**18
LEAST_ROWS = 128
"""Smaller products gain nothing."""


class Linear(nn.Linear):
    """As torch's, but without gradients large products on a CPU may be those of oneDNN.

    torch calls MKL for those in float32, which take up to a third longer on processors of other makers, and
    to which biases and activations are not added on the way. Products in bfloat16 are oneDNN's in any case;
    here it adds those. Results differ by rounding; `torch.backends.mkldnn.set_flags(False)` turns it off.
    """

    def __init__(self, in_features: int, out_features: int, bias: bool = True) -> None:
        super().__init__(in_features, out_features, bias=bias)
        self.onednn_is_faster = onednn_is_faster()

    def forward(self, x: Tensor) -> Tensor:
        if self.takes_onednn(x):
            return torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, "none", [], "")
        return super().forward(x)

    def takes_onednn(self, x: Tensor) -> bool:
        """Whether the product with x (... in_features) is oneDNN's."""
        weight = self.weight
        return (
            x.device.type == "cpu"
            and (self.onednn_is_faster if x.dtype == torch.float32 else x.dtype == torch.bfloat16)
            and is_only_computed(x)  # the compiler chooses libraries itself
            and weight.numel() >= LEAST_WEIGHTS
            and x.numel() >= LEAST_ROWS * weight.shape[1]
            and x.dtype == weight.dtype
            and weight.device.type == "cpu"
            and type(weight) in (Tensor, nn.Parameter)
            and not torch.is_autocast_enabled("cpu")
            and _only_computes(weight)
            and (x.dtype == torch.float32 or has_bfloat16())
        )

    @property
    def is_plain(self) -> bool:
        """Whether nothing changes or watches its output: no adapter, no hook."""
        return type(self) is Linear and not self._forward_hooks and not self._forward_pre_hooks

    def swiglu(self, x: Tensor) -> Tensor:
        """[a | g] = forward(x); a silu(g), by oneDNN, which applies both to the products."""
        half = self.out_features // 2
        weights = self.weight.split(half)
        biases = (None, None) if self.bias is None else self.bias.split(half)
        gate = torch.ops.mkldnn._linear_pointwise(x, weights[1], biases[1], "swish", [], "")
        return torch.ops.mkldnn._linear_pointwise.binary(x, gate, weights[0], biases[0], "mul")


def _only_computes(weight: Tensor) -> bool:
    """Whether nothing counts operations, plans memory by shapes alone, or has turned oneDNN off."""
    return torch._C._get_mkldnn_enabled() and torch._C._len_torch_dispatch_stack() == 0 and has_values(weight)


@functools.cache
def onednn_is_faster() -> bool:
    """Whether products of torch are MKL's, and the processor is one that MKL was not written for."""
    if not (torch.backends.mkl.is_available() and torch.backends.mkldnn.is_available()):
        return False
    info = Path("/proc/cpuinfo")
    maker = info.read_text(errors="replace")[:4096] if info.is_file() else platform.processor()
    return "AuthenticAMD" in maker


def has_bfloat16() -> bool:
    """Whether oneDNN has products in bfloat16, and the processor has instructions for them.

    With AVX-512 alone oneDNN computes them by others, slower than torch's kernels that convert to float32.
    """
    return _HAS_BFLOAT16


def _found_bfloat16() -> bool:
    if not (torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()):
        return False
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return True
    ask = getattr(torch.cpu, "_is_avx512_bf16_supported", None)  # not in every version of torch
    return ask is not None and ask()


_HAS_BFLOAT16 = _found_bfloat16()  # once, since the compiler cannot look into the question
