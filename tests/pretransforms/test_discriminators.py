"""Discriminators and their losses: what each step must favour, sizes of the published ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from stable_audio.pretransforms.discriminators import DISCRIMINATORS, Discriminator

MANIFESTS = Path(__file__).parents[1] / "golden" / "manifests"
SCALES = {"n_ffts": [2048, 1024, 512, 256, 128], "hop_lengths": [512, 256, 128, 64, 32]}
PUBLISHED: dict[str, tuple[str, dict[str, Any]]] = {
    "disc_dac_default": ("dac", {"in_channels": 2}),
    "disc_encodec_default": (
        "encodec",
        {"in_channels": 2, "filters": 64, "win_lengths": SCALES["n_ffts"], **SCALES},
    ),
    "disc_oobleck_full": ("oobleck", {"in_channels": 2}),
}
SMALL_STFT = {"filters": 2, "n_ffts": [64, 32], "hop_lengths": [16, 8], "win_lengths": [64, 32]}
TINY: dict[str, tuple[str, dict[str, Any]]] = {
    "encodec": ("encodec", SMALL_STFT),
    "encodec rpgan": ("encodec", {**SMALL_STFT, "loss_type": "rpgan"}),
    "encodec normalised": ("encodec", {**SMALL_STFT, "normalize_losses": True, "spec_scale_pow": 0.3}),
    "dac": ("dac", {"rates": [1, 2], "periods": [2], "fft_sizes": [128]}),
    "dac hinge": ("dac", {"periods": [3], "fft_sizes": [128], "use_hinge": True}),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_sizes(name: str) -> None:
    manifest = json.loads((MANIFESTS / f"{name}.json").read_text())
    kind, config = PUBLISHED[name]
    with torch.device("meta"):
        discriminator = DISCRIMINATORS[kind](**config)
    assert {k: list(v.shape) for k, v in discriminator.state_dict().items()} == manifest["shapes"]
    assert sum(p.numel() for p in discriminator.parameters()) == manifest["n_params"]


def build(name: str) -> Discriminator:
    kind, config = TINY[name]
    return DISCRIMINATORS[kind](in_channels=2, **config)


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow) if n.startswith("dac") else n for n in TINY]
)
def test_training_it_separates_reals_from_fakes_and_then_the_generator_has_something_to_gain(
    name: str,
) -> None:
    discriminator = build(name)
    t = torch.arange(600) / 600
    reals = torch.sin(40 * t).expand(4, 2, -1) + 0.01 * torch.randn(4, 2, 600)
    fakes = 0.3 * torch.randn(4, 2, 600)
    start = discriminator.discriminator_loss(reals, fakes).item()
    optimizer = torch.optim.Adam(discriminator.parameters(), lr=3e-3)
    for _ in range(15):
        optimizer.zero_grad()
        loss = discriminator.discriminator_loss(reals, fakes)
        loss.backward()
        optimizer.step()
    assert loss.item() < start
    bad, good = (discriminator.generator_losses(reals, x) for x in (fakes, reals))
    assert good.adversarial < bad.adversarial
    assert good.feature_matching < 1e-5 < bad.feature_matching


@pytest.mark.parametrize("name", TINY)
def test_a_frozen_one_passes_gradients_to_the_fakes_only(name: str) -> None:
    discriminator = build(name).requires_grad_(False)
    fakes = torch.randn(2, 2, 600, requires_grad=True)
    sum(discriminator.generator_losses(torch.randn(2, 2, 600), fakes)).backward()  # type: ignore[union-attr]
    assert fakes.grad is not None
    assert fakes.grad.abs().sum() > 0
    assert all(p.grad is None for p in discriminator.parameters())


@pytest.mark.parametrize(
    ("kind", "config", "words"),
    [
        ("encodec", {"n_ffts": [64]}, "one entry per resolution"),
        ("encodec", {"loss_type": "wgan"}, "wgan"),
        ("dac", {"periods": [], "fft_sizes": []}, "at least one"),
    ],
)
def test_wrong_settings_are_refused(kind: str, config: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        DISCRIMINATORS[kind](**config)
