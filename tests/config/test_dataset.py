"""Dataset files: derived from the dataset classes, without what the run supplies."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from stable_audio.config import ConfigError, load_dataset_config
from stable_audio.config.sections.dataset import dataset_models
from stable_audio.data import DATASETS, RUNTIME_KEYS, create_dataset
from stable_audio.data.audio_dir import AudioDirEntry

ROOT = Path(__file__).parents[2]
SHIPPED = [p for p in sorted((ROOT / "dataset_configs").glob("*.json")) if p.name != "schema.json"]


@pytest.mark.parametrize("path", SHIPPED, ids=lambda p: p.name)
def test_shipped_files_load(path: Path) -> None:
    config = load_dataset_config(path)
    assert config.as_dict()["$schema"].endswith("schema.json")
    assert (path.parent / config.as_dict()["$schema"]).resolve() == ROOT / "dataset_configs" / "schema.json"


def test_every_dataset_type_has_a_model() -> None:
    assert set(dataset_models()) == set(DATASETS)
    for model in dataset_models().values():
        assert not set(RUNTIME_KEYS) & set(model.model_fields)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({}, "$.dataset_type: missing; give one of 'audio_dir'"),
        ({"dataset_type": "audiodir"}, "did you mean 'audio_dir'?"),
        ({"dataset_type": "audio_dir"}, "$.datasets: missing; a list is required here"),
        (
            {"dataset_type": "audio_dir", "datasets": [{"id": "a"}]},
            "$.datasets[0].path: missing; a string is required here",
        ),
        (
            {"dataset_type": "audio_dir", "datasets": [{"id": "a", "path": "b", "wieght": 1}]},
            "$.datasets[0].wieght: unknown key; did you mean 'weight'?",
        ),
        ({"dataset_type": "synthetic", "split": "test"}, "$.split: found \"test\"; allowed: 'train', 'val'"),
        ({"dataset_type": "synthetic", "sample_rate": 3}, "$.sample_rate: unknown key"),
    ],
)
def test_mistakes(data: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_dataset_config(data)
    assert any(message in str(p) for p in caught.value.problems), caught.value


def test_the_json_form_comes_back() -> None:
    data = {"dataset_type": "synthetic", "split": "val", "seconds": [0.2, 0.3]}
    assert load_dataset_config(data).as_dict() == data


def test_lenient() -> None:
    data = {"dataset_type": "synthetic", "colour": 1}
    assert load_dataset_config(data, lenient=True).as_dict() == {"dataset_type": "synthetic"}


def test_what_was_validated_is_what_the_constructor_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[dict[str, Any]] = []
    config = load_dataset_config(
        {
            "$schema": "schema.json",
            "dataset_type": "audio_dir",
            "datasets": [{"id": "a", "path": "b", "weight": 2.0}],
            "random_crop": False,
        }
    )
    monkeypatch.setattr(type(config), "target", _recording(calls))
    create_dataset(config, sample_rate=16000, sample_size=100, downsampling_ratio=8)
    (keywords,) = calls
    assert keywords == {
        "datasets": [AudioDirEntry(id="a", path="b", weight=2.0)],
        "random_crop": False,
        "sample_rate": 16000,
        "sample_size": 100,
    }


def _recording(calls: list[dict[str, Any]]) -> type:
    class Recorder:
        def __init__(
            self, *, datasets: list[Any], random_crop: bool, sample_rate: int, sample_size: int
        ) -> None:
            keywords = {"datasets": datasets, "random_crop": random_crop}
            calls.append({**keywords, "sample_rate": sample_rate, "sample_size": sample_size})

    return Recorder


def test_building_tells_every_mistake_at_once() -> None:
    data = {"dataset_type": "synthetic", "colour": 1, "split": "test"}
    with pytest.raises(ConfigError, match=r"(?s)\$\.colour: unknown key.*\$\.split: found \"test\""):
        create_dataset(data, sample_rate=16000, sample_size=100)
