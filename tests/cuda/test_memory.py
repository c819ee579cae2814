"""What saves the memory of a GPU changes no result: averages, gradients and weights that are elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from stable_audio.config import load_config
from stable_audio.factory import create_model_from_config
from stable_audio.inference.generation.generate import generate
from stable_audio.inference.offload import offload
from tests.training.building import demo_section, latent_config, tiny_config, tiny_run

GPU = {"accelerator": "gpu", "devices": "1", "precision": "32-true", "max_steps": 6}
FROZEN = {
    "gradient_checkpointing": True,
    "transforms": [{"type": "freeze", "config": {"frozen": ["backbone.transformer.layers.*"]}}],
}


def _run(folder: Path, name: str, training: dict[str, Any]) -> Any:
    run = tiny_run(folder, tiny_config(**training), name=name, **GPU)
    assert run.start() == 0
    return run


@pytest.mark.parametrize(
    ("plain", "lever"),
    [
        ({}, {"gradient_release": True}),
        ({"demo": demo_section()}, {"ema": {"device": "cpu"}}),
        (FROZEN, {"offload_blocks": True}),
    ],
    ids=["released gradients", "average on the host", "offloaded blocks"],
)
def test_a_run_ends_with_the_same_weights(
    tmp_path: Path, plain: dict[str, Any], lever: dict[str, Any]
) -> None:
    first, second = _run(tmp_path, "plain", plain), _run(tmp_path, "levered", {**plain, **lever})
    weights, levered = first.module.model.state_dict(), second.module.model.state_dict()
    for key, value in weights.items():
        torch.testing.assert_close(levered[key].cpu(), value.cpu(), msg=lambda m, k=key: f"{k}: {m}")
    averages = second.module.ema.average
    for key, value in first.module.ema.average.items():
        torch.testing.assert_close(averages[key].cpu(), value.cpu(), msg=lambda m, k=key: f"{k}: {m}")
    if "ema" in lever:
        assert {v.device.type for v in averages.values()} == {"cpu"}
    assert second.demos is None or second.demos.failure is None


def test_an_offloaded_model_generates_the_same_and_leaves_the_gpu() -> None:
    torch.manual_seed(0)
    model = create_model_from_config(load_config(latent_config())).eval()
    prompt = [{"seconds_start": 0, "seconds_total": 1}]
    expected = generate(model, prompt, steps=2)
    offload(model, "cuda")
    found = generate(model, prompt, steps=2)
    torch.testing.assert_close(found, expected, atol=1e-3, rtol=1e-3)
    assert {p.device.type for p in model.parameters()} == {"cpu"}
