"""Sounds that go on for some milliseconds."""

from __future__ import annotations

import math

import torch

from stable_audio.audio.extrapolation import burg, extrapolated


def test_partials_go_on_in_phase() -> None:
    time = torch.arange(11025 + 441, dtype=torch.float64) / 22050
    sound = sum(torch.sin(2 * math.pi * f * time + f) / k for k, f in enumerate([220.0, 440.5, 1000.3], 1))
    assert isinstance(sound, torch.Tensor)
    channels = torch.stack([sound, 0.1 * sound.flip(0)])
    following = extrapolated(channels[:, :11025], 441)
    # Two thousandths of the greatest sample: the prediction stands for an infinite past by 2048 samples.
    assert float((following - channels[:, 11025:]).abs().max()) < 0.02 * float(sound.abs().max())


def test_a_process_is_predicted_by_its_own_coefficients() -> None:
    """Noise through 1 / (1 - 1.5 z + 0.9 z^2)."""
    generator = torch.Generator().manual_seed(0)
    noise, values = torch.randn(20_000, generator=generator, dtype=torch.float64).tolist(), [0.0, 0.0]
    for draw in noise:
        values.append(1.5 * values[-1] - 0.9 * values[-2] + draw)
    coefficients = burg(torch.tensor(values, dtype=torch.float64), 2)
    # Five standard errors of 20,000 samples: sqrt((1 - 0.9^2) / 20,000) each.
    assert torch.allclose(coefficients, torch.tensor([1.5, -0.9], dtype=torch.float64), atol=0.016)


def test_noise_does_not_grow_and_silence_stays() -> None:
    noise = torch.randn(1, 5000, generator=torch.Generator().manual_seed(0))
    assert float(extrapolated(noise, 2000).abs().max()) < float(noise.abs().max())
    assert not extrapolated(torch.zeros(2, 100), 50).any()
    assert extrapolated(torch.ones(1, 1), 3).shape == (1, 3)
    assert extrapolated(torch.ones(1, 0), 3).shape == (1, 3)
