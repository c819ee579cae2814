"""Latents of the sounds on disk, by content: a later run with the same sounds and autoencoder reads them."""

from __future__ import annotations

import dataclasses
import gc
import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from stable_audio.data.base import DataError
from stable_audio.inference.codec.encode import encode_to_folder
from stable_audio.inference.codec.latents import EncodeOptions
from stable_audio.inference.codec.load import load_codec
from stable_audio.inference.codec.sources import sound_parts
from stable_audio.pretransforms.fingerprint import pretransform_hash
from stable_audio.training.finetune.clips import FolderClip

KEY_LENGTH = 16


@dataclass(frozen=True)
class CachedLatents:
    """Latents of a folder of sounds.

    Attributes:
        folder: where they are.
        encoded: clips that were encoded by this call; the others were there.
        rejected: (file, reason) of sounds that could not be encoded.
    """

    folder: Path
    encoded: int
    rejected: Sequence[tuple[str, str]]


def cache_latents(
    sounds: str | Path,
    clips: Sequence[FolderClip],
    cache: str | Path,
    *,
    checkpoint: str | Path,
    model_config: str | Path | None,
    crop: int | None,
    device: torch.device,
    options: EncodeOptions | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> CachedLatents:
    """Encode the sounds of a dataset file into a folder of `cache`, unless that holds them.

    Args:
        sounds: the dataset file.
        clips: its sounds.
        checkpoint: the model, whose autoencoder encodes.
        model_config: its config, where the file has none.
        crop: samples that files are cut into; None encodes each whole.
        progress: called with (finished, all).

    Raises:
        ValueError: the model has no weights for its autoencoder.
        DataError: no sound could be encoded.
    """
    codec = load_codec(ckpt_path=checkpoint, model_config=model_config, device=device)
    key = _key(pretransform_hash(codec.pretransform), clips, crop)
    folder = Path(cache).expanduser() / f"latents-{key}"
    new = 0

    def count(finished: int, total: int) -> None:
        nonlocal new
        new += 1
        if progress is not None:
            progress(finished, total)

    manifest = encode_to_folder(
        codec.pretransform,
        sound_parts(str(sounds), codec, crop=crop),
        folder,
        sample_rate=codec.sample_rate,
        options=options or EncodeOptions(),
        settings={"autoencoder": codec.source, "sample_size": codec.sample_size, "crop": crop},
        progress=count,
    )
    del codec
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    rejected = [(str(path), str(reason)) for path, reason in manifest["rejected"]]
    if not manifest["items"]:
        raise DataError(f"{sounds}: no sound could be encoded ({rejected[0][0]}: {rejected[0][1]})")
    return CachedLatents(folder, new, rejected)


def _key(autoencoder: str, clips: Sequence[FolderClip], crop: int | None) -> str:
    """Of everything that the latents and their metadata depend on."""
    content: list[Any] = [autoencoder, crop, [dataclasses.asdict(clip) for clip in clips]]
    text = json.dumps(content, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:KEY_LENGTH]
