"""Regions in seconds, their samples, and sounds joined at them."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stable_audio.audio.regions import check_regions, kept_mask, merged, parse_regions, spans_of
from stable_audio.audio.seams import crossfaded, fade_length, with_parts

RATES = st.sampled_from([8000, 22050, 44100, 48000])
REGIONS = st.lists(
    st.tuples(st.floats(0, 3), st.floats(1e-4, 2)).map(lambda pair: (pair[0], pair[0] + pair[1])), max_size=6
)
SPANS = st.lists(st.tuples(st.integers(0, 80), st.integers(1, 40)).map(lambda p: (p[0], p[0] + p[1])))


def test_a_text_names_regions_and_may_leave_the_end_open() -> None:
    assert parse_regions("5:10,12:13.5") == [(5.0, 10.0), (12.0, 13.5)]
    assert parse_regions("2:") == [(2.0, math.inf)]
    assert spans_of(parse_regions("2:"), 10, 33) == [(20, 33)]


@pytest.mark.parametrize("text", ["5", "a:b", "", "5:10,", ":3", "3:2", "2:2", "-1:2", "nan:2", "inf:"])
def test_other_texts_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="region"):
        parse_regions(text)


def test_a_whole_number_of_samples_stays_one() -> None:
    # In floating point 0.1 * 44100 is above 4410, and 1.1 * 44100 as well.
    assert spans_of([(0.1, 1.1)], 44100, 88200) == [(4410, 48510)]


@settings(max_examples=60, deadline=None)
@given(REGIONS, RATES, st.integers(1, 200_000))
def test_spans_are_apart_within_the_sound_and_cover_the_regions(
    regions: list[tuple[float, float]], rate: int, length: int
) -> None:
    check_regions(regions)
    spans = spans_of(regions, rate, length)
    flat = [edge for span in spans for edge in span]
    assert flat == sorted(set(flat))  # in order, none empty, none adjacent
    assert all(0 <= edge <= length for edge in flat)
    mask = kept_mask(spans, length)
    assert int((mask == 0).sum()) == sum(behind - first for first, behind in spans)
    for start, end in regions:
        middle = int((start + end) / 2 * rate)
        assert middle >= length or mask[middle] == 0
    allowed = sum(math.ceil((end - start) * rate) + 1 for start, end in regions)
    assert int((mask == 0).sum()) <= allowed


@settings(max_examples=60, deadline=None)
@given(SPANS)
def test_merged_spans_cover_what_the_spans_cover(spans: list[tuple[int, int]]) -> None:
    def covered(pairs: list[tuple[int, int]]) -> set[int]:
        return {i for first, behind in pairs for i in range(first, behind)}

    assert covered(merged(spans)) == covered(spans)
    assert merged(merged(spans)) == merged(spans)


@settings(max_examples=60, deadline=None)
@given(SPANS, st.integers(0, 30), st.integers(1, 130))
def test_what_lies_outside_the_spans_stays_sample_for_sample(
    spans: list[tuple[int, int]], seam: int, length: int
) -> None:
    generator = torch.Generator().manual_seed(length)
    old, new = (torch.randn(2, 1, length, generator=generator) for _ in range(2))
    joined_spans = merged((first, min(behind, length)) for first, behind in spans if first < length)
    mask = kept_mask(joined_spans, length) > 0
    joined = with_parts(old, new, joined_spans, seam)
    assert torch.equal(joined[..., mask], old[..., mask])
    for first, behind in joined_spans:
        inner = slice(first + seam * (first > 0), behind - seam * (behind < length))
        if behind - first >= 2 * seam:
            assert torch.equal(joined[..., inner], new[..., inner])


def test_a_cross_fade_keeps_the_level_whatever_the_phases_are() -> None:
    time = torch.arange(4410, dtype=torch.float64) / 44100
    tone = torch.sin(2 * math.pi * 440 * time)[None]
    assert torch.allclose(crossfaded(tone, tone), tone, atol=1e-12)
    noises = torch.randn(2, 1, 100_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    middle = crossfaded(noises[0], noises[1])[..., 40_000:60_000]
    assert abs(float(middle.square().mean()) - 1) < 0.05  # five deviations of 20,000 squares
    quarter = torch.cos(2 * math.pi * 440 * time)[None]
    assert abs(float(crossfaded(tone, quarter)[..., 2000:2400].square().mean()) - 0.5) < 0.02
    opposed = crossfaded(tone, -tone)
    assert float(opposed.abs().max()) <= 1.0 + 1e-9


def test_one_sound_fades_slowly_and_two_sounds_quickly() -> None:
    time = torch.arange(1000) / 22050
    low, shifted, high = (
        torch.sin(2 * math.pi * f * time + p)[None] for f, p in ((220, 0), (220, 2), (660, 0))
    )
    assert fade_length(low, shifted) == 1000
    assert fade_length(low, high) == 250
    assert fade_length(low, torch.zeros(1, 1000)) == 250
