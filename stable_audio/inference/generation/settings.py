"""How to sample: everything that shapes a result besides model, conditioning, seed and length."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

from stable_audio.diffusion.objectives import Objective
from stable_audio.diffusion.samplers import SamplerSpec
from stable_audio.diffusion.sampling import default_schedule, resolve_sampler
from stable_audio.diffusion.schedules import check_schedule, check_schedule_name
from stable_audio.diffusion.shift import DistributionShift
from stable_audio.wording import did_you_mean

MAX_STEPS = 1_000_000
"""What asks for more steps is a mistake."""


@dataclass(frozen=True)
class Sampling:
    """Sampler settings; plain values, so that they can be stored beside the audio.

    Attributes:
        steps: number of steps; None takes the default of the model's objective.
        cfg_scale: guidance weight; None takes the default of the model's objective.
        sampler: name of the sampler; None takes the default of the model's objective.
        schedule: key of SCHEDULES or STEP_SCHEDULES; None = the sampler's own.
        sigma_min: last level above the data; see `build_schedule`.
        sigma_max: first level; see `build_schedule`.
        rho: exponent of the schedule's ramp; see `build_schedule`.
        dist_shift: whether the model's distribution shift bends the schedule; None = as stable-audio-tools
            does, for rk4 only. True fits every schedule that counts t ("linear", "logsnr").
        scale_phi: CFG rescale; None = the backbone's default.
        cfg_interval: noise levels (sigma of the objective) within which guidance acts.
        options: options of the sampler, such as {"eta": 0.5}.
    """

    steps: int | None = None
    cfg_scale: float | None = None
    sampler: str | None = None
    schedule: str | None = None
    sigma_min: float = 0.01
    sigma_max: float = 100.0
    rho: float = 1.0
    dist_shift: bool | None = None
    scale_phi: float | None = None
    cfg_interval: tuple[float, float] = (0.0, 1.0)
    options: Mapping[str, Any] = field(default_factory=dict)

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

    def guidance(self) -> dict[str, Any]:
        """Keywords of `Guidance`."""
        cfg_scale = self.cfg_scale if self.cfg_scale is not None else 1.0
        return {"cfg_scale": cfg_scale, "scale_phi": self.scale_phi, "cfg_interval": self.cfg_interval}

    def solver(self, shift: DistributionShift | None) -> dict[str, Any]:
        """Keywords of `diffusion.sampling.sample`.

        Args:
            shift: distribution shift of the model.
        """
        names = ("sampler", "steps", "schedule", "sigma_max", "rho", "options")
        return {
            **{name: getattr(self, name) for name in names},
            "sigma_min": min(self.sigma_min, self.sigma_max),
            "shift": shift if self.dist_shift else None,
        }

    def check(self) -> None:
        """Everything that can be known without a model.

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
        numbers = {"cfg_scale": self.cfg_scale, "scale_phi": self.scale_phi, "rho": self.rho}
        numbers |= {"sigma_min": self.sigma_min, "sigma_max": self.sigma_max}
        for name, value in numbers.items():
            if value is not None and not math.isfinite(value):
                raise ValueError(f"{name} must be a finite number, found {value}")
        low, high = self.cfg_interval
        if not low <= high:
            raise ValueError(f"cfg_interval must be (low, high) with low <= high, found ({low}, {high})")

    def resolved(self, objective: Objective) -> Sampling:
        """The same with every default filled in; names and options checked."""
        self.check()
        sampler = self.sampler or objective.default_sampler
        spec = resolve_sampler(sampler, self.options)
        schedule = self.schedule or default_schedule(spec, objective)
        steps = self.steps if self.steps is not None else objective.usual_steps
        check_schedule(schedule, objective.process, steps)
        return replace(
            self,
            steps=steps,
            cfg_scale=self.cfg_scale if self.cfg_scale is not None else objective.default_cfg_scale,
            sampler=sampler,
            schedule=schedule,
            dist_shift=self.dist_shift if self.dist_shift is not None else spec.shifts,
            options={**spec.options, **self.options},
        )

    def spec(self, objective: Objective) -> SamplerSpec:
        """The sampler itself."""
        return resolve_sampler(self.sampler or objective.default_sampler, self.options)
