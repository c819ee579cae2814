"""Attention of clips that share a row is that of each clip alone, whatever kernel computes it."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

from stable_audio.nn import flex
from stable_audio.nn.flex import BLOCK, FlexRow, block_pairs, padded_length
from stable_audio.nn.kernels import sdpa_attend
from stable_audio.nn.row_attention import EqualRuns, PaddedGroups, Pattern, Places, RowAttention, partition
from stable_audio.nn.varlen import Sequences, VarlenRow, flash_varlen, torch_varlen

LENGTHS = (9, 9, 7, 4, 4, 4, 2, 1)
CONTEXT = 5
PATTERNS: dict[str, tuple[bool, tuple[int, int] | None]] = {
    "plain": (False, None),
    "causal": (True, None),
    "window": (False, (2, 1)),
    "causal window": (True, (3, 2)),
    "open window": (False, (-1, 1)),
}
Window = tuple[int, int]


def literal(q: Tensor, k: Tensor, v: Tensor, causal: bool, window: Window | None, mask: Any = None) -> Tensor:
    """softmax(q k^T / sqrt(d)) v of one clip (n h d), where hidden pairs are at minus infinity."""
    groups = q.shape[1] // k.shape[1]
    k, v = (y.repeat_interleave(groups, dim=1) for y in (k, v))
    scores = torch.einsum("qhd,khd->hqk", q, k) / q.shape[-1] ** 0.5
    ahead = torch.arange(len(k)) - torch.arange(len(q))[:, None]
    left, right = window or (-1, -1)
    hidden = (ahead > 0) & causal
    hidden = hidden | ((ahead < -left) & (left >= 0)) | ((ahead > right) & (right >= 0))
    if mask is not None:
        hidden = hidden | ~mask
    hidden = hidden & ~hidden.all(-1, keepdim=True)  # a query that sees nothing sees all
    scores = scores.masked_fill(hidden, -torch.inf)
    return torch.einsum("hqk,khd->qhd", scores.softmax(-1), v)


def literal_varlen(
    q: Tensor, k: Tensor, v: Tensor, own: Sequences, seen: Sequences, causal: bool, window: Window
) -> Tensor:
    """What kernels for many sequences compute, one sequence after another."""
    assert own.ends.dtype == seen.ends.dtype == torch.int32
    assert own.longest == int(own.ends.diff().max())
    assert seen.longest == int(seen.ends.diff().max())
    outs = []
    for (a, b), (c, d) in zip(*(itertools.pairwise(s.ends.tolist()) for s in (own, seen))):
        assert not causal or b - a == d - c
        outs.append(literal(q[a:b], k[c:d], v[c:d], causal, window))
    return torch.cat(outs)


def masked_flex(q: Tensor, k: Tensor, v: Tensor, *, block_mask: Any) -> Tensor:
    """What `flex_attention` computes, from both of its masks: it has no gradients on a CPU."""
    n = torch.arange(q.shape[2])
    blocks = block_mask.to_dense()[0, 0].bool()
    seen = blocks.repeat_interleave(BLOCK, 0).repeat_interleave(BLOCK, 1)
    mask = block_mask.mask_mod(n, n, n[:, None], n) & seen
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)


def _rows(name: str, lengths: Sequence[int], causal: bool, window: Window | None) -> RowAttention:
    places = Places.of(lengths)
    makers: dict[str, Callable[[], RowAttention]] = {
        "runs": lambda: EqualRuns.of(lengths, places),
        "groups": lambda: PaddedGroups.of(lengths, places),
        "varlen": lambda: VarlenRow.of(lengths, places, literal_varlen),
        "flex": lambda: FlexRow.of(lengths, places, causal=causal, window=window, kernel=masked_flex),
    }
    return makers[name]()


def _same(found: Tensor, wanted: Tensor, leaves: Sequence[Tensor]) -> None:
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-12)
    weights = torch.randn(found.shape, dtype=found.dtype, generator=torch.Generator().manual_seed(3))
    grads = [torch.autograd.grad((out * weights).sum(), leaves) for out in (found, wanted)]
    for got, expected in zip(*grads):
        torch.testing.assert_close(got, expected, rtol=0, atol=1e-12)


def _random(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, requires_grad=True)


@pytest.mark.parametrize("lengths", [LENGTHS, (130, 65, 64, 3), (5,), (3, 2)], ids=len)
@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("name", ["runs", "groups", "varlen", "flex"])
def test_self_attention_is_that_of_each_clip(name: str, pattern: str, lengths: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    causal, window = PATTERNS[pattern]
    q, k, v = leaves = [_random(1, sum(lengths), 2, 16) for _ in range(3)]
    row = _rows(name, lengths, causal, window)
    found = row.attend(Pattern(sdpa_attend, causal, window), q, k, v)
    clips = zip(*(y[0].split(lengths) for y in leaves))
    _same(found, torch.cat([literal(*clip, causal, window) for clip in clips]).unsqueeze(0), leaves)


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("pattern", PATTERNS)
def test_the_mask_of_blocks_serves_flex_attention(pattern: str) -> None:
    causal, window = PATTERNS[pattern]
    lengths = (130, 65, 64, 3)
    q, k, v = torch.randn(3, 1, sum(lengths), 2, 16, dtype=torch.float64).unbind()
    row = FlexRow.of(lengths, Places.of(lengths), causal=causal, window=window, kernel=flex_attention)
    found = row.attend(Pattern(sdpa_attend, causal, window), q, k, v)
    clips = zip(*(y[0].split(lengths) for y in (q, k, v)))
    wanted = torch.cat([literal(*clip, causal, window) for clip in clips])
    torch.testing.assert_close(found[0], wanted, rtol=0, atol=1e-12)


@pytest.mark.parametrize("heads", [2, 1])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("name", ["runs", "groups", "varlen", "flex"])
def test_cross_attention_is_that_of_each_clip(name: str, masked: bool, causal: bool, heads: int) -> None:
    torch.manual_seed(0)
    b = len(LENGTHS)
    q = _random(1, sum(LENGTHS), 2, 16)
    k, v = (_random(b, CONTEXT, heads, 16) for _ in range(2))
    # The first tokens of the first clip are hidden, and all of the last one.
    mask = (torch.arange(CONTEXT) < torch.arange(b, 0, -1)[:, None] - 1) if masked else None
    if mask is not None:
        mask[0, 0] = False
    found = _rows(name, LENGTHS, causal, None).cross_attend(Pattern(sdpa_attend, causal, None), q, k, v, mask)
    own = [None] * b if mask is None else mask
    parts = zip(q[0].split(LENGTHS), k, v, own)
    wanted = [literal(queries, *kv, causal, None, m) for queries, *kv, m in parts]
    _same(found, torch.cat(wanted).unsqueeze(0), [q, k, v])


def test_equal_clips_are_one_call_and_give_the_same_bits() -> None:
    calls: list[tuple[int, int]] = []

    def kernel(q: Tensor, k: Tensor, v: Tensor, **options: Any) -> Tensor:
        calls.append((q.shape[0], q.shape[1]))
        return sdpa_attend(q, k, v, **options)

    q, k, v = torch.randn(3, 1, sum(LENGTHS), 2, 16).unbind()
    found = _rows("runs", LENGTHS, False, None).attend(Pattern(kernel, False, None), q, k, v)
    assert calls == [(2, 9), (1, 7), (3, 4), (1, 2), (1, 1)]
    clips = zip(*(y.split(LENGTHS, dim=1) for y in (q, k, v)))
    alone = [sdpa_attend(*clip, causal=False, window=None, mask=None) for clip in clips]
    assert torch.equal(found, torch.cat(alone, dim=1))


@pytest.mark.parametrize("lengths", [(9, 8, 8, 5, 4, 3, 3, 1), (7, 7, 7, 7, 7), (6, 1), (40, 39, 9, 8, 8, 1)])
def test_groups_have_the_fewest_pairs(lengths: tuple[int, ...]) -> None:
    n, count = len(lengths), 3

    def pairs(sizes: Sequence[int]) -> int:
        starts = itertools.accumulate(sizes, initial=0)
        return sum(size * lengths[start] ** 2 for size, start in zip(sizes, starts) if size)

    every = [s for s in itertools.product(range(n + 1), repeat=count) if sum(s) == n]
    found = partition(lengths, count)
    assert len(found) == count
    assert sum(found) == n
    assert pairs(found) == min(map(pairs, every))


@pytest.mark.parametrize(("left", "right"), [(-1, -1), (-1, 0), (100, 300), (0, 0), (200, -1)])
def test_blocks_are_those_with_visible_pairs(left: int, right: int) -> None:
    """Exactly them, and no block without a mask that has a hidden pair."""
    clip = Places.of([300, 212, 128, 5, 123]).clip

    def visible(b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        near = ((k >= q - left) | (left < 0)) & ((k <= q + right) | (right < 0))
        return (clip[q] == clip[k]) & near

    seen, whole = block_pairs(clip, left, right)
    n = torch.arange(len(clip))
    pairs = visible(n, n, n[:, None], n).unflatten(0, (-1, BLOCK)).unflatten(2, (-1, BLOCK))
    assert torch.equal(seen & pairs.any(3).any(1), pairs.any(3).any(1))
    assert torch.equal(whole & pairs.all(3).all(1), whole)
    mask = flex.block_mask(clip, left, right, torch.device("cpu"))
    wanted = create_block_mask(visible, None, None, len(clip), len(clip), device="cpu")
    assert torch.equal(
        mask.to_dense() >= wanted.to_dense(), torch.ones_like(wanted.to_dense(), dtype=torch.bool)
    )
    if left == right == -1:
        assert torch.equal(mask.to_dense(), wanted.to_dense())


def test_rows_are_padded_to_few_lengths() -> None:
    found = [padded_length(n) for n in range(1, 20000)]
    assert len(set(found)) < 32
    assert all(n <= p < 1.25 * n + BLOCK and p % BLOCK == 0 for n, p in enumerate(found, start=1))


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("name", ["torch", "torch 2.10", "flash-attn"])
def test_kernels_are_called_by_their_names(name: str, causal: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their arguments, in place of the kernels themselves, which need a GPU."""

    def newest(q: Any, k: Any, v: Any, a: Any, b: Any, m: int, n: int, *, window_size: Window) -> Tensor:
        return literal_varlen(q, k, v, Sequences(a, m), Sequences(b, n), False, window_size)

    def oldest(q: Any, k: Any, v: Any, a: Any, b: Any, m: int, n: int, is_causal: bool) -> Tensor:
        return literal_varlen(q, k, v, Sequences(a, m), Sequences(b, n), is_causal, (-1, -1))

    def flash(
        q: Any, k: Any, v: Any, a: Any, b: Any, m: int, n: int, *, causal: bool, window_size: Window
    ) -> Tensor:
        return literal_varlen(q, k, v, Sequences(a, m), Sequences(b, n), causal, window_size)

    module = ModuleType("flash_attn")
    module.flash_attn_varlen_func = flash  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "flash_attn", module)
    module = ModuleType("torch.nn.attention.varlen")  # which torch has from 2.10 on
    module.varlen_attn = oldest if name == "torch 2.10" else newest  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torch.nn.attention.varlen", module)
    kernel = {
        "torch": lambda: torch_varlen(True),
        "torch 2.10": lambda: torch_varlen(False),
        "flash-attn": flash_varlen,
    }[name]()
    window = None if name == "torch 2.10" else (2, 1)
    q, k, v = leaves = [_random(1, sum(LENGTHS), 2, 16) for _ in range(3)]
    row = VarlenRow.of(LENGTHS, Places.of(LENGTHS), kernel)
    found = row.attend(Pattern(sdpa_attend, causal, window), q, k, v)
    clips = zip(*(y[0].split(LENGTHS) for y in leaves))
    _same(found, torch.cat([literal(*clip, causal, window) for clip in clips]).unsqueeze(0), leaves)
