"""Weights in 8 or 4 bits for inference: smaller and, in 8 bits where a processor has them, faster.

In 8 bits weights are quantised per output channel, activations at each call, so no calibration is needed.
Norms, attention products, embeddings, transposed convolutions and small layers stay as they are.

In 4 bits the weights of linear layers have a scale for every 32 inputs, as frozen weights in training do (see
`stable_audio.nn.held`), and are widened for each product: an eighth of their memory and its scales, on any
device, at some cost in time.
"""

from __future__ import annotations

import copy
import threading
import warnings
from functools import cache
from itertools import chain
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stable_audio.backbones.adp.conv import PaddedConv1d
from stable_audio.nn.feedforward import PointwiseConv
from stable_audio.nn.held import can_hold, hold
from stable_audio.nn.linear import Linear
from stable_audio.optim.torchao_classes import importing

Kernels = Literal["torch", "torchao", "int4"]

_ONE_THREAD = threading.Lock()
"""Held while a weight is packed, because that sets torch's engine, which all threads share."""


def quantized(module: nn.Module, *, method: Kernels = "torch", min_weights: int = 4096) -> nn.Module:
    """A copy of `module` in eval mode, on the CPU, whose large layers have weights in 8 or 4 bits.

    Args:
        method: `torch`: linear layers and convolutions, with torch's own int8 kernels; `torchao`: linear
            layers, with the torchao package (extra `[quantize]`); `int4`: linear layers in 4 bits, which
            that package rounds.
        min_weights: layers with fewer weights stay as they are.

    Raises:
        ImportError: torchao is needed and not installed.
    """
    if method not in METHODS:
        raise ValueError(f"method must be one of {sorted(METHODS)}, found '{method}'")
    copied = copy.deepcopy(module).cpu().float().eval().requires_grad_(False)
    return METHODS[method](copied, min_weights)


def hold_in_4_bits(module: nn.Module, min_weights: int = 4096) -> nn.Module:
    """Round the weights of large linear layers to 4 bits, in place.

    Raises:
        ImportError: torchao, which rounds, is not installed.
    """
    for layer in list(module.modules()):
        if can_hold(layer, 4) and _is_large(layer, min_weights):
            hold(layer, 4)
    return module


def weight_bytes(module: nn.Module) -> int:
    """Bytes of the parameters and buffers that `module` holds."""
    tensors = {id(v): v for v in chain(module.parameters(), module.buffers())}
    return sum(_bytes(value) for value in tensors.values())


def _bytes(value: Tensor) -> int:
    if type(value) in (Tensor, nn.Parameter):
        return value.numel() * value.element_size()
    names, _ = value.__tensor_flatten__()  # type: ignore[attr-defined]
    return sum(_bytes(getattr(value, n)) for n in names)


def _with_torch(module: nn.Module, min_weights: int) -> nn.Module:
    for name, child in module.named_children():
        build = _REPLACEMENTS.get(type(child))
        if build is not None and _is_large(child, min_weights) and not _is_grouped(child):
            setattr(module, name, build(child))
        else:
            _with_torch(child, min_weights)
    return module


def _with_torchao(module: nn.Module, min_weights: int) -> nn.Module:
    with importing("torchao.quantization", needed_by="a model in 8 bits"):
        from torchao.quantization import Int8DynamicActivationInt8WeightConfig, quantize_

    def is_large_linear(child: nn.Module, _: str) -> bool:
        return isinstance(child, nn.Linear) and _is_large(child, min_weights)

    quantize_(module, Int8DynamicActivationInt8WeightConfig(), filter_fn=is_large_linear)
    return module


def _is_large(layer: Any, min_weights: int) -> bool:
    return layer.weight.numel() >= min_weights


def _is_grouped(layer: Any) -> bool:
    return getattr(layer, "groups", 1) != 1 or getattr(layer, "padding_mode", "zeros") != "zeros"


class Int8Matrix(nn.Module):
    """A weight (out in) as int8 with one scale per row, and its bias.

    The packed form for torch's kernel is made at the first call and is no part of the state.
    """

    weight_int8: Tensor
    scale: Tensor
    bias: Tensor | None

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        scale = weight.abs().amax(dim=1).clamp(min=1e-12) / 127
        self.register_buffer("scale", scale)
        self.register_buffer("weight_int8", (weight / scale[:, None]).round().to(torch.int8))
        self.register_buffer("bias", None if bias is None else bias.detach().clone())
        self._packed: Any = None

    def multiply(self, x: Tensor) -> Tensor:
        """x (... in) -> (... out)."""
        if self._packed is None:
            with _ONE_THREAD:
                self._packed = _packed(self.weight_int8, self.scale, self.bias)
        product = torch.ops.quantized.linear_dynamic(
            x.float(), self._packed, reduce_range=_saturates(self.weight_int8.device)
        )
        return product.to(x.dtype)

    def dequantized(self) -> Tensor:
        """The weight (out in) in float32."""
        return self.weight_int8.float() * self.scale[:, None]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_packed": None}


class Int8Linear(Int8Matrix):
    """Replaces nn.Linear, and the 1x1 convolution that works like one."""

    def __init__(self, layer: nn.Linear | PointwiseConv) -> None:
        super().__init__(layer.weight.detach().flatten(1), layer.bias)

    @property
    def weight(self) -> Tensor:
        return self.dequantized()

    def forward(self, x: Tensor) -> Tensor:
        return self.multiply(x)


class Int8Conv(Int8Matrix):
    """Replaces nn.Conv1d and nn.Conv2d: patches of the input, then one matrix product."""

    def __init__(self, layer: nn.Conv1d | nn.Conv2d) -> None:
        super().__init__(layer.weight.detach().flatten(1), layer.bias)
        self.shape = layer.weight.shape
        self.one_dimensional = isinstance(layer, nn.Conv1d)
        height_one = (1,) if self.one_dimensional else ()
        self.kernel_size = (*height_one, *layer.kernel_size)
        self.stride = (*height_one, *layer.stride)
        self.dilation = (*height_one, *layer.dilation)
        before, after = _padding(layer)
        height_zero = (0,) if self.one_dimensional else ()
        self.before, self.after = (*height_zero, *before), (*height_zero, *after)

    @property
    def weight(self) -> Tensor:
        return self.dequantized().view(self.shape)

    def forward(self, x: Tensor) -> Tensor:
        x = x.unsqueeze(2) if self.one_dimensional else x
        (top, left), (bottom, right) = self.before, self.after
        x = F.pad(x, (left, right, top, bottom))
        size = [
            (n - d * (k - 1) - 1) // s + 1
            for n, d, k, s in zip(x.shape[2:], self.dilation, self.kernel_size, self.stride)
        ]
        patches = F.unfold(x, self.kernel_size, dilation=self.dilation, stride=self.stride)
        y = self.multiply(patches.transpose(1, 2)).transpose(1, 2).unflatten(2, size)
        return y.squeeze(2) if self.one_dimensional else y


def _padding(layer: nn.Conv1d | nn.Conv2d) -> tuple[tuple[int, ...], tuple[int, ...]]:
    if isinstance(layer, PaddedConv1d):
        total = layer.kernel_size[0] - layer.stride[0]
        return (total - total // 2,), (total // 2,)
    if not isinstance(layer.padding, str):
        return tuple(layer.padding), tuple(layer.padding)
    wide = [d * (k - 1) if layer.padding == "same" else 0 for d, k in zip(layer.dilation, layer.kernel_size)]
    return tuple(w // 2 for w in wide), tuple(w - w // 2 for w in wide)


@cache
def _saturates(device: torch.device) -> bool:
    """Whether the kernel adds pairs of products in 16 bits, as CPUs without VNNI do.

    Two products of 8 bits overflow them, so that the sum is cut off: inputs may have 7 bits then.
    """
    size = 64
    weight = torch.full((size, size), 127, dtype=torch.int8, device=device)
    with _ONE_THREAD:
        packed = _packed(weight, torch.full((size,), 1 / 127, device=device), None)
    product = torch.ops.quantized.linear_dynamic(torch.ones(size, size, device=device), packed)
    return bool((product < 0.9 * size).any())


def _packed(weight: Tensor, scale: Tensor, bias: Tensor | None) -> Any:
    """torch's packed int8 weight, made by the fastest engine of this build."""
    backends = torch.backends.quantized
    before = backends.engine
    engine = next(
        (e for e in ("onednn", "x86", "fbgemm", "qnnpack") if e in backends.supported_engines), None
    )
    if engine is None:
        raise RuntimeError("this build of torch has no int8 kernels for the CPU")
    zeros = torch.zeros(len(scale), dtype=torch.long)
    with warnings.catch_warnings():
        # Quantised tensors are deprecated as a type, but the kernel takes its weight as one.
        warnings.simplefilter("ignore")
        quantised = torch._make_per_channel_quantized_tensor(weight, scale.double(), zeros, 0)
    try:
        backends.engine = engine
        return torch.ops.quantized.linear_prepack(quantised, bias)
    finally:
        backends.engine = before


_REPLACEMENTS: dict[type, Any] = {
    nn.Linear: Int8Linear,
    Linear: Int8Linear,
    PointwiseConv: Int8Linear,
    nn.Conv1d: Int8Conv,
    nn.Conv2d: Int8Conv,
    PaddedConv1d: Int8Conv,
}
METHODS = {"torch": _with_torch, "torchao": _with_torchao, "int4": hold_in_4_bits}
