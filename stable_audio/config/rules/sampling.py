"""What must hold between settings of sampling and the rest of a model file."""

from __future__ import annotations

import json
from collections.abc import Iterator

from pydantic import ValidationError

from stable_audio.config.reporting.problems import Loc
from stable_audio.config.rules.context import Context
from stable_audio.config.sections.sampling import SamplingSection, settings_from


def settings_can_be_used(ctx: Context) -> Iterator[tuple[Loc, str]]:
    """Samplers, schedules and numbers of sampling_defaults and demo_sampling exist and fit the process."""
    for loc in ((*ctx.diffusion_loc, "sampling_defaults"), ("training", "demo", "demo_sampling")):
        values = ctx.get(*loc)
        if not isinstance(values, dict):
            continue
        try:
            settings = settings_from(SamplingSection.model_validate_json(json.dumps(values)))
        except (ValidationError, TypeError):
            continue  # the schema says what is wrong
        try:
            settings.check()
            if ctx.facts.objective is not None:
                settings.resolved(ctx.facts.objective)
        except ValueError as error:
            yield loc, str(error)
