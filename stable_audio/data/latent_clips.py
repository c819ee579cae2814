"""Cut stored latents to clips of a given length, with metadata that fit the crop."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from stable_audio.audio.padding import PaddingMask
from stable_audio.data.base import Clip, Rejected
from stable_audio.data.custom_metadata import CustomMetadata
from stable_audio.data.latent_sources import LatentSource
from stable_audio.types import Metadata


@dataclass(frozen=True)
class LatentClips:
    """Cuts clips of latents; see PreEncodedDataset for the fields.

    Attributes:
        ratio: audio samples per frame.
        longest: clips without a fixed length are cut to this many frames.
    """

    sample_rate: int
    ratio: int
    crop_length: int | None
    random_crop: bool
    bucket_lengths: Sequence[int] | None = None
    longest: int | None = None

    def bucket(self, valid: int) -> int:
        """Number of the smallest bucket that holds `valid` frames, or else of the largest bucket."""
        lengths = self.bucket_lengths or [valid]
        return next((i for i, length in enumerate(lengths) if valid <= length), len(lengths) - 1)

    def seconds(self, frames: int) -> float:
        return frames * self.ratio / self.sample_rate

    def make(
        self,
        source: LatentSource,
        index: int,
        extra: Metadata,
        generator: torch.Generator,
        custom: CustomMetadata | None,
    ) -> Clip | Rejected:
        """Latents (c frames) float32, unscaled, and their metadata with `extra` added."""
        start_time = time.perf_counter()
        try:
            stored, valid, metadata = source.describe(index)
            length = self._length(stored, valid)
            start = self._start(valid, length, generator)
            latents = _padded(source.read(index, start, start + length), length, source.silence)
            if not bool(torch.isfinite(latents).all()):
                raise ValueError("holds values that are not numbers")
            info = {
                **self._describe(metadata, stored, valid, start, length),
                **extra,
                "latent_filename": source.name(index),
                "load_time": time.perf_counter() - start_time,
            }
            if custom is None:
                return latents, info
            return _customise(latents, info, custom(info, latents, generator.initial_seed()))
        except ValueError as error:
            return Rejected(source.name(index), str(error))

    def _length(self, stored: int, valid: int) -> int:
        if self.bucket_lengths:
            return self.bucket_lengths[self.bucket(valid)]
        if self.longest is not None:
            return min(valid, self.longest)
        return stored if self.crop_length is None else self.crop_length

    def _start(self, valid: int, length: int, generator: torch.Generator) -> int:
        if not self.random_crop or valid <= length:
            return 0
        return int(torch.randint(valid - length + 1, (), generator=generator))

    def _describe(self, metadata: Metadata, stored: int, valid: int, start: int, length: int) -> Metadata:
        clip_start = metadata.pop("start_seconds")
        file_seconds = metadata.pop("file_seconds", None)
        crop_start, seconds = clip_start + self.seconds(start), self.seconds(length)
        info = {
            "seconds_total": math.ceil(clip_start + self.seconds(valid)),
            **metadata,
            "latent_crop_start": start,
            "latent_crop_length": length,
            "seconds_start": math.floor(crop_start),
            "padding_mask": PaddingMask(max(0, min(valid - start, length)), length),
            "sample_rate": self.sample_rate,
        }
        if file_seconds is not None:
            span = max(file_seconds, seconds)
            info["timestamps"] = (crop_start / span, (crop_start + seconds) / span)
        elif "timestamps" in metadata:
            first, last = metadata["timestamps"]
            step = (last - first) / stored
            info["timestamps"] = (first + step * start, first + step * (start + length))
        return info


def _customise(latents: Tensor, info: Metadata, result: Metadata) -> Clip | Rejected:
    if result.get("__reject__"):
        return Rejected(info["latent_filename"], "rejected by get_custom_metadata")
    new_latents = result.get("__replace__")
    if new_latents is not None:
        try:
            latents = torch.as_tensor(new_latents, dtype=torch.float32)
        except (TypeError, ValueError, RuntimeError) as error:
            raise ValueError(
                f"__replace__ of get_custom_metadata must be latents, found {type(new_latents).__name__}"
            ) from error
    added = {k: v for k, v in result.items() if k not in ("__reject__", "__replace__")}
    return latents, {**info, **added}


def _padded(latents: Tensor, length: int, silence: Tensor | None) -> Tensor:
    padding = length - latents.shape[-1]
    if padding <= 0:
        return latents
    if silence is None:
        return F.pad(latents, (0, padding))
    if silence.shape[:-1] != latents.shape[:-1]:
        raise ValueError(
            f"silence.npy has shape {tuple(silence.shape)}, which does not fit latents {tuple(latents.shape)}"
        )
    return torch.cat([latents, silence.expand(*silence.shape[:-1], padding)], dim=-1)
