"""`evaluate-quickstart` on the shipped config with fresh weights: it runs, reports and fails its target."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from stable_audio.checkpoints import save_inference_file
from stable_audio.cli import main
from stable_audio.factory import create_model_from_config

CONFIGS = Path(__file__).parents[2] / "model_configs" / "quickstart"


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("quickstart") / "model.safetensors"
    config = json.loads((CONFIGS / "quickstart.json").read_text())
    torch.manual_seed(0)
    return save_inference_file(path, create_model_from_config(config).state_dict(), config)


def test_untrained_weights_miss_the_target(weights: Path, tmp_path: Path, capsys) -> None:
    out = tmp_path / "out"
    status = main(
        [
            "evaluate-quickstart",
            "--ckpt-path",
            str(weights),
            "--repeats",
            "1",
            "--steps",
            "1",
            "--out",
            str(out),
        ]
    )
    assert status == 1
    figures = json.loads((out / "figures.json").read_text())
    assert list(figures) == ["trained", "reconstruction", "null conditioning", "untrained"]
    alone = figures.pop("reconstruction")
    assert alone["pitch"] > 0.5, "the mel spectrogram keeps some of what is asked for"
    assert all(f["pitch"] < 0.3 and f["pitched_timbre"] < 0.4 for f in figures.values())
    assert len(list(out.glob("*.wav"))) == 366
    assert "(recognised)" in capsys.readouterr().out


def test_shipped_prompts_give_what_the_model_needs() -> None:
    model = create_model_from_config(CONFIGS / "quickstart.json", device="meta")
    lines = (CONFIGS / "prompts.jsonl").read_text().splitlines()
    assert len(lines) >= 10
    assert not [line for line in lines if model.conditioner.missing(json.loads(line))]
