"""The pitch detector against tones whose pitch is known by construction."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stable_audio.data.synthetic.pitched import PITCHED
from stable_audio.data.synthetic.rendering import Voice, render
from stable_audio.evaluation.pitch import detect_pitch, semitones_between, sounding_part

RATE = 8000


@settings(max_examples=60, deadline=None)
@given(
    name=st.sampled_from(sorted(PITCHED)),
    midi=st.floats(48, 84),
    loudness=st.floats(0.02, 1.0),
    duration=st.floats(0.3, 0.9),
    brightness=st.floats(-1, 1),
    noise_db=st.floats(-90, -20),
)
def test_within_a_quarter_of_a_semitone(name, midi, loudness, duration, brightness, noise_db) -> None:
    frequency = 440 * 2 ** ((midi - 69) / 12)
    voice = Voice(frequency, duration, loudness, brightness, damping=0.0, seed=0)
    samples = render(PITCHED[name], voice, sample_rate=RATE, sample_size=RATE)
    samples += samples.std() * 10 ** (noise_db / 20) * np.random.default_rng(0).standard_normal(RATE)
    found = detect_pitch(samples, RATE)
    assert found is not None
    assert abs(semitones_between(found, frequency)) < 0.25


def test_another_rate_and_an_offset_in_time() -> None:
    samples = np.zeros(22050)
    samples[5000:15000] = 0.3 * np.sin(2 * np.pi * 330 * np.arange(10000) / 22050)
    assert detect_pitch(samples, 22050) == pytest.approx(330, abs=0.5)


@pytest.mark.parametrize("samples", [np.zeros(4000), np.zeros(0), 1e-4 * np.ones(4000)])
def test_silence_has_no_pitch(samples) -> None:
    assert detect_pitch(samples, RATE) is None


def test_noise_has_a_pitch_by_chance_only() -> None:
    rng = np.random.default_rng(1)
    found = [detect_pitch(rng.standard_normal(RATE), RATE) for _ in range(100)]
    near = [f is not None and abs(semitones_between(f, 440)) < 0.5 for f in found]
    assert np.mean(near) < 0.1


def test_sounding_part_drops_quiet_ends() -> None:
    samples = np.concatenate([np.full(10, 1e-5), np.ones(5), np.full(7, 1e-3)])
    assert len(sounding_part(samples)) == 5
