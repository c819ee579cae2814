"""ConvNeXt's encoder and decoder, layer by layer as the paper writes them."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from stable_audio.pretransforms.convnext import ConvNeXtDecoder, ConvNeXtEncoder, LinearUpsample


def norm(x: Tensor, state: dict[str, Tensor], key: str) -> Tensor:
    mean, variance = x.mean(1, keepdim=True), x.var(1, unbiased=False, keepdim=True)
    gain, shift = state[f"{key}.weight"][:, None], state[f"{key}.bias"][:, None]
    return (x - mean) / (variance + 1e-5).sqrt() * gain + shift


def conv(x: Tensor, state: dict[str, Tensor], key: str, **options: int) -> Tensor:
    return F.conv1d(x, state[f"{key}.weight"], state[f"{key}.bias"], **options)


def block(x: Tensor, state: dict[str, Tensor], key: str) -> Tensor:
    y = conv(x, state, f"{key}.depthwise", padding=3, groups=x.shape[1])
    y = conv(norm(y, state, f"{key}.norm"), state, f"{key}.widen")
    return x + state[f"{key}.scale"] * conv(F.gelu(y), state, f"{key}.narrow")


def test_encoder_is_the_literal_network() -> None:
    torch.manual_seed(0)
    encoder = ConvNeXtEncoder(
        in_channels=10, latent_dim=3, channels=6, width=12, depth=1, depths=[2], strides=[4]
    ).double()
    state = encoder.state_dict()
    x = torch.randn(2, 10, 16, dtype=torch.float64)
    y = conv(F.gelu(conv(x, state, "layers.0")), state, "layers.2")
    y = block(y, state, "layers.3")
    y = conv(y, state, "layers.4", stride=4)
    y = block(block(y, state, "layers.5"), state, "layers.6")
    y = conv(norm(y, state, "layers.7"), state, "layers.8")
    torch.testing.assert_close(encoder(x), y)


def test_decoder_is_the_literal_network() -> None:
    torch.manual_seed(0)
    decoder = ConvNeXtDecoder(
        out_channels=10, latent_dim=3, channels=6, width=12, depth=1, depths=[2], strides=[4]
    ).double()
    state = decoder.state_dict()
    z = torch.randn(2, 3, 5, dtype=torch.float64)
    y = conv(z, state, "layers.0")
    y = block(block(y, state, "layers.1"), state, "layers.2")
    y = F.conv_transpose1d(y, state["layers.3.weight"], state["layers.3.bias"], stride=4)
    y = norm(block(y, state, "layers.4"), state, "layers.5")
    y = conv(F.gelu(conv(y, state, "layers.6")), state, "layers.8")
    torch.testing.assert_close(decoder(z), y)


def test_shortcut_adds_one_matrix_per_latent_frame() -> None:
    torch.manual_seed(0)
    options = {"out_channels": 10, "latent_dim": 3, "channels": 6, "width": 12, "strides": [4], "depths": [1]}
    decoder = ConvNeXtDecoder(**options, shortcut=True).double()
    plain = ConvNeXtDecoder(**options).double()
    plain.load_state_dict({k: v for k, v in decoder.state_dict().items() if not k.startswith("shortcut.")})
    z = torch.randn(2, 3, 5, dtype=torch.float64)
    state = decoder.state_dict()
    patches = torch.einsum("bzn,zck->bcnk", z, state["shortcut.project.weight"]).flatten(2)
    expected = plain(z) + patches + state["shortcut.project.bias"][:, None]
    torch.testing.assert_close(decoder(z), expected)


@pytest.mark.parametrize("stride", [1, 2, 3, 4])
@pytest.mark.parametrize("frames", [1, 2, 5])
def test_linear_upsampling_is_torch_s_interpolation(stride: int, frames: int) -> None:
    x = torch.randn(2, 3, frames, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    expected = F.interpolate(x, scale_factor=stride, mode="linear", align_corners=False)
    torch.testing.assert_close(LinearUpsample(stride)(x), expected, atol=1e-6, rtol=0)


def test_a_steady_latent_becomes_steady_frames_with_linear_upsampling() -> None:
    torch.manual_seed(0)
    options = {"out_channels": 10, "latent_dim": 3, "channels": 6, "width": 12, "strides": [4], "depths": [1]}
    z = torch.randn(1, 3, 1).expand(-1, -1, 16)

    def flutter(decoder: ConvNeXtDecoder) -> float:
        # Away from the ends, where the convolutions meet their padding.
        return decoder(z)[..., 20:-20].diff(dim=-1).abs().max().item()

    assert flutter(ConvNeXtDecoder(**options, upsampling="linear")) < 1e-6
    assert flutter(ConvNeXtDecoder(**options, upsampling="transposed")) > 1e-2


def test_linear_upsampling_adds_no_parameters() -> None:
    options = {"out_channels": 10, "latent_dim": 3, "channels": 6, "width": 12, "strides": [4], "depths": [1]}
    linear, transposed = (
        set(ConvNeXtDecoder(**options, upsampling=name).state_dict()) for name in ("linear", "transposed")
    )
    assert transposed - linear == {"layers.2.weight", "layers.2.bias"}
    assert linear < transposed


def test_unknown_upsampling_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"upsampling.*transposed.*linear"):
        ConvNeXtDecoder(upsampling="cubic")  # type: ignore[arg-type]


def test_a_product_head_multiplies_two_projections() -> None:
    torch.manual_seed(0)
    options = {"out_channels": 10, "latent_dim": 3, "channels": 6, "width": 12, "strides": [4], "depths": [1]}
    decoder = ConvNeXtDecoder(**options, head="product").double()
    state = decoder.state_dict()
    z = torch.randn(2, 3, 5, dtype=torch.float64)
    features = decoder.layers[:-1](z)
    expected = conv(features[:, :6], state, "layers.7.a") * conv(features[:, 6:], state, "layers.7.b")
    torch.testing.assert_close(decoder(z), expected + state["layers.7.bias"])


def test_a_product_head_needs_two_halves() -> None:
    with pytest.raises(ValueError, match="width: found 13"):
        ConvNeXtDecoder(width=13, head="product")


def test_unknown_head_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"head.*linear.*product"):
        ConvNeXtDecoder(head="sum")  # type: ignore[arg-type]
