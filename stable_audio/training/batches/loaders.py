"""The datasets of a run and their loaders."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import lightning.pytorch as pl

from stable_audio.config import DatasetConfig, ModelConfig
from stable_audio.config.reading.sources import Source
from stable_audio.data.loader import ResumableLoader
from stable_audio.factory.clip_shape import clip_shape, metadata_check, text_preparation
from stable_audio.factory.datasets import create_loader, dataset_config
from stable_audio.factory.pairing import pairing_problems
from stable_audio.pretransforms.conv import has_folded
from stable_audio.pretransforms.fingerprint import pretransform_hash
from stable_audio.training.base import TrainingModule
from stable_audio.training.errors import TrainingError
from stable_audio.training.options import RunOptions


@dataclass(frozen=True)
class Datasets:
    """The datasets of a run."""

    training: DatasetConfig
    validation: DatasetConfig | None = None

    @classmethod
    def of(cls, training: DatasetConfig | Source, validation: DatasetConfig | Source | None) -> Datasets:
        """Read and check their configs."""
        return cls(dataset_config(training), dataset_config(validation) if validation is not None else None)

    def as_dicts(self) -> dict[str, Any]:
        """Their configs, for the record of a run."""
        validation = self.validation.as_dict() if self.validation is not None else None
        return {"dataset": self.training.as_dict(), "val_dataset": validation}


def refuse_datasets(config: ModelConfig, files: Datasets) -> None:
    """Raise for datasets that do not fit the model.

    Raises:
        TrainingError: with every problem.
    """
    datasets = (files.training, files.validation)
    problems = [p for dataset in datasets for p in pairing_problems(config, dataset)]
    if problems:
        raise TrainingError("; ".join(dict.fromkeys(map(str, problems))))


def loader_maker(
    config: ModelConfig,
    module: TrainingModule,
    dataset: DatasetConfig,
    options: RunOptions,
    *,
    training: bool,
) -> Callable[[int, int], ResumableLoader]:
    """A function (rank, world size) -> loader of the items of this rank.

    Args:
        training: True: endless, shuffled and augmented; False: one pass over the items, to be repeated.
    """
    check = metadata_check(module.model)
    preparation = text_preparation(module.model)
    shape = clip_shape(config, module.model)

    def make(rank: int, world_size: int) -> ResumableLoader:
        return create_loader(
            dataset,
            **shape,
            batch_size=options.batch_size,
            num_workers=options.num_workers,
            seed=options.seed,
            rank=rank,
            world_size=world_size,
            shuffle=training,
            endless=training,
            repeat=not training,
            augment=training,
            pin_memory=module.device.type == "cuda",
            autoencoder_hash=_latents_hash(config, module, options),
            check=None if check is None else check.refusal,
            prepare=None if preparation is None else preparation.load(),
        )

    return make


def _latents_hash(config: ModelConfig, module: TrainingModule, options: RunOptions) -> str | None:
    """Hash of the pretransform that latents in the dataset must come from; None if any will do."""
    pretransform = getattr(module.model, "pretransform", None)
    pre_encoded = getattr(module, "pre_encoded", False)
    if pretransform is None or not pre_encoded or options.allow_untrained_pretransform:
        return None
    if has_folded(pretransform):  # the run's config has the hash of the weights before folding
        return config.model.pretransform.hash
    return pretransform_hash(pretransform)


def batch_seconds(
    config: ModelConfig,
    module: TrainingModule,
    dataset: DatasetConfig,
    trainer: pl.Trainer,
    options: RunOptions,
) -> float:
    """Seconds of audio that all processes together consume per optimizer step."""
    clips = options.batch_size * options.accum_batches * trainer.world_size
    return clips * row_samples(config, module, dataset) / config.sample_rate


def row_samples(config: ModelConfig, module: TrainingModule, dataset: DatasetConfig) -> int:
    """Samples per item of a batch."""
    row = getattr(dataset, "pack_length", None)
    return row * frame_samples(module) if row else config.sample_size


def frame_samples(module: TrainingModule) -> int:
    """Samples of one latent frame of the model."""
    return getattr(module.model, "downsampling_ratio", 1)
