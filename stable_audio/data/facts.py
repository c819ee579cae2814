"""The facts of one sound for the data report, whether it is a file or a member of a tar."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import torch

from stable_audio.audio.errors import AudioError
from stable_audio.audio.io import AudioSource, open_sound
from stable_audio.audio.silence import file_peak_db
from stable_audio.data.base import ItemFacts, Rejected, has_caption
from stable_audio.data.clips import ClipMaker
from stable_audio.data.crop import Crop
from stable_audio.data.custom_metadata import CustomMetadata
from stable_audio.types import Metadata


def inspect_sound(
    maker: ClipMaker,
    source: AudioSource,
    name: str,
    dataset: str,
    describe: Callable[[Crop], Metadata],
    custom: CustomMetadata | None,
    *,
    thorough: bool,
) -> ItemFacts | Rejected:
    """Facts of a sound, from its header alone unless `thorough`.

    Args:
        thorough: decode the whole sound, which also finds damage and silence.
        name: name of the sound for messages.
        dataset: id of the dataset entry it belongs to.
        describe: returns the metadata of the sound, as in ClipMaker.make.
        custom: the user's metadata module, called with the clip at the beginning of the file.
    """
    generator = torch.Generator().manual_seed(0)
    choose = maker.chooser(generator)
    try:
        with open_sound(source) as sound:
            info, threshold = sound.info, maker.options.silence_threshold_db
            peak = file_peak_db(sound) if thorough else math.inf  # decodes all of it, damage included
            frames = maker.frames(sound) if thorough else info.frames
        if threshold is not None and peak < threshold:
            return Rejected(name, f"silent: its peak is below {threshold:g} dB")
        metadata = describe(choose(frames, info.sample_rate))
    except AudioError as error:
        return Rejected(name, error.reason)
    except ValueError as error:
        return Rejected(name, str(error))
    if custom is not None:  # a silent beginning says nothing about the rest of the file
        options = dataclasses.replace(maker.options, silence_threshold_db=None)
        audible = dataclasses.replace(maker, options=options)
        clip = audible.make(source, name, choose, generator, describe, custom)
        if isinstance(clip, Rejected):
            return clip
        metadata = clip[1]
    return ItemFacts(
        dataset, info.seconds, info.sample_rate, info.channels, info.format, has_caption(metadata), metadata
    )
