"""The evaluator: right about rendered clips, at chance on noise, and its sums add up."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
import torch

from stable_audio.data.synthetic.pitched import PITCHED
from stable_audio.evaluation.listening.verdict import POOR, Verdict
from stable_audio.evaluation.quickstart import QuickstartEvaluator
from stable_audio.evaluation.quickstart_goals import Goals, missed_goals
from stable_audio.evaluation.scores import Scores

RATE, SIZE = 8000, 8192
EVERY = 6
"""Requests come mixed, so that a part of them has all sorts."""


@pytest.fixture(scope="module")
def evaluator() -> QuickstartEvaluator:
    return QuickstartEvaluator(sample_rate=RATE, sample_size=SIZE)


@pytest.fixture(scope="module")
def answers(evaluator) -> torch.Tensor:
    """The clips that the requests describe, rendered."""
    return evaluator.originals()[::EVERY]


def test_requests_cover_every_sound_and_pitch(evaluator) -> None:
    requests = evaluator.requests(repeats=2)
    assert len(requests) == 876
    assert len({(r.timbre, r.clip.pitches) for r in requests if len(r.clip.pitches) < 2}) == 9 * 36 + 7
    assert {r.timbre for r in requests if len(r.clip.pitches) == 2} == set(PITCHED)
    assert all(0 < r.seconds <= SIZE / RATE for r in requests)
    assert set(requests[0].metadata()) == {"prompt", "seconds_start", "seconds_total"}
    part = requests[:438:EVERY]
    assert {r.clip.held_out for r in part} == {r.clip.vibrato for r in part} == {True, False}
    assert {r.clip.loudness for r in part} == {"quiet", "medium", "loud"}


def test_rendered_answers_are_all_right(evaluator, answers) -> None:
    scores = evaluator.score(answers, evaluator.requests()[::EVERY])
    shares = (scores.pitch, scores.timbre, scores.pitched_timbre, scores.loudness, scores.length)
    assert (*shares, scores.vibrato, scores.right) == (1.0,) * 7
    assert not any(scores.defects.values())
    assert scores.peak < 1
    assert all(requested == recognised for requested, recognised in scores.confusion)
    assert Goals().missed(scores) == []


def test_noise_is_at_chance(evaluator) -> None:
    requests = evaluator.requests()[::EVERY]
    noise = 0.1 * torch.randn(len(requests), 1, SIZE, generator=torch.Generator().manual_seed(0))
    scores = evaluator.score(noise, requests)
    assert Goals().beyond_chance("noise", scores) == []
    assert scores.right == 0
    assert len(Goals().missed(scores)) == 4


def test_silence_and_numbers_that_are_none_are_wrong(evaluator) -> None:
    requests = evaluator.requests()[:20]
    for value in (0.0, float("nan")):
        scores = evaluator.score(torch.full((20, 1, SIZE), value), requests)
        assert (scores.pitch, scores.timbre, scores.right) == (0, 0, 0)


def test_shuffled_answers_are_at_chance(evaluator, answers) -> None:
    requests = evaluator.requests()[::EVERY]
    order = torch.randperm(len(requests), generator=torch.Generator().manual_seed(0))
    scores = evaluator.score(answers[order], requests)
    assert scores.pitch < 0.1
    assert scores.timbre < 0.2


def test_clips_and_requests_must_match(evaluator, answers) -> None:
    with pytest.raises(ValueError, match="73 clips for 438 requests"):
        evaluator.score(answers, evaluator.requests())


def verdict(**changes) -> Verdict:
    values = {
        "pitch": True,
        "timbre": True,
        "heard_as": "bell",
        "loudness": True,
        "length": True,
        "vibrato": None,
        "defects": frozenset(),
        "peak": 0.5,
    }
    return Verdict(**{**values, **changes})


def test_scores_are_shares_of_what_they_apply_to(evaluator) -> None:
    requests = evaluator.requests()
    notes = [r for r in requests if len(r.clip.pitches) == 1]
    asked = [
        next(r for r in notes if r.clip.held_out),
        next(r for r in notes if not r.clip.held_out),
        next(r for r in requests if len(r.clip.pitches) == 2 and not r.clip.held_out),
        next(r for r in requests if not r.clip.pitches),
    ]
    heard = [
        verdict(pitch=False, vibrato=False, defects=frozenset({"clicks"})),
        verdict(timbre=False, heard_as=POOR, vibrato=True, peak=0.9),
        verdict(),
        verdict(pitch=None, loudness=False),
    ]
    scores = Scores.of(asked, heard)
    assert (scores.pitch, scores.timbre, scores.pitched_timbre) == (2 / 3, 3 / 4, 2 / 3)
    assert (scores.loudness, scores.length, scores.vibrato, scores.right) == (3 / 4, 1, 1 / 2, 1 / 4)
    assert scores.parts["held out"].pitch == 0
    assert scores.parts["seen"].timbre == scores.parts["seen"].right == 1 / 2
    assert scores.parts["sequences"].right == 1
    assert scores.parts["drums"].clips == 1
    assert scores.defects["clicks"] == sum(scores.defects.values()) == 1
    assert scores.peak == 0.9
    assert json.loads(json.dumps(scores.as_dict()))["confusion"][asked[1].timbre][POOR] == 1
    assert "66.7%" in scores.summary()
    assert len(scores.details().splitlines()) == 5
    assert len(scores.table().splitlines()) == 1 + len({r.timbre for r in asked})
    missed = Goals(pitch=0.99, timbre=0.99).missed(scores)
    assert [phrase.split(" ")[0] for phrase in missed] == ["timbre", "pitch"]
    assert Goals.uniform(0.5).missed(scores) == ["pitch of held-out pairs 0.0%, not 50.0%"]
    assert len(Goals().beyond_chance("untrained", scores)) == 2


def test_the_representation_has_a_goal_only_if_one_is_set(evaluator) -> None:
    asked = [r for r in evaluator.requests() if len(r.clip.pitches) == 1][:4]
    scores = Scores.of(asked, [verdict(), verdict(), verdict(), verdict(timbre=False)])

    def missed(goals: Goals, *labels: str) -> list[str]:
        judged = [SimpleNamespace(label=label, scores=scores) for label in labels]
        return missed_goals(judged, goals, trained="model", reconstruction="alone", baselines=("null",))

    assert missed(Goals(), "alone") == []
    assert missed(Goals(reconstruction=0.75), "alone") == []
    assert missed(Goals(reconstruction=0.76), "alone") == ["timbre of alone 75.0%, not 76.0%"]
    assert missed(Goals(reconstruction=0.5)) == ["timbre of alone not measured, not 50.0%"]
    assert len(missed(Goals(), "alone", "null")) == 2, "baselines above chance"
