"""The loaders of a run, as its device wants them."""

from __future__ import annotations

from collections import deque
from pathlib import Path
from typing import Any

import pytest
import torch

from stable_audio.training.callbacks.validation import Validate
from tests.training.building import DATASET, tiny_run


@pytest.mark.parametrize(("device", "pinned"), [("cuda", True), ("cpu", False)])
def test_batches_for_a_gpu_are_copied_from_pinned_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, device: str, pinned: bool
) -> None:
    run = tiny_run(tmp_path, val_dataset={**DATASET, "split": "val", "num_clips": 4}, val_every=2)
    monkeypatch.setattr(type(run.module), "device", property(lambda _: torch.device(device)))
    (validation,) = (each for each in run.trainer.callbacks if isinstance(each, Validate))  # type: ignore
    makers: list[Any] = [run.data._make_loader, validation._make_loader]
    for make in makers:
        assert make(0, 1)._workers(deque()).pin_memory is pinned
