"""The size of checkpoints is known before one is written, and a disk without room for them is named."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from stable_audio.training.callbacks import summary
from stable_audio.training.record.lines import planned
from stable_audio.training.saving import checkpoint_size
from stable_audio.training.saving.checkpoint_size import Expected, lack_of_room
from tests.training.building import tiny_config, tiny_run


def _disk(monkeypatch: pytest.MonkeyPatch, free: int) -> None:
    usage = shutil._ntuple_diskusage(10**12, 10**12 - free, free)
    monkeypatch.setattr(checkpoint_size.shutil, "disk_usage", lambda path: usage)


@pytest.mark.parametrize("optimizer", ["AdamW", "SGD"])
@pytest.mark.parametrize("form", ["file", "shards"])
@pytest.mark.parametrize("ema", [True, False])
def test_the_size_is_near_what_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str, ema: bool, optimizer: str
) -> None:
    """Before the first step, and of a run that goes on."""
    sizes: list[int] = []
    monkeypatch.setattr(summary, "planned", planned)
    monkeypatch.setattr(summary, "lack_of_room", lambda folder, size, expected: sizes.append(size))
    config = tiny_config(use_ema=ema)
    config["model"]["diffusion"]["config"] |= {"embed_dim": 128, "depth": 4}
    del config["training"]["learning_rate"]
    config["training"]["optimizer_configs"] = {
        "diffusion": {"optimizer": {"type": optimizer, "config": {"lr": 1e-3}}}
    }
    options: dict[str, Any] = {"checkpoint_every": 1, "checkpoint_format": form, "keep": 1}
    tiny_run(tmp_path, config, max_steps=1, **options).start()
    tiny_run(tmp_path, config, max_steps=2, recover=True, **options).start()
    checkpoints = tmp_path / "run" / "checkpoints"
    written = sum(path.stat().st_size for path in checkpoints.rglob("*") if path.is_file())
    assert len(sizes) == 2
    assert all(0.9 < size / written < 1.01 for size in sizes), (sizes, written)


@pytest.mark.parametrize(
    ("expected", "present", "more"),
    [
        (Expected(step=0, every=10, keep=1, last=100), 0, 2),
        (Expected(step=50, every=10, keep=1, last=100), 1, 1),
        (Expected(step=50, every=10, keep=3, last=100), 1, 3),
        (Expected(step=90, every=10, keep=3, last=100), 1, 1),
        (Expected(step=0, every=10, keep=-1, last=100), 0, 10),
        (Expected(step=50, every=10, keep=-1, last=105), 5, 6),
        (Expected(step=0, every=10, keep=-1, last=-1), 0, 2),
        (Expected(step=0, every=10, keep=4, last=-1), 0, 5),
        (Expected(step=0, every=0, keep=4, last=100), 0, 1),
        (Expected(step=60, every=10, keep=1, last=60), 5, 1),
    ],
)
def test_one_is_written_beside_those_that_stay(expected: Expected, present: int, more: int) -> None:
    assert expected.more(present) == more


def test_a_disk_with_too_little_room_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = Expected(step=0, every=10, keep=2, last=100)
    _disk(monkeypatch, 3_000_000)
    assert lack_of_room(tmp_path / "run", 1_000_000, expected) is None
    _disk(monkeypatch, 2_999_999)
    assert lack_of_room(tmp_path / "run", 1_000_000, expected) == (
        f"{tmp_path / 'run'}: the disk has 3 MB free, which holds 2 checkpoints of about 1 MB, but room "
        "for 3 more is needed (--keep 2, and the next is written beside them); make room, lower --keep, or "
        "choose another --save-dir"
    )


def test_a_run_says_so_at_its_start_and_trains(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(summary, "planned", planned)
    _disk(monkeypatch, 1_500_000)
    assert tiny_run(tmp_path, max_steps=3, checkpoint_every=1, keep=1).start() == 0
    said = [record.getMessage() for record in caplog.records]
    (told,) = (line for line in said if "which holds 1 checkpoint of about" in line)
    assert "but room for 2 more is needed (--keep 1" in told
    incidents = json.loads((tmp_path / "run" / "run.json").read_text())["incidents"]
    assert [each["kind"] for each in incidents] == ["little room"]
