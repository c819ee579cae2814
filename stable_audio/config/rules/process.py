"""What must hold between the diffusion process and the rest of a model file."""

from __future__ import annotations

from collections.abc import Iterator

from stable_audio.config.reporting.problems import Loc
from stable_audio.config.rules.context import Context


def steps_are_those_of_the_backbone(ctx: Context) -> Iterator[tuple[Loc, str]]:
    """A backbone that counts steps counts those of the process."""
    backbone, objective = ctx.facts.backbone, ctx.facts.objective
    if backbone is None or objective is None or objective.process.steps is None:
        return
    steps = objective.process.steps
    if backbone.time_steps not in (None, steps):
        message = f"found {backbone.time_steps}, but the process has {steps} steps; give both the same number"
        yield (*ctx.diffusion_loc, "config", "time", "steps"), message


def steps_are_not_shifted(ctx: Context) -> Iterator[tuple[Loc, str]]:
    """A process of steps has its noise levels from its betas, not from the length of the clip."""
    objective, loc = ctx.facts.objective, (*ctx.diffusion_loc, "distribution_shift_options")
    if objective is not None and objective.process.steps is not None and ctx.get(*loc) is not None:
        yield loc, "only continuous processes can be shifted; leave it out, or use another diffusion_process"


def demos_take_steps_that_exist(ctx: Context) -> Iterator[tuple[Loc, str]]:
    """Demos walk the steps of the process."""
    objective, loc = ctx.facts.objective, ("training", "demo", "demo_steps")
    steps = ctx.get(*loc)
    most = objective.process.steps if objective is not None else None
    if most is not None and isinstance(steps, int) and steps > most:
        yield loc, f"found {steps}, but the process has {most} steps; give at most that many"


def pure_noise_says_something(ctx: Context) -> Iterator[tuple[Loc, str]]:
    """One-shot training needs an objective that means something in pure noise."""
    objective, loc = ctx.facts.objective, ("training", "p_one_shot")
    share = ctx.get(*loc, default=0)
    if (
        objective is not None
        and objective.name == "epsilon"
        and isinstance(share, (int, float))
        and share > 0
    ):
        message = f"found {share}, but in pure noise 'epsilon' says nothing of the data; use 0, 'v' or 'x0'"
        yield loc, message
