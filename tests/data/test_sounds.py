"""The formulas of the synthetic collection against what they say of themselves."""

from __future__ import annotations

import numpy as np
import pytest

from stable_audio.data.synthetic.pitched import PITCHED
from stable_audio.data.synthetic.rendering import VIBRATO_START, Voice, harmonic_sum, phase, render
from stable_audio.data.synthetic.sounds import SOUNDS

RATE = 8000


def voice(frequency: float = 440.0, **changes) -> Voice:
    values = {"duration": 0.5, "loudness": 1.0, "brightness": 0.0, "damping": 0.0, "seed": 3, **changes}
    return Voice(frequency=frequency, **values)


@pytest.mark.parametrize("vibrato", [False, True])
@pytest.mark.parametrize("name", sorted(SOUNDS))
def test_the_same_sound_at_every_sample_rate(name: str, vibrato: bool) -> None:
    """Below the lower Nyquist frequency, spectra at 8 and 16 kHz agree, noise and second notes included."""
    notes = [voice(vibrato=vibrato), voice(330.0, onset=0.52, seed=4, duration=0.4)]
    low, high = (
        np.abs(np.fft.rfft(render(SOUNDS[name], *notes, sample_rate=rate, sample_size=rate))) / rate
        for rate in (8000, 16000)
    )
    band = slice(20, 3500)
    assert np.abs(low[band] - high[band]).max() < 0.03 * low.max()


@pytest.mark.parametrize("name", ["square", "sawtooth", "organ", "plucked string", "brass"])
@pytest.mark.parametrize("frequency", [110.0, 437.0, 1661.0])
def test_nothing_aliases(name: str, frequency: float) -> None:
    """All power lies at multiples of the fundamental."""
    samples = render(SOUNDS[name], voice(frequency, duration=2.0), sample_rate=RATE, sample_size=2 * RATE)
    power = np.abs(np.fft.rfft(samples * np.blackman(len(samples)))) ** 2
    frequencies = np.fft.rfftfreq(len(samples), 1 / RATE)
    distance = np.abs(frequencies - frequency * np.maximum(1, np.round(frequencies / frequency)))
    assert power[distance > 20].sum() < 1e-4 * power.sum()


def test_clenshaw_equals_the_sum_of_sines() -> None:
    angle = np.linspace(0, 50, 999)
    amplitudes = [0.5, 0.0, -0.2, 0.1]
    expected = sum(a * np.sin((k + 1) * angle) for k, a in enumerate(amplitudes))
    np.testing.assert_allclose(harmonic_sum(angle, amplitudes), expected, atol=1e-10)


def test_vibrato_is_the_integral_of_a_sine_of_30_cents() -> None:
    times = np.arange(0, 1, 1e-5)
    frequency = np.diff(phase(voice(400.0, vibrato=True), times)) / (2 * np.pi * 1e-5)
    middle = times[:-1] + 5e-6
    swing = (2 ** (30 / 1200) - 1) * np.sin(2 * np.pi * 5.5 * np.maximum(0, middle - VIBRATO_START))
    np.testing.assert_allclose(frequency, 400 * (1 + swing), rtol=1e-6)


def test_partials_of_the_struck_bars() -> None:
    """Levels in the first moments: those of the formula, nothing elsewhere."""
    samples = render(SOUNDS["marimba"], voice(200.0, duration=0.3), sample_rate=44100, sample_size=13230)
    window = np.blackman(2205)
    spectrum = np.abs(np.fft.rfft(samples[:2205] * window, 44100)) / window.sum()
    peaks = [spectrum[round(200 * p) - 5 : round(200 * p) + 6].max() for p in (1.0, 3.9, 9.2)]
    assert peaks[0] > peaks[1] > peaks[2] > 10 * spectrum[400]
    late = np.abs(np.fft.rfft(samples[8820:11025] * window, 44100)) / window.sum()
    assert late[780] < 0.03 * late[200], "the upper partials have died"


def test_brass_brightens_while_it_swells() -> None:
    samples = render(PITCHED["brass"], voice(220.0), sample_rate=44100, sample_size=22050)

    def ratio(part: slice) -> float:
        spectrum = np.abs(np.fft.rfft(samples[part] * np.blackman(len(samples[part])), 44100))
        return float(spectrum[1320 - 5 : 1320 + 6].max() / spectrum[220 - 5 : 220 + 6].max())

    assert ratio(slice(0, 1764)) < 0.75 * ratio(slice(3528, 7056))
