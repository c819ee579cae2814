"""Names and frequencies of notes."""

from __future__ import annotations

NOTE_NAMES = ("C", "C#", "D", "D#", "E", "F", "F#", "G", "G#", "A", "A#", "B")

LOWEST_PITCH, NUM_PITCHES = 48, 36
"""Three octaves, C3 to B5, by MIDI number."""


def note_name(midi: int) -> str:
    """MIDI number -> scientific pitch name with sharps: 60 -> "C4"."""
    return f"{NOTE_NAMES[midi % 12]}{midi // 12 - 1}"


def note_frequency(midi: float) -> float:
    """MIDI number -> Hz, equal temperament, A4 = 440."""
    return 440.0 * 2 ** ((midi - 69) / 12)
