"""The synthetic collection: deterministic, the same at every rate, split without overlap, free of defects."""

from __future__ import annotations

import hashlib
from collections import Counter

import numpy as np
import pytest
import torch

from stable_audio.conditioning.tokenizers import ByteTokenizer
from stable_audio.data import DATASETS, ItemKey, create_dataset
from stable_audio.data.synthetic import SyntheticDataset, note_frequency, note_name
from stable_audio.data.synthetic.pitched import PITCHED
from stable_audio.data.synthetic.sounds import CAN_VIBRATE, SOUNDS, SUSTAINED
from stable_audio.data.synthetic.unpitched import UNPITCHED
from stable_audio.data.synthetic.words import LOUDNESS_DB, LOUDNESS_REACH, length_range

RATE, SIZE = 8000, 8192


def dataset(**options) -> SyntheticDataset:
    return SyntheticDataset(**{"sample_rate": RATE, "sample_size": SIZE, **options})


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


def test_three_octaves_of_nine_timbres_sequences_and_unpitched_sounds() -> None:
    classes = dataset(split="val").classes
    assert {c.pitch for c in classes} == {None, *range(48, 84)}
    assert len(PITCHED) >= 9
    assert len(UNPITCHED) >= 6
    assert {c.timbre for c in classes} == set(SOUNDS)
    assert {c.timbre for c in classes if c.notes == 2} == set(PITCHED)
    assert {(c.timbre, c.pitch) for c in classes if c.pitch is not None} == {
        (timbre, midi) for timbre in PITCHED for midi in range(48, 84)
    }


def test_the_default_number_of_clips_is_whole_rounds() -> None:
    """The docs say how many clips hold everything."""
    assert len(dataset().classes) == 406
    assert len(dataset()) == 30 * 406


def test_a_clip_depends_on_seed_split_and_index_only() -> None:
    first, again = dataset(), dataset(cache_megabytes=0)
    for index in (83, 7, 0, 83):
        assert torch.equal(first[ItemKey(index, 1)][0], again[ItemKey(index, 2)][0])
        assert first.clip(index) == again.clip(index)
    assert first.clip(7).voices != dataset(seed=1).clip(7).voices


def test_memory_for_clips_is_bounded() -> None:
    collection = dataset(cache_megabytes=1, num_clips=300)
    for index in range(300):
        collection[index]
    kept = [samples.nbytes for samples in collection._cache.values()]
    assert 0.97 * 2**20 < sum(kept) <= 2**20


def test_changing_a_returned_clip_does_not_change_the_collection() -> None:
    collection = dataset()
    before = collection[0][0].clone()
    collection[0][0].zero_()
    assert torch.equal(collection[0][0], before)


def test_splits_share_no_clip() -> None:
    train, val = dataset(split="train", num_clips=504), dataset(split="val", num_clips=504)
    assert not {fingerprint(train[i][0]) for i in range(504)} & {fingerprint(val[i][0]) for i in range(504)}
    # By construction, for any number of clips: the loudness grids are disjoint.
    for split, remainder in ((train, 0), (val, 1)):
        steps = []
        for clip in map(split.clip, range(504)):
            above = 20 * np.log10(clip.voices[0].loudness) - LOUDNESS_DB[clip.loudness]
            steps.append(round((above / LOUDNESS_REACH + 1) * 2**20))
        assert {step % 2 for step in steps} == {remainder}


def test_held_out_pairs_never_occur_in_training_and_are_marked_in_validation() -> None:
    train, val = dataset(num_clips=10**5), dataset(split="val", num_clips=10**5)
    pairs = {(timbre, midi) for timbre in PITCHED for midi in range(48, 84)}
    held = {pair for pair in pairs if val.held_out.holds(*pair)}
    assert len(held) / len(pairs) == pytest.approx(0.1, abs=0.01)
    assert all(3 <= count <= 4 for count in Counter(timbre for timbre, _ in held).values())
    assert all(count <= 2 for count in Counter(midi for _, midi in held).values())
    trained = Counter((clip.timbre, midi) for clip in map(train.clip, range(4060)) for midi in clip.pitches)
    assert set(trained) == pairs - held
    assert min(trained.values()) >= 10
    marked = Counter()
    for clip in map(val.clip, range(2 * len(val.classes))):
        assert clip.held_out == any((clip.timbre, midi) in held for midi in clip.pitches)
        marked[len(clip.pitches), clip.held_out] += 1
    assert marked[1, True] == 2 * len(held)
    assert marked[2, True] > 10
    assert val[0][1]["held_out"] == val.clip(0).held_out
    assert not any(train[i][1]["held_out"] for i in range(50))


def test_without_held_out_pairs_training_has_everything() -> None:
    assert dataset(held_out_share=0).classes == dataset(held_out_share=0, split="val").classes
    assert not len(dataset(held_out_share=0).held_out)


def test_without_words_all_are_single_sounds_of_medium_loudness_and_length() -> None:
    collection = dataset(words=False, num_clips=500)
    clips = [collection.clip(i) for i in range(500)]
    assert {(c.loudness, c.length, c.vibrato) for c in clips} == {("medium", "medium", False)}
    assert max(len(c.pitches) for c in clips) == 1
    said = " ".join(c.prompt for c in clips)
    assert not any(word in said for word in ("quiet", "soft ", "loud", "short", "long", "vibrato", "then"))
    assert len(dataset().classes) - len(collection.classes) == 8 * len(PITCHED)


@pytest.mark.parametrize("num_pitches", [1, 2, 3])
def test_every_timbre_keeps_a_pitch(num_pitches: int) -> None:
    collection = dataset(num_pitches=num_pitches, held_out_share=0.5, num_clips=300)
    assert {c.timbre for c in collection.classes if c.pitch is not None} == set(PITCHED)
    assert all(len(set(collection.clip(i).pitches)) < 3 for i in range(300))


@pytest.mark.parametrize("rate", [8000, 22050, 44100])
def test_no_clipping_no_offset_and_silence_after_the_sound(rate: int) -> None:
    collection = SyntheticDataset(sample_rate=rate, sample_size=int(1.25 * rate), num_clips=405)
    for index in range(0, 405, 1 if rate == 8000 else 9):
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


def test_peaks_lie_below_full_scale_with_room_to_spare() -> None:
    collection = SyntheticDataset(sample_rate=22050, sample_size=27648, split="val", num_clips=438)
    loud = [i for i in range(438) if collection.clip(i).loudness == "loud"]
    assert max(float(collection[i][0].abs().max()) for i in loud) < 0.8


def test_captions_say_what_there_is_and_metadata_agrees() -> None:
    collection = dataset(num_clips=1620)
    prompts: dict[tuple[str, tuple[int, ...]], set[str]] = {}
    for index in range(1620):
        clip = collection.clip(index)
        words = clip.prompt.replace(",", " ").replace(":", " ").split()
        prompts.setdefault((clip.timbre, clip.pitches), set()).add(clip.prompt)
        assert [w for w in words if w[-1].isdigit()] == [note_name(midi) for midi in clip.pitches]
        assert ("quiet" in words or "soft" in words) == (clip.loudness == "quiet")
        assert ("loud" in words) == (clip.loudness == "loud")
        assert ("short" in words) == (clip.length == "short")
        assert ("long" in words) == (clip.length == "long" and len(clip.voices) == 1)
        assert ("vibrato" in words) == clip.vibrato == any(v.vibrato for v in clip.voices)
        assert not clip.vibrato or clip.timbre in CAN_VIBRATE
        assert clip.length == "medium" or clip.timbre in SUSTAINED
        low, high = length_range(clip.length, collection.seconds)
        assert low <= clip.seconds <= high
        assert collection.stored_metadata(index)["seconds_total"] == min(clip.seconds, SIZE / RATE)
        for voice, midi in zip(clip.voices, clip.pitches):
            assert abs(1200 * np.log2(voice.frequency / note_frequency(midi))) <= 2.0
    assert all(len(texts) > 1 for (_, pitches), texts in prompts.items() if len(pitches) < 2)


def test_loudness_words_are_levels_well_apart() -> None:
    collection = dataset(num_clips=405)
    levels: dict[str, list[float]] = {}
    for clip in map(collection.clip, range(405)):
        levels.setdefault(clip.loudness, []).append(20 * np.log10(clip.voices[0].loudness))
    assert max(levels["quiet"]) + 5 < min(levels["medium"])
    assert max(levels["medium"]) + 5 < min(levels["loud"])
    assert all(max(found) - min(found) <= 2 * LOUDNESS_REACH for found in levels.values())


def test_captions_fit_a_text_of_48_tokens() -> None:
    collection = dataset(num_clips=20_000)
    prompts = {collection.clip(i).prompt for i in range(4000)}
    ids, mask = ByteTokenizer(vocab_size=258, max_length=48)(sorted(prompts))
    assert max(len(prompt) for prompt in prompts) == 46
    assert ids.shape[1] == int(mask.sum(dim=1).max()) == 48


def test_two_notes_follow_each_other_with_an_onset_each() -> None:
    collection = SyntheticDataset(sample_rate=22050, sample_size=27648, split="val", num_clips=438)
    sequences = [i for i in range(438) if len(collection.clip(i).voices) == 2]
    assert len(sequences) / 438 == pytest.approx(0.165, abs=0.01)
    for index in sequences[:20]:
        clip = collection.clip(index)
        first, second = clip.voices
        assert first.onset == 0
        assert second.onset == pytest.approx(first.duration)
        assert min(first.duration, second.duration) > 0.4
        audio = collection[index][0][0]
        onset = second.onset * 22050
        assert onset == pytest.approx(round(onset)), "on a sample at every usual rate"
        edge = audio[round(onset) - 20 : round(onset) + 20].abs().max()
        assert edge < 0.1 * audio[round(onset) :].abs().max()


def test_facts_are_told_without_rendering() -> None:
    collection = dataset(num_clips=5)
    facts = collection.inspect(3)
    audio, metadata = collection[3]
    assert len(collection._cache) == 1, "inspecting rendered a clip"
    assert (facts.seconds, facts.sample_rate, facts.channels) == (metadata["seconds_total"], RATE, len(audio))
    assert facts.metadata["prompt"] == metadata["prompt"]


def test_note_names() -> None:
    assert [note_name(m) for m in (60, 61, 69, 12)] == ["C4", "C#4", "A4", "C0"]
    assert note_frequency(69) == 440
    assert note_frequency(81) == 880


def test_a_sound_longer_than_the_clip_fades_at_its_end() -> None:
    collection = dataset(sample_size=2048)
    index = next(i for i in range(99) if collection.clip(i).timbre == "organ")
    audio, metadata = collection[index]
    assert metadata["seconds_total"] == pytest.approx(2048 / RATE)
    assert audio[0, -1].abs() < 1e-3
    assert audio[0, 1500:1700].abs().max() > 0.05


def test_notes_that_begin_after_the_clip_are_not_heard() -> None:
    collection = dataset(sample_size=1024)
    index = next(i for i in range(99) if len(collection.clip(i).voices) == 2)
    audio, metadata = collection[index]
    assert audio.any()
    assert metadata["seconds_total"] == 1024 / RATE


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"split": "test"}, "split"),
        ({"num_clips": 0}, "num_clips"),
        ({"num_clips": 10**18}, "num_clips: found 1000000000000000000, it must be at most"),
        ({"lowest_pitch": 119, "num_pitches": 12}, "lowest_pitch"),
        ({"held_out_share": 0.9}, "held_out_share: found 0.9, allowed are numbers from 0 to 0.5"),
        ({"seconds": (0.9, 0.5)}, "seconds"),
    ],
)
def test_wrong_options_are_named(options: dict, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        dataset(**options)


def test_an_index_beyond_the_collection_is_an_error() -> None:
    with pytest.raises(IndexError):
        dataset(num_clips=5)[5]
