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
from stable_audio.pretransforms.chunking import CHUNK_ABOVE
from stable_audio.pretransforms.fingerprint import pretransform_hash


def decode_folder(
    pretransform: Pretransform,
    folder: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    sample_rate: int,
    suffix: str = "wav",
    chunk_above: int | None = CHUNK_ABOVE,
    overwrite: bool = False,
) -> Iterator[SavedAudio | None]:
    """Decode every clip of `folder` into a file in `out`, cut to its own length; yields each saved file.

    For a file that exists already, it yields None and leaves the file as it is, unless `overwrite`.

    Raises:
        DataError: the latents were made by another autoencoder, or cannot be read.
    """
    source = open_folder(os.fspath(folder))
    autoencoder_hash = None if source.manifest is None else source.manifest["autoencoder_hash"]
    if autoencoder_hash is not None and autoencoder_hash != pretransform_hash(pretransform):
        raise DataError(
            f"{folder}: these latents were made by another autoencoder ({autoencoder_hash}) than this one "
            f"({pretransform_hash(pretransform)}); give the weights that encoded them"
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
        frames, valid, _ = source.describe(index)
        latents = source.read(index, 0, frames)
    except ValueError as error:
        raise DataError(f"{source.name(index)}: {error}") from error
    audio = decode_unscaled(pretransform, latents[None].to(pretransform.device), chunk_above=chunk_above)[0]
    samples = valid * pretransform.downsampling_ratio
    return audio[:, : min(samples, source.samples(index) or samples)].float().cpu()


def decode_unscaled(pretransform: Pretransform, latents: Tensor, *, chunk_above: int | None) -> Tensor:
    """Decode latents as stored on disk, before division by `scale` (b c n), into audio (b c n).

    Args:
        chunk_above: number of frames above which they are decoded in overlapping chunks; None: never.
    """
    scaled = latents / getattr(pretransform, "scale", 1.0)
    chunked = chunk_above is not None and latents.shape[-1] > chunk_above
    return pretransform.decode_chunked(scaled) if chunked else pretransform.decode(scaled)


def sound_names(names: Sequence[str], folder: str = "") -> list[str]:
    """Distinct relative paths for sounds, without their suffix unless "kick.wav" and "kick.flac" clash."""
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
