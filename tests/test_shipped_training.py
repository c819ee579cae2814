"""Every shipped diffusion config, built small, is trained for one step and sampled."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from stable_audio.config import load_config
from stable_audio.data.base import Batch
from stable_audio.diffusion.noise import SeededNoise
from stable_audio.diffusion_autoencoder import DiffusionAutoencoder
from stable_audio.factory import create_model_from_config
from stable_audio.inference import generate
from stable_audio.inference.generation.condition_sounds import sound_conditioners
from stable_audio.model import DiffusionModel
from stable_audio.training.build import build_training
from stable_audio.types import Slot
from tests.shrinking import shrink

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "model_configs"


def _read(path: Path) -> dict[str, Any]:
    config = json.loads(path.read_text(encoding="utf-8"))
    pretransform = config.get("model", {}).get("pretransform") or {}
    if "path" in pretransform:  # relative to the file
        pretransform["path"] = str(path.parent / pretransform["path"])
    return config


def _of_type(*model_types: str) -> list[Path]:
    files = (p for p in FOLDER.rglob("*.json") if p.name != "schema.json")
    return sorted(p for p in files if _read(p).get("model_type") in model_types)


SHIPPED = _of_type("diffusion_cond", "diffusion_cond_inpaint", "diffusion_uncond")
DIFFUSION_AUTOENCODERS = _of_type("diffusion_autoencoder")


def _metadata(config: dict[str, Any], model: DiffusionModel) -> list[dict[str, Any]]:
    """Two items with what the config's demos ask for, and random tensors for pre-encoded ids."""
    demos = (config["training"].get("demo") or {}).get("demo_cond") or [{}]
    items = [dict(demos[i % len(demos)]) for i in range(2)]
    if model.conditioner is not None:
        width = model.backbone.slot_widths.get(Slot.INPUT_CONCAT) or 1
        frames = model.latent_shape[-1]
        for item in items:
            item.update({k: torch.randn(width, frames) for k in model.conditioner.pre_encoded_keys})
            sound = torch.randn(model.audio_channels, config["sample_size"]) * 0.1
            item.update({k: sound for k in sound_conditioners(model)})
    return items


def _marked(path: Path) -> Any:
    """Networks that stay large when they are shrunk are followed by the slow tests."""
    marks = pytest.mark.slow if path.name == "stable_diffusion_1.json" else ()
    return pytest.param(path, marks=marks, id=str(path.relative_to(FOLDER)))


@pytest.mark.parametrize("path", map(_marked, SHIPPED))
def test_one_step_and_one_sound(path: Path) -> None:
    torch.manual_seed(0)
    raw = shrink(_read(path))
    config = load_config(raw)
    assert config.training is not None, "a shipped config has a training section"
    model = create_model_from_config(config)
    module = build_training(config, model, batch_size=2)
    module.run_steps = 100
    metadata = _metadata(raw, model)
    channels = model.audio_channels
    latents = model.latent_shape if config.training.pre_encoded else (channels, config.sample_size)
    for item in metadata:
        item["padding_mask"] = torch.ones(latents[-1])
    audio = torch.randn(2, *latents) * 0.1
    optimizer = module.configure_optimizers()["optimizer"]
    before = {k: v.detach().clone() for k, v in model.named_parameters() if v.requires_grad}
    loss = module.training_step(Batch(audio, metadata, items=range(2)))
    loss.backward()
    optimizer.step()
    assert torch.isfinite(loss)
    moved = [k for k, v in model.named_parameters() if k in before and not torch.equal(v, before[k])]
    assert moved, "the step changed nothing"
    clip = generate(model, metadata[:1] if model.conditioner is not None else None, steps=2, cfg_scale=2.0)
    assert clip.shape == (1, channels, config.sample_size)
    assert torch.isfinite(clip).all()


@pytest.mark.parametrize("path", DIFFUSION_AUTOENCODERS, ids=lambda p: str(p.relative_to(FOLDER)))
def test_one_step_and_one_reconstruction(path: Path) -> None:
    torch.manual_seed(0)
    config = load_config(shrink(_read(path)))
    model = create_model_from_config(config)
    assert isinstance(model, DiffusionAutoencoder)
    module = build_training(config, model, batch_size=2)
    audio = torch.randn(2, model.audio_channels, config.sample_size) * 0.1
    optimizer = module.configure_optimizers()["optimizer"]
    before = {k: v.detach().clone() for k, v in model.named_parameters() if v.requires_grad}
    loss = module.training_step(Batch(audio, [{}, {}]))
    loss.backward()
    optimizer.step()
    assert torch.isfinite(loss)
    moved = [k for k, v in model.named_parameters() if k in before and not torch.equal(v, before[k])]
    assert {k.split(".")[0] for k in moved} >= {"encoder", "diffusion"}
    with torch.no_grad():
        made = model.decode(model.encode(audio[:1]), noise=SeededNoise([0]), steps=2)
    assert made.shape == audio[:1].shape
    assert torch.isfinite(made).all()


def test_there_are_shipped_configs() -> None:
    assert SHIPPED
    assert DIFFUSION_AUTOENCODERS
