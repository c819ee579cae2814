"""The clips of a call of `generate`: the sampling of their latents, and the sound that these become."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from stable_audio.diffusion.clip_frames import SECONDS
from stable_audio.diffusion.noise import Noise
from stable_audio.diffusion.samplers import SAMPLERS
from stable_audio.diffusion.sampling import Callback
from stable_audio.inference.generation.adapter_inputs import AdapterInputs
from stable_audio.inference.generation.audio_inputs import AudioInputs
from stable_audio.inference.generation.away_from import AwayFrom
from stable_audio.inference.generation.blends import Blend
from stable_audio.inference.generation.clips import Clips, sampled
from stable_audio.inference.generation.coding import EncoderNoise, decode_each
from stable_audio.inference.generation.condition_sounds import fit_sounds
from stable_audio.inference.generation.lengths import (
    ClipLength,
    by_length,
    ids_of,
    silenced,
)
from stable_audio.inference.generation.loops import decoded_loop
from stable_audio.inference.generation.settings import Sampling
from stable_audio.inference.memory.answer import answering
from stable_audio.model import DiffusionModel
from stable_audio.nn.modes import eval_mode
from stable_audio.types import Metadata

log = logging.getLogger(__name__)

RANDOM_SEED = -1
"""Stands for a seed drawn at random, as in stable-audio-tools."""


@dataclass(frozen=True, kw_only=True)
class NoiseSources:
    """Random draws that take the place of those from the seeds.

    Attributes:
        start_noise: noise to start from (b c n).
        noise: source of the samplers' draws.
        encoder_noise: source of the draws of VAE encoders.
    """

    start_noise: Tensor | None = None
    noise: Noise | None = None
    encoder_noise: EncoderNoise | None = None


@dataclass(frozen=True, kw_only=True)
class ClipOutput:
    """What becomes of sampled latents.

    Attributes:
        return_latents: return latents instead of decoding them.
        chunked_decode: decode in overlapping pieces, in constant memory.
    """

    return_latents: bool = False
    chunked_decode: bool = False


@dataclass(frozen=True, kw_only=True)
class BatchWork:
    """How the clips of a call are worked through.

    Attributes:
        batch_size: clips rendered at once; None = all.
        callback: called at every step with a StepInfo.
    """

    batch_size: int | None = None
    callback: Callback | None = None


@dataclass(frozen=True, kw_only=True)
class SampledClips:
    """The latents of the clips of a call, which may be decoded later, and in another thread.

    Attributes:
        model: the model with its adapters.
        latents: (b c n), float32 on the CPU.
        items: metadata of each clip.
        kept: audio samples of each.
        loop: whether the clips go on into themselves.
        windowed: whether the network saw them in windows.
        chunked: decode in overlapping pieces.
        audio_inputs: audio of which parts are kept.
        answering: context in which a lack of memory is explained.
    """

    model: DiffusionModel
    latents: Tensor
    items: list[Metadata]
    kept: int
    loop: bool
    windowed: bool
    chunked: bool
    audio_inputs: AudioInputs
    answering: Callable[[], AbstractContextManager[None]]

    @torch.no_grad()
    def audio(self) -> Tensor:
        """The sound (b c n), float32 on the CPU.

        Raises:
            OutOfMemory: there is too little memory; the message says what takes how much, and what fits.
        """
        model, kept = self.model, self.kept
        with self.answering(), eval_mode(model):
            if self.loop:
                audio = decoded_loop(model, self.latents, kept, chunked=self.chunked)
            else:
                audio = decode_each(model, self.latents, self.chunked or self.windowed)[..., :kept]
            return self.audio_inputs.pasted(
                model, audio if self.windowed else silenced(model, audio, self.items)
            )


@torch.no_grad()
def sample_clips(
    model: DiffusionModel,
    conditioning: str | Sequence[Metadata | str] | None,
    *,
    sampling: Sampling | None,
    away_from: AwayFrom,
    seeds: int | Sequence[int],
    length: ClipLength,
    audio_inputs: AudioInputs,
    adapter_inputs: AdapterInputs,
    blend: Blend,
    draws: NoiseSources,
    output: ClipOutput,
    work: BatchWork,
    **settings: Any,
) -> SampledClips:
    """The latents of clips, before they become sound; see `generate` for the arguments and errors."""
    model = adapter_inputs.on(model)
    if audio_inputs.init_audio is not None:
        settings["sigma_max"] = audio_inputs.init_noise_level
    how = (sampling or Sampling()).with_keywords(**settings).resolved_for(model)
    audio_inputs.check(model)
    away_from.check(model, how)
    if how.apg_momentum and (length.loop or length.window_seconds is not None):
        raise ValueError("apg_momentum follows the steps of whole clips; leave it out, or loop and windows")
    samples, kept = length.samples(model, how.headroom)
    windows, whole = length.windows(model, kept), length.whole(model, samples)
    heard = length.heard_seconds(model, kept / model.sample_rate)
    items = _items(_described(conditioning, model, heard), seeds, draws.start_noise)
    if length.seconds is not None and SECONDS in ids_of(model):
        items = [{SECONDS: length.seconds if windows is None else heard, **item} for item in items]
    numbers = _seeds(seeds, len(items))
    shape = model.latent_shape_of(whole)
    negatives = away_from.negatives(items)
    if len(how.weights) not in (1, len(items)):
        raise ValueError(f"found {len(how.weights)} values of cfg_scale for {len(items)} clips")
    if negatives is not None and not how.needs_null:
        log.warning("negative conditioning has no effect at cfg_scale 1, which means no guidance")
    assert how.sampler is not None  # `resolved` fills it in
    spec = SAMPLERS[how.sampler]
    alone = spec.one_by_one or (by_length(model, how) and not spec.per_item)
    batch = 1 if alone else work.batch_size or len(items)
    explaining = partial(
        answering,
        model,
        batch_size=batch,
        samples=whole,
        guided=how.needs_null,
        decoded=not output.return_latents,
        chunked=output.chunked_decode,
    )
    with (
        explaining(),
        eval_mode(model),
        nullcontext() if away_from.guide is None else eval_mode(away_from.guide),
    ):
        init, inpainting, known = audio_inputs.tensors(
            model,
            draws.encoder_noise,
            count=len(items),
            samples=samples,
            length=whole,
            kept=kept,
            imposed=windows is not None,
        )
        target = blend.target(items)
        others = None if target.items is None else fit_sounds(model, target.items, whole)
        init_items = audio_inputs.init_items(items)
        clips = Clips(
            items=fit_sounds(model, items, whole),
            seeds=numbers,
            shape=shape,
            negatives=None if negatives is None else fit_sounds(model, negatives, whole),
            guide=away_from.guide,
            init=init,
            inpainting=inpainting,
            known=known,
            start_noise=draws.start_noise,
            target=replace(target, items=others),
            inversion_steps=audio_inputs.inversion_steps,
            init_items=None if init_items is None else fit_sounds(model, init_items, whole),
            windows=windows,
        )
        latents = [
            sampled(model, clips, rows, how, draws.noise, work.callback)
            for rows in torch.arange(len(items)).split(batch)
        ]
    return SampledClips(
        model=model,
        latents=torch.cat(latents),
        items=items,
        kept=kept,
        loop=length.loop,
        windowed=windows is not None,
        chunked=output.chunked_decode,
        audio_inputs=audio_inputs,
        answering=explaining,
    )


def _described(
    conditioning: str | Sequence[Metadata | str] | None, model: DiffusionModel, seconds: float
) -> Sequence[Metadata] | None:
    """Prompts as metadata, with the times that published models need besides."""
    if conditioning is None or isinstance(conditioning, Mapping):
        return conditioning  # type: ignore[return-value]  # `_items` refuses a mapping
    ids = ids_of(model)
    times = {"seconds_start": 0.0, "seconds_total": seconds}
    timed = {key: value for key, value in times.items() if key in ids}
    items = [conditioning] if isinstance(conditioning, str) else conditioning
    return [{**timed, "prompt": item} if isinstance(item, str) else item for item in items]


def _items(
    conditioning: Sequence[Metadata] | None, seeds: int | Sequence[int], start_noise: Tensor | None
) -> list[Metadata]:
    """The metadata of each clip; without conditioning, as many empty ones as there are seeds."""
    if conditioning is None:
        count = len(start_noise) if start_noise is not None else 1
        return [{} for _ in range(count if isinstance(seeds, int) else len(seeds))]
    if isinstance(conditioning, Mapping):
        raise ValueError("conditioning must be a list of dicts, one per clip; found a single dict")
    if not conditioning:
        raise ValueError("conditioning is an empty list; give one dict per clip")
    return list(conditioning)


def _seeds(seeds: int | Sequence[int], count: int) -> list[int]:
    first = random_seed() if seeds == RANDOM_SEED else seeds
    numbers = [first + i for i in range(count)] if isinstance(first, int) else [int(s) for s in first]
    numbers = [random_seed() if seed == RANDOM_SEED else seed for seed in numbers]
    if len(numbers) != count:
        raise ValueError(f"found {len(numbers)} seeds for {count} clips")
    return numbers


def random_seed() -> int:
    """A seed from the operating system's randomness, so that seeding torch does not repeat it."""
    return secrets.randbelow(1 << 31)
