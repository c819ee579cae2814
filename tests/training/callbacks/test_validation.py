"""Validation is a mean over items: each counts once, with its own noise, whatever the batches and ranks."""

from __future__ import annotations

import csv
import json
import logging
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from stable_audio.config import load_config
from stable_audio.data.base import Batch, DataError, Rejected
from stable_audio.data.seeding import derive_seed
from stable_audio.factory import create_model_from_config
from stable_audio.training.build import build_training
from stable_audio.training.callbacks.item_means import ItemValues, means
from stable_audio.training.callbacks.validation import Validate
from tests.training.autoencoder.test_autoencoder import tiny_config as tiny_autoencoder
from tests.training.autoencoder.test_diffusion_autoencoder import tiny_config as tiny_diffusion_autoencoder
from tests.training.building import DATASET, tiny_config, tiny_run, write_files

ROOT = Path(__file__).parents[3]
STILL = 1e-30
"""A learning rate that moves no float32 weight."""

VALIDATION = {**DATASET, "split": "val", "num_clips": 7}


def _module(config: dict[str, Any], batch_size: int = 4) -> Any:
    torch.manual_seed(0)
    loaded = load_config(config)
    return build_training(loaded, create_model_from_config(loaded), batch_size=batch_size).eval()


def _audio(config: dict[str, Any], count: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    channels = config.get("audio_channels", 2)
    scale = torch.linspace(0.1, 1, count)[:, None, None]
    return torch.randn(count, channels, config["sample_size"], generator=generator) * scale


def test_means_are_over_items() -> None:
    measured = ItemValues()
    measured.add(
        [4, 0, 7], {"a": torch.tensor([1.0, 2.0, 3.0]), "b": torch.tensor([1.0, math.nan, math.nan])}
    )
    measured.add([1], {"a": torch.tensor([10.0]), "b": torch.tensor([math.nan])})
    measured.add([4], {"a": torch.tensor([1.0]), "b": torch.tensor([1.0])})  # seen before: fills up a batch
    assert means(measured.rows().values()) == {"a": 4.0, "b": 1.0}
    assert means([]) == {}


@pytest.mark.parametrize(
    "config",
    [
        tiny_config(),
        tiny_config(mask_padding=True),
        tiny_config(loss_configs={"texture": {"type": "spectral", "weight": 0.5}}),
        tiny_autoencoder(),
        tiny_diffusion_autoencoder(),
        tiny_diffusion_autoencoder(use_reconstruction_loss=True),
    ],
    ids=["diffusion", "masked", "spectral", "autoencoder", "diffusion autoencoder", "reconstruction"],
)
def test_values_of_an_item_do_not_depend_on_its_batch(config: dict[str, Any]) -> None:
    module, audio, items = _module(config), _audio(config, 4), [5, 2, 9, 3]
    n = audio.shape[-1]
    metadata = [
        {"seconds_start": 0, "seconds_total": i + 1, "padding_mask": torch.arange(n) < n - 200 * i}
        for i in range(4)
    ]
    whole = module.validation_values(Batch(audio, metadata), items)
    order = [2, 0, 3, 1]
    shuffled = Batch(audio[order], [metadata[i] for i in order])
    again = module.validation_values(shuffled, [items[i] for i in order])
    for i in range(4):
        alone = module.validation_values(Batch(audio[i : i + 1], [metadata[i]]), [items[i]])
        for name, values in whole.items():
            assert values.shape == (4,)
            # A batch of another size is computed in another order, in float32.
            torch.testing.assert_close(alone[name][0], values[i], rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(again[name][order.index(i)], values[i], rtol=1e-4, atol=1e-5)
    assert all(len(set(v.tolist())) == 4 for v in whole.values())


def test_values_are_those_of_the_formula() -> None:
    module, audio = _module(tiny_config()), _audio(tiny_config(), 2)
    metadata = [{"seconds_start": 0, "seconds_total": 1}] * 2
    found = module.validation_values(Batch(audio, metadata), [11, 6])
    for place, item in enumerate((11, 6)):
        x0 = module.model.pretransform.encode(audio[place : place + 1])
        generator = torch.Generator().manual_seed(derive_seed("noise", module.seed, -1, item))
        noise = torch.empty_like(x0)
        noise[0].normal_(generator=generator)
        losses = []
        for t in (0.1, 0.3, 0.5, 0.7, 0.9):
            conditioning = module.model.wiring(module.model.conditioner(metadata[:1], x0.device))
            output = module.model((1 - t) * x0 + t * noise, torch.tensor([t]), conditioning)
            losses.append((output - (noise - x0)).square().mean())
            torch.testing.assert_close(found[f"val/loss_{t}"][place], losses[-1], rtol=1e-4, atol=1e-6)
        average = torch.stack(losses).mean()
        torch.testing.assert_close(found["val/avg_loss"][place], average, rtol=1e-4, atol=1e-6)


def test_a_lost_model_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    module, audio = _module(tiny_config()), _audio(tiny_config(), 1)
    monkeypatch.setattr(module.losses, "alone", lambda inputs: torch.full((1,), math.nan))
    values = module.validation_values(Batch(audio, [{"seconds_start": 0, "seconds_total": 1}]), [0])
    assert values["val/avg_loss"].tolist() == [math.inf]


def _validated(folder: Path) -> dict[str, float]:
    with open(folder / "metrics.csv", newline="") as file:
        rows = [r for r in csv.DictReader(file) if r["val/avg_loss"]]
    return {k: float(v) for k, v in rows[-1].items() if k.startswith("val/")}


def test_a_run_validates_all_items_in_any_batches(tmp_path: Path) -> None:
    config = tiny_config(learning_rate=STILL)
    found = []
    for size in (2, 3, 7):
        options = {"val_dataset": VALIDATION, "val_every": 1, "max_steps": 1, "batch_size": size}
        run = tiny_run(tmp_path, config, name=f"of{size}", **options)
        items: list[int] = []
        values = run.module.validation_values
        run.module.validation_values = lambda b, i, v=values, s=items: (s.extend(i), v(b, i))[1]  # type: ignore[method-assign, assignment]
        run.start()
        assert sorted(items) == list(range(7))
        found.append(_validated(tmp_path / f"of{size}"))
    for other in found[1:]:
        assert other == pytest.approx(found[0], rel=1e-4)


def test_a_set_without_a_usable_item_ends_no_run(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run = tiny_run(tmp_path, val_dataset=VALIDATION, val_every=2, max_steps=4)
    validate = next(c for c in run.trainer.callbacks if isinstance(c, Validate))  # type: ignore[attr-defined]
    make = validate._make_loader

    def rejecting(rank: int, world_size: int) -> Any:
        loader = make(rank, world_size)
        loader.dataset.__class__ = type("Rejecting", (type(loader.dataset),), {"__getitem__": _reject})
        return loader

    validate._make_loader = rejecting
    with caplog.at_level(logging.ERROR):
        assert run.start() == 0
    assert "validation at step 2" in caplog.text
    assert "validation at step 4 found no usable item; training continues" in caplog.text
    assert not (tmp_path / "run" / "best.safetensors").exists()


def test_a_mistake_of_the_network_is_not_one_of_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    run = tiny_run(tmp_path, val_dataset=VALIDATION, val_every=2, max_steps=4)

    def measure(*_: Any) -> Any:
        raise DataError("the network takes no such clip")

    monkeypatch.setattr(run.module, "validation_values", measure)
    with pytest.raises(DataError, match="takes no such clip"):
        run.start()
    assert "validation at step 2" not in caplog.text


def _reject(self: Any, key: Any) -> Rejected:
    return Rejected(f"clip {key.index}", "it is silent")


@pytest.mark.slow
def test_two_processes_validate_as_one(tmp_path: Path) -> None:
    # 7 items over two processes with batches of 2: the last batch has one of them twice.
    (tmp_path / "val.json").write_text(json.dumps(VALIDATION))
    files = write_files(tmp_path, tiny_config(learning_rate=STILL))
    fixed = ["--save-dir", str(tmp_path), "--max-steps", "1", "--num-workers", "0", "--accelerator", "cpu"]
    fixed += ["--precision", "32-true"]  # one process alone would measure which is faster
    flags = [*fixed, "--val-dataset-config", str(tmp_path / "val.json"), "--val-every", "1"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    found = []
    for name, own in (
        ("one", ["--batch-size", "4", "--devices", "1"]),
        ("two", ["--batch-size", "2", "--devices", "2"]),
    ):
        command = [sys.executable, str(ROOT / "train.py"), *files, "--name", name, *flags, *own]
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=300, check=False
        )
        assert done.returncode == 0, done.stderr[-3000:]
        found.append(_validated(tmp_path / name))
    assert found[1] == pytest.approx(found[0], rel=1e-4)
