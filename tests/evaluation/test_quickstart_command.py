"""`evaluate-quickstart` on the shipped config with fresh weights: it runs, reports and fails its target."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from stable_audio.checkpoints import export, load_model
from stable_audio.cli import main
from stable_audio.config import load_config
from stable_audio.evaluation.quickstart_goals import Goals
from stable_audio.evaluation.quickstart_models import evaluator_for
from stable_audio.evaluation.quickstart_requests import Requests
from stable_audio.factory import create_model_from_config

CONFIGS = Path(__file__).parents[2] / "model_configs" / "quickstart"


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("quickstart") / "model.safetensors"
    torch.manual_seed(0)
    config = load_config(CONFIGS / "quickstart.json")
    model = create_model_from_config(config)
    model.pretransform.model.load_state_dict(load_model(CONFIGS / "codec.safetensors")[0].state_dict())
    return export(model, path, config=config.as_dict())


@pytest.mark.slow
def test_untrained_weights_miss_the_target(weights: Path, tmp_path: Path, capsys) -> None:
    out, dataset = tmp_path / "out", tmp_path / "data.json"
    dataset.write_text(
        '{"dataset_type": "synthetic", "lowest_pitch": 60, "num_pitches": 4, "held_out_share": 0.25}'
    )
    status = main(
        [
            "evaluate-quickstart",
            "--ckpt-path",
            str(weights),
            "--dataset-config",
            str(dataset),
            "--steps",
            "1",
            "--target-timbre",
            "0.7",
            "--target-reconstruction",
            "1",
            "--out",
            str(out),
        ]
    )
    assert status == 1
    figures = json.loads((out / "figures.json").read_text())
    assert list(figures) == ["trained", "reconstruction", "null conditioning", "untrained"]
    alone = figures.pop("reconstruction")
    assert alone["pitch"] > 0.5, "the autoencoder keeps what is asked for"
    assert all(f["pitch"] < 0.1 and f["timbre"] < 0.1 for f in figures.values())
    trained = figures["trained"]
    assert trained["clips"] == len(trained["per_clip"]) == len(list(out.glob("*.wav"))) == 150
    assert figures["untrained"]["clips"] == 50
    assert trained["parts"]["held out"]["clips"] == sum(row["held_out"] for row in trained["per_clip"]) > 10
    assert {"prompt", "held_out", "heard_as", "right", "defects"} <= set(trained["per_clip"][0])
    printed = capsys.readouterr().out
    assert "(recognised)" in printed
    assert re.search(
        r"missed: pitch \d.\d%, not 98.0%; timbre \d.\d%, not 70.0%; .* of held-out pairs", printed
    )
    assert ("timbre of reconstruction" in printed) == (alone["timbre"] < 1)


def test_the_dataset_file_decides_what_is_asked_for(weights: Path, tmp_path: Path) -> None:
    dataset = tmp_path / "data.json"
    dataset.write_text(
        '{"dataset_type": "synthetic", "lowest_pitch": 60, "num_pitches": 2, "held_out_share": 0,'
        ' "seconds": [0.2, 0.4]}'
    )
    model, _ = load_model(weights)
    requests = evaluator_for(model, str(dataset)).requests()
    assert {p for r in requests for p in r.clip.pitches} == {60, 61}
    assert not any(r.clip.held_out for r in requests)
    assert max(r.seconds for r in requests) <= 0.4


def test_shipped_prompts_give_what_the_model_needs() -> None:
    model = create_model_from_config(CONFIGS / "quickstart.json", device="meta")
    lines = (CONFIGS / "prompts.jsonl").read_text().splitlines()
    assert len(lines) >= 10
    assert not [line for line in lines if model.conditioner.missing(json.loads(line))]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Requests(repeats=0), "^--repeats must be at least 1, found 0"),
        (lambda: Requests(batch_size=0), "^--batch-size must be at least 1, found 0"),
        (lambda: Goals(pitch=98), "the target of pitch must be a share from 0 to 1, found 98"),
        (lambda: Goals.uniform(-1), "the target of pitch must be a share from 0 to 1, found -1"),
    ],
)
def test_settings_out_of_range_are_refused(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_another_kind_of_dataset_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "sounds.json"
    path.write_text('{"dataset_type": "audio_dir", "datasets": [{"id": "a", "path": "sounds"}]}')
    with pytest.raises(ValueError, match=r"sounds\.json: \$\.dataset_type: found 'audio_dir'"):
        evaluator_for(None, str(path))  # type: ignore[arg-type]
