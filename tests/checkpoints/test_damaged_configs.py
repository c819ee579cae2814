"""Model configs inside weights and beside them, when somebody wrote anything there."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from stable_audio.audio.demo_page import DemoClip, DemoStep, write_index, write_step_page
from stable_audio.checkpoints import CheckpointError, load_model, read_checkpoint
from stable_audio.conditioning.t5 import t5_size
from stable_audio.stored.models import stored_config

DAMAGED = ["{", "[1]", "[" * 50_000, '{"a":' * 2000 + "1" + "}" * 2000, "\ufeff\0", "9" * 9999]


@pytest.mark.parametrize("text", DAMAGED)
def test_inside_a_safetensors_file(text: str, tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_file({"model.w": torch.zeros(1)}, path, metadata={"config": text})
    with pytest.raises(CheckpointError, match=r"a\.safetensors: the config inside"):
        read_checkpoint(path)
    with pytest.raises(ValueError, match=r"a\.safetensors: the config inside"):
        stored_config(str(path))


@pytest.mark.parametrize("text", DAMAGED)
def test_beside_the_weights(text: str, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_file({"model.w": torch.zeros(1)}, path)
    (tmp_path / "model_config.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"model_config\.json"):
        read_checkpoint(path)
    with pytest.raises(ValueError, match=r"model_config\.json"):
        stored_config(str(path))


def test_mistakes_in_an_embedded_config_name_the_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_file({"model.w": torch.zeros(1)}, path, metadata={"config": '{"model_type": "dit"}'})
    with pytest.raises(ValueError, match=r"a\.safetensors, config: \$\.model_type: found \"dit\""):
        load_model(path)


@pytest.mark.parametrize("text", [*DAMAGED, "{}"])
def test_of_a_text_encoder(text: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ValueError, match=r"config\.json"):
        t5_size(str(tmp_path))


def test_one_damaged_summary_leaves_the_page_of_the_other_steps(tmp_path: Path) -> None:
    clips = [DemoClip(file="a.wav", row="bell", column="CFG 1", peak=0.5, clipped=False)]
    for step in (1, 2):
        folder = tmp_path / f"step_{step:08d}"
        folder.mkdir()
        write_step_page(folder, DemoStep(step=step, clips=clips))
    (folder / "demos.json").write_text('{"step": 2, "clips": [{"file": "a.wav"}]}')
    write_index(tmp_path)
    page = (tmp_path / "index.html").read_text()
    assert "step_00000001/a.wav" in page
    assert "step_00000002/a.wav" not in page
