"""Sums over the tokens of clips that share a row, in types of 16 bits."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from stable_audio.nn.packed import Packing
from stable_audio.nn.row_attention import EqualRuns, Places

LENGTHS = (900, 600, 1)


class _AddsAsGPUs(TorchDispatchMode):
    """Sums of rows are rounded to their type after every row, as by the atomic additions of a GPU."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        packet = func.overloadpacket
        if packet not in (torch.ops.aten.index_add, torch.ops.aten.index_add_):
            return func(*args, **(kwargs or {}))
        total, dim, index, rows = args
        assert dim == 0
        result = total if packet is torch.ops.aten.index_add_ else total.clone()
        for place, row in zip(index.tolist(), rows):
            result[place] += row
        return result


def _packing() -> Packing:
    places = Places.of(LENGTHS)
    return Packing(torch.tensor(LENGTHS), places, EqualRuns.of(LENGTHS, places))


def _literal(x: Tensor, *, mean: bool) -> Tensor:
    """(b d) sums or means over each clip of x (1 l d), in float64."""
    clips = x[0].double().split(list(LENGTHS))
    return torch.stack([clip.mean(0) if mean else clip.sum(0) for clip in clips])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_the_mean_over_a_clip_is_not_rounded_after_every_token(dtype: torch.dtype) -> None:
    packing, x = _packing(), (torch.rand(1, sum(LENGTHS), 3, dtype=torch.float64) + 0.5).to(dtype)
    with _AddsAsGPUs():
        mean = packing.mean(x)
    assert mean.dtype is dtype
    expected = _literal(x, mean=True).repeat_interleave(torch.tensor(LENGTHS), dim=0)[None]
    torch.testing.assert_close(mean.double(), expected, rtol=max(2 * torch.finfo(dtype).eps, 1e-5), atol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_the_gradient_of_what_a_clip_shares_is_not_rounded_after_every_token(dtype: torch.dtype) -> None:
    packing, vectors = _packing(), torch.randn(3, 1, 2, dtype=dtype, requires_grad=True)
    grad = (torch.rand(1, sum(LENGTHS), 2, dtype=torch.float64) + 0.5).to(dtype)
    rows = packing.per_token(vectors)
    assert torch.equal(rows[0], vectors.detach()[packing.places.clip, 0])
    with _AddsAsGPUs():
        rows.backward(grad)
    assert vectors.grad is not None
    expected = _literal(grad, mean=False)[:, None]
    torch.testing.assert_close(
        vectors.grad.double(), expected, rtol=max(2 * torch.finfo(dtype).eps, 1e-5), atol=0
    )
