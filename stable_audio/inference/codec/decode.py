"""Folders of latents -> sound files."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from stable_audio.audio.io import SavedAudio, save_audio
from stable_audio.data.base import DataError
from stable_audio.data.latent_sources import LatentSource, open_folder
from stable_audio.pretransforms.base import Pretransform
from stable_audio.pretransforms.fingerprint import pretransform_hash


def decode_folder(
    pretransform: Pretransform,
    folder: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    sample_rate: int,
    suffix: str = "wav",
    chunk_above: int | None = 2048,
    overwrite: bool = False,
) -> Iterator[SavedAudio | None]:
    """Decode every clip of `folder` to `out`, at its own length; yields per clip what was written.

    Files that are there already are kept and yield None, unless `overwrite`.

    Raises:
        DataError: the latents were made by another autoencoder, or cannot be read.
    """
    source = open_folder(os.fspath(folder))
    made_by = None if source.manifest is None else source.manifest["autoencoder_hash"]
    if made_by is not None and made_by != pretransform_hash(pretransform):
        raise DataError(
            f"{folder}: these latents were made by another autoencoder ({made_by}) than the one given "
            f"({pretransform_hash(pretransform)})"
        )
    names = sound_names([source.name(index) for index in range(len(source))], os.fspath(folder))
    for index, name in enumerate(names):
        target = Path(out) / f"{name}.{suffix}"
        if target.exists() and not overwrite:
            yield None
            continue
        audio = _decode(pretransform, source, index, chunk_above)
        yield save_audio(target, audio, sample_rate)


@torch.inference_mode()
def _decode(pretransform: Pretransform, source: LatentSource, index: int, chunk_above: int | None) -> Tensor:
    try:
        stored, valid, _ = source.describe(index)
        latents = source.read(index, 0, stored)
    except ValueError as error:
        raise DataError(f"{source.name(index)}: {error}") from error
    audio = decode_unscaled(pretransform, latents[None].to(pretransform.device), chunk_above=chunk_above)[0]
    samples = valid * pretransform.downsampling_ratio
    return audio[:, : min(samples, source.samples(index) or samples)].float().cpu()


def decode_unscaled(pretransform: Pretransform, latents: Tensor, *, chunk_above: int | None) -> Tensor:
    """Latents as they are stored (b c n) -> audio, in chunks where they are long."""
    scaled = latents / getattr(pretransform, "scale", 1.0)
    chunked = chunk_above is not None and latents.shape[-1] > chunk_above
    return pretransform.decode_chunked(scaled) if chunked else pretransform.decode(scaled)


def sound_names(names: Sequence[str], folder: str = "") -> list[str]:
    """Relative paths for sounds, each its own: "kick.wav" beside "kick.flac" keeps its suffix."""
    short = [sound_name(name, folder) for name in names]
    counts = Counter(short)
    return [s if counts[s] == 1 else _relative(name, folder) for s, name in zip(short, names)]


def sound_name(name: str, folder: str = "") -> str:
    """A relative path without the sound file's suffix: "drums/kick.wav@0" -> "drums/kick@0"."""
    return _SUFFIX.sub("", _relative(name, folder))


_SUFFIX = re.compile(r"\.(?:npy|wav|flac|mp3|ogg|oga|aiff?|aifc|opus|m4a)(?=@\d+$|$)", re.IGNORECASE)


def _relative(name: str, folder: str) -> str:
    inside = bool(folder) and name.startswith(folder)
    relative = os.path.relpath(name, folder) if inside else name.lstrip("/")
    return os.path.normpath(relative).replace("..", "_")
