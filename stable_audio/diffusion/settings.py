"""All settings of sampling together: what a call, a recipe, a model file and a demo section can say."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar

from stable_audio.diffusion.clip_frames import HEADROOM_SECONDS
from stable_audio.diffusion.guidance_options import EVERYWHERE, GuidanceOptions
from stable_audio.diffusion.level_lists import check_list
from stable_audio.diffusion.objectives import Objective
from stable_audio.diffusion.sampling import Solver, default_schedule, resolve_sampler
from stable_audio.diffusion.schedules import check_schedule, check_schedule_name
from stable_audio.diffusion.spaces import FLOW
from stable_audio.wording import did_you_mean

MAX_STEPS = 1_000_000
"""More steps than this are a mistake."""

S = TypeVar("S", bound="SamplingSettings")

OF_THE_SAMPLER = ("sampler", "schedule", "sigma_min", "sigma_max", "rho", "options")
"""Settings that mean something else with another sampler or schedule."""


@dataclass(frozen=True, kw_only=True)
class SamplingSettings(Solver, GuidanceOptions):
    """Settings of sampler and guidance; plain values, so that they can be stored beside the audio.

    Attributes:
        schedule: key of SCHEDULES or STEP_SCHEDULES, or a list of levels from noise to 0, in the sampler's
            units: sigma for VE samplers, t for the others; None = the sampler's default.
        dist_shift: whether to apply the model's distribution shift to the schedule; None = for rk4 only, as
            in stable-audio-tools, and for models with one for sampling. True needs a schedule in t ("linear",
            "logsnr", "shifted").
        headroom_seconds: silence behind each clip that models see which hide padding from attention;
            None = 5.
    """

    schedule: str | tuple[float, ...] | None = None
    dist_shift: bool | None = None
    headroom_seconds: float | None = None

    def with_keywords(self: S, **keywords: Any) -> S:
        """A copy with these attributes, lists as tuples; `sampler_options` is another name of `options`.

        Raises:
            TypeError: a keyword that is no attribute.
        """
        if "sampler_options" in keywords:
            keywords["options"] = dict(keywords.pop("sampler_options") or {})
        names = [f.name for f in fields(self)]
        for name in keywords:
            if name not in names:
                raise TypeError(f"'{name}' is no setting of sampling; {did_you_mean(name, names)}")
        values = {name: getattr(self, name) for name in names} | keywords
        return replace(self, **{name: in_tuples(value) for name, value in values.items()})

    def over(self: S, defaults: SamplingSettings) -> S:
        """A copy that takes from `defaults` what it leaves open.

        With another sampler or schedule than those of `defaults`, or another number of steps than its list of
        levels, its schedule, ends and options are left out: they were chosen for that sampler.
        """
        other = any(
            getattr(self, name) is not None and getattr(self, name) != getattr(defaults, name)
            for name in ("sampler", "schedule")
        )
        if isinstance(defaults.schedule, tuple) and self.steps not in (None, len(defaults.schedule) - 1):
            other = True
        open_ones = (f.name for f in fields(self) if getattr(self, f.name) in (None, {}))
        names = [name for name in open_ones if not (other and name in OF_THE_SAMPLER)]
        return replace(self, **{name: getattr(defaults, name) for name in names})

    def check(self) -> None:
        """Check everything that can be checked without a model.

        Raises:
            ValueError: an unknown sampler, option or schedule, or a number out of range.
        """
        if self.sampler is not None:
            resolve_sampler(self.sampler, self.options)
        self._check_schedule()
        for name, value in vars(self).items():
            if isinstance(value, float) and not math.isfinite(value):
                raise ValueError(f"{name} must be a finite number, found {value}")
        self.check_guidance()
        self.check_forecast()
        if self.headroom_seconds is not None and self.headroom_seconds < 0:
            raise ValueError(f"headroom_seconds must be at least 0, found {self.headroom_seconds}")

    def _check_schedule(self) -> None:
        if self.steps is not None and self.steps < 1:
            raise ValueError(f"steps must be at least 1, found {self.steps}")
        if self.steps is not None and self.steps > MAX_STEPS:
            raise ValueError(f"steps must be at most {MAX_STEPS}, found {self.steps}")
        if isinstance(self.schedule, str):
            check_schedule_name(self.schedule)
        elif self.schedule is not None:
            check_list(self.schedule)
            if self.steps not in (None, len(self.schedule) - 1):
                raise ValueError(
                    f"steps is {self.steps}, but the schedule lists {len(self.schedule)} levels, which are "
                    f"{len(self.schedule) - 1} steps; leave steps out"
                )

    def resolved(self: S, objective: Objective, *, shifted: bool = False, apg_scale: float = 0.0) -> S:
        """A copy with every default filled in, and names and options checked.

        Args:
            shifted: samplers of flows walk the schedule `shifted` unless the settings say otherwise.
            apg_scale: where the settings have none.
        """
        self.check()
        self.check_objective(objective)
        sampler = self.sampler or objective.default_sampler
        spec = resolve_sampler(sampler, self.options)
        usual = default_schedule(spec, objective)
        if shifted and spec.space is FLOW and objective.process.steps is None:
            usual = "linear" if self.dist_shift is False else "shifted"
        schedule = self.schedule or usual
        low, high, rho = self.ends
        if isinstance(schedule, str):
            steps = self.steps if self.steps is not None else objective.usual_steps
            check_schedule(schedule, objective.process, steps)
        else:
            steps, high = len(schedule) - 1, schedule[0] if self.sigma_max is None else high
            if self.dist_shift:
                raise ValueError("a schedule as a list is not shifted; leave dist_shift out")
        shift = (spec.shifts and isinstance(schedule, str)) or schedule == "shifted"
        return replace(
            self,
            steps=steps,
            cfg_scale=self.cfg_scale if self.cfg_scale is not None else objective.default_cfg_scale,
            sampler=sampler,
            schedule=schedule,
            sigma_min=low,
            sigma_max=high,
            rho=rho,
            cfg_interval=self.cfg_interval or EVERYWHERE,
            cfg_norm_threshold=self.cfg_norm_threshold or 0.0,
            headroom_seconds=self.headroom,
            dist_shift=self.dist_shift if self.dist_shift is not None else shift,
            apg_scale=self.apg_scale if self.apg_scale is not None else apg_scale or None,
            options={**spec.options, **self.options},
        )

    @property
    def headroom(self) -> float:
        """`headroom_seconds`, or the usual ones."""
        return HEADROOM_SECONDS if self.headroom_seconds is None else self.headroom_seconds

    @property
    def ordered(self: S) -> S:
        """A copy whose sigma_min is at most its sigma_max, as for sounds with little noise."""
        low, high, _ = self.ends
        return replace(self, sigma_min=min(low, high))


def in_tuples(value: Any) -> Any:
    """Lists, at any depth, as tuples; other values as they are."""
    return tuple(in_tuples(v) for v in value) if isinstance(value, (list, tuple)) else value


NO_SETTINGS = SamplingSettings()
"""Settings that leave all to the model."""
