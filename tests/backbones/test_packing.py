"""Several clips in one row of the transformer: as if each were alone."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._dynamo.utils import counters

from stable_audio.backbones import BACKBONES, DiT
from stable_audio.nn import transformer
from stable_audio.nn.attention import AttentionOptions
from stable_audio.nn.feedforward import FeedForwardOptions
from stable_audio.nn.packed import PackedRow
from stable_audio.nn.row_attention import EqualRuns, PaddedGroups
from stable_audio.nn.row_kernels import RowKernel
from stable_audio.nn.varlen import VarlenRow
from stable_audio.types import Conditioning
from tests.backbones.test_dit import SLOTS, TINY, build
from tests.golden.kinds.assembly import construct
from tests.nn.test_row_attention import literal_varlen
from tests.tiny import BACKBONES as TINY_BACKBONES

LENGTHS = (6, 2, 10, 4)

OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "all slots": SLOTS,
    "adaLN": {**SLOTS, "global_cond_type": "adaLN", "layer_scale": True},
    "patches": {**SLOTS, "patch_size": 2},
    "memory": {**SLOTS, "num_memory_tokens": 3},
    "causal": {**SLOTS, "causal": True},
    "sliding window": {"sliding_window": (2, 1), "norm_type": "rms_norm"},
    "own rotary": {"add_rope": True, "rotary_pos_emb": False},
    "sinusoidal": {"use_sinusoidal_emb": True, "num_memory_tokens": 1},
    "learned positions": {"use_abs_pos_emb": True, "abs_pos_emb_max_length": 16},
    "differential": {
        **SLOTS,
        "attn_kwargs": AttentionOptions(differential=True, feat_scale=True, qk_norm="ln"),
    },
    "masked context": {**SLOTS, "mask_cross_attention": True, "final_cross_attn_ix": 0},
    "local conditioning": {"local_add_cond_dim": 3, "modular_local_dims": {"a": 1, "b": 2}},
    "local conditioning of patches": {
        **SLOTS,
        "patch_size": 2,
        "num_memory_tokens": 2,
        "local_add_cond_dim": 3,
        "modular_local_dims": {"a": 1},
    },
    "t as channels": {"timestep_cond_type": "input_concat", "timestep_embed_dim": 4},
}


def conditioning(dit: DiT) -> Conditioning:
    generator = torch.Generator().manual_seed(2)
    b = len(LENGTHS)

    def tensor(*shape: int) -> Tensor:
        return torch.randn(b, *shape, generator=generator)

    cond = Conditioning(
        cross_attn=tensor(5, 6),
        cross_attn_mask=torch.arange(5) <= torch.arange(b)[:, None],
        global_cond=tensor(4),
        prepend=tensor(3, 5),
        input_concat=tensor(2, max(LENGTHS)),
        local_add=tensor(3, max(LENGTHS)),
        modular_local={"a": tensor(1, max(LENGTHS)), "b": tensor(2, max(LENGTHS))},
    )
    return cond if dit.slots else Conditioning()


def clips() -> tuple[Tensor, Tensor]:
    """What lies behind the clips would show: it is not zero."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(len(LENGTHS), 3, max(LENGTHS), generator=generator)
    return x, torch.tensor([0.2, 0.9, 0.5, 0.7])


def alone(dit: DiT, x: Tensor, t: Tensor, cond: Conditioning) -> list[Tensor]:
    outs = []
    for i, n in enumerate(LENGTHS):
        own = cond.index(slice(i, i + 1))
        if own.input_concat is not None:
            own = own.replace(
                input_concat=own.input_concat[..., :n],
                local_add=own.local_add[..., :n],
                modular_local={name: v[..., :n] for name, v in own.modular_local.items()},
            )
        outs.append(dit(x[i : i + 1, :, :n], t[i : i + 1], own)[0])
    return outs


@pytest.mark.parametrize("name", OPTIONS)
def test_clips_in_a_row_are_as_if_alone(name: str) -> None:
    dit = build(**OPTIONS[name])
    x, t = clips()
    cond = conditioning(dit)
    packed = dit.forward_packed(x, t, cond, LENGTHS)
    assert packed.shape == x.shape
    for out, single, n in zip(packed, alone(dit, x, t, cond), LENGTHS):
        torch.testing.assert_close(out[:, :n], single, rtol=1e-4, atol=1e-5)
        assert not out[:, n:].any()


@pytest.mark.parametrize("name", ["all slots", "adaLN", "memory", "differential"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_gradients_are_those_of_the_clips(name: str, checkpointing: bool) -> None:
    dit = build(**OPTIONS[name]).double()
    dit.enable_gradient_checkpointing(checkpointing)
    x, t = clips()
    x, cond = x.double(), conditioning(dit).to(dtype=torch.float64)
    dit.forward_packed(x, t, cond, LENGTHS).square().sum().backward()
    found = {k: p.grad for k, p in dit.named_parameters()}
    dit.zero_grad(set_to_none=True)
    torch.stack([out.square().sum() for out in alone(dit, x, t, cond)]).sum().backward()
    # Some gradients are zero but for rounding, so the largest of all is the scale.
    scale = max(float(p.grad.abs().max()) for p in dit.parameters() if p.grad is not None)
    for key, parameter in dit.named_parameters():
        wanted, got = parameter.grad, found[key]
        assert (wanted is None) == (got is None), key
        if wanted is not None and got is not None:
            # Features of the time are float32 in all models, and so are the terms of their gradients.
            atol = scale * (1e-6 if key == "timestep_features.weight" else 1e-12)
            torch.testing.assert_close(got, wanted, rtol=0, atol=atol, msg=key)


def test_prepared_conditioning_serves_rows_too() -> None:
    dit = build(**SLOTS)
    x, t = clips()
    cond = conditioning(dit)
    torch.testing.assert_close(
        dit.forward_packed(x, t, dit.prepare(cond), LENGTHS), dit.forward_packed(x, t, cond, LENGTHS)
    )


def test_padding_takes_no_part_in_the_transformer() -> None:
    """Every layer sees as many tokens as there are real ones, and what is in the padding changes nothing."""
    dit = build()
    seen: list[int] = []
    for layer in dit.transformer.layers:
        layer.register_forward_hook(lambda module, args, out: seen.append(out.numel() // out.shape[-1]))
    x, t = clips()
    out = dit.forward_packed(x, t, Conditioning(), LENGTHS)
    assert seen == [sum(n + 1 for n in LENGTHS)] * len(dit.transformer.layers)  # t is one token per clip
    spoiled = x.clone()
    for i, n in enumerate(LENGTHS):
        spoiled[i, :, n:] = float("nan")
    assert torch.equal(dit.forward_packed(spoiled, t, Conditioning(), LENGTHS), out)


def test_half_precision_runs() -> None:
    dit = build(**OPTIONS["adaLN"])
    x, t = clips()
    cond = conditioning(dit)
    wanted = dit.forward_packed(x, t, cond, LENGTHS)
    with torch.autocast("cpu", torch.bfloat16):
        out = dit.forward_packed(x, t, cond, LENGTHS)
    torch.testing.assert_close(out.float(), wanted, rtol=0.03, atol=0.03)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"conformer": True}, "conformer"),
        ({"ff_kwargs": FeedForwardOptions(use_conv=True)}, r"ff_kwargs\.use_conv"),
    ],
)
def test_options_that_look_across_clips_are_refused(options: dict[str, Any], message: str) -> None:
    dit = build(**options)
    x, t = clips()
    assert dit.packing_obstacles
    with pytest.raises(ValueError, match=message):
        dit.forward_packed(x, t, Conditioning(), LENGTHS)


def test_x_transformers_are_refused() -> None:
    pytest.importorskip("x_transformers")
    dit = DiT(**{**TINY, "transformer_type": "x-transformers"})
    with pytest.raises(ValueError, match="x-transformers"):
        dit.forward_packed(*clips(), Conditioning(), LENGTHS)


@pytest.mark.parametrize("name", sorted(set(BACKBONES) - {"dit"}))
def test_other_backbones_are_refused(name: str) -> None:
    backbone = construct(BACKBONES[name], TINY_BACKBONES[name])
    with pytest.raises(ValueError, match="cannot share a row with the backbone"):
        backbone.forward_packed(*clips(), Conditioning(), LENGTHS)


@pytest.mark.parametrize("lengths", [(6, 2, 10), (6, 2, 10, 0), (6, 2, 12, 4), (6, 3, 10, 4)])
def test_lengths_must_fit(lengths: tuple[int, ...]) -> None:
    dit = build(patch_size=2)
    with pytest.raises(ValueError, match="4 multiples of 2 from 2 to 10"):
        dit.forward_packed(*clips(), Conditioning(), lengths)


def test_conditioning_beside_x_must_be_as_long() -> None:
    dit = build(input_concat_dim=2)
    with pytest.raises(ValueError, match="input_concat has 5 frames"):
        dit.forward_packed(*clips(), Conditioning(input_concat=torch.zeros(4, 2, 5)), LENGTHS)


def test_the_order_of_a_row() -> None:
    row = PackedRow.of(
        [1, 2], padded=3, memory=1, prepended=2, device=torch.device("cpu"), attention=EqualRuns.of
    )
    assert row.items is not None
    assert row.items.tolist() == [1, 0]  # the longest first
    # sources: 0 memory; 1-2 and 3-4 prepended of the clips; 5-6 and 7 their real tokens
    assert row.order.tolist() == [0, 1, 2, 5, 6, 0, 3, 4, 7]
    assert row.real.tolist() == [3, 4, 0]
    assert row.out.tolist() == [3, 4, 8]
    assert row.packing.places.position.tolist() == [0, 1, 2, 3, 4, 0, 1, 2, 3]


KERNELS = {
    "padded groups": PaddedGroups.of,
    "varlen": lambda lengths, places: VarlenRow.of(lengths, places, literal_varlen),
}


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("name", ["all slots", "causal", "differential", "masked context", "sliding window"])
def test_other_kernels_do_what_one_call_for_each_clip_does(
    name: str, kernel: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a GPU; here in float64 on the CPU."""
    dit = build(**OPTIONS[name]).double()
    dit.enable_gradient_checkpointing()
    x, t = clips()
    x, cond = x.double(), conditioning(dit).to(dtype=torch.float64)
    outs, grads = [], []
    for make in (EqualRuns.of, KERNELS[kernel]):
        chosen = RowKernel("", "", make)
        monkeypatch.setattr(transformer, "row_kernel", lambda need, have, chosen=chosen: chosen)
        dit.zero_grad()
        outs.append(dit.forward_packed(x, t, cond, LENGTHS))
        outs[-1].square().sum().backward()
        grads.append({k: p.grad for k, p in dit.named_parameters() if p.grad is not None})
    torch.testing.assert_close(outs[1], outs[0], rtol=0, atol=1e-10 * float(outs[0].detach().abs().max()))
    scale = max(float(grad.abs().max()) for grad in grads[0].values())
    assert grads[0].keys() == grads[1].keys()
    for key, grad in grads[0].items():
        atol = scale * (1e-6 if key == "timestep_features.weight" else 1e-12)
        torch.testing.assert_close(grads[1][key], grad, rtol=0, atol=atol, msg=key)


SEVERAL = [(6, 2, 10, 4), (4, 4, 12, 2, 8), (2, 14, 16, 10, 4, 4, 6, 2, 2), (10, 2)]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["all slots", "sliding window"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_one_graph_serves_all_lengths(name: str, checkpointing: bool) -> None:
    """Compiled once, without breaks, for other numbers of clips and other lengths; results and gradients are
    those of the network that is not compiled."""
    torch._dynamo.reset()
    counters.clear()
    dit = build(**{**OPTIONS[name], "depth": 1}).double().train()
    dit.enable_gradient_checkpointing(checkpointing)
    plain = copy.deepcopy(dit)
    dit.compile(backend="eager")
    for lengths in SEVERAL:
        x, t, cond = batch(dit, lengths)
        grads = []
        for network in (dit, plain):
            network.zero_grad()
            out = network.forward_packed(x, t, cond, lengths)
            out.square().sum().backward()
            grads.append(
                {"": out, **{k: p.grad for k, p in network.named_parameters() if p.grad is not None}}
            )
        assert grads[0].keys() == grads[1].keys()
        scale = max(float(grad.detach().abs().max()) for grad in grads[1].values())
        for key, value in grads[1].items():
            atol = scale * (1e-6 if key == "timestep_features.weight" else 1e-11)
            torch.testing.assert_close(grads[0][key], value, rtol=0, atol=atol, msg=key)
    assert not counters["graph_break"]
    assert counters["stats"]["unique_graphs"] == 1
    torch._dynamo.reset()


def batch(dit: DiT, lengths: Sequence[int]) -> tuple[Tensor, Tensor, Conditioning]:
    generator = torch.Generator().manual_seed(sum(lengths))
    b, n = len(lengths), max(lengths)

    def tensor(*shape: int) -> Tensor:
        return torch.randn(b, *shape, generator=generator, dtype=torch.float64)

    slots = {"cross_attn": tensor(5, 6), "global_cond": tensor(4), "prepend": tensor(3, 5)}
    cond = Conditioning(**slots, input_concat=tensor(2, n)) if dit.slots else Conditioning()
    return tensor(3, n), torch.rand(b, generator=generator), cond
