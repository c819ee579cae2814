"""SEANet encoder and decoder as in EnCodec (Defossez et al. 2022), under EnCodec's state names."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn

from stable_audio.options import Flat, takes_keywords
from stable_audio.pretransforms.coder import Decoder, Encoder, check_stages, decode_in_stages
from stable_audio.pretransforms.seanet_layers import (
    Norm,
    PaddedConv,
    ResidualBlock,
    ResidualLSTM,
    TrimmedConvTranspose,
)

NORMS = ("none", "weight_norm", "time_group_norm")
ACTIVATIONS = ("ELU", "ReLU", "LeakyReLU", "GELU", "SiLU", "Tanh", "Identity")


@dataclass(frozen=True, kw_only=True)
class LayerOptions:
    """Options of all layers of encoder and decoder.

    Attributes:
        activation: name of the activation in torch.nn.
        activation_params: keyword arguments of the activation.
        norm: none, weight_norm or time_group_norm.
        causal: whether the convolutions depend on the past only.
        pad_mode: padding mode of every convolution.
    """

    activation: str = "ELU"
    activation_params: dict[str, float] = field(default_factory=lambda: {"alpha": 1.0})
    norm: Norm = "weight_norm"
    causal: bool = False
    pad_mode: Literal["reflect", "constant", "replicate"] = "reflect"

    def __post_init__(self) -> None:
        if self.norm not in NORMS:
            raise ValueError(f"norm of seanet must be one of {', '.join(NORMS)}, found {self.norm!r}")
        if self.activation not in ACTIVATIONS:
            raise ValueError(
                f"activation of seanet must be one of {', '.join(ACTIVATIONS)}, found {self.activation!r}"
            )

    def act(self) -> nn.Module:
        """The activation."""
        return getattr(nn, self.activation)(**self.activation_params)

    def conv(self, a: int, b: int, kernel_size: int, *, stride: int = 1, dilation: int = 1) -> PaddedConv:
        """A convolution of `a` to `b` channels, and its norm."""
        return PaddedConv(
            a,
            b,
            kernel_size,
            norm=self.norm,
            causal=self.causal,
            pad_mode=self.pad_mode,
            stride=stride,
            dilation=dilation,
        )


@dataclass(frozen=True, kw_only=True)
class ResidualOptions:
    """The residual blocks of a stage.

    Attributes:
        n_residual_layers: residual blocks per stage; block j has dilation `dilation_base ** j`.
        residual_kernel_size: kernel of the residual blocks.
        dilation_base: base of the residual blocks' dilations.
        true_skip: identity instead of a 1x1 convolution around the residual blocks.
        compress: factor by which a residual block narrows inside.
    """

    n_residual_layers: int = 1
    residual_kernel_size: int = 3
    dilation_base: int = 2
    true_skip: bool = False
    compress: int = 2

    def blocks(self, width: int, layers: LayerOptions) -> list[nn.Module]:
        """The blocks of one stage, `width` channels wide."""
        return [
            ResidualBlock(
                width,
                kernel_size=self.residual_kernel_size,
                dilation=self.dilation_base**j,
                compress=self.compress,
                true_skip=self.true_skip,
                act=layers.act,
                conv=layers.conv,
            )
            for j in range(self.n_residual_layers)
        ]


@dataclass(frozen=True, kw_only=True)
class SEANetOptions:
    """Options of encoder and decoder.

    Attributes:
        channels: audio channels.
        dimension: channels of the latents.
        n_filters: width of the stage next to the audio, doubled at each of `ratios` towards the latents.
        ratios: strides of the stages, first to last. (Files written for an encoder keep its order in the
            decoder, so that it is not the encoder's mirror image unless the list is reversed.)
        kernel_size: kernel of the first convolution.
        last_kernel_size: kernel of the last convolution.
        lstm: number of LSTM layers next to the latents.
        residual: residual blocks of the stages; its fields are keywords as well.
        layers: layers of all kinds; its fields are keywords as well.
    """

    channels: int = 1
    dimension: int = 128
    n_filters: int = 32
    ratios: list[int] = field(default_factory=lambda: [2, 2, 2, 2, 2])
    kernel_size: int = 7
    last_kernel_size: int = 7
    lstm: int = 2
    residual: Flat[ResidualOptions] = ResidualOptions()
    layers: Flat[LayerOptions] = LayerOptions()


class SEANetEncoder(Encoder):
    """Audio (b channels n) -> (b dimension n / prod(ratios)).

    Args:
        options: see `SEANetOptions`; its fields are keywords as well.
    """

    @takes_keywords
    def __init__(self, *, options: Flat[SEANetOptions] = SEANetOptions()) -> None:
        super().__init__()
        o, act, conv = options, options.layers.act, options.layers.conv
        self.in_channels, self.latent_dim = o.channels, o.dimension
        self.downsampling_ratio = check_stages(o.ratios)
        width = o.n_filters
        layers: list[nn.Module] = [conv(o.channels, width, o.kernel_size)]
        for ratio in o.ratios:
            layers += o.residual.blocks(width, o.layers)
            layers += [act(), conv(width, 2 * width, 2 * ratio, stride=ratio)]
            width *= 2
        if o.lstm:
            layers.append(ResidualLSTM(width, o.lstm))
        layers += [act(), conv(width, o.dimension, o.last_kernel_size)]
        self.model = nn.Sequential(*layers)

    def forward(self, audio: Tensor) -> Tensor:
        return self.model(audio)


class SEANetDecoder(Decoder):
    """Latents (b dimension n) -> audio (b channels n * prod(ratios)).

    Args:
        options: see `SEANetOptions`; its fields are keywords as well.
        final_activation: name of an activation in torch.nn, or None.
        trim_right_ratio: share of a transposed convolution's surplus that a causal one cuts at the end.
    """

    @takes_keywords
    def __init__(
        self,
        *,
        options: Flat[SEANetOptions] = SEANetOptions(),
        final_activation: str | None = None,
        trim_right_ratio: float = 1.0,
    ) -> None:
        super().__init__()
        o, act, conv = options, options.layers.act, options.layers.conv
        self.latent_dim, self.out_channels = o.dimension, o.channels
        self.downsampling_ratio = check_stages(o.ratios)
        width = o.n_filters * 2 ** len(o.ratios)
        layers: list[nn.Module] = [conv(o.dimension, width, o.kernel_size)]
        if o.lstm:
            layers.append(ResidualLSTM(width, o.lstm))
        for ratio in o.ratios:
            layers += [
                act(),
                TrimmedConvTranspose(
                    width,
                    width // 2,
                    2 * ratio,
                    stride=ratio,
                    norm=o.layers.norm,
                    causal=o.layers.causal,
                    trim_right=trim_right_ratio,
                ),
            ]
            width //= 2
            layers += o.residual.blocks(width, o.layers)
        layers += [act(), conv(width, o.channels, o.last_kernel_size)]
        if final_activation is not None:
            layers.append(_final(final_activation))
        self.model = nn.Sequential(*layers)
        # From the last upsampling on: it, residual blocks, activation, convolution, final activation.
        self.audible = 1 + o.residual.n_residual_layers + 2 + (final_activation is not None)

    def forward(self, latents: Tensor) -> Tensor:
        return decode_in_stages(self.model, latents, audible=self.audible)


def _final(name: str) -> nn.Module:
    kind = getattr(torch.nn, name, None)
    if not (isinstance(kind, type) and issubclass(kind, nn.Module)):
        raise ValueError(f"final_activation must be the name of a torch.nn activation, found {name!r}")
    return kind()
