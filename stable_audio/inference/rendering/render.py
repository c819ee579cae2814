"""Render jobs to files, batch by batch, skipping those that an earlier run has finished."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from stable_audio.audio.atomic import remove_leftovers
from stable_audio.audio.io import check_subtype, save_audio
from stable_audio.audio.rates import rate_in
from stable_audio.audio.resample import resample
from stable_audio.data.world import ALONE, World
from stable_audio.inference.rendering.adapting import AdaptedModels
from stable_audio.inference.rendering.batches import BatchOptions, Clip, sound_batches
from stable_audio.inference.rendering.existing import ExistingClips
from stable_audio.inference.rendering.finishing import NO_FINISHING
from stable_audio.inference.rendering.jobs import Job, listed
from stable_audio.inference.rendering.names import DEFAULT_NAME, NameTemplate, stems
from stable_audio.inference.rendering.recipe import Recipe, comment_of, write_recipe
from stable_audio.model import DiffusionModel


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
        check_subtype(self.format, self.subtype)

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

    A thread samples the next batch while the files of one are written.

    Args:
        batch_size: clips per batch; None: see `default_batch`. Halved if memory runs out.
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
    pending: list[Clip] = []
    for _, clip in world.share(list(zip(names, jobs, recipes))):
        existing = None if output.overwrite else finished(clip[2], clip[0])
        if existing is not None:
            yield Rendered(existing, clip[2].seconds, None, False, None)
        else:
            pending.append(clip)
    options = BatchOptions(
        size=batch_size,
        chunked_decode=chunked_decode,
        guide=guide,
        progress=progress,
    )
    with closing(sound_batches(adapted, model.device, pending, options)) as batches:
        for batch in batches:
            factor = sum(recipe.seconds for _, _, recipe in batch.clips) / batch.took
            share = batch.took / len(batch.clips)
            for (name, _, recipe), sound in zip(batch.clips, batch.audio):
                yield write_clip(model, name, recipe, sound, output, took=share, factor=factor)
            del batch, sound


def check_spans(model: DiffusionModel, jobs: Sequence[Job], recipes: Sequence[Recipe]) -> None:
    """Raise ValueError, naming every clip, if a span to generate anew starts after the end of the clip."""
    problems = [
        f"{job.source}: {problem}"
        for job, recipe in zip(jobs, recipes)
        if (problem := job.steering.late_span(model, recipe.sample_size))
    ]
    if problems:
        raise ValueError(listed(list(dict.fromkeys(problems))))


def write_clip(
    model: DiffusionModel,
    name: str,
    recipe: Recipe,
    clip: Tensor,
    output: OutputFiles,
    *,
    took: float,
    factor: float,
) -> Rendered:
    """Write a sound (c n), which may be longer than the clip, and the JSON beside it.

    Args:
        name: of the files, without suffix.
        took: seconds of computation.
        factor: seconds of sound per second of computation.
    """
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
