"""Masks of inpainting training: 1 = keep, 0 = generate."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from stable_audio.training.diffusion.inpainting import InpaintingMasks, _free_start


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


def _literal_start(mask: torch.Tensor, real: int, size: int, choices: random.Random) -> int | None:
    """Of 50 drawn places the first one without a zero, else the first such place of all."""
    free = [all(mask[0, i : i + size].tolist()) for i in range(real - size + 1)]
    drawn = [choices.randint(0, real - size) for _ in range(50)]
    found = [start for start in drawn if free[start]] or [i for i, is_free in enumerate(free) if is_free]
    return found[0] if found else None


@given(real=st.integers(1, 40), seed=st.integers(0, 2**32), ones=st.integers(0, 40), data=st.data())
def test_a_span_lies_where_nothing_is_to_be_generated_yet(
    real: int, seed: int, ones: int, data: st.DataObject
) -> None:
    size, mask = data.draw(st.integers(1, real)), torch.zeros(1, 48)
    mask[0, torch.randperm(48, generator=torch.Generator().manual_seed(seed))[:ones]] = 1
    start = _free_start(mask, real, size, random.Random(seed))
    assert start == _literal_start(mask, real, size, random.Random(seed))


class _Counted(TorchDispatchMode):
    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += 1
        return func(*args, **(kwargs or {}))


def test_spans_of_long_clips_take_no_operation_per_frame() -> None:
    """The host makes the masks of a batch in every step."""
    with _Counted() as operations:
        mask = InpaintingMasks()(8000, 8192, random.Random(0), "spans")
    assert 0 < int((mask == 0).sum()) <= 8000
    assert operations.count < 50
