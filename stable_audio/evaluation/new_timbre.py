"""What a quickstart model learned of a timbre that it had never heard, and what it kept of the others."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from stable_audio.audio.atomic import atomic_write
from stable_audio.audio.io import save_audio
from stable_audio.data.synthetic import LOWEST_PITCH, NUM_PITCHES
from stable_audio.data.synthetic.dataset import SECONDS
from stable_audio.data.synthetic.harmonium import HARMONIUM, harmonium, harmonium_notes
from stable_audio.data.synthetic.rendering import render
from stable_audio.evaluation.quickstart import QuickstartEvaluator
from stable_audio.evaluation.scores import Request, Scores
from stable_audio.inference import generate
from stable_audio.model import DiffusionModel

PITCHES = range(LOWEST_PITCH, LOWEST_PITCH + NUM_PITCHES)
HEARD = tuple(midi for midi in PITCHES if midi % 3 != 1)
"""The 24 of the 36 pitches of which there is a sound to learn from."""

UNHEARD = tuple(midi for midi in PITCHES if midi not in HEARD)

FILE_RATE = 44_100
"""Hz of the sound files, which is not that of the model."""

KEPT_SEED = 77
"""Seed of a collection whose captions are asked for nowhere else."""


@dataclass(frozen=True)
class TimbreScores:
    """What a model is heard to do.

    Attributes:
        new: the new timbre at all pitches.
        unheard: the new timbre at pitches that it was not taught.
        old: the collection.
        taken: sounds of the collection that are heard as the new timbre.
    """

    new: Scores
    unheard: Scores
    old: Scores
    taken: int

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        parts = {"new": self.new, "unheard": self.unheard, "old": self.old}
        return {**{name: scores.as_dict() for name, scores in parts.items()}, "taken": self.taken}


class TimbreJudge:
    """Asks a model for the new timbre at every pitch, and for the collection.

    Args:
        sample_rate: of the model.
        sample_size: of the model's clips.
        repeats: notes of the new timbre per pitch, with different wordings.
        step: of the collection, take only every `step`-th request.
        steps: sampling steps.
        cfg_scale: guidance weight.
        batch_size: clips rendered at once.
    """

    def __init__(
        self,
        *,
        sample_rate: int,
        sample_size: int,
        repeats: int = 2,
        step: int = 1,
        steps: int = 24,
        cfg_scale: float = 1.5,
        batch_size: int = 42,
    ) -> None:
        self.evaluator = QuickstartEvaluator(
            sample_rate=sample_rate, sample_size=sample_size, more={HARMONIUM: harmonium}
        )
        notes = [
            note
            for repeat in range(repeats)
            for note in harmonium_notes(
                PITCHES, seed=1000 + repeat, seconds=SECONDS, first_wording=3 + repeat, unseen=UNHEARD
            )
        ]
        self.new = [Request(note, note.seconds) for note in notes]
        self.old = self.evaluator.requests(step=step)
        self._sampling: dict[str, Any] = {"steps": steps, "cfg_scale": cfg_scale, "batch_size": batch_size}

    def sounds(self, model: DiffusionModel, requests: Sequence[Request]) -> Tensor:
        """The model's answers (k c n), from noise that only the number of the request decides."""
        return generate(model, [request.metadata() for request in requests], seeds=0, **self._sampling)

    def judge(self, model: DiffusionModel) -> TimbreScores:
        """Render all requests and compare them with rendered clips."""
        heard = self.evaluator.judge(self.sounds(model, self.new), self.new)
        unheard = [(r, v) for r, v in zip(self.new, heard) if r.clip.held_out]
        others = self.evaluator.judge(self.sounds(model, self.old), self.old)
        return TimbreScores(
            new=Scores.of(self.new, heard),
            unheard=Scores.of([r for r, _ in unheard], [v for _, v in unheard]),
            old=Scores.of(self.old, others),
            taken=sum(verdict.heard_as == HARMONIUM for verdict in others),
        )

    def differing(self, model: DiffusionModel, other: DiffusionModel, *, count: int = 8) -> int:
        """How many of the first `count` requests of both kinds two models answer not bit for bit alike."""
        requests = [*self.new[:count], *self.old[:count]]
        pairs = zip(self.sounds(model, requests), self.sounds(other, requests))
        return sum(not torch.equal(one, two) for one, two in pairs)


def write_lesson(folder: str | Path) -> int:
    """Write the 24 sounds of the new timbre with their captions beside them; returns their number."""
    place = Path(folder)
    place.mkdir(parents=True, exist_ok=True)
    for number, note in enumerate(harmonium_notes(HEARD, seed=0, seconds=SECONDS)):
        samples = render(
            harmonium, *note.voices, sample_rate=FILE_RATE, sample_size=round(note.seconds * FILE_RATE)
        )
        name = place / f"{number:02d}"
        save_audio(name.with_suffix(".wav"), torch.from_numpy(samples).float()[None], FILE_RATE)
        with atomic_write(name.with_suffix(".txt")) as temporary:
            temporary.write_text(note.prompt, encoding="utf-8")
    return len(HEARD)


def write_kept_prompts(path: str | Path, evaluator: QuickstartEvaluator, count: int) -> None:
    """Write prompts of the collection whose sounds are not to change, as JSON lines."""
    requests = evaluator.requests(seed=KEPT_SEED)
    chosen = [requests[round(i * len(requests) / count)] for i in range(count)]
    lines = [
        json.dumps({"prompt": request.prompt, "seconds_total": round(request.seconds, 4)})
        for request in chosen
    ]
    with atomic_write(Path(path)) as temporary:
        temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")
