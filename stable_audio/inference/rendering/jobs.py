"""Jobs: clips to render with their conditioning, from prompts, a JSONL file or an earlier render."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from stable_audio.adapters.spec import AdapterSpec, specs_of
from stable_audio.audio.json_files import JsonError, parse_json_object
from stable_audio.inference.generation.generate import RANDOM_SEED, random_seed
from stable_audio.model import DiffusionModel
from stable_audio.shipped import file_or_shipped
from stable_audio.types import Metadata

_WRAPPED = ("conditioning", "negative_conditioning", "seed", "seconds", "name", "adapters")


@dataclass(frozen=True)
class Job:
    """One clip to render.

    Attributes:
        conditioning: metadata that the conditioners read.
        negative: metadata to steer away from.
        seed: None = the first seed of the run plus the index of the job.
        seconds: length of the file; None = that of the conditioning, else of the model.
        name: name for the output file.
        adapters: trained changes of the model for this clip; None = those of the run.
        source: origin of the job, for messages.
    """

    conditioning: Metadata
    negative: Metadata | None = None
    seed: int | None = None
    seconds: float | None = None
    name: str | None = None
    adapters: tuple[AdapterSpec, ...] | None = None
    source: str = "the command line"


def read_jobs(path: str | Path) -> list[Job]:
    """One job per line of a JSONL file.

    A line is a conditioning object, `{"prompt": "...", "seconds_total": 10}`, or wraps one as
    `{"conditioning": {...}, "negative_conditioning": {...}, "seed": 1, "seconds": 10, "name": "...",
    "adapters": ["pad.safetensors:0.8"]}`, all but the first optional. Empty lines are skipped.

    Raises:
        ValueError: with file and line of everything that is wrong.
    """
    path = Path(file_or_shipped(path, "prompts"))
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: is not UTF-8 text ({error.reason} at byte {error.start})") from error
    jobs, problems = [], []
    # Not splitlines: JSON strings may hold other characters that count as line ends there.
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            try:
                jobs.append(_parsed(line, f"{path}, line {number}"))
            except ValueError as error:
                problems.append(str(error))
    if problems:
        raise ValueError(listed(problems))
    if not jobs:
        raise ValueError(f"{path}: has no lines; write one JSON object with conditioning per line")
    return jobs


def _parsed(line: str, source: str) -> Job:
    try:
        value = parse_json_object(line, source=source)
    except JsonError as error:
        # `source` already has the line, so only the column is added.
        column = error.place.rpartition(", ")[2]
        raise ValueError(f"{source}{', ' if column else ''}{column}: {error.reason}") from error
    if "conditioning" not in value:
        return Job(conditioning=value, source=source)
    unknown = sorted(set(value) - set(_WRAPPED))
    if unknown:
        raise ValueError(f"{source}: unknown keys {unknown} beside 'conditioning'; allowed: {list(_WRAPPED)}")
    seed, adapters = value.get("seed"), value.get("adapters")
    job = Job(
        conditioning=value["conditioning"],
        negative=value.get("negative_conditioning") or None,
        seed=random_seed() if seed == RANDOM_SEED else seed,
        seconds=value.get("seconds"),
        name=value.get("name"),
        source=source,
    )
    _check_types(job)
    return job if adapters is None else replace(job, adapters=_adapters(adapters, source))


def _adapters(texts: Any, source: str) -> tuple[AdapterSpec, ...]:
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise ValueError(
            f"{source}: 'adapters' must be a list of texts such as \"pad.safetensors:0.8\", found {texts!r}"
        )
    try:
        return specs_of(texts)
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from error


def listed(problems: Sequence[str], limit: int = 20) -> str:
    """One problem per line, and the number of those beyond `limit`."""
    more = [f"... and {len(problems) - limit} more"] if len(problems) > limit else []
    return "\n".join([*problems[:limit], *more])


def _check_types(job: Job) -> None:
    expected: dict[str, tuple[Any, tuple[type, ...]]] = {
        "conditioning": (job.conditioning, (dict,)),
        "negative_conditioning": (job.negative, (dict, type(None))),
        "seed": (job.seed, (int, type(None))),
        "seconds": (job.seconds, (int, float, type(None))),
        "name": (job.name, (str, type(None))),
    }
    for key, (value, types) in expected.items():
        if not isinstance(value, types) or isinstance(value, bool):
            raise ValueError(f"{job.source}: '{key}' must be {types[0].__name__}, found {value!r}")
    if job.seed is not None and job.seed < 0:
        raise ValueError(f"{job.source}: 'seed' must be at least 0, or -1 for a random one, found {job.seed}")


def check_values(jobs: Sequence[Job], model: DiffusionModel) -> None:
    """Raise ValueError, naming every clip and key, if conditioners cannot use the values of jobs."""
    if model.conditioner is None:
        return
    rules = model.conditioner.value_check()
    problems = [
        f"{job.source}: '{key}' {reason}"
        for job in jobs
        for values in (job.conditioning, {**job.conditioning, **(job.negative or {})})
        for key, rule in rules.rules.items()
        if (reason := rule.refusal(rules.value(values, key)))
    ]
    if problems:
        raise ValueError(listed(list(dict.fromkeys(problems))))


def repeated(jobs: Sequence[Job], count: int) -> list[Job]:
    """Every job `count` times; the seed of a job that has one counts up."""
    return [
        replace(job, seed=None if job.seed is None else job.seed + k) for job in jobs for k in range(count)
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
        first_seed: seed of the first job; the others count up.
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
            conditioning=_timed(conditioning, model, length),
            negative=job.negative if job.negative is not None else negative,
            seed=job.seed if job.seed is not None else first_seed + index,
            seconds=length,
            adapters=tuple(adapters) if job.adapters is None else job.adapters,
        )
        completed.append(job)
    check_conditioning(completed, model)
    return completed


def needed_ids(model: DiffusionModel) -> tuple[str, ...]:
    """Ids for which every clip must have a value."""
    return model.conditioner.ids() if model.conditioner is not None else ()


def unused_keys(jobs: Sequence[Job], model: DiffusionModel) -> list[str]:
    """Conditioning keys that no conditioner reads."""
    conditioner = model.conditioner
    keys_read = {*needed_ids(model), *(conditioner.default_keys.values() if conditioner is not None else ())}
    keys = {key for job in jobs for part in (job.conditioning, job.negative or {}) for key in part}
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
    return length


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
