"""What a run leaves in its folder, and that nothing but checkpoints may end it."""

from __future__ import annotations

import csv
import errno
import json
import logging
import shutil
from pathlib import Path
from typing import Any

import pytest

from stable_audio.cli import main
from stable_audio.inference.memory.reserve import readable_size
from stable_audio.training.callbacks import summary
from stable_audio.training.errors import TrainingError
from stable_audio.training.record.lines import planned
from stable_audio.training.record.loggers.base import RunLogger
from stable_audio.training.record.loggers.csv_logger import CSVLogger
from stable_audio.training.record.loggers.guarded import GuardedLogger
from stable_audio.training.record.start_files import logged_to
from stable_audio.training.saving.folder import claim
from stable_audio.training.saving.write_failure import write_failure
from tests.data.folders import make_folder
from tests.training.building import DATASET, tiny_config, tiny_run, write_files


def _rows(folder: Path) -> list[dict[str, str]]:
    with open(folder / "metrics.csv", newline="") as file:
        return list(csv.DictReader(file))


def test_the_folder_tells_where_the_run_came_from(tmp_path: Path) -> None:
    tiny_run(tmp_path, max_steps=1).start()
    tiny_run(tmp_path, max_steps=2, recover=True).start()
    folder = tmp_path / "run"
    assert json.loads((folder / "model.json").read_text()) == tiny_config()
    assert json.loads((folder / "dataset.json").read_text()) == DATASET
    assert not (folder / "val_dataset.json").exists()
    first, second = json.loads((folder / "run.json").read_text())["starts"]
    assert {"started", "command", "host", "versions", "python", "processes"} <= first.keys()
    assert first["versions"]["torch"]
    assert (first["options"]["max_steps"], second["options"]["max_steps"]) == (1, 2)
    assert first["resumed_from"] is None
    assert second["resumed_from"].endswith("last.ckpt")


def test_the_summary_tells_of_files_that_nothing_reads(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    make_folder(tmp_path / "sounds", {"a.wav": 5000})
    for name in ("b.wma", "c.WMA", "d"):
        (tmp_path / "sounds" / name).touch()
    entry = {"id": "x", "path": str(tmp_path / "sounds")}
    run = tiny_run(tmp_path, max_steps=1, dataset={"dataset_type": "audio_dir", "datasets": [entry]})
    with caplog.at_level(logging.INFO):
        run.start()
    assert "files that are not read: .wma (2), no suffix (1)" in caplog.text


def test_the_log_and_the_summaries(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(summary, "planned", planned)
    run = tiny_run(tmp_path, max_steps=2)
    with caplog.at_level(logging.INFO):
        run.start()
    parameters = sum(p.numel() for p in run.module.model.parameters())
    log = (tmp_path / "run" / "log.txt").read_text()
    for text in (log, caplog.text):
        assert f"parameters   {parameters:,}, of which {parameters:,} are trained" in text
        assert "devices      1 x cpu, precision 32-true" in text
        assert "steps        from 0 to 2" in text
        assert "2 per step" in text
        plan = planned(run.config, run.options, precision="32-true", device="cpu", row=run.config.sample_size)
        assert plan is not None
        assert plan.choice.batch_size == 2
        assert f"memory       about {readable_size(plan.total)} per process at 2 clips per batch: " in text
        assert f"activations {readable_size(plan.parts['activations'])}" in text
        assert f"step 2 reached; written to {tmp_path / 'run'}:" in text
        weights = tmp_path / "run" / "last.safetensors"
        assert f"stable-audio generate --ckpt-path {weights}\n" in text  # the model reads no prompt


def test_an_error_is_in_the_log(tmp_path: Path) -> None:
    run = tiny_run(tmp_path, max_steps=2)

    def fail(*_: Any) -> None:
        raise RuntimeError("a defect")

    run.module.training_step = fail  # type: ignore[method-assign]
    with pytest.raises(RuntimeError, match="a defect"):
        run.start()
    assert "RuntimeError: a defect" in (tmp_path / "run" / "log.txt").read_text()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no file that is always full")
def test_a_log_without_room_does_not_change_how_a_run_ends(tmp_path: Path) -> None:
    (tmp_path / "log.txt").symlink_to("/dev/full")
    with logged_to(tmp_path, 0):
        logging.getLogger("stable_audio").error("a line")
    with pytest.raises(TrainingError, match="the last checkpoint"), logged_to(tmp_path, 0):
        raise TrainingError("the last checkpoint was not written")


class _Failing(RunLogger):
    def __init__(self, folder: Path) -> None:
        super().__init__(folder=folder, name="run")
        self.full = False
        self.rows: list[int] = []

    def scalars(self, values: Any, step: int) -> None:
        if self.full:
            raise OSError(errno.ENOSPC, "No space left on device")
        self.rows.append(step)

    def image(self, name: str, path: Path, step: int) -> None:
        raise ValueError("no picture")

    def close(self) -> None:
        raise ConnectionError("gone")


def test_rows_that_could_not_be_written_are_tried_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    member = _Failing(tmp_path)
    logger = GuardedLogger(member)
    for step in range(1, 7):
        member.full = step in (2, 3, 4)
        logger.scalars({"a": 1.0}, step)
    assert member.rows == [1, 2, 3, 4, 5, 6]
    assert caplog.text.count("cannot be written") == 1
    assert "No space left on the disk of" in caplog.text
    assert caplog.text.count("can be written again") == 1
    logger.image("x", tmp_path / "x.png", 7)
    logger.close()
    assert "no picture" in caplog.text
    assert "gone" in caplog.text


def test_a_run_outlives_a_metrics_file_that_cannot_be_written(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = CSVLogger.scalars

    def scalars(self: CSVLogger, values: Any, step: int) -> None:
        if any(r.name == "is broken" for r in tmp_path.iterdir()):
            raise OSError(errno.EROFS, "Read-only file system")
        real(self, values, step)

    monkeypatch.setattr(CSVLogger, "scalars", scalars)
    run = tiny_run(tmp_path, max_steps=4)
    end_batch = run.module.end_batch

    def toggled(*, stepped: bool) -> None:
        end_batch(stepped=stepped)
        if run.module.position == 2:
            (tmp_path / "is broken").touch()
        if run.module.position == 4:
            (tmp_path / "is broken").unlink()

    run.module.end_batch = toggled  # type: ignore[method-assign]
    assert run.start() == 0
    assert "Read-only file system" in caplog.text
    assert [r["step"] for r in _rows(tmp_path / "run")] == ["1", "2", "3", "4"]


def test_a_damaged_metrics_file_is_repaired(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    tiny_run(tmp_path, max_steps=3).start()
    path = tmp_path / "run" / "metrics.csv"
    lines = path.read_bytes().splitlines(keepends=True)
    foreign = [
        b"<<<<<<< HEAD\n",
        b"2,0.5\n",
        lines[2].replace(b"\n", b",1,2\n"),
        b"\xff\xfe,1\n",
        b"4,\0\0\0\0",
    ]
    path.write_bytes(
        b"".join([*lines[:2], foreign[0], foreign[1], lines[2], foreign[2], lines[3], *foreign[3:]])
    )
    assert tiny_run(tmp_path, max_steps=5, recover=True).start() == 0
    assert [r["step"] for r in _rows(tmp_path / "run")] == ["1", "2", "3", "4", "5"]
    assert "5 lines were damaged" in caplog.text


def test_a_metrics_file_of_something_else_is_put_aside(tmp_path: Path) -> None:
    tiny_run(tmp_path, max_steps=1).start()
    path = tmp_path / "run" / "metrics.csv"
    path.write_bytes(b"\0" * 100)
    assert tiny_run(tmp_path, max_steps=2, recover=True).start() == 0
    assert [r["step"] for r in _rows(tmp_path / "run")] == ["2"]
    assert (tmp_path / "run" / "metrics.damaged.csv").read_bytes() == b"\0" * 100
    path.unlink()
    path.mkdir()
    assert tiny_run(tmp_path, max_steps=3, recover=True).start() == 0
    assert [r["step"] for r in _rows(tmp_path / "run")] == ["3"]
    assert (tmp_path / "run" / "metrics.damaged2.csv").is_dir()


def test_a_full_disk_is_called_that(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Usage:
        free = 1_000_000

    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage)
    torchs = RuntimeError("PytorchStreamWriter failed writing file data/0: file write failed")
    assert write_failure(torchs, tmp_path / "new", size=2_000_000) == (
        f"No space left on the disk of {tmp_path}: 0.001 GB are free, 0.002 GB are needed"
    )
    assert write_failure(torchs, tmp_path, size=1000) == (
        f"{torchs}: the disk of {tmp_path} has 0.001 GB free, so a quota or a limit of file sizes "
        "(ulimit -f) may be the reason"
    )
    assert write_failure(RuntimeError("no write"), tmp_path, size=1000) == "no write"
    denied = PermissionError(errno.EACCES, "Permission denied")
    assert "Permission denied" in write_failure(denied, tmp_path, size=2_000_000)


def test_a_checkpoint_for_which_there_is_no_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    class Usage:
        free = 1000

    def full(*_: Any, **__: Any) -> None:
        raise RuntimeError("PytorchStreamWriter failed writing file data/0: file write failed")

    run = tiny_run(tmp_path, max_steps=1)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage)
    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(TrainingError, match=r"step=00000001\.ckpt.*No space left on the disk of"):
        run.start()


def test_what_is_said_before_the_start_is_in_the_log(tmp_path: Path) -> None:
    files = write_files(tmp_path, tiny_config())
    (tmp_path / "model.json").write_text(json.dumps({**tiny_config(), "unheard": 1}))
    flags = ["--save-dir", str(tmp_path), "--max-steps", "1", "--num-workers", "0", "--no-progress"]
    assert main(["train", *files, *flags, "--accelerator", "cpu", "--lenient"]) == 0
    first, *rest = (tmp_path / "run" / "log.txt").read_text().splitlines()
    assert "unheard" in first
    assert not any("unheard" in line for line in rest)


def test_the_profile_of_an_earlier_run_is_overwritten_too(tmp_path: Path) -> None:
    for name in ("profile/trace.json", "profile/summary.txt", "notes/mine.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("earlier")
    claim(tmp_path, overwrite=True, continues=False)()
    assert [path.name for path in tmp_path.iterdir()] == ["notes"]
