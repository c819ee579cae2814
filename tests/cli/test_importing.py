"""How commands import: what they must not need, and the looks for garbage in between."""

from __future__ import annotations

import gc
import subprocess
import sys
from pathlib import Path

import pytest

from stable_audio.checkpoints import export
from stable_audio.cli.importing import importing
from stable_audio.config import load_config
from stable_audio.factory import create_model_from_config
from tests.training.building import tiny_config

ROOT = Path(__file__).parents[2]
NOT_FOR_RENDERING = (
    "torch._dynamo",
    "torch._inductor",
    "sympy",
    "lightning",
    "torchmetrics",
    "transformers",
    "matplotlib",
    "fastapi",
    "scipy",
    "requests",
    "webdataset",
)
RENDERING = """
import sys
from stable_audio.cli import main
status = main(["generate", "--ckpt-path", sys.argv[1], "--out", sys.argv[2], "--steps", "1"])
print(status, *sys.modules)
"""
FREEZING = """
import gc, sys
from stable_audio.cli.importing import importing
before = gc.get_freeze_count()
with importing():
    print(gc.isenabled())
    import torch
print(gc.isenabled(), gc.get_freeze_count() - before > 100_000)
"""


def _output(code: str, *arguments: str) -> list[str]:
    command = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


def test_rendering_imports_nothing_that_it_does_not_need(tmp_path: Path) -> None:
    config = tiny_config()
    model = create_model_from_config(load_config(config))
    path = export(model, tmp_path / "tiny.safetensors", config=config)
    status, *modules = _output(RENDERING, str(path), str(tmp_path / "out"))[-1].split()
    assert status == "0"
    assert "stable_audio.inference.rendering.render" in modules
    assert not set(NOT_FOR_RENDERING).intersection(modules)


def test_nothing_is_collected_while_a_command_imports() -> None:
    assert _output(FREEZING) == ["False", "True True"]


@pytest.mark.parametrize("enabled", [True, False])
def test_where_torch_is_there_collection_stays_as_it_is(enabled: bool) -> None:
    frozen = gc.get_freeze_count()
    if not enabled:
        gc.disable()
    try:
        with importing():
            assert gc.isenabled() is enabled
        assert gc.isenabled() is enabled
    finally:
        gc.enable()
    assert gc.get_freeze_count() == frozen
