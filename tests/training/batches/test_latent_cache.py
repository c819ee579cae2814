"""Latents that are kept: computed once per clip, the same after a resume, and refused where clips change."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from stable_audio.config import load_config, load_dataset_config
from stable_audio.data.base import Batch
from stable_audio.factory.pairing import pairing_problems
from stable_audio.training.batches.latent_cache import LatentCache
from stable_audio.training.errors import TrainingError
from stable_audio.training.trainer import Run
from tests.training import building
from tests.training.building import latent_config, tiny_config
from tests.training.saving.test_resume import assert_same_checkpoint

CLIPS = {"dataset_type": "synthetic", "num_clips": 6}


def tiny_run(folder: Path, config: dict[str, Any], **options: Any) -> Run:
    return building.tiny_run(folder, config, allow_untrained_pretransform=True, **options)


def cached(config: dict[str, Any] | None = None) -> dict[str, Any]:
    config = config if config is not None else latent_config()
    return config | {"training": {**config["training"], "cache_latents": True}}


def encoded_batches(run: Run) -> list[int]:
    """Start a run; sizes of the batches that its pretransform encodes."""
    sizes: list[int] = []
    pretransform = run.module.model.pretransform
    encode = pretransform.encode

    def counted(audio: Tensor, **options: Any) -> Tensor:
        sizes.append(len(audio))
        return encode(audio, **options)

    pretransform.encode = counted
    assert run.start() == 0
    return sizes


def test_every_clip_is_encoded_once_and_by_itself(tmp_path: Path) -> None:
    run = tiny_run(tmp_path, cached(), dataset=CLIPS, batch_size=2, max_steps=9)
    assert encoded_batches(run) == [1] * 6


def test_a_continued_run_is_bit_identical_though_its_cache_begins_empty(tmp_path: Path) -> None:
    options = {"dataset": CLIPS, "batch_size": 2}
    tiny_run(tmp_path, cached(), name="whole", max_steps=8, **options).start()
    tiny_run(tmp_path, cached(), name="parts", max_steps=5, **options).start()
    assert tiny_run(tmp_path, cached(), name="parts", max_steps=8, recover=True, **options).start() == 0
    assert_same_checkpoint(tmp_path / "whole" / "last.ckpt", tmp_path / "parts" / "last.ckpt")


def test_validation_clips_are_encoded_though_they_have_the_numbers_of_training_clips(tmp_path: Path) -> None:
    val = {"dataset_type": "synthetic", "split": "val", "num_clips": 6}
    options = {"dataset": CLIPS, "val_dataset": val, "val_every": 4, "batch_size": 2, "max_steps": 4}
    assert encoded_batches(tiny_run(tmp_path, cached(), **options)) == [1] * 6 + [2] * 3


def test_the_cache_keeps_what_it_was_given_and_needs_to_know_the_items() -> None:
    cache, calls = LatentCache(), []

    def encode(audio: Tensor) -> Tensor:
        calls.append(audio.shape)
        return audio[..., ::2] * 3

    audio = torch.arange(12.0).view(3, 1, 4)
    first = cache(Batch(audio, [{}] * 3, items=[4, 7, 4]), encode)
    assert torch.equal(first, torch.stack([audio[0], audio[1], audio[0]])[..., ::2] * 3)
    assert calls == [(1, 1, 4)] * 2
    assert len(cache) == 2
    assert torch.equal(cache(Batch(audio[:1] + 9, [{}], items=[7]), encode), audio[1:2, :, ::2] * 3)
    with pytest.raises(TrainingError, match="cache_latents"):
        cache(Batch(audio, [{}] * 3), encode)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"random_crop": True}, "random_crop"),
        ({"phase_flip": 0.5}, "phase_flip"),
        ({"volume_norm": True}, "volume_norm"),
    ],
)
def test_clips_that_change_are_refused(tmp_path: Path, change: dict[str, Any], reason: str) -> None:
    fixed = {"dataset_type": "audio_dir", "random_crop": False, "phase_flip": 0.0}
    fixed["datasets"] = [{"id": "a", "path": str(tmp_path)}]
    config = load_config(cached())
    assert pairing_problems(config, load_dataset_config(fixed)) == []
    problem = "\n".join(map(str, pairing_problems(config, load_dataset_config({**fixed, **change}))))
    assert problem.startswith("$.training.cache_latents: found true, but clips change")
    assert reason in problem


def test_a_module_that_may_change_clips_is_refused(tmp_path: Path) -> None:
    entry = {"id": "a", "path": str(tmp_path), "custom_metadata_module": "m.py"}
    data = {"dataset_type": "audio_dir", "random_crop": False, "phase_flip": 0.0, "datasets": [entry]}
    (problem,) = pairing_problems(load_config(cached()), load_dataset_config(data))
    assert "custom_metadata_module" in str(problem)


def test_there_must_be_something_to_keep() -> None:
    without = tiny_config(cache_latents=True)
    without["model"]["pretransform"] = None
    without["model"]["io_channels"] = without["model"]["diffusion"]["config"]["io_channels"] = 1
    dataset = load_dataset_config(CLIPS)
    assert "no pretransform" in str(pairing_problems(load_config(without), dataset)[0])
    trained = cached()
    trained["model"]["pretransform"] = {**trained["model"]["pretransform"], "enable_grad": True}
    assert "enable_grad" in str(pairing_problems(load_config(trained), dataset)[0])


def test_kept_latents_are_copied_from_page_locked_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """From any other the host would wait for the device in every step."""
    copied: list[Tensor] = []

    def to_device(tensor: Tensor, device: torch.device) -> Tensor:
        copied.append(tensor)
        return tensor.to(device)

    monkeypatch.setattr("stable_audio.training.batches.latent_cache.to_device", to_device)
    cache, batch = LatentCache(), Batch(torch.ones(2, 1, 8), [{}, {}], items=[3, 5])
    latents = cache(batch, lambda clip: clip[..., ::4])
    assert len(copied) == 1
    assert torch.equal(latents, torch.ones(2, 1, 2))
