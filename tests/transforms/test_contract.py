"""What every registered transform must do, in runs as commands make them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from stable_audio.checkpoints import load_model
from stable_audio.transforms import TRANSFORMS
from tests import tiny
from tests.training.building import latent_config, stored, tiny_run
from tests.training.saving.test_resume import assert_same_checkpoint


def test_every_registered_transform_has_a_tiny_entry() -> None:
    assert set(tiny.TRANSFORMS) == set(TRANSFORMS)


@pytest.mark.slow  # each is several runs
@pytest.mark.parametrize("name", TRANSFORMS)
def test_files_of_a_run_with_a_transform_load_whole_or_as_differences(name: str, tmp_path: Path) -> None:
    config = latent_config()
    base = stored(tmp_path, ".safetensors", config)
    config["training"]["transforms"] = [{"type": name, "config": tiny.TRANSFORMS[name]}]

    def train(run: str, steps: int, weights: str, **options: Any) -> None:
        settings = {"max_steps": steps, "checkpoint_weights": weights, "pretrained_ckpt_path": str(base)}
        assert tiny_run(tmp_path, config, name=run, demos=False, **settings, **options).start() == 0

    for weights in ("whole", "difference"):
        train(weights, 2, weights)
        train(weights, 4, weights, recover=True)
        train(f"unbroken {weights}", 4, weights)
        assert_same_checkpoint(
            tmp_path / weights / "last.ckpt", tmp_path / f"unbroken {weights}" / "last.ckpt"
        )
    whole, difference = (load_model(tmp_path / n)[0].state_dict() for n in ("whole", "difference"))
    assert whole.keys() == difference.keys()
    assert [k for k, v in whole.items() if not torch.equal(v, difference[k])] == []
    # Another run starts from either, and trains what it likes.
    run = tiny_run(tmp_path, latent_config(), name="next", pretrained_ckpt_path=str(tmp_path / "difference"))
    assert run.start() == 0
    again = load_model(tmp_path / "next")[0].state_dict()
    assert {k for k in again if k.startswith("backbone")} == {k for k in whole if k.startswith("backbone")}
