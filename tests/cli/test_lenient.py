"""`--lenient` loads a model whose file has keys of other programs, in every command that loads one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from stable_audio.audio.io import save_audio
from stable_audio.checkpoints.saving import save_inference_file
from stable_audio.cli import main
from stable_audio.factory import create_model_from_config
from tests.config import examples


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights, the file of their model with a key that nothing here knows, and a sound."""
    path = tmp_path_factory.mktemp("lenient")
    data = examples.cond()
    data["model"]["conditioning"]["configs"][0]["config"]["vocab_size"] = 50000
    save_inference_file(path / "model.safetensors", create_model_from_config(data).state_dict(), data)
    data["training"]["lunch"] = True
    (path / "model.json").write_text(json.dumps(data))
    (path / "sounds").mkdir()
    save_audio(path / "sounds" / "a.wav", 0.1 * torch.randn(2, 2048), 16000)
    return path


COMMANDS = {
    "export": lambda f, out: ["export", f"{f}/model.safetensors", f"{out}/x.safetensors"],
    "encode": lambda f, out: [
        *("encode", f"{f}/sounds", "--out", f"{out}/latents"),
        *("--ckpt-path", f"{f}/model.safetensors", "--num-workers", "0"),
    ],
    "reconstruct": lambda f, out: ["reconstruct", f"{f}/sounds", "--ckpt-path", f"{f}/model.safetensors"],
    "generate": lambda f, out: [
        *("generate", "--ckpt-path", f"{f}/model.safetensors", "--prompt", "a bell", "--steps", "1"),
        *("--condition", "seconds_start=0", "--out", f"{out}/clips"),
    ],
}


@pytest.mark.parametrize("command", COMMANDS)
def test_it_loads_what_is_refused_without(
    command: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*COMMANDS[command](folder, tmp_path), "--model-config", f"{folder}/model.json"]
    assert main(words) == 2
    assert "$.training.lunch: unknown key" in capsys.readouterr().err
    assert main([*words, "--lenient"]) == 0
