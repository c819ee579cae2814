"""Rendered clips with one thing wrong, which the evaluator has to find."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from stable_audio.data.synthetic import ClipDescription, SyntheticDataset
from stable_audio.data.synthetic.pitched import STEADY
from stable_audio.data.synthetic.rendering import Array, render
from stable_audio.data.synthetic.sounds import SOUNDS
from stable_audio.evaluation.listening.partials import ratios
from stable_audio.evaluation.listening.references import References
from stable_audio.evaluation.listening.verdict import judge

CUTOFF = 1500.0
"""Hz."""

AUDIBLE = -25.0
"""dB; weaker partials are not removed."""


def shares(rate: int, size: int, *, seed: int, count: int) -> dict[str, float]:
    """Share of rendered clips that are right, and for each kind of fault the share that is found."""
    clips, references, rng = collection(rate, size, seed), References(rate), np.random.default_rng(0)
    verdicts: dict[str, list[bool]] = {}
    for index in range(count):
        samples, clip = rendered(clips, index)
        verdict = judge(samples, clip, references, sample_size=size)
        verdicts.setdefault("rendered", []).append(verdict.right and not verdict.defects)
        for fault, spoilt in faults(samples, clip, references, rng, size):
            verdict = judge(spoilt, clip, references, sample_size=size)
            verdicts.setdefault(fault, []).append(not verdict.right or bool(verdict.defects))
    return {name: sum(flags) / len(flags) for name, flags in verdicts.items()}


def faults(
    samples: Array, clip: ClipDescription, references: References, rng: np.random.Generator, size: int
) -> Iterator[tuple[str, Array]]:
    """Every fault that suits a clip, by its name."""
    rate = references.sample_rate
    yield "clipped", clipped(samples, 6.0)
    if clip.pitches:
        yield "detuned", resounded(clip, rate, size, cents=70.0 * rng.choice([-1, 1]))
    if len(clip.pitches) == 1:
        at, level = levels(clip, references)
        yield "partial", without_partial(samples, rate, rng.choice(at[level > AUDIBLE]))
        if (level[at > 1.2 * CUTOFF] > AUDIBLE).any():
            yield "filtered", low_passed(samples, rate, CUTOFF)
    if clip.timbre in STEADY:
        others = [timbre for timbre in STEADY if timbre != clip.timbre]
        yield "timbre", resounded(clip, rate, size, timbre=str(rng.choice(others)))


def rendered(collection: SyntheticDataset, index: int) -> tuple[Array, ClipDescription]:
    return collection[index][0][0].double().numpy(), collection.clip(index)


def collection(rate: int, size: int, seed: int) -> SyntheticDataset:
    return SyntheticDataset(sample_rate=rate, sample_size=size, split="val", num_clips=10_000, seed=seed)


def resounded(
    clip: ClipDescription,
    rate: int,
    size: int,
    *,
    timbre: str | None = None,
    cents: float = 0.0,
    vibrato: bool | None = None,
) -> Array:
    """The clip with another timbre, out of tune, or with vibrato or none."""
    vibrato = clip.vibrato if vibrato is None else vibrato
    voices = [replace(v, frequency=v.frequency * 2 ** (cents / 1200), vibrato=vibrato) for v in clip.voices]
    return render(SOUNDS[timbre or clip.timbre], *voices, sample_rate=rate, sample_size=size)


def levels(clip: ClipDescription, references: References) -> tuple[Array, Array]:
    """Frequencies of a note's partials and their greatest level in any segment, as rendered."""
    (voice,), (midi,) = clip.voices, clip.pitches
    note = references.note(clip.timbre, midi, vibrato=clip.vibrato)
    at = ratios(clip.timbre, voice.frequency, references.sample_rate) * voice.frequency
    return at, note.partials(voice.duration)[0].max(axis=0)[: len(at)]


def without_partial(samples: Array, rate: int, frequency: float) -> Array:
    """All within 5% of a frequency removed."""
    spectrum = np.fft.rfft(samples)
    at = np.fft.rfftfreq(len(samples), 1 / rate)
    spectrum[np.abs(at - frequency) < min(0.05 * frequency, 60.0)] = 0
    return np.fft.irfft(spectrum, len(samples))


def low_passed(samples: Array, rate: int, cutoff: float) -> Array:
    """By 24 dB per octave above the cutoff."""
    at = np.fft.rfftfreq(len(samples), 1 / rate)
    return np.fft.irfft(np.fft.rfft(samples) / np.sqrt(1 + (at / cutoff) ** 8), len(samples))


def clipped(samples: Array, decibels: float) -> Array:
    """Cut this far below its peak."""
    edge = float(np.abs(samples).max()) * 10 ** (-decibels / 20)
    return np.clip(samples, -edge, edge)
