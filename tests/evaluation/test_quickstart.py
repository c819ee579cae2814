"""The evaluator: right about rendered clips, at chance on noise, and alert to defects."""

from __future__ import annotations

import pytest
import torch

from stable_audio.evaluation.quickstart import QuickstartEvaluator

RATE, SIZE = 8000, 8192


@pytest.fixture(scope="module")
def evaluator() -> QuickstartEvaluator:
    return QuickstartEvaluator(sample_rate=RATE, sample_size=SIZE)


@pytest.fixture(scope="module")
def answers(evaluator) -> torch.Tensor:
    """The clips that the requests describe, rendered."""
    return evaluator.originals()


def test_requests_cover_every_sound_and_pitch(evaluator) -> None:
    requests = evaluator.requests(repeats=2)
    assert len(requests) == 732
    assert len({(r.timbre, r.midi) for r in requests}) == 9 * 36 + 7
    assert all(0 < r.seconds <= SIZE / RATE for r in requests)
    assert set(requests[0].metadata()) == {"prompt", "seconds_start", "seconds_total"}


def test_rendered_answers_are_all_right(evaluator, answers) -> None:
    scores = evaluator.score(answers, evaluator.requests())
    assert scores.pitch > 0.98
    assert scores.timbre > 0.85
    assert scores.peak < 1


def test_faint_noise_changes_nothing(evaluator, answers) -> None:
    noise = torch.randn(answers.shape, generator=torch.Generator().manual_seed(0))
    noisy = answers + 10 ** (-28 / 20) * answers.std(dim=-1, keepdim=True) * noise
    scores = evaluator.score(noisy, evaluator.requests())
    assert scores.pitch > 0.98
    assert scores.timbre > 0.8


def test_noise_is_at_chance(evaluator) -> None:
    noise = 0.1 * torch.randn(732, 1, SIZE, generator=torch.Generator().manual_seed(0))
    scores = evaluator.score(noise, evaluator.requests(repeats=2))
    assert scores.pitch < 0.1
    assert scores.pitched_timbre < 0.25
    assert scores.timbre < 0.25


def test_shuffled_answers_are_at_chance(evaluator, answers) -> None:
    order = torch.randperm(366, generator=torch.Generator().manual_seed(0))
    scores = evaluator.score(answers[order], evaluator.requests())
    assert scores.pitch < 0.25
    assert scores.timbre < 0.35


@pytest.mark.parametrize("name", ["clipped", "clicks", "noisy tails", "wrong length"])
def test_each_defect_is_counted(evaluator, answers, name) -> None:
    requests = evaluator.requests()
    number = next(i for i, r in enumerate(requests) if r.midi is not None and r.seconds < 0.8)
    clip, request = answers[number : number + 1].clone(), requests[number : number + 1]
    end = int((request[0].seconds + 0.1) * RATE)
    spoilt = {
        "clipped": lambda: 30 * clip,
        "clicks": lambda: clip.index_fill(2, torch.tensor([1000]), 0.9),
        "noisy tails": lambda: torch.cat([clip[..., :end], 0.1 * torch.randn(1, 1, SIZE - end)], dim=-1),
        "wrong length": lambda: clip[..., :-1],
    }[name]()
    assert evaluator.score(clip, request).defects[name] == 0
    assert evaluator.score(spoilt, request).defects[name] == 1


def test_clips_and_requests_must_match(evaluator, answers) -> None:
    with pytest.raises(ValueError, match="366 clips for 732 requests"):
        evaluator.score(answers, evaluator.requests(repeats=2))


def test_the_table_has_a_row_per_sound(evaluator, answers) -> None:
    scores = evaluator.score(answers, evaluator.requests())
    assert len(scores.table().splitlines()) == 17
    assert "pitch" in scores.summary()
