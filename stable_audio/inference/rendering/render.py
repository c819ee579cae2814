"""Render jobs to files, batch by batch, skipping those that an earlier run has finished."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from stable_audio.audio.atomic import remove_leftovers
from stable_audio.audio.io import save_audio
from stable_audio.data.world import ALONE, World
from stable_audio.inference.generation.generate import generate
from stable_audio.inference.generation.settings import Sampling
from stable_audio.inference.memory.errors import free_memory_of
from stable_audio.inference.rendering.adapting import AdaptedModels, Specs
from stable_audio.inference.rendering.jobs import Job
from stable_audio.inference.rendering.recipe import Recipe, finished, write_recipe
from stable_audio.inference.rendering.steering import NO_STEERING, Steering
from stable_audio.model import DiffusionModel

log = logging.getLogger(__name__)
T = TypeVar("T")
_Pending = tuple[int, Job, Recipe]


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
        software: versions to store beside each file.
    """

    folder: Path
    format: str = "wav"
    subtype: str | None = None
    overwrite: bool = False
    software: dict[str, Any] = field(default_factory=dict)


def render(
    model: DiffusionModel,
    jobs: Sequence[Job],
    recipes: Sequence[Recipe],
    output: OutputFiles,
    *,
    sampling: Sampling,
    steering: Steering = NO_STEERING,
    batch_size: int | None = None,
    chunked_decode: bool = False,
    world: World = ALONE,
    progress: Callable[[int, int], None] | None = None,
    adapted: AdaptedModels | None = None,
) -> Iterator[Rendered]:
    """Render completed `jobs`, with their `recipes` beside the files; yields every file once it is complete.

    Args:
        batch_size: clips per batch; None: 8 on a GPU, else 1. Halved if memory runs out.
        world: the processes that share the jobs; this one renders its part, with the same file names.
        progress: called with (step, steps) of the batch that is being sampled.
        adapted: the model with the adapters of each clip; None: makes its own.
    """
    adapted = adapted or AdaptedModels(model)
    steering.check(model, jobs, recipes)
    remove_leftovers(output.folder)
    pending: list[_Pending] = []
    for index, (job, recipe) in world.share(list(zip(jobs, recipes))):
        existing = None if output.overwrite else finished(output.folder, recipe, output.format)
        if existing is not None:
            yield Rendered(existing, recipe.seconds, None, False, None)
        else:
            pending.append((index, job, recipe))
    # The clips of one batch have the same length and adapters, and all or none have negative conditioning.
    for (_, _, specs), group in groupby(pending, key=_common):
        work = partial(_timed_batch, adapted(specs), *(sampling, steering, chunked_decode, progress))
        for batch, (audio, took) in _in_batches(work, list(group), batch_size or default_batch(model.device)):
            factor = sum(r.seconds for _, _, r in batch) / took
            for (index, job, recipe), clip in zip(batch, audio):
                yield _write(model, index, job, recipe, clip, output, took / len(batch), factor)


def _common(pending: _Pending) -> tuple[int, bool, Specs]:
    """What the clips of one batch have in common."""
    _, job, recipe = pending
    return recipe.sample_size, job.negative is None, job.adapters or ()


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
    sampling: Sampling,
    steering: Steering,
    chunked_decode: bool,
    progress: Callable[[int, int], None] | None,
    batch: Sequence[_Pending],
) -> tuple[Tensor, float]:
    """Audio (b c n) of the batch and the seconds that it took."""
    started = time.perf_counter()
    size = batch[0][2].sample_size
    negatives = [job.negative for _, job, _ in batch]
    audio = generate(
        model,
        [job.conditioning for _, job, _ in batch],
        negative_conditioning=[n for n in negatives if n is not None] or None,
        seeds=[recipe.seed for _, _, recipe in batch],
        sample_size=size,
        sampling=sampling,
        chunked_decode=chunked_decode,
        callback=None if progress is None else lambda info: progress(info.i + 1, info.steps),
        **steering.arguments(model, size),
    )
    return audio, time.perf_counter() - started


def _write(
    model: DiffusionModel,
    index: int,
    job: Job,
    recipe: Recipe,
    clip: Tensor,
    output: OutputFiles,
    took: float,
    factor: float,
) -> Rendered:
    clip = clip[:, : round(recipe.seconds * model.sample_rate)]
    stem = file_stem(index, job, sounds=recipe.condition_audio or ())
    path = output.folder / f"{stem}_{recipe.digest()[:8]}.{output.format}"
    sound = save_audio(path, clip, model.sample_rate, subtype=output.subtype)
    facts = {
        "file": path.name,
        "sample_rate": model.sample_rate,
        "channels": clip.shape[0],
        "samples": clip.shape[1],
        "peak": sound.peak,
        "clipped": sound.clipped,
        "render_seconds": round(took, 3),
        "real_time_factor": round(factor, 3),
    }
    write_recipe(path.with_suffix(".json"), recipe, facts, output.software)
    return Rendered(path, recipe.seconds, sound.peak, sound.clipped, factor)


def file_stem(index: int, job: Job, *, sounds: Collection[str] = ()) -> str:
    """`0003_warm-pad-in-c`: position, then the job's name or the first text of its conditioning.

    Args:
        sounds: keys whose values are paths of sounds; their file names are used if there is no text.
    """
    texts = {k: v for k, v in job.conditioning.items() if isinstance(v, str) and v.strip()}
    candidates = [v for k, v in texts.items() if k not in sounds] + [
        Path(texts[k]).stem for k in sounds if k in texts
    ]
    words = re.sub(r"[^\w]+", "-", (job.name or (candidates[0] if candidates else "clip")).lower()).strip("-")
    return f"{index:04d}_{words[:40].rstrip('-') or 'clip'}"
