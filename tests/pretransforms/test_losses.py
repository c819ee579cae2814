"""Losses against auraloss, closed forms and each other."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from stable_audio.pretransforms.losses import (
    MultiResolutionMelLoss,
    SISDRLoss,
    STFTLoss,
    SumAndDifferenceSTFTLoss,
    Term,
    Terms,
)
from stable_audio.pretransforms.losses.filters import a_weighting_taps, slaney_mel_filters
from stable_audio.pretransforms.losses.terms import OneChannel, Pair, mse, value

X, Y = torch.randn(2, 1, 2, 2000, generator=torch.Generator().manual_seed(0))
SMALL = {"fft_size": 256, "hop_size": 64, "win_length": 200}


@pytest.mark.parametrize(
    "options",
    [{}, {"mag_distance": "L2", "w_lin_mag": 0.5}, {"w_sc": 0.0, "w_lin_mag": 1.0}],
)
def test_stft_loss_equals_auraloss(options: dict[str, Any]) -> None:
    auraloss = pytest.importorskip("auraloss")
    theirs = auraloss.freq.STFTLoss(**SMALL, **options)
    torch.testing.assert_close(STFTLoss(**SMALL, **options)(X, Y), theirs(X, Y), rtol=1e-5, atol=1e-6)


def test_sum_and_difference_equals_auraloss_and_hears_the_difference() -> None:
    auraloss = pytest.importorskip("auraloss")
    sizes = {"fft_sizes": [256], "hop_sizes": [64], "win_lengths": [256]}
    ours = SumAndDifferenceSTFTLoss(**sizes)
    torch.testing.assert_close(ours(X, Y), auraloss.freq.SumAndDifferenceSTFTLoss(**sizes)(X, Y))
    # Left and right swapped: the sum is the same.
    assert SumAndDifferenceSTFTLoss(**sizes, w_diff=0.0)(X, X.flip(1)) == 0


def test_a_weighting_follows_the_curve() -> None:
    taps = a_weighting_taps(48_000).numpy()
    response = np.abs(np.fft.rfft(taps, 48_000))

    def decibels(hz: int) -> float:
        return 20 * math.log10(response[hz] / response[1000])

    # IEC 61672: +1.2 dB at 2 kHz, +1.0 at 4 kHz, -3.2 at 500 Hz; 101 taps cannot follow the lowest octaves.
    assert decibels(2000) == pytest.approx(1.2, abs=0.3)
    assert decibels(4000) == pytest.approx(1.0, abs=0.3)
    assert decibels(500) == pytest.approx(-3.2, abs=0.8)


def test_mel_filters_have_unit_area_and_rise() -> None:
    filters = slaney_mel_filters(20, 4096, 16_000)
    area = filters.sum(1) * 16_000 / 4096
    torch.testing.assert_close(area, torch.ones(20), atol=0.03, rtol=0)
    assert (filters.argmax(1).diff() > 0).all()


def test_si_sdr_is_the_ratio_and_ignores_gain() -> None:
    torch.manual_seed(0)
    clean, noise = torch.randn(1, 1, 50_000), torch.randn(1, 1, 50_000)
    assert -SISDRLoss()(clean + 0.1 * noise, clean).item() == pytest.approx(20, abs=0.2)
    assert -SISDRLoss()(5 * (clean + 0.1 * noise), clean).item() == pytest.approx(20, abs=0.2)


def test_mel_loss_is_zero_on_equal_sound_and_grows_with_distance() -> None:
    loss = MultiResolutionMelLoss(
        sample_rate=16_000, n_mels=[5, 10], window_lengths=[64, 256], mag_weight=1.0
    )
    assert loss(X, X) == 0
    assert 0 < loss(X, 0.9 * X) < loss(X, 0.5 * X)


def test_phase_term_is_bounded_and_zero_on_equal_sound() -> None:
    loss = STFTLoss(**SMALL, w_sc=0.0, w_log_mag=0.0, w_phs=1.0)
    assert loss(X, X) == 0
    torch.testing.assert_close(loss(X, -X), torch.tensor(2.0), atol=1e-3, rtol=0)


def test_terms_sum_decay_and_skip() -> None:
    terms = Terms(
        [Term("a", Pair(mse, "x", "y"), 2.0, 0.5), Term("kl", value("kl"), 1.0), Term("b", value("x"), 0.0)]
    )
    total, named = terms({"x": torch.zeros(1, 1, 5), "y": torch.ones(1, 1, 4), "kl": torch.tensor(3.0)})
    assert (named["a"], named["kl"], named["b"]) == (1.0, 3.0, 0.0)
    assert total == 4.0
    assert terms({"x": torch.zeros(1, 1, 4), "y": torch.ones(1, 1, 4)})[0] == 0.5
    with pytest.raises(ValueError, match="no loss"):
        Terms([])({"x": torch.zeros(1)})


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"perceptual_weighting": True}, "sample_rate"),
        ({"scale": "mel", "sample_rate": 8000}, "go together"),
        ({"mag_distance": "L3"}, "L3"),
        ({"fft_size": 256, "win_length": 512}, "at most fft_size=256, found 512"),
    ],
)
def test_wrong_settings_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        STFTLoss(**options)


def test_a_clip_that_is_too_short_is_refused_with_the_numbers() -> None:
    loss = STFTLoss(**SMALL)
    assert loss(X[..., :129], Y[..., :129]).isfinite()
    with pytest.raises(ValueError, match="fft_size 256 needs more than 128 samples, found 128"):
        loss(X[..., :128], Y[..., :128])


@pytest.mark.parametrize("rate", [16_000, 44_100, 48_000])
def test_a_weighting_is_heard_in_the_loss(rate: int) -> None:
    """Two tones of the same level: the A-weighted one at 50 Hz counts less than that at 2 kHz."""
    t = torch.arange(rate // 2) / rate
    silence = torch.zeros(1, 1, len(t))
    loss = STFTLoss(
        w_sc=0.0, w_log_mag=0.0, w_lin_mag=1.0, sample_rate=rate, perceptual_weighting=True, fft_size=4096
    )
    low, high = (loss(torch.sin(2 * torch.pi * f * t)[None, None], silence).item() for f in (50, 2000))
    assert 20 * math.log10(high / low) > 15


def test_one_channel_and_the_networks_among_the_losses() -> None:
    stft = STFTLoss(**SMALL)
    one = OneChannel(stft, 1)
    assert one(X, Y) == stft(X[:, 1:], Y[:, 1:])
    terms = Terms([Term("a", Pair(one, "x", "y")), Term("b", Pair(mse, "x", "y")), Term("c", value("kl"))])
    assert terms.networks() == [one]
