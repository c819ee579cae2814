"""What is particular to the DiT; what it shares with other backbones is in test_contracts.py."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from stable_audio.backbones import DiT, UncondDiT
from stable_audio.backbones.dit import patch, unpatch
from stable_audio.nn.attention import AttentionOptions
from stable_audio.nn.norms import DynamicTanh, NormOptions, RMSNorm
from stable_audio.types import Conditioning, Slot

TINY: dict[str, Any] = {"io_channels": 3, "embed_dim": 16, "depth": 2, "num_heads": 2}
SLOTS: dict[str, Any] = {
    "cond_token_dim": 6,
    "global_cond_dim": 4,
    "prepend_cond_dim": 5,
    "input_concat_dim": 2,
}


def build(**kwargs: Any) -> DiT:
    torch.manual_seed(0)
    dit = DiT(**{**TINY, **kwargs})
    with torch.no_grad():
        for parameter in dit.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return dit.eval()


def inputs(n: int = 8) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(2, 3, n, generator=generator), torch.tensor([0.2, 0.7])


def full_conditioning(n: int = 8) -> Conditioning:
    generator = torch.Generator().manual_seed(2)
    return Conditioning(
        cross_attn=torch.randn(2, 5, 6, generator=generator),
        global_cond=torch.randn(2, 4, generator=generator),
        prepend=torch.randn(2, 3, 5, generator=generator),
        input_concat=torch.randn(2, 2, n, generator=generator),
    )


def test_widths_of_the_slots_are_those_of_the_config() -> None:
    assert build().slots == frozenset()
    assert build(**SLOTS).slot_widths == {
        Slot.CROSS_ATTN: 6,
        Slot.GLOBAL: 4,
        Slot.PREPEND: 5,
        Slot.INPUT_CONCAT: 2,
    }


@pytest.mark.parametrize("num_heads", [1, 2, 4, 8, 16])
def test_any_head_width_works(num_heads: int) -> None:
    """Head widths 16 to 1; stable-audio-tools needs 32."""
    x, t = inputs()
    assert build(num_heads=num_heads)(x, t, Conditioning()).isfinite().all()


@pytest.mark.parametrize("global_cond_type", ["prepend", "adaLN"])
@pytest.mark.parametrize("channels", [1, 5])
def test_timestep_as_channels(global_cond_type: str, channels: int) -> None:
    dit = build(
        **SLOTS,
        timestep_cond_type="input_concat",
        timestep_embed_dim=channels,
        global_cond_type=global_cond_type,
    )
    (x, t), cond = inputs(), full_conditioning()
    assert dit.preprocess_conv.weight.shape[0] == 3 + 2 + channels
    assert not torch.allclose(dit(x, t, cond), dit(x, t + 0.1, cond))


def test_masks_do_not_change_the_output() -> None:
    """As in the checkpoints that must load: padding is marked by zeros, not by attention masks."""
    dit, (x, t), cond = build(**SLOTS), inputs(), full_conditioning()
    mask = torch.zeros(2, 5, dtype=torch.bool)
    masked = cond.replace(cross_attn_mask=mask, prepend_mask=mask[:, :3])
    torch.testing.assert_close(dit(x, t, masked), dit(x, t, cond), rtol=0, atol=0)


@pytest.mark.parametrize("transformer_type", ["continuous_transformer", "x-transformers"])
def test_masks_hide_padding_when_asked(transformer_type: Any) -> None:
    if transformer_type == "x-transformers":
        pytest.importorskip("x_transformers")
    sizes = {"embed_dim": 64, "cond_token_dim": 6, "transformer_type": transformer_type}
    dit, (x, t) = build(**sizes, mask_cross_attention=True), inputs()
    tokens = torch.randn(2, 5, 6)
    cond = Conditioning(cross_attn=tokens, cross_attn_mask=torch.arange(5).expand(2, 5) < 3)
    short = Conditioning(cross_attn=tokens[:, :3])
    torch.testing.assert_close(dit(x, t, cond), dit(x, t, short), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(dit(x, t, dit.prepare(cond)), dit(x, t, cond), atol=1e-6, rtol=1e-5)
    nothing = cond.replace(cross_attn_mask=torch.zeros(2, 5, dtype=torch.bool))
    assert dit(x, t, nothing).isfinite().all()


def test_null_zeroes_tokens_and_keeps_the_rest() -> None:
    dit, cond = build(**SLOTS), full_conditioning()
    null = dit.null(cond)
    assert null is not None
    assert null.cross_attn is not None
    assert null.prepend is not None
    assert not null.cross_attn.any()
    assert not null.prepend.any()
    assert null.global_cond is cond.global_cond
    assert null.input_concat is cond.input_concat
    assert dit.null(Conditioning(global_cond=cond.global_cond)) is None


def test_slots_may_be_empty_unless_required() -> None:
    dit, (x, t) = build(**SLOTS), inputs()
    assert dit.required_slots == {Slot.INPUT_CONCAT}
    assert dit(x, t, Conditioning(input_concat=torch.zeros(2, 2, 8))).shape == x.shape
    with pytest.raises(ValueError, match=r"lacks \['input_concat'\]"):
        dit(x, t, Conditioning())


def test_input_concat_of_another_length_is_repeated_to_nearest() -> None:
    dit, (x, t), cond = build(**SLOTS), inputs(), full_conditioning(4)
    stretched = cond.replace(input_concat=cond.input_concat.repeat_interleave(2, dim=-1))
    torch.testing.assert_close(dit(x, t, cond), dit(x, t, stretched))


def test_patches_fold_time_into_channels() -> None:
    dit = build(patch_size=4)
    x = torch.arange(24.0).view(1, 3, 8)
    tokens = patch(x, 4)
    assert tokens.shape == (1, 2, 12)
    assert tokens[0, 1].tolist() == [4, 5, 6, 7, 12, 13, 14, 15, 20, 21, 22, 23]
    assert torch.equal(unpatch(tokens, 4), x)
    with pytest.raises(ValueError, match="length 6 is not a multiple of patch_size = 4"):
        dit(torch.randn(1, 3, 6), torch.rand(1), Conditioning())


def test_hidden_states_have_memory_prepended_and_global_tokens_first() -> None:
    dit, (x, t), cond = build(**SLOTS, num_memory_tokens=2), inputs(), full_conditioning()
    hidden = dit.hidden_states(x, t, cond)
    assert [h.shape for h in hidden] == [(2, 2 + 3 + 1 + 8, 16)] * 2
    features = dit.features(x, t, cond, layer=0)
    torch.testing.assert_close(features, hidden[0][:, 2:])
    prepared = dit.hidden_states(x, t, dit.prepare(cond))
    torch.testing.assert_close(prepared[1], hidden[1])


def test_prepare_leaves_no_work_on_the_conditioning() -> None:
    """Poisoned projections show that a prepared forward does not touch them again."""
    dit, (x, t), cond = build(**SLOTS), inputs(), full_conditioning()
    expected, prepared = dit(x, t, cond), dit.prepare(cond)
    with torch.no_grad():
        for module in (dit.to_cond_embed, dit.to_global_embed, dit.to_prepend_embed):
            for parameter in module.parameters():
                parameter.fill_(torch.nan)
        for layer in dit.transformer.layers:
            layer.cross_attn.to_kv.weight.fill_(torch.nan)
    torch.testing.assert_close(dit(x, t, prepared), expected)


def test_t_is_not_rounded_in_half_precision() -> None:
    """Two times that bfloat16 cannot tell apart must still give different embeddings."""
    dit = build().to(torch.bfloat16)
    t = torch.tensor([0.9990, 0.9995])
    assert t.bfloat16()[0] == t.bfloat16()[1]
    features = dit._timestep_features(t)
    assert not torch.equal(features[0], features[1])


@pytest.mark.parametrize("features", ["learned", "expo"])
@pytest.mark.parametrize("logsnr", [True, False])
def test_timestep_features(features: str, logsnr: bool) -> None:
    dit = build(timestep_features_type=features, timestep_features_dim=16, timestep_features_logsnr=logsnr)
    x = inputs()[0]
    ends = dit(x, torch.tensor([0.0, 1.0]), Conditioning())
    assert ends.isfinite().all()
    assert ("timestep_features.weight" in dit.state_dict()) is (features == "learned")


def test_log_snr_features_are_scaled_to_the_unit_interval() -> None:
    dit = build(timestep_features_logsnr=True)
    seen: list[torch.Tensor] = []
    dit.timestep_features.forward = lambda t: seen.append(t) or torch.zeros(len(t), 256)  # type: ignore
    dit._timestep_features(torch.tensor([0.0, 0.5, 1.0]))
    torch.testing.assert_close(seen[0], torch.tensor([0.0, 5 / 17, 1.0]))


def test_norm_types() -> None:
    assert isinstance(build(norm_type="rms_norm").transformer.layers[0].pre_norm, RMSNorm)
    for kwargs in ({"norm_type": "dyt"}, {"remove_norms": True}):
        assert isinstance(build(**kwargs).transformer.layers[0].ff_norm, DynamicTanh)
    with pytest.raises(ValueError, match="remove_norms is true"):
        build(norm_type="rms_norm", remove_norms=True)
    with pytest.raises(ValueError, match="takes no options"):
        build(remove_norms=True, norm_kwargs=NormOptions(bias=True))


@pytest.mark.parametrize(
    "option",
    [
        {"attn_kwargs": AttentionOptions(qk_norm="rms", differential=True, feat_scale=True)},
        {"conformer": True, "layer_scale": True, "global_cond_type": "adaLN"},
        {"causal": True, "sliding_window": (3, 3), "num_memory_tokens": 2},
        {"use_abs_pos_emb": True, "add_rope": True, "rotary_pos_emb": False, "patch_size": 2},
        {"norm_type": "rms_norm", "project_cond_tokens": False, "cond_token_dim": 8},
    ],
)
def test_options_combine(option: dict[str, Any]) -> None:
    dit = build(**{**SLOTS, **option}).train()
    (x, t), cond = inputs(), full_conditioning()
    if "cond_token_dim" in option:
        cond = cond.replace(cross_attn=torch.randn(2, 5, 8))
    dit(x, t, cond).square().sum().backward()
    assert [n for n, p in dit.named_parameters() if p.grad is None or not p.grad.any()] == []


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"embed_dim": 10, "num_heads": 4}, "embed_dim is 10; it must be a multiple of num_heads = 4"),
        ({"global_cond_type": "adaln"}, "global_cond_type is 'adaln'; allowed are 'prepend', 'adaLN'"),
        ({"timestep_cond_type": "input_concat"}, "needs timestep_embed_dim"),
        (
            {"timestep_cond_type": "input_concat", "timestep_embed_dim": 1, "global_cond_type": "adaLN"},
            "nothing to read",
        ),
        (
            {"global_cond_dim": 4, "project_global_cond": False},
            "global_cond_dim = 4 differs from embed_dim = 16",
        ),
        ({"cond_token_dim": 9, "project_cond_tokens": False}, "cross-attention context width is 9"),
        ({"cond_token_dim": -1}, "must be 0 or more"),
        ({"patch_size": 0}, "patch_size is 0"),
        ({"transformer_type": "rnn"}, "transformer_type is 'rnn'"),
        ({"attn_layers_kwargs": {"macaron": True}}, "apply to transformer_type 'x-transformers' only"),
        ({"sliding_window": (3,)}, r"sliding_window is \(3,\)"),
    ],
)
def test_mistakes_are_named(kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DiT(**{**TINY, **kwargs})


def test_unconditional_parameters_start_at_half() -> None:
    """The scales of norms start at one, so that half of it shows."""
    dit = UncondDiT(in_channels=3, embed_dim=16, depth=1, num_heads=2)
    assert torch.equal(dit.transformer.layers[0].pre_norm.gamma, torch.full((16,), 0.5))
    assert dit.slots == frozenset()
    assert dit.null(Conditioning()) is None


def test_prepared_steps_do_not_search_the_weights_for_their_type(monkeypatch: pytest.MonkeyPatch) -> None:
    dit = build(**SLOTS)
    x, t = inputs()
    cond = dit.prepare(full_conditioning())
    expected = dit(x, t, cond)

    def refuse(module: torch.nn.Module) -> torch.dtype:
        raise AssertionError("the type of the weights is known")

    monkeypatch.setattr("stable_audio.backbones.dit.parameter_dtype", refuse)
    assert torch.equal(dit(x, t, cond), expected)
    with pytest.raises(AssertionError, match="is known"):
        dit(x, t, full_conditioning())
