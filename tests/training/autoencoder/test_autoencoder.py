"""Training of autoencoders: whose turn it is, what each step touches, whole runs."""

from __future__ import annotations

import contextlib
import copy
import csv
import itertools
import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from stable_audio.checkpoints import CheckpointError, load_model
from stable_audio.checkpoints.files import read_checkpoint
from stable_audio.config import load_config
from stable_audio.config.reporting.problems import ConfigError
from stable_audio.factory import create_model_from_config
from stable_audio.pretransforms import Autoencoder
from stable_audio.training.autoencoder.module import AutoencoderTraining
from stable_audio.training.autoencoder.teaching import teacher_values
from stable_audio.training.build import build_training
from stable_audio.training.callbacks.item_means import means
from stable_audio.training.callbacks.validation import Validate
from stable_audio.training.errors import TrainingError
from stable_audio.training.guards import finite
from stable_audio.training.guards.explosion import Explosion
from stable_audio.training.starting.continued import match_training
from stable_audio.training.teacher import Teacher
from tests import tiny
from tests.data.folders import make_folder
from tests.host_waits import DEVICE, no_waits
from tests.pretransforms.test_hubert_loss import save_tiny
from tests.training.building import tiny_run
from tests.training.saving.test_resume import assert_same_checkpoint

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


def grads_by_name(network: torch.nn.Module | None) -> dict[str, float | None]:
    """Sum of magnitudes; None where no gradient came."""
    assert network is not None
    parameters = network.named_parameters()
    return {k: None if p.grad is None else float(p.grad.abs().sum()) for k, p in parameters}


def is_last_of_oobleck(name: str, module: torch.nn.Module) -> bool:
    return isinstance(module, (torch.nn.Conv1d, torch.nn.Conv2d)) and name.endswith("net.8")


def assert_same(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert not [k for k, v in expected.items() if not torch.equal(found[k], v)]


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
    sizes = grads_by_name(module.discriminator)
    assert all(size is not None for size in sizes.values())
    # Within the margins of the hinge loss the scores of reals count -1 and those of fakes +1 each, so a
    # shift of all scores changes nothing: the last bias does that, and earlier ones where no sign changes.
    last = "discriminators.discriminators.0.conv_post.conv.bias"
    assert last in (flat := {name for name, size in sizes.items() if size == 0})
    assert all(name.endswith(".bias") for name in flat)
    # With reals beyond their margin, fakes alone count, and they reach everything.
    module.discriminator.zero_grad()  # type: ignore[union-attr]
    with torch.no_grad():
        dict(module.discriminator.named_parameters())[last].fill_(2.0)  # type: ignore[union-attr]
    module.discriminator_step(AUDIO).backward()
    assert all(grads(module.discriminator))
    assert not any(p.grad is not None for p in module.model.parameters())


@pytest.mark.parametrize("kind", ["oobleck", "dac"])
def test_a_discriminator_step_reaches_all_of_it(kind: str) -> None:
    small = {"config": {"periods": [2], "fft_sizes": [128], "rates": [2]}} if kind == "dac" else {}
    module = module_of(tiny_config({"discriminator": {"type": kind, **small}}))
    loss = module.discriminator_step(AUDIO)
    loss.backward()
    assert module.discriminator is not None
    missed = {name for name, size in grads_by_name(module.discriminator).items() if not size}
    # The hinge loss of oobleck sums the scores of all networks: their last biases shift them all.
    last = {f"{name}.bias" for name, m in module.discriminator.named_modules() if is_last_of_oobleck(name, m)}
    assert missed == (last if kind == "oobleck" else set())
    assert not any(p.grad is not None for p in module.model.parameters())


def test_an_autoencoder_is_the_same_after_a_discriminator_step() -> None:
    """Codebooks that follow averages, too, move in generator steps only."""
    config = tiny_config()
    config["model"]["bottleneck"] = {
        "type": "rvq",
        "config": {"dim": 4, "codebook_size": 8, "num_quantizers": 2},
    }
    config["model"]["encoder"]["config"] = {**config["model"]["encoder"]["config"], "latent_dim": 4}
    module = module_of(config)
    module.generator_step(AUDIO, 0)
    before = copy.deepcopy(module.model.state_dict())
    module.discriminator_step(AUDIO)
    assert_same(module.model.state_dict(), before)
    module.generator_step(AUDIO, 0)
    assert any(not torch.equal(v, before[k]) for k, v in module.model.state_dict().items())
    # A frozen encoder keeps the latents of a sound, so the codebooks rest as well.
    frozen = module_of({**config, "training": {**config["training"], "decoder_finetune": True}})
    frozen.model.load_state_dict(module.model.state_dict())
    frozen.generator_step(AUDIO, 0).backward()
    assert_same(frozen.model.state_dict(), module.model.state_dict())
    assert all(grads(frozen.model.decoder))


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
        ({"loss_configs": {"bottleneck": {"weights": {"mmd": 1.0}}}}, r"weights\.mmd: .*allowed: 'kl'"),
        ({"loss_configs": {"bottleneck": {}}}, r"\$\.training\.loss_configs: nothing compares"),
        ({"loss_configs": {"spectral": {"config": {"fft_sizes": [256, 1024]}}}}, r"\[1024\], too long"),
        ({"loss_configs": {"discriminator": {"type": "encodec", "config": {"n_ffts": [1024]}}}}, r"\[1024\]"),
        ({"loss_configs": {"discriminator": {"type": "oobleck", "config": {"in_channels": 1}}}}, "to 2 ch"),
        ({"eval_loss_configs": {"stft": {"fft_size": 3}}}, r"eval_loss_configs\.stft\.fft_size: unknown"),
        ({"eval_loss_configs": {"pesq": {"mode": "uwb"}}}, r"eval_loss_configs\.pesq\.mode"),
        ({"decoder_loss": {"weight": 1}}, "decoder_loss: not supported: the decoder is trained"),
        ({"num_synthetic_chirps": 2}, "no synthetic chirps"),
        ({"stride_curriculum": [1, 2]}, "strides do not change"),
        ({"tail_masking_max_patches": 3}, "tail_masking_max_patches: not supported"),
    ],
)
def test_settings_that_do_not_fit_are_refused(change: dict[str, Any], words: str) -> None:
    config = tiny_config()
    config["training"].update(change)
    with pytest.raises(Exception, match=words):
        module_of(config)


def test_a_discriminator_big_vgan_is_refused() -> None:
    config = tiny_config({"discriminator": {"type": "big_vgan"}})
    with pytest.raises(ConfigError, match=r"loss_configs\.discriminator.*use 'dac' or 'encodec'"):
        load_config(config)


def test_neutral_values_and_the_old_name_of_clipping(caplog: pytest.LogCaptureFixture) -> None:
    config = tiny_config(num_synthetic_chirps=0, tail_masking_max_patches=0, clip_grad_norm=0.5)
    assert load_config(config).training.gradient_clip_val == 0.5
    assert "num_synthetic_chirps: ignored" in caplog.text


def test_a_warm_up_that_ends_nothing_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    load_config(tiny_config({"spectral": SPECTRAL}, warmup_steps=5))
    assert "$.training.warmup_steps: has no effect" in caplog.text
    caplog.clear()
    load_config(tiny_config({"spectral": SPECTRAL}, warmup_steps=5, encoder_freeze_on_warmup=True))
    load_config(tiny_config(warmup_steps=5))
    assert "has no effect" not in caplog.text


def test_the_encoder_is_frozen_after_warm_up_without_a_discriminator_too() -> None:
    config = tiny_config({"spectral": SPECTRAL}, warmup_steps=4, encoder_freeze_on_warmup=True)
    for step, reached in ((3, True), (4, False)):
        module = module_of(config)
        module.generator_step(AUDIO, step).backward()
        assert any(grads(module.model.encoder)) is reached


@pytest.mark.parametrize("kind", ["hubert", "wavlm", "wav2vec2"])
def test_a_speech_network_is_a_loss_and_no_part_of_what_is_saved(kind: str, tmp_path: Path) -> None:
    folder = save_tiny(kind, tmp_path / "speech")
    losses = {"spectral": SPECTRAL, "hubert": {"weights": {"hubert": 2.0}, "config": {"model_name": folder}}}
    config = tiny_config(losses)
    module, plain = module_of(config), module_of(tiny_config({"spectral": SPECTRAL}))
    before = set(module.state_dict())
    module.generator_step(AUDIO, 0).backward()
    assert module.window.means()["train/hubert_loss"] > 0
    assert set(module.state_dict()) == before == set(plain.state_dict())
    trained = [
        sum(len(g["params"]) for g in m.configure_optimizers()[0].param_groups) for m in (module, plain)
    ]
    assert trained[0] == trained[1]
    only = module_of(tiny_config({"hubert": losses["hubert"]}))
    only.generator_step(AUDIO, 0).backward()
    assert all(grads(only.model.decoder))
    run = tiny_run(tmp_path, config, max_steps=1)
    assert run.start() == 0
    assert float(_rows(tmp_path / "run")[0]["train/hubert_loss"]) > 0


def test_losses_teacher_and_discriminator_follow_the_module_to_its_device(tmp_path: Path) -> None:
    """Windows and filters of losses, which no checkpoint keeps, and a teacher, which is no part of it."""
    losses = {
        "spectral": {"config": {**SPECTRAL["config"], "perceptual_weighting": True}},
        "mrmel": {"config": {"n_mels": [4], "window_lengths": [64]}},
        "hubert": {"config": {"model_name": save_tiny("wavlm", tmp_path)}},
        "time": {"weights": {"l1": 1.0}},
        "discriminator": DISCRIMINATOR,
    }
    module = module_of(tiny_config(losses)).to("meta")
    audio = torch.empty(2, 2, 512, device="meta")
    total, terms = module.terms({"reals": audio, "decoded": audio, "kl": audio.mean()})
    assert {v.device.type for v in (total, *terms.values())} == {"meta"}
    assert module.discriminator is not None
    assert module.discriminator.discriminator_loss(audio, audio).is_meta
    latents = module.model.encode(audio, noise=torch.zeros_like)
    teacher = Teacher(module_of(tiny_config()).model)
    assert all(v.is_meta for v in teacher_values(teacher, module.model, audio, latents).values())


def test_a_mono_encoder_with_a_stereo_decoder(tmp_path: Path) -> None:
    config = tiny_config(force_input_mono=True, demo={"demo_every": 1, "max_demos": 1})
    config["model"]["encoder"]["config"] = {**config["model"]["encoder"]["config"], "in_channels": 1}
    config["model"]["in_channels"] = 1
    run = tiny_run(tmp_path, config, max_steps=2)
    assert run.start() == 0
    assert run.demos is not None
    assert run.demos.failure is None
    del config["training"]["force_input_mono"]
    with pytest.raises(ConfigError, match=r"\$\.model\.in_channels: found 1, but out_channels is 2"):
        load_config(config)


def test_mono_needs_no_audio_channels(tmp_path: Path) -> None:
    config = tiny_config()
    del config["audio_channels"]
    for part, key in (("encoder", "in_channels"), ("decoder", "out_channels")):
        config["model"][part]["config"] = {**config["model"][part]["config"], key: 1}
    config["model"]["io_channels"] = 1
    assert tiny_run(tmp_path, config, max_steps=2).start() == 0


def test_validation_is_of_the_averaged_weights_and_repeats_itself(tmp_path: Path) -> None:
    losses = {"stft": {"fft_sizes": [64], "hop_sizes": [16], "win_lengths": [64]}, "sisdr": {}}
    losses["mel"] = {"n_mels": [4], "window_lengths": [64]}
    config = tiny_config(use_ema=True, latent_mask_ratio=0.5, learning_rate=1e-2, eval_loss_configs=losses)
    make_folder(tmp_path / "in", {"a.wav": 4000, "b.wav": 3000})
    dataset = {"dataset_type": "audio_dir", "datasets": [{"id": "a", "path": str(tmp_path / "in")}]}
    run = tiny_run(tmp_path, config, max_steps=9, val_dataset=dataset, val_every=9, dataset=dataset)
    assert run.start() == 0
    module, validate = run.module, next(c for c in run.trainer.callbacks if isinstance(c, Validate))
    first = dict(validate.latest)
    assert set(first) == {"val/stft", "val/sisdr", "val/mel"}
    # The inference file has the averaged weights, so that it measures the same.
    average, _ = load_model(tmp_path / "run")
    own = copy.deepcopy(module.model.state_dict())
    module.model.load_state_dict(average.state_dict())
    module.ema = None
    assert means(validate._measured(run.trainer, module, 9).values()) == pytest.approx(first)
    module.model.load_state_dict(own)
    online = means(validate._measured(run.trainer, module, 9).values())
    assert all(online[k] != first[k] for k in first)


@pytest.mark.parametrize(
    ("metrics", "name", "sign"),
    [({"stft": {}, "sisdr": {}}, "val_stft", 1), ({"sisdr": {}}, "val_sisdr", -1)],
)
def test_the_best_weights_are_kept(metrics: dict[str, Any], name: str, sign: int, tmp_path: Path) -> None:
    if "stft" in metrics:
        metrics = {**metrics, "stft": {"fft_sizes": [64], "hop_sizes": [16], "win_lengths": [64]}}
    make_folder(tmp_path / "in", {"a.wav": 4000, "b.wav": 3000})
    dataset = {"dataset_type": "audio_dir", "datasets": [{"id": "a", "path": str(tmp_path / "in")}]}
    # At this rate training overshoots, so that the last weights are not the best ones.
    config = tiny_config({"spectral": SPECTRAL}, learning_rate=0.1, eval_loss_configs=metrics)
    tiny_run(tmp_path, config, max_steps=6, val_dataset=dataset, val_every=1, dataset=dataset).start()
    measured = [float(row["val/" + name[4:]]) for row in _rows(tmp_path / "run") if row["val/" + name[4:]]]
    best = read_checkpoint(tmp_path / "run" / "best.safetensors")
    assert len(measured) == 6
    assert float(best.info[name]) == pytest.approx(sign * min(sign * m for m in measured), rel=1e-4)
    assert int(best.info["step"]) == 1 + measured.index(sign * min(sign * m for m in measured))


def test_ema_settings() -> None:
    module = module_of(tiny_config(use_ema=True, ema={"beta": 0.5, "update_every": 3}))
    assert module.ema is not None
    assert (module.ema.rule.beta, module.ema.rule.update_every) == (0.5, 3)


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
    assert '"latents.png"' in page
    assert (demo / "latents.png").read_bytes().startswith(b"\x89PNG")
    model, _ = load_model(folder)
    assert isinstance(model, Autoencoder)
    assert model.encode(AUDIO).shape == (2, 4, 64)


@pytest.mark.slow
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
    with pytest.raises(TrainingError, match=r"loss is not finite at step 1.*Files of this step: .*a\.wav"):
        run.start()


@pytest.mark.parametrize("turn", [0, 1])
def test_a_loss_that_explodes_names_the_files(tmp_path: Path, turn: int) -> None:
    """A clip of absurd level; the loss is finite. In a generator step and in a discriminator step."""
    run = tiny_run(tmp_path, tiny_config({"time": {"weights": {"l1": 1.0}}, "discriminator": DISCRIMINATOR}))
    network = run.module.discriminator if turn else run.module.model  # type: ignore[union-attr]
    before = copy.deepcopy(network.state_dict())
    name = "discriminator_loss" if turn else "generator_loss"
    honest = getattr(run.module, name)
    run.module.__dict__[name] = lambda *given: honest(*given) * 1e9
    with pytest.raises(
        TrainingError, match=rf"loss has exploded: it is .*e\+0.*, at step {turn + 1}; .*Files of this step: "
    ):
        run.start()
    assert_same(network.state_dict(), before)


def test_steps_do_not_wait_for_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    # There is no autocast for the meta device.
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: contextlib.nullcontext())
    module = module_of(tiny_config()).to(DEVICE)
    audio = AUDIO.to(DEVICE)
    for step in (lambda: module.generator_step(audio, 0), lambda: module.discriminator_step(audio)):
        with no_waits():
            step().backward()
            weights = [p for p in module.parameters() if p.grad is not None]
            assert torch.nn.utils.clip_grad_norm_(weights, 1.0).device == DEVICE


def test_once_the_usual_loss_is_known_the_optimizer_skips_an_explosion(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    # The fused optimizers of the CPU skip steps as those of a GPU.
    monkeypatch.setattr(finite, "skips_by_itself", lambda optimizer, norm: True)
    run = tiny_run(tmp_path, tiny_config({"time": {"weights": {"l1": 1.0}}}), max_steps=15)
    honest, weights = run.module.generator_loss, []

    def generator_loss(reconstruction: Any, step: int) -> Any:
        weights.append([p.detach().clone() for p in run.module.model.parameters()])
        loss = honest(reconstruction, step) * (1e9 if step == 12 else 1.0)
        run.module._loss = loss.detach()
        return loss

    run.module.__dict__["generator_loss"] = generator_loss
    assert run.start() == 0
    same = [all(map(torch.equal, a, b)) for a, b in itertools.pairwise(weights)]
    assert [step for step, unchanged in enumerate(same) if unchanged] == [12]
    assert re.search(r"the loss has exploded: .* at step 13; the step is skipped", caplog.text)


def test_what_counts_as_an_explosion() -> None:
    explosion = Explosion()
    assert explosion.exceeded(9e6) is None  # nothing is known yet
    assert explosion.exceeded(-2e7) == 1e7
    assert explosion.limit is None
    for _ in range(9):
        assert explosion.exceeded(5.0) is None
    assert explosion.exceeded(4999.0) is None
    assert explosion.exceeded(5001.0) == 5000
    assert explosion.limit == 5000
    again = Explosion()
    again.load_state_dict(explosion.state_dict())
    assert again.usual == 5.0
    quiet = Explosion()
    for _ in range(10):
        quiet.exceeded(1e-6)
    assert quiet.exceeded(999.0) is None


def test_the_limit_is_known_at_the_same_step_on_a_process_with_a_bad_loss_before() -> None:
    """Otherwise one process would wait for the check of a step that the others read of one step later."""
    good, bad = Explosion(), Explosion()
    for step in range(10):
        assert (good.limit, bad.limit) == (None, None)
        assert good.exceeded(5.0) is None
        assert bad.exceeded(math.nan if step == 6 else 5.0) == (1e7 if step == 6 else None)
    assert (good.limit, bad.limit) == (5000, 5000)
    assert bad.exceeded(math.inf) == 5000


def test_accumulated_steps_are_those_of_a_larger_batch(tmp_path: Path) -> None:
    """Clipping included; the noise of the latents depends on the item's place, so there is none here.

    In float64, where the order of sums does not show: the scalars are logged with eight digits, so they may
    differ by 1e-7. In float32 four steps of Adam make up to 1e-4 of rounding.
    """
    config = tiny_config({"time": {"weights": {"l1": 1.0}}, "discriminator": DISCRIMINATOR})
    config["model"]["bottleneck"] = {"type": "tanh"}
    config["model"]["encoder"]["config"] = {**config["model"]["encoder"]["config"], "latent_dim": 4}
    options = {"max_steps": 4, "gradient_clip_val": 0.1, "precision": "64-true"}
    whole = tiny_run(tmp_path, config, name="whole", batch_size=4, **options)
    split = tiny_run(tmp_path, config, name="split", batch_size=2, accum_batches=2, **options)
    for run in (whole, split):
        assert run.start() == 0
    rows = [
        [{k: r[k] for k in r if "loss" in k or "norm" in k} for r in _rows(tmp_path / n)]
        for n in ("whole", "split")
    ]
    for a, b in zip(*rows):
        numbers = [{k: float(v) for k, v in row.items() if v} for row in (a, b)]
        assert numbers[0] == pytest.approx(numbers[1], rel=1e-6)
    norms = [float(r["train/grad_norm"]) for r in rows[0] if r.get("train/grad_norm")]
    assert min(norms) > 0.1


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
    with pytest.raises(TrainingError, match=f"gradient is not finite at step {turn + 1}.*Files of this step"):
        run.start()
    assert torch.equal(parameter, before)


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        (
            {"discriminator": DISCRIMINATOR},
            {},
            "was trained with a discriminator, but this config has no disc",
        ),
        (
            {},
            {"discriminator": DISCRIMINATOR},
            "was trained with no discriminator, but this config has a disc",
        ),
    ],
)
def test_a_run_goes_on_with_its_discriminator_alone(
    tmp_path: Path, before: dict[str, Any], after: dict[str, Any], message: str
) -> None:
    trained = module_of(tiny_config({"spectral": SPECTRAL, **before}))
    content = {"state_dict": trained.state_dict(), "optimizer_states": []}
    match_training(trained, tmp_path / "last.ckpt", content)
    with pytest.raises(CheckpointError, match=message):
        match_training(
            module_of(tiny_config({"spectral": SPECTRAL, **after})), tmp_path / "last.ckpt", content
        )


def test_a_run_does_not_go_on_with_other_parts_frozen(tmp_path: Path) -> None:
    tiny_run(tmp_path, tiny_config({"spectral": SPECTRAL}), max_steps=1).start()
    with pytest.raises(
        CheckpointError, match=r"its optimizer trained \d+ weights, but this config trains \d+"
    ):
        tiny_run(
            tmp_path, tiny_config({"spectral": SPECTRAL}, decoder_finetune=True), max_steps=2, recover=True
        )
    assert tiny_run(tmp_path, tiny_config({"spectral": SPECTRAL}), max_steps=2, recover=True).start() == 0
