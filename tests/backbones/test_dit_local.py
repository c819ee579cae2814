"""Local conditioning and padding masks of the DiT."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from stable_audio.backbones import DiT
from stable_audio.types import Conditioning
from tests.backbones.test_dit import build, inputs


def randn(*shape: int, seed: int = 3) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_every_block_adds_its_embedding_to_the_tokens_of_the_same_frames() -> None:
    """A block of the DiT against the sum of its branches, written out."""
    dit, (x, t) = (
        build(local_add_cond_dim=2, modular_local_dims={"a": 1}, num_memory_tokens=3, depth=1),
        inputs(),
    )
    joined, own = randn(2, 2, 8), randn(2, 1, 8, seed=4)
    block = dit.transformer.layers[0]
    calls: dict[str, Tensor] = {}
    block.ff_norm.register_forward_pre_hook(lambda module, args: calls.update(before_ff=args[0]))
    dit(x, t, Conditioning())
    plain = calls["before_ff"]
    dit(x, t, Conditioning(local_add=joined, modular_local={"a": own}))
    tokens = [
        F.silu(m[0](v.mT))
        for m, v in ((block.to_local_embed, joined), (block.modular_local_embeds["a"], own))
    ]
    embedded = block.to_local_embed[2](tokens[0]) + block.modular_local_embeds["a"][2](tokens[1])
    # Three memory tokens, and the token of t, come first.
    expected = plain + F.pad(embedded, (0, 0, 4, 0))
    torch.testing.assert_close(calls["before_ff"], expected)


def test_it_starts_without_any_effect() -> None:
    torch.manual_seed(0)
    dit = DiT(io_channels=3, embed_dim=16, depth=1, num_heads=2, local_add_cond_dim=2).eval()
    embedding = dit.transformer.layers[0].to_local_embed
    assert not embedding[2].weight.any()
    assert not embedding[2].bias.any()
    assert embedding[0].weight.any()


def test_an_absent_id_adds_nothing_and_zeros_are_not_absent() -> None:
    dit, (x, t) = build(modular_local_dims={"a": 1, "b": 2}), inputs()
    a, b = randn(2, 1, 8), randn(2, 2, 8)
    none = dit(x, t, Conditioning())
    assert torch.equal(none, dit(x, t, Conditioning(modular_local={})))
    assert torch.equal(none, dit(x, t, Conditioning(modular_local={"other": a})))
    only_a = dit(x, t, Conditioning(modular_local={"a": a}))
    assert not torch.allclose(only_a, none)
    assert not torch.allclose(only_a, dit(x, t, Conditioning(modular_local={"a": a, "b": 0 * b})))


def test_other_lengths_are_resized_and_patches_hold_the_frames_of_a_token() -> None:
    dit, (x, t) = build(local_add_cond_dim=2, patch_size=2), inputs()
    assert dit.transformer.layers[0].to_local_embed[0].in_features == 4
    short = randn(2, 2, 4)
    long = short.repeat_interleave(2, dim=-1)
    assert torch.equal(dit(x, t, Conditioning(local_add=short)), dit(x, t, Conditioning(local_add=long)))
    other = long.clone()
    other[:, :, 1] += 1
    assert not torch.allclose(
        dit(x, t, Conditioning(local_add=other)), dit(x, t, Conditioning(local_add=long))
    )


def test_the_null_conditioning_keeps_what_belongs_to_frames() -> None:
    dit = build(cond_token_dim=6, local_add_cond_dim=2, modular_local_dims={"a": 1})
    cond = Conditioning(
        cross_attn=randn(2, 3, 6),
        local_add=randn(2, 2, 8),
        modular_local={"a": randn(2, 1, 8)},
        padding_mask=torch.ones(2, 8, dtype=torch.bool),
    )
    null = dit.null(cond)
    assert null is not None
    assert null.local_add is cond.local_add
    assert null.modular_local is cond.modular_local
    assert null.padding_mask is cond.padding_mask


@pytest.mark.parametrize("settings", [{}, {"num_memory_tokens": 2, "global_cond_dim": 4}, {"patch_size": 2}])
def test_a_clip_is_as_if_its_padding_were_not_there(settings: dict[str, int]) -> None:
    dit, (x, t) = build(**settings), inputs()
    mask = torch.arange(8) < torch.tensor([[4], [8]])
    cond = Conditioning(padding_mask=mask, global_cond=randn(2, 4) if "global_cond_dim" in settings else None)
    found = dit(x, t, cond)
    alone = dit(x[:1, :, :4], t[:1], cond.index(slice(0, 1)).replace(padding_mask=None))
    torch.testing.assert_close(found[:1, :, :4], alone, atol=1e-5, rtol=1e-4)
    whole = dit(x[1:], t[1:], cond.index(slice(1, 2)).replace(padding_mask=None))
    torch.testing.assert_close(found[1:], whole, atol=1e-5, rtol=1e-4)
    assert dit(x, t, cond.replace(padding_mask=torch.zeros(2, 8, dtype=torch.bool))).isfinite().all()


def test_a_patch_with_a_real_frame_is_real() -> None:
    dit, (x, t) = build(patch_size=2), inputs()
    masks = [(torch.arange(8) < n).expand(2, -1) for n in (3, 4)]
    assert torch.equal(*(dit(x, t, Conditioning(padding_mask=m)) for m in masks))


def test_what_a_padding_mask_must_be() -> None:
    dit, (x, t) = build(), inputs()
    with pytest.raises(ValueError, match=r"shape \(2, 7\), but x needs \(2, 8\)"):
        dit(x, t, Conditioning(padding_mask=torch.ones(2, 7, dtype=torch.bool)))
    with pytest.raises(ValueError, match="packed clips have no padding"):
        dit.forward_packed(x, t, Conditioning(padding_mask=torch.ones(2, 8, dtype=torch.bool)), [8, 8])
    with pytest.raises(ValueError, match=r"above 0 and ids without dots.*'a.b': 1"):
        build(modular_local_dims={"a.b": 1})
    with pytest.raises(ValueError, match=r"a has 3 frames, but packed clips"):
        build(modular_local_dims={"a": 1}).forward_packed(
            x, t, Conditioning(modular_local={"a": torch.zeros(2, 1, 3)}), [8, 8]
        )
