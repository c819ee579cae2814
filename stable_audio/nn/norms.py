"""Normalisation layers. Parameter names (gamma, beta, alpha) are those of published checkpoints."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stable_audio.nn.checks import check_choice

NormType = Literal["layer_norm", "rms_norm", "dyt"]


@dataclass(frozen=True)
class NormOptions:
    """Options of the transformer's norms.

    Attributes:
        bias: learn the shift beta; otherwise it is a buffer of zeros.
        fix_scale: keep the scale gamma at one (a buffer).
        force_fp32: compute in float32, whatever the type of the input.
        eps: added to the variance.
    """

    bias: bool = False
    fix_scale: bool = False
    force_fp32: bool = False
    eps: float = 1e-5


class LayerNorm(nn.Module):
    """Layer norm over the last axis: gamma * (x - mean) / sqrt(var + eps) + beta."""

    gamma: Tensor
    beta: Tensor

    def __init__(self, dim: int, options: NormOptions = NormOptions()) -> None:
        super().__init__()
        self.eps, self.force_fp32 = options.eps, options.force_fp32
        _add_scale(self, dim, options)
        if options.bias:
            self.beta = nn.Parameter(torch.zeros(dim))
        else:
            self.register_buffer("beta", torch.zeros(dim))

    def forward(self, x: Tensor) -> Tensor:
        if not self.force_fp32:
            return F.layer_norm(x, x.shape[-1:], self.gamma, self.beta, self.eps)
        return F.layer_norm(x.float(), x.shape[-1:], self.gamma.float(), self.beta.float(), self.eps).to(x)


class RMSNorm(nn.Module):
    """Root-mean-square norm over the last axis (Zhang & Sennrich, 2019): gamma * x / sqrt(mean x^2 + eps)."""

    gamma: Tensor

    def __init__(self, dim: int, options: NormOptions = NormOptions()) -> None:
        super().__init__()
        if options.bias:
            raise ValueError("norm_kwargs.bias is true, but rms_norm has no shift; set it to false")
        self.eps, self.force_fp32 = options.eps, options.force_fp32
        _add_scale(self, dim, options)
        self.register_load_state_dict_pre_hook(_gain_by_its_old_name)

    def forward(self, x: Tensor) -> Tensor:
        if not self.force_fp32:
            return F.rms_norm(x, x.shape[-1:], self.gamma, self.eps)
        return F.rms_norm(x.float(), x.shape[-1:], self.gamma.float(), self.eps).to(x)


class DynamicTanh(nn.Module):
    """gamma * tanh(alpha x) + beta: a replacement of normalisation (Zhu et al., 2025)."""

    def __init__(self, dim: int, *, init_alpha: float = 10.0) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.full((1,), init_alpha))
        self.gamma = nn.Parameter(torch.ones(dim))
        self.beta = nn.Parameter(torch.zeros(dim))

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(x * self.alpha) * self.gamma + self.beta


class L2Norm(nn.Module):
    """Scales vectors on the last axis to length one."""

    def forward(self, x: Tensor) -> Tensor:
        return F.normalize(x, dim=-1)


def _gain_by_its_old_name(module: nn.Module, state: dict[str, Tensor], prefix: str, *_: object) -> None:
    """Let a run resume whose norms of queries and keys were torch's, which call the gain `weight`."""
    if prefix + "weight" in state and prefix + "gamma" not in state:
        state[prefix + "gamma"] = state.pop(prefix + "weight")


def _dynamic_tanh(dim: int, options: NormOptions) -> DynamicTanh:
    if options != NormOptions():
        raise ValueError(f"norm_kwargs is {options}, but dynamic tanh takes no options; leave it out")
    return DynamicTanh(dim)


NORMS: dict[str, Callable[[int, NormOptions], nn.Module]] = {
    "layer_norm": LayerNorm,
    "rms_norm": RMSNorm,
    "dyt": _dynamic_tanh,
}


def build_norm(norm_type: str, dim: int, options: NormOptions) -> nn.Module:
    """The norm named `norm_type` over `dim` features."""
    check_choice("norm_type", norm_type, NORMS)
    return NORMS[norm_type](dim, options)


def _add_scale(module: nn.Module, dim: int, options: NormOptions) -> None:
    if options.fix_scale:
        module.register_buffer("gamma", torch.ones(dim))
    else:
        module.register_parameter("gamma", nn.Parameter(torch.ones(dim)))
