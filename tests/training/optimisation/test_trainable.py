"""Parts of a model that are trained, at their own learning rates."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from stable_audio.checkpoints import CheckpointError
from stable_audio.checkpoints.torch_file import load_torch_file
from stable_audio.training.errors import TrainingError
from tests.training.building import stored, tiny_config, tiny_run
from tests.training.saving.test_resume import assert_same_checkpoint

LAYER = "backbone.transformer.layers.0"
SGD = {
    "optimizer": {"type": "SGD", "config": {"lr": 0.1}},
    "scheduler": {"type": "OneCycleLR", "config": {"max_lr": 0.1}},
}


def config(trainable: dict[str, Any], **training: Any) -> dict[str, Any]:
    return tiny_config(trainable=trainable, use_ema=False, **training)


def weights(run: Any) -> dict[str, Tensor]:
    return {k: v.detach().clone() for k, v in run.module.model.named_parameters()}


def moved(folder: Path, trainable: dict[str, Any], **training: Any) -> dict[str, Tensor]:
    """Changes of the weights in one step."""
    run = tiny_run(folder, config(trainable, **training), max_steps=1, demos=False, overwrite=True)
    before = weights(run)
    assert run.start() == 0
    return {k: v - before[k] for k, v in weights(run).items()}


def test_parts_are_trained_or_not(tmp_path: Path) -> None:
    trainable = {"include": [LAYER, "conditioner"], "exclude": ["*.self_attn.to_out"]}
    changes = moved(tmp_path, trainable)
    trained = {k for k, v in changes.items() if bool(v.any())}
    allowed = {
        k for k in changes if k.startswith((LAYER + ".", "conditioner")) and "self_attn.to_out" not in k
    }
    assert trained
    assert trained <= allowed
    content = load_torch_file(tmp_path / "run" / "last.ckpt")
    assert len(content["optimizer_states"][0]["param_groups"][0]["params"]) == len(allowed)


def test_each_part_has_its_own_rate_in_every_schedule(tmp_path: Path) -> None:
    """A step of SGD is proportional to its rate, whatever the schedule makes of the optimizer's."""
    plain = moved(tmp_path, {}, optimizer_configs={"diffusion": SGD})
    factors = {"backbone": 0.5, LAYER: 0.25, "*.bias": 4.0}
    scaled = moved(tmp_path, {"lr_multipliers": factors}, optimizer_configs={"diffusion": SGD})
    for name, change in plain.items():
        factor = 0.5 if name.startswith("backbone") else 1.0
        factor = 0.25 if name.startswith(LAYER + ".") else factor
        factor = 4.0 if name.endswith(".bias") else factor
        # Sums of a weight of at most 2 and its change, both rounded to float32.
        torch.testing.assert_close(scaled[name], factor * change, rtol=1e-4, atol=1e-6)
    assert any(bool(change.any()) for change in plain.values())


def test_a_run_with_rates_goes_on_exactly(tmp_path: Path) -> None:
    trainable = {"exclude": ["conditioner"], "lr_multipliers": {LAYER: 0.25}}
    adam = {"optimizer": {"type": "AdamW", "config": {"lr": 1e-3}}, "scheduler": SGD["scheduler"]}
    settings = config(trainable, optimizer_configs={"diffusion": adam})
    tiny_run(tmp_path, settings, name="whole", max_steps=4, demos=False).start()
    tiny_run(tmp_path, settings, name="parts", max_steps=4, demos=False, checkpoint_every=2).start()
    (tmp_path / "parts" / "last.ckpt").unlink()
    for path in (tmp_path / "parts" / "checkpoints").glob("*4.*"):
        path.unlink()
    tiny_run(tmp_path, settings, name="parts", max_steps=4, demos=False, recover=True).start()
    assert_same_checkpoint(tmp_path / "whole" / "last.ckpt", tmp_path / "parts" / "last.ckpt")
    changed = config({**trainable, "lr_multipliers": {LAYER: 0.5}}, optimizer_configs={"diffusion": adam})
    with pytest.raises(CheckpointError, match=r"trainable\.lr_multipliers"):
        tiny_run(tmp_path, changed, name="parts", max_steps=6, recover=True)


@pytest.mark.parametrize(
    ("trainable", "message"),
    [
        (
            {"include": ["backbone.transformers"]},
            "'backbone.transformers', but no part .* 'backbone.transformer'",
        ),
        ({"lr_multipliers": {"conditoner": 2.0}}, "lr_multipliers: found 'conditoner'.* 'conditioner'"),
        ({"exclude": ["conditioner"], "lr_multipliers": {"conditioner": 2.0}}, "is frozen by other settings"),
    ],
)
def test_names_that_match_nothing_are_named(tmp_path: Path, trainable: Any, message: str) -> None:
    with pytest.raises(TrainingError, match=message):
        tiny_run(tmp_path, config(trainable))


def test_tensors_of_an_adapter_may_have_their_own_rate(tmp_path: Path) -> None:
    base = stored(tmp_path, ".safetensors", tiny_config())
    settings = config({"lr_multipliers": {"*.lora_B": 16.0}}, lora_config={"rank": 2})
    run = tiny_run(tmp_path, settings, pretrained_ckpt_path=str(base), max_steps=1, demos=False)
    assert run.start() == 0
    groups = load_torch_file(tmp_path / "run" / "last.ckpt")["optimizer_states"][0]["param_groups"]
    assert sorted(group["lr_factor"] for group in groups) == [1.0, 16.0]
