"""Mistakes that only show when a run is built name the file that they are in, as all others do."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from stable_audio.config import ConfigError, load_config, load_dataset_config
from stable_audio.config.reporting.problems import Problem, in_file
from stable_audio.factory import create_dataset
from stable_audio.training.errors import TrainingError
from stable_audio.training.options import RunOptions
from stable_audio.training.trainer import assemble
from tests.config import examples

ENDS = {"type": "OneCycleLR", "config": {"max_lr": 1e-3, "total_steps": 10}}
SCHEDULED = {"diffusion": {"optimizer": {"type": "AdamW", "config": {"lr": 1e-4}}, "scheduler": ENDS}}


@pytest.mark.parametrize(
    ("training", "message"),
    [
        ({"teacher_model_ckpt": "gone.ckpt"}, "$.training.teacher_model_ckpt: gone.ckpt: no such file"),
        (
            {"teacher_model_ckpt": "gone.ckpt", "teacher_model": {"model_type": "nix"}},
            '$.training.teacher_model: $.model_type: found "nix"',
        ),
        (
            {"transforms": [{"type": "freeze", "config": {"frozen": ["nix"]}}]},
            "$.training.transforms: freeze: frozen: found 'nix'",
        ),
        ({"method": "nix"}, "$.training.method: found 'nix'"),
        ({"method_options": {"nix": 1}}, "$.training.method_options.nix: unknown key"),
        ({"pre_encoded": True}, "$.training.pre_encoded: found true, but the dataset"),
        (
            {"optimizer_configs": SCHEDULED},
            "$.training.optimizer_configs.diffusion.scheduler.config: the",
        ),
    ],
)
def test_the_model_file_is_named(tmp_path: Path, training: dict[str, Any], message: str) -> None:
    config = examples.uncond()
    config["training"] |= training
    file = tmp_path / "model.json"
    file.write_text(json.dumps(config))
    options = RunOptions(save_dir=str(tmp_path), max_steps=20, num_workers=0, logger="none", devices="1")
    with pytest.raises(ValueError, match=f"^{re.escape(f'{file}: {message}')}"):
        assemble(load_config(file), {"dataset_type": "synthetic"}, options)


def test_the_dataset_file_is_named(tmp_path: Path) -> None:
    file = tmp_path / "data.json"
    folders = [{"id": "a", "path": str(tmp_path), "weight": 0}]
    file.write_text(json.dumps({"dataset_type": "audio_dir", "datasets": folders}))
    with pytest.raises(ValueError, match=f"^{re.escape(str(file))}: \\$.datasets: every weight is 0"):
        create_dataset(load_dataset_config(file), sample_rate=8000, sample_size=80)


def test_names_are_added_to_paths_only_and_once() -> None:
    with pytest.raises(TrainingError, match=r"^m\.json: \$\.training: wrong$"), in_file("m.json"):
        raise TrainingError("$.training: wrong")
    with pytest.raises(TrainingError, match=r"^--keep: wrong$"), in_file("m.json"):
        raise TrainingError("--keep: wrong")
    with pytest.raises(TrainingError, match=r"^a\.json: \$: wrong$"), in_file("b.json"), in_file("a.json"):
        raise TrainingError("$: wrong")
    with pytest.raises(ConfigError) as caught, in_file("m.json"):
        raise ConfigError([Problem("$.a", "wrong"), Problem("$.b", "wrong")], "$.training.teacher_model")
    assert str(caught.value).splitlines()[1] == "m.json: $.training.teacher_model: $.b: wrong"
    assert len(caught.value.problems) == 2
