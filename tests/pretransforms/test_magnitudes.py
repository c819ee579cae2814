"""Magnitudes there and back: what a listener hears of a note has to survive."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from stable_audio.pretransforms.magnitudes import MagnitudeSpectrogramPretransform
from stable_audio.pretransforms.phase_gradient import HANN_SPREAD, integrated_phases

RATE, SAMPLES, ONSET, F0 = 22_050, 27_648, 4000, 130.8
PARTIALS = np.arange(1, 21)


def sawtooth(onset: int = ONSET) -> NDArray[np.float64]:
    """Twenty partials from `onset` on, with an attack of 5 ms, up to 0.2 s before the end."""
    times = (np.arange(SAMPLES) - onset) / RATE
    tone = sum(np.sin(2 * np.pi * k * F0 * times) / k for k in PARTIALS)
    end = (SAMPLES - onset) / RATE - 0.2
    gate = np.clip(times / 0.005, 0, 1) * np.clip((end - times) / 0.04, 0, 1)
    return 0.3 * tone * gate


def level(samples: NDArray[np.float64], frequency: float) -> float:
    """Amplitude of the sinusoid, under a Blackman window."""
    window = np.blackman(len(samples))
    turn = np.exp(-2j * np.pi * frequency / RATE * np.arange(len(samples)))
    return float(2 * abs((samples * window * turn).sum()) / window.sum())


def there_and_back(samples: NDArray[np.float64]) -> NDArray[np.float64]:
    pretransform = MagnitudeSpectrogramPretransform()
    audio = torch.from_numpy(samples).float()[None, None]
    return pretransform.decode(pretransform.encode(audio))[0, 0].double().numpy()


def decibels(ratio: float) -> float:
    return float(20 * np.log10(max(ratio, 1e-9)))


def test_partials_floor_and_onset_of_a_sawtooth() -> None:
    original = sawtooth()
    rebuilt = there_and_back(original)
    steady = slice(ONSET + RATE // 20, ONSET + RATE // 2)
    for k in PARTIALS:
        ratio = level(rebuilt[steady], k * F0) / level(original[steady], k * F0)
        assert abs(decibels(ratio)) < 0.5, k
        between = level(rebuilt[steady], (k + 0.5) * F0) / level(original[steady], F0)
        assert decibels(between) < -50, k
    reference = 0.1 * np.abs(original).max()
    begins = [int(np.argmax(np.abs(x) > reference)) for x in (original, rebuilt)]
    assert abs(begins[1] - begins[0]) < 0.005 * RATE


def test_held_tone_does_not_tremble() -> None:
    original = sawtooth()
    rebuilt = there_and_back(original)
    pieces = range(ONSET + RATE // 20, ONSET + RATE // 2, 300)
    ratios = [decibels(level(rebuilt[i : i + 1100], F0) / level(original[i : i + 1100], F0)) for i in pieces]
    assert max(ratios) - min(ratios) < 0.2


def test_smooth_noise_does_not_buzz() -> None:
    """Flat magnitudes, as an autoencoder gives back of noise: no pulse at the frame rate."""
    pretransform = MagnitudeSpectrogramPretransform()
    audio = pretransform.decode(torch.full((1, 769, 72), 0.3))[0, 0].double().numpy()
    power = audio[2000:-2000] ** 2
    folded = power[: len(power) // 384 * 384].reshape(-1, 384).mean(axis=0)
    smooth = folded.reshape(12, 32).mean(axis=1)
    assert smooth.max() < 2 * smooth.mean()


def test_quadratic_log_magnitudes_have_a_bilinear_phase() -> None:
    """With the right b, the slopes of -a (k-k0)^2 - b (n-n0)^2 are those of a phase c k n + linear terms."""
    n_fft, hop, a, (k0, n0) = 64, 16, 0.7, (4, 5)
    bins, frames = np.meshgrid(np.arange(9.0), np.arange(10.0), indexing="ij")
    spread = HANN_SPREAD * n_fft**2
    c = 2 * np.pi * hop / n_fft - 2 * a * hop * n_fft / spread
    b = c * hop * n_fft / (2 * spread)
    magnitude = np.exp(-a * (bins - k0) ** 2 - b * (frames - n0) ** 2)
    expected = c * bins * frames + 2 * a * hop * n_fft / spread * k0 * frames - (c * n0 + np.pi) * bins
    found = integrated_phases(torch.from_numpy(magnitude), n_fft=n_fft, hop=hop).numpy()
    # Slopes are not known at the border.
    inside = (found - expected)[2:-2, 2:-2]
    np.testing.assert_allclose(inside, inside[0, 0], atol=1e-8)


def test_items_of_a_batch_do_not_touch_each_other() -> None:
    pretransform = MagnitudeSpectrogramPretransform(n_fft=64, hop_length=16)
    latents = pretransform.encode(torch.randn(2, 1, 640, generator=torch.Generator().manual_seed(0)))
    both = pretransform.decode(torch.stack([latents[0], 100 * latents[1]]))
    torch.testing.assert_close(both[:1], pretransform.decode(latents[:1]))


def test_the_loudest_item_of_a_batch_does_not_decide_what_is_noise_in_another() -> None:
    pretransform = MagnitudeSpectrogramPretransform(power=1.0, iterations=0)
    quiet = pretransform.encode(torch.from_numpy(sawtooth()).float()[None, None])
    both = pretransform.decode(torch.cat([quiet, 1e5 * quiet / quiet.amax()]))
    torch.testing.assert_close(both[:1], pretransform.decode(quiet))


def test_silence_stays_silent() -> None:
    pretransform = MagnitudeSpectrogramPretransform(n_fft=64, hop_length=16)
    assert pretransform.decode(pretransform.encode(torch.zeros(1, 1, 160))).abs().max() == 0
