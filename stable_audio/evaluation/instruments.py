"""Tell instruments apart by a small network that learns from recorded notes alone.

It hears a note as its level in bands of a quarter octave in five parts of its time: the pattern of the
partials, how it begins and how it decays. The level of the whole note is left out.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from stable_audio.data.synthetic import note_frequency
from stable_audio.evaluation.listening.bands import band_edges
from stable_audio.evaluation.listening.limits import PITCH_SEMITONES
from stable_audio.evaluation.listening.spectra import decibels, spectrum
from stable_audio.evaluation.pitch import Array, detect_pitch, semitones_between

PARTS = ((0.0, 0.05), (0.05, 0.15), (0.15, 0.4), (0.4, 0.8), (0.8, 1.2))
"""Start and end in seconds of the parts of a note that are listened to."""

BANDS_PER_OCTAVE = 4.0
FLOOR = -50.0
"""dB below the strongest band; what is weaker counts as this weak."""

SPREAD = 3.0
"""Standard deviation in dB by which each level is shifted anew at each step of the training."""


def fingerprint(samples: Array, sample_rate: int) -> Tensor:
    """Levels of mono audio (n,) in all bands of all parts, in [-1, 0], FLOOR as -1 -> (parts * bands,)."""
    edges = band_edges(sample_rate, BANDS_PER_OCTAVE)
    power = np.array([spectrum(samples, sample_rate, *part).between(edges[:-1], edges[1:]) for part in PARTS])
    levels = np.maximum(FLOOR, decibels(power, max(float(power.max()), 1e-12)))
    return torch.from_numpy(levels.ravel() / -FLOOR).float()


class InstrumentClassifier(nn.Module):
    """Names the instrument of a note.

    Args:
        instruments: names of the instruments.
        sample_rate: sample rate of the notes in Hz.
        width: units of each of the two hidden layers.
    """

    def __init__(self, *, instruments: Sequence[str], sample_rate: int, width: int = 128) -> None:
        super().__init__()
        self.instruments, self.sample_rate = tuple(instruments), sample_rate
        inputs = len(PARTS) * (len(band_edges(sample_rate, BANDS_PER_OCTAVE)) - 1)
        self.layers = nn.Sequential(
            nn.Linear(inputs, width),
            nn.SiLU(),
            nn.Linear(width, width),
            nn.SiLU(),
            nn.Linear(width, len(self.instruments)),
        )

    def forward(self, fingerprints: Tensor) -> Tensor:
        """fingerprints (k, inputs) -> logits (k, instruments)."""
        logits: Tensor = self.layers(fingerprints)
        return logits

    @torch.no_grad()
    def hear(self, notes: Sequence[Array]) -> list[str]:
        """The name of the instrument of each note (n,)."""
        heard = torch.stack([fingerprint(note, self.sample_rate) for note in notes])
        return [self.instruments[i] for i in self(heard).argmax(dim=1)]


class InstrumentPanel:
    """Classifiers of the same notes with other random numbers; the mean of their log-probabilities decides.

    What one of them says of notes unlike those that it has learned from is partly chance.

    Args:
        members: the classifiers.
    """

    def __init__(self, members: Sequence[InstrumentClassifier]) -> None:
        self.members = tuple(members)
        self.instruments, self.sample_rate = members[0].instruments, members[0].sample_rate

    @torch.no_grad()
    def hear(self, notes: Sequence[Array]) -> list[str]:
        """The name of the instrument of each note (n,)."""
        heard = torch.stack([fingerprint(note, self.sample_rate) for note in notes])
        means = torch.stack([member(heard).log_softmax(dim=1) for member in self.members]).mean(dim=0)
        return [self.instruments[i] for i in means.argmax(dim=1)]


def learn_instruments(
    notes: Sequence[Array], names: Sequence[str], *, sample_rate: int, steps: int = 600, seed: int = 0
) -> InstrumentClassifier:
    """Train a classifier on notes (n,) and the names of their instruments.

    AdamW on all notes at once; the same notes and seed give the same classifier.
    """
    panel = learn_panel(notes, names, sample_rate=sample_rate, seeds=(seed,), steps=steps)
    return panel.members[0]


def learn_panel(
    notes: Sequence[Array],
    names: Sequence[str],
    *,
    sample_rate: int,
    seeds: Sequence[int] = range(5),
    spread: float = SPREAD,
    steps: int = 600,
) -> InstrumentPanel:
    """Train a classifier with each seed.

    Args:
        notes: each (n,).
        names: of their instruments.
        sample_rate: of the notes in Hz.
        seeds: of first weights and shifts.
        spread: standard deviation in dB by which each level is shifted anew at each step; a greater one makes
            classifiers that expect levels to be off, as those of decoded notes are.
        steps: of AdamW, on all notes at once.
    """
    instruments = sorted(set(names))
    inputs = torch.stack([fingerprint(note, sample_rate) for note in notes])
    labels = torch.tensor([instruments.index(name) for name in names])
    members = []
    for seed in seeds:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = InstrumentClassifier(instruments=instruments, sample_rate=sample_rate)
            _learn(model, inputs, labels, spread=spread, steps=steps)
        members.append(model.eval())
    return InstrumentPanel(members)


def _learn(model: nn.Module, inputs: Tensor, labels: Tensor, *, spread: float, steps: int) -> None:
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.01)
    for _ in range(steps):
        shifted = (inputs + spread / -FLOOR * torch.randn_like(inputs)).clamp(-1, 0)
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(shifted), labels).backward()
        optimizer.step()


def has_pitch(note: Array, recording: Array, midi: int, sample_rate: int) -> bool:
    """Whether a note (n,) sounds within half a semitone of its MIDI pitch, or of where its recording does.

    The fundamental of a recorded instrument can be too weak to be heard; then both sound an octave higher.
    """
    heard, recorded = detect_pitch(note, sample_rate), detect_pitch(recording, sample_rate)
    right = [f for f in (note_frequency(midi), recorded) if f is not None]
    return heard is not None and any(abs(semitones_between(heard, f)) <= PITCH_SEMITONES for f in right)
