"""A timbre that the collection does not have, to fine-tune a model on that never heard it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from stable_audio.data.synthetic.describe import ClipDescription
from stable_audio.data.synthetic.notes import note_frequency, note_name
from stable_audio.data.synthetic.pitched import steady
from stable_audio.data.synthetic.rendering import Array, Grid, Voice, harmonics_below, swell
from stable_audio.data.synthetic.words import LOUDNESS_DB, LOUDNESS_REACH, gain, length_range

HARMONIUM = "harmonium"
"""Its name, which no caption of the collection has."""

_LEVELS = (0.7, 1.0, 0.8, 0.4, 0.25)
_SWELL_SECONDS = 0.2

WORDINGS = (
    "a harmonium playing {note}",
    "a harmonium, note {note}",
    "a harmonium at {note}",
    "{note} on a harmonium",
    "the note {note}, a harmonium",
    "a harmonium, {note}",
)


def harmonium(voice: Voice, grid: Grid) -> Array:
    """A free reed: its second and third harmonic are stronger than the first, and it speaks slowly."""
    k = harmonics_below(grid.top, voice.frequency)
    first = np.array(_LEVELS)[np.minimum(k, len(_LEVELS)).astype(int) - 1]
    levels = first * 10 ** (-3.0 / 20 * np.maximum(0.0, k - len(_LEVELS)))
    return swell(grid.times, _SWELL_SECONDS) * steady(voice, grid, 0.45 * levels)


def harmonium_notes(
    pitches: Sequence[int],
    *,
    seed: int,
    seconds: tuple[float, float],
    first_wording: int = 0,
    unseen: Sequence[int] = (),
) -> list[ClipDescription]:
    """A note of medium loudness and length of each pitch, with wordings in turn.

    Args:
        pitches: MIDI numbers.
        seed: of length, loudness, brightness and detuning.
        seconds: shortest and longest sound of the collection, between which the medium lengths lie.
        first_wording: number of the wording of the first note.
        unseen: pitches that count as held out.
    """
    rng = np.random.default_rng([seed, 4711])
    clips = []
    for number, midi in enumerate(pitches):
        decibels = LOUDNESS_DB["medium"] + LOUDNESS_REACH * float(rng.uniform(-1, 1))
        voice = Voice(
            frequency=note_frequency(midi + float(rng.uniform(-0.02, 0.02))),
            duration=float(rng.uniform(*length_range("medium", seconds))),
            loudness=gain(decibels),
            brightness=float(rng.uniform(-1, 1)),
            damping=float(rng.uniform(-1, 1)),
            seed=int(rng.integers(2**32)),
        )
        prompt = WORDINGS[(number + first_wording) % len(WORDINGS)].format(note=note_name(midi))
        clips.append(
            ClipDescription(HARMONIUM, (midi,), prompt, (voice,), "medium", "medium", False, midi in unseen)
        )
    return clips
