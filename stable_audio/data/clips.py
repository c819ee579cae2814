"""Turn a sound file into a clip of the model's rate, length and channels."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from stable_audio.audio.errors import AudioError
from stable_audio.audio.io import AudioSource, Sound, open_sound
from stable_audio.audio.layout import LayoutMemory
from stable_audio.audio.loudness import integrated_loudness
from stable_audio.audio.silence import sound_end
from stable_audio.audio.transforms import fit_length, peak_db, to_channels
from stable_audio.data.base import Clip, ClipFormat, DataError, Rejected
from stable_audio.data.crop import Crop, choose_crop, read_crop
from stable_audio.data.custom_metadata import CustomMetadata
from stable_audio.types import Metadata

_QUIETEST_NORMALISED = -70.0

Choose = Callable[[int, int], Crop]
"""(frames, source rate) -> which part of the file to read."""


@dataclass(frozen=True, kw_only=True)
class ClipOptions(ClipFormat):
    """Options of the conversion of sound files to clips.

    Attributes:
        random_crop: use a random part of longer files, otherwise their beginning.
        phase_flip: probability of inverting the polarity.
        volume_norm: bring each clip to a random loudness; without augmentation to the mean.
        volume_norm_param: mean and standard deviation of that loudness in LUFS.
        strip_silence: remove trailing silence of 0.1 s or more before cropping.
        silence_threshold_db: clips whose peak is lower are rejected; None keeps them.

    Raises:
        DataError: a value is out of range.
    """

    random_crop: bool = True
    phase_flip: float = 0.5
    volume_norm: bool = False
    volume_norm_param: tuple[float, float] = (-16.0, 2.0)
    strip_silence: bool = False
    silence_threshold_db: float | None = -60.0

    def __post_init__(self) -> None:
        if not 0 <= self.phase_flip <= 1:
            raise DataError(f"$.phase_flip: a probability between 0 and 1, found {self.phase_flip}")
        if len(self.volume_norm_param) != 2 or self.volume_norm_param[1] < 0:
            values = list(self.volume_norm_param)
            raise DataError(f"$.volume_norm_param: [mean, deviation >= 0] in LUFS, found {values}")


@dataclass(frozen=True)
class ClipMaker:
    """Cuts and processes clips.

    Attributes:
        memory: cache of file layouts, which speeds up opening a file again.
    """

    options: ClipOptions
    memory: LayoutMemory = field(default_factory=LayoutMemory, compare=False)

    def chooser(self, generator: torch.Generator) -> Choose:
        """A function that chooses crops: at random, or from the beginning of each file."""

        def choose(frames: int, source_rate: int) -> Crop:
            return choose_crop(
                frames,
                source_rate,
                sample_rate=self.options.sample_rate,
                length=self.options.sample_size,
                generator=generator if self.options.random_crop and self.options.augment else None,
            )

        return choose

    def make(
        self,
        source: AudioSource,
        name: str,
        choose: Choose,
        generator: torch.Generator,
        describe: Callable[[Crop], Metadata],
        custom: CustomMetadata | None,
    ) -> Clip | Rejected:
        """Read the part that `choose` picks, process it, and add the metadata of `describe` and `custom`."""
        start_time, threshold = time.perf_counter(), self.options.silence_threshold_db
        try:
            with open_sound(source, memory=self.memory) as sound:
                crop = choose(self.frames(sound), sound.info.sample_rate)
                audio = read_crop(sound, crop)
            if threshold is not None and peak_db(audio) < threshold:
                return Rejected(name, f"silent: the clip's peak is below {threshold:g} dB")
            audio = self._process(audio, generator)
            metadata = describe(crop)
            metadata["load_time"] = time.perf_counter() - start_time
            if custom is None:
                return audio, metadata
            result = custom(metadata, audio, generator.initial_seed())
            return self._customise(audio, metadata, crop, result, name)
        except AudioError as error:
            return Rejected(name, error.reason)
        except MemoryError:
            return Rejected(name, "needs more memory than there is")
        except ValueError as error:
            return Rejected(name, str(error))

    def frames(self, sound: Sound) -> int:
        """Number of usable samples of the file, at its own rate."""
        return sound_end(sound) if self.options.strip_silence else sound.info.frames

    def _process(self, audio: Tensor, generator: torch.Generator) -> Tensor:
        if self.options.volume_norm:
            audio = self._normalise(audio, generator)
        flip = float(torch.rand((), generator=generator)) < self.options.phase_flip
        if flip and self.options.augment:
            audio = -audio
        return to_channels(audio.clamp(-1, 1), self.options.audio_channels)

    def _normalise(self, audio: Tensor, generator: torch.Generator) -> Tensor:
        mean, deviation = self.options.volume_norm_param
        target = mean + deviation * float(torch.randn((), generator=generator)) * self.options.augment
        loudness = integrated_loudness(audio, self.options.sample_rate)
        if loudness < _QUIETEST_NORMALISED:
            return audio
        return audio * 10 ** ((target - loudness) / 20)

    def _customise(
        self, audio: Tensor, metadata: Metadata, crop: Crop, result: Metadata, name: str
    ) -> Clip | Rejected:
        if result.get("__reject__"):
            return Rejected(name, "rejected by get_custom_metadata")
        versions = result.get("__audio__") or {}
        if not isinstance(versions, dict):
            kind = type(versions).__name__
            raise ValueError(f"__audio__ of get_custom_metadata must be a dict {{key: tensor}}, found {kind}")
        extra = {k: self._same_part(_as_audio(k, v), crop) for k, v in versions.items()}
        added = {k: v for k, v in result.items() if k not in ("__reject__", "__audio__")}
        return audio, {**metadata, **added, **extra}

    def _same_part(self, audio: Tensor, crop: Crop) -> Tensor:
        """The crop of the main audio applied to another version of the whole file, at the model's rate."""
        return to_channels(fit_length(audio, crop.length, offset=crop.offset), self.options.audio_channels)


def _as_audio(key: str, value: Any) -> Tensor:
    """Audio (c n) float32 from another version of the sound that a custom module returned."""
    try:
        audio = torch.as_tensor(value, dtype=torch.float32)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(
            f"__audio__['{key}'] of get_custom_metadata must be a tensor (channels, samples), found "
            f"{type(value).__name__}"
        ) from error
    audio = audio[None] if audio.ndim == 1 else audio
    if audio.ndim != 2 or not audio.numel():
        raise ValueError(
            f"__audio__['{key}'] of get_custom_metadata must have the shape (channels, samples), found "
            f"{tuple(audio.shape)}"
        )
    return audio
