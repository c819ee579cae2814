"""Masks of inpainting training: 1 = keep, 0 = generate."""

from __future__ import annotations

import random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from stable_audio.training.diffusion.inpainting import InpaintingMasks


@given(length=st.integers(1, 200), share=st.floats(0, 1), seed=st.integers(0, 2**32), kind=st.integers(0, 2))
def test_masks_are_binary_and_leave_padding_alone(length: int, share: float, seed: int, kind: int) -> None:
    real = int(length * share)
    probabilities = [float(i == kind) for i in range(3)]
    mask = InpaintingMasks(mask_type_probabilities=probabilities)(real, length, random.Random(seed))
    assert mask.shape == (1, length)
    assert set(mask.unique().tolist()) <= {0.0, 1.0}
    if kind == 1:
        assert mask.eq(0).all()
    elif real > 1:
        assert mask[:, real:].eq(1).all()
    if kind == 2:
        kept = int(mask[0, :real].sum())
        assert mask[0, :kept].eq(1).all()
        assert mask[0, kept:real].eq(0).all()


def test_segments_generate_something_and_at_most_the_asked_number() -> None:
    masks = InpaintingMasks(max_mask_segments=3, mask_type_probabilities=[1, 0, 0])
    for seed in range(200):
        mask = masks(100, 120, random.Random(seed))[0]
        starts = int(((mask[1:] == 0) & (mask[:-1] == 1)).sum() + (mask[0] == 0))
        assert 1 <= starts <= 3


def test_kinds_come_with_their_probabilities() -> None:
    masks = InpaintingMasks(mask_type_probabilities=[0.2, 0.5, 0.3])
    choices = random.Random(0)
    full = sum(bool(masks(64, 80, choices).eq(0).all()) for _ in range(4000)) / 4000
    assert full == pytest.approx(0.5, abs=0.03)


def test_the_same_choices_give_the_same_mask() -> None:
    masks = InpaintingMasks()
    assert torch.equal(masks(50, 60, random.Random(3)), masks(50, 60, random.Random(3)))


@pytest.mark.parametrize("wrong", [[1, 0], [0.5, 0.5, 0.5], [1.5, -0.5, 0.0]])
def test_wrong_probabilities(wrong: list[float]) -> None:
    with pytest.raises(ValueError, match="sum to 1"):
        InpaintingMasks(mask_type_probabilities=wrong)


def test_wrong_number_of_segments() -> None:
    with pytest.raises(ValueError, match="max_mask_segments"):
        InpaintingMasks(max_mask_segments=0)
