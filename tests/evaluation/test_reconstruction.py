import math

import pytest
import torch

from stable_audio.evaluation.reconstruction import mel_distance, si_sdr, stft_distance
from tests.audio.sounds import chirp


def test_si_sdr_of_a_known_mixture() -> None:
    """An orthogonal distortion of a tenth of the power is 10 dB, whatever the scale."""
    t = torch.arange(8000) / 8000
    signal = torch.sin(2 * math.pi * 100 * t)[None]
    error = torch.cos(2 * math.pi * 100 * t)[None] * math.sqrt(0.1)
    assert si_sdr(signal + error, signal) == pytest.approx(10.0, abs=1e-3)
    assert si_sdr(-3 * (signal + error), signal) == pytest.approx(10.0, abs=1e-3)
    assert si_sdr(signal, signal) > 100
    assert si_sdr(signal, torch.zeros_like(signal)) == -math.inf
    assert si_sdr(torch.zeros_like(signal), signal) == -math.inf


def test_stft_distance() -> None:
    sound = chirp(0.5, 16000)
    assert stft_distance(sound, sound) == 0
    # At half the level: convergence 1/2, log difference ln 2 except where the floor holds.
    assert 0.5 < stft_distance(0.5 * sound, sound, [512]) <= 0.5 + math.log(2) + 1e-6
    assert stft_distance(0.9 * sound, sound) < stft_distance(0.5 * sound, sound)


def test_mel_distance() -> None:
    """Half the level is log10 2 in every band, except where the floor of the spectrum holds."""
    sound = chirp(0.5, 16000)
    assert mel_distance(sound, sound, 16000) == 0
    assert 0.1 < mel_distance(0.5 * sound, sound, 16000) <= math.log10(2) + 1e-6
    assert mel_distance(0.9 * sound, sound, 16000) < mel_distance(0.5 * sound, sound, 16000)
    assert mel_distance(sound[:, :100], sound[:, :100], 16000) == 0
    assert math.isnan(mel_distance(sound[:, :4], sound[:, :4], 16000))
