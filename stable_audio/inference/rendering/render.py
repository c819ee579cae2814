"""Render jobs to files, batch by batch, skipping those that an earlier run has finished."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from stable_audio.audio.atomic import remove_leftovers
from stable_audio.audio.io import save_audio
from stable_audio.audio.rates import rate_in
from stable_audio.audio.resample import resample
from stable_audio.data.world import ALONE, World
from stable_audio.inference.generation.generate import generate
from stable_audio.inference.memory.errors import free_memory_of
from stable_audio.inference.rendering.adapting import AdaptedModels
from stable_audio.inference.rendering.existing import ExistingClips
from stable_audio.inference.rendering.finishing import NO_FINISHING
from stable_audio.inference.rendering.jobs import Job, listed
from stable_audio.inference.rendering.names import DEFAULT_NAME, NameTemplate, stems
from stable_audio.inference.rendering.recipe import Recipe, comment_of, sampling_from, write_recipe
from stable_audio.model import DiffusionModel

log = logging.getLogger(__name__)
T = TypeVar("T")
_Pending = tuple[str, Job, Recipe]


@dataclass(frozen=True)
class Rendered:
    """One finished file.

    Attributes:
        clipped: whether the sound was clipped because the format could not hold it.
        real_time_factor: seconds of sound per second of computation, for the whole batch; None when skipped.
    """

    path: Path
    seconds: float
    peak: float | None
    clipped: bool
    real_time_factor: float | None

    @property
    def skipped(self) -> bool:
        return self.real_time_factor is None


@dataclass(frozen=True)
class OutputFiles:
    """Folder and format of rendered files.

    Attributes:
        folder: output folder.
        format: suffix of the files.
        subtype: as for `save_audio`.
        overwrite: render files again that already exist.
        name: template of their names; see `NameTemplate`.
        software: versions to store beside each file.
    """

    folder: Path
    format: str = "wav"
    subtype: str | None = None
    overwrite: bool = False
    software: dict[str, Any] = field(default_factory=dict)
    name: str = DEFAULT_NAME

    def __post_init__(self) -> None:
        NameTemplate(self.name)

    def stems(self, jobs: Sequence[Job], recipes: Sequence[Recipe]) -> list[str]:
        """The names of the clips without suffix.

        Raises:
            ValueError: they cannot be used, or the folder has another clip of that name.
        """
        names = stems(NameTemplate(self.name), jobs, recipes)
        existing = ExistingClips(self.folder, self.format)
        taken = [path for name, recipe in zip(names, recipes) if (path := existing.other(recipe, name))]
        if taken and not self.overwrite:
            reason = "is of another clip, which would be lost; choose another --name or --out, or --overwrite"
            raise ValueError(listed([f"{path}: {reason}" for path in taken]))
        return names


def render(
    model: DiffusionModel,
    jobs: Sequence[Job],
    recipes: Sequence[Recipe],
    output: OutputFiles,
    *,
    batch_size: int | None = None,
    chunked_decode: bool = False,
    world: World = ALONE,
    progress: Callable[[int, int], None] | None = None,
    adapted: AdaptedModels | None = None,
    guide: DiffusionModel | None = None,
) -> Iterator[Rendered]:
    """Render completed `jobs`, with their `recipes` beside the files; yields every file once it is complete.

    Args:
        batch_size: clips per batch; None: 8 on a GPU, else 1. Halved if memory runs out.
        world: the processes that share the jobs; this one renders its part, with the same file names.
        progress: called with (step, steps) of the batch that is being sampled.
        adapted: the model with the adapters of each clip; None: makes its own.
        guide: a weaker model to steer away from, for clips with a guide_scale.

    Raises:
        ValueError: before the first clip, if names of files cannot be used.
    """
    adapted = adapted or AdaptedModels(model)
    check_spans(model, jobs, recipes)
    names = output.stems(jobs, recipes)
    remove_leftovers(output.folder)
    finished = ExistingClips(output.folder, output.format).finished
    pending: list[_Pending] = []
    for _, clip in world.share(list(zip(names, jobs, recipes))):
        existing = None if output.overwrite else finished(clip[2], clip[0])
        if existing is not None:
            yield Rendered(existing, clip[2].seconds, None, False, None)
        else:
            pending.append(clip)
    for group in _alike(pending):
        specs = group[0][1].adapters or ()
        work = partial(_timed_batch, adapted(specs), *(guide, chunked_decode, progress))
        for batch, (audio, took) in _in_batches(work, group, batch_size or default_batch(model.device)):
            factor = sum(r.seconds for _, _, r in batch) / took
            for (name, _, recipe), sound in zip(batch, audio):
                yield _write(model, name, recipe, sound, output, took / len(batch), factor)


def _alike(pending: Sequence[_Pending]) -> list[list[_Pending]]:
    """The clips in groups that can be rendered together.

    They have the same settings but for the weight of guidance, the same length, steering and adapters, and
    all or none have negative conditioning, and conditioning or noise to go to.
    """
    groups: dict[tuple[Any, ...], list[_Pending]] = {}
    for clip in pending:
        _, job, recipe = clip
        guided = recipe.sampling["cfg_scale"] != 1
        settings = json.dumps({**recipe.sampling, "cfg_scale": guided}, sort_keys=True)
        others = (job.negative is None, job.to_conditioning is None, job.to_seed is None)
        length = (recipe.sample_size, recipe.seconds if job.steering.inpaint_audio is not None else None)
        common = (length, others, job.adapters or (), settings, id(job.steering))
        groups.setdefault(common, []).append(clip)
    return list(groups.values())


def default_batch(device: torch.device) -> int:
    """Clips per batch: one clip keeps a CPU busy, but not a GPU."""
    return 8 if device.type == "cuda" else 1


def _in_batches(
    work: Callable[[list[_Pending]], T], pending: list[_Pending], size: int
) -> Iterator[tuple[list[_Pending], T]]:
    """Apply `work` to `size` clips at a time, and to half as many after memory ran out."""
    start = 0
    while start < len(pending):
        batch = pending[start : start + size]
        try:
            result = work(batch)
        except torch.OutOfMemoryError as error:
            if len(batch) == 1:
                raise
            free_memory_of(error)
            size = len(batch) // 2
            log.warning("%d clips at once do not fit in memory: continuing with %d", len(batch), size)
            continue
        start += len(batch)
        yield batch, result


def _timed_batch(
    model: DiffusionModel,
    guide: DiffusionModel | None,
    chunked_decode: bool,
    progress: Callable[[int, int], None] | None,
    batch: Sequence[_Pending],
) -> tuple[Tensor, float]:
    """Audio (b c n) of the batch and the seconds that it took."""
    started = time.perf_counter()
    _, first, recipe = batch[0]
    negatives = [job.negative for _, job, _ in batch]
    sampling = sampling_from(recipe.sampling)
    scales = tuple(other.sampling["cfg_scale"] for _, _, other in batch)
    audio = generate(
        model,
        [job.conditioning for _, job, _ in batch],
        negative_conditioning=[n for n in negatives if n is not None] or None,
        seeds=[other.seed for _, _, other in batch],
        sample_size=recipe.sample_size,
        sampling=sampling,
        cfg_scale=scales if len(set(scales)) > 1 else scales[0],
        guide=None if sampling.guide_scale is None else guide,
        chunked_decode=chunked_decode,
        callback=None if progress is None else lambda info: progress(info.i + 1, info.steps),
        **_blend([job for _, job, _ in batch]),
        **first.steering.arguments(model, recipe.sample_size, recipe.seconds),
    )
    return audio, time.perf_counter() - started


def _blend(jobs: Sequence[Job]) -> dict[str, Any]:
    """Keyword arguments of `Blend`."""
    others = [job.to_conditioning for job in jobs if job.to_conditioning is not None]
    seeds = [job.to_seed for job in jobs if job.to_seed is not None]
    if not others and not seeds:
        return {}
    return {"to_conditioning": others or None, "to_seeds": seeds or None, "mix": [job.mix for job in jobs]}


def check_spans(model: DiffusionModel, jobs: Sequence[Job], recipes: Sequence[Recipe]) -> None:
    """Raise ValueError, naming every clip, if a span to generate anew starts after the end of the clip."""
    problems = [
        f"{job.source}: {problem}"
        for job, recipe in zip(jobs, recipes)
        if (problem := job.steering.late_span(model, recipe.sample_size))
    ]
    if problems:
        raise ValueError(listed(list(dict.fromkeys(problems))))


def _write(
    model: DiffusionModel,
    name: str,
    recipe: Recipe,
    clip: Tensor,
    output: OutputFiles,
    took: float,
    factor: float,
) -> Rendered:
    clip = clip[:, : round(recipe.seconds * model.sample_rate)]
    clip, finished = (recipe.finishing or NO_FINISHING).apply(clip, model.sample_rate, name)
    path = output.folder / f"{name}.{output.format}"
    rate = rate_in(output.format, model.sample_rate)
    clip = resample(clip, model.sample_rate, rate)
    sound = save_audio(path, clip, rate, subtype=output.subtype, comment=comment_of(recipe))
    facts = {
        "file": path.name,
        "sample_rate": rate,
        "channels": clip.shape[0],
        "samples": clip.shape[1],
        "peak": sound.peak,
        "clipped": sound.clipped,
        **finished,
        "render_seconds": round(took, 3),
        "real_time_factor": round(factor, 3),
    }
    write_recipe(path.with_suffix(".json"), recipe, facts, output.software)
    return Rendered(path, clip.shape[1] / rate, sound.peak, sound.clipped, factor)
