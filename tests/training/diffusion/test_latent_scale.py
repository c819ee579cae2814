"""The spread of the latents: measured in training, stored in the file, used by who loads it."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from stable_audio.checkpoints import load_model, load_pretransform, read_checkpoint
from stable_audio.cli import main
from stable_audio.config import load_config
from stable_audio.factory import create_model_from_config
from stable_audio.model import DiffusionModel
from stable_audio.training.options import RunOptions
from stable_audio.training.trainer import assemble
from tests import tiny
from tests.training.autoencoder.test_autoencoder import SPECTRAL, tiny_config
from tests.training.building import DATASET, tiny_run


def diffusion_config(**beside: Any) -> dict[str, Any]:
    return {
        "model_type": "diffusion_uncond",
        "sample_size": 512,
        "sample_rate": 4000,
        "audio_channels": 2,
        "model": {
            "type": "dit",
            "config": {"in_channels": 4, "embed_dim": 8, "depth": 1, "num_heads": 1},
            "pretransform": {
                "type": "autoencoder",
                "config": copy.deepcopy(tiny.PRETRANSFORMS["autoencoder"]),
                **beside,
            },
        },
        "training": {"learning_rate": 1e-3},
    }


@pytest.fixture
def trained(tmp_path: Path) -> Path:
    """Folder of a run whose autoencoder has widely spread latents."""
    run = tiny_run(tmp_path, tiny_config({"spectral": SPECTRAL}, use_ema=True), name="ae", max_steps=2)
    with torch.no_grad():  # latents far from unit variance, so that the measurement matters
        last = run.module.model.encoder.layers[-1]  # type: ignore[union-attr,index]
        last.weight_g.mul_(40.0)
    run.module.ema.start()  # type: ignore[union-attr]
    run.start()
    return tmp_path / "ae"


def _data() -> Tensor:
    """Clips of the dataset that the fixture trains on."""
    from stable_audio.data import create_loader

    loader = create_loader(
        DATASET, sample_rate=4000, sample_size=512, audio_channels=2, batch_size=16, num_workers=0, seed=42
    )
    return next(iter(loader)).audio


def _noise(like: Tensor) -> Tensor:
    return torch.randn(like.shape, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def _spread(model: Any) -> float:
    return float(model.pretransform.encode(_data(), noise=_noise).std())


@pytest.mark.parametrize("name", ["last.safetensors", "last.ckpt"])
def test_latents_of_the_data_have_unit_spread(trained: Path, name: str) -> None:
    model = create_model_from_config(diffusion_config())
    load_pretransform(model, trained / name)
    assert model.pretransform.scale > 2
    assert _spread(model) == pytest.approx(1.0, rel=0.3)
    autoencoder, config = load_model(trained / name)
    assert autoencoder.latent_scale == config.model.latent_scale == model.pretransform.scale


def test_the_file_can_be_named_in_the_config(trained: Path) -> None:
    config = diffusion_config()
    config["model"]["pretransform"] = {"type": "autoencoder", "path": str(trained)}
    model = create_model_from_config(load_config(config))
    expected = json.loads(json.dumps(read_checkpoint(trained).config))["model"]["latent_scale"]
    assert model.pretransform.scale == expected


def test_a_scale_in_the_config_wins(trained: Path) -> None:
    model = create_model_from_config(diffusion_config(scale=3.5))
    load_pretransform(model, trained)
    assert model.pretransform.scale == 3.5


def test_unknown_scale_is_one() -> None:
    assert create_model_from_config(diffusion_config()).pretransform.scale == 1.0


@pytest.mark.parametrize("kind", ["file", pytest.param("shards", marks=pytest.mark.slow)])
def test_a_run_that_goes_on_measures_the_same_sound(tmp_path: Path, kind: str) -> None:
    config = tiny_config({"spectral": SPECTRAL}, use_ema=True)
    options: dict[str, Any] = {"checkpoint_format": kind, "batch_size": 2, "checkpoint_every": 3}
    tiny_run(tmp_path, config, name="whole", max_steps=4, **options).start()
    tiny_run(tmp_path, config, name="parts", max_steps=3, **options).start()
    tiny_run(tmp_path, config, name="parts", max_steps=4, recover=True, **options).start()
    scales = [load_model(tmp_path / name)[0].latent_scale for name in ("whole", "parts")]
    assert scales[0] == scales[1] is not None


def test_the_diffusion_model_carries_it_on(trained: Path, tmp_path: Path) -> None:
    """Loaded with the weights, it is in the files of the run, and comes back when that is continued."""
    given: dict[str, Any] = {
        "save_dir": str(tmp_path),
        "name": "diffusion",
        "batch_size": 2,
        "num_workers": 0,
        "accelerator": "cpu",
        "devices": "1",
        "progress": False,
    }
    config = load_config(diffusion_config())
    first = assemble(config, DATASET, RunOptions(**given, max_steps=1, pretransform_ckpt_path=str(trained)))
    first.start()
    scale = first.module.model.pretransform.scale  # type: ignore[union-attr]
    assert scale > 2
    folder = tmp_path / "diffusion"
    again, _ = load_model(folder)
    assert isinstance(again, DiffusionModel)
    assert again.pretransform.scale == scale  # type: ignore[union-attr]
    with_own_file, _ = load_model(folder, config=diffusion_config())
    assert with_own_file.pretransform.scale == scale  # type: ignore[union-attr]
    more = assemble(config, DATASET, RunOptions(**given, max_steps=2, ckpt_path=str(folder)))
    more.start()
    assert more.module.model.pretransform.scale == scale  # type: ignore[union-attr]
    assert load_model(folder)[0].pretransform.scale == scale  # type: ignore[union-attr]


def test_it_survives_an_export(trained: Path, tmp_path: Path) -> None:
    target = tmp_path / "exported.ckpt"
    assert main(["export", str(trained / "last.safetensors"), str(target), "--layout", "sat"]) == 0
    model = create_model_from_config(diffusion_config())
    load_pretransform(model, target)
    assert model.pretransform.scale > 2


def test_measuring_leaves_the_run_alone(tmp_path: Path) -> None:
    config = tiny_config({"spectral": SPECTRAL}, use_ema=True)
    often = tiny_run(tmp_path, config, name="often", max_steps=4, checkpoint_every=1)
    rarely = tiny_run(tmp_path, config, name="rarely", max_steps=4)
    for run in (often, rarely):
        run.start()
    a, b = (read_checkpoint(tmp_path / n).tensors for n in ("often", "rarely"))
    assert all(torch.equal(a[k], b[k]) for k in a)
