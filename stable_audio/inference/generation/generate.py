"""`generate`: conditioning -> noise -> sampler -> decode."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from stable_audio.inference.generation.adapter_inputs import AdapterInputs
from stable_audio.inference.generation.audio_inputs import AudioInputs
from stable_audio.inference.generation.away_from import AwayFrom
from stable_audio.inference.generation.blends import Blend
from stable_audio.inference.generation.lengths import ClipLength
from stable_audio.inference.generation.sampled_clips import (
    RANDOM_SEED,
    BatchWork,
    ClipOutput,
    NoiseSources,
    SampledClips,
    random_seed,
    sample_clips,
)
from stable_audio.inference.generation.settings import Sampling
from stable_audio.model import DiffusionModel
from stable_audio.options import Flat, grouped, takes_keywords
from stable_audio.types import Metadata

__all__ = [
    "RANDOM_SEED",
    "BatchWork",
    "ClipOutput",
    "Draws",
    "NoiseSources",
    "generate",
    "random_seed",
    "undecoded",
]

Draws = NoiseSources
"""An earlier name, which is also that of the draws of a training step."""


@torch.no_grad()
@takes_keywords
def generate(
    model: DiffusionModel,
    conditioning: str | Sequence[Metadata | str] | None = None,
    *,
    sampling: Sampling | None = None,
    away_from: Flat[AwayFrom] = AwayFrom(),  # noqa: B008 (frozen)
    seeds: int | Sequence[int] = 0,
    length: Flat[ClipLength] = ClipLength(),  # noqa: B008 (frozen)
    audio_inputs: Flat[AudioInputs] = AudioInputs(),  # noqa: B008 (frozen)
    adapter_inputs: Flat[AdapterInputs] = AdapterInputs(),  # noqa: B008 (frozen)
    blend: Flat[Blend] = Blend(),  # noqa: B008 (frozen)
    draws: Flat[NoiseSources] = NoiseSources(),  # noqa: B008 (frozen)
    output: Flat[ClipOutput] = ClipOutput(),  # noqa: B008 (frozen)
    work: Flat[BatchWork] = BatchWork(),  # noqa: B008 (frozen)
    **settings: Any,
) -> Tensor:
    """Render one clip per conditioning dict. A clip depends on its own seed, not on the others of the call.

    The model is used in eval mode and returned to its previous mode. Several threads can use it at once.

    Args:
        conditioning: one dict per clip, with a value for every conditioner of the model; or one or several
            prompts; None or empty dicts for an unconditional model. For prompts, `seconds_start` and
            `seconds_total` are those of the whole clip if the model reads them. Sounds (tensors or paths of
            files) are cut or padded to the clip.
        sampling: settings of sampling; None: the defaults of the model's objective.
        away_from: `negative_conditioning` to steer away from, and `guide`, a weaker model; keywords as well.
        seeds: one per clip, or the first of consecutive ones; -1 draws one at random.
        length: `sample_size`, audio samples per clip, or `seconds`; `loop`, `window_seconds` and `short`; all
            are keywords as well. None = as the model's.
        audio_inputs: audio that the clips start from or keep parts of; its fields, such as
            init_audio, are keywords as well.
        adapter_inputs: `adapters`, a keyword as well: files of adapters, or runs that trained them, with
            ":STRENGTH" behind if not 1. They are read and added in every call; `with_adapters` gives a model
            for many.
        blend: other conditioning or noise to go to: `to_conditioning`, `to_seeds` and `mix`, keywords too.
        draws: random draws in place of the seeds', to reproduce results of other programs; its fields are
            keywords here, too.
        output: `return_latents` and `chunked_decode`, keywords as well.
        work: `batch_size`, clips rendered at once, None = all; and `callback`, called at every step with a
            StepInfo; keywords as well.
        settings: attributes of `Sampling` as keywords, such as `steps=50, cfg_scale=6`; they replace those of
            `sampling`. `sampler_options` is another name of `options`. cfg_scale may be a tuple with one for
            each clip.

    Returns:
        audio (b c n) or latents (b c n), float32 on the CPU.

    Raises:
        ValueError: missing conditioning, with the ids that the model needs; a setting out of range; or an
            adapter of another model.
        OutOfMemory: there is too little memory; the message says what takes how much, and what fits.
    """
    clips = sample_clips(
        model,
        conditioning,
        sampling=sampling,
        away_from=away_from,
        seeds=seeds,
        length=length,
        audio_inputs=audio_inputs,
        adapter_inputs=adapter_inputs,
        blend=blend,
        draws=draws,
        output=output,
        work=work,
        **settings,
    )
    return clips.latents if output.return_latents else clips.audio()


def undecoded(
    model: DiffusionModel, conditioning: Sequence[Metadata], *, sampling: Sampling, **keywords: Any
) -> SampledClips:
    """The clips that `generate` gives for the same arguments, before they become sound."""
    return sample_clips(model, conditioning, sampling=sampling, **grouped(generate, keywords))
