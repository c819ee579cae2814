"""Rendered sounds that clips are compared with, and the range of what no caption tells."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

import numpy as np

from stable_audio.data.synthetic.notes import note_frequency
from stable_audio.data.synthetic.pitched import PITCHED
from stable_audio.data.synthetic.rendering import RELEASE, SoundFormula, Voice, ramps, render
from stable_audio.data.synthetic.sounds import SOUNDS
from stable_audio.data.synthetic.unpitched import UNPITCHED
from stable_audio.evaluation.listening.bands import band_levels, fingerprint, with_slack
from stable_audio.evaluation.listening.partials import noise_level, partial_levels
from stable_audio.evaluation.pitch import Array

NOTE_SECONDS, VARIANT_SECONDS = 1.25, 0.65
"""Rendered length of the middle of the range, and of its ends."""

_CORNERS = ((0.0, 0.0), (-1.0, 1.0), (1.0, -1.0))
"""(brightness, damping): the middle, the dullest and the brightest."""

_DRUM_SEEDS = 10
_SEED = 9000
"""Of the noise of rendered sounds."""

Range = tuple[Array, Array]
"""Least and greatest of the rendered values."""


@dataclass
class Note:
    """A note of a timbre as it may be rendered, at a gain of one and without its release."""

    timbre: str
    frequency: float
    sample_rate: int
    variants: list[Array]
    vibrato: bool
    _partials: dict[float, Range] = field(default_factory=dict)
    _noise: dict[float, float] = field(default_factory=dict)

    def lasting(self, seconds: float) -> Array:
        """The middle of the range with its release, (n,)."""
        return _released(self.variants[0], self.sample_rate, seconds)

    def partials(self, seconds: float) -> Range:
        """Range of `partial_levels`."""
        key = round(seconds, 2)
        if key not in self._partials:
            rows = [
                partial_levels(v, self.sample_rate, self.frequency, self.timbre, seconds)
                for v in self.variants
            ]
            self._partials[key] = (np.min(rows, axis=0), np.max(rows, axis=0))
        return self._partials[key]

    def noise(self, seconds: float) -> float:
        """`noise_level` of the middle of the range, with its release."""
        key = round(seconds, 2)
        if key not in self._noise:
            self._noise[key] = noise_level(
                self.lasting(seconds),
                self.sample_rate,
                self.frequency,
                self.timbre,
                seconds,
                vibrato=self.vibrato,
            )
        return self._noise[key]


@dataclass(frozen=True)
class Drum:
    """A drum or noise as it may be rendered, at a gain of one.

    Attributes:
        clips: one for each seed.
        lowest: least level of each band in each frame.
        highest: greatest level of each band in each frame.
    """

    clips: list[Array]
    lowest: Array
    highest: Array


class References:
    """Renders what it is asked for once, at one sample rate.

    Args:
        more: pitched sounds besides those of `SOUNDS`, by name.
    """

    def __init__(self, sample_rate: int, *, more: Mapping[str, SoundFormula] = MappingProxyType({})) -> None:
        self.sample_rate = sample_rate
        self._sounds = {**SOUNDS, **more}
        self._pitched = (*PITCHED, *more)
        self._notes: dict[tuple[str, int, bool], Note] = {}
        self._drums: dict[tuple[str, float], Drum] = {}
        self._prints: dict[tuple[str, int | None], Array] = {}

    def note(self, timbre: str, midi: int, *, vibrato: bool = False) -> Note:
        """A pitched sound."""
        key = (timbre, midi, vibrato)
        if key not in self._notes:
            frequency = note_frequency(midi)
            variants = [
                self._render(
                    timbre, NOTE_SECONDS if not n else VARIANT_SECONDS, n, *corner, frequency, vibrato
                )
                for n, corner in enumerate(_CORNERS)
            ]
            self._notes[key] = Note(timbre, frequency, self.sample_rate, variants, vibrato)
        return self._notes[key]

    def drum(self, timbre: str, seconds: float) -> Drum:
        """An unpitched sound of a length in seconds."""
        key = (timbre, round(seconds, 2))
        if key not in self._drums:
            corners = [_CORNERS[n % len(_CORNERS)] for n in range(_DRUM_SEEDS)]
            clips = [
                _released(self._render(timbre, seconds, n, *corner), self.sample_rate, seconds)
                for n, corner in enumerate(corners)
            ]
            levels = [with_slack(band_levels(clip, self.sample_rate, seconds)) for clip in clips]
            lowest, highest = (
                np.min([low for low, _ in levels], axis=0),
                np.max([h for _, h in levels], axis=0),
            )
            self._drums[key] = Drum(clips, lowest, highest)
        return self._drums[key]

    def nearest(self, samples: Array, midi: int) -> str:
        """The sound whose spectrum and decay are most like those of `samples`; notes are those of `midi`."""
        heard = fingerprint(samples, self.sample_rate)
        distance = {timbre: np.abs(heard - self._print(timbre, midi)).mean() for timbre in self._pitched}
        distance |= {timbre: np.abs(heard - self._print(timbre, None)).mean() for timbre in UNPITCHED}
        return min(distance, key=lambda timbre: float(distance[timbre]))

    def _print(self, timbre: str, midi: int | None) -> Array:
        key = (timbre, midi)
        if key not in self._prints:
            frequency = 0.0 if midi is None else note_frequency(midi)
            samples = self._render(timbre, 0.7, 0, 0.0, 0.0, frequency)
            self._prints[key] = fingerprint(_released(samples, self.sample_rate, 0.7), self.sample_rate)
        return self._prints[key]

    def _render(
        self,
        timbre: str,
        seconds: float,
        number: int,
        brightness: float,
        damping: float,
        frequency: float = 0.0,
        vibrato: bool = False,
    ) -> Array:
        # Longer than what is compared, so that the release lies behind it.
        voice = Voice(frequency, seconds + RELEASE, 1.0, brightness, damping, _SEED + number, vibrato)
        if timbre in UNPITCHED:
            voice = Voice(frequency, seconds, 1.0, brightness, damping, _SEED + number)
        size = int(np.ceil(seconds * self.sample_rate))
        return render(self._sounds[timbre], voice, sample_rate=self.sample_rate, sample_size=size)


def _released(samples: Array, sample_rate: int, seconds: float) -> Array:
    """The beginning of a sound, ended by a release."""
    part = samples[: int(np.ceil(seconds * sample_rate))]
    times = np.arange(len(part)) / sample_rate
    # Beyond the attack, which the samples have had already.
    return part * np.where(times < seconds - RELEASE, 1.0, ramps(times, seconds))
