"""Settings of sampling: everything that determines a result besides model, conditioning, seed and length."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from typing import Any

from stable_audio.diffusion.clip_frames import HEADROOM_SECONDS
from stable_audio.diffusion.guidance import GuidanceOptions
from stable_audio.diffusion.objectives import Objective
from stable_audio.diffusion.sampling import Solver, default_schedule, resolve_sampler
from stable_audio.diffusion.schedules import check_schedule, check_schedule_name
from stable_audio.diffusion.spaces import FLOW
from stable_audio.model import DiffusionModel
from stable_audio.wording import did_you_mean

MAX_STEPS = 1_000_000
"""More steps than this are a mistake."""


@dataclass(frozen=True, kw_only=True)
class Sampling(Solver, GuidanceOptions):
    """Settings of sampler and guidance; plain values, so that they can be stored beside the audio.

    Attributes:
        schedule: key of SCHEDULES or STEP_SCHEDULES; None = the sampler's default.
        dist_shift: whether to apply the model's distribution shift to the schedule; None = for rk4 only, as
            in stable-audio-tools, and for models with one for sampling. True needs a schedule in t ("linear",
            "logsnr", "shifted").
        headroom_seconds: silence behind each clip that models see which hide padding from attention.
    """

    schedule: str | None = None
    dist_shift: bool | None = None
    headroom_seconds: float = HEADROOM_SECONDS

    def with_keywords(self, **keywords: Any) -> Sampling:
        """A copy with these attributes; `sampler_options` is another name of `options`.

        Raises:
            TypeError: a keyword that is no attribute.
        """
        if "sampler_options" in keywords:
            keywords["options"] = dict(keywords.pop("sampler_options") or {})
        names = [f.name for f in fields(self)]
        for name in keywords:
            if name not in names:
                raise TypeError(f"'{name}' is no setting of sampling; {did_you_mean(name, names)}")
        return replace(self, **keywords)

    def check(self) -> None:
        """Check everything that can be checked without a model.

        Raises:
            ValueError: an unknown sampler, option or schedule, or a number out of range.
        """
        if self.sampler is not None:
            resolve_sampler(self.sampler, self.options)
        if self.schedule is not None:
            check_schedule_name(self.schedule)
        if self.steps is not None and self.steps < 1:
            raise ValueError(f"steps must be at least 1, found {self.steps}")
        if self.steps is not None and self.steps > MAX_STEPS:
            raise ValueError(f"steps must be at most {MAX_STEPS}, found {self.steps}")
        for name, value in vars(self).items():
            if isinstance(value, float) and not math.isfinite(value):
                raise ValueError(f"{name} must be a finite number, found {value}")
        low, high = self.cfg_interval
        if not low <= high:
            raise ValueError(f"cfg_interval must be (low, high) with low <= high, found ({low}, {high})")
        if self.apg_scale is not None and not 0 <= self.apg_scale <= 1:
            raise ValueError(f"apg_scale must be from 0 to 1, found {self.apg_scale}")
        if self.headroom_seconds < 0:
            raise ValueError(f"headroom_seconds must be at least 0, found {self.headroom_seconds}")
        if self.cfg_norm_threshold < 0:
            raise ValueError(f"cfg_norm_threshold must be at least 0, found {self.cfg_norm_threshold}")

    def resolved_for(self, model: DiffusionModel) -> Sampling:
        """As `resolved`, with the defaults of the model."""
        shifted, apg_scale = model.sampling_shift is not None, model.apg_scale
        return self.resolved(model.objective, shifted=shifted, apg_scale=apg_scale)

    def resolved(self, objective: Objective, *, shifted: bool = False, apg_scale: float = 0.0) -> Sampling:
        """A copy with every default filled in, and names and options checked.

        Args:
            shifted: samplers of flows walk the schedule `shifted` unless the settings say otherwise.
            apg_scale: where the settings have none.
        """
        self.check()
        sampler = self.sampler or objective.default_sampler
        spec = resolve_sampler(sampler, self.options)
        usual = default_schedule(spec, objective)
        if shifted and spec.space is FLOW and objective.process.steps is None:
            usual = "linear" if self.dist_shift is False else "shifted"
        schedule = self.schedule or usual
        steps = self.steps if self.steps is not None else objective.usual_steps
        check_schedule(schedule, objective.process, steps)
        return replace(
            self,
            steps=steps,
            cfg_scale=self.cfg_scale if self.cfg_scale is not None else objective.default_cfg_scale,
            sampler=sampler,
            schedule=schedule,
            dist_shift=(
                self.dist_shift if self.dist_shift is not None else spec.shifts or schedule == "shifted"
            ),
            apg_scale=self.apg_scale if self.apg_scale is not None else apg_scale or None,
            options={**spec.options, **self.options},
        )
