"""Signals at the worst moments: the run goes on to the bits, and the curves, of one that got none."""

from __future__ import annotations

import csv
import json
import logging
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from stable_audio.checkpoints import summed_files
from stable_audio.checkpoints.shards import read_shards
from stable_audio.training.callbacks import scalars
from stable_audio.training.callbacks.log_line import SharedValues
from stable_audio.training.saving import checkpoint_io
from stable_audio.training.trainer import Run
from tests.quick import quicken
from tests.training.building import DATASET, demo_section, tiny_config, tiny_run
from tests.training.same_runs import row_differences
from tests.training.saving.test_resume import _tensors, assert_same_checkpoint
from tests.training.worlds import ended_world, fork_server, run_world

VALIDATED = {"val_dataset": {**DATASET, "split": "val", "num_clips": 4}, "val_every": 2}


def _run(folder: Path, name: str, **options: Any) -> Run:
    config = tiny_config(cfg_dropout_prob=0.5, demo=demo_section())
    return tiny_run(
        folder, config, name=name, **{"max_steps": 6, "checkpoint_every": 2, **VALIDATED, **options}
    )


def _sounds(folder: Path) -> dict[str, bytes]:
    paths = (folder / "demos").rglob("*.wav")
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def _before(owner: Any, name: str, act: Callable[[], None]) -> None:
    """Call `act` before every call of a function."""
    function = getattr(owner, name)

    def call(*args: Any, **options: Any) -> Any:
        act()
        return function(*args, **options)

    setattr(owner, name, call)


def _at(run: Run, where: str, act: Callable[[], None]) -> None:
    """Call `act` at the first such moment from step 4 on, or at the start of the run."""
    begun = where in ("reading", "the first step")
    done: list[bool] = []

    def once() -> None:
        if not done and (begun or run.trainer.global_step >= 4):
            done.append(True)
            act()

    place: tuple[Any, str] = {
        "reading": (run.data, "_make_loader"),
        "the first step": (run.module, "training_step"),
        "a step": (run.module, "training_step"),
        "the scalars of a step": (SharedValues, "take"),
        "the row of a step": (scalars, "of_each_process"),
        "validation": (run.module, "validation_values"),
        "a demo": (run.demos, "_save"),
        "a checkpoint": (run.checkpoints, "save"),
        "writing": (checkpoint_io, "verify_torch_file"),
        "writing parts": (summed_files, "checksum_text"),
    }[where]
    _before(*place, once)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("kills")
    assert _run(folder, "whole").start() == 0
    return folder / "whole"


@pytest.mark.slow
@pytest.mark.parametrize(
    "where", ["reading", "the first step", "a step", "validation", "a demo", "a checkpoint"]
)
def test_sigterm_twice_at_any_moment(tmp_path: Path, whole: Path, where: str) -> None:
    run = _run(tmp_path, "stopped")
    _at(run, where, lambda: [os.kill(os.getpid(), signal.SIGTERM) for _ in range(2)] and None)
    assert run.start() == 143
    assert run.trainer.global_step < 6
    folder = tmp_path / "stopped"
    assert (folder / "last.ckpt").exists()
    assert _run(tmp_path, "stopped", recover=True).start() == 0
    assert_same_checkpoint(whole / "last.ckpt", folder / "last.ckpt")
    assert row_differences(whole / "metrics.csv", folder / "metrics.csv") == []
    kinds = [entry["kind"] for entry in json.loads((folder / "run.json").read_text())["incidents"]]
    assert kinds == ["signal"]
    assert _sounds(whole) == _sounds(folder)


def test_a_demo_that_the_last_step_lacks_follows(tmp_path: Path, whole: Path) -> None:
    """As where a process has died while it was rendered, and another one has saved the step."""
    folder = tmp_path / "run"
    shutil.copytree(whole, folder)
    shutil.rmtree(folder / "demos" / "step_00000006")
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*.ckpt")}
    assert _run(tmp_path, "run", recover=True).start() == 0
    assert _sounds(whole) == _sounds(folder)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*.ckpt")} == before
    # What is complete is left alone.
    page = folder / "demos" / "step_00000006" / "index.html"
    written = page.stat().st_mtime_ns
    assert _run(tmp_path, "run", recover=True).start() == 0
    assert page.stat().st_mtime_ns == written


def test_what_a_stopped_run_leaves_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A signal in the step before a validation and a demo: neither keeps the checkpoint waiting."""
    run = _run(tmp_path, "run", max_steps=50)
    calls: list[int] = []
    _before(run.module, "validation_values", lambda: calls.append(run.trainer.global_step))
    step = run.module.training_step

    def training_step(*args: Any) -> Any:
        if run.module.position == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(*args)

    run.module.training_step = training_step  # type: ignore[method-assign]
    assert run.start() == 143
    assert set(calls) == {2}
    assert "the validation of step 4 follows when the run goes on" in caplog.text
    assert "the demo of step 4 follows when the run goes on" in caplog.text
    assert run.demos is not None
    assert run.demos.failure is None
    again = _run(tmp_path, "run", recover=True)
    _before(again.module, "validation_values", lambda: calls.append(again.trainer.global_step))
    assert again.start() == 0
    assert set(calls) == {2, 4, 6}
    with open(tmp_path / "run" / "metrics.csv", newline="") as file:
        assert all(row["val/avg_loss"] for row in csv.DictReader(file) if int(row["step"]) % 2 == 0)


def _killed(folder: Path, where: str, options: dict[str, Any]) -> None:
    """A run in a process of its own, which is killed."""
    context = fork_server()
    victim = context.Process(target=_die, args=(folder, "killed", where, options))
    victim.start()
    victim.join(120)
    assert victim.exitcode == -signal.SIGKILL


def _die(folder: Path, name: str, where: str, options: dict[str, Any]) -> None:
    quicken()
    run = _run(folder, name, **options)
    _at(run, where, lambda: os.kill(os.getpid(), signal.SIGKILL))
    run.start()


@pytest.mark.parametrize(
    ("where", "kind"),
    [
        ("validation", "file"),
        ("a demo", "file"),
        ("a demo", "shards"),
        ("writing", "file"),
        ("writing parts", "shards"),
    ],
)
def test_sigkill_at_any_moment(tmp_path: Path, whole: Path, where: str, kind: str) -> None:
    _killed(tmp_path, where, {"checkpoint_format": kind, "background_checkpoints": False})
    again = _run(tmp_path, "killed", recover=True)
    assert again.resume is not None
    assert again.start() == 0
    folder = tmp_path / "killed"
    assert_same_checkpoint(whole / "last.ckpt", folder / "last.ckpt")
    assert row_differences(whole / "metrics.csv", folder / "metrics.csv") == []
    kinds = [entry["kind"] for entry in json.loads((folder / "run.json").read_text())["incidents"]]
    assert "killed" in kinds
    assert not list(folder.rglob("*.partial*"))


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "suffix"), [("file", "ckpt"), ("shards", "shards")])
def test_what_the_clock_has_saved_leaves_nothing_after_a_kill(tmp_path: Path, kind: str, suffix: str) -> None:
    """It saves every step here: the last one is numbered all the same, and the others go."""
    options = {
        "checkpoint_format": kind,
        "checkpoint_every": 100,
        "checkpoint_minutes": 1e-6,
        "background_checkpoints": False,
    }
    _killed(tmp_path, "a step", options)
    again = _run(tmp_path, "killed", recover=True, **options)
    assert again.resume is not None
    assert again.start() == 0
    names = [path.name for path in (tmp_path / "killed" / "checkpoints").glob(f"*.{suffix}")]
    assert names == [f"step=00000006.{suffix}"]


def _train(folder: Path, name: str, options: dict[str, Any]) -> None:
    logging.disable(logging.WARNING)
    assert _run(folder, name, devices="auto", **options).start() == 0


def _lose(folder: Path, name: str, options: dict[str, Any], victim: int, where: str) -> None:
    """One of the processes is killed, as by a system without memory."""
    run = _run(folder, name, devices="auto", dead_after=12.0, **options)
    if run.trainer.global_rank == victim:
        _at(run, where, lambda: os.kill(os.getpid(), signal.SIGKILL))
    run.start()


@pytest.mark.slow
@pytest.mark.skipif(not torch.distributed.is_available(), reason="torch has no torch.distributed")
@pytest.mark.parametrize(
    ("victim", "where", "options"),
    [
        (0, "validation", {}),
        (1, "a step", {}),
        (0, "the scalars of a step", {}),
        (0, "the row of a step", {}),
        (0, "the row of a step", {"log_every": 5, "checkpoint_every": 5}),
        (1, "writing parts", {"checkpoint_format": "shards"}),
        (0, "a step", {"checkpoint_format": "shards", "strategy": "fsdp"}),
    ],
    ids=[
        "first validates",
        "second steps",
        "first before a step",
        "first after one",
        "first after five",
        "second writes its part",
        "first of split weights",
    ],
)
def test_one_of_two_processes_is_killed(
    tmp_path: Path, victim: int, where: str, options: dict[str, Any]
) -> None:
    run_world(2, _train, tmp_path, "whole", options)
    lost = (tmp_path, "killed", options, victim, where)
    statuses, failures = ended_world(2, _lose, *lost, left_alone=True)
    assert statuses[victim] == -signal.SIGKILL
    assert statuses[1 - victim] not in (0, -signal.SIGKILL)
    assert not failures or f"process {victim} of 2 on " in failures[0]
    run_world(2, _train, tmp_path, "killed", {**options, "recover": True})
    if "checkpoint_format" in options:
        first, second = (
            _tensors(read_shards(tmp_path / name / "checkpoints" / "step=00000006.shards"))
            for name in ("whole", "killed")
        )
        assert first.keys() == second.keys()
        assert all(torch.equal(value, second[key]) for key, value in first.items())
    else:
        assert_same_checkpoint(tmp_path / "whole" / "last.ckpt", tmp_path / "killed" / "last.ckpt")
    assert row_differences(*(tmp_path / name / "metrics.csv" for name in ("whole", "killed"))) == []
