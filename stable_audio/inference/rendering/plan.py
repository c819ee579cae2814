"""From jobs to recipes, with all checks of a render that are possible before its first clip."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from stable_audio.config.sections.top import MAX_SAMPLE_SIZE
from stable_audio.diffusion.branches import slots_named
from stable_audio.inference.generation.lengths import ClipLength
from stable_audio.inference.generation.settings import Sampling
from stable_audio.inference.rendering.adapting import AdaptedModels, specs_of_recipe
from stable_audio.inference.rendering.finishing import NO_FINISHING, Finishing
from stable_audio.inference.rendering.jobs import (
    Job,
    check_conditioning,
    check_values,
    listed,
    needed_ids,
    unused_keys,
)
from stable_audio.inference.rendering.levels import levels_beyond
from stable_audio.inference.rendering.load import RenderModel
from stable_audio.inference.rendering.recipe import Recipe, sampling_values
from stable_audio.inference.rendering.sound_files import files_of, with_files
from stable_audio.model import DiffusionModel


@dataclass(frozen=True)
class RenderPlan:
    """Jobs that the model can render, each with its recipe, and no recipe twice; see `render`."""

    jobs: list[Job]
    recipes: list[Recipe]


def plan(
    render_model: RenderModel,
    jobs: Sequence[Job],
    *,
    sampling: Sampling,
    chunked_decode: bool = False,
    adapted: AdaptedModels | None = None,
    finishing: Finishing = NO_FINISHING,
) -> RenderPlan:
    """Check completed `jobs` and make a recipe of each.

    Args:
        sampling: settings of jobs without their own; what they leave open, the model says.
        adapted: the model with the adapters of each clip; None: makes its own.
        finishing: what happens to the samples before they are written.

    Raises:
        ValueError: naming, for every clip, conditioning that is missing or that the model cannot use; or an
            adapter that is unreadable or of another model.
    """
    adapted = adapted or AdaptedModels(render_model.model)
    check_conditioning(jobs, render_model.model)
    jobs = [with_files(render_model.model, job) for job in jobs]
    check_values(jobs, render_model.model)
    for specs in dict.fromkeys(job.adapters or () for job in jobs):
        adapted.check(specs)
    samplings = _samplings(render_model, jobs, sampling)
    unique: dict[str, tuple[Job, Recipe]] = {}
    for job, own in zip(jobs, samplings):
        try:
            recipe = _recipe(render_model, job, own, chunked_decode)
        except ValueError as error:
            raise ValueError(f"{job.source}: {error}") from error
        recipe = replace(recipe, adapters=adapted.files(job.adapters or ()), finishing=finishing or None)
        unique.setdefault(recipe.digest(), (job, recipe))
    return RenderPlan([job for job, _ in unique.values()], [recipe for _, recipe in unique.values()])


def _samplings(render_model: RenderModel, jobs: Sequence[Job], sampling: Sampling) -> list[Sampling]:
    """The settings of each job, complete."""
    model, guide = render_model.model, render_model.guide
    common = sampling.resolved_for(model)
    samplings, problems = [], []
    for job in jobs:
        try:
            own = sampling.with_keywords(**job.sampling).resolved_for(model) if job.sampling else common
            _check_slots(own, model)
            if own.guide_scale is not None or isinstance(own.cfg_scale, tuple):
                _check_own(own, guide)
            samplings.append(own)
        except ValueError as error:
            problems.append(f"{job.source}: {error}")
    if problems:
        raise ValueError(listed(list(dict.fromkeys(problems))))
    if guide is not None and all(own.guide_scale is None for own in samplings):
        raise ValueError("a weaker model has no effect without its weight: give --guide-scale, such as 2")
    return samplings


def _check_slots(sampling: Sampling, model: DiffusionModel) -> None:
    """Raise ValueError for a weight of a slot that nothing is put into."""
    for slot in slots_named(list(sampling.slot_scales or {})):
        if not model.wiring.ids.get(slot):
            used = ", ".join(each.value for each, ids in model.wiring.ids.items() if ids) or "none"
            raise ValueError(f"slot_scales: the model has no '{slot.value}'; slots that it uses: {used}")


def _check_own(sampling: Sampling, guide: DiffusionModel | None) -> None:
    """Raise ValueError for settings that a single clip cannot have."""
    if isinstance(sampling.cfg_scale, tuple):
        raise ValueError("cfg_scale of a clip is one number")
    if guide is None:
        raise ValueError("guide_scale is the weight of a weaker model: give one with --guide-ckpt-path")


def _recipe(render_model: RenderModel, job: Job, sampling: Sampling, chunked_decode: bool) -> Recipe:
    assert job.seed is not None
    assert job.seconds is not None
    steering, files = job.steering, job.steering.files
    inpaints = "inpaint_audio" in files
    goes_on = job.to_conditioning is not None or job.to_seed is not None
    return Recipe(
        checkpoint=render_model.checkpoint,
        use_ema=render_model.use_ema,
        dtype=render_model.dtype,
        config=render_model.config,
        conditioning=job.conditioning,
        negative_conditioning=job.negative,
        seed=job.seed,
        seconds=job.seconds,
        sample_size=generated_samples(render_model.model, job.seconds, sampling, steering.form),
        sampling=sampling_values(sampling),
        pretransform=render_model.pretransform,
        init_noise_level=steering.init_noise_level if "init_audio" in files else None,
        inpaint_seconds=_spans(steering.inpaint_spans, job.seconds) if inpaints else None,
        condition_audio=files_of(render_model.model, job) or None,
        chunked_decode=chunked_decode,
        init_audio=files.get("init_audio"),
        inpaint_audio=files.get("inpaint_audio"),
        guide=render_model.guide_file if sampling.guide_scale is not None else None,
        inpaint_exact=steering.exact or None if inpaints else None,
        inpaint_repeats=steering.inpaint_repeats if inpaints and steering.exact else None,
        inversion_steps=steering.inversion_steps or None,
        init_conditioning=dict(steering.init_conditioning) if steering.init_conditioning else None,
        to_conditioning=job.to_conditioning,
        to_seed=job.to_seed,
        mix=job.mix if goes_on else None,
        loop=steering.loop or None,
        window_seconds=steering.window_seconds,
        short=steering.short or None,
    )


def _spans(spans: Iterable[tuple[float, float]], seconds: float) -> list[list[float]]:
    """Spans as numbers: JSON has none for an end that was left open."""
    return [[start, min(end, seconds) if math.isinf(end) else end] for start, end in spans]


def job_of(recipe: Recipe, source: str, adapters: Sequence[str] = ()) -> Job:
    """The job that renders the sound of `recipe` again.

    Args:
        source: file of the recipe, for messages.
        adapters: where the files of its adapters are now, see `specs_of_recipe`.
    """
    specs = specs_of_recipe(recipe.adapters or [], adapters, source)
    return Job(
        conditioning=recipe.conditioning,
        negative=recipe.negative_conditioning,
        seed=recipe.seed,
        seconds=recipe.seconds,
        source=source,
        adapters=tuple(specs),
        to_conditioning=recipe.to_conditioning,
        to_seed=recipe.to_seed,
        mix=recipe.mix or 0.0,
    )


def generated_samples(
    model: DiffusionModel, seconds: float, sampling: Sampling, form: Mapping[str, Any] | None = None
) -> int:
    """Samples to generate for a clip of `seconds`, as `ClipLength` with the keywords `form`.

    Raises:
        ValueError: more than MAX_SAMPLE_SIZE.
    """
    samples = round(seconds * model.sample_rate)
    if samples > MAX_SAMPLE_SIZE:
        raise ValueError(
            f"{seconds:g} seconds are {samples} samples; at most {MAX_SAMPLE_SIZE} can be rendered"
        )
    return ClipLength(seconds=seconds, **(form or {})).samples(model, sampling.headroom)[0]


def cautions(jobs: Sequence[Job], model: DiffusionModel, sampling: Sampling) -> Iterator[str]:
    """Warnings about a render that is possible but may not be intended, one sentence each.

    Args:
        sampling: settings of jobs without their own.
    """
    if any(job.negative and not sampling.with_keywords(**job.sampling).needs_null for job in jobs):
        yield "at --cfg-scale 1 there is no guidance, so negative prompts have no effect"
    yield from levels_beyond(jobs, model, sampling)
    unused = unused_keys(jobs, model)
    if unused:
        yield f"the model does not read {_listed(unused)}; it reads {_listed(needed_ids(model))}"
    trained = model.sample_size / model.sample_rate
    seen = max(job.steering.heard_seconds(model, job.seconds or 0) for job in jobs)
    if seen > trained + 1e-6:
        yield (
            f"clips of {seen:g} s, but the model was trained on {trained:g} s: expect worse sound, or "
            "generate in windows of that length (--window)"
        )


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names) or "nothing"
