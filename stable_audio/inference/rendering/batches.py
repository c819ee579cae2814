"""The clips of a render in batches: sampled in a thread while the batch before becomes sound and files."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable, Generator, Hashable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from stable_audio.diffusion.samplers import StepInfo
from stable_audio.inference.generation.generate import undecoded
from stable_audio.inference.generation.sampled_clips import SampledClips
from stable_audio.inference.memory.errors import free_memory_of
from stable_audio.inference.rendering.adapting import AdaptedModels
from stable_audio.inference.rendering.ahead import ahead
from stable_audio.inference.rendering.jobs import Job
from stable_audio.inference.rendering.recipe import Recipe, sampling_from
from stable_audio.model import DiffusionModel

log = logging.getLogger(__name__)
Clip = tuple[str, Job, Recipe]
"""Name of the file, job and recipe."""

LEAST_ON_GPU, MOST_ON_GPU = 8, 64
FRAMES_ON_GPU = 16384
"""Latent frames of a batch beyond which products of a network of a usual width take no more of a GPU."""

Progress = Callable[[int, int], None]


@dataclass(frozen=True, kw_only=True)
class BatchOptions:
    """How the clips are sampled and decoded.

    Attributes:
        size: clips at once; None: as many as keep the device busy. Halved if memory runs out.
        chunked_decode: decode in overlapping pieces.
        guide: a weaker model to steer away from.
        progress: called with (step, steps) of the batch that is being sampled.
    """

    size: int | None
    chunked_decode: bool = False
    guide: DiffusionModel | None = None
    progress: Progress | None = None


@dataclass(frozen=True)
class SoundBatch:
    """Clips that were rendered together.

    Attributes:
        audio: (b c n), on the CPU.
        took: seconds of computation.
    """

    clips: list[Clip]
    audio: Tensor
    took: float


def sound_batches(
    adapted: AdaptedModels, device: torch.device, pending: Sequence[Clip], options: BatchOptions
) -> Generator[SoundBatch, None, None]:
    """The sounds of all clips; a thread samples the next batch while one is decoded or used.

    On a GPU it is decoded beside that, on a stream of its own, until memory runs out. Elsewhere the thread
    decodes, since sampling keeps all cores busy.
    """
    groups = alike(pending)
    ratio = adapted.model.downsampling_ratio
    sizes = [options.size or default_batch(device, group[0][2].sample_size // ratio) for group in groups]
    several = len(groups) > 1 or any(len(group) > size for group, size in zip(groups, sizes))
    turns = Turns(together=several and device.type == "cuda")
    # One for all batches: torch keeps the memory that was freed on a stream for that stream alone.
    stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    def sampled(check: Callable[[], None]) -> Generator[tuple[list[Clip], _Sound], None, None]:
        for group, size in zip(groups, sizes):
            model = adapted(group[0][1].adapters or ())
            decoded = device.type != "cuda" or model.computes_on is not None
            work = partial(_sampled, model, options, check, decoded)
            yield from in_batches(work, group, size, turns)

    with closing(ahead(sampled) if several else sampled(lambda: None)) as results:
        for clips, sound in results:
            if isinstance(sound.clips, SampledClips):
                sound = _decoded(sound.clips, sound.took, turns, stream)
            assert isinstance(sound.clips, Tensor)
            yield SoundBatch(clips, sound.clips, sound.took)
            del sound


@dataclass(frozen=True)
class _Sound:
    """Latents or audio of a batch, and the seconds that they took."""

    clips: SampledClips | Tensor
    took: float


class Turns:
    """Lets sampling and decoding use a device together; one after the other once memory has run out."""

    def __init__(self, *, together: bool) -> None:
        self.together = together
        self._sampling, self._decoding = threading.Lock(), threading.Lock()

    @contextmanager
    def sampling(self) -> Iterator[None]:
        with ExitStack() as held:
            held.enter_context(self._sampling)
            if not self.together:
                held.enter_context(self._decoding)
            yield

    @contextmanager
    def decoding(self) -> Iterator[None]:
        with ExitStack() as held:
            if not self.together:
                held.enter_context(self._sampling)
            held.enter_context(self._decoding)
            yield

    def part(self, error: torch.OutOfMemoryError) -> bool:
        """Use the device in turn from now on, and free what an error holds; False if it was so already."""
        free_memory_of(error)
        parted, self.together = self.together, False
        if parted:
            log.warning("sampling and decoding do not fit in memory together: continuing one after the other")
        return parted


def default_batch(device: torch.device, frames: int | None = None) -> int:
    """Clips per batch: one keeps a CPU busy; a GPU takes 8, or of short ones as many more as fill it.

    Args:
        frames: latent frames of a clip.
    """
    if device.type != "cuda":
        return 1
    return LEAST_ON_GPU if not frames else max(LEAST_ON_GPU, min(MOST_ON_GPU, FRAMES_ON_GPU // frames))


def alike(pending: Sequence[Clip]) -> list[list[Clip]]:
    """The clips in groups that can be rendered together."""
    groups: dict[Hashable, list[Clip]] = {}
    for clip in pending:
        groups.setdefault(batch_key(clip[1], clip[2]), []).append(clip)
    return list(groups.values())


def batch_key(job: Job, recipe: Recipe) -> Hashable:
    """Clips with equal keys can be rendered together.

    They have the same settings but for the weight of guidance, the same length, steering and adapters, and
    all or none have negative conditioning, and conditioning or noise to go to.
    """
    guided = recipe.sampling["cfg_scale"] != 1
    settings = json.dumps({**recipe.sampling, "cfg_scale": guided}, sort_keys=True)
    others = (job.negative is None, job.to_conditioning is None, job.to_seed is None)
    length = (recipe.sample_size, recipe.seconds if job.steering.inpaint_audio is not None else None)
    return (length, others, job.adapters or (), settings, job.steering.key)


def in_batches(
    work: Callable[[list[Clip]], _Sound], clips: list[Clip], size: int, turns: Turns
) -> Iterator[tuple[list[Clip], _Sound]]:
    """Apply `work` to `size` clips at a time.

    After memory ran out, it works without decoding beside it, and then with half as many clips.
    """
    start = 0
    while start < len(clips):
        batch = clips[start : start + size]
        try:
            with turns.sampling():
                result = work(batch)
        except torch.OutOfMemoryError as error:
            if turns.part(error):
                continue
            if len(batch) == 1:
                raise
            size = len(batch) // 2
            log.warning("%d clips at once do not fit in memory: continuing with %d", len(batch), size)
            continue
        start += len(batch)
        yield batch, result
        del result


def _sampled(
    model: DiffusionModel,
    options: BatchOptions,
    check: Callable[[], None],
    decoded: bool,
    batch: Sequence[Clip],
) -> _Sound:
    """The latents of the batch, or its audio (b c n)."""
    started = time.perf_counter()
    _, first, recipe = batch[0]
    negatives = [job.negative for _, job, _ in batch]
    sampling = sampling_from(recipe.sampling)
    scales = tuple(other.sampling["cfg_scale"] for _, _, other in batch)

    def step(info: StepInfo) -> None:
        check()
        if options.progress is not None:
            options.progress(info.i + 1, info.steps)

    clips = undecoded(
        model,
        [job.conditioning for _, job, _ in batch],
        negative_conditioning=[n for n in negatives if n is not None] or None,
        seeds=[other.seed for _, _, other in batch],
        sample_size=recipe.sample_size,
        sampling=sampling,
        cfg_scale=scales if len(set(scales)) > 1 else scales[0],
        guide=None if sampling.guide_scale is None else options.guide,
        chunked_decode=options.chunked_decode,
        callback=step,
        **_blend([job for _, job, _ in batch]),
        **first.steering.arguments(model, recipe.sample_size, recipe.seconds),
    )
    sound = clips.audio() if decoded else clips
    return _Sound(sound, time.perf_counter() - started)


def _decoded(clips: SampledClips, took: float, turns: Turns, stream: torch.cuda.Stream | None) -> _Sound:
    """The audio (b c n), decoded on `stream`."""
    started = time.perf_counter()
    while True:
        try:
            with turns.decoding(), torch.cuda.stream(stream):
                return _Sound(clips.audio(), took + time.perf_counter() - started)
        except torch.OutOfMemoryError as error:
            if not turns.part(error):
                raise


def _blend(jobs: Sequence[Job]) -> dict[str, Any]:
    """Keyword arguments of `Blend`."""
    others = [job.to_conditioning for job in jobs if job.to_conditioning is not None]
    seeds = [job.to_seed for job in jobs if job.to_seed is not None]
    if not others and not seeds:
        return {}
    return {"to_conditioning": others or None, "to_seeds": seeds or None, "mix": [job.mix for job in jobs]}
