"""What must hold between settings of sampling and the rest of a model file."""

from __future__ import annotations

import json
from collections.abc import Iterator

from pydantic import ValidationError

from stable_audio.config.reporting.problems import Loc
from stable_audio.config.rules.context import Context
from stable_audio.config.sections.sampling import SamplingSection, settings_from


def guides_have_weights(ctx: Context) -> Iterator[tuple[Loc, str]]:
    """A weaker model and its weight stand together, and only demos can name one."""
    demo, loc = ctx.get("training", "demo", default={}), ("training", "demo")
    guide = demo.get("demo_guide") if isinstance(demo, dict) else None
    weight = ctx.get(*loc, "demo_sampling", "guide_scale")
    if guide is not None and weight is None:
        yield (
            (*loc, "demo_guide"),
            "it has no effect without guide_scale in demo_sampling; give it, such as 2",
        )
    if guide is None and weight is not None:
        message = "it is the weight of a weaker model; give its checkpoint as demo_guide"
        yield (*loc, "demo_sampling", "guide_scale"), message
    here = (*ctx.diffusion_loc, "sampling_defaults", "guide_scale")
    if ctx.get(*here) is not None:
        yield here, "it is the weight of a weaker model, which each call names; give it there"


def settings_can_be_used(ctx: Context) -> Iterator[tuple[Loc, str]]:
    """Samplers, schedules and numbers of sampling_defaults and demo_sampling exist and fit the process."""
    for loc in ((*ctx.diffusion_loc, "sampling_defaults"), ("training", "demo", "demo_sampling")):
        values = ctx.get(*loc)
        if not isinstance(values, dict):
            continue
        # The schema names unknown keys; what is wrong with the others is told in the same run.
        values = {key: value for key, value in values.items() if key in SamplingSection.model_fields}
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
