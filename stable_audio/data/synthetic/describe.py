"""The description of a clip of the synthetic collection, as a pure function of three integers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import numpy as np

from stable_audio.data.synthetic.captions import caption
from stable_audio.data.synthetic.held_out import HeldOut
from stable_audio.data.synthetic.notes import note_frequency
from stable_audio.data.synthetic.pitched import PITCHED
from stable_audio.data.synthetic.rendering import Voice
from stable_audio.data.synthetic.sounds import CAN_VIBRATE, SUSTAINED
from stable_audio.data.synthetic.unpitched import UNPITCHED
from stable_audio.data.synthetic.words import (
    LENGTH_SHARES,
    LOUDNESS_DB,
    LOUDNESS_REACH,
    Length,
    Loudness,
    gain,
    length_range,
)

SPLITS: dict[str, int] = {"train": 0, "val": 1}

UNPITCHED_SHARE, SEQUENCE_SHARE = 6, 8
"""Clips of each unpitched sound, and of two notes of each timbre, per clip of each (timbre, pitch) pair."""

LARGEST_INTERVAL = 12
"""Semitones between the two notes of a sequence."""

ONSET_STEP = 0.02
"""The second onset is a multiple of this many seconds, a whole number of samples at usual rates."""

_VIBRATO_SHARE = 0.3
_WORDS: tuple[float, ...] = (0.3, 0.4, 0.3)
"""Shares of the two ends and the middle of loudness and length."""


class SoundClass(NamedTuple):
    """A kind of clip, which occurs in every round of the collection.

    Attributes:
        pitch: MIDI note number; None for unpitched sounds and sequences.
        notes: number of notes, 2 for a sequence of any two pitches.
    """

    timbre: str
    pitch: int | None
    notes: int


@dataclass(frozen=True)
class ClipDescription:
    """Description of a clip.

    Attributes:
        pitches: MIDI note numbers, one after the other; empty for unpitched sounds.
        voices: one voice per note.
        held_out: whether the clip has a (timbre, pitch) pair that never occurs in the train split.
    """

    timbre: str
    pitches: tuple[int, ...]
    prompt: str
    voices: tuple[Voice, ...]
    loudness: Loudness
    length: Length
    vibrato: bool
    held_out: bool

    @property
    def seconds(self) -> float:
        """Seconds from the beginning of the clip to the end of its last note."""
        return self.voices[-1].onset + self.voices[-1].duration


def sound_classes(
    pitches: Sequence[int], *, without: HeldOut | None = None, sequences: bool = True
) -> list[SoundClass]:
    """Every class in the order in which a split visits them, shuffled so that every part of it is varied.

    Args:
        pitches: MIDI numbers.
        without: pairs to omit.
        sequences: whether there are classes of two notes, too.
    """
    pitches_of = {timbre: _usable_pitches(timbre, pitches, without) for timbre in PITCHED}
    classes = [SoundClass(timbre, midi, 1) for timbre, midis in pitches_of.items() for midi in midis]
    if sequences:
        pairs = [SoundClass(t, None, 2) for t, midis in pitches_of.items() if len(midis) > 1]
        classes += pairs * SEQUENCE_SHARE
    classes += [SoundClass(timbre, None, 1) for timbre in UNPITCHED] * UNPITCHED_SHARE
    order = np.random.default_rng(0).permutation(len(classes))
    return [classes[i] for i in order]


def describe(
    index: int,
    *,
    split: str,
    seed: int,
    classes: Sequence[SoundClass],
    pitches: Sequence[int],
    held_out: HeldOut,
    detune_cents: float,
    seconds: tuple[float, float],
    words: bool = True,
) -> ClipDescription:
    """The clip at `index`. All classes are equally frequent; the rest depends on (seed, split, index).

    The splits draw their loudness from two disjoint grids, so no clip of one is in the other.
    """
    rng = np.random.default_rng([seed, SPLITS[split], index])
    timbre, pitch, notes = classes[index % len(classes)]
    loudness = _choice(rng, tuple(LOUDNESS_DB))
    loudness = loudness if words else "medium"
    loudness_step = 2 * int(rng.integers(2**20)) + SPLITS[split]
    loudness_db = LOUDNESS_DB[loudness] + LOUDNESS_REACH * (loudness_step / 2**20 - 1)
    length = _length(rng, timbre, notes)
    length = length if words else "medium"
    duration = float(rng.uniform(*length_range(length, seconds)))
    vibrato = (
        bool(rng.random() < _VIBRATO_SHARE) and notes < 2 and length != "short" and timbre in CAN_VIBRATE
    ) and words
    note_pitches: tuple[int, ...] = () if pitch is None else (pitch,)
    if notes > 1:
        note_pitches = _two_pitches(
            rng, _usable_pitches(timbre, pitches, held_out if split == "train" else None)
        )
    detune = rng.uniform(-detune_cents, detune_cents) / 100
    onset = ONSET_STEP * round(duration / 2 / ONSET_STEP)
    spans = [(0.0, onset), (onset, duration - onset)] if notes > 1 else [(0.0, duration)]
    brightness, damping = (float(v) for v in rng.uniform(-1, 1, 2))
    voices = tuple(
        Voice(
            frequency=note_frequency(note_pitches[number] + detune) if note_pitches else 0.0,
            duration=span,
            loudness=gain(loudness_db),
            brightness=brightness,
            damping=damping,
            seed=int(rng.integers(2**32)),
            vibrato=vibrato,
            onset=start,
        )
        for number, (start, span) in enumerate(spans)
    )
    prompt = caption(
        rng, timbre=timbre, pitches=note_pitches, loudness=loudness, length=length, vibrato=vibrato
    )
    is_held_out = any(held_out.holds(timbre, midi) for midi in note_pitches)
    return ClipDescription(timbre, note_pitches, prompt, voices, loudness, length, vibrato, is_held_out)


def _usable_pitches(timbre: str, pitches: Sequence[int], without: HeldOut | None) -> list[int]:
    return [midi for midi in pitches if without is None or not without.holds(timbre, midi)]


def _two_pitches(rng: np.random.Generator, pitches: Sequence[int]) -> tuple[int, int]:
    first = int(rng.choice(pitches))
    near = [midi for midi in pitches if 0 < abs(midi - first) <= LARGEST_INTERVAL]
    return first, int(rng.choice(near or [midi for midi in pitches if midi != first]))


def _length(rng: np.random.Generator, timbre: str, notes: int) -> Length:
    length = _choice(rng, tuple(LENGTH_SHARES))
    if notes > 1:
        return "long"
    return length if timbre in SUSTAINED else "medium"


_Word = TypeVar("_Word", Loudness, Length)


def _choice(rng: np.random.Generator, words: tuple[_Word, ...]) -> _Word:
    return words[int(rng.choice(len(words), p=_WORDS))]
