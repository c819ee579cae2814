"""The committed JSON schemas are those of the code."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from stable_audio.cli import main
from stable_audio.config.schema import _numbered, dataset_schema, model_schema, schema_text

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("path", "schema"),
    [("model_configs/schema.json", model_schema), ("dataset_configs/schema.json", dataset_schema)],
)
def test_committed_schemas_are_up_to_date(path: str, schema: Any) -> None:
    assert (ROOT / path).read_text(encoding="utf-8") == schema_text(schema()), "run `stable-audio schema`"


@pytest.mark.parametrize("order", [("A__1", "A__2"), ("A__2", "A__1")])
def test_definitions_of_one_name_are_numbered_by_what_they_say(order: tuple[str, str]) -> None:
    first, second = order
    schema = {
        "$defs": {first: {"type": "string"}, second: {"type": "integer"}, "B": {"$ref": f"#/$defs/{first}"}},
        "const": "A__1",
    }
    assert _numbered(schema) == {
        "$defs": {"A__1": {"type": "integer"}, "A__2": {"type": "string"}, "B": {"$ref": "#/$defs/A__2"}},
        "const": "A__1",
    }


def test_schemas_refuse_unknown_keys_everywhere() -> None:
    for definition in model_schema()["$defs"].values():
        if "properties" in definition:
            assert definition["additionalProperties"] is False, definition["title"]


def test_every_registered_component_is_in_the_schema() -> None:
    from stable_audio.backbones import BACKBONES
    from stable_audio.conditioning import CONDITIONERS
    from stable_audio.pretransforms import PRETRANSFORMS

    definitions = set(model_schema()["$defs"])
    assert {f"diffusion_{n}" for n in BACKBONES} <= definitions
    assert {f"conditioner_{n}" for n in CONDITIONERS} <= definitions
    assert {f"pretransform_{n}" for n in PRETRANSFORMS} <= definitions


def test_the_command_writes_and_compares(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = ["--model", str(tmp_path / "m.json"), "--dataset", str(tmp_path / "d.json")]
    assert main(["schema", *files, "--check"]) == 1
    assert main(["schema", *files]) == 0
    assert main(["schema", *files, "--check"]) == 0
    assert json.loads((tmp_path / "m.json").read_text())["title"] == "Stable Audio model"
    (tmp_path / "d.json").write_text("{}")
    assert main(["schema", *files, "--check"]) == 1
    assert "out of date" in capsys.readouterr().out
