"""Sounds that steer every clip of a render: initial audio, and audio to inpaint."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from stable_audio.audio.io import read_audio
from stable_audio.inference.rendering.jobs import Job, listed
from stable_audio.inference.rendering.recipe import InputFile, Recipe
from stable_audio.model import DiffusionModel

INIT_NOISE_LEVEL = 0.7
"""Of the sound that --init-audio names, so that the clips resemble it."""


@dataclass(frozen=True)
class Steering:
    """Sounds that steer every clip; see `generate` for the attributes that are not listed.

    Attributes:
        inpaint_spans: (start, end) in seconds of the spans of inpaint_audio that are generated anew.
        files: attribute -> file of its sound, for recipes.
    """

    init_audio: Tensor | None = None
    init_sample_rate: int | None = None
    init_noise_level: float = 1.0
    inpaint_audio: Tensor | None = None
    inpaint_sample_rate: int | None = None
    inpaint_spans: Sequence[tuple[float, float]] = ()
    files: Mapping[str, InputFile] = field(default_factory=dict)

    @classmethod
    def from_files(
        cls,
        *,
        init_audio: str | Path | None = None,
        init_noise_level: float | None = None,
        inpaint_audio: str | Path | None = None,
        inpaint_spans: Sequence[Sequence[float]] = (),
    ) -> Steering:
        """Read the sounds.

        Args:
            init_noise_level: noise level of the initial audio; None = INIT_NOISE_LEVEL.

        Raises:
            ValueError: a span is empty or begins before 0, or a setting is for a sound that is not given.
        """
        if inpaint_spans and inpaint_audio is None:
            raise ValueError("--inpaint needs --inpaint-audio, the sound to keep elsewhere")
        if init_noise_level is not None and init_audio is None:
            raise ValueError("--init-noise-level needs --init-audio")
        if bad := [span for span in inpaint_spans if not 0 <= span[0] < span[1]]:
            raise ValueError(f"--inpaint needs 0 <= START < END in seconds, found {bad[0]}")
        values: dict[str, Any] = {}
        if init_audio is not None:
            values["init_audio"], values["init_sample_rate"] = read_audio(init_audio)
            values["init_noise_level"] = INIT_NOISE_LEVEL if init_noise_level is None else init_noise_level
        if inpaint_audio is not None:
            values["inpaint_audio"], values["inpaint_sample_rate"] = read_audio(inpaint_audio)
            values["inpaint_spans"] = [(start, end) for start, end in inpaint_spans]
        paths = {"init_audio": init_audio, "inpaint_audio": inpaint_audio}
        return cls(**values, files={k: InputFile.of(p) for k, p in paths.items() if p is not None})

    def check(self, model: DiffusionModel, jobs: Sequence[Job], recipes: Sequence[Recipe]) -> None:
        """Raise ValueError, naming every clip, if a span starts after the end of the clip."""
        if self.inpaint_audio is None:
            return
        problems = [
            f"{job.source}: the span {start:g} to {end:g} s starts after the end of the clip of "
            f"{recipe.sample_size / model.sample_rate:g} s"
            for job, recipe in zip(jobs, recipes)
            for start, end in self.inpaint_spans
            if math.floor(start * model.sample_rate) >= recipe.sample_size
        ]
        if problems:
            raise ValueError(listed(list(dict.fromkeys(problems))))

    def arguments(self, model: DiffusionModel, sample_size: int) -> dict[str, Any]:
        """Keyword arguments of `generate`."""
        keywords: dict[str, Any] = {}
        if self.init_audio is not None:
            keywords.update(
                init_audio=self.init_audio,
                init_sample_rate=self.init_sample_rate,
                init_noise_level=self.init_noise_level,
            )
        if self.inpaint_audio is not None:
            keywords.update(inpaint_audio=self.inpaint_audio, inpaint_sample_rate=self.inpaint_sample_rate)
            mask = torch.ones(sample_size)
            for start, end in self.inpaint_spans:
                first, stop = math.floor(start * model.sample_rate), math.ceil(end * model.sample_rate)
                if first >= sample_size:
                    seconds = sample_size / model.sample_rate
                    raise ValueError(
                        f"the span {start:g} to {end:g} s starts after the end of the clip of {seconds:g} s"
                    )
                mask[first:stop] = 0
            keywords["inpaint_mask"] = mask
        return keywords


NO_STEERING = Steering()
"""Clips that start from noise."""
