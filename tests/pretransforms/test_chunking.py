"""Chunks joined again give what one pass gives, for any length and any way of cutting."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from stable_audio.pretransforms.chunking import chunk_starts, in_chunks


@st.composite
def cuts(draw: st.DrawFn) -> tuple[int, int, int, int, int]:
    chunk = draw(st.integers(1, 12))
    overlap = draw(st.integers(0, chunk - 1))
    crossfade = draw(st.integers(0, overlap))
    return draw(st.integers(1, 60)), draw(st.integers(0, 3)), chunk, overlap, crossfade


@settings(max_examples=200, deadline=None)
@given(cuts())
def test_pointwise_functions_do_not_notice(cut: tuple[int, int, int, int, int]) -> None:
    frames, tail, chunk, overlap, crossfade = cut
    options = {"chunk_size": chunk, "overlap": overlap, "crossfade": crossfade}
    audio = torch.arange(frames * 4 + tail, dtype=torch.float64)[None, None]

    def down(x: Tensor) -> Tensor:
        return x[..., : x.shape[-1] // 4 * 4 : 4] + 1

    whole = in_chunks(down, audio, in_per_frame=4, out_per_frame=1, **options)
    torch.testing.assert_close(whole, down(audio))

    def up(x: Tensor) -> Tensor:
        return x.repeat_interleave(3, -1) * 2

    torch.testing.assert_close(in_chunks(up, audio, in_per_frame=1, out_per_frame=3, **options), up(audio))


def test_a_local_function_is_exact_where_the_trim_covers_its_reach() -> None:
    x, kernel = torch.randn(1, 1, 203, dtype=torch.float64), torch.randn(1, 1, 5, dtype=torch.float64)

    def smooth(v: Tensor) -> Tensor:
        return torch.nn.functional.conv1d(v, kernel, padding=2)

    options = {"chunk_size": 20, "in_per_frame": 1, "out_per_frame": 1}
    good = in_chunks(smooth, x, overlap=8, crossfade=4, **options)
    torch.testing.assert_close(good, smooth(x))
    bad = in_chunks(smooth, x, overlap=2, crossfade=0, **options)
    assert (bad - smooth(x)).abs().max() > 1e-3


def test_the_blend_is_a_ramp_around_the_seam() -> None:
    def tag(x: Tensor) -> Tensor:
        return torch.full_like(x, float(x[0, 0, 0]))

    joined = in_chunks(
        tag,
        torch.arange(20.0)[None, None],
        chunk_size=12,
        overlap=4,
        crossfade=4,
        in_per_frame=1,
        out_per_frame=1,
    )
    assert joined[0, 0].tolist() == [0] * 8 + [1, 3, 5, 7] + [8] * 8


def test_the_last_chunk_ends_at_the_end() -> None:
    assert chunk_starts(50, 20, 12) == [0, 12, 24, 30]
    assert chunk_starts(44, 20, 12) == [0, 12, 24]


@pytest.mark.parametrize(("overlap", "crossfade"), [(8, 0), (-1, 0), (4, 5), (4, -1)])
def test_impossible_cuts_are_refused(overlap: int, crossfade: int) -> None:
    with pytest.raises(ValueError, match="found"):
        in_chunks(
            lambda x: x,
            torch.zeros(1, 1, 9),
            chunk_size=8,
            overlap=overlap,
            crossfade=crossfade,
            in_per_frame=1,
            out_per_frame=1,
        )
