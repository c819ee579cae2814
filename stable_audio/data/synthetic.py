"""The embedded collection: captioned clips rendered by closed formulas, so that no download is needed.

A clip is a pure function of (seed, split, index); sample rate and length only decide how it is sampled.
`describe` chooses its parameters, `SyntheticDataset` renders it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from stable_audio.audio.padding import PaddingMask
from stable_audio.data.base import ClipDataset, ItemKey
from stable_audio.data.sounds import PITCHED, SOUNDS, UNPITCHED, Voice, render
from stable_audio.types import Metadata

NOTE_NAMES = ("C", "C#", "D", "D#", "E", "F", "F#", "G", "G#", "A", "A#", "B")

SPLITS: dict[str, int] = {"train": 0, "val": 1}

LOWEST_PITCH, NUM_PITCHES = 60, 12
"""The octave from C4."""

UNPITCHED_SHARE = 3
"""Clips of each unpitched sound per clip of each (timbre, pitch) pair."""

_NOUNS: dict[str, tuple[str, ...]] = {
    "sine": ("a sine wave", "a sine tone", "a pure sine"),
    "square": ("a square wave", "a square lead", "a hollow square"),
    "sawtooth": ("a sawtooth wave", "a sawtooth synth", "a buzzing sawtooth"),
    "organ": ("an organ", "an electric organ", "a drawbar organ"),
    "plucked string": ("a plucked string", "plucked string", "a string being plucked"),
    "bell": ("a bell", "a small bell", "a struck bell"),
}
_PITCHED_CAPTIONS = (
    "{noun} playing {note}",
    "{noun}, note {note}",
    "{noun} at {note}",
    "{note} on {noun}",
    "the note {note}, {noun}",
)
_UNPITCHED_CAPTIONS: dict[str, tuple[str, ...]] = {
    "kick": ("kick drum", "a kick", "a deep kick drum"),
    "snare": ("snare drum", "a snare", "a hit on the snare drum"),
    "hi-hat": ("hi-hat", "a closed hi-hat", "a short hi-hat"),
    "noise sweep": ("noise sweep", "a rising noise sweep", "a sweep of noise"),
}


@dataclass(frozen=True)
class Clip:
    """Description of a clip.

    Attributes:
        midi: MIDI note number; None for unpitched sounds.
    """

    timbre: str
    midi: int | None
    prompt: str
    voice: Voice


def note_name(midi: int) -> str:
    """MIDI number -> scientific pitch name with sharps: 60 -> "C4"."""
    return f"{NOTE_NAMES[midi % 12]}{midi // 12 - 1}"


def note_frequency(midi: float) -> float:
    """MIDI number -> Hz, equal temperament, A4 = 440."""
    return 440.0 * 2 ** ((midi - 69) / 12)


def sound_classes(lowest_pitch: int, num_pitches: int) -> list[tuple[str, int | None]]:
    """Every (timbre, midi) in the order in which a split visits them; unpitched ones occur several times."""
    pitches = range(lowest_pitch, lowest_pitch + num_pitches)
    classes: list[tuple[str, int | None]] = [(timbre, midi) for timbre in PITCHED for midi in pitches]
    return classes + [(timbre, None) for timbre in UNPITCHED] * UNPITCHED_SHARE


def describe(
    index: int,
    *,
    split: str,
    seed: int,
    classes: Sequence[tuple[str, int | None]],
    detune_cents: float,
    seconds: tuple[float, float],
) -> Clip:
    """The clip at `index`. All classes are equally frequent; the rest depends on (seed, split, index).

    The splits draw their loudness from two disjoint grids, so no clip of one is in the other.
    """
    rng = np.random.default_rng([seed, SPLITS[split], index])
    timbre, midi = classes[index % len(classes)]
    loudness_step = 2 * int(rng.integers(2**20)) + SPLITS[split]
    detune = rng.uniform(-detune_cents, detune_cents) / 100
    voice = Voice(
        frequency=note_frequency(midi + detune) if midi is not None else 0.0,
        duration=float(rng.uniform(*seconds)),
        loudness=0.3 + 0.3 * loudness_step / 2**21,
        brightness=float(rng.uniform(-1, 1)),
        damping=float(rng.uniform(-1, 1)),
        seed=int(rng.integers(2**32)),
    )
    return Clip(timbre, midi, _caption(timbre, midi, rng), voice)


def _caption(timbre: str, midi: int | None, rng: np.random.Generator) -> str:
    if midi is None:
        return str(rng.choice(_UNPITCHED_CAPTIONS[timbre]))
    noun = rng.choice(_NOUNS[timbre])
    return str(rng.choice(_PITCHED_CAPTIONS)).format(noun=noun, note=note_name(midi))


class SyntheticDataset(ClipDataset):
    """`dataset_type: synthetic`: notes of six timbres, drums and noise, with captions.

    Args:
        sample_rate: sample rate of the clips in Hz.
        sample_size: length of the clips in samples.
        audio_channels: channels of the clips, which are copies of one another.
        split: "train" or "val"; they share no clip.
        num_clips: clips of this split; every 84 in a row (at 12 pitches) contain every class.
        seed: seed of the collection; another seed gives other clips of the same classes.
        lowest_pitch: MIDI number of the lowest pitch.
        num_pitches: number of pitches, in semitones upwards from the lowest.
        detune_cents: greatest deviation from the exact pitch.
        seconds: shortest and longest sound, followed by silence; a sound longer than the clip ends in a fade.
        cache_megabytes: memory for a cache of rendered clips.
    """

    def __init__(
        self,
        *,
        sample_rate: int,
        sample_size: int,
        audio_channels: int = 1,
        split: Literal["train", "val"] = "train",
        num_clips: int = 5040,
        seed: int = 0,
        lowest_pitch: int = LOWEST_PITCH,
        num_pitches: int = NUM_PITCHES,
        detune_cents: float = 2.0,
        seconds: tuple[float, float] = (0.5, 0.9),
        cache_megabytes: int = 256,
    ) -> None:
        _check(split, num_clips, lowest_pitch, num_pitches, seconds)
        self.sample_rate = sample_rate
        self.sample_size = sample_size
        self.audio_channels = audio_channels
        self.split = split
        self.num_clips = num_clips
        self.seed = seed
        self.classes = sound_classes(lowest_pitch, num_pitches)
        self.detune_cents = detune_cents
        self.seconds = (float(seconds[0]), float(seconds[1]))
        self._cache: dict[int, Tensor] = {}
        self._cache_items = cache_megabytes * 2**20 // (4 * sample_size)

    def __len__(self) -> int:
        return self.num_clips

    def clip(self, index: int) -> Clip:
        """Description of the clip at `index`."""
        if not 0 <= index < self.num_clips:
            raise IndexError(f"clip {index} of {self.num_clips}")
        return describe(
            index,
            split=self.split,
            seed=self.seed,
            classes=self.classes,
            detune_cents=self.detune_cents,
            seconds=self.seconds,
        )

    def __getitem__(self, key: int | ItemKey) -> tuple[Tensor, Metadata]:
        """An index or an ItemKey -> audio (c n) float32 and its metadata. The key's seed is not used."""
        index = key if isinstance(key, int) else key.index
        clip = self.clip(index)
        audio = self._render(index, clip).expand(self.audio_channels, -1).clone()
        return audio, self._metadata(index, clip)

    def _render(self, index: int, clip: Clip) -> Tensor:
        cached = self._cache.get(index)
        if cached is not None:
            return cached
        samples = render(
            SOUNDS[clip.timbre], clip.voice, sample_rate=self.sample_rate, sample_size=self.sample_size
        )
        audio = torch.from_numpy(samples.astype(np.float32)).unsqueeze(0)
        if len(self._cache) < self._cache_items:
            self._cache[index] = audio
        return audio

    def _metadata(self, index: int, clip: Clip) -> Metadata:
        real = min(self.sample_size, int(np.ceil(clip.voice.duration * self.sample_rate)))
        return {
            "prompt": clip.prompt,
            "timbre": clip.timbre,
            "midi": clip.midi,
            "pitch": note_name(clip.midi) if clip.midi is not None else None,
            "relpath": f"{self.split}/{index:06d}",
            "seconds_start": 0.0,
            "seconds_total": min(clip.voice.duration, self.sample_size / self.sample_rate),
            "timestamps": (0.0, 1.0),
            "padding_mask": PaddingMask(real, self.sample_size),
            "sample_rate": self.sample_rate,
        }


MOST_CLIPS = 100_000_000
"""Limit of num_clips: the order of an epoch is an array of all clips."""


def _check(split: str, num_clips: int, lowest_pitch: int, num_pitches: int, seconds: Sequence[float]) -> None:
    if split not in SPLITS:
        raise ValueError(f"split: found {split!r}, allowed are {list(SPLITS)}")
    if num_clips < 1:
        raise ValueError(f"num_clips: found {num_clips}, it must be at least 1")
    if num_clips > MOST_CLIPS:
        raise ValueError(f"num_clips: found {num_clips}, it must be at most {MOST_CLIPS}")
    if not (num_pitches >= 1 and lowest_pitch >= 12 and lowest_pitch + num_pitches <= 120):
        raise ValueError(
            f"lowest_pitch, num_pitches: found {lowest_pitch}, {num_pitches}; notes must lie in MIDI 12..119"
        )
    if not 0.05 <= seconds[0] <= seconds[1]:
        raise ValueError(
            f"seconds: found {list(seconds)}, allowed is [shortest, longest] with 0.05 <= shortest"
        )
