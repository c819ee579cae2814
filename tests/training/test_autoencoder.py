"""Training of autoencoders: whose turn it is, what each step touches, whole runs."""

from __future__ import annotations

import copy
import csv
from pathlib import Path
from typing import Any

import pytest
import torch

from stable_audio.checkpoints import load_model
from stable_audio.config import load_config
from stable_audio.factory import create_model_from_config
from stable_audio.pretransforms import Autoencoder
from stable_audio.training.autoencoder.module import AutoencoderTraining
from stable_audio.training.build import build_training
from stable_audio.training.errors import TrainingError
from tests import tiny
from tests.data.folders import make_folder
from tests.training.building import tiny_run
from tests.training.test_resume import assert_same_checkpoint

DISCRIMINATOR = {
    "type": "encodec",
    "config": {"filters": 2, "n_ffts": [64], "hop_lengths": [16], "win_lengths": [64]},
    "weights": {"adversarial": 0.1, "feature_matching": 5.0},
}
SPECTRAL = {
    "config": {"fft_sizes": [128, 64], "hop_sizes": [32, 16], "win_lengths": [128, 64]},
    "weights": {"mrstft": 1.0},
}


def tiny_config(losses: dict[str, Any] | None = None, **training: Any) -> dict[str, Any]:
    if losses is None:
        losses = {"discriminator": DISCRIMINATOR, "spectral": SPECTRAL, "time": {"weights": {"l1": 0.1}}}
    return {
        "model_type": "autoencoder",
        "sample_size": 512,
        "sample_rate": 4000,
        "audio_channels": 2,
        "model": copy.deepcopy(tiny.PRETRANSFORMS["autoencoder"]),
        "training": {"learning_rate": 1e-3, "loss_configs": losses, **training},
    }


def module_of(config: dict[str, Any]) -> AutoencoderTraining:
    torch.manual_seed(0)
    loaded = load_config(config)
    module = build_training(loaded, create_model_from_config(loaded))
    assert isinstance(module, AutoencoderTraining)
    return module.train()


AUDIO = torch.sin(torch.arange(2.0 * 2 * 512)).view(2, 2, 512) * 0.3


def grads(network: torch.nn.Module | None) -> list[bool]:
    assert network is not None
    return [p.grad is not None and bool(p.grad.abs().sum() > 0) for p in network.parameters()]


@pytest.mark.parametrize(
    ("training", "turns"),
    [
        ({}, [0, 1, 0, 1, 0, 1]),
        ({"warmup_steps": 4}, [0, 1, 0, 1, 0, 1]),
        ({"warmup_steps": 4, "warmup_mode": "full"}, [0, 0, 0, 0, 0, 1]),
    ],
)
def test_turns(training: dict[str, Any], turns: list[int]) -> None:
    module = module_of(tiny_config(**training))
    assert [int(module.is_discriminator_step(i)) for i in range(6)] == turns


def test_without_a_discriminator_every_step_is_the_generators() -> None:
    module = module_of(tiny_config({"spectral": SPECTRAL}))
    assert not any(module.is_discriminator_step(i) for i in range(4))
    assert len(module.configure_optimizers()) == 1


def test_a_generator_step_leaves_the_discriminator_alone_and_the_other_way_round() -> None:
    module = module_of(tiny_config())
    module.generator_step(AUDIO, 0).backward()
    assert all(grads(module.model))
    assert not any(grads(module.discriminator))
    module.model.zero_grad()
    module.discriminator_step(AUDIO).backward()
    assert not any(p.grad is not None for p in module.model.parameters())
    assert any(grads(module.discriminator))


def test_before_warm_up_the_generator_does_not_see_the_discriminator() -> None:
    module = module_of(tiny_config(warmup_steps=10))
    module.generator_step(AUDIO, 2)
    assert module.window.means()["train/loss_adv"] == 0
    module.generator_step(AUDIO, 10)
    assert module.window.means()["train/feature_matching_loss"] > 0


def test_the_encoder_can_be_frozen_after_warm_up_or_throughout() -> None:
    module = module_of(tiny_config(warmup_steps=4, encoder_freeze_on_warmup=True))
    module.generator_step(AUDIO, 2).backward()
    assert any(grads(module.model.encoder))
    module.zero_grad()
    module.generator_step(AUDIO, 4).backward()
    assert not any(grads(module.model.encoder))
    assert all(grads(module.model.decoder))
    finetune = module_of(tiny_config(decoder_finetune=True))
    finetune.generator_step(AUDIO, 0).backward()
    assert not any(grads(finetune.model.encoder))
    trained = sum(p.numel() for g in finetune.configure_optimizers()[0].param_groups for p in g["params"])
    assert trained == sum(p.numel() for p in finetune.model.decoder.parameters())


def test_latent_masks_and_mono_input() -> None:
    masked = module_of(tiny_config(latent_mask_ratio=0.5))
    zero = (masked.reconstruct(AUDIO.repeat(8, 1, 1)).latents == 0).all(1).float().mean().item()
    assert zero == pytest.approx(0.5, abs=0.06)
    mono = module_of(tiny_config(force_input_mono=True))
    swapped = AUDIO.flip(1)
    first, second = (mono.reconstruct(a, noise=torch.zeros_like).latents for a in (AUDIO, swapped))
    torch.testing.assert_close(first, second)


def test_default_losses_are_used_when_none_are_given() -> None:
    config = tiny_config()
    del config["training"]["loss_configs"]
    module = module_of({**config, "sample_size": 4096})
    names = [t.name for t in module.terms.terms]
    assert names == ["mrstft_loss", "stft_loss_left", "stft_loss_right", "kl_loss"]
    assert module.adversary is not None
    assert len(list(module.discriminator.discriminators["discriminators"])) == 7  # type: ignore[union-attr]


def test_mono_models_have_no_stereo_terms() -> None:
    config = tiny_config({"spectral": SPECTRAL, "mrmel": {"config": {"n_mels": [4], "window_lengths": [64]}}})
    config["audio_channels"] = 1
    for part in ("encoder", "decoder"):
        key = "in_channels" if part == "encoder" else "out_channels"
        config["model"][part]["config"] = {**config["model"][part]["config"], key: 1}
    module = module_of({**config, "model": {**config["model"], "io_channels": 1}})
    assert [t.name for t in module.terms.terms] == ["mrstft_loss", "mrmel_loss", "kl_loss"]
    assert module.generator_step(AUDIO[:, :1], 0).isfinite()


def test_decay_shrinks_the_weight_at_every_use() -> None:
    module = module_of(tiny_config({"spectral": {**SPECTRAL, "decay": 0.5}}))
    made = module.reconstruct(AUDIO, noise=torch.zeros_like)
    seen = []
    for _ in range(3):
        module.generator_loss(made, 0)
        seen.append(module.window.means()["train/mrstft_loss"].item())
    assert seen == pytest.approx([seen[0], seen[0] / 2, seen[0] / 4], rel=1e-5)
    other = module_of(tiny_config({"spectral": {**SPECTRAL, "decay": 0.5}}))
    other.terms.load_state_dict(module.terms.state_dict())
    assert other.terms.state_dict() == module.terms.state_dict()


@pytest.mark.parametrize("name", ["rvq", "dac_rvq", "wasserstein", "softnorm"])
def test_bottleneck_terms(name: str) -> None:
    config = tiny_config({"spectral": SPECTRAL})
    model = config["model"]
    model["bottleneck"] = {"type": name, "config": {**tiny.BOTTLENECKS[name]}}
    model["bottleneck"]["config"].pop("noise_augment_dim", None)
    model["encoder"]["config"] = {**model["encoder"]["config"], "latent_dim": 4}
    module = module_of(config)
    module.generator_step(AUDIO, 0).backward()
    expected = {n if n.endswith("_loss") else f"{n}_loss" for n in module.model.bottleneck.loss_weights}  # type: ignore[union-attr]
    assert expected <= {k.removeprefix("train/") for k in module.window.means()}


def test_teacher(tmp_path: Path) -> None:
    run = tiny_run(tmp_path, tiny_config({"spectral": SPECTRAL}), name="teacher", max_steps=1)
    run.start()
    config = tiny_config(
        {"spectral": SPECTRAL},
        teacher_model={k: v for k, v in tiny_config().items() if k != "training"},
        teacher_model_ckpt=str(tmp_path / "teacher" / "last.safetensors"),
    )
    module = module_of(config)
    module.generator_step(AUDIO, 0).backward()
    logged = module.window.means()
    assert {"train/latent_distill_loss", "train/mrstft_loss_teacher"} <= set(logged)
    assert not any("teacher" in k for k in module.state_dict())
    assert all(grads(module.model))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"learning_rate": None}, "learning_rate or optimizer_configs"),
        ({"loss_configs": {"bottleneck": {"weights": {"mmd": 1.0}}}}, "names mmd, but the bottleneck has kl"),
        ({"eval_loss_configs": {"pesq": {}}}, "pesq"),
    ],
)
def test_settings_that_do_not_fit_are_refused(change: dict[str, Any], words: str) -> None:
    config = tiny_config()
    config["training"].update(change)
    with pytest.raises(Exception, match=words):
        module_of(config)


def test_float16_is_refused(tmp_path: Path) -> None:
    module = module_of(tiny_config())
    module._precision = lambda: "16-mixed"  # type: ignore[method-assign]
    with pytest.raises(TrainingError, match="bf16-mixed"):
        module.training_step(None)  # type: ignore[arg-type]


def _rows(folder: Path) -> list[dict[str, str]]:
    with open(folder / "metrics.csv", newline="") as file:
        return list(csv.DictReader(file))


def test_a_whole_run(tmp_path: Path) -> None:
    config = tiny_config(use_ema=True, demo={"demo_every": 4, "max_demos": 1})
    run = tiny_run(tmp_path, config, max_steps=6, accum_batches=2, checkpoint_every=3)
    assert run.start() == 0
    folder = tmp_path / "run"
    rows = _rows(folder)
    assert [bool(r.get("train/loss")) for r in rows] == [True, False] * 3
    assert [bool(r.get("train/discriminator_loss")) for r in rows] == [False, True] * 3
    demo = folder / "demos" / "step_00000004"
    assert {p.name for p in demo.glob("*.wav")} == {"clip_000_original.wav", "clip_000_reconstruction.wav"}
    page = (demo / "index.html").read_text()
    assert "SI-SDR" in page
    assert 'src="latents.png"' in page
    assert (demo / "latents.png").read_bytes().startswith(b"\x89PNG")
    model, _ = load_model(folder)
    assert isinstance(model, Autoencoder)
    assert model.encode(AUDIO).shape == (2, 4, 64)


def test_it_learns(tmp_path: Path) -> None:
    config = tiny_config({"spectral": SPECTRAL, "time": {"weights": {"l1": 1.0}}}, learning_rate=1e-2)
    tiny_run(tmp_path, config, max_steps=80, batch_size=4).start()
    losses = [float(r["train/loss"]) for r in _rows(tmp_path / "run")]
    assert sum(losses[-5:]) < 0.85 * sum(losses[:5])


def test_continued_run_is_bit_identical(tmp_path: Path) -> None:
    schedule = {"type": "ExponentialLR", "config": {"gamma": 0.9}}
    optimizer = {"optimizer": {"type": "AdamW", "config": {"lr": 1e-3}}, "scheduler": schedule}
    config = tiny_config(
        optimizer_configs={"autoencoder": optimizer, "discriminator": optimizer}, use_ema=True
    )
    del config["training"]["learning_rate"]
    tiny_run(tmp_path, config, name="whole", max_steps=7).start()
    tiny_run(tmp_path, config, name="parts", max_steps=3).start()
    last = str(tmp_path / "parts" / "last.ckpt")
    tiny_run(tmp_path, config, name="parts", max_steps=7, ckpt_path=last).start()
    assert_same_checkpoint(tmp_path / "whole" / "last.ckpt", tmp_path / "parts" / "last.ckpt")
    rates = [r.get("train/gen_lr") for r in _rows(tmp_path / "whole") if r.get("train/gen_lr")]
    assert [float(r) for r in rates] == pytest.approx([1e-3, 9e-4, 8.1e-4, 7.29e-4])


def test_a_loss_that_is_not_finite_names_the_files(tmp_path: Path) -> None:
    make_folder(tmp_path / "in", {"a.wav": 4000})
    dataset = {"dataset_type": "audio_dir", "datasets": [{"id": "a", "path": str(tmp_path / "in")}]}
    options = {"dataset": dataset, "batch_size": 1, "max_steps": 2}
    run = tiny_run(tmp_path, tiny_config({"spectral": SPECTRAL}), **options)
    with torch.no_grad():
        next(run.module.model.parameters()).fill_(float("nan"))
    with pytest.raises(TrainingError, match=r"loss is not finite at step 0.*Files of this step: .*a\.wav"):
        run.start()


@pytest.mark.parametrize("turn", [0, 1])
def test_an_exploding_gradient_stops_before_the_weights_change(tmp_path: Path, turn: int) -> None:
    """In a generator step and in a discriminator step."""
    run = tiny_run(tmp_path, tiny_config(), max_steps=3)
    network = run.module.discriminator if turn else run.module.model  # type: ignore[union-attr]
    assert isinstance(network, torch.nn.Module)

    def explode(gradient: torch.Tensor) -> torch.Tensor:
        return gradient * float("inf")

    parameter = next(p for p in network.parameters() if p.requires_grad)
    before = parameter.detach().clone()
    parameter.register_hook(explode)
    with pytest.raises(TrainingError, match=f"gradient is not finite at step {turn}.*Files of this step"):
        run.start()
    assert torch.equal(parameter, before)
