"""What has changed between two starts of a run is named, and in its record."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import soundfile
import torch

from tests.training.building import tiny_config, tiny_run


def _incidents(folder: Path, kind: str) -> list[str]:
    record = json.loads((folder / "run" / "run.json").read_text())
    return [entry["text"] for entry in record["incidents"] if entry["kind"] == kind]


def _sounds(folder: Path, count: int) -> dict[str, object]:
    folder.mkdir()
    for number in range(count):
        sound = torch.rand(2000, generator=torch.Generator().manual_seed(number)) - 0.5
        soundfile.write(folder / f"{number}.wav", sound.numpy(), 4000)
    return {"dataset_type": "audio_dir", "datasets": [{"id": "sounds", "path": str(folder)}]}


def test_options_and_settings_that_change_are_in_the_record(tmp_path: Path) -> None:
    tiny_run(tmp_path, max_steps=1).start()
    config = tiny_config(learning_rate=2e-3)
    again = {"recover": True, "batch_size": 4, "dataset": {"dataset_type": "synthetic", "seed": 5}}
    run = tiny_run(tmp_path, config, max_steps=2, **again)
    assert run.start() == 0
    texts = "\n".join(_incidents(tmp_path, "changed setting"))
    assert "--batch-size was 2 and is 4" in texts
    assert "dataset.json, $.seed: " in texts
    assert "--recover" not in texts
    assert "--max-steps" not in texts


def test_nothing_changed_is_no_incident(tmp_path: Path) -> None:
    tiny_run(tmp_path, max_steps=1).start()
    assert tiny_run(tmp_path, max_steps=2, recover=True).start() == 0
    assert json.loads((tmp_path / "run" / "run.json").read_text())["incidents"] == []


def test_a_dataset_that_loses_half_of_its_files_is_named_and_the_run_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    dataset = _sounds(tmp_path / "sounds", 12)
    tiny_run(tmp_path, max_steps=5, dataset=dataset).start()
    for number in range(6):
        (tmp_path / "sounds" / f"{number}.wav").unlink()
    assert tiny_run(tmp_path, max_steps=9, dataset=dataset, recover=True).start() == 0
    (text,) = _incidents(tmp_path, "changed data")
    assert "12 clips then, 6 now" in text
    for path in (tmp_path / "sounds").glob("*.wav"):
        path.unlink()
    with pytest.raises(ValueError, match=r"sounds"):  # in one sentence
        tiny_run(tmp_path, max_steps=12, dataset=dataset, recover=True).start()
