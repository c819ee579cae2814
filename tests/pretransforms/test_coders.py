"""Every encoder and decoder keeps its contract: declared sizes, gradients, saving and loading."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from stable_audio.nn import kept_results
from stable_audio.nn.checkpointing import Checkpointed, set_gradient_checkpointing
from stable_audio.nn.feedforward import Sine
from stable_audio.pretransforms import DECODERS, ENCODERS
from stable_audio.pretransforms.taae import TransformerStack
from tests import tiny
from tests.kernels import AttentionKernels

TWO_D = ("autoencoder_kl",)


def build(kind: str, name: str, **changes: Any) -> nn.Module:
    registry, config = (ENCODERS, tiny.ENCODERS) if kind == "encoder" else (DECODERS, tiny.DECODERS)
    return registry[name](**{**config[name], **changes})


def example(kind: str, name: str) -> Tensor:
    if kind == "encoder":
        return torch.randn(2, 2, 16, 64) if name in TWO_D else torch.randn(2, 2, 96)
    return torch.randn(2, 4, 2, 8) if name in TWO_D else torch.randn(2, 4, 12)


ALL = [(kind, name) for kind in ("encoder", "decoder") for name in tiny.ENCODERS]


def test_tiny_configs_cover_the_registries() -> None:
    assert set(tiny.ENCODERS) == set(ENCODERS)
    assert set(tiny.DECODERS) == set(DECODERS)


@pytest.mark.parametrize(("kind", "name"), ALL)
def test_shape_is_the_declared_one(kind: str, name: str) -> None:
    module, x = build(kind, name), example(kind, name)
    ratio = module.downsampling_ratio
    y = module(x)
    assert ratio == 8
    assert y.shape[1] == (module.latent_dim if kind == "encoder" else module.out_channels)
    assert y.shape[-1] == (x.shape[-1] // ratio if kind == "encoder" else x.shape[-1] * ratio)


@pytest.mark.parametrize(("kind", "name"), ALL)
def test_gradient_reaches_every_parameter(kind: str, name: str) -> None:
    module, x = build(kind, name), example(kind, name)
    with torch.no_grad():  # leave the zeros of a fresh transformer, behind which gradients vanish
        for p in module.parameters():
            p.add_(0.02 * torch.randn_like(p))
    module(x).square().sum().backward()
    missing = [n for n, p in module.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert not missing


@pytest.mark.parametrize("kind", ["encoder", "decoder"])
@pytest.mark.parametrize("name", ["taae", "same", "autoencoder_kl"])
@pytest.mark.parametrize("training", [False, True])
def test_attention_runs_on_fused_kernels(kind: str, name: str, training: bool) -> None:
    module, x = build(kind, name).train(training), example(kind, name)
    with torch.set_grad_enabled(training), AttentionKernels() as kernels:
        module(x)
    assert kernels.fused
    assert not kernels.softmax


@pytest.mark.parametrize(("kind", "name"), ALL)
def test_saved_and_loaded_it_gives_the_same(kind: str, name: str) -> None:
    first, second, x = build(kind, name).eval(), build(kind, name).eval(), example(kind, name)
    second.load_state_dict(first.state_dict())
    with torch.no_grad():
        assert torch.equal(first(x), second(x))


@pytest.mark.parametrize(("kind", "name"), ALL)
def test_gradient_checkpointing_changes_nothing(
    kind: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kept_results, "LEAST_TERMS", 1)  # of the products of such small coders
    x = example(kind, name)
    results = []
    for enabled in (False, True, "elementwise"):
        torch.manual_seed(0)
        option = {"checkpointing": bool(enabled)} if name in ("taae", "same") else {}
        module = build(kind, name, **option)
        set_gradient_checkpointing(module, enabled)
        y = module(x)
        y.square().sum().backward()
        results.append((y.detach(), [p.grad for p in module.parameters()]))
    torch.testing.assert_close(results[0], results[1])
    y, gradients = results[0]
    assert torch.equal(y, results[2][0])
    for a, b in zip(gradients, results[2][1], strict=True):
        assert (a is None and b is None) or torch.equal(a, b)


def test_set_gradient_checkpointing_finds_the_parts() -> None:
    module = build("encoder", "oobleck")
    set_gradient_checkpointing(module)
    assert sum(isinstance(m, Checkpointed) and m.gradient_checkpointing for m in module.modules()) == 6


@pytest.mark.parametrize(("kind", "name"), ALL)
def test_half_precision_runs(kind: str, name: str) -> None:
    module, x = build(kind, name).bfloat16().eval(), example(kind, name).bfloat16()
    with torch.no_grad():
        assert module(x).isfinite().all()


@pytest.mark.parametrize("norm", ["none", "weight_norm", "time_group_norm"])
@pytest.mark.parametrize("causal", [False, True])
def test_seanet_options(norm: str, causal: bool) -> None:
    options = {"norm": norm, "causal": causal, "n_residual_layers": 2, "true_skip": causal, "lstm": 0}
    encoder, decoder = build("encoder", "seanet", **options), build("decoder", "seanet", **options)
    assert decoder(encoder(torch.randn(1, 2, 80))).shape == (1, 2, 80)


def test_seanet_causal_does_not_look_ahead() -> None:
    encoder = build("encoder", "seanet", causal=True, pad_mode="constant").eval()
    x = torch.randn(1, 2, 80)
    later = x.clone()
    later[..., 48:] = 0
    with torch.no_grad():
        assert torch.equal(encoder(x)[..., :6], encoder(later)[..., :6])
        assert not torch.equal(encoder(x)[..., 6:], encoder(later)[..., 6:])


def test_seanet_takes_its_ratios_in_order_and_leaves_the_list_alone() -> None:
    ratios = [2, 4]
    first, second = (ENCODERS["seanet"](ratios=ratios, lstm=0, n_filters=2) for _ in range(2))
    assert ratios == [2, 4]
    kernels = [m.kernel_size[0] for m in first.modules() if isinstance(m, nn.Conv1d) and m.stride[0] > 1]
    assert kernels == [4, 8]
    assert {k: v.shape for k, v in first.state_dict().items()} == {
        k: v.shape for k, v in second.state_dict().items()
    }


def test_taae_window_limits_what_is_seen() -> None:
    torch.manual_seed(0)
    wide, narrow = (
        build("encoder", "taae", sliding_window=w, layer_scale=False).eval() for w in (None, [2, 2])
    )
    with torch.no_grad():
        for p in wide.parameters():
            p.add_(0.1 * torch.randn_like(p))
        narrow.load_state_dict(wide.state_dict())
        x = torch.randn(1, 2, 320)
        changed = x.clone()
        changed[..., :16] += 1
        far = slice(30, None)
        assert torch.equal(narrow(x)[..., far], narrow(changed)[..., far])
        assert not torch.equal(wide(x)[..., far], wide(changed)[..., far])


@pytest.mark.parametrize("options", [{"conformer": True}, {"use_dilated_conv": True}, {"layer_scale": False}])
def test_taae_options_add_or_remove_weights(options: dict[str, bool]) -> None:
    for kind in ("encoder", "decoder"):
        changed = build(kind, "taae", **options)
        assert set(changed.state_dict()) != set(build(kind, "taae").state_dict())
        changed(example(kind, "taae"))


def test_taae_decoder_with_snake_and_changing_widths() -> None:
    decoder = build("decoder", "taae", c_mults=[1, 4])
    assert decoder(torch.randn(1, 4, 6)).shape == (1, 2, 48)
    assert isinstance(decoder.layers[1].layers[0], TransformerStack)


SAME_OPTIONS: list[dict[str, Any]] = [
    {"chunk_size": 8, "chunk_midpoint_shift": True},
    {"sliding_window": [2, 2]},
    {"variable_stride": True},
    {"dyt": False, "differential": False},
    {"conv_mapping": True, "mapping_bias": False},
    {"conformer": True, "layer_scale": True, "feat_scale": True},
    {"sinusoidal_blocks": []},
]


@pytest.mark.parametrize("options", SAME_OPTIONS)
def test_same_options_change_the_function(options: dict[str, Any]) -> None:
    results = []
    for changes in ({}, options):
        torch.manual_seed(0)
        decoder = build("decoder", "same", **changes).eval()
        torch.manual_seed(1)
        with torch.no_grad():
            for p in decoder.parameters():
                p.copy_(0.3 * torch.randn_like(p))
            results.append(decoder(torch.sin(torch.arange(2.0 * 4 * 11)).view(2, 4, 11)))
    assert results[0].shape == results[1].shape == (2, 2, 88)
    assert not torch.equal(*results)


def test_same_mask_noise_acts_in_training_alone_and_frozen_backbones_stay() -> None:
    encoder = build("encoder", "same", mask_noise=1.0, freeze_backbone=True)
    with torch.no_grad():
        for p in encoder.parameters():
            p.copy_(0.3 * torch.randn_like(p))
    x = torch.randn(1, 2, 32)
    assert not torch.equal(encoder(x), encoder(x))
    encoder.eval()
    assert torch.equal(encoder(x), encoder(x))
    trained = {n for n, p in encoder.named_parameters() if p.requires_grad}
    assert trained
    assert not any(".transformers." in n for n in trained)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"cross_attn": True}, "cross_attn"),
        ({"chunk_size": 6}, r"multiple of every stride, found 6 with strides \[2, 4\]"),
        ({"chunk_size": 4, "chunk_midpoint_shift": True}, "at least twice every stride, 8, found 4"),
        ({"sinusoidal_blocks": [1]}, r"each of the 2 strides, found \[1\]"),
        ({"sinusoidal_blocks": [1, -1]}, r"0 or more"),
    ],
)
def test_same_refuses_what_it_cannot_do(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        build("decoder", "same", **options)


@pytest.mark.parametrize(
    ("blocks", "expected"),
    [([8], [i >= 5 for i in range(12)]), ([0], [False] * 12), ([1], [False] * 12), ([13], [True] * 12)],
)
def test_same_counts_sinusoidal_blocks_from_the_end_of_each_stage(
    blocks: list[int], expected: list[bool]
) -> None:
    """Block i of 12 has it where 12 - i < n: 8 turns on the last seven."""
    sizes = {"c_mults": [1], "strides": [4], "transformer_depths": [12]}
    stage = build("decoder", "same", **sizes, sinusoidal_blocks=blocks).layers[3]
    assert [isinstance(block.ff.ff[0].activation, Sine) for block in stage.transformers] == expected


def test_same_gives_sinusoidal_blocks_in_the_order_of_the_strides() -> None:
    decoder = build("decoder", "same", transformer_depths=[2, 1], sinusoidal_blocks=[2, 0])
    first, last = decoder.layers[3:]
    assert (first.tokens_out, last.tokens_out) == (4, 2)
    found = [[isinstance(b.ff.ff[0].activation, Sine) for b in s.transformers] for s in (first, last)]
    assert found == [[False], [False, True]]


@pytest.mark.parametrize(
    ("channels", "depth", "both", "decoding", "count"),
    [
        (
            128,
            6,
            {"chunk_size": 32, "chunk_midpoint_shift": True},
            {"conv_mapping": True, "sinusoidal_blocks": [0]},
            108_244_016,
        ),
        (256, 12, {"sliding_window": [1, 1]}, {"sinusoidal_blocks": [8]}, 852_126_560),
    ],
)
def test_same_has_the_published_sizes(
    channels: int, depth: int, both: dict[str, Any], decoding: dict[str, Any], count: int
) -> None:
    shared = {"channels": channels, "c_mults": [6], "strides": [16], "latent_dim": 256, "dim_heads": 64}
    shared |= {"transformer_depths": [depth], "variable_stride": True, **both}
    with torch.device("meta"):
        encoder = ENCODERS["same"](in_channels=512, **shared)
        decoder = DECODERS["same"](out_channels=512, **shared, **decoding)
    assert sum(p.numel() for part in (encoder, decoder) for p in part.parameters()) == count


def literal_chunks(stage: nn.Module, tokens: Tensor, chunk: int, shift: bool) -> Tensor:
    """Blocks of a stage on tokens (1 n d), n whole chunks; the second half on chunks moved by half of one."""

    def in_chunks(blocks: list[nn.Module], x: Tensor) -> Tensor:
        for block in blocks:
            x = torch.cat([block(part) for part in x.split(chunk, dim=1)], dim=1)
        return x

    blocks, half = list(stage.transformers), chunk // 2
    if not shift:
        return in_chunks(blocks, tokens)
    tokens = in_chunks(blocks[: len(blocks) // 2], tokens)
    moved = torch.cat([tokens[:, :half], tokens, tokens[:, -half:]], dim=1)
    return in_chunks(blocks[len(blocks) // 2 :], moved)[:, half:-half]


@pytest.mark.parametrize("chunks", [1, 3])
@pytest.mark.parametrize("shift", [False, True])
@pytest.mark.parametrize("kind", ["encoder", "decoder"])
def test_same_chunks_count_tokens_on_the_side_of_the_audio(kind: str, shift: bool, chunks: int) -> None:
    """Chunks of 8 audio tokens at stride 4 are two segments of five tokens, in encoder and decoder."""
    stride, chunk_size = 4, 8
    sizes = {"c_mults": [1], "strides": [stride], "transformer_depths": [2]}
    given = {"sinusoidal_blocks": [2]} if kind == "decoder" else {}
    coder = build(kind, "same", **sizes, **given, chunk_size=chunk_size, chunk_midpoint_shift=shift).eval()
    with torch.no_grad():
        for p in coder.parameters():
            p.copy_(0.3 * torch.randn_like(p))
    segments = chunks * chunk_size // stride
    x = torch.randn(1, 2 if kind == "encoder" else 4, segments * (stride if kind == "encoder" else 1))
    stage = coder.layers[0 if kind == "encoder" else 3]
    tokens = (stage.mapping(x) if kind == "encoder" else coder.layers[1](x.mT).mT).mT
    old = tokens.unflatten(1, (segments, -1))
    new = stage.new_tokens.expand(1, segments, -1, -1).flatten(0, 1).unflatten(0, (1, segments))
    mixed = literal_chunks(
        stage, torch.cat([old, new], 2).flatten(1, 2), chunk_size // stride * (stride + 1), shift
    )
    out = mixed.unflatten(1, (segments, -1))[:, :, old.shape[2] :].flatten(1, 2)
    expected = coder.layers[-2](out).mT if kind == "encoder" else stage.mapping(out.mT)
    torch.testing.assert_close(coder(x), expected)


@pytest.mark.parametrize("name", ["oobleck", "taae", "same"])
def test_lists_of_different_length_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="c_mults has 1 entries and strides 2"):
        build("encoder", name, c_mults=[1])


def test_autoencoder_kl_has_the_published_size() -> None:
    with torch.device("meta"):
        encoder, decoder = ENCODERS["autoencoder_kl"](), DECODERS["autoencoder_kl"]()
    assert sum(p.numel() for p in encoder.parameters()) == 34_163_664
    assert sum(p.numel() for p in decoder.parameters()) == 49_490_199


def test_autoencoder_kl_equals_the_reference_implementation() -> None:
    diffusers = pytest.importorskip("diffusers")
    theirs = diffusers.AutoencoderKL(
        in_channels=2,
        out_channels=2,
        latent_channels=4,
        block_out_channels=(32, 64),
        down_block_types=["DownEncoderBlock2D"] * 2,
        up_block_types=["UpDecoderBlock2D"] * 2,
        layers_per_block=1,
    ).eval()
    options = {"ch": 32, "ch_mult": [1, 2], "num_res_blocks": 1}
    encoder = ENCODERS["autoencoder_kl"](in_channels=2, latent_dim=8, **options).eval()
    decoder = DECODERS["autoencoder_kl"](out_channels=2, latent_dim=4, **options).eval()
    state = theirs.state_dict()
    _load_by_diffusers_names(encoder, {**_below(state, "encoder."), **_whole(state, "quant_conv.")})
    _load_by_diffusers_names(decoder, {**_below(state, "decoder."), **_whole(state, "post_quant_conv.")})
    x, z = torch.randn(1, 2, 16, 24), torch.randn(1, 4, 8, 12)
    with torch.no_grad():
        torch.testing.assert_close(encoder(x), theirs.encode(x).latent_dist.parameters, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(decoder(z), theirs.decode(z).sample, atol=1e-4, rtol=1e-4)


def _below(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k[len(prefix) :]: v for k, v in state.items() if k.startswith(prefix)}


def _whole(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k: v for k, v in state.items() if k.startswith(prefix)}


def _load_by_diffusers_names(module: nn.Module, state: dict[str, Tensor]) -> None:
    """diffusers renames the published keys; give them back their names."""
    names = [
        ("conv_norm_out", "norm_out"),
        ("mid_block.resnets.0", "mid.block_1"),
        ("mid_block.resnets.1", "mid.block_2"),
        ("mid_block.attentions.0.group_norm", "mid.attn_1.norm"),
        ("mid_block.attentions.0.to_q", "mid.attn_1.q"),
        ("mid_block.attentions.0.to_k", "mid.attn_1.k"),
        ("mid_block.attentions.0.to_v", "mid.attn_1.v"),
        ("mid_block.attentions.0.to_out.0", "mid.attn_1.proj_out"),
        ("conv_shortcut", "nin_shortcut"),
        ("downsamplers.0", "downsample"),
        ("upsamplers.0", "upsample"),
        ("down_blocks", "down"),
        ("up_blocks.0", "up.X"),
        ("up_blocks.1", "up.0"),
        ("up.X", "up.1"),
        ("resnets", "block"),
    ]
    renamed = {}
    for key, value in state.items():
        for old, new in names:
            key = key.replace(old, new)
        renamed[key] = value[..., None, None] if ".attn_1." in key and value.ndim == 2 else value
    module.load_state_dict(renamed)
