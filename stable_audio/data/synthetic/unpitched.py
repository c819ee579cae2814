"""The drums and noises of the synthetic collection."""

from __future__ import annotations

import itertools

import numpy as np

from stable_audio.data.synthetic.rendering import (
    TOP_FREQUENCY,
    Array,
    Grid,
    SoundFormula,
    Voice,
    noise_band,
    noise_spectrum,
)


def kick(voice: Voice, grid: Grid) -> Array:
    """A sine that falls from about 190 Hz to 48 Hz within a few tens of milliseconds."""
    drop, rate = 140.0 * 2 ** (0.1 * voice.brightness), 30.0
    cycles = 48.0 * grid.times + drop / rate * (1 - np.exp(-rate * grid.times))
    return 0.95 * np.sin(2 * np.pi * cycles) * np.exp(-9.0 * voice.decay_speed * grid.times)


def tom(voice: Voice, grid: Grid) -> Array:
    """A membrane that falls from about 220 Hz to 130 Hz, with its second mode."""
    drop, rate = 90.0 * 2 ** (0.1 * voice.brightness), 12.0
    cycles = 130.0 * grid.times + drop / rate * (1 - np.exp(-rate * grid.times))
    first = 0.7 * np.sin(2 * np.pi * cycles) * np.exp(-7.0 * voice.decay_speed * grid.times)
    second = 0.25 * np.sin(2 * np.pi * 1.59 * cycles) * np.exp(-14.0 * voice.decay_speed * grid.times)
    return first + second


def snare(voice: Voice, grid: Grid) -> Array:
    """Two short membrane tones under a burst of noise."""
    times, speed = grid.times, voice.decay_speed
    tones = np.sin(2 * np.pi * 185 * times) + 0.6 * np.sin(2 * np.pi * 330 * times)
    burst = noise_band(noise_spectrum(voice.seed), 700.0, TOP_FREQUENCY, grid)
    return 0.3 * tones * np.exp(-22 * speed * times) + 0.17 * burst * np.exp(-13 * speed * times)


def clap(voice: Voice, grid: Grid) -> Array:
    """Four bursts of noise around 1.5 kHz, 12 ms apart, the last one with a tail."""
    burst = noise_band(noise_spectrum(voice.seed), 700.0, 3200.0, grid)
    envelope = np.zeros_like(grid.times)
    for number, rate in enumerate((140.0, 140.0, 140.0, 14.0)):
        since = grid.times - 0.012 * number
        # A rise over 2 ms: nothing in it depends on where the samples lie.
        rise = 0.5 - 0.5 * np.cos(np.pi * np.clip(since / 0.002, 0.0, 1.0))
        envelope += rise * np.exp(-rate * voice.decay_speed * np.maximum(0.0, since))
    return 0.17 * burst * envelope


def hi_hat(voice: Voice, grid: Grid) -> Array:
    """A very short burst of the noise above 2 kHz."""
    burst = noise_band(noise_spectrum(voice.seed), 2000.0, TOP_FREQUENCY, grid)
    return 0.28 * burst * np.exp(-38 * voice.decay_speed * grid.times)


def cymbal(voice: Voice, grid: Grid) -> Array:
    """Noise above 1.2 kHz that rings on, its upper half for a shorter time."""
    spectrum = noise_spectrum(voice.seed)
    lower = noise_band(spectrum, 1200.0, 3000.0, grid) * np.exp(-2.2 * voice.decay_speed * grid.times)
    upper = noise_band(spectrum, 3000.0, TOP_FREQUENCY, grid) * np.exp(-3.6 * voice.decay_speed * grid.times)
    return 0.13 * lower + 0.25 * upper


def noise_sweep(voice: Voice, grid: Grid) -> Array:
    """A band of noise that rises from 120 Hz to 3.4 kHz over the length of the note."""
    spectrum = noise_spectrum(voice.seed)
    edges = np.geomspace(120.0, 3400.0, 25)
    progress = grid.times / voice.duration
    out = np.zeros_like(progress)
    for band, (low, high) in enumerate(itertools.pairwise(edges)):
        weight = np.exp(-0.5 * ((progress - (band + 0.5) / 24) / 0.09) ** 2)
        out += noise_band(spectrum, low, high, grid) * weight / np.sqrt(1 + (high - low) / 50)
    return 0.55 * out


UNPITCHED: dict[str, SoundFormula] = {
    "kick": kick,
    "tom": tom,
    "snare": snare,
    "clap": clap,
    "hi-hat": hi_hat,
    "cymbal": cymbal,
    "noise sweep": noise_sweep,
}
