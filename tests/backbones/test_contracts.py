"""What every registered backbone must do, whatever it is inside."""

from __future__ import annotations

import contextlib
import copy
import importlib
import io
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from stable_audio.backbones import BACKBONES, UNCOND_BACKBONES
from stable_audio.backbones.base import Backbone
from stable_audio.config import ConfigError, load_config
from stable_audio.config.sections.diffusion import SLOT_KEYS
from stable_audio.diffusion.guidance import Guidance
from stable_audio.diffusion.objectives import OBJECTIVES
from stable_audio.diffusion.samplers import SAMPLERS
from stable_audio.diffusion.sampling import sample
from stable_audio.inference.memory.operations import OperationCount
from stable_audio.nn import attention_gradient, kept_results
from stable_audio.nn.checkpointing import Checkpointed
from stable_audio.types import Conditioning, Slot
from tests import tiny
from tests.golden.kinds.assembly import construct
from tests.kernels import AttentionKernels

CASES: dict[str, tuple[type[Backbone], dict[str, Any]]] = {
    **{name: (BACKBONES[name], config) for name, config in tiny.BACKBONES.items()},
    **{
        f"{name} (uncond)": (UNCOND_BACKBONES[name], config) for name, config in tiny.UNCOND_BACKBONES.items()
    },
    "dit (adaLN)": (BACKBONES["dit"], {**tiny.BACKBONES["dit"], "global_cond_type": "adaLN"}),
}
# An extra, which machines that run only the tests on CUDA may lack.
with contextlib.suppress(ImportError):
    importlib.import_module("x_transformers")
    CASES["dit (x-transformers)"] = (
        BACKBONES["dit"],
        {**tiny.DIT_X_TRANSFORMERS},
    )
ALL = pytest.mark.parametrize("name", list(CASES))
BATCH, FRAMES = 2, 8
WIDTH_WHEN_FREE = 3


def build(name: str, *, seed: int = 0) -> Backbone:
    """A tiny backbone without a parameter at its initial zero, which would hide paths."""
    cls, config = CASES[name]
    torch.manual_seed(seed)
    backbone = construct(cls, config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in backbone.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return backbone.eval()


def inputs(backbone: Backbone, *, seed: int = 1, times: int = FRAMES) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    n = backbone.length_multiple * times
    t = torch.rand(BATCH, generator=generator) * 0.8 + 0.1
    return torch.randn(BATCH, backbone.io_channels, n, generator=generator), t


def conditioning(backbone: Backbone, *, seed: int = 2) -> Conditioning:
    generator = torch.Generator().manual_seed(seed)
    n = inputs(backbone)[0].shape[-1]

    def draw(slot: Slot, *before: int, after: tuple[int, ...] = ()) -> Tensor | None:
        if slot not in backbone.slots:
            return None
        width = backbone.slot_widths[slot] or WIDTH_WHEN_FREE
        return torch.randn(BATCH, *before, width, *after, generator=generator)

    return Conditioning(
        cross_attn=draw(Slot.CROSS_ATTN, 4),
        cross_attn_mask=torch.ones(BATCH, 4, dtype=torch.bool) if Slot.CROSS_ATTN in backbone.slots else None,
        global_cond=draw(Slot.GLOBAL),
        prepend=draw(Slot.PREPEND, 3),
        prepend_mask=torch.ones(BATCH, 3, dtype=torch.bool) if Slot.PREPEND in backbone.slots else None,
        input_concat=draw(Slot.INPUT_CONCAT, after=(n,)),
        local_add=draw(Slot.LOCAL_ADD, after=(n,)),
    )


def gradients(backbone: Backbone) -> dict[str, Tensor | None]:
    """Of a loss over the conditioning and, as in training with dropout, the null conditioning."""
    (x, t), cond = inputs(backbone), conditioning(backbone)
    null = backbone.null(cond)
    backbone.zero_grad(set_to_none=True)
    for branch in (cond, null):
        if branch is not None:
            backbone(x, t, branch).square().sum().backward()
    return {n: p.grad for n, p in backbone.named_parameters()}


def test_every_registered_backbone_has_a_tiny_entry() -> None:
    assert set(tiny.BACKBONES) == set(BACKBONES)
    assert set(tiny.UNCOND_BACKBONES) == set(UNCOND_BACKBONES)


@ALL
def test_output_has_the_shape_of_x(name: str) -> None:
    backbone = build(name)
    for times in (FRAMES, FRAMES + 4):
        x, t = inputs(backbone, times=times)
        out = backbone(x, t, conditioning(backbone))
        assert out.shape == x.shape
        assert out.isfinite().all()


CALLED = {
    **CASES,
    "dit (conformer)": (
        BACKBONES["dit"],
        {**tiny.BACKBONES["dit"], "conformer": True, "use_abs_pos_emb": True, "prepend_cond_dim": 3},
    ),
    "adp_cfg_1d (time token)": (
        BACKBONES["adp_cfg_1d"],
        {**tiny.BACKBONES["adp_cfg_1d"], "use_xattn_time": True},
    ),
}


@pytest.mark.parametrize("name", list(CALLED))
def test_every_layer_is_called(name: str) -> None:
    """A layer whose weight is read from outside would ignore whatever wraps it."""
    cls, config = CALLED[name]
    backbone = construct(cls, config).eval()
    layers = {
        n: m
        for n, m in backbone.named_modules()
        if isinstance(m, (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Embedding))
    }
    called: set[str] = set()
    for layer_name, layer in layers.items():
        layer.register_forward_hook(lambda *_, name=layer_name: called.add(name))
    (x, t), cond = inputs(backbone), conditioning(backbone)
    backbone(x, t, cond)
    backbone(x, t, backbone.null(cond) or cond)
    assert set(layers) - called == set()


@ALL
def test_items_of_a_batch_do_not_mix(name: str) -> None:
    backbone = build(name)
    (x, t), cond = inputs(backbone), conditioning(backbone)
    alone = backbone(x[:1], t[:1], cond.index(slice(0, 1)))
    torch.testing.assert_close(backbone(x, t, cond)[:1], alone, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", [n for n in CASES if Slot.INPUT_CONCAT in build(n).slots])
def test_a_vector_in_input_concat_acts_at_every_frame(name: str) -> None:
    backbone = build(name)
    (x, t), cond = inputs(backbone), conditioning(backbone)
    short = cond.replace(input_concat=cond.input_concat[..., :1])
    long = cond.replace(input_concat=short.input_concat.expand(-1, -1, x.shape[-1]))
    torch.testing.assert_close(backbone(x, t, short), backbone(x, t, long))
    if not backbone.packing_obstacles:
        lengths = [x.shape[-1], x.shape[-1] // 2]
        packed = [backbone.forward_packed(x, t, c, lengths) for c in (short, long)]
        torch.testing.assert_close(*packed)


DOCS = Path(__file__).parents[2] / "docs" / "backbones.md"


@pytest.mark.parametrize("name", list(BACKBONES))
def test_the_documentation_says_which_slots_training_drops(name: str) -> None:
    row = re.search(rf"^\| `{name}` \| [^|]* \| ([^|]*) \|$", DOCS.read_text("utf-8"), re.MULTILINE)
    assert row is not None
    assert re.findall(r"`(\w+)`", row[1]) == [slot.value for slot in build(name).droppable]


WITHOUT_ATTENTION = ("mlp", "mlp (uncond)", "unet (uncond)")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@ALL
def test_attention_runs_on_fused_kernels(
    name: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Masks and layouts that torch's fused kernels do not take cost several times the time and memory."""
    monkeypatch.setattr(attention_gradient, "MOST_KEYS", 0)  # inputs are short here, and stand for long ones
    backbone = build(name)
    (x, t), cond = inputs(backbone), conditioning(backbone)
    for training in (False, True):
        with (
            torch.set_grad_enabled(training),
            torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16),
            AttentionKernels() as kernels,
        ):
            backbone(x, t, cond)
        assert not kernels.softmax
        assert bool(kernels.fused) == (name not in WITHOUT_ATTENTION)


@ALL
def test_x_and_t_change_the_output(name: str) -> None:
    backbone = build(name)
    (x, t), cond = inputs(backbone), conditioning(backbone)
    out = backbone(x, t, cond)
    assert not torch.allclose(out, backbone(x + 0.5, t, cond), atol=1e-5)
    assert not torch.allclose(out, backbone(x, t + 0.1, cond), atol=1e-5)


@ALL
def test_every_declared_slot_changes_the_output(name: str) -> None:
    backbone = build(name)
    (x, t), cond, other = inputs(backbone), conditioning(backbone), conditioning(backbone, seed=3)
    out = backbone(x, t, cond)
    for slot in backbone.slots:
        field = slot.field
        changed = backbone(x, t, cond.replace(**{field: other.slot(slot)}))
        assert not torch.allclose(out, changed, atol=1e-5), f"{slot.value} has no effect"


@ALL
def test_required_slots_are_declared(name: str) -> None:
    backbone = build(name)
    assert backbone.required_slots <= backbone.slots


@ALL
def test_gradient_reaches_every_parameter(name: str) -> None:
    missed = [n for n, g in gradients(build(name)).items() if g is None or not g.abs().sum() > 0]
    assert not missed


@ALL
def test_save_and_load(name: str) -> None:
    backbone, other = build(name), build(name, seed=5)
    buffer = io.BytesIO()
    torch.save(backbone.state_dict(), buffer)
    buffer.seek(0)
    other.load_state_dict(torch.load(buffer, weights_only=True))
    (x, t), cond = inputs(backbone), conditioning(backbone)
    torch.testing.assert_close(other(x, t, cond), backbone(x, t, cond), rtol=0, atol=0)


@ALL
def test_builds_on_the_meta_device_and_runs_after_loading(name: str) -> None:
    """Nothing that the forward pass needs may live outside the state."""
    cls, config = CASES[name]
    backbone = build(name)
    with torch.device("meta"):
        shell = construct(cls, config).eval()
    missing = {n for n, b in shell.named_buffers() if n not in shell.state_dict()}
    shell.load_state_dict(backbone.state_dict(), assign=True)
    left = [n for n, v in [*shell.named_parameters(), *shell.named_buffers()] if v.is_meta]
    assert not left, f"still without values after loading: {left} (not in the state: {missing})"
    (x, t), cond = inputs(backbone), conditioning(backbone)
    torch.testing.assert_close(shell(x, t, cond), backbone(x, t, cond))


@ALL
def test_prepared_conditioning_gives_the_same(name: str) -> None:
    backbone = build(name)
    (x, t), cond = inputs(backbone), conditioning(backbone)
    prepared = backbone.prepare(cond)
    torch.testing.assert_close(backbone(x, t, prepared), backbone(x, t, cond), atol=1e-6, rtol=1e-5)


@ALL
def test_dropping_every_item_is_the_null_conditioning(name: str) -> None:
    backbone = build(name)
    (x, t), cond = inputs(backbone), conditioning(backbone)
    null = backbone.null(cond)
    if null is None:
        assert not backbone.droppable
        return
    nothing = torch.zeros(BATCH, dtype=torch.bool)
    dropped = backbone.drop(cond, {slot: nothing for slot in Slot})
    torch.testing.assert_close(backbone(x, t, dropped), backbone(x, t, null))
    kept = backbone.drop(cond, {slot: ~nothing for slot in Slot})
    torch.testing.assert_close(backbone(x, t, kept), backbone(x, t, cond))
    assert not torch.allclose(backbone(x, t, null), backbone(x, t, cond), atol=1e-5)


@ALL
def test_dropping_one_item_leaves_the_other(name: str) -> None:
    backbone = build(name)
    (x, t), cond = inputs(backbone), conditioning(backbone)
    null = backbone.null(cond)
    if null is None:
        return
    mixed = backbone(x, t, backbone.drop(cond, {s: torch.tensor([True, False]) for s in Slot}))
    torch.testing.assert_close(mixed[0], backbone(x, t, cond)[0], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(mixed[1], backbone(x, t, null)[1], atol=1e-5, rtol=1e-4)


@ALL
def test_one_doubled_batch_equals_two_passes(name: str) -> None:
    backbone = build(name)
    (x, t), cond = inputs(backbone), conditioning(backbone)
    null = backbone.null(cond)
    if null is None:
        return
    pair = backbone.prepare(Conditioning.cat([cond, null]))
    both = backbone(torch.cat([x, x]), torch.cat([t, t]), pair)
    separate = torch.cat([backbone(x, t, cond), backbone(x, t, null)])
    torch.testing.assert_close(both, separate, atol=1e-5, rtol=1e-4)


@ALL
@pytest.mark.parametrize("cfg_scale", [0.0, 3.0])
def test_guidance_equals_two_separate_passes(name: str, cfg_scale: float) -> None:
    backbone = build(name)
    (x, t), cond = inputs(backbone), conditioning(backbone)
    null = backbone.null(cond)
    guidance = Guidance(backbone, OBJECTIVES["v"](), cond, cfg_scale=cfg_scale, scale_phi=0.0)
    conditional = backbone(x, t, cond)
    if null is None:
        expected = conditional
    else:
        unconditional = backbone(x, t, null)
        expected = unconditional + cfg_scale * (conditional - unconditional)
    torch.testing.assert_close(guidance(x, t).value, expected, atol=1e-4, rtol=1e-4)


@ALL
def test_negative_conditioning_in_every_slot_equals_separate_passes(name: str) -> None:
    """With weights of their own for the slots that have something in their place."""
    backbone = build(name)
    (x, t), cond = inputs(backbone), conditioning(backbone)
    other = cond.map(lambda v: v.flip(0) * 0.5 if v.is_floating_point() else v)
    if not cond.present():
        return
    options: dict[str, Any] = {"negative": other, "negative_slots": ("all",), "scale_phi": 0.0}
    guidance = Guidance(backbone, OBJECTIVES["v"](), cond, cfg_scale=2.0, **options)
    conditional, negative = backbone(x, t, cond), backbone(x, t, other)
    expected = negative + 2.0 * (conditional - negative)
    torch.testing.assert_close(guidance(x, t).value, expected, atol=1e-4, rtol=1e-4)
    slots = sorted(cond.present())
    weights = {slot.value: 1.5 + i for i, slot in enumerate(slots)}
    guidance = Guidance(backbone, OBJECTIVES["v"](), cond, slot_scales=weights, **options)
    expected, filled = negative, other
    for slot in slots:
        fields = {n: getattr(cond, n) for n in (slot.field, slot.mask_field) if n}
        fields |= {"modular_local": cond.modular_local} if slot is Slot.LOCAL_ADD else {}
        before, filled = backbone(x, t, filled), filled.replace(**fields)
        expected = expected + weights[slot.value] * (backbone(x, t, filled) - before)
    torch.testing.assert_close(guidance(x, t).value, expected, atol=1e-4, rtol=1e-4)


@ALL
def test_every_sampler_runs(name: str) -> None:
    backbone, objective = build(name), OBJECTIVES["v"]()
    start, cond = inputs(backbone)[0], conditioning(backbone)

    def noise(like: Tensor, *_: Any, **__: Any) -> Tensor:
        return torch.randn(like.shape, generator=torch.Generator().manual_seed(0))

    with torch.inference_mode():
        guidance = Guidance(backbone, objective, cond, cfg_scale=2.0)
        for sampler in SAMPLERS:
            out = sample(guidance, start, objective=objective, noise=noise, sampler=sampler, steps=3)
            assert out.shape == start.shape, sampler
            assert out.isfinite().all(), sampler
    # What inference leaves behind must not spoil training.
    assert all(g is None or g.isfinite().all() for g in gradients(backbone.train()).values())


@ALL
def test_copies_are_independent(name: str) -> None:
    """Averages of weights are deep copies."""
    backbone = build(name)
    (x, t), cond = inputs(backbone), conditioning(backbone)
    before = backbone(x, t, cond)
    other = copy.deepcopy(backbone)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(1.0)
    torch.testing.assert_close(backbone(x, t, cond), before, rtol=0, atol=0)


@pytest.mark.parametrize("name", list(BACKBONES))
def test_a_slot_that_is_not_offered_is_refused_by_the_config(name: str) -> None:
    backbone = build(name)
    for slot, key in SLOT_KEYS.items():
        if slot in backbone.slots:
            continue
        config = {
            "model_type": "diffusion_cond",
            "sample_rate": 16000,
            "sample_size": 1024,
            "model": {
                "io_channels": backbone.io_channels,
                "diffusion": {"type": name, "config": tiny.BACKBONES[name], key: ["seconds"]},
                "conditioning": {
                    "cond_dim": 4,
                    "configs": [{"id": "seconds", "type": "number", "config": {"max_val": 5}}],
                },
            },
        }
        with pytest.raises(ConfigError, match=key):
            load_config(config)


@ALL
def test_gradient_checkpointing_changes_memory_only(name: str) -> None:
    backbone = build(name).train()
    plain, saved = gradients(backbone), saved_elements(backbone)
    backbone.enable_gradient_checkpointing()
    recomputed, saved_less = gradients(backbone), saved_elements(backbone)
    backbone.enable_gradient_checkpointing(False)
    assert saved_elements(backbone) == saved
    assert saved_less < saved
    for key, gradient in plain.items():
        torch.testing.assert_close(recomputed[key], gradient, msg=lambda m, k=key: f"{k}: {m}")


@ALL
@pytest.mark.parametrize("every", [1, 2, 100])
def test_gradient_checkpointing_of_every_nth_block_changes_no_bit(name: str, every: int) -> None:
    backbone = build(name).train()
    plain = gradients(backbone)
    backbone.enable_gradient_checkpointing(every)
    blocks = [s for m in backbone.modules() if isinstance(m, Checkpointed) for s in m.switches]
    assert [i for i, s in enumerate(blocks) if s.gradient_checkpointing] == list(range(0, len(blocks), every))
    for key, gradient in gradients(backbone).items():
        assert (gradient is None and plain[key] is None) or torch.equal(gradient, plain[key]), key


@ALL
@pytest.mark.parametrize("autocast", [False, True])
def test_recomputing_elementwise_results_changes_no_bit(
    name: str, autocast: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With all products, attention and convolutions of such small models kept. Both branches of the loss run
    in one autocast, so that the second finds the weights cast."""
    monkeypatch.setattr(kept_results, "LEAST_TERMS", 1)
    backbone = build(name).train()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        plain, count = gradients(backbone), saved_elements(backbone)
        backbone.enable_gradient_checkpointing("elementwise")
        for key, gradient in gradients(backbone).items():
            assert (gradient is None and plain[key] is None) or torch.equal(gradient, plain[key]), key
        assert saved_elements(backbone) < count


@ALL
def test_recomputing_elementwise_results_repeats_no_product(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kept_results, "LEAST_TERMS", 1)
    backbone, repeated = build(name).train(), {}
    (x, t), cond = inputs(backbone), conditioning(backbone)
    for what in (True, "elementwise"):
        backbone.enable_gradient_checkpointing(what)
        loss = backbone(x, t, cond).square().sum()
        with OperationCount() as count, count.backward_pass():
            loss.backward()
        kernels = 0.0  # of attention, whose backward pass makes the scores again in any case
        with OperationCount() as plain, plain.backward_pass():
            backbone.enable_gradient_checkpointing(False)
            loss = backbone(x, t, cond).square().sum()
            kernels = -plain.counted.recomputed
            loss.backward()
            kernels += plain.counted.recomputed
        repeated[what] = count.counted.recomputed - kernels
    assert repeated["elementwise"] == 0 < repeated[True]


def test_fewer_recomputing_blocks_keep_more_activations() -> None:
    kept = []
    for every in (True, 2, False):
        torch.manual_seed(0)
        backbone = BACKBONES["dit"](**{**tiny.BACKBONES["dit"], "depth": 4}).train()
        backbone.enable_gradient_checkpointing(every)
        kept.append(saved_elements(backbone))
    assert kept[1] - kept[0] == kept[2] - kept[1] > 0


def test_gradient_checkpointing_of_no_block_in_n_is_refused() -> None:
    allowed = 'must be true, false, "elementwise", or n from 1 on, found'
    for what in (0, "norms"):
        with pytest.raises(ValueError, match=f"{allowed} {what}"):
            build("dit").enable_gradient_checkpointing(what)


def saved_elements(backbone: Backbone) -> int:
    """Numbers that the forward pass keeps for the backward pass."""
    total = 0

    def count(value: Tensor) -> Tensor:
        nonlocal total
        total += value.numel()
        return value

    x, t = inputs(backbone, times=4 * FRAMES)
    cond = conditioning(backbone)
    with torch.autograd.graph.saved_tensors_hooks(count, lambda value: value):
        backbone(x, t, cond)
    return total


@ALL
def test_bf16_is_close_to_float32(name: str) -> None:
    backbone = build(name)
    (x, t), cond = inputs(backbone), conditioning(backbone)
    expected = backbone(x, t, cond)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = backbone(x, t, cond)
        prepared = backbone(x, t, backbone.prepare(cond))
    half = backbone.to(torch.bfloat16)(x.bfloat16(), t, cond.to(dtype=torch.bfloat16))
    assert half.dtype == torch.bfloat16
    scale = expected.abs().max()
    for out in (mixed, prepared, half):
        assert (out.float() - expected).abs().max() < 0.1 * scale


@ALL
def test_training_step_in_bf16_autocast(name: str) -> None:
    backbone = build(name).train()
    with torch.autocast("cpu", torch.bfloat16):
        found = gradients(backbone)
    assert all(g is not None and g.isfinite().all() for g in found.values())


@pytest.mark.slow
@ALL
def test_compiled_equals_eager(name: str) -> None:
    backbone = build(name)
    (x, t), cond = inputs(backbone), conditioning(backbone)
    compiled = torch.compile(backbone, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(x, t, cond), backbone(x, t, cond), atol=1e-5, rtol=1e-4)
