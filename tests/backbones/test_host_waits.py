"""No backbone makes the host wait for the device, neither in its forward pass nor in its backward pass."""

from __future__ import annotations

import pytest
import torch

from stable_audio.nn.checkpointing import set_gradient_checkpointing
from stable_audio.types import Slot
from tests.backbones.test_contracts import ALL, BATCH, build, conditioning, inputs
from tests.host_waits import DEVICE, no_waits


@ALL
def test_a_step_of_every_backbone_is_queued_without_a_wait(name: str) -> None:
    if name == "dit (x-transformers)":
        pytest.skip("x-transformers asks autocast for the type of the device, which the meta device lacks")
    backbone = build(name).train().to(DEVICE)
    set_gradient_checkpointing(backbone)  # so that blocks run twice
    x, t = (value.to(DEVICE) for value in inputs(backbone))
    cond = conditioning(backbone).map(lambda value: value.to(DEVICE))
    keep = {slot: torch.ones(BATCH, dtype=torch.bool, device=DEVICE) for slot in Slot}
    with no_waits():
        backbone(x, t, backbone.drop(cond, keep)).square().mean().backward()
    assert any(p.grad is not None for p in backbone.parameters())
