"""Report on a dataset file, and on what a model file could use of it."""

from __future__ import annotations

import os
from typing import Any

from stable_audio.config import load_dataset_config
from stable_audio.data.inspection import NUM_THREADS, inspect_dataset
from stable_audio.factory.clip_shape import clip_shape, metadata_check, stored_shape
from stable_audio.factory.datasets import create_dataset
from stable_audio.factory.loading import load_config
from stable_audio.factory.models import create_model_from_config

DEFAULT_CLIPS = {"sample_rate": 44100, "sample_size": 65536, "audio_channels": 2}
"""The clips of a report where neither a model nor a folder of latents tells their shape."""


def report_on_dataset(
    dataset_config: str | os.PathLike[str],
    model_config: str | os.PathLike[str] | None = None,
    *,
    thorough: bool = True,
    num_threads: int = NUM_THREADS,
    **clips: int,
) -> dict[str, Any]:
    """Summarise all items of the dataset that a file describes, as `inspect_dataset` does.

    Args:
        dataset_config: path of the dataset file.
        model_config: path of a model file, which gives the shape of the clips; items that its conditioners
            cannot use count as rejected.
        thorough: as for `inspect_dataset`.
        num_threads: as for `inspect_dataset`.
        clips: keys of DEFAULT_CLIPS that replace what the model and the folder of latents say.

    Raises:
        ConfigError: with every mistake of a file.
        DataError: no item can be read.
    """
    config = load_dataset_config(dataset_config)
    shape, check = dict(DEFAULT_CLIPS), None
    if model_config is not None:
        loaded = load_config(model_config)
        model = create_model_from_config(loaded, device="meta")
        shape.update(clip_shape(loaded, model))
        check = metadata_check(model)
    dataset = create_dataset(config, augment=False, **{**shape, **stored_shape(config), **clips})
    return inspect_dataset(
        dataset,
        thorough=thorough,
        num_threads=num_threads,
        check=None if check is None else check.refusal,
        beyond=None if check is None else check.beyond,
    )
