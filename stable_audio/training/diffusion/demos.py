"""Demos of diffusion models: the same prompts and the same noise at every demo step."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from torch import nn

from stable_audio.characters import readable_json
from stable_audio.checkpoints import load_model
from stable_audio.data.base import Batch
from stable_audio.diffusion.settings import NO_SETTINGS, SamplingSettings
from stable_audio.inference import generate
from stable_audio.inference.generation.coding import decode_each
from stable_audio.model import DiffusionModel
from stable_audio.training.demo import Demo, DemoRenderer
from stable_audio.training.diffusion.batch_clips import (
    BatchClip,
    FirstClips,
    inpainting_inputs,
    kept_part,
    masked_seconds,
    samples_of,
)
from stable_audio.training.diffusion.inpainting import InpaintingMasks
from stable_audio.training.errors import TrainingError


@dataclass(frozen=True, kw_only=True)
class ClipDemos:
    """Demos of the first clips of a run.

    Attributes:
        conditions: clips whose metadata are prompts.
        inpaint_kinds: a kind of mask for each clip of which a part is generated anew.
        pre_encoded: the dataset holds latents.
        masks: draws the masks.
    """

    conditions: int = 0
    inpaint_kinds: Sequence[str] = ()
    pre_encoded: bool = False
    masks: InpaintingMasks = field(default_factory=InpaintingMasks)


class DiffusionDemos(DemoRenderer):
    """Renders every prompt at every CFG scale, by the same `generate` as inference.

    Prompt i starts from the noise of seed + i at every step, so that demos can be compared over time.
    Latents of a CFG scale are sampled together and decoded one by one, which bounds memory. Demos of
    inpainting have the original in their first column, and what is kept of it in the second, silent where the
    mask is; the row names its seconds.

    Args:
        prompts: conditioning of each clip, as metadata.
        sample_rate: sample rate in Hz.
        cfg_scales: guidance weights, one column each.
        steps: steps of the sampler.
        sampler: name of the sampler; None takes that of the model's defaults, or the objective's for demos.
        seed: seed of the first prompt's noise.
        batch_size: clips sampled at once; None = all prompts.
        clips: demos of the first clips of the run.
        sampling: further settings; what is None is for the model to say.
        guide: file of a weaker model to steer away from, which is read for the first demo.
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
        clips: ClipDemos = ClipDemos(),
        sampling: SamplingSettings = NO_SETTINGS,
        guide: Path | None = None,
    ) -> None:
        self.prompts = [dict(p) for p in prompts]
        self.sample_rate, self.cfg_scales = sample_rate, tuple(cfg_scales)
        self.steps, self.sampler, self.seed = steps, sampler, seed
        self.batch_size = batch_size
        self.of_clips, self.sampling, self.guide = clips, sampling, guide
        self._weaker: DiffusionModel | None = None
        self.wanted_clips = max(clips.conditions, len(clips.inpaint_kinds))
        self._first = FirstClips(self.wanted_clips)

    def observe(self, batch: Batch) -> None:
        self._first.observe(batch)

    def observed(self) -> Any:
        return self._first.clips

    def adopt(self, observed: Any) -> None:
        self._first.clips = list(observed)

    def render(self, model: nn.Module) -> Iterator[Demo]:
        if not isinstance(model, DiffusionModel):
            raise TrainingError(f"demos of prompts need a diffusion model, found {type(model).__name__}")
        prompts = self.prompts or [c.metadata for c in self._first.clips[: self.of_clips.conditions]]
        for scale in self.cfg_scales if prompts else ():
            clips = generate(
                model,
                prompts,
                seeds=[self.seed + i for i in range(len(prompts))],
                batch_size=self.batch_size,
                **self._settings(model, scale),
            )
            for i, audio in enumerate(clips):
                title = self._title(prompts[i], i)
                yield Demo(f"demo_{i:03d}_cfg_{scale:g}", title, f"CFG {scale:g}", audio)
        for i, (clip, kind) in enumerate(zip(self._first.clips, self.of_clips.inpaint_kinds)):
            yield from self._inpainted(model, clip, kind, i)

    def _inpainted(self, model: DiffusionModel, clip: BatchClip, kind: str, index: int) -> Iterator[Demo]:
        stored = self.of_clips.pre_encoded
        inputs = inpainting_inputs(
            model, clip, kind, masks=self.of_clips.masks, seed=self.seed + index, latents=stored
        )
        original = clip.data
        if inputs.inpaint_latents is not None:
            original = decode_each(model, inputs.inpaint_latents[None])[0]
        assert inputs.inpaint_mask is not None
        kept = kept_part(original, inputs.inpaint_mask)
        spans = masked_seconds(inputs.inpaint_mask, original.shape[-1] / self.sample_rate)
        row = f"{clip.name}, made anew ({kind}): {spans}"
        yield Demo(f"inpaint_{index:03d}_original", row, "original", original)
        yield Demo(f"inpaint_{index:03d}_kept", row, "kept", kept)
        for scale in self.cfg_scales:
            (audio,) = generate(
                model,
                [clip.metadata],
                seeds=[self.seed + index],
                sample_size=samples_of(model, [clip], latents=stored),
                audio_inputs=inputs,
                **self._settings(model, scale),
            )
            yield Demo(f"inpaint_{index:03d}_cfg_{scale:g}", row, f"CFG {scale:g}", audio)

    def _settings(self, model: DiffusionModel, scale: float) -> dict[str, Any]:
        steps = min(self.steps, model.objective.process.steps or self.steps)
        stated = {f.name: getattr(self.sampling, f.name) for f in fields(self.sampling)}
        further = {name: value for name, value in stated.items() if value not in (None, {})}
        chosen = self._sampling(model)
        if "schedule" in further:
            chosen = {"sampler": chosen["sampler"]} if "sampler" in chosen else {}
        if not isinstance(self.sampling.schedule, tuple):  # a list of levels is its own number of steps
            chosen["steps"] = steps
        return {"cfg_scale": scale, **chosen, **further, "guide": self._guide(model)}

    def _guide(self, model: DiffusionModel) -> DiffusionModel | None:
        if self.guide is not None and self._weaker is None:
            weaker, _ = load_model(self.guide)
            if not isinstance(weaker, DiffusionModel):
                raise TrainingError(f"{self.guide}: holds no diffusion model, so it cannot guide demos")
            self._weaker = weaker.eval().requires_grad_(False)
        return None if self._weaker is None else self._weaker.to(model.device)

    def shorten(self, steps: int) -> None:
        self.steps = steps

    def _sampling(self, model: DiffusionModel) -> dict[str, Any]:
        if self.sampler is not None:
            return {"sampler": self.sampler}
        if model.sampling_defaults.sampler is not None or model.sampling_defaults.schedule is not None:
            return {}
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

    def _title(self, prompt: Mapping[str, Any], index: int) -> str:
        if "prompt" in prompt:
            return str(prompt["prompt"])
        return readable_json(prompt, default=str) if prompt else f"seed {self.seed + index}"
