"""Discriminators and their losses: what each step must favour, sizes of the published ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from stable_audio.pretransforms.discriminators import DISCRIMINATORS, Discriminator
from stable_audio.pretransforms.discriminators.arc import ConvHead

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


def _hinge(real: Tensor, fake: Tensor) -> tuple[Tensor, Tensor]:
    """Losses of the discriminator and of the generator (Lim and Ye 2017)."""
    return (1 - real).clamp(min=0).mean() + (1 + fake).clamp(min=0).mean(), -fake.mean()


def _squares(real: Tensor, fake: Tensor) -> tuple[Tensor, Tensor]:
    """Mao et al. 2017."""
    return (1 - real).square().mean() + fake.square().mean(), (1 - fake).square().mean()


def _relativistic(real: Tensor, fake: Tensor) -> tuple[Tensor, Tensor]:
    """Huang et al. 2024."""
    return (1 + (fake - real).exp()).log().mean(), (1 + (real - fake).exp()).log().mean()


LOSSES = {
    # name in TINY: losses of one network, and how those of several are joined
    "encodec": (_hinge, torch.mean),
    "encodec rpgan": (_relativistic, torch.mean),
    "encodec normalised": (_hinge, torch.mean),
    "dac": (_squares, torch.sum),
    "dac hinge": (_hinge, torch.sum),
}


@pytest.mark.parametrize("name", LOSSES)
def test_losses_are_their_formulas(name: str) -> None:
    discriminator, (losses, join) = build(name), LOSSES[name]
    reals, fakes = torch.randn(2, 2, 2, 600).unbind()
    judged = list(zip(discriminator.judge(reals), discriminator.judge(fakes)))
    own, others = zip(*(losses(real[-1], fake[-1]) for real, fake in judged))
    torch.testing.assert_close(discriminator.discriminator_loss(reals, fakes), join(torch.stack(own)))
    adversarial, matching = discriminator.generator_losses(reals, fakes)
    torch.testing.assert_close(adversarial, join(torch.stack(others)))
    distances = []
    for real, fake in judged:
        layers = [(a - b).abs().mean() for a, b in zip(real[:-1], fake[:-1])]
        if name == "encodec normalised":
            layers = [d / (a.abs().mean() + 1e-3) for d, a in zip(layers, real)]
        distances.append(join(torch.stack(layers)))
    torch.testing.assert_close(matching, join(torch.stack(distances)))


def test_losses_of_oobleck_are_of_the_summed_scores_and_of_all_layers() -> None:
    discriminator = DISCRIMINATORS["oobleck"](in_channels=2)
    reals, fakes = torch.randn(2, 2, 2, 600).unbind()
    judged = list(zip(discriminator.judge(reals), discriminator.judge(fakes)))
    real, fake = (sum(each[i][-1].mean((1, *range(2, each[i][-1].ndim))) for each in judged) for i in (0, 1))
    assert isinstance(real, Tensor)
    assert isinstance(fake, Tensor)
    own, adversarial = _hinge(real, fake)
    matching = sum((a - b).abs().mean() for pair in judged for a, b in zip(*pair))
    torch.testing.assert_close(discriminator.discriminator_loss(reals, fakes), own)
    torch.testing.assert_close(tuple(discriminator.generator_losses(reals, fakes)), (adversarial, matching))


@pytest.mark.parametrize("loss_type", ["lsgan", "relativistic"])
def test_losses_of_a_head_are_of_its_clipped_scores(loss_type: Any) -> None:
    head = ConvHead(channels=32, loss_type=loss_type, soft_clip_scale=0.1)
    reals, fakes = torch.randn(2, 2, 32, 160).unbind()
    scores = [0.1 * torch.tanh(head.layers(x) / 0.1) for x in (reals, fakes)]
    own, adversarial = (_squares if loss_type == "lsgan" else _relativistic)(*scores)
    torch.testing.assert_close(head.discriminator_loss(reals, fakes), own)
    torch.testing.assert_close(tuple(head.generator_losses(reals, fakes)), (adversarial, torch.zeros(())))


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
