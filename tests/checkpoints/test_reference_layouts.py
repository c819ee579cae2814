"""Real models: checkpoints with the keys of stable-audio-tools load strictly through `load_model`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from stable_audio.checkpoints import export, load_model, read_checkpoint
from tests.golden.harness import Case, all_cases

CASES = [
    c
    for c in all_cases()
    if c.kind == "train_step" and c.config.get("model_type") in ("diffusion_cond", "diffusion_uncond")
]
CHOSEN = {(c.config["model_type"], "pretransform" in str(c.config)): c for c in CASES}.values()


def _check(model: torch.nn.Module, case: Case, *, shifted: float = 0.0) -> None:
    expected = case.weights()
    prefixed = {k: v for k, v in expected.items() if k.startswith("model.")}
    found = model.state_dict()
    assert len(found) == len(expected)
    for key, value in prefixed.items():
        ours = "backbone." + key.removeprefix("model.").removeprefix("model.")
        assert torch.equal(found[ours], value + shifted), key


@pytest.mark.parametrize("case", CHOSEN, ids=lambda c: c.name)
def test_unwrapped(case: Case, tmp_path: Path) -> None:
    torch.save({"state_dict": case.weights(), "model_config": case.config}, tmp_path / "m.ckpt")
    model, config = load_model(tmp_path / "m.ckpt")
    assert config.model_type == case.config["model_type"]
    _check(model, case)


@pytest.mark.parametrize("case", CHOSEN, ids=lambda c: c.name)
def test_a_published_folder(case: Case, tmp_path: Path) -> None:
    import json

    save_file(case.weights(), str(tmp_path / "model.safetensors"))
    (tmp_path / "model_config.json").write_text(json.dumps(case.config))
    _check(load_model(tmp_path)[0], case)


@pytest.mark.parametrize("case", CHOSEN, ids=lambda c: c.name)
@pytest.mark.parametrize("use_ema", [True, False])
def test_training_wrapper(case: Case, tmp_path: Path, use_ema: bool) -> None:
    weights = case.weights()
    wrapped: dict[str, Any] = {f"diffusion.{k}": v for k, v in weights.items()}
    for key, value in weights.items():
        if key.startswith("model."):
            below = key.removeprefix("model.")
            wrapped[f"diffusion_ema.ema_model.{below}"] = value + 0.5
            wrapped[f"diffusion_ema.online_model.{below}"] = value
    wrapped |= {"diffusion_ema.initted": torch.ones(1), "diffusion_ema.step": torch.ones(1).long()}
    wrapped["losses.losses.0.weight"] = torch.ones(())
    torch.save({"state_dict": wrapped, "model_config": case.config, "epoch": 3}, tmp_path / "w.ckpt")
    model, _ = load_model(tmp_path / "w.ckpt", use_ema=use_ema)
    _check(model, case, shifted=0.5 if use_ema else 0.0)


@pytest.mark.parametrize("case", CHOSEN, ids=lambda c: c.name)
def test_export_gives_the_same_keys_back(case: Case, tmp_path: Path) -> None:
    torch.save({"state_dict": case.weights(), "model_config": case.config}, tmp_path / "m.ckpt")
    model, config = load_model(tmp_path / "m.ckpt")
    file = export(model, tmp_path / "out.safetensors", config=config.as_dict(), layout="sat")
    stored = read_checkpoint(file).tensors
    assert stored.keys() == case.weights().keys()
    assert all(torch.equal(stored[k], v) for k, v in case.weights().items())
