"""Audio -> latents on disk. A killed run continues where it stopped; finished items are not encoded again."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from stable_audio.audio.atomic import atomic_write, remove_leftovers
from stable_audio.characters import refuse_name
from stable_audio.data.base import DataError
from stable_audio.data.latents import (
    MANIFEST,
    SHARDS,
    LatentRecord,
    read_manifest,
    shards,
    write_manifest,
)
from stable_audio.data.parts import DatasetParts, FileParts, SoundPart
from stable_audio.inference.codec.latents import EncodeOptions, encoded, unscaled_latents
from stable_audio.inference.codec.shard_writer import ShardWriter
from stable_audio.pretransforms.base import Pretransform
from stable_audio.pretransforms.fingerprint import pretransform_hash

_LOG = logging.getLogger(__name__)

_SILENCE_FRAMES = 64
_DERIVED = ("items", "frames", "hours", "latents", "rejected", "shards", "format", "version", "complete")
"""Entries of the manifest that follow from what is stored."""
_MAY_CHANGE = ("autoencoder", "sample_size")
"""Entries that are not compared: the hash identifies the weights, whose file may have moved."""


def encode_to_folder(
    pretransform: Pretransform,
    source: FileParts | DatasetParts,
    folder: str | os.PathLike[str],
    *,
    sample_rate: int,
    options: EncodeOptions,
    settings: Mapping[str, Any] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Encode the items of `source` that `folder` does not hold yet.

    Args:
        settings: further entries for the manifest (origin of the weights, crop length, ...).
        progress: called with (finished items, all items) of this process.

    Returns:
        the manifest.

    Raises:
        DataError: the folder holds latents made with other settings.
        ValueError: its name is not UTF-8.
    """
    folder = Path(folder)
    refuse_name(folder, "latents")
    described = _settings(pretransform, sample_rate, options, settings or {})
    _check_settings(folder, described)
    (folder / SHARDS).mkdir(parents=True, exist_ok=True)
    for place in (folder, folder / SHARDS):
        remove_leftovers(place)
    names = [part.name for part in source.parts]
    if options.rank == 0:
        write_manifest(folder, described, names)
        _write_silence(pretransform, folder)
    there = list(shards(folder))
    stored_names = _stored_names(
        folder, [record for shard in there for record in shard.records], source.parts
    )
    share = range(options.rank, len(names), options.world_size)
    pending = [i for i in share if names[i] not in stored_names]
    writer = ShardWriter(folder, options, logged={r for shard in there for r in shard.rejected})
    for problem in source.problems if options.rank == 0 else []:
        writer.add(problem.path, problem)
    try:
        for count, (index, result) in enumerate(encoded(pretransform, source, pending, options), start=1):
            writer.add(names[index], result)
            if progress is not None:
                progress(len(share) - len(pending) + count, len(share))
    finally:
        writer.flush()  # also after an error or a signal, so that no finished item is lost
    return _final_manifest(folder, described, names)


def _final_manifest(folder: Path, settings: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """Write the manifest of all shards, again if another process has added a shard meanwhile."""
    while True:
        manifest = write_manifest(folder, settings, names)
        there = {path.name for path in (folder / SHARDS).glob("[!.]*.safetensors")}
        if there == {shard["file"] for shard in manifest["shards"]}:
            return manifest


def _settings(
    pretransform: Pretransform, sample_rate: int, options: EncodeOptions, more: Mapping[str, Any]
) -> dict[str, Any]:
    return {
        "autoencoder_hash": pretransform_hash(pretransform),
        "sample_rate": sample_rate,
        "downsampling_ratio": pretransform.downsampling_ratio,
        "channels": pretransform.encoded_channels,
        "audio_channels": pretransform.io_channels,
        "dtype": "float16" if options.half else "float32",
        "chunk_above": options.chunk_above,
        "seed": options.seed,
        **more,
    }


def _check_settings(folder: Path, settings: Mapping[str, Any]) -> None:
    if not (folder / MANIFEST).exists():
        return
    manifest = read_manifest(folder)
    compared = {k: json.loads(json.dumps(v)) for k, v in settings.items() if k not in _MAY_CHANGE}
    differing = [k for k, v in compared.items() if v != manifest.get(k)]
    if differing:
        changes = ", ".join(f"{k} was {manifest.get(k)!r}, is {settings[k]!r}" for k in differing)
        raise DataError(f"{folder}: holds latents made with other settings ({changes}); use another folder")


def _stored_names(folder: Path, records: Sequence[LatentRecord], parts: Sequence[SoundPart]) -> set[str]:
    """Names of the clips in `folder`.

    Raises:
        DataError: a clip was encoded from a file whose length has changed since.
    """
    totals = {part.name: part.total for part in parts}
    outdated = [r for r in records if totals.get(r.part) and totals[r.part] != r.total]
    if outdated:
        first = outdated[0]
        raise DataError(
            f"{folder}: {len(outdated)} clips were encoded from files that have changed since "
            f"({first.part} had {first.total} samples, and now has {totals[first.part]}); use another folder"
        )
    foreign = [r.part for r in records if r.part not in totals]
    if foreign:
        _LOG.warning("%s: %d clips there are not in the source (%s, ...)", folder, len(foreign), foreign[0])
    return {record.part for record in records}


@torch.inference_mode()
def _write_silence(pretransform: Pretransform, folder: Path) -> None:
    """Write the latents of silence, without the autoencoder's noise, as padding for shorter clips."""
    length = _SILENCE_FRAMES * pretransform.downsampling_ratio
    audio = torch.zeros(1, pretransform.io_channels, length, device=pretransform.device)
    latents = unscaled_latents(pretransform, audio, noise=torch.zeros_like, chunk_above=None)
    with atomic_write(folder / "silence.npy") as temporary:
        np.save(temporary, latents[0].float().cpu().numpy())


def finish_manifest(folder: str | os.PathLike[str], names: Sequence[str]) -> dict[str, Any]:
    """The manifest after all processes are done; each saw only what the others had written by then.

    Args:
        names: names of all parts of the source.
    """
    settings = {k: v for k, v in read_manifest(folder).items() if k not in _DERIVED}
    return write_manifest(Path(folder), settings, names)
