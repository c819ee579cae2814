from __future__ import annotations

import pytest
import torch
from torch import Tensor

from stable_audio.backbones import DiT
from stable_audio.diffusion.guidance import Guidance, cfg_dropout, rescaled
from stable_audio.diffusion.objectives import OBJECTIVES
from stable_audio.types import Conditioning, Slot
from tests.diffusion.gaussian import normal


class FakeBackbone:
    """Output = x + mean over tokens + global vector; null tokens are `null_value`."""

    default_scale_phi = 0.0
    masks_attention = False
    droppable = (Slot.CROSS_ATTN, Slot.PREPEND)

    def __init__(self, null_value: float | None = 0.0) -> None:
        self.null_value = null_value
        self.batches: list[int] = []
        self.prepared = 0
        self.dtypes: list[torch.dtype] = []

    def __call__(self, x: Tensor, t: Tensor, cond: Conditioning) -> Tensor:
        assert cond.prepared == "ready"
        assert len(t) == len(x)
        self.batches.append(len(x))
        self.dtypes.append(x.dtype)
        y = x + cond.cross_attn.mean(1).unsqueeze(-1)
        return y if cond.global_cond is None else y + cond.global_cond.unsqueeze(-1)

    def null(self, cond: Conditioning) -> Conditioning | None:
        if self.null_value is None:
            return None
        return cond.replace(cross_attn=torch.full_like(cond.cross_attn, self.null_value))

    def drop(self, cond: Conditioning, keep: dict[Slot, Tensor]) -> Conditioning:
        self.kept = keep
        return cond

    def prepare(self, cond: Conditioning) -> Conditioning:
        self.prepared += 1
        return cond.replace(prepared="ready")


X, T = normal(2, 3, 5), torch.tensor([0.4, 0.4])
COND = Conditioning(cross_attn=normal(2, 4, 3, seed=1), global_cond=normal(2, 3, seed=2))
V = OBJECTIVES["v"]()


def _c(tokens: Tensor) -> Tensor:
    return X + tokens.mean(1).unsqueeze(-1) + COND.global_cond.unsqueeze(-1)


def test_guided_output_is_the_formula_in_one_doubled_batch() -> None:
    backbone = FakeBackbone(null_value=0.5)
    guide = Guidance(backbone, V, COND, cfg_scale=3.0)
    found = guide(X, T)
    cond, uncond = _c(COND.cross_attn), _c(torch.full((2, 4, 3), 0.5))
    assert torch.allclose(found.value, uncond + 3 * (cond - uncond), atol=1e-5)
    assert torch.allclose(found.uncond, uncond, atol=1e-6)
    guide(X, T)
    assert backbone.batches == [4, 4]
    assert backbone.prepared == 1


@pytest.mark.parametrize(
    ("null_value", "options"),
    [
        (0.0, {"cfg_scale": 1.0}),
        (None, {"cfg_scale": 4.0}),
        (0.0, {"cfg_scale": 4.0, "cfg_interval": (0.7, 1)}),
    ],
)
def test_the_unconditional_half_is_skipped_where_it_cannot_matter(null_value, options) -> None:
    backbone = FakeBackbone(null_value)
    found = Guidance(backbone, V, COND, **options)(X, T)  # sigma(0.4) = 0.588
    assert torch.equal(found.value, _c(COND.cross_attn))
    assert found.uncond is None
    assert backbone.batches == [2]


def test_interval_is_in_sigma_of_the_objective() -> None:
    for objective, interval, active in [("v", (0.5, 0.6), True), ("rectified_flow", (0.5, 0.6), False)]:
        guide = Guidance(FakeBackbone(), OBJECTIVES[objective](), COND, cfg_scale=2.0, cfg_interval=interval)
        assert (guide(X, T).uncond is not None) is active


def test_negative_conditioning_replaces_the_tokens_but_not_the_global_vector() -> None:
    tokens = normal(2, 4, 3, seed=5)
    mask = torch.tensor([[True, True, False, False]] * 2)
    negative = Conditioning(cross_attn=tokens, cross_attn_mask=mask, global_cond=normal(2, 3, seed=6))
    found = Guidance(FakeBackbone(null_value=0.25), V, COND, cfg_scale=2.0, negative=negative)(X, T)
    filled = tokens.clone()
    filled[:, 2:] = 0.25
    assert torch.allclose(found.uncond, _c(filled), atol=1e-6)


@pytest.mark.parametrize("tokens", [4, 7])
def test_a_negative_prompt_brings_its_own_mask(tokens: int) -> None:
    """Five valid tokens of a negative prompt beside two of a positive one, whatever their padded lengths."""
    dit = DiT(
        io_channels=3,
        embed_dim=16,
        depth=1,
        num_heads=2,
        cond_token_dim=3,
        mask_cross_attention=True,
        zero_init_branch_outputs=False,
    )
    positive = Conditioning(
        cross_attn=normal(2, tokens, 3, seed=1),
        cross_attn_mask=torch.arange(tokens).expand(2, -1) < 2,
    )
    valid = torch.tensor([[3], [4]])
    negative = Conditioning(
        cross_attn=normal(2, 4, 3, seed=5), cross_attn_mask=torch.arange(4).expand(2, -1) < valid
    )
    with torch.no_grad():
        found = Guidance(dit, V, positive, cfg_scale=2.0, negative=negative)(X, T).uncond
        for item, count in enumerate(valid.flatten().tolist()):
            alone = Conditioning(cross_attn=negative.cross_attn[item : item + 1, :count])
            expected = dit(X[item : item + 1], T[:1], dit.prepare(alone))
            assert torch.allclose(found[item : item + 1], expected, atol=1e-5)


def test_negative_slots_can_be_widened() -> None:
    negative = COND.replace(global_cond=torch.zeros(2, 3))
    guide = Guidance(
        FakeBackbone(),
        V,
        COND,
        cfg_scale=2.0,
        negative=negative,
        negative_slots=(Slot.CROSS_ATTN, Slot.GLOBAL),
    )
    expected = X + COND.cross_attn.mean(1).unsqueeze(-1)
    assert torch.allclose(guide(X, T).uncond, expected, atol=1e-6)


def test_negative_of_another_length_takes_two_passes_and_no_padding() -> None:
    backbone = FakeBackbone()
    negative = Conditioning(cross_attn=normal(2, 9, 3, seed=5))
    found = Guidance(backbone, V, COND, cfg_scale=2.0, negative=negative)(X, T)
    assert backbone.batches == [2, 2]
    assert torch.allclose(found.uncond, _c(negative.cross_attn), atol=1e-6)


def test_a_negative_without_effect_is_told(caplog: pytest.LogCaptureFixture) -> None:
    Guidance(FakeBackbone(), V, COND, cfg_scale=2.0, negative=Conditioning())
    assert "no effect" in caplog.text


def test_rescale_restores_the_deviation_over_channels() -> None:
    cond, mixed = normal(2, 6, 5), 7 * normal(2, 6, 5, seed=1)
    assert torch.allclose(rescaled(mixed, cond, 1.0).std(1), cond.std(1), atol=1e-5)
    assert torch.equal(rescaled(mixed, cond, 0.0), mixed)
    half = rescaled(mixed, cond, 0.5)
    assert torch.allclose(half, (rescaled(mixed, cond, 1.0) + mixed) / 2, atol=1e-5)
    assert torch.isfinite(rescaled(mixed[:, :1], cond[:, :1], 0.7)).all()


def test_the_backbone_sets_the_default_rescale() -> None:
    backbone = FakeBackbone()
    backbone.default_scale_phi = 1.0
    found = Guidance(backbone, V, COND, cfg_scale=5.0)(X, T).value
    assert torch.allclose(found.std(1), _c(COND.cross_attn).std(1), atol=1e-5)


def test_mixing_is_float32_for_half_precision_backbones() -> None:
    backbone = FakeBackbone()
    found = Guidance(backbone, V, COND.to(dtype=torch.bfloat16), cfg_scale=2.0, dtype=torch.bfloat16)(X, T)
    assert backbone.dtypes == [torch.bfloat16]
    assert found.value.dtype == torch.float32


def test_bad_interval() -> None:
    with pytest.raises(ValueError, match=r"found \(0.8, 0.2\)"):
        Guidance(FakeBackbone(), V, COND, cfg_interval=(0.8, 0.2))


def test_dropout_draws_once_per_slot_in_use_in_order() -> None:
    backbone, asked = FakeBackbone(), []

    def scripted(n: int, prob: float) -> Tensor:
        asked.append((n, prob))
        return torch.tensor([1, 0])

    cfg_dropout(backbone, COND, 0.3, scripted)
    assert asked == [(2, 0.3)]
    assert backbone.kept[Slot.CROSS_ATTN].tolist() == [False, True]
    assert cfg_dropout(backbone, COND, 0.0, scripted) is COND
    assert len(asked) == 1
    with pytest.raises(ValueError, match=r"found 1.2"):
        cfg_dropout(backbone, COND, 1.2, scripted)


def test_the_first_item_tells_whether_the_batch_is_in_the_interval() -> None:
    """As in the reference, whose golden cases have items of different levels."""
    guide = Guidance(
        FakeBackbone(), OBJECTIVES["rectified_flow"](), COND, cfg_scale=3.0, cfg_interval=(0, 0.5)
    )
    cond, uncond = _c(COND.cross_attn), _c(torch.zeros(2, 4, 3))
    assert torch.equal(guide(X, torch.tensor([0.9, 0.3])).value, cond)
    guided = guide(X, torch.tensor([0.3, 0.9])).value
    assert torch.allclose(guided, uncond + 3 * (cond - uncond), atol=1e-5)


@pytest.mark.parametrize("name", sorted(OBJECTIVES))
@pytest.mark.parametrize("apg", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("threshold", [0.0, 0.5])
@pytest.mark.parametrize("padded", [False, True])
def test_projected_guidance_is_the_formula_on_estimates_of_x0(name, apg, threshold, padded) -> None:
    """Written out with estimates of x0, from which the outputs follow by inverting their definition."""
    objective, t = OBJECTIVES[name](), torch.tensor([0.4, 0.7])
    mask = torch.tensor([[True] * 5, [True, True, False, False, False]]) if padded else None
    cond_tensors = COND.replace(padding_mask=mask)
    found = Guidance(
        FakeBackbone(0.3), objective, cond_tensors, cfg_scale=4.0, apg_scale=apg, cfg_norm_threshold=threshold
    )(X, t).value.double()

    x, cond, uncond = X.double(), _c(COND.cross_attn).double(), _c(torch.full((2, 4, 3), 0.3)).double()
    c0, u0 = (objective.denoised(y, x, t.double()) for y in (cond, uncond))
    valid = torch.ones(2, 1, 5) if mask is None else mask[:, None].double()
    expected = []
    for i in range(2):
        d = c0[i] - u0[i]
        if threshold:
            d = d * min(1.0, threshold / float(d.norm()))
        unit = c0[i] * valid[i] / (c0[i] * valid[i]).norm()
        orthogonal = (d - (d * valid[i] * unit).sum() * unit) * valid[i]
        expected.append(c0[i] + 3 * (apg * orthogonal + (1 - apg) * d if apg else d))
    assert torch.allclose(objective.denoised(found, x, t.double()), torch.stack(expected), atol=1e-4)


def test_projected_guidance_divides_by_nothing_at_the_end() -> None:
    objective = OBJECTIVES["rectified_flow"]()
    options = {"cfg_scale": 4.0, "apg_scale": 1.0, "cfg_norm_threshold": 0.1}
    assert Guidance(FakeBackbone(), objective, COND, **options)(X, torch.zeros(2)).value.isfinite().all()


def test_weight_zero_is_the_unconditional_branch_projected_or_not() -> None:
    objective = OBJECTIVES["rectified_flow"]()
    found = Guidance(FakeBackbone(0.5), objective, COND, cfg_scale=0.0, apg_scale=1.0)(X, T)
    assert torch.allclose(found.value, _c(torch.full((2, 4, 3), 0.5)), atol=1e-6)
