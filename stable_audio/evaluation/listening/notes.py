"""Is a note the one that is asked for?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from stable_audio.data.synthetic.notes import note_frequency
from stable_audio.evaluation.listening import limits
from stable_audio.evaluation.listening.envelope import envelope, envelope_fits
from stable_audio.evaluation.listening.partials import noise_level, partial_levels, pattern_deviation
from stable_audio.evaluation.listening.references import References
from stable_audio.evaluation.listening.vibrato import mean_cents
from stable_audio.evaluation.pitch import Array, detect_pitch, semitones_between

BREATHY = frozenset({"flute"})
"""Timbres with noise between their partials, which belongs to them."""

_PITCH_WINDOW, _PITCH_FROM = 0.16, 0.03

_LOWEST_MIDI, _HIGHEST_MIDI = 36, 96
"""Notes of other pitches than these are compared with the nearest of them."""


@dataclass(frozen=True)
class NoteVerdict:
    """What is heard of one note.

    Attributes:
        frequency: fundamental in Hz; None where none stands out.
        midi: the note that it is compared with: the one that is heard, or else the one that is asked for.
        pitch: whether it is the pitch that is asked for.
        timbre: whether its partials, its envelope and its noise are those of the timbre.
        deviation: greatest distance of a partial beyond its tolerance, in dB.
        shape: whether the envelope is right.
        noise: level between the partials in dB.
        noisy: whether that is a defect.
    """

    frequency: float | None
    midi: int
    pitch: bool
    timbre: bool
    deviation: float
    shape: bool
    noise: float
    noisy: bool


def judge_note(
    samples: Array, references: References, *, timbre: str, midi: int, seconds: float, vibrato: bool = False
) -> NoteVerdict:
    """Compare a note, from its onset on, with rendered ones.

    A note of a wrong pitch is compared with the rendered note that it is nearest to, so that its timbre can
    be right.
    """
    rate = references.sample_rate
    samples = samples[: int(np.ceil(seconds * rate))]
    frequency = note_pitch(samples, rate, seconds)
    off = semitones_between(frequency, note_frequency(midi)) if frequency is not None else np.inf
    right = bool(abs(off) <= limits.PITCH_SEMITONES)
    heard_midi = midi
    if frequency is not None and not right:
        heard_midi = int(np.clip(round(midi + off), _LOWEST_MIDI, _HIGHEST_MIDI))
    reference = references.note(timbre, heard_midi, vibrato=vibrato)
    at = frequency if frequency is not None else reference.frequency
    levels = partial_levels(samples, rate, at, timbre, seconds)
    lowest, highest = reference.partials(seconds)
    count = min(levels.shape[1], lowest.shape[1])
    deviation = pattern_deviation(levels[:, :count], lowest[:, :count], highest[:, :count])
    shape = envelope_fits(envelope(samples, rate), envelope(reference.lasting(seconds), rate))
    noise = noise_level(samples, rate, at, timbre, seconds, vibrato=vibrato)
    rendered = reference.noise(seconds)
    too_much = noise > max(limits.NOISE_OF_ANOTHER_SOUND, rendered + limits.NOISE_TOLERANCE)
    too_little = timbre in BREATHY and noise < rendered - limits.NOISE_TOLERANCE
    return NoteVerdict(
        frequency=frequency,
        midi=heard_midi,
        pitch=right,
        timbre=bool(deviation == 0 and shape and not too_much and not too_little),
        deviation=deviation,
        shape=shape,
        noise=noise,
        noisy=bool(noise > max(limits.NOISE_FLOOR, rendered + limits.NOISE_ABOVE_RENDERED)),
    )


def note_pitch(samples: Array, sample_rate: int, seconds: float) -> float | None:
    """Fundamental in Hz, of a note long enough the mean over whole periods of a vibrato; None if unclear."""
    last = max(_PITCH_FROM, min(seconds, 0.6) - 0.05 - _PITCH_WINDOW)
    starts = np.unique(np.round(np.linspace(_PITCH_FROM, last, 3), 4))
    length = round(_PITCH_WINDOW * sample_rate)
    parts = (samples[round(start * sample_rate) :][:length] for start in starts)
    pitches = [pitch for part in parts if (pitch := detect_pitch(part, sample_rate)) is not None]
    if not pitches:
        return None
    frequency = float(np.median(pitches))
    return frequency * 2 ** (mean_cents(samples, sample_rate, frequency, seconds) / 1200)
