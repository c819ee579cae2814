"""One interface for every place that logs go to."""

from __future__ import annotations

import csv
import tracemalloc
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch

from stable_audio.training.record.loggers import create_logger
from stable_audio.training.record.loggers.base import RunLogger
from stable_audio.training.record.loggers.csv_logger import CSVLogger


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


def test_csv_has_one_row_per_step(tmp_path: Path) -> None:
    # Validation logs on its own, after the training scalars of the step.
    logger = CSVLogger(folder=tmp_path, name="run")
    for step in range(1, 7):
        logger.scalars({"train/loss": float(step)}, step)
        if step % 2 == 0:
            logger.scalars({"val/avg_loss": 1 / 3, "val/loss_0.1": 10.0 * step}, step)
    rows = _rows(tmp_path / "metrics.csv")
    assert [(r["step"], r["train/loss"]) for r in rows] == [(str(i), str(i)) for i in range(1, 7)]
    assert [r["val/avg_loss"] for r in rows] == ["", "0.33333333"] * 3
    assert [r["val/loss_0.1"] for r in rows] == ["", "20", "", "40", "", "60"]
    # A run that goes on completes the row it stopped at, and adds to it.
    again = CSVLogger(folder=tmp_path, name="run", resumed_at=5)
    again.scalars({"val/avg_loss": 0.5}, 5)
    again.scalars({"train/loss": 6.5, "val/avg_loss": 0.25}, 6)
    assert [(r["train/loss"], r["val/avg_loss"]) for r in _rows(tmp_path / "metrics.csv")[-2:]] == [
        ("5", "0.5"),
        ("6.5", "0.25"),
    ]


def test_csv_keeps_no_history_in_memory(tmp_path: Path) -> None:
    logger = CSVLogger(folder=tmp_path, name="run")
    values = {f"train/value_{i}": i / 7 for i in range(20)}
    for step in range(1, 51):
        logger.scalars(values, step)
    tracemalloc.start()
    try:
        for step in range(51, 551):
            logger.scalars(values, step)
        grown = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    # 500 rows of 21 short strings are more than half a megabyte.
    assert grown < 50_000
    assert len(_rows(tmp_path / "metrics.csv")) == 550


def test_csv_overwrites_what_a_failed_write_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    logger = CSVLogger(folder=tmp_path, name="run")
    for step in (1, 2):
        logger.scalars({"train/loss": float(step)}, step)
    line = CSVLogger._line

    def torn(self: CSVLogger, row: Mapping[str, str]) -> bytes:
        with open(self.path, "ab") as file:
            file.write(line(self, row)[:3])
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(CSVLogger, "_line", torn)
        with pytest.raises(OSError, match="No space"):
            logger.scalars({"train/loss": 3.0}, 3)
    logger.scalars({"train/loss": 4.0}, 4)
    assert [r["step"] for r in _rows(tmp_path / "metrics.csv")] == ["1", "2", "4"]


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


@pytest.mark.parametrize(
    ("names", "words"),
    [("comet", "'comet' is unknown; allowed: none, csv"), ("csv,wandb", "stable-audio[wandb]")],
)
def test_train_tells_of_a_logger_before_it_reads_anything(
    names: str, words: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import importlib.util

    from stable_audio.cli import main

    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda n, *a: None if n == "wandb" else found(n, *a))
    command = ["train", "--model-config", "absent.json", "--dataset-config", "absent.json", "--logger", names]
    assert main(command) == 2
    assert words in capsys.readouterr().err
