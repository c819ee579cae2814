"""examples/denoising.py: what it gives the model is what the model's config takes."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from stable_audio.audio.io import save_audio
from stable_audio.config import load_config
from stable_audio.data import ItemKey, create_dataset
from stable_audio.factory import create_model_from_config
from tests.shrinking import shrink

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "examples" / "denoising.py"


@pytest.fixture(scope="module")
def example() -> Any:
    spec = importlib.util.spec_from_file_location("denoising_example", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def config() -> dict[str, Any]:
    return json.loads((ROOT / "model_configs" / "examples" / "denoising.json").read_text())


def test_its_spectrogram_is_that_of_the_model(example: Any, config: dict[str, Any]) -> None:
    assert config["model"]["pretransform"]["config"] == example.SPECTROGRAM


def test_a_dataset_gives_the_noisy_source(tmp_path: Path, example: Any, config: dict[str, Any]) -> None:
    generator = torch.Generator().manual_seed(0)
    save_audio(tmp_path / "a.wav", 0.1 * torch.randn(1, 40000, generator=generator), 16000)
    data = json.loads((ROOT / "dataset_configs" / "denoising.json").read_text())
    data.pop("$schema")
    data["datasets"][0].update(path=str(tmp_path), custom_metadata_module=str(SCRIPT))
    dataset = create_dataset(data, sample_rate=16000, sample_size=config["sample_size"], audio_channels=1)
    audio, metadata = dataset[ItemKey(0, 3)]
    clean = example.source_of(audio)
    noise = (metadata["source"] - clean).square().mean()
    assert metadata["source"].shape == (512, 256)
    assert 0 < noise < clean.square().mean()
    assert torch.equal(dataset[ItemKey(0, 3)][1]["source"], metadata["source"])


def test_a_model_cleans_a_sound_of_any_length(example: Any, config: dict[str, Any]) -> None:
    model = create_model_from_config(load_config(shrink(config))).eval()
    noisy = torch.randn(1, 3001)
    clean = example.denoise(model, noisy, steps=2)
    assert clean.shape == noisy.shape
    assert torch.isfinite(clean).all()
