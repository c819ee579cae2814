"""First levels of noise that say more than a model has."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from stable_audio.diffusion.schedules import SCHEDULES, SIGMA_MAX
from stable_audio.diffusion.spaces import VE
from stable_audio.inference.generation.settings import Sampling
from stable_audio.inference.rendering.jobs import Job
from stable_audio.model import DiffusionModel


def levels_beyond(jobs: Sequence[Job], model: DiffusionModel, sampling: Sampling) -> Iterator[str]:
    """A sentence for each setting above 1 where the level is a time, 0 to 1, so that it means 1.

    SIGMA_MAX itself, which is in every recipe, says no more than that sampling starts at the first level.

    Args:
        sampling: settings of jobs without their own.
    """
    told = set()
    for job in jobs:
        own = sampling.with_keywords(**job.sampling).resolved_for(model)
        if not _counts_times(own):
            continue
        steering = job.steering
        if steering.init_audio is not None and steering.init_noise_level > 1:
            told.add(
                f"--init-noise-level {steering.init_noise_level:g} means 1 here, pure noise, since the "
                "levels of this schedule are times from 0 to 1: nothing of the sound is kept"
            )
        elif steering.init_audio is None and own.sigma_max is not None and 1 < own.sigma_max != SIGMA_MAX:
            told.add(
                f"--sigma-max {own.sigma_max:g} means 1 here, pure noise, since the levels of this schedule "
                "are times from 0 to 1"
            )
    yield from sorted(told)


def _counts_times(sampling: Sampling) -> bool:
    """Whether the schedule, if it has a name, begins at a time from 0 to 1."""
    name = sampling.schedule
    return isinstance(name, str) and (name not in SCHEDULES or SCHEDULES[name].space is not VE)
