from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from stable_audio.backbones.unet import UNet
from stable_audio.backbones.unet.conditioning import Merge, SlotOptions
from stable_audio.backbones.unet.embedding import TimeEmbedding, TimeOptions
from stable_audio.config import load_config
from stable_audio.factory import create_model_from_config
from stable_audio.types import Conditioning, Slot
from tests.golden.kinds.assembly import construct

CONFIGS = Path(__file__).parents[2] / "model_configs" / "unet"
TINY: dict[str, Any] = {
    "io_channels": 2,
    "channels": 4,
    "multipliers": [1, 2, 2],
    "blocks": 1,
    "groups": 2,
    "attention": [False, True, False],
    "attention_options": {"heads": 2, "groups": 2},
}
SIZES = {
    "ddpm_mono": 1_741_069,
    "ddpm_3_channels": 132_751_491,
    "concat_mono": 20_798_977,
    "concat_3_channels": 20_802_435,
    "stable_diffusion_1": 859_520_964,
    "stable_diffusion_1_latent": 859_520_964,
}


def build(**change: Any) -> UNet:
    torch.manual_seed(0)
    return construct(UNet, {**TINY, **change})


@pytest.mark.parametrize("name", sorted(SIZES))
def test_preset_has_the_published_size(name: str) -> None:
    with torch.device("meta"):
        model = create_model_from_config(load_config(CONFIGS / f"{name}.json"))
    assert sum(p.numel() for p in model.backbone.parameters()) == SIZES[name]


def test_stable_diffusion_is_there_as_a_whole() -> None:
    """U-Net, text encoder and VAE of the published sizes; two planes where a picture has three."""
    with torch.device("meta"):
        model = create_model_from_config(load_config(CONFIGS / "stable_diffusion_1_latent.json"))
    sizes = {name: sum(p.numel() for p in part.parameters()) for name, part in model.named_children()}
    first, last = 3 * 3 * 128, 3 * 3 * 128 + 1
    assert sizes == {
        "backbone": 859_520_964,
        "conditioner": 123_060_480,
        "pretransform": 83_653_863 - first - last,
    }
    assert model.latent_shape == (4, 64, 64)
    assert model.pretransform.scale == pytest.approx(1 / 0.18215, rel=1e-5)
    assert (model.objective.name, model.objective.process.steps) == ("epsilon", model.backbone.time_steps)


@pytest.mark.parametrize("name", ["concat_mono", "concat_3_channels", "ddpm_mono", "ddpm_3_channels"])
def test_presets_predict_the_noise_at_a_thousand_steps(name: str) -> None:
    with torch.device("meta"):
        model = create_model_from_config(load_config(CONFIGS / f"{name}.json"))
    assert model.objective.name == "epsilon"
    assert model.objective.process.steps == model.backbone.time_steps == 1000


@pytest.mark.parametrize("name", sorted(p.stem for p in CONFIGS.glob("*.json")))
def test_every_shipped_file_is_valid_and_names_its_schema(name: str) -> None:
    path = CONFIGS / f"{name}.json"
    assert next(iter(json.loads(path.read_text()))) == "$schema"
    assert load_config(path).training is not None


OPTIONS: dict[str, dict[str, Any]] = {
    "post norm": {"norm_position": "post"},
    "max pool": {"downsample": "max"},
    "average pool": {"downsample": "avg"},
    "linear": {"upsample": "linear"},
    "transposed": {"upsample": "transposed", "upsample_kernel": 4, "downsample_kernel": 4},
    "odd factors": {"factors": [3, 1], "upsample": "transposed"},
    "wide kernels": {"factors": [4, 2], "downsample_kernel": 7, "first_kernel": 7, "last_kernel": 1},
    "blocks per level": {"blocks": [1, 2, 3]},
    "no middle": {"middle": False},
    "no middle attention": {"middle_attention": False},
    "final residual": {"final_block": "residual"},
    "no finest level on the way up": {"finest_up": False},
    "no finest level on the way up, level skips": {"finest_up": False, "skips": "level", "up_width": "next"},
    "no finest level on the way up, added": {"finest_up": False, "skip_merge": "add"},
    "two projections": {"attention_options": {"heads": 2, "groups": 2, "projections": 2}},
    "level skips": {"skips": "level", "blocks": 2},
    "next width": {"skips": "level", "up_width": "next", "attention_every": "level"},
    "next width, added": {"skips": "level", "up_width": "next", "skip_merge": "add"},
    "added": {"skip_merge": "add", "blocks": 2},
    "normalized": {"skip_merge": "normalized_add", "residual_scale": "normalized"},
    "level added": {"skips": "level", "skip_merge": "normalized_add"},
    "scale and shift": {"time_injection": "scale_shift"},
    "scale and shift, post": {"time_injection": "scale_shift", "norm_position": "post"},
    "transformer": {
        "attention_options": {"heads": 2, "groups": 2, "block": "transformer", "depth": 2, "feed_forward": 2}
    },
    "gated, rotary": {
        "attention_options": {
            "head_dim": 4,
            "groups": 1,
            "feed_forward": 2,
            "geglu": True,
            "rope": True,
            "qk_norm": True,
        }
    },
    "fixed heads": {"attention_options": {"heads": 3, "head_dim": 4, "groups": 1, "bias": "none"}},
    "other activation": {"activation": "mish", "time": {"activation": "gelu"}},
}


@pytest.mark.parametrize("dims", [1, 2])
@pytest.mark.parametrize("name", list(OPTIONS))
def test_options_keep_the_shape_and_reach_every_parameter(name: str, dims: int) -> None:
    backbone = build(dims=dims, **OPTIONS[name])
    n = 2 * backbone.length_multiple
    x = torch.randn(2, 2, n) if dims == 1 else torch.randn(2, 2, backbone.length_multiple, n)
    y = backbone(x, torch.rand(2), Conditioning())
    assert y.shape == x.shape
    y.square().sum().backward()
    assert [k for k, p in backbone.named_parameters() if p.grad is None or not p.grad.isfinite().all()] == []


def test_attention_by_resolution_is_attention_by_level() -> None:
    by_level = build(attention=[False, True, True])
    by_size = build(attention=None, attention_resolutions=[16, 32], resolution=64)
    assert by_level.state_dict().keys() == by_size.state_dict().keys()


def test_rows_folded_into_channels_are_the_same_image() -> None:
    folded, flat = build(dims=2, height=8, input_concat={"dim": 1}), build(dims=2, input_concat={"dim": 1})
    assert (folded.io_channels, flat.io_channels) == (16, 2)
    assert folded.slot_widths == {Slot.INPUT_CONCAT: 8}
    x, t, concat = torch.randn(2, 2, 8, 12), torch.rand(2), torch.randn(2, 1, 8, 12)
    expected = flat(x, t, Conditioning(input_concat=concat))
    found = folded(x.flatten(1, 2), t, Conditioning(input_concat=concat.flatten(1, 2)))
    torch.testing.assert_close(found, expected.flatten(1, 2))


def test_frames_and_vectors_beside_pictures_are_the_same_in_every_row() -> None:
    backbone = build(dims=2, input_concat={"dim": 3}).eval()
    x, t, frames = torch.randn(2, 2, 8, 12), torch.rand(2), torch.randn(2, 3, 12)
    for concat in (frames, frames[..., :1]):
        rows = concat[:, :, None].expand(-1, -1, 8, 12)
        expected = backbone(x, t, Conditioning(input_concat=rows))
        torch.testing.assert_close(backbone(x, t, Conditioning(input_concat=concat)), expected)


def test_wrong_rank_is_named() -> None:
    with pytest.raises(ValueError, match="takes \\(b c h w\\)"):
        build(dims=2)(torch.randn(1, 2, 8), torch.rand(1), Conditioning())


SLOTS = {
    "cross_attn": {"dim": 5},
    "prepend": {"dim": 3},
    "global_cond": {"dim": 4},
    "input_concat": {"dim": 2},
}


def conditioning() -> Conditioning:
    generator = torch.Generator().manual_seed(1)
    return Conditioning(
        cross_attn=torch.randn(2, 4, 5, generator=generator),
        cross_attn_mask=torch.tensor([[True, True, True, False], [True] * 4]),
        prepend=torch.randn(2, 3, 3, generator=generator),
        prepend_mask=torch.tensor([[True, False, False], [True] * 3]),
        global_cond=torch.randn(2, 4, generator=generator),
        input_concat=torch.randn(2, 2, 4, generator=generator),
    )


@pytest.mark.parametrize("mechanism", ["sum", "adaptive", "concat"])
def test_every_slot_acts_and_prepared_tokens_change_nothing(mechanism: str) -> None:
    backbone = build(**SLOTS, global_mechanism=mechanism).eval()
    x, t, cond = torch.randn(2, 2, 16), torch.rand(2), conditioning()
    base = backbone(x, t, cond)
    assert torch.equal(base, backbone(x, t, backbone.prepare(cond)))
    for name in ("cross_attn", "prepend", "global_cond", "input_concat"):
        changed = cond.replace(**{name: getattr(cond, name) + 1})
        assert not torch.allclose(base, backbone(x, t, changed), atol=1e-6), name


def test_masked_tokens_are_not_seen() -> None:
    backbone = build(**SLOTS).eval()
    x, t, cond = torch.randn(2, 2, 16), torch.rand(2), conditioning()
    other = cond.replace(
        cross_attn=torch.where(cond.cross_attn_mask[..., None], cond.cross_attn, torch.tensor(9.0)),
        prepend=torch.where(cond.prepend_mask[..., None], cond.prepend, torch.tensor(9.0)),
    )
    torch.testing.assert_close(backbone(x, t, other), backbone(x, t, cond))
    blank = cond.replace(cross_attn_mask=torch.zeros(2, 4, dtype=torch.bool))
    assert backbone(x, t, blank).isfinite().all()


def test_prepend_tokens_join_self_attention() -> None:
    """Without any valid prepend token the U-Net is the one without the slot."""
    with_slot, without = build(prepend={"dim": 3}).eval(), build().eval()
    without.load_state_dict({k: v for k, v in with_slot.state_dict().items() if ".prepend." not in k})
    cond = Conditioning(prepend=torch.randn(2, 3, 3), prepend_mask=torch.zeros(2, 3, dtype=torch.bool))
    x, t = torch.randn(2, 2, 16), torch.rand(2)
    torch.testing.assert_close(with_slot(x, t, cond), without(x, t, Conditioning()))


def test_merging_by_sum_and_by_concatenation() -> None:
    value = torch.randn(2, 6)
    joined = Merge(SlotOptions(dim=6, sizes=[2, 4]), name="g", axis=1, width_axis=True)
    assert joined.width == 6
    assert torch.equal(joined(value, training=True), value)
    added = Merge(SlotOptions(dim=3, merge="sum", sizes=[3, 3]), name="g", axis=1, width_axis=True)
    assert added.width == 6
    torch.testing.assert_close(added(value, training=False), value[:, :3] + value[:, 3:])
    tokens = Merge(SlotOptions(dim=3, merge="sum", sizes=[2, 2]), name="c", axis=1, width_axis=False)
    assert tokens.width == 3
    mask = torch.tensor([[True, False, False, False]])
    assert tokens.mask(mask).tolist() == [[True, False]]


def test_dropout_per_conditioner_acts_in_training_only() -> None:
    torch.manual_seed(0)
    options = SlotOptions(dim=2, sizes=[1, 1], dropout=[0.25, 1.0])
    merge = Merge(options, name="g", axis=1, width_axis=True)
    value = torch.ones(4000, 2)
    assert torch.equal(merge(value, training=False), value)
    dropped = merge(value, training=True)
    assert dropped[:, 1].sum() == 0
    # Binomial(4000, 0.75): five standard deviations are 0.035.
    assert abs(dropped[:, 0].mean().item() - 0.75) < 0.035


def test_time_embedding_is_the_sinusoid() -> None:
    embedding = TimeEmbedding(TimeOptions(dim=4, hidden=4, steps=1000), channels=8)
    embedding.mlp = torch.nn.Identity()
    found = embedding(torch.tensor([0.0, 0.5001, 1.0]), torch.float32)
    steps = [0.0, 500.0, 999.0]
    expected = [[math.cos(s), math.cos(s / 100), math.sin(s), math.sin(s / 100)] for s in steps]
    torch.testing.assert_close(found, torch.tensor(expected), atol=1e-4, rtol=0)
    continuous = TimeEmbedding(TimeOptions(scale=10.0), channels=8)
    torch.testing.assert_close(continuous.positions(torch.tensor([0.25])), torch.tensor([2.5]))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"attention": [True]}, "attention needs one entry per level"),
        ({"attention_resolutions": [8], "resolution": 16}, "not both"),
        ({"attention": None, "attention_resolutions": [8]}, "needs `resolution`"),
        ({"attention": None, "attention_resolutions": [5], "resolution": 16}, "not among those"),
        ({"blocks": [1, 2]}, "blocks needs 3 entries"),
        ({"factors": [2]}, "factors needs 2 entries"),
        ({"kernel_size": 2}, "kernel_size must be odd"),
        ({"factors": [4, 4]}, "downsample_kernel must be at least the factor 4"),
        ({"upsample_kernel": 4}, "upsample_kernel must be odd for nearest"),
        ({"height": 8}, "height is for dims 2"),
        ({"dims": 2, "height": 6}, "must be a multiple of the product of factors, 4"),
        ({"up_width": "next"}, "needs skips 'level'"),
        ({"attention": None, "cross_attn": {"dim": 3}}, "no level has cross-attention"),
        ({"attention": None, "prepend": {"dim": 3}}, "no level has self-attention"),
        ({"attention_options": {"heads": 3, "groups": 2}}, "3 heads must divide"),
        ({"attention_options": {"head_dim": 3, "groups": 2}}, "head_dim 3 must divide"),
        ({"global_cond": {"dim": 4, "merge": "sum"}}, "need `sizes`"),
        ({"global_cond": {"dim": 4, "merge": "sum", "sizes": [4, 3]}}, "equal sizes"),
        ({"global_cond": {"dim": 4, "sizes": [3, 3]}}, "must add up to 4"),
        ({"global_cond": {"dim": 4, "sizes": [4], "dropout": [0.1, 0.2]}}, "needs 1 entries"),
        ({"global_cond": {"dim": 4, "sizes": [4], "dropout": [1.2]}}, "between 0 and 1"),
        ({"groups": 3}, "groups 3 must divide"),
        ({"attention_options": {"heads": 2, "groups": 3}}, "groups 3 must divide"),
        ({"time": {"dim": 5}}, "time.dim must be even"),
        ({"time": {"steps": 1}}, "time.steps must be at least 2"),
    ],
)
def test_mistakes_are_named(change: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        build(**change)
