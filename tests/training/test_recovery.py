"""A run whose newest checkpoint is damaged goes on from the newest one that is whole."""

from __future__ import annotations

import csv
import json
import logging
from pathlib import Path

import pytest

from stable_audio.checkpoints import CheckpointError
from stable_audio.checkpoints.files import load_torch_file
from stable_audio.cli import main
from stable_audio.training.recovery import stored_config
from tests.training.building import DATASET, tiny_config, tiny_run
from tests.training.test_resume import assert_same_checkpoint


def _damage(path: Path) -> None:
    """Flip a byte within the weights; other names of the file see it as well."""
    tensor = next(v for v in load_torch_file(path)["state_dict"].values() if v.numel() > 100)
    values = tensor.numpy().tobytes()
    with open(path, "rb+") as file:
        place = file.read().index(values) + 50
        file.seek(place)
        byte = file.read(1)[0]
        file.seek(place)
        file.write(bytes([byte ^ 1]))


def _curve(folder: Path) -> list[tuple[str, str]]:
    with open(folder / "metrics.csv", newline="") as file:
        return [(row["step"], row["train/loss"]) for row in csv.DictReader(file)]


@pytest.mark.parametrize("damage", ["flip", "cut"])
def test_recover_falls_back_to_the_newest_whole_checkpoint(
    tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    options = {"checkpoint_every": 2}
    tiny_run(tmp_path, name="whole", max_steps=6, **options).start()
    tiny_run(tmp_path, name="parts", max_steps=4, **options).start()
    folder = tmp_path / "parts"
    if damage == "flip":
        _damage(folder / "last.ckpt")
    else:
        with open(folder / "last.ckpt", "rb+") as file:
            file.truncate((folder / "last.ckpt").stat().st_size * 2 // 3)
    with caplog.at_level(logging.WARNING):
        run = tiny_run(tmp_path, name="parts", max_steps=6, recover=True, **options)
    assert run.resume == folder / "checkpoints" / "step=00000002.ckpt"
    assert f"{folder / 'last.ckpt'}: " in caplog.text
    assert "step 2, the newest checkpoint that is not damaged" in caplog.text
    assert run.start() == 0
    assert_same_checkpoint(tmp_path / "whole" / "last.ckpt", folder / "last.ckpt")
    assert _curve(tmp_path / "whole") == _curve(folder)


def test_recover_without_a_whole_checkpoint_names_them_all(tmp_path: Path) -> None:
    tiny_run(tmp_path, max_steps=2, checkpoint_every=1).start()
    files = sorted((tmp_path / "run" / "checkpoints").glob("*.ckpt"))
    assert len(files) == 2
    for path in files:
        _damage(path)
    with pytest.raises(CheckpointError, match=r"all 2 checkpoints are damaged.*step=00000001\.ckpt"):
        tiny_run(tmp_path, max_steps=4, recover=True)


def test_recover_takes_the_newest_even_if_last_is_older_or_missing(tmp_path: Path) -> None:
    # A run killed between writing a checkpoint and giving it its second name.
    tiny_run(tmp_path, max_steps=2, checkpoint_every=1).start()
    folder = tmp_path / "run"
    (folder / "last.ckpt").unlink()
    assert tiny_run(tmp_path, max_steps=4, recover=True).resume == folder / "checkpoints/step=00000002.ckpt"
    (folder / "last.ckpt").hardlink_to(folder / "checkpoints" / "step=00000001.ckpt")
    assert tiny_run(tmp_path, max_steps=4, recover=True).resume == folder / "checkpoints/step=00000002.ckpt"


def test_a_named_folder_falls_back_and_a_named_file_does_not(tmp_path: Path) -> None:
    tiny_run(tmp_path, max_steps=2, checkpoint_every=1).start()
    folder = tmp_path / "run"
    _damage(folder / "last.ckpt")
    again = tiny_run(tmp_path, name="again", max_steps=4, ckpt_path=str(folder))
    assert again.resume == folder / "checkpoints" / "step=00000001.ckpt"
    with pytest.raises(CheckpointError, match="differ from their checksums"):
        tiny_run(tmp_path, name="again", max_steps=4, ckpt_path=str(folder / "last.ckpt"))


def test_recover_in_an_empty_folder_starts(tmp_path: Path) -> None:
    assert tiny_run(tmp_path, max_steps=1, recover=True).resume is None


def test_the_config_comes_from_the_checkpoint_that_the_run_goes_on_from(tmp_path: Path) -> None:
    tiny_run(tmp_path, max_steps=2, checkpoint_every=1).start()
    folder = tmp_path / "run"
    (folder / "last.safetensors").write_bytes(b"damaged")
    assert stored_config(folder) == (folder / "last.ckpt", tiny_config())
    _damage(folder / "last.ckpt")
    assert stored_config(folder) == (folder / "checkpoints" / "step=00000001.ckpt", tiny_config())
    weights = folder / "checkpoints" / "step=00000001.safetensors"
    assert stored_config(weights) == (weights, tiny_config())
    data = tmp_path / "data.json"
    data.write_text(json.dumps(DATASET))
    flags = [
        "--dataset-config",
        str(data),
        "--save-dir",
        str(tmp_path),
        "--num-workers",
        "0",
        "--no-progress",
    ]
    assert (
        main(["train", "--ckpt-path", str(folder), "--max-steps", "3", "--accelerator", "cpu", *flags]) == 0
    )
    assert load_torch_file(folder / "last.ckpt")["stable_audio"]["step"] == 3
