"""Demos of diffusion models: the same prompts and the same noise at every demo step."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch import nn

from stable_audio.inference import generate
from stable_audio.model import DiffusionModel
from stable_audio.training.demo import Demo, DemoRenderer
from stable_audio.training.errors import TrainingError


class DiffusionDemos(DemoRenderer):
    """Renders every prompt at every CFG scale, by the same `generate` as inference.

    Prompt i starts from the noise of seed + i at every step, so that demos can be compared over time.
    Latents of a CFG scale are sampled together and decoded one by one, which bounds memory.

    Args:
        prompts: conditioning of each clip, as metadata.
        sample_rate: sample rate in Hz.
        cfg_scales: guidance weights, one column each.
        steps: steps of the sampler.
        sampler: name of the sampler; None takes the objective's for demos.
        seed: seed of the first prompt's noise.
        batch_size: clips sampled at once; None = all prompts.
    """

    def __init__(
        self,
        prompts: Sequence[Mapping[str, Any]],
        *,
        sample_rate: int,
        cfg_scales: Sequence[float] = (1.0,),
        steps: int = 250,
        sampler: str | None = None,
        seed: int = 0,
        batch_size: int | None = None,
    ) -> None:
        self.prompts = [dict(p) for p in prompts]
        self.sample_rate, self.cfg_scales = sample_rate, tuple(cfg_scales)
        self.steps, self.sampler, self.seed = steps, sampler, seed
        self.batch_size = batch_size

    def render(self, model: nn.Module) -> Iterator[Demo]:
        if not isinstance(model, DiffusionModel):
            raise TrainingError(f"demos of prompts need a diffusion model, found {type(model).__name__}")
        for scale in self.cfg_scales:
            clips = generate(
                model,
                self.prompts,
                seeds=[self.seed + i for i in range(len(self.prompts))],
                steps=min(self.steps, model.objective.process.steps or self.steps),
                cfg_scale=scale,
                batch_size=self.batch_size,
                **self._sampling(model),
            )
            for i, audio in enumerate(clips):
                yield Demo(f"demo_{i:03d}_cfg_{scale:g}", self._title(i), f"CFG {scale:g}", audio)

    def shorten(self, steps: int) -> None:
        self.steps = steps

    def _sampling(self, model: DiffusionModel) -> dict[str, Any]:
        if self.sampler is not None:
            return {"sampler": self.sampler}
        objective = model.objective
        if objective.process.steps is not None:
            return {"sampler": objective.demo_sampler}
        if model.sampling_shift is not None:
            return {"sampler": objective.demo_sampler}
        linear = objective.demo_schedule == "linear"
        return {
            "sampler": objective.demo_sampler,
            "schedule": objective.demo_schedule,
            "dist_shift": linear and model.dist_shift is not None,
        }

    def _title(self, index: int) -> str:
        prompt = self.prompts[index]
        if "prompt" in prompt:
            return str(prompt["prompt"])
        return json.dumps(prompt, ensure_ascii=False, default=str) if prompt else f"seed {self.seed + index}"
