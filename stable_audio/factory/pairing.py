"""Whether a model can be trained on a dataset."""

from __future__ import annotations

from stable_audio.config.reporting.problems import Problem
from stable_audio.config.rules.datasets import cache_problems, latents_problems, packing_problems, packs
from stable_audio.config.sections.dataset import DatasetConfig
from stable_audio.config.sections.top import ModelConfig
from stable_audio.factory.facts import gather


def pairing_problems(config: ModelConfig, dataset: DatasetConfig | None) -> list[Problem]:
    """Reasons why `config` cannot be trained on `dataset`; none if `dataset` is None."""
    backbone = gather(config.as_dict()).backbone if packs(dataset) else None
    return [
        *latents_problems(config, dataset),
        *cache_problems(config, dataset),
        *packing_problems(config, dataset, backbone),
    ]
