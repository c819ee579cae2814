"""What must hold between the diffusion process and the rest of a model file."""

from __future__ import annotations

from collections.abc import Iterator

from stable_audio.config.reporting.problems import Loc
from stable_audio.config.rules.context import Context


def steps_are_those_of_the_backbone(ctx: Context) -> Iterator[tuple[Loc, str]]:
    """A backbone with an embedding of discrete steps has as many steps as the process."""
    backbone, objective = ctx.facts.backbone, ctx.facts.objective
    if backbone is None or objective is None or objective.process.steps is None:
        return
    steps = objective.process.steps
    if backbone.time_steps not in (None, steps):
        message = f"found {backbone.time_steps}, but the process has {steps} steps; give both the same number"
        yield (*ctx.diffusion_loc, "config", "time", "steps"), message


def steps_are_not_shifted(ctx: Context) -> Iterator[tuple[Loc, str]]:
    """A discrete process takes its noise levels from its betas, not from the length of the clip."""
    objective, loc = ctx.facts.objective, (*ctx.diffusion_loc, "distribution_shift_options")
    if objective is not None and objective.process.steps is not None and ctx.get(*loc) is not None:
        yield loc, "only continuous processes can be shifted; leave it out, or use another diffusion_process"


def demos_take_steps_that_exist(ctx: Context) -> Iterator[tuple[Loc, str]]:
    """Demos take at most as many steps as a discrete process has."""
    objective, loc = ctx.facts.objective, ("training", "demo", "demo_steps")
    steps = ctx.get(*loc)
    most = objective.process.steps if objective is not None else None
    if most is not None and isinstance(steps, int) and steps > most:
        yield loc, f"found {steps}, but the process has {most} steps; give at most that many"


def objective_allows_one_shot(ctx: Context) -> Iterator[tuple[Loc, str]]:
    """One-shot training (t = 1) needs an objective whose target depends on the data in pure noise."""
    objective, loc = ctx.facts.objective, ("training", "p_one_shot")
    share = ctx.get(*loc, default=0)
    if (
        objective is not None
        and objective.name == "epsilon"
        and isinstance(share, (int, float))
        and share > 0
    ):
        message = f"found {share}, but at t = 1 the target of 'epsilon' is the input; use 0, or 'v' or 'x0'"
        yield loc, message
