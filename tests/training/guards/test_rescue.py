"""A run that dies leaves a checkpoint of its weights, and the first checkpoint comes early."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch

from stable_audio.checkpoints import read_checkpoint
from stable_audio.checkpoints.torch_file import load_torch_file
from stable_audio.training.callbacks import checkpoints as module_of_checkpoints
from stable_audio.training.errors import TrainingError
from stable_audio.training.trainer import Run
from tests.training.building import tiny_config, tiny_run
from tests.training.same_runs import checkpoint_differences
from tests.training.saving.test_resume import assert_same_checkpoint


def _die_at(run: Run, batch: int, error: Exception) -> None:
    step = run.module.training_step

    def training_step(*given: Any) -> Any:
        if run.module.position == batch:
            raise error
        return step(*given)

    run.module.training_step = training_step  # type: ignore[method-assign]


def test_a_run_that_dies_continues_as_if_it_had_not(tmp_path: Path) -> None:
    run = tiny_run(tmp_path, max_steps=6)
    _die_at(run, 3, RuntimeError("out of memory"))
    with pytest.raises(RuntimeError, match="out of memory"):
        run.start()
    assert load_torch_file(tmp_path / "run" / "last.ckpt")["stable_audio"]["step"] == 3
    assert read_checkpoint(tmp_path / "run" / "last.safetensors").info["step"] == "3"
    assert tiny_run(tmp_path, max_steps=6, recover=True).start() == 0
    tiny_run(tmp_path, name="whole", max_steps=6).start()
    assert_same_checkpoint(tmp_path / "whole" / "last.ckpt", tmp_path / "run" / "last.ckpt")


@pytest.mark.parametrize(("accumulated", "batch"), [(1, 3), (2, 6), (2, 7)])
def test_a_run_that_dies_in_the_middle_of_a_step_takes_it_anew(
    tmp_path: Path, accumulated: int, batch: int
) -> None:
    """Once t is drawn and the loss is recorded, in the first and in the second batch of a step."""
    config = tiny_config(log_loss_info=True, timestep_sampler="logit_normal")
    options: dict[str, Any] = {"max_steps": 6, "accum_batches": accumulated, "log_every": 2}
    run = tiny_run(tmp_path, config, **options)
    step = run.module.training_step

    def training_step(*args: Any) -> Any:
        loss = step(*args)
        if run.module.position == batch:
            raise RuntimeError("out of memory")
        return loss

    run.module.training_step = training_step  # type: ignore[method-assign]
    with pytest.raises(RuntimeError, match="out of memory"):
        run.start()
    assert load_torch_file(tmp_path / "run" / "last.ckpt")["stable_audio"]["step"] == 3
    assert tiny_run(tmp_path, config, recover=True, **options).start() == 0
    tiny_run(tmp_path, config, name="whole", **options).start()
    assert_same_checkpoint(tmp_path / "whole" / "last.ckpt", tmp_path / "run" / "last.ckpt")
    curves = [(tmp_path / name / "metrics.csv").read_text().splitlines() for name in ("whole", "run")]
    header = curves[0][0].split(",")
    shown = [i for i, name in enumerate(header) if "speed" not in name]
    assert curves[1][0].split(",") == header
    rows = [[[row.split(",")[i] for i in shown] for row in curve] for curve in curves]
    assert rows[0] == rows[1]


def test_steps_are_whole_after_a_step_that_was_not(tmp_path: Path) -> None:
    """Also those after a later checkpoint, which is written before the end of its batch."""
    options: dict[str, Any] = {"accum_batches": 2, "checkpoint_every": 4}
    run = tiny_run(tmp_path, max_steps=6, **options)
    _die_at(run, 6, RuntimeError("out of memory"))
    with pytest.raises(RuntimeError, match="out of memory"):
        run.start()
    assert tiny_run(tmp_path, max_steps=4, recover=True, **options).start() == 0
    run = tiny_run(tmp_path, max_steps=6, recover=True, **options)
    batches: list[int] = []
    step = run.module.training_step

    def counted(*args: Any) -> Any:
        batches.append(run.trainer.global_step)
        return step(*args)

    run.module.training_step = counted  # type: ignore[method-assign]
    assert run.start() == 0
    assert batches == [4, 4, 5, 5]
    tiny_run(tmp_path, name="whole", max_steps=6, **options).start()
    assert checkpoint_differences(tmp_path / "whole" / "last.ckpt", tmp_path / "run" / "last.ckpt") == []


def test_spoilt_weights_and_first_steps_are_not_saved(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = tiny_run(tmp_path, max_steps=6)
    _die_at(run, 0, ValueError("no"))
    with pytest.raises(ValueError, match="no"):
        run.start()
    assert not (tmp_path / "run" / "last.ckpt").exists()
    run = tiny_run(tmp_path, max_steps=6)
    step = run.module.training_step

    def spoil(*given: Any) -> Any:
        if run.module.position == 2:
            with torch.no_grad():
                next(run.module.model.parameters()).fill_(float("nan"))
            raise TrainingError("bad")
        return step(*given)

    run.module.training_step = spoil  # type: ignore[method-assign]
    with pytest.raises(TrainingError, match="bad"):
        run.start()
    assert "the weights hold values that are not finite" in caplog.text
    assert not (tmp_path / "run" / "last.ckpt").exists()


def test_the_first_checkpoint_comes_early(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module_of_checkpoints, "FIRST_STEPS", 2)
    run = tiny_run(tmp_path, max_steps=6)
    _die_at(run, 3, KeyboardInterrupt())  # type: ignore[arg-type]  # leaves nothing of its own
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        run.start()
    assert load_torch_file(tmp_path / "run" / "last.ckpt")["stable_audio"]["step"] == 2
    assert read_checkpoint(tmp_path / "run" / "last.safetensors").info["step"] == "2"
    assert not list((tmp_path / "run" / "checkpoints").glob("*"))


def test_last_is_renewed_by_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    checkpoints = tiny_run(tmp_path, checkpoint_minutes=30).checkpoints
    monkeypatch.setattr(module_of_checkpoints.time, "monotonic", lambda: now[0])
    checkpoints._first = 100
    due = []
    for minute in range(0, 71):
        now[0] = 60.0 * minute
        if checkpoints.is_outdated(minute):
            due.append(minute)
            checkpoints._saved_at, checkpoints._clock = minute, now[0]
    assert due == [5, 35, 65]


@pytest.mark.parametrize("options", [{"checkpoint_every": 0}, {"checkpoint_minutes": 0}])
def test_no_time_no_early_checkpoint(tmp_path: Path, options: dict[str, Any]) -> None:
    checkpoints = tiny_run(tmp_path, **options).checkpoints
    checkpoints._first, checkpoints._clock = 1, -1e9
    assert not checkpoints.is_outdated(500)


def _second_of_two(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pl.Trainer, "is_global_zero", property(lambda _: False))
    monkeypatch.setattr(pl.Trainer, "world_size", property(lambda _: 2))


@pytest.mark.parametrize("first", [True, False])
def test_the_process_that_sees_the_error_rescues_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, first: bool
) -> None:
    run = tiny_run(tmp_path, max_steps=6)
    step = run.module.training_step

    def training_step(*given: Any) -> Any:
        if run.module.position == 3:
            if not first:  # another process has died before, and saved this step
                (tmp_path / "run" / ".rescue-3").touch()
            _second_of_two(monkeypatch)
            raise RuntimeError("only here")
        return step(*given)

    run.module.training_step = training_step  # type: ignore[method-assign]
    with pytest.raises(RuntimeError, match="only here"):
        run.start()
    monkeypatch.undo()
    folder = tmp_path / "run"
    assert (folder / "last.ckpt").exists() == first
    if first:
        assert read_checkpoint(folder / "last.safetensors").info["step"] == "3"
        assert tiny_run(tmp_path, max_steps=6, recover=True).start() == 0
        tiny_run(tmp_path, name="whole", max_steps=6).start()
        assert_same_checkpoint(tmp_path / "whole" / "last.ckpt", folder / "last.ckpt")
    else:
        tiny_run(tmp_path, max_steps=6, overwrite=True).start()
    assert not list(folder.glob(".rescue*"))
