"""`stable-audio export`: whole models and parts of them, in every layout, read back by who they are for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from stable_audio.checkpoints import load_model, load_pretrained, load_pretransform, read_checkpoint
from stable_audio.checkpoints.saving import save_inference_file
from stable_audio.cli import main
from stable_audio.config import load_config
from stable_audio.factory import create_model_from_config
from stable_audio.model import DiffusionModel
from stable_audio.transforms import TRANSFORMS, Transform
from tests.checkpoints.tiny_pipeline import config as pipeline_config
from tests.checkpoints.tiny_pipeline import save_text_encoder
from tests.training.building import tiny_config

TEXT = {"width": 64, "layers": 1, "heads": 2, "vocab_size": 258}


def _config() -> dict[str, Any]:
    """Backbone and autoencoder fit into diffusers' layout, the text encoder does not."""
    made = pipeline_config(global_cond_dim=64)
    made["sample_rate"] = 16000
    made["model"]["pretransform"]["scale"] = 1.0
    made["model"]["conditioning"] = {
        "cond_dim": 64,
        "configs": [
            {"id": "prompt", "type": "clip_text", "config": TEXT},
            {"id": "seconds_total", "type": "number", "config": {"max_val": 512}},
        ],
    }
    made["model"]["diffusion"].update(
        cross_attention_cond_ids=["prompt"], global_cond_ids=["seconds_total"], diffusion_objective="v"
    )
    return made


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, DiffusionModel]:
    torch.manual_seed(0)
    model = create_model_from_config(_config())
    path = tmp_path_factory.mktemp("export") / "model.safetensors"
    save_inference_file(path, model.state_dict(), _config())
    return path, model


def _export(stored: tuple[Path, DiffusionModel], out: Path, *arguments: str) -> Path:
    assert main(["export", str(stored[0]), str(out), *arguments]) == 0
    return out


def test_exported_files_say_whether_their_weights_are_averaged(tmp_path: Path) -> None:
    model = create_model_from_config(tiny_config())
    save_inference_file(tmp_path / "run.safetensors", model.state_dict(), tiny_config(), weights="ema")
    assert main(["export", str(tmp_path / "run.safetensors"), str(tmp_path / "out.safetensors")]) == 0
    assert read_checkpoint(tmp_path / "out.safetensors").weights == "ema"


@pytest.mark.parametrize(("layout", "prefix"), [("ours", "backbone."), ("sat", "model.model.")])
def test_the_backbone_alone(stored: Any, tmp_path: Path, layout: str, prefix: str) -> None:
    out = _export(stored, tmp_path / "b.safetensors", "--part", "backbone", "--layout", layout)
    tensors = load_file(out)
    expected = stored[1].backbone.state_dict()
    assert tensors.keys() == {prefix + k for k in expected}
    fresh = create_model_from_config(_config())
    report = load_pretrained(fresh, out, partial=True)
    assert len(report.loaded) == len(expected)
    assert not report.unused
    assert all(torch.equal(v, expected[k]) for k, v in fresh.backbone.state_dict().items())


def test_the_conditioner_alone(stored: Any, tmp_path: Path) -> None:
    out = _export(stored, tmp_path / "c.ckpt", "--part", "conditioner")
    found = read_checkpoint(out)
    assert found.config == _config()
    expected = {f"conditioner.{k}" for k in stored[1].conditioner.state_dict()}
    assert expected
    assert found.tensors.keys() == expected


@pytest.mark.parametrize("name", ["a.safetensors", "a.ckpt"])
def test_the_pretransform_alone_is_an_autoencoder(stored: Any, tmp_path: Path, name: str) -> None:
    out = _export(stored, tmp_path / name, "--part", "pretransform")
    autoencoder, config = load_model(out)
    assert (config.model_type, config.sample_rate, config.model.latent_scale) == ("autoencoder", 16000, 1.0)
    expected = stored[1].pretransform.model.state_dict()
    assert all(torch.equal(v, expected[k]) for k, v in autoencoder.state_dict().items())
    assert load_pretransform(create_model_from_config(_config()), out).complete
    # Another model can name it.
    other = _config()
    other["model"]["pretransform"] = {"type": "autoencoder", "path": str(out)}
    assert load_config(other).weights


def test_half_precision(stored: Any, tmp_path: Path) -> None:
    out = _export(stored, tmp_path / "h.safetensors", "--part", "backbone", "--dtype", "float16")
    assert {v.dtype for v in load_file(out).values()} == {torch.float16}


def test_parts_for_diffusers(stored: Any, tmp_path: Path) -> None:
    diffusers = pytest.importorskip("diffusers")
    arguments = ["--layout", "diffusers", "--part"]
    backbone = _export(stored, tmp_path / "dit", *arguments, "backbone")
    theirs = diffusers.StableAudioDiTModel.from_pretrained(backbone)
    ours = sum(p.numel() for p in stored[1].backbone.parameters() if p.requires_grad)
    assert sum(p.numel() for p in theirs.parameters()) >= ours
    autoencoder = _export(stored, tmp_path / "vae", *arguments, "pretransform")
    vae = diffusers.AutoencoderOobleck.from_pretrained(autoencoder).eval()
    latents = torch.randn(1, 4, 8)
    with torch.no_grad():
        torch.testing.assert_close(
            vae.decode(latents).sample, stored[1].eval().decode(latents), atol=1e-4, rtol=1e-4
        )
    alone = _export(stored, tmp_path / "alone.safetensors", "--part", "pretransform")
    half = ["--layout", "diffusers", "--part", "pretransform", "--dtype", "float16"]
    assert main(["export", str(alone), str(tmp_path / "again"), *half]) == 0
    again = load_file(tmp_path / "again" / "diffusion_pytorch_model.safetensors")
    assert {v.dtype for v in again.values()} == {torch.float16}


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_a_pipeline_for_diffusers(tmp_path: Path, dtype: str) -> None:
    pytest.importorskip("transformers")
    made = pipeline_config(save_text_encoder(tmp_path / "t5"))
    model = create_model_from_config(made)
    save_inference_file(tmp_path / "m.safetensors", model.state_dict(), made)
    out = tmp_path / "pipeline"
    arguments = ["--layout", "diffusers", "--dtype", dtype]
    assert main(["export", str(tmp_path / "m.safetensors"), str(out), *arguments]) == 0
    parts = {"transformer", "vae", "projection_model", "text_encoder"}
    assert {p.name for p in out.iterdir()} == {*parts, "tokenizer", "scheduler", "model_index.json"}
    for part in parts:
        (file,) = (out / part).glob("*.safetensors")
        assert {v.dtype for v in load_file(file).values()} == {getattr(torch, dtype)}


def test_a_pipeline_that_could_not_run_is_refused(
    stored: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "pipeline"
    assert main(["export", str(stored[0]), str(out), "--layout", "diffusers"]) == 2
    message = capsys.readouterr().err
    assert f"{stored[0]}: diffusers' Stable Audio layout cannot hold this model" in message
    for reason in (
        "model.conditioning.configs[0].type of 'prompt' is 'clip_text', only 't5' fits",
        "model.conditioning.configs lacks seconds_start",
        "model.diffusion.global_cond_ids is ['seconds_total']",
    ):
        assert reason in message
    assert not out.exists()


@pytest.mark.parametrize(
    ("part", "layout", "message"),
    [
        ("backbone", "ours", "the autoencoder model has no backbone"),
        ("conditioner", "sat", "the autoencoder model has no conditioner"),
        ("model", "diffusers", "--part pretransform"),
        ("conditioner", "diffusers", "keeps conditioners in a pipeline"),
    ],
)
def test_parts_that_are_not_there(
    stored: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], part: str, layout: str, message: str
) -> None:
    alone = _export(stored, tmp_path / "alone.safetensors", "--part", "pretransform")
    out = tmp_path / "out.safetensors"
    assert main(["export", str(alone), str(out), "--part", part, "--layout", layout]) == 2
    assert message in capsys.readouterr().err
    assert not out.exists()


def test_a_transform_without_weights_is_no_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = _config()
    made["model"]["pretransform"] = {"type": "patched", "config": {"channels": 2, "patch_size": 2}}
    model = create_model_from_config(made)
    save_inference_file(tmp_path / "m.safetensors", model.state_dict(), made)
    out = tmp_path / "out.safetensors"
    assert main(["export", str(tmp_path / "m.safetensors"), str(out), "--part", "pretransform"]) == 2
    assert "the model has patched" in capsys.readouterr().err


class Renamed(Transform):
    """Puts a module around the conditioner, so that its weights have other names."""

    def apply(self, model: torch.nn.Module) -> None:
        model.conditioner.conditioners = torch.nn.Sequential(model.conditioner.conditioners)


def test_a_model_with_other_names_is_exported_with_its_record_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(TRANSFORMS, "renamed", Renamed)  # type: ignore[arg-type]
    config = tiny_config()
    model = create_model_from_config(config)
    Renamed().apply(model)
    source, whole = tmp_path / "run.safetensors", tmp_path / "whole.safetensors"
    save_inference_file(source, model.state_dict(), config, transforms=[{"type": "renamed"}])
    assert main(["export", str(source), str(whole)]) == 0
    loaded = load_model(whole)[0].state_dict()
    assert loaded.keys() == model.state_dict().keys() != create_model_from_config(config).state_dict().keys()
    for target in (["a.ckpt"], ["a.safetensors", "--layout", "sat"], ["a.safetensors", "--part", "backbone"]):
        capsys.readouterr()
        assert main(["export", str(source), str(tmp_path / target[0]), *target[1:]]) == 2
        assert "'renamed'" in capsys.readouterr().err
        assert not (tmp_path / target[0]).exists()
    assert main(["export", str(source), str(tmp_path / "folder"), "--layout", "diffusers"]) == 2
    assert "'renamed'" in capsys.readouterr().err
