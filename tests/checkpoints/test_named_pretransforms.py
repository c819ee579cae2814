"""`"path"` in a pretransform section: the architecture and the weights come from the file it names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from stable_audio.checkpoints import (
    CheckpointError,
    load_model,
    load_named,
    read_checkpoint,
    save_inference_file,
)
from stable_audio.checkpoints.format import TRAINING_ENTRY
from stable_audio.checkpoints.shards import taken_apart
from stable_audio.cli import main
from stable_audio.config import ConfigError, load_config
from stable_audio.factory import create_model_from_config
from stable_audio.inference.codec.load import load_codec
from stable_audio.pretransforms.fingerprint import pretransform_hash
from stable_audio.stored import hub as hub_module
from stable_audio.stored import models as stored_module
from stable_audio.training.errors import TrainingError
from stable_audio.training.saving.shard_writing import ShardWriting
from tests.cli.test_codec_commands import AUTOENCODER
from tests.data.folders import RATE
from tests.training.building import tiny_run


def save_autoencoder(path: Path, seed: int = 0) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = create_model_from_config(AUTOENCODER)
    save_inference_file(path, model.state_dict(), AUTOENCODER)
    return model


def diffusion(**pretransform: Any) -> dict[str, Any]:
    return {
        "model_type": "diffusion_uncond",
        "sample_rate": RATE,
        "sample_size": 800,
        "audio_channels": 1,
        "model": {
            "type": "dit",
            "config": {"in_channels": 4, "embed_dim": 16, "depth": 1, "num_heads": 2},
            "pretransform": {"type": "autoencoder", **pretransform},
        },
        "training": {"learning_rate": 1e-3},
    }


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """model.json beside vae/last.safetensors, which it names."""
    (tmp_path / "vae").mkdir()
    save_autoencoder(tmp_path / "vae" / "last.safetensors")
    (tmp_path / "model.json").write_text(json.dumps(diffusion(path="vae", scale=0.5)))
    return tmp_path


def _problems(source: Any) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load_config(source)
    return [str(p) for p in caught.value.problems]


@pytest.mark.parametrize("name", ["vae/checkpoints/step=00000007.shards", "vae"])
def test_the_path_is_a_checkpoint_in_parts_or_that_of_a_run(tmp_path: Path, name: str) -> None:
    model = create_model_from_config(AUTOENCODER)
    content = {
        "state_dict": {f"model.{key}": value for key, value in model.state_dict().items()},
        "model_config": AUTOENCODER,
        TRAINING_ENTRY: {"format_version": 1, "step": 7},
    }
    ShardWriting().write(tmp_path / "vae/checkpoints/step=00000007.shards", taken_apart(content))
    (tmp_path / "model.json").write_text(json.dumps(diffusion(path=name)))
    config = load_config(tmp_path / "model.json")
    assert config.as_dict()["model"]["pretransform"]["config"] == AUTOENCODER["model"]
    built = create_model_from_config(config)
    (report,) = load_named(built, config.weights)
    assert not report.missing


def test_the_config_inside_takes_the_place_of_the_path(folder: Path) -> None:
    config = load_config(folder / "model.json")
    section = config.as_dict()["model"]["pretransform"]
    assert section == {"type": "autoencoder", "scale": 0.5, "config": AUTOENCODER["model"]}
    assert dict(config.weights) == {"pretransform": str((folder / "vae").resolve())}
    # What is embedded needs the file no more.
    assert not load_config(config.as_dict()).weights


def test_weights_are_loaded_with_it(folder: Path) -> None:
    config = load_config(folder / "model.json")
    model = create_model_from_config(config)
    (report,) = load_named(model, config.weights)
    assert report.complete
    assert report.loaded_below("pretransform.model.") == len(report.loaded)
    expected = save_autoencoder(folder / "again.safetensors").state_dict()
    for key, value in model.pretransform.model.state_dict().items():
        assert torch.equal(value, expected[key]), key


@pytest.mark.parametrize("form", ["safetensors", "ckpt", "beside", "whole"])
def test_every_kind_of_file(tmp_path: Path, form: str) -> None:
    model, path = save_autoencoder(tmp_path / "ae.safetensors"), tmp_path / "ae.safetensors"
    if form == "ckpt":
        path = tmp_path / "ae.ckpt"
        torch.save({"state_dict": model.state_dict(), "model_config": AUTOENCODER}, path)
    if form == "beside":
        path = tmp_path / "beside" / "model.ckpt"
        path.parent.mkdir()
        torch.save({"state_dict": model.state_dict()}, path)
        (path.parent / "model_config.json").write_text(json.dumps(AUTOENCODER))
    if form == "whole":
        whole = diffusion(config=AUTOENCODER["model"], scale=0.25)
        tensors = {f"pretransform.model.{k}": v for k, v in model.state_dict().items()}
        path = tmp_path / "whole.safetensors"
        save_inference_file(path, {"backbone.x": torch.zeros(1), **tensors}, whole)
    config = load_config(diffusion(path=str(path)))
    built = create_model_from_config(config)
    load_named(built, config.weights)
    assert built.pretransform.scale == (0.25 if form == "whole" else 1.0)
    assert torch.equal(
        built.pretransform.model.state_dict()["encoder.layers.0.bias"],
        model.state_dict()["encoder.layers.0.bias"],
    )


def test_a_config_beside_the_path_wins(tmp_path: Path) -> None:
    model = create_model_from_config(AUTOENCODER)
    torch.save({"state_dict": model.state_dict()}, tmp_path / "bare.ckpt")
    named = str(tmp_path / "bare.ckpt")
    assert "no config inside the file or beside it" in _problems(diffusion(path=named))[0]
    assert load_config(diffusion(path=named, config=AUTOENCODER["model"])).weights == {"pretransform": named}


def test_an_autoencoder_inside_an_autoencoder(tmp_path: Path) -> None:
    save_autoencoder(tmp_path / "inner.safetensors")
    coder = {"channels": 4, "c_mults": [1], "strides": [2]}
    outer = {
        "encoder": {"type": "oobleck", "config": {**coder, "in_channels": 4, "latent_dim": 8}},
        "decoder": {"type": "oobleck", "config": {**coder, "out_channels": 4, "latent_dim": 4}},
        "bottleneck": {"type": "vae"},
        "latent_dim": 4,
        "downsampling_ratio": 16,
        "io_channels": 1,
        "pretransform": {"type": "autoencoder", "path": str(tmp_path / "inner.safetensors")},
    }
    config = load_config(diffusion(config=outer))
    assert list(config.weights) == ["pretransform.model.pretransform"]
    model = create_model_from_config(config)
    (report,) = load_named(model, config.weights)
    assert all(k.startswith("pretransform.model.pretransform.model.") for k in report.loaded)
    # The whole of it, saved as an autoencoder and named by another file.
    stored = {**AUTOENCODER, "model": config.as_dict()["model"]["pretransform"]["config"]}
    save_inference_file(tmp_path / "outer.safetensors", model.pretransform.model.state_dict(), stored)
    again = load_config(diffusion(path=str(tmp_path / "outer.safetensors")))
    rebuilt = create_model_from_config(again)
    (report,) = load_named(rebuilt, again.weights)
    assert report.complete


def test_mistakes_are_named(folder: Path) -> None:
    (missing,) = _problems(diffusion(path="nowhere.safetensors"))
    assert missing.startswith("$.model.pretransform.path: found 'nowhere.safetensors'")
    assert any("expected a string" in p for p in _problems(diffusion(path=3)))
    other = diffusion(path=str(folder / "vae"))
    other["model"]["pretransform"]["type"] = "pqmf"
    assert "type 'autoencoder', but type is 'pqmf'" in _problems(other)[0]
    (folder / "bad.safetensors").write_bytes(b"\x10" * 40)
    assert "truncated" in _problems(diffusion(path=str(folder / "bad.safetensors")))[0]
    for name in ("page.ckpt", "page.safetensors"):
        (folder / name).write_bytes(b"<!DOCTYPE html><html>404</html>")
        assert "a web page, not the weights" in _problems(diffusion(path=str(folder / name)))[0]
    (folder / "bad.ckpt").write_bytes(b"\x00garbage, surely")
    assert "not a checkpoint" in _problems(diffusion(path=str(folder / "bad.ckpt")))[0]
    whole = diffusion(path="x/y/z")
    whole["sample_sice"] = 3
    assert len(_problems(whole)) == 2


def test_another_sample_rate_is_a_warning(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    load_config({**diffusion(path=str(folder / "vae")), "sample_rate": RATE * 2})
    assert f"made for {RATE} Hz" in caplog.text


def test_training_needs_nothing_else_and_its_files_do_not_either(folder: Path) -> None:
    config = json.loads((folder / "model.json").read_text())
    config["model"]["pretransform"]["path"] = str(folder / "vae")
    run = tiny_run(folder, config, max_steps=1)
    expected = pretransform_hash(run.module.model.pretransform)
    assert run.start() == 0
    (folder / "vae" / "last.safetensors").unlink()
    for name in ("last.safetensors", "last.ckpt"):
        model, loaded = load_model(folder / "run" / name)
        section = loaded.as_dict()["model"]["pretransform"]
        assert (section["hash"], "path" in section) == (expected, False)
        assert pretransform_hash(model.pretransform) == expected
    assert pretransform_hash(load_codec(ckpt_path=folder / "run").pretransform) == expected


def test_a_hash_in_the_file_must_be_that_of_the_weights(folder: Path) -> None:
    config = diffusion(path=str(folder / "vae"), hash="0" * 16)
    with pytest.raises(TrainingError, match="hash: found 0000000000000000, but"):
        tiny_run(folder, config)
    right = pretransform_hash(load_codec(model_config=folder / "model.json").pretransform)
    tiny_run(folder, diffusion(path=str(folder / "vae"), hash=right))


def test_half_of_the_weights_are_as_bad_as_none(folder: Path) -> None:
    whole = read_checkpoint(folder / "vae").tensors
    half = {k: v for k, v in whole.items() if k.startswith("encoder.")}
    torch.save({"state_dict": half}, folder / "half.ckpt")
    config = diffusion(config=AUTOENCODER["model"])
    for flag in ("pretrained_ckpt_path", "pretransform_ckpt_path"):
        named = {flag: str(folder / "half.ckpt"), "partial": True, "max_steps": 1}
        with pytest.raises(TrainingError, match=r"weights? w[a-z]+ not loaded \(pretransform.model.decoder"):
            tiny_run(folder, config, **named)
        tiny_run(folder, config, allow_untrained_pretransform=True, **named)


def test_files_with_folded_norms_load_everywhere(folder: Path) -> None:
    """A run that folds them writes such files; its hash is that of the weights before."""
    config = diffusion(path=str(folder / "vae"))
    unfolded = load_codec(ckpt_path=folder / "vae").pretransform
    run = tiny_run(folder, config, max_steps=1, remove_pretransform_weight_norm="post_load")
    assert run.start() == 0
    audio = torch.randn(1, 1, 800)
    expected = unfolded.encode(audio, noise=torch.zeros_like)
    for name in ("last.safetensors", "last.ckpt"):
        model, loaded = load_model(folder / "run" / name)
        assert torch.equal(model.pretransform.encode(audio, noise=torch.zeros_like), expected)
        assert loaded.as_dict()["model"]["pretransform"]["hash"] == pretransform_hash(unfolded)
        codec = load_codec(ckpt_path=folder / "run" / name)
        assert torch.equal(codec.pretransform.encode(audio, noise=torch.zeros_like), expected)
        named = load_config(diffusion(path=str(folder / "run" / name)))
        other = create_model_from_config(named)
        load_named(other, named.weights)
        assert torch.equal(other.pretransform.encode(audio, noise=torch.zeros_like), expected)
    again = tiny_run(folder, loaded.as_dict(), max_steps=2, ckpt_path=str(folder / "run"))
    assert again.start() == 0


def test_another_model_cannot_be_continued(folder: Path) -> None:
    assert tiny_run(folder, diffusion(path=str(folder / "vae")), max_steps=1).start() == 0
    wider = diffusion(config=AUTOENCODER["model"])
    wider["model"]["config"]["embed_dim"] = 32
    with pytest.raises(CheckpointError, match=r"last\.ckpt: belongs to another model .* weights differ"):
        tiny_run(folder, wider, max_steps=2, ckpt_path=str(folder / "run"))
    without = diffusion(config=AUTOENCODER["model"])
    del without["model"]["pretransform"]
    with pytest.raises(CheckpointError, match="belongs to another model"):
        tiny_run(folder, without, max_steps=2, ckpt_path=str(folder / "run"))


def test_a_file_that_left_in_between(folder: Path) -> None:
    config = load_config(folder / "model.json")
    (folder / "vae" / "last.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"weights of the pretransform: .* name the file"):
        load_named(create_model_from_config(config), config.weights)


def test_check_and_encode_take_it(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", str(folder / "model.json"), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["errors"], report["shape"]["latents"]) == ([], [4, 100])
    assert report["rehearsal"]["loss"] > 0
    (folder / "model.json").write_text(json.dumps(diffusion(path="elsewhere.ckpt")))
    assert main(["check", str(folder / "model.json"), "--dry"]) == 1
    assert "$.model.pretransform.path" in capsys.readouterr().out


class _Hub:
    """A hub with one repository, or none that can be reached."""

    def __init__(self, root: Path, error: type[Exception] | None = None) -> None:
        self.root, self.error, self.asked = root, error, []

    def hf_hub_download(self, repository: str, name: str, **options: Any) -> str:
        from huggingface_hub import errors

        self.asked.append((repository, name, options["revision"]))
        if self.error is not None:
            raise self.error("no network")
        if not (self.root / name).is_file():
            raise errors.EntryNotFoundError(f"no {name}")
        return str(self.root / name)


def _use(monkeypatch: pytest.MonkeyPatch, hub: _Hub) -> _Hub:
    from huggingface_hub import errors

    monkeypatch.setattr(hub_module, "_library", lambda name: (hub, errors))
    return hub


@pytest.mark.parametrize("scheme", ["", "hf://", "hf:/"])
def test_a_hub_id(folder: Path, scheme: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "vae" / "model_config.json").write_text(json.dumps(AUTOENCODER))
    hub = _use(monkeypatch, _Hub(folder / "vae"))
    config = load_config(diffusion(path=f"{scheme}someone/vae@v1"))
    # The config alone is downloaded for shapes, the weights when they are needed.
    assert hub.asked == [("someone/vae", "model_config.json", "v1")]
    (report,) = load_named(create_model_from_config(config), config.weights)
    assert report.complete
    assert hub.asked[-1] == ("someone/vae", "last.safetensors", "v1")


def test_a_hub_id_is_no_folder_of_the_working_directory(
    folder: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Paths in a file are relative to its own folder."""
    here = tmp_path_factory.mktemp("here")
    (here / "someone" / "vae").mkdir(parents=True)
    (here / "someone" / "vae" / "last.safetensors").write_bytes(b"something else")
    monkeypatch.chdir(here)
    _use(monkeypatch, _Hub(folder / "vae"))
    (folder / "model.json").write_text(json.dumps(diffusion(path="someone/vae")))
    config = load_config(folder / "model.json")
    assert dict(config.weights) == {"pretransform": "someone/vae"}
    (report,) = load_named(create_model_from_config(config), config.weights)
    assert report.complete


def test_weights_as_trained_come_from_the_checkpoint_of_a_run(folder: Path) -> None:
    """Its inference file has the average alone."""
    tensors = read_checkpoint(folder / "vae").tensors
    trained = {key: torch.full_like(value, 0.5) for key, value in tensors.items()}
    entry = {"format_version": 1, "step": 7}
    state = {f"model.{key}": value for key, value in trained.items()}
    content = {"state_dict": state, "model_config": AUTOENCODER, TRAINING_ENTRY: entry}
    torch.save(content, folder / "vae" / "last.ckpt")
    config = load_config(folder / "model.json")
    for use_ema, expected in ((True, tensors), (False, trained)):
        model = create_model_from_config(config)
        load_named(model, config.weights, use_ema=use_ema)
        assert torch.equal(
            model.pretransform.model.state_dict()["encoder.layers.0.bias"], expected["encoder.layers.0.bias"]
        )


def test_a_hub_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import errors

    _use(monkeypatch, _Hub(tmp_path, errors.LocalEntryNotFoundError))
    (offline,) = _problems(diffusion(path="someone/vae"))
    assert "connect to the network, or name a file" in offline
    _use(monkeypatch, _Hub(tmp_path))
    (empty,) = _problems(diffusion(path="someone/vae"))
    assert "on the hub has none of model_config.json, last.safetensors" in empty
    monkeypatch.undo()
    monkeypatch.setitem(__import__("sys").modules, "huggingface_hub", None)
    (library,) = _problems(diffusion(path="someone/vae"))
    assert 'pip install "stable-audio[text]"' in library


def test_a_local_folder_is_preferred_to_the_hub(folder: Path) -> None:
    (folder / "someone").mkdir()
    (folder / "vae").rename(folder / "someone" / "vae")
    assert stored_module.locate("someone/vae", folder) == str((folder / "someone" / "vae").resolve())
    assert read_checkpoint(folder / "someone" / "vae").config == AUTOENCODER
