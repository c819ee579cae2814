"""One interface for every place that logs go to."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import torch

from stable_audio.training.loggers import CSVLogger, RunLogger, create_logger


def _rows(path: Path) -> list[dict[str, str]]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def _picture(folder: Path) -> Path:
    image = pytest.importorskip("PIL.Image")
    path = folder / "p.png"
    image.new("RGB", (4, 3), (255, 0, 0)).save(path)
    return path


def _use(logger: RunLogger, folder: Path) -> None:
    logger.scalars({"train/loss": 1.0}, 1)
    logger.scalars({"train/loss": 0.5, "val/avg_loss": 2.0}, 2)
    logger.audio("demo", torch.zeros(2, 800), 8000, 2, caption="silence")
    logger.image("picture", _picture(folder), 2)
    logger.close()


def test_csv_grows_columns(tmp_path: Path) -> None:
    _use(create_logger("csv", folder=tmp_path, name="run"), tmp_path)
    assert _rows(tmp_path / "metrics.csv") == [
        {"step": "1", "train/loss": "1", "val/avg_loss": ""},
        {"step": "2", "train/loss": "0.5", "val/avg_loss": "2"},
    ]


def test_csv_of_a_resumed_run_forgets_what_came_after_the_checkpoint(tmp_path: Path) -> None:
    first = CSVLogger(folder=tmp_path, name="run")
    for step in range(1, 6):
        first.scalars({"train/loss": step}, step)
    second = CSVLogger(folder=tmp_path, name="run", resumed_at=3)
    second.scalars({"train/loss": 40.0}, 4)
    assert [r["train/loss"] for r in _rows(tmp_path / "metrics.csv")] == ["1", "2", "3", "40"]
    CSVLogger(folder=tmp_path, name="run")
    assert _rows(tmp_path / "metrics.csv") == []


def test_tensorboard(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    _use(create_logger("tensorboard", folder=tmp_path, name="run"), tmp_path)
    found = EventAccumulator(str(tmp_path / "tensorboard"))
    found.Reload()
    assert [(e.step, e.value) for e in found.Scalars("train/loss")] == [(1, 1.0), (2, 0.5)]
    assert found.Audio("demo")[0].sample_rate == 8000
    assert (found.Images("picture")[0].width, found.Images("picture")[0].height) == (4, 3)


def test_wandb_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    _use(create_logger("wandb", folder=tmp_path, name="run", config={"a": 1}), tmp_path)
    assert list((tmp_path / "wandb").glob("offline-run-*"))


def test_several_at_once_and_none(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    _use(create_logger("csv,tensorboard", folder=tmp_path, name="run"), tmp_path)
    assert (tmp_path / "metrics.csv").exists()
    assert (tmp_path / "tensorboard").exists()
    empty = tmp_path / "empty"
    _use(create_logger("none", folder=empty, name="run"), tmp_path)
    assert list(empty.iterdir()) == []


def test_unknown_logger(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="allowed: none, csv, tensorboard, wandb"):
        create_logger("csv,comet", folder=tmp_path, name="run")
