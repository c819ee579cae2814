"""Is a clip what it was asked to be?"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np

from stable_audio.data.synthetic.describe import ClipDescription
from stable_audio.data.synthetic.words import LOUDNESS_DB
from stable_audio.evaluation.listening import limits
from stable_audio.evaluation.listening.bands import band_levels, share_outside
from stable_audio.evaluation.listening.defects import flat_top_share, has_clicks, has_quiet_tail
from stable_audio.evaluation.listening.envelope import end_fits, envelope, level
from stable_audio.evaluation.listening.notes import NoteVerdict, judge_note
from stable_audio.evaluation.listening.references import References
from stable_audio.evaluation.listening.vibrato import vibrato_cents
from stable_audio.evaluation.pitch import Array

POOR = "poor"
"""Heard as: the sound that was asked for more than any other, but not within its limits."""

_VIBRATO_SECONDS = 0.5
"""Shorter notes have no vibrato that could be told."""

DEFECTS = ("clipped", "clicks", "noisy", "noisy tails", "wrong length")


@dataclass(frozen=True)
class Verdict:
    """What is heard of one clip.

    Attributes:
        pitch: whether every note has its pitch; None for unpitched sounds.
        timbre: whether it is the sound that was asked for.
        heard_as: the sound that it is, or is nearest to; POOR for a poor one of what was asked for.
        loudness: whether its level is that of the word.
        length: whether it ends when it should.
        vibrato: whether there is vibrato if and only if asked for; None where that cannot be told.
        defects: names of DEFECTS.
        peak: largest absolute sample.
    """

    pitch: bool | None
    timbre: bool
    heard_as: str
    loudness: bool
    length: bool
    vibrato: bool | None
    defects: frozenset[str]
    peak: float

    @property
    def right(self) -> bool:
        """Whether everything asked for is there."""
        return all(
            v is not False for v in (self.pitch, self.timbre, self.loudness, self.length, self.vibrato)
        )

    def as_dict(self) -> dict[str, object]:
        """Plain values, for JSON."""
        return {**asdict(self), "defects": sorted(self.defects), "right": self.right}


def judge(samples: Array, clip: ClipDescription, references: References, *, sample_size: int) -> Verdict:
    """Compare mono audio (n,) with the description that it answers."""
    rate = references.sample_rate
    whole, samples = len(samples) == sample_size, _fitted(samples, sample_size)
    expected, rendered = _expected(clip, references, sample_size)
    notes, seconds = _notes(samples, clip, references), _end(clip, sample_size, rate)
    if notes:
        timbre = all(note.timbre for note in notes)
    else:
        drum = references.drum(clip.timbre, seconds)
        heard = band_levels(samples[: int(np.ceil(seconds * rate))], rate, seconds)
        timbre = share_outside(heard, drum.lowest, drum.highest) <= limits.BANDS_OUTSIDE
    loudness = level(samples, rate) - level(expected, rate) - LOUDNESS_DB[clip.loudness]
    return Verdict(
        pitch=all(note.pitch for note in notes) if notes else None,
        timbre=timbre,
        heard_as=clip.timbre if timbre else _heard_as(samples, clip, notes, references),
        loudness=bool(abs(loudness) <= _half_step()),
        length=end_fits(envelope(samples, rate), envelope(expected, rate)),
        vibrato=_vibrato(samples, clip, notes, sample_size, rate),
        defects=frozenset(
            name
            for name, present in {
                "clipped": _is_clipped(samples, rendered, rate),
                "clicks": has_clicks(samples, rendered, rate),
                "noisy": any(note.noisy for note in notes),
                "noisy tails": not has_quiet_tail(samples, rate, seconds),
                "wrong length": not whole,
            }.items()
            if present
        ),
        peak=float(np.abs(samples).max()),
    )


def _fitted(samples: Array, size: int) -> Array:
    return np.pad(samples[:size], (0, max(0, size - len(samples))))


def _end(clip: ClipDescription, sample_size: int, rate: int) -> float:
    return min(clip.seconds, sample_size / rate)


def _expected(clip: ClipDescription, references: References, sample_size: int) -> tuple[Array, list[Array]]:
    """The clip as rendered at a gain of one, (n,), and all sounds that limit its jumps and peaks."""
    rate = references.sample_rate
    if not clip.pitches:
        drum = references.drum(clip.timbre, _end(clip, sample_size, rate))
        return _fitted(drum.clips[0], sample_size), [_fitted(c, sample_size) for c in drum.clips]
    expected = np.zeros(sample_size)
    for voice, midi in zip(clip.voices, clip.pitches):
        first = round(voice.onset * rate)
        seconds = min(voice.duration, sample_size / rate - voice.onset)
        if seconds > 0:
            part = references.note(clip.timbre, midi, vibrato=clip.vibrato).lasting(seconds)
            expected[first : first + len(part)] += part[: sample_size - first]
    return expected, [expected]


def _notes(samples: Array, clip: ClipDescription, references: References) -> list[NoteVerdict]:
    rate, verdicts = references.sample_rate, []
    for voice, midi in zip(clip.voices, clip.pitches):
        part = samples[round(voice.onset * rate) :]
        seconds = min(voice.duration, len(part) / rate)
        verdicts.append(
            judge_note(part, references, timbre=clip.timbre, midi=midi, seconds=seconds, vibrato=clip.vibrato)
        )
    return verdicts


def _heard_as(samples: Array, clip: ClipDescription, notes: list[NoteVerdict], references: References) -> str:
    """The nearest sound to the first note."""
    first = samples
    if len(clip.voices) > 1:
        first = samples[: round(clip.voices[1].onset * references.sample_rate)]
    nearest = references.nearest(first, notes[0].midi if notes else 60)
    return POOR if nearest == clip.timbre else nearest


def _vibrato(
    samples: Array, clip: ClipDescription, notes: list[NoteVerdict], sample_size: int, rate: int
) -> bool | None:
    seconds = _end(clip, sample_size, rate)
    if len(notes) != 1 or seconds < _VIBRATO_SECONDS:
        return None
    if notes[0].frequency is None:
        return False
    cents = vibrato_cents(samples, rate, notes[0].frequency, seconds)
    return (cents >= limits.VIBRATO_CENTS) == clip.vibrato


def _is_clipped(samples: Array, rendered: list[Array], rate: int) -> bool:
    # Only drums have more than one rendering.
    more = limits.FLAT_TOP_SHARE_OF_DRUMS if len(rendered) > 1 else limits.FLAT_TOP_SHARE
    allowed = max(flat_top_share(r, rate) for r in rendered) + more
    return bool(np.abs(samples).max() > 1 or flat_top_share(samples, rate) > allowed)


def _half_step() -> float:
    levels = sorted(LOUDNESS_DB.values())
    return min(np.diff(levels)) / 2
