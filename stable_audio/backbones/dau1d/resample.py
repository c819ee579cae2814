"""Change of rate between the levels of DAU1d: fixed cubic filters, or learned strided convolutions.

The fixed filters are Keys' cubic convolution (a = -1/2) stretched to the stride, R. Keys, "Cubic
convolution interpolation for digital image processing", 1981. Lengths divide by (multiply by) the stride.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def cubic_kernel(stride: int) -> Tensor:
    """Taps of the low-pass for `stride`: 4 * stride of them (one fewer for odd strides), sum 1.

    Tap k sits at distance (k - centre) / stride from the centre of a block of `stride` samples.
    """
    taps = 4 * stride - stride % 2
    x = ((torch.arange(taps, dtype=torch.float64) - (taps - 1) / 2) / stride).abs()
    near = 1.5 * x**3 - 2.5 * x**2 + 1
    far = -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
    return (torch.where(x <= 1, near, torch.where(x < 2, far, torch.zeros_like(x))) / stride).float()


def reflect_pad(x: Tensor, amount: int) -> Tensor:
    """Reflect `amount` samples at both ends; short signals are reflected repeatedly."""
    n = x.shape[-1]
    if amount < n:
        return F.pad(x, (amount, amount), mode="reflect")
    if n == 1:
        return F.pad(x, (amount, amount), mode="replicate")
    index = torch.arange(-amount, n + amount, device=x.device) % (2 * (n - 1))
    return x[..., torch.where(index < n, index, 2 * (n - 1) - index)]


class CubicDownsample(nn.Module):
    """(b c n) -> (b c n / stride), no parameters."""

    kernel: Tensor

    def __init__(self, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.register_buffer("kernel", cubic_kernel(stride))
        self.pad = (len(self.kernel) - stride) // 2

    def forward(self, x: Tensor) -> Tensor:
        c = x.shape[1]
        kernel = self.kernel.to(x.dtype).expand(c, 1, -1)
        return F.conv1d(reflect_pad(x, self.pad), kernel, stride=self.stride, groups=c)


class CubicUpsample(nn.Module):
    """(b c n) -> (b c n * stride), no parameters; the kernel sums to the stride to keep the level."""

    kernel: Tensor

    def __init__(self, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.register_buffer("kernel", cubic_kernel(stride) * stride)
        self.trim = (3 * stride + len(self.kernel)) // 2

    def forward(self, x: Tensor) -> Tensor:
        c = x.shape[1]
        kernel = self.kernel.to(x.dtype).expand(c, 1, -1)
        padded = reflect_pad(x, 2)
        return F.conv_transpose1d(padded, kernel, stride=self.stride, padding=self.trim, groups=c)


def downsample(channels: int, stride: int, learned: bool) -> nn.Module:
    """(b c n) -> (b c n / stride)."""
    if not learned:
        return CubicDownsample(stride)
    return nn.Conv1d(channels, channels, 2 * stride + 1, stride=stride, padding=stride)


def upsample(channels: int, stride: int, learned: bool) -> nn.Module:
    """(b c n) -> (b c n * stride)."""
    if not learned:
        return CubicUpsample(stride)
    if stride == 1:
        return nn.Conv1d(channels, channels, 3, padding=1)
    odd = stride % 2
    return nn.ConvTranspose1d(
        channels, channels, 2 * stride, stride=stride, padding=stride // 2 + odd, output_padding=odd
    )
