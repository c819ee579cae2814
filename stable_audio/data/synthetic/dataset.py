"""The synthetic collection as a dataset."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stable_audio.audio.padding import PaddingMask
from stable_audio.data.base import ClipDataset, ItemFacts, ItemKey
from stable_audio.data.synthetic.describe import SPLITS, ClipDescription, describe, sound_classes
from stable_audio.data.synthetic.held_out import HELD_OUT_SHARE, HeldOut
from stable_audio.data.synthetic.notes import LOWEST_PITCH, NUM_PITCHES, note_name
from stable_audio.data.synthetic.rendering import render
from stable_audio.data.synthetic.sounds import SOUNDS
from stable_audio.options import Flat, takes_keywords
from stable_audio.types import Metadata

SECONDS = (0.3, 1.1)
"""Shortest and longest sound."""

FULL_SCALE = 32768.0
"""Clips have a resolution of 16 bits, which halves the memory of the cache."""


@dataclass(frozen=True)
class PitchRange:
    """Pitches of a collection.

    Attributes:
        lowest_pitch: MIDI number of the lowest pitch.
        num_pitches: number of pitches, in semitones upwards from the lowest.
    """

    lowest_pitch: int = LOWEST_PITCH
    num_pitches: int = NUM_PITCHES


class SyntheticDataset(ClipDataset):
    """`dataset_type: synthetic`: notes of nine timbres, drums and noises, with captions.

    Args:
        sample_rate: sample rate of the clips in Hz.
        sample_size: length of the clips in samples.
        audio_channels: channels of the clips, which are copies of one another.
        split: "train" or "val"; they share no clip, and held-out pairs occur in "val" only.
        num_clips: clips of this split; every 406 in a row (by default) contain every sound and pitch.
        seed: seed of the collection; another seed gives other clips of the same sounds.
        pitches: the pitches of the notes.
        held_out_share: share of the (timbre, pitch) pairs that never occur in "train".
        words: whether captions tell loudness, length and vibrato, and some clips are two notes; without them
            all clips are single notes and drums of medium loudness and length.
        detune_cents: greatest deviation from the exact pitch.
        seconds: shortest and longest sound, followed by silence; a sound longer than the clip ends in a fade.
        cache_megabytes: memory for a cache of rendered clips.
    """

    @takes_keywords
    def __init__(
        self,
        *,
        sample_rate: int,
        sample_size: int,
        audio_channels: int = 1,
        split: Literal["train", "val"] = "train",
        num_clips: int = 12180,
        seed: int = 0,
        pitches: Flat[PitchRange] = PitchRange(),
        held_out_share: float = HELD_OUT_SHARE,
        words: bool = True,
        detune_cents: float = 2.0,
        seconds: tuple[float, float] = SECONDS,
        cache_megabytes: int = 512,
    ) -> None:
        _check(split, num_clips, pitches.lowest_pitch, pitches.num_pitches, held_out_share, seconds)
        self.sample_rate = sample_rate
        self.sample_size = sample_size
        self.audio_channels = audio_channels
        self.split = split
        self.num_clips = num_clips
        self.seed = seed
        self.pitches = range(pitches.lowest_pitch, pitches.lowest_pitch + pitches.num_pitches)
        self.held_out = HeldOut(share=held_out_share, pitches=self.pitches)
        without = self.held_out if split == "train" else None
        self.words = words
        self.classes = sound_classes(self.pitches, without=without, sequences=words)
        self.detune_cents = detune_cents
        self.seconds = (float(seconds[0]), float(seconds[1]))
        self._cache: dict[int, NDArray[np.int16]] = {}
        self._cache_bytes = cache_megabytes * 2**20

    def __len__(self) -> int:
        return self.num_clips

    def clip(self, index: int) -> ClipDescription:
        """Description of the clip at `index`."""
        if not 0 <= index < self.num_clips:
            raise IndexError(f"clip {index} of {self.num_clips}")
        return describe(
            index,
            split=self.split,
            seed=self.seed,
            classes=self.classes,
            pitches=self.pitches,
            held_out=self.held_out,
            detune_cents=self.detune_cents,
            seconds=self.seconds,
            words=self.words,
        )

    def __getitem__(self, key: int | ItemKey) -> tuple[Tensor, Metadata]:
        """An index or an ItemKey -> audio (c n) float32 and its metadata. The key's seed is not used."""
        index = key if isinstance(key, int) else key.index
        clip = self.clip(index)
        audio = torch.zeros(self.audio_channels, self.sample_size)
        sounding = self._sounding(index, clip)
        audio[:, : len(sounding)] = torch.from_numpy(sounding.astype(np.float32) / np.float32(FULL_SCALE))
        return audio, self._metadata(index, clip)

    def stored_metadata(self, index: int) -> Metadata:
        return self._metadata(index, self.clip(index))

    def inspect(self, index: int, *, thorough: bool = True) -> ItemFacts:
        """Facts about one clip from its description, without rendering it: no clip can be damaged."""
        metadata = self.stored_metadata(index)
        seconds = float(metadata["seconds_total"])
        name = type(self).__name__
        return ItemFacts(name, seconds, self.sample_rate, self.audio_channels, "clip", True, metadata)

    def _sounding(self, index: int, clip: ClipDescription) -> NDArray[np.int16]:
        """Samples up to the end of the sound."""
        cached = self._cache.get(index)
        if cached is not None:
            return cached
        size = self._sounding_samples(clip)
        samples = render(
            SOUNDS[clip.timbre], *clip.voices, sample_rate=self.sample_rate, sample_size=self.sample_size
        )
        rendered = np.round(samples[:size] * FULL_SCALE).astype(np.int16)
        if rendered.nbytes <= self._cache_bytes:
            self._cache_bytes -= rendered.nbytes
            self._cache[index] = rendered
        return rendered

    def _sounding_samples(self, clip: ClipDescription) -> int:
        return min(self.sample_size, int(np.ceil(clip.seconds * self.sample_rate)))

    def _metadata(self, index: int, clip: ClipDescription) -> Metadata:
        return {
            "prompt": clip.prompt,
            "timbre": clip.timbre,
            "midi": clip.pitches[0] if clip.pitches else None,
            "pitch": " ".join(note_name(midi) for midi in clip.pitches) or None,
            "loudness": clip.loudness,
            "length": clip.length,
            "vibrato": clip.vibrato,
            "held_out": clip.held_out,
            "relpath": f"{self.split}/{index:06d}",
            "seconds_start": 0.0,
            "seconds_total": min(clip.seconds, self.sample_size / self.sample_rate),
            "timestamps": (0.0, 1.0),
            "padding_mask": PaddingMask(self._sounding_samples(clip), self.sample_size),
            "sample_rate": self.sample_rate,
        }


MOST_CLIPS = 100_000_000
"""Limit of num_clips: the order of an epoch is an array of all clips."""


def _check(
    split: str,
    num_clips: int,
    lowest_pitch: int,
    num_pitches: int,
    held_out_share: float,
    seconds: Sequence[float],
) -> None:
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
    if not 0 <= held_out_share <= 0.5:
        raise ValueError(f"held_out_share: found {held_out_share}, allowed are numbers from 0 to 0.5")
    if not 0.05 <= seconds[0] <= seconds[1]:
        raise ValueError(
            f"seconds: found {list(seconds)}, allowed is [shortest, longest] with 0.05 <= shortest"
        )
