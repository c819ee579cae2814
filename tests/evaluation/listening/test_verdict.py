"""Verdicts on clips with one thing wrong, on the same clips as rendered, and on changes that nobody hears."""

from __future__ import annotations

import numpy as np
import pytest

from stable_audio.data.synthetic import SyntheticDataset
from stable_audio.evaluation.listening.notes import note_pitch
from stable_audio.evaluation.listening.references import References
from stable_audio.evaluation.listening.verdict import DEFECTS, POOR, Verdict, judge
from tests.evaluation.listening import spoiling

RATE, SIZE = 22050, 27648
SEED = 404
"""Of clips that share nothing with the references."""


@pytest.fixture(scope="module")
def references() -> References:
    return References(RATE)


@pytest.fixture(scope="module")
def clips() -> SyntheticDataset:
    return spoiling.collection(RATE, SIZE, SEED)


def one(clips: SyntheticDataset, timbre: str, notes: int = 1, **wanted) -> int:
    """The first clip of a timbre with these properties."""
    for index in range(10_000):
        clip = clips.clip(index)
        fits = all(getattr(clip, key) == value for key, value in {"vibrato": False, **wanted}.items())
        if clip.timbre == timbre and len(clip.voices) == notes and fits:
            return index
    raise LookupError(timbre)


def heard(samples, clip, references) -> Verdict:
    return judge(samples, clip, references, sample_size=SIZE)


STEADY = ("sine", "square", "sawtooth", "organ", "flute", "brass")


@pytest.mark.parametrize(("asked", "answer"), zip(STEADY, (*STEADY[1:], STEADY[0])))
def test_another_timbre_is_named(asked, answer, clips, references) -> None:
    index = one(clips, asked, length="medium")
    samples, clip = spoiling.rendered(clips, index)
    assert heard(samples, clip, references).right
    verdict = heard(spoiling.resounded(clip, RATE, SIZE, timbre=answer), clip, references)
    assert verdict.pitch
    assert not verdict.timbre
    assert verdict.heard_as == answer


def test_a_sawtooth_without_its_sixth_partial_is_poor(clips, references) -> None:
    samples, clip = spoiling.rendered(clips, one(clips, "sawtooth", length="medium"))
    spoilt = spoiling.without_partial(samples, RATE, 6 * clip.voices[0].frequency)
    verdict = heard(spoilt, clip, references)
    assert verdict.pitch
    assert not verdict.timbre
    assert verdict.heard_as == POOR


@pytest.mark.parametrize("index_of_note", [0, 1])
def test_both_notes_of_a_sequence_count(index_of_note, clips, references) -> None:
    samples, clip = spoiling.rendered(clips, one(clips, "organ", notes=2))
    assert heard(samples, clip, references).right
    half = round(clip.voices[1].onset * RATE)
    spoilt = spoiling.resounded(clip, RATE, SIZE, cents=300)
    spoilt = np.where((np.arange(SIZE) < half) == (index_of_note == 0), spoilt, samples)
    assert heard(spoilt, clip, references).pitch is False


@pytest.mark.parametrize("timbre", ["organ", "bell"])
def test_loudness(timbre, clips, references) -> None:
    samples, clip = spoiling.rendered(clips, one(clips, timbre, loudness="medium"))
    for gain_db, right in ((0, True), (2, True), (-2, True), (6, False), (-6, False)):
        assert heard(samples * 10 ** (gain_db / 20), clip, references).loudness == right


def test_length(clips, references) -> None:
    samples, clip = spoiling.rendered(clips, one(clips, "square", length="medium"))
    assert heard(samples, clip, references).length
    end = round((clip.seconds - 0.2) * RATE)
    fade = np.clip((end - np.arange(SIZE)) / (0.04 * RATE), 0, 1)
    assert not heard(samples * fade, clip, references).length


@pytest.mark.parametrize("timbre", ["sine", "brass", "sawtooth"])
def test_vibrato_is_wanted_or_not(timbre, clips, references) -> None:
    plain, asked = one(clips, timbre, length="long"), one(clips, timbre, vibrato=True)
    for index in (plain, asked):
        samples, clip = spoiling.rendered(clips, index)
        assert heard(samples, clip, references).vibrato
        other = spoiling.resounded(clip, RATE, SIZE, vibrato=not clip.vibrato)
        verdict = heard(other, clip, references)
        assert verdict.vibrato is False
        assert verdict.pitch


@pytest.mark.parametrize("timbre", ["sine", "flute", "bell", "sawtooth"])
@pytest.mark.parametrize("cents", [0, -35, 35])
def test_pitch_is_the_middle_of_a_vibrato(timbre, cents, clips) -> None:
    clip = clips.clip(one(clips, timbre, length="medium"))
    samples = spoiling.resounded(clip, RATE, SIZE, cents=cents, vibrato=timbre != "bell")
    heard_pitch = note_pitch(samples, RATE, clip.seconds)
    played = clip.voices[0].frequency * 2 ** (cents / 1200)
    assert abs(1200 * np.log2(heard_pitch / played)) < 3


def test_half_a_semitone(clips, references) -> None:
    _, clip = spoiling.rendered(clips, one(clips, "flute", length="medium"))
    for cents, right in ((40, True), (-40, True), (70, False), (-70, False)):
        verdict = heard(spoiling.resounded(clip, RATE, SIZE, cents=cents), clip, references)
        assert verdict.pitch == right
        assert verdict.timbre, "the pitch alone is wrong"


@pytest.mark.parametrize("name", DEFECTS)
def test_each_defect_is_named(name, clips, references) -> None:
    samples, clip = spoiling.rendered(clips, one(clips, "organ", length="medium"))
    rng = np.random.default_rng(0)
    after = round((clip.seconds + 0.1) * RATE)
    noise = rng.standard_normal(SIZE)
    spoilt = samples.copy()
    if name == "clipped":
        spoilt = 20 * samples
    elif name == "clicks":
        spoilt[5000] += 0.7 * np.abs(samples).max()
    elif name == "noisy":
        spoilt += 0.02 * samples.std() * noise
    elif name == "noisy tails":
        spoilt[after:] += 0.05 * samples.std() * noise[after:]
    else:
        spoilt = samples[:-1]
    assert not heard(samples, clip, references).defects
    assert name in heard(spoilt, clip, references).defects


@pytest.mark.parametrize("timbre", ["sawtooth", "plucked string", "brass", "marimba", "flute"])
def test_what_nobody_hears_passes(timbre, clips, references) -> None:
    """Other phases, a tilt of 1 dB, noise at -50 dB, a delay of 5 ms and 10 cents."""
    samples, clip = spoiling.rendered(clips, one(clips, timbre, length="medium"))
    rng = np.random.default_rng(0)
    spectrum = np.fft.rfft(spoiling.resounded(clip, RATE, SIZE, cents=10))
    at = np.fft.rfftfreq(SIZE, 1 / RATE)
    tilt = 10 ** (np.clip(at / 5000, 0, 1) / 20)
    # A slowly varying phase: an all-pass filter that moves nothing by more than 3 ms.
    phase = np.cumsum(0.02 * np.sin(at / 200))
    changed = np.fft.irfft(spectrum * tilt * np.exp(1j * phase), SIZE)
    changed = np.roll(changed, round(0.005 * RATE)) + 10 ** (-50 / 20) * samples.std() * rng.standard_normal(
        SIZE
    )
    verdict = heard(changed, clip, references)
    assert verdict.right
    assert not verdict.defects - {"noisy tails"}


@pytest.mark.slow
@pytest.mark.parametrize(("rate", "size"), [(RATE, SIZE), (8000, 8192)])
def test_hundreds_of_clips(rate, size) -> None:
    shares = spoiling.shares(rate, size, seed=SEED, count=200)
    assert shares.pop("rendered") >= 0.99
    assert set(shares) == {"clipped", "detuned", "partial", "filtered", "timbre"}
    assert min(shares.values()) >= 0.95, shares


def test_a_part_of_them() -> None:
    shares = spoiling.shares(RATE, SIZE, seed=SEED + 1, count=12)
    assert shares.pop("rendered") == 1.0
    assert min(shares.values()) >= 0.85, shares
