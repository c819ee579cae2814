"""What a run starts with: stored weights in memory of its own, random ones only where no file has any."""

from __future__ import annotations

import hashlib
import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from stable_audio.checkpoints import export, load_model, read_checkpoint, save_inference_file
from stable_audio.config import load_config
from stable_audio.factory import create_model_from_config
from stable_audio.training.errors import TrainingError
from stable_audio.training.methods.autoencoder import build_autoencoder_training
from stable_audio.training.options import RunOptions
from stable_audio.training.starting.start import starting_model
from tests import tiny
from tests.checkpoints.test_unfilled import Draws
from tests.training.building import latent_config, stored, tiny_config, tiny_run


def seeded(config: dict[str, Any], seed: int) -> dict[str, Tensor]:
    torch.manual_seed(seed)
    return create_model_from_config(config).state_dict()


def start(config: dict[str, Any], **options: Any) -> nn.Module:
    return starting_model(load_config(config), RunOptions(seed=3, **options)).model


def assert_equal(found: dict[str, Tensor], expected: dict[str, Tensor], prefix: str = "") -> None:
    keys = [k for k in expected if k.startswith(prefix)]
    assert keys
    for key in keys:
        assert torch.equal(found[key], expected[key]), key


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("suffix", [".safetensors", ".ckpt"])
def test_pretrained_weights_draw_nothing_for_networks(tmp_path: Path, suffix: str) -> None:
    config = latent_config()
    file = stored(tmp_path, suffix, config)
    with Draws() as draws:
        model = start(config, pretrained_ckpt_path=str(file))
    assert draws.count <= sum(p.numel() for p in model.conditioner.parameters())
    assert_equal(model.state_dict(), seeded(config, 7))
    assert all(p.is_contiguous() and p.is_leaf for p in model.parameters())


@pytest.mark.parametrize("suffix", [".safetensors", ".ckpt"])
def test_a_run_does_not_depend_on_the_file_that_it_started_from(tmp_path: Path, suffix: str) -> None:
    """Mapped pages that nobody has written to are still those of the file."""
    config = latent_config()
    file = stored(tmp_path, suffix, config)
    model = start(config, pretrained_ckpt_path=str(file))
    with open(file, "r+b") as content:
        content.write(bytes(file.stat().st_size))
    assert_equal(model.state_dict(), seeded(config, 7))
    storages = [p.untyped_storage().data_ptr() for p in model.parameters()]
    assert len(set(storages)) == len(storages)


@pytest.mark.parametrize("suffix", [".safetensors", ".ckpt"])
def test_training_leaves_the_file_as_it_is(tmp_path: Path, suffix: str) -> None:
    file = stored(tmp_path, suffix, tiny_config())
    before = digest(file)
    run = tiny_run(tmp_path, pretrained_ckpt_path=str(file), max_steps=2, demos=False)
    assert run.start() == 0
    assert digest(file) == before
    trained = run.module.model.state_dict()
    assert any(not torch.equal(v, trained[k]) for k, v in seeded(tiny_config(), 7).items())


@pytest.mark.parametrize("suffix", [".safetensors", ".ckpt"])
def test_writing_to_a_loaded_model_leaves_the_file_as_it_is(tmp_path: Path, suffix: str) -> None:
    file = stored(tmp_path, suffix, tiny_config())
    before = digest(file)
    model, _ = load_model(file)
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            tensor.fill_(2)
    assert digest(file) == before


def test_a_backbone_from_scratch_starts_the_same_whatever_its_pretransform(tmp_path: Path) -> None:
    config = latent_config()
    file = stored(tmp_path, ".safetensors", config)
    model = start(config, pretransform_ckpt_path=str(file))
    assert_equal(model.state_dict(), seeded(config, 7), "pretransform.")
    for part in ("backbone.", "conditioner."):
        assert_equal(model.state_dict(), seeded(config, 3), part)


def test_what_pretrained_weights_lack_starts_as_from_scratch(tmp_path: Path) -> None:
    """An autoencoder alone, and a part of a model under --partial."""
    config = latent_config()
    whole = seeded(config, 7)
    alone, part = tmp_path / "alone.ckpt", tmp_path / "part.ckpt"
    inner = {
        k.removeprefix("pretransform.model."): v for k, v in whole.items() if k.startswith("pretransform.")
    }
    torch.save({"state_dict": inner}, alone)
    torch.save({"state_dict": {k: v for k, v in whole.items() if "project_out" not in k}}, part)
    first = start(config, pretrained_ckpt_path=str(alone)).state_dict()
    assert_equal(first, whole, "pretransform.")
    assert_equal(first, seeded(config, 3), "backbone.")
    second = start(config, pretrained_ckpt_path=str(part), partial=True).state_dict()
    lacking = {k for k in whole if "project_out" in k}
    assert lacking
    for key, value in whole.items():
        assert torch.equal(second[key], seeded(config, 3)[key] if key in lacking else value), key


def test_a_continued_run_draws_nothing_for_networks(tmp_path: Path) -> None:
    assert tiny_run(tmp_path, max_steps=1, demos=False).start() == 0
    with Draws() as draws:
        run = tiny_run(tmp_path, max_steps=2, demos=False, recover=True)
    model = run.module.model
    assert draws.count <= sum(p.numel() for p in model.conditioner.parameters())
    content = torch.load(run.resume, weights_only=True)["state_dict"]
    assert_equal({f"model.{k}": v for k, v in model.state_dict().items()}, content, "model.")


def test_a_teacher_draws_nothing(tmp_path: Path) -> None:
    shape = tiny.PRETRANSFORMS["autoencoder"]
    config = {
        "model_type": "autoencoder",
        "sample_rate": 4000,
        "sample_size": 1024,
        "audio_channels": shape["io_channels"],
        "model": shape,
        "training": {"learning_rate": 1e-4, "loss_configs": {"time": {"weights": {"l1": 1.0}}}},
    }
    file = stored(tmp_path, ".safetensors", config)
    student = create_model_from_config(config)
    taught = {**config["training"], "teacher_model": config, "teacher_model_ckpt": str(file)}
    loaded = load_config({**config, "training": taught})
    with Draws() as draws:
        module = build_autoencoder_training(loaded, student, {})
    assert draws.count == 0
    with open(file, "r+b") as content:
        content.write(bytes(file.stat().st_size))
    assert_equal(module.teacher.model.state_dict(), seeded(config, 7))


@pytest.mark.parametrize("given", ["flag", "config"])
def test_a_pretransform_that_is_no_number_is_refused_by_the_name_of_its_file(
    tmp_path: Path, given: str
) -> None:
    whole = stored(tmp_path, ".safetensors", latent_config())
    tensors = dict(read_checkpoint(whole).tensors)
    name = next(k for k, v in tensors.items() if k.startswith("pretransform.model.decoder.") and v.ndim > 1)
    tensors[name] = tensors[name].clone()
    tensors[name].view(-1)[0] = math.nan
    broken = tmp_path / "coder.safetensors"
    save_inference_file(broken, tensors, latent_config())
    config = latent_config()
    options = {"pretrained_ckpt_path": str(whole), "pretransform_ckpt_path": str(broken)}
    if given == "config":
        config["model"]["pretransform"] = {"type": "autoencoder", "path": str(broken)}
        options = {}
    with pytest.raises(
        TrainingError, match=rf"coder\.safetensors.*: its weights .* in {re.escape(name)}; take"
    ):
        tiny_run(tmp_path, config, **options)


def test_weights_that_are_no_numbers_are_refused_by_the_name_of_their_file(tmp_path: Path) -> None:
    """Training would say that the loss is not finite, and blame the data."""
    model = create_model_from_config(tiny_config())
    name, weight = next(iter(model.named_parameters()))
    with torch.no_grad():
        weight.view(-1)[0] = torch.nan
    file = export(model, tmp_path / "broken.safetensors", config=tiny_config())
    with pytest.raises(
        TrainingError, match=rf"broken\.safetensors.*: .* not finite, in {re.escape(name)}; take"
    ):
        start(tiny_config(), pretrained_ckpt_path=str(file))
