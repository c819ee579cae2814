from __future__ import annotations

import json
from typing import Any

import pytest
import torch

from stable_audio.backbones.adp import ADP1d, ADPCfg1d
from stable_audio.backbones.adp.stft import STFT
from stable_audio.types import Conditioning, Slot
from tests.golden.harness import MANIFESTS

TINY: dict[str, Any] = {
    "in_channels": 2,
    "channels": 4,
    "multipliers": [1, 2, 8],
    "factors": [2, 2],
    "num_blocks": [1, 2],
    "attentions": [0, 1, 1],
    "attention_heads": 2,
    "resnet_groups": 2,
}
TOKENS = {"context_embedding_features": 6, "context_embedding_max_length": 4}


def tokens(length: int = 4) -> Conditioning:
    return Conditioning(
        cross_attn=torch.randn(2, length, 6), cross_attn_mask=torch.ones(2, length, dtype=torch.bool)
    )


def test_published_model_has_the_same_keys_and_shapes() -> None:
    manifest = json.loads((MANIFESTS / "stable_audio_1_0.json").read_text())
    with torch.device("meta"):
        backbone = ADPCfg1d(**manifest["config"]["model"]["diffusion"]["config"])
    found = {"model.model." + k: list(v.shape) for k, v in backbone.state_dict().items()}
    assert found == {k: v for k, v in manifest["shapes"].items() if k.startswith("model.")}
    assert sum(p.numel() for p in backbone.parameters()) == manifest["submodule_params"]["model"]


@pytest.mark.parametrize(
    "change",
    [
        {"patch_size": 2},
        {"use_nearest_upsample": True},
        {"use_skip_scale": False},
        {"use_context_time": False},
        {"kernel_multiplier_downsample": 4},
        {"factors": [1, 3]},
        {"attention_heads": None, "attention_features": 16},
        {"attentions": [0, 0, 0]},
        {"use_stft": True, "stft_num_fft": 15, "stft_hop_length": 4},
        {"use_stft": True, "stft_num_fft": 15, "stft_hop_length": 4, "stft_use_complex": True},
        {"use_stft": True, "stft_num_fft": 16, "stft_hop_length": 4, "stft_window_length": 12},
    ],
)
def test_options_keep_the_shape_and_reach_every_parameter(change: dict[str, Any]) -> None:
    torch.manual_seed(0)
    backbone = ADP1d(**{**TINY, **change})
    x = torch.randn(2, 2, 4 * backbone.length_multiple if backbone.stft is None else 48)
    y = backbone(x, torch.rand(2), Conditioning())
    assert y.shape == x.shape
    y.square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in backbone.parameters())


@pytest.mark.parametrize("use_complex", [False, True])
@pytest.mark.parametrize("length", [40, 50])
def test_stft_is_inverted(use_complex: bool, length: int) -> None:
    stft = STFT(num_fft=16, hop_length=4, use_complex=use_complex)
    x = torch.randn(2, 3, length)
    encoded = stft.encode(x)
    assert encoded.shape == (2, 3 * stft.channels, length // 4 + 1)
    torch.testing.assert_close(stft.decode(encoded, length), x, atol=1e-4, rtol=1e-4)


def test_out_channels_may_differ() -> None:
    backbone = ADP1d(**TINY, out_channels=5)
    assert backbone(torch.randn(1, 2, 16), torch.rand(1), Conditioning()).shape == (1, 5, 16)


def test_input_concat_is_split_over_the_levels() -> None:
    torch.manual_seed(0)
    backbone = ADP1d(**TINY, context_channels=[1, 0, 2])
    assert backbone.slot_widths == {Slot.INPUT_CONCAT: 3}
    x, t, concat = torch.randn(2, 2, 16), torch.rand(2), torch.randn(2, 3, 16)
    base = backbone(x, t, Conditioning(input_concat=concat))
    for channel in range(3):
        other = concat.clone()
        other[:, channel] += 1
        assert not torch.allclose(base, backbone(x, t, Conditioning(input_concat=other)))
    # The level below two halvings sees every fourth sample of its channels.
    unseen = concat.clone()
    unseen[:, 1:, 1] += 1
    assert torch.equal(base, backbone(x, t, Conditioning(input_concat=unseen)))


@pytest.mark.parametrize("transformed", [False, True])
def test_input_concat_with_stft(transformed: bool) -> None:
    backbone = ADP1d(
        **TINY,
        context_channels=[1],
        use_stft=True,
        use_stft_context=transformed,
        stft_num_fft=15,
        stft_hop_length=4,
    )
    x, cond = torch.randn(2, 2, 48), Conditioning(input_concat=torch.randn(2, 1, 12))
    assert backbone(x, torch.rand(2), cond).shape == x.shape


@pytest.mark.parametrize("xattn_time", [False, True])
def test_prepared_conditioning_gives_the_same_output(xattn_time: bool) -> None:
    torch.manual_seed(0)
    backbone = ADPCfg1d(**TINY, **TOKENS, use_xattn_time=xattn_time).eval()
    x, t, cond = torch.randn(2, 2, 16), torch.rand(2), tokens(3)
    assert torch.equal(backbone(x, t, cond), backbone(x, t, backbone.prepare(cond)))


def test_null_is_the_learned_embedding_and_covers_the_time_token() -> None:
    torch.manual_seed(0)
    backbone = ADPCfg1d(
        **TINY, **TOKENS, use_xattn_time=True, use_context_time=False, context_features=3
    ).eval()
    x, cond = torch.randn(2, 2, 16), tokens(3).replace(global_cond=torch.randn(2, 3))
    null = backbone.null(cond)
    assert null is not None
    assert null.cross_attn is not None
    assert torch.equal(null.cross_attn[0], backbone.fixed_embedding.embedding.weight[:3])
    early, late = torch.full((2,), 0.1), torch.full((2,), 0.9)
    assert torch.equal(backbone(x, early, null), backbone(x, late, null))
    assert not torch.allclose(backbone(x, early, cond), backbone(x, late, cond))


def test_dropping_an_item_equals_its_null_conditioning() -> None:
    torch.manual_seed(0)
    backbone = ADPCfg1d(**TINY, **TOKENS, use_xattn_time=True).eval()
    x, t, cond = torch.randn(2, 2, 16), torch.rand(2), tokens()
    mixed = backbone(x, t, backbone.drop(cond, {Slot.CROSS_ATTN: torch.tensor([True, False])}))
    torch.testing.assert_close(mixed[0], backbone(x, t, cond)[0])
    torch.testing.assert_close(mixed[1], backbone(x, t, backbone.null(cond))[1])


def test_masked_tokens_have_no_content() -> None:
    torch.manual_seed(0)
    backbone = ADPCfg1d(**TINY, **TOKENS).eval()
    x, t, cond = torch.randn(2, 2, 16), torch.rand(2), tokens()
    masked = cond.replace(cross_attn_mask=torch.tensor([[True, True, False, False]] * 2))
    other = cond.cross_attn.clone()
    other[:, 2:] = 7.0
    assert torch.equal(backbone(x, t, masked), backbone(x, t, masked.replace(cross_attn=other)))
    assert not torch.allclose(backbone(x, t, masked), backbone(x, t, cond))


def test_gradient_checkpointing_changes_no_gradient() -> None:
    torch.manual_seed(0)
    backbone = ADPCfg1d(**TINY, **TOKENS)
    x, t, cond = torch.randn(2, 2, 16), torch.rand(2), tokens()
    grads = []
    for enabled in (False, True):
        backbone.enable_gradient_checkpointing(enabled)
        backbone.zero_grad()
        backbone(x, t, cond).square().sum().backward()
        grads.append({n: p.grad.clone() for n, p in backbone.named_parameters() if p.grad is not None})
    assert grads[0].keys() == grads[1].keys()
    for name, grad in grads[0].items():
        torch.testing.assert_close(grad, grads[1][name])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"multipliers": [1, 2]}, "multipliers needs one entry more"),
        ({"num_blocks": [1]}, "num_blocks needs 2 entries"),
        ({"attentions": [1]}, "attentions needs at least 2"),
        ({"patch_size": 3}, "must divide by patch_size 3"),
        ({"resnet_groups": 3}, "resnet_groups 3 must divide"),
        ({"attention_heads": None}, "give attention_heads or attention_features"),
        ({"multipliers": [1, 2, 4]}, "multiple of 32 channels, found 16"),
        ({"use_stft_context": True}, "needs use_stft"),
        ({"kernel_multiplier_downsample": 3}, "must be even"),
    ],
)
def test_mistakes_are_named(change: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        ADP1d(**{**TINY, **change})


def test_more_tokens_than_the_null_embedding_covers() -> None:
    backbone = ADPCfg1d(**TINY, **TOKENS)
    with pytest.raises(ValueError, match="covers 4 tokens, but the conditioning has 5"):
        backbone.null(tokens(5))
