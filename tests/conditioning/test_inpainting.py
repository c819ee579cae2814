"""What inpainting models read."""

from __future__ import annotations

import torch

from stable_audio.conditioning.inpainting import INPAINT_IDS, inpainting_tensors
from stable_audio.model import DiffusionModel
from stable_audio.types import Conditioning, Slot
from tests.inference import tiny


def test_the_mask_keeps_frames_of_every_channel_and_row() -> None:
    mask = torch.tensor([1.0, 0.0, 1.0]).expand(2, 1, 3)
    for shape in ((2, 4, 3), (2, 4, 5, 3)):
        found = inpainting_tensors(torch.ones(shape), mask)
        assert torch.equal(found["inpaint_mask"][0], mask)
        kept = found["inpaint_masked_input"][0]
        assert kept.shape == shape
        assert torch.equal(kept.movedim(-1, 0).flatten(1).mean(1), torch.tensor([1.0, 0.0, 1.0]))


def test_a_model_is_conditioned_on_metadata_and_extra_tensors() -> None:
    model: DiffusionModel = tiny.build(tiny.config(inpaint=True))
    latents, mask = torch.ones(1, tiny.PATCH, 4), torch.tensor([[[1.0, 1.0, 0.0, 0.0]]])
    item = {"prompt": "bell", "seconds_total": 0.6}
    cond = model.condition([item], inpainting_tensors(latents, mask))
    assert cond.input_concat is not None
    assert torch.equal(cond.input_concat[:, :1], mask)
    assert torch.equal(cond.input_concat[:, 1:], latents * mask)
    assert cond.present() == {Slot.CROSS_ATTN, Slot.GLOBAL, Slot.INPUT_CONCAT}
    assert model.wiring.ids[Slot.INPUT_CONCAT] == INPAINT_IDS


def test_every_slot_has_a_field_of_the_conditioning() -> None:
    values = {slot.field: torch.full((1, 1), float(i)) for i, slot in enumerate(Slot)}
    cond = Conditioning(**values)
    assert [cond.slot(slot).item() for slot in Slot] == [0.0, 1.0, 2.0, 3.0, 4.0]  # type: ignore[union-attr]
    assert {s.mask_field for s in Slot} == {"cross_attn_mask", "prepend_mask", None}
