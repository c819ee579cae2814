"""Jobs from the lines of a file: a line is a clip, or a grid of clips."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stable_audio.adapters.spec import AdapterSpec, specs_of
from stable_audio.checkpoints.run_adapters import newest_adapter
from stable_audio.config.reading.values import dataclass_from
from stable_audio.inference.generation.generate import RANDOM_SEED, random_seed
from stable_audio.inference.generation.settings import Sampling
from stable_audio.inference.rendering.edits import EDIT_KEYS, Edit, edited
from stable_audio.inference.rendering.grid import GRID, MAX_CLIPS, combinations
from stable_audio.inference.rendering.job_files import read_lines
from stable_audio.inference.rendering.jobs import Job, listed, repeated
from stable_audio.wording import excerpt

OTHER_NAMES = {"cfg_rescale": "scale_phi", "sampler_options": "options"}
"""Names of the command line and of `generate` -> settings of `Sampling`."""

SAMPLING_KEYS = (*(field.name for field in dataclasses.fields(Sampling)), *OTHER_NAMES)
CLIP_KEYS = ("conditioning", "negative_conditioning", "seed", "seconds", "name", "adapters")
LINE_KEYS = (*CLIP_KEYS, *EDIT_KEYS, *SAMPLING_KEYS)
"""What a line can have besides GRID."""


@dataclass(frozen=True)
class JobLine:
    """One line as it was written.

    Attributes:
        values: with any of LINE_KEYS and GRID, or the conditioning itself.
        source: origin of the line, for messages.
    """

    values: Mapping[str, Any]
    source: str = "the command line"


def read_jobs(path: str | Path) -> list[Job]:
    """The clips of a file: JSON Lines, JSON (an object or a list of them) or YAML, by the suffix.

    A line is a conditioning object, `{"prompt": "...", "seconds_total": 10}`, or wraps one as
    `{"conditioning": {...}, "negative_conditioning": {...}, "seed": 1, "seconds": 10, "name": "...",
    "adapters": ["pad.safetensors:0.8"]}`, with any value of `Edit` and setting of `Sampling` beside it. With
    `"grid": {"prompt": [...], "seed": [...], "cfg_scale": [...]}` it stands for every
    combination. Empty lines are skipped.

    Raises:
        ValueError: with file and line of everything that is wrong.
        ImportError: YAML without PyYAML.
    """
    return jobs_of(JobLine(values, source) for values, source in read_lines(path))


def jobs_of(lines: Iterable[JobLine], grid: Mapping[str, Any] | None = None) -> list[Job]:
    """The clips of lines.

    Args:
        grid: axes that every line has besides its own.

    Raises:
        ValueError: with the origin of everything that is wrong.
    """
    jobs, problems = _jobs_and_problems(lines, grid)
    if problems:
        raise ValueError(listed(problems))
    return jobs


def edited_jobs_of(
    lines: Iterable[JobLine],
    run: Edit,
    *,
    grid: Mapping[str, Any] | None = None,
    count: int = 1,
    seconds: float | None = None,
) -> list[Job]:
    """The clips of lines, each `count` times, with what they are edited with.

    Args:
        run: the edit of clips without their own.
        grid: as for `jobs_of`.
        seconds: length of clips without their own.

    Raises:
        ValueError: with the origin of everything that is wrong, a file that is missing among it.
    """
    jobs, problems = _jobs_and_problems(lines, grid)
    problems += _missing_adapters(jobs)
    try:
        finished = edited(repeated(jobs, count), run, seconds=seconds)
    except ValueError as error:
        problems += str(error).split("\n")
    if problems:
        raise ValueError(listed(problems))
    return finished


def _jobs_and_problems(
    lines: Iterable[JobLine], grid: Mapping[str, Any] | None
) -> tuple[list[Job], list[str]]:
    jobs: list[Job] = []
    problems = []
    for line in lines:
        try:
            jobs.extend(_expanded(line, grid or {}))
        except ValueError as error:
            problems += str(error).split("\n")
        if len(jobs) > MAX_CLIPS:
            raise ValueError(f"{line.source}: more than {MAX_CLIPS} clips in all")
    return jobs, problems


def _missing_adapters(jobs: Sequence[Job]) -> list[str]:
    """A sentence for each adapter of a clip that is not there."""
    problems = []
    for source, path in dict.fromkeys((job.source, spec.path) for job in jobs for spec in job.adapters or ()):
        try:
            newest_adapter(path)
        except (ValueError, OSError) as error:
            problems.append(f"{source}: {error}")
    return problems


def _expanded(line: JobLine, grid: Mapping[str, Any]) -> Iterator[Job]:
    values, source = dict(line.values), line.source
    wrapped = "conditioning" in values or GRID in values
    if not wrapped and not grid:
        return iter([Job(conditioning=values, source=source)])
    values = values if wrapped else {"conditioning": values}
    if unknown := sorted(set(values) - {*LINE_KEYS, GRID}):
        beside = "conditioning" if "conditioning" in values else GRID
        raise ValueError(
            f"{source}: unknown keys {unknown} beside '{beside}'; conditioning belongs into 'conditioning'; "
            f"allowed: {[*CLIP_KEYS, GRID]}, those of edits: {', '.join(EDIT_KEYS)}, "
            f"and settings of sampling: {', '.join(SAMPLING_KEYS)}"
        )
    if grid:
        own = values.get(GRID, {})
        values[GRID] = {**own, **grid} if isinstance(own, dict) else own
    if GRID not in values:
        return iter([_job(values, source, seed_shift=None)])
    # Clips that are compared start from the same noise.
    combined = combinations(values, LINE_KEYS, source)
    return (_job(one, source, seed_shift=0) for one in list(combined))


def _job(values: Mapping[str, Any], source: str, *, seed_shift: int | None) -> Job:
    seed, adapters = values.get("seed"), values.get("adapters")
    job = Job(
        conditioning=values.get("conditioning", {}),
        negative=values.get("negative_conditioning") or None,
        seed=random_seed() if seed == RANDOM_SEED else seed,
        seconds=values.get("seconds"),
        name=values.get("name"),
        adapters=None if adapters is None else _adapters(adapters, source),
        source=source,
        sampling=_sampling(values, source),
        seed_shift=seed_shift,
        edit=_edit(values, source),
    )
    _check_types(job)
    return job


def _sampling(values: Mapping[str, Any], source: str) -> dict[str, Any]:
    own = {OTHER_NAMES.get(key, key): values[key] for key in SAMPLING_KEYS if key in values}
    if not own:
        return {}
    # As numbers of the right type, so that 3 and 3.0 have one digest.
    settings = dataclass_from(own, Sampling, source=source)
    try:
        settings.check()
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from error
    return {key: getattr(settings, key) for key in own}


def _edit(values: Mapping[str, Any], source: str) -> dict[str, Any]:
    own = {key: values[key] for key in EDIT_KEYS if key in values}
    if not own:
        return {}
    edit = dataclass_from(own, Edit, source=source)
    return {key: getattr(edit, key) for key in own}


def _adapters(texts: Any, source: str) -> tuple[AdapterSpec, ...]:
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise ValueError(
            f"{source}: 'adapters' must be a list of texts such as \"pad.safetensors:0.8\", found {texts!r}"
        )
    try:
        return specs_of(texts)
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from error


def _check_types(job: Job) -> None:
    expected: dict[str, tuple[Any, str, tuple[type, ...]]] = {
        "conditioning": (job.conditioning, "an object", (dict,)),
        "negative_conditioning": (job.negative, "an object", (dict, type(None))),
        "seed": (job.seed, "an integer", (int, type(None))),
        "seconds": (job.seconds, "a number", (int, float, type(None))),
        "name": (job.name, "a text", (str, type(None))),
    }
    for key, (value, kind, types) in expected.items():
        if not isinstance(value, types) or isinstance(value, bool):
            raise ValueError(f"{job.source}: '{key}' must be {kind}, found {excerpt(value)}")
    if job.seconds is not None and not 0 < job.seconds < math.inf:
        raise ValueError(f"{job.source}: 'seconds' must be a finite number above 0, found {job.seconds}")
    if job.seed is not None and job.seed < 0:
        raise ValueError(f"{job.source}: 'seed' must be at least 0, or -1 for a random one, found {job.seed}")
