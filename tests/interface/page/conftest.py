"""One service with the page for the tests of a file: two models, and an adapter of the first."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import save_file

from tests.inference import tiny
from tests.inference.test_adapters import adapter_at
from tests.interface.service.running import RunningService, serving

RATE = 8000
"""The lowest sample rate that every browser plays."""


_SOUND = {"sample_rate": RATE, "use_model_pretransform": True}


def model_folder(folder: Path, conditioners: list[dict[str, Any]] | None = None) -> Path:
    """A model of 0.64 s with its config beside it."""
    config = tiny.config() | {"sample_rate": RATE, "sample_size": int(0.64 * RATE)}
    if conditioners is not None:
        config["model"]["conditioning"]["configs"] = conditioners
        sounds = [one["id"] for one in conditioners if "sample_rate" in one["config"]]
        diffusion = config["model"]["diffusion"]
        diffusion["cross_attention_cond_ids"] = [one["id"] for one in conditioners if one["id"] not in sounds]
        diffusion["global_cond_ids"] = [conditioners[0]["id"]]
        diffusion["input_concat_ids"] = sounds
        diffusion["config"]["input_concat_dim"] = 8 * len(sounds)
    folder.mkdir(parents=True)
    (folder / "model_config.json").write_text(json.dumps(config))
    weights = {name: value.contiguous() for name, value in tiny.build(config).state_dict().items()}
    save_file(weights, folder / "model.safetensors")
    return folder


@pytest.fixture(scope="session")
def ui(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    pytest.importorskip("fastapi")
    folder = tmp_path_factory.mktemp("ui")
    first = model_folder(folder / "tiny")
    second = model_folder(
        folder / "other",
        [
            {"id": "style", "type": "list", "config": {"options": ["<i>soft</i>", "hard"]}},
            {"id": "beats", "type": "int", "config": {"min_val": 1, "max_val": 8}},
            {"id": "bright", "type": "number", "config": {"min_val": 0, "max_val": 1}},
            {"id": "ref", "type": "pretransform", "config": _SOUND},
            {"id": "stems", "type": "source_mix", "config": {**_SOUND, "source_keys": ["drums", "bass"]}},
        ],
    )
    flags = ("--no-browser", "--title", "<b>Tiny</b> & co", "--any-base")
    flags += ("--adapter", f"pad={adapter_at(folder / 'pad.safetensors')}")
    models = [f"tiny={first}", f"other={second}"]
    with serving(folder / "out", first, first, *flags, command="ui", checkpoints=models) as running:
        yield running
