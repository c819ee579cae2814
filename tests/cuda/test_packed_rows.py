"""Rows of several clips on a GPU: every kernel does what calls for single clips do on the CPU."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor

from stable_audio.nn import transformer
from stable_audio.nn.flex import FlexRow, compiled_flex
from stable_audio.nn.kernels import sdpa_attend
from stable_audio.nn.row_attention import EqualRuns, Pattern, Places, RowAttention
from stable_audio.nn.row_kernels import RowKernel, RowNeeds, available, row_kernel
from stable_audio.nn.varlen import VarlenRow, flash_varlen, torch_varlen
from tests.backbones.test_dit import SLOTS, build
from tests.backbones.test_packing import SEVERAL, batch

LENGTHS = (300, 129, 128, 128, 70, 64, 9, 1)
PATTERNS = {"plain": (False, None), "causal": (True, None), "window": (False, (40, 20))}


def _row(name: str, causal: bool, window: tuple[int, int] | None) -> RowAttention:
    device = torch.device("cuda")
    have, places = available(device), Places.of(LENGTHS).to(device)
    if name == "flex":
        if not have.flex:
            pytest.skip("no Triton")
        return FlexRow.of(LENGTHS, places, causal=causal, window=window, kernel=compiled_flex())
    if not (have.varlen if name == "varlen" else have.flash) or not have.ampere:
        pytest.skip(f"no {name}")
    if window is not None and name == "varlen" and not have.varlen_windows:
        pytest.skip("this kernel takes no windows")
    kernel = torch_varlen(have.varlen_windows) if name == "varlen" else flash_varlen()
    return VarlenRow.of(LENGTHS, places, kernel)


def _out_and_gradients(
    row: RowAttention, pattern: Pattern, leaves: list[Tensor], cross: bool
) -> list[Tensor]:
    leaves = [y.detach().requires_grad_() for y in leaves]
    out = row.cross_attend(pattern, *leaves, None) if cross else row.attend(pattern, *leaves)
    weights = torch.randn(out.shape, generator=torch.Generator().manual_seed(1)).to(out)
    return [out.detach(), *torch.autograd.grad((out * weights).sum(), leaves)]


@pytest.mark.filterwarnings("default")  # the compiler's own
@pytest.mark.parametrize("pattern", [*PATTERNS, "cross"])
@pytest.mark.parametrize("name", ["varlen", "flash", "flex"])
def test_kernels(name: str, pattern: str) -> None:
    torch.manual_seed(0)
    causal, window = PATTERNS.get(pattern, (False, None))
    cross, b = pattern == "cross", len(LENGTHS)
    shapes = [(1, sum(LENGTHS), 2, 64)] + [(b, 7, 2, 64) if cross else (1, sum(LENGTHS), 2, 64)] * 2
    leaves = [torch.randn(*shape).bfloat16() for shape in shapes]
    called = Pattern(sdpa_attend, causal, window)
    here = _out_and_gradients(
        EqualRuns.of(LENGTHS, Places.of(LENGTHS)), called, [y.float() for y in leaves], cross
    )
    there = _out_and_gradients(_row(name, causal, window), called, [y.cuda() for y in leaves], cross)
    for found, wanted in zip(there, here):
        torch.testing.assert_close(found.float().cpu(), wanted, rtol=0.03, atol=0.03)


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_network(dtype: torch.dtype, compiled: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The chosen kernel against the calls for runs of equal clips, both on the GPU."""
    dit = build(**{**SLOTS, "embed_dim": 32, "num_heads": 2}).cuda()
    plain = copy.deepcopy(dit)
    if compiled:
        dit.compile()
    for lengths in SEVERAL:
        x, t, cond = batch(dit, lengths)
        x, t, cond = x.float().cuda(), t.cuda(), cond.to("cuda", torch.float32)
        with torch.autocast("cuda", dtype, enabled=dtype != torch.float32):
            found = dit.forward_packed(x, t, cond, lengths)
            with monkeypatch.context() as patch:
                runs = RowKernel("", "", EqualRuns.of)
                patch.setattr(transformer, "row_kernel", lambda need, have, runs=runs: runs)
                wanted = plain.forward_packed(x, t, cond, lengths)
        close = 1e-4 if dtype == torch.float32 else 0.1
        torch.testing.assert_close(found.float(), wanted.float(), rtol=close, atol=close)
        found.float().square().mean().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in dit.parameters())


def test_half_precision_gets_one_call() -> None:
    device = torch.device("cuda")
    kernel = row_kernel(RowNeeds(device=device, dtype=torch.bfloat16, dim_heads=64), available(device))
    if available(device).ampere and available(device).varlen:
        assert kernel.name == "varlen", kernel.why
