"""From jobs to recipes: everything that can be checked of a render before its first clip."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from stable_audio.config.sections.top import MAX_SAMPLE_SIZE
from stable_audio.inference.generation.settings import Sampling
from stable_audio.inference.rendering.jobs import (
    Job,
    check_conditioning,
    check_values,
    needed_ids,
    unused_keys,
)
from stable_audio.inference.rendering.load import RenderModel
from stable_audio.inference.rendering.recipe import Recipe, sampling_values
from stable_audio.inference.rendering.sound_files import files_of, with_files
from stable_audio.inference.rendering.steering import NO_STEERING, Steering
from stable_audio.model import DiffusionModel


@dataclass(frozen=True)
class Plan:
    """Jobs that the model can render, each with its recipe; see `render`."""

    jobs: list[Job]
    recipes: list[Recipe]


def plan(
    loaded: RenderModel,
    jobs: Sequence[Job],
    *,
    sampling: Sampling,
    steering: Steering = NO_STEERING,
    chunked_decode: bool = False,
) -> Plan:
    """Check completed `jobs` and write down what determines the sound of each.

    Args:
        sampling: resolved.

    Raises:
        ValueError: with every clip, what the model needs and a job lacks, or has and cannot be used.
    """
    check_conditioning(jobs, loaded.model)
    jobs = [with_files(loaded.model, job) for job in jobs]
    check_values(jobs, loaded.model)
    return Plan(jobs, [_recipe(loaded, job, sampling, steering, chunked_decode) for job in jobs])


def _recipe(
    loaded: RenderModel, job: Job, sampling: Sampling, steering: Steering, chunked_decode: bool
) -> Recipe:
    assert job.seed is not None
    assert job.seconds is not None
    files = steering.files
    return Recipe(
        checkpoint=loaded.checkpoint,
        use_ema=loaded.use_ema,
        dtype=loaded.dtype,
        config=loaded.config,
        conditioning=job.conditioning,
        negative_conditioning=job.negative,
        seed=job.seed,
        seconds=job.seconds,
        sample_size=sample_size_for(loaded.model, job.seconds),
        sampling=sampling_values(sampling),
        pretransform=loaded.pretransform,
        init_noise_level=steering.init_noise_level if "init_audio" in files else None,
        inpaint_seconds=[list(s) for s in steering.inpaint_spans] if "inpaint_audio" in files else None,
        condition_audio=files_of(loaded.model, job) or None,
        chunked_decode=chunked_decode,
        **files,
    )


def job_of(recipe: Recipe, source: str) -> Job:
    """The job that renders the sound of `recipe` again.

    Args:
        source: file that the job comes from, for messages.
    """
    return Job(
        conditioning=recipe.conditioning,
        negative=recipe.negative_conditioning,
        seed=recipe.seed,
        seconds=recipe.seconds,
        source=source,
    )


def sample_size_for(model: DiffusionModel, seconds: float) -> int:
    """Samples to generate for a clip of `seconds`: what the model was trained on, or more if need be.

    Raises:
        ValueError: more than any memory holds.
    """
    asked = round(seconds * model.sample_rate)
    if asked > MAX_SAMPLE_SIZE:
        raise ValueError(
            f"{seconds:g} seconds are {asked} samples; at most {MAX_SAMPLE_SIZE} can be rendered"
        )
    return max(model.sample_size, asked)


def cautions(jobs: Sequence[Job], model: DiffusionModel, sampling: Sampling) -> Iterator[str]:
    """What may surprise of a render that is possible, in sentences."""
    if sampling.cfg_scale == 1 and any(job.negative for job in jobs):
        yield "at --cfg-scale 1 there is no guidance, so negative prompts change nothing"
    unused = unused_keys(jobs, model)
    if unused:
        yield f"the model does not read {_listed(unused)}; it reads {_listed(needed_ids(model))}"
    longest, trained = max(job.seconds or 0 for job in jobs), model.sample_size / model.sample_rate
    if longest > trained + 1e-6:
        yield f"{longest:g} s asked, but the model was trained on {trained:g} s: expect worse sound"


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names) or "nothing"
