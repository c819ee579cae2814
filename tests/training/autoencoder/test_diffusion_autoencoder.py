"""Training of diffusion autoencoders: the step, whole runs, and the files they leave."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from stable_audio.backbones.base import Backbone
from stable_audio.checkpoints import CheckpointError, export, load_model, load_pretrained
from stable_audio.config import ConfigError, load_config
from stable_audio.data.base import Batch
from stable_audio.diffusion.noise import SeededNoise
from stable_audio.diffusion.objectives import RectifiedFlowObjective
from stable_audio.diffusion_autoencoder import DiffusionAutoencoder, LatentSampling
from stable_audio.factory import create_model_from_config
from stable_audio.training.autoencoder.diffusion import DiffusionAutoencoderTraining
from stable_audio.training.build import build_training
from stable_audio.training.check.report import report_on
from stable_audio.training.errors import TrainingError
from stable_audio.types import Conditioning, Slot
from tests import tiny
from tests.training.building import DATASET, tiny_run
from tests.training.saving.test_resume import assert_same_checkpoint

INNER = {
    "type": "autoencoder",
    "config": {
        "encoder": {"type": "oobleck", "config": {**tiny.ENCODERS["oobleck"], "latent_dim": 8}},
        "decoder": {"type": "oobleck", "config": tiny.DECODERS["oobleck"]},
        "bottleneck": {"type": "vae"},
        "latent_dim": 4,
        "downsampling_ratio": 8,
        "io_channels": 2,
    },
}


def tiny_config(**training: Any) -> dict[str, Any]:
    """Oobleck encoder with a VAE, DAU1d on the waveform."""
    backbone = {
        "io_channels": 2,
        "cond_dim": 4,
        "depth": 2,
        "n_attn_layers": 0,
        "channels": [8, 8],
        "strides": [2],
        "kernel_size": 3,
    }
    return {
        "model_type": "diffusion_autoencoder",
        "sample_size": 512,
        "sample_rate": 4000,
        "audio_channels": 2,
        "model": {
            "encoder": {"type": "oobleck", "config": {**tiny.ENCODERS["oobleck"], "latent_dim": 8}},
            "diffusion": {"type": "DAU1d", "config": backbone},
            "bottleneck": {"type": "vae"},
            "latent_dim": 4,
            "downsampling_ratio": 8,
            "io_channels": 2,
        },
        "training": {"learning_rate": 3e-3, **training},
    }


def inner_config(**training: Any) -> dict[str, Any]:
    """No encoder of its own: the latents of a pretransform, with which it decodes them."""
    config = tiny_config(**training)
    model = config["model"]
    del model["encoder"], model["bottleneck"]
    model["diffusion"]["config"]["io_channels"] = 4
    return {**config, "model": {**model, "pretransform": INNER}}


def module_of(config: dict[str, Any]) -> DiffusionAutoencoderTraining:
    torch.manual_seed(0)
    loaded = load_config(config)
    module = build_training(loaded, create_model_from_config(loaded), seed=3, batch_size=4)
    assert isinstance(module, DiffusionAutoencoderTraining)
    return module.train()


def fixed_batch() -> Batch:
    phase = torch.arange(512) * torch.tensor([0.05, 0.11, 0.2, 0.31])[:, None]
    return Batch(torch.stack([phase.sin(), phase.cos()], dim=1) * 0.7, [{}] * 4)


def _reached(module: DiffusionAutoencoderTraining) -> set[str]:
    """Parts that have a gradient which is not zero."""
    named = module.model.named_parameters()
    return {k.split(".")[0] for k, p in named if p.grad is not None and bool(p.grad.abs().sum() > 0)}


def test_the_loss_is_that_of_v_plus_what_the_bottleneck_asks_for() -> None:
    module, audio = module_of(tiny_config(use_reconstruction_loss=True)), fixed_batch().audio
    model = module.model
    found = module.training_step(fixed_batch())
    draws = module_of(tiny_config()).draws()
    t, noise = draws.timesteps(4, 512), draws.noise(audio)
    latents, info = model.compress(audio, noise=draws.bottleneck_noise)
    upsampled = latents.repeat_interleave(8, dim=-1)
    alpha, sigma = (t * torch.pi / 2).cos()[:, None, None], (t * torch.pi / 2).sin()[:, None, None]
    x_t, v = alpha * audio + sigma * noise, alpha * noise - sigma * audio
    output = model.backbone(x_t, t, model.condition(latents).replace(input_concat=upsampled))
    assert model.bottleneck is not None
    kl = model.bottleneck.loss_weights["kl"] * info["kl"]
    distance = module.losses.terms[1].loss._distance(audio)  # type: ignore[attr-defined]
    spectral = distance(audio, alpha * x_t - sigma * output)
    torch.testing.assert_close(found, F.mse_loss(output, v) + kl + 0.1 * spectral)
    totals = module.buckets.pop()
    assert totals is not None
    expected = torch.zeros(2, 10)
    for level, errors in zip(sigma.flatten(), (output - v).detach().square()):
        expected[:, min(9, int(10 * level))] += torch.stack([errors.mean(), torch.ones(())])
    torch.testing.assert_close(totals, expected)


@pytest.mark.slow
@pytest.mark.parametrize("reconstruction", [False, True])
def test_it_learns_a_fixed_batch(reconstruction: bool) -> None:
    module = module_of(tiny_config(use_reconstruction_loss=reconstruction))
    optimizer = module.configure_optimizers()["optimizer"]
    losses = []
    for _ in range(40):
        optimizer.zero_grad()
        loss = module.training_step(fixed_batch(), draws=module.draws(0))
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert all(torch.isfinite(torch.tensor(losses)))
    assert sum(losses[-10:]) < 0.8 * sum(losses[:10])
    assert _reached(module) == {"encoder", "diffusion"}


def test_the_latents_matter() -> None:
    """The output changes with the latents, so the encoder has something to learn."""
    model = module_of(tiny_config()).model.eval()
    x, t = torch.zeros(1, 2, 512), torch.full((1,), 0.5)
    with torch.no_grad():
        first, second = (model(x, t, model.condition(torch.full((1, 4, 64), v))) for v in (0.0, 1.0))
    assert not torch.allclose(first, second, atol=1e-3)


def test_a_frozen_pretransform_passes_gradients_on_but_stays() -> None:
    module = module_of(inner_config(use_reconstruction_loss=True))
    loss = module.training_step(fixed_batch())
    loss.backward()
    assert _reached(module) == {"diffusion"}
    assert not module.model.pretransform.training  # type: ignore[union-attr]


def test_draws_do_not_depend_on_the_global_generator() -> None:
    losses = []
    for seed in (0, 1):
        module = module_of(inner_config())
        torch.manual_seed(seed)
        losses.append(module.training_step(fixed_batch()))
    assert torch.equal(*losses)


def test_without_a_rate_or_with_lengths_that_do_not_fit_it_is_refused() -> None:
    config = tiny_config()
    del config["training"]["learning_rate"]
    with pytest.raises(ConfigError, match="give learning_rate or optimizer_configs"):
        module_of(config)
    config = tiny_config()
    backbone = config["model"]["diffusion"]["config"]
    backbone.update(depth=4, channels=[8] * 4, strides=[4, 4, 2])
    config["sample_size"] = 520
    assert load_config(config).sample_size == 512
    config["sample_size"] = 24
    with pytest.raises(ConfigError, match=r"24, which is less than 32.*use a multiple of 32"):
        load_config(config)


def test_parts_that_do_not_fit_are_refused() -> None:
    config = tiny_config()
    config["model"]["encoder"]["config"]["latent_dim"] = 4
    with pytest.raises(ConfigError, match=r"encoder\.config\.latent_dim: found 4, .*: set it to 8"):
        load_config(config)


def _losses(folder: Path) -> list[float]:
    with open(folder / "metrics.csv", newline="") as file:
        return [float(row["train/loss"]) for row in csv.DictReader(file) if row["train/loss"]]


@pytest.mark.slow
@pytest.mark.parametrize("optimizers", [False, True])
def test_a_run_learns_shows_validates_and_saves(tmp_path: Path, optimizers: bool) -> None:
    demo = {"demo_every": 30, "max_demos": 1, "demo_steps": 3}
    config = tiny_config(use_reconstruction_loss=True, demo=demo)
    if optimizers:
        del config["training"]["learning_rate"]
        adam = {"optimizer": {"type": "AdamW", "config": {"lr": 3e-3}}}
        config["training"]["optimizer_configs"] = {"diffusion": adam}
    val = {**DATASET, "split": "val", "num_clips": 8}
    run = tiny_run(tmp_path, config, max_steps=40, batch_size=4, val_dataset=val, val_every=40)
    assert run.start() == 0
    assert sum((losses := _losses(tmp_path / "run"))[-10:]) < 0.95 * sum(losses[:10])
    assert (tmp_path / "run" / "best.safetensors").is_file()
    written = {p.name for p in (tmp_path / "run" / "demos" / "step_00000030").glob("*.wav")}
    assert written == {"clip_000_original.wav", "clip_000_reconstruction.wav"}
    assert run.demos is not None
    assert run.demos.failure is None


def test_continued_run_is_bit_identical(tmp_path: Path) -> None:
    config = tiny_config(use_reconstruction_loss=True)
    tiny_run(tmp_path, config, name="whole", max_steps=5).start()
    tiny_run(tmp_path, config, name="parts", max_steps=2).start()
    last = str(tmp_path / "parts" / "last.ckpt")
    tiny_run(tmp_path, config, name="parts", max_steps=5, ckpt_path=last).start()
    assert_same_checkpoint(tmp_path / "whole" / "last.ckpt", tmp_path / "parts" / "last.ckpt")


def _reconstruction(model: Any) -> Tensor:
    with torch.no_grad():
        latents = model.encode(fixed_batch().audio[:1], noise=torch.zeros_like)
        return model.decode(latents, noise=SeededNoise([0]), steps=3)


@pytest.mark.parametrize("make", [tiny_config, inner_config])
def test_what_a_run_leaves_reconstructs_the_same(tmp_path: Path, make: Any) -> None:
    run = tiny_run(tmp_path, make(), max_steps=4, allow_untrained_pretransform=True)
    run.start()
    assert run.module.ema is not None
    with run.module.ema.swapped() as model:
        averaged = _reconstruction(model.eval())
    online = _reconstruction(run.module.model.eval())
    assert not torch.equal(averaged, online)
    for file, use_ema, expected in (
        ("last.safetensors", True, averaged),
        ("last.ckpt", True, averaged),
        ("last.ckpt", False, online),
    ):
        loaded, _ = load_model(tmp_path / "run" / file, use_ema=use_ema)
        assert isinstance(loaded, DiffusionAutoencoder)
        assert torch.equal(_reconstruction(loaded), expected)


@pytest.mark.parametrize("make", [tiny_config, inner_config])
@pytest.mark.parametrize("layout", ["ours", "sat"])
@pytest.mark.parametrize("suffix", [".ckpt", ".safetensors"])
def test_exports_come_back(tmp_path: Path, make: Any, layout: Any, suffix: str) -> None:
    module = module_of(make())
    path = export(module.model, tmp_path / f"m{suffix}", config=make(), layout=layout)
    loaded, _ = load_model(path)
    assert torch.equal(_reconstruction(loaded), _reconstruction(module.model.eval()))


@pytest.mark.parametrize("make", [tiny_config, inner_config])
@pytest.mark.parametrize("wrapped", [False, True])
def test_weights_of_stable_audio_tools_are_recognised(tmp_path: Path, make: Any, wrapped: bool) -> None:
    """Without any config in the file; as pretrained weights they fill the model, not its pretransform."""
    source, model = module_of(make()).model, create_model_from_config(make())
    state = dict(source.state_dict())
    if wrapped:
        average = {f"diffae_ema.ema_model.{k}": v + 1 for k, v in state.items()}
        counters = {"diffae_ema.initted": torch.ones(1), "diffae_ema.step": torch.ones(1)}
        state = {**{f"diffae.{k}": v for k, v in state.items()}, **average, **counters}
    torch.save({"state_dict": state}, tmp_path / "w.ckpt")
    report = load_pretrained(model, tmp_path / "w.ckpt")
    assert report.complete
    assert "diff" in report.source
    for key, value in source.state_dict().items():
        assert torch.equal(model.state_dict()[key], value + 1 if wrapped else value)
    other = create_model_from_config(make())
    load_pretrained(other, tmp_path / "w.ckpt", use_ema=False)
    assert torch.equal(_reconstruction(other.eval()), _reconstruction(source.eval()))


def test_weights_of_another_model_are_refused(tmp_path: Path) -> None:
    torch.save({"state_dict": module_of(tiny_config()).model.state_dict()}, tmp_path / "w.ckpt")
    with pytest.raises(CheckpointError, match="missing from the file"):
        load_pretrained(create_model_from_config(inner_config()), tmp_path / "w.ckpt")


@pytest.mark.slow
@pytest.mark.parametrize("make", [tiny_config, inner_config])
def test_check_rehearses_it(tmp_path: Path, make: Any) -> None:
    path = tmp_path / "m.json"
    path.write_text(json.dumps(make(use_reconstruction_loss=True, demo={"demo_every": 10})))
    report = report_on(path)
    assert report["errors"] == []
    assert report["rehearsal"]["demo_seconds"] is not None
    assert report["rehearsal"]["loss"] > 0


def test_a_loss_that_explodes_ends_the_run_before_the_weights_change(tmp_path: Path) -> None:
    run = tiny_run(tmp_path, tiny_config(), max_steps=3)
    module: Any = run.module
    before = {k: v.clone() for k, v in module.model.state_dict().items()}
    honest = module.losses
    module.losses = lambda inputs: (honest(inputs)[0] * 1e9, {})
    with pytest.raises(
        TrainingError, match=r"loss has exploded: it is .*e\+.*, at step 1.*Files of this step"
    ):
        run.start()
    assert all(torch.equal(v, before[k]) for k, v in module.model.state_dict().items())


class Silent(Backbone):
    """Predicts nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.io_channels, self.length_multiple = 2, 1
        self.slot_widths = {Slot.INPUT_CONCAT: 2}
        self.gain = torch.nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor, t: Tensor, cond: Conditioning) -> Tensor:
        return self.gain * x


def test_objective_and_sampling_are_parts_of_the_model() -> None:
    """With weights that predict nothing, an Euler step of a flow leaves the noise as it is; a DDIM step of v
    turns x_1 into x_0 = -v = 0."""
    one = LatentSampling(sampler="euler", steps=1)
    options = {"latent_dim": 2, "downsampling_ratio": 1, "io_channels": 2}
    flow, plain = (
        DiffusionAutoencoder(backbone=Silent(), **options, **parts)  # type: ignore[arg-type]
        for parts in ({"objective": RectifiedFlowObjective(), "sampling": one}, {})
    )
    latents, noise = torch.randn(1, 2, 8), SeededNoise([0])
    start = SeededNoise([0])(torch.empty(1, 2, 8))
    assert torch.allclose(flow.decode(latents, noise=noise), start)
    still = plain.decode(latents, noise=SeededNoise([0]), steps=1)
    assert torch.allclose(still, torch.zeros(1, 2, 8), atol=1e-5)
    assert plain.objective.name == "v"
    module = DiffusionAutoencoderTraining(flow, optimizer={"type": "Adam", "config": {"lr": 1e-3}})
    x0 = torch.randn(2, 2, 8)
    loss = module.training_step(Batch(x0, [{}, {}]), draws=module.draws(0))
    assert torch.allclose(loss, (module.draws(0).noise(x0) - x0).square().mean())
