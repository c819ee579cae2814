"""SEANet encoder and decoder as in EnCodec (Defossez et al. 2022), under EnCodec's state names."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stable_audio.pretransforms.coder import Decoder, Encoder, check_stages, decode_in_stages
from stable_audio.pretransforms.conv import WNConv1d, WNConvTranspose1d

Norm = Literal["none", "weight_norm", "time_group_norm"]
NORMS = ("none", "weight_norm", "time_group_norm")
ACTIVATIONS = ("ELU", "ReLU", "LeakyReLU", "GELU", "SiLU", "Tanh", "Identity")


def pad_reflect(x: Tensor, left: int, right: int, mode: str) -> Tensor:
    """Pad the last axis; reflection also works for inputs shorter than the padding."""
    if mode != "reflect":
        return F.pad(x, (left, right), mode=mode)
    shortage = max(0, max(left, right) - x.shape[-1] + 1)
    padded = F.pad(F.pad(x, (0, shortage)), (left, right), mode="reflect")
    return padded[..., : padded.shape[-1] - shortage]


class _Inner(nn.Module):
    """A convolution under the key `name`, followed by its norm."""

    def __init__(self, name: str, conv: nn.Module, norm: Norm, channels: int) -> None:
        super().__init__()
        self.name = name
        self.add_module(name, conv)
        self.norm = nn.GroupNorm(1, channels) if norm == "time_group_norm" else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.get_submodule(self.name)(x))


class PaddedConv(nn.Module):
    """Convolution that keeps length / stride: pads both sides, or the left alone when causal."""

    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        kernel_size: int,
        *,
        norm: Norm,
        causal: bool,
        pad_mode: str,
        stride: int = 1,
        dilation: int = 1,
    ) -> None:
        super().__init__()
        kind = WNConv1d if norm == "weight_norm" else nn.Conv1d
        conv = kind(channels_in, channels_out, kernel_size, stride=stride, dilation=dilation)
        self.conv = _Inner("conv", conv, norm, channels_out)
        self.span, self.stride = (kernel_size - 1) * dilation + 1, stride
        self.causal, self.pad_mode = causal, pad_mode

    def forward(self, x: Tensor) -> Tensor:
        total = self.span - self.stride
        frames = math.ceil((x.shape[-1] - self.span + total) / self.stride + 1)
        extra = (frames - 1) * self.stride + self.span - total - x.shape[-1]
        right = 0 if self.causal else total // 2
        return self.conv(pad_reflect(x, total - right, right + extra, self.pad_mode))


class TrimmedConvTranspose(nn.Module):
    """Transposed convolution to length * stride; `trim_right` of the surplus is cut on the right."""

    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        kernel_size: int,
        *,
        stride: int,
        norm: Norm,
        causal: bool,
        trim_right: float,
    ) -> None:
        super().__init__()
        kind = WNConvTranspose1d if norm == "weight_norm" else nn.ConvTranspose1d
        conv = kind(channels_in, channels_out, kernel_size, stride=stride)
        self.convtr = _Inner("convtr", conv, norm, channels_out)
        surplus = kernel_size - stride
        self.right = math.ceil(surplus * trim_right) if causal else surplus // 2
        self.left = surplus - self.right

    def forward(self, x: Tensor) -> Tensor:
        y = self.convtr(x)
        return y[..., self.left : y.shape[-1] - self.right]


class ResidualBlock(nn.Module):
    """Two convolutions through a narrower width beside a shortcut."""

    def __init__(
        self,
        channels: int,
        *,
        kernel_size: int,
        dilation: int,
        compress: int,
        true_skip: bool,
        act: Callable[[], nn.Module],
        conv: Callable[..., PaddedConv],
    ) -> None:
        super().__init__()
        hidden = channels // compress
        self.block = nn.Sequential(
            act(),
            conv(channels, hidden, kernel_size, dilation=dilation),
            act(),
            conv(hidden, channels, 1),
        )
        self.shortcut = nn.Identity() if true_skip else conv(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.shortcut(x) + self.block(x)


class ResidualLSTM(nn.Module):
    """x + LSTM(x) along time, on (b c n)."""

    def __init__(self, channels: int, layers: int) -> None:
        super().__init__()
        self.lstm = nn.LSTM(channels, channels, layers)

    def forward(self, x: Tensor) -> Tensor:
        y, _ = self.lstm(x.permute(2, 0, 1))
        return x + y.permute(1, 2, 0)


class _Options:
    """Options of encoder and decoder, and layers with these options."""

    def __init__(
        self, *, norm: str, causal: bool, pad_mode: str, activation: str, activation_params: dict[str, float]
    ) -> None:
        if norm not in NORMS:
            raise ValueError(f"norm of seanet must be one of {', '.join(NORMS)}, found {norm!r}")
        if activation not in ACTIVATIONS:
            raise ValueError(
                f"activation of seanet must be one of {', '.join(ACTIVATIONS)}, found {activation!r}"
            )
        self.norm, self.causal, self.pad_mode = norm, causal, pad_mode
        self.activation, self.params = activation, activation_params

    def act(self) -> nn.Module:
        return getattr(nn, self.activation)(**self.params)

    def conv(self, a: int, b: int, kernel_size: int, *, stride: int = 1, dilation: int = 1) -> PaddedConv:
        return PaddedConv(
            a,
            b,
            kernel_size,
            norm=self.norm,  # type: ignore[arg-type]
            causal=self.causal,
            pad_mode=self.pad_mode,
            stride=stride,
            dilation=dilation,
        )


class SEANetEncoder(Encoder):
    """Audio (b channels n) -> (b dimension n / prod(ratios)).

    Args:
        channels: audio channels.
        dimension: output channels.
        n_filters: width of the first stage, doubled by each of `ratios`.
        n_residual_layers: residual blocks per stage; block j has dilation `dilation_base ** j`.
        residual_kernel_size: kernel of the residual blocks.
        dilation_base: base of the residual blocks' dilations.
        compress: factor by which a residual block narrows inside.
        true_skip: identity instead of a 1x1 convolution around the residual blocks.
        ratios: strides of the stages, first to last.
        kernel_size: kernel of the first convolution.
        last_kernel_size: kernel of the last convolution.
        lstm: number of LSTM layers at the end.
        norm: none, weight_norm or time_group_norm.
        causal: whether the convolutions depend on the past only.
        pad_mode: padding mode of every convolution.
        activation: name of the activation in torch.nn.
        activation_params: keyword arguments of the activation.
    """

    def __init__(
        self,
        *,
        channels: int = 1,
        dimension: int = 128,
        n_filters: int = 32,
        n_residual_layers: int = 1,
        ratios: list[int] = [2, 2, 2, 2, 2],  # noqa: B006
        activation: str = "ELU",
        activation_params: dict[str, float] = {"alpha": 1.0},  # noqa: B006
        norm: Norm = "weight_norm",
        kernel_size: int = 7,
        last_kernel_size: int = 7,
        residual_kernel_size: int = 3,
        dilation_base: int = 2,
        causal: bool = False,
        pad_mode: Literal["reflect", "constant", "replicate"] = "reflect",
        true_skip: bool = False,
        compress: int = 2,
        lstm: int = 2,
    ) -> None:
        super().__init__()
        self.in_channels, self.latent_dim = channels, dimension
        self.downsampling_ratio = check_stages(ratios)
        o = _Options(
            norm=norm,
            causal=causal,
            pad_mode=pad_mode,
            activation=activation,
            activation_params=activation_params,
        )
        width = n_filters
        layers: list[nn.Module] = [o.conv(channels, width, kernel_size)]
        for ratio in ratios:
            layers += [
                ResidualBlock(
                    width,
                    kernel_size=residual_kernel_size,
                    dilation=dilation_base**j,
                    compress=compress,
                    true_skip=true_skip,
                    act=o.act,
                    conv=o.conv,
                )
                for j in range(n_residual_layers)
            ]
            layers += [o.act(), o.conv(width, 2 * width, 2 * ratio, stride=ratio)]
            width *= 2
        if lstm:
            layers.append(ResidualLSTM(width, lstm))
        layers += [o.act(), o.conv(width, dimension, last_kernel_size)]
        self.model = nn.Sequential(*layers)

    def forward(self, audio: Tensor) -> Tensor:
        return self.model(audio)


class SEANetDecoder(Decoder):
    """Latents (b dimension n) -> audio (b channels n * prod(ratios)); options as for the encoder.

    Args:
        ratios: upsampling of the stages, first to last. (Files written for an encoder keep its order
            here, so the decoder is not its mirror image unless the list is reversed.)
        trim_right_ratio: share of a transposed convolution's surplus that a causal one cuts at the end.
        final_activation: torch.nn name, or None.
    """

    def __init__(
        self,
        *,
        channels: int = 1,
        dimension: int = 128,
        n_filters: int = 32,
        n_residual_layers: int = 1,
        ratios: list[int] = [2, 2, 2, 2, 2],  # noqa: B006
        activation: str = "ELU",
        activation_params: dict[str, float] = {"alpha": 1.0},  # noqa: B006
        final_activation: str | None = None,
        norm: Norm = "weight_norm",
        kernel_size: int = 7,
        last_kernel_size: int = 7,
        residual_kernel_size: int = 3,
        dilation_base: int = 2,
        causal: bool = False,
        pad_mode: Literal["reflect", "constant", "replicate"] = "reflect",
        true_skip: bool = False,
        compress: int = 2,
        lstm: int = 2,
        trim_right_ratio: float = 1.0,
    ) -> None:
        super().__init__()
        self.latent_dim, self.out_channels = dimension, channels
        self.downsampling_ratio = check_stages(ratios)
        o = _Options(
            norm=norm,
            causal=causal,
            pad_mode=pad_mode,
            activation=activation,
            activation_params=activation_params,
        )
        width = n_filters * 2 ** len(ratios)
        layers: list[nn.Module] = [o.conv(dimension, width, kernel_size)]
        if lstm:
            layers.append(ResidualLSTM(width, lstm))
        for ratio in ratios:
            layers += [
                o.act(),
                TrimmedConvTranspose(
                    width,
                    width // 2,
                    2 * ratio,
                    stride=ratio,
                    norm=norm,
                    causal=causal,
                    trim_right=trim_right_ratio,
                ),
            ]
            width //= 2
            layers += [
                ResidualBlock(
                    width,
                    kernel_size=residual_kernel_size,
                    dilation=dilation_base**j,
                    compress=compress,
                    true_skip=true_skip,
                    act=o.act,
                    conv=o.conv,
                )
                for j in range(n_residual_layers)
            ]
        layers += [o.act(), o.conv(width, channels, last_kernel_size)]
        if final_activation is not None:
            layers.append(_final(final_activation))
        self.model = nn.Sequential(*layers)
        # From the last upsampling on: it, residual blocks, activation, convolution, final activation.
        self.audible = 1 + n_residual_layers + 2 + (final_activation is not None)

    def forward(self, latents: Tensor) -> Tensor:
        return decode_in_stages(self.model, latents, audible=self.audible)


def _final(name: str) -> nn.Module:
    kind = getattr(torch.nn, name, None)
    if not (isinstance(kind, type) and issubclass(kind, nn.Module)):
        raise ValueError(f"final_activation must be the name of a torch.nn activation, found {name!r}")
    return kind()
