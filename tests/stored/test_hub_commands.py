"""A name on the hub in every place of the command line and of a config that takes weights."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from stable_audio.audio.io import read_audio
from stable_audio.checkpoints import CheckpointError, load_model, load_pretransform, read_checkpoint
from stable_audio.cli import main
from stable_audio.factory import create_model_from_config
from stable_audio.inference.codec.load import load_codec
from stable_audio.inference.rendering.load import load_render_model
from stable_audio.training.teacher import load_teacher
from tests.checkpoints.test_named_pretransforms import save_autoencoder
from tests.cli.test_codec_commands import AUTOENCODER
from tests.data.folders import make_folder
from tests.inference import tiny
from tests.stored.stub_hub import COMMIT, Repository, StubHub
from tests.training.building import DATASET, latent_config, stored, tiny_config, tiny_run

CPU = ["--device", "cpu"]


def _publish(hub: StubHub, name: str, file: Path, published: str = "") -> str:
    """Give a repository one file with a config inside."""
    folder = file.parent / f"of-{name.replace('/', '-')}"
    folder.mkdir()
    shutil.copy(file, folder / (published or file.name))
    hub.repositories[name] = Repository(folder)
    return name


@pytest.fixture
def model(hub: StubHub, tmp_path: Path) -> str:
    file = stored(tmp_path, ".safetensors", tiny_config())
    return _publish(hub, "owner/model", file, "model.safetensors")


@pytest.fixture
def autoencoder(hub: StubHub, tmp_path: Path) -> str:
    save_autoencoder(tmp_path / "ae.safetensors")
    return _publish(hub, "owner/autoencoder", tmp_path / "ae.safetensors")


def test_generate_and_again_from_the_recipe(hub: StubHub, tmp_path: Path) -> None:
    weights, config = tiny.save(tmp_path / "made", tiny.config())
    shutil.copy(config, weights.with_name("model_config.json"))
    hub.repositories["owner/model"] = Repository(weights.parent)
    out = tmp_path / "out"
    options = ["--prompt", "bell", "--seconds", "0.25", "--steps", "2", *CPU]
    assert main(["generate", "--ckpt-path", "owner/model", "--out", str(out), *options]) == 0
    (recipe,) = out.glob("*.json")
    name = f"owner/model@{COMMIT}/tiny.safetensors"
    assert json.loads(recipe.read_text())["recipe"]["checkpoint"]["path"] == name
    again = ["generate", "--from-json", str(recipe), "--out", str(tmp_path / "again"), *CPU]
    assert main(again) == 0
    (one,), (other,) = out.glob("*.wav"), (tmp_path / "again").glob("*.wav")
    assert torch.equal(read_audio(one)[0], read_audio(other)[0])


def test_codec_commands(autoencoder: str, hub: StubHub, tmp_path: Path) -> None:
    sounds = str(make_folder(tmp_path / "in", {"a.wav": 2003}))
    options = ["--ckpt-path", autoencoder, *CPU]
    latents, back = str(tmp_path / "latents"), str(tmp_path / "back")
    assert main(["encode", sounds, "-o", latents, "--num-workers", "0", *options]) == 0
    assert main(["decode", latents, "-o", back, *options]) == 0
    assert main(["reconstruct", sounds, "--out", str(tmp_path / "re"), *options]) == 0
    # With a config of its own, weights alone are fetched.
    (tmp_path / "ae.json").write_text(json.dumps(AUTOENCODER))
    codec = load_codec(model_config=tmp_path / "ae.json", ckpt_path=autoencoder)
    assert codec.source == autoencoder


def test_export_and_parts(model: str, autoencoder: str, tmp_path: Path) -> None:
    assert main(["export", model, str(tmp_path / "out.safetensors")]) == 0
    exported = read_checkpoint(tmp_path / "out.safetensors").tensors
    assert exported.keys() == read_checkpoint(model).tensors.keys()
    assert load_teacher(model).model.state_dict().keys() == load_model(model)[0].state_dict().keys()
    inner = latent_config()
    inner["model"]["pretransform"] = {"type": "autoencoder", "config": AUTOENCODER["model"]}
    inner["model"]["io_channels"] = inner["model"]["diffusion"]["config"]["io_channels"] = 4
    built = create_model_from_config({**inner, "audio_channels": 1})
    assert load_pretransform(built, autoencoder).complete


def test_a_separate_pretransform_is_in_the_recipe(autoencoder: str, tmp_path: Path) -> None:
    config = latent_config() | {"audio_channels": 1}
    config["model"]["pretransform"] = {"type": "autoencoder", "config": AUTOENCODER["model"]}
    config["model"]["io_channels"] = config["model"]["diffusion"]["config"]["io_channels"] = 4
    file = stored(tmp_path, ".safetensors", config)
    render = load_render_model(file, pretransform=autoencoder)
    assert render.pretransform is not None
    assert render.pretransform.path == f"owner/autoencoder@{COMMIT}/ae.safetensors"
    # A folder is as good, also where the weights as trained are asked for.
    (tmp_path / "vae").mkdir()
    shutil.copy(tmp_path / "ae.safetensors", tmp_path / "vae" / "last.safetensors")
    assert load_render_model(file, pretransform=tmp_path / "vae").pretransform is not None


def test_weights_as_trained_come_from_the_training_checkpoint(tmp_path: Path) -> None:
    assert tiny_run(tmp_path, max_steps=2, demos=False).start() == 0
    for use_ema, name in ((True, "last.safetensors"), (False, "last.ckpt")):
        loaded = load_render_model(tmp_path / "run", use_ema=use_ema)
        assert Path(loaded.checkpoint.path).name == name


def test_train_starts_from_a_name(model: str, hub: StubHub, tmp_path: Path) -> None:
    run = tiny_run(tmp_path, name="a", pretrained_ckpt_path=model, max_steps=1, demos=False)
    expected = load_model(model)[0].state_dict()
    assert all(torch.equal(v, expected[k]) for k, v in run.module.model.state_dict().items())
    assert run.start() == 0
    # And continues one, with the config inside it.
    (tmp_path / "data.json").write_text(json.dumps(DATASET))
    _publish(hub, "owner/run", tmp_path / "a" / "last.ckpt")
    arguments = ["--dataset-config", str(tmp_path / "data.json"), "--save-dir", str(tmp_path), "--name", "b"]
    options = ["--max-steps", "2", "--batch-size", "2", "--num-workers", "0", "--no-progress", "--no-demos"]
    assert main(["train", "--ckpt-path", "owner/run", *arguments, *options, "--accelerator", "cpu"]) == 0
    assert read_checkpoint(tmp_path / "b" / "last.ckpt").info["step"] == 2


def test_a_difference_names_its_base_on_the_hub(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny_config(transforms=[{"type": "freeze", "config": {"trained": ["conditioner"]}}])
    options = {"checkpoint_weights": "difference", "max_steps": 1, "demos": False}
    assert tiny_run(tmp_path, config, pretrained_ckpt_path=model, **options).start() == 0
    last = tmp_path / "run" / "last.safetensors"
    base = read_checkpoint(last).base
    assert base is not None
    assert base.path == f"owner/model@{COMMIT}/model.safetensors"
    frozen = "backbone.preprocess_conv.weight"
    assert torch.equal(load_model(last)[0].state_dict()[frozen], load_model(model)[0].state_dict()[frozen])
    # Another machine, with nothing in its cache, fetches it.
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "elsewhere"))
    load_model(last)
    assert (tmp_path / "elsewhere" / "models--owner--model").is_dir()


def test_no_such_name_is_one_sentence(
    hub: StubHub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["generate", "--ckpt-path", "owner/absent", "--out", str(tmp_path), "--prompt", "bell"]
    assert main(arguments) == 2
    assert "the hub has no repository 'owner/absent'" in capsys.readouterr().err
    with pytest.raises(CheckpointError, match="the hub has no repository 'owner/absent'"):
        tiny_run(tmp_path, pretrained_ckpt_path="owner/absent")


@pytest.mark.slow
def test_the_hubs_variables_count(hub: StubHub, tmp_path: Path) -> None:
    """HF_ENDPOINT, HF_HOME and HF_TOKEN in the environment of a command, then HF_HUB_OFFLINE."""
    weights, config = tiny.save(tmp_path / "made", tiny.config())
    shutil.copy(config, weights.with_name("model_config.json"))
    hub.repositories["owner/model"] = Repository(weights.parent, gated=True)
    others = {k: v for k, v in os.environ.items() if "proxy" not in k.lower() and not k.startswith("HF_")}
    environment = others | {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home"), "HF_TOKEN": "member"}
    script = """
import os
from stable_audio import load_model
load_model("owner/model")
from huggingface_hub import constants
from stable_audio.network import hub_in_reach
os.environ["HF_HUB_OFFLINE"], constants.HF_HUB_OFFLINE = "1", True
hub_in_reach.cache_clear()
model, config = load_model("owner/model")
print(config.sample_rate)
"""
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == str(tiny.RATE), done.stderr
    assert (tmp_path / "home" / "hub" / "models--owner--model" / "snapshots" / COMMIT).is_dir()
