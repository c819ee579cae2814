"""What must hold between an objective and its options."""

from __future__ import annotations

from collections.abc import Iterator

from stable_audio.config.reporting.problems import Loc
from stable_audio.config.rules.context import Context
from stable_audio.config.schemas.options import option_mistakes
from stable_audio.config.sections.diffusion import objective_options
from stable_audio.diffusion.objectives import OBJECTIVES


def options_fit(ctx: Context) -> Iterator[tuple[Loc, str]]:
    """diffusion_objective_options are keywords of the objective."""
    loc = (*ctx.diffusion_loc, "diffusion_objective_options")
    name = ctx.get(*ctx.diffusion_loc, "diffusion_objective", default="v")
    options = ctx.get(*loc, default={})
    if not isinstance(name, str) or name not in OBJECTIVES or not isinstance(options, dict):
        return
    for at, message in option_mistakes(objective_options(name), options):
        yield (*loc, *at), message
