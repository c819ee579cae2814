"""Training on a GPU: no waiting inside a step, exact resume, bad batches, autoencoders."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from stable_audio.data.base import Batch
from stable_audio.training.errors import TrainingError
from tests.training.autoencoder.test_autoencoder import tiny_config as autoencoder_config
from tests.training.building import latent_config, tiny_config, tiny_run
from tests.training.processes.test_cpu_offload import trained

GPU = {"accelerator": "gpu", "devices": "1"}


@contextmanager
def waiting_is_an_error() -> Iterator[None]:
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def _weights(run: Any) -> dict[str, torch.Tensor]:
    return {k: v.cpu().clone() for k, v in run.module.model.state_dict().items()}


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_a_run_learns_and_logs(precision: str, tmp_path: Path) -> None:
    run = tiny_run(tmp_path, max_steps=40, precision=precision, batch_size=8, **GPU)
    assert run.start() == 0
    with (run.options.folder / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(r["step"]) for r in rows] == list(range(1, 41))
    losses = [float(r["train/loss"]) for r in rows]
    assert sum(losses[-10:]) < sum(losses[:10])


@pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype")
def test_the_device_is_not_waited_for_in_a_step(tmp_path: Path) -> None:
    run = tiny_run(tmp_path, tiny_config(cfg_dropout_prob=0.2), max_steps=8, log_every=1, **GPU)
    module, step = run.module, run.module.training_step

    def watched(batch: Batch, batch_idx: int = 0) -> torch.Tensor:
        if module.position < 3:  # what is set up once may wait
            return step(batch, batch_idx)
        with waiting_is_an_error():
            return step(batch, batch_idx)

    clip = module.configure_gradient_clipping

    def clipped(*args: Any, **kwargs: Any) -> None:
        with waiting_is_an_error():
            clip(*args, **kwargs)

    module.training_step, module.configure_gradient_clipping = watched, clipped
    assert run.start() == 0


def test_a_continued_run_is_bit_identical(tmp_path: Path) -> None:
    whole = tiny_run(tmp_path / "whole", max_steps=6, **GPU)
    whole.start()
    tiny_run(tmp_path / "parts", max_steps=3, **GPU).start()
    second = tiny_run(tmp_path / "parts", max_steps=6, recover=True, **GPU)
    second.start()
    expected = _weights(whole)
    for key, value in _weights(second).items():
        assert torch.equal(value, expected[key]), key


def test_a_batch_that_is_not_finite_leaves_the_weights_alone(tmp_path: Path) -> None:
    run = tiny_run(tmp_path, max_steps=6, **GPU)
    module, step = run.module, run.module.training_step
    before: dict[int, Any] = {}

    def spoiled(batch: Batch, batch_idx: int = 0) -> torch.Tensor:
        before[module.position] = _weights(run)
        loss = step(batch, batch_idx)
        return loss * float("nan") if module.position == 2 else loss

    module.training_step = spoiled
    with pytest.raises(TrainingError, match="not finite at step 3; the weights were not changed"):
        run.start()
    assert all(torch.equal(v, before[max(before)][k]) for k, v in before[2].items())


def test_a_compiled_run_learns_as_one_that_is_not(tmp_path: Path) -> None:
    losses = []
    for compiles in (False, True):
        options: dict[str, Any] = {"precision": "bf16-mixed", "batch_size": 8, "demos": False, **GPU}
        run = tiny_run(tmp_path / str(compiles), max_steps=20, compile=compiles, **options)
        assert run.start() == 0
        losses.append(run.scalars.latest["train/loss"])
    assert losses[1] == pytest.approx(losses[0], rel=0.02)


@pytest.mark.parametrize("kind", ["file", "shards"])
def test_weights_that_rest_on_the_host_train_as_those_on_the_device(kind: str, tmp_path: Path) -> None:
    weights = [
        trained(
            tmp_path / str(offloads), strategy="fsdp", cpu_offload=offloads, checkpoint_format=kind, **GPU
        )
        for offloads in (False, True)
    ]
    for name, value in weights[1].items():
        torch.testing.assert_close(value, weights[0][name], msg=name)


def test_an_adversarial_autoencoder(tmp_path: Path) -> None:
    run = tiny_run(tmp_path, autoencoder_config(), max_steps=6, **GPU)
    assert run.start() == 0
    assert (run.options.folder / "last.safetensors").is_file()


def test_memory_is_given_back_between_steps(tmp_path: Path) -> None:
    run = tiny_run(tmp_path, max_steps=30, **GPU)
    used: list[int] = []
    end = run.module.end_batch

    def measured(*, stepped: bool) -> None:
        end(stepped=stepped)
        used.append(torch.cuda.memory_allocated())

    run.module.end_batch = measured
    run.start()
    assert max(used[10:]) - min(used[10:]) < 2**20


def test_the_next_batch_is_encoded_beside_a_step_to_the_same_bits(tmp_path: Path) -> None:
    """Two streams share the device: what one writes, the other must not read too early."""
    weights = []
    for ahead in (False, True):
        config = latent_config() | {"training": {"learning_rate": 1e-3, "encode_ahead": ahead}}
        options = {"allow_untrained_pretransform": True, "max_steps": 20, "batch_size": 4, **GPU}
        run = tiny_run(tmp_path, config, name=str(ahead), **options)
        assert run.start() == 0
        weights.append(_weights(run))
    assert all(torch.equal(value, weights[1][key]) for key, value in weights[0].items())
