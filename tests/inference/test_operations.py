"""Counted operations against literal counts, and against torch's own counter."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from stable_audio.backbones import DiT
from stable_audio.inference.memory.kernels import kernels_of
from stable_audio.inference.memory.live import on_shapes
from stable_audio.inference.memory.operations import OperationCount, Operations
from stable_audio.types import Conditioning
from tests.backbones.test_contracts import ALL, build, conditioning, inputs

DEPTH, WIDTH, HEADS, FRAMES, CONTEXT, ITEMS, CHANNELS = 3, 16, 2, 8, 5, 2, 4


def _dit(**options: Any) -> tuple[DiT, Tensor, Conditioning]:
    dit = DiT(
        io_channels=CHANNELS,
        embed_dim=WIDTH,
        depth=DEPTH,
        num_heads=HEADS,
        cond_token_dim=WIDTH,
        project_cond_tokens=False,
        **options,
    )
    return (
        dit,
        torch.randn(ITEMS, CHANNELS, FRAMES),
        Conditioning(cross_attn=torch.randn(ITEMS, CONTEXT, WIDTH)),
    )


def _counted(dit: Any, x: Tensor, cond: Conditioning) -> Operations:
    count = OperationCount()
    with count:
        loss = dit(x, torch.rand(len(x)), cond).sum()
    with count, count.backward_pass():
        loss.backward()
    return count.counted


class Products:
    """A literal count of the matrix products and convolutions of the layers that a forward pass calls."""

    def __init__(self, network: nn.Module) -> None:
        self.linear = self.convolved = 0.0
        for module in network.modules():
            if isinstance(module, nn.Linear):
                module.register_forward_hook(self._linear)
            elif isinstance(module, nn.Conv1d):
                module.register_forward_hook(self._conv)

    def _linear(self, module: nn.Linear, args: Any, out: Tensor) -> None:
        self.linear += 2 * module.weight.numel() * math.prod(args[0].shape[:-1])

    def _conv(self, module: nn.Conv1d, args: Any, out: Tensor) -> None:
        self.convolved += 2 * module.weight.numel() * out.shape[0] * out.shape[-1]


def test_a_dit_takes_what_its_layers_take_by_hand() -> None:
    dit, x, cond = _dit()
    literal = Products(dit)
    with torch.no_grad():
        count = OperationCount()
        with count:
            dit(x, torch.rand(ITEMS), cond)
    tokens = FRAMES + 1  # the time is a token
    pairs = DEPTH * ITEMS * tokens
    assert count.counted.products == literal.linear > 0
    assert count.counted.convolutions == literal.convolved > 0
    assert count.counted.self_attention == 4 * pairs * tokens * WIDTH
    assert count.counted.cross_attention == 4 * pairs * CONTEXT * WIDTH
    assert count.counted.recomputed == 0


def test_a_backward_pass_takes_twice_the_forward_and_recomputes_scores() -> None:
    dit, x, cond = _dit()
    whole = _counted(dit, x.requires_grad_(), cond.map(lambda v: v.requires_grad_()))
    with torch.no_grad(), OperationCount() as count:
        dit(x, torch.rand(ITEMS), cond)
    forward = count.counted
    # Fourier features of the time have no gradient.
    features = 2 * ITEMS * dit.timestep_features.weight.numel()
    assert whole.self_attention == 3 * forward.self_attention
    assert whole.cross_attention == 3 * forward.cross_attention
    assert whole.convolutions == 3 * forward.convolutions
    assert 3 * forward.products - 4 * features <= whole.products <= 3 * forward.products
    assert whole.recomputed == (forward.self_attention + forward.cross_attention) / 2


def test_checkpointed_blocks_are_recomputed_and_change_nothing_else() -> None:
    dit, x, cond = _dit()
    plain = _counted(dit, x, cond)
    dit.enable_gradient_checkpointing()
    again = _counted(dit, x, cond)
    literal = Products(dit.transformer.layers)
    with torch.no_grad():
        dit(x, torch.rand(ITEMS), cond)
    attention = (plain.self_attention + plain.cross_attention) / 3
    last = (
        DEPTH * 2 * WIDTH * 4 * WIDTH * ITEMS * (FRAMES + 1)
    )  # what follows a block's last need is left out
    assert Operations(**{**vars(again), "recomputed": 0}) == Operations(**{**vars(plain), "recomputed": 0})
    extra = again.recomputed - plain.recomputed
    assert literal.linear + attention - last <= extra <= literal.linear + attention


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("transposed", [False, True])
def test_convolutions_take_every_weight_at_every_place(transposed: bool, groups: int) -> None:
    kind = F.conv_transpose1d if transposed else F.conv1d
    x = torch.randn(2, 4, 12, requires_grad=True)
    weight = torch.randn(4, 4 // groups, 3, requires_grad=True)
    count = OperationCount()
    with count:
        out = kind(x, weight, stride=2, groups=groups)
        out.sum().backward()
    places = x.shape[-1] if transposed else out.shape[-1]
    assert count.counted.convolutions == 3 * 2 * 2 * places * weight.numel()


@ALL
def test_counts_are_those_of_torch(name: str) -> None:
    """torch's counter has no formula for the CPU's kernel of attention, which is left out on both sides."""
    backbone = build(name)
    x, t = inputs(backbone)
    cond = conditioning(backbone)
    theirs, ours = FlopCounterMode(display=False), OperationCount()
    with theirs:
        backbone(x, t, cond).sum().backward()
    with ours:
        backbone(x, t, cond).sum().backward()
    counted = ours.counted
    by_torch = sum(v for k, v in theirs.get_flop_counts()["Global"].items() if "attention" not in str(k))
    assert counted.products + counted.convolutions == by_torch > 0


def test_shapes_of_a_gpu_count_as_values_do() -> None:
    dit, x, cond = _dit()
    plain = _counted(dit, x, cond)
    for device in ("cpu", "cuda"):
        with on_shapes():
            shapes, x, cond = _dit()
            with kernels_of(device, "32-true"):
                assert _counted(shapes, x, cond) == plain, device


def test_words_name_the_shares() -> None:
    words = Operations(products=60.0, convolutions=20.0, cross_attention=20.0, recomputed=50.0).in_words()
    assert words == "matrix products 60%, convolutions 20%, attention 20%, recomputed on top 50%"
