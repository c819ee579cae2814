"""One run per folder, and no silent change when it goes on."""

from __future__ import annotations

import copy
import csv
import logging
from pathlib import Path
from typing import Any

import pytest

from stable_audio.checkpoints import CheckpointError
from stable_audio.checkpoints.torch_file import load_torch_file
from stable_audio.cli import main
from stable_audio.config import load_config
from stable_audio.training.errors import TrainingError
from stable_audio.training.saving.checkpoint_files import step_of
from stable_audio.training.saving.continuing import changed_settings
from tests.training.building import tiny_config, tiny_run, write_files

OPTIMIZER = {"diffusion": {"optimizer": {"type": "AdamW", "config": {"lr": 1e-3}}}}


def test_a_name_that_exists_is_refused(tmp_path: Path) -> None:
    tiny_run(tmp_path, max_steps=2).start()
    message = r"holds a run already \(last\.ckpt\); --recover continues it, --overwrite replaces it"
    with pytest.raises(TrainingError, match=message):
        tiny_run(tmp_path)
    (tmp_path / "run" / "last.ckpt").unlink()
    with pytest.raises(TrainingError, match=r"step=00000002\.ckpt"):
        tiny_run(tmp_path)


def test_rows_without_a_checkpoint_are_a_run_too(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "metrics.csv").write_text("step,train/loss\n")
    tiny_run(tmp_path)  # a run that never reached its first step
    (folder / "metrics.csv").write_text("step,train/loss\n1,0.5\n")
    with pytest.raises(TrainingError, match=r"metrics\.csv"):
        tiny_run(tmp_path)
    assert tiny_run(tmp_path, max_steps=1, recover=True).start() == 0


def test_overwriting_removes_the_run_and_nothing_else(tmp_path: Path) -> None:
    tiny_run(tmp_path, max_steps=5, checkpoint_every=2).start()
    notes = tmp_path / "run" / "notes.txt"
    notes.write_text("mine")
    assert tiny_run(tmp_path, max_steps=1, overwrite=True, keep=1).start() == 0
    assert [p.name for p in (tmp_path / "run" / "checkpoints").glob("*.ckpt")] == ["step=00000001.ckpt"]
    assert notes.read_text() == "mine"


@pytest.mark.parametrize("other", [{"objective": "v"}, {"depth": 1}])
def test_where_a_config_does_not_fit_the_one_inside_is_advised_by_a_flag_that_takes_it(
    tmp_path: Path, other: dict[str, Any]
) -> None:
    tiny_run(tmp_path, max_steps=1).start()
    config = tiny_config()
    diffusion = config["model"]["diffusion"]
    if "depth" in other:
        diffusion["config"]["depth"] = other["depth"]
    else:
        diffusion["diffusion_objective"] = other["objective"]
    checkpoint = tmp_path / "run" / "last.ckpt"
    with pytest.raises(CheckpointError, match=f"give --ckpt-path {checkpoint} in place of --model-config"):
        tiny_run(tmp_path, config, recover=True)
    options = ["--save-dir", str(tmp_path), "--max-steps", "2", "--accelerator", "cpu", "--num-workers", "0"]
    _, _, *data = write_files(tmp_path, tiny_config())
    assert main(["train", "--ckpt-path", str(checkpoint), *data, *options, "--no-progress"]) == 0
    assert step_of(checkpoint) == 2


def test_a_checkpoint_inside_the_folder_continues_it(tmp_path: Path) -> None:
    tiny_run(tmp_path, max_steps=2).start()
    for given in (tmp_path / "run", tmp_path / "run" / "last.ckpt"):
        tiny_run(tmp_path, ckpt_path=str(given))
    tiny_run(tmp_path, name="other", max_steps=1).start()
    with pytest.raises(TrainingError, match="holds a run already"):
        tiny_run(tmp_path, ckpt_path=str(tmp_path / "other"))


def _changed(path: tuple[str, ...], value: Any) -> dict[str, Any]:
    config = tiny_config(optimizer_configs=copy.deepcopy(OPTIMIZER))
    del config["training"]["learning_rate"]
    inner = config
    for key in path[:-1]:
        inner = inner.setdefault(key, {})
    if path:
        inner[path[-1]] = value
    return config


TO_OPTIMIZER = ("training", "optimizer_configs", "diffusion")


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        (("sample_rate",), 8000, r"\$\.sample_rate: 4000 in the checkpoint, 8000 now"),
        (("model", "diffusion", "diffusion_objective"), "v", r'objective: "rectified_flow".*"v" now'),
        ((*TO_OPTIMIZER, "optimizer", "type"), "Adam", r'type: "AdamW" in the checkpoint, "Adam" now'),
        ((*TO_OPTIMIZER, "optimizer", "config", "lr"), 1e-4, r"config\.lr: 0\.001 in the checkpoint"),
        ((*TO_OPTIMIZER, "scheduler"), {"type": "ConstantLR"}, r"scheduler: nothing in the checkpoint"),
    ],
)
def test_changes_that_are_refused(tmp_path: Path, path: tuple[str, ...], value: Any, words: str) -> None:
    tiny_run(tmp_path, _changed((), None), max_steps=1).start()
    with pytest.raises(CheckpointError, match=words):
        tiny_run(tmp_path, _changed(path, value), recover=True)


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        (("sample_size",), 2048, "$.sample_size: 1024 in the checkpoint, 2048 now"),
        (("training", "use_ema"), False, "$.training.use_ema: true in the checkpoint, false now"),
        (("training", "ema", "power"), 0.5, "$.training.ema.power: 0.75 in the checkpoint, 0.5 now"),
        (("training", "cfg_dropout_prob"), 0.3, "$.training.cfg_dropout_prob"),
    ],
)
def test_changes_that_are_named(
    tmp_path: Path, path: tuple[str, ...], value: Any, words: str, caplog: pytest.LogCaptureFixture
) -> None:
    tiny_run(tmp_path, _changed((), None), max_steps=1).start()
    with caplog.at_level(logging.WARNING):
        assert tiny_run(tmp_path, _changed(path, value), recover=True, max_steps=2).start() == 0
    assert f"changed from here on: {words}" in caplog.text


def test_nothing_changed_is_nothing_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    tiny_run(tmp_path, _changed((), None), max_steps=1).start()
    stored = load_torch_file(tmp_path / "run" / "last.ckpt")["model_config"]
    # Defaults that are written out are no changes.
    same = _changed(("training", "use_ema"), True)
    assert changed_settings(stored, load_config(same)) == []
    tiny_run(tmp_path, same, recover=True)
    assert "changed from here on" not in caplog.text


def test_a_run_goes_on_with_another_learning_rate(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    tiny_run(tmp_path, max_steps=2).start()
    config = tiny_config()
    config["training"]["learning_rate"] = 1e-4
    with caplog.at_level(logging.WARNING):
        tiny_run(tmp_path, config=config, max_steps=3, recover=True).start()
    assert (
        "changed from here on: $.training.learning_rate: 0.001 in the checkpoint, 0.0001 now" in caplog.text
    )
    with open(tmp_path / "run" / "metrics.csv", newline="") as file:
        assert [float(row["train/lr"]) for row in csv.DictReader(file)] == [1e-3, 1e-3, 1e-4]
    state = load_torch_file(tmp_path / "run" / "last.ckpt")["optimizer_states"][0]
    assert [group["lr"] for group in state["param_groups"]] == [1e-4]
    assert {int(s["step"]) for s in state["state"].values()} == {3}  # its averages went on
