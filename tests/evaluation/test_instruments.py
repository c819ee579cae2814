"""The classifier of instruments learns from recordings alone and hears others right, whatever their level."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from stable_audio.data.synthetic.pitched import PITCHED
from stable_audio.data.synthetic.rendering import Voice, render
from stable_audio.evaluation.instruments import (
    FLOOR,
    PARTS,
    fingerprint,
    has_pitch,
    learn_instruments,
    learn_panel,
)

RATE = 16_000
TIMBRES = ("bell", "organ", "sawtooth", "square")


def note(timbre: str, midi: int, *, loudness: float = 0.3, brightness: float = 0.0) -> np.ndarray:
    frequency = 440 * 2 ** ((midi - 69) / 12)
    voice = Voice(frequency, 1.0, loudness, brightness, damping=0.0, seed=0)
    return render(PITCHED[timbre], voice, sample_rate=RATE, sample_size=int(1.2 * RATE))


@pytest.fixture(scope="module")
def classifier():
    pairs = [(timbre, midi) for timbre in TIMBRES for midi in range(48, 72, 2)]
    return learn_instruments(
        [note(*pair) for pair in pairs], [t for t, _ in pairs], sample_rate=RATE, steps=150
    )


def test_notes_that_it_never_heard(classifier) -> None:
    pairs = [(timbre, midi) for timbre in TIMBRES for midi in range(49, 71, 4)]
    heard = classifier.hear([note(t, m, loudness=0.05, brightness=1.0) for t, m in pairs])
    assert heard == [t for t, _ in pairs]


def test_a_sawtooth_without_its_even_partials_is_a_square(classifier) -> None:
    spoilt = note("sawtooth", 57)
    spectrum, step = np.fft.rfft(spoilt), RATE / len(spoilt)
    for partial in range(2, 36, 2):
        spectrum[round((partial - 0.4) * 220 / step) : round((partial + 0.4) * 220 / step)] = 0
    assert classifier.hear([note("sawtooth", 57), np.fft.irfft(spectrum, len(spoilt))]) == [
        "sawtooth",
        "square",
    ]


def test_the_same_notes_give_the_same_classifier() -> None:
    notes = [note(timbre, midi) for timbre in ("bell", "organ") for midi in (50, 60)]
    state = torch.get_rng_state()
    first, second = (
        learn_instruments(notes, ["bell", "bell", "organ", "organ"], sample_rate=RATE, steps=3)
        for _ in range(2)
    )
    assert torch.equal(torch.get_rng_state(), state), "whoever draws numbers afterwards draws the same"
    for a, b in zip(first.parameters(), second.parameters()):
        torch.testing.assert_close(a, b)


def test_a_panel_decides_by_the_mean_of_its_members() -> None:
    pairs = [(timbre, midi) for timbre in TIMBRES for midi in (50, 60)]
    notes, names = [note(*pair) for pair in pairs], [timbre for timbre, _ in pairs]
    panel = learn_panel(notes, names, sample_rate=RATE, seeds=(0, 1, 2), spread=10.0, steps=3)
    alone = learn_instruments(notes, names, sample_rate=RATE, steps=3, seed=1)
    narrow = learn_panel(notes, names, sample_rate=RATE, seeds=(1,), steps=3).members[0]
    for a, b, c in zip(*(member.parameters() for member in (panel.members[1], alone, narrow))):
        torch.testing.assert_close(b, c)
        assert not torch.equal(a, b), "the greater spread makes another classifier"
    inputs = torch.stack([fingerprint(n, RATE) for n in notes])
    logits = torch.stack([member(inputs) for member in panel.members]).double()
    chances = (logits.exp() / logits.exp().sum(dim=2, keepdim=True)).log().mean(dim=0)
    expected = [panel.instruments[int(i)] for i in chances.argmax(dim=1)]
    assert panel.hear(notes) == expected
    singles = [[panel.instruments[int(i)] for i in member(inputs).argmax(dim=1)] for member in panel.members]
    assert any(single != expected for single in singles), "so that the mean is not that of one alone"


def test_levels_are_relative_to_the_strongest_band() -> None:
    quiet, loud = (fingerprint(note("organ", 60, loudness=x), RATE) for x in (0.01, 0.5))
    # 1e-12 stands beside powers of at least 1e-6 where a band counts.
    torch.testing.assert_close(quiet, loud, atol=1e-3, rtol=0)
    assert loud.max() == 0
    assert loud.min() == -1


def test_each_part_of_the_time_has_its_bands() -> None:
    """A tone that starts late is silent in the parts before it, and 20 dB less is 20 dB of FLOOR less."""
    time = np.arange(int(1.2 * RATE)) / RATE
    samples = np.sin(2 * math.pi * 500 * time) * np.select([time < 0.15, time < 0.4], [0.0, 1.0], 0.1)
    levels = fingerprint(samples, RATE).view(len(PARTS), -1).amax(dim=1)
    assert levels[:2].tolist() == [-1, -1]
    assert levels[2] == 0
    assert levels[3].item() == pytest.approx(20 / FLOOR, abs=0.002)


def test_silence_has_a_fingerprint_of_its_own() -> None:
    assert torch.isfinite(fingerprint(np.zeros(RATE), RATE)).all()


@pytest.mark.parametrize(
    ("semitones", "right"), [(0, True), (0.4, True), (0.6, False), (12, False), (-1, False)]
)
def test_half_a_semitone(semitones: float, right: bool) -> None:
    recording = note("organ", 60)
    heard = note("organ", 60 + semitones)  # type: ignore[arg-type]
    assert has_pitch(heard, recording, 60, RATE) is right


def test_a_recording_that_sounds_an_octave_higher_tells_where_the_note_is() -> None:
    weak = note("sine", 72) + 1e-3 * note("sine", 60)
    assert has_pitch(weak, weak, 60, RATE)
    assert has_pitch(note("sine", 60), weak, 60, RATE)
    assert not has_pitch(note("sine", 67), weak, 60, RATE)
    assert not has_pitch(np.zeros(RATE), weak, 60, RATE)
