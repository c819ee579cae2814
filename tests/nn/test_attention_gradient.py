"""Attention in bfloat16 on a CPU: the output of torch's kernel, and its gradient by faster products."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.profiler import profile
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

from stable_audio.nn import attention_gradient, linear
from stable_audio.nn.fused import fused_attention
from stable_audio.nn.kept_results import selective_contexts
from stable_audio.nn.short_attention import MOST_KEYS
from stable_audio.nn.windowed import windowed_attention
from tests.kernels import AttentionKernels

KERNEL = "aten::_scaled_dot_product_flash_attention_for_cpu_backward"


@pytest.fixture(autouse=True)
def any_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    """Products in bfloat16 are right, if slow, on processors without instructions for them."""
    monkeypatch.setattr(attention_gradient, "has_bfloat16", lambda: True)
    torch.manual_seed(0)


def _inputs(n: int, m: int, *, gain: float = 1.0, d: int = 16, b: int = 2, h: int = 3) -> list[Tensor]:
    """Queries, keys and values as projections give them: (b h n d) in memory as (b n h d)."""
    tensors = [torch.randn(b, length, h, d) for length in (n, m, m)]
    tensors[0] *= gain
    return [x.bfloat16().transpose(1, 2).requires_grad_() for x in tensors]


def _formula(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    scores = q @ k.mT / math.sqrt(q.shape[-1])
    if mask is not None:
        scores = scores.masked_fill(~mask, -math.inf)
    return scores.softmax(-1) @ v


def _exact(inputs: list[Tensor], grad: Tensor, mask: Tensor | None = None) -> tuple[Tensor, ...]:
    wide = [x.detach().double().requires_grad_() for x in inputs]
    return torch.autograd.grad(_formula(*wide, mask), wide, grad.double())


def _errors(found: tuple[Tensor, ...], exact: tuple[Tensor, ...]) -> list[float]:
    return [float((x.double() - y).norm() / y.norm()) for x, y in zip(found, exact)]


def _masks(queries: int, keys: int, known: int) -> dict[str, Tensor | None]:
    """Of two clips, the first with `known` keys; each query sees the first key."""
    per_query = torch.rand(queries, keys, generator=torch.Generator().manual_seed(keys)) < 0.5
    per_query[:, 0] = True
    padding = torch.arange(keys)[None, None, None, :] < torch.tensor([known, keys])[:, None, None, None]
    return {"none": None, "padding": padding, "per query": per_query}


MASKS = _masks(24, 40, 17)
BRIEF_MASKS = _masks(30, 14, 5)


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("held", [10**6, 2 * 24 * 40, 1], ids=["all heads", "two heads", "one head"])
def test_value_and_gradient(mask: str, held: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention_gradient, "MOST_SCORES", held)
    visible, inputs, grad = MASKS[mask], _inputs(24, 40), torch.randn(2, 3, 24, 16).bfloat16()
    shaped = visible[None, None] if visible is not None and visible.dim() == 2 else visible
    out = fused_attention(*inputs, shaped)
    assert torch.equal(out, F.scaled_dot_product_attention(*inputs, attn_mask=shaped))
    with profile() as events:
        found = torch.autograd.grad(out, inputs, grad)
    assert KERNEL not in {event.name for event in events.function_events}
    assert max(_errors(found, _exact(inputs, grad, shaped))) < 2**-7


@pytest.mark.parametrize("gain", [0.1, 1.0, 3.0, 10.0, 40.0])
@pytest.mark.parametrize("keys", [1, 5, 64, 300])
def test_the_error_does_not_grow_with_the_scores(gain: float, keys: int) -> None:
    """Scores that are themselves rounded to bfloat16 would err by 2^-9 of their size: 4% at a gain of 10."""
    inputs, grad = _inputs(64, keys, gain=gain, d=64), torch.randn(2, 3, 64, 64).bfloat16()
    exact = _exact(inputs, grad)
    found = torch.autograd.grad(fused_attention(*inputs), inputs, grad)
    kernel = torch.autograd.grad(F.scaled_dot_product_attention(*inputs), inputs, grad)
    for x, own, theirs in zip(exact, _errors(found, exact), _errors(kernel, exact)):
        if x.norm() > 1e-3 * grad.double().norm():  # not the gradient of scores that no longer matter
            assert own < max(2.0 * theirs, 2**-8)


def test_calls_that_stay_with_the_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    q, k, v = _inputs(4, 6)
    serves = attention_gradient.attends_by_products
    assert serves(q, k, v)
    assert serves(q, k, v, torch.ones(4, 6, dtype=torch.bool))
    assert not serves(q, k, v, torch.zeros(4, 6))
    assert not serves(q.float(), k.float(), v.float())
    assert not serves(q.detach(), k.detach(), v.detach())
    assert not serves(q, k[:, :, :0], v[:, :, :0])
    assert not serves(q, k, v[..., :8])
    with torch.no_grad():
        assert not serves(q, k, v)
    monkeypatch.setattr(attention_gradient, "LONGEST", 23)
    assert not serves(q, k, v)
    monkeypatch.setattr(attention_gradient, "LONGEST", 24)
    assert serves(q, k, v)
    monkeypatch.setattr(attention_gradient, "has_bfloat16", lambda: False)
    assert not serves(q, k, v)


def test_causal_attention_is_the_kernels() -> None:
    inputs, grad = _inputs(12, 12), torch.randn(2, 3, 12, 16).bfloat16()
    found = torch.autograd.grad(fused_attention(*inputs, causal=True), inputs, grad)
    triangle = torch.ones(12, 12, dtype=torch.bool).tril()
    assert max(_errors(found, _exact(inputs, grad, triangle))) < 2**-7


@pytest.mark.parametrize("mask", BRIEF_MASKS)
@pytest.mark.parametrize("gain", [0.1, 1.0, 10.0, 40.0])
def test_few_keys_err_about_as_the_kernel(mask: str, gain: float) -> None:
    visible, grad = BRIEF_MASKS[mask], torch.randn(2, 3, 30, 64).bfloat16()
    inputs = _inputs(30, 14, gain=gain, d=64)
    out = fused_attention(*inputs, visible)
    kernel = F.scaled_dot_product_attention(*inputs, attn_mask=visible)
    exact = _formula(*(x.detach().double() for x in inputs), visible)
    own, theirs = (_errors((x.detach(),), (exact,))[0] for x in (out, kernel))
    assert own < max(1.5 * theirs, 2**-8)
    found = torch.autograd.grad(out, inputs, grad)
    by_kernel = torch.autograd.grad(kernel, inputs, grad)
    exact_grad = _exact(inputs, grad, visible)
    for x, own, theirs in zip(exact_grad, _errors(found, exact_grad), _errors(by_kernel, exact_grad)):
        if x.norm() > 1e-3 * grad.double().norm():  # not the gradient of scores that no longer matter
            assert own < max(1.5 * theirs, 2**-8)


def test_few_keys_keep_their_weights() -> None:
    """The kernel is called neither forward nor backward; one more key, and it is."""
    for keys, called in ((MOST_KEYS, False), (MOST_KEYS + 1, True)):
        with profile() as events:
            fused_attention(*_inputs(6, keys)).float().sum().backward()
        names = {event.name for event in events.function_events}
        assert (KERNEL.removesuffix("_backward") in names) is called
        assert KERNEL not in names


@pytest.mark.parametrize("axes", [2, 4])
def test_few_keys_of_another_layout(axes: int) -> None:
    """Queries of one head that are views of one tensor, a mask with two or four axes, one item."""
    both = torch.randn(1, 7, 3, 2, 16).bfloat16().requires_grad_()
    visible = torch.ones(7, 7, dtype=torch.bool).tril()
    shaped = visible if axes == 2 else visible[None, None]
    q, k = (both[..., i, :].transpose(1, 2) for i in (0, 1))
    out = fused_attention(q, k, k, shaped)
    wide = both.detach().double().requires_grad_()
    exact = _formula(*(wide[..., i, :].transpose(1, 2) for i in (0, 1, 1)), visible)
    grad = torch.randn(out.shape).bfloat16()
    assert _errors((out.detach(),), (exact.detach(),))[0] < 2**-8
    found = torch.autograd.grad(out, both, grad)
    assert _errors(found, torch.autograd.grad(exact, wide, grad.double()))[0] < 2**-7


def test_windows_train_by_it() -> None:
    inputs, grad = _inputs(200, 200), torch.randn(2, 3, 200, 16).bfloat16()
    with profile() as events:
        found = torch.autograd.grad(windowed_attention(*inputs, 9, 4), inputs, grad)
    assert KERNEL not in {event.name for event in events.function_events}
    offset = torch.arange(200)[None, :] - torch.arange(200)[:, None]
    assert max(_errors(found, _exact(inputs, grad, (offset >= -9) & (offset <= 4)))) < 2**-7


def test_autocast_takes_it() -> None:
    wide = [x.detach().float().requires_grad_() for x in _inputs(20, 30)]
    with torch.autocast("cpu", torch.bfloat16):
        out = fused_attention(*wide)
    assert out.dtype == torch.bfloat16
    with profile() as events:
        found = torch.autograd.grad(out.float().sum(), wide)
    assert KERNEL not in {event.name for event in events.function_events}
    assert {x.dtype for x in found} == {torch.float32}
    assert max(_errors(found, _exact(wide, torch.ones_like(out)))) < 2**-6


def test_compiled_it_is_the_same() -> None:
    def loss(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return fused_attention(q, k, v).float().square().sum()

    inputs = _inputs(20, 30)
    expected = torch.autograd.grad(loss(*inputs), inputs)
    graphs = torch.compile(loss, backend="aot_eager", fullgraph=True)
    with profile() as events:
        found = torch.autograd.grad(graphs(*inputs), inputs)
    assert "stable_audio::attention_gradients" in {event.name for event in events.function_events}
    for x, y in zip(found, expected):
        assert torch.equal(x, y)


def test_compiled_it_asks_the_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    """In one graph, whatever the answer is."""
    monkeypatch.setattr(attention_gradient, "has_bfloat16", linear.has_bfloat16)
    inputs = _inputs(20, 30)
    out = torch.compile(fused_attention, backend="aot_eager", fullgraph=True)(*inputs)
    assert torch.equal(out, F.scaled_dot_product_attention(*inputs))


@pytest.mark.parametrize("shape", [(3, 1, 40), (3, 24, 40), (1, 40), (2, 1, 24, 40)])
def test_masks_of_any_number_of_axes(shape: tuple[int, ...]) -> None:
    inputs, grad = _inputs(24, 40), torch.randn(2, 3, 24, 16).bfloat16()
    visible = torch.rand(shape) < 0.5
    visible[..., 0] = True
    out = fused_attention(*inputs, visible)
    found = torch.autograd.grad(out, inputs, grad)
    assert max(_errors(found, _exact(inputs, grad, visible))) < 2**-6


class _LargestMask(TorchDispatchMode):
    """The most bytes of a bool tensor that an operation makes or passes on."""

    largest = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if isinstance(out, Tensor) and out.dtype == torch.bool:
            self.largest = max(self.largest, out.untyped_storage().nbytes())
        return out


def test_a_mask_of_keys_stays_small() -> None:
    """Padding of a batch is not written out for every head and query."""
    out = fused_attention(*_inputs(24, 40), MASKS["padding"])
    with _LargestMask() as masks:
        out.float().sum().backward()
    assert 0 < masks.largest <= 2 * 40


def test_autocast_leaves_float64() -> None:
    wide = [x.detach().double() for x in _inputs(4, 6)]
    with torch.autocast("cpu", torch.bfloat16):
        out = fused_attention(*wide)
    assert out.dtype == torch.float64


def test_a_checkpoint_keeps_its_output() -> None:
    inputs, grad = _inputs(20, 30), torch.randn(2, 3, 20, 16).bfloat16()
    expected = torch.autograd.grad(fused_attention(*inputs), inputs, grad)
    out = checkpoint(fused_attention, *inputs, use_reentrant=False, context_fn=selective_contexts)
    with AttentionKernels() as computed:
        found = torch.autograd.grad(out, inputs, grad)
    assert not computed.fused
    for x, y in zip(found, expected):
        assert torch.equal(x, y)
