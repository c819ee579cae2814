"""What an error in a step leaves out follows when the run is recovered, also where no step is left."""

from __future__ import annotations

import csv
import json
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from stable_audio.checkpoints import read_checkpoint
from stable_audio.training.saving import pruning as checkpoint_pruning
from stable_audio.training.saving.pruning import leave_later
from tests.training.guards.test_rescue import _second_of_two
from tests.training.same_runs import run_differences
from tests.training.saving.test_kills import _before, _lose, _run, _train
from tests.training.worlds import ended_world, run_world

KINDS = pytest.mark.parametrize("kind", ["file", "shards"])


@pytest.fixture(scope="module")
def wholes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Unbroken runs by the format of their checkpoints."""
    folder = tmp_path_factory.mktemp("whole")
    for kind in ("file", "shards"):
        assert _run(folder / kind, "run", **_options(kind)).start() == 0
    return {kind: folder / kind / "run" for kind in ("file", "shards")}


def _options(kind: str, **options: Any) -> dict[str, Any]:
    return {"checkpoint_format": kind, "checkpoint_every": 4, "background_checkpoints": False, **options}


def _fail_at(folder: Path, step: int, **options: Any) -> None:
    """A run that ends with an error in the validation of a step."""
    run = _run(folder, "run", **options)

    def fail() -> None:
        if run.trainer.global_step == step:
            raise RuntimeError("lost")

    _before(run.module, "validation_values", fail)
    with pytest.raises(RuntimeError, match="lost"):
        run.start()


def _stop(folder: Path, options: dict[str, Any]) -> None:
    """A run that a signal ends in its last step."""
    run = _run(folder, "run", **options)
    step = run.module.training_step

    def training_step(*args: Any) -> Any:
        if run.module.position == 5:
            run.stop.signal = signal.SIGTERM
        return step(*args)

    run.module.training_step = training_step  # type: ignore[method-assign]
    assert run.start() == 143


def _times(folder: Path) -> dict[Path, int]:
    """When the files were written that hold what a run has computed."""
    kinds = ("*.ckpt", "*.safetensors", "*.distcp", "*.wav", "demos/**/*.html")
    return {path: path.stat().st_mtime_ns for kind in kinds for path in folder.rglob(kind)}


@KINDS
def test_what_the_last_step_lacks_follows(tmp_path: Path, wholes: dict[str, Path], kind: str) -> None:
    _fail_at(tmp_path, 6, **_options(kind))
    folder = tmp_path / "run"
    assert (folder / "last.ckpt").exists()
    assert _run(tmp_path, "run", recover=True, **_options(kind)).start() == 0
    assert run_differences(wholes[kind], folder) == []
    assert not list(folder.rglob(".*.partial*"))
    # What is complete is left alone.
    before, rows = _times(folder), (folder / "metrics.csv").read_text()
    assert _run(tmp_path, "run", recover=True, **_options(kind)).start() == 0
    assert _times(folder) == before
    assert (folder / "metrics.csv").read_text() == rows


@pytest.mark.slow
@KINDS
@pytest.mark.parametrize("step", [2, 4], ids=["no checkpoint", "a checkpoint"])
def test_a_step_that_is_not_the_last_leaves_the_checkpoints_of_a_whole_run(
    tmp_path: Path, wholes: dict[str, Path], kind: str, step: int
) -> None:
    """Also where the clock has saved the step before."""
    _fail_at(tmp_path, step, **_options(kind, checkpoint_minutes=1e-6))
    assert _run(tmp_path, "run", recover=True, **_options(kind)).start() == 0
    assert run_differences(wholes[kind], tmp_path / "run") == []


@pytest.mark.slow
def test_a_signal_puts_the_validation_of_the_last_step_off(
    tmp_path: Path, wholes: dict[str, Path], caplog: pytest.LogCaptureFixture
) -> None:
    """Whether it comes in that step, or in a start that has no step left."""
    _stop(tmp_path, _options("file"))
    stopped = _run(tmp_path, "run", recover=True, **_options("file"))
    stopped.stop.signal = signal.SIGTERM
    assert stopped.start() == 143
    assert caplog.text.count("the validation of step 6 follows when the run goes on") == 2
    assert _run(tmp_path, "run", recover=True, **_options("file")).start() == 0
    assert run_differences(wholes["file"], tmp_path / "run") == []


@pytest.mark.slow
@pytest.mark.parametrize("at", [4, 6])
def test_what_the_first_process_may_not_have_written_follows(
    tmp_path: Path, wholes: dict[str, Path], monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    """It has died before the row and the best weights of a step were on disk; the second one saves it."""
    run, folder = _run(tmp_path, "run", **_options("file")), tmp_path / "run"
    assert run.demos is not None
    after_step, earlier = run.demos.after_step, tmp_path / "earlier"

    def lost(trainer: Any, module: Any, step: int) -> None:
        if step == at - 2:
            shutil.copy(folder / "best.safetensors", earlier)
        if step == at:
            _second_of_two(monkeypatch)
            raise RuntimeError("lost")
        after_step(trainer, module, step)

    run.demos.after_step = lost  # type: ignore[method-assign]
    with pytest.raises(RuntimeError, match="lost"):
        run.start()
    monkeypatch.undo()
    assert read_checkpoint(folder / "best.safetensors").info["step"] == str(at)
    shutil.copy(earlier, folder / "best.safetensors")
    rows = (folder / "metrics.csv").read_text().splitlines(keepends=True)
    assert rows[-1].startswith(f"{at},")
    (folder / "metrics.csv").write_text("".join(rows[:-1]))
    assert _run(tmp_path, "run", recover=True, **_options("file")).start() == 0
    assert run_differences(wholes["file"], folder) == []


@pytest.mark.slow
@pytest.mark.parametrize("lost", [False, True])
def test_best_weights_that_were_never_written_are_not_compared_with(tmp_path: Path, lost: bool) -> None:
    """Such as those of an earlier step that the first process was still writing when it died."""
    run, best = _run(tmp_path, "run", max_steps=4), tmp_path / "run" / "best.safetensors"
    values, earlier = run.module.validation_values, tmp_path / "of step 2"

    def better(*args: Any) -> Any:
        factor = 1
        if run.trainer.global_step == 4:
            shutil.copy(best, earlier)
            factor = 0
        return {name: factor * value for name, value in values(*args).items()}

    run.module.validation_values = better  # type: ignore[method-assign]
    assert run.start() == 0
    assert read_checkpoint(best).info["step"] == "4"
    if lost:
        shutil.copy(earlier, best)
    assert _run(tmp_path, "run", recover=True).start() == 0
    assert read_checkpoint(best).info["step"] == ("6" if lost else "4")


@pytest.mark.slow
def test_an_inference_file_that_a_kill_has_left_out_follows(tmp_path: Path, wholes: dict[str, Path]) -> None:
    _fail_at(tmp_path, 6, **_options("file"))
    folder = tmp_path / "run"
    lost = folder / "checkpoints" / "step=00000004.safetensors"
    lost.unlink()
    for path in folder.glob("last.*"):
        path.unlink()
    assert _run(tmp_path, "run", recover=True, **_options("file")).start() == 0
    assert run_differences(wholes["file"], folder) == []


def test_a_step_that_the_run_leaves_is_not_the_last(tmp_path: Path) -> None:
    """As where it goes back to a checkpoint after bad steps."""
    _fail_at(tmp_path, 6, **_options("shards"))
    folder = tmp_path / "run"
    leave_later(folder, 4, folder / "checkpoints" / "step=00000004.shards")
    assert not (folder / "last.ckpt").exists()


def test_leftovers_go_with_no_step_left(tmp_path: Path) -> None:
    assert _run(tmp_path, "run", max_steps=2).start() == 0
    leftovers = [tmp_path / "run" / name for name in (".rescue-2", "demos/.index.1.partial.html")]
    for path in leftovers:
        path.touch()
    assert _run(tmp_path, "run", max_steps=2, recover=True).start() == 0
    assert not any(path.exists() for path in leftovers)


def test_what_keep_was_about_to_remove_goes_with_no_step_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where the run was killed in the middle of the removal."""
    options = {"max_steps": 4, "checkpoint_every": 2, "keep": 1}
    with monkeypatch.context() as patched:
        patched.setattr(checkpoint_pruning, "remove_checkpoint", lambda path: None)
        assert _run(tmp_path, "run", **options).start() == 0
    folder = tmp_path / "run" / "checkpoints"
    last = {"step=00000004.ckpt", "step=00000004.safetensors"}
    assert {path.name for path in folder.iterdir()} == {"step=00000002.ckpt", *last}
    assert _run(tmp_path, "run", recover=True, **options).start() == 0
    assert {path.name for path in folder.iterdir()} == last


@pytest.mark.slow
@pytest.mark.skipif(not torch.distributed.is_available(), reason="torch has no torch.distributed")
def test_one_of_two_processes_is_killed_in_the_last_validation(tmp_path: Path) -> None:
    options = _options("shards", val_every=6)
    run_world(2, _train, tmp_path / "whole", "run", options)
    ended_world(2, _lose, tmp_path, "run", options, 1, "validation", left_alone=True)
    folder = tmp_path / "run"
    assert (folder / "last.ckpt").exists()
    run_world(2, _train, tmp_path, "run", {**options, "recover": True})
    assert run_differences(tmp_path / "whole" / "run", folder) == []
    assert not list(folder.glob(".rescue*"))
    with open(folder / "metrics.csv", newline="") as file:
        assert [row["step"] for row in csv.DictReader(file) if row["val/avg_loss"]] == ["6"]
    kinds = [entry["kind"] for entry in json.loads((folder / "run.json").read_text())["incidents"]]
    assert "killed" not in kinds


@pytest.mark.slow
@pytest.mark.skipif(not torch.distributed.is_available(), reason="torch has no torch.distributed")
def test_processes_with_parts_of_the_weights_validate_what_the_last_step_lacks(tmp_path: Path) -> None:
    options = _options("shards", devices="auto", strategy="fsdp", val_every=6)
    run_world(2, _stop, tmp_path, options)
    folder = tmp_path / "run"
    assert not (folder / "best.safetensors").exists()
    del options["devices"]
    run_world(2, _train, tmp_path, "run", {**options, "recover": True})
    run_world(2, _train, tmp_path / "whole", "run", options)
    assert run_differences(tmp_path / "whole" / "run", folder) == []
