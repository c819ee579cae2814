"""MDCT: exact inverse, orthonormal, localised in frequency; and the phase guess of spectrograms."""

from __future__ import annotations

import math

import pytest
import torch

from stable_audio.pretransforms import PRETRANSFORMS
from stable_audio.pretransforms.mdct import MDCTPretransform
from stable_audio.pretransforms.mel_spectrogram import MelSpectrogramPretransform


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize(("bands", "power"), [(2, 1.0), (16, 1.0), (64, 0.5), (64, 0.3)])
def test_exact_inverse(channels: int, bands: int, power: float) -> None:
    transform = MDCTPretransform(channels=channels, bands=bands, power=power, scale=0.2)
    audio = torch.randn(3, channels, 10 * bands, generator=torch.Generator().manual_seed(0))
    latents = transform.encode(audio)
    assert latents.shape == (3, transform.encoded_channels, 10)
    torch.testing.assert_close(transform.decode(latents), audio, atol=2e-5, rtol=1e-4)


def test_energy_is_kept() -> None:
    audio = torch.randn(2, 1, 640, dtype=torch.float64)
    latents = MDCTPretransform(bands=64).double().encode(audio)
    torch.testing.assert_close(latents.square().sum(), audio.square().sum(), rtol=1e-5, atol=0)


def test_a_tone_lands_in_its_band() -> None:
    tone = torch.sin(2 * math.pi * 1000 * torch.arange(8192) / 8000)[None, None]
    power = MDCTPretransform(bands=64).encode(tone)[0].square()
    assert int(power.mean(dim=1).argmax()) == 16 or int(power.mean(dim=1).argmax()) == 15
    assert power[14:18].sum() > 0.999 * power[:, 1:-1].sum() - power[:, [0, -1]].sum()


def test_a_change_reaches_neighbouring_frames_only() -> None:
    transform = MDCTPretransform(bands=16)
    audio = torch.zeros(1, 1, 160)
    audio[..., 80] = 1
    frames = transform.encode(audio)[0].abs().sum(dim=0).nonzero().flatten().tolist()
    assert set(frames) <= {4, 5}


def test_odd_lengths_are_padded() -> None:
    transform = MDCTPretransform(bands=16)
    audio = torch.randn(1, 1, 100)
    restored = transform.decode(transform.encode(audio))
    assert restored.shape[-1] == 112
    torch.testing.assert_close(restored[..., :100], audio, atol=1e-5, rtol=0)


@pytest.mark.parametrize("options", [{"bands": 7}, {"bands": 0}, {"power": 0}, {"power": 1.5}, {"scale": 0}])
def test_wrong_options(options: dict) -> None:
    with pytest.raises(ValueError, match="mdct needs"):
        MDCTPretransform(**options)


def test_it_is_registered() -> None:
    assert PRETRANSFORMS["mdct"] is MDCTPretransform


@pytest.mark.parametrize("frequency", [220.0, 441.7, 1500.0])
def test_a_tone_needs_no_iteration_when_phases_follow_peaks(frequency: float) -> None:
    """The phase of a steady sine is guessed well enough for its waveform to come back."""
    transform = MelSpectrogramPretransform(
        sample_rate=8000, n_mels=256, break_hz=300, power=0.3, initial_phase="peaks", iterations=0
    )
    tone = 0.5 * torch.sin(2 * math.pi * frequency * torch.arange(8192) / 8000)[None, None]
    restored = transform.decode(transform.encode(tone))[0, 0, 1024:-1024]
    reference = tone[0, 0, 1024:-1024]
    shifts = [torch.dot(restored, torch.roll(reference, s)) for s in range(40)]
    similarity = max(shifts) / (restored.norm() * reference.norm())
    assert similarity > 0.9


def test_normalisation_and_power_are_undone() -> None:
    audio = torch.randn(1, 1, 4096, generator=torch.Generator().manual_seed(1))
    plain = MelSpectrogramPretransform(sample_rate=8000, power=0.3, iterations=0)
    scaled = MelSpectrogramPretransform(sample_rate=8000, power=0.3, mean=0.2, std=0.1, iterations=0)
    torch.testing.assert_close(scaled.encode(audio) * 0.1 + 0.2, plain.encode(audio))
    restored = [transform.decode(transform.encode(audio)) for transform in (plain, scaled)]
    torch.testing.assert_close(restored[0], restored[1], atol=1e-3, rtol=0)


@pytest.mark.parametrize("options", [{"std": 0}, {"break_hz": -1}, {"power": 0}, {"initial_phase": "zero"}])
def test_wrong_spectrogram_options(options: dict) -> None:
    with pytest.raises(ValueError, match="mel_spectrogram needs"):
        MelSpectrogramPretransform(sample_rate=8000, **options)
