"""Faster inference of convolutional coders on a CPU, with the same results and less memory.

What `fast_inference` changes within its block:

- weights are normalised once, not at every call, and stored in the layout of oneDNN;
- activations are stored frame by frame (b n c), as 2-D "channels last", the layout of oneDNN's convolutions;
  (b c n) would be rearranged at every layer;
- a transposed convolution of kernel 2s and stride s is a convolution of kernel 2 with s times the channels,
  whose output, frame by frame, is the longer signal already;
- activation and convolution, and whole residual units, process the length in tiles that stay in the cache,
  and residual units overwrite their input.

On other devices it changes nothing: their libraries choose layouts themselves.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stable_audio.nn.snake import Snake, SnakeBeta, snake_
from stable_audio.pretransforms import dac, oobleck
from stable_audio.pretransforms.conv import WNConv1d, WNConvTranspose1d

_TILE_VALUES = 2**19  # 2 MB in float32: about the second-level cache
_TILE_FRAMES = 1024  # minimum, since oneDNN rearranges the weight at every call

_UNITS: dict[type[nn.Module], str] = {oobleck.ResidualUnit: "layers", dac.ResidualUnit: "block"}
"""Residual units -> attribute with activation, convolution, activation, 1x1 convolution."""

Replaced = list[tuple[nn.Sequential, int, nn.Module]]

_ONE_THREAD = threading.RLock()
"""Serialises the replacement of layers: threads must not see a module half replaced or half restored."""


@contextmanager
def fast_inference(module: nn.Module) -> Iterator[None]:
    """Within the block, the coders inside `module` compute the same to float32 rounding, but faster.

    Layers are replaced by others with a rearranged copy of their weights, and restored at the end, so that
    neither keys nor values of `module` change. It does nothing with gradients enabled, under autocast, off
    the CPU, without oneDNN, or for types other than float32 and, if the processor supports it, bfloat16.
    Blocks may be nested; those of several threads wait for one another. A layer's weight is rearranged at its
    first call, which costs about as much as normalising it.
    """
    with ExitStack() as stack:
        # Lock before inspecting: a module in use by another thread lacks its parameters.
        stack.enter_context(_ONE_THREAD)
        if _is_applicable(module):
            replaced: Replaced = []
            stack.callback(_put_back, replaced)
            _replace_below(module, replaced)
        else:
            stack.close()
        yield


def _put_back(replaced: Replaced) -> None:
    for parent, index, layer in replaced:
        parent[index] = layer


def _is_applicable(module: nn.Module) -> bool:
    parameter = next(module.parameters(), None)
    if any(type(p) is not nn.Parameter for p in module.parameters()):  # parts of weights that are split
        return False
    if parameter is None or parameter.device.type != "cpu" or not torch.backends.mkldnn.is_available():
        return False
    if parameter.untyped_storage().device.type == "meta":  # tensors without values, whose memory is planned
        return False
    if torch.is_grad_enabled() or torch.is_autocast_enabled("cpu"):
        return False
    if parameter.dtype == torch.bfloat16:
        return torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return parameter.dtype == torch.float32


def _replace_below(module: nn.Module, replaced: Replaced) -> None:
    children = module if isinstance(module, nn.Sequential) else module.children()
    for index, child in enumerate(list(children)):
        if not isinstance(module, nn.Sequential) or not _replace(module, index, replaced):
            _replace_below(child, replaced)


def _replace(parent: nn.Sequential, index: int, replaced: Replaced) -> bool:
    """Replace one layer, with the activation before it, if there is a faster one."""
    layer: Any = parent[index]
    if type(layer) in _UNITS:
        _set_layer(parent, index, _FastUnit(layer.get_submodule(_UNITS[type(layer)])), replaced)
        return True
    if not _is_plain(layer):
        return False
    activate = _in_place(parent[index - 1] if index else None)
    if activate is not _identity:
        _set_layer(parent, index - 1, nn.Identity(), replaced)
    fast = _FastUpsampler if isinstance(layer, WNConvTranspose1d) else _FastConv
    _set_layer(parent, index, fast(layer, activate), replaced)
    return True


def _set_layer(parent: nn.Sequential, index: int, layer: nn.Module, replaced: Replaced) -> None:
    replaced.append((parent, index, parent[index]))
    parent[index] = layer


def _is_plain(layer: nn.Module) -> bool:
    """Whether the layer is one of the convolutions below, and not a variant with other padding."""
    if type(layer) is WNConv1d:
        return layer.padding_mode == "zeros" and not isinstance(layer.padding, str)
    if type(layer) is WNConvTranspose1d:
        twice = layer.kernel_size[0] == 2 * layer.stride[0]
        return twice and layer.groups == 1 and layer.dilation == (1,) and layer.output_padding == (0,)
    return False


Activation = Callable[[Tensor], Tensor]


def _identity(x: Tensor) -> Tensor:
    return x


def _in_place(layer: nn.Module | None) -> Activation:
    """The activation on (b n c), which may overwrite its argument and maps 0 to 0; otherwise the identity."""
    if isinstance(layer, nn.ELU):
        return lambda x: F.elu_(x, layer.alpha)
    if isinstance(layer, (Snake, SnakeBeta)):
        frequency, inverse = (c.detach().float().flatten() for c in layer.coefficients())

        def activate(x: Tensor) -> Tensor:
            # Large phases need float32, whatever the type of x.
            return snake_(x.float(), frequency, inverse).to(x.dtype)

        return activate
    return _identity


class _FrameConv:
    """A convolution without padding on frames (b n c)."""

    def __init__(
        self, taps: Tensor, bias: Tensor | None, *, stride: int = 1, dilation: int = 1, groups: int = 1
    ) -> None:
        """Prepare the weight.

        Args:
            taps: the weight (out, kernel, in / groups), contiguous in this order.
            bias: (out,), or None.
            stride: stride of the convolution.
            dilation: dilation of the convolution.
            groups: groups of channels.
        """
        self.weight = taps.detach().contiguous().transpose(1, 2).unsqueeze(2)
        self.bias = None if bias is None else bias.detach()
        self.stride, self.dilation, self.groups = stride, dilation, groups
        self.reach = dilation * (taps.shape[1] - 1) + 1
        self.values_per_frame = max(taps.shape[0], taps.shape[2] * groups * stride)

    def __call__(self, frames: Tensor) -> Tensor:
        picture = frames.transpose(1, 2).unsqueeze(2)
        # conv2d would not use oneDNN for 1x1 kernels on a single thread.
        frames_out = torch.mkldnn_convolution(
            picture, self.weight, self.bias, (0, 0), (1, self.stride), (1, self.dilation), self.groups
        )
        return frames_out.squeeze(2).transpose(1, 2)

    def tile(self, batch: int) -> int:
        """Number of output frames per tile."""
        return max(_TILE_FRAMES, _TILE_VALUES // (batch * self.values_per_frame))


def _kernel_of(layer: Any) -> _FrameConv:
    return _FrameConv(
        layer.effective_weight().transpose(1, 2),
        layer.bias,
        stride=layer.stride[0],
        dilation=layer.dilation[0],
        groups=layer.groups,
    )


def _upsampling_kernel_of(layer: WNConvTranspose1d) -> _FrameConv:
    stride, bias = layer.stride[0], layer.bias
    weight = layer.effective_weight().detach()  # (i o 2s)
    rows = weight.flatten(1).t().contiguous().unflatten(0, (-1, 2, stride))  # (o 2 s i), by one transposition
    taps = rows.new_empty(stride, rows.shape[0], 2, rows.shape[3])
    taps[:, :, 0], taps[:, :, 1] = rows[:, 1].transpose(0, 1), rows[:, 0].transpose(0, 1)
    return _FrameConv(taps.flatten(0, 1), None if bias is None else bias.repeat(stride))


def _window(frames: Tensor, start: int, stop: int) -> Tensor:
    """A copy of the frames start to stop, with zeros outside of the signal."""
    length = frames.shape[1]
    inside = frames[:, max(start, 0) : min(stop, length)]
    return F.pad(inside, (0, 0, max(-start, 0), max(stop - length, 0)))


class _FastConv(nn.Module):
    """Activation and convolution, (b c n) -> (b c' n'), stored frame by frame."""

    def __init__(self, layer: WNConv1d, activate: Activation) -> None:
        super().__init__()
        self.activate, self.padding = activate, int(layer.padding[0])
        self.kernel = cache(lambda: _kernel_of(layer))

    def forward(self, x: Tensor) -> Tensor:
        return _convolve(x.transpose(1, 2), self.kernel(), self.padding, self.activate).transpose(1, 2)


class _FastUpsampler(nn.Module):
    """Activation and transposed convolution of kernel 2s and stride s.

    y[t s + r] = w[r] x[t] + w[r + s] x[t - 1]: phase r of the output is a convolution with two taps.
    """

    def __init__(self, layer: WNConvTranspose1d, activate: Activation) -> None:
        super().__init__()
        self.activate, self.stride, self.crop = activate, layer.stride[0], int(layer.padding[0])
        self.kernel = cache(lambda: _upsampling_kernel_of(layer))

    def forward(self, x: Tensor) -> Tensor:
        phases = _convolve(x.transpose(1, 2), self.kernel(), 1, self.activate)
        longer = phases.reshape(phases.shape[0], phases.shape[1] * self.stride, -1)
        return longer[:, self.crop : longer.shape[1] - self.crop].transpose(1, 2)


def _convolve(frames: Tensor, kernel: _FrameConv, padding: int, activate: Activation) -> Tensor:
    batch, length, _ = frames.shape
    count = (length + 2 * padding - kernel.reach) // kernel.stride + 1

    def output(start: int, stop: int) -> Tensor:
        first = start * kernel.stride - padding
        piece = _window(frames, first, (stop - 1) * kernel.stride - padding + kernel.reach)
        return kernel(activate(piece))

    tile = kernel.tile(batch)
    if count <= tile:
        return output(0, count)
    out = frames.new_empty(batch, count, kernel.weight.shape[0])
    for start in range(0, count, tile):
        out[:, start : start + tile] = output(start, min(start + tile, count))
    return out


class _FastUnit(nn.Module):
    """A residual unit that writes its sum over its input.

    Every unit follows a convolution or another unit, which no longer need their output.
    """

    def __init__(self, layers: nn.Module) -> None:
        super().__init__()
        first, wide, second, narrow = layers.children()
        self.first, self.second = _in_place(first), _in_place(second)
        self.kernels = cache(lambda: (_kernel_of(wide), _kernel_of(narrow)))

    def forward(self, x: Tensor) -> Tensor:
        frames = x.transpose(1, 2)
        frames = frames if frames.stride(2) == 1 else frames.contiguous()
        batch, length, channels = frames.shape
        wide, narrow = self.kernels()
        halo = (wide.reach - 1) // 2
        tile = max(halo, wide.tile(batch))
        zeros = frames.new_zeros(batch, halo, channels)
        before = zeros  # the end of the previous tile, before the sum was added
        for start in range(0, length, tile):
            stop = min(start + tile, length)
            after = zeros[:, : max(stop + halo - length, 0)]
            piece = torch.cat([before, frames[:, start : stop + halo], after], dim=1)
            before = piece[:, stop - start : stop - start + halo].clone()
            frames[:, start:stop] += narrow(self.second(wide(self.first(piece))))
        return frames.transpose(1, 2)
