"""The evaluator: right about rendered clips, at chance on noise, and alert to defects."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from stable_audio.data.synthetic import SyntheticDataset
from stable_audio.evaluation.quickstart import REQUEST_SEED, QuickstartEvaluator
from stable_audio.evaluation.timbre import TimbreClassifier

RATE, SIZE = 8000, 8192


@pytest.fixture(scope="module")
def evaluator() -> QuickstartEvaluator:
    return QuickstartEvaluator(sample_rate=RATE, sample_size=SIZE)


@pytest.fixture(scope="module")
def answers() -> torch.Tensor:
    """The clips that the requests describe, rendered."""
    collection = SyntheticDataset(sample_rate=RATE, sample_size=SIZE, seed=REQUEST_SEED, split="val")
    return torch.stack([collection[i][0] for i in range(84)])


def test_requests_cover_every_sound_and_pitch(evaluator) -> None:
    requests = evaluator.requests(repeats=2)
    assert len(requests) == 168
    assert len({(r.timbre, r.midi) for r in requests}) == 6 * 12 + 4
    assert all(0 < r.seconds <= SIZE / RATE for r in requests)
    assert set(requests[0].metadata()) == {"prompt", "seconds_start", "seconds_total"}


def test_rendered_answers_are_all_right(evaluator, answers) -> None:
    scores = evaluator.score(answers, evaluator.requests())
    assert (scores.pitch, scores.timbre, scores.pitched_timbre) == (1.0, 1.0, 1.0)
    assert not any(scores.defects.values())
    assert scores.peak < 1
    assert all(asked == heard for asked, heard in scores.confusion)


def test_faint_noise_changes_nothing(evaluator, answers) -> None:
    noise = torch.randn(answers.shape, generator=torch.Generator().manual_seed(0))
    noisy = answers + 10 ** (-28 / 20) * answers.std(dim=-1, keepdim=True) * noise
    scores = evaluator.score(noisy, evaluator.requests())
    assert scores.pitch == 1.0
    assert scores.timbre > 0.97


def test_noise_is_at_chance(evaluator) -> None:
    noise = 0.1 * torch.randn(168, 1, SIZE, generator=torch.Generator().manual_seed(0))
    scores = evaluator.score(noise, evaluator.requests(repeats=2))
    assert scores.pitch < 0.1
    assert scores.pitched_timbre < 0.25
    assert scores.timbre < 0.25


def test_shuffled_answers_are_at_chance(evaluator, answers) -> None:
    order = torch.randperm(84, generator=torch.Generator().manual_seed(0))
    scores = evaluator.score(answers[order], evaluator.requests())
    assert scores.pitch < 0.25
    assert scores.timbre < 0.35


def test_one_semitone_off_is_wrong(evaluator, answers) -> None:
    """Notes C4..B4 answered by the next semitone of the same timbre."""
    requests = evaluator.requests()
    pitched = [i for i, r in enumerate(requests) if r.midi is not None and r.midi < 71]
    scores = evaluator.score(answers[[i + 1 for i in pitched]], [requests[i] for i in pitched])
    assert scores.pitch == 0.0
    assert scores.timbre == 1.0


@pytest.mark.parametrize("name", ["clipped", "clicks", "noisy tails", "wrong length"])
def test_each_defect_is_counted(evaluator, answers, name) -> None:
    clip = answers[:1].clone()
    request = evaluator.requests()[:1]
    end = int((request[0].seconds + 0.1) * RATE)
    spoilt = {
        "clipped": lambda: 3 * clip,
        "clicks": lambda: clip.index_fill(2, torch.tensor([1000]), 0.9),
        "noisy tails": lambda: torch.cat([clip[..., :end], 0.1 * torch.randn(1, 1, SIZE - end)], dim=-1),
        "wrong length": lambda: clip[..., :-1],
    }[name]()
    assert evaluator.score(clip, request).defects[name] == 0
    assert evaluator.score(spoilt, request).defects[name] == 1


def test_clips_and_requests_must_match(evaluator, answers) -> None:
    with pytest.raises(ValueError, match="84 clips for 168 requests"):
        evaluator.score(answers, evaluator.requests(repeats=2))


def test_the_table_has_a_row_per_sound(evaluator, answers) -> None:
    scores = evaluator.score(answers, evaluator.requests())
    assert len(scores.table().splitlines()) == 11
    assert "100.0%" in scores.summary()
    assert scores.as_dict()["confusion"]["bell"] == {"bell": 12}


@pytest.mark.parametrize("rate", [16000, 44100])
def test_the_classifier_works_at_other_rates(rate) -> None:
    size = int(1.024 * rate)
    train = SyntheticDataset(sample_rate=rate, sample_size=size, seed=7)
    val = SyntheticDataset(sample_rate=rate, sample_size=size, seed=8, split="val")
    pairs = [(train[i][0][0].numpy(), train.clip(i).timbre) for i in range(0, 252, 3)]
    classifier = TimbreClassifier.calibrate(pairs, rate)
    heard = [classifier.classify(val[i][0][0].numpy(), rate) == val.clip(i).timbre for i in range(1, 84, 3)]
    assert np.mean(heard) > 0.95
