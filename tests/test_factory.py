"""Configurations become models: what the file says is what the objects have."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from stable_audio.config import ConfigError, load_config
from stable_audio.diffusion.noise import SeededNoise
from stable_audio.diffusion.objectives import RectifiedFlowObjective, VObjective
from stable_audio.factory import create_model_from_config
from stable_audio.model import DiffusionModel
from stable_audio.pretransforms import Autoencoder
from stable_audio.types import Slot
from tests.config import examples

METADATA = [{"prompt": "a bell", "seconds_total": 3}, {"prompt": "a", "seconds_start": 1, "seconds_total": 9}]


def test_a_conditional_model_runs_from_metadata_to_audio() -> None:
    model = create_model_from_config(examples.cond())
    assert isinstance(model, DiffusionModel)
    assert isinstance(model.objective, RectifiedFlowObjective)
    assert model.latent_shape == (4, 128)
    assert (model.sample_rate, model.audio_channels, model.length_multiple) == (16000, 2, 8)
    assert model.dist_shift is not None
    assert (model.dist_shift.min_length, model.dist_shift.max_length) == (8, 64)
    assert model.wiring.ids[Slot.CROSS_ATTN] == ("prompt", "seconds_total")
    conditioning = model.condition(METADATA)
    assert conditioning.cross_attn is not None
    assert conditioning.cross_attn.shape == (2, 9, 8)
    assert conditioning.global_cond is not None
    assert conditioning.global_cond.shape == (2, 16)
    with torch.no_grad():
        latents = model.encode(torch.zeros(2, 2, 1024))
        out = model(latents, torch.rand(2), conditioning)
        assert model.decode(out).shape == (2, 2, 1024)
    assert not any(p.requires_grad for p in model.pretransform.parameters())
    assert all(p.requires_grad for p in model.backbone.parameters())


def test_an_unconditional_model_runs() -> None:
    model = create_model_from_config(examples.uncond())
    assert isinstance(model.objective, VObjective)
    assert model.conditioner is None
    assert model.latent_shape == (4, 64)
    assert (model.audio_channels, model.downsampling_ratio) == (1, 4)
    assert model(torch.zeros(1, 4, 64), torch.ones(1), model.condition([{}])).shape == (1, 4, 64)


def test_an_autoencoder_runs() -> None:
    data: dict[str, Any] = {
        "model_type": "autoencoder",
        "sample_size": 64,
        "sample_rate": 16000,
        "model": examples.cond()["model"]["pretransform"]["config"],
        "training": {"learning_rate": 1e-4, "loss_configs": {"spectral": {"weights": {"mrstft": 1.0}}}},
    }
    model = create_model_from_config(data)
    assert isinstance(model, Autoencoder)
    assert model.sample_rate == 16000
    assert model.encode(torch.zeros(1, 2, 64)).shape == (1, 4, 8)


def test_a_diffusion_autoencoder_runs_and_refuses_parts_that_do_not_fit() -> None:
    data = examples.diffusion_autoencoder()
    model = create_model_from_config(data)
    with torch.no_grad():
        latents = model.encode(torch.zeros(1, 2, 64))
        audio = model.decode(latents, noise=SeededNoise([0]), steps=2)
        again = model.decode(latents, noise=SeededNoise([0]), steps=2)
    assert latents.shape == (1, 4, 8)
    assert audio.shape == (1, 2, 64)
    assert torch.equal(audio, again)
    data["model"]["diffusion"]["config"]["input_concat_dim"] = 3
    data["model"]["downsampling_ratio"] = 16
    ratio = r"downsampling_ratio: found 16, but its parts work at 8 .*set it to 8"
    width = r"input_concat_dim: found 3, .*the other parts need 4: set it to 4"
    with pytest.raises(ConfigError, match=f"(?s){ratio}.*{width}"):
        create_model_from_config(data)


@pytest.mark.parametrize("form", ["path", "string", "dict", "config"])
def test_every_form_of_a_config_gives_the_same_model(form: str, tmp_path: Path) -> None:
    path = tmp_path / "m.json"
    path.write_text(json.dumps(examples.uncond()))
    source = {"path": path, "string": str(path), "dict": examples.uncond(), "config": load_config(path)}[form]
    torch.manual_seed(0)
    model = create_model_from_config(source)
    torch.manual_seed(0)
    other = create_model_from_config(examples.uncond())
    for a, b in zip(model.state_dict().values(), other.state_dict().values(), strict=True):
        assert torch.equal(a, b)


def test_building_twice_from_one_config_gives_equal_shapes() -> None:
    config = load_config(examples.cond())
    shapes = [
        {k: v.shape for k, v in create_model_from_config(config).state_dict().items()} for _ in range(2)
    ]
    assert shapes[0] == shapes[1]


def test_on_meta_nothing_is_allocated() -> None:
    model = create_model_from_config(examples.cond(), device="meta")
    assert {p.device.type for p in model.parameters()} == {"meta"}


def test_parts_may_be_frozen_or_trained() -> None:
    data = examples.cond()
    section = data["model"]["pretransform"]
    section["enable_grad"] = True
    section["config"]["encoder"]["requires_grad"] = False
    section["config"]["decoder"]["soft_clip"] = True
    autoencoder = create_model_from_config(data).pretransform.model
    assert autoencoder.soft_clip is True
    assert all(p.requires_grad for p in autoencoder.decoder.parameters())
    assert not any(p.requires_grad for p in autoencoder.encoder.parameters())


def test_conditioners_may_have_their_own_width() -> None:
    data = examples.cond()
    data["model"]["conditioning"]["configs"][1]["config"]["output_dim"] = 6
    data["model"]["diffusion"]["config"]["global_cond_dim"] = 14
    conditioner = create_model_from_config(data).conditioner.conditioners
    assert [conditioner[i].output_dim for i in ("prompt", "seconds_start", "seconds_total")] == [8, 6, 8]


def test_wrong_configs_are_refused() -> None:
    data = examples.cond()
    data["model"]["diffusion"]["config"]["depth"] = -1
    with pytest.raises(ConfigError, match=r"\$\.model\.diffusion\.config"):
        create_model_from_config(data)


def test_a_trained_pretransform_leaves_frozen_what_its_parts_freeze() -> None:
    data = examples.cond()
    section = data["model"]["pretransform"]
    section["enable_grad"] = True
    section["config"]["bottleneck"] = {"type": "softnorm", "config": {"dim": 4, "freeze": True}}
    section["config"]["encoder"]["config"]["latent_dim"] = 4
    autoencoder = create_model_from_config(data).pretransform.model
    assert not any(p.requires_grad for p in autoencoder.bottleneck.parameters())
    assert all(p.requires_grad for p in autoencoder.encoder.parameters())
