"""Jobs: clips to render, each with its conditioning, completed with what the model needs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from stable_audio.adapters.spec import AdapterSpec
from stable_audio.inference.rendering.steering import NO_STEERING, Steering
from stable_audio.model import DiffusionModel
from stable_audio.types import Metadata


@dataclass(frozen=True)
class Job:
    """One clip to render.

    Attributes:
        conditioning: metadata that the conditioners read.
        negative: metadata to steer away from.
        seed: None = the first seed of the run plus `seed_shift`.
        seconds: length of the file; None = that of the conditioning, else of the model.
        name: name for the output file.
        adapters: trained changes of the model for this clip; None = those of the run.
        source: origin of the job, for messages.
        sampling: settings by the names of `Sampling`, in place of those of the run.
        seed_shift: None = the index of the job.
        edit: its own values of `Edit`, in place of those of the run; see `edited`.
        steering: sounds that steer it, and its form.
        to_conditioning: conditioning to go to.
        to_seed: seed of the noise to go to.
        mix: how far to go.
    """

    conditioning: Metadata
    negative: Metadata | None = None
    seed: int | None = None
    seconds: float | None = None
    name: str | None = None
    adapters: tuple[AdapterSpec, ...] | None = None
    source: str = "the command line"
    sampling: Mapping[str, Any] = field(default_factory=dict)
    seed_shift: int | None = None
    edit: Mapping[str, Any] = field(default_factory=dict)
    steering: Steering = NO_STEERING
    to_conditioning: Metadata | None = None
    to_seed: int | None = None
    mix: float = 0.0


def listed(problems: Sequence[str], limit: int = 20) -> str:
    """One problem per line, and the number of those beyond `limit`."""
    more = [f"... and {len(problems) - limit} more"] if len(problems) > limit else []
    return "\n".join([*problems[:limit], *more])


def check_values(jobs: Sequence[Job], model: DiffusionModel) -> None:
    """Raise ValueError, naming every clip and key, if conditioners cannot use the values of jobs."""
    if model.conditioner is None:
        return
    rules = model.conditioner.value_check()
    problems = [
        f"{job.source}: '{key}' {reason}"
        for job in jobs
        for other in ({}, job.negative, job.to_conditioning)
        if (values := {**job.conditioning, **(other or {})})
        for key in rules.rules
        if (reason := rules.written_refusal(values, key))
    ]
    if problems:
        raise ValueError(listed(list(dict.fromkeys(problems))))


def repeated(jobs: Sequence[Job], count: int) -> list[Job]:
    """Every job `count` times; the seed of a job counts up, if it has one or shares that of others."""
    return [
        replace(
            job,
            seed=None if job.seed is None else job.seed + k,
            seed_shift=None if job.seed_shift is None else job.seed_shift + k,
        )
        for job in jobs
        for k in range(count)
    ]


def complete(
    jobs: Sequence[Job],
    model: DiffusionModel,
    *,
    first_seed: int = 0,
    seconds: float | None = None,
    defaults: Mapping[str, Any] | None = None,
    negative: Metadata | None = None,
    adapters: Sequence[AdapterSpec] = (),
) -> list[Job]:
    """Fill in what jobs leave open, and check that they have all conditioning that the model needs.

    Args:
        first_seed: seed of the first job; the others count up, but for those with a `seed_shift`.
        seconds: length of jobs without their own.
        defaults: conditioning for the keys that a job lacks.
        negative: negative conditioning of jobs without their own.
        adapters: those of jobs without their own.

    Raises:
        ValueError: naming every id that some job lacks, and all that the model needs.
    """
    completed = []
    for index, job in enumerate(jobs):
        conditioning = {**(defaults or {}), **job.conditioning}
        length = _seconds(job, conditioning, model, seconds)
        job = replace(
            job,
            conditioning=_timed(conditioning, model, job.steering.heard_seconds(model, length)),
            negative=job.negative if job.negative is not None else negative,
            seed=job.seed if job.seed is not None else first_seed + _shift(job, index),
            seconds=length,
            adapters=tuple(adapters) if job.adapters is None else job.adapters,
        )
        completed.append(job)
    check_conditioning(completed, model)
    return completed


def _shift(job: Job, index: int) -> int:
    return index if job.seed_shift is None else job.seed_shift


def needed_ids(model: DiffusionModel) -> tuple[str, ...]:
    """Ids for which every clip must have a value."""
    return model.conditioner.ids() if model.conditioner is not None else ()


def unused_keys(jobs: Sequence[Job], model: DiffusionModel) -> list[str]:
    """Conditioning keys that no conditioner reads."""
    conditioner = model.conditioner
    keys_read = {*needed_ids(model), *(conditioner.default_keys.values() if conditioner is not None else ())}
    keys = {
        key
        for job in jobs
        for part in (job.conditioning, job.negative, job.to_conditioning)
        for key in part or ()
    }
    return sorted(keys - keys_read)


def _seconds(job: Job, conditioning: Metadata, model: DiffusionModel, default: float | None) -> float:
    full_length = model.sample_size / model.sample_rate
    total = conditioning.get("seconds_total")
    if job.seconds is not None:
        length = job.seconds
    elif default is not None:
        length = default
    else:
        length = (
            min(float(total), full_length) if isinstance(total, (int, float)) and total > 0 else full_length
        )
    if not (math.isfinite(length) and length > 0):
        raise ValueError(f"{job.source}: seconds must be above 0, found {length}")
    return float(length)


def _timed(conditioning: Metadata, model: DiffusionModel, seconds: float) -> Metadata:
    """Fill in the two time keys of published models from the length, unless the conditioning has them."""
    times = {"seconds_start": 0.0, "seconds_total": seconds}
    ids = needed_ids(model)
    return {**{key: value for key, value in times.items() if key in ids}, **conditioning}


def check_conditioning(jobs: Sequence[Job], model: DiffusionModel) -> None:
    """Raise ValueError if jobs lack values that the model needs."""
    if model.conditioner is None:
        return
    incomplete = [(job, ids) for job in jobs if (ids := model.conditioner.missing(job.conditioning))]
    if not incomplete:
        return
    described = [
        f"{key} ({type(model.conditioner.conditioners[key]).__name__})"
        if key in model.conditioner.conditioners
        else f"{key} (tensor)"
        for key in needed_ids(model)
    ]
    more = f" ({len(incomplete)} of {len(jobs)} clips lack values)" if len(jobs) > 1 else ""
    problems = listed(
        list(dict.fromkeys(f"{job.source}: no value for {', '.join(ids)}" for job, ids in incomplete))
    )
    raise ValueError(
        f"{problems}{more}. The model needs {', '.join(described)}: give "
        "--prompt TEXT for 'prompt', --condition KEY=VALUE for others, or --prompts FILE.jsonl for all"
    )
