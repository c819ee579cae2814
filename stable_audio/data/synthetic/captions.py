"""Captions of the synthetic collection: short, and in several wordings."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from stable_audio.data.synthetic.notes import note_name
from stable_audio.data.synthetic.words import LENGTH_WORDS, LOUDNESS_WORDS, VIBRATO, Length, Loudness

MOST_CHARACTERS = 46
"""Longest caption; with begin and end tokens it fits into 48 bytes."""

NOUNS: dict[str, tuple[str, ...]] = {
    "sine": ("sine wave", "sine tone", "pure sine"),
    "square": ("square wave", "square lead", "hollow square"),
    "sawtooth": ("sawtooth wave", "sawtooth synth", "sawtooth"),
    "organ": ("organ", "electric organ", "drawbar organ"),
    "flute": ("flute", "wooden flute", "breathy flute"),
    "brass": ("brass horn", "trumpet", "brass section"),
    "plucked string": ("plucked string", "guitar string", "plucked guitar"),
    "bell": ("bell", "small bell", "struck bell"),
    "marimba": ("marimba", "wooden marimba", "marimba bar"),
    "kick": ("kick drum", "kick", "deep kick drum"),
    "tom": ("tom", "tom drum", "floor tom"),
    "snare": ("snare drum", "snare", "hit on the snare"),
    "clap": ("clap", "hand clap", "clap of hands"),
    "hi-hat": ("hi-hat", "closed hi-hat", "tight hi-hat"),
    "cymbal": ("cymbal", "crash cymbal", "ringing cymbal"),
    "noise sweep": ("noise sweep", "rising noise sweep", "sweep of noise"),
}

_ONE_NOTE = (
    "{noun} playing {notes}{vibrato}",
    "{noun}, note {notes}{vibrato}",
    "{noun} at {notes}{vibrato}",
    "{notes} on {noun}{vibrato}",
    "the note {notes}, {noun}{vibrato}",
    "{noun}, {notes}{vibrato}",
)
_TWO_NOTES = ("{notes} on {noun}", "{noun}: {notes}", "{noun}, {notes}", "{noun} playing {notes}")

_SHARE_WITHOUT_ARTICLE = 0.3


def caption(
    rng: np.random.Generator,
    *,
    timbre: str,
    pitches: Sequence[int],
    loudness: Loudness,
    length: Length,
    vibrato: bool,
) -> str:
    """A random wording. It does not mention the `length` of two notes, which are always long."""
    words = [str(rng.choice(LOUDNESS_WORDS[loudness]))]
    words.append(str(rng.choice(LENGTH_WORDS[length])) if len(pitches) < 2 else "")
    if rng.random() < 0.5:
        words.reverse()
    noun = " ".join(word for word in (*words, str(rng.choice(NOUNS[timbre]))) if word)
    if rng.random() >= _SHARE_WITHOUT_ARTICLE:
        noun = f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"
    if not pitches:
        return noun
    notes = " then ".join(note_name(midi) for midi in pitches)
    wordings = _TWO_NOTES if len(pitches) > 1 else _ONE_NOTE
    suffix = f" {VIBRATO}" if vibrato else ""
    texts = [wording.format(noun=noun, notes=notes, vibrato=suffix) for wording in wordings]
    return str(rng.choice([text for text in texts if len(text) <= MOST_CHARACTERS]))
