"""Layers of DAU1d. Module names are the keys of published checkpoints."""

from __future__ import annotations

from types import MappingProxyType

import torch
from torch import Tensor, nn

from stable_audio.nn.checkpointing import Checkpointed
from stable_audio.nn.fused import fused_attention
from stable_audio.nn.snake import SnakeBeta


class ConvBlock(Checkpointed):
    """Two convolutions with GroupNorm(1) and activation, plus a skip: (b c_in n) -> (b c_out n).

    The last block of the network has neither norm nor activation after its second convolution.
    """

    def __init__(
        self, c_in: int, c_mid: int, c_out: int, *, kernel: int, bias: bool, snake: bool, last: bool = False
    ) -> None:
        super().__init__()

        def conv(i: int, o: int) -> nn.Conv1d:
            return nn.Conv1d(i, o, kernel, padding=kernel // 2, bias=bias)

        def activation(c: int) -> nn.Module:
            return SnakeBeta(c) if snake else nn.GELU()

        layers: list[nn.Module] = [conv(c_in, c_mid), nn.GroupNorm(1, c_mid), activation(c_mid)]
        layers.append(conv(c_mid, c_out))
        if not last:
            layers += [nn.GroupNorm(1, c_out), activation(c_out)]
        self.main = nn.Sequential(*layers)
        self.skip = nn.Identity() if c_in == c_out else nn.Conv1d(c_in, c_out, 1, bias=False)

    def compute(self, x: Tensor) -> Tensor:
        return self.main(x) + self.skip(x)


class SelfAttention(Checkpointed):
    """Full self-attention over n with heads of 32 channels, added to the input: (b c n) -> (b c n)."""

    stacked_matrices = MappingProxyType({"qkv_proj": 3})

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.heads = max(1, channels // 32)
        if channels % self.heads:
            raise ValueError(
                f"attention levels need channels that divide into {self.heads} heads, found {channels}"
            )
        self.norm = nn.GroupNorm(1, channels)
        self.qkv_proj = nn.Conv1d(channels, 3 * channels, 1)
        self.out_proj = nn.Conv1d(channels, channels, 1)

    def compute(self, x: Tensor) -> Tensor:
        b, c, n = x.shape
        qkv = self.qkv_proj(self.norm(x)).view(b, 3, self.heads, c // self.heads, n)
        q, k, v = qkv.transpose(-1, -2).unbind(1)
        y = fused_attention(q, k, v)
        return x + self.out_proj(y.transpose(-1, -2).reshape(b, c, n))


class SkipConcat(nn.Module):
    """Inner layers whose output is concatenated with their input."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.main = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.main(x), x], dim=1)
