"""The autoencoder that comes with the quickstart: what goes through it is still what it was."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from stable_audio import load_model
from stable_audio.checkpoints import read_checkpoint
from stable_audio.evaluation.quickstart import QuickstartEvaluator

FOLDER = Path(__file__).parents[1] / "model_configs" / "quickstart"
CODEC = FOLDER / "codec.safetensors"


def test_it_is_small_and_has_the_config_beside_it() -> None:
    assert CODEC.stat().st_size < 5e6
    config = dict(read_checkpoint(CODEC).config or {})
    # Below 1 by the silence after most sounds.
    assert config["model"].pop("latent_scale") == pytest.approx(0.83, abs=0.05)
    assert config == json.loads((FOLDER / "codec.json").read_text())


def test_most_rendered_sounds_pass_the_evaluator_there_and_back() -> None:
    model, config = load_model(CODEC)
    evaluator = QuickstartEvaluator(sample_rate=config.sample_rate, sample_size=config.sample_size)
    count = 48
    with torch.no_grad():
        clips = torch.cat([model.decode(model.encode(b)) for b in evaluator.originals()[:count].split(12)])
    scores = evaluator.score(clips, evaluator.requests()[:count])
    assert scores.pitch == 1
    assert scores.timbre > 0.85  # 0.93 of all that it is asked for
