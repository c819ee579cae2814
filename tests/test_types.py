"""Conditioning: what every backbone and the guidance rely on."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from stable_audio.types import Conditioning, Slot


@pytest.fixture
def cond() -> Conditioning:
    return Conditioning(
        cross_attn=torch.randn(2, 3, 4),
        cross_attn_mask=torch.ones(2, 3, dtype=torch.bool),
        global_cond=torch.randn(2, 5),
        input_concat=torch.randn(2, 1, 6),
        prepared=object(),
    )


def test_slots(cond: Conditioning) -> None:
    assert cond.present() == {Slot.CROSS_ATTN, Slot.GLOBAL, Slot.INPUT_CONCAT}
    assert cond.slot(Slot.GLOBAL) is cond.global_cond
    assert cond.slot(Slot.PREPEND) is None


def test_changes_drop_what_the_backbone_prepared(cond: Conditioning) -> None:
    assert cond.replace(global_cond=None).prepared is None
    assert cond.to("cpu").prepared is None
    assert cond.replace(prepared=1).prepared == 1


def test_to_keeps_masks_boolean(cond: Conditioning) -> None:
    moved = cond.to(dtype=torch.bfloat16)
    assert moved.cross_attn.dtype == moved.global_cond.dtype == torch.bfloat16
    assert moved.cross_attn_mask.dtype == torch.bool


def test_repeat_and_index_are_inverse(cond: Conditioning) -> None:
    repeated = cond.repeat(3)
    assert repeated.global_cond.shape == (6, 5)
    for start in (0, 2, 4):
        torch.testing.assert_close(repeated.index(slice(start, start + 2)).cross_attn, cond.cross_attn)


def test_cat_joins_every_slot(cond: Conditioning) -> None:
    both = Conditioning.cat([cond, cond.map(lambda v: v)])
    for field in dataclasses.fields(Conditioning):
        value = getattr(cond, field.name)
        if isinstance(value, torch.Tensor):
            torch.testing.assert_close(getattr(both, field.name), torch.cat([value, value]))


def test_it_is_frozen(cond: Conditioning) -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        cond.global_cond = None
