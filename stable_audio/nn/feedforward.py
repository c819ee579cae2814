"""The transformer's feed-forward network."""

from __future__ import annotations

import math
from dataclasses import dataclass
from types import MappingProxyType

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stable_audio.nn.checks import check_positive
from stable_audio.nn.linear import Linear
from stable_audio.nn.swiglu import swiglu


@dataclass(frozen=True)
class FeedForwardOptions:
    """Options of the feed-forward network.

    Attributes:
        mult: inner features per feature.
        no_bias: omit the biases, except that of the gated input projection, as in published checkpoints.
        glu: gate the inner features (SwiGLU; Shazeer, 2020); otherwise SiLU alone.
        use_conv: convolutions over time instead of the output layer and, without glu, of the input layer.
        conv_kernel_size: kernel size of these convolutions; odd.
        sinusoidal: sin(pi x) instead of SiLU.
        zero_init_output: start the output at zero; None: as the transformer's zero_init_branch_outputs.
    """

    mult: float = 4
    no_bias: bool = False
    glu: bool = True
    use_conv: bool = False
    conv_kernel_size: int = 3
    sinusoidal: bool = False
    zero_init_output: bool | None = None


class Sine(nn.Module):
    """sin(pi x)."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.sin(math.pi * x)


class GLU(nn.Module):
    """[a | g] = proj(x); a * activation(g)."""

    stacked_matrices = MappingProxyType({"proj": 2})

    def __init__(self, dim_in: int, dim_out: int, activation: nn.Module) -> None:
        super().__init__()
        self.activation = activation
        self.proj = Linear(dim_in, dim_out * 2)

    def forward(self, x: Tensor) -> Tensor:
        proj: nn.Module = self.proj  # another one where weights are quantised
        swish = type(self.activation) is nn.SiLU
        if swish and isinstance(proj, Linear) and proj.is_plain and proj.takes_onednn(x):
            return proj.swiglu(x)
        projected = self.proj(x)
        if swish:
            return swiglu(projected)
        value, gate = projected.chunk(2, dim=-1)
        return value * self.activation(gate)


class ConvOverTokens(nn.Conv1d):
    """Conv1d on (b n d) that keeps n."""

    def __init__(self, dim_in: int, dim_out: int, kernel_size: int, *, bias: bool) -> None:
        if kernel_size % 2 == 0:
            raise ValueError(
                f"ff_kwargs.conv_kernel_size is {kernel_size}; it must be odd to keep the length"
            )
        super().__init__(dim_in, dim_out, kernel_size, padding=kernel_size // 2, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.transpose(1, 2)).transpose(1, 2)


class PointwiseConv(nn.Conv1d):
    """A 1x1 convolution on (b n d), which is a linear layer with a convolution's weight (d' d 1)."""

    def __init__(self, dim_in: int, dim_out: int) -> None:
        super().__init__(dim_in, dim_out, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight.squeeze(-1))


class FeedForward(nn.Module):
    """Expand, activate, contract.

    Args:
        dim: features in and out.
        zero_init_output: whether the output starts at zero, unless the options say.
    """

    def __init__(
        self,
        dim: int,
        *,
        options: FeedForwardOptions = FeedForwardOptions(),
        zero_init_output: bool = True,
    ) -> None:
        super().__init__()
        check_positive(**{"ff_kwargs.mult": options.mult})
        inner, bias = int(dim * options.mult), not options.no_bias
        activation = Sine() if options.sinusoidal else nn.SiLU()
        # Indices are checkpoint keys: 0 expands (inside it 1 is the projection without glu), 2 contracts.
        if options.glu:
            expand: nn.Module = GLU(dim, inner, activation)
        else:
            expand = nn.Sequential(nn.Identity(), _projection(dim, inner, options, bias), activation)
        contract = _projection(inner, dim, options, bias)
        if options.zero_init_output if options.zero_init_output is not None else zero_init_output:
            for parameter in contract.parameters():
                nn.init.zeros_(parameter)
        self.ff = nn.Sequential(expand, nn.Identity(), contract)

    def forward(self, x: Tensor) -> Tensor:
        """(b n d) -> (b n d)."""
        return self.ff(x)


def _projection(dim_in: int, dim_out: int, options: FeedForwardOptions, bias: bool) -> nn.Module:
    if options.use_conv:
        return ConvOverTokens(dim_in, dim_out, options.conv_kernel_size, bias=bias)
    return Linear(dim_in, dim_out, bias=bias)


class ConformerConv(nn.Module):
    """The convolution module of the Conformer (Gulati et al., 2020), with layer norms."""

    def __init__(self, dim: int, norm: nn.Module, mid_norm: nn.Module, *, kernel_size: int = 17) -> None:
        super().__init__()
        self.in_norm = norm
        self.pointwise_conv = PointwiseConv(dim, dim)
        self.glu = GLU(dim, dim, nn.SiLU())
        self.depthwise_conv = nn.Conv1d(
            dim, dim, kernel_size, padding=kernel_size // 2, groups=dim, bias=False
        )
        self.mid_norm = mid_norm
        self.pointwise_conv_2 = PointwiseConv(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """(b n d) -> (b n d), without the residual."""
        x = self.glu(self.pointwise_conv(self.in_norm(x)))
        x = self.depthwise_conv(x.transpose(1, 2)).transpose(1, 2)
        return self.pointwise_conv_2(F.silu(self.mid_norm(x)))
