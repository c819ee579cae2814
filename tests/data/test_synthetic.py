"""The synthetic collection: deterministic, the same at every rate, split without overlap, free of defects."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
import torch

from stable_audio.data import DATASETS, ItemKey, create_dataset
from stable_audio.data.sounds import PITCHED, SOUNDS, UNPITCHED, Voice, harmonic_sum, render
from stable_audio.data.synthetic import SyntheticDataset, note_frequency, note_name

RATE, SIZE = 8000, 8192


def dataset(**options) -> SyntheticDataset:
    return SyntheticDataset(**{"sample_rate": RATE, "sample_size": SIZE, **options})


def voice(frequency: float = 440.0, **changes) -> Voice:
    values = {"duration": 0.5, "loudness": 1.0, "brightness": 0.0, "damping": 0.0, "seed": 3, **changes}
    return Voice(frequency=frequency, **values)


def fingerprint(audio: torch.Tensor) -> str:
    return hashlib.sha256(audio.numpy().tobytes()).hexdigest()


def test_needs_no_options() -> None:
    built = create_dataset(
        {"dataset_type": "synthetic"}, sample_rate=RATE, sample_size=SIZE, audio_channels=1
    )
    assert type(built) is DATASETS["synthetic"]
    audio, metadata = built[ItemKey(0, 5)]
    assert audio.shape == (1, SIZE)
    assert audio.dtype == torch.float32
    assert metadata["prompt"]
    assert metadata["padding_mask"].shape == (SIZE,)


def test_at_least_twelve_pitches_of_six_timbres_and_unpitched_sounds() -> None:
    classes = dataset().classes
    assert len({midi for _, midi in classes if midi is not None}) >= 12
    assert len(PITCHED) >= 6
    assert {"kick", "snare", "noise sweep"} <= set(UNPITCHED)
    assert {timbre for timbre, _ in classes} == set(SOUNDS)


def test_a_clip_depends_on_seed_split_and_index_only() -> None:
    first, again = dataset(), dataset(cache_megabytes=0)
    for index in (83, 7, 0):
        assert torch.equal(first[ItemKey(index, 1)][0], again[ItemKey(index, 2)][0])
        assert first.clip(index) == again.clip(index)
    assert first.clip(7).voice != dataset(seed=1).clip(7).voice


def test_changing_a_returned_clip_does_not_change_the_collection() -> None:
    collection = dataset()
    kept = collection[0][0].clone()
    collection[0][0].zero_()
    assert torch.equal(collection[0][0], kept)


def test_splits_share_no_clip() -> None:
    train, val = dataset(split="train", num_clips=504), dataset(split="val", num_clips=504)
    assert not {fingerprint(train[i][0]) for i in range(504)} & {fingerprint(val[i][0]) for i in range(504)}
    # By construction, for any number of clips: the loudness grids are disjoint.
    for split, remainder in ((train, 0), (val, 1)):
        steps = [round((split.clip(i).voice.loudness - 0.3) / 0.3 * 2**21) for i in range(504)]
        assert {step % 2 for step in steps} == {remainder}


@pytest.mark.parametrize("name", sorted(SOUNDS))
def test_the_same_sound_at_every_sample_rate(name: str) -> None:
    """Below the lower Nyquist frequency, spectra at 8 and 16 kHz agree, noise included."""
    low, high = (
        np.abs(np.fft.rfft(render(SOUNDS[name], voice(), sample_rate=rate, sample_size=rate))) / rate
        for rate in (8000, 16000)
    )
    band = slice(20, 3500)
    assert np.abs(low[band] - high[band]).max() < 0.03 * low.max()


@pytest.mark.parametrize("name", ["square", "sawtooth", "organ", "plucked string"])
@pytest.mark.parametrize("frequency", [110.0, 437.0, 1661.0])
def test_nothing_aliases(name: str, frequency: float) -> None:
    """All power lies at multiples of the fundamental."""
    samples = render(SOUNDS[name], voice(frequency, duration=2.0), sample_rate=RATE, sample_size=2 * RATE)
    power = np.abs(np.fft.rfft(samples * np.blackman(len(samples)))) ** 2
    frequencies = np.fft.rfftfreq(len(samples), 1 / RATE)
    distance = np.abs(frequencies - frequency * np.maximum(1, np.round(frequencies / frequency)))
    assert power[distance > 20].sum() < 1e-4 * power.sum()


def test_clenshaw_equals_the_sum_of_sines() -> None:
    angle = np.linspace(0, 50, 999)
    amplitudes = [0.5, 0.0, -0.2, 0.1]
    expected = sum(a * np.sin((k + 1) * angle) for k, a in enumerate(amplitudes))
    np.testing.assert_allclose(harmonic_sum(angle, amplitudes), expected, atol=1e-10)


@pytest.mark.parametrize("rate", [8000, 44100])
def test_no_clipping_no_offset_and_silence_after_the_sound(rate: int) -> None:
    collection = SyntheticDataset(sample_rate=rate, sample_size=rate, num_clips=168)
    for index in range(0, 168, 1 if rate == 8000 else 9):
        audio, metadata = collection[index]
        real = int(metadata["padding_mask"].sum())
        assert 0.02 < audio.abs().max() < 1
        assert abs(float(audio.mean())) < 0.02
        assert not audio[:, real:].any()
        assert audio[:, : real // 2].any()
        assert real == int(np.ceil(metadata["seconds_total"] * rate))
        # Both ends of the sound are reached without a step.
        assert audio[0, 0].abs() < 1e-3
        assert audio[0, real - 1].abs() < 1e-3


def test_captions_name_the_note_and_metadata_agrees() -> None:
    collection = dataset(num_clips=840)
    prompts: dict[tuple[str, int | None], set[str]] = {}
    for index in range(840):
        clip = collection.clip(index)
        prompts.setdefault((clip.timbre, clip.midi), set()).add(clip.prompt)
        if clip.midi is not None:
            assert note_name(clip.midi) in clip.prompt
            assert abs(1200 * np.log2(clip.voice.frequency / note_frequency(clip.midi))) <= 2.0
    assert all(len(found) > 1 for found in prompts.values())


def test_note_names() -> None:
    assert [note_name(m) for m in (60, 61, 69, 12)] == ["C4", "C#4", "A4", "C0"]
    assert note_frequency(69) == 440
    assert note_frequency(81) == 880


def test_a_sound_longer_than_the_clip_fades_at_its_end() -> None:
    audio, metadata = dataset(sample_size=2048)[0]
    assert metadata["seconds_total"] == pytest.approx(2048 / RATE)
    assert audio[0, -1].abs() < 1e-3
    assert audio[0, 1500:1700].abs().max() > 0.1


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"split": "test"}, "split"),
        ({"num_clips": 0}, "num_clips"),
        ({"num_clips": 10**18}, "num_clips: found 1000000000000000000, it must be at most"),
        ({"lowest_pitch": 119, "num_pitches": 12}, "lowest_pitch"),
        ({"seconds": (0.9, 0.5)}, "seconds"),
    ],
)
def test_wrong_options_are_named(options: dict, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        dataset(**options)


def test_an_index_beyond_the_collection_is_an_error() -> None:
    with pytest.raises(IndexError):
        dataset(num_clips=5)[5]
