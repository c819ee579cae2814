"""The embedded collection: captioned clips rendered by closed formulas, so that no download is needed.

A clip is a pure function of (seed, split, index); sample rate and length only decide how it is sampled.
`describe` chooses its parameters, `sounds` are the formulas, `SyntheticDataset` renders it.
"""

from __future__ import annotations

from stable_audio.data.synthetic.dataset import SyntheticDataset
from stable_audio.data.synthetic.describe import ClipDescription, SoundClass, sound_classes
from stable_audio.data.synthetic.notes import LOWEST_PITCH, NUM_PITCHES, note_frequency, note_name

__all__ = [
    "LOWEST_PITCH",
    "NUM_PITCHES",
    "ClipDescription",
    "SoundClass",
    "SyntheticDataset",
    "note_frequency",
    "note_name",
    "sound_classes",
]
