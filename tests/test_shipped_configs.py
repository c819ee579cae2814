"""Every model file in model_configs validates, names its schema, and builds on the meta device."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from stable_audio.config import load_config
from stable_audio.config.reading.plain import read_json
from stable_audio.factory import create_model_from_config
from stable_audio.model import DiffusionModel

FOLDER = Path(__file__).parents[1] / "model_configs"
SHIPPED = [p for p in sorted(FOLDER.rglob("*.json")) if p.name != "schema.json"]


def _name(path: Path) -> str:
    return str(path.relative_to(FOLDER))


def test_there_are_configs() -> None:
    assert SHIPPED


@pytest.mark.parametrize("path", SHIPPED, ids=_name)
def test_it_is_valid_without_a_warning(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    load_config(path)
    assert caplog.text == ""


@pytest.mark.parametrize("path", SHIPPED, ids=_name)
def test_it_starts_with_its_schema(path: Path) -> None:
    data = read_json(path)
    assert next(iter(data)) == "$schema"
    assert (path.parent / data["$schema"]).resolve() == FOLDER / "schema.json"


@pytest.mark.parametrize("path", SHIPPED, ids=_name)
def test_it_builds_on_the_meta_device(path: Path) -> None:
    model = create_model_from_config(path, device="meta")
    assert {p.device.type for p in model.parameters()} <= {"meta"}
    if isinstance(model, DiffusionModel):
        assert model.sample_size % model.length_multiple == 0


@pytest.mark.parametrize("path", SHIPPED, ids=_name)
def test_it_can_be_trained(path: Path) -> None:
    """A shipped file is an example of a whole run, not of a model only."""
    data = json.loads(path.read_text(encoding="utf-8"))
    assert {"learning_rate", "optimizer_configs"} & set(data["training"])
