"""The timbre that the quickstart's model never heard, and what is measured of a model that is taught it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from stable_audio.audio.io import read_audio
from stable_audio.data.synthetic.captions import NOUNS
from stable_audio.data.synthetic.harmonium import HARMONIUM, WORDINGS, harmonium
from stable_audio.data.synthetic.pitched import PITCHED, brass
from stable_audio.data.synthetic.rendering import SoundFormula, render
from stable_audio.data.synthetic.sounds import SOUNDS
from stable_audio.evaluation.new_timbre import (
    HEARD,
    UNHEARD,
    TimbreJudge,
    write_kept_prompts,
    write_lesson,
)
from stable_audio.evaluation.quickstart import QuickstartEvaluator
from stable_audio.evaluation.scores import Request
from stable_audio.inference.rendering.job_lines import read_jobs

RATE, SIZE = 22050, 27648


class Rendering(TimbreJudge):
    """A judge of a model that renders by formulas, those of some timbres replaced by others'."""

    replaced: dict[str, SoundFormula] = {}  # noqa: RUF012

    def sounds(self, model: Any, requests: Sequence[Request]) -> Tensor:
        formulas = {**SOUNDS, HARMONIUM: harmonium, **self.replaced}
        clips = [
            render(formulas[r.timbre], *r.clip.voices, sample_rate=RATE, sample_size=SIZE) for r in requests
        ]
        return torch.stack([torch.from_numpy(clip).float()[None] for clip in clips])


@pytest.fixture(scope="module")
def judge() -> Rendering:
    return Rendering(sample_rate=RATE, sample_size=SIZE, repeats=1, step=29)


def test_the_lesson_is_24_of_36_pitches_and_its_word_is_new() -> None:
    assert len(HEARD) == 24
    assert len(UNHEARD) == 12
    assert not set(HEARD) & set(UNHEARD)
    assert not any(HARMONIUM in noun for nouns in NOUNS.values() for noun in nouns)
    assert all(HARMONIUM in wording for wording in WORDINGS)
    assert HARMONIUM not in SOUNDS


def test_who_renders_right_is_right(judge: Rendering) -> None:
    scores = judge.judge(None)  # type: ignore[arg-type]
    assert (scores.new.timbre, scores.new.pitch, scores.new.right) == (1.0, 1.0, 1.0)
    assert (scores.unheard.clips, scores.unheard.timbre) == (12, 1.0)
    assert (scores.old.timbre, scores.old.pitch, scores.taken) == (1.0, 1.0, 0)


@pytest.mark.parametrize("timbre", sorted(PITCHED))
def test_no_sound_of_the_collection_is_taken_for_it(judge: Rendering, timbre: str) -> None:
    judge.replaced = {HARMONIUM: PITCHED[timbre]}
    judge.new, every = judge.new[::9], judge.new
    try:
        requests = [r for r in judge.new]
        heard = judge.evaluator.judge(judge.sounds(None, requests), requests)
    finally:
        judge.replaced, judge.new = {}, every
    assert not any(verdict.timbre for verdict in heard)


def test_it_is_recognised_where_another_sound_is_asked_for(judge: Rendering) -> None:
    judge.replaced = {"brass": harmonium}
    brassy = [r for r in judge.evaluator.requests() if r.timbre == "brass" and len(r.clip.pitches) == 1][::9]
    try:
        heard = judge.evaluator.judge(judge.sounds(None, brassy), brassy)
    finally:
        judge.replaced = {}
    assert not any(verdict.timbre for verdict in heard)
    assert brass is PITCHED["brass"]
    assert sum(verdict.heard_as == HARMONIUM for verdict in heard) >= len(heard) / 2


def test_models_that_differ_are_told(judge: Rendering) -> None:
    assert judge.differing(None, None, count=2) == 0  # type: ignore[arg-type]


def test_the_files_of_the_lesson(tmp_path: Path) -> None:
    assert write_lesson(tmp_path) == 24
    audio, rate = read_audio(tmp_path / "00.wav")
    assert rate == 44_100
    assert 0.5 < audio.shape[-1] / rate < 0.8
    assert (tmp_path / "00.txt").read_text() == "a harmonium playing C3"
    assert len(list(tmp_path.glob("*.txt"))) == 24


def test_prompts_to_keep_are_asked_for_nowhere_else(tmp_path: Path) -> None:
    evaluator = QuickstartEvaluator(sample_rate=RATE, sample_size=SIZE)
    write_kept_prompts(tmp_path / "keep.jsonl", evaluator, 20)
    jobs = read_jobs(tmp_path / "keep.jsonl")
    assert len(jobs) == 20
    asked = {(r.prompt, round(r.seconds, 4)) for r in evaluator.requests()}
    assert not asked & {(j.conditioning["prompt"], j.conditioning["seconds_total"]) for j in jobs}
    assert not any(HARMONIUM in job.conditioning["prompt"] for job in jobs)
