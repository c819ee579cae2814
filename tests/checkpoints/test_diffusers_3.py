"""The layout of diffusers' StableAudio3Pipeline: equal outputs there, equal weights when read back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from stable_audio.checkpoints import CheckpointError, export, load_model, read_checkpoint
from stable_audio.checkpoints.diffusers import export_diffusers_part
from stable_audio.cli import main
from stable_audio.types import Conditioning
from tests.checkpoints import tiny_pipeline_3 as tiny

diffusers = pytest.importorskip("diffusers")
pytest.importorskip("transformers")
if not hasattr(diffusers, "StableAudio3Pipeline"):
    pytest.skip("diffusers has no Stable Audio 3", allow_module_level=True)

BOUND = 2e-5
"""Of differences in float32 relative to the largest value: a few hundred products per sum, a few layers."""


def _close(found: Tensor, expected: Tensor) -> None:
    assert found.shape == expected.shape
    assert expected.abs().max() > 0.05
    assert (found - expected).abs().max() <= BOUND * expected.abs().max()


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("text")


def _noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("differential", [True, False])
@pytest.mark.parametrize("local", [True, False])
def test_the_transformer_computes_the_same(
    tmp_path: Path, text: Path, local: bool, differential: bool
) -> None:
    values = tiny.config(text, local=local, differential=differential)
    model = tiny.build(values)
    export_diffusers_part(model, tmp_path / "dit", config=values, part="backbone")
    theirs = diffusers.StableAudio3DiTModel.from_pretrained(tmp_path / "dit").eval()
    x, t = _noise(2, tiny.LATENTS, tiny.FRAMES), torch.tensor([0.3, 0.9])
    tokens, total = _noise(2, 9, tiny.TEXT_WIDTH, seed=1), _noise(2, tiny.TEXT_WIDTH, seed=2)
    added = _noise(2, 1 + tiny.LATENTS, tiny.FRAMES, seed=3) if local else None
    slots = {"local_add": added} if local else {}
    with torch.no_grad():
        ours = model.backbone(x, t, Conditioning(cross_attn=tokens, global_cond=total, **slots))
        # Without local layers here, those of diffusers add nothing, whatever they are given.
        other = added if local else _noise(2, 1 + tiny.LATENTS, tiny.FRAMES, seed=4)
        found = theirs(x, t, tokens, total, local_add_cond=other).sample
    _close(found, ours)


@pytest.mark.parametrize("differential", [True, False])
def test_the_autoencoder_computes_the_same(tmp_path: Path, text: Path, differential: bool) -> None:
    values = tiny.config(text, differential=differential)
    model = tiny.build(values)
    model.pretransform.model.bottleneck.running_std.data.fill_(1.7)
    export_diffusers_part(model, tmp_path / "vae", config=values, part="pretransform")
    theirs = diffusers.AutoencoderSAME.from_pretrained(tmp_path / "vae").eval()
    assert (theirs.downsampling_ratio, theirs.config.sampling_rate) == (tiny.RATIO, tiny.RATE)
    audio, latents = 0.3 * _noise(2, 2, 10 * tiny.RATIO), _noise(2, tiny.LATENTS, 10, seed=1)
    coder = model.pretransform.model
    with torch.no_grad():
        _close(theirs.encode(audio).latents, coder.encode(audio))
        _close(theirs.decode(latents).sample, coder.decode(latents, noise=torch.zeros_like))


@pytest.mark.parametrize("objective", ["rectified_flow", "rf_denoiser"])
def test_a_pipeline_generates_the_same(tmp_path: Path, text: Path, objective: str) -> None:
    """Its own steps, prompts, durations and schedule, with our network in the place of its own."""
    values = tiny.config(text, objective=objective, local=False)
    model = tiny.build(values)
    export_diffusers_part(model, tmp_path / "pipe", config=values)
    pipe = diffusers.StableAudio3Pipeline.from_pretrained(tmp_path / "pipe")
    pipe.set_progress_bar_config(disable=True)
    assert pipe.scheduler.config.stochastic_sampling == (objective == "rf_denoiser")
    prompts, seconds = ["rock drum loop", "soft piano"], tiny.FRAMES * tiny.RATIO / tiny.RATE
    metadata = [{"prompt": prompt, "seconds_total": seconds} for prompt in prompts]
    seen: list[tuple[Tensor, Tensor, Tensor]] = []

    def watch(module: Any, args: Any, kwargs: Any, output: Any) -> None:
        seen.append((args[0], args[1], output[0]))

    handle = pipe.transformer.register_forward_hook(watch, with_kwargs=True)
    generator = torch.Generator().manual_seed(3)
    start = _noise(2, tiny.LATENTS, tiny.FRAMES)
    sound = pipe(prompts, duration=seconds, num_inference_steps=3, latents=start, generator=generator).audios
    handle.remove()
    assert len(seen) == 3
    with torch.no_grad():
        conditioning = model.condition(metadata)
        for x, t, output in seen:
            _close(output, model.backbone(x, t, conditioning))
        x, t, output = seen[-1]
        latents = x - t[:, None, None] * output  # the last step goes to noise level 0
        ours = model.pretransform.model.decode(latents, noise=torch.zeros_like)
    _close(sound, ours.clamp(-1, 1))


@pytest.mark.parametrize("objective", ["rectified_flow", "rf_denoiser"])
def test_what_is_written_is_read_back(tmp_path: Path, text: Path, objective: str) -> None:
    values = tiny.config(text, objective=objective)
    model = tiny.build(values)
    export_diffusers_part(model, tmp_path / "pipe", config=values)
    loaded, config = load_model(tmp_path / "pipe")
    state, expected = loaded.state_dict(), model.state_dict()
    assert state.keys() == expected.keys()
    assert [key for key in expected if not torch.equal(state[key], expected[key])] == []
    assert loaded.objective.name == objective
    assert (config.sample_rate, loaded.downsampling_ratio) == (tiny.RATE, tiny.RATIO)
    # Its text encoder and tokenizer are those of the folder.
    metadata = [{"prompt": "rock drum loop", "seconds_total": 0.5}]
    with torch.no_grad():
        found, expected = (m.conditioner(metadata, "cpu")["prompt"] for m in (loaded, model))
    assert torch.equal(found[1], expected[1])
    _close(found[0], expected[0])


def test_an_autoencoder_and_a_transformer_alone_are_read(tmp_path: Path, text: Path) -> None:
    values = tiny.config(text)
    model = tiny.build(values)
    export_diffusers_part(model, tmp_path / "vae", config=values, part="pretransform")
    export_diffusers_part(model, tmp_path / "dit", config=values, part="backbone")
    loaded, config = load_model(tmp_path / "vae")
    assert config.model_type == "autoencoder"
    expected = model.pretransform.model.state_dict()
    assert all(torch.equal(value, expected[key]) for key, value in loaded.state_dict().items())
    backbone = read_checkpoint(tmp_path / "dit")
    assert backbone.config is None
    expected = {f"backbone.{key}": value for key, value in model.backbone.state_dict().items()}
    assert backbone.tensors.keys() == expected.keys()
    assert all(torch.equal(value, expected[key]) for key, value in backbone.tensors.items())


def test_generate_and_export_take_a_pipeline(tmp_path: Path, text: Path) -> None:
    values = tiny.config(text, objective="rf_denoiser")
    file = export(tiny.build(values), tmp_path / "model.safetensors", config=values)
    assert main(["export", str(file), str(tmp_path / "pipe"), "--layout", "diffusers"]) == 0
    options = ["--prompt", "soft piano", "--seconds", "0.05", "--steps", "2", "--device", "cpu"]
    assert main(["generate", "--ckpt-path", str(tmp_path / "pipe"), "--out", str(tmp_path), *options]) == 0
    assert len(list(tmp_path.glob("*.wav"))) == 1
    again = tmp_path / "again.safetensors"
    assert main(["export", str(tmp_path / "pipe"), str(again)]) == 0
    one, other = read_checkpoint(file).tensors, read_checkpoint(again).tensors
    assert one.keys() == other.keys()
    assert all(torch.equal(one[key], other[key]) for key in one)


def test_what_the_layout_cannot_hold_is_refused_with_all_reasons(tmp_path: Path, text: Path) -> None:
    values = tiny.config(text)
    diffusion = values["model"]["diffusion"]
    diffusion["config"] |= {"timestep_features_logsnr": True, "norm_kwargs": {"eps": 1e-3}}
    stages = values["model"]["pretransform"]["config"]
    for part in ("encoder", "decoder"):
        stages[part]["config"] |= {"sliding_window": None, "chunk_size": 8, "conv_mapping": True}
    model = tiny.build(values)
    with pytest.raises(CheckpointError) as caught:
        export_diffusers_part(model, tmp_path / "pipe", config=values)
    message = str(caught.value)
    assert "diffusers' Stable Audio 3 layout cannot hold this model" in message
    for path in ("timestep_features_logsnr", "norm_kwargs.eps", "encoder.config.sliding_window"):
        assert path in message
    assert "decoder.config.conv_mapping is true, only false fits" in message
    assert not (tmp_path / "pipe").exists()


def test_folders_that_cannot_be_read_are_explained(tmp_path: Path, text: Path) -> None:
    values = tiny.config(text)
    export_diffusers_part(tiny.build(values), tmp_path / "pipe", config=values)
    config = tmp_path / "pipe" / "vae" / "config.json"
    whole = config.read_text()
    config.write_text(whole.replace('"latent_dim"', '"other"'))
    with pytest.raises(CheckpointError, match="lack 'latent_dim'"):
        load_model(tmp_path / "pipe")
    config.write_text(whole.replace("AutoencoderSAME", "AutoencoderOobleck"))
    with pytest.raises(CheckpointError, match="holds a AutoencoderOobleck"):
        load_model(tmp_path / "pipe" / "vae")
    (tmp_path / "pipe" / "vae" / "diffusion_pytorch_model.safetensors").write_bytes(b"\x10" * 40)
    with pytest.raises(CheckpointError, match="truncated or damaged"):
        load_model(tmp_path / "pipe")
