"""`--cpu-offload`: weights that rest in host memory train, are saved and continued as those on a device."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch.distributed import fsdp

from stable_audio.training.devices import hardware
from tests.training.building import tiny_run

OFFLOADED: dict[str, Any] = {"strategy": "fsdp", "cpu_offload": True}


@pytest.fixture
def device_is_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    """The processor takes the part of the GPU: nothing is copied, all else is as on one."""
    policy = fsdp.CPUOffloadPolicy
    monkeypatch.setattr(fsdp, "CPUOffloadPolicy", lambda: policy(pin_memory=False))
    monkeypatch.setattr(hardware, "_check_splitting", lambda options: None)


def trained(folder: Path, **options: Any) -> dict[str, torch.Tensor]:
    """The weights after a run of six steps that was continued after three."""
    for steps in (3, 6):
        run = tiny_run(folder, max_steps=steps, checkpoint_every=3, demos=False, recover=steps > 3, **options)
        assert run.start() == 0
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
    return load_file(run.options.folder / "last.safetensors")


@pytest.mark.usefixtures("device_is_the_host")
@pytest.mark.parametrize("kind", ["file", "shards"])
def test_a_run_is_that_of_weights_on_the_device(kind: str, tmp_path: Path) -> None:
    expected = trained(tmp_path / "whole")
    weights = trained(tmp_path / "offloaded", **OFFLOADED, checkpoint_format=kind)
    assert weights.keys() == expected.keys()
    for name, value in weights.items():
        torch.testing.assert_close(value, expected[name], msg=name)
