"""Copies for checkpoints that come from a GPU."""

from __future__ import annotations

import torch

from stable_audio.training.saving.writer import HostCopies


def test_large_tensors_of_a_gpu_come_whole() -> None:
    large = torch.randn(40_000_000, device="cuda")  # more than one passage
    small, view = torch.ones(3, device="cuda"), large[5:]
    copied = HostCopies()({"large": large, "small": small, "view": view})
    assert torch.equal(copied["large"], large.cpu())
    assert torch.equal(copied["view"], large.cpu()[5:])
    assert copied["view"].untyped_storage().data_ptr() == copied["large"].untyped_storage().data_ptr()
    assert torch.equal(copied["small"], small.cpu())
